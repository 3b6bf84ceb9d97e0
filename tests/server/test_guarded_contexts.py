"""Contexts of a guarded app are Flask's own, or the app's, with a scope."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, appcontext_pushed, current_app, has_app_context, request
from flask.ctx import AppContext
from sqlalchemy import URL

from flask_poolguard.tracking.current_scope import MERGED
from tests.support.shop import Shop

LOGGER = "flask_poolguard"


class OwnContext(AppContext):
    """A context that counts its pushes."""

    pushes = 0

    def push(self) -> None:
        """Count, and push."""
        self.pushes += 1
        super().push()


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
    def test_an_app_context_is_flasks(self, shop: Shop) -> None:
        context = shop.app.app_context()
        assert isinstance(context, AppContext)
        assert type(context).__qualname__ == AppContext.__qualname__
        assert type(context).__module__ == AppContext.__module__

    @pytest.mark.skipif(MERGED, reason="there is no request context of its own there")
    def test_a_request_context_is_flasks(self, shop: Shop) -> None:
        from flask.ctx import RequestContext

        context = shop.app.test_request_context("/somewhere")
        assert isinstance(context, RequestContext)
        plain = RequestContext(shop.app, context.request.environ)
        assert repr(context) == repr(plain)

    def test_their_signal_is_sent_once(self, shop: Shop) -> None:
        pushed: list[Any] = []

        def receive(sender: Flask, **_: object) -> None:
            pushed.append(has_app_context())

        with appcontext_pushed.connected_to(receive, shop.app), shop.app.app_context():
            assert pushed == [True]

    def test_a_receiver_of_that_signal_may_use_the_database(self, shop: Shop) -> None:
        """The scope is open by then, so what it takes comes back with the context."""

        def receive(sender: Flask, **_: object) -> None:
            leave_one(shop)

        with appcontext_pushed.connected_to(receive, shop.app):
            with shop.app.app_context():
                assert shop.out() == 1
            assert shop.out() == 0

            @shop.route
            def view() -> str:
                return str(shop.out())

            assert shop.client.get("/view").text == "1"
        assert shop.out() == 0


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

    def test_what_the_app_did_not_make_belongs_to_what_is_around(
        self, shop: Shop
    ) -> None:
        with shop.app.app_context():
            with AppContext(shop.app):
                assert current_app.name == shop.app.name
                leave_one(shop)
            assert shop.out() == 1
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
