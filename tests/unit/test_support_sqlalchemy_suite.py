"""SQLAlchemy's own tests are fetched safely, and their ids can be compared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import downloads
from tests.support.guarded_suite_plugin import stable_id
from tests.support.sqlalchemy_suite import MissingSuiteError, fetch_archive


def test_an_index_that_cannot_be_reached_is_named_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(MissingSuiteError, match="No matching distribution found"):
        fetch_archive()
    # Nothing half done is left to be taken for the archive.
    assert not list((tmp_path / "cache").glob("*.tar.gz"))


@pytest.mark.parametrize(
    ("node_id", "expected"),
    [
        (
            "test/engine/test_reconnect.py::RecycleTest_mariadb+pymysql_10_11::test_it",
            "test_reconnect.py::RecycleTest::test_it",
        ),
        (
            "test/engine/test_pool.py::PoolTest::test_it[GuardedPool-args0]",
            "test_pool.py::PoolTest::test_it[QueuePool-args0]",
        ),
    ],
)
def test_an_id_says_nothing_of_database_and_pool(node_id: str, expected: str) -> None:
    assert stable_id(node_id) == expected
