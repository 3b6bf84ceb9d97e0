"""Whether the other end of an idle connection is still there.

An idle connection has nothing to read. If the kernel says that there is something, or
that the line was hung up, the server has spoken or gone: a suspicion that a ping
settles. What dies without a word (a balancer that forgets a connection, a host that
vanishes) is left to TCP keepalive and to a ping after a long time of silence.

Pings. SQLAlchemy's ``_do_ping_w_event`` tells ``handle_error`` listeners of a lost
connection and then returns False, without the error. The dialect's ``do_ping``, which
it calls, is wrapped for that; checked on SQLAlchemy 2.0.31 and 2.1.9.
"""

from __future__ import annotations

import _thread
import contextlib
import math
import os
import select
import socket
import sys
import threading
import typing as t
from collections.abc import Callable

from .late_patch import after_late_patch

# Kernels send the first keepalive probe after two hours (tcp(7)); balancers and NAT
# gateways forget a silent connection after 350 s (AWS), 240 s (Azure) or less.
KEEPALIVE_IDLE: t.Final = 60
KEEPALIVE_INTERVAL: t.Final = 10
KEEPALIVE_COUNT: t.Final = 3

# Seconds of silence after which even a quiet line is asked.
PING_AFTER: t.Final = 60.0
# The same for drivers whose socket cannot be reached.
PING_BLINDLY_AFTER: t.Final = 1.0

_SUSPICIOUS: t.Final = (
    getattr(select, "POLLIN", 0)
    | getattr(select, "POLLPRI", 0)
    | getattr(select, "POLLRDHUP", 0)
)


def _unpatched(module: t.Any, name: str) -> t.Any:
    """Return a function or class as it was before gevent replaced it."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched(module.__name__):
        return monkey.get_original(module.__name__, name)
    return getattr(module, name)


def watch(
    fileno: Callable[[], int] | None,
) -> tuple[int, Callable[[int], t.Any]] | None:
    """Return a socket's number and what asks the kernel about it, None if it cannot.

    :param fileno: tells the number; raises or returns -1 if the driver closed it.
    """
    if fileno is None or not hasattr(select, "poll"):
        return None
    try:
        number = fileno()
    except Exception:  # each driver has its own way to say that it is closed
        return None
    if type(number) is not int or number < 0:
        return None
    # gevent's own never returns without a turn of its loop.
    poller = _unpatched(select, "poll")()
    poller.register(number, _SUSPICIOUS)
    return number, poller.poll


def _socket_of(number: int) -> socket.socket:
    """Wrap a descriptor without changing it."""
    # With socket.setdefaulttimeout() in force, making the object would.
    blocking = os.get_blocking(number)
    line: socket.socket = _unpatched(socket, "socket")(fileno=number)
    if os.get_blocking(number) != blocking:
        os.set_blocking(number, blocking)
    return line


def keep_alive(number: int, user_timeout: float) -> None:
    """Let the kernel probe a silent connection, sooner than it would by itself.

    What the driver or its user set shorter stays.

    :param user_timeout: seconds for which what was sent may stay unacknowledged. By
        itself the kernel gives a statement into a black hole some 15 minutes
        (tcp_retries2 in tcp(7)).
    """
    if number < 0:  # not found, or no poll() on this platform
        return
    with contextlib.suppress(OSError), _borrowed(number) as line:
        if line.family not in (socket.AF_INET, socket.AF_INET6):
            return
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
            ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
            ("TCP_KEEPCNT", KEEPALIVE_COUNT),
            # In milliseconds; 0 would leave it to the kernel.
            ("TCP_USER_TIMEOUT", math.ceil(user_timeout * 1000)),
        ):
            option = getattr(socket, name, None)
            if option is None:  # not on this platform
                continue
            now = line.getsockopt(socket.IPPROTO_TCP, option)
            if now == 0 or now > value:
                line.setsockopt(socket.IPPROTO_TCP, option, value)


def answers_within(
    ping: Callable[[], bool], fileno: Callable[[], int] | None, seconds: float
) -> bool:
    """Ping, for at most so many seconds.

    A driver that waits for an answer cannot be told to stop, but its socket can be
    shut down, which ends the waiting of every driver. Where no thread can run (uWSGI
    without ``--enable-threads``) the kernel's TCP_USER_TIMEOUT is the limit.
    """
    limit = None
    with contextlib.suppress(Exception):  # no socket: only the driver's own limits
        limit = _Limit(fileno, seconds) if fileno is not None else None
    try:
        return ping() and (limit is None or not limit.end())
    finally:
        if limit is not None:
            limit.end()


class _Limit:
    """Shuts a socket down after a time, unless it is ended before.

    In a thread of the system's even under gevent, whose greenlets all stand still
    while a driver written in C waits.
    ``_lock`` protects the decision which of the two came first; ``_ending`` is held
    until the limit is ended.
    """

    def __init__(self, fileno: Callable[[], int], seconds: float) -> None:
        allocate = _unpatched(_thread, "allocate_lock")
        self._lock, self._ending = allocate(), allocate()
        self._ended = self._struck = False
        self._ending.acquire()
        # A number of its own: the driver may close its own one, and another thread
        # may then be given it.
        self._line = _socket_of(os.dup(fileno()))
        try:
            _unpatched(_thread, "start_new_thread")(self._wait, (seconds,))
        except BaseException:
            self._line.close()
            raise

    def _wait(self, seconds: float) -> None:
        if self._ending.acquire(timeout=min(seconds, _thread.TIMEOUT_MAX)):
            return
        with self._lock:
            if not self._ended:
                self._struck = True
                with contextlib.suppress(OSError):
                    self._line.shutdown(socket.SHUT_RDWR)

    def end(self) -> bool:
        """Take the limit away; tell whether it was exceeded."""
        with self._lock:
            if not self._ended:
                self._ended = True
                self._ending.release()
                self._line.close()
            return self._struck


@contextlib.contextmanager
def _borrowed(number: int) -> t.Iterator[socket.socket]:
    line = _socket_of(number)
    try:
        yield line
    finally:
        line.detach()


# Pings --------------------------------------------------------------------------

# Ping and answer are of one thread (or greenlet) each.
_said = threading.local()


@after_late_patch
def _say_anew() -> None:
    global _said
    _said = threading.local()


class NoErrorKnownError(Exception):
    """A ping failed, and its error did not come through the wrapped ``do_ping``."""


class _NotingPing:
    """Calls a dialect's ``do_ping`` and keeps its error for the calling thread."""

    def __init__(self, do_ping: t.Callable[[t.Any], bool]) -> None:
        self._do_ping = do_ping

    def __call__(self, connection: t.Any) -> bool:
        try:
            return self._do_ping(connection)
        except Exception as error:
            _said.error = error
            raise


def failure_of_ping(dialect: t.Any, connection: t.Any) -> Exception | None:
    """Ping as ``pool_pre_ping`` does; return the driver's error, None if it answers.

    :raises Exception: an error that does not mean a lost connection.
    """
    do_ping = getattr(dialect, "do_ping", None)
    if do_ping is not None and not isinstance(do_ping, _NotingPing):
        dialect.do_ping = _NotingPing(do_ping)
    _said.error = None
    try:
        if dialect._do_ping_w_event(connection):
            return None
        return _said.error or NoErrorKnownError()
    finally:
        _said.error = None  # its traceback holds the connection
