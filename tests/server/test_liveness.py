"""No dead connection is handed out, and no living one is asked for nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from flask_poolguard.pool import liveness
from tests.support import leftovers
from tests.support.drivers import DRIVERS, POSTGRESQL_DRIVERS
from tests.support.guarded_app import (
    Clock,
    checked_out_id,
    guarded_engine,
    guarded_pool,
    session_id,
)
from tests.support.servers import DatabaseServer, MariaDBServer, PostgreSQLServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.every_product

WAYS = ("tcp", "unix", "tls")


@dataclass(frozen=True, slots=True)
class Line:
    """A way to a database, and the server at its end."""

    url: sa.URL
    server: DatabaseServer
    way: str

    @property
    def is_mysql(self) -> bool:
        return self.url.get_backend_name() == "mysql"

    def limit_idling(self, seconds: int) -> None:
        """Let sessions to come end after so many seconds of idling."""
        if self.is_mysql:
            self.server.execute(f"SET GLOBAL wait_timeout = {seconds}")
        else:
            self.server.execute(
                f"ALTER DATABASE {self.url.database}"
                f" SET idle_session_timeout = '{seconds}s'"
            )


def by_unix_socket(server: DatabaseServer, url: sa.URL) -> sa.URL:
    """Return the address by the server's Unix socket."""
    if url.get_backend_name() == "mysql":
        found = url.set(host="localhost", port=None)
        return found.update_query_dict({"unix_socket": str(server.socket_path)})
    found = url.set(host=None)
    return found.update_query_dict({"host": str(server.socket_path.parent)})


@pytest.fixture(scope="module")
def tls_servers() -> Iterator[Callable[[str], DatabaseServer]]:
    """Return a function that gives the product's server with TLS."""
    servers: dict[str, DatabaseServer] = {}

    def server_of(product: str) -> DatabaseServer:
        if product not in servers:
            kind = MariaDBServer if product == "mariadb" else PostgreSQLServer
            servers[product] = kind(tls=True)
            servers[product].start()
            leftovers.expect(servers[product])
        return servers[product]

    yield server_of
    for server in servers.values():
        server.close()


def lead(request: pytest.FixtureRequest, driver: str, way: str) -> Iterator[Line]:
    """Make a fresh database and lead to it."""
    product = "mariadb" if driver.startswith("mysql") else "postgresql"
    server: DatabaseServer = request.getfixturevalue(product)
    if way == "tls":
        server = request.getfixturevalue("tls_servers")(product)
    name = server.create_database()
    query = server.tls_query() if way == "tls" else {}
    url = server.url(database=name, drivername=driver, **query)
    yield Line(by_unix_socket(server, url) if way == "unix" else url, server, way)
    server.start()
    if product == "mariadb":
        server.execute("SET GLOBAL wait_timeout = 28800")
    server.drop_database(name)


@pytest.fixture(params=[f"{driver} {way}" for driver in DRIVERS for way in WAYS])
def line(request: pytest.FixtureRequest, own_server: None) -> Iterator[Line]:
    """Lead to a fresh database, by each driver over each kind of line."""
    driver, way = request.param.split()
    yield from lead(request, driver, way)


@pytest.fixture(params=DRIVERS)
def tcp(request: pytest.FixtureRequest, own_server: None) -> Iterator[Line]:
    """Lead to a fresh database by TCP, by each driver."""
    yield from lead(request, request.param, "tcp")


@pytest.fixture
def untended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave it to the checkout to find out."""
    monkeypatch.setattr("flask_poolguard.pool.GuardedPool.tend", lambda _: None)


def count_pings(engine: sa.Engine) -> list[object]:
    """Note each ping from now on."""
    pings: list[object] = []
    ping = engine.dialect.do_ping

    def counted(connection: Any) -> bool:
        pings.append(connection)
        return ping(connection)

    engine.dialect.do_ping = counted  # type: ignore[method-assign,assignment] # for this engine
    return pings


def two_idle(engine: sa.Engine) -> set[int]:
    """Leave two connections idle; return the numbers of their sessions."""
    with engine.connect() as first, engine.connect() as second:
        return {session_id(first), session_id(second)}


@pytest.mark.usefixtures("untended")
class TestDead:
    def test_a_session_that_was_killed(self, line: Line) -> None:
        with guarded_engine(line.url) as engine:
            dead = two_idle(engine)
            for number in dead:
                line.server.kill_session(number)
            assert not {checked_out_id(engine) for _ in range(3)} & dead

    def test_a_session_that_idled_for_too_long(self, line: Line) -> None:
        line.limit_idling(1)
        with guarded_engine(line.url) as engine:
            # Only the socket can tell: by this clock no time passes.
            Clock().of(engine)
            dead = two_idle(engine)
            wait_until(lambda: not dead & line.server.session_ids(), what="the end")
            assert not {checked_out_id(engine) for _ in range(3)} & dead

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_the_server_restarted(self, end: str, line: Line) -> None:
        with guarded_engine(line.url) as engine:
            two_idle(engine)
            getattr(line.server, end)()
            line.server.start()
            for _ in range(3):
                checked_out_id(engine)

    def test_with_pre_ping_as_well(self, tcp: Line) -> None:
        options = {"SQLALCHEMY_ENGINE_OPTIONS": {"pool_pre_ping": True}}
        with guarded_engine(tcp.url, **options) as engine:
            dead = two_idle(engine)
            for number in dead:
                tcp.server.kill_session(number)
            assert not {checked_out_id(engine) for _ in range(3)} & dead


class TestAlive:
    def test_an_ordinary_checkout_sends_no_ping(self, line: Line) -> None:
        with guarded_engine(line.url) as engine:
            first = checked_out_id(engine)
            pings = count_pings(engine)
            assert {checked_out_id(engine) for _ in range(20)} == {first}
            assert pings == []

    def test_pre_ping_is_one_ping_a_checkout(self, tcp: Line) -> None:
        options = {"SQLALCHEMY_ENGINE_OPTIONS": {"pool_pre_ping": True}}
        with guarded_engine(tcp.url, **options) as engine:
            first = checked_out_id(engine)
            pings = count_pings(engine)
            assert {checked_out_id(engine) for _ in range(5)} == {first}
            assert len(pings) == 5

    def test_pre_ping_is_the_pools_own_which_has_a_time_limit(self, tcp: Line) -> None:
        options = {"SQLALCHEMY_ENGINE_OPTIONS": {"pool_pre_ping": True}}
        with guarded_engine(tcp.url, **options) as engine:
            for _ in range(2):  # newly opened, and judged
                checked_out_id(engine)
                (record,) = guarded_pool(engine)._pool.idle
                assert not record.is_fit()
                assert record.fitness() == "fit"
                assert not record.is_fit()

    def test_after_a_minute_of_silence_one_ping_is_sent(self, tcp: Line) -> None:
        with guarded_engine(tcp.url) as engine:
            clock = Clock().of(engine)
            first = checked_out_id(engine)
            pings = count_pings(engine)
            clock.now += liveness.PING_AFTER + 1
            assert [checked_out_id(engine) for _ in range(3)] == [first] * 3
            assert len(pings) == 1

    def test_pings_leave_no_descriptors_open(self, tcp: Line) -> None:
        options = {"SQLALCHEMY_ENGINE_OPTIONS": {"pool_pre_ping": True}}
        with guarded_engine(tcp.url, **options) as engine:
            checked_out_id(engine)
            before = open_files()
            for _ in range(50):
                checked_out_id(engine)
            wait_until(lambda: open_files() <= before, what="closed descriptors")


def open_files() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.usefixtures("untended")
class TestSpokenTo:
    """A server that says something unasked is not dead."""

    @pytest.mark.parametrize(
        "line",
        [f"{driver} {way}" for driver in POSTGRESQL_DRIVERS for way in WAYS],
        indirect=True,
    )
    def test_notifications_do_not_end_a_listening_connection(self, line: Line) -> None:
        with guarded_engine(line.url) as engine:
            with engine.connect() as connection:
                listening = session_id(connection)
                connection.execute(sa.text("LISTEN news"))
                connection.commit()
            pings = count_pings(engine)
            for number in range(5):
                line.server.execute(
                    f"NOTIFY news, '{number}'", database=line.url.database
                )
                wait_until(lambda: has_spoken(engine), what="the notification")
                assert checked_out_id(engine) == listening
            assert len(pings) == 5
            assert [checked_out_id(engine) for _ in range(3)] == [listening] * 3
            assert len(pings) == 5

    @pytest.mark.parametrize("tcp", POSTGRESQL_DRIVERS, indirect=True)
    def test_a_reload_of_the_settings_ends_nothing(self, tcp: Line) -> None:
        with guarded_engine(tcp.url) as engine:
            first = checked_out_id(engine)
            try:
                for zone in ("Asia/Tokyo", "UTC"):
                    tcp.server.execute(f"ALTER SYSTEM SET timezone = '{zone}'")
                    tcp.server.execute("SELECT pg_reload_conf()")
                    with engine.connect() as connection:
                        # The first answer after the reload brings the news.
                        assert session_id(connection) == first
            finally:
                tcp.server.execute("ALTER SYSTEM RESET timezone")
                tcp.server.execute("SELECT pg_reload_conf()")


def has_spoken(engine: sa.Engine) -> bool:
    """Tell whether the only idle connection has something to read."""
    (record,) = guarded_pool(engine)._pool.idle
    return record.has_spoken()


def copy_of(number: int) -> socket.socket:
    """Wrap a descriptor without changing the mode that it shares with its copy."""
    default = socket.getdefaulttimeout()
    socket.setdefaulttimeout(None)
    try:
        return socket.socket(fileno=os.dup(number))
    finally:
        socket.setdefaulttimeout(default)


class TestSockets:
    def options_of(self, connection: sa.Connection) -> dict[str, int]:
        fileno = guarded_pool(connection.engine).database.fileno_of(
            connection.connection.dbapi_connection
        )
        assert fileno is not None
        found = {"blocking": int(os.get_blocking(fileno()))}
        with copy_of(fileno()) as copy:
            level, tcp = socket.SOL_SOCKET, socket.IPPROTO_TCP
            found["SO_KEEPALIVE"] = copy.getsockopt(level, socket.SO_KEEPALIVE)
            if copy.family == socket.AF_INET:
                for name in (
                    *("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"),
                    "TCP_USER_TIMEOUT",
                ):
                    found[name] = copy.getsockopt(tcp, getattr(socket, name))
        return found

    def test_the_kernel_is_told_to_probe_silent_lines(self, line: Line) -> None:
        with guarded_engine(line.url) as engine, engine.connect() as connection:
            found = self.options_of(connection)
        del found["blocking"]
        if line.way == "unix":
            # MariaDB's client sets it by itself, where it has no effect.
            assert found == {"SO_KEEPALIVE": int("mysqldb" in line.url.drivername)}
        else:
            assert found == {
                "SO_KEEPALIVE": 1,
                "TCP_KEEPIDLE": 60,
                "TCP_KEEPINTVL": 10,
                "TCP_KEEPCNT": 3,
                "TCP_USER_TIMEOUT": 90_000,
            }

    @pytest.mark.parametrize("tcp", POSTGRESQL_DRIVERS, indirect=True)
    def test_what_the_user_set_shorter_stays(self, tcp: Line) -> None:
        arguments = {
            **{"keepalives_idle": 20, "keepalives_interval": 5},
            **{"keepalives_count": 2, "tcp_user_timeout": 30_000},
        }
        options = {"connect_args": arguments}
        with (
            guarded_engine(tcp.url, SQLALCHEMY_ENGINE_OPTIONS=options) as engine,
            engine.connect() as connection,
        ):
            found = self.options_of(connection)
        assert (found["TCP_KEEPIDLE"], found["TCP_KEEPINTVL"]) == (20, 5)
        assert (found["TCP_KEEPCNT"], found["TCP_USER_TIMEOUT"]) == (2, 30_000)

    @pytest.mark.parametrize("tcp", POSTGRESQL_DRIVERS, indirect=True)
    @pytest.mark.parametrize(
        ("ours", "theirs", "found"),
        [(2, 0, 2_000), (0.0001, 0, 1), (1e6, 0, 10**9), (2, 3_000, 2_000)],
    )
    def test_how_long_nothing_may_be_acknowledged_can_be_set(
        self, tcp: Line, ours: float, theirs: int, found: int
    ) -> None:
        config = {
            "POOLGUARD_TCP_USER_TIMEOUT": ours,
            "SQLALCHEMY_ENGINE_OPTIONS": {"connect_args": {"tcp_user_timeout": theirs}},
        }
        with guarded_engine(tcp.url, **config) as engine:
            fairy = engine.raw_connection()
            fileno = guarded_pool(engine).database.fileno_of(fairy.dbapi_connection)
            assert fileno is not None
            with copy_of(fileno()) as copy:
                number = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            fairy.close()
        assert number == found

    def test_a_default_timeout_of_sockets_changes_no_mode(self, line: Line) -> None:
        with guarded_engine(line.url) as engine, engine.connect() as connection:
            before = self.options_of(connection)["blocking"]
        socket.setdefaulttimeout(20)
        try:
            with guarded_engine(line.url) as engine:
                clock = Clock().of(engine)
                with engine.connect() as connection:
                    after = self.options_of(connection)["blocking"]
                assert after == before
                clock.now += 100  # a ping, and its limit
                with engine.connect() as connection:
                    assert self.options_of(connection)["blocking"] == after
                    session_id(connection)
        finally:
            socket.setdefaulttimeout(None)
