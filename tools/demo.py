"""Show Flask-PoolGuard at work: run the example app under load and look at its pools.

``make demo`` runs this. It starts ``example_app`` under gunicorn with two worker
processes, sends it good and bad requests, and prints what ``flask pool status`` and
the log say. ``DATABASE_URL=… make demo`` does it on that database, where it leaves the
tables ``poolguard_example_…``; without it everything is in a temporary folder.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from demo_visitors import Desk, Traffic

ROOT = Path(__file__).resolve().parent.parent
GUNICORN = ["-m", "gunicorn", "-c", "python:example_app.gunicorn_settings"]

WORKERS = 2  # as in example_app/gunicorn_settings.py
LEAKS = 2

# A busy machine needs more than the second or two that each of these takes.
TRAFFIC_TIMEOUT_SECONDS = 20.0
COMMAND_TIMEOUT_SECONDS = 30.0
STOP_TIMEOUT_SECONDS = 5.0
LOG_TAIL_LINES = 25


class DemoError(Exception):
    """Something did not go as the demo promises; the message says what."""


def environment(folder: Path) -> dict[str, str]:
    """Return the environment for the app: everything it writes goes into the folder."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLASK_", "EXAMPLE_", "GUNICORN_"))
    }
    return kept | {
        "EXAMPLE_INSTANCE_PATH": str(folder / "instance"),
        "EXAMPLE_FAULTS": "1",
        "FLASK_POOLGUARD_STATE_DIR": str(folder / "state"),
    }


def flask(env: Mapping[str, str], *arguments: str, show: bool = False) -> str:
    """Run a command of the app in a process of its own and return what it printed.

    :param show: let it print to the terminal itself instead.
    """
    sys.stdout.flush()
    name = f"flask --app example_app {' '.join(arguments)}"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "example_app", *arguments],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=None if show else subprocess.PIPE,
            stderr=None if show else subprocess.PIPE,
            text=True,
            timeout=COMMAND_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise DemoError(
            f"`{name}` took more than {COMMAND_TIMEOUT_SECONDS:.0f} s"
        ) from None
    if done.returncode:
        said = last_lines(done.stderr or "", 8)
        raise DemoError(f"`{name}` ended with exit code {done.returncode}\n{said}")
    return done.stdout or ""


@contextmanager
def running_desk(env: Mapping[str, str], log: Path) -> Iterator[Desk]:
    """Run the app under gunicorn, and stop it again whatever happens.

    The socket is open before gunicorn starts, so that no other program can take the
    port, and the first visitor waits in its queue until a worker is there.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
        port = listener.getsockname()[1]
        server = subprocess.Popen(
            [
                *(sys.executable, *GUNICORN, "--bind", f"fd://{listener.fileno()}"),
                "example_app:create_app()",
            ],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the demo, which then stops it
        )
    try:
        yield Desk(port)
    finally:
        stop(server)


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its workers: politely, then by force."""
    try:
        server.terminate()
        server.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)  # its own session: only its workers
            server.wait()


def last_lines(text: str, count: int) -> str:
    """Return the end of the text."""
    return "\n".join(text.strip().splitlines()[-count:])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds.

    :raises DemoError: naming ``what``, if that takes too long.
    """
    deadline = time.monotonic() + TRAFFIC_TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"{what}: not within {TRAFFIC_TIMEOUT_SECONDS:.0f} s")
        time.sleep(0.02)


def leak_warnings(log: Path) -> list[str]:
    """Return the log's records about the leaking route, each with all of its lines."""
    records: list[str] = []
    for line in log.read_text(errors="replace").splitlines():
        if re.match(r"\[?\d{4}-\d\d-\d\d ", line):
            records.append(line)
        elif records:
            records[-1] += f"\n{line}"
    return [
        record
        for record in records
        if " WARNING flask_poolguard" in record and "faults.leak" in record
    ]


def totals(env: Mapping[str, str]) -> Counter[str]:
    """Return the figures of all live workers' pools, added up."""
    added: Counter[str] = Counter()
    for worker in json.loads(flask(env, "pool", "status", "--json"))["workers"]:
        if worker["alive"]:
            added["workers"] += 1
            for pool in worker["pools"]:
                for figure in ("checked_out", "checkouts", "leaks"):
                    added[figure] += pool[figure] or 0
    return added


def watch(desk: Desk, env: Mapping[str, str]) -> None:
    """Send traffic, and look at the pools while it runs."""
    traffic = Traffic(desk)
    traffic.start()
    try:
        for _ in range(LEAKS):
            desk.visit("/faults/leak")
        wait_until(
            lambda: len(desk.workers) == WORKERS and desk.in_flight["/faults/slow"] > 1,
            "both workers serve, and slow requests are under way",
        )
        print("\n1. The pools of both workers, seen from another process under load")
        print("$ flask --app example_app pool status", flush=True)
        flask(env, "pool", "status", show=True)
    finally:
        traffic.stop()


def demo(folder: Path, log: Path) -> None:
    """Run the parts of the demo one after the other."""
    env = environment(folder)
    (folder / "state").mkdir(mode=0o700)
    database = (env.get("DATABASE_URL") or "sqlite").partition(":")[0]
    print(f"A small Flask app under gunicorn, {WORKERS} workers, on {database}.")
    flask(env, "seed")
    with running_desk(env, log) as desk:
        if desk.visit("/").status != 200:
            raise DemoError("the app did not start")
        watch(desk, env)
        answers = desk.answered.total()
        if desk.unexpected:
            raise DemoError("\n".join(desk.unexpected[:5]))

        print("\n2. The log about the route that never closes its connection")
        warnings = leak_warnings(log)
        if not warnings:
            raise DemoError("the log has no warning about the leak")
        print("\n".join(warnings))

        print("\n3. After the traffic")
        after = totals(env)
        print(
            f"{answers} requests answered with {after['checkouts']} checkouts; "
            f"{after['leaks']} leaked connections returned; "
            f"{after['checked_out']} still out."
        )
        if after["checked_out"] or after["leaks"] != LEAKS:
            raise DemoError(f"expected {LEAKS} leaks returned and none still out")


def main() -> int:
    """Run the demo and return its exit code."""
    began = time.monotonic()
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.default_int_handler)  # clean up as on Ctrl-C
    with tempfile.TemporaryDirectory(prefix="poolguard-demo-") as folder:
        log = Path(folder) / "gunicorn.log"
        try:
            demo(Path(folder), log)
        except KeyboardInterrupt:
            print("\nStopped.", file=sys.stderr)
            return 130
        except Exception as error:
            if not isinstance(error, DemoError):
                traceback.print_exc()
            print(f"\nThe demo failed: {error}", file=sys.stderr)
            if log.exists():
                tail = last_lines(log.read_text(errors="replace"), LOG_TAIL_LINES)
                print(f"The server's log ends:\n{tail}", file=sys.stderr)
            return 1
    print(f"\nDone in {time.monotonic() - began:.1f} s.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
