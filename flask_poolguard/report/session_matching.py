"""The owners of server sessions: the server's list joined with the workers' files."""

from __future__ import annotations

import os
import typing as t
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..engines import Guarded
from ..state.status import Worker
from .deployment import connections_of
from .model import Failure, Session
from .servers import Answer, group_by_server
from .session_owners import SessionOwners, Slot, expect

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
        owners = SessionOwners(app, each.tracker.database.longest_label, (), {}, {})
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
    expected = {each.bind: expect(each, answers[each.bind]) for each in binds}
    owners = SessionOwners(
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


def _slots(binds: Sequence[Guarded], workers: Sequence[Worker]) -> dict[int, Slot]:
    """Return the workers' open connections to one server, by its number of them.

    A number that two workers have is no server's.
    """
    slots: dict[int, Slot] = {}
    twice = set()
    for slot in connections_of(binds, workers):
        number = slot[2].server_id
        if number in slots:
            twice.add(number)
        if number is not None:
            slots[number] = slot
    return {number: slot for number, slot in slots.items() if number not in twice}


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
