"""Findings about how an app is set up."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from sqlalchemy import URL, NullPool, SingletonThreadPool, StaticPool, create_engine

from flask_poolguard import PoolGuard
from flask_poolguard.report.deployment import parents_among
from tests.conftest import Database
from tests.support.desk import (
    DeskServer,
    environment,
    finding,
    pids,
    run_pool,
    status,
)
from tests.support.evidence import changed, codes_of, evidence_of, found_by_rules
from tests.support.forking import MAY_DEADLOCK, in_child
from tests.support.reporting import MakeShop, Shop, found


class TestNullPool:
    def test_before_a_server_is_found_with_what_it_cost(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        engine = create_engine(served_database.url, poolclass=NullPool)
        shop = make_shop(default=engine)
        shop.use()
        shop.use()
        (finding,) = found(shop.report(), "null-pool")
        assert finding.level == "info"
        assert finding.message == (
            "Bind 'default' has no pool (NullPool); its workers connected 2 times so"
            " far"
        )
        assert finding.fix.startswith(
            "Remove create_engine(poolclass=…) of 'default'. Behind "
        )
        assert "PgBouncer" in finding.fix
        assert finding.consequence is not None

    @pytest.mark.parametrize(("connects", "level"), [(99, "info"), (100, "warning")])
    def test_is_a_warning_once_it_has_cost_much(
        self, make_shop: MakeShop, postgresql_url: URL, connects: int, level: str
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url, poolclass=NullPool))
        shop.use()
        used = changed(evidence_of(shop), connects=connects)
        (finding,) = found_by_rules(used, "null-pool")
        assert finding.level == level
        assert f"connected {connects} times" in finding.message

    def test_by_the_guards_own_setting_is_found_with_its_key(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        config = {"POOLGUARD_POOL_CLASS": "null"}
        shop = make_shop(config, default=create_engine(mariadb_url))
        shop.use()
        (finding,) = found(shop.report(), "null-pool")
        assert "Remove POOLGUARD_POOL_CLASS." in finding.fix
        assert "connected 1 time so far" in finding.message

    @pytest.mark.parametrize("key", ["DEBUG", "TESTING"])
    def test_in_debugging_and_tests_is_none(
        self, make_shop: MakeShop, mariadb_url: URL, key: str
    ) -> None:
        engine = create_engine(mariadb_url, poolclass=NullPool)
        shop = make_shop({key: True}, default=engine)
        shop.use()
        assert not found(shop.report(), "null-pool")

    def test_without_a_server_is_none(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url, poolclass=NullPool))
        shop.use()
        assert not found(shop.report(), "null-pool")

    @pytest.mark.parametrize("port", [6432, 6033])
    def test_behind_a_pooler_is_none(self, make_shop: MakeShop, port: int) -> None:
        url = URL.create("postgresql", host="127.0.0.1", port=port)
        shop = make_shop(default=create_engine(url, poolclass=NullPool))
        with shop.app.test_client() as client:
            client.get("/")
        assert not found_by_rules(evidence_of(shop), "null-pool")

    def test_of_an_async_engine_is_none(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        url = postgresql_url.set(drivername="postgresql+psycopg_async")
        shop = make_shop(default=create_engine(url, poolclass=NullPool))
        with shop.app.test_client() as client:
            client.get("/")
        assert not found_by_rules(evidence_of(shop), "null-pool")

    def test_a_pool_is_none(self, make_shop: MakeShop, mariadb_url: URL) -> None:
        shop = make_shop(default=create_engine(mariadb_url))
        shop.use()
        assert not found(shop.report(), "null-pool")


class TestSharedConnections:
    @pytest.mark.parametrize("kind", [StaticPool, SingletonThreadPool])
    def test_before_a_server_are_found(
        self,
        make_shop: MakeShop,
        served_database: Database,
        kind: type[StaticPool | SingletonThreadPool],
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url, poolclass=kind))
        shop.use()
        (finding,) = found(shop.report(), "static-pool")
        assert finding.level == "warning"
        assert f"a {kind.__name__}, which is made for SQLite" in finding.message
        assert "Remove create_engine(poolclass=…) of 'default'; " in finding.fix
        assert finding.consequence is not None

    @pytest.mark.parametrize("kind", [StaticPool, SingletonThreadPool])
    def test_of_a_database_in_memory_are_none(
        self, make_shop: MakeShop, kind: type[StaticPool | SingletonThreadPool]
    ) -> None:
        shop = make_shop(default=create_engine("sqlite://", poolclass=kind))
        shop.use()
        assert not found(shop.report(), "static-pool")

    def test_in_tests_are_none(self, make_shop: MakeShop, mariadb_url: URL) -> None:
        engine = create_engine(mariadb_url, poolclass=StaticPool)
        shop = make_shop({"TESTING": True}, default=engine)
        shop.use()
        assert not found(shop.report(), "static-pool")


class TestLeftovers:
    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("SQLALCHEMY_POOL_SIZE", "POOLGUARD_POOL_SIZE"),
            ("SQLALCHEMY_MAX_OVERFLOW", "POOLGUARD_MAX_OVERFLOW"),
            ("SQLALCHEMY_POOL_TIMEOUT", "POOLGUARD_POOL_TIMEOUT"),
            ("SQLALCHEMY_POOL_RECYCLE", "POOLGUARD_POOL_RECYCLE"),
        ],
    )
    def test_are_found_with_their_new_names(
        self, make_shop: MakeShop, sqlite_url: URL, old: str, new: str
    ) -> None:
        shop = make_shop({old: 20}, default=create_engine(sqlite_url))
        (finding,) = found(shop.report(), "leftover-setting")
        assert finding.level == "warning"
        assert finding.message.startswith(f"{old} = 20 sets nothing")
        assert finding.fix == f"Rename {old} to {new}."
        assert finding.consequence == "The pool has its default instead."

    def test_beside_the_new_key_are_to_be_removed(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        config = {"SQLALCHEMY_POOL_SIZE": 20, "POOLGUARD_POOL_SIZE": 10}
        shop = make_shop(config, default=create_engine(sqlite_url))
        (finding,) = found(shop.report(), "leftover-setting")
        assert finding.fix == "Remove SQLALCHEMY_POOL_SIZE; POOLGUARD_POOL_SIZE is set."

    def test_are_none_where_they_are_none(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        config = {"SQLALCHEMY_POOL_SIZE": None}
        shop = make_shop(config, default=create_engine(sqlite_url))
        assert not found(shop.report(), "leftover-setting")


@pytest.mark.process
class TestInherited:
    def test_by_the_workers_of_a_preloaded_app_is_found(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        env = environment(served_database.url, QUERY_AT_START="1")
        with DeskServer(tmp_path, env, workers=2, preload=True) as server:
            server.wake()
            warning = finding(status(env), "inherited")
            workers = sorted(server.worker_pids())
        assert warning["level"] == "warning"
        first, where = warning["message"].split(" (")
        assert first == (
            "1 connection of bind 'default' was open when the process was forked"
        )
        pid, rest = where.removeprefix("worker ").split(",", 1)
        (other,) = set(workers) - {int(pid)}
        assert rest == f" and likewise worker {other})"
        assert "gunicorn --preload" in warning["fix"]

    def test_without_a_query_before_the_fork_is_none(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, workers=2, preload=True) as server:
            server.wake()
            codes = [each["code"] for each in status(env)["findings"]]
        assert "inherited" not in codes


class TestParent:
    """Whoever started the workers, of an app that asks its database before that."""

    @pytest.mark.process
    def test_of_a_preloaded_app_is_told_of_but_not_counted(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        env = environment(
            served_database.url, QUERY_AT_START="1", FLASK_POOLGUARD_POOL_SIZE="190"
        )
        with DeskServer(tmp_path, env, workers=2, preload=True) as server:
            server.wake()
            report = status(env, "--server")
            check = run_pool(env, "check", "--min-workers", "2")
            run_pool(env, "check", "--min-workers", "3", status=2)
            assert pids(report) == server.worker_pids()
            assert finding(report, "parent") == {
                "level": "info",
                "code": "parent",
                "message": f"Process {server.pid} started the workers and serves no"
                " requests, so it is not counted; it keeps 1 connection open",
                "fix": "Use no database before the workers are forked, or call"
                " dispose() on the engine at the end of that.",
                "consequence": "No worker uses what it keeps open, and the server"
                " has it less for others.",
                "summary": None,
            }
        owners = [each["owner"] for each in report["servers"][0]["sessions"]]
        assert "orphan" not in owners
        assert "2 live workers" in check
        budget = finding(report, "budget")["message"]
        assert budget.startswith(
            "2 workers may open 400 connections (their 2 threads can use 2 at once, one"
            " per thread): 2 × 200 (default)"
        )

    @pytest.mark.process
    @pytest.mark.filterwarnings(MAY_DEADLOCK)
    def test_that_serves_is_a_worker(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        """As under uWSGI without a master."""
        shop = make_shop(default=create_engine(mariadb_url))
        shop.app.test_client().get("/")
        assert _workers_seen_by_a_child(shop) == 2

    @pytest.mark.process
    @pytest.mark.filterwarnings(MAY_DEADLOCK)
    def test_that_uses_a_connection_is_a_worker(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(mariadb_url))
        shop.use()
        with shop.engines["default"].connect():
            assert _workers_seen_by_a_child(shop) == 2
        assert _workers_seen_by_a_child(shop) == 1

    def test_that_connects_is_a_worker(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        shop.use()
        (parent,) = evidence_of(shop).workers
        parent = dataclasses.replace(parent, has_served=False)
        child = dataclasses.replace(
            parent,
            process=dataclasses.replace(
                parent.process,
                pid=parent.pid + 1,
                parent_pid=parent.pid,
                parent_start_ticks=parent.process.start_ticks,
            ),
        )
        (pool,) = parent.pools
        busy = dataclasses.replace(
            parent, pools=(dataclasses.replace(pool, connecting=1),)
        )
        assert parents_among([parent, child]) == [parent]
        assert parents_among([busy, child]) == []


def _workers_seen_by_a_child(shop: Shop) -> int:
    def look() -> int:
        shop.use()
        return len(shop.report().workers)

    return in_child(look)


def test_an_app_as_it_should_be_has_none(
    make_shop: MakeShop, served_database: Database
) -> None:
    shop = make_shop(default=create_engine(served_database.url))
    shop.use()
    assert codes_of(evidence_of(shop)) == set()
    assert isinstance(shop.guard, PoolGuard)
    assert os.getpid() == shop.report().workers[0].pid
