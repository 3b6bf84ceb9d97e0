"""Failed connects are told apart: nobody there, no room, or wrong for good."""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import psycopg2
import pymysql
import pytest
import sqlalchemy as sa

from flask_poolguard.databases import ConnectFailure, for_dialect
from tests.conftest import Database as FreshDatabase
from tests.support.drivers import POSTGRESQL_DRIVERS
from tests.support.proxy import Listener, SilentServer
from tests.support.servers import (
    APP_USER,
    DatabaseServer,
    MariaDBServer,
    PostgreSQLServer,
)
from tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.every_product

AWAY, FULL = ConnectFailure.AWAY, ConnectFailure.FULL
PSYCOPGS = pytest.mark.parametrize("drivername", POSTGRESQL_DRIVERS)


def is_login_refused(url: sa.URL) -> bool:
    """Connect in vain, and tell whether it is the login that failed."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with pytest.raises(sa.exc.DBAPIError) as caught:
        engine.connect()
    return for_dialect(url.get_backend_name()).refuses_login(caught.value)


def failure(url: sa.URL, **arguments: Any) -> ConnectFailure | None:
    """Connect in vain, and judge the error bare and as SQLAlchemy wraps it."""
    engine = sa.create_engine(url, connect_args=arguments, poolclass=sa.NullPool)
    with pytest.raises(sa.exc.DBAPIError) as caught:
        engine.connect()
    family = for_dialect(url.get_backend_name())
    assert caught.value.orig is not None
    bare = family.connect_failure(caught.value.orig)
    assert family.connect_failure(caught.value) is bare
    return bare


@pytest.fixture
def url(driver_database: FreshDatabase) -> sa.URL:
    """Return the URL of a fresh database, by each driver in turn."""
    return driver_database.url


class Slammer(Listener):
    """Closes every connection at once, politely or not."""

    def __init__(self, *, reset: bool) -> None:
        self.reset = reset
        super().__init__()

    def _serve(self, client: socket.socket) -> None:
        self.cut(reset=self.reset)


@pytest.fixture
def full_backlog() -> Iterator[int]:
    """Return a port whose queue is full: the kernel drops further connects."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


class TestAway:
    def test_nobody_listens(self, url: sa.URL) -> None:
        assert failure(url.set(port=free_port())) is AWAY

    @pytest.mark.usefixtures("own_server")
    def test_the_server_is_stopped(self, served_database: FreshDatabase) -> None:
        served_database.running_server.stop()
        assert failure(served_database.url) is AWAY

    def test_the_unix_socket_is_missing(self, url: sa.URL, tmp_path: Path) -> None:
        if url.get_backend_name() == "postgresql":
            assert failure(url.set(host=str(tmp_path))) is AWAY
        else:
            missing = str(tmp_path / "socket")
            with warnings.catch_warnings():
                # PyMySQL leaves a socket open when it cannot connect one.
                warnings.simplefilter("ignore", ResourceWarning)
                assert failure(url.set(host="localhost"), unix_socket=missing) is AWAY
                gc.collect()

    def test_the_address_is_a_black_hole(self, url: sa.URL, full_backlog: int) -> None:
        assert failure(url.set(port=full_backlog), connect_timeout=2) is AWAY

    def test_the_server_never_says_a_word(self, url: sa.URL) -> None:
        arguments = {"connect_timeout": 2}
        if "pymysql" in url.drivername:
            # PyMySQL's connect_timeout ends with the TCP connect.
            arguments["read_timeout"] = 1
        with SilentServer() as server:
            assert failure(url.set(port=server.port), **arguments) is AWAY

    @pytest.mark.parametrize("reset", [False, True])
    def test_the_connection_is_cut_in_the_handshake(
        self, url: sa.URL, reset: bool
    ) -> None:
        with Slammer(reset=reset) as server:
            assert failure(url.set(port=server.port)) is AWAY

    @PSYCOPGS
    def test_postgresql_starts_up_or_shuts_down(
        self, drivername: str, postgresql: DatabaseServer
    ) -> None:
        with PostgreSQLServer(
            wal_level="replica",
            # Keeps the server in its start until a file appears.
            restore_command="while [ ! -e go ]; do sleep 0.05; done; false",
            recovery_target_timeline="current",
        ) as server:
            url = server.url(database="postgres", drivername=drivername)
            engine = sa.create_engine(url, poolclass=sa.NullPool)
            with engine.connect():
                # "Smart": waits for the session, and lets nobody in.
                os.kill(server.pid, signal.SIGTERM)
                wait_until(lambda: "smart shutdown" in server.log_text())
                assert failure(url) is AWAY
                assert self.says(url, "shutting down")
            server.stop()
            data = server.folder / "data"
            (data / "recovery.signal").touch()
            starter = threading.Thread(target=server.start)
            starter.start()
            try:
                wait_until(lambda: self.says(url, "starting up"))
                assert failure(url) is AWAY
            finally:
                (data / "go").touch()
                starter.join()

    def says(self, url: sa.URL, words: str) -> bool:
        """Tell whether the server refuses with these words."""
        try:
            sa.create_engine(url, poolclass=sa.NullPool).connect().close()
        except sa.exc.OperationalError as error:
            return words in str(error)
        return False

    @pytest.mark.parametrize("drivername", ["mysql+pymysql", "postgresql+psycopg"])
    def test_the_name_server_does_not_answer(
        self, drivername: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_AGAIN, "in whatever language")

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        assert failure(sa.URL.create(drivername, host="db.example")) is AWAY

    @pytest.mark.parametrize(
        ("dialect", "error"),
        [
            (
                "postgresql",
                psycopg2.OperationalError(
                    'could not translate host name "db" to address:'
                    " Temporary failure in name resolution\n"
                ),
            ),
            ("mysql", pymysql.OperationalError(2005, "Unknown server host 'db' (-3)")),
        ],
    )
    def test_the_name_server_does_not_answer_a_library_in_c(
        self, dialect: str, error: Exception
    ) -> None:
        # Taken down in a network namespace without a network.
        assert for_dialect(dialect).connect_failure(error) is AWAY

    @pytest.mark.parametrize(
        "text",
        [
            "FATAL:  the database system is in recovery mode",
            "FATAL:  the database system is not yet accepting connections",
            "FATAL:  terminating connection due to administrator command",
            "SSL SYSCALL error: EOF detected",
            "SSL error: unexpected eof while reading",
            "could not send startup packet: Broken pipe",
            "No route to host",
        ],
    )
    def test_what_cannot_be_held_long_enough_on_a_server(self, text: str) -> None:
        error = psycopg2.OperationalError(
            f'connection to server at "10.0.0.1", port 5432 failed: {text}\n'
        )
        assert for_dialect("postgresql").connect_failure(error) is AWAY

    @pytest.mark.parametrize(
        "code", [1053, 1158, 1159, 1160, 1161, 1184, 2002, 2006, 2013, 2055, 3032]
    )
    def test_mysqls_numbers_count_whatever_the_language(self, code: int) -> None:
        error = pymysql.OperationalError(code, "Ein Fehler")
        assert for_dialect("mysql").connect_failure(error) is AWAY

    def test_galera_has_not_joined_its_cluster_yet(self) -> None:
        not_ready = pymysql.OperationalError(
            1047, "WSREP has not yet prepared node for application use"
        )
        assert for_dialect("mysql").connect_failure(not_ready) is AWAY
        other = pymysql.OperationalError(1047, "Unknown command")
        assert for_dialect("mysql").connect_failure(other) is None


class TestFull:
    def test_mariadb_has_max_connections(self, mariadb: DatabaseServer) -> None:
        with MariaDBServer(max_connections=10) as server:
            with ExitStack() as stack:
                assert self.fill(server.url(), stack) is FULL
            url = server.url()
            wait_until(lambda: not server.session_ids(), what="room again")
            sa.create_engine(url, poolclass=sa.NullPool).connect().close()

    @PSYCOPGS
    def test_postgresql_has_max_connections_or_only_reserved_ones(
        self, drivername: str, postgresql: DatabaseServer
    ) -> None:
        with PostgreSQLServer(
            max_connections=6, superuser_reserved_connections=2
        ) as server:
            url = server.url(database="postgres", drivername=drivername)
            administrator = url.set(
                username=server.admin_user,
                host=str(server.socket_path.parent),
                password=None,
            )
            with ExitStack() as stack:
                assert self.fill(url, stack) is FULL
                # What is left is for the administrator.
                assert self.fill(administrator, stack) is FULL
                assert failure(url) is FULL

    @PSYCOPGS
    @pytest.mark.usefixtures("own_server")
    def test_a_role_of_postgresql_has_its_limit(
        self, drivername: str, postgresql: DatabaseServer, postgresql_url: sa.URL
    ) -> None:
        url = postgresql_url.set(drivername=drivername)
        role = "limited_role"
        postgresql.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pw' CONNECTION LIMIT 1")
        try:
            with ExitStack() as stack:
                limited = url.set(username=role, password="pw")
                assert self.fill(limited, stack) is FULL
        finally:
            wait_until(lambda: not postgresql.session_ids(user=role))
            postgresql.execute(f"DROP ROLE {role}")

    @PSYCOPGS
    def test_a_database_of_postgresql_has_its_limit(
        self, drivername: str, postgresql: DatabaseServer, postgresql_url: sa.URL
    ) -> None:
        url = postgresql_url.set(drivername=drivername)
        postgresql.execute(f"ALTER DATABASE {url.database} CONNECTION LIMIT 1")
        with ExitStack() as stack:
            assert self.fill(url, stack) is FULL

    @pytest.mark.parametrize(
        ("limit", "expected"),
        [("MAX_USER_CONNECTIONS", FULL), ("MAX_CONNECTIONS_PER_HOUR", None)],
    )
    def test_a_user_of_mariadb_has_a_limit_at_a_time_or_per_hour(
        self,
        limit: str,
        expected: ConnectFailure | None,
        mariadb: DatabaseServer,
    ) -> None:
        # A server of its own: what was used up of an hour does not come back.
        with MariaDBServer() as server:
            server.execute(f"ALTER USER {APP_USER} WITH {limit} 1")
            with ExitStack() as stack:
                assert self.fill(server.url(), stack) is expected

    def test_all_users_of_mariadb_have_a_limit(self, mariadb: DatabaseServer) -> None:
        with MariaDBServer(max_user_connections=3) as server, ExitStack() as stack:
            assert self.fill(server.url(), stack) is FULL

    def fill(self, url: sa.URL, stack: ExitStack) -> ConnectFailure | None:
        """Connect until the server refuses, and judge its refusal."""
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        for _ in range(30):
            try:
                stack.enter_context(closing(engine.connect()))
            except sa.exc.OperationalError:
                return failure(url)
        pytest.fail("There was always room")

    @pytest.mark.parametrize("code", [1041, 1135])
    def test_mysql_has_no_memory_or_thread_left(self, code: int) -> None:
        error = pymysql.OperationalError(code, "Ein Fehler")
        assert for_dialect("mysql").connect_failure(error) is FULL

    def test_newer_postgresql_and_pgbouncer_word_it_otherwise(self) -> None:
        for text in (
            "remaining connection slots are reserved for roles with the SUPERUSER"
            " attribute",
            "no more connections allowed (max_client_conn)",
        ):
            error = psycopg.OperationalError(f"connection failed: FATAL:  {text}")
            assert for_dialect("postgresql").connect_failure(error) is FULL


class TestLogin:
    @pytest.mark.parametrize(
        "wrong",
        [{"password": "wrong"}, {"username": "nobody"}, {"database": "nowhere"}],
        ids=lambda wrong: next(iter(wrong)),
    )
    def test_is_refused_to_whom_the_server_does_not_know(
        self, url: sa.URL, wrong: dict[str, str]
    ) -> None:
        assert is_login_refused(url.set(**wrong))  # type: ignore[arg-type] # by name

    @PSYCOPGS
    @pytest.mark.usefixtures("own_server")
    def test_is_refused_without_a_right_or_a_line_in_pg_hba(
        self, drivername: str, postgresql: DatabaseServer, postgresql_url: sa.URL
    ) -> None:
        url = postgresql_url.set(drivername=drivername)
        postgresql.execute("CREATE ROLE guest PASSWORD 'pw'")
        guest = url.set(username="guest", password="pw")
        try:
            assert is_login_refused(guest)
            postgresql.execute("ALTER ROLE guest LOGIN")
            postgresql.execute(f"REVOKE CONNECT ON DATABASE {url.database} FROM PUBLIC")
            assert is_login_refused(guest)
        finally:
            postgresql.execute("DROP ROLE guest")
        error = psycopg2.OperationalError(
            'connection to server at "10.0.0.1", port 5432 failed: FATAL:  no'
            ' pg_hba.conf entry for host "10.0.0.2", user "app", database "shop", no'
            " encryption\n"
        )
        assert for_dialect("postgresql").refuses_login(error)

    def test_is_not_what_fails_where_nobody_listens(self, url: sa.URL) -> None:
        assert not is_login_refused(url.set(port=free_port()))
        assert not is_login_refused(url.set(host="no body"))


class TestPermanent:
    def test_the_password_is_wrong(self, url: sa.URL) -> None:
        assert failure(url.set(password="wrong")) is None

    def test_the_database_does_not_exist(self, url: sa.URL) -> None:
        assert failure(url.set(database="nowhere")) is None

    def test_the_host_does_not_exist(self, url: sa.URL) -> None:
        # RFC 952 has no spaces in names: the resolver says so without asking anybody,
        # so that it matters not whether there is a name server.
        assert failure(url.set(host="no body")) is None

    def test_a_database_is_not_a_state_of_the_server(
        self, postgresql_url: sa.URL
    ) -> None:
        name = "the database system is starting up"
        assert failure(postgresql_url.set(database=name)) is None

    @PSYCOPGS
    def test_the_address_that_refuses_the_password_decides(
        self, drivername: str, postgresql_url: sa.URL
    ) -> None:
        # As `localhost` with its two addresses, where the server listens on one.
        url = postgresql_url.set(drivername=drivername, password="wrong")
        ports = f"{free_port()},{url.port}"
        assert failure(url, host="127.0.0.1,127.0.0.1", port=ports) is None

    @PSYCOPGS
    def test_the_certificate_is_not_there(
        self, drivername: str, postgresql_url: sa.URL, tmp_path: Path
    ) -> None:
        url = postgresql_url.set(drivername=drivername)
        missing = str(tmp_path / "root.pem")
        assert failure(url, sslmode="verify-full", sslrootcert=missing) is None

    def test_the_servers_certificate_is_refused(self, mariadb: DatabaseServer) -> None:
        with MariaDBServer(tls=True) as server:
            trust_nobody = ssl.create_default_context(cadata=None)
            assert failure(server.url(), ssl=trust_nobody) is None

    def test_an_error_of_mysql_that_nobody_listed(self) -> None:
        error = pymysql.OperationalError(1129, "Host is blocked")
        assert for_dialect("mysql").connect_failure(error) is None

    @pytest.mark.parametrize("dialect", ["mysql", "postgresql", "sqlite", "oracle"])
    def test_an_error_that_is_no_drivers(self, dialect: str) -> None:
        family = for_dialect(dialect)
        for error in (
            KeyError("Connection refused"),
            KeyboardInterrupt(),
            ValueError(),
        ):
            assert family.connect_failure(error) is None


class TestSQLStates:
    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (psycopg.errors.TooManyConnections("voll"), FULL),
            (psycopg.errors.CannotConnectNow("noch nicht"), AWAY),
            (psycopg.errors.AdminShutdown("aus"), AWAY),
            (psycopg.errors.ConnectionFailure("weg"), AWAY),
            (psycopg.errors.InvalidPassword("Connection refused"), None),
        ],
    )
    def test_they_decide_where_a_driver_gives_them(
        self, error: Exception, expected: ConnectFailure | None
    ) -> None:
        assert for_dialect("postgresql").connect_failure(error) is expected

    def test_pg8000_gives_them_in_its_own_way(self) -> None:
        error = psycopg2.DatabaseError({"S": "FATAL", "C": "53300", "M": "voll"})
        assert for_dialect("postgresql").connect_failure(error) is FULL


class TestErrorsOfPython:
    """As creators of an app's own raise them, which need no driver's error."""

    @pytest.mark.parametrize("dialect", ["mysql", "postgresql", "oracle"])
    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), AWAY),
            (ConnectionResetError(), AWAY),
            (TimeoutError(), AWAY),
            (OSError(errno.EHOSTUNREACH, "no route"), AWAY),
            (FileNotFoundError(errno.ENOENT, "no socket"), AWAY),
            (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), AWAY),
            (FileNotFoundError(errno.ENOENT, "no file", "password.txt"), None),
            (PermissionError(errno.EACCES, "not yours"), None),
            (ssl.SSLError(1, "wrong version number"), None),
            (ssl.SSLCertVerificationError(1, "self-signed"), None),
            (socket.gaierror(socket.EAI_NONAME, "unknown"), None),
        ],
    )
    def test_they_are_told_apart_as_well(
        self, dialect: str, error: OSError, expected: ConnectFailure | None
    ) -> None:
        assert for_dialect(dialect).connect_failure(error) is expected
