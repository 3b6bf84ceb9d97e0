"""The owners of server sessions: the server's list joined with the workers' files."""

from __future__ import annotations

import dataclasses
import os
import socket
import typing as t
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..databases import Label, ServerSession, make_label, parse_label, plain_host
from ..engines import Guarded, carries_label
from ..state import process
from ..state.status import Holder, IdleConnection, PoolStatus, Worker
from .deployment import connections_of
from .model import Failure, Owner, Session
from .servers import Answer, group_by_server

# A process whose clock and the server's differ by less is not taken for another.
_TOLERANCE_SECONDS: t.Final = 5.0

_OTHER_NUMBERS: t.Final = (
    "whose sessions without a label are, and who holds which (the server knows none of"
    " the workers' sessions: a proxy such as PgBouncer stands between)"
)
_UNASKED: t.Final = "an asynchronous driver cannot be asked"
_UNANSWERED: t.Final = "the server did not answer, or not in time"
_REFUSALS: t.Final[dict[Failure | None, str]] = {
    "full": "the server refuses connections, because it is full",
    "login": "the server refuses the login",
}


@dataclass(frozen=True, slots=True)
class Joined:
    """The sessions of a bind's server; None if it did not list them.

    :ivar hidden: what of them cannot be seen, and why.
    :ivar by_label: whether nothing but the labels tells whose they are.
    """

    sessions: tuple[Session, ...] | None
    hidden: tuple[str, ...]
    by_label: bool = False


def join(
    app: str,
    engines: Sequence[Guarded],
    answers: Mapping[str, Answer],
    workers: Sequence[Worker],
) -> dict[str, Joined]:
    """Return the sessions of each bind's server; binds of one server share them.

    :param workers: the app's live workers.
    """
    joined: dict[str, Joined] = {}
    for binds in group_by_server(engines):
        joined |= dict.fromkeys(
            (each.bind for each in binds), _join_group(app, binds, answers, workers)
        )
    return joined


def unseen_processes(
    app: str, engines: Sequence[Guarded], answers: Mapping[str, Answer]
) -> set[int]:
    """Return the pids of live processes of an app on this host that keep sessions, as
    labels tell; without this one.
    """
    pids = set()
    for each in engines:
        answer = answers[each.bind]
        listed = [] if answer.view is None else list(answer.view.sessions or ())
        listed += [] if answer.sessions is None else answer.sessions.sessions
        owners = _Owners(app, each.tracker.database.longest_label, (), {}, {})
        for session in map(owners.describe, listed):
            if session.owner == "process" and session.pid is not None:
                pids.add(session.pid)
    return pids - {os.getpid()}


def _join_group(
    app: str,
    binds: Sequence[Guarded],
    answers: Mapping[str, Answer],
    workers: Sequence[Worker],
) -> Joined:
    """Return the sessions of the one server that these binds are on."""
    database = binds[0].tracker.database
    lists = [answers[each.bind].sessions for each in binds]
    found = next((each for each in lists if each is not None), None)
    if found is None:
        if not database.has_server:
            return Joined(None, ())
        names = ", ".join(each.bind for each in binds)
        reason = _why_unknown([answers[each.bind] for each in binds])
        return Joined(None, (f"what the sessions of {names} do ({reason})",))
    slots = _slots(binds, workers)
    views = [answers[each.bind].view for each in binds]
    is_certain = any(each and each.has_drivers_numbers for each in views)
    is_known = is_certain or any(each.id in slots for each in found.sessions)
    by_label = bool(slots) and not is_known
    expected = {each.bind: _expect(each, answers[each.bind]) for each in binds}
    owners = _Owners(
        app, database.longest_label, workers, {} if by_label else slots, expected
    )
    hidden = tuple(map(str, found.hidden))
    if by_label:
        described = tuple(map(owners.describe_by_label, found.sessions))
        return Joined(described, (*hidden, _OTHER_NUMBERS), by_label)
    return Joined(tuple(map(owners.describe, found.sessions)), hidden)


def _why_unknown(answers: Sequence[Answer]) -> str:
    if all(each.reachable is None for each in answers):
        return _UNASKED
    reasons = (_REFUSALS.get(each.failure) for each in answers)
    return next(filter(None, reasons), _UNANSWERED)


_Slot = tuple[Worker, PoolStatus, Holder | IdleConnection]


def _slots(binds: Sequence[Guarded], workers: Sequence[Worker]) -> dict[int, _Slot]:
    """Return the workers' open connections to one server, by its number of them.

    A number that two workers have is no server's.
    """
    slots: dict[int, _Slot] = {}
    twice = set()
    for slot in connections_of(binds, workers):
        number = slot[2].server_id
        if number in slots:
            twice.add(number)
        if number is not None:
            slots[number] = slot
    return {number: slot for number, slot in slots.items() if number not in twice}


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the sessions of a bind's pools have in common; None is unknown.

    :ivar is_labelled: whether they carry our label.
    """

    user: str | None
    database: str | None
    is_labelled: bool


def _expect(guarded: Guarded, answer: Answer) -> _Expected:
    """Return what the bind's URL says, as far as connections go by it.

    A ``creator`` or a listener may log in as another user: then so did this report. A
    session of MySQL may choose another database at any time.
    """
    url, dialect = guarded.engine.url, guarded.engine.dialect
    if answer.view is None or answer.view.user != url.username:
        return _Expected(None, None, carries_label(dialect))
    database = url.database if dialect.name == "postgresql" else None
    return _Expected(url.username, database or None, carries_label(dialect))


class _Owners:
    """Knows who lives, and whose a session of one server is."""

    def __init__(
        self,
        app: str,
        longest_label: int,
        workers: Sequence[Worker],
        slots: Mapping[int, _Slot],
        expected: Mapping[str, _Expected],
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

    def _agrees(self, session: ServerSession, label: Label | None, slot: _Slot) -> bool:
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


def sessions_by_server(
    engines: Sequence[Guarded], joined: Mapping[str, Joined]
) -> Iterator[tuple[Guarded, Sequence[Session]]]:
    """Yield each server's sessions once, with the first of its binds."""
    for binds in group_by_server(engines):
        for each in binds:
            found = joined.get(each.bind)
            if found is not None and found.sessions:
                yield each, found.sessions
                break
