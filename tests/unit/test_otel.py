"""`flask_poolguard.otel`: what is reported, for how long, and to whom."""

from __future__ import annotations

import contextlib
import gc
import logging
import re
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL, StaticPool, create_engine

from flask_poolguard import PoolGuard, SetupError
from flask_poolguard.metrics import FAMILIES
from flask_poolguard.state.histogram import BOUNDS, Durations, HistogramCounter
from tests.support.guarded_app import warnings_of
from tests.support.reporting import MakeShop, Shop
from tests.support.telemetry import (
    DurationRecorder,
    Telemetry,
    instrument,
    recorders,
    spread,
)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "opentelemetry.md").read_text()
CHECKOUTS = "poolguard.checkouts"


@pytest.fixture
def telemetry() -> Telemetry:
    """Return a meter provider that keeps what it collects."""
    return Telemetry()


@pytest.fixture
def shop(make_shop: MakeShop, sqlite_url: URL) -> Shop:
    """Return a guarded app that has used one connection once."""
    shop = make_shop(default=create_engine(sqlite_url))
    shop.use()
    return shop


class TestNames:
    """The table of metrics, against the conventions and the page."""

    def test_are_those_of_the_conventions(self, telemetry: Telemetry) -> None:
        """With their units and kinds: an observable sum where they have a sum."""
        conventions: Any = pytest.importorskip(
            "opentelemetry.semconv._incubating.metrics.db_metrics"
        )
        told = {
            value: re.findall(r"^\s*(Instrument|Unit): (\S+)$", text, re.M)
            for value, text in documented(Path(conventions.__file__).read_text())
            if value.startswith("db.client.connection.")
        }
        kinds = {"updowncounter": "gauge", "counter": "counter"}
        assert {
            each.otel_name: [("Instrument", each.type), ("Unit", each.unit)]
            for each in FAMILIES
            if each.otel_name.startswith("db.")
        } == {
            name: [("Instrument", kinds.get(kind, kind)), ("Unit", unit)]
            for name, ((_, kind), (_, unit)) in told.items()
        }

    def test_of_the_page_are_what_is_reported(
        self, make_shop: MakeShop, sqlite_url: URL, telemetry: Telemetry
    ) -> None:
        """With unit, kind, attributes and meaning; and all of them have a value."""
        config = {"POOLGUARD_POOL_RECYCLE": 600}
        shop = make_shop(config, default=create_engine(sqlite_url))
        shop.use()
        instrument(shop.guard, telemetry.provider)
        rows = re.findall(
            r"^\| `([\w.]+)` \| `(\S+)` \|" + r" ?([^|]*) \|" * 3, PAGE, re.M
        )
        reported = [
            (
                name,
                metric.unit,
                kind_of(metric),
                more_attributes(metric),
                metric.description,
            )
            for name, metric in telemetry.collect().metrics.items()
        ]
        told = [
            (name, unit, kind, more.strip("`"), what.replace("`", ""))
            for name, unit, kind, more, what in rows
        ]
        assert sorted(told) == sorted(reported)

    def test_leave_out_what_is_of_the_host(
        self, shop: Shop, telemetry: Telemetry
    ) -> None:
        instrument(shop.guard, telemetry.provider)
        of_host = {each.otel_name for each in FAMILIES if each.is_of_host}
        assert {"poolguard.workers", "poolguard.findings"} <= of_host
        assert not telemetry.collect().names & of_host


def kind_of(metric: Any) -> str:
    """Return a metric's kind as the page calls it."""
    kind = type(metric.data).__name__.lower()
    if kind == "sum":
        return "counter" if metric.data.is_monotonic else "up-down counter"
    return kind


def more_attributes(metric: Any) -> str:
    """Return the names of the attributes that not all metrics have."""
    (names,) = {frozenset(each.attributes) for each in metric.data.data_points}
    return ", ".join(names - {"poolguard.app", "db.client.connection.pool.name"})


def documented(module: str) -> list[tuple[str, str]]:
    """Return a module's constants, each with the text below it."""
    pattern = r'^[A-Z_]+: Final = \(?\s*"([\w.]+)"\s*\)?\n"""(.*?)"""'
    return re.findall(pattern, module, re.M | re.S)


class TestInstrument:
    """When it begins, and when it ends."""

    def test_needs_an_app(self, telemetry: Telemetry) -> None:
        with pytest.raises(SetupError, match=r"call init_app\(app\) first"):
            instrument(PoolGuard(), telemetry.provider)

    def test_twice_counts_once(self, shop: Shop, telemetry: Telemetry) -> None:
        for _ in range(3):
            instrument(shop.guard, telemetry.provider)
        found = telemetry.collect()
        assert found.value(CHECKOUTS) == 1
        (uses,) = found.of("db.client.connection.use_time")
        assert uses.count == 1

    def test_can_be_undone_and_begun_again(
        self, shop: Shop, telemetry: Telemetry
    ) -> None:
        begun = instrument(shop.guard, telemetry.provider)
        again = instrument(shop.guard, telemetry.provider)
        assert repr(begun) == "<Instrumentation of shop>"
        telemetry.collect()
        for _ in range(2):
            begun.uninstrument()
            assert not begun.is_active
            assert not again.is_active
            assert repr(begun) == "<Instrumentation of shop, ended>"
            assert not telemetry.collect().of(CHECKOUTS)
        shop.use()
        instrument(shop.guard, telemetry.provider)
        found = telemetry.collect()
        assert found.value(CHECKOUTS) == 2
        (uses,) = found.of("db.client.connection.use_time")
        assert uses.count == 2  # not once more what was recorded before

    def test_of_one_guard_ends_without_the_others(
        self, shop: Shop, make_shop: MakeShop, tmp_path: Path, telemetry: Telemetry
    ) -> None:
        other = make_shop(basket=create_engine(f"sqlite:///{tmp_path}/other"))
        other.use("basket")
        other.use("basket")
        begun = instrument(shop.guard, telemetry.provider)
        instrument(other.guard, telemetry.provider)
        found = telemetry.collect()
        assert found.value(CHECKOUTS, pool="default") == 1
        assert found.value(CHECKOUTS, pool="basket") == 2
        begun.uninstrument()
        found = telemetry.collect()
        assert found.value(CHECKOUTS, pool="basket") == 2
        assert not found.of(CHECKOUTS, pool="default")

    def test_tells_apps_of_one_guard_apart_later_ones_too(
        self, shop: Shop, telemetry: Telemetry, tmp_path: Path
    ) -> None:
        instrument(shop.guard, telemetry.provider)
        app = Flask("admin")
        shop.guard.init_app(app)
        engine = create_engine(f"sqlite:///{tmp_path}/admin")
        shop.guard.register(engine, app=app)
        with app.app_context():
            for _ in range(3):
                engine.connect().close()
        found = telemetry.collect()
        assert found.value(CHECKOUTS, app="shop") == 1
        assert found.value(CHECKOUTS, app="admin") == 3
        engine.dispose()
        app.extensions["poolguard"].app_tracker.remove_file()

    def test_reports_to_each_provider_that_was_named(self, shop: Shop) -> None:
        one, other = Telemetry(), Telemetry()
        instrument(shop.guard, one.provider)
        instrument(shop.guard, other.provider)
        for each in (one, other):
            found = each.collect()
            assert found.value(CHECKOUTS) == 1
            (uses,) = found.of("db.client.connection.use_time")
            assert uses.count == 1

    def test_reports_nothing_before_there_is_an_engine(
        self, telemetry: Telemetry
    ) -> None:
        instrument(PoolGuard(Flask("shop")), telemetry.provider)
        assert telemetry.collect().names == set()

    def test_follows_engines_that_come_and_go(
        self, shop: Shop, telemetry: Telemetry, tmp_path: Path
    ) -> None:
        instrument(shop.guard, telemetry.provider)
        engine = create_engine(f"sqlite:///{tmp_path}/other")
        shop.guard.register(engine, name="other", app=shop.app)
        with shop.app.app_context():
            engine.connect().close()
        assert telemetry.collect().value(CHECKOUTS, pool="other") == 1
        shop.guard.unregister("other", app=shop.app)
        found = telemetry.collect()
        assert not found.of(CHECKOUTS, pool="other")
        assert found.value(CHECKOUTS, pool="default") == 1
        engine.dispose()

    def test_goes_on_without_its_guard(self, telemetry: Telemetry) -> None:
        """An app factory keeps none."""
        app, engine = Flask("shop"), create_engine("sqlite://")

        def factory() -> None:
            guard = PoolGuard(app)
            guard.register(engine)
            instrument(guard, telemetry.provider)

        factory()
        gc.collect()
        with app.app_context():
            engine.connect().close()
        assert telemetry.collect().value(CHECKOUTS) == 1
        app.extensions["poolguard"].app_tracker.remove_file()

    def test_keeps_nothing_alive(self, telemetry: Telemetry, sqlite_url: URL) -> None:
        app, engine = Flask("shop"), create_engine(sqlite_url)
        guard = PoolGuard(app)
        guard.register(engine)
        with app.app_context():
            engine.connect().close()
        instrument(guard, telemetry.provider)
        assert telemetry.collect().value(CHECKOUTS) == 1
        app.extensions["poolguard"].app_tracker.remove_file()
        engine.dispose()
        gone = [weakref.ref(each) for each in (app, engine, guard)]
        del app, engine, guard
        gc.collect()
        assert [each() for each in gone] == [None] * 3
        assert not telemetry.collect().of(CHECKOUTS)

    def test_keeps_no_provider_alive(self, shop: Shop) -> None:
        provider = Telemetry().provider
        instrument(shop.guard, provider)
        gone = weakref.ref(provider)
        del provider
        gc.collect()
        assert gone() is None


class TestCollections:
    """What a collection may not do."""

    def test_connects_to_nothing(self, shop: Shop, telemetry: Telemetry) -> None:
        instrument(shop.guard, telemetry.provider)
        for _ in range(3):
            found = telemetry.collect()
        assert found.value("poolguard.connections.opened") == 1
        assert found.value(CHECKOUTS) == 1

    def test_leave_out_a_pool_that_a_thread_does_not_let_go_of(
        self, shop: Shop, telemetry: Telemetry
    ) -> None:
        instrument(shop.guard, telemetry.provider)
        (guarded,) = shop.app.extensions["poolguard"].engines
        is_over, has_it = threading.Event(), threading.Event()

        def hold() -> None:
            with guarded.tracker.figures.lock:
                has_it.set()
                is_over.wait(30)

        thread = threading.Thread(target=hold)
        thread.start()
        has_it.wait(30)
        try:
            assert not telemetry.collect().of(CHECKOUTS)
        finally:
            is_over.set()
            thread.join()
        assert telemetry.collect().value(CHECKOUTS) == 1

    def test_log_once_what_cannot_be_reported_and_report_the_rest(
        self,
        shop: Shop,
        telemetry: Telemetry,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        broken = Flask("broken")
        shop.guard.init_app(broken)
        instrument(shop.guard, telemetry.provider)
        kept = broken.extensions.pop("poolguard")
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert telemetry.collect().value(CHECKOUTS) == 1
        (line,) = warnings_of(caplog)
        assert "'broken' could not be reported" in line
        assert not [each for each in caplog.records if "opentelemetry" in each.name]
        kept.app_tracker.remove_file()

    def test_leave_out_what_is_not_known(
        self, make_shop: MakeShop, telemetry: Telemetry
    ) -> None:
        """A pool of one connection for all cannot tell its checkouts apart."""
        shop = make_shop(default=create_engine("sqlite://", poolclass=StaticPool))
        shop.use()
        instrument(shop.guard, telemetry.provider)
        found = telemetry.collect()
        assert not found.names & {
            CHECKOUTS,
            "db.client.connection.count",
            "db.client.connection.wait_time",
        }
        assert found.value("poolguard.connections.opened") == 1


seconds = st.one_of(
    st.sampled_from(BOUNDS), st.floats(min_value=0.0, max_value=1000.0, width=32)
)


class TestHistograms:
    """What is recorded of durations that were only counted."""

    @given(st.lists(seconds, min_size=1, max_size=50))
    def test_have_the_counts_and_the_sum(self, durations: list[float]) -> None:
        counter, again = HistogramCounter(), HistogramCounter()
        for each in durations:
            counter.add(each)
        counts = counter.so_far().counts
        for value, count in zip(spread(counts, counter.seconds), counts, strict=True):
            for _ in range(count):
                again.add(value)
        assert again.counts == counter.counts
        assert again.seconds == pytest.approx(counter.seconds, rel=1e-6, abs=1e-12)

    @given(
        st.lists(st.integers(0, 5), min_size=len(BOUNDS) + 1, max_size=len(BOUNDS) + 1),
        st.floats(-100, 1000),
    )
    def test_have_the_counts_though_the_sum_cannot_be(
        self, counts: list[int], seconds: float
    ) -> None:
        """Threads count in a bucket and in the sum without a lock."""
        counter = HistogramCounter()
        for value, count in zip(spread(counts, seconds), counts, strict=True):
            for _ in range(count):
                counter.add(value)
        assert counter.counts == counts

    @pytest.fixture
    def record(self, telemetry: Telemetry) -> Callable[[HistogramCounter], Any]:
        """Return a function that records, and returns the data point if any."""
        family = next(each for each in FAMILIES if "wait_time" in each.otel_name)
        recorder = DurationRecorder(telemetry.provider.get_meter("test"), [family])
        usage = PoolGuard()  # as good as any object

        def record(counter: HistogramCounter) -> Any:
            recorder.record(usage, {}, Durations(wait=counter.so_far()))
            return next(iter(telemetry.collect().of(family.otel_name)), None)

        return record

    def test_make_up_for_counts_and_sums_that_were_late(
        self, record: Callable[[HistogramCounter], Any]
    ) -> None:
        counter = HistogramCounter()
        assert record(counter) is None
        counter.counts[5] = 2  # of 0.2 s each, one of them not in the sum yet
        counter.seconds = 0.2
        assert record(counter).count == 2
        counter.counts[5] = 1
        assert record(counter).count == 2
        counter.counts[5] = 3
        counter.seconds = 0.7
        point = record(counter)
        assert (point.count, point.bucket_counts[5]) == (3, 3)
        assert point.sum == pytest.approx(0.7)

    def test_are_recorded_by_one_thread_at_a_time(
        self, shop: Shop, telemetry: Telemetry
    ) -> None:
        """The other ones leave it to that, and do not wait."""
        instrument(shop.guard, telemetry.provider)
        name = "db.client.connection.use_time"
        locks = [each.lock for each in list(recorders)]
        with contextlib.ExitStack() as stack:
            for each in locks:
                stack.enter_context(each)
            found = telemetry.collect()
        assert found.value(CHECKOUTS) == 1
        assert not found.of(name)
        (uses,) = telemetry.collect().of(name)
        assert uses.count == 1
