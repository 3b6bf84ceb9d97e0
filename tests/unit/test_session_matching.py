"""Whose a server's session is, from states of workers that are made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask
from sqlalchemy import create_engine

from flask_poolguard import PoolGuard
from flask_poolguard.databases import ServerSession, SessionList
from flask_poolguard.engines import Guarded
from flask_poolguard.report.model import Session
from flask_poolguard.report.servers import Answer
from flask_poolguard.report.session_matching import join
from flask_poolguard.state.status import IdleConnection, Worker
from tests.support.statuses import POOL, WORKER


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    """Return a bind that has never connected."""
    app, engine = Flask("shop"), create_engine(POOL.url.replace("app@", "app:@"))
    PoolGuard(app).register(engine, name=POOL.bind)
    with app.app_context():
        (found,) = app.extensions["poolguard"].engines
        yield found


def a_worker(pid: int, *numbers: int) -> Worker:
    """Return one whose pool has idle connections with these numbers at the server."""
    idle = tuple(IdleConnection(idle_seconds=1.0, server_id=each) for each in numbers)
    pool = replace(POOL, holders=(), idle_connections=idle)
    process = replace(WORKER.process, pid=pid)
    return replace(WORKER, pid=pid, process=process, pools=(pool,))


def a_session(number: int) -> ServerSession:
    """Return one without a label, which only its number can tell from others."""
    return ServerSession(number, None, "app", "shop", None, "idle", 2.0, 60.0)


def joined(guarded: Guarded, *workers: Worker) -> dict[int, Session]:
    """Return the sessions 7 and 8 with what is known of their owners."""
    listed = SessionList((a_session(7), a_session(8)))
    answers = {guarded.bind: Answer(True, sessions=listed)}
    sessions = join("shop", [guarded], answers, workers)[guarded.bind].sessions
    assert sessions is not None
    return {each.id: each for each in sessions}


def test_a_session_is_of_the_worker_that_has_its_number(guarded: Guarded) -> None:
    found = joined(guarded, a_worker(11, 7), a_worker(12, 8))
    assert [(found[each].owner, found[each].pid) for each in (7, 8)] == [
        ("worker", 11),
        ("worker", 12),
    ]


def test_a_number_that_two_workers_have_says_nothing(guarded: Guarded) -> None:
    found = joined(guarded, a_worker(11, 7), a_worker(12, 7, 8))
    assert found[7].owner is None
    assert found[7].pid is None
    assert (found[8].owner, found[8].pid) == ("worker", 12)
