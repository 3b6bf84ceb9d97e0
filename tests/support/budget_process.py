"""Processes of an app with a budget, which do as they are told."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from sqlalchemy import URL

from tests.support.app_server import REPOSITORY


def open_connections(pids: Iterable[int], port: int) -> int:
    """Return how many TCP connections to a port processes have open at a moment.

    Not what the server lists: it ends a session a moment after the client did.
    """
    # One read, so one moment; whose they are is looked for afterwards.
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    established = {
        fields[9]
        for fields in map(str.split, lines)
        if int(fields[2].rpartition(":")[2], 16) == port and fields[3] == "01"
    }
    found = 0
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                name = os.readlink(fd)
                found += name.removeprefix("socket:[").removesuffix("]") in established
    return found


class BudgetProcess:
    """One process of ``tests/apps/budget_worker.py``."""

    def __init__(self, url: URL, **config: Any) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.apps.budget_worker",
                url.render_as_string(hide_password=False),
                json.dumps(config),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=os.environ,
        )
        self.pid = self._process.pid
        self.errors = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it; what it has left is closed as at any end of a process."""
        try:
            self.errors = self._process.communicate(timeout=30)[1]
        finally:
            self._process.kill()
            self._process.wait()

    def tell(self, order: str) -> None:
        """Give an order, and do not wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Wait for the answer to the next order that has none."""
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def do(self, order: str) -> dict[str, Any]:
        """Give an order and wait for its answer."""
        self.tell(order)
        return self.hear()

    def take(self, count: int = 1) -> None:
        """Take connections, which must not fail."""
        for _ in range(count):
            answer = self.do("take")
            assert "error" not in answer, answer

    def kill(self) -> None:
        """End it as the kernel does when there is no memory left."""
        self._process.kill()
        self._process.wait()
