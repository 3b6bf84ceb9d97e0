"""Run an app under uWSGI, where that is installed."""

from __future__ import annotations

import re
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support import not_tested
from tests.support.app_server import AppServer
from tests.support.processes import children_of

_SPAWNED = re.compile(r"spawned uWSGI worker \d+ \(pid: (\d+)")
_EXECUTE = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"


class UwsgiApp(AppServer):
    """Run an app under uWSGI."""

    listening = re.compile(r"bound to TCP address 127\.0\.0\.1:(\d+)")

    def __init__(
        self,
        app: str,
        folder: Path,
        *,
        processes: int = 1,
        env: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """Prepare uWSGI, with a master; nothing happens before `start`."""
        super().__init__(app, folder, env=env, arguments=arguments)
        self._processes = processes
        found = shutil.which("uwsgi")
        if found is None:
            not_tested.skip_test("uWSGI is not on the PATH (pip install uwsgi)")
        self._program = found

    def stop(self, *, seconds: float = 10.0) -> None:
        """End it; it finishes no requests."""
        if self._daemon is not None:
            self._daemon.stop(signal.SIGINT, seconds=seconds)
            self._daemon = None

    def worker_pids(self) -> set[int]:
        """Return the process ids of the workers."""
        spawned = {int(pid) for pid in _SPAWNED.findall(self.log_text())}
        return spawned & children_of(self.pid)

    def _is_ready(self) -> bool:
        return super()._is_ready() and len(self.worker_pids()) == self._processes

    def _command(self) -> list[str]:
        return [
            *("-c", _EXECUTE, self._program),
            *("--master", "--die-on-term", "--http-socket", "127.0.0.1:0"),
            *("--processes", str(self._processes), "--home", sys.prefix),
            *("--module", self.app),
        ]
