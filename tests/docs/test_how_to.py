"""The right how-to page comes first for the error texts that people search for."""

from __future__ import annotations

import functools
import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.app_server import REPOSITORY
from tests.support.browser import Browser, browser
from tests.support.waiting import wait_until

DOCS = REPOSITORY / "docs"
PAGES = {path.stem: path.read_text() for path in (DOCS / "how-to").glob("*.md")}

# As they stand in public reports, with what SQLAlchemy, drivers and servers put around.
SEARCHED = {
    "sqlalchemy.exc.OperationalError: (pymysql.err.OperationalError) (2013, 'Lost"
    " connection to MySQL server during query')": "lost-connection-during-query",
    "sqlalchemy.exc.OperationalError: (pymysql.err.OperationalError) (2013, 'Lost"
    " connection to MySQL server during query ([Errno 104] Connection reset by peer)')"
    " (Background on this error at: https://sqlalche.me/e/14/e3q8)": (
        "lost-connection-during-query"
    ),
    'sqlalchemy.exc.OperationalError: (pymysql.err.OperationalError) (2006, "MySQL'
    " server has gone away (ConnectionResetError(104, 'Connection reset by peer'))\")"
    " [SQL: SELECT users.id AS users_id, users.email AS users_email FROM users WHERE"
    " users.id = %(pk_1)s] [parameters: {'pk_1': 17}]": "mysql-server-has-gone-away",
    "OperationalError: (_mysql_exceptions.OperationalError) (2006, 'MySQL server has"
    " gone away')": "mysql-server-has-gone-away",
    "sqlalchemy.exc.TimeoutError: QueuePool limit of size 5 overflow 10 reached,"
    " connection timed out, timeout 30 (Background on this error at:"
    " http://sqlalche.me/e/3o7r)": "queuepool-limit-reached",
    "(pymysql.err.OperationalError) (1040, 'Too many connections')": (
        "too-many-connections"
    ),
    "sqlalchemy.exc.OperationalError: (psycopg2.OperationalError) FATAL:  remaining"
    " connection slots are reserved for non-replication superuser connections": (
        "remaining-connection-slots-are-reserved"
    ),
    "psycopg2.OperationalError: FATAL:  sorry, too many clients already": (
        "remaining-connection-slots-are-reserved"
    ),
    "sqlalchemy.exc.OperationalError: (psycopg2.OperationalError) SSL connection has"
    " been closed unexpectedly [SQL: 'SELECT account.id AS account_id FROM account']": (
        "ssl-connection-has-been-closed-unexpectedly"
    ),
    "(psycopg2.OperationalError) SSL SYSCALL error: EOF detected": (
        "ssl-connection-has-been-closed-unexpectedly"
    ),
    "sqlalchemy.exc.OperationalError: (psycopg2.OperationalError) server closed the"
    " connection unexpectedly\n\tThis probably means the server terminated abnormally"
    "\n\tbefore or while processing the request.\n": (
        "server-closed-the-connection-unexpectedly"
    ),
    "psycopg2.InterfaceError: connection already closed": (
        "server-closed-the-connection-unexpectedly"
    ),
    "sqlalchemy.exc.StatementError: (sqlalchemy.exc.InvalidRequestError) Can't"
    " reconnect until invalid transaction is rolled back [SQL: 'SELECT role.name']": (
        "cant-reconnect-until-invalid-transaction-is-rolled-back"
    ),
    "sqlalchemy.exc.PendingRollbackError: This Session's transaction has been rolled"
    " back due to a previous exception during flush. To begin a new transaction with"
    " this Session, first issue Session.rollback(). Original exception was:"
    " (sqlite3.IntegrityError) UNIQUE constraint failed": (
        "cant-reconnect-until-invalid-transaction-is-rolled-back"
    ),
    "(psycopg2.errors.InFailedSqlTransaction) current transaction is aborted, commands"
    " ignored until end of transaction block": (
        "cant-reconnect-until-invalid-transaction-is-rolled-back"
    ),
    "pymysql.err.InternalError: Packet sequence number wrong - got 45 expected 1": (
        "packet-sequence-number-wrong"
    ),
    "_mysql_exceptions.ProgrammingError: (2014, \"Commands out of sync; you can't run"
    ' this command now")': "packet-sequence-number-wrong",
    "sqlalchemy.exc.InvalidRequestError: This session is provisioning a new connection;"
    " concurrent operations are not permitted (Background on this error at:"
    " https://sqlalche.me/e/20/isce)": "concurrent-operations-are-not-permitted",
    "sqlalchemy.exc.OperationalError: (psycopg2.OperationalError) SSL error: decryption"
    " failed or bad record mac": "decryption-failed-or-bad-record-mac",
    "sqlalchemy.exc.OperationalError: (pymysql.err.OperationalError) (1205, 'Lock wait"
    " timeout exceeded; try restarting transaction')": "lock-wait-timeout-exceeded",
    "2026-03-04T05:06:07 9 [Note] Aborted connection 9 to db: 'site' user: 'site' host:"
    " 'localhost' (Got an error reading communication packets)": "aborted-connection",
    "RuntimeError: Task <Task pending name='Task-9' coro=<AsyncToSync.main_wrap()"
    " running at asgiref/sync.py:353>> got Future <Future pending"
    " cb=[BaseProtocol._on_waiter_completed()]> attached to a different loop": (
        "attached-to-a-different-loop"
    ),
    '(psycopg.errors.DuplicatePreparedStatement) prepared statement "_pg3_2" already'
    " exists": "prepared-statement-already-exists",
    "FATAL:  terminating connection due to idle-in-transaction timeout": (
        "idle-in-transaction"
    ),
    "[2026-03-04 05:06:07 +0000] [1] [CRITICAL] WORKER TIMEOUT (pid:19)": "gunicorn",
    "(pymysql.err.OperationalError) (1045, \"Access denied for user 'root'@'172.17.0.1'"
    ' (using password: YES)")': "access-denied-for-user",
    "(pymysql.err.OperationalError) (2003, \"Can't connect to MySQL server on"
    " 'localhost' ([Errno 111] Connection refused)\")": "cant-connect-to-mysql-server",
    "(1290, 'The MySQL server is running with the --read-only option so it cannot"
    " execute this statement')": "read-only-transaction",
    "RuntimeError: Working outside of application context.": "threads",
    "(4031, 'The client was disconnected by the server because of inactivity. See"
    " wait_timeout and interactive_timeout for configuring this behavior.')": (
        "disconnected-because-of-inactivity"
    ),
}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP; yield its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def first_result(tab: Browser, address: str, text: str) -> str:
    """Search as a reader does; return the page that is listed first."""
    tab.open(f"{address}/search.html?q={quote(text)}")
    script = "document.querySelector('.search-summary')?.innerText ?? ''"
    asked = f"new URLSearchParams(location.search).get('q') == {json.dumps(text)}"

    def is_over() -> bool:
        return (
            tab.run(asked) is True
            and re.match("Search finished|Your search did not", str(tab.run(script)))
            is not None
        )

    wait_until(is_over, seconds=30, what="the end of a search")
    found = tab.run("document.querySelector('ul.search a')?.getAttribute('href') ?? ''")
    return str(found).partition("#")[0]


def errors_texts() -> list[str]:
    """Return the texts in the headings of docs/errors.md."""
    headings = re.findall(r"^## (.*)$", (DOCS / "errors.md").read_text(), re.M)
    return [text for each in headings for text in re.findall("`([^`]+)`", each)]


@pytest.mark.parametrize("text", errors_texts())
def test_each_error_has_a_page(text: str) -> None:
    """Its text stands in the title of a page, as it stands in a heading there."""
    titles = [re.findall(r"^# (.*)$", page, re.M)[0] for page in PAGES.values()]
    assert [title for title in titles if text in title]


@pytest.mark.process
def test_the_search_finds_the_page_of_each_error_first(tmp_path: Path) -> None:
    """With the search of the built pages, in a browser."""
    pytest.importorskip("sphinx", reason="the oldest releases build no docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html"]
    subprocess.run([*command, str(DOCS), str(tmp_path)], check=True)
    with served(tmp_path) as address, browser() as tab:
        found = {each: first_result(tab, address, each) for each in SEARCHED}
    expected = {text: f"how-to/{page}.html" for text, page in SEARCHED.items()}
    assert found == expected
