"""Asks the server what a pool's sessions do, while a thread waits for one of them."""

from __future__ import annotations

import contextlib
import threading
import time
import typing as t
from collections.abc import Collection, Iterator, Mapping

from sqlalchemy.pool import ConnectionPoolEntry

from ..databases import Database, SessionState
from .greenlets import are_threads_greenlets, blocker_of
from .places import UNLIMITED, Places

_clock = time.monotonic

# How long before its deadline a waiter has the server asked, and how long the answer
# is good for others.
LEAD: t.Final = 1.0


class UnpooledEntry(ConnectionPoolEntry):
    """Stands in for a pool's record, which ``do_connect`` listeners are given."""

    dbapi_connection = driver_connection = None

    def __init__(self) -> None:
        self.__dict__.update(info={}, record_info={})


class SessionProbe:
    """Asks on a connection of its own, in a thread that no other waits for.

    One question is open at a time; ``_lock`` protects the decision to begin one. It is
    re-entrant because a garbage collection inside may close a connection, and with it
    let other greenlets run.

    :param driver: SQLAlchemy's name of it.
    :param connect: makes a connection as the pool would.
    :param places: where that connection takes its place from.
    """

    def __init__(
        self,
        database: Database,
        driver: str,
        connect: t.Callable[[ConnectionPoolEntry], t.Any],
        places: Places = UNLIMITED,
    ) -> None:
        self._database = database
        self._driver = driver
        self._connect = connect
        self._places = places
        self._lock = threading.RLock()
        self._asked_at = -LEAD
        self._is_open = False
        self._states: Mapping[int, SessionState] = {}

    def begin(self, find_ids: t.Callable[[], Collection[int]]) -> None:
        """Ask, unless that is being done or was done a moment ago.

        :param find_ids: finds the sessions to ask about.
        """
        now = _clock()
        if self._is_recent(now):  # as a rule: many threads time out together
            return
        ids = find_ids()
        with self._lock:
            if self._is_recent(now) or not ids:
                return
            if are_threads_greenlets() and blocker_of(self._driver):
                return  # all would wait for the answer
            self._is_open, self._asked_at, self._states = True, now, {}
        thread = threading.Thread(
            target=self._ask, args=(ids,), name="poolguard-session-probe", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no thread can be started any more
            self._is_open = False

    def has_asked(self, when: float) -> bool:
        """Tell whether its last question will be recent enough at a monotonic time."""
        return when - self._asked_at < LEAD

    def _is_recent(self, now: float) -> bool:
        return self._is_open or self.has_asked(now)

    def states(self) -> Mapping[int, SessionState]:
        """Return what is known by now: what each session does, by its number."""
        return self._states

    def _ask(self, ids: Collection[int]) -> None:
        try:
            # Without the answer, the error that this is for names the holders only.
            with contextlib.suppress(Exception), self._place() as is_there:
                if not is_there:
                    return
                connection = self._connect(UnpooledEntry())
                with contextlib.closing(connection):
                    found = self._database.sessions(connection, only=ids).sessions
                    self._states = {each.id: each.state for each in found if each.state}
        finally:
            self._is_open = False

    @contextlib.contextmanager
    def _place(self) -> Iterator[bool]:
        """Borrow a place for the question's connection; tell whether there is one."""
        is_there = self._places.borrow()
        try:
            yield is_there
        finally:
            if is_there:
                self._places.give_back()
