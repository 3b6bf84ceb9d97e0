"""OpenTelemetry's SDK in memory, and what was reported to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

# Before what needs it is imported.
pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric
from opentelemetry.sdk.metrics.view import View

from flask_poolguard.otel import Instrumentation, instrument
from flask_poolguard.otel.durations import DurationRecorder, recorders, spread

# Tests take them from here, so that they are skipped where they cannot be imported.
__all__ = [
    "DurationRecorder",
    "Instrumentation",
    "Points",
    "Telemetry",
    "instrument",
    "recorders",
    "spread",
]

POOL = "db.client.connection.pool.name"
STATE = "db.client.connection.state"


@dataclass(frozen=True, slots=True)
class Points:
    """What one collection has found: the metrics of all meters, by name."""

    metrics: dict[str, Metric]

    @property
    def names(self) -> set[str]:
        """The names of the metrics that have a value."""
        return set(self.metrics)

    def of(self, name: str, **attributes: str) -> list[Any]:
        """Return the data points of a metric that have these attributes.

        :param attributes: `pool` and `state`, or others of this package's own.
        """
        known = {"pool": POOL, "state": STATE}
        wanted = {
            known.get(each, f"poolguard.{each}"): value
            for each, value in attributes.items()
        }
        metric = self.metrics.get(name)
        points = [] if metric is None else metric.data.data_points
        return [
            point
            for point in points
            if wanted.items() <= dict(point.attributes or {}).items()
        ]

    def value(self, name: str, **attributes: str) -> float:
        """Return the value of the one such data point."""
        (point,) = self.of(name, **attributes)
        number: float = point.value
        return number

    def connections(self, pool: str = "default") -> tuple[float, float]:
        """Return how many connections of a pool are used, and how many idle."""
        name = "db.client.connection.count"
        used, idle = (
            self.value(name, pool=pool, state=state) for state in ("used", "idle")
        )
        return used, idle


class Telemetry:
    """A meter provider that keeps what it collects."""

    def __init__(self, views: Sequence[View] = ()) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider(
            [self._reader], shutdown_on_exit=False, views=views
        )

    def collect(self) -> Points:
        """Return what all meters report now; no name may be there twice."""
        data = self._reader.get_metrics_data()
        found: dict[str, Metric] = {}
        for resource in [] if data is None else data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    assert metric.name not in found
                    found[metric.name] = metric
        return Points(found)
