"""Start programs that never outlive the tests, and end them by their pid."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.support.forked_python import ForkedPython, can_be_forked

# Waits until its standard input is closed, which the kernel does however the
# process that holds the other end has ended, and then clears up after it.
WATCHDOG = """
read -r _
kill -s KILL -- "-$1" 2>/dev/null || kill -s KILL "$1" 2>/dev/null
[ -z "$2" ] || { sleep 1; rm -rf -- "$2"; }
"""


def service_account(*names: str) -> pwd.struct_passwd | None:
    """Return the account to run a database server as, None for our own.

    Database servers refuse to run as root.

    :param names: accounts to use when we are root, best first.
    """
    if os.geteuid() != 0:
        return None
    for name in (*names, "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise LookupError(f"None of these accounts exists: {', '.join(names)}, nobody")


def account_arguments(account: pwd.struct_passwd | None) -> dict[str, Any]:
    """Return the arguments of `subprocess` that make a program run as an account."""
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def children_of(pid: int) -> set[int]:
    """Return the living children of a process; none where /proc does not exist."""
    tasks = f"/proc/{pid}/task"
    if os.path.exists(f"{tasks}/{pid}/children"):
        candidates: set[str] = set()
        with contextlib.suppress(OSError):
            for task in os.listdir(tasks):
                # A thread may end meanwhile.
                with contextlib.suppress(OSError):
                    candidates |= set(Path(tasks, task, "children").read_text().split())
    elif os.path.isdir("/proc/self"):  # a kernel without that file: look at all
        candidates = set(filter(str.isdigit, os.listdir("/proc")))
    else:
        candidates = set()
    return {int(number) for number in candidates if _is_living_child(number, pid)}


def _is_living_child(number: str, pid: int) -> bool:
    try:
        stat = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return False
    # The name stands in brackets and may contain spaces and brackets.
    state, parent = stat.rpartition(")")[2].split()[:2]
    return int(parent) == pid and state != "Z"


def command_of(pid: int) -> str:
    """Return the command line of a process, empty once it is gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode(errors="replace").strip()


def kill_all(pids: Iterable[int]) -> None:
    """Send SIGKILL to processes, some of which may be gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _start(
    command: list[str],
    output: IO[bytes],
    env: Mapping[str, str] | None,
    cwd: Path | None,
    account: pwd.struct_passwd | None,
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=env,
        cwd=cwd,
        **account_arguments(account),
    )


def _fork(
    command: list[str], output: IO[bytes], env: Mapping[str, str], cwd: Path | None
) -> ForkedPython:
    return ForkedPython(
        command,
        stdout=output.fileno(),
        stderr=output.fileno(),
        new_session=True,
        env=env,
        cwd=cwd or Path.cwd(),
    )


class Daemon:
    """Run one program in a session of its own, for as long as we live."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        account: pwd.struct_passwd | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        clear_up: Path | None = None,
        forked: bool = False,
    ) -> None:
        """Start the program.

        :param log: file to which its output is appended.
        :param account: who it runs as, None for ourselves.
        :param clear_up: folder to remove should we die before it.
        :param forked: whether a fork of a process that has Python's libraries loaded
            does as well.
        """
        self.log = log
        with log.open("ab") as output:
            words = [str(word) for word in command]
            self.process = (
                _fork(words, output, env, cwd)
                if forked and env is not None and can_be_forked(words, env)
                else _start(words, output, env, cwd, account)
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "watchdog", str(self.pid), str(clear_up or "")],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Return the program's process id."""
        return self.process.pid

    def process_ids(self) -> set[int]:
        """Return the ids of the program and of its watchdog."""
        return {self.pid, self._watchdog.pid}

    @property
    def alive(self) -> bool:
        """Tell whether the program still runs."""
        return self.process.poll() is None

    def log_text(self) -> str:
        """Return everything that the program wrote."""
        return self.log.read_text(errors="replace")

    def log_tail(self, lines: int = 25) -> str:
        """Return the last lines that the program wrote."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def stop(self, signum: int = signal.SIGTERM, *, seconds: float = 10.0) -> None:
        """End the program, by SIGKILL if the signal did not do it in time."""
        if self.alive:
            self.process.send_signal(signum)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        # Workers whose parent was killed by a test.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._release()

    def kill(self) -> None:
        """Kill the program and its children, as a crash of the machine would."""
        children = children_of(self.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.kill()
        # PostgreSQL's children lead sessions of their own, out of the group.
        kill_all(children)
        self.process.wait(10)
        self._release()

    def _release(self) -> None:
        self._watchdog.kill()
        self._watchdog.wait(10)
        pipe: IO[bytes] | None = self._watchdog.stdin
        if pipe is not None:
            pipe.close()
