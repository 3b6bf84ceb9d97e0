"""Programs that tests start end with them, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.app_server import REPOSITORY
from tests.support.processes import Daemon, children_of, command_of
from tests.support.waiting import wait_until

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
PARENT = """
import sys, time
from pathlib import Path
from tests.support.processes import Daemon

folder = Path(sys.argv[1])
daemon = Daemon(["sleep", "600"], log=folder / "log", clear_up=folder)
print(daemon.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.process
class TestDaemon:
    def test_stops_in_good_order(self, tmp_path: Path) -> None:
        daemon = Daemon(["sleep", "600"], log=tmp_path / "log")
        assert daemon.pid in children_of(os.getpid())
        daemon.stop()
        assert not daemon.alive
        assert daemon.process.returncode == -signal.SIGTERM

    def test_is_killed_if_it_does_not_stop(self, tmp_path: Path) -> None:
        daemon = Daemon(["/bin/sh", "-c", STUBBORN], log=tmp_path / "log")
        wait_until(lambda: "ready" in daemon.log_text(), what="the trap")
        daemon.stop(seconds=0.1)
        assert daemon.process.returncode == -signal.SIGKILL

    def test_ends_when_its_parent_is_killed(self, tmp_path: Path) -> None:
        folder = tmp_path / "of daemon"
        folder.mkdir()
        with subprocess.Popen(
            [sys.executable, "-c", PARENT, folder],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            text=True,
        ) as parent:
            try:
                assert parent.stdout is not None
                pid = int(parent.stdout.readline())
                # Between fork and exec a process has its parent's command, or none.
                wait_until(lambda: command_of(pid) == "sleep 600", what="the daemon")
            finally:
                parent.kill()
        wait_until(lambda: not command_of(pid), what="the end of the daemon")
        wait_until(lambda: not folder.exists(), what="the end of its folder")


def test_waiting_has_a_bound_and_says_for_what() -> None:
    with pytest.raises(TimeoutError, match=r"0\.01 s in vain for: the impossible"):
        wait_until(lambda: False, seconds=0.01, what="the impossible")
