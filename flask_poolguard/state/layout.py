"""The bytes of a state file, for its writer and its readers.

    0       magic, version and a JSON object that says whose file this is
    4095    1 once the process has served a request
    4096    directory: per region its offset, its number of slots, and whether it is
            hidden (it has no pool, or none that is ready to be read)
    8192    strings: length-prefixed UTF-8, only ever appended
    57344   regions, one per pool: a block of figures, the queue, the usage, the names,
            then the slots

A region whose pool is gone is hidden, and serves a later pool that fits. The names that
can differ from pool to pool lie in the region, so that pools that come and go do not
fill up the strings.

The queue is who has no connection yet; it changes so often that it is not worth a
block. The usage is what sizes are chosen by, at most a second old. A slot is one
connection. Blocks, queues, usages and slots begin and end with the same sequence number
and are written with one call each, so a reader who sees two different numbers caught a
write half way and reads again. A string's id is its offset in the strings; 0 is "none".
"""

from __future__ import annotations

import struct
import typing as t

from .usage import BUCKETS

MAGIC: t.Final = b"PGUARD\x00\x04"
HEADER_SIZE: t.Final = 4096
SERVED_OFFSET: t.Final = HEADER_SIZE - 1
MAX_POOLS: t.Final = 256
MAX_SLOTS: t.Final = 1024
# Whether a region is hidden is one byte, so that no reader sees half a change.
DIRECTORY: t.Final = struct.Struct("<QI3xB")
HIDDEN_OFFSET: t.Final = DIRECTORY.size - 1
DIRECTORY_OFFSET: t.Final = HEADER_SIZE
STRINGS_OFFSET: t.Final = DIRECTORY_OFFSET + MAX_POOLS * DIRECTORY.size
STRINGS_SIZE: t.Final = 48 * 1024
STRING_LENGTH: t.Final = struct.Struct("<H")
MAX_STRING: t.Final = 400
REGIONS_OFFSET: t.Final = STRINGS_OFFSET + STRINGS_SIZE
MAX_FILE_SIZE: t.Final = 8 * 1024 * 1024

# A slot: sequence, state, checkouts, since (monotonic s), server id or -1,
# endpoint, site, thread's name, sequence.
SLOT: t.Final = struct.Struct("<QQQdqII24sQ")
# No state is 0: a file that was cut off grows again as zeros, which must not count.
FREE, IDLE, OUT, KEPT = 1, 2, 3, 4

# A block: sequence; the pool's class; size and max_overflow (or
# UNKNOWN); recycle seconds, server's limit, learned limit, pool_timeout and
# held_warning (NaN for none); whether
# checkouts are counted, whether recycle goes by age; the COUNTS; updated (monotonic
# s); LEAKS times endpoint, site, count; sequence.
COUNTS: t.Final = (
    "peak_checked_out",
    "connects",
    "timeouts",
    "unavailable",
    "leaks",
    "recycled",
    "idle",
    "dead",
    "overflow",
    "invalidated",
    "closed",
    "detached",
    "slotless_out",
    "slotless_checkouts",
)
LEAKS: t.Final = 16
UNKNOWN: t.Final = -(2**63)
BLOCK: t.Final = struct.Struct(
    "<Q I qq ddddd QQ" + "Q" * len(COUNTS) + "d" + "IIQ" * LEAKS + "Q"
)

# A queue: sequence; how many wait for others to give one back, the first of them since
# (monotonic s; NaN for none); the same of those for whom one is tested or opened;
# what is wrong with the server (0 for nothing, else 1 + the index in OBSTACLES), and
# since when; sequence.
QUEUE: t.Final = struct.Struct("<QQdQdQdQ")
OBSTACLES: t.Final = ("away", "full")

# A usage: sequence; the USE figures; seconds waited in all, and at most; how often so
# many connections were in use, by bucket; sequence.
USE: t.Final = (
    "nesting",
    "threads",
    "inherited",
    "waits",
    "troubles",
    "renewed",
    "outdated",
)
USAGE: t.Final = struct.Struct(f"<Q {len(USE)}Q dd {len(BUCKETS)}Q Q")

# The names: sequence; length and UTF-8 of bind, URL and recycle source; sequence.
NAMES: t.Final = struct.Struct(f"<Q {f'H{MAX_STRING}s' * 3} Q")

# What comes before a region's slots.
SLOTS_OFFSET: t.Final = BLOCK.size + QUEUE.size + USAGE.size + NAMES.size


def region_size(slots: int) -> int:
    """Return the bytes that a pool with so many slots takes."""
    return SLOTS_OFFSET + slots * SLOT.size
