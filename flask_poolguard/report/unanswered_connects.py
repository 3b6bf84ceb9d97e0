"""Whether a server accepted a TCP connect that it does not answer.

A machine that is gone does not even do that; a server that hangs does, or rather its
kernel for it. Told by this process's own sockets, and not by one connect more: of those
that are broken off MySQL takes a host for an attacker (``max_connect_errors``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from sqlalchemy import URL

from ..urls import server_key

# Of proc(5), with a line for each socket of the network namespace.
_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
_ESTABLISHED = "01"
_PREFIX = "socket:["


def own_sockets() -> frozenset[str]:
    """Return the inodes of this process's sockets; none where there is no ``/proc``."""
    return frozenset(_sockets())


def took_connect(url: URL, before: frozenset[str]) -> bool:
    """Tell whether this process has a new socket that is connected to a server.

    :param before: the inodes of its older ones.
    """
    key = server_key(url)
    if key is None:
        return False
    _, host, port = key
    if host.startswith(("/", "@")):  # a Unix socket: either at once or not at all
        return True
    new = own_sockets() - before
    # Field 3 is the other side's address and port, 4 the state, 10 the inode.
    return any(
        fields[3] == _ESTABLISHED
        and fields[9] in new
        and int(fields[2].rpartition(":")[2], 16) == port
        for fields in _rows()
    )


def _sockets() -> Iterator[str]:
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return
    for name in names:
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # closed meanwhile
            continue
        if target.startswith(_PREFIX):
            yield target.removeprefix(_PREFIX).rstrip("]")


def _rows() -> Iterator[list[str]]:
    for table in _TABLES:
        try:
            with open(table, encoding="ascii") as file:
                next(file, None)
                yield from map(str.split, file)
        except OSError:  # no IPv6
            continue
