"""The label that a connection carries, by which the server's list names its owner."""

from __future__ import annotations

import os
import re
import socket
import typing as t
import zlib
from dataclasses import dataclass

_PATTERN: t.Final = re.compile(
    r"(?P<app>[ -~]*)@(?P<host>[!-~]+):(?P<pid>[1-9]\d{0,9})"
)
_NOT_PLAIN: t.Final = re.compile(r"[^ -~]")
_NOT_IN_HOST: t.Final = re.compile(r"[^!-~]|[@:]")

# A name that is cut, or not plain, ends with a sum of the whole one, so that two apps
# whose names come out alike are not taken for one another.
_SUM_LENGTH: t.Final = 5


@dataclass(frozen=True, slots=True)
class Label:
    """Which app, on which host, in which process; ``str()`` is what servers show."""

    app: str
    host: str
    pid: int

    def __str__(self) -> str:
        return f"{self.app}@{self.host}:{self.pid}"


def make_label(app: str, host: str, pid: int, longest: int) -> Label | None:
    """Return a process's label, in printable ASCII.

    The app's name is shortened if need be, never host or pid: without them a label
    would name another process.

    :param longest: characters that the server keeps.
    :returns: None if not even a short name has room, or the host has no name.
    """
    plain = _NOT_PLAIN.sub("?", app)
    host = plain_host(host)
    room = longest - len(f"@{host}:{pid}")
    if not host:
        return None
    if plain != app or len(plain) > room:
        if room <= _SUM_LENGTH:
            return None
        total = zlib.crc32(app.encode("utf-8", "replace")) & 0xFFFF
        plain = f"{plain[: room - _SUM_LENGTH]}~{total:04x}"
    return Label(plain, host, pid)


def plain_host(host: str) -> str:
    """Return a host's name as it stands in labels."""
    return _NOT_IN_HOST.sub("?", host)


def own_label(app: str, longest: int) -> str | None:
    """Return the label of the calling process; a child has its own."""
    label = make_label(app, socket.gethostname(), os.getpid(), longest)
    return None if label is None else str(label)


def parse_label(text: str) -> Label | None:
    """Return what a label says, None if the text is none."""
    found = _PATTERN.fullmatch(text)
    if found is None:
        return None
    return Label(found["app"], found["host"], int(found["pid"]))
