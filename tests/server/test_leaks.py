"""What is done about a connection that was forgotten, and what is said of it."""

from __future__ import annotations

import gc
import logging
import re
import threading
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import pymysql
import pymysql.cursors
import pytest
import sqlalchemy.exc
from click.globals import pop_context
from flask import Blueprint
from sqlalchemy import Connection, RootTransaction, create_engine, event, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, PoolProxiedConnection

import flask_poolguard
from flask_poolguard import (
    ConnectionReturned,
    Leak,
    LeakError,
    LeakWarning,
    connection_leaked,
)
from flask_poolguard.tracking import leak_warnings
from flask_poolguard.tracking.callsite import CallSite, TakenAs
from flask_poolguard.tracking.dead_threads import give_back_deserted
from tests.conftest import Database
from tests.support.shop import (
    WAYS,
    Shop,
    Step,
    Witness,
    first_of,
    raises,
    take_connection,
    take_db_session,
    take_other_bind,
    take_session,
)
from tests.support.waiting import wait_until

LOGGER = "flask_poolguard"
COUNT = text("SELECT COUNT(*) FROM item")
# What a file's line looks like that ends a message's first half.
SITE = re.compile(r"tests/support/shop\.py:(\d+)")


@pytest.fixture
def shop(sqlite_url: Any) -> Iterator[Shop]:
    """Run an app on SQLite: what is said does not depend on the product."""
    with Shop(sqlite_url) as shop:
        yield shop


def misuse_view(shop: Shop, *takes: Step) -> None:
    """Serve `/misuse`, which gives nothing back."""

    @shop.route
    def misuse() -> str:
        for take in takes:
            take(shop)
        return "taken"


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the guard warned of."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == LOGGER and record.levelno == logging.WARNING
    ]


class TestWhatIsLogged:
    def test_one_line_names_the_endpoint_the_line_the_time_and_the_remedy(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        misuse_view(shop, take_connection)
        shop.client.get("/misuse")
        (message,) = warnings_in(caplog)
        found = re.fullmatch(
            r"misuse did not give back a connection of bind 'default' that it took at"
            r" (\S+:\d+) \d+\.\d{3} s ago; it was rolled back and returned to its"
            r" pool\. Use it in a with block, .*",
            message,
        )
        assert found is not None, message
        path, line = found[1].rsplit(":", 1)
        assert path.endswith("tests/support/shop.py")
        with open(__file__.replace("server/test_leaks.py", "support/shop.py")) as file:
            assert "engine.connect()" in file.read().splitlines()[int(line) - 1]

    @pytest.mark.parametrize("take", WAYS)
    def test_every_way_of_taking_names_the_line_that_did_it(
        self, shop: Shop, take: Step, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Flask-SQLAlchemy's session is no leak, for its extension closes it."""
        misuse_view(shop, take)
        shop.client.get("/misuse")
        messages = warnings_in(caplog)
        if take.__name__ in ("take_db_session", "take_two_sessions"):
            assert messages == []
        else:
            (message,) = messages
            assert SITE.search(message)

    def test_two_leaks_are_two_lines(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        misuse_view(shop, take_connection, take_other_bind)
        shop.client.get("/misuse")
        binds = [re.findall(r"bind '(\w+)'", each)[0] for each in warnings_in(caplog)]
        assert sorted(binds) == ["default", "other"]

    def test_one_session_on_two_binds_is_two_leaks(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        @shop.route
        def misuse() -> str:
            binds: dict[Any, Any] = {
                shop.Item: shop.engine,
                shop.Note: shop.engines["other"],
            }
            session = shop.keep(Session(binds=binds))
            session.add_all([shop.Item(name="stray"), shop.Note(name="stray")])
            session.flush()
            return "taken"

        shop.client.get("/misuse")
        assert len(warnings_in(caplog)) == 2
        assert sum(tracker.figures.counts["leaks"] for tracker in shop.trackers) == 2

    def test_an_endpoint_of_a_blueprint_has_its_full_name(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        blueprint = Blueprint("desk", __name__)

        @blueprint.get("/lend")
        def lend() -> str:
            take_connection(shop)
            return "lent"

        shop.app.register_blueprint(blueprint)
        shop.client.get("/lend")
        (message,) = warnings_in(caplog)
        assert message.startswith("desk.lend did not give back")

    def test_a_request_without_an_endpoint_is_not_named_by_what_a_client_sent(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.app.before_request(lambda: take_connection(shop))
        shop.client.get("/nowhere")
        (message,) = warnings_in(caplog)
        assert message.startswith("(no route) did not give back")
        assert "/nowhere" not in message

    def test_a_command_is_named_as_it_is_called(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        @shop.app.cli.group("desk")
        def desk() -> None:
            """Hold commands."""

        @desk.command("lend")
        def lend() -> None:
            take_connection(shop)

        shop.app.test_cli_runner().invoke(args=["desk", "lend"])
        (message,) = warnings_in(caplog)
        assert re.match(r"\S+ desk lend did not give back", message), message

    def test_a_bare_context_is_neither(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        with shop.app.app_context():
            take_connection(shop)
        (message,) = warnings_in(caplog)
        assert message.startswith("(outside any request) did not give back")

    def test_a_stream_is_named_by_the_endpoint_that_returned_it(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        @shop.route
        def stream() -> Iterator[str]:
            def generate() -> Iterator[str]:
                take_connection(shop)
                yield "taken"

            return generate()

        response = shop.client.get("/stream")
        assert response.text == "taken"
        response.close()
        (message,) = warnings_in(caplog)
        assert message.startswith("stream did not give back")

    def test_no_line_has_the_password(
        self, served_database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        with Shop(served_database.url) as shop:
            misuse_view(shop, take_connection, take_other_bind)
            shop.client.get("/misuse")
        assert served_database.url.password
        assert served_database.url.password not in caplog.text


class TestCounting:
    def test_leaks_are_counted_in_all_and_by_endpoint_and_line(
        self, shop: Shop
    ) -> None:
        misuse_view(shop, take_connection)
        for _ in range(3):
            shop.client.get("/misuse")
        assert shop.tracker.figures.counts["leaks"] == 3
        ((endpoint, site), count), *more = shop.tracker.figures.leaking_lines.items()
        assert (endpoint, count, more) == ("misuse", 3, [])
        assert SITE.search(site)

    def test_a_thousand_different_places_do_not_fill_the_memory(
        self, shop: Shop
    ) -> None:
        def take() -> str:
            take_connection(shop)
            return "taken"

        for number in range(40):
            shop.app.add_url_rule(f"/{number}", f"view{number}", take)
        for number in range(40):
            shop.client.get(f"/{number}")
        assert shop.tracker.figures.counts["leaks"] == 40
        assert len(shop.tracker.figures.leaking_lines) == 16


class TestSignal:
    def test_each_leak_is_sent_with_its_app_after_the_connection_is_back(
        self, shop: Shop
    ) -> None:
        seen: list[tuple[object, Leak, int]] = []

        def receive(sender: object, leak: Leak) -> None:
            seen.append((sender, leak, shop.out()))

        misuse_view(shop, take_connection, take_other_bind)
        with connection_leaked.connected_to(receive, shop.app):
            shop.client.get("/misuse")
        assert [(sender, out) for sender, _, out in seen] == [(shop.app, 0)] * 2
        leak = next(leak for _, leak, _ in seen if leak.bind == "default")
        assert (leak.endpoint, leak.action) == ("misuse", "returned")
        assert SITE.search(leak.site)
        assert leak.held_seconds >= 0

    def test_a_receiver_that_raises_changes_nothing(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        seen: list[str] = []

        def fail(sender: object, leak: Leak) -> None:
            seen.append(leak.bind)
            raise RuntimeError("in a receiver")

        misuse_view(shop, take_connection, take_other_bind)
        with connection_leaked.connected_to(fail, shop.app):
            assert shop.client.get("/misuse").text == "taken"
        assert sorted(seen) == ["default", "other"]
        assert shop.out() == 0
        assert sum(tracker.figures.counts["leaks"] for tracker in shop.trackers) == 2
        failed = [each for each in warnings_in(caplog) if "receiver failed" in each]
        assert len(failed) == 1  # equal ones are counted

    def test_it_is_public(self) -> None:
        assert flask_poolguard.connection_leaked is connection_leaked


class TestOnLeak:
    @pytest.mark.parametrize("take", [take_connection, take_session])
    def test_discard_closes_the_connection(
        self,
        served_database: Database,
        take: Step,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        server, name = served_database.running_server, served_database.url.database
        with Shop(served_database.url, POOLGUARD_ON_LEAK="discard") as shop:
            misuse_view(shop, take)
            shop.engine.dispose()
            shop.engines["other"].dispose()
            assert shop.client.get("/misuse").text == "taken"
            assert shop.out() == 0
            wait_until(
                lambda: not server.session_ids(database=name),
                what="the closed sessions' end",
            )
            (message,) = warnings_in(caplog)
            assert "; it was closed, because" in message
            Witness(shop).assert_nothing_left()

    def test_return_keeps_it_open_for_the_next_request(
        self, served_database: Database
    ) -> None:
        server, name = served_database.running_server, served_database.url.database
        with Shop(served_database.url) as shop:
            misuse_view(shop, take_connection)
            shop.client.get("/misuse")
            before = server.session_ids(database=name)
            shop.client.get("/misuse")
            assert server.session_ids(database=name) == before

    def test_raise_raises_after_everything_is_back(self, sqlite_url: Any) -> None:
        with Shop(sqlite_url, POOLGUARD_ON_LEAK="raise") as shop:
            misuse_view(shop, take_connection, take_other_bind)
            with raises(LeakError) as raised:
                shop.client.get("/misuse")
            assert sorted(leak.bind for leak in raised.value.leaks) == [
                "default",
                "other",
            ]
            assert shop.out() == 0
            assert str(raised.value).count("misuse did not give back") == 2
            Witness(shop).assert_nothing_left()

    def test_raise_reaches_commands_and_bare_contexts(self, sqlite_url: Any) -> None:
        with Shop(sqlite_url, POOLGUARD_ON_LEAK="raise") as shop:
            shop.app.cli.command("misuse")(lambda: take_connection(shop))
            result = shop.app.test_cli_runner().invoke(args=["misuse"])
            assert result.exception is not None
            assert first_of(LeakError, result.exception) is not None
            pop_context()  # Click does not, if closing it raised
            with raises(LeakError), shop.app.app_context():
                take_connection(shop)
            assert shop.out() == 0

    def test_raise_does_not_hide_that_the_view_failed(self, sqlite_url: Any) -> None:
        with Shop(sqlite_url, POOLGUARD_ON_LEAK="raise", TESTING=True) as shop:

            @shop.route
            def misuse() -> str:
                take_connection(shop)
                raise ZeroDivisionError

            with raises(LeakError) as raised:
                shop.client.get("/misuse")
            assert isinstance(raised.value.__context__, ZeroDivisionError)
            assert shop.out() == 0

    def test_it_can_differ_between_binds(self, sqlite_url: Any) -> None:
        with Shop(sqlite_url, POOLGUARD_BINDS={"other": {"on_leak": "raise"}}) as shop:
            misuse_view(shop, take_connection)
            assert shop.client.get("/misuse").text == "taken"

        with Shop(
            sqlite_url, POOLGUARD_BINDS={"other": {"on_leak": "raise"}}, seeds=False
        ) as shop:
            misuse_view(shop, take_connection, take_other_bind)
            with raises(LeakError) as raised:
                shop.client.get("/misuse")
            assert [leak.bind for leak in raised.value.leaks] == ["other"]


class TestTheWarning:
    """Each leak is a Python warning too; as an error it fails the request."""

    ERROR = pytest.mark.filterwarnings("error::flask_poolguard.LeakWarning")
    SHOWN = pytest.mark.filterwarnings("always::flask_poolguard.LeakWarning")

    @SHOWN
    def test_names_endpoint_line_and_way_out(self, shop: Shop) -> None:
        """It stands at the app's line, and carries the leak."""
        misuse_view(shop, take_connection, take_other_bind)
        with pytest.warns(LeakWarning) as caught:
            shop.client.get("/misuse")
        assert shop.out() == 0
        assert len(caught) == 2
        for each in caught:
            warning = each.message
            assert isinstance(warning, LeakWarning)
            assert warning.leak is not None
            assert str(warning) == warning.leak.summary()
            assert f"{each.filename}:{each.lineno}".endswith(
                warning.leak.site.rpartition("tests/")[2]
            )
            assert "misuse did not give back" in str(warning)
            assert str(warning).endswith("guard.keep(connection).")

    @SHOWN
    def test_comes_after_all_are_back(self, shop: Shop) -> None:
        out = []

        def show(*_: Any, **__: Any) -> None:
            out.append(shop.out())

        misuse_view(shop, take_connection, take_other_bind)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.showwarning", show)
            shop.client.get("/misuse")
        assert out == [0, 0]

    @ERROR
    def test_as_an_error_it_fails_the_request(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With the first of them; all are back, logged and counted."""
        misuse_view(shop, take_connection, take_other_bind)
        with raises(LeakWarning) as raised:
            shop.client.get("/misuse")
        assert shop.out() == 0
        assert raised.value.leak is not None
        assert len(warnings_in(caplog)) == 2
        Witness(shop).assert_nothing_left()

    @ERROR
    def test_as_an_error_it_does_not_hide_that_the_view_failed(
        self, sqlite_url: Any
    ) -> None:
        with Shop(sqlite_url, TESTING=True) as shop:

            @shop.route
            def misuse() -> str:
                take_connection(shop)
                raise ZeroDivisionError

            with raises(LeakWarning) as raised:
                shop.client.get("/misuse")
            assert isinstance(raised.value.__context__, ZeroDivisionError)
            assert shop.out() == 0

    @ERROR
    def test_the_setting_comes_first(self, sqlite_url: Any) -> None:
        """LeakError has all leaks."""
        with Shop(sqlite_url, POOLGUARD_ON_LEAK="raise") as shop:
            misuse_view(shop, take_connection, take_other_bind)
            with raises(LeakError) as raised:
                shop.client.get("/misuse")
            assert len(raised.value.leaks) == 2

    @ERROR
    def test_never_fails_a_thread_that_only_finds_a_leak(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What a thread left that has ended is not the finder's fault."""

        def desert() -> None:
            shop.app.app_context().push()
            take_connection(shop)

        thread = threading.Thread(target=desert)
        thread.start()
        thread.join()
        del thread
        gc.collect()
        give_back_deserted()
        wait_until(lambda: shop.out() == 0)  # or the housekeeper was faster
        wait_until(lambda: len(warnings_in(caplog)) == 1)

    @SHOWN
    def test_a_broken_showwarning_fails_nothing(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        def show(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError

        misuse_view(shop, take_connection)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.showwarning", show)
            assert shop.client.get("/misuse").text == "taken"
        assert "A leak could not be shown as a warning" in caplog.text

    @pytest.mark.filterwarnings("default::flask_poolguard.LeakWarning")
    def test_what_was_shown_is_noted_within_bounds(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Though each leak is of a line of its own, as code made at run time has."""
        monkeypatch.setattr(leak_warnings, "MOST_SHOWN", 10)
        monkeypatch.setattr("warnings.showwarning", lambda *_, **__: None)
        noted, numbers = [], iter(range(30))

        def take(shop: Shop) -> None:
            code = compile("engine.connect()", f"made{next(numbers)}.py", "eval")
            shop.keep(eval(code, {"engine": shop.engine}))  # noqa: S307 (made here)

        misuse_view(shop, take)
        for _ in range(30):
            shop.client.get("/misuse")
            noted.append(len(leak_warnings._shown))
        assert 10 < max(noted) <= 12


class TestTheOldOwner:
    """Whoever still has the connection cannot use it, nor harm its next holder."""

    @pytest.fixture
    def shop(self, database: Database, caplog: Any) -> Iterator[Shop]:
        """Run an app on each product."""
        caplog.set_level(logging.CRITICAL, LOGGER)
        with Shop(database.url, POOLGUARD_POOL_SIZE=1, POOLGUARD_MAX_OVERFLOW=0) as own:
            yield own

    def kept_by_view(self, shop: Shop, make: Callable[[], Any]) -> Any:
        """Return what a view made and kept."""

        @shop.route
        def misuse() -> str:
            shop.keep(make())
            return "taken"

        shop.client.get("/misuse")
        assert shop.out() == 0
        return shop.kept[-1]

    def assert_harmless(self, shop: Shop, late: Callable[[], Any]) -> None:
        """Check that something done late does not disturb the next holder."""
        with shop.engine.begin() as connection:
            connection.execute(text("INSERT INTO item (name) VALUES ('kept')"))
            late()
            assert shop.out() == 1
            assert connection.scalar(COUNT) == 2
        assert shop.out() == 0
        assert "kept" in Witness(shop).names()

    def test_a_connection(self, shop: Shop) -> None:
        connection: Connection = self.kept_by_view(shop, shop.engine.connect)
        with pytest.raises(sqlalchemy.exc.SQLAlchemyError):
            connection.execute(COUNT)
        self.assert_harmless(shop, connection.close)

    def test_a_connection_in_a_transaction(self, shop: Shop) -> None:
        def make() -> tuple[Connection, RootTransaction]:
            connection = shop.engine.connect()
            transaction = connection.begin()
            connection.execute(text("INSERT INTO item (name) VALUES ('stray')"))
            return connection, transaction

        connection, transaction = self.kept_by_view(shop, make)

        def late() -> None:
            with pytest.raises(Exception):  # noqa: B017, PT011 (each driver its own)
                transaction.commit()
            connection.close()

        self.assert_harmless(shop, late)
        assert "stray" not in Witness(shop).names()

    def test_a_begin_block_that_ends_late(self, shop: Shop) -> None:
        def make() -> Any:
            block = shop.engine.begin()
            block.__enter__().execute(text("INSERT INTO item (name) VALUES ('stray')"))
            return block

        block = self.kept_by_view(shop, make)

        def late() -> None:
            with pytest.raises(Exception):  # noqa: B017, PT011 (each driver its own)
                block.__exit__(None, None, None)

        self.assert_harmless(shop, late)
        assert "stray" not in Witness(shop).names()

    def test_a_raw_connection(self, shop: Shop) -> None:
        connection: PoolProxiedConnection = self.kept_by_view(
            shop, shop.engine.raw_connection
        )
        with pytest.raises(ConnectionReturned):
            connection.cursor()
        self.assert_harmless(shop, connection.close)

    def test_a_session(self, shop: Shop) -> None:
        def make() -> Session:
            session = Session(shop.engine)
            session.execute(text("INSERT INTO item (name) VALUES ('stray')"))
            return session

        session: Session = self.kept_by_view(shop, make)

        def late() -> None:
            with pytest.raises(ConnectionReturned, match="what its statements wrote"):
                session.commit()
            session.close()

        self.assert_harmless(shop, late)
        assert "stray" not in Witness(shop).names()


@pytest.mark.filterwarnings(
    # PyMySQL tries to read the rest when a cursor or result is collected.
    "ignore:Exception ignored in. <function (MySQLResult|SSCursor)"
    ":pytest.PytestUnraisableExceptionWarning"
)
class TestAnswersStillToCome:
    """Such a connection is closed: a rollback would wait for what is left."""

    ENDLESS = "SELECT seq FROM seq_1_to_100000000"

    @pytest.fixture(autouse=True)
    def collected_here(self) -> Iterator[None]:
        """Let what is unread be collected in this test, not in another one."""
        yield
        gc.collect()

    def test_an_unread_server_side_cursor_of_pymysql(
        self, mariadb_url: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        with Shop(mariadb_url) as shop:

            @shop.route
            def misuse() -> str:
                raw = shop.keep(shop.engine.raw_connection())
                cursor = shop.keep(raw.cursor(pymysql.cursors.SSCursor))
                cursor.execute(self.ENDLESS)
                return str(cursor.fetchone()[0])

            self.assert_discarded(shop, "1")
            (message,) = warnings_in(caplog)
            assert "; it was closed, because" in message

    def test_a_streamed_result_of_a_connection(self, mariadb_url: Any) -> None:
        with Shop(mariadb_url) as shop:

            @shop.route
            def misuse() -> str:
                connection = shop.keep(shop.engine.connect())
                result = connection.execution_options(stream_results=True).execute(
                    text(self.ENDLESS)
                )
                return str(shop.keep(result).fetchone()[0])

            self.assert_discarded(shop, "1")

    def test_a_streamed_result_of_flask_sqlalchemys_session(
        self, mariadb_url: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        with Shop(mariadb_url) as shop:

            @shop.route
            def misuse() -> str:
                result = shop.db.session.execute(
                    text(self.ENDLESS), execution_options={"stream_results": True}
                )
                return str(shop.keep(result).fetchone()[0])

            self.assert_discarded(shop, "1")
            # The extension's own remove() runs first, and PyMySQL complains.
            said = "\n".join(warnings_in(caplog))
            assert "an answer was still to be read" in said

    def test_a_streamed_result_of_a_session(self, mariadb_url: Any) -> None:
        with Shop(mariadb_url) as shop:

            @shop.route
            def misuse() -> str:
                session = shop.keep(Session(shop.engine))
                result = session.execute(
                    text(self.ENDLESS), execution_options={"stream_results": True}
                )
                return str(shop.keep(result).fetchone()[0])

            self.assert_discarded(shop, "1")

    def assert_discarded(self, shop: Shop, answer: str) -> None:
        """Check that the connection is closed without reading all that is left."""
        before = shop.tracker.figures.counts["invalidated"]
        client = shop.client
        assert client.get("/misuse").text == answer
        assert shop.out() == 0
        assert shop.tracker.figures.counts["invalidated"] == before + 1
        with shop.engine.connect() as connection:
            assert connection.scalar(COUNT) == 1

    def test_an_unread_stream_of_psycopg(self, postgresql_url: Any) -> None:
        url = postgresql_url.set(drivername="postgresql+psycopg")
        with Shop(url) as shop:

            @shop.route
            def misuse() -> str:
                raw = shop.keep(shop.engine.raw_connection())
                cursor = raw.driver_connection.cursor()
                rows = shop.keep(cursor.stream("SELECT generate_series(1, 100000000)"))
                return str(next(rows)[0])

            self.assert_discarded(shop, "1")

    def test_a_query_of_psycopg_that_is_still_running(
        self, postgresql: Any, postgresql_url: Any
    ) -> None:
        """It waits for a lock, and so would a rollback."""
        url = postgresql_url.set(drivername="postgresql+psycopg")
        gate_engine = create_engine(postgresql_url, poolclass=NullPool)
        with Shop(url) as shop, gate_engine.connect() as gate:
            gate.execute(text("SELECT pg_advisory_lock(7)"))

            @shop.route
            def misuse() -> str:
                raw = shop.keep(shop.engine.raw_connection())
                raw.driver_connection.pgconn.send_query(b"SELECT pg_advisory_lock(7)")
                return "sent"

            self.assert_discarded(shop, "sent")


class TestHotPath:
    def test_a_checkout_keeps_no_frame_alive(self, shop: Shop) -> None:
        with shop.engine.connect():
            (checkout,) = shop.tracker.out.values()
            values = [getattr(checkout, name) for name in type(checkout).__slots__]
            kinds = {type(value).__name__ for value in values}
            assert not kinds & {"frame", "traceback", "StackSummary", "FrameSummary"}
            assert type(checkout.callsite.filename) is str
            assert type(checkout.callsite.line) is int
            kept = {
                type(getattr(checkout.callsite, name)) for name in CallSite.__slots__
            }
            assert kept == {CodeType, str, int, TakenAs}


class TestInterruptions:
    def test_what_strikes_during_one_rollback_does_not_keep_the_others_out(
        self, shop: Shop
    ) -> None:
        """A gevent.Timeout, or a worker's SystemExit, is no Exception."""
        struck = threading.Event()

        def strike(*_: object) -> None:
            if not struck.is_set():
                struck.set()
                raise KeyboardInterrupt

        misuse_view(shop, take_connection, take_other_bind)
        with shop.app.app_context():
            for engine in shop.engines.values():
                event.listen(engine.pool, "reset", strike)
        with raises(KeyboardInterrupt):
            shop.client.get("/misuse")
        assert struck.is_set()
        assert shop.out() == 0
        assert sum(tracker.figures.counts["leaks"] for tracker in shop.trackers) == 2
        Witness(shop).assert_nothing_left()

    def test_what_strikes_while_the_session_closes_does_not_keep_the_others_out(
        self, shop: Shop
    ) -> None:
        @shop.route
        def misuse() -> str:
            take_db_session(shop)
            take_other_bind(shop)
            return "taken"

        def strike(*_: object) -> None:
            raise KeyboardInterrupt

        with shop.app.app_context():
            event.listen(shop.engine, "rollback", strike, once=True)
        with raises(KeyboardInterrupt):
            shop.client.get("/misuse")
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()
