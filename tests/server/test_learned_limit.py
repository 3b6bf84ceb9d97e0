"""A limit that nobody told of is learned from the connections that die of it."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, event

from flask_poolguard.databases import for_dialect
from flask_poolguard.pool import idle_deaths
from flask_poolguard.pool.idle_deaths import APART, IdleDeaths
from flask_poolguard.pool.slot import GuardedRecord
from tests.conftest import Database, database_by
from tests.support.drivers import DRIVERS
from tests.support.guarded_app import (
    Clock,
    checked_out_id,
    guarded_engine,
    guarded_pool,
    warnings_of,
)
from tests.support.proxy import TCPProxy
from tests.support.servers import DatabaseServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.every_product

# Each loses a server's last words in its own way; pg8000 has no socket to look at.
ALL_DRIVERS = [*DRIVERS, "postgresql+pg8000"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let deaths be told apart by a clock that the test turns."""
    clock = Clock()
    monkeypatch.setattr(idle_deaths, "_clock", clock)
    return clock


class Story:
    """What happened to a pool's idle connections, moment after moment."""

    def __init__(self, clock: Clock) -> None:
        self.deaths = IdleDeaths()
        self._clock = clock

    def die(self, *idle: float) -> bool:
        """Let connections die at one moment; tell whether that taught anything."""
        for each in idle:
            self.deaths.died(each)
        self._clock.now += APART
        return self.deaths.conclude()


@pytest.fixture
def story(clock: Clock) -> Story:
    """Return a story that has not begun."""
    return Story(clock)


class TestWhatTeaches:
    def test_three_deaths_after_about_the_same_time(self, story: Story) -> None:
        assert not story.die(350.4)
        assert not story.die(351.0)
        assert story.die(350.9)
        assert story.deaths.limit == 350.4

    def test_several_that_die_together_count_once(self, story: Story) -> None:
        assert not story.die(350, 350, 351)
        assert not story.die(350, 352)
        assert story.die(350, 350)

    def test_a_shorter_limit_later_on(self, story: Story) -> None:
        assert [story.die(350) for _ in range(3)][-1]
        assert [story.die(60) for _ in range(3)] == [False, False, True]
        assert story.deaths.limit == 60

    def test_the_same_limit_is_news_only_once(self, story: Story) -> None:
        assert [story.die(350) for _ in range(3)][-1]
        assert not any(story.die(350) for _ in range(5))

    def test_survivors_that_idled_less_do_not_matter(self, story: Story) -> None:
        story.deaths.survived(340)
        assert [story.die(350) for _ in range(3)][-1]


class TestWhatTeachesNothing:
    def test_a_restart_that_ends_connections_of_all_ages(self, story: Story) -> None:
        assert not any(story.die(2, 100, 300) for _ in range(10))

    def test_one_restart_of_connections_of_one_age(self, story: Story) -> None:
        assert not story.die(*[100.0] * 20)

    def test_restarts_in_between_spoil_the_evidence(self, story: Story) -> None:
        story.die(350)
        story.die(350)
        story.die(350, 10)
        assert not story.die(350)

    def test_deaths_while_the_server_is_away(self, story: Story, clock: Clock) -> None:
        for _ in range(10):
            story.deaths.died(100)
            story.deaths.server_is_away()
            clock.now += APART
            assert not story.deaths.conclude()

    def test_deaths_after_different_times(self, story: Story) -> None:
        idles = (30, 100, 20, 350, 70, 10, 200)
        assert not any(story.die(each) for each in idles)

    def test_others_that_lived_longer(self, story: Story) -> None:
        story.die(350)
        story.die(350)
        story.deaths.survived(3000)
        assert not story.die(350)
        # All evidence is to be found again.
        assert not story.die(350)
        assert not story.die(350)
        assert story.die(350)

    def test_a_moment_that_is_not_over(self, story: Story) -> None:
        story.die(350)
        story.die(350)
        story.deaths.died(350)
        assert not story.deaths.conclude()


class Firewall(TCPProxy):
    """Closes connections over which nothing has come for some time."""

    limit = 1.0

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while select.select([source], [], [], self.limit)[0]:
                data = source.recv(65536)
                if not data:
                    break
                target.sendall(data)
        self._end(source)
        self._end(target)


@pytest.fixture
def firewall(served_database: Database) -> Iterator[Firewall]:
    """Stand before the database."""
    with Firewall.before(served_database.url) as firewall:
        yield firewall


class Witness:
    """Sees for how long a pool's only connection idled when it was found dead.

    :ivar deaths: at least so long, as long as was noted, and at most so long.
    """

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = engine
        self.pool = guarded_pool(engine)
        self.deaths: list[tuple[float, float, float]] = []
        self._began = self._ended = self._looked = 0.0
        died = IdleDeaths.died

        def note(deaths: IdleDeaths, idle: float) -> None:
            at_least = self._looked - self._ended
            self.deaths.append((at_least, idle, time.monotonic() - self._began))
            died(deaths, idle)

        monkeypatch.setattr(IdleDeaths, "died", note)

    def look(self) -> None:
        """Look after the connection; have another one if it was dead."""
        self._looked = time.monotonic()
        self.pool.tend()
        if not self.pool.checkedin():
            self._began = time.monotonic()
            checked_out_id(self.engine)
            self._ended = time.monotonic()


@pytest.mark.usefixtures("threadless")
@pytest.mark.usefixtures("own_server")  # the server counts all kills
class TestOnTheWay:
    def test_a_firewalls_limit_is_learned_named_and_respected(
        self,
        served_database: Database,
        firewall: Firewall,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(idle_deaths, "APART", 0.2)
        url = served_database.url.set(port=firewall.port)
        with guarded_engine(url) as engine:
            pool = guarded_pool(engine)
            witness = Witness(engine, monkeypatch)

            def learns() -> bool:
                witness.look()
                return pool.limits.learned is not None

            wait_until(learns, seconds=20, what="the limit")
            limit = pool.limits.learned
            assert limit is not None
            deaths = witness.deaths[-idle_deaths.DEATHS :]
            assert all(least <= idle <= most for least, idle, most in deaths)
            # Each is noticed some time after it, so the shortest is the best.
            assert limit == min(idle for _, idle, _ in deaths)
            (warning,) = warnings_of(caplog)
            assert "POOLGUARD_IDLE_LIMIT" in warning
            assert "die after about" in warning
            seconds = pool.limits.recycle.seconds
            assert seconds is not None
            assert seconds == pytest.approx(limit * 5 / 6)
            assert "idle connections die after" in pool.limits.recycle.source
            # Both the ones that are there and new ones are replaced in time.
            clock = Clock().of(engine)
            clock.now = time.monotonic() + 1000
            checked_out_id(engine)
            first = checked_out_id(engine)
            clock.now += seconds + 0.01
            assert checked_out_id(engine) != first
            source = pool.limits.recycle.source
            for _ in range(3):
                pool.tend()
            assert pool.limits.recycle.source == source
            engine.dispose()
            assert guarded_pool(engine).limits.learned == limit
        assert len(warnings_of(caplog)) == 1

    def test_restarts_of_the_server_teach_nothing(
        self, served_database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(idle_deaths, "APART", 0.01)
        server = served_database.running_server
        with guarded_engine(served_database.url) as engine:
            clock = Clock().of(engine)
            pool = guarded_pool(engine)
            for _ in range(4):
                held = [engine.connect() for _ in range(3)]
                for each in held:
                    each.close()
                    clock.now += 10
                for number in server.session_ids(database=served_database.url.database):
                    server.kill_session(number)
                pool.tend()
                time.sleep(0.02)
                pool.tend()
                assert pool.checkedin() == 0
            assert pool.limits.learned is None


@pytest.mark.usefixtures("threadless")
@pytest.mark.usefixtures("own_server")  # the server counts all kills
class TestKills:
    @pytest.fixture(params=ALL_DRIVERS)
    def killed(self, request: pytest.FixtureRequest) -> Database:
        """Return a fresh database, by each driver."""
        return database_by(request.param, request)

    @pytest.fixture
    def die(self, killed: Database, clock: Clock) -> Iterator[Die]:
        """Return a pool whose only connection can be ended after 10 s of idling."""
        with (
            TCPProxy.before(killed.url) as proxy,
            guarded_engine(killed.url.set(port=proxy.port)) as engine,
        ):
            yield Die(engine, clock, killed.running_server, proxy)

    def test_teach_no_limit(self, die: Die) -> None:
        for _ in range(5):
            die.of_a_kill()
        assert die.pool.limits.learned is None

    def test_silent_cuts_still_teach(self, die: Die) -> None:
        for _ in range(3):
            die.of_a_cut()
        assert die.pool.limits.learned == 10

    def test_that_stop_leave_later_cuts_to_teach(self, die: Die) -> None:
        die.of_a_kill()
        die.of_a_kill()
        for _ in range(3):
            die.of_a_cut()
        assert die.pool.limits.learned == 10

    def test_cost_no_question_as_long_as_nothing_dies(
        self, killed: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        family = type(for_dialect(killed.url.get_backend_name()))
        monkeypatch.setattr(family, "killed_sessions", lambda *_: pytest.fail("asked"))
        with guarded_engine(killed.url) as engine:
            checked_out_id(engine)
            engine.dispose()
            checked_out_id(engine)


class Die:
    """Lets a pool's only connection die after 10 s, at moments that lie apart."""

    def __init__(
        self,
        engine: Engine,
        moments: Clock,
        server: DatabaseServer,
        proxy: TCPProxy,
    ) -> None:
        self.engine = engine
        self.pool = guarded_pool(engine)
        self._clock = Clock().of(engine)
        self._moments = moments
        self._server = server
        self._proxy = proxy
        self._records: list[GuardedRecord] = []
        event.listen(engine, "connect", self._connected)

    def _connected(self, connection: object, record: GuardedRecord) -> None:
        self._records.append(record)

    def of_a_kill(self) -> None:
        """Let the server be told to end it."""
        number = checked_out_id(self.engine)
        self._server.kill_session(number)
        # The proxy passes that on in its own time.
        fileno = self._records[-1]._fileno
        if fileno is not None:  # else the driver has no socket of its own
            select.select([fileno()], [], [], 20)
        self._notice(number)

    def of_a_cut(self) -> None:
        """Let the way to the server be cut."""
        number = checked_out_id(self.engine)
        self._proxy.cut()
        self._notice(number)

    def _notice(self, number: int) -> None:
        self._clock.now += 10
        assert checked_out_id(self.engine) != number
        self._moments.now += APART
        self.pool.tend()
