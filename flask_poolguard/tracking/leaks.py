"""Giving back what a scope left behind, and saying so."""

from __future__ import annotations

import logging
import time
import typing as t
from dataclasses import dataclass

from ..errors import LeakError
from ..signals import connection_leaked
from .scope import ResponseScope, Scope

if t.TYPE_CHECKING:
    from .ledger import Holding

logger = logging.getLogger("flask_poolguard")

# A fairy counts nested checkouts (SingletonThreadPool); more is a broken counter.
_MAX_NESTED: t.Final = 100


@dataclass(frozen=True, slots=True)
class Leak:
    """A connection that was still out when its scope ended.

    :ivar bind: the pool's name.
    :ivar endpoint: endpoint or command that took it.
    :ivar site: ``file:line`` that took it.
    :ivar held_seconds: how long it had been out.
    :ivar action: what the guard did: ``"returned"``, ``"discarded"`` or
        ``"left"`` (async drivers, which can only be closed by their event loop).
    """

    bind: str
    endpoint: str
    site: str
    held_seconds: float
    action: str

    def describe(self) -> str:
        """Return one line: what, where, and how to fix it."""
        done = {
            "returned": "it was rolled back and returned to its pool",
            "discarded": "it was closed",
            "left": "an async driver's connection cannot be returned from here",
        }[self.action]
        return (
            f"{self.endpoint} did not give back a connection of bind {self.bind!r}"
            f" that it took at {self.site} {self.held_seconds:.3f} s ago; {done}."
            " Use it in a with block, or close it in a finally clause, at that line."
        )


def end_scope(scope: Scope) -> None:
    """Give back every connection of a scope that this thread may touch.

    A connection that another live thread took is left to it: it may be in the middle
    of a query. It is looked at again when a later scope ends.

    :raises LeakError: for pools with ``POOLGUARD_ON_LEAK="raise"``, at the end.
    """
    scope.ended = True
    if not scope.holdings:
        return
    leaks: list[tuple[Holding, Leak]] = []
    runners = scope.runners if isinstance(scope, ResponseScope) else ()
    for holding in list(scope.holdings):
        if holding.fairy() is None:
            holding.ledger.forget(holding)
        elif not holding.is_mine() and holding.mark not in runners:
            holding.ledger.left_behind.add(holding)
        else:
            leaks += _give_back(holding)
    report(leaks)


def end_left_behind(left_behind: set[Holding]) -> None:
    """Give back what was left to threads that have ended since.

    :raises LeakError: as :func:`end_scope`.
    """
    leaks: list[tuple[Holding, Leak]] = []
    for holding in list(left_behind):
        if holding.fairy() is None:
            holding.ledger.forget(holding)
        elif holding.mark() is None:
            leaks += _give_back(holding)
    report(leaks)


def _give_back(holding: Holding) -> list[tuple[Holding, Leak]]:
    """Return or discard one connection; an empty list if it came back meanwhile."""
    ledger = holding.ledger
    fairy = holding.fairy()
    if fairy is None:
        return []
    discard = ledger.on_leak == "discard"
    action = "discarded" if discard else "returned"
    try:
        if ledger.facts.is_async:
            # Its rollback needs an event loop; SQLAlchemy drops it on collection.
            action = "left"
        elif discard or ledger.database.is_in_mid_query(fairy.dbapi_connection):
            # A rollback would wait for, or misread, an answer that is still to come.
            action = "discarded"
            fairy.invalidate()
            holding.close_session()
        else:
            holding.close_session()
            for _ in range(_MAX_NESTED):
                if not fairy.is_valid:
                    break
                fairy.close()
    except Exception:
        logger.warning(
            "A connection that %s left behind could not be returned cleanly",
            holding.endpoint,
            exc_info=True,
        )
        if fairy.is_valid:
            fairy.invalidate()
    ledger.forget(holding)
    leak = Leak(
        bind=ledger.facts.bind,
        endpoint=holding.endpoint,
        site=holding.site(),
        held_seconds=time.monotonic() - holding.taken_at,
        action=action,
    )
    return [(holding, leak)]


def report(leaks: list[tuple[Holding, Leak]]) -> None:
    """Count, log and signal leaks after all of them are back.

    :raises LeakError: for pools with ``POOLGUARD_ON_LEAK="raise"``.
    """
    to_raise = []
    for holding, leak in leaks:
        ledger = holding.ledger
        ledger.count_leak(holding)
        logger.warning("%s", leak.describe())
        try:
            connection_leaked.send(ledger.app, leak=leak)
        except Exception:
            logger.warning("A connection_leaked receiver failed", exc_info=True)
        if ledger.on_leak == "raise":
            to_raise.append(leak)
    if to_raise:
        raise LeakError(tuple(to_raise))
