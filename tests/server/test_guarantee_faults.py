"""Nothing leaks, whatever fails on the way, in whatever order it was set up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import permutations
from typing import Any

import pytest
from flask import (
    Response,
    appcontext_tearing_down,
    g,
    request,
    request_tearing_down,
)
from sqlalchemy import event, text
from werkzeug.debug import DebuggedApplication
from werkzeug.test import Client

from tests.conftest import Database
from tests.support.servers import DatabaseServer
from tests.support.shop import (
    SEED,
    WAYS,
    Shop,
    Step,
    Witness,
    add_database,
    add_guard,
    name_of,
    raises,
    take_connection,
    take_db_session,
)

LOGGER = "flask_poolguard"


class FaultError(Exception):
    """What somebody else's function raises."""


# Where the function of somebody else stands that raises.
FAULTS = (
    "view",
    "after_request",
    "teardown_request",
    "teardown_appcontext",
    "request_tearing_down",
    "appcontext_tearing_down",
)


def add_functions(shop: Shop) -> None:
    """Add functions of somebody else, of which the request's `fault` raises."""
    app = shop.app

    @app.before_request
    def choose() -> None:
        g.fault = request.args.get("fault")

    def fail_in(place: str) -> Callable[..., Any]:
        def function(*args: Any, **_: Any) -> Any:
            # The context that makes the tables has no fault.
            if g.get("fault") == place:
                raise FaultError
            return args[0]  # the response, which only after_request passes on

        return shop.keep(function)  # type: ignore[no-any-return] # what goes in

    app.after_request(fail_in("after_request"))
    app.teardown_request(fail_in("teardown_request"))
    app.teardown_appcontext(fail_in("teardown_appcontext"))
    request_tearing_down.connect(fail_in("request_tearing_down"), app)
    appcontext_tearing_down.connect(fail_in("appcontext_tearing_down"), app)


def misuse_view(shop: Shop, *takes: Step) -> None:
    """Serve `/misuse`, which takes connections and gives none back."""

    @shop.route
    def misuse() -> str:
        for take in takes:
            take(shop)
        if request.args.get("fault") == "view":
            raise FaultError
        return "taken"


def outcome(shop: Shop, path: str) -> tuple[object, ...]:
    """Return all that a client sees of a request."""
    try:
        response = shop.client.get(path)
    except (FaultError, ExceptionGroup) as error:
        return ("raised", repr(error))
    return (response.status, response.data, sorted(response.headers))


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Leave the guard's warnings to the tests of warnings."""
    caplog.set_level(logging.CRITICAL, LOGGER)


@pytest.mark.usefixtures("quiet")
class TestEveryWayOfTaking:
    @pytest.mark.parametrize("take", WAYS, ids=name_of)
    def test_a_view_that_forgets_it_leaves_nothing(
        self, database: Database, take: Step
    ) -> None:
        with Shop(database.url) as shop:
            misuse_view(shop, take)
            assert shop.client.get("/misuse").text == "taken"
            assert shop.out() == 0
            Witness(shop).assert_nothing_left()

    @pytest.mark.parametrize("take", WAYS, ids=name_of)
    def test_it_comes_back_whatever_function_raises(
        self, database: Database, take: Step
    ) -> None:
        with Shop(database.url, steps=(add_database, add_guard, add_functions)) as shop:
            misuse_view(shop, take)
            witness = Witness(shop)
            for fault in FAULTS:
                outcome(shop, f"/misuse?fault={fault}")
                assert shop.out() == 0, fault
                witness.assert_nothing_left()


@pytest.mark.usefixtures("quiet")
class TestStruckView:
    @pytest.mark.parametrize("exit_", [SystemExit, KeyboardInterrupt, GeneratorExit])
    def test_an_exit_in_the_view_leaves_nothing(
        self, database: Database, exit_: type[BaseException]
    ) -> None:
        with Shop(database.url) as shop:

            @shop.route
            def misuse() -> str:
                take_db_session(shop)
                take_reading_connection(shop)
                raise exit_

            with pytest.raises(exit_):
                shop.client.get("/misuse")
            assert shop.out() == 0
            Witness(shop).assert_nothing_left()

    def test_an_exit_in_a_teardown_function_leaves_nothing(
        self, database: Database
    ) -> None:
        def add_exit(shop: Shop) -> None:
            @shop.app.teardown_appcontext
            def strike(error: BaseException | None) -> None:
                if shop.app.config.get("STRIKES"):
                    raise SystemExit

        with Shop(database.url, steps=(add_database, add_guard, add_exit)) as shop:
            misuse_view(shop, take_db_session, take_reading_connection)
            shop.app.config["STRIKES"] = True
            with raises(SystemExit):
                shop.client.get("/misuse")
            assert shop.out() == 0
            Witness(shop).assert_nothing_left()

    def test_a_debugger_keeps_the_frames_but_not_their_connections(
        self, database: Database
    ) -> None:
        with Shop(database.url, PROPAGATE_EXCEPTIONS=True) as shop:
            debugger = DebuggedApplication(shop.app, evalex=True)

            @shop.route
            def misuse() -> str:
                connection = shop.engine.connect()
                connection.execute(text("INSERT INTO item (name) VALUES ('stray')"))
                raise FaultError

            # The debugger writes the traceback to the stream of errors as well.
            errors = StringIO()
            response = Client(debugger).get("/misuse", errors_stream=errors)
            assert response.status_code == 500
            assert debugger.frames
            assert shop.out() == 0
            Witness(shop).assert_nothing_left()


@pytest.mark.usefixtures("quiet")
class TestEveryOrder:
    @pytest.mark.parametrize(
        "steps",
        [
            *permutations((add_database, add_guard, add_functions)),
            # On all sides of both.
            (add_functions, add_guard, add_functions, add_database, add_functions),
        ],
        ids=lambda steps: "-".join(map(name_of, steps)),
    )
    def test_everything_comes_back_and_the_client_sees_no_difference(
        self, database: Database, steps: tuple[Step, ...]
    ) -> None:
        seen: dict[str, object] = {}
        with Shop(database.url, steps=steps) as shop:
            misuse_view(shop, take_db_session, take_reading_connection)
            witness = Witness(shop)
            for fault in FAULTS:
                seen[fault] = outcome(shop, f"/misuse?fault={fault}")
                assert shop.out() == 0, fault
                witness.assert_nothing_left()
        unguarded = tuple(step for step in steps if step is not add_guard)
        with Shop(database.url, steps=unguarded, seeds=False) as shop:
            misuse_view(shop, take_reading_connection)
            for fault in FAULTS:
                assert outcome(shop, f"/misuse?fault={fault}") == seen[fault]


def take_reading_connection(shop: Shop) -> None:
    """Use `engine.connect()` beside another connection that writes."""
    connection = shop.keep(shop.engine.connect())
    connection.scalar(text("SELECT COUNT(*) FROM item"))


def kill_held_session(shop: Shop, server: DatabaseServer) -> None:
    """End the session of the one connection that is out."""
    (checkout,) = shop.tracker.out.values()
    number = shop.tracker.database.server_id(checkout.record.dbapi_connection)
    assert number is not None
    server.kill_session(number)


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
                kill_held_session(shop, server)
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
                kill_held_session(shop, served_database.running_server)
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
                kill_held_session(shop, server)
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
            assert shop.tracker.figures.counts["leaks"] == 0
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

            misuse_view(shop)
            assert shop.client.get("/misuse?fault=view").text == "1 items"
            assert shop.out() == 0

    def test_a_rollback_that_fails_does_not_keep_the_connection(
        self, database: Database
    ) -> None:
        def fail(connection: object, *_: object) -> None:
            raise FaultError

        with Shop(database.url) as shop:
            misuse_view(shop, take_connection)
            with shop.app.app_context():
                event.listen(shop.engine.pool, "reset", fail, once=True)
            assert shop.client.get("/misuse").text == "taken"
            assert shop.out() == 0
            Witness(shop).assert_nothing_left()
