"""Test suites of one file that the pytest plugin is installed for."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.support.app_server import REPOSITORY

# A guarded app as most suites make it, and one that is made once.
CONFTEST = """
import os

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_poolguard import PoolGuard

held = []


def make_app(url=None):
    app = Flask("shop")
    app.config.update(
        SQLALCHEMY_DATABASE_URI=url or os.environ["DATABASE_URL"],
        TESTING=True,
        POOLGUARD_POOL_TIMEOUT=1,
        POOLGUARD_CONNECT_RETRY=0,
    )
    app.db = SQLAlchemy(app)
    app.guard = PoolGuard(app)

    @app.get("/leak")
    def leak():
        held.append(app.db.engine.connect())
        return "taken"

    @app.get("/page")
    def page():
        return str(app.db.session.scalar(sa.text("SELECT 42")))

    @app.get("/nested")
    def nested():
        with app.db.engine.connect() as outer, app.db.engine.connect() as inner:
            outer.execute(sa.text("SELECT 1"))
            return str(inner.scalar(sa.text("SELECT 42")))

    return app


def engine_of(app):
    with app.app_context():
        return app.db.engine


@pytest.fixture
def app():
    return make_app()


@pytest.fixture(scope="session")
def one_app():
    return make_app()


@pytest.fixture
def engine(app):
    return engine_of(app)


@pytest.fixture(scope="session")
def one_engine(one_app):
    return engine_of(one_app)
"""


class PluginSuite:
    """A suite in a folder of its own; each run is a process of its own."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        pytester.makeconftest(CONFTEST)
        pytester.makeini("[pytest]")

    def run(self, tests: str, *options: str) -> pytest.RunResult:
        """Run tests, given as the text of a module."""
        imports = (
            "import threading\nimport pytest\nimport sqlalchemy as sa\n"
            "from sqlalchemy.orm import Session\n"
            "from conftest import engine_of, held, make_app\n"
        )
        self.pytester.makepyfile(test_shop=imports + textwrap.dedent(tests))
        given = [*options, "-p", "no:cacheprovider"]
        if "flask" in options:
            given.remove("flask")
        else:
            given += ["-p", "no:flask"]
        return self.pytester.runpytest_subprocess(*given)

    def set_mode(self, mode: str) -> None:
        """Set the ini option."""
        self.pytester.makeini(f"[pytest]\npoolguard_leaks = {mode}")


def install_plugin(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> PluginSuite:
    """Return a suite for which this checkout is installed, the plugin included."""
    site = Path(pytester.mkdir("site"))
    info = site / "poolguard_of_this_checkout-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: poolguard-of-this-checkout\nVersion: 0\n"
    )
    (info / "entry_points.txt").write_text(
        "[pytest11]\npoolguard = flask_poolguard.pytest_plugin\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{site}")
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{pytester.path}/shop.db")
    return PluginSuite(pytester)
