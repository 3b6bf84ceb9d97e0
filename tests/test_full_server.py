"""A server that has no room: who waits, who tries, and when that is over."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
from sqlalchemy import exc

from flask_poolguard.databases import ConnectFailure
from flask_poolguard.pool import Claim, GuardedPool, connect_breaker
from flask_poolguard.pool.types import PoolCallbacks


class FullError(Exception):
    """The server says that it is full."""


class WrongPasswordError(Exception):
    """The server says no for good."""


class Server:
    """Lets in so many, and counts who knocks.

    :ivar room_after: how often one must knock until there is room.
    """

    def __init__(self) -> None:
        self.room = 0
        self.knocks = 0
        self.room_after = 1000
        self.password_is_wrong = False

    def connect(self) -> sqlite3.Connection:
        """Let one more in."""
        self.knocks += 1
        if self.password_is_wrong:
            raise WrongPasswordError
        if self.knocks > self.room_after:
            self.room = 1
        if not self.room:
            raise FullError
        self.room -= 1
        return sqlite3.connect(":memory:", check_same_thread=False)


@pytest.fixture
def server() -> Server:
    """Return a server with room for one."""
    server = Server()
    server.room = 1
    return server


@pytest.fixture
def pool(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedPool]:
    """Return a pool of many, of which a full server makes one wait."""
    monkeypatch.setattr(GuardedPool, "tend", lambda _: None)
    pool = GuardedPool(server.connect, pool_size=9, max_overflow=0, timeout=60)
    kinds: dict[type[BaseException], ConnectFailure] = {FullError: ConnectFailure.FULL}
    monkeypatch.setattr(pool._breaker, "_judge", lambda error: kinds.get(type(error)))
    yield pool
    pool.dispose()


class TestFull:
    def test_it_is_tried_again_while_a_connection_is_in_use(
        self, pool: GuardedPool, server: Server
    ) -> None:
        first = pool.connect()
        server.room_after = 3
        pool.connect().close()
        assert server.knocks == 4
        first.close()

    def test_who_tries_in_vain_waits_again(
        self, pool: GuardedPool, server: Server
    ) -> None:
        told: list[str] = []

        class Told(PoolCallbacks):
            def began_waiting(self, out: int) -> Claim:
                told.append("began")
                return super().began_waiting(out)

            def waits_again(self, claim: Claim) -> None:
                told.append("again")

            def stopped_waiting(self, claim: Claim) -> None:
                told.append("stopped")

        connect = server.connect

        def knock() -> sqlite3.Connection:
            told.append("knocked")
            return connect()

        pool._creator = knock  # type: ignore[assignment] # declared wider
        first = pool.connect()
        pool.callbacks, server.room_after = Told(), 3
        told.clear()
        pool.connect().close()
        # The first one to try had not waited yet.
        assert told == [
            *("knocked", "began", "stopped"),
            *("knocked", "again", "stopped"),
            "knocked",
        ]
        first.close()

    def test_once_it_lets_one_in_the_others_follow_at_once(
        self, pool: GuardedPool, server: Server
    ) -> None:
        first = pool.connect()
        pool._timeout = 0
        with pytest.raises(exc.TimeoutError, match="The server refuses more"):
            pool.connect()
        first.close()
        pool._timeout = 60
        server.room = 9
        held = [pool.connect() for _ in range(9)]
        # The one that failed, and as many as there are.
        assert server.knocks == 1 + 1 + 8
        for each in held:
            each.close()

    def test_an_error_of_another_kind_ends_the_waiting_for_room(
        self, pool: GuardedPool, server: Server
    ) -> None:
        first = pool.connect()
        pool._timeout = 0
        with pytest.raises(exc.TimeoutError):
            pool.connect()
        pool._timeout = 60
        server.password_is_wrong = True
        with pytest.raises(WrongPasswordError):
            pool.connect()
        assert pool._pool.closed_until == 0
        assert pool._breaker.trouble is None
        first.close()

    def test_trouble_that_is_long_over_holds_nobody_up(
        self, pool: GuardedPool, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = pool.connect()
        pool._timeout = 0
        with pytest.raises(exc.TimeoutError):
            pool.connect()
        monkeypatch.setattr(connect_breaker, "_FORGET_AFTER", -1.0)
        pool._timeout = 60
        server.room = 9
        pool.connect().close()
        assert pool._pool.closed_until == 0
        first.close()
