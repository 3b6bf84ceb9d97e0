"""Whose a server session is: a worker's, another process's of the app, or unknown."""

from __future__ import annotations

import dataclasses
import socket
import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..databases import Label, ServerSession, make_label, parse_label, plain_host
from ..engines import Guarded, carries_label
from ..state import process
from ..state.status import Holder, IdleConnection, PoolStatus, Worker
from .model import Owner, Session
from .servers import Answer

# A process whose clock and the server's differ by less is not taken for another.
_TOLERANCE_SECONDS: t.Final = 5.0

# An open connection of a worker, and its pool.
Slot = tuple[Worker, PoolStatus, Holder | IdleConnection]


@dataclass(frozen=True, slots=True)
class Expected:
    """What the sessions of a bind's pools have in common; None is unknown.

    :ivar is_labelled: whether they carry our label.
    """

    user: str | None
    database: str | None
    is_labelled: bool


def expect(guarded: Guarded, answer: Answer) -> Expected:
    """Return what the bind's URL says, as far as connections go by it.

    A ``creator`` or a listener may log in as another user: then so did this report. A
    session of MySQL may choose another database at any time.
    """
    url, dialect = guarded.engine.url, guarded.engine.dialect
    if answer.view is None or answer.view.user != url.username:
        return Expected(None, None, carries_label(dialect))
    database = url.database if dialect.name == "postgresql" else None
    return Expected(url.username, database or None, carries_label(dialect))


class SessionOwners:
    """Knows who lives, and whose a session of one server is."""

    def __init__(
        self,
        app: str,
        longest_label: int,
        workers: Sequence[Worker],
        slots: Mapping[int, Slot],
        expected: Mapping[str, Expected],
    ) -> None:
        self._app, self._longest, self._slots = app, longest_label, slots
        self._expected = expected
        self._host = plain_host(socket.gethostname())
        self._workers = {_process(each): each.host for each in workers}

    def describe(self, session: ServerSession) -> Session:
        """Return a session with all that is known of its owner."""
        label = parse_label(session.label or "")
        slot = self._slots.get(session.id)
        if slot is not None and self._agrees(session, label, slot):
            return _held(session, *slot)
        if label is None or not self._is_ours(label):
            return _describe(session)
        host = self._workers.get((label.host, label.pid), label.host)
        owner = self._owner(label, session)
        return _describe(session, owner=owner, host=host, pid=label.pid)

    def describe_by_label(self, session: ServerSession) -> Session:
        """Return a session of unknown owner, unless its label says whose it is.

        A pooler keeps idle sessions, and the label of the client that had them last.
        """
        described = self.describe(session)
        is_kept = described.owner == "orphan" and session.state == "idle"
        if described.owner is None or is_kept:
            return _describe(session, owner="unknown")
        return described

    def _owner(self, label: Label, session: ServerSession) -> Owner:
        if (label.host, label.pid) in self._workers:
            return "worker"
        if label.host != self._host:
            return "other-host"
        lived = process.age_seconds(label.pid)
        lasts = session.age_seconds or session.state_seconds or 0.0
        # A number comes back: who is younger than the session did not open it.
        if lived is None or lived + _TOLERANCE_SECONDS < lasts:
            return "orphan"
        return "process"

    def _is_ours(self, label: Label) -> bool:
        return label == make_label(self._app, label.host, label.pid, self._longest)

    def _agrees(self, session: ServerSession, label: Label | None, slot: Slot) -> bool:
        """Tell whether a session can be the one that a worker knows by this number.

        A server that restarts gives its numbers anew, while a worker goes on to know
        its lost connections by theirs until it uses them.
        """
        worker, pool, connection = slot
        if label is not None and self._is_ours(label):
            return (label.host, label.pid) == _process(worker)
        expected = self._expected[pool.bind]
        if expected.is_labelled and session.label == "":
            return False
        for known, seen in (
            (expected.user, session.user),
            (expected.database, session.database),
        ):
            if known is not None and seen is not None and known != seen:
                return False
        return _is_old_enough(session, connection)


def _is_old_enough(session: ServerSession, connection: Holder | IdleConnection) -> bool:
    """Tell whether a session may be as old as a worker's connection, which no code has
    used while it idles.
    """
    if isinstance(connection, Holder):
        least, ages = connection.held_seconds, [session.age_seconds]
    else:
        least = connection.idle_seconds
        ages = [session.age_seconds, session.state_seconds]
    return all(each is None or each >= least - _TOLERANCE_SECONDS for each in ages)


def _process(worker: Worker) -> tuple[str, int]:
    """Return a worker's host and pid, as its labels have them."""
    return plain_host(worker.host), worker.pid


def _held(
    session: ServerSession,
    worker: Worker,
    pool: PoolStatus,
    connection: Holder | IdleConnection,
) -> Session:
    owner = {
        "owner": "worker",
        "host": worker.host,
        "pid": worker.pid,
        "bind": pool.bind,
    }
    if isinstance(connection, IdleConnection):
        return _describe(session, **owner)
    return _describe(
        session,
        **owner,
        endpoint=connection.endpoint,
        site=connection.site,
        held_seconds=connection.held_seconds,
        kept=connection.kept,
    )


def _describe(session: ServerSession, **owner: t.Any) -> Session:
    own = {each.name: getattr(session, each.name) for each in _FIELDS}
    unknown = dict.fromkeys(_OF_OWNER)
    return Session(**{**unknown, **own, **owner})


_FIELDS: t.Final = dataclasses.fields(ServerSession)
_OF_OWNER: t.Final = (
    "owner",
    "host",
    "pid",
    "bind",
    "endpoint",
    "site",
    "held_seconds",
    "kept",
)
