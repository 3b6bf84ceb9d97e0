"""Which of SQLAlchemy's own tests a guarded pool is not to pass, and why.

The list is strict: one of these that passes, or that SQLAlchemy no longer has, fails
the test run.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy


@dataclass(frozen=True, slots=True)
class Deviation:
    """One of SQLAlchemy's tests that fails because the guard is there.

    :ivar test: its id below `test/engine/`, as with a QueuePool on no backend.
    :ivar since: the first SQLAlchemy that the test fails on.
    :ivar on_servers_only: it passes on SQLite, where no QueuePool is in use.
    """

    test: str
    reason: str
    since: tuple[int, int] = (2, 0)
    on_servers_only: bool = False

    @property
    def file(self) -> str:
        """Return the name of the test's file."""
        return self.test.partition("::")[0]


_ASKS_A_MOCK = (
    "It compares all calls that a mocked connection got with a list; a guarded pool"
    " asks every new connection for its socket and its idle limit as well."
)

_COUNTS_CONNECTIONS = (
    "It counts a record that lost its connection as a connection in the pool; a guarded"
    " pool counts connections."
)

DEVIATIONS = (
    *(
        Deviation(f"test_pool.py::QueuePoolTest::{test}", _COUNTS_CONNECTIONS, (2, 1))
        for test in (
            "test_invalidate_close_interrupted",
            "test_reset_interrupted_detaches_fairy",
        )
    ),
    Deviation(
        "test_reconnect.py::PrePingRealTest::test_pre_ping_db_stays_shutdown",
        _COUNTS_CONNECTIONS,
        on_servers_only=True,
    ),
    Deviation(
        "test_pool.py::PoolDialectTest::test_queue_pool",
        "It goes on using a pool after recreate() replaced it; what comes back to a"
        " replaced guarded pool is closed, because nobody else would ever do it.",
    ),
    *(
        Deviation(f"test_pool.py::ResetOnReturnTest::{test}", _ASKS_A_MOCK)
        for test in (
            "test_custom_via_engine[False-True]",
            "test_custom_via_engine[True-True]",
            "test_plain_rollback_via_engine[False-True]",
            "test_plain_rollback_via_engine[True-True]",
        )
    ),
)


def deviations(*files: str, on_server: bool) -> dict[str, str]:
    """Return the reasons by test id, for some files and the SQLAlchemy in use.

    :param files: their names, without folders.
    """
    major, minor = sqlalchemy.__version__.split(".")[:2]
    version = (int(major), int(minor))
    return {
        deviation.test: deviation.reason
        for deviation in DEVIATIONS
        if deviation.file in files
        and version >= deviation.since
        and (on_server or not deviation.on_servers_only)
    }
