"""Fixtures of all tests: private servers, fresh databases, nothing left behind."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click import get_current_context
from flask import has_app_context, has_request_context
from sqlalchemy import URL

from flask_poolguard.log_lines import begin_anew
from flask_poolguard.pool import housekeeper
from flask_poolguard.pool.housekeeper import Housekeeper
from flask_poolguard.state import memory_map
from flask_poolguard.tracking.dead_threads import give_back_deserted
from tests.support import leftovers, not_tested, products, templates
from tests.support.drivers import DRIVERS, REQUIRED_DRIVERS
from tests.support.forked_python import close_nursery
from tests.support.reporting import MakeShop, shops
from tests.support.run_servers import RunServers, borrow
from tests.support.servers import (
    APP_USER,
    DatabaseServer,
    MariaDBServer,
    MissingServerError,
    MySQLServer,
    PostgreSQLServer,
)

IN_MEMORY = Path("/dev/shm")
# The mark of a process test that `make test` runs as well.
QUICK = "quick"
RUN_SERVERS = pytest.StashKey[RunServers]()

pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder for servers' templates, which xdist's workers inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a job in the background; the programs that tests start would inherit it
        # and not hear their Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup
    # PyMySQL reads the system's certificates with each connect, for which OpenSSL takes
    # 50 ms. None of them is of a server here; tests of TLS name their own.
    os.environ.update(SSL_CERT_FILE=os.devnull, SSL_CERT_DIR=os.devnull)
    if not hasattr(config, "workerinput"):
        config.stash[RUN_SERVERS] = RunServers(templates.make_folder())


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what tests share: here the nursery, in the first process the servers."""
    close_nursery()
    run_servers = config.stash.get(RUN_SERVERS, None)
    if run_servers is not None:
        run_servers.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let all products be asked for."""
    products.add_option(parser)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that are written for MariaDB on MySQL too, if they ask for it."""
    products.add_mysql(metafunc)


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Choose on which products tests run, and which of a test's variants is quick.

    The slow ones come first: at the end of a run no process waits for another's last.
    """
    products.select(config, items)
    items.sort(key=lambda item: item.get_closest_marker("process") is None)
    seen = set()
    for item in items:
        name, _, variant = item.nodeid.partition("[")
        if variant and name in seen:
            item.own_markers = [each for each in item.own_markers if each.name != QUICK]
        seen.add(name)


def pytest_collection_finish() -> None:
    """Let no garbage collection look at what all tests are made of: that costs 0.1 s
    each time that a test asks for one.
    """
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what could not be tested on this machine."""
    not_tested.summarize(terminalreporter)


@dataclass(frozen=True, slots=True)
class Database:
    """A fresh database, and the server that it is on (none for SQLite)."""

    url: URL
    server: DatabaseServer | None

    @property
    def running_server(self) -> DatabaseServer:
        """Return the server, for tests that only run where there is one."""
        assert self.server is not None, "SQLite has no server"
        return self.server


# Isolation


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Keep the state files of this test's processes in a folder of its own, which is in
    memory as the default one is, if that can be.
    """
    place = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else tmp_path
    folder = Path(tempfile.mkdtemp(prefix="poolguard-test-", dir=place))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    for name in list(os.environ):
        if name == templates.FOLDER_VARIABLE:
            continue
        # libpq takes what a URL does not say from PGHOST, PGPASSWORD and so on;
        # Flask and the guard take settings from variables of their own.
        if name.startswith(("PG", "FLASK_", "POOLGUARD_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PGPASSFILE", os.devnull)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_storm() -> Iterator[None]:
    """Let what a test logs not count with equal lines of another one."""
    yield
    begin_anew()


@pytest.fixture
def state_files_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every folder for one on a disk, so that this process maps no state file."""
    monkeypatch.setattr(memory_map, "_is_in_memory", lambda _: False)


@pytest.fixture(autouse=True)
def nothing_left_behind(
    request: pytest.FixtureRequest, state_dir: Path
) -> Iterator[None]:
    """Fail a test that leaves threads, child processes or Flask's contexts behind."""
    before = leftovers.snapshot()
    stale = has_app_context(), has_request_context(), get_current_context(silent=True)
    yield
    # What is left to the collector, or to dead threads, is to warn in no other test.
    with housekeeper._lock:
        housekeeper._tended.clear()
    give_back_deserted()
    now = has_app_context(), has_request_context(), get_current_context(silent=True)
    if now != stale:
        pytest.fail(f"This test left contexts behind (app, request, command): {now}")
    if "leaves_behind" not in request.keywords:
        left = leftovers.wait_for_none(before)
        if left:
            pytest.fail("This test left behind:\n  " + "\n  ".join(left))


@pytest.fixture
def threadless(monkeypatch: pytest.MonkeyPatch) -> Housekeeper:
    """Return a housekeeper whose thread never runs, as in uWSGI without threads."""
    alone = Housekeeper()
    monkeypatch.setattr(alone, "start", lambda: None)
    for user in (
        "pool.guarded_pool",
        "tracking.app_tracker",
        "tracking.pool_figures",
        "tracking.pool_tracker",
    ):
        monkeypatch.setattr(f"flask_poolguard.{user}.housekeeper", alone)
    return alone


# Servers: one of each product for all workers of a run, and one of each worker's own
# for tests with the fixture `own_server`. All are started when first needed.


def started(make: Callable[[], DatabaseServer]) -> Iterator[DatabaseServer]:
    """Run a server for a session, or say that it could not be tested."""
    try:
        server = make()
        server.start()
    except MissingServerError as error:
        not_tested.stop_test(str(error))
    leftovers.expect(server)
    yield server
    server.close()


def shared(product: str, config: pytest.Config) -> DatabaseServer:
    """Return the server of a product that all workers use."""
    run_servers = config.stash.get(RUN_SERVERS, None)
    try:
        if run_servers is None:  # a worker of xdist
            return borrow(product, Path(os.environ[templates.FOLDER_VARIABLE]))
        server = run_servers.lend(product)
        leftovers.expect(server)
        # For these tests it is all the same as in a worker.
        return type(server)().borrowed(server.loan())
    except MissingServerError as error:
        if product == products.MYSQL9:
            # From a release of Debian that may change any day.
            not_tested.skip_test(str(error))
        not_tested.stop_test(str(error))


@pytest.fixture(scope="session")
def shared_mariadb(pytestconfig: pytest.Config) -> DatabaseServer:
    """Return the MariaDB server of the run."""
    return shared("mariadb", pytestconfig)


@pytest.fixture(scope="session")
def own_mariadb() -> Iterator[DatabaseServer]:
    """Run a MariaDB server that only this worker uses."""
    yield from started(MariaDBServer)


@pytest.fixture(scope="session")
def shared_mysql9(pytestconfig: pytest.Config) -> DatabaseServer:
    """Return the MySQL server of the run."""
    return shared("mysql9", pytestconfig)


@pytest.fixture(scope="session")
def own_mysql9(shared_mysql9: DatabaseServer) -> Iterator[DatabaseServer]:
    """Run a MySQL server that only this worker uses."""
    yield from started(MySQLServer)


@pytest.fixture(scope="session")
def shared_postgresql(pytestconfig: pytest.Config) -> DatabaseServer:
    """Return the PostgreSQL server of the run."""
    return shared("postgresql", pytestconfig)


@pytest.fixture(scope="session")
def own_postgresql() -> Iterator[DatabaseServer]:
    """Run a PostgreSQL server that only this worker uses."""
    yield from started(PostgreSQLServer)


@pytest.fixture(scope="session")
def postgresql13(pytestconfig: pytest.Config) -> DatabaseServer:
    """Return a PostgreSQL server from before there was `idle_session_timeout`."""
    return shared("postgresql13", pytestconfig)


@pytest.fixture
def own_server() -> None:
    """Let this test's servers be some that no other worker uses at the same time.

    It may stop and reconfigure them, and see all that they do.
    """


def server_for_test(product: str, request: pytest.FixtureRequest) -> DatabaseServer:
    """Return the shared server of a product, or the worker's own if the test asks."""
    kind = "own" if "own_server" in request.fixturenames else "shared"
    name = f"{kind}_{product}"
    server: DatabaseServer = request.getfixturevalue(name)
    return server


@pytest.fixture
def mysql_product(request: pytest.FixtureRequest) -> str:
    """Return which product `mariadb` is; MySQL too where all are asked for and the test
    is marked `every_product`.
    """
    return getattr(request, "param", "mariadb")


@pytest.fixture
def mariadb(request: pytest.FixtureRequest, mysql_product: str) -> DatabaseServer:
    """Return a running MariaDB server."""
    return server_for_test(mysql_product, request)


@pytest.fixture
def mysql9(request: pytest.FixtureRequest) -> DatabaseServer:
    """Return a running MySQL server."""
    return server_for_test("mysql9", request)


@pytest.fixture
def postgresql(request: pytest.FixtureRequest) -> DatabaseServer:
    """Return a running PostgreSQL server."""
    return server_for_test("postgresql", request)


def fresh_database(server: DatabaseServer) -> Iterator[URL]:
    """Lend an empty database to one test."""
    # A test that stopped the server and failed must not fail all that follow.
    server.start()
    name = server.lend_database()
    yield server.url(database=name)
    server.start()
    server.take_back_database(name)


@pytest.fixture
def mariadb_url(mariadb: DatabaseServer) -> Iterator[URL]:
    """Return the URL of an empty database on MariaDB, by PyMySQL."""
    yield from fresh_database(mariadb)


@pytest.fixture
def mysql9_url(mysql9: DatabaseServer) -> Iterator[URL]:
    """Return the URL of an empty database on MySQL, by PyMySQL."""
    yield from fresh_database(mysql9)


@pytest.fixture
def postgresql_url(postgresql: DatabaseServer) -> Iterator[URL]:
    """Return the URL of an empty database on PostgreSQL, by psycopg2."""
    yield from fresh_database(postgresql)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> URL:
    """Return the URL of an SQLite database in a file that does not exist yet."""
    return URL.create("sqlite", database=str(tmp_path / "test.sqlite"))


@pytest.fixture(params=["mariadb", "postgresql", "sqlite", "mysql9"])
def database(request: pytest.FixtureRequest) -> Database:
    """Run the test on each product in turn, with a fresh database."""
    url: URL = request.getfixturevalue(f"{request.param}_url")
    if request.param == "sqlite":
        return Database(url, None)
    return Database(url, request.getfixturevalue(request.param))


@pytest.fixture(params=["mariadb", "postgresql", "mysql9"])
def served_database(request: pytest.FixtureRequest) -> Database:
    """Run the test on each product that has a server, with a fresh database."""
    url: URL = request.getfixturevalue(f"{request.param}_url")
    return Database(url, request.getfixturevalue(request.param))


@pytest.fixture(params=["mariadb", "postgresql", "mysql9"])
def served_server(request: pytest.FixtureRequest) -> DatabaseServer:
    """Run the test on each product's server in turn."""
    server: DatabaseServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def process_privilege(
    own_server: None, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Let the app's account see all sessions and transactions of MariaDB or MySQL."""
    server: DatabaseServer
    for choosing in ("served_database", "driver_database"):
        if choosing in request.fixturenames:
            server = request.getfixturevalue(choosing).running_server
            break
    else:
        server = request.getfixturevalue("mariadb")
    if isinstance(server, PostgreSQLServer):
        yield
        return
    server.execute(f"GRANT PROCESS ON *.* TO {APP_USER}@'%'")
    yield
    server.execute(f"REVOKE PROCESS ON *.* FROM {APP_USER}@'%'")


def database_by(driver: str, request: pytest.FixtureRequest) -> Database:
    """Return a fresh database and its server, by a driver."""
    if driver == products.MYSQL9:
        return Database(
            request.getfixturevalue("mysql9_url"), request.getfixturevalue("mysql9")
        )
    product = "mariadb" if driver.startswith("mysql") else "postgresql"
    url: URL = request.getfixturevalue(f"{product}_url")
    return Database(url.set(drivername=driver), request.getfixturevalue(product))


@pytest.fixture(params=[*DRIVERS, products.MYSQL9])
def driver_database(request: pytest.FixtureRequest) -> Database:
    """Run the test by each driver that is installed, with a fresh database."""
    return database_by(request.param, request)


@pytest.fixture(params=REQUIRED_DRIVERS)
def driver_url(request: pytest.FixtureRequest) -> URL:
    """Return the URL of a fresh database, by each driver that the tests require."""
    return database_by(request.param, request).url


@pytest.fixture
def make_shop() -> Iterator[MakeShop]:
    """Return a function that makes guarded apps."""
    with shops() as make:
        yield make
