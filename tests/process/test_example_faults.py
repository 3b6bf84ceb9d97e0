"""The faults of the example app, by their buttons, and what the live page shows."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.support import forked_python
from tests.support.browser import Browser, browser
from tests.support.gunicorn import GunicornApp

pytestmark = pytest.mark.process

OpenFaults = Callable[[], Browser]


@pytest.fixture
def env(tmp_path: Path, database: Database) -> dict[str, str]:
    """Return the environment of the app, whose pools have three connections."""
    return {
        **os.environ,
        "DATABASE_URL": database.url.render_as_string(hide_password=False),
        "EXAMPLE_FAULTS": "1",
        "EXAMPLE_INSTANCE_PATH": str(tmp_path / "instance"),
        "FLASK_EXAMPLE_FAULT_SECONDS": "60",  # until the test has looked
        "FLASK_POOLGUARD_POOL_SIZE": "2",
        "FLASK_POOLGUARD_MAX_OVERFLOW": "1",
        "FLASK_POOLGUARD_POOL_TIMEOUT": "60",
    }


@pytest.fixture
def open_faults(tmp_path: Path, env: dict[str, str]) -> Iterator[OpenFaults]:
    """Open the page of the faults, of two workers."""
    done = forked_python.run(
        [sys.executable, "-m", "flask", "--app", "example_app", "seed"],
        env=env,
        seconds=60,
    )
    assert done.returncode == 0, done.stderr
    with ExitStack() as stack:

        def open_faults() -> Browser:
            app = "example_app:create_app()"
            server = GunicornApp(app, tmp_path, workers=2, threads=8, env=env)
            tab = stack.enter_context(browser())
            stack.enter_context(server)
            tab.look(1280)
            tab.open(f"{server.base_url}/faults/")
            tab.wait_for("0 of 12 connections out", "#verdict")
            return tab

        yield open_faults


def click(tab: Browser, name: str) -> None:
    """Press the button of a fault, and wait for the page that follows."""
    tab.run(f"document.getElementById('{name}-title').click(); 0")
    tab.wait_for(f": {name}", ".notice[role=status]")


def show_live_page(tab: Browser) -> None:
    """Follow the link to the live page, in the same window."""
    tab.run("document.querySelector('aside a').target = ''; 0")
    tab.run("document.querySelector('aside a').click(); 0")
    tab.wait_for("2 live workers", "#workers-count")


class TestButtons:
    @pytest.mark.parametrize(
        ("name", "beside", "live", "where"),
        [
            ("hold", "1 of 12 connections out", "faults.hold", "#holders"),
            ("leak", "faults.leak did not give back", "1 leak", "#workers"),
            ("saturate", "2 requests wait", "2 waiting, first for", "#workers"),
            ("deadlock", "deadlock", "deadlock", "#findings, #hints"),
        ],
    )
    def test_shows_its_effect_beside_it_and_on_the_live_page(
        self, open_faults: OpenFaults, name: str, beside: str, live: str, where: str
    ) -> None:
        tab = open_faults()
        click(tab, name)
        tab.wait_for(beside, "#verdict")
        show_live_page(tab)
        tab.wait_for(live, where)
        assert tab.complaints == []

    @pytest.mark.every_product
    def test_sessions_that_are_killed_are_found_dead(
        self, open_faults: OpenFaults, database: Database
    ) -> None:
        tab = open_faults()
        if database.server is None:
            assert tab.run("document.getElementById('kill-title').disabled") is True
            return
        click(tab, "kill")
        tab.wait_for("1\t0\t0\t0\t1", "#pools")  # out, idle, waiting, leaks, dead
        show_live_page(tab)
        tab.wait_for("1 found dead", "#workers")
        tab.wait_for("faults.kill", "#holders")
        assert tab.complaints == []

    def test_a_crash_is_a_page_and_holds_nothing(self, open_faults: OpenFaults) -> None:
        tab = open_faults()
        tab.run("document.getElementById('crash-title').click(); 0")
        tab.wait_for("Back to the catalogue")
        tab.run("history.back(); 0")
        tab.wait_for("0 of 12 connections out", "#verdict")


class TestHowItIsRead:
    def test_on_a_phone_nothing_is_cut_off_and_dark_mode_is_dark(
        self, open_faults: OpenFaults
    ) -> None:
        tab = open_faults()
        colour = "getComputedStyle(document.querySelector('main')).backgroundColor"
        light = tab.run(colour)
        tab.look(390, dark=True, height=800)
        assert tab.run("document.documentElement.scrollWidth") <= 390
        assert tab.run(colour) != light

    def test_a_button_is_reached_and_pressed_by_the_keyboard(
        self, open_faults: OpenFaults
    ) -> None:
        tab = open_faults()
        tab.run("document.querySelector('aside a').focus(); 0")
        tab.press("Tab")
        assert tab.run("document.activeElement.id") == "hold-title"
        tab.press("Enter")
        tab.wait_for(": hold", ".notice[role=status]")
