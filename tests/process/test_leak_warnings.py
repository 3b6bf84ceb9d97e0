"""A leak in a test shows in pytest's summary, or fails the test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.app_server import REPOSITORY

pytestmark = pytest.mark.process

APP = """
import threading

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_poolguard import PoolGuard


@pytest.fixture
def app(tmp_path):
    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/shop.db"
    app.config["TESTING"] = True
    db = SQLAlchemy(app)
    guard = PoolGuard(app)
    held = app.held = []

    @app.get("/leak")
    def leak():
        held.append(db.engine.connect())  # line 22
        return "taken"

    @app.get("/clean")
    def clean():
        with db.engine.connect():
            return "given back"

    @app.get("/keep")
    def keep():
        held.append(guard.keep(db.engine.connect()))
        return "kept"

    app.db = db
    yield app
    for each in held:
        each.close()


def test_it(app):
    get(app)
    with app.app_context():
        checked_out = app.db.engine.pool.checkedout()
    assert checked_out == EXPECTED_OUT
"""

LEAK = "leak did not give back a connection of bind 'default' that it took at "


class Suite:
    """A test suite of one test, in a process of its own."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def run(self, body: str, *options: str, out: int = 0) -> pytest.RunResult:
        """Run the test, whose request is the body of a function."""
        self.pytester.makepyfile(
            test_shop=f"EXPECTED_OUT = {out}\n"
            + APP.lstrip()
            + f"\n\ndef get(app):\n    {body}\n"
        )
        return self.pytester.runpytest_subprocess(
            *("-p", "no:flask", "-p", "no:cacheprovider"), *options
        )


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    pytester.makeini("[pytest]")
    return Suite(pytester)


class TestTheSummary:
    @pytest.mark.quick
    @pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["", "xdist"])
    def test_shows_a_leak_at_the_line_that_took_it(
        self, suite: Suite, options: tuple[str, ...]
    ) -> None:
        """Without any setting."""
        result = suite.run("app.test_client().get('/leak')", *options)
        result.assert_outcomes(passed=1, warnings=1)
        result.stdout.re_match_lines(
            [
                r".*test_shop\.py:22: LeakWarning: " + LEAK + r".*test_shop\.py:22\."
                r" Use it in a with block, .* guard\.keep\(connection\)\.",
                r"    held\.append\(db\.engine\.connect\(\)\)  # line 22",
            ]
        )

    def test_shows_each_test_that_leaks(self, suite: Suite) -> None:
        """Though it is the same line: Python itself would show only the first."""
        more = (
            "app.test_client().get('/leak')\n\ndef test_again(app):\n    test_it(app)"
        )
        result = suite.run(more)
        result.assert_outcomes(passed=2, warnings=2)

    def test_shows_a_leak_of_a_thread(self, suite: Suite) -> None:
        result = suite.run(
            "thread = threading.Thread(target=app.test_client().get, args=['/leak']);"
            " thread.start(); thread.join()"
        )
        result.assert_outcomes(passed=1, warnings=1)
        result.stdout.fnmatch_lines(["*test_shop.py:22: LeakWarning: leak did not*"])

    @pytest.mark.parametrize(
        ("path", "out"), [("/clean", 0), ("/keep", 1)], ids=["clean", "kept"]
    )
    @pytest.mark.parametrize("options", [(), ("-W", "error")], ids=["", "error"])
    def test_shows_nothing_of_what_is_no_leak(
        self, suite: Suite, path: str, out: int, options: tuple[str, ...]
    ) -> None:
        result = suite.run(f"app.test_client().get({path!r})", *options, out=out)
        result.assert_outcomes(passed=1, warnings=0)
        result.stdout.no_fnmatch_line("*LeakWarning*")


class TestAsAnError:
    @pytest.mark.parametrize("category", ["", "::flask_poolguard.LeakWarning"])
    def test_it_fails_the_request(self, suite: Suite, category: str) -> None:
        result = suite.run("app.test_client().get('/leak')", "-W", f"error{category}")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [f"E * flask_poolguard.errors.LeakWarning: {LEAK}*"]
        )

    def test_it_can_be_set_in_the_configuration(self, suite: Suite) -> None:
        suite.pytester.makeini(
            "[pytest]\nfilterwarnings = error::flask_poolguard.LeakWarning"
        )
        suite.run("app.test_client().get('/leak')").assert_outcomes(failed=1)

    def test_it_can_be_ignored(self, suite: Suite) -> None:
        result = suite.run(
            *("app.test_client().get('/leak')", "-W"),
            "ignore::flask_poolguard.LeakWarning",
        )
        result.assert_outcomes(passed=1, warnings=0)


PRODUCTION = """
import sys
from pathlib import Path
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_poolguard import PoolGuard

app = Flask("shop")
app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///" + sys.argv[1]
db = SQLAlchemy(app)
PoolGuard(app)
import logging
logging.getLogger("flask_poolguard").addHandler(logging.NullHandler())

@app.get("/leak")
def leak():
    app.held = db.engine.connect()
    return "taken"

for _ in range(200):
    assert app.test_client().get("/leak").text == "taken"
"""


class TestOutsideOfTests:
    def test_a_line_is_shown_once(self, tmp_path: Path) -> None:
        """Under Python's own filters, however often it leaks."""
        done = subprocess.run(
            [sys.executable, "-c", PRODUCTION, f"{tmp_path}/shop.db"],
            env={"PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stderr.count("LeakWarning: leak did not give back") == 1
        assert len(done.stderr.splitlines()) <= 2
