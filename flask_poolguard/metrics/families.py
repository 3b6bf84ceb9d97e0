"""The metrics: name, unit, type and labels of each, in one table.

Names and units of ``db.client.connection.*`` are those of OpenTelemetry's semantic
conventions for database client metrics
(https://opentelemetry.io/docs/specs/semconv/database/database-metrics/). Prometheus
gets them as the conventions' compatibility rules have it
(https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/):
dots become underscores, seconds a suffix, counters end in ``_total``. The attributes
``db.client.connection.pool.name`` and ``db.client.connection.state`` are the labels
``pool`` (the bind) and ``state``.

No label names a worker: each reload makes new ones, and a series of each would stay in
Prometheus' index. What Prometheus scrapes is of all workers of the host together.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..state.histogram import Histogram

Type = t.Literal["gauge", "counter", "histogram"]

APP: t.Final = ("app",)
POOL: t.Final = ("app", "pool")

SECONDS: t.Final = "s"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    :ivar otel_name: as OpenTelemetry spells it.
    :ivar unit: as OpenTelemetry spells it; in braces it is only a word.
    :ivar help: one sentence.
    :ivar is_of_host: it is no figure of a worker's own pools.
    """

    otel_name: str
    unit: str
    type: Type
    help: str
    labels: tuple[str, ...] = POOL
    is_of_host: bool = False

    @property
    def name(self) -> str:
        """As Prometheus scrapes it; of a histogram without ``_bucket``, ``_sum`` and
        ``_count``.
        """
        name = self.otel_name.replace(".", "_")
        if self.unit == SECONDS:
            name += "_seconds"
        return f"{name}_total" if self.type == "counter" else name


@dataclass(slots=True)
class Filled:
    """One metric with its values, by the values of its labels."""

    family: Family
    samples: dict[tuple[str, ...], float | Histogram] = field(default_factory=dict)


# In the order in which they are scraped.
FAMILIES: t.Final = (
    Family(
        "db.client.connection.count",
        "{connection}",
        "gauge",
        "Open connections, by state: idle in the pool or used.",
        (*POOL, "state"),
    ),
    Family(
        "db.client.connection.max",
        "{connection}",
        "gauge",
        "The most connections that the pools may open: pool_size + max_overflow.",
    ),
    Family(
        "db.client.connection.idle.max",
        "{connection}",
        "gauge",
        "The most idle connections that the pools keep: pool_size.",
    ),
    Family(
        "db.client.connection.idle.min",
        "{connection}",
        "gauge",
        "Idle connections that the pools keep open: POOLGUARD_MIN_IDLE.",
    ),
    Family(
        "db.client.connection.pending_requests",
        "{request}",
        "gauge",
        "Threads that wait for a connection to come back.",
    ),
    Family(
        "db.client.connection.timeouts",
        "{timeout}",
        "counter",
        "Checkouts for which no connection came back in time, deadlocks included.",
    ),
    Family(
        "db.client.connection.create_time",
        SECONDS,
        "histogram",
        "Seconds that opening a connection took, failures left out.",
    ),
    Family(
        "db.client.connection.wait_time",
        SECONDS,
        "histogram",
        "Seconds from asking a pool for a connection to getting one, failures left"
        " out.",
    ),
    Family(
        "db.client.connection.use_time",
        SECONDS,
        "histogram",
        "Seconds from taking a connection to giving it back.",
    ),
    Family(
        "poolguard.workers",
        "{worker}",
        "gauge",
        "Live workers of the app on this host.",
        APP,
        is_of_host=True,
    ),
    Family(
        "poolguard.unreadable",
        "{file}",
        "gauge",
        "State files and folders that could not be read; what is in them is missing.",
        APP,
        is_of_host=True,
    ),
    Family(
        "poolguard.connections.overflow",
        "{connection}",
        "gauge",
        "Open connections above pool_size.",
    ),
    Family(
        "poolguard.connections.opening",
        "{thread}",
        "gauge",
        "Threads for which a connection is opened or tested.",
    ),
    Family(
        "poolguard.connections.opened",
        "{connection}",
        "counter",
        "Connections that were opened.",
    ),
    Family(
        "poolguard.connections.closed",
        "{connection}",
        "counter",
        "Connections that left their pool, by reason.",
        (*POOL, "reason"),
    ),
    Family(
        "poolguard.checkouts",
        "{checkout}",
        "counter",
        "Connections that were taken from their pool.",
    ),
    Family(
        "poolguard.waits",
        "{checkout}",
        "counter",
        "Checkouts that had to wait for a connection to come back.",
    ),
    Family(
        "poolguard.deadlocks",
        "{checkout}",
        "counter",
        "Checkouts refused because all that held connections waited for another.",
    ),
    Family(
        "poolguard.unavailable",
        "{checkout}",
        "counter",
        "Checkouts that failed because the server gave no connection.",
    ),
    Family(
        "poolguard.refused_writes",
        "{statement}",
        "counter",
        "Statements that a read-only server refused.",
    ),
    Family(
        "poolguard.leaks",
        "{connection}",
        "counter",
        "Connections that the app did not give back.",
    ),
    Family(
        "poolguard.oldest_checkout",
        SECONDS,
        "gauge",
        "For how long the connection is out that was taken first; 0 if none is.",
    ),
    Family(
        "poolguard.oldest_wait",
        SECONDS,
        "gauge",
        "For how long the thread waits that began first; 0 if none does.",
    ),
    Family(
        "poolguard.recycle",
        SECONDS,
        "gauge",
        "The shortest idle time after which a connection is replaced.",
    ),
    Family(
        "poolguard.budget.places",
        "{connection}",
        "gauge",
        "Connections that the processes of this host may have together.",
        is_of_host=True,
    ),
    Family(
        "poolguard.budget.places.taken",
        "{connection}",
        "gauge",
        "Places of that budget that are taken.",
        is_of_host=True,
    ),
    Family(
        "poolguard.findings",
        "{finding}",
        "gauge",
        "What is wrong now, by its code in the docs and by level.",
        ("app", "level", "code"),
        is_of_host=True,
    ),
    Family(
        "poolguard.server.up",
        "{server}",
        "gauge",
        "Whether the bind's server answered (only with --servers).",
        is_of_host=True,
    ),
    Family(
        "poolguard.server.connections",
        "{connection}",
        "gauge",
        "Connections that the server has, of all clients (only with --servers).",
        is_of_host=True,
    ),
    Family(
        "poolguard.server.connections.max",
        "{connection}",
        "gauge",
        "The most connections that the server allows (only with --servers).",
        is_of_host=True,
    ),
    Family(
        "poolguard.server.idle_timeout",
        SECONDS,
        "gauge",
        "Idle time after which the server ends a session (only with --servers).",
        is_of_host=True,
    ),
)

BY_NAME: t.Final[Mapping[str, Family]] = {each.name: each for each in FAMILIES}
