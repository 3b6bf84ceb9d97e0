"""Commands that are forks of a process with the libraries loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import forked_python
from tests.support.processes import Daemon
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.process, pytest.mark.quick]

# It says all that a command can see of how it was started.
REVEALING = """
import atexit, os, sys

atexit.register(print, "the end", flush=True)
print(__name__, sys.argv[1:], os.getcwd(), sys.path[0], os.environ.get("SHOP"))
print(sys.stdin.read() + "oops", file=sys.stderr)
print("PATH" in os.environ, "sqlalchemy" in sys.modules)
sys.exit(int(sys.argv[1]))
"""
SLEEPING = """
import os, sys, time

print(os.getpid(), flush=True)
time.sleep(600)
"""
# A process of tests that runs a command and is killed meanwhile.
PARENT = """
import os, pathlib, sys
from tests.support import forked_python

command = [sys.executable, "-m", "sleeping"]
env = {**os.environ, "PYTHONPATH": sys.argv[1]}
with open(pathlib.Path(sys.argv[1], "pid"), "wb") as file:
    process = forked_python.ForkedPython(
        command,
        env=env,
        cwd=pathlib.Path(sys.argv[1]),
        stdout=file.fileno(),
        stderr=file.fileno(),
    )
    process.wait()
"""


def exists(pid: int) -> bool:
    """Tell whether there is a process of this number."""
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    if not forked_python.can_be_forked([sys.executable, "-m", "x"], os.environ):
        pytest.skip("commands are not forked here, for coverage or on this platform")
    (tmp_path / "revealing.py").write_text(REVEALING)
    (tmp_path / "sleeping.py").write_text(SLEEPING)
    return {**os.environ, "PYTHONPATH": str(tmp_path), "SHOP": "till"}


@pytest.mark.parametrize("status", [0, 3])
def test_a_fork_sees_and_says_what_a_new_process_does(
    env: dict[str, str], tmp_path: Path, status: int
) -> None:
    command = [sys.executable, "-m", "revealing", str(status), "--word"]
    forked = forked_python.run(command, env=env, cwd=tmp_path)
    real = subprocess.run(
        command,
        env=env,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert forked.returncode == real.returncode == status
    assert forked.stderr == real.stderr == "oops\n"
    # Only what is loaded differs.
    assert forked.stdout.replace("True True", "True False") == real.stdout
    assert real.stdout.endswith("True False\nthe end\n")


def test_a_command_that_takes_too_long_is_killed(
    env: dict[str, str], tmp_path: Path
) -> None:
    with (tmp_path / "out").open("wb") as file:
        process = forked_python.ForkedPython(
            [sys.executable, "-m", "sleeping"],
            env=env,
            cwd=tmp_path,
            stdout=file.fileno(),
            stderr=file.fileno(),
        )
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        assert process.poll() is None
        process.kill()
        assert process.wait(10) == process.returncode == -signal.SIGKILL
    assert not exists(process.pid)


def test_it_ends_with_the_process_of_tests(env: dict[str, str], tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        cwd=forked_python.REPOSITORY,
        env={**env, "PYTHONPATH": str(forked_python.REPOSITORY)},
    ) as parent:
        try:
            file = tmp_path / "pid"
            wait_until(
                lambda: file.exists() and file.read_text().endswith("\n"),
                seconds=30,
                what="the command",
            )
            pid = int(file.read_text())
            assert exists(pid)
        finally:
            parent.kill()
    wait_until(lambda: not exists(pid), what="the end of the command")


def test_a_daemon_may_be_one(env: dict[str, str], tmp_path: Path) -> None:
    daemon = Daemon(
        [sys.executable, "-m", "sleeping"],
        log=tmp_path / "log",
        env=env,
        cwd=tmp_path,
        forked=True,
    )
    try:
        assert isinstance(daemon.process, forked_python.ForkedPython)
        wait_until(lambda: daemon.log_text() == f"{daemon.pid}\n", what="its line")
        assert os.getsid(daemon.pid) == daemon.pid
    finally:
        daemon.stop()
    assert daemon.process.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ([sys.executable, "-c", "pass"], {}),
        (["/bin/sh", "-c", "true"], {}),
        ([sys.executable, "-m", "flask"], {"PYTHONWARNINGS": "error"}),
        ([sys.executable, "-m", "flask"], {"LC_ALL": "C"}),
    ],
)
def test_what_the_interpreter_itself_is_asked_needs_a_real_start(
    command: list[str], more: dict[str, str]
) -> None:
    assert not forked_python.can_be_forked(command, {**os.environ, **more})
