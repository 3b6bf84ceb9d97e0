"""The plan of a run, decided before it begins."""

from __future__ import annotations

import os
import typing as t
from collections.abc import Sequence
from dataclasses import dataclass

from ..engines import Guarded
from ..report import servers
from ..urls import public_url
from .connection_budget import DEFAULT_LARGEST, budget, sizes_up_to, used
from .failures import TuneError
from .work import Kind, Work

# Who set the threads: ``--threads``, the live workers, or neither, so that they follow
# from the sizes.
ThreadsFrom = t.Literal["option", "workers", "sizes"]

# One for each parameter of the law that is fitted.
FEWEST_SIZES: t.Final = 3

# A request that has its connection for half of its time keeps a pool full with twice
# as many threads as connections.
_THREADS_PER_CONNECTION: t.Final = 2
_FEWEST_THREADS: t.Final = 8

_LONGEST_WARM: t.Final = 10.0
# Seconds for making the connections of a step.
_BETWEEN: t.Final = 0.3


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run will measure, and how.

    :ivar server: what the database says that it is; None is unknown.
    :ivar threads: of each process: so many requests at a time.
    :ivar limit: why no larger size is measured.
    :ivar alone_seconds: how long the work takes without any load; 0 if that is not
        known yet.
    """

    app: str
    bind: str
    url: str
    server: str | None
    works: tuple[Work, ...]
    processes: int
    threads: int
    cores: int
    sizes: tuple[int, ...]
    rounds: int
    seconds: float
    limit: str
    alone_seconds: float = 0.0
    threads_from: ThreadsFrom = "sizes"

    @property
    def kind(self) -> Kind:
        """Whether requests or queries are run."""
        return self.works[0].kind

    @property
    def unit(self) -> str:
        """What is counted."""
        return "requests" if self.kind == "url" else "transactions"

    def queue_seconds(self, size: int) -> float:
        """Return how long it takes until all threads have had their turn once.

        As long a queue, at the most, forms when a step begins, and is worked off when
        it ends.
        """
        return self.threads / size * self.alone_seconds

    def warm_seconds(self, size: int) -> float:
        """Return how long a step of this size runs before it counts.

        Until the queue is as long as it will be, and a while for all that gets faster
        with use.
        """
        return min(max(self.seconds / 4, 0.25, self.queue_seconds(size)), _LONGEST_WARM)

    @property
    def total_seconds(self) -> float:
        """About how long the whole run takes."""
        return self.rounds * sum(
            self.warm_seconds(size) + self.seconds + self.queue_seconds(size) + _BETWEEN
            for size in self.sizes
        )


def make_plan(
    app: str,
    engines: Sequence[Guarded],
    works: tuple[Work, ...],
    bind: str,
    *,
    processes: int,
    threads: int | None,
    max_size: int | None,
    seconds: float,
    rounds: int,
    worker_threads: int | None = None,
) -> RunPlan:
    """Decide on the sizes, within what the servers have free.

    :param app: its name.
    :param engines: all that it has.
    :param threads: of each process; None lets them follow from the workers, or else
        from the sizes.
    :param max_size: of each process's pool, likewise.
    :param worker_threads: how many a live worker has; None if that is not known.

    :raises TuneError: they have too little, or do not say.
    """
    binds = used(engines, bind, by_requests=works[0].kind == "url")
    answers = servers.finish(servers.begin(binds), binds)
    allowed = budget(binds, answers, processes)
    limit = allowed.why
    if allowed.largest is None:
        if max_size is None:
            raise TuneError(
                f"Of the server, {limit}: give the largest pool that each of"
                f" {processes} processes may have, with --max-size."
            )
        largest = max_size
        limit = "--max-size"
    elif max_size is not None and max_size > allowed.largest:
        raise TuneError(
            f"--max-size {max_size} is too large: {limit}. Use fewer --processes, or"
            " free some connections."
        )
    else:
        wanted = max_size or DEFAULT_LARGEST
        largest = min(wanted, allowed.largest)
        if largest == wanted:
            limit = "--max-size" if max_size else "without --max-size"
    source: ThreadsFrom = "sizes" if threads is None else "option"
    if threads is None and worker_threads is not None:
        threads, source = worker_threads, "workers"
        if threads < FEWEST_SIZES:
            raise TuneError(_needs_no_run(threads))
    if threads is not None and threads < largest:
        largest, limit = threads, f"{threads} threads use no more"
    if largest < FEWEST_SIZES:
        raise TuneError(
            f"No pool larger than {largest} can be measured ({limit}), and a curve"
            f" takes {FEWEST_SIZES} sizes. Use fewer --processes, more --threads, or"
            " free some connections."
        )
    first = binds[0]
    view = answers[bind].view
    return RunPlan(
        app=app,
        bind=bind,
        url=public_url(first.engine.url),
        server=None if view is None else view.product,
        works=works,
        processes=processes,
        threads=threads or max(_THREADS_PER_CONNECTION * largest, _FEWEST_THREADS),
        cores=os.cpu_count() or 1,
        sizes=tuple(sizes_up_to(largest)),
        rounds=rounds,
        seconds=seconds,
        limit=limit,
        threads_from=source,
    )


def _needs_no_run(threads: int) -> str:
    """Return what is right for a worker of so few threads, without a curve."""
    it = "thread, which uses" if threads == 1 else "threads, which use"
    size = "1 connection" if threads == 1 else f"{threads} connections"
    return (
        f"There is nothing to measure: a live worker serves with {threads} {it} no more"
        f" than {size}, so pool_size {threads} is enough. To measure for workers with"
        " more threads, give --threads."
    )
