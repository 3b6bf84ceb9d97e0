"""Run Python modules as forks of a process that has loaded their libraries.

Loading Flask and SQLAlchemy takes most of a second of a core, far more than most
commands then need, and a run of all tests starts some thousands of them. The
*nursery*, one process per process of tests, loads them once and forks for each module,
which begins like ``python -m MODULE`` from there on: with its own arguments, folder,
environment, standard streams, exit status and atexit functions.

What is asked of the interpreter itself (``-W``, ``-c``, ``PYTHONWARNINGS``, gevent's
patches, the time that an import takes) needs a real start: see `can_be_forked`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).parents[2]

# What commands and workers load; on the oldest releases some are missing. Not the guard
# itself: it notes who has forked the process that it is loaded in.
LIBRARIES = (
    "flask.cli",
    "flask_sqlalchemy",
    "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "psycopg2.extras",
)
# What a new interpreter reads when it starts, and a fork cannot.
_READ_AT_START = ("PYTHON", "COV_", "COVERAGE_", "LC_", "LANG")
_SET_BY_US = ("PYTHONPATH", "PYTHONUNBUFFERED")


def can_be_forked(command: Sequence[str], env: Mapping[str, str]) -> bool:
    """Tell whether a fork of ours would see the same as a new process would.

    :param env: the whole environment.
    """
    return (
        list(command[:2]) == [sys.executable, "-m"]
        and hasattr(os, "pidfd_open")
        and "COVERAGE_PROCESS_CONFIG" not in os.environ
        and read_at_start(env) == read_at_start(os.environ)
    )


def read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a new interpreter reads before anything else."""
    return {
        name: value
        for name, value in env.items()
        if name.startswith(_READ_AT_START) and name not in _SET_BY_US
    }


class ForkedPython:
    """One module that runs; to be used like `subprocess.Popen`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdout: int,
        stderr: int,
        new_session: bool = False,
    ) -> None:
        """Start the module; its standard input is empty.

        :param command: for which `can_be_forked` is true.
        :param env: its whole environment.
        :param stdout: file descriptor, as is `stderr`.
        """
        self.args = list(command)
        self.returncode: int | None = None
        self._socket, theirs = socket.socketpair()
        with theirs:
            nursery().hand_over([theirs.fileno(), stdout, stderr])
        task = {
            "module": command[2],
            "arguments": list(command[3:]),
            "env": dict(env),
            "cwd": str(cwd),
            "new_session": new_session,
        }
        self._socket.sendall(json.dumps(task).encode() + b"\n")
        self._answers = self._socket.makefile("r")
        self.pid = int(self._answers.readline())
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit status as `subprocess` gives it, None while it runs."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit status.

        :param timeout: in seconds.
        :raises subprocess.TimeoutExpired: if it runs for longer.
        """
        status = self._wait(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return status

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def _wait(self, seconds: float | None) -> int | None:
        with self._lock:
            if self.returncode is None:
                if not select.select([self._socket], [], [], seconds)[0]:
                    return None
                self.returncode = int(self._answers.readline())
                self._answers.close()
                self._socket.close()
            return self.returncode


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path = REPOSITORY,
    seconds: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, like `subprocess.run`; as a fork where it can be.

    Its standard input is empty.

    :param env: its whole environment.
    :raises subprocess.TimeoutExpired: if it runs for longer; it is killed.
    """
    if not can_be_forked(command, env):
        return subprocess.run(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=seconds,
            check=False,
        )
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = ForkedPython(
            command,
            env=env,
            cwd=cwd,
            stdout=stdout.fileno(),
            stderr=stderr.fileno(),
        )
        try:
            status = process.wait(seconds)
        except BaseException:
            process.kill()
            process.wait(10)
            raise
        return subprocess.CompletedProcess(
            list(command), status, _text_of(stdout), _text_of(stderr)
        )


def _text_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


class Nursery:
    """The process that has loaded the libraries, and ends with us."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        self.owner = os.getpid()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def hand_over(self, fds: Sequence[int]) -> None:
        """Let the nursery fork, and its fork take these file descriptors over."""
        socket.send_fds(self._control, [b"fork"], fds)

    def close(self) -> None:
        """End the process; what it has forked goes on."""
        self._control.close()
        self.process.wait(30)


_nursery: Nursery | None = None
_nursery_lock = threading.Lock()


def nursery() -> Nursery:
    """Return the nursery of this process, started at the first call."""
    global _nursery
    with _nursery_lock:
        if _nursery is None or _nursery.owner != os.getpid():
            _nursery = Nursery()
        return _nursery


def nursery_pids() -> set[int]:
    """Return the process id of our nursery, if there is one."""
    return {_nursery.process.pid} if _nursery is not None else set()


def close_nursery() -> None:
    """End our nursery, if there is one."""
    global _nursery
    if _nursery is not None and _nursery.owner == os.getpid():
        _nursery.close()
    _nursery = None


# From here on: what runs in the nursery, and in its forks.


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork for each task; return it in the process that is to run it.

    Return None once the process of tests has ended.
    """
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # A collection in a fork, the one at its end above all, would copy all of this.
    gc.collect()
    gc.freeze()
    # Overseers end on their own.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, fds, _, _ = socket.recv_fds(control, 16, 3)
        if not message:
            return None
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _oversee(*fds)
        for fd in fds:
            os.close(fd)


def _oversee(line: int, stdout: int, stderr: int) -> dict[str, Any]:
    """Fork once more, wait for the child and say how it ended; in the child return
    what it is to run.
    """
    with socket.socket(fileno=line) as channel, channel.makefile("r") as lines:
        task: dict[str, Any] = json.loads(lines.readline())
        pid = os.fork()
        if pid:
            # The channel is closed when the process of tests ends before its command.
            with contextlib.suppress(OSError):
                channel.sendall(b"%d\n" % pid)
            events, _, _ = select.select([line, os.pidfd_open(pid)], [], [])
            if line in events:
                os.kill(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with contextlib.suppress(OSError):
                channel.sendall(b"%d\n" % status)
            os._exit(0)
    if task["new_session"]:
        os.setsid()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for fd in (stdout, stderr):
        os.close(fd)
    return task


def _become(task: Mapping[str, Any]) -> None:
    """Take on what a new interpreter would have been given."""
    old_paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.chdir(task["cwd"])
    os.environ.clear()
    os.environ.update(task["env"])
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        stream.reconfigure(write_through="PYTHONUNBUFFERED" in os.environ)
    time.tzset()
    # What `ps` shows, as the command line stays the nursery's.
    Path("/proc/self/comm").write_text(task["module"])
    new_paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [path for path in sys.path[1:] if path not in old_paths]
    sys.path[:] = [os.getcwd(), *filter(None, new_paths), *others]
    importlib.invalidate_caches()
    sys.argv[:] = [task["module"], *task["arguments"]]


def _main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as control:
        task = _serve(control)
    if task is not None:
        _become(task)
        runpy.run_module(task["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
