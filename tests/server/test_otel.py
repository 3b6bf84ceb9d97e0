"""OpenTelemetry metrics of pools on real servers."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, create_engine

from flask_poolguard import PoolTimeout
from flask_poolguard.metrics import FAMILIES, render
from tests.conftest import Database
from tests.support.reporting import MakeShop, Shop
from tests.support.scrapes import parse
from tests.support.telemetry import Points, Telemetry, instrument
from tests.support.waiting import wait_until


@pytest.fixture
def telemetry() -> Telemetry:
    """Return a meter provider that keeps what it collects."""
    return Telemetry()


def reported(shop: Shop, telemetry: Telemetry) -> None:
    """Report the pools of a shop, of which it has not used any yet."""
    with shop.app.app_context():
        pass
    instrument(shop.guard, telemetry.provider)


def as_scraped(points: Points) -> dict[tuple[str, frozenset[Any]], float]:
    """Return data points by the names and labels that Prometheus gets."""
    labels = {
        "poolguard.app": "app",
        "poolguard.reason": "reason",
        "db.client.connection.pool.name": "pool",
        "db.client.connection.state": "state",
    }
    found = {}
    for family in FAMILIES:
        for point in points.of(family.otel_name):
            has = frozenset((labels[k], v) for k, v in point.attributes.items())
            if family.type != "histogram":
                found[family.name, has] = point.value
                continue
            found[f"{family.name}_count", has] = point.count
            found[f"{family.name}_sum", has] = pytest.approx(point.sum, abs=1e-4)
            so_far = 0
            bounds = [*map(str, point.explicit_bounds), "+Inf"]
            for bound, count in zip(bounds, point.bucket_counts, strict=True):
                so_far += count
                found[f"{family.name}_bucket", has | {("le", bound)}] = so_far
    return found


class TestFigures:
    @pytest.mark.every_product
    def test_are_right_after_each_thing_that_happens_to_connections(
        self, make_shop: MakeShop, database: Database, telemetry: Telemetry
    ) -> None:
        engine = create_engine(database.url, pool_size=2, max_overflow=2)
        reported(make_shop(default=engine), telemetry)
        chance = random.Random(4)
        held: list[Any] = []
        idle = detached = 0
        for _ in range(60):
            what = chance.choice(
                ["take", "take", "take", "give", "invalidate", "detach", "dispose"]
            )
            if what == "dispose":
                for each in held:
                    each.close()
                held.clear()
                engine.dispose()
                idle = 0
            elif what == "take":
                if len(held) < 4:
                    held.append(engine.connect())
                    idle = max(idle - 1, 0)
            elif held:
                connection = held.pop(chance.randrange(len(held)))
                if what == "give":
                    idle = min(idle + 1, 2)
                elif what == "detach":
                    detached += 1
                    connection.detach()
                else:
                    connection.invalidate()
                connection.close()
            assert telemetry.collect().connections() == (len(held), idle)
        found = telemetry.collect()
        closed = "poolguard.connections.closed"
        assert found.value(closed, reason="detached") == detached > 0
        assert found.value(closed, reason="invalidated") > 0
        for each in held:
            each.close()

    def test_do_not_count_what_is_invalid_and_what_was_disposed_of(
        self, make_shop: MakeShop, served_database: Database, telemetry: Telemetry
    ) -> None:
        engine = create_engine(served_database.url)
        reported(make_shop(default=engine), telemetry)
        with engine.connect() as connection:
            connection.invalidate()
            assert telemetry.collect().connections() == (0, 0)
        held = engine.connect()
        engine.dispose()  # leaves what is out to those who have it
        assert telemetry.collect().connections() == (1, 0)
        engine.connect().close()
        assert telemetry.collect().connections() == (1, 1)
        held.close()
        assert telemetry.collect().connections() == (0, 1)

    @pytest.mark.every_product
    def test_are_those_that_prometheus_gets(
        self, make_shop: MakeShop, database: Database, telemetry: Telemetry
    ) -> None:
        """All of one worker's, under the names that follow from OpenTelemetry's."""
        engine = create_engine(database.url, pool_size=2)
        shop = make_shop({"POOLGUARD_MIN_IDLE": 1}, default=engine)
        reported(shop, telemetry)
        for _ in range(3):
            shop.use()
        with shop.app.app_context():
            leaked = engine.connect()
        with engine.connect(), engine.connect():
            telemetry.collect()
        shop.use()
        del leaked
        scraped = {
            (name, frozenset(labels)): value
            for (name, labels), value in parse(render(shop.app)).samples.items()
        }
        found = as_scraped(telemetry.collect())
        of_host = ("poolguard_workers", "poolguard_unreadable", "poolguard_findings")
        assert found == {
            key: value for key, value in scraped.items() if key[0] not in of_host
        }
        pool = frozenset({("app", "shop"), ("pool", "default")})
        assert found["poolguard_leaks_total", pool] == 1
        assert found["db_client_connection_idle_min", pool] == 1
        assert found["db_client_connection_use_time_seconds_count", pool] >= 7

    def test_are_of_each_bind(
        self,
        make_shop: MakeShop,
        mariadb_url: URL,
        postgresql_url: URL,
        telemetry: Telemetry,
    ) -> None:
        shop = make_shop(
            default=create_engine(mariadb_url, pool_size=3, max_overflow=1),
            reports=create_engine(postgresql_url),
        )
        reported(shop, telemetry)
        with shop.engines["default"].connect(), shop.engines["default"].connect():
            found = telemetry.collect()
            assert found.connections() == (2, 0)
            assert found.connections("reports") == (0, 0)
        shop.use("reports")
        found = telemetry.collect()
        assert (found.connections(), found.connections("reports")) == ((0, 2), (0, 1))
        assert found.value("db.client.connection.max", pool="default") == 4
        assert found.value("db.client.connection.max", pool="reports") == 15
        assert found.value("db.client.connection.idle.max", pool="default") == 3

    def test_tell_who_waits_and_who_got_nothing(
        self, make_shop: MakeShop, served_database: Database, telemetry: Telemetry
    ) -> None:
        engine = create_engine(served_database.url, pool_size=1, max_overflow=0)
        shop = make_shop({"POOLGUARD_POOL_TIMEOUT": 0.5}, default=engine)
        reported(shop, telemetry)
        failures: list[Exception] = []

        def want() -> None:
            try:
                engine.connect().close()
            except PoolTimeout as error:
                failures.append(error)

        pending = "db.client.connection.pending_requests"
        with engine.connect():
            thread = threading.Thread(target=want)
            thread.start()
            wait_until(lambda: telemetry.collect().value(pending) == 1)
            thread.join()
        assert len(failures) == 1
        found = telemetry.collect()
        assert found.value(pending) == 0
        assert found.value("db.client.connection.timeouts") == 1
        assert found.value("poolguard.waits") == 1
        # Who got nothing is in no histogram.
        (waits,) = found.of("db.client.connection.wait_time")
        assert waits.count == 1

    def test_are_still_reported_while_the_server_is_away(
        self,
        make_shop: MakeShop,
        served_database: Database,
        telemetry: Telemetry,
        own_server: None,
    ) -> None:
        engine = create_engine(served_database.url)
        shop = make_shop({"POOLGUARD_CONNECT_TIMEOUT": 1}, default=engine)
        reported(shop, telemetry)
        shop.use()
        before = telemetry.collect()
        served_database.running_server.stop()
        found = telemetry.collect()
        assert found.connections() == before.connections() == (0, 1)


@pytest.fixture
def sqlalchemy_instrumentor() -> Iterator[Any]:
    """Give the instrumentor of OpenTelemetry's own, which changes SQLAlchemy."""
    module = pytest.importorskip("opentelemetry.instrumentation.sqlalchemy")
    instrumentor = module.SQLAlchemyInstrumentor()
    yield instrumentor
    instrumentor.uninstrument()


class TestBesideTheSqlalchemyInstrumentation:
    """`opentelemetry-instrumentation-sqlalchemy`, on the same engine."""

    VIEW = re.search(
        r"```python\n(from opentelemetry.sdk.metrics.view.*?)\n\nprovider.*?"
        r"views=(\[.*?\]),\n\)\n```",
        (Path(__file__).parents[2] / "docs" / "opentelemetry.md").read_text(),
        re.S,
    )
    THEIRS = "db.client.connections.usage"

    def begin(
        self, shop: Shop, telemetry: Telemetry, sqlalchemy_instrumentor: Any
    ) -> None:
        """Let both report."""
        sqlalchemy_instrumentor.instrument(
            engine=shop.engines["default"],
            meter_provider=telemetry.provider,
            skip_dep_check=True,  # it does not promise SQLAlchemy 2.1 yet
        )
        reported(shop, telemetry)

    def test_both_count_and_only_the_guard_knows_of_detached_ones(
        self,
        make_shop: MakeShop,
        served_database: Database,
        telemetry: Telemetry,
        sqlalchemy_instrumentor: Any,
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        self.begin(shop, telemetry, sqlalchemy_instrumentor)
        with shop.engines["default"].connect() as connection:
            found = telemetry.collect()
            assert found.connections() == (1, 0)
            assert sum(each.value for each in found.of(self.THEIRS)) == 1
            connection.detach()
        found = telemetry.collect()
        assert found.connections() == (0, 0)
        assert sum(each.value for each in found.of(self.THEIRS)) == 1

    def test_the_view_of_the_page_leaves_only_the_guards(
        self,
        make_shop: MakeShop,
        served_database: Database,
        sqlalchemy_instrumentor: Any,
    ) -> None:
        assert self.VIEW is not None
        imports, views = self.VIEW.groups()
        names: dict[str, Any] = {}
        exec(f"{imports}\nviews = {views}", names)  # noqa: S102 (our own page)
        telemetry = Telemetry(names["views"])
        shop = make_shop(default=create_engine(served_database.url))
        self.begin(shop, telemetry, sqlalchemy_instrumentor)
        shop.use()
        found = telemetry.collect()
        assert self.THEIRS not in found.names
        assert found.connections() == (0, 1)
