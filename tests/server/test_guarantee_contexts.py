"""Contexts within contexts, commands, threads: each end takes what is its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click
import pytest
from flask import Flask, g
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from flask_poolguard import ConnectionReturned, PoolGuard
from tests.conftest import Database
from tests.support.shop import (
    SEED,
    WAYS,
    Shop,
    Step,
    Witness,
    name_of,
    take_connection,
    take_db_session,
    take_session,
)

LOGGER = "flask_poolguard"
COUNT = text("SELECT COUNT(*) FROM item")
ADD = text("INSERT INTO item (name) VALUES ('added')")


@pytest.fixture
def shop(database: Database, caplog: pytest.LogCaptureFixture) -> Iterator[Shop]:
    """Run an app; the guard's warnings are the subject of other tests."""
    caplog.set_level(logging.CRITICAL, LOGGER)
    with Shop(database.url) as shop:
        yield shop


class TestInnerContexts:
    """What an eager task within a request does: it pushes a context of its own."""

    def test_the_outer_connection_and_its_transaction_go_on(self, shop: Shop) -> None:
        @shop.route
        def view() -> str:
            with shop.engine.begin() as connection:
                connection.execute(ADD)
                with shop.app.app_context():
                    shop.keep(shop.engine.connect()).scalar(COUNT)
                assert shop.out() == 1
                return str(connection.scalar(COUNT))

        assert shop.client.get("/view").text == "2"
        assert shop.out() == 0
        assert Witness(shop).names() == ["added", SEED, SEED]

    def test_the_outer_session_and_its_transaction_go_on(self, shop: Shop) -> None:
        @shop.route
        def view() -> str:
            shop.db.session.add(shop.Item(name="added"))
            shop.db.session.flush()
            with shop.app.app_context():
                shop.db.session.scalar(COUNT)
                assert shop.out() == 2
            assert shop.out() == 1
            shop.db.session.commit()
            return "committed"

        assert shop.client.get("/view").text == "committed"
        assert Witness(shop).names() == ["added", SEED, SEED]

    @pytest.mark.parametrize("take", WAYS, ids=name_of)
    def test_what_the_inner_one_forgot_is_back_with_its_end(
        self, shop: Shop, take: Step
    ) -> None:
        @shop.route
        def view() -> str:
            with shop.app.app_context():
                take(shop)
            out = shop.out()
            Witness(shop).assert_nothing_left()
            return str(out)

        assert shop.client.get("/view").text == "0"

    def test_an_object_of_the_outer_session_can_be_loaded_inside_and_after(
        self, shop: Shop
    ) -> None:
        @shop.route
        def view() -> str:
            item: Any = shop.db.session.get(shop.Item, 1)
            shop.db.session.commit()  # expires the object, gives the connection back
            with shop.app.app_context():
                inside = item.name
            shop.db.session.expire(item)
            return f"{inside}, {item.parts[0].name}"

        assert shop.client.get("/view").text == f"{SEED}, bolt"
        assert shop.out() == 0

    @pytest.mark.parametrize("kind", ["db.session", "plain", "scoped"])
    def test_an_outer_session_that_is_first_used_inside_stays_the_outers(
        self, shop: Shop, kind: str
    ) -> None:
        @shop.route
        def view() -> str:
            makers: dict[str, Callable[[], Session]] = {
                "db.session": shop.db.session,
                "plain": lambda: Session(shop.engine),
                "scoped": scoped_session(sessionmaker(shop.engine)),
            }
            session = makers[kind]()
            with shop.app.app_context():
                item: Any = session.get(shop.Item, 1)
                session.execute(ADD)
            name = item.parts[0].name
            session.commit()
            session.close()
            return str(name)

        assert shop.client.get("/view").text == "bolt"
        assert shop.out() == 0
        assert Witness(shop).names() == ["added", SEED, SEED]

    def test_a_session_older_than_the_request_stays_usable_after_the_inner_end(
        self, shop: Shop
    ) -> None:
        session = Session(shop.engine)

        @shop.route
        def view() -> str:
            with shop.app.app_context(), shop.app.app_context():
                item: Any = session.get(shop.Item, 1)
                session.execute(ADD)
            name = str(item.parts[0].name)
            session.commit()
            return name

        assert shop.client.get("/view").text == "bolt"
        assert shop.out() == 0
        assert Witness(shop).names() == ["added", SEED, SEED]

    def test_a_session_kept_from_one_inner_context_belongs_to_the_next(
        self, shop: Shop
    ) -> None:
        """Not to the outer one: a worker's loop may run for days in that."""
        sessions = scoped_session(sessionmaker(shop.engine))
        with shop.app.app_context():
            for _ in range(3):
                with shop.app.app_context():
                    sessions.execute(COUNT)
                assert shop.out() == 0
        Witness(shop).assert_nothing_left()

    def test_a_session_that_lost_rows_with_one_inner_context_says_so_in_the_next(
        self, shop: Shop
    ) -> None:
        sessions = scoped_session(sessionmaker(shop.engine))
        with shop.app.app_context():
            sessions.execute(ADD)
        with shop.app.app_context():
            with pytest.raises(ConnectionReturned, match="what its statements wrote"):
                sessions.execute(COUNT)
            sessions.rollback()
            sessions.execute(COUNT)
        Witness(shop).assert_nothing_left()

    def test_many_inner_contexts_are_not_remembered(self, shop: Shop) -> None:
        @shop.route
        def view() -> str:
            from flask_poolguard.tracking.current_scope import current_wsgi_scope

            for _ in range(50):
                with shop.app.app_context():
                    shop.db.session.scalar(COUNT)
            response = current_wsgi_scope()
            assert response is not None
            return str(len(response.contexts))

        assert shop.client.get("/view").text == "1"

    def test_a_context_of_another_app_within_a_request(
        self, shop: Shop, database: Database
    ) -> None:
        other = Flask("other")
        engine = create_engine(database.url)
        PoolGuard(other).register(engine, app=other)

        @shop.route
        def view() -> str:
            mine = shop.engine.connect()
            with other.app_context():
                shop.keep(engine.connect()).scalar(COUNT)
                taken_inside = shop.keep(shop.engine.connect())
            assert engine.pool.checkedout() == 0  # type: ignore[attr-defined] # a QueuePool's
            assert not taken_inside.closed
            return str(mine.scalar(COUNT))

        try:
            assert shop.client.get("/view").text == "1"
            assert shop.out() == 0
        finally:
            engine.dispose()


class TestRequestsWithinRequests:
    def test_the_outer_request_keeps_what_it_has(self, shop: Shop) -> None:
        @shop.route
        def inner() -> str:
            take_connection(shop)
            return "inner"

        @shop.route
        def outer() -> str:
            connection = shop.engine.connect()
            # Flask before 3.2 gives it no context of its own, but the outer one's.
            shop.client.get("/inner")
            count = connection.scalar(COUNT)
            connection.close()
            return str(count)

        assert shop.client.get("/outer").text == "1"
        assert shop.out() == 0


class TestTestClient:
    def test_a_preserved_context_gives_back_when_the_request_ends(
        self, shop: Shop
    ) -> None:
        @shop.route
        def misuse() -> str:
            take_db_session(shop)
            g.answer = 42
            return "taken"

        with shop.client as client:
            client.get("/misuse")
            assert g.answer == 42
            assert shop.out() == 0
            Witness(shop).assert_nothing_left()

    def test_what_is_taken_in_the_preserved_context_is_back_after_it(
        self, shop: Shop
    ) -> None:
        shop.app.add_url_rule("/", view_func=lambda: "hello")
        with shop.client as client:
            client.get("/")
            take_db_session(shop)
            assert shop.out() == 1
            client.get("/")
            assert shop.out() == 0
            take_connection(shop)
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()

    def test_requests_within_a_pushed_context_share_its_session(
        self, shop: Shop
    ) -> None:
        """Flask before 3.2 gives them no context of their own."""

        @shop.route
        def rename() -> str:
            item: Any = shop.db.session.get(shop.Item, 1)
            item.name = "renamed"
            shop.db.session.commit()
            return "renamed"

        with shop.app.app_context():
            item: Any = shop.db.session.get(shop.Item, 1)
            shop.client.get("/rename")
            shop.db.session.refresh(item)
            assert item.name == "renamed"
        assert shop.out() == 0

    @pytest.mark.parametrize("take", WAYS, ids=name_of)
    def test_a_test_request_context_leaves_nothing(
        self, shop: Shop, take: Step
    ) -> None:
        with shop.app.test_request_context("/"):
            take(shop)
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()


class TestCommands:
    @pytest.mark.parametrize("take", WAYS, ids=name_of)
    @pytest.mark.parametrize(
        "end", [None, RuntimeError, SystemExit, KeyboardInterrupt, click.Abort]
    )
    def test_a_command_leaves_nothing_however_it_ends(
        self, shop: Shop, take: Step, end: type[BaseException] | None
    ) -> None:
        @shop.app.cli.command("misuse")
        def misuse() -> None:
            take(shop)
            if end is not None:
                raise end

        result = shop.app.test_cli_runner().invoke(args=["misuse"])
        assert (result.exit_code == 0) == (end in (None, SystemExit))
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()


class TestThreads:
    def test_a_context_pushed_in_a_thread_leaves_nothing(self, shop: Shop) -> None:
        def work() -> None:
            with shop.app.app_context():
                take_session(shop)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()

    def test_threads_at_once_end_only_their_own(self, shop: Shop) -> None:
        barrier = threading.Barrier(4)

        def work() -> int:
            with shop.app.app_context():
                connection = shop.keep(shop.engine.connect())
                connection.scalar(COUNT)
                barrier.wait(10)
                with shop.app.app_context():
                    shop.keep(shop.engine.connect()).scalar(COUNT)
                return int(connection.scalar(COUNT))

        with ThreadPoolExecutor(4) as executor:
            results = [executor.submit(work) for _ in range(4)]
            assert [each.result(20) for each in results] == [1, 1, 1, 1]
        assert shop.out() == 0


class TestOutsideAnyContext:
    def test_what_is_taken_outside_is_never_taken_away(self, shop: Shop) -> None:
        connection: Connection = shop.engine.connect()
        shop.app.add_url_rule("/", view_func=lambda: shop.db.session.scalar(COUNT))
        shop.client.get("/")
        with shop.app.app_context():
            take_connection(shop)
        assert connection.scalar(COUNT) == 1
        assert shop.out() == 1
        connection.close()
        assert shop.out() == 0
