"""Errors that mean that a connection, or all of them, lead to the wrong place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from flask_poolguard.engines import driver_errors
from tests.conftest import Database
from tests.server.test_databases_read_only import WRITE, make_table
from tests.support.guarded_app import checked_out_id, guarded_engine, session_id
from tests.support.waiting import wait_until

pytestmark = pytest.mark.every_product


@pytest.fixture
def table(own_server: None, served_database: Database) -> Iterator[Database]:
    """Return a database with a table, on a server that is left writable."""
    make_table(served_database.url)
    yield served_database
    set_read_only(served_database, False)


def set_read_only(database: Database, on: bool) -> None:
    """Let the server refuse to write, as a primary that was demoted."""
    server = database.running_server
    if database.url.get_backend_name() == "mysql":
        server.execute(f"SET GLOBAL read_only = {int(on)}")
        return
    value = "on" if on else "off"
    server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    server.execute("SELECT pg_reload_conf()")
    shown = "SHOW default_transaction_read_only"
    wait_until(lambda: server.query(shown) == [(value,)], what="the reload")


def idle_ids(engine: sa.Engine, count: int = 3) -> set[int]:
    """Take several connections at once; return the numbers of their sessions."""
    held = [engine.connect() for _ in range(count)]
    ids = {session_id(each) for each in held}
    for each in held:
        each.close()
    return ids


def write(engine: sa.Engine) -> None:
    """Write a row."""
    with engine.begin() as connection:
        connection.exec_driver_sql(WRITE)


class TestReadOnlyServers:
    def test_its_connections_are_retired(self, table: Database) -> None:
        with guarded_engine(table.url) as engine:
            old = idle_ids(engine)
            set_read_only(table, True)
            wait_until(lambda: refused(engine), what="the refusal")
            set_read_only(table, False)
            assert not idle_ids(engine) & old
            write(engine)

    def test_at_most_once_in_a_while(
        self, table: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with guarded_engine(table.url) as engine:
            checked_out_id(engine)
            set_read_only(table, True)
            wait_until(lambda: refused(engine), what="the refusal")
            kept = checked_out_id(engine)
            for _ in range(5):
                assert refused(engine)
            assert checked_out_id(engine) == kept
            monkeypatch.setattr(driver_errors, "_BETWEEN_RETIREMENTS", 0.0)
            assert refused(engine)
            assert checked_out_id(engine) != kept

    def test_a_session_that_wants_to_read_only_is_left_alone(
        self, table: Database
    ) -> None:
        mysql = table.url.get_backend_name() == "mysql"
        with guarded_engine(table.url) as engine:
            kept = checked_out_id(engine)
            with engine.connect() as connection:
                if mysql:
                    connection.exec_driver_sql("START TRANSACTION READ ONLY")
                else:
                    connection = connection.execution_options(postgresql_readonly=True)
                with pytest.raises(sa.exc.DBAPIError) as caught:
                    connection.exec_driver_sql(WRITE)
                assert not caught.value.connection_invalidated
            assert checked_out_id(engine) == kept
            write(engine)


def refused(engine: sa.Engine) -> bool:
    """Tell whether a write is refused now."""
    try:
        write(engine)
    except sa.exc.DBAPIError:
        return True
    return False


class TestOutOfStep:
    """PyMySQL finds an answer that belongs to another question."""

    def test_only_that_connection_is_dropped(self, mariadb_url: sa.URL) -> None:
        with guarded_engine(mariadb_url) as engine:
            with engine.connect() as other, engine.connect() as spoilt:
                kept, dropped = session_id(other), session_id(spoilt)
                driver: Any = spoilt.connection.dbapi_connection
                receive = driver._read_bytes

                def garble(size: int) -> bytes:
                    data: bytes = receive(size)
                    return data[:3] + b"\x63" if size == 4 else data

                driver._read_bytes = garble
                with pytest.raises(
                    sa.exc.DBAPIError, match="sequence number"
                ) as caught:
                    spoilt.execute(sa.text("SELECT 1"))
                assert caught.value.connection_invalidated
            found = idle_ids(engine, 2)
            assert kept in found
            assert dropped not in found


class TestLost:
    def test_a_session_that_was_killed_while_in_use_is_dropped(
        self, served_database: Database
    ) -> None:
        with guarded_engine(served_database.url) as engine:
            with engine.connect() as connection:
                lost = session_id(connection)
                served_database.running_server.kill_session(lost)
                with pytest.raises(sa.exc.DBAPIError) as caught:
                    session_id(connection)
                assert caught.value.connection_invalidated
            assert checked_out_id(engine) != lost
