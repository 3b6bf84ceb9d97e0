"""The first page of a state file: owner and version of the layout."""

from __future__ import annotations

import json
import typing as t
from dataclasses import dataclass

from .layout import MAGIC, SERVED_OFFSET

# The part of the magic that all versions share; two bytes of version follow.
_FAMILY: t.Final = MAGIC[:6]
_HEADER_OFFSET: t.Final = len(MAGIC) + 8


class Damaged(Exception):
    """The bytes are not what a worker writes; the message says where."""


class OtherLayout(Exception):
    """Another version of Flask-PoolGuard wrote this.

    :ivar about: app and root path, if the header can be read all the same.
    """

    def __init__(self, version: int, about: tuple[str, str] | None) -> None:
        super().__init__(f"layout {version}, not {_version(MAGIC)}")
        self.about = about


@dataclass(frozen=True, slots=True)
class Header:
    """Whose file it is. Times in seconds since the epoch.

    :ivar parent_pid: as it was when the file was begun.
    :ivar has_served: it has answered requests.
    """

    pid: int
    host: str
    started_at: float
    boot_id: str
    pid_namespace: str
    start_ticks: str | None
    app: str
    root_path: str
    parent_pid: int
    parent_start_ticks: str | None
    has_served: bool

    def identity(self) -> dict[str, t.Any]:
        """Return what :func:`.process.is_same_process` compares."""
        return {name: getattr(self, name) for name in self.__slots__}

    def is_child_of(self, other: Header) -> bool:
        """Tell whether a process that lives was forked from another one."""
        return (
            self.parent_pid == other.pid
            and self.parent_start_ticks == other.start_ticks
            and self.start_ticks is not None
            and self.pid_namespace == other.pid_namespace
        )


_IN_JSON: t.Final = [name for name in Header.__slots__ if name != "has_served"]


def decode_header(data: bytes) -> Header:
    """Return a file's header.

    :raises Damaged: there is none, or it is garbage.
    :raises OtherLayout: another version wrote it.
    """
    if not data.startswith(_FAMILY):
        raise Damaged("it does not begin like a state file")
    try:
        found = _json(data)
        header = Header(
            **{name: found[name] for name in _IN_JSON},
            has_served=data[SERVED_OFFSET : SERVED_OFFSET + 1] == b"\1",
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if not data.startswith(MAGIC):
            raise OtherLayout(_version(data), None) from error
        raise Damaged("its header is garbage") from error
    if not data.startswith(MAGIC):
        about = (header.app, header.root_path) if _is_valid(header) else None
        raise OtherLayout(_version(data), about)
    if not _is_valid(header):
        raise Damaged("its header is garbage")
    return header


def _json(data: bytes) -> dict[str, t.Any]:
    size = int.from_bytes(data[len(MAGIC) : _HEADER_OFFSET], "little")
    if not 0 < size <= SERVED_OFFSET - _HEADER_OFFSET:
        raise ValueError(size)
    found = json.loads(data[_HEADER_OFFSET : _HEADER_OFFSET + size])
    if not isinstance(found, dict):
        raise TypeError(found)
    return found


def _is_valid(header: Header) -> bool:
    strings = (
        header.host,
        header.boot_id,
        header.pid_namespace,
        header.app,
        header.root_path,
        header.start_ticks or "",
        header.parent_start_ticks or "",
    )
    return (
        all(type(each) is str and "\0" not in each for each in strings)
        and type(header.pid) is int
        and 0 < header.pid < 2**31
        and type(header.parent_pid) is int
        and type(header.started_at) is float
        and 0 <= header.started_at < 2**33
    )


def _version(data: bytes) -> int:
    return int.from_bytes(data[len(_FAMILY) : len(MAGIC)])
