"""In debug mode: the panel of Flask-DebugToolbar, and the notes of Flask's own page."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, current_app, request
from flask_sqlalchemy import SQLAlchemy
from werkzeug.debug import DebuggedApplication
from werkzeug.test import Client

from flask_poolguard import PoolGuard
from flask_poolguard.tracking.request_checkouts import MOST_RECORDED, taken_by
from tests.conftest import Database
from tests.support import forked_python
from tests.support.waiting import wait_until

HTML_NAME = "<b>bind</b>"
SELECT = sa.text("SELECT 1")

MakeApp = Callable[..., Flask]


@pytest.fixture
def make_app(database: Database) -> Iterator[MakeApp]:
    """Return a function that makes apps of one pool, with what a view may do."""
    made: list[Flask] = []

    def make(
        *, is_debug: bool = True, has_toolbar: bool = False, **config: Any
    ) -> Flask:
        app = Flask("shop")
        app.debug = is_debug
        app.config.update(
            SQLALCHEMY_DATABASE_URI=database.url,
            SECRET_KEY="secret",
            DEBUG_TB_PANELS=["flask_poolguard.debug_toolbar.PoolPanel"],
        )
        app.config.update(config)
        SQLAlchemy(app)
        PoolGuard(app)
        if has_toolbar:
            toolbar = pytest.importorskip(
                "flask_debugtoolbar", reason="Flask-DebugToolbar is missing"
            )
            toolbar.DebugToolbarExtension(app)
        made.append(app)
        return app

    yield make
    for app in made:
        with app.app_context():
            for engine in app.extensions["sqlalchemy"].engines.values():
                engine.dispose()


def db() -> SQLAlchemy:
    """Return the database extension of the current app."""
    found: SQLAlchemy = current_app.extensions["sqlalchemy"]
    return found


def page() -> str:
    """Return a page that the toolbar can be added to."""
    return "<!doctype html><html><body>page</body></html>"


def rows(html: str) -> list[list[str]]:
    """Return the panel's cells."""
    found = re.findall(r"<tr class=\"flDebug.*?</tr>", html, re.S)
    return [[unescape(c) for c in re.findall(r"<td>(.*?)</td>", row)] for row in found]


def subtitle(html: str) -> str:
    """Return what the toolbar says of the panel."""
    (found,) = re.findall(r"Pools\s*<br /><small>(.*?)</small>", html)
    return str(found)


class TestPanel:
    def test_lists_what_the_request_took_and_what_is_still_out(
        self, make_app: MakeApp
    ) -> None:
        app = make_app(has_toolbar=True)
        leaked = []

        @app.get("/")
        def view() -> str:
            with db().engine.connect() as connection:
                connection.execute(SELECT)
            db().session.execute(SELECT)
            leaked.append(db().engine.connect())
            return page()

        with pytest.warns(UserWarning, match="did not give back"):
            html = app.test_client().get("/").text
        assert subtitle(html) == "3 checkouts, 2 out"
        first, second, third = rows(html)
        for row in (first, second, third):
            bind, site, waited, held, _ = row
            assert bind == "default"
            assert re.fullmatch(r".*test_debug_mode\.py:\d+", site)
            assert re.fullmatch(r"\d+\.\d+ s", waited)
            assert re.fullmatch(r"\d+\.\d+ s", held)
        assert first[4] == "yes"
        assert second[4] == "with its session, at the end of the request"
        assert third[4] == "not yet"

    def test_says_how_long_it_waited(self, make_app: MakeApp) -> None:
        """For the only connection of the pool, which another thread has."""
        sizes = {"POOLGUARD_POOL_SIZE": 1, "POOLGUARD_MAX_OVERFLOW": 0}
        app = make_app(has_toolbar=True, **sizes)
        taken = threading.Event()

        @app.get("/")
        def view() -> str:
            db().session.execute(SELECT)
            return page()

        def hold_until_the_view_waits() -> None:
            (guarded,) = app.extensions["poolguard"].engines
            with app.app_context(), db().engine.connect():
                taken.set()
                wait_until(lambda: guarded.tracker.figures.waiting, seconds=30)
                time.sleep(0.1)  # so that there is a time to be shown

        thread = threading.Thread(target=hold_until_the_view_waits)
        app.test_client().get("/")  # the first request begins the record
        thread.start()
        assert taken.wait(30)
        ((_, _, waited, *_),) = rows(app.test_client().get("/").text)
        thread.join()
        assert float(waited.removesuffix(" s")) >= 0.1

    def test_of_a_request_that_took_none(self, make_app: MakeApp) -> None:
        app = make_app(has_toolbar=True)
        app.add_url_rule("/", "page", page)
        html = app.test_client().get("/").text
        assert "This request took no connection" in html
        assert subtitle(html) == "0 checkouts"

    def test_says_if_nothing_is_recorded(self, make_app: MakeApp) -> None:
        """The toolbar can be switched on without debug mode."""
        app = make_app(has_toolbar=True, is_debug=False, DEBUG_TB_ENABLED=True)

        @app.get("/")
        def view() -> str:
            db().session.execute(SELECT)
            return page()

        html = app.test_client().get("/").text
        assert "Nothing was recorded" in html
        assert subtitle(html) == "0 checkouts"

    def test_shows_a_name_as_it_is(self, make_app: MakeApp, database: Database) -> None:
        app = make_app(has_toolbar=True)
        engine = sa.create_engine(database.url)
        PoolGuard.register(PoolGuard(), engine, name=HTML_NAME, app=app)

        @app.get("/")
        def view() -> str:
            with engine.connect() as connection:
                connection.execute(SELECT)
            return page()

        html = app.test_client().get("/").text
        assert HTML_NAME not in html
        assert rows(html)[0][0] == HTML_NAME
        engine.dispose()

    def test_what_was_lost_or_left_its_pool_is_not_out(self, make_app: MakeApp) -> None:
        app = make_app(has_toolbar=True)
        detached: list[sa.Connection] = []

        @app.get("/")
        def view() -> str:
            with db().engine.connect() as lost:
                lost.invalidate()
            detached.append(db().engine.connect())
            detached[0].detach()
            return page()

        html = app.test_client().get("/").text
        assert [row[4] for row in rows(html)] == ["yes", "yes"]
        detached[0].close()

    def test_of_a_connection_that_all_share(self, make_app: MakeApp) -> None:
        """Whose use ended when is not known there, only whether it is in use."""
        app = make_app(has_toolbar=True, SQLALCHEMY_DATABASE_URI="sqlite://")

        @app.get("/")
        def view() -> str:
            db().session.execute(SELECT)
            with db().engine.connect() as connection:
                connection.execute(SELECT)
            return page()

        first, second = rows(app.test_client().get("/").text)
        assert first[4] == "with its session, at the end of the request"
        assert second[2:] == ["?", "?", "yes"]

    def test_has_an_end(self, make_app: MakeApp) -> None:
        app = make_app(has_toolbar=True)

        @app.get("/")
        def view() -> str:
            for _ in range(MOST_RECORDED + 2):
                with db().engine.connect():
                    pass
            return page()

        html = app.test_client().get("/").text
        assert len(rows(html)) == MOST_RECORDED
        assert "and 2 more" in html
        assert subtitle(html) == f"{MOST_RECORDED + 2} checkouts"


class TestWhoseTheyAre:
    """Each panel shows its own request's connections only."""

    def test_of_requests_in_parallel_threads(self, make_app: MakeApp) -> None:
        app = make_app(has_toolbar=True)
        both = threading.Barrier(2)

        @app.get("/<int:times>")
        def view(times: int) -> str:
            both.wait(30)
            for _ in range(times):
                with db().engine.connect() as connection:
                    connection.execute(SELECT)
            both.wait(30)
            return page()

        app.test_client()  # one makes the app's first request before the other
        found: dict[int, int] = {}

        def visit(times: int) -> None:
            found[times] = len(rows(app.test_client().get(f"/{times}").text))

        threads = [threading.Thread(target=visit, args=(each,)) for each in (1, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {1: 1, 3: 3}

    def test_of_contexts_and_requests_within(self, make_app: MakeApp) -> None:
        """A context within is the request's; a request within has its own.

        The toolbar itself forgets the outer one, and shows none there.
        """
        app = make_app()
        counts: list[int] = []

        @app.get("/inner")
        def within() -> str:
            for _ in range(2):
                with db().engine.connect():
                    pass
            counts.append(taken_by(request.environ).count)
            return page()

        @app.get("/")
        def view() -> str:
            with current_app.app_context():
                db().session.execute(SELECT)
            current_app.test_client().get("/inner")
            counts.append(taken_by(request.environ).count)
            return page()

        app.test_client().get("/")
        assert counts == [2, 1]

    def test_of_an_async_view(self, make_app: MakeApp) -> None:
        """The toolbar itself cannot call one."""
        app = make_app()

        @app.get("/")
        async def view() -> str:
            with db().engine.connect() as connection:
                connection.execute(SELECT)
            return str(taken_by(request.environ).count)

        assert app.test_client().get("/").text == "1"

    def test_not_of_a_thread_that_the_view_started(self, make_app: MakeApp) -> None:
        app = make_app(has_toolbar=True)

        def work() -> None:
            with app.app_context(), db().engine.connect():
                pass

        @app.get("/")
        def view() -> str:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            return page()

        assert rows(app.test_client().get("/").text) == []

    def test_of_a_stream_that_is_read_between_them(self, make_app: MakeApp) -> None:
        app = make_app(has_toolbar=True)

        @app.get("/stream")
        def stream() -> Iterator[str]:
            engine = db().engine

            def parts() -> Iterator[str]:
                for _ in range(3):
                    with engine.connect() as connection:
                        connection.execute(SELECT)
                        yield "part"

            return parts()

        @app.get("/")
        def view() -> str:
            db().session.execute(SELECT)
            return page()

        client = app.test_client()
        answer = client.get("/stream", buffered=False)
        parts = answer.iter_encoded()
        next(parts)
        assert len(rows(app.test_client().get("/").text)) == 1
        assert list(parts) == [b"part"] * 2
        answer.close()
        assert len(rows(app.test_client().get("/").text)) == 1


class TestNotes:
    def fail(self, app: Flask, error: BaseException) -> None:
        """Add a view that takes two connections and fails."""

        @app.get("/")
        def view() -> str:
            with db().engine.connect() as connection:
                connection.execute(SELECT)
            db().session.execute(SELECT)
            raise error

    def test_flasks_own_page_shows_what_the_request_took(
        self, make_app: MakeApp
    ) -> None:
        app = make_app()
        self.fail(app, ValueError("<i>wrong</i>"))
        html = Client(DebuggedApplication(app)).get("/").text
        assert "this request took 2 connections" in html
        assert re.search(r"default at \S*test_debug_mode\.py:\d+, held for", html)
        assert re.search(r"default at \S*test_debug_mode\.py:\d+, still out", html)
        # At the end there is a comment, with the traceback as it is.
        assert "<i>wrong" not in html.rpartition("<!--")[0]

    def test_the_error_stays_as_it_is_and_gets_one_note(
        self, make_app: MakeApp
    ) -> None:
        error = ValueError("wrong", 1)
        app = make_app()
        self.fail(app, error)
        for _ in range(2):
            with pytest.raises(ValueError, match="wrong") as raised:
                app.test_client().get("/")
            assert raised.value is error
        assert str(error) == "('wrong', 1)"
        (note,) = error.__notes__
        assert note.count("\n") == 2

    def test_an_error_that_takes_no_note_goes_its_way(self, make_app: MakeApp) -> None:
        error = ValueError("wrong")
        error.__notes__ = ()  # type: ignore[assignment] # as some library may do
        app = make_app()
        self.fail(app, error)
        with pytest.raises(ValueError, match="wrong"):
            app.test_client().get("/")

    def test_there_is_none_without_connections_or_debug_mode(
        self, make_app: MakeApp
    ) -> None:
        error = ValueError("wrong")
        app = make_app(is_debug=False, PROPAGATE_EXCEPTIONS=True)
        self.fail(app, error)
        with pytest.raises(ValueError, match="wrong"):
            app.test_client().get("/")
        assert not hasattr(error, "__notes__")

        app = make_app()
        app.add_url_rule("/", "view", lambda: [][0])
        with pytest.raises(IndexError) as raised:
            app.test_client().get("/")
        assert getattr(raised.value, "__notes__", []) == []


APP = """
import sys
from flask import Flask
from flask_poolguard import PoolGuard
from flask_sqlalchemy import SQLAlchemy
app = Flask("shop")
app.debug = sys.argv[1] == "debug"
app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
db = SQLAlchemy(app)
PoolGuard(app)
app.add_url_rule("/", "view", lambda: str(db.session.scalar(db.text("SELECT 1"))))
assert app.test_client().get("/").text == "1"
parts = ("request_checkouts", "debug_notes", "debug_toolbar")
print(*[each for each in parts if any(name.endswith(each) for name in sys.modules)])
"""


@pytest.mark.parametrize(
    ("mode", "imported"),
    [("debug", "request_checkouts debug_notes"), ("production", "")],
)
def test_outside_of_debug_mode_nothing_of_it_is_imported(
    tmp_path: Path, mode: str, imported: str
) -> None:
    (tmp_path / "shop.py").write_text(APP)
    command = [sys.executable, str(tmp_path / "shop.py"), mode]
    done = forked_python.run(command, env=dict(os.environ), seconds=60)
    assert done.stdout.strip() == imported, done.stderr
