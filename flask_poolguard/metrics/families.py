"""The metrics: name, type, unit and labels of each, in one table.

Names and units of ``db_client_connection_*`` are those of OpenTelemetry's semantic
conventions for database client metrics
(https://opentelemetry.io/docs/specs/semconv/database/database-metrics/), written as the
conventions' compatibility rules for Prometheus have it
(https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/):
dots become underscores, seconds a suffix, counters end in ``_total``. The attributes
``db.client.connection.pool.name`` and ``db.client.connection.state`` are the labels
``pool`` (the bind) and ``state``.

No label names a worker: each reload makes new ones, and a series of each would stay in
Prometheus' index. All values are of all workers of the host together.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..state.histogram import Histogram

Type = t.Literal["gauge", "counter", "histogram"]

APP: t.Final = ("app",)
POOL: t.Final = ("app", "pool")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    :ivar name: as it is scraped; of a histogram without ``_bucket``, ``_sum`` and
        ``_count``.
    :ivar help: one sentence.
    """

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = POOL


@dataclass(slots=True)
class Filled:
    """One metric with its values, by the values of its labels."""

    family: Family
    samples: dict[tuple[str, ...], float | Histogram] = field(default_factory=dict)


# In the order in which they are scraped.
FAMILIES: t.Final = (
    Family(
        "db_client_connection_count",
        "gauge",
        "Open connections, by state: idle in the pool or used.",
        (*POOL, "state"),
    ),
    Family(
        "db_client_connection_max",
        "gauge",
        "The most connections that the pools may open: pool_size + max_overflow.",
    ),
    Family(
        "db_client_connection_idle_max",
        "gauge",
        "The most idle connections that the pools keep: pool_size.",
    ),
    Family(
        "db_client_connection_idle_min",
        "gauge",
        "Idle connections that the pools keep open: POOLGUARD_MIN_IDLE.",
    ),
    Family(
        "db_client_connection_pending_requests",
        "gauge",
        "Threads that wait for a connection to come back.",
    ),
    Family(
        "db_client_connection_timeouts_total",
        "counter",
        "Checkouts for which no connection came back in time, deadlocks included.",
    ),
    Family(
        "db_client_connection_create_time_seconds",
        "histogram",
        "Seconds that opening a connection took, failures left out.",
    ),
    Family(
        "db_client_connection_wait_time_seconds",
        "histogram",
        "Seconds from asking a pool for a connection to getting one, failures left"
        " out.",
    ),
    Family(
        "db_client_connection_use_time_seconds",
        "histogram",
        "Seconds from taking a connection to giving it back.",
    ),
    Family(
        "poolguard_workers",
        "gauge",
        "Live workers of the app on this host.",
        APP,
    ),
    Family(
        "poolguard_unreadable",
        "gauge",
        "State files and folders that could not be read; what is in them is missing.",
        APP,
    ),
    Family(
        "poolguard_connections_overflow",
        "gauge",
        "Open connections above pool_size.",
    ),
    Family(
        "poolguard_connections_opening",
        "gauge",
        "Threads for which a connection is opened or tested.",
    ),
    Family(
        "poolguard_connections_opened_total",
        "counter",
        "Connections that were opened.",
    ),
    Family(
        "poolguard_connections_closed_total",
        "counter",
        "Connections that left their pool, by reason.",
        (*POOL, "reason"),
    ),
    Family(
        "poolguard_checkouts_total",
        "counter",
        "Connections that were taken from their pool.",
    ),
    Family(
        "poolguard_waits_total",
        "counter",
        "Checkouts that had to wait for a connection to come back.",
    ),
    Family(
        "poolguard_deadlocks_total",
        "counter",
        "Checkouts refused because all that held connections waited for another.",
    ),
    Family(
        "poolguard_unavailable_total",
        "counter",
        "Checkouts that failed because the server gave no connection.",
    ),
    Family(
        "poolguard_refused_writes_total",
        "counter",
        "Statements that a read-only server refused.",
    ),
    Family(
        "poolguard_leaks_total",
        "counter",
        "Connections that the app did not give back.",
    ),
    Family(
        "poolguard_oldest_checkout_seconds",
        "gauge",
        "For how long the connection is out that was taken first; 0 if none is.",
    ),
    Family(
        "poolguard_oldest_wait_seconds",
        "gauge",
        "For how long the thread waits that began first; 0 if none does.",
    ),
    Family(
        "poolguard_recycle_seconds",
        "gauge",
        "Idle time after which a connection is replaced; the least of all workers'.",
    ),
    Family(
        "poolguard_budget_places",
        "gauge",
        "Connections that the processes of this host may have together.",
    ),
    Family(
        "poolguard_budget_places_taken",
        "gauge",
        "Places of that budget that are taken.",
    ),
    Family(
        "poolguard_findings",
        "gauge",
        "What is wrong now, by its code in the docs and by level.",
        ("app", "level", "code"),
    ),
    Family(
        "poolguard_server_up",
        "gauge",
        "Whether the bind's server answered (only with --servers).",
    ),
    Family(
        "poolguard_server_connections",
        "gauge",
        "Connections that the server has, of all clients (only with --servers).",
    ),
    Family(
        "poolguard_server_connections_max",
        "gauge",
        "The most connections that the server allows (only with --servers).",
    ),
    Family(
        "poolguard_server_idle_timeout_seconds",
        "gauge",
        "Idle time after which the server ends a session (only with --servers).",
    ),
)

BY_NAME: t.Final[Mapping[str, Family]] = {each.name: each for each in FAMILIES}
