"""The measurements run and print their tables; what they find is not looked at."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from sqlalchemy import URL

from benchmarks import open_load, overload, requests, saturation, timeouts
from benchmarks.figures import Table
from benchmarks.saturation import Case
from tests.support.servers import MariaDBServer

pytestmark = pytest.mark.process


def printed(tables: Iterator[Table]) -> str:
    """Return all tables as a terminal shows them."""
    return "\n".join(table.text() for table in tables)


class TestWithoutServer:
    def test_requests_times_each_view(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(requests, "ROUNDS", 2)
        monkeypatch.setattr(requests, "TURNS", 3)
        text = printed(requests.run())
        assert "2 rounds of 3 requests" in text
        for view in ("a view that returns a string", "db.session", "engine.connect()"):
            assert view in text

    def test_timeouts_counts_each_timeout(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(timeouts, "ROUNDS", 2)
        monkeypatch.setattr(timeouts, "TIMEOUTS", 2)
        monkeypatch.setattr(timeouts, "TIMEOUT_SECONDS", 0.01)
        text = printed(timeouts.run())
        assert "5 held, 32 threads wait 0.01 s, 2 rounds of 64 timeouts" in text


@pytest.fixture
def lent_mariadb(mariadb_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let measurements use the tests' server in place of one of their own."""

    @contextlib.contextmanager
    def database(_: object) -> Iterator[tuple[str, URL]]:
        yield "MariaDB", mariadb_url

    for module in (saturation, overload):
        monkeypatch.setattr(module, "database", database)


@pytest.mark.usefixtures("lent_mariadb")
class TestUnderGunicorn:
    @pytest.fixture(autouse=True)
    def short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Do without warming up."""
        monkeypatch.setattr(saturation, "WARM_SECONDS", 0.0)
        monkeypatch.setattr(overload, "WARM_SECONDS", 0.0)

    def test_saturation_tries_each_case_on_its_servers(self) -> None:
        cases = Case(2, 5, 1, 1, 0.001), Case(1, 5, 1, 1, 0.001, servers=())
        text = printed(saturation.run(cases=cases, servers=(MariaDBServer,)))
        assert "2×1 ms, 5 s" in text
        assert "good/s" in text
        assert "1×1 ms" not in text

    def test_overload_tries_each_load(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(overload, "LOADS", (0.5, 2))
        text = printed(overload.run(cases=(Case(1, 5, 1, 1, 0.005),)))
        assert "MariaDB, 1×5 ms, 5 s, capacity" in text
        assert "0.5 × capacity" in text
        assert "2 × capacity" in text


class TestOpenLoad:
    def test_a_client_gives_up_what_is_not_answered(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(open_load, "PATIENCE_SECONDS", 0.01)
        monkeypatch.setattr(open_load, "DRAIN_SECONDS", 60.0)
        with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
            port = silent.getsockname()[1]
            seen = open_load.arrive(port, "/", rate=100, warm=0, seconds=0.2)
        assert (seen.given_up, seen.unanswered, seen.failures) == (20, 0, 0)
        assert seen.latencies == []

    def test_a_refused_connection_is_a_failure(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(open_load, "DRAIN_SECONDS", 60.0)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # and does not listen
            port = taken.getsockname()[1]
            seen = open_load.arrive(port, "/", rate=100, warm=0, seconds=1)
        assert seen.latencies == []
        assert seen.failures > 0
        assert (seen.given_up, seen.unanswered) == (0, 0)
