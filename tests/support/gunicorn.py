"""Run an app under gunicorn."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from pathlib import Path

from tests.support.app_server import AppServer
from tests.support.processes import children_of, command_of

# A worker listens before it has loaded the app; this says when it really is up,
# without a request that the app would notice.
SETTINGS = """
bind = "127.0.0.1:0"
control_socket_disable = True
worker_tmp_dir = {folder!r}


def post_worker_init(worker):
    worker.log.info("Worker is up: %s", worker.pid)
"""
WORKER_IS_UP = re.compile(r"Worker is up: (\d+)")


def is_gunicorn(pid: int) -> bool:
    """Tell whether a process is one of gunicorn's; forked ones say so by their name."""
    if "gunicorn" in command_of(pid):
        return True
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "gunicorn"
    except OSError:
        return False


class GunicornApp(AppServer):
    """Run an app under gunicorn."""

    def __init__(
        self,
        app: str,
        folder: Path,
        *,
        workers: int = 1,
        threads: int = 1,
        worker_class: str | None = None,
        preload: bool = False,
        env: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """Prepare gunicorn; nothing happens before `start`.

        :param worker_class: `sync`, `gthread`, `gevent`; if None, what gunicorn
            takes for the number of threads.
        :param preload: whether the app is loaded before the workers are forked.
        """
        super().__init__(app, folder, env=env, arguments=arguments)
        self.workers = workers
        # gevent's patches must come before the libraries that they change.
        self.forked = worker_class != "gevent"
        self._options = [f"--workers={workers}", f"--threads={threads}"]
        if worker_class:
            self._options.append(f"--worker-class={worker_class}")
        if preload:
            self._options.append("--preload")

    def worker_pids(self) -> set[int]:
        """Return the process ids of the workers that have loaded the app."""
        up = {int(pid) for pid in WORKER_IS_UP.findall(self.log_text())}
        return up & children_of(self.pid)

    def reload(self, *, seconds: float = 30.0) -> None:
        """Replace all workers by new ones (SIGHUP) and wait until that is done.

        :param seconds: how long to wait at most.
        """
        old = self.worker_pids()
        self._running_daemon().process.send_signal(signal.SIGHUP)

        def replaced() -> bool:
            now = self.worker_pids()
            return len(now) == self.workers and not now & old

        self._wait_until(replaced, seconds, "has new workers only")

    def _is_ready(self) -> bool:
        return super()._is_ready() and len(self.worker_pids()) == self.workers

    def _command(self) -> list[str]:
        settings = self.log.with_suffix(".settings.py")
        settings.write_text(SETTINGS.format(folder=str(self.folder)))
        return ["-m", "gunicorn", f"--config={settings}", *self._options, self.app]
