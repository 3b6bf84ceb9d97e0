"""Nothing leaks, whatever fails on the way, in whatever order it was set up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import pytest
from flask import Flask, Response, appcontext_tearing_down, request_tearing_down
from sqlalchemy import event, text

from tests.conftest import Database
from tests.support.guarded_app import (
    SEED,
    WAYS,
    Shop,
    Step,
    Witness,
    add_database,
    add_guard,
    take_connection,
    take_db_session,
)

LOGGER = "flask_poolguard"


class FaultError(Exception):
    """What somebody else's function raises."""


def fail(*_: object, **__: object) -> Any:
    """Fail, as a view, teardown function or receiver."""
    raise FaultError


def fail_in_after_request(shop: Shop) -> None:
    """Add an `after_request` function that raises."""
    shop.app.after_request(fail)


def fail_in_teardown_request(shop: Shop) -> None:
    """Add a `teardown_request` function that raises."""
    shop.app.teardown_request(fail)


def fail_in_teardown_appcontext(shop: Shop) -> None:
    """Add a `teardown_appcontext` function that raises."""
    shop.app.teardown_appcontext(fail_in_requests)


def fail_in_request_signal(shop: Shop) -> None:
    """Add a `request_tearing_down` receiver that raises."""
    request_tearing_down.connect(fail, shop.app)


def fail_in_appcontext_signal(shop: Shop) -> None:
    """Add an `appcontext_tearing_down` receiver that raises."""
    appcontext_tearing_down.connect(fail_in_requests, shop.app)


def fail_in_requests(*_: object, **__: object) -> None:
    """Fail at the end of a request's context, not of the one that makes tables."""
    from flask import g

    if "in_request" in g:
        raise FaultError


FAULTS: tuple[Step, ...] = (
    fail_in_after_request,
    fail_in_teardown_request,
    fail_in_teardown_appcontext,
    fail_in_request_signal,
    fail_in_appcontext_signal,
)


def name_of(value: Any) -> str:
    """Return the name of a function, for the ids of tests."""
    return str(value.__name__)


def remember_request(app: Flask) -> None:
    """Let `fail_in_requests` know which contexts are requests'."""

    @app.before_request
    def mark() -> None:
        from flask import g

        g.in_request = True


def outcome(shop: Shop, path: str) -> tuple[object, ...]:
    """Return all that a client sees of a request."""
    try:
        response = shop.client.get(path)
    except FaultError as error:
        return ("raised", type(error))
    return (response.status, response.data, sorted(response.headers))


def misuse_view(shop: Shop, takes: tuple[Step, ...], *, raises: bool = False) -> None:
    """Serve `/misuse`, which takes connections and gives none back."""

    @shop.route
    def misuse() -> str:
        for take in takes:
            take(shop)
        if raises:
            raise FaultError
        return "taken"

    @shop.route
    def fine() -> str:
        count = shop.db.session.scalar(text("SELECT COUNT(*) FROM item"))
        shop.db.session.commit()
        return str(count)


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Leave the guard's warnings to the tests of warnings."""
    caplog.set_level(logging.ERROR, LOGGER)
    yield


@pytest.mark.usefixtures("quiet")
class TestEveryWayOfTaking:
    @pytest.mark.parametrize("take", WAYS, ids=name_of)
    def test_a_view_that_forgets_it_leaves_nothing(
        self, database: Database, take: Step
    ) -> None:
        with Shop(database.url) as shop:
            misuse_view(shop, (take,))
            assert shop.client.get("/misuse").text == "taken"
            assert shop.out() == 0
            Witness(shop).assert_nothing_left()

    @pytest.mark.parametrize("take", WAYS, ids=name_of)
    def test_a_view_that_raises_leaves_nothing(
        self, database: Database, take: Step
    ) -> None:
        with Shop(database.url) as shop:
            misuse_view(shop, (take,), raises=True)
            assert shop.client.get("/misuse").status_code == 500
            assert shop.out() == 0
            Witness(shop).assert_nothing_left()

    @pytest.mark.parametrize("take", WAYS, ids=name_of)
    @pytest.mark.parametrize("fault", FAULTS, ids=name_of)
    def test_a_function_of_somebody_else_that_raises_changes_nothing_of_that(
        self, database: Database, take: Step, fault: Step
    ) -> None:
        with Shop(database.url, steps=(add_database, add_guard, fault)) as shop:
            remember_request(shop.app)
            misuse_view(shop, (take,))
            outcome(shop, "/misuse")
            assert shop.out() == 0
            Witness(shop).assert_nothing_left()


ORDERS = [
    order
    for fault in FAULTS
    for order in permutations((add_database, add_guard, fault))
]


@pytest.mark.usefixtures("quiet")
class TestEveryOrder:
    @pytest.mark.parametrize(
        "steps", ORDERS, ids=lambda steps: "-".join(map(name_of, steps))
    )
    def test_the_order_of_setting_up_does_not_matter(
        self, database: Database, steps: tuple[Step, ...]
    ) -> None:
        takes: tuple[Step, ...] = (take_db_session, take_reading_connection)
        with Shop(database.url, steps=steps) as shop:
            remember_request(shop.app)
            misuse_view(shop, takes)
            seen = outcome(shop, "/misuse")
            assert shop.out() == 0
            Witness(shop).assert_nothing_left()
        # The same without the guard: the client sees no difference.
        steps = tuple(step for step in steps if step is not add_guard)
        with Shop(database.url, steps=steps) as plain:
            remember_request(plain.app)
            misuse_view(plain, takes)
            assert outcome(plain, "/misuse") == seen

    @pytest.mark.parametrize("fault", FAULTS, ids=name_of)
    def test_functions_that_raise_on_both_sides_do_not_matter(
        self, database: Database, fault: Step
    ) -> None:
        steps = (fault, add_guard, fault, add_database, fault)
        with Shop(database.url, steps=steps) as shop:
            remember_request(shop.app)
            misuse_view(shop, (take_db_session, take_reading_connection))
            outcome(shop, "/misuse")
            assert shop.out() == 0
            Witness(shop).assert_nothing_left()


def take_reading_connection(shop: Shop) -> None:
    """Use `engine.connect()` beside another connection that writes."""
    connection = shop.keep(shop.engine.connect())
    connection.scalar(text("SELECT COUNT(*) FROM item"))


class TestKilledConnection:
    """`session.remove()` raises, because the server closed the connection."""

    @pytest.fixture
    def shop(self, served_database: Database) -> Iterator[Shop]:
        """Serve `/misuse`, whose session is killed before the teardown."""
        server = served_database.running_server
        with Shop(served_database.url) as shop:

            @shop.route
            def misuse() -> str:
                take_db_session(shop)
                (holding,) = shop.ledger.out.values()
                number = shop.ledger.database.server_id(holding.record.dbapi_connection)
                assert number is not None
                server.kill_session(number)
                return "taken"

            @shop.route
            def fine() -> str:
                return str(shop.db.session.scalar(text("SELECT 1")))

            yield shop

    def test_the_response_is_unchanged(self, shop: Shop) -> None:
        response = shop.client.get("/misuse")
        assert (response.status_code, response.text) == (200, "taken")
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()

    def test_one_line_is_logged(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.client.get("/misuse")
        (message,) = [r.getMessage() for r in caplog.records if r.name == LOGGER]
        assert "The database session of misuse could not be closed" in message
        assert "lost" in message

    def test_teardown_functions_registered_before_the_extension_still_run(
        self, served_database: Database
    ) -> None:
        ran: list[str] = []

        def note(shop: Shop) -> None:
            shop.app.teardown_appcontext(lambda error: ran.append("teardown"))

        steps = (note, add_database, add_guard)
        with Shop(served_database.url, steps=steps) as shop:

            @shop.route
            def misuse() -> str:
                take_db_session(shop)
                (holding,) = shop.ledger.out.values()
                number = shop.ledger.database.server_id(holding.record.dbapi_connection)
                assert number is not None
                served_database.running_server.kill_session(number)
                ran.clear()
                return "taken"

            assert shop.client.get("/misuse").text == "taken"
            assert ran == ["teardown"]

    def test_the_next_request_is_served(self, shop: Shop) -> None:
        shop.client.get("/misuse")
        assert shop.client.get("/fine").text == "1"

    def test_connections_without_a_session_are_given_back_too(
        self, served_database: Database
    ) -> None:
        server = served_database.running_server
        with Shop(served_database.url) as shop:

            @shop.route
            def misuse() -> str:
                take_connection(shop)
                (holding,) = shop.ledger.out.values()
                number = shop.ledger.database.server_id(holding.record.dbapi_connection)
                assert number is not None
                server.kill_session(number)
                return "taken"

            assert shop.client.get("/misuse").text == "taken"
            assert shop.out() == 0
            assert shop.client.get("/misuse").text == "taken"
            Witness(shop).assert_nothing_left()


class TestWhatTheAppDoesItself:
    def test_a_connection_closed_in_time_is_no_leak(
        self, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        with Shop(database.url) as shop:

            @shop.route
            def tidy() -> str:
                with shop.engine.begin() as connection:
                    connection.execute(text("INSERT INTO item (name) VALUES ('new')"))
                shop.db.session.scalar(text("SELECT COUNT(*) FROM item"))
                return "done"

            shop.client.get("/tidy")
            assert shop.out() == 0
            assert Witness(shop).names() == ["new", SEED, SEED]
            assert shop.ledger.figure("leaks") == 0
        assert [r for r in caplog.records if r.name == LOGGER] == []

    def test_a_session_used_again_after_its_extension_closed_it_is_ended(
        self, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Teardown functions registered before an extension run after it."""

        def audit(shop: Shop) -> None:
            @shop.app.teardown_appcontext
            def write(error: BaseException | None) -> None:
                if shop.app.config.get("AUDIT"):
                    shop.db.session.add(shop.Item(name="stray"))
                    shop.db.session.flush()
                    shop.keep(shop.db.session())

        with Shop(database.url, steps=(audit, add_database, add_guard)) as shop:
            shop.app.config["AUDIT"] = True
            shop.app.add_url_rule("/", view_func=lambda: "done")
            assert shop.client.get("/").text == "done"
            assert shop.out() == 0
            Witness(shop).assert_nothing_left()
        (message,) = [r.getMessage() for r in caplog.records if r.name == LOGGER]
        assert "raised" not in message

    def test_an_audit_that_commits_at_the_very_end_is_kept_without_a_word(
        self, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        def audit(shop: Shop) -> None:
            @shop.app.teardown_appcontext
            def write(error: BaseException | None) -> None:
                if shop.app.config.get("AUDIT"):
                    shop.db.session.add(shop.Item(name="audited"))
                    shop.db.session.commit()

        with Shop(database.url, steps=(audit, add_database, add_guard)) as shop:
            shop.app.config["AUDIT"] = True
            shop.app.add_url_rule("/", view_func=lambda: "done")
            assert shop.client.get("/").text == "done"
            assert shop.out() == 0
            assert Witness(shop).names() == ["audited", SEED, SEED]
        assert [r for r in caplog.records if r.name == LOGGER] == []

    def test_an_error_handler_may_use_the_database(self, database: Database) -> None:
        with Shop(database.url) as shop:

            @shop.app.errorhandler(FaultError)
            def handle(error: FaultError) -> Response:
                count = shop.db.session.scalar(text("SELECT COUNT(*) FROM item"))
                return Response(f"{count} items")

            misuse_view(shop, (), raises=True)
            assert shop.client.get("/misuse").text == "1 items"
            assert shop.out() == 0

    def test_a_rollback_that_fails_does_not_keep_the_connection(
        self, database: Database
    ) -> None:
        def fail_once(connection: object, *_: object) -> None:
            event.remove(shop.engine.pool, "reset", fail_once)
            raise FaultError

        with Shop(database.url) as shop:
            misuse_view(shop, (take_connection,))
            with shop.app.app_context():
                event.listen(shop.engine.pool, "reset", fail_once)
            assert shop.client.get("/misuse").text == "taken"
            assert shop.out() == 0
            Witness(shop).assert_nothing_left()


