"""The measurements run and print their tables; what they find is not looked at."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from benchmarks import (
    compare,
    contenders,
    first,
    growth,
    open_load,
    others,
    overload,
    requests,
    saturation,
    timeouts,
    workers,
)
from benchmarks import trees as trees_module
from benchmarks.figures import Table, interval
from benchmarks.one_tree import MEASUREMENTS
from benchmarks.processes import REPOSITORY
from benchmarks.saturation import Case
from benchmarks.trees import PACKAGE, NotMeasuredError, Tree, trees
from tests.support.servers import MariaDBServer

pytestmark = pytest.mark.process


def printed(tables: Iterator[Table]) -> str:
    """Return all tables as a terminal shows them."""
    return "\n".join(table.text() for table in tables)


class TestWithoutServer:
    def test_requests_times_each_view(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(requests, "ROUNDS", 2)
        monkeypatch.setattr(requests, "TURNS", 3)
        text = printed(requests.run())
        assert "2 rounds of 3 requests" in text
        for view in ("a view that returns a string", "db.session", "engine.connect()"):
            assert view in text

    def test_growth_has_a_row_for_each_number(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(growth, "ROUNDS", 2)
        monkeypatch.setattr(growth, "SECONDS", 0.2)
        monkeypatch.setattr(growth, "TURNS", 3)
        for numbers in ("WAITING_THREADS", "CONNECTIONS", "ENGINES"):
            monkeypatch.setattr(growth, numbers, (1, 3))
        monkeypatch.setattr(growth, "TURNS_OF_A_REQUEST", (1, 3))
        tables = list(growth.run())
        assert len(tables) == 5
        for table in tables:
            assert [row[0] for row in table.rows] == ["1", "3"]
        assert len({table.curve.name for table in tables if table.curve}) == 5

    def test_timeouts_counts_each_timeout(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(timeouts, "ROUNDS", 2)
        monkeypatch.setattr(timeouts, "TIMEOUTS", 2)
        monkeypatch.setattr(timeouts, "TIMEOUT_SECONDS", 0.01)
        text = printed(timeouts.run())
        assert "5 held, 32 threads wait 0.01 s, 2 rounds of 64 timeouts" in text


@pytest.fixture
def lent_mariadb(mariadb_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let measurements use the tests' server in place of one of their own."""

    @contextlib.contextmanager
    def database(_: object) -> Iterator[tuple[str, URL]]:
        yield "MariaDB", mariadb_url

    for module in (first, saturation, overload, others, workers):
        monkeypatch.setattr(module, "database", database)


@pytest.mark.usefixtures("lent_mariadb")
class TestFirst:
    def test_first_sets_cold_beside_warm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(first, "ROUNDS", 2)
        monkeypatch.setattr(first, "SERVERS", (MariaDBServer,))
        text = printed(first.run())
        assert "The first request of a worker, 2 of each" in text
        assert "POOLGUARD_MIN_IDLE = 1" in text


@pytest.mark.usefixtures("lent_mariadb")
class TestUnderGunicorn:
    @pytest.fixture(autouse=True)
    def short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Do without warming up."""
        monkeypatch.setattr(saturation, "WARM_SECONDS", 0.0)
        monkeypatch.setattr(overload, "WARM_SECONDS", 0.0)

    def test_saturation_tries_each_case_on_its_servers(self) -> None:
        cases = Case(2, 5, 1, 1, 0.001), Case(1, 5, 1, 1, 0.001, servers=())
        text = printed(saturation.run(cases=cases, servers=(MariaDBServer,)))
        assert "2×1 ms, 5 s" in text
        assert "good/s" in text
        assert "1×1 ms" not in text

    def test_overload_tries_each_load(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(overload, "LOADS", (0.5, 2))
        text = printed(overload.run(cases=(Case(1, 5, 1, 1, 0.005),)))
        assert "MariaDB, 1×5 ms, 5 s, capacity" in text
        assert "0.5 × capacity" in text
        assert "2 × capacity" in text


@pytest.mark.usefixtures("lent_mariadb")
class TestOthers:
    @pytest.fixture(autouse=True)
    def short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Do without warming up."""
        for name in ("BATCHES", "TURNS", "ROUNDS"):
            monkeypatch.setattr(others, name, 1)
        for name in ("WARM_SECONDS", "SECONDS"):
            monkeypatch.setattr(others, name, 0.2)

    def test_all_that_the_database_has_are_set_beside_stock(self) -> None:
        text = printed(others.run((MariaDBServer,)))
        for kind in ("guarded", "pre_ping", "DBUtils", "one per thread"):
            assert text.count(f"\n{kind}  ") == 2
        assert "\nPgBouncer  " not in text

    def test_what_is_not_installed_is_named_with_its_remedy(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "dbutils.pooled_db", None)
        kinds = {kind: contenders.CONTENDERS[kind] for kind in ("stock", "DBUtils")}
        monkeypatch.setattr(others, "CONTENDERS", kinds)
        text = printed(others.run((MariaDBServer,)))
        assert text.count("not installed: pip install DBUtils") == 2


@pytest.mark.usefixtures("lent_mariadb")
def test_workers_reads_a_file_of_each_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WORKERS", (1, 3))
    monkeypatch.setattr(workers, "RUNS", 1)
    files, commands = workers.run()
    for table in (files, commands):
        assert [row[0] for row in table.rows] == ["1", "3"]


class TestOpenLoad:
    def test_a_client_gives_up_what_is_not_answered(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(open_load, "PATIENCE_SECONDS", 0.01)
        monkeypatch.setattr(open_load, "DRAIN_SECONDS", 60.0)
        with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
            port = silent.getsockname()[1]
            seen = open_load.arrive(port, "/", rate=100, warm=0, seconds=0.2)
        assert (seen.given_up, seen.unanswered, seen.failures) == (20, 0, 0)
        assert seen.latencies == []

    def test_a_refused_connection_is_a_failure(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(open_load, "DRAIN_SECONDS", 60.0)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # and does not listen
            port = taken.getsockname()[1]
            seen = open_load.arrive(port, "/", rate=100, warm=0, seconds=1)
        assert seen.latencies == []
        assert seen.failures > 0
        assert (seen.given_up, seen.unanswered) == (0, 0)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Return two folders, each with the package of this tree."""
    made = {}
    for kind in (compare.BASE, compare.HERE):
        made[kind] = tmp_path / kind.replace(" ", "_")
        made[kind].mkdir()
        (made[kind] / PACKAGE).symlink_to(REPOSITORY / PACKAGE)
    return made


class TestCompare:
    @pytest.fixture(autouse=True)
    def short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run one batch each, on SQLite alone."""
        monkeypatch.setattr(compare, "BATCHES", dict.fromkeys(MEASUREMENTS, 1))
        monkeypatch.setattr(compare, "SERVERS", ())

    @pytest.mark.timeout(300)  # ten processes, one after the other on one core
    def test_measures_both_trees(self, folders: dict[str, Path]) -> None:
        names = ["requests", "checkout", "timeouts", "imports"]
        text = printed(compare.compare(folders, names, 1))
        assert "not measured" not in text
        for name in names:
            assert f"{name}, rounds: 1" in text

    def test_a_tree_that_cannot_be_measured_is_named(
        self, folders: dict[str, Path]
    ) -> None:
        package = folders[compare.BASE] / PACKAGE
        package.unlink()
        package.mkdir()
        (package / "__init__.py").write_text("raise ImportError('too old')")
        text = printed(compare.compare(folders, ["timeouts"], 1))
        assert "base: ImportError: too old" in text

    def test_a_guard_from_elsewhere_is_refused(self, folders: dict[str, Path]) -> None:
        (folders[compare.BASE] / PACKAGE).unlink()
        with (
            pytest.raises(NotMeasuredError, match="The guard came from"),
            Tree("timeouts", folders[compare.BASE], {}),
        ):
            pass

    def test_what_is_no_commit_is_named_in_one_line(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.compare", "no-such-commit"],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
        )
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("No commit to compare with: 'no-such-commit'")

    def test_takes_the_package_of_a_commit_and_of_this_tree(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def git(*words: str) -> None:
            subprocess.run(["git", "-C", str(tmp_path), *words], check=True)

        module = tmp_path / PACKAGE / "__init__.py"
        module.parent.mkdir()
        module.write_text("old = True")
        git("init", "--quiet")
        git("add", ".")
        git(
            *[
                "-c",
                "user.name=A",
                "-c",
                "user.email=a@b",
                "commit",
                "--quiet",
                "-m",
                "Old",
            ]
        )
        module.write_text("old = False")
        monkeypatch.setattr(trees_module, "REPOSITORY", tmp_path)
        with trees("HEAD") as found:
            texts = [(f / PACKAGE / "__init__.py").read_text() for f in found]
        assert texts == ["old = True", "old = False"]
        assert not any(folder.exists() for folder in found)


@pytest.mark.parametrize(
    ("count", "limits"), [(5, None), (6, (1, 6)), (9, (2, 8)), (12, (3, 10))]
)
def test_the_interval_of_a_median_leaves_out_as_many_as_it_may(
    count: int, limits: tuple[float, float] | None
) -> None:
    assert interval(range(1, count + 1)) == limits
