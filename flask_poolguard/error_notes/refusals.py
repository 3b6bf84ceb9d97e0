"""Notes on checkouts that got no connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .wording import note, seconds

_FULL = "1040"
_LOGIN = "1045"


@dataclass(frozen=True, slots=True)
class Room:
    """What a pool has and may have.

    :ivar out: connections that are in use.
    :ivar size: None for a pool that has none; so is ``max_overflow``.
    :ivar waiting: how many wait for one.
    :ivar is_auto: its sizes follow what is asked for.
    """

    bind: str
    open: int
    out: int
    size: int | None
    max_overflow: int | None
    waiting: int = 0
    is_auto: bool = False


def explain_full(room: Room) -> str:
    """Return the note of an error that a server with no room gave."""
    fewer = (
        "Lower or set POOLGUARD_BUDGET, at which automatic sizes end, lower"
        if room.is_auto
        else "Lower POOLGUARD_MAX_OVERFLOW, then POOLGUARD_POOL_SIZE or"
    )
    return note(
        "the server takes no more connections."
        f" Bind {room.bind!r} of this process has {_connections(room.open)}"
        f"{_most(room)}.",
        "all processes and programs together have as many as the server allows"
        " (max_connections, or the limit of this user, role or database).",
        "`flask pool doctor` compares what the workers may open with what the server"
        f" allows. {fewer} the number of workers, or raise the server's limit.",
        _FULL,
    )


def explain_budget(room: Room) -> str:
    """Return the note of an error that says that the budget's places are all taken."""
    return note(
        "POOLGUARD_BUDGET allows no more connections on this host. Bind"
        f" {room.bind!r} of this process has {_connections(room.open)}{_most(room)}.",
        "the workers named in the error have all places, and none of these connections"
        " is idle, or it was given to a request that had waited for longer.",
        "raise POOLGUARD_BUDGET if the server bears it (`flask pool doctor`), or the"
        ' server\'s own limit if it is "auto"; or run fewer threads. Shorter'
        " transactions help too.",
        "places of this host are taken",
    )


def explain_away(bind: str, connect_retry: float | None) -> str:
    """Return the note of an error that says that no server answers.

    :param connect_retry: seconds; None if it was tried once only.
    """
    tried = (
        ""
        if connect_retry is None
        else (f" It was tried for up to POOLGUARD_CONNECT_RETRY = {connect_retry:g} s.")
    )
    return note(
        f"no connection of bind {bind!r} could be made.{tried}",
        "the server is down or restarts, or the way to it is cut.",
        "see that it runs and that host and port are right; `flask pool status` says"
        " whether it answers now.",
        "2003",
    )


def explain_login(bind: str) -> str:
    """Return the note of an error that says that the server refused the login."""
    return note(
        f"the server refuses the login of bind {bind!r}.",
        "the password was changed, the user may not log in from this host, or not into"
        " this database.",
        "compare user, password, host and database in the bind's URL with what the"
        " server allows; each request tries again, so no restart is needed once the"
        " server accepts them.",
        _LOGIN,
    )


def explain_timeout(room: Room, timeout: float, held: Sequence[float]) -> str:
    """Return the note of an error that says that no connection came free.

    :param timeout: for how many seconds it was waited.
    :param held: for how many seconds each connection that is out is held.
    """
    waiting = f"; {room.waiting} more wait" if room.waiting else ""
    what = (
        f"all {_connections(room.out)} of bind {room.bind!r} in this process are in"
        f" use{_most(room)}{waiting}."
    )
    see = "QueuePool limit"
    long = sum(each >= timeout for each in held)
    longest = max(held, default=0.0)
    if long == 0 and held:
        return note(
            what,
            f"none is held for as long as the {seconds(timeout)} of pool_timeout (the"
            f" longest for {seconds(longest)}), so they do come back: more threads want"
            " a connection than there are.",
            f"raise {_sizes(room)} if the server bears it (`flask pool doctor`), or run"
            " fewer threads; shorter transactions help too.",
            see,
        )
    return note(
        what,
        f"{long} of them {'is' if long == 1 else 'are'} held for longer than"
        f" the {seconds(timeout)} of pool_timeout (the longest for"
        f" {seconds(longest)}), at the lines that the error names.",
        "give them back there: before slow work that needs no database, and in any"
        " case by a with block.",
        see,
    )


def _sizes(room: Room) -> str:
    if room.is_auto:
        return "or set POOLGUARD_BUDGET, at which automatic sizes end,"
    return "POOLGUARD_MAX_OVERFLOW or POOLGUARD_POOL_SIZE"


def _connections(count: int) -> str:
    return "1 connection" if count == 1 else f"{count} connections"


def _most(room: Room) -> str:
    if room.size is None or room.max_overflow is None:
        return ""
    if room.max_overflow < 0:
        return f" and no limit (POOLGUARD_POOL_SIZE {room.size}, any overflow)"
    most = room.size + room.max_overflow
    return (
        f" of at most {most} (POOLGUARD_POOL_SIZE {room.size} + POOLGUARD_MAX_OVERFLOW"
        f" {room.max_overflow})"
    )
