"""No connection to be had, or no database, is a 503 and not a 500."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from flask import Flask, got_request_exception
from sqlalchemy import URL, create_engine, exc, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, QueuePool, StaticPool
from werkzeug.exceptions import ServiceUnavailable

from flask_poolguard import DatabaseUnavailable, PoolDeadlock, PoolGuard, PoolTimeout
from tests.support.servers import APP_PASSWORD, DatabaseServer
from tests.support.waiting import free_port

# Pools that the guard replaces (the first), and some that it must keep.
CLASSES = (None, NullPool, StaticPool, type("Own", (QueuePool,), {}))


def make_app(url: URL, pool_class: Any = None, **config: Any) -> Flask:
    """Return an app whose view /nested takes one connection more than there are.

    :param pool_class: of the app's own choice.
    """
    app = Flask("busy")
    app.config.update(config)
    if pool_class in (None, NullPool):  # which any other refuses
        app.config.update(
            POOLGUARD_POOL_SIZE=1,
            POOLGUARD_MAX_OVERFLOW=0,
            POOLGUARD_POOL_TIMEOUT=0.1,
            POOLGUARD_CONNECT_RETRY=0.1,
        )
    engine = create_engine(url, poolclass=pool_class)
    PoolGuard(app).register(engine, app=app)

    @app.get("/nested")
    def nested() -> str:
        with engine.connect(), engine.connect():
            return "never"

    @app.get("/one")
    def one() -> str:
        with Session(engine) as session:
            return str(session.scalar(text("SELECT 1")))

    @app.get("/raw")
    def raw() -> str:
        engine.raw_connection().close()
        return "raw"

    app.extensions["engine"] = engine
    return app


@pytest.fixture
def away(postgresql_url: URL) -> URL:
    """Return the URL of a server that does not run."""
    return postgresql_url.set(port=free_port())


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Catch what the app logs."""
    caplog.set_level(logging.ERROR, "busy")
    return caplog


class TestAnswer:
    def test_a_pool_without_a_connection_is_503(
        self, sqlite_url: URL, quiet: pytest.LogCaptureFixture
    ) -> None:
        response = make_app(sqlite_url).test_client().get("/nested")
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0
        assert "Deadlock" not in response.text

    def test_a_database_that_is_away_is_503(
        self, away: URL, quiet: pytest.LogCaptureFixture
    ) -> None:
        response = make_app(away).test_client().get("/one")
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0

    @pytest.mark.parametrize("view", ["/one", "/raw"])
    @pytest.mark.parametrize("pool_class", [*CLASSES, "null"])
    def test_whatever_pool_or_connection_is_used(
        self,
        view: str,
        pool_class: Any,
        driver_url: URL,
        quiet: pytest.LogCaptureFixture,
    ) -> None:
        config = {}
        if pool_class == "null":
            config, pool_class = {"POOLGUARD_POOL_CLASS": "null"}, None
        app = make_app(driver_url.set(port=free_port()), pool_class, **config)
        response = app.test_client().get(view)
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0

    @pytest.mark.parametrize("view", ["/one", "/raw"])
    @pytest.mark.parametrize("pool_class", CLASSES)
    def test_a_full_server_is_503_too(
        self,
        view: str,
        pool_class: Any,
        postgresql: DatabaseServer,
        postgresql_url: URL,
        quiet: pytest.LogCaptureFixture,
    ) -> None:
        postgresql.execute(
            f"ALTER DATABASE {postgresql_url.database} CONNECTION LIMIT 0"
        )
        app = make_app(postgresql_url, pool_class)
        assert app.test_client().get(view).status_code == 503

    @pytest.mark.parametrize("view", ["/one", "/raw"])
    @pytest.mark.parametrize("pool_class", CLASSES)
    def test_a_wrong_password_stays_500_with_any_pool(
        self,
        view: str,
        pool_class: Any,
        driver_url: URL,
        quiet: pytest.LogCaptureFixture,
    ) -> None:
        app = make_app(driver_url.set(password="wrong"), pool_class)
        assert app.test_client().get(view).status_code == 500

    @pytest.mark.parametrize("pool_class", CLASSES)
    def test_each_time_it_fails_anew(
        self, pool_class: Any, away: URL, quiet: pytest.LogCaptureFixture
    ) -> None:
        client = make_app(away, pool_class).test_client()
        assert [client.get("/one").status_code for _ in range(3)] == [503] * 3

    @pytest.mark.parametrize("pool_class", CLASSES)
    def test_a_pool_that_replaced_another_is_no_exception(
        self, pool_class: Any, away: URL, quiet: pytest.LogCaptureFixture
    ) -> None:
        app = make_app(away, pool_class)
        with app.app_context():
            app.extensions["engine"].dispose()
        assert app.test_client().get("/raw").status_code == 503

    def test_it_is_logged_and_told_as_an_error_of_the_app(
        self, away: URL, quiet: pytest.LogCaptureFixture
    ) -> None:
        app, told = make_app(away), []

        def tell(sender: Flask, exception: BaseException, **extra: Any) -> None:
            told.append(exception)

        with got_request_exception.connected_to(tell, app):
            app.test_client().get("/one")
        (record,) = [each for each in quiet.records if each.name == "busy"]
        assert record.exc_info is not None
        (error,) = told
        assert record.exc_info[1] is error
        assert isinstance(error, DatabaseUnavailable)
        assert "no connection since" in str(error)
        assert APP_PASSWORD not in str(error)

    def test_other_errors_of_the_database_stay_500(
        self, postgresql_url: URL, quiet: pytest.LogCaptureFixture
    ) -> None:
        app = make_app(postgresql_url.set(password="wrong"))
        assert app.test_client().get("/one").status_code == 500

    def test_it_can_be_switched_off(
        self, sqlite_url: URL, quiet: pytest.LogCaptureFixture
    ) -> None:
        app = make_app(sqlite_url, POOLGUARD_HTTP_503=False)
        assert app.test_client().get("/nested").status_code == 500

    @pytest.mark.parametrize("config", [{"TESTING": True}, {"DEBUG": True}])
    def test_tests_and_debuggers_see_the_error_itself(
        self, sqlite_url: URL, config: dict[str, Any]
    ) -> None:
        app = make_app(sqlite_url, **config)
        with pytest.raises(PoolDeadlock):
            app.test_client().get("/nested")


class TestHandlers:
    @pytest.mark.parametrize(
        "handled", [PoolDeadlock, PoolTimeout, exc.TimeoutError, Exception]
    )
    def test_a_handler_of_the_app_comes_first(
        self, sqlite_url: URL, handled: type[Exception]
    ) -> None:
        app = make_app(sqlite_url)
        app.register_error_handler(handled, lambda error: ("mine", 418))
        response = app.test_client().get("/nested")
        assert (response.status_code, response.text) == (418, "mine")

    @pytest.mark.parametrize("handled", [exc.OperationalError, DatabaseUnavailable])
    @pytest.mark.parametrize("pool_class", CLASSES)
    def test_one_for_the_database_too(
        self, away: URL, handled: Any, pool_class: Any
    ) -> None:
        app = make_app(away, pool_class)
        app.register_error_handler(handled, lambda error: ("mine", 418))
        assert app.test_client().get("/one").status_code == 418

    @pytest.mark.parametrize("pool_class", CLASSES)
    def test_one_for_the_drivers_errors_too(self, away: URL, pool_class: Any) -> None:
        app = make_app(away, pool_class)
        driver: Any = app.extensions["engine"].dialect.loaded_dbapi
        app.register_error_handler(driver.Error, lambda error: ("mine", 418))
        assert app.test_client().get("/raw").status_code == 418

    def test_a_page_for_503_is_used_and_knows_the_cause(
        self, sqlite_url: URL, quiet: pytest.LogCaptureFixture
    ) -> None:
        app, causes = make_app(sqlite_url), []

        @app.errorhandler(503)
        def busy(error: ServiceUnavailable) -> tuple[str, int]:
            causes.append(error.__cause__)
            return "a page of the app's", 503

        assert app.test_client().get("/nested").text == "a page of the app's"
        (cause,) = causes
        assert isinstance(cause, PoolDeadlock)
