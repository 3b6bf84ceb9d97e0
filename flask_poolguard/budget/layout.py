"""The bytes of a budget's file: head, wishes, rows, and what the server allows.

They are for fairness and for a number that is looked at again every minute, so torn or
old ones do no harm.
"""

from __future__ import annotations

import math
import struct
import typing as t

# How many processes have a row; more can take places, but get none out of turn.
ROWS: t.Final = 256
MAGIC: t.Final = b"poolguard budget 2\n".ljust(64, b"\0")

# In a table of their own, so that one look tells that no process wishes for a place.
_ASKED: t.Final = struct.Struct("=d")
NO_WISHES: t.Final = bytes(ROWS * _ASKED.size)
WISHES_AT: t.Final = len(MAGIC)
# All of a row but its first field.
_ROW: t.Final = struct.Struct("=d?IIII48s")
_ROWS_AT: t.Final = WISHES_AT + len(NO_WISHES)
_ALLOWED: t.Final = struct.Struct("=ddiqiiiii200s")
ALLOWED_AT: t.Final = _ROWS_AT + ROWS * _ROW.size
ALLOWED_SIZE: t.Final = _ALLOWED.size
# When a process last wished for a place, in monotonic seconds.
WISHED_AT: t.Final = ALLOWED_AT + ALLOWED_SIZE
SIZE: t.Final = WISHED_AT + _ASKED.size


class Row(t.NamedTuple):
    """What one process says of itself; times in monotonic seconds, the same for all.

    :ivar asked_at: since when it has wished for a place; 0 if it does not.
    :ivar seen_at: when it wrote this; one that is stopped does not.
    :ivar waits: a thread waits for that place; else it is a worker's first.
    :ivar used: its open connections.
    :ivar idle: those of them that no thread has used for a moment.
    :ivar spare: its places without a connection.
    :ivar limit: how many places it can take, by its ``POOLGUARD_BUDGET``.
    :ivar app: its app's name.
    """

    asked_at: float
    seen_at: float
    waits: bool
    used: int
    idle: int
    spare: int
    limit: int
    app: str

    @property
    def places(self) -> int:
        """How many places it has."""
        return self.used + self.spare


class Allowed(t.NamedTuple):
    """What the server allows, as the process wrote it that asked last.

    :ivar asked_at: when a process last began to ask, in seconds since 1970: the file
        may be older than the machine's last start. 0 for never.
    :ivar began_at: when the first answer of this series came.
    :ivar number: of connections on this host; 0 is not known yet, below 0 is no limit.
    :ivar limits: tells the server's limits from others: their sum.
    :ivar span: since 1970, of ``least``.
    :ivar least: the smallest number of that span.
    :ivar before: that of the span before it.
    :ivar last: what the last answer alone allowed.
    :ivar answers: how many there were, 2 for more.
    :ivar told: how the number came about, or why there is none.
    """

    asked_at: float = 0.0
    began_at: float = 0.0
    number: int = 0
    limits: int = 0
    span: int = 0
    least: int = 0
    before: int = 0
    last: int = 0
    answers: int = 0
    told: str = ""


def pack_row(row: Row) -> bytes:
    """Return all of a row but its wish."""
    return _ROW.pack(*row[1:-1], _cut(row.app, 48))


def row_at(number: int) -> int:
    """Return where a row is."""
    return _ROWS_AT + number * _ROW.size


def pack_wish(row: Row) -> bytes:
    """Return a row's wish."""
    return _ASKED.pack(row.asked_at)


def wish_at(number: int) -> int:
    """Return where a row's wish is."""
    return WISHES_AT + number * _ASKED.size


def unpack_row(data: bytes, number: int) -> Row | None:
    """Return a row of the whole file; None if that was cut off."""
    try:
        (asked,) = _ASKED.unpack_from(data, wish_at(number))
        *figures, app = _ROW.unpack_from(data, row_at(number))
    except struct.error:
        return None
    return Row._make((asked, *figures, _text(app)))


def pack_allowed(allowed: Allowed) -> bytes:
    """Return the bytes of what the server allows."""
    return _ALLOWED.pack(*allowed[:-1], _cut(allowed.told, 200))


def pack_time(seconds: float) -> bytes:
    """Return a time: the first field of what the server allows, or the last wish's."""
    return _ASKED.pack(seconds)


def unpack_time(data: bytes) -> float:
    """Return a time from its bytes; 0 if they were cut off."""
    return float(_ASKED.unpack(data)[0]) if len(data) == _ASKED.size else 0.0


def unpack_allowed(data: bytes) -> Allowed:
    """Return what the server allows, from its bytes; nothing if they were cut off."""
    try:
        *figures, told = _ALLOWED.unpack(data)
    except struct.error:
        return Allowed()
    found = Allowed._make((*figures, _text(told)))
    is_possible = all(math.isfinite(each) for each in found[:2]) and found.answers >= 0
    return found if is_possible else Allowed()


def _cut(text: str, size: int) -> bytes:
    return text.encode()[:size].decode(errors="ignore").encode()


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
