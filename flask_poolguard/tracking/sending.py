"""Sends the guard's signals, so that no receiver can harm what it is told of.

Those of a request are sent in its thread, once that holds nothing of the pool's: no
lock, no slot. All others wait for a thread of their own: a receiver may use the pool,
or hang, and neither a checkout nor the housekeeper waits for it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import typing as t
import weakref
from collections import deque

from flask.globals import _cv_app

from ..guarded_apps import EXTENSION
from ..log_lines import warn
from ..pool import (
    after_fork_in_child,
    after_late_patch,
    housekeeper,
    would_thread_run_on,
)
from .thread_marks import MarkRef, this_thread

if t.TYPE_CHECKING:
    from blinker import NamedSignal
    from flask import Flask

    from .checkout import PoolCheckouts

# So many wait for the thread at most, if a receiver hangs.
MOST_WAITING: t.Final = 1000

# A thread that was woken so many seconds ago, and is not awake, never will be.
_AWAKE_WITHIN: t.Final = 5.0

# The threads, or greenlets, that run receivers right now.
_sending: set[MarkRef] = set()


def name_of(signal: NamedSignal) -> str:
    """Return a signal's name as an app imports it."""
    return signal.name.removeprefix("poolguard-").replace("-", "_")


def sender_of(pool: PoolCheckouts) -> Flask | None:
    """Return the app whose request or command runs here; of an engine that several
    apps share, the pool knows only the one that was set up last.
    """
    context = _cv_app.get(None)
    if context is not None and EXTENSION in context.app.extensions:
        return context.app
    return pool.app


def send_now(signal: NamedSignal, sender: Flask | None, **facts: object) -> None:
    """Send a signal in this thread.

    Each receiver is called, also after another one has failed. What a receiver itself
    causes is not sent again. An exception that is no ``Exception`` (KeyboardInterrupt,
    ``gevent.Timeout``) goes on: it is meant for the thread, not for the receiver.
    """
    if not signal.receivers or signal.is_muted or sender is None:
        return
    mark = this_thread.mark.ref
    if mark in _sending:
        return
    _sending.add(mark)
    try:
        for receiver in list(signal.receivers_for(sender)):
            try:
                sender.ensure_sync(receiver)(sender, **facts)
            except Exception:
                _say_it_failed(signal)
    finally:
        _sending.discard(mark)


def send_later(signal: NamedSignal, sender: Flask | None, **facts: object) -> None:
    """Send a signal from the thread of the signals."""
    post(signal, sender, **facts)
    deliver()


def post(signal: NamedSignal, sender: Flask | None, **facts: object) -> None:
    """Put a signal among those that the next :func:`deliver` lets be sent. May be
    called under a lock: it starts no thread, and logs nothing.
    """
    if signal.receivers and sender is not None:
        _outbox.add(_Letter(signal, weakref.ref(sender), facts))


def deliver() -> None:
    """Let the thread of the signals send what was posted."""
    if _outbox.letters and not _outbox.wake_thread():
        _outbox.letters.clear()
        _outbox.dropped = True
    if _outbox.dropped:
        _outbox.dropped = False
        warn(
            "signal_dropped",
            "A signal is not sent: no thread can be started for it, or %d others wait"
            " already, because a receiver hangs or threads do not run here.",
            MOST_WAITING,
        )


def _say_it_failed(signal: NamedSignal) -> None:
    name = name_of(signal)
    warn("receiver_failed", "A %s receiver failed", name, exc_info=True)


class _Letter(t.NamedTuple):
    signal: NamedSignal
    sender: weakref.ref[Flask]
    facts: dict[str, object]

    def send(self) -> None:
        try:
            send_now(self.signal, self.sender(), **self.facts)
        except BaseException:  # a receiver's SystemExit is no reason to stop for ever
            with contextlib.suppress(Exception):  # of a log handler
                _say_it_failed(self.signal)


class _Bell:
    """Wakes the thread of the signals. ``_lock`` protects nothing, releasing it wakes.

    A greenlet whose hub has ended, or runs only in tasks of gevent's thread pool, hears
    nothing, and seems alive.

    :ivar is_over: the thread is to end, another one has its work.
    """

    def __init__(self) -> None:
        # Made with the thread: gevent has patched threading by now, if it does at all.
        self._lock = threading.Lock()
        self._waits = False
        self._rung_at: float | None = None
        self.is_over = False

    def ring(self) -> None:
        """Wake the thread; idempotent."""
        if self._waits and self._rung_at is None:
            self._rung_at = time.monotonic()
        with contextlib.suppress(RuntimeError):  # it is awake already
            self._lock.release()

    def is_heard(self) -> bool:
        """Tell whether it may yet wake the thread."""
        rung_at = self._rung_at
        return rung_at is None or time.monotonic() - rung_at < _AWAKE_WITHIN

    def wait(self) -> None:
        """Wait for it."""
        self._waits = True
        self._lock.acquire()
        self._waits, self._rung_at = False, None


class _Outbox:
    """What waits to be sent, and the thread that sends it, begun when that is needed.

    ``_lock`` protects the decision to start. It is re-entrant because a garbage
    collection inside may return a connection, which may be closed then. A forked child
    begins with nothing to send.

    :ivar letters: changed by single operations of a deque.
    :ivar dropped: a signal will not be sent, which is to be logged.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin with nothing."""
        self._lock = threading.RLock()
        self._bell: _Bell | None = None
        self.letters: deque[_Letter] = deque()
        self.dropped = self._is_starting = False
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None

    def add(self, letter: _Letter) -> None:
        """Let this be sent, unless too many wait already."""
        if self._pid != os.getpid():  # a fork that ran no hooks (uWSGI)
            self.reset()
        if len(self.letters) < MOST_WAITING:
            self.letters.append(letter)
        else:
            self.dropped = True

    def tend(self) -> None:
        """See to it that what waits is sent; the housekeeper calls it."""
        if self._pid == os.getpid():
            deliver()

    def wake_thread(self) -> bool:
        """Let the thread look, and start it if there is none; False if that fails."""
        new = None
        with self._lock:
            is_starting = self._is_starting
            if not is_starting and (self._bell is None or not self._is_alive()):
                if not would_thread_run_on():
                    housekeeper.tend_soon(self)  # its own thread is where it would
                    return True
                self._is_starting = True
                new = self._make_thread()
            bell = self._bell
        if new is not None and not self._start(new):
            return False
        if bell is not None:
            bell.ring()
        return True

    def _is_alive(self) -> bool:
        thread, bell = self._thread, self._bell
        return (
            thread is not None
            and bell is not None
            and thread.is_alive()
            and bell.is_heard()
        )

    def _start(self, thread: threading.Thread) -> bool:
        """Start it, outside of the lock: that lets other greenlets run."""
        try:
            thread.start()
        except RuntimeError:
            self._thread = self._bell = None
            return False
        finally:
            self._is_starting = False
        return True

    def _make_thread(self) -> threading.Thread:
        if self._bell is not None:
            self._bell.is_over = True
        self._bell = _Bell()
        self._thread = threading.Thread(
            target=_run,
            args=(self.letters, self._bell),
            name="poolguard-signals",
            daemon=True,
        )
        return self._thread


def _run(letters: deque[_Letter], bell: _Bell) -> None:
    while not bell.is_over:
        _send_all(letters)  # a call, so that the pause keeps nothing alive
        bell.wait()


def _send_all(letters: deque[_Letter]) -> None:
    while letters:
        letters.popleft().send()


_outbox: t.Final = _Outbox()
housekeeper.add(_outbox)


@after_late_patch
def _renew_lock() -> None:
    _outbox._lock = threading.RLock()


@after_fork_in_child
def _after_fork_in_child() -> None:
    _sending.clear()
    _outbox.reset()
