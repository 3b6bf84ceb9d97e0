"""What no longer answers, without a word, costs a bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from flask_poolguard.engines.connect_args import read_timeout_of
from flask_poolguard.errors import DatabaseUnavailable
from tests.support.guarded_app import (
    Clock,
    checked_out_id,
    engine_of,
    guarded_engine,
    guarded_pool,
    make_app,
)
from tests.support.namespaces import DeadLine, FarProxy
from tests.support.proxy import HOST, SilentServer, TCPProxy

# Far above what the limits of these tests allow, far below what the kernel would wait.
BOUND = 15.0


@pytest.fixture
def proxy(driver_url: sa.URL) -> Iterator[TCPProxy]:
    """Give a proxy before the database."""
    with TCPProxy.before(driver_url) as proxy:
        yield proxy


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long something took."""
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


class TestIdleConnections:
    """The proxy stops to forward while a connection idles."""

    @pytest.mark.parametrize("pre_ping", [False, True])
    def test_the_ping_is_bounded_and_the_next_connect_as_well(
        self, pre_ping: bool, driver_url: sa.URL, proxy: TCPProxy
    ) -> None:
        config: dict[str, Any] = {
            "POOLGUARD_PING_TIMEOUT": 0.3,
            "POOLGUARD_CONNECT_TIMEOUT": 1,
            "POOLGUARD_CONNECT_RETRY": 0.5,
            "SQLALCHEMY_ENGINE_OPTIONS": {"pool_pre_ping": pre_ping},
        }
        with guarded_engine(driver_url.set(port=proxy.port), **config) as engine:
            clock = Clock().of(engine)
            first = checked_out_id(engine)
            proxy.drop()
            clock.now += 61

            def fail() -> None:
                with pytest.raises(DatabaseUnavailable):
                    engine.connect()

            assert seconds_of(fail) < BOUND
            proxy.resume()
            assert checked_out_id(engine) != first

    def test_a_way_that_works_again_gives_a_new_connection(
        self, driver_url: sa.URL, proxy: TCPProxy
    ) -> None:
        """A NAT gateway that forgot the connection lets new ones through."""
        config = {"POOLGUARD_PING_TIMEOUT": 0.3}
        with guarded_engine(driver_url.set(port=proxy.port), **config) as engine:
            clock = Clock().of(engine)
            first = checked_out_id(engine)
            proxy.drop()
            clock.now += 61
            began = time.monotonic()
            resumed: list[float] = []

            @sa.event.listens_for(engine, "do_connect")
            def resume(*_: object) -> None:
                proxy.resume()
                resumed.append(time.monotonic())

            assert checked_out_id(engine) != first
            assert len(resumed) == 1
            assert resumed[0] - began < BOUND


@pytest.fixture
def dead_line() -> Iterator[DeadLine]:
    """Give a line whose packets can be lost, both ways, without a word."""
    with DeadLine() as line:
        yield line


@pytest.mark.process
class TestUnacknowledged:
    """What is sent gets lost, too soon after the last use for a ping to be due."""

    def test_a_statement_fails_after_a_time_that_can_be_set(
        self, driver_url: sa.URL, dead_line: DeadLine
    ) -> None:
        config = {"POOLGUARD_TCP_USER_TIMEOUT": 2}
        with (
            FarProxy(dead_line, driver_url) as proxy,
            guarded_engine(
                driver_url.set(host=proxy.host, port=proxy.port), **config
            ) as engine,
        ):
            sa.event.listen(engine, "do_connect", dead_line.connect)
            first = checked_out_id(engine)
            dead_line.cut()

            def fail() -> None:
                with pytest.raises(sa.exc.OperationalError) as raised:
                    checked_out_id(engine)
                assert raised.value.connection_invalidated

            assert seconds_of(fail) < BOUND
            dead_line.mend()
            assert checked_out_id(engine) != first


def given_to_driver(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """Note the arguments of each of the driver's connects from now on."""
    given: list[dict[str, Any]] = []
    driver: Any = engine.dialect.loaded_dbapi
    connect = driver.connect

    def look(*arguments: Any, **keywords: Any) -> Any:
        given.append(keywords)
        return connect(*arguments, **keywords)

    monkeypatch.setattr(driver, "connect", look)
    return given


class TestConnects:
    def test_a_server_that_says_nothing_is_given_up(self, driver_url: sa.URL) -> None:
        with (
            SilentServer() as server,
            guarded_engine(
                driver_url.set(host=HOST, port=server.port),
                POOLGUARD_CONNECT_TIMEOUT=1,
                POOLGUARD_CONNECT_RETRY=0.5,
            ) as engine,
        ):

            def fail() -> None:
                with pytest.raises(DatabaseUnavailable, match="tried once"):
                    engine.connect()

            assert seconds_of(fail) < BOUND
            assert server.connections == 1

    def test_it_is_given_up_when_the_checkouts_own_time_is_up(
        self, driver_url: sa.URL
    ) -> None:
        with (
            SilentServer() as server,
            guarded_engine(
                driver_url.set(host=HOST, port=server.port),
                POOLGUARD_CONNECT_TIMEOUT=60,
                POOLGUARD_POOL_TIMEOUT=1,
            ) as engine,
        ):

            def fail() -> None:
                with pytest.raises(DatabaseUnavailable, match="tried once"):
                    engine.connect()

            assert seconds_of(fail) < BOUND

    def test_a_replacement_as_well(self, driver_url: sa.URL) -> None:
        """The pool hands a connection over, and a listener finds it unusable."""
        with (
            TCPProxy.before(driver_url) as proxy,
            guarded_engine(
                driver_url.set(port=proxy.port),
                POOLGUARD_CONNECT_TIMEOUT=60,
                POOLGUARD_POOL_TIMEOUT=1,
            ) as engine,
        ):
            checked_out_id(engine)

            @sa.event.listens_for(engine, "checkout")
            def refuse(*_: object) -> None:
                proxy.drop()
                raise sa.exc.DisconnectionError

            def fail() -> None:
                with pytest.raises(DatabaseUnavailable):
                    engine.connect()

            assert seconds_of(fail) < BOUND
            proxy.resume()

    def test_the_next_one_that_has_more_time_gets_it(
        self, driver_url: sa.URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SQLAlchemy 2.0 shares the arguments between connects."""
        with guarded_engine(driver_url, POOLGUARD_CONNECT_TIMEOUT=30) as engine:
            given = given_to_driver(engine, monkeypatch)
            for timeout in (60.0, 3.0, 60.0):
                guarded_pool(engine)._timeout = timeout
                with engine.connect() as connection:
                    connection.invalidate()
        first, second, third = (each["connect_timeout"] for each in given)
        assert first == third == 30
        assert second <= 3

    def test_without_pooling_as_well(self, driver_url: sa.URL) -> None:
        with SilentServer() as server:
            app = make_app(
                driver_url.set(host=HOST, port=server.port),
                POOLGUARD_CONNECT_TIMEOUT=1,
                POOLGUARD_POOL_CLASS="null",
            )

            def fail() -> None:
                with pytest.raises(sa.exc.OperationalError):
                    engine_of(app).connect()

            assert seconds_of(fail) < BOUND


class TestPyMySQL:
    """It is given a limit for the handshake, which is no limit for statements."""

    @pytest.fixture(params=["queue", "null"])
    def engine(
        self, request: pytest.FixtureRequest, mariadb_url: sa.URL
    ) -> Iterator[sa.Engine]:
        app = make_app(mariadb_url, POOLGUARD_POOL_CLASS=request.param)
        engine = engine_of(app)
        yield engine
        engine.dispose()

    def test_statements_may_take_their_time(self, engine: sa.Engine) -> None:
        # The second one too: SQLAlchemy 2.0 shares the arguments between connects.
        with engine.connect() as first, engine.connect() as second:
            for connection in (first, second):
                driver: Any = connection.connection.dbapi_connection
                assert driver._read_timeout is None
                assert driver._write_timeout is None
                connection.execute(sa.text("SELECT SLEEP(0.01)"))
                assert driver._sock.gettimeout() is None
                assert not [name for name in connection.info if "limit" in name]

    def test_a_connect_listener_may_take_its_time(self, mariadb_url: sa.URL) -> None:
        seen: list[object] = []
        app = make_app(mariadb_url)
        extension = app.extensions["sqlalchemy"]

        @sa.event.listens_for(extension._app_engines[app][None], "connect")
        def look(connection: Any, record: Any) -> None:
            seen.append(connection._read_timeout)

        checked_out_id(engine_of(app))
        assert seen == [None]
        engine_of(app).dispose()

    @pytest.mark.parametrize("name", ["read_timeout", "write_timeout"])
    def test_the_users_own_limit_stays(self, name: str, mariadb_url: sa.URL) -> None:
        options = {"connect_args": {name: 7}}
        with guarded_engine(mariadb_url, SQLALCHEMY_ENGINE_OPTIONS=options) as engine:
            for _ in range(2):
                with engine.connect() as connection:
                    driver: Any = connection.connection.dbapi_connection
                    limits = {
                        "read_timeout": driver._read_timeout,
                        "write_timeout": driver._write_timeout,
                    }
                    others = dict.fromkeys(limits)
                    assert limits == {**others, name: 7}
                    connection.invalidate()

    @pytest.mark.parametrize("name", ["read_timeout", "write_timeout"])
    def test_the_limit_of_a_listener_that_comes_later_stays(
        self, name: str, mariadb_url: sa.URL
    ) -> None:
        with guarded_engine(mariadb_url) as engine:

            @sa.event.listens_for(engine, "do_connect")
            def limit(_: Any, __: Any, ___: Any, keywords: dict[str, Any]) -> None:
                keywords[name] = 7

            for _ in range(2):
                with engine.connect() as connection:
                    driver: Any = connection.connection.dbapi_connection
                    limits = {
                        "read_timeout": driver._read_timeout,
                        "write_timeout": driver._write_timeout,
                    }
                    others = dict.fromkeys(limits)
                    assert limits == {**others, name: 7}
                    assert read_timeout_of(engine.dialect) == limits["read_timeout"]
                    connection.invalidate()

    def test_no_connect_timeout_leaves_everything_to_the_driver(
        self, mariadb_url: sa.URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with guarded_engine(mariadb_url, POOLGUARD_CONNECT_TIMEOUT=None) as engine:
            given = given_to_driver(engine, monkeypatch)
            checked_out_id(engine)
        assert not {"connect_timeout", "read_timeout", "write_timeout"} & set(given[0])


@pytest.mark.parametrize("driver", ["pymysql", "psycopg2", "psycopg"])
@pytest.mark.parametrize("known", [True, False])
def test_only_drivers_that_know_the_argument_are_given_it(
    known: bool,
    driver: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mysql = driver == "pymysql"
    url: sa.URL = request.getfixturevalue("mariadb_url" if mysql else "postgresql_url")
    name = f"{'mysql' if mysql else 'postgresql'}+{driver}"
    with guarded_engine(url.set(drivername=name)) as engine:
        if not known:
            engine.dialect.driver = "another"
        given = given_to_driver(engine, monkeypatch)
        checked_out_id(engine)
    assert ("connect_timeout" in given[0]) is known
