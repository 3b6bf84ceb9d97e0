"""What a statement does is told from its text."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from psycopg2 import sql
from sqlalchemy.orm import Session

from flask_poolguard import ConnectionReturned
from flask_poolguard.tracking.sql_effects import Effect, effect_of
from tests.support.side_by_side import COUNT, World, both

READS = Effect.READS
MAY_WRITE, WRITES, LOCKS = Effect.MAY_WRITE, Effect.WRITES, Effect.LOCKS


class TestEffectOf:
    @pytest.mark.parametrize(
        ("statement", "effect"),
        [
            ("SELECT 1", READS),
            ("SELECT count(*) FROM a WHERE b IN (1, 2) AND lower(c) = 'f(x)'", READS),
            ("/* who */ -- what\n ( SELECT id FROM a)", READS),
            ("WITH x AS (SELECT 1) SELECT * FROM x", READS),
            ("EXPLAIN INSERT INTO a VALUES (1)", READS),
            ("SHOW TABLES", READS),
            ("pragma foreign_keys", READS),
            ("", READS),
            ("SELECT id FROM a FOR UPDATE", MAY_WRITE),
            ("SELECT id FROM a FOR NO KEY UPDATE", MAY_WRITE),
            ("SELECT add_row(1)", MAY_WRITE),
            ("SELECT nextval('a_id_seq')", MAY_WRITE),
            ("SELECT * INTO b FROM a", MAY_WRITE),
            ("INSERT INTO a VALUES (1)", WRITES),
            ("-- why\nupdate a set b = 1", WRITES),
            ("WITH x AS (DELETE FROM a RETURNING id) SELECT * FROM x", WRITES),
            ("EXPLAIN ANALYZE INSERT INTO a VALUES (1)", WRITES),
            ("CALL add_row()", WRITES),
            ("DO $$ BEGIN END $$", WRITES),
            ("CREATE TABLE a (b int)", WRITES),
            ("LISTEN news", LOCKS | MAY_WRITE),
            ("LOCK TABLES a WRITE", LOCKS | MAY_WRITE),
            ("SELECT GET_LOCK('a', 1)", LOCKS | MAY_WRITE),
            ("SELECT pg_try_advisory_lock(1)", LOCKS | MAY_WRITE),
            ("SELECT pg_advisory_xact_lock(1)", MAY_WRITE),
        ],
    )
    def test_every_kind(self, statement: str, effect: Effect) -> None:
        assert effect_of(statement) == effect
        assert effect_of(statement) == effect  # as it was kept

    def test_long_ones_that_differ_are_not_kept(self) -> None:
        from flask_poolguard.tracking import sql_effects

        for number in range(3):
            effect_of(f"SELECT {'a, ' * 3000} {number}")
        assert (
            max(map(len, sql_effects._known), default=0) <= sql_effects._LONGEST_KNOWN
        )
        for number in range(2 * sql_effects._MOST_KNOWN):
            effect_of(f"SELECT {number}")
        assert len(sql_effects._known) <= sql_effects._MOST_KNOWN


class TestAfterTheEnd:
    """What a session that was taken back is told depends on what it did."""

    @pytest.fixture
    def function_url(self, postgresql_url: sa.URL) -> sa.URL:
        """Make a function that writes."""
        engine = sa.create_engine(postgresql_url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.execute(
                sa.text(
                    "CREATE OR REPLACE FUNCTION add_row() RETURNS void LANGUAGE plpgsql"
                    " AS $$ BEGIN INSERT INTO harm (name) VALUES ('row'); END $$"
                )
            )
        return postgresql_url

    @pytest.mark.parametrize(
        "statement", ["SELECT add_row()", "SELECT id FROM harm FOR UPDATE"]
    )
    def test_a_commit_of_what_may_have_written_raises(
        self, function_url: sa.URL, statement: str
    ) -> None:
        def program(world: World) -> object:
            with world.app.app_context():
                own = world.keep(Session(world.engine))
                own.execute(sa.text(statement))
            try:
                own.commit()
            except ConnectionReturned:
                own.rollback()
                own.commit()
                return "told"
            return "done"

        assert both(function_url, program) == ("done", "told")

    def test_a_later_request_is_not_told(self, function_url: sa.URL) -> None:
        def program(world: World) -> object:
            own = world.keep(Session(world.engine))

            @world.app.get("/<int:number>")
            def view(number: int) -> str:
                own.commit()  # as some do to see what is new
                return str(own.scalar(sa.text("SELECT txid_current() > 0")))

            return [world.client.get(f"/{each}").text for each in range(3)]

        assert both(function_url, program) == (["True"] * 3, ["True"] * 3)

    def test_a_commit_of_what_only_read_does_not_raise(
        self, function_url: sa.URL
    ) -> None:
        def program(world: World) -> object:
            with world.app.app_context():
                own = world.keep(Session(world.engine))
                own.execute(COUNT)
            own.commit()
            return "done"

        assert both(function_url, program) == ("done", "done")


@pytest.mark.parametrize("statement", [sql.SQL("SELECT 1"), b"SELECT 1"])
def test_a_statement_that_is_no_str(postgresql_url: sa.URL, statement: Any) -> None:
    def program(world: World) -> object:
        with world.app.app_context(), world.engine.connect() as connection:
            return connection.exec_driver_sql(statement).scalar()

    stock, guarded = both(postgresql_url, program)
    assert stock == guarded
