"""A budget by the server's own limits."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flask_poolguard.budget import find_standing
from flask_poolguard.engines import standing_of
from flask_poolguard.report.text import visible
from tests.conftest import Database
from tests.support.budget_process import BudgetProcess, open_connections
from tests.support.database_server import APP_USER
from tests.support.guarded_app import make_app, warnings_of
from tests.support.servers import DatabaseServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("own_server")]

Start = Callable[..., BudgetProcess]
# Of a user's connections; a tenth, rounded up, stays free: 10 places.
LIMIT, PLACES = 12, 10


def limit(server: DatabaseServer, connections: int) -> None:
    """Let the app's user have so many connections; 0 for any number."""
    server.execute(
        f"ALTER ROLE {APP_USER} CONNECTION LIMIT {connections or -1}"
        if server.product == "PostgreSQL"
        else f"ALTER USER {APP_USER} WITH MAX_USER_CONNECTIONS {connections}"
    )


@pytest.fixture
def database(served_database: Database) -> Iterator[Database]:
    """Return a fresh database of a user that may have few connections."""
    server = served_database.running_server
    wait_until(lambda: not server.session_ids(), what="the end of earlier sessions")
    limit(server, LIMIT)
    yield served_database
    limit(server, 0)


@pytest.fixture
def start(database: Database, tmp_path: Path) -> Iterator[Start]:
    """Return what starts processes that share a budget; they end with the test."""
    with ExitStack() as stack:

        def start(**config: Any) -> BudgetProcess:
            config = {
                "POOLGUARD_BUDGET": "auto",
                "POOLGUARD_POOL_TIMEOUT": 10,
                "POOLGUARD_STATE_DIR": str(tmp_path),
                **config,
            }
            return stack.enter_context(BudgetProcess(database.url, **config))

        yield start


@pytest.fixture
def others(database: Database) -> Iterator[Callable[[int], None]]:
    """Return what lets another program of the same user have so many connections."""
    engine = sa.create_engine(database.url, poolclass=sa.pool.NullPool)
    with ExitStack() as stack:

        def take(count: int) -> None:
            for _ in range(count):
                stack.enter_context(engine.connect())

        yield take


def told(url: sa.URL, state_dir: Path, **config: Any) -> str:
    """Return how the budget stands, as another process sees it."""
    config = {
        "POOLGUARD_BUDGET": "auto",
        "POOLGUARD_STATE_DIR": str(state_dir),
    } | config
    app = make_app(url, **config)
    with app.app_context():
        (guarded,) = app.extensions["poolguard"].engines
        standing = standing_of(guarded.engine, guarded.settings, guarded.tracker)
    return visible(str(standing))


class TestTogether:
    @pytest.mark.parametrize("sizes", [(5, 10), ("auto", "auto")])
    def test_processes_have_what_the_server_allows_and_none_is_refused(
        self, sizes: tuple[Any, Any], start: Start, database: Database, tmp_path: Path
    ) -> None:
        config = dict(
            zip(("POOLGUARD_POOL_SIZE", "POOLGUARD_MAX_OVERFLOW"), sizes, strict=True)
        )
        processes = [start(**config) for _ in range(4)]
        for each in processes:
            each.do("use 6")
        most, until = 0, time.monotonic() + 3
        while time.monotonic() < until:
            pids = [each.pid for each in processes]
            most = max(most, open_connections(pids, database.url.port or 0))
        answers = [each.do("rest") for each in processes]
        assert [each["failed"] for each in answers] == [0] * 4
        assert all(each["served"] > 0 for each in answers)
        # One that asks the server is none of a pool's.
        assert PLACES - 2 <= most <= PLACES + 1
        standing = told(database.url, tmp_path)
        assert f" of {PLACES} places of this host are taken: " in standing
        assert standing.endswith(f"(auto: {LIMIT} of user app less a tenth)")

    def test_what_others_have_is_left_to_them(
        self,
        start: Start,
        others: Callable[[int], None],
        database: Database,
        tmp_path: Path,
    ) -> None:
        others(3)
        first = start()
        first.take(4)
        first.do("ask")
        less = f"(auto: {LIMIT} of user app less 3 of others, a tenth)"
        wait_until(lambda: told(database.url, tmp_path).endswith(less))
        late = start(POOLGUARD_POOL_TIMEOUT=0.5)
        late.take(3)
        error = late.do("take")["error"]
        assert "7 of 7 places of this host are taken: 4 by worker " in error
        assert f"{less}, connection timed out" in error

    def test_hosts_share_it(
        self, start: Start, database: Database, tmp_path: Path
    ) -> None:
        config = {"POOLGUARD_BUDGET_HOSTS": 3}
        start(**config).take(3)
        late = start(POOLGUARD_POOL_TIMEOUT=0.5, **config)
        assert "3 of 3 places" in late.do("take")["error"]
        assert "less a tenth, on 3 hosts)" in told(database.url, tmp_path, **config)

    def test_of_a_number_and_auto_the_smaller_counts(
        self, start: Start, database: Database, tmp_path: Path
    ) -> None:
        one = start(POOLGUARD_BUDGET=4, POOLGUARD_POOL_TIMEOUT=0.5)
        one.take(4)
        assert "4 of 4 places" in one.do("take")["error"]
        start().take(6)
        late = start(POOLGUARD_POOL_TIMEOUT=0.5)
        assert f"{PLACES} of {PLACES} places" in late.do("take")["error"]


class TestLookedAtAgain:
    def test_when_others_want_more_idle_connections_are_closed(
        self, start: Start, others: Callable[[int], None], database: Database
    ) -> None:
        process = start()
        process.take(PLACES)
        process.do("ask")
        others(2)
        for _ in range(5):
            process.do("give")
        port = database.url.port or 0
        wait_until(
            lambda: open_connections([process.pid], port) <= PLACES - 1,
            what="the end of connections beyond the limit",
        )

    def test_those_in_use_are_closed_when_they_come_back(
        self,
        start: Start,
        others: Callable[[int], None],
        database: Database,
        tmp_path: Path,
    ) -> None:
        process, port = start(POOLGUARD_POOL_TIMEOUT=0.5), database.url.port or 0
        process.take(PLACES)
        process.do("ask")
        others(2)
        # There is no room to ask the server, which says enough.
        wait_until(
            lambda: f" of {PLACES - 1} places" in process.do("take")["error"],
            what="the new limit",
        )
        assert open_connections([process.pid], port) == PLACES
        process.do("give")
        wait_until(lambda: open_connections([process.pid], port) == PLACES - 1)
        # Now there is room to ask.
        less = f"(auto: {LIMIT} of user app less 2 of others, a tenth)"
        wait_until(lambda: told(database.url, tmp_path).endswith(less))
        process.do("give")
        wait_until(lambda: open_connections([process.pid], port) == PLACES - 2)
        assert f" of {PLACES - 2} places" in process.do("take")["error"]

    def test_a_higher_limit_counts_at_once(
        self, start: Start, database: Database
    ) -> None:
        process = start(POOLGUARD_POOL_TIMEOUT=0.5)
        process.take(PLACES)
        assert "error" in process.do("take")
        limit(database.running_server, 2 * LIMIT)
        process.do("ask")
        wait_until(lambda: "error" not in process.do("take"), what="the new limit")

    def test_after_the_process_that_asked_was_killed(
        self, start: Start, database: Database
    ) -> None:
        first = start()
        first.take(1)
        second = start(POOLGUARD_POOL_TIMEOUT=0.5)
        second.take(PLACES - 1)
        first.kill()
        limit(database.running_server, 2 * LIMIT)
        second.do("ask")
        wait_until(
            lambda: "error" not in second.do("take"), what="another one that asks"
        )


class TestNotKnown:
    def test_a_server_that_is_away_is_told_as_without_a_budget(
        self, start: Start, database: Database
    ) -> None:
        server = database.running_server
        server.stop()
        process = start(POOLGUARD_CONNECT_RETRY=0)
        error = process.do("take")["error"]
        server.start()
        assert "OperationalError" in error
        assert "places" not in error
        process.take(2)

    def test_none_is_kept_until_the_server_was_asked_and_that_is_said(
        self, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert told(database.url, tmp_path) == (
            "auto, and none is kept: the server was not asked yet"
        )
        app = make_app(
            database.url, POOLGUARD_BUDGET="auto", POOLGUARD_STATE_DIR=str(tmp_path)
        )
        with app.app_context():
            (guarded,) = app.extensions["poolguard"].engines
        engine = guarded.engine
        refusing = True

        @sa.event.listens_for(engine, "do_connect")
        def refuse(dialect: Any, record: Any, *_: Any) -> None:
            if refusing and type(record).__name__ == "UnpooledEntry":
                raise ValueError("not here: secret")

        with ExitStack() as stack, caplog.at_level(logging.WARNING):
            for _ in range(3):
                stack.enter_context(engine.connect())
            wait_until(lambda: warnings_of(caplog), what="the warning")
        (warning,) = warnings_of(caplog)
        assert "keeps no budget, because the server could not be asked" in warning
        assert "secret" not in warning
        assert "could not be asked (ValueError)" in told(database.url, tmp_path)
        refusing = False
        engine.dispose()

    def test_a_stopped_process_holds_no_question_up(
        self, start: Start, database: Database
    ) -> None:
        first = start()
        first.take(2)  # so it has asked
        os.kill(first.pid, signal.SIGSTOP)
        try:
            second = start(POOLGUARD_POOL_TIMEOUT=0.5)
            second.take(PLACES - 2)
            limit(database.running_server, 2 * LIMIT)
            second.do("ask")
            wait_until(
                lambda: "error" not in second.do("take"), what="another one that asks"
            )
        finally:
            os.kill(first.pid, signal.SIGCONT)


def test_no_file_is_no_standing(tmp_path: Path) -> None:
    assert find_standing(str(tmp_path), ["a", "b"], None) is None
