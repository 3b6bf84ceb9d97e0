"""What the pictures and tables of runs show.

A run is made once, when a picture or a table needs it.
"""

from __future__ import annotations

import functools
import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pool_loads as loads
import pool_runs as runs
from svg_chart import Chart

MORE_TRIES = 3
LIMITED: dict[str, Any] = {"POOLGUARD_MAX_WAITING": 4}

# Each run once; a picture and a table of the same run show the same figures.
crowd = functools.cache(loads.crowd)
sizes = functools.cache(loads.sizes)


@functools.cache
def overload() -> tuple[list[loads.Arrival], list[loads.Arrival]]:
    """Return the runs without and with a limit; both sleep most of the time."""
    free, limited = at_once(
        loads.overload, functools.partial(loads.overload, **LIMITED)
    )
    return free, limited


@functools.cache
def asleep() -> tuple[Any, ...]:
    """Return the runs of a life, of idle time and of two deadlocks; all sleep."""
    stock, guarded = (
        functools.partial(runs.deadlock, guarded=guarded) for guarded in (False, True)
    )
    return tuple(at_once(runs.life, runs.idle, stock, guarded))


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Return what each returns; they run side by side."""
    with ThreadPoolExecutor(len(works)) as threads:
        return [each.result() for each in [threads.submit(work) for work in works]]


class Lost(Exception):
    """A run did not show what its page explains."""


def draw_life() -> Chart:
    """Draw a pool's connections over time."""
    found: runs.Life = asleep()[0]
    for _ in range(MORE_TRIES):
        if not found.is_as_told:
            found = runs.life()
    if not found.is_as_told:
        raise Lost(f"the machine is too busy: {found.moments[-1]}, {found.gave_up}")
    moments, gave_up = found.moments, found.gave_up[0]
    chart = Chart(
        "Connections of a pool of size 2 with overflow 1, over three seconds. They"
        " rise from 0 to 2 and to 3; a fourth caller waits and gets one that came"
        " back, a fifth waits until its timeout. At the end the overflow is closed"
        " and two connections stay open.",
        across="seconds",
        upward="connections, callers",
        x=(0, runs.LIFE_SECONDS),
        y=(0, 4),
    )
    chart.ticks((0, 0.5, 1, 1.5, 2, 2.5), (0, 1, 2, 3, 4))
    chart.level(2, "pool_size")
    chart.level(3, "pool_size + max_overflow")
    for colour, name, values in (
        ("first", "open", [each.open for each in moments]),
        ("third", "in use", [each.out for each in moments]),
        ("second", "callers that wait", [each.waiting for each in moments]),
    ):
        # Side by side where two are equal.
        shift = {"first": 0.05, "third": -0.03, "second": 0.0}[colour]
        points = [
            (each.seconds, value + shift)
            for each, value in zip(moments, values, strict=True)
        ]
        chart.steps(colour, name, points)
    chart.mark(gave_up, 1.15, "timeout")
    return chart


def draw_idle() -> Chart:
    """Draw a connection's age and idle time."""
    seen: list[runs.Ageing] = asleep()[1]
    chart = Chart(
        "A connection that is used four times a second, not used for more than a"
        " second, and used again. Its age grows above the limit while it is in use; its"
        " idle time is far below until the pause. After the pause it is a new one.",
        across="seconds",
        upward="seconds",
        x=(0, runs.USES_SECONDS),
        y=(0, 4),
    )
    chart.ticks((0, 1, 2, 3, 4), (0, 1, 2, 3, 4))
    chart.level(runs.IDLE_LIMIT, "limit")
    chart.curve("second", "age", [(each.seconds, each.age) for each in seen])
    chart.curve("first", "idle time", [(each.seconds, each.idle) for each in seen])
    return chart


def draw_crowd() -> Chart:
    """Draw how long requests take, in the order of that."""
    both = {"stock": crowd(guarded=False), "guarded": crowd(guarded=True)}
    chart = Chart(
        "Time to an answer, by the share of requests that took no longer, for 24"
        " clients at 3 connections. With SQLAlchemy's queue most requests are fast,"
        " and the last few take as long as the run; with the guard nearly all take"
        " about the same time.",
        across="% of the requests, the fastest first",
        upward="milliseconds to the answer",
        x=(0, 100),
        y=(5, 3000),
        log_y=True,
    )
    chart.ticks((0, 20, 40, 60, 80, 100), (10, 30, 100, 300, 1000, 3000))
    for (name, seen), colour in zip(both.items(), ("second", "first"), strict=True):
        last = len(seen.latencies) - 1
        chart.curve(
            colour,
            name,
            [
                (100 * number / last, took * 1000)
                for number, took in enumerate(seen.latencies)
            ],
        )
    return chart


def draw_served() -> Chart:
    """Draw how many requests of each client were answered."""
    both = {"stock": crowd(guarded=False), "guarded": crowd(guarded=True)}
    most = max(seen.served[-1] for seen in both.values())
    chart = Chart(
        "Requests answered for each of 24 clients. With SQLAlchemy's queue three"
        " clients get nearly all answers and most others a single one; with the guard"
        " all get the same number.",
        across="clients, the least served first",
        upward="requests answered",
        x=(0.5, loads.CLIENTS + 0.5),
        y=(0, most * 1.05),
    )
    chart.ticks((1, 6, 12, 18, 24), range(0, most, 40))
    for (name, seen), colour in zip(both.items(), ("second", "first"), strict=True):
        chart.dots(
            colour, name, [(n, float(count)) for n, count in enumerate(seen.served, 1)]
        )
    return chart


def draw_sizes() -> Chart:
    """Draw the time that a query waits and takes, by the size of its pool."""
    found = sizes()
    most = max(each.waiting + each.querying for each in found) * 1000
    chart = Chart(
        "Time of one query through pools of 1 to 16 connections, with 16 threads on a"
        " machine of few cores: a larger pool lets it wait less for a connection, and"
        " makes the query itself as much slower.",
        across=f"connections (of a machine with {os.cpu_count()} cores)",
        upward="milliseconds",
        x=(0.9, 18),
        y=(0, most * 1.15),
        log_x=True,
    )
    step = 10 if most < 80 else 20 if most < 200 else 100
    chart.ticks(loads.SIZES, range(0, int(most * 1.15), step))
    for colour, name, times in (
        ("fourth", "both together", [each.waiting + each.querying for each in found]),
        ("second", "waits for a connection", [each.waiting for each in found]),
        ("first", "the query itself", [each.querying for each in found]),
    ):
        milliseconds = [each * 1000 for each in times]
        points = list(zip(map(float, loads.SIZES), milliseconds, strict=True))
        chart.line(colour, name, points)
    return chart


def table_of_sizes() -> list[Sequence[str]]:
    """Return the same in figures, with what Little's law makes of them."""
    return [
        (
            "connections",
            "queries/s",
            "waits, ms",
            "query, ms",
            "rate × (waits + query)",
            "rate × query",
        ),
        *(
            (
                str(each.size),
                f"{each.rate:.0f}",
                f"{each.waiting * 1000:.1f}",
                f"{each.querying * 1000:.1f}",
                f"{each.rate * (each.waiting + each.querying):.1f}",
                f"{each.rate * each.querying:.1f}",
            )
            for each in sizes()
        ),
    ]


def draw_overload(limited: bool) -> Chart:
    """Draw when requests came, and how long their answers took."""
    seen = overload()[limited]
    how = (
        "With at most four waiting, requests are answered within a tenth of a second"
        " or refused at once."
        if limited
        else "Within the first second the wait grows to the timeout of half a second;"
        " from then on all answers, good and bad, take that long."
    )
    chart = Chart(
        f"200 requests a second at a pool that can serve 100. {how}",
        across="when the request came, in seconds",
        upward="milliseconds to the answer",
        x=(0, loads.OVERLOAD_SECONDS),
        y=(0, 700),
    )
    chart.ticks((0, 0.5, 1, 1.5, 2), (0, 100, 200, 300, 400, 500, 600))
    for good, colour, name in (
        (True, "first", "served"),
        (False, "second", "refused" if limited else "timed out"),
    ):
        points = [(each.came, each.took * 1000) for each in seen if each.good is good]
        if not points:
            raise Lost(f"no request was {name}")
        chart.dots(colour, name, points)
    return chart


def table_of_overload() -> list[Sequence[str]]:
    """Return how many were served, and in what time."""
    rows: list[Sequence[str]] = [
        ("", "served", "half of them within", "failed", "half of them after")
    ]
    names = ("no limit", "`POOLGUARD_MAX_WAITING = 4`")
    for name, seen in zip(names, overload(), strict=True):
        cells = [name]
        for good in (True, False):
            took = [each.took for each in seen if each.good is good]
            cells += [str(len(took)), f"{statistics.median(took) * 1000:.1f} ms"]
        rows.append(cells)
    return rows


def draw_deadlock() -> Chart:
    """Draw what two requests do that each want a second connection."""
    chart = Chart(
        "Two requests hold the two connections of a pool, and each waits for one more."
        " With SQLAlchemy's pool both wait for the whole timeout of one second. With"
        " the guard one gets an error at once, and the other goes on.",
        across="seconds",
        upward="",
        x=(0, 1.3),
        y=(0, 4),
    )
    rows = ("guarded, request B", "guarded, A", "stock, B", "stock, A")
    chart.ticks((0, 0.2, 0.4, 0.6, 0.8, 1, 1.2), ())
    chart.names([row.partition(", ")[2].removeprefix("request ") for row in rows])
    bars: dict[str, list[tuple[int, float, float]]] = {}
    *_, stock, guarded = asleep()
    for spans, lowest in ((guarded, 0), (stock, 2)):
        failed = [each.thread for each in spans if each.kind == "error"]
        for span in spans:
            # The request that fails stands below.
            row = lowest + (0 if span.thread in failed[:1] else 1)
            bars.setdefault(span.kind, []).append((row, span.start, span.end))
    chart.bars("second", "waits for a second connection", bars["waits"])
    chart.bars("first", "has both", bars.get("works", []))
    chart.bars("fourth", "error", bars["error"])
    chart.mark(1.29, 2.9, "stock", "end")
    chart.mark(1.29, 0.9, "guarded", "end")
    return chart


PICTURES: dict[str, Callable[[], Chart]] = {
    "life": draw_life,
    "idle": draw_idle,
    "crowd": draw_crowd,
    "served": draw_served,
    "sizes": draw_sizes,
    "overload": functools.partial(draw_overload, False),
    "overload-limited": functools.partial(draw_overload, True),
    "deadlock": draw_deadlock,
}
TABLES: dict[str, Callable[[], list[Sequence[str]]]] = {
    "sizes": table_of_sizes,
    "overload": table_of_overload,
}
