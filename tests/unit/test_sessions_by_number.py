"""What a server's numbers of sessions tell of workers that are made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import create_engine

from flask_poolguard import PoolGuard
from flask_poolguard.databases import (
    IdleLimit,
    ServerSession,
    ServerView,
    SessionList,
)
from flask_poolguard.engines import Guarded
from flask_poolguard.report.ended_sessions import find_ended
from flask_poolguard.report.model import Session
from flask_poolguard.report.servers import Answer
from flask_poolguard.report.session_counts import open_server_ids
from flask_poolguard.report.session_matching import join
from flask_poolguard.state.status import Holder, IdleConnection, Worker
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


class TestOwners:
    @staticmethod
    def joined(guarded: Guarded, *workers: Worker) -> dict[int, Session]:
        """Return the sessions 7 and 8 with what is known of their owners."""
        listed = SessionList((a_session(7), a_session(8)))
        answers = {guarded.bind: Answer(True, sessions=listed)}
        sessions = join("shop", [guarded], answers, workers)[guarded.bind].sessions
        assert sessions is not None
        return {each.id: each for each in sessions}

    def test_are_the_workers_that_have_the_numbers(self, guarded: Guarded) -> None:
        found = self.joined(guarded, a_worker(11, 7), a_worker(12, 8))
        assert [(found[each].owner, found[each].pid) for each in (7, 8)] == [
            ("worker", 11),
            ("worker", 12),
        ]

    def test_are_unknown_of_a_number_that_two_workers_have(
        self, guarded: Guarded
    ) -> None:
        found = self.joined(guarded, a_worker(11, 7), a_worker(12, 7, 8))
        assert found[7].owner is None
        assert found[7].pid is None
        assert (found[8].owner, found[8].pid) == ("worker", 12)


class TestEndedSessions:
    @staticmethod
    def ended(guarded: Guarded, held: float, *, limit: float | None = None) -> set[int]:
        """Return whether session 7 has ended, of a server that lists 8 and 9."""
        view = ServerView(
            "PostgreSQL 15",
            IdleLimit(limit, "idle_session_timeout"),
            sessions=(a_session(8), a_session(9)),
            handshake_id=1,
            session_id=1,
        )
        worker = a_worker(11, 8, 9)
        holder = Holder(held, "shop.pay", "shop/pay.py:8", "Thread-1", 7)
        pool = replace(worker.pools[0], holders=(holder,))
        answers = {guarded.bind: Answer(True, view=view)}
        found = find_ended([guarded], answers, [replace(worker, pools=(pool,))])
        return {number for _, _, _, number in found}

    def test_are_missing_at_the_server(self, guarded: Guarded) -> None:
        assert self.ended(guarded, 2.0) == {7}

    @pytest.mark.parametrize("limit", [None, 0.1])
    def test_are_no_connections_younger_than_the_list(
        self, guarded: Guarded, limit: float | None
    ) -> None:
        assert self.ended(guarded, 0.5, limit=limit) == set()


class TestOpenNumbers:
    def test_are_those_of_all_pools(self) -> None:
        pools = [*a_worker(11, 7).pools, *a_worker(12, 8, 9).pools]
        assert open_server_ids(pools) == frozenset({7, 8, 9})

    @pytest.mark.parametrize(
        "facts", [{"is_counted": False}, {"unlisted_checkouts": 1}], ids=str
    )
    def test_are_unknown_where_a_pool_has_more_than_is_listed(
        self, facts: dict[str, Any]
    ) -> None:
        (pool,) = a_worker(11, 7).pools
        assert open_server_ids([replace(pool, **facts)]) is None
