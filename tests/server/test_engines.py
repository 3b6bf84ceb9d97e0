"""Which engines are found, which pools they get, and what stays as it was."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import flask_sqlalchemy
import flask_sqlalchemy_lite
import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import (
    AsyncAdaptedQueuePool,
    NullPool,
    Pool,
    QueuePool,
    SingletonThreadPool,
    StaticPool,
)

from flask_poolguard import ConfigError, ConnectionReturned, PoolGuard, SetupError
from flask_poolguard.engines import Guarded
from flask_poolguard.pool import GuardedPool
from tests.conftest import Database
from tests.support.guarded_app import (
    checked_out_id,
    engine_of,
    guarded_pool,
    make_app,
    session_id,
    warnings_of,
)
from tests.support.servers import (
    APP_PASSWORD,
    DatabaseServer,
    MariaDBServer,
    PostgreSQLServer,
)
from tests.support.waiting import wait_until

URL = "sqlite:////nowhere/shop.sqlite"


def guarded(app: Flask) -> dict[str, Guarded]:
    """Return the guarded engines of an app by their bind's name."""
    with app.app_context():
        return {each.bind: each for each in app.extensions["poolguard"].engines}


def pools(app: Flask) -> dict[str, Pool]:
    """Return the pools of an app by their bind's name."""
    return {bind: each.engine.pool for bind, each in guarded(app).items()}


def size_of(pool: Pool) -> tuple[int, int, float]:
    """Return a queue pool's size, overflow and timeout."""
    assert isinstance(pool, QueuePool)
    return pool.size(), pool._max_overflow, pool.timeout()


@pytest.fixture
def engines() -> Iterator[list[sa.Engine]]:
    """Collect engines that are to be disposed of after the test."""
    made: list[sa.Engine] = []
    yield made
    for engine in made:
        engine.dispose()


class TestFlaskSQLAlchemy:
    @pytest.mark.parametrize("url", [URL, sa.make_url(URL)])
    def test_the_main_database_is_guarded(self, url: str | sa.URL) -> None:
        assert isinstance(pools(make_app(url))["default"], GuardedPool)

    @pytest.mark.parametrize(
        "bind", [URL, sa.make_url(URL), {"url": URL}, {"url": sa.make_url(URL)}]
    )
    def test_a_bind_is_guarded_however_it_is_written(self, bind: Any) -> None:
        app = make_app(URL, SQLALCHEMY_BINDS={"reports": bind})
        assert isinstance(pools(app)["reports"], GuardedPool)

    def test_a_bind_that_is_itself_called_default_has_a_name_of_its_own(self) -> None:
        app = make_app(URL, SQLALCHEMY_BINDS={"default": URL})
        assert list(pools(app)) == ["default", "default (bind)"]

    def test_an_app_with_binds_only_is_guarded(self) -> None:
        app = Flask("shop")
        app.config["SQLALCHEMY_BINDS"] = {"reports": URL}
        flask_sqlalchemy.SQLAlchemy(app)
        PoolGuard(app)
        assert list(pools(app)) == ["reports"]

    def test_without_any_setting_sizes_stay_as_sqlalchemys(self) -> None:
        assert size_of(pools(make_app(URL))["default"]) == (5, 10, 30)

    def test_settings_of_the_app_count_for_every_bind(self) -> None:
        app = make_app(
            URL,
            SQLALCHEMY_BINDS={"reports": URL},
            POOLGUARD_POOL_SIZE=7,
            POOLGUARD_MAX_OVERFLOW=3,
            POOLGUARD_POOL_TIMEOUT=2.5,
        )
        assert size_of(pools(app)["default"]) == (7, 3, 2.5)
        assert size_of(pools(app)["reports"]) == (7, 3, 2.5)

    def test_settings_of_a_bind_count_for_it_alone(self) -> None:
        app = make_app(
            URL,
            SQLALCHEMY_BINDS={"reports": URL},
            POOLGUARD_BINDS={"reports": {"pool_size": 2}},
        )
        assert size_of(pools(app)["default"]) == (5, 10, 30)
        assert size_of(pools(app)["reports"]) == (2, 10, 30)

    def test_a_bind_that_does_not_exist_is_a_config_error(self) -> None:
        app = make_app(
            URL,
            SQLALCHEMY_BINDS={"reports": URL},
            POOLGUARD_BINDS={"report": {"pool_size": 2}},
        )
        with pytest.raises(ConfigError, match="Did you mean 'reports'"):
            pools(app)

    def test_engine_options_stay(self) -> None:
        options = {"pool_size": 3, "max_overflow": 1, "pool_timeout": 4}
        app = make_app(URL, SQLALCHEMY_ENGINE_OPTIONS=options)
        assert size_of(pools(app)["default"]) == (3, 1, 4)

    def test_engine_options_of_a_bind_stay(self) -> None:
        bind = {"url": URL, "pool_size": 3, "max_overflow": 1, "pool_timeout": 4}
        app = make_app(URL, SQLALCHEMY_BINDS={"reports": bind})
        assert size_of(pools(app)["reports"]) == (3, 1, 4)
        assert size_of(pools(app)["default"]) == (5, 10, 30)

    def test_engine_options_of_the_extension_stay_for_every_bind(self) -> None:
        app = Flask("shop")
        app.config["SQLALCHEMY_DATABASE_URI"] = URL
        app.config["SQLALCHEMY_BINDS"] = {"reports": URL}
        flask_sqlalchemy.SQLAlchemy(app, engine_options={"pool_size": 3})
        PoolGuard(app)
        assert size_of(pools(app)["default"]) == (3, 10, 30)
        assert size_of(pools(app)["reports"]) == (3, 10, 30)

    def test_options_that_a_subclass_sets_stay(self) -> None:
        class SQLAlchemy(flask_sqlalchemy.SQLAlchemy):
            def _apply_driver_defaults(
                self, options: dict[str, Any], app: Flask
            ) -> None:
                super()._apply_driver_defaults(options, app)
                options.update(pool_size=3, max_overflow=1, pool_timeout=4)

        app = Flask("shop")
        app.config["SQLALCHEMY_DATABASE_URI"] = URL
        SQLAlchemy(app)
        PoolGuard(app)
        assert size_of(pools(app)["default"]) == (3, 1, 4)

    def test_the_users_dicts_are_left_untouched(self) -> None:
        config = {
            "SQLALCHEMY_DATABASE_URI": URL,
            "SQLALCHEMY_ENGINE_OPTIONS": {"pool_size": 3},
            "SQLALCHEMY_BINDS": {"reports": {"url": URL, "max_overflow": 1}},
            "POOLGUARD_POOL_TIMEOUT": 4,
            "POOLGUARD_BINDS": {"reports": {"pool_size": 2}},
        }
        before = copy.deepcopy(config)
        app = Flask("shop")
        app.config.update(config)
        options: dict[str, Any] = {"pool_recycle": 60}
        flask_sqlalchemy.SQLAlchemy(app, engine_options=options)
        PoolGuard(app)
        pools(app)
        assert config == before
        assert {key: app.config[key] for key in before} == before
        assert options == {"pool_recycle": 60}


class TestDisagreement:
    @pytest.mark.parametrize(
        ("setting", "option", "ours", "theirs"),
        [
            ("POOLGUARD_POOL_SIZE", "pool_size", 7, 3),
            ("POOLGUARD_MAX_OVERFLOW", "max_overflow", 7, 3),
            ("POOLGUARD_POOL_TIMEOUT", "pool_timeout", 7, 3),
            ("POOLGUARD_POOL_RECYCLE", "pool_recycle", 7, 3),
            ("POOLGUARD_POOL_RECYCLE", "pool_recycle", "auto", 3),
        ],
    )
    def test_a_key_and_an_engine_option_that_disagree_are_both_shown(
        self, setting: str, option: str, ours: Any, theirs: int
    ) -> None:
        app = make_app(
            URL, **{setting: ours}, SQLALCHEMY_ENGINE_OPTIONS={option: theirs}
        )
        with pytest.raises(ConfigError) as caught:
            pools(app)
        message = str(caught.value)
        assert f"{setting} is {ours!r}" in message
        assert f"SQLALCHEMY_ENGINE_OPTIONS['{option}'] is {theirs!r}" in message

    def test_a_key_and_an_engine_option_that_agree_are_fine(self) -> None:
        app = make_app(
            URL, POOLGUARD_POOL_SIZE=3, SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 3}
        )
        assert size_of(pools(app)["default"]) == (3, 10, 30)

    def test_an_option_of_a_bind_is_named_by_its_place(self) -> None:
        app = make_app(
            URL,
            POOLGUARD_POOL_SIZE=7,
            SQLALCHEMY_BINDS={"reports": {"url": URL, "pool_size": 3}},
        )
        with pytest.raises(ConfigError) as caught:
            pools(app)
        assert "SQLALCHEMY_BINDS['reports']['pool_size'] is 3" in str(caught.value)
        assert "bind 'reports'" in str(caught.value)

    def test_an_option_of_the_extension_is_named_by_its_place(self) -> None:
        app = Flask("shop")
        app.config.update(SQLALCHEMY_DATABASE_URI=URL, POOLGUARD_POOL_SIZE=7)
        flask_sqlalchemy.SQLAlchemy(app, engine_options={"pool_size": 3})
        PoolGuard(app)
        with pytest.raises(ConfigError) as caught:
            pools(app)
        assert "SQLAlchemy(engine_options=…)['pool_size'] is 3" in str(caught.value)

    def test_a_pool_class_of_the_users_and_a_key_may_disagree_as_well(self) -> None:
        app = make_app(
            URL,
            POOLGUARD_POOL_CLASS="queue",
            SQLALCHEMY_ENGINE_OPTIONS={"poolclass": NullPool},
        )
        with pytest.raises(ConfigError) as caught:
            pools(app)
        assert "POOLGUARD_POOL_CLASS is 'queue'" in str(caught.value)
        assert "SQLALCHEMY_ENGINE_OPTIONS['poolclass'] is 'null'" in str(caught.value)

    def test_it_is_found_again_until_it_is_mended(self) -> None:
        app = make_app(
            URL, POOLGUARD_POOL_SIZE=7, SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 3}
        )
        for _ in range(2):
            with pytest.raises(ConfigError):
                pools(app)


class TestFlaskSQLAlchemyLite:
    def app(self, **config: Any) -> Flask:
        """Return a guarded app with Flask-SQLAlchemy-Lite."""
        app = Flask("shop")
        app.config.update(config)
        flask_sqlalchemy_lite.SQLAlchemy(app)
        PoolGuard(app)
        return app

    @pytest.mark.parametrize(
        "engine", [URL, sa.make_url(URL), {"url": URL}, {"url": sa.make_url(URL)}]
    )
    def test_engines_are_guarded_however_they_are_written(self, engine: Any) -> None:
        app = self.app(SQLALCHEMY_ENGINES={"default": engine, "reports": URL})
        found = pools(app)
        assert list(found) == ["default", "reports"]
        assert all(isinstance(pool, GuardedPool) for pool in found.values())

    def test_options_stay_and_are_named_by_their_place(self) -> None:
        engines = {"default": {"url": URL, "pool_size": "3"}}
        app = self.app(SQLALCHEMY_ENGINES=engines)
        assert size_of(pools(app)["default"]) == (3, 10, 30)
        origin = guarded(app)["default"].settings.pool_size.origin
        assert origin == "SQLALCHEMY_ENGINES['default']['pool_size']"

    def test_the_fixed_recycling_time_is_not_the_users(self) -> None:
        engines = {"default": "mysql+pymysql://app@127.0.0.1:1/shop"}
        app = self.app(SQLALCHEMY_ENGINES=engines)
        assert guarded(app)["default"].settings.pool_recycle.value == "auto"

    def test_a_pool_object_that_the_user_made_lends_its_values(self) -> None:
        pool = QueuePool(dict, pool_size=3, max_overflow=1, timeout=4)  # type: ignore[arg-type] # never asked to connect
        app = self.app(SQLALCHEMY_ENGINES={"default": {"url": URL, "pool": pool}})
        assert isinstance(pools(app)["default"], GuardedPool)
        assert size_of(pools(app)["default"]) == (3, 1, 4)

    def test_settings_per_bind_count(self) -> None:
        app = self.app(
            SQLALCHEMY_ENGINES={"default": URL, "reports": URL},
            POOLGUARD_POOL_SIZE=7,
            POOLGUARD_BINDS={"reports": {"pool_size": 2}},
        )
        assert size_of(pools(app)["default"])[0] == 7
        assert size_of(pools(app)["reports"])[0] == 2

    def test_async_engines_keep_their_class(self, postgresql_url: sa.URL) -> None:
        url = postgresql_url.set(drivername="postgresql+psycopg")
        app = self.app(
            SQLALCHEMY_ENGINES={"default": url},
            SQLALCHEMY_ASYNC_ENGINES={"default": url},
        )
        found = guarded(app)
        assert isinstance(found["default"].engine.pool, GuardedPool)
        kept = found["default (async)"]
        assert type(kept.engine.pool) is AsyncAdaptedQueuePool
        assert kept.tracker.facts.is_async


class TestPlainEngines:
    def test_an_engine_may_be_registered_before_the_app_is(
        self, engines: list[sa.Engine]
    ) -> None:
        guard, app, engine = PoolGuard(), Flask("shop"), sa.create_engine(URL)
        guard.register(engine, name="audit")
        assert type(engine.pool) is QueuePool
        guard.init_app(app)
        assert pools(app) == {"audit": engine.pool}
        assert isinstance(engine.pool, GuardedPool)

    def test_an_engine_may_be_registered_after_the_app_is(self) -> None:
        app, engine = Flask("shop"), sa.create_engine(URL)
        guard = PoolGuard(app)
        guard.register(engine, name="audit")
        assert pools(app) == {"audit": engine.pool}
        assert isinstance(engine.pool, GuardedPool)

    def test_an_engine_may_be_registered_while_the_app_runs(self) -> None:
        app, engine = make_app(URL), sa.create_engine(URL)
        guard = PoolGuard()
        with app.app_context():
            guard.register(engine, name="audit")
            assert isinstance(engine.pool, GuardedPool)
        assert list(pools(app)) == ["default", "audit"]

    def test_the_default_name_is_default(self) -> None:
        app, engine = Flask("shop"), sa.create_engine(URL)
        PoolGuard(app).register(engine)
        assert list(pools(app)) == ["default"]

    def test_what_differs_from_sqlalchemys_defaults_counts_as_set(self) -> None:
        app = Flask("shop")
        engine = sa.create_engine(URL, pool_size=3, pool_recycle=60)
        app.config["POOLGUARD_MAX_OVERFLOW"] = 1
        PoolGuard(app).register(engine, name="audit")
        assert size_of(pools(app)["audit"]) == (3, 1, 30)
        assert guarded(app)["audit"].settings.pool_recycle.value == 60

    def test_settings_may_be_set_for_it_by_its_name(self) -> None:
        app, engine = Flask("shop"), sa.create_engine(URL)
        app.config["POOLGUARD_BINDS"] = {"audit": {"pool_size": 2}}
        PoolGuard(app).register(engine, name="audit")
        assert size_of(pools(app)["audit"]) == (2, 10, 30)

    def test_a_disagreement_names_it(self) -> None:
        app = Flask("shop")
        app.config["POOLGUARD_POOL_SIZE"] = 7
        engine = sa.create_engine(URL, pool_size=3)
        PoolGuard(app).register(engine, name="audit")
        with pytest.raises(ConfigError, match=r"create_engine\(pool_size=…\) of 'audi"):
            pools(app)

    def test_a_pool_class_that_its_maker_chose_counts_as_set(self) -> None:
        app = Flask("shop")
        app.config["POOLGUARD_POOL_CLASS"] = "queue"
        engine = sa.create_engine(URL, poolclass=NullPool)
        PoolGuard(app).register(engine, name="audit")
        with pytest.raises(
            ConfigError, match=r"create_engine\(poolclass=…\) of 'audit'"
        ):
            pools(app)

    def test_a_pool_class_that_its_dialect_chose_does_not(self) -> None:
        app = Flask("shop")
        app.config["POOLGUARD_POOL_CLASS"] = "null"
        engine = sa.create_engine("sqlite://")
        PoolGuard(app).register(engine, name="audit")
        assert type(pools(app)["audit"]) is SingletonThreadPool

    def test_an_engine_for_one_of_several_apps_must_say_which(self) -> None:
        guard, one, other = PoolGuard(), Flask("one"), Flask("other")
        guard.init_app(one)
        guard.init_app(other)
        engine = sa.create_engine(URL)
        with pytest.raises(SetupError, match=r"2 apps share .*register\(…, app=app\)"):
            guard.register(engine, name="audit")
        guard.register(engine, name="audit", app=other)
        assert list(pools(other)) == ["audit"]
        assert pools(one) == {}

    def test_the_current_app_is_meant_within_its_context(self) -> None:
        guard, one, other = PoolGuard(), Flask("one"), Flask("other")
        guard.init_app(one)
        guard.init_app(other)
        with other.app_context():
            guard.register(sa.create_engine(URL), name="audit")
        assert list(pools(other)) == ["audit"]
        assert pools(one) == {}

    def test_a_name_that_is_taken_by_another_plain_engine_is_refused(self) -> None:
        app = Flask("shop")
        guard = PoolGuard(app)
        engine = sa.create_engine(URL)
        guard.register(engine, name="audit")
        with pytest.raises(SetupError, match="another engine under the name 'audit'"):
            guard.register(sa.create_engine(URL), name="audit")

    def test_a_name_that_is_taken_by_the_extension_is_refused(self) -> None:
        app = make_app(URL)
        engine = sa.create_engine(URL)
        PoolGuard().register(engine, name="default", app=app)
        for _ in range(2):
            with pytest.raises(
                SetupError, match="another engine under the name 'default'"
            ):
                pools(app)

    def test_one_engine_cannot_be_registered_twice(self) -> None:
        app, engine = Flask("shop"), sa.create_engine(URL)
        guard = PoolGuard(app)
        guard.register(engine, name="audit")
        guard.register(engine, name="log")
        for _ in range(2):
            with pytest.raises(SetupError, match="guarded already, as bind 'audit'"):
                pools(app)

    def test_one_engine_may_serve_two_apps_and_is_shown_with_the_newest(
        self, sqlite_url: sa.URL
    ) -> None:
        """An engine of a module, and a factory that makes an app per test."""
        one, other, engine = Flask("one"), Flask("other"), sa.create_engine(sqlite_url)
        one.config["POOLGUARD_POOL_SIZE"] = 7
        for app in (one, other):
            PoolGuard(app).register(engine, name="audit")
            pools(app)
        assert guarded(one)["audit"].settings.pool_size.value == 7
        assert guarded(other)["audit"].settings.pool_size.value == 5
        for app in (one, other):
            with app.app_context():
                connection = engine.connect()
            with pytest.raises(ConnectionReturned):
                connection.connection.cursor()
        assert guarded(other)["audit"].tracker.figures.counts["leaks"] == 2

    def test_an_engine_with_execution_options_of_its_own_is_guarded_with_its_base(
        self,
    ) -> None:
        app, engine = Flask("shop"), sa.create_engine(URL)
        derived = engine.execution_options(stream_results=True)
        PoolGuard(app).register(derived, name="audit")
        assert pools(app) == {"audit": engine.pool}
        assert isinstance(engine.pool, GuardedPool)

    def test_an_async_engine_keeps_its_class(self) -> None:
        app = Flask("shop")
        engine = create_async_engine("postgresql+psycopg://app@127.0.0.1:1/shop")
        PoolGuard(app).register(engine, name="audit")
        kept = guarded(app)["audit"]
        assert type(kept.engine.pool) is AsyncAdaptedQueuePool
        assert kept.engine is engine.sync_engine
        assert kept.tracker.facts.is_async


class TestPoolClasses:
    def test_null_means_no_pooling(self, mariadb_url: sa.URL) -> None:
        app = make_app(mariadb_url, POOLGUARD_POOL_CLASS="null")
        assert type(pools(app)["default"]) is NullPool
        engine = engine_of(app)
        assert checked_out_id(engine) != checked_out_id(engine)
        assert guarded(app)["default"].tracker.figures.counts["connects"] == 2

    def test_null_may_be_said_of_one_bind(self) -> None:
        app = make_app(
            URL,
            SQLALCHEMY_BINDS={"reports": URL},
            POOLGUARD_BINDS={"reports": {"pool_class": "null"}},
        )
        assert type(pools(app)["default"]) is GuardedPool
        assert type(pools(app)["reports"]) is NullPool

    def test_the_static_pool_of_an_in_memory_database_stays(self) -> None:
        app = make_app("sqlite://")
        assert type(pools(app)["default"]) is StaticPool
        with app.app_context():
            engine = app.extensions["sqlalchemy"].engine
            with engine.begin() as connection:
                connection.execute(sa.text("CREATE TABLE books (id INT)"))
        with engine_of(app).begin() as connection:
            connection.execute(sa.text("INSERT INTO books VALUES (1)"))
        engine.dispose()

    def test_null_does_not_lose_an_in_memory_database(self) -> None:
        app = make_app("sqlite://", POOLGUARD_POOL_CLASS="null")
        assert type(pools(app)["default"]) is StaticPool

    def test_the_pool_per_thread_of_an_in_memory_database_stays(self) -> None:
        app, engine = Flask("shop"), sa.create_engine("sqlite://")
        PoolGuard(app).register(engine)
        assert type(pools(app)["default"]) is SingletonThreadPool
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1
        engine.dispose()

    def test_a_queue_pool_of_the_users_own_stays(self) -> None:
        class OwnPool(QueuePool):
            pass

        options = {"poolclass": OwnPool, "pool_size": 3}
        app = make_app(URL, SQLALCHEMY_ENGINE_OPTIONS=options)
        assert type(pools(app)["default"]) is OwnPool
        assert size_of(pools(app)["default"]) == (3, 10, 30)

    @pytest.mark.parametrize("pool_class", [NullPool, StaticPool, SingletonThreadPool])
    def test_a_class_that_the_user_chose_stays(self, pool_class: type[Pool]) -> None:
        app = make_app(URL, SQLALCHEMY_ENGINE_OPTIONS={"poolclass": pool_class})
        assert type(pools(app)["default"]) is pool_class

    def test_a_queue_pool_that_the_user_named_is_guarded(self) -> None:
        app = make_app(URL, SQLALCHEMY_ENGINE_OPTIONS={"poolclass": QueuePool})
        assert type(pools(app)["default"]) is GuardedPool

    def test_a_guarded_pool_that_the_user_named_gets_the_apps_settings(self) -> None:
        app = make_app(
            URL,
            SQLALCHEMY_ENGINE_OPTIONS={"poolclass": GuardedPool},
            POOLGUARD_POOL_SIZE=7,
        )
        assert size_of(pools(app)["default"]) == (7, 10, 30)
        assert guarded_pool(engine_of(app)).limits.recycle.source.startswith(
            "not known"
        )

    def test_a_size_that_a_kept_queue_pool_does_not_get_is_warned_of(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class OwnPool(QueuePool):
            pass

        app = make_app(
            URL,
            SQLALCHEMY_ENGINE_OPTIONS={"poolclass": OwnPool},
            SQLALCHEMY_BINDS={"reports": URL},
            POOLGUARD_POOL_SIZE=7,
            POOLGUARD_MAX_OVERFLOW=10,
        )
        pools(app)
        (warning,) = warnings_of(caplog)
        assert "POOLGUARD_POOL_SIZE = 7 has no effect on bind 'default'" in warning
        assert "OwnPool" in warning

    def test_a_size_that_no_pool_gets_is_an_error(self) -> None:
        class OwnPool(QueuePool):
            pass

        app = make_app(
            URL,
            SQLALCHEMY_ENGINE_OPTIONS={"poolclass": OwnPool},
            POOLGUARD_POOL_SIZE=7,
        )
        with pytest.raises(ConfigError, match="POOLGUARD_POOL_SIZE = 7 has no effect"):
            pools(app)

    def test_a_size_that_an_in_memory_database_does_not_need_is_not_warned_of(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        pools(make_app("sqlite://", POOLGUARD_POOL_SIZE=7))
        assert warnings_of(caplog) == []

    def test_what_a_kept_pool_is_like_is_known(self) -> None:
        class OwnPool(QueuePool):
            pass

        options = {"poolclass": OwnPool, "pool_size": 3, "max_overflow": 2}
        app = make_app(URL, SQLALCHEMY_ENGINE_OPTIONS=options)
        facts = guarded(app)["default"].tracker.facts
        assert (facts.pool_class, facts.size, facts.max_overflow) == ("OwnPool", 3, 2)

    def test_a_size_of_zero_is_no_limit_as_in_sqlalchemy(self) -> None:
        app = make_app(URL, POOLGUARD_POOL_SIZE=0)
        facts = guarded(app)["default"].tracker.facts
        assert size_of(pools(app)["default"]) == (0, -1, 30)
        assert (facts.size, facts.max_overflow) == (0, -1)

    def test_the_password_is_not_among_the_facts(self) -> None:
        url = f"mysql+pymysql://app:{APP_PASSWORD}@127.0.0.1:1/shop"
        facts = guarded(make_app(url))["default"].tracker.facts
        assert APP_PASSWORD not in repr(facts)


class TestPreserved:
    def test_lifo_reset_ping_echo_and_logging_name_stay(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        options = {
            "pool_use_lifo": True,
            "pool_reset_on_return": "commit",
            "pool_pre_ping": True,
            "echo_pool": "debug",
            "pool_logging_name": "shop-pool",
        }
        app = make_app(URL, SQLALCHEMY_ENGINE_OPTIONS=options)
        stock = app.extensions["sqlalchemy"]._app_engines[app][None].pool
        pool = guarded_pool(engine_of(app))
        assert pool is not stock
        assert pool._pool.use_lifo
        assert pool._reset_on_return is stock._reset_on_return
        assert pool._pre_ping
        assert pool.echo == "debug"
        assert pool.logging_name == "shop-pool"
        assert pool._dialect is stock._dialect

    def test_echo_pool_still_echoes_checkouts(
        self, sqlite_url: sa.URL, caplog: pytest.LogCaptureFixture
    ) -> None:
        options = {"echo_pool": "debug", "pool_logging_name": "shop-pool"}
        engine = engine_of(make_app(sqlite_url, SQLALCHEMY_ENGINE_OPTIONS=options))
        with engine.connect():
            pass
        engine.dispose()
        names = {record.name for record in caplog.records}
        assert "sqlalchemy.pool.impl.GuardedPool.shop-pool" in names
        assert any("checked out from pool" in each for each in caplog.messages)

    def test_the_logger_sqlalchemy_pool_is_still_in_charge(
        self, sqlite_url: sa.URL, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG, "sqlalchemy.pool"):
            engine = engine_of(make_app(sqlite_url))
            with engine.connect():
                pass
            engine.dispose()
        assert any("checked out from pool" in each for each in caplog.messages)

    def test_connect_args_reach_the_driver(self, mariadb_url: sa.URL) -> None:
        options = {"connect_args": {"init_command": "SET @shop = 'ours'"}}
        engine = engine_of(make_app(mariadb_url, SQLALCHEMY_ENGINE_OPTIONS=options))
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT @shop")) == "ours"
        engine.dispose()

    def test_a_creator_is_still_the_one_that_connects(
        self, mariadb: DatabaseServer, mariadb_url: sa.URL
    ) -> None:
        plain = sa.create_engine(mariadb_url)
        made = []

        def creator() -> Any:
            arguments, keywords = plain.dialect.create_connect_args(mariadb_url)
            made.append(plain.dialect.connect(*arguments, **keywords))
            return made[-1]

        app = make_app(
            "mysql+pymysql://", SQLALCHEMY_ENGINE_OPTIONS={"creator": creator}
        )
        engine = engine_of(app)
        with engine.connect() as connection:
            assert connection.connection.dbapi_connection is made[0]
        engine.dispose()

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_do_connect_listener_is_still_asked(
        self, when: str, mariadb_url: sa.URL
    ) -> None:
        app = make_app(mariadb_url.set(password="wrong"))
        engine = app.extensions["sqlalchemy"]._app_engines[app][None]

        def give_password(dialect: Any, record: Any, args: Any, kwargs: Any) -> None:
            kwargs["password"] = mariadb_url.password

        if when == "before":
            event.listen(engine, "do_connect", give_password)
        engine_of(app)
        if when == "after":
            event.listen(engine, "do_connect", give_password)
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1
        engine.dispose()

    @pytest.mark.parametrize("target", ["engine", "pool"])
    def test_pool_listeners_from_before_are_called_once_per_event(
        self, target: str, sqlite_url: sa.URL
    ) -> None:
        app = make_app(sqlite_url)
        engine = app.extensions["sqlalchemy"]._app_engines[app][None]
        called: list[str] = []
        for name in ("connect", "checkout", "checkin", "close"):
            event.listen(
                engine if target == "engine" else engine.pool,
                name,
                lambda *_, name=name: called.append(name),
            )
        engine_of(app)
        with engine.connect():
            pass
        engine.dispose()
        assert called == ["connect", "checkout", "checkin", "close"]

    @pytest.mark.parametrize("kind", [MariaDBServer, PostgreSQLServer])
    def test_tls_stays(
        self,
        kind: type[DatabaseServer],
        mariadb: DatabaseServer,
        postgresql: DatabaseServer,
    ) -> None:
        with kind(tls=True) as server:
            database = server.create_database()
            engine = engine_of(
                make_app(server.url(database=database, **server.tls_query()))
            )
            question = {
                "MariaDB": "SELECT variable_value FROM"
                " information_schema.session_status WHERE variable_name='ssl_cipher'",
                "PostgreSQL": "SELECT cipher FROM pg_stat_ssl"
                " WHERE pid = pg_backend_pid()",
            }[server.product]
            with engine.connect() as connection:
                assert connection.scalar(sa.text(question))
            assert isinstance(engine.pool, GuardedPool)
            engine.dispose()


class TestOpenConnections:
    """An engine that was used before the guard found it."""

    def test_idle_connections_are_closed(
        self, served_database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        url, server = served_database.url, served_database.running_server
        app = make_app(url)
        engine = app.extensions["sqlalchemy"]._app_engines[app][None]
        first = checked_out_id(engine)
        engine_of(app)
        wait_until(
            lambda: first not in server.session_ids(database=url.database),
            what="the closed session's end",
        )
        assert checked_out_id(engine) != first
        assert warnings_of(caplog) == []
        engine.dispose()

    def test_one_that_is_out_goes_on_working_and_is_closed_when_it_comes_back(
        self, served_database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        url, server = served_database.url, served_database.running_server
        app = make_app(url)
        engine = app.extensions["sqlalchemy"]._app_engines[app][None]
        with engine.connect() as connection:
            first = session_id(connection)
            engine_of(app)
            assert session_id(connection) == first
            with engine.connect() as other:
                assert session_id(other) != first
        wait_until(
            lambda: first not in server.session_ids(database=url.database),
            what="the closed session's end",
        )
        (warning,) = warnings_of(caplog)
        assert "Connections of bind 'default' were out" in warning
        engine.dispose()

    def test_a_pool_that_keeps_its_class_keeps_its_connections_too(
        self, served_database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        class OwnPool(QueuePool):
            pass

        options = {"poolclass": OwnPool}
        app = make_app(served_database.url, SQLALCHEMY_ENGINE_OPTIONS=options)
        engine = app.extensions["sqlalchemy"]._app_engines[app][None]
        with engine.connect() as idle, engine.connect() as held:
            first, second = session_id(held), session_id(idle)
            idle.close()
            tracker = guarded(app)["default"].tracker
            assert checked_out_id(engine) == second
        with engine.connect() as one, engine.connect() as other:
            assert {session_id(one), session_id(other)} == {first, second}
            assert len(tracker.out) == 2
        assert len(tracker.out) == 0
        assert tracker.figures.counts["unlisted_out"] == 0
        assert warnings_of(caplog) == []
        engine.dispose()

    def test_one_that_is_out_may_still_be_invalidated(
        self, mariadb: DatabaseServer, mariadb_url: sa.URL
    ) -> None:
        app = make_app(mariadb_url)
        engine = app.extensions["sqlalchemy"]._app_engines[app][None]
        with engine.connect() as connection:
            first = session_id(connection)
            engine_of(app)
            connection.invalidate()
            connection.rollback()
            # It reconnects by the pool that its engine has now.
            assert session_id(connection) != first
        assert guarded_pool(engine).checkedin() == 1
        engine.dispose()


class TestDispose:
    def test_the_guard_stays(self, database: Database) -> None:
        app = make_app(
            database.url,
            POOLGUARD_POOL_SIZE=2,
            POOLGUARD_MAX_OVERFLOW=1,
            POOLGUARD_IDLE_LIMIT=60,
        )
        engine = engine_of(app)
        before = guarded_pool(engine)
        with engine.connect():
            pass
        engine.dispose()
        after = guarded_pool(engine)
        assert after is not before
        assert size_of(after) == size_of(before) == (2, 1, 30)
        assert after.policy == before.policy
        assert after.callbacks is before.callbacks
        assert after.name == "default"

    def test_counters_go_on(self, database: Database) -> None:
        app = make_app(database.url)
        engine = engine_of(app)
        tracker = guarded(app)["default"].tracker
        for connects in (1, 2):
            with engine.connect():
                pass
            assert tracker.figures.counts["connects"] == connects
            engine.dispose()
        assert tracker.figures.peak == 1

    @pytest.mark.parametrize("pool_class", ["queue", "null"])
    def test_the_books_of_a_pool_are_kept_once(
        self, pool_class: str, sqlite_url: sa.URL
    ) -> None:
        app = make_app(sqlite_url, POOLGUARD_POOL_CLASS=pool_class)
        engine = engine_of(app)
        tracker = guarded(app)["default"].tracker
        engine.dispose()
        engine.dispose()
        with engine.connect():
            assert len(tracker.out) == 1
            assert tracker.figures.counts["connects"] == 1
        assert len(tracker.out) == 0
        engine.dispose()

    def test_connections_that_are_out_are_closed_when_they_come_back(
        self, served_database: Database
    ) -> None:
        url, server = served_database.url, served_database.running_server
        app = make_app(url)
        engine = engine_of(app)
        tracker = guarded(app)["default"].tracker
        with engine.connect() as connection:
            first = session_id(connection)
            engine.dispose()
            assert session_id(connection) == first
            assert len(tracker.out) == 1
        assert len(tracker.out) == 0
        wait_until(
            lambda: first not in server.session_ids(database=url.database),
            what="the closed session's end",
        )
        assert guarded_pool(engine).checkedin() == 0
        assert guarded_pool(engine).checkedout() == 0
        engine.dispose()

    def test_a_disposal_without_closing_leaves_connections_open(
        self, mariadb: DatabaseServer, mariadb_url: sa.URL
    ) -> None:
        engine = engine_of(make_app(mariadb_url))
        with closing(engine.raw_connection()) as fairy:
            pool = guarded_pool(engine)
        engine.dispose(close=False)
        assert guarded_pool(engine) is not pool
        assert pool.checkedin() == 1
        assert fairy is not None
        pool.dispose()
