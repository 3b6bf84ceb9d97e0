"""How `flask pool status` prints: piped, on a terminal, again and again, as JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import termios
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.support import desk
from tests.support.app_server import REPOSITORY
from tests.support.database_server import APP_PASSWORD
from tests.support.desk import DeskServer, environment

pytestmark = pytest.mark.process

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def names(found: desk.Json) -> str:
    """Return the names in a JSON object, in their order."""
    return " ".join(found)


def in_shell(env: dict[str, str], line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell."""
    return subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=REPOSITORY,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class TestOutput:
    def test_piped_text_is_plain_and_fits_eighty_columns(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url, POOL_RECYCLE="50000")
        with DeskServer(tmp_path, env, workers=2, threads=4) as server:
            server.wake()
            server.get("/leak")
            server.hold(2)
            text = desk.run_status(env)
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 80
        assert str(mariadb_url.database) in text
        assert "  WARNING leak: " in text
        assert "    fix: Use the connection in a with block" in text
        assert "Held now, longest first" in text

    def test_a_terminal_gets_colours(self, mariadb_url: URL) -> None:
        text, code = on_terminal(environment(mariadb_url))
        assert code == 0
        assert ANSI.search(text)
        assert all(len(ANSI.sub("", line)) <= 80 for line in text.splitlines())

    def test_no_color_turns_them_off(self, mariadb_url: URL) -> None:
        env = environment(mariadb_url, NO_COLOR="1")
        text, _ = on_terminal(env)
        assert "no-workers" in text
        assert "\x1b" not in text

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_an_output_that_cannot_encode_everything_is_no_error(
        self, tmp_path: Path, mariadb_url: URL, encoding: str
    ) -> None:
        env = environment(mariadb_url, PYTHONIOENCODING=encoding)
        with DeskServer(tmp_path, env) as server:
            server.wake()
            assert "Servers" in desk.run_status(env)

    def test_json_of_each_command_begins_with_the_verdict_of_its_text(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, threads=2) as server:
            server.get("/leak")
            seen = {
                command: (
                    json.loads(desk.run_pool(env, *command.split(), "--json")),
                    " ".join(desk.run_pool(env, *command.split()).split()),
                )
                for command in (
                    *("status", "top --count=1", "holders", "doctor --seconds=0"),
                    *("history", "config", "advise"),
                )
            }
        for command, (found, text) in seen.items():
            assert next(iter(found)) == "verdict", command
            assert names(found["verdict"]) == "level text"
            level, said = found["verdict"]["level"], found["verdict"]["text"]
            if command == "advise":  # it says how long the worker has lived
                said = said.partition(" in ")[0]
            assert text.startswith(f"{level.upper()} {said}"), command
        leaks = [found["verdict"] for found, _ in list(seen.values())[:5]]
        assert {each["level"] for each in leaks} == {"warning"}
        assert all(each["text"].endswith(" (leak)") for each in leaks)

    def test_json_has_the_documented_names_and_no_others(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, threads=2) as server:
            server.hold(1)
            server.get("/leak")
            report = desk.status(env)
        worker = report["workers"][0]
        pool = worker["pools"][0]
        assert report["schema_version"] == 1
        assert names(report) == (
            "verdict schema_version taken_at app workers servers findings"
        )
        assert (
            names(worker)
            == "pid host started_at alive updated_seconds_ago stopped pools root_path"
        )
        assert names(pool) == (
            "bind url pool_class size max_overflow has_auto_size has_auto_overflow"
            " swings checked_out idle overflow waiting"
            " oldest_wait_seconds connecting oldest_connect_seconds"
            " longest_connect_seconds obstacle"
            " obstacle_seconds longest_held_seconds recycle_seconds recycle_source"
            " peak_checked_out checkouts connects timeouts unavailable"
            " refused_writes deadlocks deadlock_line"
            " timeout_seconds held_warning_seconds leaks closed usage holders"
            " waiting_lines"
        )
        assert names(pool["closed"]) == (
            "recycled idle dead overflow invalidated closed detached"
        )
        assert names(pool["usage"]) == (
            "nesting threads inherited waits waited_seconds longest_wait_seconds demand"
            " server_threads"
        )
        assert names(pool["holders"][0]) == (
            "held_seconds endpoint site thread server_id gone kept now now_seconds"
        )
        assert names(report["servers"][0]) == (
            "bind product reachable idle_timeout_seconds max_connections connections"
            " ours reserved sessions sessions_hidden failure budget budget_taken"
            " budget_holders budget_told"
        )
        assert names(report["findings"][0]) == (
            "level code message fix consequence summary"
        )

    @pytest.mark.parametrize("way", [">/dev/full", ">&-"])
    @pytest.mark.parametrize(
        "command",
        [
            "status",
            "status --json",
            "status --watch 1",
            "top --count 1",
            "holders",
            "doctor --seconds 0",
            "config",
            "config --json",
            "advise",
            "recycle --allow-none",
        ],
    )
    def test_one_that_cannot_be_written_is_one_line_and_a_status_of_its_own(
        self, sqlite_url: URL, command: str, way: str
    ) -> None:
        if way == ">/dev/full" and not Path("/dev/full").exists():
            pytest.skip("this platform has no /dev/full")
        line = f"{shlex.join([*desk.POOL, *command.split()])} {way}"
        done = in_shell(environment(sqlite_url), line)
        assert done.returncode == 2, done.stderr
        (error,) = done.stderr.splitlines()
        assert error.startswith("Error: The output could not be written: ")

    def test_one_whose_reader_has_seen_enough_ends_without_a_word(
        self, sqlite_url: URL
    ) -> None:
        commands = [
            shlex.join([*desk.POOL, "status", "--watch", "0.1"]),
            "head -n 1",
        ]
        done = in_shell(environment(sqlite_url), " | ".join(commands))
        assert done.stdout.startswith("UNKNOWN  no live worker")
        assert done.stderr == ""


class TestWatch:
    def test_prints_one_json_document_per_line_until_interrupted(
        self, mariadb_url: URL
    ) -> None:
        with desk.watching(
            environment(mariadb_url), "status", "--watch=0.1", "--json"
        ) as process:
            assert process.stdout is not None
            reports = [json.loads(process.stdout.readline()) for _ in range(2)]
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert reports[0]["taken_at"] < reports[1]["taken_at"]
        assert process.returncode == 0
        assert errors == ""

    def test_appends_reports_where_there_is_no_terminal(self, mariadb_url: URL) -> None:
        headlines = 0
        with desk.watching(
            environment(mariadb_url), "status", "--watch=0.1"
        ) as process:
            assert process.stdout is not None
            while headlines < 2:
                line = process.stdout.readline()
                assert line, "the command ended by itself"
                assert "\x1b" not in line
                headlines += line.startswith("desk: no live worker")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert errors == ""

    def test_clears_a_terminal_between_reports(self, mariadb_url: URL) -> None:
        env = environment(mariadb_url)
        text, code = on_terminal(env, "--watch=0.1", until="taken at", times=2)
        assert code == 0
        assert text.count("\x1b[2J") >= 2
        assert "Traceback" not in text

    @pytest.mark.parametrize("arguments", ["status --watch=0.1", "top --interval=0.1"])
    def test_no_page_is_higher_than_the_terminal(
        self, tmp_path: Path, mariadb_url: URL, arguments: str
    ) -> None:
        command, option = arguments.split()
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, threads=4) as server:
            server.hold(3)
            text, _ = on_terminal(
                env, option, until="\x1b[2J", times=3, command=command, rows=10
            )
        _, *pages = text.split("\x1b[2J")
        assert len(pages) >= 3
        for page in pages[:-1]:
            assert "OUT" in page
            assert page.count("\n") == 9

    @pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon", "1e9"])
    def test_a_senseless_pause_is_refused(self, mariadb_url: URL, seconds: str) -> None:
        done = desk.ask(environment(mariadb_url), "status", "--watch", seconds)
        assert done.returncode == 2
        assert "--watch" in done.stderr
        assert "Traceback" not in done.stderr


def on_terminal(
    env: dict[str, str],
    *arguments: str,
    until: str = "",
    times: int = 1,
    command: str = "status",
    rows: int = 24,
) -> tuple[str, int]:
    """Run the command on a terminal of 80 columns; return its text and exit code.

    :param until: send Ctrl-C when this was seen.
    :param times: so many times.
    :param command: of `flask pool`.
    :param rows: of the terminal.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (rows, 80))
    # Both would count for more than the terminal's own size.
    own = {k: v for k, v in os.environ.items() if k not in ("LINES", "COLUMNS")}
    process = subprocess.Popen(
        [*desk.POOL, command, *arguments],
        cwd=REPOSITORY,
        env={**own, "TERM": "xterm", **env},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    text = b""
    try:
        while True:
            try:
                text += os.read(ours, 65536)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if until and text.count(until.encode()) >= times:
                until = ""
                process.send_signal(signal.SIGINT)
        code = process.wait(30)
    finally:
        process.kill()
        process.wait(30)
        os.close(ours)
    assert APP_PASSWORD not in text.decode()
    return text.decode(), code
