"""A storm of pool timeouts looks at the holders once, and soon looks again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from sqlalchemy import URL
from sqlalchemy.exc import TimeoutError as PoolTimeout

from flask_poolguard.pool import refusals
from tests.support.people import Person, people
from tests.support.tracked import Tracked


@pytest.fixture
def tracked(sqlite_url: URL) -> Iterator[Tracked]:
    """Guard a pool of one connection, for which no thread waits for long."""
    tracked = Tracked(sqlite_url, pool_size=1, max_overflow=0)
    tracked.engine.pool._timeout = 0.01  # type: ignore[attr-defined] # a QueuePool's
    yield tracked
    tracked.engine.dispose()


@pytest.fixture
def looks(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Return a list that grows with each look at the holders."""
    found: list[None] = []
    describe = tracked.tracker.describe_holders

    def described(states: Mapping[int, str]) -> str:
        found.append(None)
        return describe(states)

    monkeypatch.setattr(tracked.tracker, "describe_holders", described)
    return found


def refusal_of(person: Person) -> PoolTimeout:
    """Return the error of one who asks in vain."""
    with pytest.raises(PoolTimeout) as caught:
        person.take()
    return caught.value


def test_many_timeouts_share_one_look(
    tracked: Tracked, looks: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "SAID_FOR", 600.0)
    with people(tracked.engine, 3) as (holder, *others):
        holder.begin(tracked.app).take()
        for _ in range(3):
            for each in others:
                error = refusal_of(each)
                assert "held by:\n" in str(error)
                assert error.__notes__
    assert len(looks) == 1


def test_later_ones_look_anew(
    tracked: Tracked, looks: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "SAID_FOR", 0.0)
    with people(tracked.engine, 2) as (holder, other):
        holder.begin(tracked.app).take()
        for _ in range(3):
            before = len(looks)
            refusal_of(other)
            assert len(looks) > before
