"""One line for monitoring, from what is in the state files of this process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import URL, Engine, NullPool, StaticPool, create_engine

from flask_poolguard import PoolGuard
from flask_poolguard.report.deployment import find_workers
from flask_poolguard.report.health import examine
from flask_poolguard.report.monitoring_plugin import (
    Range,
    State,
    Thresholds,
    Verdict,
    render,
)
from flask_poolguard.state import locked_file
from flask_poolguard.state.reader import read_workers
from flask_poolguard.state.search import Problem, Search
from tests.support.monitoring import Check, read

MakeApp = Callable[..., Engine]

NEVER = Range(None, None)
EASY = Thresholds(NEVER, NEVER, NEVER, NEVER, min_workers=1)


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    """Return a function that makes a guarded app, and returns its engine."""
    made: list[tuple[Flask, Engine]] = []

    def make(name: str, engine: Engine, folder: str = "") -> Engine:
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        app = Flask(name, root_path=str(root))
        PoolGuard(app).register(engine, app=app)
        with app.app_context(), engine.connect():
            pass
        made.append((app, engine))
        return engine

    yield make
    for app, engine in made:
        engine.dispose()
        app.extensions["poolguard"].app_tracker.remove_file()


def search() -> Search:
    """Return what is found of this process: others may serve on this machine too."""
    found = read_workers(None)
    mine = [each for each in found.workers if each.pid == os.getpid()]
    return Search(found.folders, tuple(mine), found.problems)


def judge(
    thresholds: Thresholds = EASY, *, problems: tuple[Problem, ...] = ()
) -> Verdict:
    """Judge what this process has."""
    found = search()
    found = Search(found.folders, found.workers, found.problems + problems)
    return examine(found, found.workers, thresholds, label_apps=True)


def said(verdict: Verdict) -> Check:
    """Return the line, which must be as the guidelines want it."""
    return read(
        subprocess.CompletedProcess([], verdict.state, render(verdict) + "\n", "")
    )


class TestFigures:
    def test_that_are_unknown_are_u_and_not_judged(
        self, make_app: MakeApp, sqlite_url: URL
    ) -> None:
        make_app("shop", create_engine("sqlite://", poolclass=StaticPool))
        everything = Range(0, 0)
        verdict = judge(
            Thresholds(everything, everything, everything, everything, min_workers=1)
        )
        data = said(verdict).data
        assert verdict.state is State.OK
        assert data["shop.usage"] is None
        assert data["shop.held"] is None
        assert data["shop.leaks"] == 0

    def test_of_a_pool_that_makes_nobody_wait(
        self, make_app: MakeApp, sqlite_url: URL
    ) -> None:
        make_app("shop", create_engine(sqlite_url, poolclass=NullPool))
        data = said(judge()).data
        assert (data["shop.waiting"], data["shop.timeouts"]) == (0, 0)
        assert data["shop.usage"] is None

    def test_of_two_apps_of_one_name_are_told_apart(
        self, make_app: MakeApp, sqlite_url: URL, tmp_path: Path
    ) -> None:
        for folder in ("one", "two"):
            url = sqlite_url.set(database=str(tmp_path / f"{folder}.sqlite"))
            make_app("shop", create_engine(url), folder)
        data = said(judge()).data
        assert data[f"shop@{tmp_path}/one.workers".replace(" ", "_")] == 1
        assert len(data) == 20

    def test_of_one_app_from_two_paths_are_one(
        self, make_app: MakeApp, sqlite_url: URL
    ) -> None:
        """As during a deployment: a graph keeps its name."""
        for folder in ("41", "42"):
            make_app("shop", create_engine(sqlite_url), folder)
        assert said(judge()).data["shop.workers"] == 2

    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///shop.sqlite"])
    def test_of_databases_that_only_look_the_same_are_told_apart(
        self,
        make_app: MakeApp,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        url: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for folder in ("one", "two"):
            make_app("shop", create_engine(url), folder)
        assert f"shop@{tmp_path}/one.workers" in said(judge()).data

    @pytest.mark.parametrize(
        "name", ["a|b", "it's", "x=1;2", "two\nlines", "ü", "\x1b"]
    )
    def test_cannot_be_forged_by_an_apps_name(
        self, make_app: MakeApp, sqlite_url: URL, name: str
    ) -> None:
        make_app(name, create_engine(sqlite_url))
        found = said(judge())
        assert found.state == "OK"
        assert len(found.data) == 10
        assert "\x1b" not in found.line


class TestWeights:
    PROBLEM = Problem("folder", "/nowhere", "made up")

    def test_unknown_comes_before_a_warning(
        self, make_app: MakeApp, sqlite_url: URL
    ) -> None:
        engine = make_app("shop", create_engine(sqlite_url))
        limits = Thresholds(NEVER, NEVER, NEVER, Range(-1, None), min_workers=1)
        with engine.connect():
            assert judge(limits).state is State.WARNING
            verdict = judge(limits, problems=(self.PROBLEM,))
        assert verdict.state is State.UNKNOWN
        assert verdict.text.index("made up") < verdict.text.index(" held for ")

    def test_critical_comes_before_unknown(
        self, make_app: MakeApp, sqlite_url: URL
    ) -> None:
        engine = make_app("shop", create_engine(sqlite_url))
        limits = Thresholds(NEVER, NEVER, NEVER, Range(-1, -1), min_workers=1)
        with engine.connect():
            verdict = judge(limits, problems=(self.PROBLEM,))
        assert verdict.state is State.CRITICAL

    def test_without_a_worker_what_cannot_be_read_may_hide_one(self) -> None:
        search = Search(("/nowhere",), (), (self.PROBLEM,))
        assert examine(search, (), EASY, label_apps=True).state is State.UNKNOWN


class TestNobody:
    def test_names_workers_that_are_not_meant(
        self, make_app: MakeApp, sqlite_url: URL, tmp_path: Path
    ) -> None:
        make_app("shop", create_engine(sqlite_url))
        name = "default", "sqlite:////elsewhere"
        found = find_workers(None, "shop", str(tmp_path), {name})
        verdict = examine(found.search, found.ours, EASY, label_apps=False)
        assert verdict.state is State.CRITICAL
        assert (
            f"; found and left out: Worker {os.getpid()} of 'shop' in {tmp_path}: other"
            f" databases (default {sqlite_url})"
        ) in verdict.text

    def test_is_unknown_where_there_are_no_state_files(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(locked_file, "fcntl", None)
        verdict = judge()
        assert verdict.state is State.UNKNOWN
        assert "this platform has no file locks" in verdict.text


class TestRange:
    @pytest.mark.parametrize(
        ("value", "state"),
        [
            (None, State.OK),
            (80, State.OK),
            (80.1, State.WARNING),
            (95, State.WARNING),
            (95.1, State.CRITICAL),
        ],
    )
    def test_ends_with_what_is_still_well(
        self, value: float | None, state: State
    ) -> None:
        assert Range(80, 95).judge(value) is state
        assert Range(None, None).judge(value) is State.OK
