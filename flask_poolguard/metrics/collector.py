"""A collector for ``prometheus_client``, which only this module imports."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector as BaseCollector

from ..state.histogram import Histogram
from .families import FAMILIES, Family, Filled
from .gathering import gather
from .text import BOUND_LABELS

if t.TYPE_CHECKING:
    from flask import Flask
    from prometheus_client.registry import CollectorRegistry


class Collector(BaseCollector):
    """The metrics of an app's workers on this host, for a registry of yours.

    Works beside ``MultiProcessCollector``: it needs no ``PROMETHEUS_MULTIPROC_DIR``,
    because it reads the workers' state files, and any worker tells of all. Scrape one
    of them only, as you do with that collector.

    Each scrape reads the state files anew. It touches no pool and asks no server.

    :param registry: to register in; None for none.
    :raises ValueError: the registry has these metrics already.
    :raises SetupError: at a scrape, if the app has no PoolGuard.
    """

    def __init__(self, app: Flask, registry: CollectorRegistry | None = None) -> None:
        self._app = app
        if registry is not None:
            registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Yield all metrics without values; a registry looks for doubles by these."""
        for each in FAMILIES:
            yield _empty(each)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics that have a value now."""
        for each in gather(self._app):
            if each.samples:
                yield _metric(each)


def _empty(family: Family) -> CounterMetricFamily | GaugeMetricFamily | Metric:
    if family.type == "counter":
        name = family.name.removesuffix("_total")
        return CounterMetricFamily(name, family.help, labels=family.labels)
    if family.type == "gauge":
        return GaugeMetricFamily(family.name, family.help, labels=family.labels)
    return HistogramMetricFamily(family.name, family.help, labels=family.labels)


def _metric(filled: Filled) -> Metric:
    metric = t.cast(t.Any, _empty(filled.family))
    for labels, found in filled.samples.items():
        if isinstance(found, Histogram):
            buckets = list(zip(BOUND_LABELS, found.cumulative(), strict=True))
            metric.add_metric(labels, buckets, found.seconds)
        else:
            metric.add_metric(labels, found)
    return t.cast(Metric, metric)
