"""Each context of a guarded app has a scope, however it was made."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, appcontext_pushed, current_app, has_app_context, request
from flask.ctx import AppContext
from sqlalchemy import URL, text
from werkzeug.routing import Rule

from flask_poolguard.tracking.current_scope import MERGED
from tests.support.shop import SEED, Shop, Witness

LOGGER = "flask_poolguard"


ADD = text("INSERT INTO item (name) VALUES ('added')")


def by_its_class(app: Flask) -> AppContext:
    """Make one past the app's method."""
    return AppContext(app)


def by_flasks_method(app: Flask) -> AppContext:
    """Make one by Flask's own method, past the app's."""
    return Flask.app_context(app)


class OwnContext(AppContext):
    """A context that counts its pushes."""

    pushes = 0

    def push(self) -> None:
        """Count, and push."""
        self.pushes += 1
        super().push()


def by_a_class_of_the_app(app: Flask) -> AppContext:
    """Make one of another class."""
    return OwnContext(app)


MAKERS = [by_its_class, by_flasks_method, by_a_class_of_the_app]


class OwnFlask(Flask):
    """An app that makes contexts of its own class."""

    def app_context(self) -> OwnContext:
        """Return one."""
        return OwnContext(self)


@pytest.fixture
def shop(sqlite_url: URL, caplog: pytest.LogCaptureFixture) -> Iterator[Shop]:
    """Run an app; the guard's warnings are the subject of other tests."""
    caplog.set_level(logging.CRITICAL, LOGGER)
    with Shop(sqlite_url) as shop:
        yield shop


def leave_one(shop: Shop) -> None:
    """Take a connection and keep it."""
    shop.keep(shop.engine.connect())


class TestWhatTheyAre:
    def test_they_are_flasks(self, shop: Shop) -> None:
        assert type(shop.app.app_context()) is AppContext
        assert shop.app.app_context.__func__ is Flask.app_context  # type: ignore[attr-defined] # a method

    def test_their_signal_is_sent_once(self, shop: Shop) -> None:
        pushed: list[Any] = []

        def receive(sender: Flask, **_: object) -> None:
            pushed.append(has_app_context())

        with appcontext_pushed.connected_to(receive, shop.app), shop.app.app_context():
            assert pushed == [True]


class TestOfOtherClasses:
    def test_an_apps_own_class_is_kept(self, sqlite_url: URL) -> None:
        with Shop(sqlite_url, app=OwnFlask("shop")) as shop:
            context = shop.app.app_context()
            assert isinstance(context, OwnContext)
            with context:
                leave_one(shop)
            assert context.pushes == 1
            assert shop.out() == 0

    def test_an_apps_own_class_serves_requests(self, sqlite_url: URL) -> None:
        with Shop(sqlite_url, app=OwnFlask("shop")) as shop:

            @shop.route
            def view() -> str:
                leave_one(shop)
                return request.path

            assert shop.client.get("/view").text == "/view"
            assert shop.out() == 0

    def test_a_copy_has_a_scope_of_its_own(self, shop: Shop) -> None:
        outer = shop.app.app_context()
        with outer:
            leave_one(shop)
            with copy_of(outer):
                leave_one(shop)
                assert shop.out() == 2
            assert shop.out() == 1
        assert shop.out() == 0

    @pytest.mark.parametrize("make", MAKERS, ids=[each.__name__ for each in MAKERS])
    def test_each_way_to_make_one_ends_what_it_left(
        self, shop: Shop, make: Callable[[Flask], AppContext]
    ) -> None:
        with make(shop.app):
            assert current_app.name == shop.app.name
            leave_one(shop)
        assert shop.out() == 0

    def test_no_other_commits_what_one_had_not(self, shop: Shop) -> None:
        """A session outlives its context if a teardown function raises, and another
        context may get its ``id``.
        """
        is_broken = True

        @shop.app.teardown_appcontext
        def fail(_: object) -> None:
            if is_broken:
                raise ZeroDivisionError

        for _ in range(20):
            is_broken = True
            with contextlib.suppress(ZeroDivisionError), AppContext(shop.app):
                shop.db.session.add(shop.Item(name="not committed"))
                shop.db.session.flush()
            is_broken = False
            with AppContext(shop.app):
                shop.db.session.add(shop.Item(name="committed"))
                shop.db.session.commit()
        assert set(Witness(shop).names()) == {"committed", SEED}

    @pytest.mark.parametrize("make", MAKERS, ids=[each.__name__ for each in MAKERS])
    def test_an_app_may_replace_how_it_makes_them(
        self, shop: Shop, make: Callable[[Flask], AppContext]
    ) -> None:
        app = shop.app
        app.app_context = lambda: make(app)  # type: ignore[method-assign] # what is tested

        @shop.route
        def view() -> str:
            leave_one(shop)
            return str(shop.out())

        assert shop.client.get("/view").text == "1"
        assert shop.out() == 0

    def test_what_an_app_without_guard_took_within_stays_with_its_owner(
        self, shop: Shop
    ) -> None:
        plain = Flask("plain")
        with shop.app.app_context(), plain.app_context():
            connection = shop.keep(shop.engine.connect())
            connection.execute(ADD)
        connection.commit()
        connection.close()
        assert "added" in Witness(shop).names()


class TestEndpoints:
    def test_a_route_without_one_may_use_the_database(self, shop: Shop) -> None:
        shop.app.url_map.add(Rule("/health"))

        @shop.app.before_request
        def answer() -> str:
            with shop.engine.connect() as connection:
                return str(connection.scalar(text("SELECT 1")))

        assert shop.client.get("/health").text == "1"
        assert shop.out() == 0


def copy_of(context: AppContext) -> AppContext:
    """Return a context that was copied with all its attributes, as some extensions do,
    and is not pushed yet.
    """
    copied = copy.copy(context)
    if MERGED:
        vars(copied).update(_cv_token=None, _push_count=0)
    else:
        copied._cv_tokens = []
    return copied
