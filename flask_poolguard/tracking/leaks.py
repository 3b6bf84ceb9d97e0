"""Giving back what a scope left behind, and saying so."""

from __future__ import annotations

import logging
import time
import typing as t
from contextlib import ExitStack

from sqlalchemy.pool import PoolProxiedConnection

from ..errors import Leak, LeakError
from ..signals import connection_leaked
from .scope import ResponseScope, Scope

if t.TYPE_CHECKING:
    from .holding import Holding

logger = logging.getLogger("flask_poolguard")

# A fairy counts nested checkouts (SingletonThreadPool); more is a broken counter.
_MAX_NESTED: t.Final = 100


class Returns:
    """Gives back what scopes left behind, all of it, before anything is said of it.

    :ivar leaks: what was given back so far.
    """

    def __init__(self) -> None:
        self.leaks: list[tuple[Holding, Leak]] = []

    def end_scope(self, scope: Scope) -> None:
        """Give back every connection of a scope that this thread may touch.

        A connection that another live thread took is left to it: it may be in the
        middle of a query. It is looked at again when a later scope ends.
        """
        scope.ended = True
        if not scope.holdings:
            return
        runners = scope.runners if isinstance(scope, ResponseScope) else ()
        mine = []
        for holding in list(scope.holdings):
            if holding.fairy() is None:
                holding.ledger.forget(holding)
            elif holding.is_mine() or any(holding.mark is each for each in runners):
                mine.append(holding)
            else:
                holding.ledger.left_behind.add(holding)
        self._give_back(mine)

    def end_left_behind(self, left_behind: set[Holding]) -> None:
        """Give back what was left to threads that have ended since."""
        ended = []
        for holding in list(left_behind):
            if holding.fairy() is None:
                holding.ledger.forget(holding)
            elif holding.mark() is None:
                try:
                    # Other threads look as well; whoever takes it out gives it back.
                    left_behind.remove(holding)
                except KeyError:
                    continue
                ended.append(holding)
        self._give_back(ended)

    def _give_back(self, holdings: list[Holding]) -> None:
        # Held until all are back: ending one session closes its connections to other
        # binds, and each of them is a leak.
        fairies = [holding.fairy() for holding in holdings]
        with ExitStack() as stack:  # whatever strikes on the way, such as a Timeout
            for holding, fairy in zip(holdings, fairies, strict=True):
                if fairy is not None:
                    stack.callback(self._give_one_back, holding, fairy)

    def _give_one_back(self, holding: Holding, fairy: PoolProxiedConnection) -> None:
        action = "left"
        try:
            action = _return(holding, fairy)
        except BaseException as error:
            action = "discarded"
            if fairy.is_valid:
                fairy.invalidate()
            if not isinstance(error, Exception):
                raise
            logger.warning(
                "A connection that %s left behind could not be returned cleanly",
                holding.endpoint,
                exc_info=True,
            )
        finally:
            holding.ledger.forget(holding)
            leak = Leak(
                bind=holding.ledger.facts.bind,
                endpoint=holding.endpoint,
                site=holding.site(),
                held_seconds=time.monotonic() - holding.taken_at,
                action=action,
            )
            self.leaks.append((holding, leak))

    def report(self) -> None:
        """Count, log and signal the leaks.

        :raises LeakError: for pools with ``POOLGUARD_ON_LEAK="raise"``.
        """
        self.count()
        to_raise = []
        for holding, leak in self.leaks:
            ledger = holding.ledger
            try:
                connection_leaked.send(ledger.app, leak=leak)
            except Exception:
                logger.warning("A connection_leaked receiver failed", exc_info=True)
            if ledger.on_leak == "raise":
                to_raise.append(leak)
        if to_raise:
            raise LeakError(tuple(to_raise))

    def count(self) -> None:
        """Count and log the leaks, without a signal: its receivers may be the cause."""
        for holding, leak in self.leaks:
            holding.ledger.count_leak(holding)
            logger.warning("%s", leak.describe())


def _return(holding: Holding, fairy: PoolProxiedConnection) -> str:
    """Return or discard one connection; say which."""
    ledger = holding.ledger
    if ledger.facts.is_async:
        # Its rollback needs an event loop; SQLAlchemy drops it on collection.
        return "left"
    # A rollback would wait for, or misread, an answer that is still to come.
    if ledger.on_leak == "discard" or holding.is_in_mid_query():
        if fairy.is_valid:
            fairy.invalidate()
        holding.end_session()
        return "discarded"
    holding.end_session()
    for _ in range(_MAX_NESTED):
        if not fairy.is_valid:
            break
        fairy.close()
    if fairy.is_valid:
        # Something struck in the middle of an earlier close(): SQLAlchemy 2.0 takes
        # the proxy for closed, but never got to return the connection.
        fairy.invalidate()
        return "discarded"
    return "returned"
