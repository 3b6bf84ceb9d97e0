"""Gives back what a scope left behind, and reports it as a leak."""

from __future__ import annotations

import time
import typing as t
from contextlib import ExitStack

from sqlalchemy.pool import PoolProxiedConnection

from ..databases import transaction_settings
from ..errors import CLOSE_SESSION, KEEP_IT, WITH_BLOCK, Leak, LeakError, LeakWarning
from ..log_lines import debug, warn
from ..masking import first_line
from ..signals import connection_leaked
from .callsite import TakenAs
from .checkout import SETTINGS
from .leak_warnings import warn_of
from .left_to_owner import is_left_alone
from .orm_transactions import end_or_cut_off
from .reclaimed import Reclaimed, mark_session, stand_in
from .scope import Scope, WSGIScope
from .sending import send_later, send_now, sender_of
from .sql_effects import Effect

if t.TYPE_CHECKING:
    from .checkout import Checkout

# A fairy counts nested checkouts (SingletonThreadPool); more is a broken counter.
_MAX_NESTED: t.Final = 100


class Reclaimer:
    """Gives back what scopes left behind, all of it, before anything is said of it.

    :ivar leaks: what was given back so far.
    :ivar remedy: what to advise, if it is the same for all.
    """

    def __init__(self, remedy: str = "") -> None:
        self.leaks: list[tuple[Checkout, Leak]] = []
        self._remedy = remedy

    def end_scope(self, scope: Scope) -> None:
        """Give back every connection of a scope that this thread may touch.

        A connection that another live thread took is left to it: it may be in the
        middle of a query. It is looked at again when a later scope ends.
        """
        scope.end()
        if not scope.checkouts:
            return
        runners = scope.runners if isinstance(scope, WSGIScope) else ()
        mine = []
        for checkout in list(scope.checkouts):
            if checkout.fairy() is None:
                checkout.pool.forget(checkout)
            elif checkout.is_mine() or any(checkout.mark is each for each in runners):
                mine.append(checkout)
            else:
                checkout.pool.left_behind.add(checkout)
        self._give_back(mine)

    def end_left_behind(self, left_behind: set[Checkout]) -> None:
        """Give back what was left to threads that have ended since."""
        ended = []
        for checkout in list(left_behind):
            if checkout.fairy() is None:
                checkout.pool.forget(checkout)
            elif checkout.mark() is None:
                try:
                    # Other threads look as well; the one that takes it gives it back.
                    left_behind.remove(checkout)
                except KeyError:
                    continue
                ended.append(checkout)
        self._give_back(ended)

    def _give_back(self, checkouts: list[Checkout]) -> None:
        # Held until all are back: ending one session closes its connections to other
        # binds, and each of them is a leak.
        fairies = [checkout.fairy() for checkout in checkouts]
        with ExitStack() as stack:  # each, even if one of them raises
            for checkout, fairy in zip(checkouts, fairies, strict=True):
                if fairy is not None:
                    stack.callback(self._give_one_back, checkout, fairy)

    def _give_one_back(self, checkout: Checkout, fairy: PoolProxiedConnection) -> None:
        if _is_left(checkout, fairy):
            return
        taking = _TakingBack(checkout, fairy)
        try:
            taking.run()
        finally:
            checkout.pool.forget(checkout)
            self.leaks.append((checkout, taking.leak(self._remedy)))

    def report(self, may_raise: bool = True, found_late: bool = False) -> None:
        """Count, log and signal the leaks, and warn of them.

        :param may_raise: the caller is what leaked.
        :param found_late: this thread, which may need a connection, only finds them.
        :raises LeakError: for pools with ``POOLGUARD_ON_LEAK="raise"``.
        :raises LeakWarning: a filter of warnings makes it an error.
        """
        self.count()
        to_raise = []
        for checkout, leak in self.leaks:
            pool = checkout.pool
            if found_late:
                send_later(connection_leaked, pool.app, leak=leak)
            else:
                send_now(connection_leaked, sender_of(pool), leak=leak)
            if may_raise and pool.info.on_leak == "raise":
                to_raise.append(leak)
        warning = self.warn()
        if to_raise:
            raise LeakError(tuple(to_raise))
        if warning is not None and may_raise:
            raise warning

    def count(self) -> None:
        """Count and log the leaks, without a signal: its receivers may be the cause."""
        for checkout, leak in self.leaks:
            checkout.pool.count_leak(checkout)
            warn(
                "connection_leaked",
                "%s",
                leak.describe(),
                unlike=(leak.action, leak.reason, leak.lost),
                **checkout.facts(leak.held_seconds),
            )

    def warn(self) -> LeakWarning | None:
        """Give a Python warning of each leak; return the first that is an error."""
        errors = [warn_of(checkout, leak) for checkout, leak in self.leaks]
        return next((each for each in errors if each is not None), None)


def _is_left(checkout: Checkout, fairy: PoolProxiedConnection) -> bool:
    """Tell whether a connection is left to an owner that still means to use it."""
    try:
        return is_left_alone(checkout, fairy)
    except Exception:  # the look failed, so the connection comes back
        debug("not_known", "It is not known who uses a connection", exc_info=True)
        return False


class _TakingBack:
    """Takes one connection back from its owner.

    :ivar action: what was done, as in :class:`~flask_poolguard.Leak`.
    :ivar reason: why it was closed and not returned to its pool.
    :ivar lost: what its session had not committed.
    """

    def __init__(self, checkout: Checkout, fairy: PoolProxiedConnection) -> None:
        self._checkout, self._fairy = checkout, fairy
        self._session = None if checkout.session is None else checkout.session()
        self._looks_deliberate = checkout.is_bare() or Effect.LOCKS in checkout.effects
        self._is_session_over = False
        self.action, self.reason, self.lost = "left", "", ""

    def run(self) -> None:
        """Roll back, end the session, return or close the connection, and let its old
        owner know.
        """
        checkout, fairy = self._checkout, self._fairy
        if checkout.pool.info.facts.is_async:  # SQLAlchemy drops it on collection
            self.reason = "an async driver's connection needs its event loop"
            return
        if checkout.pool.is_shared(checkout):
            self.reason = "others use the same driver's connection"
            return
        try:
            self.reason = self._why_not_reused()
            if not self.reason and self._has_savepoint():
                # Gone from the server after a rollback, which its session must know.
                self._end_session()
            elif self.reason == _MID_QUERY or not self._roll_back() or self.reason:
                self._close()
            self._end_session()
            self._check_in()
        except BaseException as error:
            self.reason = self.reason or f"ending it raised {first_line(error)}"
            self._close()
            if not isinstance(error, Exception):
                raise
        finally:
            if not fairy.is_valid:
                stand_in(fairy, self._returned())

    def _why_not_reused(self) -> str:
        """Return why its next user should not get this very connection; "" if it may.

        One of a database within the process holds the data, and is never closed.
        """
        checkout = self._checkout
        info, record = checkout.pool.info, checkout.record
        if checkout.is_in_mid_query():
            return _MID_QUERY
        if info.on_leak == "discard":
            return "POOLGUARD_ON_LEAK is 'discard'"
        if info.facts.in_memory:
            return ""
        if checkout.callsite.taken_as is TakenAs.RAW:
            return "it was taken as the driver's connection, which may still be used"
        if checkout.is_bare():
            return "it was taken outside of a request or command"
        if Effect.LOCKS in checkout.effects:
            return "it may have a lock, or listen"
        if getattr(record, "finalize_callback", None):
            return "its isolation level was changed"
        settings = transaction_settings(record.dbapi_connection)
        if settings != record.info.get(SETTINGS, settings):
            return "its autocommit or isolation level was changed"
        return ""

    def _roll_back(self) -> bool:
        """Roll back, also if the pool would not on return; tell whether that worked."""
        fairy = self._fairy
        try:
            fairy._pool._dialect.do_rollback(fairy)
        except Exception as error:
            self.reason = f"it could not be rolled back ({first_line(error)})"
            return False
        return True

    def _close(self) -> None:
        self.action = "discarded"
        if self._fairy.is_valid:
            self._fairy.invalidate()

    def _end_session(self) -> None:
        session = self._session
        if session is None or self._is_session_over:
            return
        self._is_session_over = True
        checkout = self._checkout
        self.lost = end_or_cut_off(session, Effect.WRITES in checkout.effects)
        if self.lost or Effect.MAY_WRITE in checkout.effects:
            mark_session(session, self._returned(), is_sure=bool(self.lost))

    def _has_savepoint(self) -> bool:
        return self._session is not None and self._session.in_nested_transaction()

    def _check_in(self) -> None:
        fairy = self._fairy
        for _ in range(_MAX_NESTED):
            if not fairy.is_valid:
                break
            fairy.close()
        if fairy.is_valid:
            # An exception ended an earlier close() half way: SQLAlchemy 2.0 takes
            # the proxy for closed, but never got to return the connection.
            fairy.invalidate()
            self.action = "discarded"
        elif self.action == "left":
            self.action = "returned"

    def _returned(self) -> Reclaimed:
        checkout = self._checkout
        what = "connection" if self._session is None else "session"
        done = {
            "returned": "It was rolled back and returned to its pool",
            "discarded": f"It was closed, because {self.reason}",
        }.get(self.action, "It was rolled back")
        if self.lost:
            done += f", and lost what it had not committed ({self.lost})"
        scope = (
            f"the app context of {checkout.endpoint}"
            if checkout.is_bare()
            else f"{checkout.endpoint}"
        )
        return Reclaimed(what, checkout.site(), scope, done)

    def leak(self, remedy: str) -> Leak:
        """Return what to say of it."""
        checkout = self._checkout
        if not remedy:
            remedy = WITH_BLOCK if checkout.session is None else CLOSE_SESSION
            if self._looks_deliberate and checkout.session is None:
                remedy = KEEP_IT
        return Leak(
            bind=checkout.pool.info.facts.bind,
            endpoint=checkout.endpoint,
            site=checkout.site(),
            held_seconds=time.monotonic() - checkout.taken_at,
            action=self.action,
            reason=self.reason,
            lost=self.lost,
            remedy=remedy,
        )


_MID_QUERY: t.Final = "an answer was still to be read"
