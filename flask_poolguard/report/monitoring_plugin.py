"""The output of a monitoring plugin: state, text and performance data.

The rules are those of the Monitoring Plugins Development Guidelines
(monitoring-plugins.org/doc/guidelines.html), which Nagios, Icinga and their like
follow: one line of text, ``|``, performance data; a threshold is the greatest value
that is still well; the exit status is the state.
"""

from __future__ import annotations

import enum
import math
import typing as t
from dataclasses import asdict, dataclass

from .model import SCHEMA_VERSION


class State(enum.IntEnum):
    """A service's state; the number is the exit status."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


# What could not be read may hide something critical, so it comes before what is only
# suspicious. (The Monitoring Plugins' own ``max_state_alt`` has these two the other
# way round: what it does not know is one figure of many.)
BY_WEIGHT: t.Final = (State.OK, State.WARNING, State.UNKNOWN, State.CRITICAL)


@dataclass(frozen=True, slots=True)
class Range:
    """The greatest values without a warning, and without an alarm; None for never."""

    warning: float | None
    critical: float | None

    def judge(self, value: float | None) -> State:
        """Judge a value; nothing is said of one that is not known."""
        if value is None:
            return State.OK
        if self.critical is not None and value > self.critical:
            return State.CRITICAL
        if self.warning is not None and value > self.warning:
            return State.WARNING
        return State.OK


NO_LIMIT: t.Final = Range(None, None)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is still well.

    :ivar usage: percent of a pool's limit.
    :ivar waiting: threads that wait for a connection.
    :ivar wait_seconds: for how long the first of them has, or one that connects.
    :ivar held_seconds: for how long a connection is out; without a limit for a warning
        that is each worker's ``POOLGUARD_HELD_WARNING``.
    :ivar min_workers: so many must live.
    """

    usage: Range = NO_LIMIT
    waiting: Range = NO_LIMIT
    wait_seconds: Range = Range(1.0, 5.0)
    held_seconds: Range = NO_LIMIT
    min_workers: int = 1


@dataclass(frozen=True, slots=True)
class Health:
    """The figures of one app on this host; None is unknown.

    :ivar label: what the names of its performance data begin with.
    :ivar usage_percent: of the fullest pool or budget, ``used`` of ``limit``.
    :ivar connecting: threads for which a connection is tested or opened.
    :ivar unavailable: checkouts that failed because a server gave no connection.
    :ivar can_wait: whether a thread could have to wait for that pool: not if it has a
        connection for each thread, however full it is.
    :ivar budget: limit of the budget of which the most is taken; None for none.
    :ivar budget_taken: how many of its places are.
    """

    app: str
    root_path: str
    label: str
    workers: int
    usage_percent: float | None
    can_wait: bool
    waiting: int | None
    oldest_wait_seconds: float | None
    longest_held_seconds: float | None
    timeouts: int | None
    leaks: int
    connecting: int | None = None
    oldest_connect_seconds: float | None = None
    unavailable: int | None = None
    budget: int | None = None
    budget_taken: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to tell.

    :ivar text: without the state and without performance data, on one line.
    """

    state: State
    text: str
    apps: tuple[Health, ...] = ()
    perfdata: str = ""

    def to_dict(self) -> dict[str, t.Any]:
        """Return what ``flask pool check --json`` prints, before it is JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "state": self.state.name,
            "exit_status": int(self.state),
            "text": one_line(self.text),
            "apps": [asdict(each) for each in self.apps],
        }


def render(verdict: Verdict) -> str:
    """Return the one line; nothing in it can be taken for its end or its data."""
    text = f"POOL {verdict.state.name} - {one_line(verdict.text)}"
    return f"{text} | {verdict.perfdata}" if verdict.perfdata else text


def one_line(text: str) -> str:
    """Return a text without what ends a plugin's line, or commands a terminal."""
    return "".join(
        each if each.isprintable() and each != "|" else " " for each in text
    ).strip()


def clean_label(label: str) -> str:
    """Return a label without what the guidelines, and Graphite, cannot take."""
    return "".join(
        each if each.isascii() and (each.isalnum() or each in "-_@/") else "_"
        for each in label
    )


def perfdata_of(health: Health, limits: Thresholds) -> str:
    """Return an app's figures; what is unknown is U, as the guidelines have it."""
    name = health.label
    return " ".join(
        (
            datum(f"{name}workers", health.workers, low=limits.min_workers),
            datum(f"{name}usage", health.usage_percent, "%", limits.usage),
            datum(f"{name}waiting", health.waiting, "", limits.waiting),
            datum(f"{name}wait", health.oldest_wait_seconds, "s", limits.wait_seconds),
            datum(f"{name}held", health.longest_held_seconds, "s", limits.held_seconds),
            datum(f"{name}timeouts", health.timeouts, "c"),
            datum(f"{name}leaks", health.leaks, "c"),
            datum(f"{name}connecting", health.connecting),
            datum(
                f"{name}connect",
                health.oldest_connect_seconds,
                "s",
                limits.wait_seconds,
            ),
            datum(f"{name}unavailable", health.unavailable, "c"),
            *_budget_of(health),
        )
    )


def _budget_of(health: Health) -> tuple[str, ...]:
    """Return how many places of a budget are taken, with the limit as the maximum."""
    if health.budget is None:
        return ()
    taken = datum(f"{health.label}budget", health.budget_taken)
    return (f"{taken};{health.budget}",)


def datum(
    name: str,
    value: float | None,
    unit: str = "",
    limits: Range | None = None,
    low: int | None = None,
) -> str:
    """Return ``'label'=value[UOM];warn;crit;min;max`` (section 2.6 of the guidelines).

    :param low: the least value that is still well.
    """
    warning = critical = ""
    if limits is not None:
        warning, critical = _number(limits.warning), _number(limits.critical)
    if low is not None:
        critical = f"{low}:"
    number = "U" if value is None else f"{_number(value)}{unit}"
    most = "100" if unit == "%" else ""
    return f"'{name}'={number};{warning};{critical};0;{most}".rstrip(";")


def _number(value: float | None) -> str:
    """Return digits and a point only, as the guidelines want them."""
    if value is None or math.isinf(value):
        return ""
    return f"{value:.3f}".rstrip("0").rstrip(".")
