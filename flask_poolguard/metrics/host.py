"""What is known of an app on this host: its workers, and what ended ones counted."""

from __future__ import annotations

import time
import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import SetupError
from ..report.deployment import are_of, find_workers, names_of, parents_among
from ..state.ended_workers import standstill
from ..state.status import Worker
from ..state.totals import PoolTotals, totals_of

if t.TYPE_CHECKING:
    from flask import Flask

    from ..config import AppConfig
    from ..engines import Guarded


# How often to look if a worker is missing, and seconds by which each pause is longer.
_LOOKS: t.Final = 5
_PAUSE: t.Final = 0.01


class State(t.Protocol):
    """What the guard keeps of an app, as far as it is needed here."""

    config: AppConfig

    @property
    def engines(self) -> list[Guarded]:
        """The engines under guard."""


def state_of(app: Flask) -> State:
    """Return what the guard keeps of an app.

    :raises SetupError: it has no PoolGuard.
    """
    if "poolguard" not in app.extensions:
        raise SetupError(
            f"The app {app.name!r} has no PoolGuard; call init_app(app) first."
        )
    return t.cast(State, app.extensions["poolguard"])


@dataclass(frozen=True, slots=True)
class Host:
    """An app on this host.

    :ivar workers: those that live.
    :ivar totals: what its processes have counted, ended ones included, by bind.
    :ivar problems: how many files and folders could not be read.
    """

    app: str
    workers: Sequence[Worker]
    totals: Mapping[str, PoolTotals]
    problems: int


def look(app: Flask, state: State, without_pid: int | None = None) -> Host:
    """Look at an app's processes, by their state files.

    :param without_pid: a process that is no worker.
    """
    engines, config = state.engines, state.config
    own = names_of(engines)
    for each in engines:  # what this process has counted is shown in a moment only
        each.tracker.figures.tend()
    with standstill(config.state_dir) as still:
        has_dead = False
        for number in range(_LOOKS):
            time.sleep(number * _PAUSE)
            removed = still.sweep()
            # Those that could not be removed will not go with another look, either.
            is_stuck = has_dead and not removed
            found = find_workers(
                config.state_dir,
                app.name,
                app.root_path,
                own,
                without_pid=without_pid,
            )
            # One that was killed meanwhile may be in neither, and one that was caught
            # in the middle of writing is missing. Prometheus would take that for new
            # counters, and what is shown next for an increase.
            is_whole = all(each.kind != "file" for each in found.search.problems)
            has_dead = still.has_dead()
            if is_whole and (is_stuck or not has_dead):
                break
        ended = still.ended(app.name)
    totals: dict[str, PoolTotals] = {}
    for deployment in ended:
        names = [(each.bind, each.url) for each in deployment.names]
        if are_of(names, deployment.root_path, own, app.root_path):
            for totals_of_ended in deployment.pools:
                add(totals, totals_of_ended)
    # A process that only started the others counts as well, or what it has counted
    # would be missing until it ends.
    for worker in found.ours:
        for pool in worker.pools:
            add(totals, totals_of(pool))
    parents = parents_among(found.ours)
    return Host(
        app=app.name,
        workers=[each for each in found.ours if each not in parents],
        totals=totals,
        problems=len(found.search.problems),
    )


def add(totals: dict[str, PoolTotals], more: PoolTotals) -> None:
    """Add what a pool has counted to what others of its bind have."""
    known = totals.get(more.bind)
    totals[more.bind] = more if known is None else known.plus(more)
