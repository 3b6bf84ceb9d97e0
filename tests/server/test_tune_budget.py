"""How many connections may be taken from a server that others use too."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from flask_poolguard.databases import ConnectionLimit, IdleLimit, ServerView
from flask_poolguard.engines import Guarded
from flask_poolguard.report.servers import Answer
from flask_poolguard.tune.connection_budget import budget, sizes_up_to, used
from flask_poolguard.tune.failures import TuneError
from flask_poolguard.tune.planning import make_plan
from flask_poolguard.tune.work import Work
from tests.support.reporting import shops

SHOP = "postgresql+psycopg2://app@db.example/shop"


def answer(
    maximum: int | None, connections: int | None, *limits: ConnectionLimit
) -> Answer:
    """Return what a server may have said."""
    limit = IdleLimit(None, "no limit")
    view = ServerView("PostgreSQL 15", limit, maximum, connections, limits=limits)
    return Answer(True, view)


def user_limit(limit: int, used: int | None, name: str = "app") -> ConnectionLimit:
    """Return the limit of a user."""
    return ConnectionLimit("user", name, limit, used, "its limit")


def guarded(**urls: str) -> list[Guarded]:
    """Return the engines of a guarded app, none of which connects."""
    with shops() as make:
        shop = make(**{name: sa.create_engine(url) for name, url in urls.items()})
        with shop.app.app_context():
            found: list[Guarded] = shop.app.extensions["poolguard"].engines
            return found


class TestSizes:
    @pytest.mark.parametrize(
        ("largest", "expected"),
        [
            (3, [1, 2, 3]),
            (5, [1, 2, 3, 4, 5]),
            (24, [1, 2, 3, 4, 6, 8, 12, 16, 24]),
            (40, [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40]),
            (100, [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 100]),
        ],
    )
    def test_rise_to_the_largest(self, largest: int, expected: list[int]) -> None:
        assert sizes_up_to(largest) == expected


class TestBudget:
    @pytest.mark.parametrize(
        ("maximum", "connections", "processes", "expected"),
        [
            (100, 0, 1, 50),
            (100, 60, 1, 20),
            (100, 60, 4, 5),
            (100, 85, 1, 5),  # 7 would leave less than the head room of 10
            (100, 101, 1, 0),
        ],
    )
    def test_is_half_of_what_is_free_over_all_processes(
        self, maximum: int, connections: int, processes: int, expected: int
    ) -> None:
        binds = guarded(default=SHOP)
        found = budget(binds, {"default": answer(maximum, connections)}, processes)
        assert found.largest == expected
        assert f"{max(maximum - connections, 0)} of {maximum}" in found.why

    def test_is_shared_by_the_binds_of_one_server(self) -> None:
        binds = guarded(default=SHOP, reports=SHOP.replace("/shop", "/reports"))
        answers = {"default": answer(100, 0), "reports": answer(100, 1)}
        found = budget(binds, answers, 2)
        assert found.largest == 12

    def test_is_that_of_the_fuller_server(self) -> None:
        other = SHOP.replace("db.example", "other.example")
        binds = guarded(default=SHOP, reports=other)
        answers = {"default": answer(100, 0), "reports": answer(100, 80)}
        assert budget(binds, answers, 1).largest == 10

    def test_is_that_of_the_user_where_that_may_have_less(self) -> None:
        said = answer(100, 20, user_limit(12, 2))
        found = budget(guarded(default=SHOP), {"default": said}, 2)
        assert found.largest == 2
        assert "user app of PostgreSQL 15 has 10 of 12 connections free" in found.why

    def test_is_that_of_the_database_where_that_may_have_less(self) -> None:
        limit = ConnectionLimit("database", "shop", 6, 0, "its limit")
        said = answer(100, 20, user_limit(90, 0), limit)
        found = budget(guarded(default=SHOP), {"default": said}, 1)
        assert found.largest == 3
        assert "database shop of PostgreSQL 15 has 6 of 6" in found.why

    def test_of_a_user_is_shared_by_its_own_binds_only(self) -> None:
        binds = guarded(default=SHOP, reports=SHOP, other=SHOP)
        app, boss = user_limit(20, 0), user_limit(16, 0, "boss")
        answers = {
            "default": answer(100, 0, app),
            "reports": answer(100, 0, app),
            "other": answer(100, 0, boss),
        }
        # 20 / 2 / 2 binds; of boss it would be 16 / 2, of the server 100 / 2 / 3.
        assert budget(binds, answers, 1).largest == 5

    @pytest.mark.parametrize(
        "said",
        [
            answer(None, 3),
            answer(100, None),
            answer(100, 3, user_limit(12, None)),
            Answer(None),
        ],
    )
    def test_is_unknown_if_the_server_does_not_tell(self, said: Answer) -> None:
        assert budget(guarded(default=SHOP), {"default": said}, 1).largest is None

    def test_is_unknown_behind_a_pooler(self) -> None:
        limit = IdleLimit(None, "no limit")
        view = ServerView(
            "PostgreSQL 15", limit, 100, 0, handshake_id=7, session_id=4711
        )
        found = budget(guarded(default=SHOP), {"default": Answer(True, view)}, 1)
        assert found.largest is None
        assert "a pooler stands before the server" in found.why

    def test_is_unknown_if_it_does_not_tell_one_of_its_binds(self) -> None:
        binds = guarded(default=SHOP, reports=SHOP)
        answers = {"default": answer(100, 0), "reports": Answer(None)}
        assert budget(binds, answers, 1).largest is None

    def test_of_a_server_that_does_not_answer_is_an_error(self) -> None:
        said = {"default": Answer(False, error="OperationalError: refused")}
        with pytest.raises(TuneError, match="OperationalError: refused"):
            budget(guarded(default=SHOP), said, 1)


class TestBinds:
    def test_a_query_uses_its_own_only(self) -> None:
        engines = guarded(default=SHOP, reports=SHOP)
        assert [e.bind for e in used(engines, "reports", by_requests=False)] == [
            "reports"
        ]

    def test_a_view_may_use_all(self) -> None:
        engines = guarded(default=SHOP, reports=SHOP)
        binds = used(engines, "reports", by_requests=True)
        assert [each.bind for each in binds] == ["reports", "default"]

    def test_with_pools_of_their_own_cannot_be_tuned_nor_limited(self) -> None:
        with shops() as make:
            shop = make(
                default=sa.create_engine(SHOP),
                own=sa.create_engine(SHOP, poolclass=NullPool),
            )
            with shop.app.app_context():
                engines = shop.app.extensions["poolguard"].engines
        with pytest.raises(TuneError, match="'own' keeps its own NullPool, whose size"):
            used(engines, "own", by_requests=False)
        with pytest.raises(TuneError, match="could not be limited"):
            used(engines, "default", by_requests=True)
        assert used(engines, "default", by_requests=False)

    @pytest.mark.parametrize(
        ("config", "origin"),
        [
            ({"POOLGUARD_POOL_CLASS": "null"}, "POOLGUARD_POOL_CLASS"),
            (
                {"POOLGUARD_BINDS": {"default": {"pool_class": "null"}}},
                "POOLGUARD_BINDS['default']['pool_class']",
            ),
        ],
    )
    def test_without_a_pool_by_a_setting_are_told_which(
        self, config: dict[str, Any], origin: str
    ) -> None:
        with shops() as make:
            urls = {"default": SHOP, "reports": SHOP}
            shop = make(config, **{key: sa.create_engine(urls[key]) for key in urls})
            with shop.app.app_context():
                engines = shop.app.extensions["poolguard"].engines
        for by_requests in (False, True):
            with pytest.raises(TuneError) as caught:
                used(engines, "default", by_requests=by_requests)
            text = str(caught.value)
            assert f"'default' has a NullPool because {origin} is 'null'" in text
            assert "set that to 'queue'" in text
            assert "its own" not in text
        if "POOLGUARD_BINDS" in config:
            with pytest.raises(TuneError, match=r"not be limited here.* to 'queue'"):
                used(engines, "reports", by_requests=True)


class TestPlan:
    """On SQLite, which has no server that could be full."""

    def plan(self, sqlite_url: sa.URL, **changes: Any) -> Any:
        url = sqlite_url.render_as_string()
        values: dict[str, Any] = {
            "processes": 1,
            "threads": None,
            "max_size": None,
            "seconds": 1.0,
            "rounds": 2,
        }
        return make_plan(
            "shop",
            guarded(default=url),
            (Work("url", "/"),),
            "default",
            **{**values, **changes},
        )

    def test_goes_up_to_24_with_twice_as_many_threads(self, sqlite_url: sa.URL) -> None:
        plan = self.plan(sqlite_url)
        assert max(plan.sizes) == 24
        assert plan.threads == 48

    def test_no_pool_is_larger_than_there_are_threads(self, sqlite_url: sa.URL) -> None:
        plan = self.plan(sqlite_url, threads=4)
        assert plan.sizes == (1, 2, 3, 4)
        assert plan.limit == "4 threads use no more"

    def test_uses_the_threads_of_a_live_worker(self, sqlite_url: sa.URL) -> None:
        plan = self.plan(sqlite_url, worker_threads=4, max_size=20)
        assert (plan.sizes, plan.threads) == ((1, 2, 3, 4), 4)
        assert (plan.threads_from, plan.limit) == ("workers", "4 threads use no more")
        asked = self.plan(sqlite_url, worker_threads=4, threads=6)
        assert (asked.threads, asked.threads_from) == (6, "option")
        assert self.plan(sqlite_url).threads_from == "sizes"

    @pytest.mark.parametrize(
        ("threads", "text"),
        [
            (1, "serves with 1 thread, which uses no more than 1 connection, so"),
            (2, "serves with 2 threads, which use no more than 2 connections, so"),
        ],
    )
    def test_measures_nothing_for_one_or_two_threads(
        self, sqlite_url: sa.URL, threads: int, text: str
    ) -> None:
        with pytest.raises(TuneError, match=f"{text} pool_size {threads} is enough"):
            self.plan(sqlite_url, worker_threads=threads)
        assert self.plan(sqlite_url, worker_threads=threads, threads=8).threads == 8

    def test_fewer_than_three_sizes_are_refused(self, sqlite_url: sa.URL) -> None:
        with pytest.raises(TuneError, match="a curve takes 3 sizes"):
            self.plan(sqlite_url, threads=2)

    def test_tells_how_long_it_takes(self, sqlite_url: sa.URL) -> None:
        short, long = (self.plan(sqlite_url, rounds=n) for n in (1, 10))
        assert long.total_seconds == pytest.approx(10 * short.total_seconds)
        assert short.total_seconds > 9 * 1.0
