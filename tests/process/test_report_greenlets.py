"""Findings about workers that stand still when one of their greenlets waits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import URL, create_engine

from flask_poolguard.pool import Blocker, find_blockers
from tests.support.desk import DeskServer, codes, environment, finding, status
from tests.support.evidence import changed, evidence_of, found_by_rules
from tests.support.programs import run_program
from tests.support.reporting import MakeShop
from tests.support.waiting import wait_until

ALL: dict[str, bool] = {}


def run(url: URL, patches: dict[str, bool] | None, *more: str) -> list[dict[str, Any]]:
    """Return what is found once a greenlet has used the database."""
    address = url.render_as_string(hide_password=False)
    found = run_program("blocked_greenlets", address, json.dumps(patches), *more)
    # In the main greenlet nothing has to give way.
    assert found["before"] == []
    after: list[dict[str, Any]] = found["after"]
    return after


@pytest.mark.process
class TestUnpatched:
    def test_a_process_is_critical(self, driver_url: URL) -> None:
        (finding,) = run(driver_url, None)
        assert finding["level"] == "critical"
        assert "gevent has not patched threading" in finding["message"]
        assert "no greenlet can give one back" in finding["consequence"]
        assert "gevent.monkey.patch_all()" in finding["fix"]

    def test_threads_alone_are_critical(self, mariadb_url: URL) -> None:
        (finding,) = run(mariadb_url, {"thread": False})
        assert finding["level"] == "critical"
        assert "what its driver waits in" not in finding["message"]

    def test_threads_are_critical_without_a_server_too(self, sqlite_url: URL) -> None:
        (finding,) = run(sqlite_url, {"thread": False})
        assert finding["level"] == "critical"

    def test_sockets_alone_are_a_warning(self, mariadb_url: URL) -> None:
        (finding,) = run(mariadb_url, {"socket": False})
        assert finding["level"] == "warning"
        assert "gevent has not patched what its driver waits in" in finding["message"]
        assert "all requests of the worker stand still" in finding["consequence"]

    def test_psycopg_waits_in_select(self, postgresql_url: URL) -> None:
        url = postgresql_url.set(drivername="postgresql+psycopg")
        (finding,) = run(url, {"select": False})
        assert finding["level"] == "warning"
        assert run(url, {"socket": False}) == []

    def test_sockets_do_not_matter_without_a_server(self, sqlite_url: URL) -> None:
        assert run(sqlite_url, {"socket": False, "select": False}) == []


class TestPatched:
    @pytest.mark.process
    def test_drivers_written_in_python_are_fine(self, mariadb_url: URL) -> None:
        assert run(mariadb_url, ALL) == []

    @pytest.mark.process
    def test_psycopg_is_fine(self, postgresql_url: URL) -> None:
        assert run(postgresql_url.set(drivername="postgresql+psycopg"), ALL) == []

    @pytest.mark.process
    def test_psycopg2_needs_a_callback(self, postgresql_url: URL) -> None:
        (finding,) = run(postgresql_url, ALL)
        assert finding["level"] == "warning"
        assert "psycopg2 has no wait callback" in finding["message"]
        assert "threading" not in finding["message"]
        assert "patch_psycopg()" in finding["fix"]

    @pytest.mark.process
    def test_psycopg2_is_fine_with_one(self, postgresql_url: URL) -> None:
        assert run(postgresql_url, ALL, "COOPERATES") == []

    def test_mysqlclient_is_told_to_be_replaced(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        shop.use()
        usage = {"blockers": int(Blocker.MYSQLCLIENT)}
        (finding,) = found_by_rules(changed(evidence_of(shop), usage=usage), "gevent")
        assert finding.level == "warning"
        assert "mysqlclient waits in C" in finding.message
        assert "mysql+pymysql://" in finding.fix


@pytest.mark.process
class TestUnderGunicorn:
    def test_a_worker_with_psycopg2_is_found(
        self, tmp_path: Path, postgresql_url: URL
    ) -> None:
        env = environment(postgresql_url)
        with DeskServer(tmp_path, env, worker_class="gevent") as server:
            server.wake()
            (pid,) = server.worker_pids()
            wait_until(lambda: "gevent" in codes(status(env)), what="the finding")
            warning = finding(status(env), "gevent")
        assert f"(worker {pid})" in warning["message"]


class TestFindTroubles:
    def test_finds_none_where_nobody_uses_gevent(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, "gevent", raising=False)
        assert find_blockers(object()) == 0

    def test_finds_none_while_gevent_is_being_imported(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "gevent", ModuleType("gevent"))
        assert find_blockers(object()) == 0

    @pytest.mark.parametrize(
        ("module", "expected"),
        [
            ("MySQLdb.connections", Blocker.MYSQLCLIENT),
            ("pymysql.connections", Blocker(0)),
            ("MySQLdbish", Blocker(0)),
        ],
    )
    def test_knows_a_driver_by_a_class_that_the_app_derived_from_its_own(
        self, monkeypatch: pytest.MonkeyPatch, module: str, expected: Blocker
    ) -> None:
        # mysqlclient needs a compiler to be installed, so that it may not be there.
        gevent: Any = ModuleType("gevent")
        gevent.Greenlet, gevent.getcurrent = object, object
        monkey: Any = ModuleType("gevent.monkey")
        monkey.is_module_patched = lambda name: True
        monkeypatch.setitem(sys.modules, "gevent", gevent)
        monkeypatch.setitem(sys.modules, "gevent.monkey", monkey)
        theirs = type("Connection", (), {"__module__": module})
        own = type("OwnConnection", (theirs,), {})
        assert find_blockers(own()) == expected
