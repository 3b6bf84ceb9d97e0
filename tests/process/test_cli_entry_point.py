"""`flask pool` before flask has imported the app, and without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import flask_poolguard
from flask_poolguard.cli import COMMANDS, make_group
from tests.support import forked_python

GUARDED = "import flask, flask_poolguard; app = flask.Flask('shop'); {}"
GUARDED += "; flask_poolguard.PoolGuard(app)"


def run(folder: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `flask` for an app of this source."""
    (folder / "own_app.py").write_text(source)
    command = [sys.executable, "-m", "flask", "--app", "own_app", *arguments]
    env = {**os.environ, "PYTHONPATH": str(forked_python.REPOSITORY)}
    return forked_python.run(command, env=env, cwd=folder)


def longest_line(command: click.Command, *arguments: str) -> int:
    """Return how many columns a command's output takes."""
    done = CliRunner().invoke(command, arguments, prog_name="flask pool")
    assert done.output.startswith("Usage: flask pool ")
    return max(map(len, done.output.splitlines()))


class TestTheGroup:
    @pytest.mark.process
    def test_is_the_apps(self, tmp_path: Path) -> None:
        done = run(tmp_path, GUARDED.format("print('hello')"), "pool", "config")
        assert done.returncode == 0, done.stderr
        assert "hello" not in done.stdout
        assert "hello" in done.stderr

    @pytest.mark.process
    def test_gives_way_to_a_command_of_the_apps_own(self, tmp_path: Path) -> None:
        own = "app.config['POOLGUARD_CLI_GROUP'] = None"
        own += "; app.cli.command('pool')(lambda: print('swimming'))"
        done = run(tmp_path, GUARDED.format(own), "pool")
        assert (done.returncode, done.stdout) == (0, "swimming\n")

    @pytest.mark.process
    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("import flask; app = flask.Flask('bare')", "'bare' has no PoolGuard"),
            (
                GUARDED.format("app.config['POOLGUARD_CLI_GROUP'] = 'db-pool'"),
                "calls them 'flask db-pool'",
            ),
            (
                GUARDED.format("app.config['POOLGUARD_CLI_GROUP'] = None"),
                "no such commands: POOLGUARD_CLI_GROUP is None",
            ),
            ("import nosuch_module", "No module named 'nosuch_module'"),
        ],
        ids=["no guard", "another name", "no name", "broken"],
    )
    def test_that_there_is_none_is_explained(
        self, tmp_path: Path, source: str, message: str
    ) -> None:
        done = run(tmp_path, source, "pool", "status")
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stdout == ""

    @pytest.mark.process
    def test_has_help_though_the_app_is_broken(self, tmp_path: Path) -> None:
        done = run(tmp_path, "1 / 0", "pool", "--help")
        assert done.returncode == 0, done.stderr
        assert all(f"\n  {name} " in done.stdout for name in COMMANDS)

    @pytest.mark.process
    @pytest.mark.quick
    @pytest.mark.parametrize("source", ["1 / 0", "raise SystemExit('no SECRET_KEY')"])
    def test_explains_though_the_app_is_broken(
        self, tmp_path: Path, source: str
    ) -> None:
        """Words of an error's text need no quotes."""
        done = run(tmp_path, source, "pool", "explain", "too", "many", "CONNECTIONS")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("(1040, 'Too many connections')\n\nMySQL and")
        assert max(map(len, done.stdout.splitlines())) <= 80

    @pytest.mark.process
    def test_explains_nothing_in_the_name_of_an_apps_own_command(
        self, tmp_path: Path
    ) -> None:
        """Nor when that one refuses its arguments."""
        own = "app.config['POOLGUARD_CLI_GROUP'] = None"
        own += "; app.cli.command('pool')(lambda: print('swimming'))"
        done = run(tmp_path, GUARDED.format(own), "pool", "explain", "budget")
        assert (done.returncode, done.stdout) == (2, "")

    @pytest.mark.parametrize("name", ["", *COMMANDS])
    def test_has_help_of_eighty_columns(self, name: str) -> None:
        arguments = [name, "--help"] if name else ["--help"]
        assert longest_line(make_group("pool"), *arguments) <= 80

    @pytest.mark.process
    def test_is_among_the_commands_of_flask(self, tmp_path: Path) -> None:
        done = run(tmp_path, "1 / 0", "--help")
        assert "  pool " in done.stdout


class TestThePackage:
    @pytest.mark.process
    def test_imports_nothing_that_gevent_could_come_too_late_for(self) -> None:
        program = """
import sys
import flask.cli
before = set(sys.modules)
import flask_poolguard.cli.entry_point
print(*sorted(set(sys.modules) - before))
"""
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [
            "flask_poolguard",
            "flask_poolguard.cli",
            "flask_poolguard.cli.entry_point",
        ]

    def test_has_the_names_that_it_promises(self) -> None:
        names = {
            name: getattr(flask_poolguard, name) for name in flask_poolguard.__all__
        }
        assert set(names) <= set(dir(flask_poolguard))
        assert {each.__module__.partition(".")[0] for each in names.values()} <= {
            "flask_poolguard",
            "blinker",
        }

    def test_has_no_other(self) -> None:
        with pytest.raises(AttributeError, match="has no attribute 'PoolGuards'"):
            _ = flask_poolguard.PoolGuards
