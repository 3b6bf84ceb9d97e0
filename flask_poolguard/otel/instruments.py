"""The instruments of one meter provider, and the callbacks that answer for them."""

from __future__ import annotations

import functools
import typing as t
import weakref
from collections.abc import Iterable, Iterator, Mapping

from opentelemetry.metrics import (
    CallbackOptions,
    CallbackT,
    Meter,
    MeterProvider,
    Observation,
)

from ..log_lines import warn
from ..metrics.families import FAMILIES, POOL, SECONDS, Family
from ..metrics.gathering import clean, fill_own
from ..metrics.host import state_of
from ..state.histogram import Histogram
from ..tracking.pool_stat import own_status
from .durations import DurationRecorder

if t.TYPE_CHECKING:
    from flask import Flask

    from ..extension import PoolGuard

METER: t.Final = "flask_poolguard"

# A worker reports no figure of its host: those of several workers would be added up.
OWN: t.Final = tuple(each for each in FAMILIES if not each.is_of_host)
OBSERVED: t.Final = tuple(each for each in OWN if each.type != "histogram")

# By label of Prometheus.
ATTRIBUTES: t.Final[Mapping[str, str]] = {
    "app": "poolguard.app",
    "pool": "db.client.connection.pool.name",
    "state": "db.client.connection.state",
    "reason": "poolguard.reason",
}

# Seconds for which a collection waits for a thread that counts in a pool, which takes a
# tenth of a millisecond; that pool is left out this time.
_PATIENCE: t.Final = 0.1


class Apps:
    """The apps of one guard; keeps neither them nor the guard alive."""

    def __init__(self, guard: PoolGuard) -> None:
        self._guard = weakref.ref(guard)
        self._apps = guard._apps

    def __iter__(self) -> Iterator[Flask]:
        try:
            return iter(list(self._apps))
        except RuntimeError:  # a thread sets up one more; they are all there next time
            return iter(())

    def is_of(self, guard: PoolGuard) -> bool:
        """Tell whether they are this guard's."""
        return self._apps is guard._apps

    def is_over(self) -> bool:
        """Tell whether there are none, and never will be."""
        return self._guard() is None and not self._apps


class Instruments:
    """Reports the pools of the guards that were added.

    A provider that collects nothing calls no callback, so this costs nothing then.
    """

    def __init__(self, provider: MeterProvider) -> None:
        # Replaced as a whole, because callbacks run at any time.
        self._reported: tuple[Apps, ...] = ()
        self._not_given: dict[str, list[Observation]] = {}
        meter = provider.get_meter(METER)
        self._recorder = DurationRecorder(
            meter, [each for each in OWN if each not in OBSERVED]
        )
        for each in OBSERVED:
            _create(meter, each, functools.partial(self._observe, each.name))

    def add(self, guard: PoolGuard) -> Apps:
        """Report the apps of one more guard, unless they are."""
        for each in self._reported:
            if each.is_of(guard):
                return each
        apps = Apps(guard)
        lasting = (each for each in self._reported if not each.is_over())
        self._reported = (*lasting, apps)
        return apps

    def remove(self, apps: Apps) -> None:
        """Report these no more."""
        self._reported = tuple(each for each in self._reported if each is not apps)
        self._not_given = {}

    def reports(self, apps: Apps) -> bool:
        """Tell whether these are reported."""
        return apps in self._reported

    def _observe(self, name: str, _: CallbackOptions) -> list[Observation]:
        """Return the values of one metric; called by the provider.

        A provider asks for one after the other. What the first look of a collection
        finds is kept for the others, each of which gets it once, so that all are of one
        moment. A collection sees what was recorded in the histograms meanwhile.
        """
        found = self._not_given.pop(name, None)
        if found is None:
            looked = self._look()
            found = looked.pop(name)
            self._not_given = looked
        return found

    def _look(self) -> dict[str, list[Observation]]:
        """Return the values of all metrics; never raises."""
        found: dict[str, list[Observation]] = {each.name: [] for each in OBSERVED}
        for app in [app for apps in self._reported for app in apps]:
            try:
                self._look_at(app, found)
            except Exception:
                warn(
                    "guard_failed",
                    "The pools of the app %r could not be reported to OpenTelemetry",
                    app.name,
                    exc_info=True,
                )
        return found

    def _look_at(self, app: Flask, found: dict[str, list[Observation]]) -> None:
        state, statuses, name = state_of(app), [], clean(app.name)
        for each in state.engines:
            status = own_status(each.tracker, _PATIENCE)
            if status is not None:
                statuses.append(status)
                attributes = _attributes(POOL, (name, clean(each.bind)))
                self._recorder.record(each.tracker.usage, attributes, status.durations)
        for filled in fill_own(name, state, statuses):
            labels = filled.family.labels
            for values, number in filled.samples.items():
                if not isinstance(number, Histogram):
                    observation = Observation(number, _attributes(labels, values))
                    found[filled.family.name].append(observation)


def _create(meter: Meter, family: Family, callback: CallbackT) -> None:
    """Make an observable instrument.

    What is measured in seconds is no sum: two workers that wait for 5 s do not wait for
    10 s.
    """
    if family.type == "counter":
        create: t.Callable[..., object] = meter.create_observable_counter
    elif family.unit == SECONDS:
        create = meter.create_observable_gauge
    else:
        create = meter.create_observable_up_down_counter
    create(family.otel_name, [callback], family.unit, family.help)


def _attributes(labels: Iterable[str], values: Iterable[str]) -> dict[str, str]:
    pairs = zip(labels, values, strict=True)
    return {ATTRIBUTES[label]: value for label, value in pairs}
