"""Collects what is known of a connection at the moment of an error."""

from __future__ import annotations

import os
import threading
import time
import typing as t
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from ..databases import Loss
from ..error_notes import First, HolderFacts, Lost, Neighbours, Room
from ..masking import first_line, secrets_of
from ..pool import GuardedPool, GuardedRecord
from ..tracking.pool_tracker import PoolTracker
from ..tracking.thread_marks import this_thread
from ..tracking.thread_stacks import describe_site, describe_users
from .connect_args import read_timeout_of

_monotonic = time.monotonic

# Connections that are lost within so many seconds are lost to the same event.
_TOGETHER: t.Final = 2.0

# A server that goes down closes its lines one after the other: so often, and after
# such pauses in seconds, the other connections are looked at.
_LOOKS: t.Final = 5
_PAUSE: t.Final = 0.01

# Of an error, in characters.
_LONGEST_TEXT: t.Final = 300

# Dialects whose drivers take no lock, so that two threads can get into each other's
# way. Their servers are also those that limit the size of a packet.
TAKE_NO_LOCK: t.Final = frozenset({"mysql", "mariadb"})


class ErrorFacts:
    """What there is to know of the errors of one engine."""

    def __init__(self) -> None:
        # When connections were lost, and which.
        self._lost: deque[tuple[float, int]] = deque(maxlen=64)

    def lost(
        self, context: ExceptionContext, tracker: PoolTracker, loss: Loss
    ) -> Lost | None:
        """Return what is known of a connection that is lost or out of step."""
        record = _record_of(context.connection)
        if record is None:  # closed, or lost to an earlier error
            return None
        pid, opener = os.getpid(), getattr(record, "pid", None)
        users: list[str] = []
        is_mysql = context.dialect.name in TAKE_NO_LOCK
        if loss is Loss.OUT_OF_STEP or is_mysql:
            marks = [each.mark() for each in list(tracker.out.values())]
            owners = {each for each in marks if each is not None}
            users = describe_users(owners, tracker.info.root_path)
        pool = None if context.engine is None else context.engine.pool
        facts = Lost(
            bind=tracker.facts.bind,
            loss=loss,
            site=describe_site(this_thread.mark, tracker.info.root_path),
            thread=threading.current_thread().name,
            pid=pid,
            held=_held(tracker, record),
            opened_by=opener if opener != pid else None,
            users=tuple(users),
            limit=record.limit if isinstance(record, GuardedRecord) else None,
            largest=_largest(context) if is_mysql else 0,
            read_timeout=read_timeout_of(context.dialect),
            outage=pool.outage if isinstance(pool, GuardedPool) else None,
        )
        if loss not in (Loss.UNKNOWN, Loss.TERMINATED, Loss.SHUT_DOWN):
            return facts
        is_event = not facts.is_overdue()
        return replace(facts, neighbours=self._neighbours(pool, record, is_event))

    def _neighbours(
        self, pool: object, record: ConnectionPoolEntry, is_event: bool
    ) -> Neighbours:
        """Look at the process's other connections.

        :param is_event: whether others may have been lost to the same event.
        """
        now = _monotonic()
        if is_event:
            self._lost.append((now, id(record)))
        quiet = gone = 0
        if isinstance(pool, GuardedPool):
            quiet, gone = pool.neighbours()
            for _ in range(_LOOKS):
                if gone or not quiet:
                    break
                time.sleep(_PAUSE)
                quiet, gone = pool.neighbours()
        others = {
            which
            for when, which in list(self._lost)
            if now - when < _TOGETHER and which != id(record)
        }
        return Neighbours(quiet, gone + len(others))


def first_error(
    context: ExceptionContext, tracker: PoolTracker, note: str | None
) -> First:
    """Return what to remember of an error for those that it causes."""
    error = context.original_exception
    engine = context.engine
    text = first_line(error) if engine is None else secrets_of(engine).describe(error)
    kind = (context.statement or "").lstrip()[:12].partition(" ")[0].upper()
    return First(
        text=text[:_LONGEST_TEXT],
        kind=kind if kind.isalpha() else None,
        site=describe_site(this_thread.mark, tracker.info.root_path),
        at=_monotonic(),
        note=note,
    )


def room_of(context: ExceptionContext, tracker: PoolTracker) -> Room:
    """Return what the pool of a failed connect has and may have."""
    pool = None if context.engine is None else context.engine.pool
    if isinstance(pool, GuardedPool):
        return pool.room()
    out = len(tracker.out)
    idle = pool.checkedin() if isinstance(pool, QueuePool) else 0
    facts = tracker.facts
    return Room(facts.bind, out + idle, out, facts.size, facts.max_overflow)


def _record_of(connection: Connection | None) -> ConnectionPoolEntry | None:
    # To ask a connection that was lost for its record would make it connect anew.
    if connection is None or connection.closed or connection.invalidated:
        return None
    return getattr(connection.connection, "_connection_record", None)


def _held(tracker: PoolTracker, record: ConnectionPoolEntry) -> HolderFacts | None:
    checkout = tracker.out.get(record)
    if checkout is None:
        return None
    mark = checkout.mark()
    return HolderFacts(
        endpoint=checkout.endpoint,
        site=checkout.site(),
        seconds=_monotonic() - checkout.taken_at,
        thread=None if mark is None else mark.name.decode(errors="replace"),
        is_by_other=mark is not this_thread.mark,
    )


def _largest(context: ExceptionContext) -> int:
    """Return the bytes of the statement with the largest set of its parameters."""
    parameters: t.Any = context.parameters or ()
    many = isinstance(parameters, list)
    return len(context.statement or "") + max(
        map(_size, parameters if many else [parameters]), default=0
    )


def _size(parameters: object) -> int:
    values: t.Any = parameters
    if isinstance(parameters, Mapping):
        values = parameters.values()
    if not isinstance(values, t.Iterable) or isinstance(values, (str, bytes)):
        return 0
    return sum(len(each) for each in values if isinstance(each, (str, bytes)))
