"""Settings that are made after the guard was set up, until the first request."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.pool import NullPool

from flask_poolguard import ConfigError, LeakError, PoolGuard
from flask_poolguard.config import FIXED
from flask_poolguard.engines import Guarded
from flask_poolguard.options import OPTIONS, Option
from flask_poolguard.pool import GuardedPool
from tests.conftest import Database
from tests.support.guarded_app import make_app, warnings_of

CANDIDATES: tuple[Any, ...] = (
    {"default": {"pool_size": 7, "on_leak": "raise"}},
    7,
    False,
    "null",
    "raise",
    "/nowhere/else",
    "other",
)


def other_value(option: Option) -> Any:
    """Return a value that is allowed and not the default."""
    for value in CANDIDATES:
        if option.accepts(value) and value != option.default:
            return value
    raise AssertionError(f"CANDIDATES has no value for {option.key}")


def guarded(app: Flask) -> Guarded:
    with app.app_context():
        (found,) = app.extensions["poolguard"].engines
    guarded: Guarded = found
    return guarded


def nature(app: Flask) -> tuple[Any, ...]:
    """Return all that settings decide of an app's one pool."""
    found = guarded(app)
    pool, tracker = found.engine.pool, found.tracker
    nature: tuple[Any, ...] = (found.settings, type(pool), tracker.facts)
    nature += (tracker.info.on_leak, tracker.figures.held_warning)
    if isinstance(pool, GuardedPool):
        nature += (pool.policy, pool.size(), pool._max_overflow, pool.timeout())
    return nature


def use(app: Flask) -> None:
    """Use the database in the factory, as db.create_all() does."""
    with app.app_context():
        engine: sa.Engine = app.extensions["sqlalchemy"].engine
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE IF NOT EXISTS item (id INT)"))


@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("option", OPTIONS, ids=lambda each: each.name)
class TestEachOption:
    def test_takes_effect_or_is_said_to_have_none(
        self,
        option: Option,
        is_used: bool,
        sqlite_url: sa.URL,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        value = other_value(option)
        late = make_app(sqlite_url)
        if is_used:
            use(late)
        late.config[option.key] = value
        found = nature(late)
        nature(late)  # with each push
        if option.name in FIXED:
            (warning,) = warnings_of(caplog)
            assert f"{option.key} = {value!r} has no effect" in warning
            assert repr(option.default) in warning
            assert "before PoolGuard(app) or init_app(app)" in warning
            return
        assert warnings_of(caplog) == []
        early = make_app(sqlite_url, **{option.key: value})
        assert found == nature(early)
        assert found != nature(make_app(sqlite_url))

    def test_is_checked_as_at_start(
        self, option: Option, is_used: bool, sqlite_url: sa.URL
    ) -> None:
        app = make_app(sqlite_url)
        if is_used:
            use(app)
        app.config[option.key] = object()
        for _ in range(2):
            with pytest.raises(ConfigError, match=option.key):
                app.app_context().push()
        del app.config[option.key]
        use(app)


class TestWhen:
    def test_a_leak_raises_with_the_first_request(self, database: Database) -> None:
        app = make_app(database.url)
        use(app)
        app.config.update(POOLGUARD_ON_LEAK="raise", PROPAGATE_EXCEPTIONS=True)

        @app.get("/")
        def view() -> str:
            app.extensions["kept"] = app.extensions["sqlalchemy"].engine.connect()
            return ""

        with pytest.raises(LeakError):
            app.test_client().get("/")
        guarded(app).engine.dispose()

    def test_a_leak_raises_in_an_app_that_serves_no_request(
        self, database: Database
    ) -> None:
        app = make_app(database.url)
        use(app)
        app.config["POOLGUARD_ON_LEAK"] = "raise"
        kept = []
        with pytest.raises(LeakError), app.app_context():
            kept.append(app.extensions["sqlalchemy"].engine.connect())
        guarded(app).engine.dispose()

    def test_a_pool_that_was_used_is_replaced(self, database: Database) -> None:
        app = make_app(database.url)
        use(app)
        old = guarded(app).engine.pool
        app.config["POOLGUARD_POOL_SIZE"] = 2
        use(app)
        new = guarded(app).engine.pool
        assert isinstance(old, GuardedPool)
        assert isinstance(new, GuardedPool)
        assert (old.checkedin(), new.size(), new.checkedin()) == (0, 2, 1)
        (worker,) = PoolGuard().report(app).workers
        assert [pool.size for pool in worker.pools] == [2]
        new.dispose()

    def test_no_pool_at_all_is_observed(self, database: Database) -> None:
        app = make_app(database.url)
        use(app)
        app.config["POOLGUARD_POOL_CLASS"] = "null"
        use(app)
        found = guarded(app)
        assert type(found.engine.pool) is NullPool
        assert found.tracker.figures.counts["connects"] == 2
        assert not found.tracker.out

    def test_a_bind_that_does_not_exist_is_an_error(self, sqlite_url: sa.URL) -> None:
        app = make_app(sqlite_url)
        use(app)
        app.config["POOLGUARD_BINDS"] = {"defualt": {"pool_size": 7}}
        with pytest.raises(ConfigError, match="no bind of this name"):
            app.test_client().get("/")

    def test_an_unknown_key_is_an_error(self, sqlite_url: sa.URL) -> None:
        app = make_app(sqlite_url)
        app.config["POOLGUARD_POOL_SIEZ"] = 7
        with pytest.raises(ConfigError, match="Did you mean 'POOLGUARD_POOL_SIZE'"):
            app.test_client().get("/")

    def test_after_the_first_request_nothing_is_read(self, sqlite_url: sa.URL) -> None:
        app = make_app(sqlite_url)
        app.test_client().get("/")
        before = nature(app)
        app.config["POOLGUARD_POOL_SIZE"] = 2
        app.config["POOLGUARD_NONSENSE"] = 2
        app.test_client().get("/")
        assert nature(app) == before

    def test_the_data_of_a_database_in_memory_stays(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        url = "sqlite:///file:late?mode=memory&cache=shared&uri=true"
        app = Flask("shop")
        app.config.update(
            SQLALCHEMY_DATABASE_URI=url,
            SQLALCHEMY_ENGINE_OPTIONS={"poolclass": sa.QueuePool},
        )
        db = SQLAlchemy(app)
        PoolGuard(app)
        use(app)
        app.config["POOLGUARD_POOL_SIZE"] = 2
        with app.app_context():
            assert db.session.scalar(sa.text("SELECT COUNT(*) FROM item")) == 0
        (warning,) = warnings_of(caplog)
        assert "POOLGUARD_POOL_SIZE was set after the database in memory" in warning
        guarded(app).engine.dispose()
