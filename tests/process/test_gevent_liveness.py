"""What gevent changed: connections that die, and holders that are greenlets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import database_by
from tests.support.app_server import REPOSITORY
from tests.support.proxy import TCPProxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

# And whether psycopg2 lets other greenlets run while it waits.
DRIVERS = (
    ("mysql+pymysql", True),
    ("postgresql+psycopg2", True),
    ("postgresql+psycopg2", False),
    ("postgresql+psycopg", True),
)


class Conversation:
    """The program, and what it says after each step."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()


@pytest.fixture(params=DRIVERS, ids=str)
def found(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Go through the program's steps; return what it found."""
    driver, cooperates = request.param
    database = database_by(driver, request)
    with TCPProxy.before(database.url) as proxy:
        url = database.url.set(port=proxy.port)
        address = url.render_as_string(hide_password=False)
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.apps.gevent_liveness"),
                *(address, str(cooperates)),
            ],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            program = Conversation(process)
            try:
                held = program.next()["held"]
                program.go_on()
                first = program.next()["session"]
                database.running_server.kill_session(first)
                wait_until(lambda: not proxy.passes_on, what="the end to come through")
                program.go_on()
                second = program.next()["session"]
                proxy.drop()
                program.go_on()
                black_hole = program.next()
                program.go_on()
                process.wait(20)
            finally:
                process.kill()
        assert process.returncode == 0
        yield {"held": held, "first": first, "second": second, **black_hole}


def test_no_dead_connection_is_handed_out_and_no_holder_is_missed(
    found: dict[str, Any],
) -> None:
    assert found["first"] != found["second"]
    # The ping into a black hole was given up, and a new connection was wanted.
    assert found["error"] == "ConnectionRefusedError"
    assert found["seconds"] < 10
    assert "in hold_for_long" in found["held"][0]
    assert "over.wait(20)" in found["held"][0]
