"""The fixture ``pool_faults``: real faults on demand, each undone at the test's end."""

from __future__ import annotations

import typing as t
from collections.abc import Callable
from contextlib import ExitStack

from ..engines import Guarded
from ..errors import SetupError
from ..pool import GuardedPool
from ..tracking.keep import keep
from ..tracking.pool_stat import stat_of
from .connect_faults import refuse, slow_down
from .kills import idle_connections, kill, out_connections
from .targets import Target, guarded_engines_of

if t.TYPE_CHECKING:
    from types import TracebackType

_SERVED: t.Final = ("mysql", "mariadb", "postgresql")


class Fault:
    """A fault in force; a context manager, whose end undoes it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def undo(self) -> None:
        """Undo it; idempotent."""
        self._stack.close()

    def __enter__(self) -> Fault:
        """Return itself: it is in force already."""
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Undo it."""
        self.undo()


class PoolFaults:
    """What the fixture ``pool_faults`` is.

    Each method takes a target: an app, of which all engines are meant, or one engine
    that is guarded. Left out, it is the current app, or the one that was guarded last.
    It raises :class:`~flask_poolguard.SetupError` if there is none, or the fault cannot
    be had on one of the engines; none is changed then.
    """

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def undo(self) -> None:
        """Undo all of them, the last one first, even if one of them raises."""
        with ExitStack() as stack:
            while self._faults:
                stack.callback(self._faults.pop(0).undo)

    def kill_idle(self, target: Target = None) -> Fault:
        """Let the server end the sessions of all idle connections.

        As an administrator would, with the app's own account, and returns once the
        server has hung up. To undo it closes what is still idle.

        :raises SetupError: an engine has no server (SQLite), or is asynchronous.
        """
        return self._kill(target, idle_connections)

    def kill_all(self, target: Target = None) -> Fault:
        """Let the server end the sessions of all connections, those in use included.

        :raises SetupError: an engine has no server (SQLite), or is asynchronous.
        """
        return self._kill(
            target, lambda each: [*idle_connections(each), *out_connections(each)]
        )

    def exhaust(self, target: Target = None) -> Fault:
        """Take all connections that are not in use, so that the next checkout waits.

        It gets a :class:`~flask_poolguard.PoolTimeout` after
        ``POOLGUARD_POOL_TIMEOUT`` seconds. Opens up to the pool's size and
        ``max_overflow`` connections. They are kept on purpose, so they are no leak.

        :raises SetupError: a pool has no limit, or is asynchronous.
        """
        engines = self._engines(target, lambda each: _limit_of(each) is None, "a limit")
        with ExitStack() as stack:
            for each in engines:
                room = t.cast(int, _limit_of(each)) - len(each.tracker.out)
                for _ in range(room):
                    taken = each.engine.raw_connection()
                    stack.callback(taken.close)
                    keep(taken, [each.tracker])
            return self._add(stack.pop_all())

    def refuse_connects(self, target: Target = None) -> Fault:
        """Let each connect fail as if the server was not there.

        The driver connects to a port of this machine that nothing listens on, or opens
        an SQLite file in a folder that does not exist. Connections that are open
        go on working; :meth:`kill_all` ends them. A checkout tries again for
        ``POOLGUARD_CONNECT_RETRY`` seconds.

        :raises SetupError: an engine is of another kind of server.
        """
        served = (*_SERVED, "sqlite")
        engines = self._engines(
            target,
            lambda each: each.engine.dialect.name not in served,
            "a known server",
        )
        with ExitStack() as stack:
            for each in engines:
                stack.callback(_end_outage, each)  # comes after connects work
                refuse(each.engine, stack)
            return self._add(stack.pop_all())

    def slow_connects(self, seconds: float, target: Target = None) -> Fault:
        """Let each connect take longer.

        :param seconds: by so much; ended early when the fault is undone.
        :raises ValueError: it is negative.
        """
        if seconds < 0:
            raise ValueError(f"slow_connects() takes seconds; not {seconds!r}")
        engines = guarded_engines_of(target)
        with ExitStack() as stack:
            for each in engines:
                slow_down(each.engine, seconds, stack)
            return self._add(stack.pop_all())

    def _kill(self, target: Target, choose: Callable[[Guarded], list[t.Any]]) -> Fault:
        engines = self._engines(
            target,
            lambda each: each.engine.dialect.name not in _SERVED,
            "a server that can end sessions",
        )
        with ExitStack() as stack:
            for each in engines:
                kill(each, choose(each))
                stack.callback(_close_idle, each)
            return self._add(stack.pop_all())

    def _engines(
        self, target: Target, lacks: Callable[[Guarded], bool], what: str
    ) -> list[Guarded]:
        engines = guarded_engines_of(target)
        for each in engines:
            if each.engine.dialect.is_async:
                raise SetupError(
                    f"The bind {each.bind!r} is asynchronous: pool_faults cannot use it"
                    " outside of its event loop. Name another engine."
                )
            if lacks(each):
                raise SetupError(
                    f"The bind {each.bind!r} ({each.engine.dialect.name},"
                    f" {type(each.engine.pool).__name__}) does not have {what}, which"
                    " this fault needs. Name another engine, or run this test on"
                    " MySQL, MariaDB or PostgreSQL."
                )
        return engines

    def _add(self, stack: ExitStack) -> Fault:
        fault = Fault(stack)
        self._faults.insert(0, fault)
        return fault


def _limit_of(guarded: Guarded) -> int | None:
    """Return how many connections a pool gives out at most, None without a limit."""
    if guarded.tracker.facts.in_memory:
        return None
    stat = stat_of(guarded.tracker)
    size, overflow = stat["size"], stat["max_overflow"]
    if not size or overflow is None or overflow < 0:
        return None
    return int(size + overflow)


def _end_outage(guarded: Guarded) -> None:
    """Let the next test connect at once: the pool waits for a while after a failure."""
    if isinstance(guarded.engine.pool, GuardedPool):
        guarded.engine.pool._breaker.end_outage()


def _close_idle(guarded: Guarded) -> None:
    """Close what is idle, so that the next test meets no dead connection."""
    if isinstance(guarded.engine.pool, GuardedPool):
        guarded.tracker.pools.renew(guarded.bind)
    else:
        guarded.engine.dispose()
