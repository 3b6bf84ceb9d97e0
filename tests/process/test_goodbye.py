"""A worker that ends closes its idle connections."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.conftest import Database
from tests.support.app_server import REPOSITORY
from tests.support.desk import DeskServer, environment
from tests.support.servers import DatabaseServer
from tests.support.waiting import wait_until

# What the server counts is of all its sessions.
pytestmark = [
    pytest.mark.process,
    pytest.mark.every_product,
    pytest.mark.usefixtures("own_server"),
]

PROGRAM = """
import os, sys
import sqlalchemy as sa
from flask import Flask
from flask_poolguard import PoolGuard

app = Flask("shop")
engine = sa.create_engine(os.environ["DATABASE_URL"])
guard = PoolGuard(app)
guard.register(engine)
with app.app_context(), engine.connect() as connection:
    connection.execute(sa.text("SELECT 1"))
"""
ENDS = {
    "by itself": "",
    "with an error": "raise LookupError('tea')",
    "while somebody has one": "kept = engine.connect()",
    "though a listener fails": """
@sa.event.listens_for(engine.pool, "close")
def refuse(*_):
    raise LookupError("tea")
""",
    "with connections that were opened ahead": """
import time
app.config["POOLGUARD_MIN_IDLE"] = 3
app.add_url_rule("/", view_func=lambda: "")
app.test_client().get("/")
while engine.pool.checkedin() < 3:
    time.sleep(0.01)
""",
    "after its child": """
child = os.fork()
if not child:
    sys.exit()
os.waitpid(child, 0)
with engine.connect() as connection:
    connection.execute(sa.text("SELECT 1"))
""",
}
DRIVERS = ["pymysql"]
if find_spec("MySQLdb") is not None:  # said before all tests if it is not there
    DRIVERS.append("mysqldb")
# A session is lost without a goodbye if somebody still has it; and a failing listener
# keeps SQLAlchemy from closing, as ever.
LOST = {"while somebody has one": 1, "though a listener fails": 1}


def aborted(server: DatabaseServer) -> int:
    """Return how many sessions have ended without a goodbye."""
    ((_, count),) = server.query("SHOW GLOBAL STATUS LIKE 'Aborted_clients'")
    return int(count)


def run(url: URL, source: str) -> str:
    """Run a program to its end; return what it wrote of errors."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + source],
        cwd=REPOSITORY,
        env={**os.environ, **environment(url)},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    return done.stderr


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_ends(
    mariadb: DatabaseServer, mariadb_url: URL, driver: str, end: str
) -> None:
    before = aborted(mariadb)
    errors = run(mariadb_url.set(drivername=f"mysql+{driver}"), ENDS[end])
    assert ("LookupError" in errors) == (end == "with an error")
    database = mariadb_url.database
    wait_until(lambda: not mariadb.session_ids(database=database), what="their end")
    # mysqlclient says goodbye when a connection is collected.
    lost = LOST.get(end, 0) if driver == "pymysql" else 0
    assert aborted(mariadb) - before == lost


def test_workers_of_gunicorn(tmp_path: Path, mariadb: DatabaseServer) -> None:
    name = mariadb.create_database()
    database = Database(mariadb.url(database=name), mariadb)
    before = aborted(mariadb)
    with DeskServer(
        tmp_path, environment(database.url), workers=2, threads=4
    ) as server:
        server.wake()
        server.hold(4)
        server.let_go()
        assert mariadb.session_ids(database=name)
    wait_until(lambda: not mariadb.session_ids(database=name), what="their end")
    assert aborted(mariadb) == before
    mariadb.drop_database(name)
