"""What a statement does is told from its text."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from psycopg2 import sql
from sqlalchemy.orm import Session

from flask_poolguard import ConnectionReturned
from flask_poolguard.tracking.sql_effects import Effect, effect_of, is_plain_read
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
            # Calls that a blank, quotes or a schema stand before.
            ("SELECT add_row (1)", MAY_WRITE),
            ("SELECT add_row\n(1)", MAY_WRITE),
            ('SELECT "addRow"(1)', MAY_WRITE),
            ("SELECT `add_row`(1)", MAY_WRITE),
            ('SELECT x."add_row"()', MAY_WRITE),
            ("SELECT audit.now()", MAY_WRITE),
            # An apostrophe that begins no text.
            ("SELECT -- the customer's\n add_row('x')", MAY_WRITE),
            ("SELECT /* don't */ add_row('x')", MAY_WRITE),
            ("SELECT \"it's\", add_row('x')", MAY_WRITE),
            ("SELECT $$it's$$, add_row('x')", MAY_WRITE),
            (r"SELECT 'it\'s', add_row('x')", MAY_WRITE),
            # What one server runs and another does not.
            ("SELECT 1 # that's\n, add_row('x')", MAY_WRITE),
            ("SELECT 1--add_row(1)", MAY_WRITE),
            ("SELECT /*! add_row(1) */ 1", MAY_WRITE),
            # Several statements.
            ("SELECT 1; DELETE FROM a", WRITES),
            ("SET LOCAL x = 1; UPDATE a SET b = 1", WRITES),
            ("BEGIN; INSERT INTO a VALUES (1); COMMIT", WRITES),
            ("BEGIN NOT ATOMIC INSERT INTO a VALUES (1); END", WRITES),
            ("SELECT 1;", READS),
            ("SELECT 'a;b'", READS),
            # Not only queries call functions.
            ("EXPLAIN ANALYZE SELECT add_row()", MAY_WRITE),
            ("EXPLAIN SELECT add_row()", READS),
            ("VALUES (add_row())", MAY_WRITE),
            ("VALUES (1), (2)", READS),
            ("SET @x = add_row()", MAY_WRITE),
            ("SET search_path = 'a'", READS),
            ("SELECT NEXT VALUE FOR s", MAY_WRITE),
            ("TABLE a INTO OUTFILE 'x'", MAY_WRITE),
            # What SQLAlchemy and people write, and only reads.
            ("SELECT a FROM b UNION (SELECT c FROM d)", READS),
            ("SELECT CASE WHEN (a) THEN (1) ELSE (2) END FROM b", READS),
            ("SELECT a FROM b WHERE a NOT IN (1) AND (c OR (d))", READS),
            ("SELECT count(*) FILTER (WHERE a) FROM b GROUP BY (c)", READS),
            ('SELECT "user".id FROM "user" WHERE "user".name = %(name)s', READS),
            ("SELECT `user`.id FROM `user` WHERE (`user`.id) = %s", READS),
        ],
    )
    def test_every_kind(self, statement: str, effect: Effect) -> None:
        assert effect_of(statement) == effect
        assert effect_of(statement) == effect  # as it was kept

    @pytest.mark.parametrize(
        ("statement", "is_plain"),
        [
            ("SELECT 1", True),
            ("select id\nFROM a WHERE b = %(b)s AND lower(c) = 'x'", True),
            ('SELECT "user".id FROM "user"', True),
            ("SELECT 1;", True),
            ("SELECT 1; SELECT 2", False),
            ("SELECT add_row(1)", False),
            ("SELECT id FROM a FOR UPDATE", False),
            ("SELECT 'it''s'", True),
            (r"SELECT '\'", False),
            ("SELECT 'open", False),
            ("WITH x AS (SELECT 1) SELECT * FROM x", False),
            ("SHOW TABLES", False),
            ("(SELECT 1)", False),
            ("SELECTED", False),
            (f"SELECT {'a, ' * 2000} add_row(1)", False),
        ],
    )
    def test_a_plain_read(self, statement: str, is_plain: bool) -> None:
        assert is_plain_read(statement) is is_plain

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
