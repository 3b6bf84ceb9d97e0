"""The bytes of a state file: how they are written, and beside that how they are read.

    0       MAGIC, which ends with the version; the length of a JSON object that says
            whose file this is (`process.Process`), and that object
    4080    1 once the process has served a request, 2 if a server has started it for
            that, else 0; the length of the file
    4096    one region per pool, one after another

A region begins with its number of slots and whether it is hidden: it has no pool, or
none that is ready to be read. Then follow the pool's two documents and its slots.

The documents are the JSON of a :class:`.status.PoolStatus` and of a
:class:`.status.History`, each behind its length, a checksum and the time at which it
was written. A reader that finds another sum caught a write
half way, and reads again. A slot is one connection, and changes with every checkout: it
has a fixed layout, and begins and ends with the same sequence number instead.
"""

from __future__ import annotations

import codecs
import math
import struct
import typing as t
import zlib
from collections.abc import Sequence
from dataclasses import replace

from .history import History
from .plain import Damaged, dump, load
from .process import Process
from .status import PoolStatus

MAGIC: t.Final = b"PGUARD\x00\x06"
# The part of the magic that all versions share; two bytes of version follow.
_FAMILY: t.Final = MAGIC[:6]
_LENGTH: t.Final = struct.Struct("<Q")
_PROCESS_OFFSET: t.Final = len(MAGIC) + _LENGTH.size

_TAIL: t.Final = struct.Struct("<B7xQ")
SERVED_OFFSET: t.Final = 4096 - _TAIL.size
SERVED, STARTED = 1, 2
SIZE_OFFSET: t.Final = 4096 - _LENGTH.size
REGIONS_OFFSET: t.Final = 4096
MAX_FILE_SIZE: t.Final = 32 * 1024 * 1024

# A region's head: number of slots; 1 if it is hidden, which is one byte, so that no
# reader sees half a change.
REGION: t.Final = struct.Struct("<IB3x")
HIDDEN_OFFSET: t.Final = 4
MAX_SLOTS: t.Final = 1024

# Before a document: length of the JSON; checksum of all that follows, which is the time
# of writing (monotonic s) and the JSON.
_SEAL: t.Final = struct.Struct("<II")
_TIME: t.Final = struct.Struct("<d")
_BEFORE: t.Final = _SEAL.size + _TIME.size
DOCUMENT_SIZE: t.Final = 8 * 1024
HISTORY_SIZE: t.Final = 12 * 1024

# A slot: sequence, state, checkouts, since (monotonic s), server's number or -1,
# endpoint, line, thread's name (UTF-8, filled up with zeros), sequence.
SLOT: t.Final = struct.Struct("<QQQdq 128s 192s 40s Q")
MAX_ENDPOINT: t.Final = 128
MAX_SITE: t.Final = 192
MAX_THREAD: t.Final = 40
# No state is 0: a file that was cut off grows again as zeros, which must not count.
FREE, IDLE, OUT, KEPT = 1, 2, 3, 4
FREE_SLOT: t.Final = SLOT.pack(FREE, FREE, 0, 0.0, -1, b"", b"", b"", FREE)

HISTORY_OFFSET: t.Final = REGION.size + DOCUMENT_SIZE
SLOTS_OFFSET: t.Final = HISTORY_OFFSET + HISTORY_SIZE

# More than any figure can be; what is above is garbage.
_TOO_MUCH: t.Final = 2**53


class OtherVersion(Exception):
    """Another version of Flask-PoolGuard wrote this.

    :ivar about: app and root path, if the head can be read all the same.
    """

    def __init__(self, version: int, about: tuple[str, str] | None) -> None:
        super().__init__(f"layout {version}, not {_version(MAGIC)}")
        self.about = about


def region_size(slots: int) -> int:
    """Return the bytes that a pool with so many slots takes."""
    return SLOTS_OFFSET + slots * SLOT.size


# The head of the file ------------------------------------------------------------


def pack_head(process: Process) -> bytes:
    """Return all that stands before the regions of a process's file.

    :raises ValueError: names or paths in it are too long.
    """
    data = dump(process)
    if _PROCESS_OFFSET + len(data) > SERVED_OFFSET:
        raise ValueError(f"the app's name or path is too long ({len(data)} bytes)")
    head = MAGIC + _LENGTH.pack(len(data)) + data
    return head.ljust(SERVED_OFFSET, b"\0") + _TAIL.pack(0, REGIONS_OFFSET)


def pack_size(size: int) -> bytes:
    """Return what stands for the file's length, at ``SIZE_OFFSET``."""
    return _LENGTH.pack(size)


def unpack_head(data: bytes) -> tuple[Process, int]:
    """Return whose file it is, and ``SERVED``, ``STARTED`` or something else.

    :raises Damaged: there is no head, or it is garbage.
    :raises OtherVersion: another version wrote it.
    """
    if not data.startswith(_FAMILY):
        raise Damaged("it does not begin like a state file")
    try:
        (length,) = _LENGTH.unpack_from(data, len(MAGIC))
        if length > SERVED_OFFSET - _PROCESS_OFFSET:
            raise Damaged("its head is garbage")
        found = load(Process, data[_PROCESS_OFFSET : _PROCESS_OFFSET + length])
        served, _ = _TAIL.unpack_from(data, SERVED_OFFSET)
    except (Damaged, struct.error) as error:
        if not data.startswith(MAGIC):
            raise OtherVersion(_version(data), None) from error
        raise Damaged("its head is garbage") from error
    if not data.startswith(MAGIC):
        raise OtherVersion(_version(data), (found.app, found.root_path))
    return found, served


def unpack_size(data: bytes) -> int:
    """Return the length that the file should have."""
    return t.cast(int, _LENGTH.unpack_from(data, SIZE_OFFSET)[0])


def _version(data: bytes) -> int:
    return int.from_bytes(data[len(_FAMILY) : len(MAGIC)])


# A pool's document ---------------------------------------------------------------


def pack_document(status: PoolStatus, now: float) -> bytes | None:
    """Return a pool's figures, without some of its lines if need be.

    :param now: in monotonic seconds.
    :returns: None if even without them it is too long.
    """
    data = dump(status)
    while len(data) > DOCUMENT_SIZE - _BEFORE:
        leaking, busy = status.leaking_lines, list(status.activities.items())
        if not (leaking or busy or status.waiting_lines):
            return None
        status = replace(
            status,
            leaking_lines=leaking[: len(leaking) // 2],
            activities=dict(busy[: len(busy) // 2]),
            waiting_lines=status.waiting_lines[: len(status.waiting_lines) // 2],
        )
        data = dump(status)
    return _seal(data, now)


def pack_history(history: History, now: float) -> bytes:
    """Return a pool's minutes, without the oldest if need be."""
    data = dump(history)
    while len(data) > HISTORY_SIZE - _BEFORE:
        minutes = history.minutes
        history = replace(history, minutes=minutes[len(minutes) // 4 + 1 :])
        data = dump(history)
    return _seal(data, now)


def _seal(data: bytes, now: float) -> bytes:
    sealed = _TIME.pack(now) + data
    return _SEAL.pack(len(data), zlib.crc32(sealed)) + sealed


def _unseal(data: bytes, offset: int, size: int) -> tuple[bytes, float]:
    length, checksum = _SEAL.unpack_from(data, offset)
    start = offset + _SEAL.size
    sealed = data[start : start + _TIME.size + length]
    if start + len(sealed) > offset + size or zlib.crc32(sealed) != checksum:
        raise Damaged("its figures do not fit together")
    (written_at,) = _TIME.unpack_from(sealed)
    return sealed[_TIME.size :], _time(written_at)


def unpack_document(data: bytes, offset: int) -> tuple[PoolStatus, float]:
    """Return a pool's figures, and when they were written, in monotonic seconds.

    :raises Damaged: they are caught half way, or garbage.
    """
    found, written_at = _unseal(data, offset, DOCUMENT_SIZE)
    return load(PoolStatus, found), written_at


def unpack_history(data: bytes, offset: int) -> History:
    """Return a pool's minutes; none before they are written for the first time.

    :raises Damaged: they are caught half way, or garbage.
    """
    if not any(data[offset : offset + _SEAL.size]):
        return History()
    found, _ = _unseal(data, offset, HISTORY_SIZE)
    return load(History, found)


# A slot --------------------------------------------------------------------------


class Slot(t.NamedTuple):
    """One connection, as a file shows it; None is unknown.

    :ivar since: of its last checkout, or of its return if it is not out, in monotonic
        seconds.
    """

    state: int
    checkouts: int
    since: float
    server_id: int | None
    endpoint: str | None
    site: str | None
    thread: str | None


def unpack_slots(data: bytes, offset: int, slots: int) -> Sequence[Slot]:
    """Return a region's slots, those included that are free.

    :raises Damaged: one is caught half way, or garbage.
    """
    found = []
    for values in SLOT.iter_unpack(data[offset : offset + slots * SLOT.size]):
        head, state, checkouts, since, server_id, endpoint, site, thread, tail = values
        if head != tail or not FREE <= state <= KEPT or checkouts >= _TOO_MUCH:
            raise Damaged("a connection's figures do not fit together")
        found.append(
            Slot(
                state,
                checkouts,
                _time(since),
                None if server_id == -1 else server_id,
                _text(endpoint),
                _text(site),
                _text(thread),
            )
        )
    return found


def encode_endpoint(endpoint: str) -> bytes:
    """Return an endpoint for a slot; what is too long is cut off."""
    return endpoint.encode("utf-8", "replace")[:MAX_ENDPOINT]


def encode_site(site: str) -> bytes:
    """Return ``file:line`` for a slot; of a path that is too long the end remains."""
    data = site.encode("utf-8", "replace")
    if len(data) > MAX_SITE:
        kept = data[len("…".encode()) - MAX_SITE :].decode("utf-8", "ignore")
        data = f"…{kept}".encode()
    return data


def _text(data: bytes) -> str | None:
    """Decode UTF-8 that may be cut off within its last character."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data.rstrip(b"\0"))
    except UnicodeDecodeError as error:
        raise Damaged("a name is garbage") from error
    return text or None


def _time(seconds: float) -> float:
    if not (math.isfinite(seconds) and 0 <= seconds < _TOO_MUCH):
        raise Damaged("a time is garbage")
    return seconds
