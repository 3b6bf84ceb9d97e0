"""The file of a budget: whose places, and what becomes of them with the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flask_poolguard.budget import Standing, find_standing, shared_file
from flask_poolguard.budget.layout import Row
from flask_poolguard.budget.shared_file import BudgetError, BudgetFile, file_name
from tests.support.forking import MAY_DEADLOCK, fork_without_hooks, in_child
from tests.support.waiting import wait_until

NAME = file_name(["shop", "server", "user"])
FORKS = [os.fork, fork_without_hooks]

pytestmark = pytest.mark.filterwarnings(MAY_DEADLOCK)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Return a state folder."""
    return str(tmp_path / "state")


@pytest.fixture
def file(folder: str) -> BudgetFile:
    """Return this process's way to the file."""
    return BudgetFile.open(folder, NAME)


class Sleeper:
    """A forked process that took places, and waits to be ended."""

    def __init__(self, file: BudgetFile, *places: int) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            answer = b"y" if all(map(file.lock, places)) else b"n"
            number = file.join()
            if number is not None:
                row = Row(0.0, 1.0, False, len(places), 0, 0, 10, "sleeper")
                file.write(number, row)
            os.write(writer, answer)
            signal.pause()
            os._exit(0)
        self.has_them = os.read(reader, 1) == b"y"
        os.close(reader)
        os.close(writer)

    def kill(self) -> None:
        """End it as the kernel does when there is no memory left."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def sleep(file: BudgetFile) -> Iterator[Callable[..., Sleeper]]:
    """Return what starts sleepers, and end them."""
    started: list[Sleeper] = []

    def start(*places: int) -> Sleeper:
        started.append(Sleeper(file, *places))
        return started[-1]

    yield start
    for each in started:
        try:
            each.kill()
        except (ProcessLookupError, ChildProcessError):
            continue


class TestPlaces:
    def test_are_had_by_one_process_at_a_time(
        self, file: BudgetFile, sleep: Callable[..., Sleeper]
    ) -> None:
        assert sleep(3).has_them
        assert not sleep(3).has_them
        assert not file.lock(3)
        assert file.lock(4)
        assert not in_child(lambda: file.lock(4))

    def test_stay_when_the_file_is_opened_again(
        self, file: BudgetFile, folder: str
    ) -> None:
        """Closing any descriptor of it would free them all."""
        assert file.lock(1)
        again = BudgetFile.open(folder, NAME)
        assert again is file
        assert not in_child(lambda: file.lock(1))

    def test_are_free_when_the_process_is_killed(
        self, file: BudgetFile, sleep: Callable[..., Sleeper]
    ) -> None:
        sleeper = sleep(0, 1, 2)
        assert not file.lock(1)
        sleeper.kill()
        assert file.holders(10) == {}
        assert file.lock(1)

    @pytest.mark.parametrize("fork", FORKS)
    def test_of_a_parent_are_not_its_childs(
        self, file: BudgetFile, fork: Callable[[], int]
    ) -> None:
        file.lock(0)
        assert in_child(lambda: file.lock(1), fork=fork)
        assert in_child(lambda: sorted(file.holders(10)), fork=fork) == [os.getpid()]
        assert not in_child(lambda: file.lock(0), fork=fork)

    def test_of_a_parent_are_free_when_it_ends_and_its_child_lives(
        self, file: BudgetFile
    ) -> None:
        reader, writer = os.pipe()
        parent = os.fork()
        if parent == 0:
            file.lock(0)
            child = os.fork()
            if child == 0:
                signal.pause()
                os._exit(0)
            os.write(writer, str(child).encode())
            signal.pause()
            os._exit(0)
        child = int(os.read(reader, 20))
        os.close(reader)
        os.close(writer)
        assert not file.lock(0)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        assert file.lock(0)
        os.kill(child, signal.SIGKILL)

    def test_are_all_counted_in_whichever_order_they_were_taken(
        self, file: BudgetFile, sleep: Callable[..., Sleeper]
    ) -> None:
        """The kernel names any lock in a range, and not the first."""
        first, second, third = sleep(9, 2, 3), sleep(0, 8), sleep(5)
        file.lock(4)
        assert file.holders(10) == {
            first.pid: 3,
            second.pid: 2,
            third.pid: 1,
        }
        assert file.holders(5) == {first.pid: 2, second.pid: 1}

    def test_and_their_holders_are_seen_from_elsewhere(
        self, file: BudgetFile, folder: str, sleep: Callable[..., Sleeper]
    ) -> None:
        sleeper = sleep(0, 1)
        found = find_standing(folder, ["shop", "server", "user"], 10)
        assert found is not None
        assert str(found) == (
            f"2 of 10 places of this host are taken: 2 by worker {sleeper.pid}"
            " (sleeper)"
        )
        assert find_standing(folder, ["another"], 10) is None
        assert str(Standing(10, ())) == "0 of 10 places of this host are taken"


class TestRows:
    def test_of_dead_processes_are_not_read(
        self, file: BudgetFile, sleep: Callable[..., Sleeper]
    ) -> None:
        sleeper = sleep()
        assert [(pid, row.app) for pid, row in file.rows().values()] == [
            (sleeper.pid, "sleeper")
        ]
        sleeper.kill()
        assert file.rows() == {}

    def test_cut_a_long_name_between_characters(self, file: BudgetFile) -> None:
        number = file.join()
        assert number is not None
        file.write(number, Row(2.0, 1.0, True, 3, 2, 1, 9, "가" * 40))
        rows = in_child(file.rows)
        row = Row(2.0, 1.0, True, 3, 2, 1, 9, "가" * 16)
        assert rows == {number: (os.getpid(), row)}
        assert file.is_wished_for()


def test_lies_in_one_folder_with_and_without_a_login(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Unlike state files, which lie in the folder of a login while there is one."""
    before = shared_file._folders(None)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert shared_file._folders(None) == before
    assert not any(each.startswith((str(tmp_path), "/run/user")) for each in before)
    assert shared_file._folders("/srv/state") == ["/srv/state"]


class TestADescriptor:
    def test_that_is_closed_by_another_is_noticed(
        self, file: BudgetFile, folder: str, tmp_path: Path
    ) -> None:
        """Its number may be that of a file of the app's by now."""
        assert file.lock(1)
        number = file.join()
        os.close(file._fd)
        other = os.open(tmp_path / "the app's own", os.O_RDWR | os.O_CREAT)
        assert other == file._fd
        assert not file.is_there()
        with pytest.raises(BudgetError, match="was closed"):
            file.write(number or 0, Row(1.0, 1.0, True, 0, 0, 0, 1, "shop"))
        with pytest.raises(BudgetError, match="was closed"):
            file.check()
        file.unlock(1)
        assert (tmp_path / "the app's own").read_bytes() == b""
        again = BudgetFile.open(folder, NAME)
        assert again is not file
        assert again.lock(2)
        os.close(other)

    def test_is_one_however_often_the_file_is_looked_into(
        self, file: BudgetFile, folder: str
    ) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            assert BudgetFile.find(folder, NAME) is file
            assert BudgetFile.find(folder, "another") is None
        assert len(os.listdir("/proc/self/fd")) == before


class TestAFileThatCannotBeTrusted:
    def test_is_missed(self, file: BudgetFile) -> None:
        assert file.is_there()
        os.unlink(file.path)
        assert not file.is_there()
        Path(file.path).write_bytes(b"")
        assert not file.is_there()

    @pytest.mark.parametrize(
        ("make", "why"),
        [
            (lambda path: path.write_text("x" * 1_000_000), "open to others"),
            (lambda path: path.symlink_to("/etc/passwd"), "symbolic"),
            (lambda path: path.mkdir(), "directory"),
            (lambda path: os.mkfifo(path, 0o600), "not a file of this user's"),
        ],
    )
    def test_is_refused(
        self, folder: str, make: Callable[[Path], object], why: str
    ) -> None:
        os.mkdir(folder, 0o700)
        make(Path(folder) / NAME)
        with pytest.raises(BudgetError, match=f"(?i){why}"):
            BudgetFile.open(folder, NAME)
        assert find_standing(folder, ["shop", "server", "user"], 10) is None

    def test_of_another_kind_is_refused(self, folder: str) -> None:
        os.mkdir(folder, 0o700)
        path = Path(folder) / NAME
        path.touch(0o600)
        path.write_bytes(b"x" * 1_000_000)
        with pytest.raises(BudgetError, match="remove it"):
            BudgetFile.open(folder, NAME)

    def test_is_read_as_far_as_it_goes(
        self, file: BudgetFile, sleep: Callable[..., Sleeper]
    ) -> None:
        sleep(1)
        os.truncate(file.path, 100)
        assert file.rows() == {}
        assert sum(file.holders(10).values()) == 1
        wait_until(lambda: file.is_wished_for() is True)  # unknown: look closer

    def test_stands_in_a_folder_that_others_can_write_to(self, folder: str) -> None:
        os.mkdir(folder)
        os.chmod(folder, 0o720)
        with pytest.raises(BudgetError, match="writable by others"):
            BudgetFile.open(folder, NAME)
