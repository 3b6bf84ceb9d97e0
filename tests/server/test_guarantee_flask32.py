"""What Flask 3.2 changes: the signature of its teardown, and merged contexts."""

from __future__ import annotations

import inspect
from typing import Any

import flask.globals
import pytest
from flask import Flask
from flask.ctx import AppContext
from sqlalchemy import URL

from tests.conftest import Database
from tests.support.programs import run_program
from tests.support.shop import (
    Shop,
    Witness,
    add_database,
    add_guard,
    raises,
    take_connection,
    take_db_session,
)

# Flask 3.2 itself needs no imitation of it.
before_32 = pytest.mark.skipif(  # Flask 3.2 has no such context
    not hasattr(flask.globals, "_cv_request"), reason="this is Flask 3.2 or later"
)


class TellingContext(AppContext):
    """Tells the app which context ends."""

    def pop(self, exc: Any = None) -> None:
        """Pop it, with the app told of the context."""
        self.app.ending = self  # type: ignore[attr-defined] # ours
        super().pop(exc)


class NewFlask(Flask):
    """Passes the context to its teardown, as Flask 3.2 does."""

    ending: AppContext

    def app_context(self) -> AppContext:
        """Return a context that tells when it ends."""
        return TellingContext(self)

    def do_teardown_appcontext(self, *args: Any, **kwargs: Any) -> None:
        """Go through `teardown`, which has the new signature."""
        self.teardown(self.ending, *args, **kwargs)

    def teardown(self, ctx: AppContext, exc: BaseException | None = None) -> None:
        """Run the functions."""
        assert isinstance(ctx, AppContext)
        super().do_teardown_appcontext(exc)


class TestSignature:
    def test_the_wrapper_takes_whatever_flask_passes(self, sqlite_url: URL) -> None:
        seen: list[tuple[object, ...]] = []

        class Recorder(Flask):
            def do_teardown_appcontext(self, *args: Any, **kwargs: Any) -> None:
                seen.append((*args, kwargs))

        with Shop(sqlite_url, app=Recorder("recorder")) as shop:
            with shop.app.app_context() as context:
                take_connection(shop)
                seen.clear()
                shop.app.do_teardown_appcontext(context, None)  # type: ignore[call-arg,arg-type] # as in 3.2
                assert seen == [(context, None, {})]
                assert shop.out() == 0
            with shop.app.app_context() as context:
                take_connection(shop)
                shop.app.do_teardown_appcontext(ctx=context, exc=None)  # type: ignore[call-arg] # as in 3.2
                assert shop.out() == 0

    def test_flask_may_ask_for_the_names_of_the_arguments(
        self, sqlite_url: URL
    ) -> None:
        with Shop(sqlite_url) as shop:
            expected = inspect.signature(Flask.do_teardown_appcontext).parameters
            found = inspect.signature(shop.app.do_teardown_appcontext).parameters
            assert list(found) == list(expected)[1:]

    @before_32
    def test_an_app_with_the_new_signature_gives_everything_back(
        self, database: Database
    ) -> None:
        def fail(shop: Shop) -> None:
            @shop.app.teardown_appcontext
            def function(error: BaseException | None) -> None:
                if shop.app.config.get("FAILS"):
                    raise ZeroDivisionError

        app = NewFlask("new")
        steps = (add_database, add_guard, fail)
        with Shop(database.url, app=app, steps=steps) as shop:

            @shop.route
            def misuse() -> str:
                take_db_session(shop)
                return "taken"

            shop.app.config["FAILS"] = True
            with raises(ZeroDivisionError):
                shop.client.get("/misuse")
            assert shop.out() == 0
            Witness(shop).assert_nothing_left()


def take_db_session_of_other_bind(shop: Shop) -> None:
    """Leave a session in the middle of a transaction."""
    shop.keep(shop.db.session()).get(shop.Note, 1)


@pytest.mark.process
class TestMergedContexts:
    @before_32
    def test_everything_comes_back_and_requests_are_named(
        self, sqlite_url: URL
    ) -> None:
        assert run_program("merged_contexts", str(sqlite_url)) == {
            "endpoint": "misuse",
            "nested": "nested",
            "out": [0, 0, 0],
            "raised": True,
            "sessions": 0,
            "rows": 1,
        }
