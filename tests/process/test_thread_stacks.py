"""Looking at what other threads do leaves the process well."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from flask_poolguard.tracking.thread_marks import ThreadMark
from flask_poolguard.tracking.thread_stacks import current_frames, describe_users

# Two threads look, two leave cycles behind, whose finaliser lets others run. A look
# makes objects, and with so low a threshold that starts a collection in its middle.
# They leave fewer than are finalised in that time, or a look would never end.
COLLECT_WHILE_LOOKING = """
import gc, threading, time
from flask_poolguard.tracking.thread_marks import ThreadMark
from flask_poolguard.tracking.thread_stacks import current_frames, describe_users

class Cycle:
    def __init__(self):
        self.me = self

    def __del__(self):
        time.sleep(0.0002)

def look():
    for _ in range(4000):
        current_frames()
        time.sleep(0)

def litter():
    while any(each.is_alive() for each in looking):
        Cycle()
        time.sleep(0.001)

gc.set_threshold(5)
looking = [threading.Thread(target=look) for _ in range(2)]
littering = [threading.Thread(target=litter) for _ in range(2)]
for each in looking + littering:
    each.start()
for each in looking + littering:
    each.join()
print("still running" if gc.isenabled() else "collects no more")
"""


@pytest.fixture
def collector_off() -> Iterator[None]:
    """Let the app run without a garbage collector."""
    gc.disable()
    yield
    gc.enable()


class TestCurrentFrames:
    @pytest.mark.process
    @pytest.mark.timeout(300)  # ten thousand looks, on a machine that does other work
    def test_a_garbage_collection_does_not_stop_the_process(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", COLLECT_WHILE_LOOKING],
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert (done.stdout, done.stderr) == ("still running\n", "")

    @pytest.mark.usefixtures("collector_off")
    def test_a_collector_that_the_app_turned_off_stays_off(self) -> None:
        assert threading.get_ident() in current_frames()
        assert not gc.isenabled()

    @pytest.mark.process
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
    def test_a_child_of_a_process_that_looks_can_look_too(self) -> None:
        stop = threading.Event()

        def look() -> None:
            while not stop.is_set():
                current_frames()

        thread = threading.Thread(target=look)
        thread.start()
        try:
            for _ in range(20):
                child = os.fork()
                if child == 0:
                    looked = threading.get_ident() in current_frames()
                    os._exit(0 if looked and gc.isenabled() else 1)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def hasty_switches() -> Iterator[None]:
    """Let threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class TestDescribeUsers:
    @pytest.mark.usefixtures("hasty_switches")
    def test_threads_may_begin_meanwhile(self) -> None:
        looked = threading.Event()
        marks = [ThreadMark() for _ in range(1000)]

        def begin() -> None:
            while not looked.is_set():
                marks.append(ThreadMark())
                del marks[1000:]

        thread = threading.Thread(target=begin)
        thread.start()
        try:
            for _ in range(200):
                assert describe_users((), "") == []
        finally:
            looked.set()
            thread.join()
