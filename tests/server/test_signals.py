"""What the signals of pools and servers tell, from which thread, and whom they harm."""

from __future__ import annotations

import dataclasses
import gc
import io
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from blinker import NamedSignal
from flask import Flask, current_app, has_app_context, request
from sqlalchemy import text

import flask_poolguard
from flask_poolguard import (
    DatabaseOutage,
    DatabaseUnavailable,
    FailedWait,
    PoolDeadlock,
    PoolGuard,
    PoolTimeout,
    TooManyWaiting,
    connection_held_long,
    connection_leaked,
    connection_recycled,
    database_away,
    database_back,
    pool_deadlock,
    pool_timeout,
    signals,
)
from flask_poolguard.log_lines import warn
from flask_poolguard.pool import housekeeper
from flask_poolguard.tracking import sending
from tests.conftest import Database
from tests.support.forking import MAY_DEADLOCK, fork_without_hooks, in_child
from tests.support.guarded_app import (
    Clock,
    checked_out_id,
    engine_of,
    guarded_pool,
    make_app,
    warnings_of,
)
from tests.support.people import SECONDS, Stop, people
from tests.support.proxy import TCPProxy
from tests.support.tracked import Tracked
from tests.support.waiting import wait_until

PAGE = (Path(__file__).parents[2] / "docs" / "signals.md").read_text()
SIGNALS = {
    name: value
    for name, value in vars(signals).items()
    if isinstance(value, NamedSignal)
}


class Heard:
    """What was sent, and where."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.senders: list[object] = []
        self.threads: list[str] = []
        self.contexts: list[bool] = []
        self._receivers: list[Any] = []

    def to(self, name: str) -> Callable[..., None]:
        """Return a receiver that notes what one signal tells."""

        def receive(sender: object, **facts: Any) -> None:
            (value,) = facts.values()
            self.senders.append(sender)
            self.threads.append(threading.current_thread().name)
            self.contexts.append(has_app_context())
            self.events.append((name, value))

        return receive

    @property
    def names(self) -> list[str]:
        """Return the names of what was sent, in order."""
        return [name for name, _ in self.events]

    def wait_for(self, count: int) -> list[Any]:
        """Return what was told, once it is so many."""
        wait_until(lambda: len(self.events) >= count, what=f"{count} signals")
        return [value for _, value in self.events]


@contextmanager
def hearing(*signals: Any, app: Flask | None = None) -> Iterator[Heard]:
    """Note what is sent within a block, of all apps if none is given."""
    heard = Heard()
    with ExitStack() as stack:
        for each in signals:
            receiver = heard.to(sending.name_of(each))
            if app is None:
                stack.enter_context(each.connected_to(receiver))
            else:
                stack.enter_context(each.connected_to(receiver, app))
        yield heard


@pytest.fixture
def tracked(served_database: Database) -> Iterator[Tracked]:
    """Guard a pool of one connection, of which none is kept in the end."""
    tracked = Tracked(
        served_database.url, pool_size=1, max_overflow=0, pool_timeout=0.05
    )

    @tracked.app.get("/desk")
    def desk() -> str:
        with tracked.engine.connect() as connection:
            return str(connection.scalar(text("SELECT 42")))

    yield tracked
    assert tracked.engine.pool.checkedout() == 0  # type: ignore[attr-defined] # a QueuePool's
    assert tracked.tracker.figures.waiting == 0
    tracked.engine.dispose()


def time_out(tracked: Tracked, error: type[BaseException] = PoolTimeout) -> None:
    """Let another thread ask in vain for the only connection."""
    with (
        tracked.engine.connect(),
        people(tracked.engine, 1) as (client,),
        pytest.raises(error),
    ):
        client.take()


class TestNames:
    def test_all_are_public(self) -> None:
        assert sorted(SIGNALS) == [
            "connection_held_long",
            "connection_leaked",
            "connection_recycled",
            "database_away",
            "database_back",
            "pool_deadlock",
            "pool_timeout",
        ]
        for name, signal in SIGNALS.items():
            assert sending.name_of(signal) == name
            assert getattr(flask_poolguard, name) is signal

    def test_the_page_has_each_with_its_dataclass_and_no_other(self) -> None:
        rows = re.findall(
            r"^\| `(\w+)` \|.*\| `\w+`: \{class\}`~flask_poolguard\.(\w+)` \|",
            PAGE.partition("## Log events")[0],
            re.M,
        )
        assert sorted(name for name, _ in rows) == sorted(SIGNALS)
        for _, kind in rows:
            assert dataclasses.is_dataclass(getattr(flask_poolguard, kind))

    def test_the_blocks_of_the_page_run(self) -> None:
        blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
        signals_block, log_block = blocks[:2]
        increments: list[dict[str, Any]] = []
        pages: list[str] = []
        app = Flask("desk")
        names: dict[str, Any] = {
            "app": app,
            "statsd": SimpleNamespace(
                increment=lambda *_, **tags: increments.append(tags)
            ),
            "pager": SimpleNamespace(send=pages.append),
        }
        exec(signals_block, names)  # noqa: S102 (ours)
        sending.send_now(pool_timeout, app, wait=SimpleNamespace(endpoint="desk"))
        outage = DatabaseOutage("default", "Error", datetime.now(), 4.25)
        sending.send_now(database_back, app, outage=outage)
        assert increments == [{"tags": ["endpoint:desk"]}]
        assert pages == ["default: Error, for 4.2 s"]
        pool_timeout.disconnect(names["count_timeouts"])
        for signal in (database_away, database_back):
            signal.disconnect(names["page_the_team"])
        output, logger = io.StringIO(), logging.getLogger("flask_poolguard")
        exec(log_block, names)  # noqa: S102 (ours)
        names["handler"].setStream(output)
        try:
            warn("finding", "One thing", bind="default")
        finally:
            logger.removeHandler(names["handler"])
        found = json.loads(output.getvalue())
        assert (found["event"], found["bind"], found["count"]) == (
            "finding",
            "default",
            1,
        )


class TestTimeout:
    def test_tells_who_asked_where_and_for_how_long(self, tracked: Tracked) -> None:
        paths: list[str] = []

        def note(sender: Flask, wait: FailedWait) -> None:
            paths.append(request.path)
            assert current_app == sender

        with (
            tracked.engine.connect(),
            people(tracked.engine, 1) as (client,),
            hearing(pool_timeout, app=tracked.app) as heard,
            pool_timeout.connected_to(note, tracked.app),
        ):
            answer = client.do(lambda: tracked.app.test_client().get("/desk"))
        assert answer.status_code == 503
        ((name, wait),) = heard.events
        assert (name, heard.senders, paths) == (
            "pool_timeout",
            [tracked.app],
            ["/desk"],
        )
        assert heard.threads == ["person"]
        assert (wait.bind, wait.endpoint, wait.error) == (
            "default",
            "desk",
            "PoolTimeout",
        )
        assert "test_signals.py:" in wait.site
        assert wait.waited_seconds >= 0.05
        assert "are held by" in wait.text
        assert str(tracked.engine.url.password) not in repr(wait)

    def test_is_sent_when_the_checkout_holds_nothing_any_more(
        self, tracked: Tracked
    ) -> None:
        """It may use the pool; what it causes itself is not sent again."""
        seen: list[tuple[int, int]] = []
        pool, figures = guarded_pool(tracked.engine), tracked.tracker.figures

        def use(sender: Flask, wait: FailedWait) -> None:
            seen.append((pool.waiting, figures.waiting))
            with pytest.raises(PoolTimeout):
                tracked.engine.connect()

        with pool_timeout.connected_to(use, tracked.app):
            time_out(tracked)
        assert seen == [(0, 0)]
        assert figures.counts["timeouts"] == 2

    def test_is_sent_for_one_too_many_as_well(self, served_database: Database) -> None:
        app = Flask("desk")
        app.config.update(POOLGUARD_MAX_WAITING=0)
        engine = sa.create_engine(served_database.url, pool_size=1, max_overflow=0)
        PoolGuard(app).register(engine, app=app)
        with (
            app.app_context(),
            hearing(pool_timeout) as heard,
            engine.connect(),
            people(engine, 1) as (client,),
            pytest.raises(TooManyWaiting),
        ):
            client.take()
        assert [each.error for _, each in heard.events] == ["TooManyWaiting"]
        engine.dispose()

    def test_a_storm_of_them_is_sent_once_each(self, tracked: Tracked) -> None:
        with (
            hearing(pool_timeout) as heard,
            tracked.engine.connect(),
            people(tracked.engine, 16) as crowd,
        ):
            for asked in [each.start(each.engine.connect) for each in crowd]:
                assert isinstance(asked.exception(SECONDS), PoolTimeout)
        assert len(heard.events) == 16

    def test_costs_nothing_without_a_receiver(
        self, tracked: Tracked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise AssertionError("it was not asked")

        for name in ("counting_callbacks.say_failed", "pool_tracker.say_recycled"):
            monkeypatch.setattr(f"flask_poolguard.tracking.{name}", refuse)
        time_out(tracked)


class TestDeadlock:
    def test_tells_who_gives_way(self, served_database: Database) -> None:
        tracked = Tracked(
            served_database.url, pool_size=2, max_overflow=0, pool_timeout=60
        )
        with (
            hearing(pool_deadlock, pool_timeout) as heard,
            people(tracked.engine, 2) as (older, younger),
        ):
            older.begin(tracked.app).take()
            younger.begin(tracked.app).take()
            first = older.ask()
            second = younger.ask()
            assert isinstance(second.exception(SECONDS), PoolDeadlock)
            younger.give_back()
            first.result(SECONDS)
        ((name, wait),) = heard.events
        assert (name, wait.error, heard.threads) == (
            "pool_deadlock",
            "PoolDeadlock",
            ["person"],
        )
        assert "gives way" in wait.text
        assert heard.contexts == [True]
        tracked.engine.dispose()


class TestReceiver:
    @pytest.mark.parametrize(
        "signal", [pool_timeout, connection_leaked], ids=sending.name_of
    )
    def test_that_raises_harms_neither_request_nor_other_receivers(
        self, tracked: Tracked, signal: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: object, **facts: object) -> None:
            raise RuntimeError("in a receiver")

        def fail_too(*_: object, **facts: object) -> None:
            raise RuntimeError("in a receiver")

        kept: list[object] = []

        def leak() -> None:
            with tracked.app.app_context():
                kept.append(tracked.engine.connect())

        cause = leak if signal is connection_leaked else lambda: time_out(tracked)
        with (
            signal.connected_to(fail),
            signal.connected_to(fail_too),
            hearing(signal) as heard,
        ):
            cause()
        assert len(heard.events) == 1
        name = sending.name_of(signal)
        failed = [each for each in warnings_of(caplog) if "receiver failed" in each]
        assert failed == [f"A {name} receiver failed"]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    def test_an_interrupt_within_one_reaches_the_thread_and_leaves_no_trace(
        self, tracked: Tracked, error: type[BaseException]
    ) -> None:
        def interrupt(*_: object, **facts: object) -> None:
            raise error

        with pool_timeout.connected_to(interrupt):
            time_out(tracked, error)
            time_out(tracked, error)  # it is sent as ever

    def test_one_that_is_async_is_run(self, tracked: Tracked) -> None:
        pytest.importorskip("asgiref", reason="Flask's extra `async`")
        seen: list[object] = []

        async def note(sender: object, **facts: object) -> None:
            seen.append(sender)

        with pool_timeout.connected_to(note):
            time_out(tracked)
        assert seen == [tracked.app]

    def test_hears_nothing_while_the_signal_is_muted(self, tracked: Tracked) -> None:
        with hearing(pool_timeout) as heard, pool_timeout.muted():
            time_out(tracked)
        assert heard.events == []

    def test_is_referred_to_weakly(self, tracked: Tracked) -> None:
        heard = Heard()
        pool_timeout.connect(heard.to("pool_timeout"))
        time_out(tracked)
        assert heard.events == []


class TestSender:
    def test_is_the_app_whose_request_it_is(self, served_database: Database) -> None:
        """An engine that two apps share shows in the status of the newest."""
        engine = sa.create_engine(
            served_database.url, pool_size=1, max_overflow=0, pool_timeout=0
        )
        first, second = Flask("first"), Flask("second")
        kept = []
        for app in (first, second):
            PoolGuard(app).register(engine, app=app)
            with app.app_context():
                pass
        with hearing(pool_timeout, connection_leaked) as heard:
            with engine.connect(), people(engine, 2) as (one, other):
                for client, app in ((one, first), (other, second)):
                    with pytest.raises(PoolTimeout):
                        client.begin(app).take()
            for app in (first, second):
                with app.app_context():
                    kept.append(engine.connect())  # not given back
        assert heard.senders == [first, second, first, second]
        assert all(type(each) is Flask for each in heard.senders)
        engine.dispose()

    def test_that_is_gone_is_sent_nothing_for(self) -> None:
        app, kept, stop = Flask("gone"), Flask("kept"), Stop()

        def hang(*_: object, **facts: object) -> None:
            stop()

        with hearing(connection_recycled) as heard, database_back.connected_to(hang):
            sending.send_later(database_back, kept, outage=None)
            stop.until_reached()
            sending.send_later(connection_recycled, app, recycled=1)
            del app
            gc.collect()
            sending.send_later(connection_recycled, kept, recycled=2)
            stop.open()
            heard.wait_for(1)
        assert [value for _, value in heard.events] == [2]


class TestLeakOfAThreadThatHasEnded:
    def test_is_not_told_in_the_thread_that_finds_it(self, tracked: Tracked) -> None:
        """It may be about to wait for a connection, or have closed one."""

        def take() -> None:
            tracked.app.app_context().push()
            kept.append(tracked.engine.connect())

        kept: list[object] = []
        with hearing(connection_leaked, app=tracked.app) as heard:
            thread = threading.Thread(target=take)
            thread.start()
            thread.join()
            with tracked.engine.connect():  # of a pool of one: it waits, and looks
                pass
            (leak,) = heard.wait_for(1)
        assert heard.threads == ["poolguard-signals"]
        assert "was never popped" in leak.remedy


class TestHeldLong:
    def test_is_sent_once_while_it_is_out(self, served_database: Database) -> None:
        app = make_app(served_database.url, POOLGUARD_HELD_WARNING=0.01)
        engine = engine_of(app)
        with (
            hearing(connection_held_long, app=app) as heard,
            people(engine, 1) as (client,),
        ):
            client.begin(app).take()
            (held,) = heard.wait_for(1)
            for each in app.extensions["poolguard"].app_tracker.trackers:
                each.tend()
        assert len(heard.events) == 1
        assert heard.threads == ["poolguard-signals"]
        assert heard.contexts == [False]
        assert (held.bind, held.limit_seconds) == ("default", 0.01)
        assert held.held_seconds >= 0.01
        assert "people.py:" in held.site
        assert "people.py:" in str(held.now_at)
        engine.dispose()

    def test_a_receiver_that_hangs_holds_up_neither_housekeeper_nor_requests(
        self, served_database: Database
    ) -> None:
        app = make_app(served_database.url, POOLGUARD_HELD_WARNING=0.01)
        engine = engine_of(app)
        stop = Stop()

        def hang(*_: object, **facts: object) -> None:
            stop()

        with connection_held_long.connected_to(hang):
            with engine.connect():
                stop.until_reached()
                rounds = housekeeper.overdue_at
                wait_until(lambda: housekeeper.overdue_at > rounds, what="a round")
                assert checked_out_id(engine)
            stop.open()
        engine.dispose()


class TestRecycled:
    def test_one_whose_time_is_up(self, served_database: Database) -> None:
        app = make_app(served_database.url, POOLGUARD_MAX_AGE=60)
        engine = engine_of(app)
        clock = Clock().of(engine)
        with hearing(connection_recycled, app=app) as heard:
            with app.app_context():
                first = checked_out_id(engine)
                clock.now += 61
                second = checked_out_id(engine)
            (recycled,) = heard.wait_for(1)
        assert first != second
        assert (recycled.bind, recycled.reason) == ("default", "time")
        assert recycled.age_seconds >= 0
        assert heard.threads == ["poolguard-signals"]
        engine.dispose()

    def test_those_that_are_to_be_replaced(self, served_database: Database) -> None:
        app = make_app(served_database.url)
        engine = engine_of(app)
        with hearing(connection_recycled, app=app) as heard:
            with engine.connect(), engine.connect() as idle:
                idle.close()
                for each in app.extensions["poolguard"].engines:
                    each.tracker.renew(1)
            told = heard.wait_for(2)
            with engine.connect() as connection:
                connection.invalidate()  # the app's own affair
        assert [each.reason for each in told] == ["asked", "asked"]
        assert len(heard.events) == 2
        engine.dispose()

    def test_a_receiver_may_use_a_pool_of_one(self, served_database: Database) -> None:
        """The thread that recycles has the only slot, and waits for no receiver."""
        app = make_app(
            served_database.url,
            POOLGUARD_MAX_AGE=60,
            POOLGUARD_POOL_SIZE=1,
            POOLGUARD_MAX_OVERFLOW=0,
        )
        engine = engine_of(app)
        clock = Clock().of(engine)
        numbers: list[int] = []

        def use(sender: Flask, **facts: object) -> None:
            with sender.app_context():
                numbers.append(checked_out_id(engine))

        with connection_recycled.connected_to(use):
            checked_out_id(engine)
            clock.now += 61
            with engine.connect():
                pass
            wait_until(lambda: numbers, what="the receiver")
        engine.dispose()


def two_outages(
    engine: sa.Engine, stop: Callable[[], Any], start: Callable[[], Any]
) -> None:
    """Let many threads meet two outages of a server."""
    with people(engine, 8) as crowd:
        for _ in range(2):
            stop()
            engine.dispose()
            for asked in [each.start(engine.connect) for each in crowd]:
                assert isinstance(asked.exception(SECONDS), DatabaseUnavailable)
            start()
            for each in crowd:
                each.take().give_back()


@pytest.mark.every_product
class TestAwayAndBack:
    def test_come_in_pairs_once_per_outage(
        self, own_server: None, served_database: Database
    ) -> None:
        server = served_database.running_server
        app = make_app(served_database.url, POOLGUARD_CONNECT_RETRY=0.2)
        engine = engine_of(app)
        checked_out_id(engine)
        began = time.monotonic()
        with hearing(database_away, database_back, app=app) as heard:
            two_outages(engine, server.stop, server.start)
            told = heard.wait_for(4)
        in_all = time.monotonic() - began
        assert heard.names == ["database_away", "database_back"] * 2
        for away, back in (told[:2], told[2:]):
            assert (away.bind, away.error, away.since) == (
                back.bind,
                back.error,
                back.since,
            )
            assert "Error" in away.error
            assert 0 <= away.away_seconds <= back.away_seconds <= in_all
            assert str(engine.url.password) not in repr(away)
        assert set(heard.threads) == {"poolguard-signals"}
        engine.dispose()

    def test_are_told_of_pools_of_other_classes_too(
        self, served_database: Database
    ) -> None:
        with TCPProxy.before(served_database.url) as proxy:
            url = served_database.url.set(port=proxy.port)
            app = Flask("plain")
            engine = sa.create_engine(url, poolclass=sa.NullPool)
            PoolGuard(app).register(engine, app=app)
            with app.app_context():
                checked_out_id(engine)
        # Nothing listens there any more.
        with hearing(database_away, database_back, app=app) as heard:
            for _ in range(2):
                with pytest.raises(sa.exc.OperationalError):
                    engine.connect()
            (away,) = heard.wait_for(1)
        assert (heard.names, away.bind) == (["database_away"], "default")

    def test_tell_no_password_that_a_driver_repeats(self, tracked: Tracked) -> None:
        password = str(tracked.engine.url.password)
        with hearing(database_away, app=tracked.app) as heard:
            tracked.tracker.server_is_away(f"no {password}!", time.monotonic())
            (away,) = heard.wait_for(1)
        assert away.error == "no ***!"

    def test_outlive_the_pool_of_an_engine_that_is_disposed_of(
        self, own_server: None, served_database: Database
    ) -> None:
        server = served_database.running_server
        app = make_app(served_database.url, POOLGUARD_CONNECT_RETRY=0)
        engine = engine_of(app)
        with hearing(database_away, database_back, app=app) as heard:
            server.stop()
            for _ in range(2):
                with pytest.raises(sa.exc.OperationalError):
                    engine.connect()
                engine.dispose()
            server.start()
            checked_out_id(engine)
            heard.wait_for(2)
        assert heard.names == ["database_away", "database_back"]
        engine.dispose()

    def test_a_receiver_may_use_the_pool(
        self, own_server: None, served_database: Database
    ) -> None:
        server = served_database.running_server
        app = make_app(
            served_database.url,
            POOLGUARD_CONNECT_RETRY=0,
            POOLGUARD_POOL_SIZE=1,
            POOLGUARD_MAX_OVERFLOW=0,
        )
        engine = engine_of(app)
        found: list[object] = []

        def use(sender: Flask, **facts: object) -> None:
            with sender.app_context():
                try:
                    found.append(checked_out_id(engine) > 0)
                except sa.exc.OperationalError as error:
                    found.append(type(error))

        with database_away.connected_to(use), database_back.connected_to(use):
            server.stop()
            with pytest.raises(DatabaseUnavailable):
                engine.connect()
            wait_until(lambda: len(found) == 1, what="the first receiver")
            server.start()
            with engine.connect():
                pass
            wait_until(lambda: len(found) == 2, what="the second receiver")
        assert found == [DatabaseUnavailable, True]
        engine.dispose()

    def test_an_attempt_that_was_under_way_says_nothing_new(self) -> None:
        from flask_poolguard.tracking.server_outage import ServerOutage

        app, outage = Flask("desk"), ServerOutage()
        with hearing(database_away, database_back) as heard:
            begun = time.monotonic()
            outage.met("default", app, "away", begun)
            outage.is_over(app)
            outage.met("default", app, "away", begun)  # a slower thread
            assert not outage.is_on
            outage.met("default", app, "away", time.monotonic())
            heard.wait_for(3)
        assert heard.names == ["database_away", "database_back", "database_away"]

    def test_one_that_begins_unheard_ends_unheard(self) -> None:
        from flask_poolguard.tracking.server_outage import ServerOutage

        app, outage = Flask("desk"), ServerOutage()
        outage.met("default", app, "away", time.monotonic())
        with hearing(database_away, database_back) as heard:
            outage.is_over(app)
            outage.met("default", app, "away", time.monotonic())
            heard.wait_for(1)
        assert heard.names == ["database_away"]


@pytest.mark.filterwarnings(MAY_DEADLOCK)
@pytest.mark.parametrize("fork", [None, fork_without_hooks], ids=["os", "c"])
def test_a_child_sends_its_own_from_a_thread_of_its_own(
    served_database: Database, fork: Any
) -> None:
    app = make_app(served_database.url, POOLGUARD_MAX_AGE=60)
    engine = engine_of(app)
    clock = Clock().of(engine)

    def recycle() -> None:
        checked_out_id(engine)
        clock.now += 61
        checked_out_id(engine)

    def child() -> tuple[int, bool]:
        heard.events.clear()
        recycle()
        (recycled,) = heard.wait_for(1)
        return recycled.age_seconds >= 0, recycled.pid == os.getpid()

    with hearing(connection_recycled) as heard:
        recycle()
        heard.wait_for(1)
        options = {} if fork is None else {"fork": fork}
        assert in_child(child, **options) == (True, True)
    engine.dispose()


def test_a_receiver_that_hangs_lets_no_more_wait_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sending, "MOST_WAITING", 3)
    app, stop = Flask("desk"), Stop()

    def hang(*_: object, **facts: object) -> None:
        stop()

    with database_away.connected_to(hang), hearing(database_back) as heard:
        sending.send_later(database_away, app, outage=None)
        stop.until_reached()
        for number in range(6):
            sending.send_later(database_back, app, outage=number)
        stop.open()
        assert heard.wait_for(3) == [0, 1, 2]
    assert len([each for each in warnings_of(caplog) if "is not sent" in each]) == 1


def test_a_receiver_s_system_exit_does_not_end_the_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Flask("desk")

    def leave(*_: object, **facts: object) -> None:
        raise SystemExit

    with database_away.connected_to(leave), hearing(database_back) as heard:
        sending.send_later(database_away, app, outage=None)
        sending.send_later(database_back, app, outage=None)
        heard.wait_for(1)
    assert warnings_of(caplog) == ["A database_away receiver failed"]
