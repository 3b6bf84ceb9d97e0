"""How many connections a server has left, and who has taken them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import URL, create_engine

from flask_poolguard.databases import (
    ConnectionLimit,
    IdleLimit,
    ServerSession,
    ServerView,
)
from flask_poolguard.databases.quotas import Quota, quotas_of, why_unknown
from flask_poolguard.report import Plan
from flask_poolguard.report.advice import make_advice
from flask_poolguard.report.advice_model import AdviceOptions
from tests.support.reporting import MakeShop, sessions, the_one


def quota(maximum: int = 100, used: int | None = 0, **facts: Any) -> Quota:
    """Return a server's quota."""
    values = {"scope": "server", "owner": "", "remedy": "it", "binds": ("default",)}
    return Quota(**{**values, "of_users": None, **facts}, maximum=maximum, used=used)


def session(number: int, user: str, database: str = "shop") -> ServerSession:
    """Return a session of a server's list."""
    return ServerSession(number, None, user, database, None, "idle", 1.0, None)


def view(user: str | None = "app", **facts: Any) -> ServerView:
    """Return what a server of 100 connections may have said."""
    values = {"max_connections": 100, "connections": 0, "sessions": ()}
    limit = IdleLimit(None, "no limit")
    return ServerView("PostgreSQL 15", limit, user=user, **{**values, **facts})


def limit(name: str, most: int, used: int | None = 0, scope: Any = "user") -> Any:
    """Return the limit of a user or database."""
    return ConnectionLimit(scope, name, most, used, f"the limit of {name}")


class TestHeadRoom:
    @pytest.mark.parametrize(
        ("maximum", "reserved", "expected"),
        [(20, 0, 2), (30, 0, 3), (70, 0, 7), (11, 0, 2), (100, 3, 10), (1, 0, 1)],
    )
    def test_is_a_tenth_rounded_up(
        self, maximum: int, reserved: int, expected: int
    ) -> None:
        assert quota(maximum, reserved=reserved).head_room == expected

    @pytest.mark.parametrize(("used", "expected"), [(90, False), (91, True)])
    def test_in_use_makes_a_limit_nearly_full(self, used: int, expected: bool) -> None:
        assert quota(100, used).is_nearly_full is expected

    @pytest.mark.parametrize("maximum", [3, 10, 11, 57, 97, 100, 151])
    @pytest.mark.parametrize("others", [0, 1, 7])
    @pytest.mark.parametrize("workers", [1, 3])
    def test_stays_free_with_all_that_was_advised(
        self, maximum: int, others: int, workers: int
    ) -> None:
        advised = quota(maximum).per_worker(others, workers) * workers
        if advised:
            assert not quota(maximum, others + advised).is_nearly_full

    @pytest.mark.parametrize("used", [0, 50, 80, 85, 89, 90, 95, 100])
    def test_stays_free_during_a_run(self, used: int) -> None:
        taken = quota(100, used).for_run
        assert taken <= (100 - used) / 2
        if taken:
            assert not quota(100, used + taken).is_nearly_full


class TestShare:
    def test_is_what_others_and_head_room_leave_for_each_worker(self) -> None:
        # 151 - 16 head room - 15 of others = 120, for eight.
        assert quota(151).per_worker(15, 8) == 15
        assert quota(100, reserved=3).per_worker(0, 4) == 21
        assert quota(100).per_worker(95, 1) == 0


class TestOthers:
    def test_are_all_but_the_workers(self) -> None:
        assert quota(100, 30).others(10) == 20

    def test_are_unknown_with_what_is_used_or_whose_it_is(self) -> None:
        assert quota(100, None).others(10) is None
        assert quota(100, 30).others(None) is None

    def test_are_never_fewer_than_none(self) -> None:
        assert quota(100, 3).others(4) == 0

    def test_leave_other_hosts_as_many_as_this_one_has(self) -> None:
        found = quota(100, 60, of_users=50)
        assert found.others(10, 3, is_planned=True) == 30
        assert found.others(20, 3, is_planned=True) == 10

    @pytest.mark.parametrize("ours", [0, None])
    def test_of_a_plan_without_workers_here_are_other_users(
        self, ours: int | None
    ) -> None:
        assert quota(100, 60, of_users=50).others(ours, is_planned=True) == 10
        assert quota(100, 60).others(ours, is_planned=True) is None


class TestQuotas:
    def test_of_users_and_databases_come_before_the_servers(self) -> None:
        limits = (limit("app", 20), limit("shop", 10, scope="database"))
        found = quotas_of({"default": view(limits=limits)})
        assert [each.name for each in found] == [
            "user app",
            "database shop",
            "the server",
        ]

    def test_that_several_binds_share_have_the_figures_of_the_first(self) -> None:
        found = quotas_of(
            {
                "a": view(connections=5, limits=(limit("app", 20, 5),)),
                "b": view(connections=5, limits=(limit("app", 20, 6),)),
                "c": view("teller", connections=5),
            }
        )
        assert [(each.binds, each.used) for each in found] == [
            (("a", "b"), 5),
            (("a", "b", "c"), 5),
        ]

    def test_count_the_sessions_of_their_own_users(self) -> None:
        shown = (session(1, "app"), session(2, "app", "bank"), session(3, "boss"))
        asking = session(8, "app", "bank")  # of bind a
        limits = (limit("shop", 10, scope="database"),)
        server = {
            "a": view(sessions=shown, limits=limits, session_id=8),
            "b": view("till", sessions=(*shown, asking, session(4, "till"))),
        }
        database, whole = quotas_of(server)
        assert (database.of_users, whole.of_users) == (1, 3)
        assert [each.id for each in database.sessions] == [1, 3]

    def test_do_not_know_them_where_a_user_or_list_is_unknown(self) -> None:
        for unknown in (view(user=None), view(sessions=None)):
            (found,) = quotas_of({"a": view(), "b": unknown})
            assert found.of_users is None

    def test_in_words_say_what_is_reserved(self) -> None:
        assert quota(100).terms == "100"
        assert quota(100, reserved=3).terms == "97 (100 less 3 reserved)"


class TestUnknown:
    @pytest.mark.parametrize(
        ("views", "reason"),
        [
            ([view()], None),
            ([view(), None], "does not say"),
            ([view(max_connections=None)], "does not say"),
            ([view(connections=None)], "does not say"),
            ([view(limits=(limit("app", 20, None),))], "does not say"),
            ([view(), view(handshake_id=7, session_id=4711)], "a pooler stands"),
        ],
    )
    def test_has_a_reason(
        self, views: list[ServerView | None], reason: str | None
    ) -> None:
        quotas = quotas_of({str(number): each for number, each in enumerate(views)})
        found = why_unknown(views, quotas)
        assert found is reason if reason is None else reason in (found or "")


# What others have open at the same server would count.
@pytest.mark.usefixtures("own_server")
class TestCommands:
    """What doctor's fix names is what advise gives, for the same deployment."""

    @pytest.mark.parametrize("hosts", [1, 2])
    def test_agree_on_the_share_of_a_worker(
        self, make_shop: MakeShop, mariadb_url: URL, hosts: int
    ) -> None:
        sizes = {"POOLGUARD_POOL_SIZE": 200, "POOLGUARD_MAX_OVERFLOW": 0}
        shop = make_shop(sizes, default=create_engine(mariadb_url))
        shop.use()
        with sessions(mariadb_url, 4):
            finding = the_one(shop.diagnose(Plan(3, hosts)), "budget")
            guard = shop.app.extensions["poolguard"]
            wish = AdviceOptions(at_least=1, workers=3, hosts=hosts)
            for tracker in guard.app_tracker.trackers:
                tracker.tend()
            advice = make_advice(shop.report(), guard.engines, shop.app.config, wish)
        (bind,) = advice.binds
        assert bind.room
        assert f"a worker's pools have {bind.room} at most" in finding.fix
        assert f"others use {5 - hosts} now" in finding.message
