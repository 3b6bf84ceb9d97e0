"""What a database server, and its other users, can and cannot do (docs/security.md)."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError

from flask_poolguard import PoolGuard
from flask_poolguard.masking import first_line
from tests.support.mysql_peer import MySQLPeer
from tests.support.outputs import all_shown, obeyed, pages_of, texts_of
from tests.support.proxy import Listener, shut
from tests.support.servers import DatabaseServer

# What a terminal would obey, a second line for the log, a page's end, and too much.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202e</script><b>\nCRITICAL forged " + "x" * 9000
# Of PostgreSQL's protocol.
SSL_REQUEST = 80877103
NAME = "\x1b[31m<b>evil\nCRITICAL\u202e"


class RefusingPeer(Listener, ABC):
    """A server that answers each connect with an error of its own wording."""

    driver: str

    def __init__(self, code: int | str) -> None:
        self._code = code
        super().__init__()

    @property
    def url(self) -> URL:
        """Return the address."""
        return URL.create(self.driver, "app", "any", self.host, self.port, "test")

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._refuse(client)
        shut(client)

    @abstractmethod
    def _refuse(self, client: socket.socket) -> None: ...


class RefusingMySQL(RefusingPeer):
    """Before the handshake there is no SQL state, and what follows the code is text."""

    driver = "mysql+pymysql"

    def _refuse(self, client: socket.socket) -> None:
        text = HOSTILE.encode() + b"\xff\x00"
        told = b"\xff" + struct.pack("<H", self._code) + text
        client.sendall(len(told).to_bytes(3, "little") + b"\0" + told)


class RefusingPostgreSQL(RefusingPeer):
    """It has no TLS, and then says why it lets no user in."""

    driver = "postgresql+psycopg2"

    def _refuse(self, client: socket.socket) -> None:
        asked = client.recv(1024)
        if struct.unpack(">I", asked[4:8]) == (SSL_REQUEST,):
            client.sendall(b"N")
            client.recv(1024)
        told = f"SFATAL\0C{self._code}\0M{HOSTILE}\0D{HOSTILE}\0\0".encode()
        client.sendall(b"E" + struct.pack(">I", len(told) + 4) + told)


class Watched:
    """An app with one engine, and what is said of it."""

    def __init__(self, url: URL, folder: Path) -> None:
        self.app = Flask("shop")
        self.app.config.update(
            POOLGUARD_STATE_DIR=str(folder),
            POOLGUARD_CONNECT_RETRY=0,
            POOLGUARD_CONNECT_TIMEOUT=5,
        )
        guard = PoolGuard(self.app)
        self.engine: Engine = create_engine(url)
        guard.register(self.engine)
        self.app.register_blueprint(guard.blueprint(auth=None))
        self.notes: list[str] = []

    def use(self) -> None:
        """Connect, if that can be done."""
        with self.app.app_context():
            try:
                self.engine.connect().close()
            except SQLAlchemyError as error:
                self.notes += getattr(error, "__notes__", [])

    def close(self) -> None:
        """End it."""
        self.engine.dispose()
        self.app.extensions["poolguard"].app_tracker.remove_file()


@contextlib.contextmanager
def watched(url: URL, folder: Path) -> Iterator[Watched]:
    """Give an app, and end it."""
    made = Watched(url, folder)
    try:
        yield made
    finally:
        made.close()


def assert_harmless(found: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """Be sure that nothing in texts and log is obeyed, or goes on for ever."""
    for name, text in found.items():
        assert obeyed(text) == set(), name
        assert "x" * 2000 not in text.replace("\n", "").replace(" ", ""), name
        if not name.startswith("/"):  # the page has scripts of its own
            lines = [each.strip() for each in text.splitlines()]
            assert not any(each.startswith("CRITICAL forged") for each in lines), name
    for record in caplog.records:
        if record.name == "flask_poolguard":
            assert obeyed(record.getMessage()) == set()
            assert "\n" not in record.getMessage()


class TestAServer:
    @pytest.mark.parametrize(
        ("kind", "code"),
        [
            *((RefusingMySQL, code) for code in (1040, 1045, 2003, 1064)),
            *((RefusingPostgreSQL, code) for code in ("53300", "28P01", "57P03")),
        ],
    )
    def test_that_refuses_with_hostile_words(
        self,
        kind: type[RefusingPeer],
        code: int | str,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with kind(code) as peer, watched(peer.url, tmp_path) as made:
            made.use()
            found = all_shown(made.app)
            found["notes"] = "\n".join(made.notes)
            assert_harmless(found, caplog)

    @pytest.mark.parametrize("value", ["abc\x1b[31m", "-5", "1e999", "9" * 200, ""])
    def test_that_states_nonsense_as_its_limits(
        self, value: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with MySQLPeer(wait_timeout=60) as peer:
            peer.idle_limit = value
            with watched(peer.url, tmp_path) as made:
                made.use()
                made.use()  # it goes on with the connection, or a new one
                assert made.notes == []
                assert_harmless(all_shown(made.app), caplog)

    def test_an_error_of_its_own_is_one_short_line(self) -> None:
        line = first_line(ValueError(HOSTILE))
        assert obeyed(line) == set()
        assert "\n" not in line
        assert len(first_line(ValueError("x" * 9000))) < 600


class TestAnotherUser:
    @pytest.fixture(params=["postgresql", "mariadb"])
    def server(self, request: pytest.FixtureRequest) -> DatabaseServer:
        """Give each product's server in turn."""
        found: DatabaseServer = request.getfixturevalue(request.param)
        return found

    def test_of_a_hostile_name_is_only_read(
        self,
        own_server: None,
        server: DatabaseServer,
        tmp_path: Path,
        request: pytest.FixtureRequest,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        is_mariadb = "mariadb" in type(server).__name__.lower()
        url: URL = request.getfixturevalue(
            "mariadb_url" if is_mariadb else "postgresql_url"
        )
        other = url.set(username=NAME, password="x")
        if is_mariadb:
            server.execute(f"CREATE USER '{NAME}'@'%' IDENTIFIED BY 'x'")
            server.execute(f"GRANT ALL ON {url.database}.* TO '{NAME}'@'%'")
            server.execute("GRANT PROCESS ON *.* TO app@'%'")
            drop = f"DROP USER '{NAME}'@'%'"
        else:
            server.execute(f"CREATE USER \"{NAME}\" PASSWORD 'x'")
            server.execute("GRANT pg_read_all_stats TO app")
            drop = f'DROP USER "{NAME}"'
        stranger = create_engine(other, poolclass=sa.pool.NullPool)
        try:
            with stranger.connect() as connection, watched(url, tmp_path) as made:
                connection.execute(sa.text(f"SELECT 1 /* {NAME} {'y' * 3000} */"))
                made.use()
                texts = texts_of(made.app)
                assert "evil" in texts["status"]
                assert_harmless({**texts, **pages_of(made.app)}, caplog)
                # His statements are not for who looks at the page.
                assert all("yyyy" not in each for each in pages_of(made.app).values())
        finally:
            if is_mariadb:
                server.execute("REVOKE PROCESS ON *.* FROM app@'%'")
            else:
                server.execute("REVOKE pg_read_all_stats FROM app")
            server.execute(drop)


@pytest.fixture(autouse=True)
def log_all(caplog: pytest.LogCaptureFixture) -> None:
    """Show what the guard logs."""
    caplog.set_level(logging.DEBUG, "flask_poolguard")
