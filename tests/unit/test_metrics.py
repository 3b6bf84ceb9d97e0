"""Metrics: the text, the collector, and the documents that name them."""

from __future__ import annotations

import json
import math
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine

from flask_poolguard import PoolGuard, SetupError
from flask_poolguard.metrics import CONTENT_TYPE, FAMILIES, Collector, render
from flask_poolguard.metrics.gathering import MOST_CHARACTERS, REASONS, clean, fill
from flask_poolguard.metrics.host import Host
from flask_poolguard.metrics.output_file import UnwritableFile, write
from flask_poolguard.metrics.text import render_families
from flask_poolguard.report import Server
from flask_poolguard.state.histogram import BOUNDS, Durations, HistogramCounter
from flask_poolguard.state.status import Closed, PoolStatus
from flask_poolguard.state.totals import PoolTotals, totals_of
from tests.support.statuses import POOL, WORKER

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text()
NO_STATE: Any = SimpleNamespace(engines=[], config=None)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def text_of(*pools: PoolStatus, app: str = "shop", report: Any = None) -> str:
    """Return the text for one worker of each pool."""
    totals: dict[str, PoolTotals] = {}
    for pool in pools:
        found = totals_of(pool)
        known = totals.get(pool.bind)
        totals[pool.bind] = found if known is None else known.plus(found)
    workers = [replace(WORKER, pools=(pool,)) for pool in pools]
    return render_families(fill(Host(app, workers, totals, 0), NO_STATE, report))


def parse(text: str) -> Samples:
    """Return the samples of a text; no two may have the same name and labels."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """Return the value of a sample, None if it is not there."""
    return samples.get((name, tuple(sorted({"app": "shop", **labels}.items()))))


def pool_value(samples: Samples, name: str, **labels: str) -> float | None:
    """Return the value of a sample of the default bind."""
    return value(samples, name, pool="default", **labels)


class TestFigures:
    """What a scrape shows of the pools."""

    def test_are_sums_over_all_workers(self) -> None:
        other = replace(POOL, checked_out=3, idle=0, waiting=1, connects=30)
        found = parse(text_of(POOL, other))
        count = "db_client_connection_count"
        assert pool_value(found, count, state="used") == 4
        assert pool_value(found, count, state="idle") == 2
        assert pool_value(found, "db_client_connection_max") == 30
        assert pool_value(found, "db_client_connection_idle_max") == 10
        assert pool_value(found, "db_client_connection_pending_requests") == 4
        assert pool_value(found, "db_client_connection_timeouts_total") == 8
        assert pool_value(found, "poolguard_connections_opened_total") == 42
        assert pool_value(found, "poolguard_checkouts_total") == 2468
        assert pool_value(found, "poolguard_leaks_total") == 10
        assert value(found, "poolguard_workers") == 2

    def test_of_time_are_those_of_the_worst_worker(self) -> None:
        other = replace(POOL, longest_held_seconds=9.5, recycle_seconds=60.0)
        found = parse(text_of(POOL, other))
        assert pool_value(found, "poolguard_oldest_checkout_seconds") == 9.5
        assert pool_value(found, "poolguard_oldest_wait_seconds") == 0.5
        assert pool_value(found, "poolguard_recycle_seconds") == 60

    def test_that_are_unknown_are_left_out(self) -> None:
        unknown = replace(
            POOL,
            size=None,
            max_overflow=None,
            idle=None,
            overflow=None,
            waiting=None,
            timeouts=None,
            unavailable=None,
            checkouts=None,
            recycle_seconds=None,
            closed=Closed(None, None, 2, None),
        )
        found = parse(text_of(unknown))
        names = {name for name, _ in found}
        assert not names & {
            "db_client_connection_max",
            "db_client_connection_idle_max",
            "db_client_connection_pending_requests",
            "db_client_connection_timeouts_total",
            "poolguard_connections_overflow",
            "poolguard_checkouts_total",
            "poolguard_unavailable_total",
            "poolguard_recycle_seconds",
            "poolguard_oldest_wait_seconds",
        }
        closed = "poolguard_connections_closed_total"
        reasons = {each for each in REASONS if pool_value(found, closed, reason=each)}
        assert reasons == {"dead"}

    def test_have_no_maximum_if_one_worker_has_none(self) -> None:
        found = parse(text_of(POOL, replace(POOL, max_overflow=-1)))
        assert pool_value(found, "db_client_connection_max") is None

    def test_name_findings_by_code_and_level(self) -> None:
        full = replace(
            POOL, size=1, max_overflow=0, checked_out=1, oldest_wait_seconds=6.0
        )
        found = parse(text_of(full))
        name = "poolguard_findings"
        assert value(found, name, code="saturated", level="critical") == 1

    def test_say_what_servers_told_if_they_were_asked(self) -> None:
        server = Server("default", "MariaDB 10.11", True, 600.0, 151, 12, 5)
        report = SimpleNamespace(servers=[server], findings=())
        found = parse(text_of(POOL, report=report))
        assert pool_value(found, "poolguard_server_up") == 1
        assert pool_value(found, "poolguard_server_connections") == 12
        assert pool_value(found, "poolguard_server_connections_max") == 151
        assert pool_value(found, "poolguard_server_idle_timeout_seconds") == 600

    def test_of_durations_are_cumulative_histograms(self) -> None:
        counter = HistogramCounter()
        for seconds in (0.0005, 0.001, 0.0011, 3.0, 61.0):
            counter.add(seconds)
        durations = Durations(wait=counter.so_far(shortest=10))
        found = parse(text_of(replace(POOL, durations=durations)))
        name = "db_client_connection_wait_time_seconds"
        bounds = [*map(str, BOUNDS), "+Inf"]
        buckets = [pool_value(found, f"{name}_bucket", le=each) for each in bounds]
        assert buckets == [12, 13, 13, 13, 13, 13, 13, 14, 14, 14, 14, 15]
        assert pool_value(found, f"{name}_count") == 15
        total = pool_value(found, f"{name}_sum")
        assert total is not None
        assert math.isclose(total, 64.0026)
        assert not any("use_time" in each for each, _ in found)

    def test_take_what_has_become_the_same_name_together(self) -> None:
        """A scrape with two samples of the same labels is refused as a whole."""
        found = parse(text_of(*(replace(POOL, bind=f"a{each}") for each in "\1\2")))
        name = "poolguard_leaks_total"
        assert value(found, name, pool="a\N{REPLACEMENT CHARACTER}") == 10


names = st.text(
    st.one_of(
        st.sampled_from("\\\"\n\r\t\0\x1b{}=,# <>&'\x85\u2028\u202e"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=30,
)


class TestHostileNames:
    """Names that the text format, a page or a terminal might take amiss."""

    @given(app=names, bind=names)
    def test_come_out_of_a_parser_as_they_went_in(self, app: str, bind: str) -> None:
        found = parse(text_of(replace(POOL, bind=bind), app=app))
        labels = {"app": clean(app), "pool": clean(bind)}
        key = "poolguard_leaks_total", tuple(sorted(labels.items()))
        assert found[key] == POOL.leaks
        assert {dict(each)["app"] for _, each in found} == {clean(app)}

    @given(names)
    def test_that_are_harmless_are_not_changed(self, name: str) -> None:
        shown = clean(name)
        assert len(shown) == len(name)
        for one, other in zip(name, shown, strict=True):
            assert one == other or not one.isprintable()

    @given(names)
    def test_bring_no_control_character_into_the_text(self, name: str) -> None:
        lines = text_of(replace(POOL, bind=name), app=name).split("\n")
        assert all(line.isprintable() for line in lines)

    def test_with_half_a_character_can_be_encoded(self) -> None:
        text_of(replace(POOL, bind="\ud800")).encode()

    def test_are_cut_off(self) -> None:
        found = parse(text_of(replace(POOL, bind="x" * 5000)))
        assert value(found, "poolguard_leaks_total", pool="x" * MOST_CHARACTERS) == 5


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Flask]:
    """Give an app that has used a connection."""
    app = Flask("shop", root_path=str(tmp_path))
    engine = create_engine(f"sqlite:///{tmp_path}/shop.sqlite")
    PoolGuard(app).register(engine)
    with app.app_context(), engine.connect():
        pass
    yield app
    engine.dispose()
    app.extensions["poolguard"].app_tracker.remove_file()


class TestCollector:
    """The collector for a registry of prometheus_client."""

    def test_gives_what_the_text_gives(self, shop: Flask) -> None:
        registry = CollectorRegistry()
        Collector(shop, registry)
        text = render(shop)
        found = parse(generate_latest(registry).decode())
        assert found == parse(text)
        kinds = {
            each.name: (each.type, each.documentation)
            for each in text_string_to_metric_families(text)
        }
        assert kinds == {
            each.name: (each.type, each.documentation)
            for each in text_string_to_metric_families(
                generate_latest(registry).decode()
            )
        }

    def test_cannot_be_registered_twice(self, shop: Flask) -> None:
        registry = CollectorRegistry()
        Collector(shop, registry)
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            Collector(shop, registry)

    def test_is_not_loaded_with_the_text(self) -> None:
        """Nor are the metrics with the package, or with an app under guard."""
        program = """
import sys
from flask import Flask
import flask_poolguard
flask_poolguard.PoolGuard(Flask("shop"))
print("flask_poolguard.metrics" in sys.modules)
import flask_poolguard.metrics
print("prometheus_client" in sys.modules)
"""
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["False", "False"]


class TestRender:
    """``flask_poolguard.metrics.render``."""

    def test_needs_no_context(self, shop: Flask) -> None:
        found = parse(render(shop))
        assert pool_value(found, "poolguard_connections_opened_total") == 1
        assert pool_value(found, "db_client_connection_use_time_seconds_count") == 1

    def test_has_the_content_type_of_the_text_format(self) -> None:
        assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")

    def test_says_that_an_app_has_no_guard(self) -> None:
        with pytest.raises(SetupError, match="has no PoolGuard"):
            render(Flask("shop"))

    def test_opens_no_connection(self, shop: Flask) -> None:
        before = parse(render(shop))
        for _ in range(3):
            after = parse(render(shop))
        name = "poolguard_connections_opened_total"
        assert pool_value(after, name) == pool_value(before, name)


class TestOutputFile:
    """The file for node_exporter."""

    def test_is_readable_by_all_and_leaves_no_other(self, tmp_path: Path) -> None:
        path = tmp_path / "shop.prom"
        for text in ("a 1\n", "a 2\n"):
            write(str(path), text)
            assert path.read_text() == text
        assert path.stat().st_mode & 0o777 == 0o644
        assert list(tmp_path.iterdir()) == [path]

    def test_follows_no_link(self, tmp_path: Path) -> None:
        target, link = tmp_path / "target", tmp_path / "shop.prom"
        target.write_text("precious")
        link.symlink_to(target)
        with pytest.raises(UnwritableFile, match="symbolic link"):
            write(str(link), "a 1\n")
        assert target.read_text() == "precious"
        assert sorted(tmp_path.iterdir()) == [link, target]

    @pytest.mark.parametrize(
        ("path", "reason"),
        [("there/is/none.prom", "No such file"), (".", "is not a file")],
    )
    def test_says_why_it_cannot_be_written(
        self, tmp_path: Path, path: str, reason: str
    ) -> None:
        with pytest.raises(UnwritableFile, match=reason):
            write(str(tmp_path / path), "a 1\n")

    def test_stays_as_it_was_if_there_is_no_room(self, tmp_path: Path) -> None:
        path = tmp_path / "shop.prom"
        write(str(path), "a 1\n")
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2, limits[1]))
        try:
            with pytest.raises(UnwritableFile, match="File too large"):
                write(str(path), "a 2\n")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)
        assert path.read_text() == "a 1\n"
        assert list(tmp_path.iterdir()) == [path]


class TestDocuments:
    """docs/metrics.md, the dashboard and the alert rules name what there is."""

    def test_the_table_is_that_of_the_code(self) -> None:
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", PAGE, re.M)
        told = [
            (name, kind, tuple(re.findall(r"`(\w+)`", labels)), what.replace("`", ""))
            for name, kind, labels, what in rows
        ]
        assert told == [
            (each.name, each.type, each.labels, each.help) for each in FAMILIES
        ]

    @pytest.mark.parametrize("name", ["alerts.yml", "dashboard.json"])
    def test_files_name_metrics_that_exist(self, name: str) -> None:
        text = (ROOT / "docs" / "monitoring" / name).read_text()
        used = set(re.findall(r"\b(?:db_client_connection|poolguard)_[a-z_]+", text))
        known = {
            each.name + suffix
            for each in FAMILIES
            for suffix in (
                ("_bucket", "_count", "_sum") if each.type == "histogram" else ("",)
            )
        }
        assert used
        assert used <= known

    def test_the_dashboard_is_json_of_panels(self) -> None:
        found = json.loads(
            (ROOT / "docs" / "monitoring" / "dashboard.json").read_text()
        )
        panels = [each for each in found["panels"] if each["type"] != "row"]
        assert len({each["id"] for each in found["panels"]}) == len(found["panels"])
        assert all(target["expr"] for each in panels for target in each["targets"])

    def test_metrics_have_names_of_the_conventions(self) -> None:
        """Counters end in _total, durations in _seconds, and each has a sentence."""
        for each in FAMILIES:
            assert each.name.endswith("_total") == (each.type == "counter")
            assert each.name.startswith(("db_client_connection_", "poolguard_"))
            assert each.help.endswith((".", ")."))
