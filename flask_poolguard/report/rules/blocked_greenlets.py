"""Workers whose greenlets all stop while one waits."""

from __future__ import annotations

from collections.abc import Iterator

from ...pool import Blocker
from ..evidence import Evidence
from ..model import Finding
from .pool_use import in_worker, uses_of

_PATCH = (
    "Call gevent.monkey.patch_all() before anything else is imported, without leaving"
    " a part out"
)

# By what was seen: what is wrong, and what to do about it.
_WORDS = {
    Blocker.THREADS: ("gevent has not patched threading", _PATCH),
    Blocker.SOCKETS: ("gevent has not patched what its driver waits in", _PATCH),
    Blocker.PSYCOPG2: (
        "psycopg2 has no wait callback",
        "Call psycogreen.gevent.patch_psycopg() as the worker starts (gunicorn: in"
        " post_fork), or use psycopg 3 (postgresql+psycopg://)",
    ),
    Blocker.MYSQLCLIENT: (
        "mysqlclient waits in C, where gevent has no say",
        "Use PyMySQL (mysql+pymysql://)",
    ),
}


def find_blocked_greenlets(evidence: Evidence) -> Iterator[Finding]:
    """Find the binds whose queries, or locks, stop all requests of a worker."""
    for each in evidence.engines:
        such = [use for use in uses_of(evidence, each) if use.usage.blockers]
        if not such:
            continue
        seen = Blocker(0)
        for use in such:
            seen |= Blocker(use.usage.blockers)
        words = [_WORDS[each] for each in _WORDS if each in seen]
        stops_locks = Blocker.THREADS in seen
        yield Finding(
            "critical" if stops_locks else "warning",
            "gevent",
            f"Requests use bind {each.bind!r} in greenlets, but"
            f" {' and '.join(what for what, _ in words)}"
            f" ({in_worker(such[0], such)})",
            ". ".join(dict.fromkeys(remedy for _, remedy in words)) + ".",
            "A request that waits for a connection stops the whole worker, so that"
            " no greenlet can give one back: it waits in vain until its time is up."
            if stops_locks
            else "While one query runs, all requests of the worker stand still.",
        )
