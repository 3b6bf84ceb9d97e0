"""Does what must be done without traffic, in one daemon thread per process."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import typing as t
import weakref
from collections.abc import Callable

logger = logging.getLogger("flask_poolguard")

_clock = time.monotonic

# Seconds between two rounds.
PERIOD: t.Final = 1.0
# A round so late means that threads do not run here (uWSGI without --enable-threads),
# or that the process was held up; a checkout does the work then.
OVERDUE: t.Final = 5.0


class Chore:
    """What is to be done every so often, for the first time after as long.

    A forked child counts anew.

    :ivar period: seconds between two times.
    """

    def __init__(self, work: Callable[[], None], period: float) -> None:
        self._work = work
        self.period = period
        self._pid = os.getpid()
        self._done_at = _clock()

    def tend(self) -> None:
        """Do it if it is due."""
        now = _clock()
        if self._pid != os.getpid():
            self._pid, self._done_at = os.getpid(), now
        if now - self._done_at >= self.period:
            self._done_at = now
            self._work()


class Tended(t.Protocol):
    """What needs a round now and then."""

    def tend(self) -> None:
        """Do what is due."""


class Housekeeper:
    """Tends what is added to it, for as long as that lives.

    Started by the process's first request or connection, so neither importing nor
    setting up an app starts a thread. ``_lock`` protects the start and the set,
    ``_round`` keeps two rounds from overlapping; who finds it taken has nothing to do.

    :ivar overdue_at: monotonic seconds at which a checkout is to do the work.
    """

    def __init__(self) -> None:
        self._tended: weakref.WeakSet[Tended] = weakref.WeakSet()
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._round = threading.Lock()
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self.overdue_at = math.inf

    def add(self, tended: Tended) -> None:
        """Tend this from now on."""
        if self._pid != os.getpid():  # a fork that ran no hooks (uWSGI)
            self._reset()
        with self._lock:
            self._tended.add(tended)

    def start(self) -> None:
        """Start the thread unless it runs."""
        if self._pid != os.getpid():
            self._reset()
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                self.overdue_at = _clock() + OVERDUE
                self._thread = threading.Thread(
                    target=self._run, name="poolguard-housekeeper", daemon=True
                )
                try:
                    self._thread.start()
                except RuntimeError:  # no thread can be started: checkouts do the work
                    logger.debug("No housekeeper thread", exc_info=True)

    def catch_up(self) -> None:
        """Do a round that is overdue."""
        if self._pid == os.getpid():
            self._go_round()

    def _run(self) -> None:
        while True:
            time.sleep(PERIOD)
            self._go_round()

    def _go_round(self) -> None:
        if not self._round.acquire(blocking=False):
            return
        try:
            self.overdue_at = _clock() + OVERDUE
            with self._lock:
                all_tended = list(self._tended)
            for tended in all_tended:
                try:
                    tended.tend()
                except Exception:
                    logger.warning("Housekeeping of %r failed", tended, exc_info=True)
        finally:
            self._round.release()


housekeeper: t.Final = Housekeeper()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=housekeeper._reset)
