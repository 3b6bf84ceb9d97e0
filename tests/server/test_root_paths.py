"""Workers are found wherever they were started from; what is left out is named."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import URL, create_engine

from flask_poolguard import PoolGuard
from flask_poolguard.report.deployment import (
    belongs,
    parents_among,
    without_doubles,
)
from flask_poolguard.report.gaps import describe_left_out
from flask_poolguard.state.search import LeftOut
from flask_poolguard.tracking import serving
from flask_poolguard.urls import is_of_one_place
from tests.conftest import Database
from tests.support.desk import (
    DeskServer,
    environment,
    pids,
    recycle,
    run_pool,
    run_status,
    status,
)
from tests.support.statuses import POOL, WORKER
from tests.support.waiting import wait_until

SECRET = "s3cret"

Start = Callable[..., Flask]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that makes an app that has used its pool, in this process."""
    made = []

    def make(
        url: URL, folder: str, name: str = "shop", *, is_used: bool = True
    ) -> Flask:
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        app = Flask(name, root_path=str(root))
        engine = create_engine(url)
        PoolGuard(app).register(engine, app=app)
        with app.app_context():
            if is_used:
                engine.connect().close()
        made.append((app, engine))
        return app

    yield make
    for app, engine in made:
        engine.dispose()
        app.extensions["poolguard"].app_tracker.remove_file()


def run(app: Flask, *arguments: str) -> Result:
    """Run a `flask pool` command of an app; it must tell no secret."""
    result = app.test_cli_runner().invoke(args=["pool", *arguments])
    assert SECRET not in result.output
    return result


class TestOtherPath:
    """Of the same app on the same database."""

    def test_is_shown_with_the_worker(
        self, start: Start, served_database: Database, tmp_path: Path
    ) -> None:
        start(served_database.url, "41")
        app = start(served_database.url, "42")
        shown = run(app, "status").output
        assert "shop: 2 workers" in shown
        assert "Started from another path: " in shown
        assert str(tmp_path / "41") in shown.replace("\n  ", "")
        assert str(tmp_path / "42") not in shown
        assert "2 workers" in run(app, "doctor").output
        assert "2 live workers" in run(app, "check").output
        assert run(app, "check", "--min-workers", "2").exit_code == 0
        assert "2 workers" in run(app, "recycle", "--timeout", "5").output

    def test_is_what_check_can_be_asked_for(
        self, start: Start, served_database: Database, tmp_path: Path
    ) -> None:
        start(served_database.url, "41")
        app = start(served_database.url, "42")
        only = run(app, "check", "--app-name", "shop", "--root-path", f"{tmp_path}/41")
        assert "1 live worker" in only.output
        none = run(app, "check", "--app-name", "shop", "--root-path", f"{tmp_path}/43")
        assert none.exit_code == 2
        assert "another root path" in none.output

    def test_behind_a_symbolic_link_is_the_same(
        self, start: Start, served_database: Database, tmp_path: Path
    ) -> None:
        (tmp_path / "41").mkdir()
        (tmp_path / "current").symlink_to(tmp_path / "41")
        start(served_database.url, "41")
        shown = run(start(served_database.url, "current"), "status").output
        assert "shop: 2 workers" in shown
        assert "another path" not in shown

    def test_on_another_database_is_another_deployment(
        self, start: Start, sqlite_url: URL, served_database: Database, tmp_path: Path
    ) -> None:
        start(sqlite_url, "staging")
        app = start(served_database.url, "shop", is_used=False)
        result = run(app, "status")
        assert "no live worker" in result.output
        text = " ".join(result.output.split())
        assert "Found and left out: Worker" in text
        assert f"{tmp_path}/staging: other databases" in text
        check = run(app, "check")
        assert check.exit_code == 2
        assert "other databases" in check.output

    def test_of_another_name_is_left_out(
        self, start: Start, served_database: Database
    ) -> None:
        start(served_database.url, "shop", "uwsgi_file_shop_py")
        app = start(served_database.url, "shop", is_used=False)
        text = " ".join(run(app, "status").output.split())
        assert "'uwsgi_file_shop_py'" in text
        assert "another app's name" in text
        assert "Flask('shop')" in text


@pytest.mark.process
def test_all_commands_see_the_workers_of_two_releases(
    tmp_path: Path, served_database: Database
) -> None:
    """During a deployment, when the link already leads to the new one."""
    envs = []
    for release in ("41", "42"):
        (tmp_path / release).mkdir()
        root = str(tmp_path / release)
        envs.append(environment(served_database.url, ROOT_PATH=root))
    (tmp_path / "current").symlink_to(tmp_path / "42")
    env = environment(served_database.url, ROOT_PATH=str(tmp_path / "current"))
    # gunicorn would replace a worker that holds for 30 s, as it may here.
    patient = ("--timeout=300",)
    with (
        DeskServer(tmp_path / "41", envs[0], arguments=patient) as old,
        DeskServer(tmp_path / "42", envs[1], arguments=patient) as new,
    ):
        workers = old.worker_pids() | new.worker_pids()
        old.wake()
        wait_until(
            lambda: pids(status(env)) == workers, seconds=20, what="both workers"
        )
        (old_pid,) = old.worker_pids()
        old.hold(1)
        report = status(env)
        paths = {each["pid"]: each["root_path"] for each in report["workers"]}
        assert paths[old_pid] == str(tmp_path / "41")
        text = " ".join(run_status(env).split())
        assert f"Started from another path: {old_pid} {tmp_path}/41" in text
        assert "2 live workers" in run_pool(env, "check")
        assert "2 workers" in run_pool(env, "doctor")
        assert str(old_pid) in run_pool(env, "holders")
        top = run_pool(env, "top", "--json", "--count", "1")
        assert str(old_pid) in top
        old.let_go()
        assert len(recycle(env)["workers"]) == 2


class TestDeployment:
    """Which workers belong together, on workers made by hand."""

    OWN = frozenset({(POOL.bind, POOL.url)})

    def test_takes_the_same_database_from_any_path(self) -> None:
        assert belongs(WORKER, self.OWN, "/srv/shop")
        assert belongs(WORKER, self.OWN, "/srv/other")
        assert not belongs(WORKER, {("default", "mysql://other/db")}, "/srv/shop")

    def test_takes_unknown_databases_from_its_own_path_only(self) -> None:
        starting = dataclasses.replace(WORKER, pools=())
        assert belongs(starting, self.OWN, "/srv/shop")
        assert not belongs(starting, self.OWN, "/srv/other")

    def test_takes_no_database_in_memory_from_another_path(self) -> None:
        pool = dataclasses.replace(POOL, url="sqlite://")
        worker = dataclasses.replace(WORKER, pools=(pool,))
        own = {("default", "sqlite://")}
        assert belongs(worker, own, "/srv/shop")
        assert not belongs(worker, own, "/srv/other")

    def test_counts_an_app_once_that_was_made_twice(self) -> None:
        unused = dataclasses.replace(POOL, connects=0, waiting=0, holders=())
        first = dataclasses.replace(
            WORKER, has_served=False, is_started=True, pools=(unused,), path="1"
        )
        second = dataclasses.replace(first, path="2")
        used = dataclasses.replace(first, has_served=True)
        assert without_doubles([first, second]) == [second]
        assert without_doubles([used, second]) == [used]
        both = [used, dataclasses.replace(used, path="2")]
        assert without_doubles(both) == both

    def test_counts_a_parent_that_a_server_has_started(self) -> None:
        unused = dataclasses.replace(POOL, waiting=0, connecting=0, holders=())
        parent = dataclasses.replace(WORKER, has_served=False, pools=(unused,))
        which = dataclasses.replace(
            WORKER.process, pid=9, parent_pid=4123, parent_start_ticks="1200"
        )
        child = dataclasses.replace(WORKER, process=which)
        started = dataclasses.replace(parent, is_started=True)
        assert parents_among([parent, child]) == [parent]
        assert parents_among([started, child]) == []


class TestLeftOut:
    def test_is_told_by_kind(self) -> None:
        one = LeftOut(1, "till", "/srv/till", "app", ("default mysql://db/till",))
        unknown = LeftOut(None, "shop", "/srv/41", "version", ())
        told = [
            text
            for _, text in describe_left_out(
                [one, dataclasses.replace(one, pid=2), unknown]
            )
        ]
        assert told == [
            "Workers 1 and 2 of 'till' in /srv/till: another app's name"
            " (default mysql://db/till)",
            "a worker of 'shop' in /srv/41: from another path, with another version of"
            " Flask-PoolGuard",
        ]

    def test_is_five_kinds_at_most(self) -> None:
        kinds = [LeftOut(n, f"app{n}", "/srv", "app", ()) for n in range(7)]
        told = describe_left_out(kinds)
        assert len(told) == 5
        assert told[-1][1].endswith("; and 2 more kinds")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql+pymysql://app@db/shop", True),
        ("sqlite:////srv/shop.sqlite", True),
        ("sqlite:///shop.sqlite", False),
        ("sqlite://", False),
        ("sqlite:///:memory:", False),
        ("sqlite:///file:shop?mode=memory&uri=true", False),
        ("garbage", False),
    ],
)
def test_a_url_may_mean_a_database_of_one_process(url: str, expected: bool) -> None:
    assert is_of_one_place(url) is expected


def test_a_frame_is_over_when_it_has_returned() -> None:
    frames = []

    def load() -> bool:
        frames.append(sys._getframe())
        return serving.is_over(frames[0])

    assert load() is False
    assert serving.is_over(frames[0]) is True
