"""One step of load in this process: threads, seconds, one pool."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
import typing as t
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from . import latency, processor
from .failures import WorkFailed
from .workload import Deed

# Period of counting the connections that are checked out.
_PAUSE_SECONDS: t.Final = 0.01
# How long requests that are under way at the end of a step may go on.
DRAIN_SECONDS: t.Final = 60.0
# For so long nothing may get done before something is taken for hanging: for this, or
# for so many times as long as all threads together need for one request each.
_PATIENCE_SECONDS: t.Final = 10.0
_PATIENCE_TIMES: t.Final = 3


@dataclass
class LoadFigures:
    """What one process saw in the time that is measured.

    :ivar latencies: of what was done, by :func:`.latency.bucket_of`.
    :ivar statuses: how often, by number of the work and HTTP status.
    :ivar busy: the connections that were out, on average.
    :ivar process_cores: how many cores this process took.
    :ivar machine_share: of all cores of the machine that were busy; None is unknown.
    """

    latencies: Counter[int] = field(default_factory=Counter)
    statuses: Counter[tuple[int, int]] = field(default_factory=Counter)
    busy: float = 0.0
    process_cores: float = 0.0
    machine_share: float | None = None


class Load:
    """Threads, each of which begins anew as soon as it is done: a closed loop.

    :param deeds: what to do, and how to describe its errors.
    :param weights: how often, against the others.
    :param is_over: tells whether to give up; asked all the time.
    """

    def __init__(
        self,
        deeds: Sequence[tuple[Deed, Callable[[BaseException], str]]],
        weights: Sequence[int],
        is_over: Callable[[float], bool],
    ) -> None:
        self._deeds = deeds
        self._chosen = list(itertools.accumulate(weights))
        self._is_over = is_over
        self._stop = threading.Event()
        self._failure: str | None = None
        self._last_done = 0.0
        self.threads: list[threading.Thread] = []
        # For so many seconds nothing may get done.
        self._patience = DRAIN_SECONDS

    def expect(self, seconds: float) -> None:
        """Take it for hanging if nothing gets done for much longer than this.

        :param seconds: what all threads together need for one request each, if they
            share one processor.
        """
        patience = max(_PATIENCE_SECONDS, _PATIENCE_TIMES * seconds)
        self._patience = min(patience, DRAIN_SECONDS)

    def run(
        self,
        threads: int,
        begin: float,
        warm: float,
        seconds: float,
        out: Callable[[], int],
    ) -> LoadFigures:
        """Load for a while; what is done in the first *warm* seconds does not count.

        :param begin: when, by ``time.monotonic``, which all processes share.
        :param out: tells how many connections are out.
        :raises WorkFailed: something failed; the load has ended early.
        """
        self._start = begin + warm
        self._end = self._start + seconds
        self._stop.clear()
        self._last_done = max(time.monotonic(), begin)
        seen = LoadFigures()
        found: list[tuple[list[float], Counter[tuple[int, int]]]] = []
        for _ in range(threads):
            mine: tuple[list[float], Counter[tuple[int, int]]] = ([], Counter())
            found.append(mine)
            self.threads.append(
                threading.Thread(target=self._client, args=(begin, *mine), daemon=True)
            )
        for thread in self.threads:
            thread.start()
        self._watch(seen, out)
        self._drain()
        for latencies, statuses in found:
            seen.latencies += latency.count(latencies)
            seen.statuses += statuses
        if self._failure is not None:
            raise WorkFailed(self._failure)
        return seen

    def stop(self, seconds: float) -> bool:
        """End it, and wait so long; tell whether all threads have ended."""
        self._stop.set()
        deadline = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(deadline - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self.threads)

    def _watch(self, seen: LoadFigures, out: Callable[[], int]) -> None:
        """Wait for the end, and look how busy connections and processors are."""
        while time.monotonic() < self._start and not self._gives_up():
            pass
        machine, mine = processor.machine_times(), sum(os.times()[:4])
        began_at, samples, total = time.monotonic(), 0, 0
        while time.monotonic() < self._end and not self._gives_up():
            samples += 1
            total += out()
        lasted = time.monotonic() - began_at
        if samples and lasted > 0:
            seen.busy = total / samples
            seen.process_cores = (sum(os.times()[:4]) - mine) / lasted
            seen.machine_share = processor.busy_share(
                machine, processor.machine_times()
            )

    def _gives_up(self) -> bool:
        if self._stop.is_set():
            return True
        if self._is_over(_PAUSE_SECONDS):
            self._stop.set()
        elif self._hangs():
            self._fail(
                f"Nothing got done for {self._patience:.0f} s: an answer that never"
                " ends, or a database that hangs."
            )
        return self._stop.is_set()

    def _hangs(self) -> bool:
        return time.monotonic() > self._last_done + self._patience

    def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        while any(thread.is_alive() for thread in self.threads):
            if self._is_over(_PAUSE_SECONDS):
                self._stop.set()
                return
            if self._hangs() or time.monotonic() > deadline:
                self._failure = self._failure or (
                    "Something still runs"
                    f" {time.monotonic() - self._end:.0f} s after its time was over: an"
                    " answer that never ends, or a database that hangs."
                )
                return
        self.threads.clear()

    def _client(
        self,
        begin: float,
        latencies: list[float],
        statuses: Counter[tuple[int, int]],
    ) -> None:
        choice = random.Random()  # noqa: S311 (which request comes next is no secret)
        numbers = range(len(self._deeds))
        # Not all at the same instant: queues of equal requests would go in step.
        self._stop.wait(max(begin - time.monotonic(), 0) + choice.random() * 0.02)
        while not self._stop.is_set():
            (number,) = choice.choices(numbers, cum_weights=self._chosen)
            do, describe = self._deeds[number]
            began_at = time.monotonic()
            if began_at >= self._end:
                return
            try:
                status = do()
            except WorkFailed as error:
                self._fail(str(error))
                return
            except Exception as error:
                self._fail(describe(error))
                return
            ended_at = self._last_done = time.monotonic()
            if self._start <= ended_at < self._end:
                latencies.append(ended_at - began_at)
                statuses[number, status] += 1

    def _fail(self, message: str) -> None:
        if not self._stop.is_set():  # what fails while all is stopped is no news
            self._failure = self._failure or message
            self._stop.set()
