"""Recycling by what the server itself says, on real servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pymysql.cursors
import pytest
import sqlalchemy as sa
from pymysql.constants import COMMAND
from sqlalchemy import event

from flask_poolguard.pool import GuardedPool, Recycle
from tests.conftest import Database
from tests.support.drivers import MYSQL_AND_MARIADB_DRIVERS, POSTGRESQL_DRIVERS
from tests.support.guarded_app import (
    Clock,
    checked_out_id,
    engine_of,
    guarded_engine,
    guarded_pool,
    make_app,
    session_id,
    warnings_of,
)
from tests.support.mysql_peer import MySQLPeer
from tests.support.servers import DatabaseServer
from tests.support.transactions import innodb_transactions
from tests.support.waiting import wait_until

pytestmark = pytest.mark.every_product

SetGlobal = Callable[[str, int], None]


@pytest.fixture
def set_global(own_server: None, mariadb: DatabaseServer) -> Iterator[SetGlobal]:
    """Return a function that sets a variable for sessions to come."""
    before: dict[str, Any] = {}

    def set_global(name: str, value: int) -> None:
        ((old,),) = mariadb.query(f"SELECT @@global.{name}")
        before.setdefault(name, old)
        mariadb.execute(f"SET GLOBAL {name} = {value}")

    yield set_global
    for name, value in before.items():
        mariadb.execute(f"SET GLOBAL {name} = {value}")


def limit_database(server: DatabaseServer, url: sa.URL, limit: str) -> None:
    """Give new sessions in one database of PostgreSQL an idle limit."""
    server.execute(
        f"ALTER DATABASE {url.database} SET idle_session_timeout = '{limit}'"
    )


def recycle_of(engine: sa.Engine) -> Recycle:
    """Return what the pool shows once it has connected."""
    with engine.connect():
        return guarded_pool(engine).limits.recycle


class TestMariaDB:
    def test_a_limit_of_600_s_gives_500_s(
        self, mariadb_url: sa.URL, set_global: SetGlobal
    ) -> None:
        set_global("wait_timeout", 600)
        with guarded_engine(mariadb_url) as engine:
            assert recycle_of(engine) == Recycle(500, "wait_timeout 600 s × 5/6")

    @pytest.mark.parametrize("limit", [1, 2, 10, 30, 31_536_000])
    def test_a_connection_in_use_is_kept_whatever_the_limit(
        self, limit: int, mariadb_url: sa.URL, set_global: SetGlobal
    ) -> None:
        set_global("wait_timeout", limit)
        with guarded_engine(mariadb_url) as engine:
            derived = recycle_of(engine).seconds
            assert derived is not None
            assert 0 < derived < limit
            assert len({checked_out_id(engine) for _ in range(20)}) == 1

    @pytest.mark.parametrize("drivername", MYSQL_AND_MARIADB_DRIVERS)
    def test_every_driver_is_asked_for_its_sessions_limit(
        self, drivername: str, mariadb_url: sa.URL, set_global: SetGlobal
    ) -> None:
        set_global("wait_timeout", 600)
        with guarded_engine(mariadb_url.set(drivername=drivername)) as engine:
            assert recycle_of(engine).seconds == 500

    @pytest.mark.parametrize("drivername", MYSQL_AND_MARIADB_DRIVERS)
    def test_no_connection_that_the_server_closed_is_handed_out(
        self,
        drivername: str,
        mariadb: DatabaseServer,
        mariadb_url: sa.URL,
        set_global: SetGlobal,
    ) -> None:
        set_global("wait_timeout", 1)
        with guarded_engine(mariadb_url.set(drivername=drivername)) as engine:
            with engine.connect() as first, engine.connect() as second:
                ids = {session_id(first), session_id(second)}
            wait_until(lambda: not ids & mariadb.session_ids(), what="the timeout")
            assert checked_out_id(engine) not in ids
            assert checked_out_id(engine) not in ids

    def test_an_init_command_counts(self, mariadb_url: sa.URL) -> None:
        options = {"connect_args": {"init_command": "SET SESSION wait_timeout=60"}}
        with guarded_engine(mariadb_url, SQLALCHEMY_ENGINE_OPTIONS=options) as engine:
            assert recycle_of(engine).seconds == 50

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_connect_listener_counts_before_and_after_the_guard(
        self, when: str, mariadb_url: sa.URL
    ) -> None:
        app = make_app(mariadb_url)

        def shorten(connection: Any, record: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET SESSION wait_timeout=60")

        if when == "before":
            # As of now the engine has the pool that Flask-SQLAlchemy gave it.
            extension = app.extensions["sqlalchemy"]
            event.listen(extension._app_engines[app][None], "connect", shorten)
        engine = engine_of(app)
        if when == "after":
            event.listen(engine, "connect", shorten)
        assert recycle_of(engine).seconds == 50
        engine.dispose()

    @pytest.mark.parametrize(("first", "then"), [(600, 60), (60, 600)])
    def test_connections_are_judged_by_the_limit_that_they_were_opened_with(
        self, first: int, then: int, mariadb_url: sa.URL, set_global: SetGlobal
    ) -> None:
        set_global("wait_timeout", first)
        with guarded_engine(mariadb_url) as engine:
            clock = Clock().of(engine)
            with engine.connect() as old:
                set_global("wait_timeout", then)
                with engine.connect() as new:
                    ids = {first: session_id(old), then: session_id(new)}
            assert guarded_pool(engine).limits.recycle.seconds == then * 5 / 6
            clock.now += 100
            with engine.connect() as one, engine.connect() as other:
                found = {session_id(one), session_id(other)}
            assert ids[600] in found
            assert ids[60] not in found

    def test_an_interactive_client_has_the_interactive_timeout(
        self, mariadb_url: sa.URL, set_global: SetGlobal
    ) -> None:
        set_global("interactive_timeout", 120)
        options = {"connect_args": {"client_flag": 1024}}
        with guarded_engine(mariadb_url, SQLALCHEMY_ENGINE_OPTIONS=options) as engine:
            recycle = recycle_of(engine)
            assert recycle.seconds == 100
            assert "interactive_timeout" in recycle.source

    def test_the_probe_opens_no_transaction(
        self, mariadb: DatabaseServer, mariadb_url: sa.URL
    ) -> None:
        with guarded_engine(mariadb_url) as engine:
            fairy = engine.raw_connection()
            assert innodb_transactions(mariadb, fairy.thread_id()) == 0
            fairy.close()

    def test_the_probe_ends_no_transaction_of_a_connect_listener(
        self, mariadb: DatabaseServer, mariadb_url: sa.URL
    ) -> None:
        mariadb.execute(
            "CREATE TABLE settings (id INT) ENGINE=InnoDB",
            database=mariadb_url.database,
        )

        def begin(connection: Any, record: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("INSERT INTO settings VALUES (1)")

        with guarded_engine(mariadb_url) as engine:
            # The first connection's is ended by SQLAlchemy itself.
            with engine.connect():
                pass
            engine.dispose()
            event.listen(engine, "connect", begin)
            fairy = engine.raw_connection()
            assert innodb_transactions(mariadb, fairy.thread_id()) == 1
            fairy.close()


class TestMySQL:
    def test_the_peer_ends_idle_sessions_as_mysql_does(self) -> None:
        with MySQLPeer(wait_timeout=1) as peer:
            engine = sa.create_engine(peer.url)
            checked_out_id(engine)
            assert peer.timed_out.wait(10)
            with pytest.raises(sa.exc.OperationalError, match=r"\(4031|\(2013"):
                checked_out_id(engine)
            engine.dispose()

    def test_a_session_that_was_ended_for_inactivity_is_not_handed_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Or the housekeeper ends it first.
        monkeypatch.setattr(GuardedPool, "tend", lambda self: None)
        with MySQLPeer(wait_timeout=1) as peer, guarded_engine(peer.url) as engine:
            first = checked_out_id(engine)
            assert peer.timed_out.wait(10)
            assert checked_out_id(engine) == first + 1

    def test_the_sessions_own_limit_was_asked_for(self) -> None:
        with MySQLPeer(wait_timeout=60) as peer, guarded_engine(peer.url) as engine:
            assert recycle_of(engine).seconds == 50
            assert peer.statements.count("SELECT @@session.wait_timeout") == 1


class TestPostgreSQL:
    @pytest.mark.parametrize("drivername", POSTGRESQL_DRIVERS)
    def test_a_limit_of_600_s_gives_500_s(
        self, drivername: str, postgresql: DatabaseServer, postgresql_url: sa.URL
    ) -> None:
        limit_database(postgresql, postgresql_url, "10min")
        with guarded_engine(postgresql_url.set(drivername=drivername)) as engine:
            assert recycle_of(engine) == Recycle(
                500, "idle_session_timeout 600 s × 5/6"
            )

    def test_the_limit_of_the_role_counts(
        self, postgresql: DatabaseServer, postgresql_url: sa.URL
    ) -> None:
        limit_database(postgresql, postgresql_url, "10min")
        postgresql.execute(
            f"ALTER ROLE app IN DATABASE {postgresql_url.database}"
            " SET idle_session_timeout = '60s'"
        )
        with guarded_engine(postgresql_url) as engine:
            assert recycle_of(engine).seconds == 50

    @pytest.mark.parametrize("drivername", POSTGRESQL_DRIVERS)
    def test_a_connect_listener_counts(
        self, drivername: str, postgresql_url: sa.URL
    ) -> None:
        def shorten(connection: Any, record: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET idle_session_timeout = '60s'")
            connection.commit()

        with guarded_engine(postgresql_url.set(drivername=drivername)) as engine:
            event.listen(engine, "connect", shorten)
            assert recycle_of(engine).seconds == 50

    def test_zero_is_no_limit(self, postgresql_url: sa.URL) -> None:
        with guarded_engine(postgresql_url) as engine:
            assert recycle_of(engine) == Recycle(
                None, "idle_session_timeout is 0: no limit"
            )

    @pytest.mark.parametrize("drivername", POSTGRESQL_DRIVERS)
    def test_a_server_without_the_setting_has_no_limit_and_no_warning(
        self,
        drivername: str,
        postgresql13: DatabaseServer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        name = postgresql13.create_database()
        url = postgresql13.url(database=name, drivername=drivername)
        with guarded_engine(url) as engine:
            recycle = recycle_of(engine)
            assert recycle.seconds is None
            assert "older than PostgreSQL 14" in recycle.source
        postgresql13.drop_database(name)
        assert warnings_of(caplog) == []

    @pytest.mark.parametrize("drivername", POSTGRESQL_DRIVERS)
    def test_no_connection_that_the_server_closed_is_handed_out(
        self, drivername: str, postgresql: DatabaseServer, postgresql_url: sa.URL
    ) -> None:
        limit_database(postgresql, postgresql_url, "1s")
        with guarded_engine(postgresql_url.set(drivername=drivername)) as engine:
            with engine.connect() as first, engine.connect() as second:
                ids = {session_id(first), session_id(second)}
            wait_until(lambda: not ids & postgresql.session_ids(), what="the timeout")
            assert checked_out_id(engine) not in ids
            assert checked_out_id(engine) not in ids

    @pytest.mark.parametrize("drivername", POSTGRESQL_DRIVERS)
    @pytest.mark.parametrize("level", [None, "AUTOCOMMIT", "REPEATABLE READ"])
    def test_the_probe_opens_no_transaction_and_changes_no_mode(
        self,
        level: str | None,
        drivername: str,
        postgresql: DatabaseServer,
        postgresql_url: sa.URL,
    ) -> None:
        options = {"isolation_level": level} if level else {}
        url = postgresql_url.set(drivername=drivername)
        with (
            guarded_engine(url, SQLALCHEMY_ENGINE_OPTIONS=options) as engine,
            # The first connection is also looked at by SQLAlchemy.
            engine.connect(),
            engine.connect() as second,
        ):
            driver: Any = second.connection.dbapi_connection
            assert state(postgresql, driver.info.backend_pid) == "idle"
            assert driver.autocommit == (level == "AUTOCOMMIT")
            if level == "REPEATABLE READ":
                shown = second.scalar(sa.text("SHOW transaction_isolation"))
                assert shown == "repeatable read"

    @pytest.mark.parametrize("drivername", POSTGRESQL_DRIVERS)
    def test_the_probe_ends_no_transaction_of_a_connect_listener(
        self,
        drivername: str,
        postgresql: DatabaseServer,
        postgresql_url: sa.URL,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        limit_database(postgresql, postgresql_url, "10min")

        def begin(connection: Any, record: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL application_name = 'within'")

        with guarded_engine(postgresql_url.set(drivername=drivername)) as engine:
            with engine.connect():
                pass
            engine.dispose()
            event.listen(engine, "connect", begin)
            fairy = engine.raw_connection()
            driver: Any = fairy.dbapi_connection
            pid = driver.info.backend_pid
            assert state(postgresql, pid) == "idle in transaction"
            with driver.cursor() as cursor:
                cursor.execute("SHOW application_name")
                assert cursor.fetchone()[0] == "within"
            assert guarded_pool(engine).limits.recycle.seconds == 500
            fairy.close()
        assert warnings_of(caplog) == []


def state(server: DatabaseServer, pid: int) -> str:
    """Return what PostgreSQL says that a session is doing."""
    ((found,),) = server.query(f"SELECT state FROM pg_stat_activity WHERE pid = {pid}")
    return str(found)


class TestSQLite:
    def test_there_is_no_limit_and_it_says_so(self, sqlite_url: sa.URL) -> None:
        with guarded_engine(sqlite_url) as engine:
            assert recycle_of(engine) == Recycle(None, "SQLite has no idle limit")
            assert guarded_pool(engine)._recycle == -1


class TestShown:
    def test_before_the_first_connection_nothing_is_known(
        self, mariadb_url: sa.URL
    ) -> None:
        with guarded_engine(mariadb_url) as engine:
            recycle = guarded_pool(engine).limits.recycle
            assert recycle.seconds is None
            assert "not known before the first connection" in recycle.source
            assert guarded_pool(engine)._recycle == -1

    def test_sqlalchemys_own_attribute_shows_the_derived_value(
        self, mariadb_url: sa.URL, set_global: SetGlobal
    ) -> None:
        set_global("wait_timeout", 600)
        with guarded_engine(mariadb_url) as engine:
            recycle_of(engine)
            assert guarded_pool(engine)._recycle == 500

    def test_it_outlives_the_disposal_of_the_engine(
        self, mariadb_url: sa.URL, set_global: SetGlobal
    ) -> None:
        set_global("wait_timeout", 600)
        with guarded_engine(mariadb_url) as engine:
            recycle_of(engine)
            engine.dispose()
            assert guarded_pool(engine).limits.recycle.seconds == 500


class TestIdleTime:
    def test_jitter_only_shortens_and_by_a_tenth_at_most(
        self, mariadb_url: sa.URL, set_global: SetGlobal
    ) -> None:
        set_global("wait_timeout", 600)
        with guarded_engine(mariadb_url) as engine:
            clock = Clock().of(engine)
            first = checked_out_id(engine)
            clock.now += 449
            assert checked_out_id(engine) == first
            clock.now += 500
            assert checked_out_id(engine) != first

    def test_only_idle_time_counts_and_not_age(
        self, mariadb_url: sa.URL, set_global: SetGlobal
    ) -> None:
        set_global("wait_timeout", 600)
        with guarded_engine(mariadb_url) as engine:
            clock = Clock().of(engine)
            ids = set()
            for _ in range(20):
                ids.add(checked_out_id(engine))
                clock.now += 400
            assert len(ids) == 1

    def test_a_connection_that_nobody_used_is_tried_before_it_is_handed_out(
        self, mariadb: DatabaseServer, mariadb_url: sa.URL, set_global: SetGlobal
    ) -> None:
        set_global("wait_timeout", 600)
        # Without a rollback on return the server hears nothing of a checkout.
        options = {"pool_reset_on_return": None}
        with guarded_engine(mariadb_url, SQLALCHEMY_ENGINE_OPTIONS=options) as engine:
            clock = Clock().of(engine)
            first = checked_out_id(engine)
            for _ in range(2):
                clock.now += 200
                engine.raw_connection().close()
            mariadb.kill_session(first)
            clock.now += 200
            assert checked_out_id(engine) != first

    def test_half_a_minute_of_idling_costs_no_ping(self, mariadb_url: sa.URL) -> None:
        with guarded_engine(mariadb_url) as engine:
            pings = count_pings(engine)
            clock = Clock().of(engine)
            first = checked_out_id(engine)
            clock.now += 30
            assert checked_out_id(engine) == first
            assert pings == []

    def test_it_is_tried_once_per_limit(
        self, mariadb_url: sa.URL, set_global: SetGlobal
    ) -> None:
        set_global("wait_timeout", 600)
        with guarded_engine(mariadb_url) as engine:
            pings = count_pings(engine)
            clock = Clock().of(engine)
            ids = set()
            for _ in range(60):
                ids.add(checked_out_id(engine))
                clock.now += 50
            assert len(ids) == 1
            assert len(pings) in (5, 6)

    def test_with_pre_ping_it_is_not_tried_twice(
        self, mariadb_url: sa.URL, set_global: SetGlobal
    ) -> None:
        set_global("wait_timeout", 600)
        options = {"pool_pre_ping": True}
        with guarded_engine(mariadb_url, SQLALCHEMY_ENGINE_OPTIONS=options) as engine:
            pings = count_pings(engine)
            clock = Clock().of(engine)
            for _ in range(21):
                checked_out_id(engine)
                clock.now += 100
            assert len(pings) == 20

    def test_a_real_server_never_gets_ahead_of_it(
        self, mariadb: DatabaseServer, mariadb_url: sa.URL, set_global: SetGlobal
    ) -> None:
        set_global("wait_timeout", 1)
        options = {"pool_reset_on_return": None}
        pause = threading.Event()
        with guarded_engine(mariadb_url, SQLALCHEMY_ENGINE_OPTIONS=options) as engine:
            for _ in range(50):
                engine.raw_connection().close()
                pause.wait(0.05)
            checked_out_id(engine)


def count_pings(engine: sa.Engine) -> list[int]:
    """Note each ping that connections made from now on send."""
    pings: list[int] = []

    class Connection(pymysql.connections.Connection):
        def ping(self, reconnect: Any = None) -> None:
            pings.append(1)
            super().ping(reconnect=False)

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, args: Any, kwargs: Any) -> Any:
        return Connection(*args, **kwargs)

    return pings


class TestKnownLimit:
    def test_the_smaller_of_it_and_the_servers_counts(
        self, mariadb_url: sa.URL, set_global: SetGlobal
    ) -> None:
        set_global("wait_timeout", 600)
        with guarded_engine(mariadb_url, POOLGUARD_IDLE_LIMIT=60) as engine:
            assert recycle_of(engine) == Recycle(50, "POOLGUARD_IDLE_LIMIT 60 s × 5/6")
        with guarded_engine(mariadb_url, POOLGUARD_IDLE_LIMIT=6000) as engine:
            assert recycle_of(engine) == Recycle(500, "wait_timeout 600 s × 5/6")

    def test_it_counts_where_the_server_has_no_limit(
        self, postgresql_url: sa.URL
    ) -> None:
        with guarded_engine(postgresql_url, POOLGUARD_IDLE_LIMIT=350) as engine:
            assert recycle_of(engine).seconds == 350 * 5 / 6

    def test_connections_beyond_it_are_replaced(self, postgresql_url: sa.URL) -> None:
        with guarded_engine(postgresql_url, POOLGUARD_IDLE_LIMIT=350) as engine:
            clock = Clock().of(engine)
            first = checked_out_id(engine)
            clock.now += 340
            assert checked_out_id(engine) != first


OWN_VALUES = [
    ({"POOLGUARD_POOL_RECYCLE": 7200}, "POOLGUARD_POOL_RECYCLE"),
    (
        {"SQLALCHEMY_ENGINE_OPTIONS": {"pool_recycle": 7200}},
        "SQLALCHEMY_ENGINE_OPTIONS['pool_recycle']",
    ),
    (
        {"POOLGUARD_BINDS": {"default": {"pool_recycle": 7200}}},
        "POOLGUARD_BINDS['default']['pool_recycle']",
    ),
]


class TestOwnValue:
    @pytest.mark.parametrize(("config", "origin"), OWN_VALUES)
    def test_it_stays_and_says_who_set_it(
        self, config: dict[str, Any], origin: str, mariadb_url: sa.URL
    ) -> None:
        with guarded_engine(mariadb_url, **config) as engine:
            assert recycle_of(engine) == Recycle(7200, f"{origin} = 7200")
            assert guarded_pool(engine)._recycle == 7200

    def test_minus_one_is_never(
        self, mariadb_url: sa.URL, caplog: pytest.LogCaptureFixture
    ) -> None:
        with guarded_engine(mariadb_url, POOLGUARD_POOL_RECYCLE=-1) as engine:
            assert recycle_of(engine).seconds is None
            assert guarded_pool(engine)._recycle == -1
        assert warnings_of(caplog) == []

    def test_the_fixed_7200_s_of_flask_sqlalchemy_is_not_the_users(
        self, mariadb_url: sa.URL
    ) -> None:
        app = make_app(mariadb_url)
        stock = app.extensions["sqlalchemy"]._app_engines[app][None].pool
        assert stock._recycle == 7200
        engine = engine_of(app)
        assert recycle_of(engine).source == "wait_timeout 28800 s × 5/6"
        engine.dispose()

    def test_it_goes_by_age_as_in_sqlalchemy(self, mariadb_url: sa.URL) -> None:
        with guarded_engine(mariadb_url, POOLGUARD_POOL_RECYCLE=0.05) as engine:
            first = checked_out_id(engine)
            wait_until(lambda: checked_out_id(engine) != first, what="a new one")

    @pytest.mark.parametrize("value", [7200, -1])
    def test_a_connection_that_the_server_closed_is_still_not_handed_out(
        self,
        value: int,
        mariadb: DatabaseServer,
        mariadb_url: sa.URL,
        set_global: SetGlobal,
    ) -> None:
        set_global("wait_timeout", 1)
        with guarded_engine(mariadb_url, POOLGUARD_POOL_RECYCLE=value) as engine:
            first = checked_out_id(engine)
            wait_until(lambda: first not in mariadb.session_ids(), what="the timeout")
            assert checked_out_id(engine) != first

    @pytest.mark.parametrize(("config", "origin"), OWN_VALUES)
    def test_a_server_that_contradicts_it_is_warned_of_once_with_both_numbers(
        self,
        config: dict[str, Any],
        origin: str,
        mariadb_url: sa.URL,
        set_global: SetGlobal,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        set_global("wait_timeout", 600)
        with guarded_engine(mariadb_url, **config) as engine:
            with engine.connect(), engine.connect(), engine.connect():
                pass
            engine.dispose()
            checked_out_id(engine)
        (warning,) = warnings_of(caplog)
        assert f"{origin} = 7200 s of bind 'default'" in warning
        assert "600 s" in warning

    def test_threads_that_connect_at_once_warn_once(
        self,
        mariadb_url: sa.URL,
        set_global: SetGlobal,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        set_global("wait_timeout", 600)
        barrier = threading.Barrier(8)
        with guarded_engine(mariadb_url, POOLGUARD_POOL_RECYCLE=600) as engine:

            def connect() -> None:
                barrier.wait()
                with engine.connect():
                    barrier.wait()

            threads = [threading.Thread(target=connect) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(warnings_of(caplog)) == 1

    def test_a_value_below_the_limit_is_not_warned_of(
        self,
        mariadb_url: sa.URL,
        set_global: SetGlobal,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        set_global("wait_timeout", 600)
        with guarded_engine(mariadb_url, POOLGUARD_POOL_RECYCLE=599) as engine:
            recycle_of(engine)
        assert warnings_of(caplog) == []


class ForgetfulCursor(pymysql.cursors.Cursor):
    """Asks the server for a variable that it does not have."""

    def execute(self, query: str, args: Any = None) -> int:
        return super().execute(query.replace("wait_timeout", "no_such_thing"), args)


class InterruptedCursor(pymysql.cursors.Cursor):
    """Is interrupted while the server's answer is on its way, until told to stop."""

    active = True

    def execute(self, query: str, args: Any = None) -> int:
        if "wait_timeout" in query and InterruptedCursor.active:
            self.connection._execute_command(COMMAND.COM_QUERY, query)  # type: ignore[attr-defined] # sends without reading
            raise KeyboardInterrupt
        return super().execute(query, args)


class TestFailingProbe:
    def test_an_unknown_variable_leaves_the_pool_working_with_one_warning(
        self, mariadb_url: sa.URL, caplog: pytest.LogCaptureFixture
    ) -> None:
        options = {"connect_args": {"cursorclass": ForgetfulCursor}}
        with guarded_engine(mariadb_url, SQLALCHEMY_ENGINE_OPTIONS=options) as engine:
            with engine.connect() as first, engine.connect() as second:
                assert session_id(first) != session_id(second)
            engine.dispose()
            recycle = recycle_of(engine)
        assert recycle.seconds is None
        assert "Unknown system variable" in recycle.source
        (warning,) = warnings_of(caplog)
        assert "The idle limit of default is unknown" in warning
        assert "Unknown system variable" in warning
        assert "POOLGUARD_IDLE_LIMIT" in warning

    def test_the_known_limit_counts_then(self, mariadb_url: sa.URL) -> None:
        options = {"connect_args": {"cursorclass": ForgetfulCursor}}
        with guarded_engine(
            mariadb_url, SQLALCHEMY_ENGINE_OPTIONS=options, POOLGUARD_IDLE_LIMIT=60
        ) as engine:
            assert recycle_of(engine).seconds == 50

    @pytest.mark.parametrize("drivername", POSTGRESQL_DRIVERS)
    def test_a_refused_query_leaves_no_failed_transaction(
        self,
        drivername: str,
        postgresql: DatabaseServer,
        postgresql_url: sa.URL,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        postgresql.execute(
            "REVOKE SELECT ON pg_catalog.pg_settings FROM PUBLIC",
            database=postgresql_url.database,
        )
        with guarded_engine(postgresql_url.set(drivername=drivername)) as engine:
            fairy = engine.raw_connection()
            driver: Any = fairy.dbapi_connection
            assert state(postgresql, driver.info.backend_pid) == "idle"
            fairy.close()
            checked_out_id(engine)
        assert len(warnings_of(caplog)) == 1

    def test_an_interrupted_probe_costs_neither_the_slot_nor_the_next_one_its_answer(
        self,
        mariadb: DatabaseServer,
        mariadb_url: sa.URL,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        options = {"connect_args": {"cursorclass": InterruptedCursor}}
        with guarded_engine(
            mariadb_url,
            SQLALCHEMY_ENGINE_OPTIONS=options,
            POOLGUARD_POOL_SIZE=1,
            POOLGUARD_MAX_OVERFLOW=0,
            POOLGUARD_POOL_TIMEOUT=0,
        ) as engine:
            for _ in range(3):
                with pytest.raises(KeyboardInterrupt):
                    engine.connect()
            monkeypatch.setattr(InterruptedCursor, "active", False)
            with engine.connect() as connection:
                assert connection.scalar(sa.text("SELECT 'mine'")) == "mine"
                (left,) = mariadb.session_ids(database=mariadb_url.database)
                assert left == session_id(connection)

    def test_an_interrupted_ping_costs_neither_the_slot_nor_the_next_one_its_answer(
        self, mariadb_url: sa.URL, set_global: SetGlobal
    ) -> None:
        set_global("wait_timeout", 600)
        interrupts = [True]

        class Connection(pymysql.connections.Connection):
            def ping(self, reconnect: Any = None) -> None:
                if interrupts:
                    interrupts.pop()
                    self._execute_command(COMMAND.COM_PING, "")  # type: ignore[attr-defined] # sends without reading
                    raise KeyboardInterrupt
                super().ping(reconnect=False)

        with guarded_engine(
            mariadb_url,
            POOLGUARD_POOL_SIZE=1,
            POOLGUARD_MAX_OVERFLOW=0,
            POOLGUARD_POOL_TIMEOUT=0,
        ) as engine:
            event.listen(
                engine,
                "do_connect",
                lambda dialect, record, args, kwargs: Connection(*args, **kwargs),
            )
            clock = Clock().of(engine)
            first = checked_out_id(engine)
            clock.now += 300
            with pytest.raises(KeyboardInterrupt):
                engine.connect()
            with engine.connect() as connection:
                assert connection.scalar(sa.text("SELECT 'mine'")) == "mine"
                assert session_id(connection) != first

    def test_a_connection_that_dies_during_the_probe_is_an_error_of_the_database(
        self, mariadb: DatabaseServer, mariadb_url: sa.URL
    ) -> None:
        def kill(connection: Any, record: Any) -> None:
            mariadb.kill_session(connection.thread_id())

        with guarded_engine(mariadb_url) as engine:
            checked_out_id(engine)
            engine.dispose()
            event.listen(engine, "connect", kill)
            with pytest.raises(sa.exc.OperationalError):
                engine.connect()
            event.remove(engine, "connect", kill)
            checked_out_id(engine)


class TestEveryProduct:
    def test_a_connection_is_asked_once(self, database: Database) -> None:
        with guarded_engine(database.url) as engine:
            asked = []
            pool = guarded_pool(engine)
            real = pool.database

            class Counting:
                def __getattr__(self, name: str) -> Any:
                    if name == "idle_limit":
                        asked.append(name)
                    return getattr(real, name)

            counting: Any = Counting()
            pool.database = counting
            for _ in range(5):
                with engine.connect() as connection:
                    connection.execute(sa.text("SELECT 1"))
            assert asked == ["idle_limit"]
