"""What was found of the workers' files, and what was left out or could not be read."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from .status import Worker


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps a part of the picture hidden.

    :ivar kind: ``"folder"``, ``"file"`` or ``"layout"`` (another version's file).
    :ivar pid: of the worker, as far as the file's name tells.
    :ivar root_path: of its app, as far as another version's file tells.
    """

    kind: t.Literal["folder", "file", "layout"]
    path: str
    reason: str
    pid: int | None = None
    root_path: str | None = None


@dataclass(frozen=True, slots=True)
class TakenFolder:
    """A default folder's name that another user has taken. It hides nothing: this
    user's workers refuse it as well, and keep their files in another.
    """

    path: str
    owner: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A live worker that was found and is not one of those that are looked for.

    :ivar pid: None if the file's name does not tell.
    :ivar reason: ``"app"``, another name; ``"path"``, not the root path that was asked
        for; ``"databases"``, others; ``"unknown"``, from another path, and it is not
        known which databases it uses; ``"version"``, the same of another version.
    :ivar databases: bind and URL of each pool, without secrets.
    """

    pid: int | None
    app: str
    root_path: str
    reason: t.Literal["app", "path", "databases", "unknown", "version"]
    databases: tuple[str, ...]

    @classmethod
    def of(
        cls, worker: Worker, reason: t.Literal["app", "path", "databases", "unknown"]
    ) -> LeftOut:
        """Describe a worker whose file could be read."""
        which = worker.process
        urls = tuple(f"{pool.bind} {pool.url}" for pool in worker.pools)
        return cls(which.pid, which.app, which.root_path, reason, urls)


@dataclass(frozen=True, slots=True)
class Search:
    """What was found, and where it was looked for."""

    folders: tuple[str, ...]
    workers: tuple[Worker, ...]
    problems: tuple[Problem, ...]
    taken: tuple[TakenFolder, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
