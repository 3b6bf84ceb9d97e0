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
    """

    test: str
    reason: str
    since: tuple[int, int] = (2, 0)

    @property
    def file(self) -> str:
        """Return the name of the test's file."""
        return self.test.partition("::")[0]


_ASKS_FOR_LIMIT = (
    "It compares all calls that a mocked MySQL connection got with a list; a guarded"
    " pool asks every new connection for its idle limit as well."
)

DEVIATIONS = (
    Deviation(
        "test_pool.py::PoolDialectTest::test_queue_pool",
        "It goes on using a pool after recreate() replaced it; what comes back to a"
        " replaced guarded pool is closed, because nobody else would ever do it.",
    ),
    *(
        # Before 2.1 these mock PostgreSQL, which is asked only what is not a mock.
        Deviation(f"test_pool.py::ResetOnReturnTest::{test}", _ASKS_FOR_LIMIT, (2, 1))
        for test in (
            "test_custom_via_engine[False-True]",
            "test_custom_via_engine[True-True]",
            "test_plain_rollback_via_engine[False-True]",
            "test_plain_rollback_via_engine[True-True]",
        )
    ),
)


def deviations(*files: str) -> dict[str, str]:
    """Return the reasons by test id, for some files and the SQLAlchemy in use.

    :param files: their names, without folders.
    """
    major, minor = sqlalchemy.__version__.split(".")[:2]
    version = (int(major), int(minor))
    return {
        deviation.test: deviation.reason
        for deviation in DEVIATIONS
        if deviation.file in files and version >= deviation.since
    }
