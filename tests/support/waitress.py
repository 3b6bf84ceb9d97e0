"""Run an app under waitress."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.support.app_server import AppServer


class WaitressApp(AppServer):
    """Run an app under waitress, in one process."""

    def __init__(
        self,
        app: str,
        folder: Path,
        *,
        threads: int = 4,
        env: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        is_factory: bool = False,
    ) -> None:
        """Prepare waitress; nothing happens before `start`.

        :param is_factory: whether `app` names a function that makes the app.
        """
        super().__init__(app, folder, env=env, arguments=arguments)
        self._threads = threads
        self._is_factory = is_factory

    def _command(self) -> list[str]:
        return [
            *("-m", "waitress", "--listen=127.0.0.1:0"),
            *(["--call"] if self._is_factory else []),
            *(f"--threads={self._threads}", self.app),
        ]
