"""The breaker alone: who may connect while the server is in trouble."""

from __future__ import annotations

import contextlib
import gc
import itertools
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import exc

from flask_poolguard.databases import ConnectFailure
from flask_poolguard.pool import Claim, GuardedPool
from flask_poolguard.pool import connect_breaker as breaker_module
from flask_poolguard.pool.connect_breaker import ConnectBreaker
from flask_poolguard.pool.outage import Patience
from flask_poolguard.pool.types import PoolCallbacks
from tests.support.guarded_app import Clock
from tests.support.people import SECONDS, Stop
from tests.support.strikes import struck_at


class AwayError(Exception):
    """Nobody answers."""


class FullError(Exception):
    """The server says that it is full."""


KINDS: dict[type[BaseException], ConnectFailure] = {
    AwayError: ConnectFailure.AWAY,
    FullError: ConnectFailure.FULL,
}


def make_breaker(
    open_none_until: Callable[[float], None] = lambda _: None,
) -> ConnectBreaker:
    """Return a breaker that knows the errors above."""
    return ConnectBreaker(lambda error: KINDS.get(type(error)), open_none_until)


def connect(
    breaker: ConnectBreaker,
    attempt: Callable[[], None],
    seconds: float = SECONDS,
    may_queue: Callable[[], bool] = lambda: False,
) -> None:
    """Connect, and go on for so many seconds."""
    now = time.monotonic()
    breaker.connect(attempt, Patience(now, seconds, now + seconds), may_queue)


def failing_once(error: Exception, then: Callable[[], None]) -> Callable[[], None]:
    """Return an attempt that fails the first time."""
    errors = [error]

    def attempt() -> None:
        if errors:
            raise errors.pop()
        then()

    return attempt


class TestHanging:
    @contextmanager
    def hanging(self, breaker: ConnectBreaker) -> Iterator[tuple[Future[None], Stop]]:
        """Let an attempt hang, the second after an outage began."""
        stop = Stop()
        with ThreadPoolExecutor(1) as executor:
            hung = executor.submit(connect, breaker, failing_once(AwayError(), stop))
            stop.until_reached()
            try:
                yield hung, stop
            finally:
                stop.open()

    def test_another_tries_beside_an_attempt_that_hangs(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(breaker_module, "_HANGS_AFTER", 0.05)
        breaker, tries = make_breaker(), list[str]()
        with self.hanging(breaker) as (hung, stop):
            connect(breaker, lambda: tries.append("beside"))
            assert tries == ["beside"]
            assert not hung.done()
            assert breaker.outage is None
            stop.open()
            hung.result(SECONDS)
        assert breaker.pending == 0

    def test_nobody_tries_beside_one_that_may_be_answered_yet(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(breaker_module, "_HANGS_AFTER", 600.0)
        breaker, tries = make_breaker(), list[str]()
        with self.hanging(breaker) as (hung, stop):
            with pytest.raises(AwayError, match="tried once"):
                connect(breaker, lambda: tries.append("beside"), seconds=0.2)
            assert tries == []
            stop.open()
            hung.result(SECONDS)
        assert breaker.pending == 0


class TestLate:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        """Return the clock that the breaker goes by."""
        clock = Clock()
        monkeypatch.setattr(breaker_module, "_clock", clock)
        return clock

    def test_who_has_tried_gets_no_turn_once_his_time_is_up(self, clock: Clock) -> None:
        tries: list[str] = []

        def attempt() -> None:
            tries.append("tried")
            raise FullError

        def may_queue() -> bool:
            if tries:  # while he waits for the next turn
                clock.now += 31
            return False

        breaker = make_breaker()
        patience = Patience(clock.now, 30, clock.now + 30)
        with pytest.raises(FullError, match="tried once"):
            breaker.connect(attempt, patience, may_queue)
        assert tries == ["tried"]
        assert breaker.pending == 0

    def test_the_first_turn_comes_late_rather_than_never(self, clock: Clock) -> None:
        breaker, tries = make_breaker(), list[str]()
        patience = Patience(clock.now, 0, clock.now)
        with pytest.raises(AwayError):
            breaker.connect(failing_once(AwayError(), Stop()), patience, lambda: False)
        clock.now += 30
        breaker.connect(lambda: tries.append("tried"), patience, lambda: False)
        assert tries == ["tried"]


class TestStruck:
    @pytest.mark.parametrize("errors", [[], [AwayError()]], ids=["well", "away"])
    def test_wherever_it_is_nobody_waits_for_the_end_of_that_turn(
        self, errors: list[AwayError], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Nobody may help himself to a turn beside one that hangs.
        monkeypatch.setattr(breaker_module, "_HANGS_AFTER", 600.0)

        def connect_with(breaker: ConnectBreaker, errors: list[AwayError]) -> None:
            def attempt() -> None:
                if errors:
                    raise errors.pop()

            with contextlib.suppress(AwayError):
                connect(breaker, attempt)

        for number in itertools.count(1):
            breaker, left = make_breaker(), list(errors)
            with pytest.raises(AwayError):
                connect(breaker, failing_once(AwayError(), lambda: None), seconds=0)
            where = struck_at(number, lambda g=breaker, e=left: connect_with(g, e))  # type: ignore[misc] # mypy knows no defaults of lambdas
            if where is None:
                break
            assert breaker.pending == 0, where
            connect(breaker, lambda: None)
        assert number > 8


def by_a_signal(work: Callable[[], None]) -> None:
    """Do something as a signal's handler does."""
    before = signal.signal(signal.SIGUSR1, lambda *_: work())
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def by_a_collection(work: Callable[[], None]) -> None:
    """Do something as what a garbage collection finds does."""

    class Garbage:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            work()

    Garbage()
    gc.collect()


# Without an end of its own: a lock that cannot be taken twice is waited for.
@pytest.mark.timeout(30)
@pytest.mark.parametrize("interrupt", [by_a_signal, by_a_collection])
class TestInterrupted:
    """A connect while the same thread is within the breaker."""

    @pytest.mark.parametrize("moment", ["it is full", "it has room again"])
    def test_while_it_tells_that(
        self, moment: str, interrupt: Callable[[Callable[[], None]], None]
    ) -> None:
        tries: list[str] = []
        moments = [moment]

        def open_none_until(when: float) -> None:
            if moments == ["it is full" if when else "it has room again"]:
                moments.clear()
                interrupt(lambda: connect(breaker, lambda: tries.append("within")))

        breaker = make_breaker(open_none_until)
        connect(breaker, failing_once(FullError(), lambda: tries.append("around")))
        assert sorted(tries) == ["around", "within"]
        assert (breaker.pending, breaker.outage) == (0, None)

    def test_while_somebody_waits_for_his_turn(
        self, interrupt: Callable[[Callable[[], None]], None]
    ) -> None:
        tries: list[str] = []
        moments = ["the first look"]

        def may_queue() -> bool:
            if moments:
                moments.clear()
                interrupt(lambda: connect(breaker, lambda: tries.append("within")))
            return False

        breaker = make_breaker()
        attempt = failing_once(FullError(), lambda: tries.append("around"))
        connect(breaker, attempt, may_queue=may_queue)
        assert tries == ["within", "around"]
        assert (breaker.pending, breaker.outage) == (0, None)


class WrongPasswordError(Exception):
    """The server says no for good."""


class FakeServer:
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
def server() -> FakeServer:
    """Return a server with room for one."""
    server = FakeServer()
    server.room = 1
    return server


@pytest.fixture
def pool(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedPool]:
    """Return a pool of many, of which a full server makes one wait."""
    monkeypatch.setattr(GuardedPool, "tend", lambda _: None)
    pool = GuardedPool(server.connect, pool_size=9, max_overflow=0, timeout=60)
    monkeypatch.setattr(
        pool._breaker, "_classify", lambda error: KINDS.get(type(error))
    )
    yield pool
    pool.dispose()


class TestPoolOfAFullServer:
    """The breaker as a pool has it, whose server has no room."""

    def test_it_is_tried_again_while_a_connection_is_in_use(
        self, pool: GuardedPool, server: FakeServer
    ) -> None:
        first = pool.connect()
        server.room_after = 3
        pool.connect().close()
        assert server.knocks == 4
        first.close()

    def test_who_tries_in_vain_waits_again(
        self, pool: GuardedPool, server: FakeServer
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
        self, pool: GuardedPool, server: FakeServer
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
        self, pool: GuardedPool, server: FakeServer
    ) -> None:
        first = pool.connect()
        pool._timeout = 0
        with pytest.raises(exc.TimeoutError):
            pool.connect()
        pool._timeout = 60
        server.password_is_wrong = True
        with pytest.raises(WrongPasswordError):
            pool.connect()
        assert pool._pool.opens_none_until == 0
        assert pool._breaker.outage is None
        first.close()

    def test_trouble_that_is_long_over_holds_nobody_up(
        self, pool: GuardedPool, server: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = pool.connect()
        pool._timeout = 0
        with pytest.raises(exc.TimeoutError):
            pool.connect()
        monkeypatch.setattr(breaker_module, "_FORGET_AFTER", -1.0)
        pool._timeout = 60
        server.room = 9
        pool.connect().close()
        assert pool._pool.opens_none_until == 0
        first.close()
