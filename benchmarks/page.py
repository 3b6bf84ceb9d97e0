"""How soon the live page shows what happens, in Chromium, with two workers."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from sqlalchemy import URL

from benchmarks.figures import Table
from tests.support.browser import Browser, browser
from tests.support.desk import DeskServer, environment
from tests.support.proxy import TCPProxy
from tests.support.servers import MariaDBServer
from tests.support.waiting import wait_until

RUNS = 5
# So many requests at once, of which one at least comes to the worker that is full.
REQUESTS = 8
# Longer than between two questions of the page, so that each moment is as likely.
SPREAD_SECONDS = 2.0
LONGEST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Scene:
    """An app, its server behind a proxy, and a browser that shows the page."""

    desk: DeskServer
    tab: Browser
    proxy: TCPProxy

    def own_worker(self) -> int:
        """Return the worker that answers the page, whose connection a browser keeps."""
        found = self.tab.run("fetch('status.json').then((each) => each.json())")
        return int(found["answered_by"])

    def seen(self, since: float, text: str, selector: str) -> float:
        """Return how many seconds after a moment the page shows a text."""
        wait_until(
            lambda: text in self.tab.text(selector), seconds=LONGEST_SECONDS, what=text
        )
        return time.monotonic() - since


Event = Callable[[Scene], float]


def run() -> Iterator[Table]:
    """Let each happen a few times, at any moment between two questions of the page."""
    with MariaDBServer() as server:
        rows = [[what, *summary(server, event)] for what, event in EVENTS.items()]
    yield Table(
        f"seconds until the page shows it, {RUNS} times each",
        ("what happens", "least", "median", "most"),
        rows,
        ["A worker is the page's own if it answered the last question."],
    )


def summary(server: MariaDBServer, event: Event) -> list[str]:
    """Return the least, the median and the most of an event's seconds."""
    times = [measured(server, event) for _ in range(RUNS)]
    return [f"{each:.2f}" for each in (min(times), median(times), max(times))]


def measured(server: MariaDBServer, event: Event) -> float:
    """Return the seconds of one event, in an app and a browser of its own."""
    url = server.url(database=server.create_database())
    with (
        tempfile.TemporaryDirectory() as folder,
        TCPProxy.before(url) as proxy,
        app_for(url.set(port=proxy.port), Path(folder)) as desk,
        browser() as tab,
    ):
        desk.wake()
        tab.look(1280)
        tab.open(f"{desk.base_url}/pools/")
        tab.wait_for("2 live workers", "#workers-count")
        # gunicorn closes what it has kept open for the page's files after 2 s.
        time.sleep(3 + random.random() * SPREAD_SECONDS)
        return event(Scene(desk, tab, proxy))


def app_for(url: URL, folder: Path) -> DeskServer:
    """Return the app, of two workers whose pools have one connection each."""
    env = environment(
        url,
        POOLS_PAGE="1",
        POOLGUARD_STATE_DIR=str(folder),
        XDG_RUNTIME_DIR=str(folder),
        FLASK_POOLGUARD_POOL_SIZE="1",
        FLASK_POOLGUARD_MAX_OVERFLOW="0",
        FLASK_POOLGUARD_POOL_TIMEOUT="60",
    )
    return DeskServer(folder, env, workers=2, threads=16)


def saturate(scene: Scene) -> float:
    """Let requests wait for the only connection of a worker."""
    scene.desk.hold(1)
    time.sleep(random.random() * SPREAD_SECONDS)
    with ExitStack() as stack:
        since = time.monotonic()
        for _ in range(REQUESTS):
            stack.enter_context(scene.desk.in_background("/wait"))
        return scene.seen(since, "waiting, first for", "#workers")


def leak(scene: Scene) -> float:
    """Leak a connection."""
    since = time.monotonic()
    scene.desk.get("/leak")
    return scene.seen(since, "1 leak", "#workers")


def stop(scene: Scene, pid: int) -> float:
    """Stop a worker."""
    since = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    try:
        return scene.seen(since, "1 stopped", "#workers-count")
    finally:
        os.kill(pid, signal.SIGCONT)


def kill(scene: Scene, pid: int) -> float:
    """Kill a worker."""
    since = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return scene.seen(since, f"worker {pid} ended", "#gone")


def to_own(event: Callable[[Scene, int], float], scene: Scene) -> float:
    """Let it happen to the worker that answers the page."""
    pid = scene.own_worker()
    time.sleep(random.random() * SPREAD_SECONDS)
    return event(scene, pid)


def to_other(event: Callable[[Scene, int], float], scene: Scene) -> float:
    """Let it happen to the other one."""
    (pid,) = scene.desk.worker_pids() - {scene.own_worker()}
    time.sleep(random.random() * SPREAD_SECONDS)
    return event(scene, pid)


def lose_server(scene: Scene) -> float:
    """Cut the way to the server, and let a request meet that."""
    scene.proxy.close()
    time.sleep(random.random() * SPREAD_SECONDS)
    since = time.monotonic()
    with scene.desk.in_background("/query"):
        return scene.seen(since, "server does not answer", "#workers")


EVENTS: dict[str, Event] = {
    "requests wait for a connection": saturate,
    "a leak": leak,
    "the page's own worker is stopped": partial(to_own, stop),
    "the other worker is stopped": partial(to_other, stop),
    "the page's own worker dies": partial(to_own, kill),
    "the other worker dies": partial(to_other, kill),
    "the server is gone": lose_server,
}
