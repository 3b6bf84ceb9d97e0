"""The live page of `guard.blueprint()` in a real browser, beside gunicorn's workers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from tests.apps.desk import HTML_NAME
from tests.support.browser import Browser, browser
from tests.support.desk import DeskServer, environment, suspend
from tests.support.proxy import TCPProxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

Open = Callable[..., tuple[DeskServer, Browser]]


@pytest.fixture
def open_page(tmp_path: Path, mariadb_url: URL) -> Iterator[Open]:
    """Open the page of an app of two workers, with pools of one connection each."""
    with ExitStack() as stack:

        def open_page(url: URL = mariadb_url) -> tuple[DeskServer, Browser]:
            env = environment(
                url,
                POOLS_PAGE="1",
                FLASK_POOLGUARD_POOL_SIZE="1",
                FLASK_POOLGUARD_MAX_OVERFLOW="0",
                FLASK_POOLGUARD_POOL_TIMEOUT="60",
            )
            server = DeskServer(tmp_path, env, workers=2, threads=16)
            tab = stack.enter_context(browser())
            stack.enter_context(server)
            server.wake()
            tab.look(1280)
            tab.open(f"{server.base_url}/pools/")
            tab.wait_for("2 live workers", "#workers-part")
            return server, tab

        yield open_page


def rows(tab: Browser) -> list[str]:
    """Return what a screen reader is told of each row of marks."""
    script = "[...document.querySelectorAll('.row')].map((e) => e.ariaLabel)"
    return [str(each) for each in tab.run(script)]


class TestWhatItShows:
    def test_that_all_is_well(self, open_page: Open) -> None:
        """And no address but the app's own is asked for anything."""
        server, tab = open_page()
        tab.wait_for("OK", "#level")
        assert "2 workers, 0 of 2 connections out, no request waits" in tab.text()
        assert rows(tab) == ["0 out, 1 idle, room for 0 more, nothing waits"] * 2
        assert tab.run("document.title") == "✓ OK desk pools"
        asked = "performance.getEntriesByType('resource').map((each) => each.name)"
        assert {each.startswith(server.base_url) for each in tab.run(asked)} == {True}
        assert tab.complaints == []

    def test_a_saturated_pool_with_its_waiters_and_holders(
        self, open_page: Open
    ) -> None:
        server, tab = open_page()
        with ExitStack() as stack:
            (pid,) = server.hold(1)
            while "waiting, first for" not in tab.text("#workers"):
                # Each goes to a worker of its own choice.
                stack.enter_context(server.in_background("/wait"))
            tab.wait_for("CRITICAL", "#level")
            assert f"pool default of worker {pid} has 1 of 1 out" in tab.text("#cause")
            tab.wait_for("POOLGUARD_POOL_SIZE (now 1)", "#findings")
            tab.wait_for("now at apps/desk.py", "#holders")
            assert "taken at apps/desk.py" in tab.text("#holders")
            assert any("waiting" in each and "1 out" in each for each in rows(tab))
            assert tab.run("document.title").startswith("✕ CRITICAL")
            assert "critical" in tab.text("#announced")
        tab.wait_for("No connection is out", "#holders")
        assert tab.complaints == []

    def test_a_leak_with_the_line_that_took_it(self, open_page: Open) -> None:
        server, tab = open_page()
        server.get("/leak")
        tab.wait_for("1 leak", "#workers")
        tab.wait_for("at apps/desk.py", "#hints, #findings")
        assert tab.complaints == []

    def test_a_worker_that_is_stopped_and_one_that_died(self, open_page: Open) -> None:
        """Though it is the stopped one that the browser keeps a connection to."""
        server, tab = open_page()
        stopped = tab.run("fetch('status.json').then((each) => each.json())")[
            "answered_by"
        ]
        (dead,) = server.worker_pids() - {stopped}
        suspend(stopped)
        try:
            tab.wait_for("stopped", "#workers")
            tab.wait_for(f"worker {stopped} is stopped", "#cause")
            assert tab.run("document.querySelectorAll('.worker.stopped').length") == 1
            assert tab.complaints == []
            os.kill(dead, signal.SIGKILL)
            tab.wait_for(f"worker {dead} ended", "#gone")
            tab.wait_for("2 live workers", "#workers-count")
        finally:
            os.kill(stopped, signal.SIGCONT)

    def test_a_server_that_is_gone(self, open_page: Open, mariadb_url: URL) -> None:
        with TCPProxy.before(mariadb_url) as proxy:
            server, tab = open_page(mariadb_url.set(port=proxy.port))
            proxy.close()
            with server.in_background("/query"), server.in_background("/query"):
                tab.wait_for("server does not answer", "#workers")
                tab.wait_for("CRITICAL", "#level")
        assert tab.complaints == []

    def test_an_app_that_is_gone(self, open_page: Open) -> None:
        server, tab = open_page()
        server.stop()
        tab.wait_for("NO ANSWER", "#level")
        assert "Below, as it was at" in tab.text("#taken")
        assert tab.run("document.title").startswith("? NO ANSWER")

    def test_html_in_a_name_stays_text(self, open_page: Open) -> None:
        server, tab = open_page()
        server.hold(1, view="html")
        tab.wait_for(HTML_NAME, "#holders")
        assert tab.run("document.querySelectorAll('main img, main script').length") == 0
        assert tab.complaints == []


class TestHowItIsRead:
    def test_on_a_phone_nothing_is_cut_off(self, open_page: Open) -> None:
        server, tab = open_page()
        tab.look(390, height=800)
        server.hold(1, view="html")
        tab.wait_for(HTML_NAME, "#holders")
        assert tab.run("document.documentElement.scrollWidth") <= 390
        overflowing = (
            "[...document.querySelectorAll('main *')].filter((e) =>"
            " e.getBoundingClientRect().right > innerWidth).length"
        )
        assert tab.run(overflowing) == 0

    def test_dark_mode_has_dark_colours(self, open_page: Open) -> None:
        _, tab = open_page()
        colour = "getComputedStyle(document.body).backgroundColor"
        light = tab.run(colour)
        tab.look(1280, dark=True)
        assert tab.run(colour) != light

    def test_what_is_drawn_has_a_text(self, open_page: Open) -> None:
        """Each picture has a label, each mark a title or an empty text of its own."""
        server, tab = open_page()
        server.hold(1)
        tab.wait_for("hold", "#holders")
        pictures = (
            "[...document.querySelectorAll('[role=img]')].map((e) => e.ariaLabel)"
        )
        found = tab.run(pictures)
        assert all(found)
        assert any(each.startswith("checkouts: max ") for each in found)
        assert any(each.startswith("1 out, the longest for ") for each in found)
        headings = "[...document.querySelectorAll('h1, h2')].map((e) => e.localName)"
        assert tab.run(headings)[0] == "h1"
        live = "document.querySelector('#announced').getAttribute('aria-live')"
        assert tab.run(live) == "polite"

    def test_what_is_the_same_is_not_drawn_again(self, open_page: Open) -> None:
        """So that a selection, and a screen reader's place, stay where they are."""
        _, tab = open_page()
        tab.run("window.before = document.querySelector('#servers').firstChild; 0")
        polls = "performance.getEntriesByType('resource').length"
        count = tab.run(polls)
        wait_until(lambda: tab.run(polls) > count + 1, seconds=30)
        same = "window.before === document.querySelector('#servers').firstChild"
        assert tab.run(same) is True
        assert tab.complaints == []


class TestPolling:
    def test_it_asks_only_while_it_is_visible(self, open_page: Open) -> None:
        _, tab = open_page()
        polls = "performance.getEntriesByType('resource').length"
        see(tab, "hidden")
        # As many as there would be meanwhile if it went on.
        tab.run("new Promise((done) => setTimeout(done, 200))")
        count = tab.run(polls)
        tab.run("new Promise((done) => setTimeout(done, 4000))")
        assert tab.run(polls) == count
        see(tab, "visible")
        wait_until(lambda: tab.run(polls) > count, seconds=30, what="a poll")
        tab.wait_for("OK", "#level")

    def test_it_asks_once_more_if_the_answer_does_not_come(
        self, open_page: Open
    ) -> None:
        """And takes that answer, while it waits for the first for ever."""
        server, tab = open_page()
        tab.wait_for("OK", "#level")
        tab.run(
            "window.asked = 0; const real = window.fetch;"
            " window.fetch = (...all) =>"
            " (window.asked++ ? real(...all) : new Promise(() => {})); 0"
        )
        wait_until(lambda: tab.run("window.asked") > 0, seconds=30, what="a question")
        server.hold(1)
        tab.wait_for("hold", "#holders")
        assert tab.complaints == []

    def test_a_page_that_is_open_for_long_grows_no_bigger(
        self, open_page: Open
    ) -> None:
        server, tab = open_page()
        server.hold(1)
        tab.wait_for("hold", "#holders")
        nodes = "document.querySelectorAll('*').length"
        polls = "performance.getEntriesByType('resource').length"
        tab.wait_for("now at", "#holders")
        before, count = tab.run(nodes), tab.run(polls)
        wait_until(lambda: tab.run(polls) > count + 4, seconds=60, what="polls")
        # A finding may come; what is drawn again takes the place of what was there.
        assert tab.run(nodes) <= before + 20
        assert len(json.dumps(tab.run("document.title"))) < 100


def see(tab: Browser, state: str) -> Any:
    """Let the page take itself for hidden, or for visible."""
    return tab.run(
        "Object.defineProperty(document, 'visibilityState',"
        f" {{configurable: true, value: '{state}'}});"
        " document.dispatchEvent(new Event('visibilitychange')); 0"
    )
