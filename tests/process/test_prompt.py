"""What is held at an interactive prompt is not warned of there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

REPOSITORY = Path(__file__).parents[2]
APP = """
import logging, sys, threading, time
import flask, flask_poolguard, flask_sqlalchemy
logging.basicConfig(format="LOG %(message)s", stream=sys.stderr)
app = flask.Flask("shop")
app.config.update(
    SQLALCHEMY_DATABASE_URI="sqlite:///shop.sqlite", POOLGUARD_HELD_WARNING=0.3
)
db = flask_sqlalchemy.SQLAlchemy(app)
flask_poolguard.PoolGuard(app)
def job():
    with app.app_context(), db.engine.connect():
        done.wait(30)
done = threading.Event()
"""
TYPED = """
import own_app
mine = own_app.db.engine.connect()
"""
IN_A_THREAD = """
thread = own_app.threading.Thread(target=own_app.job); thread.start()
"""
PROMPTS = {
    "flask shell": ["-m", "flask", "--app", "own_app", "shell"],
    "python -i": ["-i", "-c", "import own_app; own_app.app.app_context().push()"],
    "a script": ["-c", "import sys, own_app; own_app.app.app_context().push()\n"
    "for each in sys.stdin: exec(each)"],
}  # fmt: skip


def logged_by(folder: Path, prompt: str, typed: str) -> str:
    """Return what is logged while a prompt waits for more to be typed."""
    (folder / "own_app.py").write_text(APP)
    with subprocess.Popen(
        [sys.executable, *PROMPTS[prompt]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{REPOSITORY}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(f"{typed}print('typed')\n")
        process.stdin.flush()
        assert process.stdout is not None
        assert any("typed" in line for line in process.stdout)
        time.sleep(3)  # the housekeeper comes by once a second
        errors = process.communicate("own_app.done.set()\n", timeout=60)[1]
    return "\n".join(line for line in errors.splitlines() if "LOG" in line)


@pytest.mark.parametrize("prompt", ["flask shell", "python -i"])
class TestPrompt:
    def test_is_not_disturbed_by_its_own_connection(
        self, prompt: str, tmp_path: Path
    ) -> None:
        assert "has held" not in logged_by(tmp_path, prompt, TYPED)

    def test_is_told_of_those_of_other_threads(
        self, prompt: str, tmp_path: Path
    ) -> None:
        logged = logged_by(tmp_path, prompt, TYPED + IN_A_THREAD)
        assert logged.count("has held") == 1
        assert "own_app.py:" in logged


def test_a_process_without_a_prompt_is_warned(tmp_path: Path) -> None:
    assert "has held" in logged_by(tmp_path, "a script", TYPED)
