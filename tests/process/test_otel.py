"""OpenTelemetry metrics of workers: forked children, programs, and what is imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, create_engine

from tests.support.forking import MAY_DEADLOCK, fork_without_hooks, in_child
from tests.support.reporting import MakeShop
from tests.support.telemetry import Telemetry, instrument

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
CHECKOUTS = "poolguard.checkouts"
USES = "db.client.connection.use_time"

# An app, and an exporter of the name that the page has, which keeps what it gets.
SETUP = """
import json, os, sys, types
from flask import Flask
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult
from sqlalchemy import create_engine

exported = []

class OTLPMetricExporter(MetricExporter):
    def export(self, metrics_data, timeout_millis=0, **kwargs):
        exported.append(metrics_data)
        return MetricExportResult.SUCCESS
    def force_flush(self, timeout_millis=0):
        return True
    def shutdown(self, timeout_millis=0, **kwargs):
        pass

home = "opentelemetry.exporter.otlp.proto.http.metric_exporter"
parts = home.split(".")
for number in range(3, len(parts) + 1):
    name = ".".join(parts[:number])
    sys.modules[name] = types.ModuleType(name)
sys.modules[home].OTLPMetricExporter = OTLPMetricExporter

def last():
    from opentelemetry.metrics import get_meter_provider
    get_meter_provider().force_flush()
    (resource,) = exported[-1].resource_metrics
    found = {
        metric.name: sum(
            getattr(point, "value", getattr(point, "count", 0))
            for point in metric.data.data_points
        )
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    found["instance"] = resource.resource.attributes["service.instance.id"]
    return found

app = Flask("shop", root_path=sys.argv[1])
engine = create_engine(f"sqlite:///{sys.argv[1]}/shop.sqlite")

def use():
    with app.app_context(), engine.connect():
        pass
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def printed(program: str, *arguments: str) -> list[Any]:
    """Return what a program printed, each line as JSON."""
    done = run(program, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.filterwarnings(MAY_DEADLOCK)
class TestForkedChildren:
    """Children of a process that reports."""

    @pytest.mark.parametrize(
        "fork", [os.fork, fork_without_hooks], ids=["os.fork", "without hooks"]
    )
    def test_report_their_own_pools_only(
        self, make_shop: MakeShop, postgresql_url: URL, fork: Callable[[], int]
    ) -> None:
        """Also in the middle of a use, and their parent goes on with its own."""
        shop = make_shop(default=create_engine(postgresql_url))
        shop.use()
        shop.use()
        instrument(shop.guard, Telemetry().provider)

        def work() -> list[Any]:
            # As after a fork in a worker: the SDK is started in the child.
            telemetry = Telemetry()
            instrument(shop.guard, telemetry.provider)
            found = [telemetry.collect()]
            shop.use()
            found.append(telemetry.collect())
            return [
                (
                    each.connections(),
                    each.value(CHECKOUTS),
                    sum(point.count for point in each.of(USES)),
                )
                for each in found
            ]

        telemetry = Telemetry()
        instrument(shop.guard, telemetry.provider)
        with shop.engines["default"].connect():
            assert in_child(work, fork=fork) == [((0, 0), 0, 0), ((0, 1), 1, 1)]
            found = telemetry.collect()
            assert (found.connections(), found.value(CHECKOUTS)) == ((1, 0), 3)

    def test_do_so_with_the_sdk_of_their_parent_too(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        shop, telemetry = make_shop(default=create_engine(postgresql_url)), Telemetry()
        shop.use()
        instrument(shop.guard, telemetry.provider)

        def work() -> tuple[Any, float, float]:
            before = telemetry.collect().value(CHECKOUTS)
            shop.use()
            found = telemetry.collect()
            return found.connections(), before, found.value(CHECKOUTS)

        with shop.engines["default"].connect():
            assert in_child(work) == ((0, 1), 0, 1)
            assert telemetry.collect().connections() == (1, 0)


class TestPage:
    """The programs of docs/opentelemetry.md."""

    def blocks(self) -> list[str]:
        """Return the page's programs."""
        page = (ROOT / "docs" / "opentelemetry.md").read_text()
        return re.findall(r"```python\n(.*?)```", page, re.S)

    def test_report_what_each_worker_has(self, tmp_path: Path) -> None:
        """Instrumented before the fork, with a provider that is set after it."""
        block, hook, *_ = self.blocks()
        program = f"""{SETUP}
{block}
guard.register(engine)
use()
{hook}
for number in (1, 2):
    pid = os.fork()
    if not pid:
        post_fork(None, None)
        for _ in range(number):
            use()
        print(json.dumps(last()), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""
        workers = printed(program, str(tmp_path))
        assert [each[CHECKOUTS] for each in workers] == [1, 2]
        assert [each[USES] for each in workers] == [1, 2]
        assert len({each["instance"] for each in workers}) == 2

    def test_report_once_if_the_provider_is_named_or_set_later(
        self, tmp_path: Path
    ) -> None:
        block, hook, *_ = self.blocks()
        program = f"""{SETUP}
{block}
guard.register(engine)
use()
{hook}
post_fork(None, None)
instrument(guard)
from opentelemetry.metrics import get_meter_provider
other = PoolGuard(Flask("admin", root_path=sys.argv[1]))
begun = instrument(other, get_meter_provider())
instrument(guard, get_meter_provider())
print(json.dumps(last()))
begun.uninstrument()
print(json.dumps(last()))
instrument(guard).uninstrument()
print(json.dumps("{CHECKOUTS}" in last()))
"""
        one, other, is_there = printed(program, str(tmp_path))
        assert one[CHECKOUTS] == other[CHECKOUTS] == 1
        assert one[USES] == other[USES] == 1
        assert not is_there


class TestImports:
    """What is loaded, and when."""

    def test_it_is_not_loaded_before_it_is_asked_for(self) -> None:
        program = """
import json, sys
from flask import Flask
import flask_poolguard, flask_poolguard.metrics
flask_poolguard.PoolGuard(Flask("shop"))
print(json.dumps([
    each for each in sys.modules if each.startswith("opentelemetry")
    or each.startswith("flask_poolguard.otel")
]))
"""
        assert printed(program) == [[]]

    def test_it_needs_no_sdk(self) -> None:
        """Nor does it bring it along."""
        program = """
import json, sys
from flask import Flask
from flask_poolguard import PoolGuard
from flask_poolguard.otel import instrument
begun = instrument(PoolGuard(Flask("shop")))
print(json.dumps("opentelemetry.sdk" in sys.modules))
print(json.dumps(begun.is_active))
"""
        assert printed(program) == [False, True]

    def test_it_says_how_to_get_what_is_missing(self) -> None:
        done = run("""
import sys
sys.modules["opentelemetry"] = None
import flask_poolguard.otel
""")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            "ImportError: flask_poolguard.otel needs OpenTelemetry's API:"
            " pip install 'flask-poolguard[otel]'"
        )
