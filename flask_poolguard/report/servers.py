"""Asks the servers about themselves, outside the pools and with a time limit.

A connection of our own is made as the pool would make it, so that ``connect_args``,
``do_connect`` listeners and TLS apply, and is closed after a few queries. A server
that swallows packets can keep a driver busy for minutes; that is not waited for, and a
report that asks for as much or less joins the question that is open.
"""

from __future__ import annotations

import contextvars
import dataclasses
import enum
import os
import threading
import time
import typing as t
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress

from sqlalchemy.engine import Engine

from ..databases import (
    ConnectFailure,
    Database,
    ServerView,
    SessionList,
    merge_sessions,
)
from ..engines import Guarded
from ..masking import secrets_of
from ..pool import UnpooledEntry, after_fork_in_child, after_late_patch
from ..urls import ServerKey, server_key
from .model import Failure
from .unanswered_connects import own_sockets, took_connect

# All servers are asked at once, and together they get this long.
ANSWER_SECONDS: t.Final = 2.0

# SQLite's names for a database that is in memory.
_MEMORY: t.Final = (None, "", ":memory:")


class Detail(enum.IntEnum):
    """How much the servers are asked for; each includes the ones before."""

    NOTHING = 0
    VIEW = 1
    SESSIONS = 2
    STATEMENTS = 3


# The question that this process waits for, by engine: the one for most.
_open_questions: weakref.WeakKeyDictionary[Engine, Question]
_open_questions = weakref.WeakKeyDictionary()
# Protects that dictionary.
_lock = threading.Lock()


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What asking a bind's server led to.

    :ivar reachable: None if it was not asked.
    :ivar error: what was not answered, and why, in one line without secrets.
    :ivar sessions: of the whole server; None if there was no answer, or no question.
    :ivar failure: why it is not reachable.
    """

    reachable: bool | None
    view: ServerView | None = None
    error: str | None = None
    sessions: SessionList | None = None
    failure: Failure | None = None


class Question:
    """Asks one server for all its binds, one after the other, in a thread."""

    def __init__(self, binds: Sequence[Guarded], detail: Detail) -> None:
        self._binds = binds
        self.detail = detail
        self._answers: dict[str, Answer] = {}
        self._answered = threading.Event()
        self._sockets = own_sockets()
        self._began_at = time.monotonic()
        self.pid = os.getpid()

    def ask(self) -> None:
        """Begin; not under a lock, because it lets other greenlets run."""
        # The app's current context goes along, for listeners that look at it.
        run = contextvars.copy_context().run
        thread = threading.Thread(
            target=run, args=(self._run,), name="poolguard-report", daemon=True
        )
        try:
            thread.start()
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        with _lock:
            for each in self._binds:
                if _open_questions.get(each.engine) is self:
                    del _open_questions[each.engine]

    def covers(self, detail: Detail) -> bool:
        """Tell whether so much will be answered, in this process: a child has its
        parent's questions, but not their threads.
        """
        return self.pid == os.getpid() and self.detail >= detail

    def wait(self) -> dict[str, Answer]:
        """Return the answer for each bind, when all are there or time is up."""
        self._answered.wait(self._began_at + ANSWER_SECONDS - time.monotonic())
        waited = time.monotonic() - self._began_at
        answers = self._answers.copy()
        return {
            each.bind: answers.get(each.bind) or self._missing(each, waited)
            for each in self._binds
        }

    def _missing(self, guarded: Guarded, waited: float) -> Answer:
        took_it = took_connect(guarded.engine.url, self._sockets)
        return Answer(
            False,
            error=f"no answer within {waited:.0f} s",
            failure="silent" if took_it else "away",
        )

    def _run(self) -> None:
        connections: dict[str, t.Any] = {}
        ids: set[int] = set()
        try:
            for each in self._binds:
                self._answers[each.bind] = _ask(each, connections, ids)
            if self.detail >= Detail.SESSIONS:
                self._ask_for_sessions(connections, ids)
        finally:
            for connection in connections.values():
                with suppress(Exception):  # nothing depends on it any more
                    connection.close()
            self._end()
            self._answered.set()

    def _ask_for_sessions(
        self, connections: t.Mapping[str, t.Any], ids: t.Collection[int]
    ) -> None:
        """Ask as each of the users in turn: one may see more than the other."""
        lists: dict[str | None, SessionList] = {}
        for each in self._binds:
            answer, user = self._answers[each.bind], each.engine.url.username
            if answer.view is None or user in lists:
                continue
            try:
                lists[user] = each.tracker.database.sessions(
                    connections[each.bind],
                    with_sql=self.detail >= Detail.STATEMENTS,
                )
            except Exception as error:
                told = secrets_of(each.engine).describe(error)
                self._answers[each.bind] = dataclasses.replace(answer, error=told)
        if lists:
            merged = merge_sessions(list(lists.values()), without=ids)
            for bind, answer in self._answers.items():
                self._answers[bind] = dataclasses.replace(answer, sessions=merged)


def begin(engines: Sequence[Guarded], detail: Detail = Detail.VIEW) -> list[Question]:
    """Begin to ask the servers; joins a question that is open already, unless that is
    for less.
    """
    questions: list[Question] = []
    new: list[Question] = []
    if detail is Detail.NOTHING:
        return questions
    with _lock:
        for group in group_by_server([each for each in engines if _is_askable(each)]):
            question = _open_questions.get(group[0].engine)
            if question is None or not question.covers(detail):
                question = Question(group, detail)
                new.append(question)
                for each in group:
                    _open_questions[each.engine] = question
            questions.append(question)
    for question in new:
        question.ask()
    return questions


def finish(
    questions: Sequence[Question], engines: Sequence[Guarded]
) -> dict[str, Answer]:
    """Return the answer for every bind, at the latest when time is up."""
    answers = {each.bind: _answer_unasked(each) for each in engines}
    for question in questions:
        answers |= question.wait()
    return answers


def group_by_server(engines: Iterable[Guarded]) -> list[list[Guarded]]:
    """Group binds by the server that their URLs lead to.

    Its binds share what it has left, and are asked together: so the connections that a
    report itself makes can be told from the others.
    """
    groups: dict[ServerKey | str, list[Guarded]] = {}
    for each in engines:
        groups.setdefault(server_key(each.engine.url) or each.bind, []).append(each)
    return list(groups.values())


def _is_askable(guarded: Guarded) -> bool:
    dialect = guarded.engine.dialect
    return not dialect.is_async and dialect.name != "sqlite"


def _ask(guarded: Guarded, connections: dict[str, t.Any], ids: set[int]) -> Answer:
    """Ask for one bind.

    :param connections: made for this question so far, by bind; gains one.
    :param ids: the server's numbers of those, likewise.
    """
    engine, database = guarded.engine, guarded.tracker.database
    try:
        # What a pool calls itself, in 2.0.31 and 2.1.9; nothing public connects with
        # everything that applies and yet without the pool.
        connection = engine.pool._invoke_creator(UnpooledEntry())
    except Exception as error:
        why = _why(error, database)
        return Answer(False, error=secrets_of(engine).describe(error), failure=why)
    connections[guarded.bind] = connection
    own_id = database.server_id(connection)
    try:
        view = database.view(connection)
    except Exception as error:
        lost = _is_disconnect(error, connection, engine)
        told = secrets_of(engine).describe(error)
        return Answer(not lost, error=told, failure="away" if lost else None)
    finally:
        before = frozenset(ids)
        if own_id is not None:
            ids.add(own_id)
    if view.connections is not None and view.session_ids is not None:
        seen = len(before & view.session_ids)
        view = dataclasses.replace(view, connections=max(view.connections - seen, 0))
    return Answer(True, view)


def _answer_unasked(guarded: Guarded) -> Answer:
    """Answer for what has no server, or cannot be asked without an event loop.

    An SQLite file is not opened: that would create it.
    """
    engine = guarded.engine
    if engine.dialect.is_async or engine.dialect.name != "sqlite":
        return Answer(None)
    view = guarded.tracker.database.view(None)
    path = engine.url.database
    if path in _MEMORY or path.startswith("file:"):
        return Answer(True, view)
    if not os.path.exists(path):
        return Answer(None, view)
    if not os.access(path, os.R_OK):
        told = f"{path} cannot be read by this user"
        return Answer(False, view, told, failure="away")
    return Answer(True, view)


def _why(error: Exception, database: Database) -> Failure:
    if database.connect_failure(error) is ConnectFailure.FULL:
        return "full"
    return "login" if database.refuses_login(error) else "away"


def _is_disconnect(error: Exception, connection: t.Any, engine: Engine) -> bool:
    try:
        return engine.dialect.is_disconnect(error, connection, None)  # type: ignore[arg-type] # any exception, and the dialect decides
    except Exception:  # not an exception of this driver
        return False


@after_late_patch
@after_fork_in_child
def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()
