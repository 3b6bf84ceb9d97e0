"""How the guard is put on an app, and what an app may count on while it starts."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from textwrap import dedent
from typing import Any

import flask_sqlalchemy
import flask_sqlalchemy_lite
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.globals import _cv_app
from sqlalchemy.pool import QueuePool

from flask_poolguard import ConfigError, PoolGuard, SetupError
from flask_poolguard.pool import GuardedPool
from tests.support.drivers import REQUIRED_DRIVERS
from tests.support.guarded_app import engine_of, guarded_pool, make_app
from tests.support.proxy import SilentServer

URL = "sqlite:////nowhere/shop.sqlite"
REPOSITORY = Path(__file__).parents[2]


def new_app(name: str = "shop", **config: Any) -> Flask:
    """Return an app with nothing on it but a database's address."""
    app = Flask(name)
    app.config.update(SQLALCHEMY_DATABASE_URI=URL, **config)
    return app


def is_guarded(app: Flask) -> bool:
    """Tell whether the app's main engine has a guarded pool."""
    return isinstance(engine_of(app).pool, GuardedPool)


class TestOrder:
    def test_the_guard_may_come_after_the_database(self) -> None:
        app = new_app()
        flask_sqlalchemy.SQLAlchemy(app)
        PoolGuard(app)
        assert is_guarded(app)

    def test_the_guard_may_come_before_the_database(self) -> None:
        app = new_app()
        PoolGuard(app)
        flask_sqlalchemy.SQLAlchemy(app)
        assert is_guarded(app)

    @pytest.mark.parametrize("guard_first", [True, False])
    def test_both_may_be_set_up_in_an_app_factory(self, guard_first: bool) -> None:
        db, guard = flask_sqlalchemy.SQLAlchemy(), PoolGuard()

        def create_app() -> Flask:
            app = new_app()
            steps = [guard.init_app, db.init_app]
            for step in steps if guard_first else reversed(steps):
                step(app)
            return app

        one, other = create_app(), create_app()
        assert is_guarded(one)
        assert is_guarded(other)
        assert engine_of(one) is not engine_of(other)

    def test_a_context_between_the_two_does_no_harm(self) -> None:
        app = new_app(POOLGUARD_BINDS={"default": {"pool_size": 2}})
        PoolGuard(app)
        with app.app_context():
            pass
        flask_sqlalchemy.SQLAlchemy(app)
        assert is_guarded(app)

    def test_a_request_before_the_database_is_set_up_does_no_harm(self) -> None:
        app = new_app()
        PoolGuard(app)
        assert app.test_client().get("/").status_code == 404
        # Flask refuses more setup after the first request, but not to everybody.
        app._got_first_request = False
        flask_sqlalchemy.SQLAlchemy(app)
        assert app.test_client().get("/").status_code == 404
        assert is_guarded(app)

    def test_an_app_without_a_database_is_served_as_before(self) -> None:
        app = Flask("shop")
        PoolGuard(app)
        app.add_url_rule("/", view_func=lambda: "hello")
        assert app.test_client().get("/").text == "hello"

    def test_the_first_context_may_be_pushed_by_several_threads_at_once(self) -> None:
        app = make_app(URL)
        barrier = threading.Barrier(8)
        found = set()

        def push() -> None:
            barrier.wait()
            with app.app_context():
                found.add(app.extensions["sqlalchemy"].engine.pool)

        threads = [threading.Thread(target=push) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 1
        assert len(app.extensions["poolguard"].engines) == 1


class TestEnvironment:
    def test_variables_reach_the_pools(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FLASK_POOLGUARD_POOL_SIZE", "7")
        monkeypatch.setenv("FLASK_POOLGUARD_BINDS__reports__pool_size", "2")
        app = new_app(SQLALCHEMY_BINDS={"reports": URL})
        app.config.from_prefixed_env()
        flask_sqlalchemy.SQLAlchemy(app)
        PoolGuard(app)
        assert guarded_pool(engine_of(app)).size() == 7
        assert guarded_pool(engine_of(app, "reports")).size() == 2


class TestSeveralApps:
    def test_two_apps_have_pools_and_settings_of_their_own(self) -> None:
        one = make_app(URL, POOLGUARD_POOL_SIZE=1)
        other = make_app(URL, POOLGUARD_POOL_SIZE=2)
        assert guarded_pool(engine_of(one)).size() == 1
        assert guarded_pool(engine_of(other)).size() == 2

    def test_two_apps_may_share_one_guard(self) -> None:
        guard = PoolGuard()
        apps = [new_app("one"), new_app("other", POOLGUARD_POOL_SIZE=2)]
        for app in apps:
            flask_sqlalchemy.SQLAlchemy(app)
            guard.init_app(app)
        assert [guarded_pool(engine_of(app)).size() for app in apps] == [5, 2]

    def test_two_apps_may_share_one_guard_and_one_database_extension(self) -> None:
        guard, db = PoolGuard(), flask_sqlalchemy_lite.SQLAlchemy()
        apps = []
        for size in (1, 2):
            app = Flask(f"shop{size}")
            app.config["SQLALCHEMY_ENGINES"] = {"default": URL}
            app.config["POOLGUARD_POOL_SIZE"] = size
            db.init_app(app)
            guard.init_app(app)
            apps.append(app)
        assert [guarded_pool(engine_of(app, "default")).size() for app in apps] == [
            1,
            2,
        ]

    def test_an_inner_context_of_another_app_finds_that_apps_engines(self) -> None:
        one, other = make_app(URL), make_app(URL)
        with one.app_context(), other.app_context():
            pass
        assert is_guarded(one)
        assert is_guarded(other)
        assert engine_of(one).pool is not engine_of(other).pool

    def test_setting_up_one_app_twice_is_an_error_that_says_so(self) -> None:
        app = Flask("shop")
        guard = PoolGuard(app)
        with pytest.raises(SetupError, match="'shop' has a PoolGuard already"):
            guard.init_app(app)
        with pytest.raises(SetupError, match="once per app"):
            PoolGuard(app)

    def test_an_app_without_a_guard_cannot_be_asked_or_added_to(self) -> None:
        guard, app = PoolGuard(), Flask("shop")
        with pytest.raises(SetupError, match="'shop' has no PoolGuard"):
            guard.report(app)
        with pytest.raises(SetupError, match="'shop' has no PoolGuard"):
            guard.register(sa.create_engine(URL), app=app)

    def test_the_guard_says_whose_it_is(self) -> None:
        guard, one, other = PoolGuard(), Flask("one"), Flask("other")
        assert repr(guard) == "<PoolGuard of no app yet>"
        guard.init_app(other)
        guard.init_app(one)
        assert repr(guard) == "<PoolGuard of one, other>"

    def test_the_guard_keeps_no_app_alive(self) -> None:
        guard = PoolGuard()
        app = new_app()
        flask_sqlalchemy.SQLAlchemy(app)
        guard.init_app(app)
        engine_of(app)
        app.test_client().get("/")
        reference = weakref.ref(app)
        del app
        gc.collect()
        assert reference() is None
        assert repr(guard) == "<PoolGuard of no app yet>"


class TestMistakes:
    """Contradictions that show only when the engines are looked at."""

    def broken(self) -> Flask:
        """Return an app with settings for a bind that it does not have."""
        app = make_app(URL, POOLGUARD_BINDS={"reports": {"pool_size": 2}})
        app.add_url_rule("/", view_func=lambda: "served")
        return app

    def test_each_context_fails_and_none_stays_behind(self) -> None:
        app = self.broken()
        for _ in range(2):
            with pytest.raises(ConfigError, match="no bind of this name"):
                app.app_context().push()
            assert _cv_app.get(None) is None

    def test_each_request_context_fails_as_well(self) -> None:
        app = self.broken()
        for _ in range(2):
            with pytest.raises(ConfigError, match="no bind of this name"):
                app.test_request_context("/").push()
            assert _cv_app.get(None) is None

    def test_each_request_fails_with_the_same_message(self) -> None:
        app = self.broken()
        client = app.test_client()
        for _ in range(2):
            with pytest.raises(ConfigError, match="no bind of this name"):
                client.get("/")
            assert _cv_app.get(None) is None

    def test_each_command_fails_with_the_message(self) -> None:
        app = self.broken()

        @app.cli.command("work")
        def work() -> None:
            raise AssertionError("must not run")

        for _ in range(2):
            result = app.test_cli_runner().invoke(args=["work"])
            assert isinstance(result.exception, ConfigError)
            assert _cv_app.get(None) is None

    def test_an_outer_context_of_another_app_stays_current(self) -> None:
        outer = Flask("outer")
        with outer.app_context():
            with pytest.raises(ConfigError):
                self.broken().app_context().push()
            assert _cv_app.get().app is outer

    def test_once_mended_the_app_is_guarded(self) -> None:
        app = self.broken()
        with pytest.raises(ConfigError):
            engine_of(app)
        state = app.extensions["poolguard"]
        assert state.engines == []
        extension = app.extensions["sqlalchemy"]
        assert type(extension._app_engines[app][None].pool) is QueuePool


class TestReport:
    def test_it_can_be_asked_for_outside_any_context(self, sqlite_url: sa.URL) -> None:
        guard, app = PoolGuard(), new_app()
        app.config["SQLALCHEMY_DATABASE_URI"] = sqlite_url
        flask_sqlalchemy.SQLAlchemy(app)
        guard.init_app(app)
        guard.report(app)
        assert is_guarded(app)

    def test_within_another_apps_context_it_is_still_about_the_app_asked_for(
        self, sqlite_url: sa.URL
    ) -> None:
        one, other = make_app(sqlite_url), make_app(URL)
        with other.app_context():
            PoolGuard().report(one)
        state = one.extensions["poolguard"]
        assert [each.engine.url for each in state.engines] == [sqlite_url]

    def test_outside_any_context_the_app_must_be_named(self) -> None:
        with pytest.raises(SetupError, match="needs an app context"):
            PoolGuard().report()


class TestCommandGroup:
    @pytest.mark.parametrize("name", ["pool", "db-pool"])
    def test_it_has_the_name_that_was_set(self, name: str) -> None:
        app = make_app(URL, POOLGUARD_CLI_GROUP=name)
        assert name in app.cli.commands

    def test_it_can_be_left_out(self) -> None:
        assert "pool" not in make_app(URL, POOLGUARD_CLI_GROUP=None).cli.commands


APP = """
    import os
    from flask import Flask
    from flask_sqlalchemy import SQLAlchemy
    from flask_poolguard import PoolGuard

    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["SHOP_DATABASE"]
    db = SQLAlchemy(app)
    PoolGuard(app)

    @app.get("/books")
    def books():
        return "books"

    if __name__ == "__main__":
        with app.app_context():
            print(type(db.engine.pool).__name__)
        print(app.test_client().get("/books").text)
"""


@pytest.mark.process
class TestStart:
    """The database's host takes connections and never says a word."""

    def run(self, folder: Path, url: sa.URL, *command: str) -> str:
        """Run a program beside the app; return what it printed."""
        (folder / "shop.py").write_text(dedent(APP))
        result = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(REPOSITORY),
                "SHOP_DATABASE": url.render_as_string(hide_password=False),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    @pytest.mark.parametrize("drivername", REQUIRED_DRIVERS)
    def test_the_app_starts_and_serves_without_one_connection(
        self, drivername: str, tmp_path: Path
    ) -> None:
        with SilentServer() as silent:
            url = self.url(drivername, silent)
            assert self.run(tmp_path, url, "shop.py") == "GuardedPool\nbooks\n"
            assert silent.connections == 0

    @pytest.mark.parametrize("drivername", REQUIRED_DRIVERS)
    def test_flask_routes_runs_without_one_connection(
        self, drivername: str, tmp_path: Path
    ) -> None:
        with SilentServer() as silent:
            url = self.url(drivername, silent)
            printed = self.run(tmp_path, url, "-m", "flask", "--app", "shop", "routes")
            assert "/books" in printed
            assert silent.connections == 0

    def url(self, drivername: str, silent: SilentServer) -> sa.URL:
        return sa.URL.create(drivername, "app", "any", silent.host, silent.port, "shop")
