"""`make demo` shows what it promises and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.app_server import OPENER, REPOSITORY
from tests.support.processes import children_of, command_of
from tests.support.waiting import wait_until

# It takes half a minute on a busy machine, which two of its parts wait for.
pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder in which the demo makes its temporary one."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


@contextmanager
def demo(
    folder: Path, *options: str
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """Run the demo; give its process, and what returns its output."""
    output = folder.with_name("output")
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "tools/demo.py", *options],
            cwd=REPOSITORY,
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield process, output.read_text
    finally:
        process.terminate()
        process.wait()


def wait_for(
    text: str, process: subprocess.Popen[bytes], read: Callable[[], str]
) -> None:
    """Wait until the demo has printed a text."""
    wait_until(lambda: text in read() or process.poll() is not None, seconds=150)
    assert text in read(), read()


def end(process: subprocess.Popen[bytes], signum: int) -> int:
    """Send a signal to the demo, and return its status once nothing of it is left."""
    children = children_of(process.pid)
    (server,) = (each for each in children if " gunicorn " in command_of(each))
    workers = children_of(server)
    assert len(workers) == 2
    process.send_signal(signum)
    status = process.wait(60)
    assert not any(Path(f"/proc/{pid}").exists() for pid in (server, *workers))
    return status


class TestDemo:
    def test_goes_from_the_symptom_to_the_line_to_the_fix(self, folder: Path) -> None:
        """Each part shows its point, and no file is left behind."""
        with demo(folder) as (process, read):
            assert process.wait(150) == 0, read()
        symptom, line, fix, leak = re.split(r"\n\d\. ", read())[1:]
        assert re.search(r"GET \S+ took \d+\.\d s;", symptom)
        assert "(saturated)" in line
        assert re.search(r"now at\s+example_app/faults\.py:\d+\s+in\s+slow\b", line)
        assert "db.session.commit()" in fix
        assert "\nPOOL OK - " in fix
        assert "faults.leak did not give back a connection" in leak
        assert "2 leaked connections returned; 0 still out." in leak
        assert list(folder.iterdir()) == []

    def test_stays_up_on_request_until_the_terminal_closes(self, folder: Path) -> None:
        """It says where to look, and what it says works; then nothing of it is left."""
        with demo(folder, "--keep") as (process, read):
            wait_for("beside it the live page: ", process, read)
            url, file = re.findall(r"stays up at (\S+) .*\n\n  \. (\S+)", read())[0]
            with OPENER.open(f"{url}/faults/", timeout=30) as answer:
                assert answer.status == 200
            seen = subprocess.run(
                ["sh", "-c", f". {file} && flask pool status"],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert "example_app: 2 workers" in seen.stdout, seen.stderr
            assert end(process, signal.SIGHUP) == 0
        assert list(folder.iterdir()) == []

    def test_can_be_ended_in_the_middle(self, folder: Path) -> None:
        """Nothing of it is left then either."""
        with demo(folder) as (process, read):
            wait_for("1. The symptom", process, read)
            assert end(process, signal.SIGTERM) == 130
        assert list(folder.iterdir()) == []
