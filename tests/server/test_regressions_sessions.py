"""Sessions on connections that somebody else took, and receivers that use one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from flask_poolguard import connection_leaked
from tests.conftest import Database
from tests.support.shop import Shop, Witness

LOGGER = "flask_poolguard"
COUNT = text("SELECT COUNT(*) FROM item")
ADD = text("INSERT INTO item (name) VALUES ('stray')")


@pytest.fixture
def shop(database: Database) -> Iterator[Shop]:
    """Run a guarded app."""
    with Shop(database.url) as shop:
        yield shop


def registered(shop: Shop) -> int:
    """Return how many sessions the database extension keeps."""
    return len(shop.db.session.registry.registry)


def join_by_extension(shop: Shop, connection: Connection) -> Any:
    """Bind the database extension's session to a connection."""
    factory = shop.db.session.session_factory
    # The extension's sessions choose an engine themselves, whatever they are bound to.
    ask = {"get_bind": lambda *_, **__: connection}
    factory.class_ = type("JoinedSession", (factory.class_,), ask)
    factory.configure(join_transaction_mode="create_savepoint")
    return shop.db.session


def join_by_own_session(shop: Shop, connection: Connection) -> Any:
    """Bind a session that the app made for itself to a connection."""
    session = scoped_session(
        sessionmaker(bind=connection, join_transaction_mode="create_savepoint")
    )

    @shop.app.teardown_appcontext
    def remove(error: BaseException | None) -> None:
        session.remove()

    return session


class TestExternalTransactions:
    """SQLAlchemy's recipe for tests: all that the app commits is undone at the end."""

    @pytest.mark.parametrize("join", [join_by_extension, join_by_own_session])
    def test_requests_share_the_connection_and_leave_it_open(
        self,
        served_database: Database,
        caplog: pytest.LogCaptureFixture,
        join: Callable[[Shop, Connection], Any],
    ) -> None:
        with Shop(served_database.url) as shop:
            connection = shop.engine.connect()
            transaction = connection.begin()
            session = join(shop, connection)

            @shop.route
            def add() -> str:
                session.execute(ADD)
                session.commit()
                return "added"

            @shop.route
            def count() -> str:
                return str(session.scalar(COUNT))

            answers = [shop.client.get(path) for path in ("/add", "/count")]
            assert [answer.status_code for answer in answers] == [200, 200]
            assert answers[1].text == "2"
            assert connection.scalar(COUNT) == 2
            assert shop.out() == 1
            transaction.rollback()
            connection.close()
            assert shop.out() == 0
            assert shop.tracker.figures.counts["leaks"] == 0
            assert [r for r in caplog.records if r.name == LOGGER] == []
            Witness(shop).assert_nothing_left()

    @pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
    def test_a_session_of_an_inner_context_leaves_the_outer_ones_connection_alone(
        self, shop: Shop, closed: bool
    ) -> None:
        with shop.app.app_context(), shop.engine.connect() as connection:
            with shop.app.app_context(), ExitStack() as stack:
                session = shop.keep(Session(connection))
                if closed:
                    stack.enter_context(session)
                session.execute(COUNT)
            assert connection.scalar(COUNT) == 1
            assert shop.out() == 1
        assert shop.out() == 0
        assert shop.tracker.figures.counts["leaks"] == 0

    def test_such_a_connection_is_a_leak_of_the_context_that_took_it(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        with shop.app.app_context():
            connection = shop.keep(shop.engine.connect())
            with shop.app.app_context(), Session(connection) as session:
                session.execute(COUNT)
            assert shop.tracker.figures.counts["leaks"] == 0
        assert shop.out() == 0
        assert shop.tracker.figures.counts["leaks"] == 1


class TestReceivers:
    """A receiver of `connection_leaked` runs when the session was ended already."""

    @pytest.fixture(autouse=True)
    def auditing(self, shop: Shop, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        """Let a receiver ask the database with every leak."""
        caplog.set_level(logging.CRITICAL, LOGGER)

        def audit(app: Flask, **extra: object) -> None:
            self.counted.append(shop.db.session.scalar(COUNT))

        self.counted: list[int] = []
        with connection_leaked.connected_to(audit, shop.app):
            yield

    def test_one_that_uses_the_session_in_a_plain_context_leaves_nothing(
        self, shop: Shop
    ) -> None:
        for leaks in (1, 2, 3):
            with shop.app.app_context():
                shop.keep(shop.engine.connect())
            assert self.counted == [1] * leaks
            assert shop.out() == 0
            assert registered(shop) == 0

    def test_one_that_uses_the_session_in_a_request_leaves_nothing(
        self, shop: Shop
    ) -> None:
        @shop.route
        def forgetful() -> str:
            shop.keep(shop.engine.connect())
            return "done"

        assert shop.client.get("/forgetful").text == "done"
        assert self.counted == [1]
        assert shop.out() == 0
        assert registered(shop) == 0
