"""The file that keeps what an app's ended workers have counted, one per app.

It is private (mode 0600), and written whole or not at all. Only who holds the folder's
lock (:mod:`.ended_workers`) may write it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
import typing as t
from dataclasses import dataclass, field, replace

from ..log_lines import warn
from ..urls import is_of_one_place
from .directory import user_id
from .plain import Damaged, dump, load
from .status import Worker
from .totals import PoolTotals, totals_of

SUFFIX: t.Final = ".totals"
_MAX_SIZE: t.Final = 4 * 1024 * 1024
# The file keeps so many pools; those that have grown last.
MOST_POOLS: t.Final = 256

# One that was being written when its process was killed.
_DRAFT: t.Final = re.compile(rf"\.[0-9a-f]{{16}}\.[0-9a-f]{{8}}{re.escape(SUFFIX)}")

# Which files were complained about, and when those were written (ns).
_told: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a pool: its bind, and which database that was."""

    bind: str
    url: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """What the ended workers of one deployment have counted.

    :ivar root_path: of the app; "" if the URLs alone tell which databases these are,
        as each release may lie in a folder of its own.
    :ivar names: of all pools of its workers, the first pool of each at the start: they
        tell which deployment it is, as those of live workers do.
    """

    root_path: str
    names: tuple[Name, ...]
    pools: tuple[PoolTotals, ...] = ()

    @classmethod
    def of(cls, worker: Worker) -> Deployment:
        """Return that of one worker."""
        names = tuple(Name(pool.bind, pool.url) for pool in worker.pools)
        is_known = all(is_of_one_place(each.url) for each in names)
        root_path = "" if is_known else os.path.realpath(worker.root_path)
        return cls(root_path, names, tuple(map(totals_of, worker.pools)))

    def is_same(self, other: Deployment) -> bool:
        """Tell whether two can be added up: their first pool is the same, and no bind
        leads to two databases. One may lack pools that the other has, such as tenants'.
        """
        urls = {each.bind: each.url for each in self.names}
        return (self.root_path, self.names[:1]) == (
            other.root_path,
            other.names[:1],
        ) and all(urls.get(each.bind, each.url) == each.url for each in other.names)

    def plus(self, other: Deployment) -> Deployment:
        """Return it with what another has counted, whose pools are at the end."""
        pools = {each.bind: each for each in self.pools}
        for each in other.pools:
            known = pools.pop(each.bind, None)
            pools[each.bind] = each if known is None else known.plus(each)
        names = tuple(dict.fromkeys((*self.names, *other.names)))
        return replace(self, names=names, pools=tuple(pools.values()))

    def with_last(self, room: int) -> Deployment:
        """Return it with so many of its pools, and their names."""
        pools = self.pools[-room:] if room else ()
        binds = {each.bind for each in pools}
        names = (each for each in self.names[1:] if each.bind in binds)
        return replace(self, names=(*self.names[:1], *names), pools=pools)


@dataclass(frozen=True, slots=True)
class Ended:
    """What all ended workers of an app's name have counted.

    :ivar folded: names of state files that are counted in here and may be there still,
        if their remover was killed in between.
    :ivar deployments: the one that has grown last at the end.
    """

    app: str
    folded: tuple[str, ...] = ()
    deployments: tuple[Deployment, ...] = field(default=())

    def plus(self, worker: Worker, name: str) -> Ended:
        """Return it with what a worker has counted.

        :param name: of its state file.
        """
        own, others = Deployment.of(worker), list(self.deployments)
        same = next((each for each in others if each.is_same(own)), None)
        if same is not None:
            others.remove(same)
            own = same.plus(own)
        return Ended(self.app, (*self.folded, name), _bounded([*others, own]))


def _bounded(deployments: list[Deployment]) -> tuple[Deployment, ...]:
    """Leave out the pools that have not grown for the longest time."""
    room, kept = MOST_POOLS, []
    for each in reversed(deployments):
        last = each.with_last(room)
        room -= len(last.pools)
        if last.pools:
            kept.append(last)
    return tuple(reversed(kept))


def path_of(folder: str, app: str) -> str:
    """Return where the file of an app is."""
    digest = hashlib.sha256(app.encode("utf-8", "replace")).hexdigest()[:16]
    return os.path.join(folder, digest + SUFFIX)


def is_draft(name: str) -> bool:
    """Tell whether a file's name is that of a file that is being written."""
    return _DRAFT.fullmatch(name) is not None


def read(folder: str, app: str) -> Ended:
    """Return what is kept; nothing if there is no file, or it is garbage.

    Garbage is logged, once for each time that it was written.
    """
    path = path_of(folder, app)
    try:
        data, written_at = _content(path)
    except FileNotFoundError:
        return Ended(app)
    except (OSError, Damaged) as error:
        _tell(path, 0, error)
        return Ended(app)
    try:
        found = load(Ended, data)
        if found.app != app:
            raise Damaged("it is another app's")
    except Damaged as error:
        _tell(path, written_at, error)
        return Ended(app)
    return found


def _content(path: str) -> tuple[bytes, int]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Damaged("it is not a file")
        if found.st_uid != user_id():
            raise Damaged(f"it belongs to user {found.st_uid}")
        if found.st_size > _MAX_SIZE:
            raise Damaged(f"it has {found.st_size} bytes")
        return os.pread(fd, _MAX_SIZE, 0), found.st_mtime_ns
    finally:
        os.close(fd)


def _tell(path: str, written_at: int, error: Exception) -> None:
    if _told.get(path) == written_at:
        return
    _told[path] = written_at
    warn(
        "counters_lost",
        "%s cannot be used (%s): counters of metrics begin anew, without what ended"
        " workers had counted.",
        path,
        error,
    )


def write(folder: str, ended: Ended) -> None:
    """Write what is kept. Called under the folder's lock.

    :raises OSError: there is no room.
    """
    folded = [
        name
        for name in dict.fromkeys(ended.folded)
        if os.path.lexists(os.path.join(folder, name))
    ]
    path = path_of(folder, ended.app)
    digest = os.path.basename(path).removesuffix(SUFFIX)
    draft = os.path.join(folder, f".{digest}.{secrets.token_hex(4)}{SUFFIX}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
            file.write(dump(replace(ended, folded=tuple(folded))))
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
