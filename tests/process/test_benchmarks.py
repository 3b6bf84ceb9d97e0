"""The measurements run and print their tables; what they find is not looked at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks import requests, timeouts
from benchmarks.figures import Table

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
