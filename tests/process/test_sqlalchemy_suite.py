"""SQLAlchemy's own tests of its QueuePool pass on a guarded pool as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import URL

from tests.support import not_tested
from tests.support.guarded_suite_plugin import GUARDED, STOCK
from tests.support.servers import DatabaseServer
from tests.support.sqlalchemy_deviations import deviations
from tests.support.sqlalchemy_suite import (
    POOL_TESTS,
    RECONNECT_TESTS,
    MissingSuiteError,
    SuiteProcess,
    SuiteRun,
    fetch_archive,
)

pytestmark = pytest.mark.process

Start = Callable[..., SuiteProcess]


@pytest.fixture
def databases(served_server: DatabaseServer) -> Iterator[list[URL]]:
    """Create two databases on one server, and drop them in the end."""
    names = [served_server.create_database() for _ in range(2)]
    yield [served_server.url(database=name) for name in names]
    for name in names:
        served_server.drop_database(name)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts SQLAlchemy's tests on a kind of pool.

    What it started ends with the test.
    """
    try:
        archive = fetch_archive()
    except MissingSuiteError as error:
        not_tested.stop_test(str(error))

    with ExitStack() as started:

        def starter(pool: str, *files: str, url: URL | None = None) -> SuiteProcess:
            folder = tmp_path / pool
            folder.mkdir()
            process = SuiteProcess(
                archive, pool=pool, files=files, url=url, folder=folder
            )
            started.callback(process.stop)
            return process

        yield starter


def assert_like_stock(
    stock: SuiteRun, guarded: SuiteRun, files: Sequence[str], *, on_server: bool
) -> None:
    """Check that the guarded pool passes what QueuePool does, but what is listed."""
    print(f"SQLAlchemy {sqlalchemy.__version__} from {guarded.sqlalchemy}")
    print(f"QueuePool: {stock.summary()}")
    print(f"GuardedPool: {guarded.summary()}")
    assert {stock.sqlalchemy, guarded.sqlalchemy} == {sqlalchemy.__file__}
    assert not stock.tests("failed"), stock.log
    assert not guarded.tests("failed"), guarded.log
    assert guarded.tests("skipped") == stock.tests("skipped")
    listed = set(deviations(*files, on_server=on_server))
    assert guarded.tests("xfailed") == listed, "SQLAlchemy has not all that are listed."
    assert guarded.tests("passed") == stock.tests("passed") - listed
    # Neither run is what it claims to be unless its pools were the right ones.
    assert "GuardedPool" not in stock.pools
    assert "QueuePool" not in guarded.pools
    assert guarded.pools["GuardedPool"] > 100


def test_pool_and_reconnect_tests_pass_as_they_do_with_a_queue_pool(
    start: Start,
) -> None:
    files = (POOL_TESTS, RECONNECT_TESTS)
    processes = start(STOCK, *files), start(GUARDED, *files)
    stock, guarded = (process.finish() for process in processes)
    assert_like_stock(stock, guarded, files, on_server=False)
    assert len(guarded.tests("passed")) > 100


def test_reconnect_tests_pass_on_real_servers(
    databases: list[URL], start: Start
) -> None:
    processes = [
        start(pool, RECONNECT_TESTS, url=url)
        for pool, url in zip((STOCK, GUARDED), databases, strict=True)
    ]
    stock, guarded = (process.finish() for process in processes)
    assert_like_stock(stock, guarded, [RECONNECT_TESTS], on_server=True)
    # On SQLite these are skipped, or run on a pool of another kind.
    assert guarded.tests("passed") >= {
        "test_reconnect.py::RecycleTest::test_basic",
        "test_reconnect.py::RealReconnectTest::test_rollback_on_invalid_twophase",
    }
