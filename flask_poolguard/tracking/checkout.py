"""The record of a checkout: who has a connection, since when, for which scope."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import typing as t
import weakref
from dataclasses import dataclass

from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ..log_lines import Facts
from ..pool import keep_from_finalising, orphan
from .callsite import CallSite
from .orm_transactions import end_transaction
from .sql_effects import Effect
from .thread_marks import ThreadMark, this_thread

if t.TYPE_CHECKING:
    from flask import Flask
    from sqlalchemy.orm import Session

    from ..databases import Database
    from .pool_facts import PoolFacts

_monotonic = time.monotonic

# Each look into an enumeration costs a checkout 0.1 µs (CPython 3.11).
_READS: t.Final = Effect.READS

# In a record's ``info``: the transaction settings of its connection when it was opened.
SETTINGS: t.Final = "_poolguard_settings"

# The endpoint of a checkout that belongs to no request, task or command.
OUTSIDE: t.Final = "(outside any request)"


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """What a checkout knows of its pool; replaced as a whole when a setting changes.

    :ivar root_path: the folder that the app lies in.
    :ivar on_leak: ``POOLGUARD_ON_LEAK``.
    """

    app_ref: weakref.ref[Flask]
    root_path: str
    database: Database
    facts: PoolFacts
    on_leak: str


class PoolCheckouts:
    """The checkouts of one pool.

    ``out`` is only ever changed by single operations of a dict. Its keys are the
    pool's records, or where all share one (``StaticPool``) the ``id`` of each proxy.

    :ivar out: what is checked out now.
    :ivar left_behind: left to live threads at the end of their scope.
    """

    def __init__(self, info: PoolInfo) -> None:
        self.info = info
        self.out: dict[ConnectionPoolEntry | int, Checkout] = {}
        self.left_behind: set[Checkout] = set()

    @property
    def app(self) -> Flask | None:
        """The app, None once it is gone."""
        return self.info.app_ref()

    def count_leak(self, checkout: Checkout) -> None:
        """Count a leak under its endpoint and line."""

    def show_kept(self, checkout: Checkout) -> None:
        """Show that a connection outlives its scope on purpose."""

    def forget(self, checkout: Checkout) -> None:
        """Stop accounting for a checkout without touching its connection."""
        self.left_behind.discard(checkout)
        checkout.release()

    def forget_closed(self) -> None:
        """Forget what was given back unseen, as it is where all share a connection:
        it would keep the pool alive, and the engine with it.
        """
        for key, checkout in list(self.out.items()):
            if checkout.fairy() is None and self.out.get(key) is checkout:
                self.out.pop(key, None)
                self.forget(checkout)

    def checkout_of(self, proxy: PoolProxiedConnection | None) -> Checkout | None:
        """Return what is known of a proxy of one of the pool's connections."""
        record = getattr(proxy, "_connection_record", None)
        if record is None:  # it was closed, or detached
            return None
        return self.out.get(record if self.info.facts.counted else id(proxy))

    def count_nested(self, scope: CheckoutScope, mark: ThreadMark) -> int:
        """Return how many of these connections one thread took for a scope.

        Parallel threads may share a scope, and none of them waits for what it has.
        """
        return sum(
            each.pool is self and each.mark is mark.ref
            for each in list(scope.checkouts)
        )

    def is_shared(self, checkout: Checkout) -> bool:
        """Tell whether others use the very same driver's connection, as they do where
        a pool has one for all, or one for all in a thread.
        """
        proxy = checkout.fairy()
        # Private; the same in SQLAlchemy 2.0.31 and 2.1.9.
        if proxy is not None and getattr(proxy, "_counter", 1) > 1:
            return True
        return not self.info.facts.counted and any(
            each is not checkout and each.fairy() is not None
            for each in list(self.out.values())
            if each.record is checkout.record
        )


class CheckoutScope(t.Protocol):
    """What a connection is taken for, as far as a checkout knows it.

    :ivar checkouts: the connections taken for it that are still out.
    :ivar ended: it is over.
    """

    checkouts: set[Checkout]
    ended: bool


class Checkout:
    """One connection that is out: where, since when, for whom.

    :ivar callsite: the app's line that took it, and as what.
    :ivar scope: what it was taken for; None if nothing ends that, or it is kept.
    :ivar session: the ORM session that took it.
    :ivar is_kept: it outlives its scope on purpose (``guard.keep()``).
    :ivar effects: what the statements that ran on it did.
    """

    __slots__ = (
        "_fairy",
        "callsite",
        "effects",
        "endpoint",
        "is_kept",
        "is_listed",
        "is_reported",
        "mark",
        "pool",
        "record",
        "scope",
        "session",
        "taken_at",
    )

    def __init__(
        self,
        pool: PoolCheckouts,
        record: ConnectionPoolEntry,
        fairy: PoolProxiedConnection,
        mark: weakref.ref[ThreadMark],
        callsite: CallSite,
        endpoint: str,
        scope: CheckoutScope | None,
    ) -> None:
        self.pool = pool
        self.record = record
        self._fairy = weakref.ref(fairy)
        self.mark = mark
        self.taken_at = _monotonic()
        self.is_listed = True  # in the state file, unless that has no slot left
        self.is_reported = False  # as held for too long
        self.is_kept = False
        self.effects = _READS
        self.callsite = callsite
        self.endpoint = endpoint
        self.session: weakref.ref[Session] | None = None
        self.scope = scope
        if scope is not None:
            scope.checkouts.add(self)

    def fairy(self) -> PoolProxiedConnection | None:
        """Return SQLAlchemy's proxy of the connection, None once it was closed."""
        fairy = self._fairy()
        return fairy if fairy is not None and fairy.is_valid else None

    def is_mine(self) -> bool:
        """Tell whether this thread took it, or one that has ended since."""
        mark = self.mark()
        return mark is None or mark is this_thread.mark

    def is_at_prompt(self) -> bool:
        """Tell whether it is used by hand (``flask shell``, IPython, ``python -i``):
        taken by the thread that reads what is typed.
        """
        mark = self.mark()
        return (
            hasattr(sys, "ps1")
            and mark is not None
            and mark.ident == threading.main_thread().ident
        )

    def is_of(self, session: object) -> bool:
        """Tell whether this ORM session works on it."""
        return self.session is not None and self.session() is session

    def is_in_mid_query(self) -> bool:
        """Tell whether an answer is still to be read."""
        fairy = self.fairy()
        return fairy is not None and self.pool.info.database.is_in_mid_query(
            fairy.dbapi_connection
        )

    def site(self) -> str:
        """Return ``file:line`` of the checkout."""
        return self.callsite.describe(self.pool.info.root_path)

    def facts(self, seconds: float | None = None) -> Facts:
        """Return what a log record carries of it.

        :param seconds: for how long it has been, or was, out.
        """
        info = self.pool.info
        place = self.callsite.facts(info.root_path)
        bind, endpoint = info.facts.bind, self.endpoint
        return Facts(bind=bind, endpoint=endpoint, seconds=seconds, **place)

    def is_bare(self) -> bool:
        """Tell whether it was taken outside of any request, command and task."""
        return self.endpoint is OUTSIDE

    def is_in_use(self) -> bool:
        """Tell whether what its thread does now is likely to be done with it."""
        return not self.is_kept and (self.scope is None or not self.scope.ended)

    def release(self) -> None:
        """Leave it to its owner: the end of no scope takes it back."""
        if self.scope is not None:
            self.scope.checkouts.discard(self)
            self.scope = None

    def keep(self) -> None:
        """Note that it outlives its scope on purpose, and show that."""
        self.release()
        self.pool.left_behind.discard(self)
        self.is_kept = True
        self.pool.show_kept(self)

    def orphan(self) -> None:
        """Make an inherited connection unusable in a child, without a word to the
        server. An ORM session that had it takes another one at its next use.
        """
        keep_from_finalising(self)
        orphan(self.record, self._fairy())
        self.release()
        session = None if self.session is None else self.session()
        if session is not None:
            with contextlib.suppress(Exception):  # a thread was in the middle of it
                end_transaction(session)
