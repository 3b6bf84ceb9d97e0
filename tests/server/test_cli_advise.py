"""`flask pool advise`: sizes by what the workers were asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import URL, NullPool, QueuePool, create_engine

from flask_poolguard import PoolDeadlock
from flask_poolguard.cli.advise_view import render, verdict_on
from flask_poolguard.report import Report
from flask_poolguard.report.advice import make_advice
from flask_poolguard.report.advice_model import Advice, AdviceOptions, BindAdvice
from flask_poolguard.report.config_lines import lines_to_write
from flask_poolguard.report.text import Page
from tests.conftest import Database
from tests.support import not_tested
from tests.support.desk import APP, DeskServer, environment
from tests.support.guarded_app import engine_of, make_app
from tests.support.monitoring import run
from tests.support.pgbouncer import PgBouncer
from tests.support.reporting import MakeShop, Shop, sessions
from tests.support.servers import DatabaseServer, MissingServerError
from tests.support.waiting import wait_until

# The server's list has the sessions of all its clients.
pytestmark = pytest.mark.usefixtures("own_server")

Json = dict[str, Any]


def run_advise(env: Mapping[str, str], *arguments: str, status: int | None = 0) -> str:
    """Return what `flask pool advise` prints.

    :param status: with which it must end; None for any.
    """
    command = [sys.executable, "-m", "flask", "--app", APP, "pool", "advise"]
    done = run([*command, *arguments], {**os.environ, **env})
    assert done.stderr == ""
    assert status in (None, done.returncode), done.stdout
    return done.stdout


def advise(env: Mapping[str, str], *arguments: str) -> Json:
    """Return the advice on the one bind, once the worker has shown all it has."""
    found: Json = json.loads(run_advise(env, "--json", *arguments))
    return found


def seen_by(env: Mapping[str, str]) -> Json:
    """Return what the workers have written down, which they do once a second."""
    advice: Json = json.loads(run_advise(env, "--json", status=None))
    return dict(advice["binds"][0]["seen"])


def fresh_report(shop: Shop) -> Report:
    """Return a report with all that this process has counted."""
    for tracker in shop.app.extensions["poolguard"].app_tracker.trackers:
        tracker.tend()
    return shop.report()


def advice_of(shop: Shop, wish: AdviceOptions, **server: Any) -> Advice:
    """Return the advice to an app in this process.

    :param server: what its servers say instead.
    """
    report = fresh_report(shop)
    servers = tuple(dataclasses.replace(each, **server) for each in report.servers)
    report = dataclasses.replace(report, servers=servers)
    engines = shop.app.extensions["poolguard"].engines
    return make_advice(report, engines, shop.app.config, wish)


def bind_in(advice: Advice, bind: str = "default") -> BindAdvice:
    """Return the advice on one bind."""
    (found,) = [each for each in advice.binds if each.bind == bind]
    return found


def take(shop: Shop, connections: int, times: int = 1, bind: str = "default") -> None:
    """Let so many requests have a connection each at a time."""
    with shop.app.app_context():
        pass  # the guard looks for engines
    for _ in range(times):
        with ExitStack() as stack:
            for _ in range(connections):
                stack.enter_context(shop.engines[bind].connect())


@pytest.mark.process
class TestBesideGunicorn:
    def test_advises_what_the_traffic_needed(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        """Two connections are out all the time, and each query takes one more."""
        env = environment(served_database.url)
        with DeskServer(tmp_path, env, threads=4) as server:
            server.hold(1)
            server.hold(1)
            for _ in range(60):
                server.get("/query")
            wait_until(
                lambda: seen_by(env)["checkouts"] == 62,
                seconds=30,
                what="all checkouts",
            )
            found = advise(env, "--at-least=62")
            generous = advise(env, "--at-least=62", "--share=3")
            text = run_advise(env, "--at-least=62")
            few = json.loads(run_advise(env, "--json"))
        (bind,) = found["binds"]
        assert bind["seen"]["demand"] == {"1": 1, "2": 1, "3": 60}
        assert (bind["pool_size"], bind["beyond"]) == (3, 0)
        # Those that gunicorn may start, and one more that imported the app.
        assert bind["pool_size"] + bind["max_overflow"] == bind["most"]
        assert bind["most"] == bind["seen"]["threads"]
        assert 4 <= bind["most"] <= 5
        assert found["lines"][0] == "POOLGUARD_POOL_SIZE = 3"
        assert generous["binds"][0]["pool_size"] == 3
        assert few["lines"] == []  # so few make nothing smaller
        assert "pool_size 5 → 3: 0 of 62 checkouts" in text
        assert "Write\n  POOLGUARD_POOL_SIZE = 3\n" in text
        assert max(map(len, text.splitlines())) <= 80
        assert next(iter(few)) == "verdict"
        assert "from 62 checkouts in" in few["verdict"]["text"]
        # As many as the server's threads, or one more that imported the app.
        assert few["binds"][0]["low"] == 3
        assert few["binds"][0]["high"] in (4, 5)
        assert few["binds"][0]["seen"]["threads"] == few["binds"][0]["high"]

    def test_a_saturated_pool_counts_those_who_waited(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        env = environment(
            served_database.url,
            FLASK_POOLGUARD_POOL_SIZE="1",
            FLASK_POOLGUARD_MAX_OVERFLOW="0",
            FLASK_POOLGUARD_POOL_TIMEOUT="0.1",
        )
        with DeskServer(tmp_path, env, threads=4) as server:
            server.hold(1)
            for _ in range(5):
                assert "false" in server.get("/wait")[1]
            wait_until(lambda: seen_by(env)["waits"] == 5, seconds=30, what="all waits")
            found = advise(env, "--at-least=6")
            text = run_advise(env, "--at-least=6")
        (bind,) = found["binds"]
        assert (bind["seen"]["checkouts"], bind["seen"]["timeouts"]) == (6, 5)
        assert bind["pool_size"] == 2
        assert "5 checkouts waited" in text
        assert "an upper bound" in " ".join(text.split())

    @pytest.mark.quick
    def test_adds_up_the_workers_and_names_the_busiest(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, workers=2, threads=4) as server:
            server.wake()
            held = server.hold(3)
            wait_until(
                lambda: seen_by(env)["checkouts"] >= 5, seconds=30, what="all checkouts"
            )
            (bind,) = advise(env, "--at-least=5")["binds"]
        assert bind["seen"]["workers"] == 2
        assert bind["seen"]["checkouts"] == sum(bind["seen"]["demand"].values())
        busiest = max(set(held), key=held.count)
        assert bind["busiest_worker"] == busiest
        assert bind["busiest_size"] == held.count(busiest)


class TestOneServer:
    def test_is_shared_by_its_binds(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        shop = make_shop(
            default=create_engine(mariadb_url), reports=create_engine(mariadb_url)
        )
        take(shop, 4, times=10)
        take(shop, 2, times=10, bind="reports")
        # 20 - 2 head room, for one worker.
        advice = advice_of(
            shop, AdviceOptions(at_least=20), max_connections=20, connections=6, ours=6
        )
        first, second = bind_in(advice), bind_in(advice, "reports")
        assert first.room == second.room == 18
        assert (first.pool_size, second.pool_size) == (4, 2)
        total = sum(
            (each.pool_size or 0) + (each.max_overflow or 0) for each in (first, second)
        )
        assert total <= 18
        (line,) = advice.lines
        assert line.startswith("POOLGUARD_BINDS = {'default': {'pool_size': 4")

    def test_with_too_little_room_gives_less_and_says_so(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(mariadb_url))
        take(shop, 4, times=10)
        wish = AdviceOptions(at_least=20, workers=5, hosts=2)
        with sessions(mariadb_url, 4):
            advice = advice_of(shop, wish, max_connections=40, connections=12, ours=4)
        found = bind_in(advice)
        # 40 - 4 head room - 4 of others (4 on each host, and 4 more): 3 for each.
        assert (advice.workers, found.room) == (10, 3)
        assert (found.pool_size, found.max_overflow) == (3, 0)
        assert found.is_short
        verdict = verdict_on(advice)
        assert verdict.level == "critical"
        assert verdict.text == (
            "the server has too little room for default, which needs 4 per worker and"
            " gets 3"
        )
        text = " ".join(render(advice, Page(80, False)).split())
        assert "too little room" in text
        assert "NOT ENOUGH" in text
        assert "10 of 40 checkouts (25 %" in text

    def test_leaves_room_for_pools_that_keep_their_size(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        class OwnPool(QueuePool):
            pass

        shop = make_shop(
            default=create_engine(mariadb_url),
            reports=create_engine(mariadb_url, poolclass=OwnPool),
        )
        take(shop, 2, times=10)
        take(shop, 1, bind="reports")
        found = bind_in(
            advice_of(
                shop,
                AdviceOptions(at_least=20),
                max_connections=40,
                connections=4,
                ours=3,
            )
        )
        # 40 - 4 head room - 1 of others - 15 of the other bind.
        assert (found.kept, found.room) == (15, 20)

    @pytest.mark.parametrize("unknown", ["max_connections", "connections", "ours"])
    def test_that_does_not_say_gets_no_overflow(
        self, make_shop: MakeShop, mariadb_url: URL, unknown: str
    ) -> None:
        shop = make_shop(default=create_engine(mariadb_url))
        take(shop, 2, times=10)
        advice = advice_of(shop, AdviceOptions(at_least=20), **{unknown: None})
        assert bind_in(advice).max_overflow is None
        assert bind_in(advice).pool_size == 2
        assert not any("OVERFLOW" in line for line in advice.lines)
        assert "not known how many" in render(advice, Page(80, False))

    def test_that_is_a_file_has_no_limit(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        take(shop, 2, times=10)
        found = bind_in(advice_of(shop, AdviceOptions(at_least=20)))
        assert not found.has_limit
        assert (found.pool_size or 0) + (found.max_overflow or 0) == found.most


class TestOneUser:
    """What its user or its database may have counts where that is less."""

    def test_that_may_have_few_connections(
        self, make_shop: MakeShop, postgresql: DatabaseServer, postgresql_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url))
        take(shop, 4, times=10)
        postgresql.execute("ALTER ROLE app CONNECTION LIMIT 20")
        try:
            with sessions(postgresql_url, 5):
                wide = bind_in(advice_of(shop, AdviceOptions(at_least=20)))
                narrow = bind_in(advice_of(shop, AdviceOptions(at_least=20, workers=5)))
        finally:
            postgresql.execute("ALTER ROLE app CONNECTION LIMIT -1")
        # 20 - 2 head room - 5 of others.
        assert (wide.room, wide.room_of) == (13, "user app")
        assert 'ALTER ROLE "app" CONNECTION LIMIT' in (wide.room_remedy or "")
        assert (wide.pool_size, wide.is_short) == (4, False)
        assert (narrow.room, narrow.pool_size, narrow.max_overflow) == (2, 2, 0)
        assert narrow.is_short

    def test_that_has_an_account_on_mariadb(
        self, make_shop: MakeShop, mariadb: DatabaseServer, mariadb_url: URL
    ) -> None:
        wait_until(lambda: not mariadb.session_ids(), what="others' end")
        mariadb.execute("GRANT USAGE ON *.* TO app WITH MAX_USER_CONNECTIONS 12")
        try:
            shop = make_shop(default=create_engine(mariadb_url))
            take(shop, 3, times=10)
            found = bind_in(advice_of(shop, AdviceOptions(at_least=20)))
        finally:
            mariadb.execute("GRANT USAGE ON *.* TO app WITH MAX_USER_CONNECTIONS 0")
        # 12 - 2 head room.
        assert (found.room, found.room_of) == (10, "user app")

    def test_whose_database_may_have_few(
        self, make_shop: MakeShop, postgresql: DatabaseServer, postgresql_url: URL
    ) -> None:
        """The other bind's database has no limit."""
        name = postgresql_url.database
        other = postgresql_url.set(database=postgresql.create_database())
        postgresql.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 6")
        shop = make_shop(
            default=create_engine(postgresql_url), other=create_engine(other)
        )
        take(shop, 3, times=10)
        take(shop, 3, times=10, bind="other")
        advice = advice_of(shop, AdviceOptions(at_least=20, workers=2))
        for engine in shop.engines.values():
            engine.dispose()
        postgresql.drop_database(str(other.database))
        found, free = bind_in(advice), bind_in(advice, "other")
        # 6 - 1 head room, for two workers.
        assert (found.room, found.room_of) == (2, f"database {name}")
        assert (found.pool_size, found.max_overflow, found.is_short) == (2, 0, True)
        assert (free.room_of, free.pool_size, free.is_short) == ("the server", 3, False)
        assert (free.room or 0) > 2

    def test_with_others_that_are_not_ours_on_other_hosts(
        self, make_shop: MakeShop, postgresql: DatabaseServer, postgresql_url: URL
    ) -> None:
        postgresql.execute("CREATE ROLE teller LOGIN PASSWORD 'x'")
        teller = postgresql_url.set(username="teller", password="x")
        shop = make_shop(default=create_engine(postgresql_url))
        take(shop, 5, times=10)
        wish = AdviceOptions(at_least=20, hosts=3)
        try:
            with sessions(teller, 10):
                others = bind_in(advice_of(shop, wish, max_connections=60))
            wait_until(
                lambda: not postgresql.session_ids(user="teller"),
                what="the teller's end",
            )
            with sessions(postgresql_url, 10):
                ours = bind_in(advice_of(shop, wish, max_connections=60))
        finally:
            postgresql.execute("DROP ROLE teller")
        # 60 - 3 reserved - 6 head room - 10 of the teller's, over 3; then without.
        assert others.room == 13
        assert ours.room == 17


@pytest.mark.process
class TestPooler:
    def test_before_the_server_leaves_no_room_to_be_known(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        try:
            pooler = PgBouncer(postgresql_url)
        except MissingServerError as error:
            not_tested.stop_test(str(error))
        with pooler:
            shop = make_shop(default=create_engine(pooler.url))
            take(shop, 2, times=10)
            # Without a connection it would be known that none of them is the workers'.
            shop.engines["default"].dispose()
            advice = advice_of(shop, AdviceOptions(at_least=20))
        found = bind_in(advice)
        assert (found.pool_size, found.max_overflow, found.room) == (2, None, None)
        assert "a pooler stands before the server" in (found.room_unknown or "")
        assert not any("OVERFLOW" in line for line in advice.lines)
        assert "it is not known" in render(advice, Page(80, False))


class TestNesting:
    def test_keeps_threads_from_waiting_for_each_other(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        barrier = threading.Barrier(3, timeout=30)

        def request() -> None:
            with shop.app.app_context(), shop.engines["default"].connect() as outer:
                outer.exec_driver_sql("SELECT 1")
                for _ in range(10):
                    with shop.engines["default"].connect():
                        pass
            barrier.wait()

        threads = [threading.Thread(target=request) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: barrier.n_waiting == 2, what="both threads to have had two")
        try:
            advice = advice_of(shop, AdviceOptions(at_least=20))
        finally:
            barrier.wait()
        for thread in threads:
            thread.join(30)
        found = bind_in(advice)
        assert found.seen.nesting == 2
        assert found.seen.threads >= 2
        assert found.fewest == found.seen.threads + 1
        assert found.pool_size == max(found.fewest, 4 if 4 in found.seen.demand else 0)
        text = " ".join(render(advice, Page(80, False)).split())
        assert "One request takes 2 connections at once" in text

    def test_needs_as_many_as_doctor_says_and_says_why_it_advises_more(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        config = {"POOLGUARD_POOL_SIZE": 5, "POOLGUARD_MAX_OVERFLOW": 0}
        shop = make_shop(config, default=create_engine(sqlite_url))
        with shop.app.app_context():
            engine = shop.engines["default"]
        together = threading.Barrier(6, timeout=30)

        def request() -> None:
            together.wait()
            for _ in range(20):
                with (
                    contextlib.suppress(PoolDeadlock),
                    shop.app.app_context(),
                    engine.connect(),
                    engine.connect(),
                ):
                    pass
            together.wait()

        threads = [threading.Thread(target=request) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        advice = advice_of(shop, AdviceOptions(at_least=1))
        found = bind_in(advice)
        (finding,) = [
            each for each in fresh_report(shop).findings if each.code == "nesting"
        ]
        need = (
            f"{found.seen.threads} threads that do so need {found.seen.threads}"
            f" × (2 - 1) + 1 = {found.fewest}"
        )
        assert need in finding.message
        for size, expected in (
            (found.fewest, "one of them always gets on. To need fewer, let it"),
            (12, "More were wanted at a time: hence 12."),
            (3, "With fewer, when all are held by requests that each wait for one"),
        ):
            bind = dataclasses.replace(found, pool_size=size, max_overflow=0)
            text = render(dataclasses.replace(advice, binds=(bind,)), Page(80, False))
            text = " ".join(text.split())
            assert need in text
            assert expected in text
        assert "one of them is refused with PoolDeadlock" in text
        assert "one of them is refused with PoolDeadlock" in str(finding.consequence)


class TestNoAdvice:
    def test_without_a_worker(self, make_shop: MakeShop, sqlite_url: URL) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        advice = advice_of(shop, AdviceOptions())
        assert bind_in(advice).refusal == "no live worker has used it"
        assert advice.lines == ()
        assert "Come back when there was some" in render(advice, Page(80, False))
        found = verdict_on(advice)
        assert found.level == "unknown"
        assert re.match(r"no live worker on host .*, so no advice", found.text)

    def test_on_pools_that_are_not_the_guards(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        class OwnPool(QueuePool):
            pass

        shop = make_shop(
            default=create_engine(sqlite_url, poolclass=OwnPool),
            none=create_engine(sqlite_url, poolclass=NullPool),
        )
        take(shop, 1, times=10)
        take(shop, 1, times=10, bind="none")
        advice = advice_of(shop, AdviceOptions(at_least=1))
        assert "does not tell who had to wait" in (bind_in(advice).refusal or "")
        assert "no size to choose" in (bind_in(advice, "none").refusal or "")
        assert bind_in(advice).seen.peak == 1
        assert "Come back" not in render(advice, Page(80, False))

    def test_without_a_checkout(self, make_shop: MakeShop, sqlite_url: URL) -> None:
        shop = make_shop(
            default=create_engine(sqlite_url), idle=create_engine(sqlite_url)
        )
        take(shop, 1, times=10)
        shop.engines["idle"].pool.status()
        advice = advice_of(shop, AdviceOptions(at_least=1))
        assert "no advice on idle: no " in verdict_on(advice).text


class TestLittleTraffic:
    def test_gives_a_range_and_leaves_what_may_be_right(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        take(shop, 1, times=12)
        advice = advice_of(shop, AdviceOptions())
        found = bind_in(advice)
        assert (found.refusal, found.low, found.high) == (None, 1, None)
        assert (found.pool_size, found.max_overflow) == (5, 10)
        assert advice.lines == ()
        verdict = verdict_on(advice)
        assert verdict.level == "ok"
        assert re.fullmatch(
            r"default fits: pool_size 5, max_overflow 10; it needs 1 or more, from 12"
            r" checkouts in [\d.]+s; ask again after a busy hour",
            verdict.text,
        )
        text = " ".join(render(advice, Page(80, False)).split())
        assert "One number takes 3,000 checkouts, at this rate" in text
        assert "max_overflow 10 stays: so few checkouts make nothing smaller" in text
        # No share of twelve checkouts is told.
        assert "%" not in text

    def test_changes_what_is_surely_too_small(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        config = {"POOLGUARD_POOL_SIZE": 1, "POOLGUARD_MAX_OVERFLOW": 1}
        shop = make_shop(config, default=create_engine(sqlite_url))
        take(shop, 2, times=6)
        advice = advice_of(shop, AdviceOptions())
        assert bind_in(advice).pool_size == 2
        assert advice.lines[0] == "POOLGUARD_POOL_SIZE = 2"
        assert verdict_on(advice).text.startswith("set pool_size 2 (now 1)")

    def test_takes_no_limit_for_what_it_is(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop({"POOLGUARD_POOL_SIZE": 0}, default=create_engine(sqlite_url))
        take(shop, 2, times=6)
        advice = advice_of(shop, AdviceOptions())
        assert bind_in(advice).changes == []
        assert "max_overflow -1 stays" in render(advice, Page(80, False))

    def test_names_the_same_size_as_doctor(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        config = {"POOLGUARD_POOL_SIZE": 1, "POOLGUARD_MAX_OVERFLOW": 3}
        shop = make_shop(config, default=create_engine(sqlite_url))
        take(shop, 1, times=900)
        take(shop, 3, times=40)
        found = bind_in(advice_of(shop, AdviceOptions()))
        (finding,) = [
            each
            for each in fresh_report(shop).findings
            if each.code == "pool-too-small"
        ]
        assert not found.is_sure
        assert f"POOLGUARD_POOL_SIZE = {found.pool_size} (now 1)" in finding.fix
        assert found.pool_size == 3


class TestVerdict:
    def test_names_the_worst_bind_first(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        config = {
            "POOLGUARD_BINDS": {
                "small": {"pool_size": 1, "max_overflow": 1},
                "wide": {"pool_size": 9},
            }
        }
        shop = make_shop(
            config,
            **{
                name: create_engine(sqlite_url) for name in ("default", "wide", "small")
            },
        )
        for bind in shop.engines:
            take(shop, 3 if bind != "small" else 2, times=10, bind=bind)
        advice = advice_of(shop, AdviceOptions(at_least=1))
        small = dataclasses.replace(bind_in(advice, "small"), pool_size=4)
        fits = dataclasses.replace(bind_in(advice), present_size=3, max_overflow=10)
        binds = (fits, bind_in(advice, "wide"), small)
        found = verdict_on(dataclasses.replace(advice, binds=binds))
        assert found.level == "warning"
        first, second, third = found.text.split("; ")
        assert first.startswith("set pool_size 4 (now 1)")
        assert first.endswith(" of small")
        assert second.startswith("set pool_size 3 (now 9)")
        assert third == "default fits: pool_size 3, max_overflow 10"

    def test_of_many_binds_names_three(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        names = [f"b{number}" for number in range(5)]
        shop = make_shop(**{name: create_engine(sqlite_url) for name in names})
        for name in names:
            take(shop, 1, bind=name)
        assert "; 2 more below; " in verdict_on(advice_of(shop, AdviceOptions())).text


class TestAgain:
    def test_keeps_what_fits(self, make_shop: MakeShop, sqlite_url: URL) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        take(shop, 5, times=10)
        first = bind_in(advice_of(shop, AdviceOptions(at_least=1)))
        config = {
            "POOLGUARD_POOL_SIZE": first.pool_size,
            "POOLGUARD_MAX_OVERFLOW": first.max_overflow,
        }
        again = make_shop(config, default=create_engine(sqlite_url))
        take(again, 5, times=10)
        advice = advice_of(again, AdviceOptions(at_least=1))
        assert advice.lines == ()
        assert "Nothing to change." in render(advice, Page(80, False))


OF_ONE_BIND: list[dict[str, Any]] = [
    {},
    {"POOLGUARD_POOL_SIZE": 9},
    {"SQLALCHEMY_ENGINE_OPTIONS": {"pool_size": 9, "max_overflow": 1}},
    {"POOLGUARD_BINDS": {"default": {"max_idle": 60}}},
    {"POOLGUARD_BINDS": {None: {"pool_size": 9}}},
]
OF_TWO_BINDS: list[dict[str, Any]] = [
    {"SQLALCHEMY_BINDS": {"other": "sqlite:////nowhere/other.sqlite"}, **config}
    for config in (
        *OF_ONE_BIND,
        {"POOLGUARD_POOL_SIZE": 9, "POOLGUARD_BINDS": {"other": {"pool_size": 2}}},
    )
]


class TestLines:
    """Whoever writes them gets the sizes."""

    @pytest.mark.parametrize("config", [*OF_ONE_BIND, *OF_TWO_BINDS], ids=str)
    def test_change_what_is_in_force(
        self, sqlite_url: URL, config: dict[str, Any]
    ) -> None:
        before = make_app(sqlite_url, **config)
        has_other = "SQLALCHEMY_BINDS" in config
        engine_of(before)
        lines = lines_to_write(
            before.extensions["poolguard"].engines,
            {"default": {"pool_size": 3, "max_overflow": 4}},
            before.config,
        )
        written = dict(config)
        for line in lines:
            exec(line, {}, written)  # noqa: S102 (that is how Flask reads config files)
        after = make_app(sqlite_url, **written)
        assert sizes_of(after, None) == (3, 4)
        if has_other:
            assert sizes_of(after, "other") == sizes_of(before, "other")
        assert "max_idle" not in str(config) or "max_idle" in str(written)

    def test_name_the_argument_of_an_engine_of_ones_own(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url, pool_size=9))
        shop.use()
        engines = shop.app.extensions["poolguard"].engines
        lines = lines_to_write(engines, {"default": {"pool_size": 3}}, shop.app.config)
        assert lines == ("create_engine(pool_size=3) of 'default'",)


def sizes_of(app: Flask, bind: str | None) -> tuple[int, int]:
    """Return what a bind's pool was made with."""
    pool = engine_of(app, bind).pool
    assert isinstance(pool, QueuePool)
    return pool.size(), pool._max_overflow


@pytest.mark.process
@pytest.mark.parametrize(
    "option", ["--share=0", "--share=nan", "--share=60", "--at-least=0", "--hosts=0"]
)
def test_impossible_wishes_are_refused(sqlite_url: URL, option: str) -> None:
    command = [sys.executable, "-m", "flask", "--app", APP, "pool", "advise"]
    done = run([*command, option], {**os.environ, **environment(sqlite_url)})
    assert done.returncode == 2
    assert option.partition("=")[0] in done.stderr
