"""gevent patches threading after the app was loaded, as gunicorn's --preload has it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import database_by
from tests.support.desk import DeskServer, environment, status
from tests.support.programs import run_program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

# Those that wait in what gevent patches.
DRIVERS = ["mysql+pymysql", "postgresql+psycopg"]
SMALL = {"POOLGUARD_POOL_SIZE": 2, "POOLGUARD_MAX_OVERFLOW": 0, "POOLGUARD_BUDGET": 5}
TOLD = "gevent has patched threading after flask_poolguard was imported"


class TestOneProcess:
    @pytest.mark.parametrize("driver", DRIVERS)
    @pytest.mark.parametrize("when", ["imported", "made", "forked", "used"])
    def test_all_are_served_and_told_apart(
        self, driver: str, when: str, request: pytest.FixtureRequest
    ) -> None:
        url = database_by(driver, request).url.render_as_string(hide_password=False)
        found = run_program("late_greenlets", url, when, json.dumps(SMALL))
        assert found["statuses"] == [200]
        assert found["marks"] >= 12
        assert (found["out"], found["said"]) == (0, 1)


class TestPreloaded:
    @pytest.mark.parametrize("driver", DRIVERS)
    @pytest.mark.parametrize("before", [{}, {"QUERY_AT_START": "yes"}])
    def test_workers_serve_as_many_as_ever(
        self,
        driver: str,
        before: dict[str, str],
        tmp_path: Path,
        request: pytest.FixtureRequest,
    ) -> None:
        small = {f"FLASK_{key}": str(value) for key, value in SMALL.items()}
        env = environment(
            database_by(driver, request).url,
            FLASK_POOLGUARD_MIN_IDLE="1",
            **small,
            **before,
        )
        sql = "SELECT%20SLEEP(0.1)" if "mysql" in driver else "SELECT%20pg_sleep(0.1)"
        server = DeskServer(
            tmp_path, env, workers=2, worker_class="gevent", preload=True
        )
        with server, ThreadPoolExecutor(16) as people:
            asked = [
                people.submit(server.get, path, seconds=30)
                for path in [f"/run?sql={sql}", "/query", "/report", "/metrics"] * 8
            ]
            assert {each.result()[0] for each in asked} == {200}

            def is_quiet() -> bool:
                pools = [p for w in status(env)["workers"] for p in w["pools"]]
                return len(pools) == 2 and not any(p["checked_out"] for p in pools)

            wait_until(is_quiet, what="connections that are back")
            wait_until(lambda: TOLD in server.log_text(), what="the line in the log")
