"""Periodic work without traffic, in two daemon threads per process."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import typing as t
import weakref
from collections import deque
from collections.abc import Callable, Iterable

from ..log_lines import debug, rest, warn
from .fork import after_fork_in_child
from .greenlets import would_thread_run_on
from .late_patch import after_late_patch, late_patch

_clock = time.monotonic

# Seconds between two rounds.
PERIOD: t.Final = 1.0
# Seconds after which what was asked for soon is done.
SOON: t.Final = 0.1
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

    Started by the process's first request or connection, or when a server loads an app
    to serve it here, so neither importing an app nor setting one up for anything else
    starts a thread. One thread does what never waits for others,
    such as warnings, and one what closes connections: a line, or a listener of the
    app's, may hold that up for ever.

    ``_lock`` protects the decision to start and what is tended, ``_round`` and
    ``_closing_round`` keep two rounds of a kind from overlapping: a thread that finds
    one taken has nothing to do. ``_wake`` is released to wake the first thread before
    its next round: one call into C, which a garbage collection cannot interrupt.

    gevent may patch threading between the import and the start. ``_wake``, which a
    thread waits for, is therefore made with the thread, and the threads are started
    outside of ``_lock``: to start one lets other greenlets run.

    :ivar overdue_at: monotonic seconds at which a checkout is to do the work.
    """

    def __init__(self) -> None:
        # And whether it may hang.
        self._tended: weakref.WeakKeyDictionary[Tended, bool] = (
            weakref.WeakKeyDictionary()
        )
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._round, self._closing_round = threading.Lock(), threading.Lock()
        self._wake = threading.Lock()
        self._wake.acquire()
        # References, changed by single operations of a deque.
        self._soon: deque[weakref.ref[Tended]] = deque()
        self._pid = os.getpid()
        self._threads: list[threading.Thread] = []
        self.overdue_at = math.inf

    def renew_lock(self) -> None:
        """Make the lock anew: threading was patched."""
        self._lock = threading.Lock()

    def add(self, tended: Tended, may_hang: bool = False) -> None:
        """Tend this from now on.

        :param may_hang: it closes connections.
        """
        if self._pid != os.getpid():  # a fork that ran no hooks (uWSGI)
            self._reset()
        with self._lock:
            self._tended[tended] = may_hang

    def tend_soon(self, tended: Tended) -> None:
        """Tend this in a tenth of a second, and not only with the next round."""
        self._soon.append(weakref.ref(tended))
        with contextlib.suppress(RuntimeError):  # it is awake already
            self._wake.release()

    def start(self) -> None:
        """Start the threads unless they run, or would not here: checkouts do the work
        until this is called where they would.
        """
        if self._pid != os.getpid():
            self._reset()
        if self._threads:
            return
        with self._lock:
            if self._threads:
                return
            self.overdue_at = min(self.overdue_at, _clock() + OVERDUE)
            if not would_thread_run_on():
                return
            self._wake = threading.Lock()  # not held: something may be asked for
            threads = self._threads = [
                threading.Thread(target=run, name=name, daemon=True)
                for run, name in (
                    (self._run, "poolguard-housekeeper"),
                    (self._run_closing, "poolguard-closer"),
                )
            ]
        try:
            for thread in threads:
                thread.start()
        except RuntimeError:  # no thread can be started: checkouts do the work
            debug("not_known", "No housekeeper thread", exc_info=True)

    def catch_up(self) -> None:
        """Do a round that is overdue."""
        if self._pid == os.getpid():
            self._go_round()
            self._go_closing_round()

    def _run(self) -> None:
        next_round = _clock() + PERIOD
        while True:
            if self._wake.acquire(timeout=max(next_round - _clock(), 0.0)):
                time.sleep(SOON)
                self._tend_soon()
            if _clock() >= next_round:
                self._go_round()
                next_round = _clock() + PERIOD

    def _tend_soon(self) -> None:
        chosen = []
        while self._soon:
            chosen.append(self._soon.popleft()())
        self._tend_each(each for each in dict.fromkeys(chosen) if each is not None)

    def _run_closing(self) -> None:
        while True:
            time.sleep(PERIOD)
            self._go_closing_round()

    def _go_round(self) -> None:
        if self._round.acquire(blocking=False):
            try:
                self.overdue_at = _clock() + OVERDUE
                self._soon.clear()
                self._tend(may_hang=False)
            finally:
                self._round.release()

    def _go_closing_round(self) -> None:
        if self._closing_round.acquire(blocking=False):
            try:
                self._tend(may_hang=True)
            finally:
                self._closing_round.release()

    def _tend(self, may_hang: bool) -> None:
        with self._lock:
            chosen = [key for key, value in self._tended.items() if value == may_hang]
        if not may_hang:
            chosen += [rest, late_patch]  # log lines that no pool owns
        self._tend_each(chosen)

    def _tend_each(self, chosen: Iterable[Tended]) -> None:
        for tended in chosen:
            try:
                tended.tend()
            except Exception:
                with contextlib.suppress(Exception):  # of a log handler
                    warn(
                        "guard_failed",
                        "Housekeeping of %r failed",
                        tended,
                        exc_info=True,
                    )


housekeeper: t.Final = Housekeeper()
after_fork_in_child(housekeeper._reset)
after_late_patch(housekeeper.renew_lock)
