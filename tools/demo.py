"""Show Flask-PoolGuard at work: one incident, from the symptom to the line to the fix.

``make demo`` runs this. It starts ``example_app`` under gunicorn with two worker
processes, sends it good and bad requests, and prints what the commands and the log say.
``make demo KEEP=1`` (``--keep``) leaves the app running afterwards, until Ctrl-C, and
prints what to try. ``DATABASE_URL=… make demo`` does it on that database, where it
leaves the tables ``poolguard_example_…``; without it everything is in a temporary
folder.
"""

import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from demo_visitors import PAGES, Desk, Traffic

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2  # as in example_app/gunicorn_settings.py
# More threads than visitors, so that only a pool makes a request wait.
GUNICORN = [
    *("-m", "gunicorn", "-c", "python:example_app.gunicorn_settings"),
    "--threads=16",
]
# Small pools, so that a few visitors fill them; for each worker and bind. What waits
# gets a connection in the end, because the slow requests are over sooner than that.
SETTINGS = {
    "FLASK_POOLGUARD_POOL_SIZE": "2",
    "FLASK_POOLGUARD_MAX_OVERFLOW": "0",
    "FLASK_POOLGUARD_POOL_TIMEOUT": "30",
}
LEAKS = 2
SLOW = "/faults/slow?seconds=3"
FIXED = "/faults/slow-fixed?seconds=3"
FIXED_FOR_SECONDS = 1.5
SLOW_PAGE_SECONDS = 1.0
FIX = """\
      db.session.execute(text("SELECT 1"))
    + db.session.commit()  # gives the connection back before the slow work
      time.sleep(seconds)"""

# A busy machine needs more than the second or two that each of these takes.
LOOK_TIMEOUT_SECONDS = 40.0
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
        **SETTINGS,
    }


def flask(env: Mapping[str, str], *arguments: str, may_find: bool = False) -> str:
    """Run a command of the app in a process of its own and return what it printed.

    :param may_find: whether the command may end with 1 or 2 for what it found.
    """
    name = f"flask --app example_app {' '.join(arguments)}"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "example_app", *arguments],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise DemoError(
            f"`{name}` took more than {COMMAND_TIMEOUT_SECONDS:.0f} s"
        ) from None
    if done.returncode not in ((0, 1, 2) if may_find else (0,)):
        said = last_lines(done.stderr or "", 8)
        raise DemoError(f"`{name}` ended with exit code {done.returncode}\n{said}")
    return done.stdout


@contextmanager
def running_desk(
    env: Mapping[str, str], log: Path
) -> Iterator[tuple[Desk, subprocess.Popen[bytes]]]:
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
        yield Desk(port), server
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


def incident(desk: Desk, env: Mapping[str, str]) -> None:
    """Let slow requests fill the pools, and find out which line does it."""
    for page in PAGES:
        desk.visit(page)
    _, usual = desk.slowest(PAGES)
    traffic = Traffic(desk, SLOW)
    traffic.start()
    try:
        page, seconds = symptom(desk)
        print(
            "\n1. The symptom: under traffic, pages that need no time are slow\n"
            f"GET {page} took {seconds:.1f} s; before the traffic, {usual:.2f} s was"
            " the slowest.",
            flush=True,
        )
        print("\n2. The line: what another process sees meanwhile")
        print("$ flask --app example_app pool doctor", flush=True)
        print(diagnosis(env), end="", flush=True)
    finally:
        traffic.stop()


def symptom(desk: Desk) -> tuple[str, float]:
    """Return the slowest page, once it is slow, and the seconds that it took."""
    deadline = time.monotonic() + LOOK_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        page, seconds = desk.slowest(PAGES)
        if seconds >= SLOW_PAGE_SECONDS:
            return page, seconds
        time.sleep(0.05)
    raise DemoError(f"no page was slow within {LOOK_TIMEOUT_SECONDS:.0f} s")


def diagnosis(env: Mapping[str, str]) -> str:
    """Return what ``doctor`` prints at a moment when requests have waited for long."""
    deadline = time.monotonic() + LOOK_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        command = ("pool", "doctor", "--level", "warning", "--seconds", "0")
        found = flask(env, *command, may_find=True)
        if "saturated" in found and "now at" in found:
            return found
    raise DemoError(f"no request waited within {LOOK_TIMEOUT_SECONDS:.0f} s:\n{found}")


def worker_pids(env: Mapping[str, str]) -> set[int]:
    """Return the process ids of all live workers."""
    found = json.loads(flask(env, "pool", "status", "--json"))["workers"]
    return {worker["pid"] for worker in found if worker["alive"]}


def replace_workers(server: subprocess.Popen[bytes], env: Mapping[str, str]) -> None:
    """Let gunicorn replace its workers, as when an app's new version is deployed."""
    before = worker_pids(env)
    server.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + LOOK_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        now = worker_pids(env)
        if len(now) == len(before) and not now & before:
            return
        time.sleep(0.1)
    raise DemoError(f"gunicorn had no new workers within {LOOK_TIMEOUT_SECONDS:.0f} s")


def fix(desk: Desk, server: subprocess.Popen[bytes], env: Mapping[str, str]) -> None:
    """Send the same traffic to the route that does it right, in new workers."""
    print(f"\n3. The fix, at that line, and new workers\n{FIX}", flush=True)
    replace_workers(server, env)
    desk.forget_times()  # those of the incident
    traffic = Traffic(desk, FIXED)
    traffic.start()
    try:
        time.sleep(FIXED_FOR_SECONDS)
        verdict = flask(env, "pool", "check", may_find=True)
    finally:
        traffic.stop()
    page, seconds = desk.slowest(PAGES)
    print(f"With the same traffic the slowest page, {page}, took {seconds:.2f} s.")
    print(f"$ flask --app example_app pool check\n{verdict}", end="", flush=True)


def leak(desk: Desk, log: Path) -> None:
    """Ask for the route that never closes its connection, and show the log."""
    for _ in range(LEAKS):
        desk.visit("/faults/leak", "", 303)
    warnings = leak_warnings(log)
    if not warnings:
        raise DemoError("the log has no warning about the leak")
    print("\n4. In the log: a route that never closes its connection")
    print(warnings[0], flush=True)


def count(desk: Desk, env: Mapping[str, str]) -> None:
    """Show that all connections are back.

    :raises DemoError: they are not, or a request failed.
    """
    if desk.unexpected:
        raise DemoError("\n".join(desk.unexpected[:5]))
    after = totals(env)
    print(
        f"\nIn the end: {desk.answered.total()} requests answered with"
        f" {after['checkouts']} checkouts; {after['leaks']} leaked connections"
        f" returned; {after['checked_out']} still out."
    )
    if after["checked_out"] or after["leaks"] != LEAKS:
        raise DemoError(f"expected {LEAKS} leaks returned and none still out")


def keep(
    desk: Desk, server: subprocess.Popen[bytes], env: Mapping[str, str], folder: Path
) -> NoReturn:
    """Say what to try, and leave the app running until Ctrl-C.

    :raises KeyboardInterrupt: by Ctrl-C, or because the terminal closed.
    :raises DemoError: the server ended by itself.
    """
    file = folder / "environment"
    names = [each for each in env if each.startswith(("FLASK_", "EXAMPLE_"))]
    names += [each for each in ("DATABASE_URL", "REPORTS_DATABASE_URL") if each in env]
    lines = [f"export {name}={shlex.quote(env[name])}" for name in sorted(names)]
    bin_folder = shlex.quote(str(Path(sys.executable).parent))
    lines.append(f'export PATH={bin_folder}:"$PATH" FLASK_APP=example_app')
    lines.append(f"cd {shlex.quote(str(ROOT))}")
    file.touch(mode=0o600)  # the database's URL may hold a password
    file.write_text("\n".join(lines) + "\n")
    print(
        f"""
The app stays up at {desk.url} until Ctrl-C. In another terminal:

  . {file}

  for i in 1 2 3 4 5; do curl -sX POST '{desk.url}/faults/slow?seconds=20' & done
  flask pool status       who holds connections, who waits
  flask pool doctor       what is wrong, at which line, what to change
  flask pool top          the same, refreshed

  curl -X POST {desk.url}/faults/leak
  flask pool doctor       the line that did not give its connection back
  tail {folder / "gunicorn.log"}

  curl -X POST {desk.url}/faults/crash
  flask pool holders      nothing: the connection is back, the row is not written

In a browser, a button for each fault: {desk.url}/faults/
and beside it the live page: {desk.url}/pools/""",
        flush=True,
    )
    # Where make leads the terminal's session (ssh -t host make demo), it gets the only
    # SIGHUP, and waits for us without passing it on.
    terminal = select.poll()
    if sys.stdout.isatty():
        terminal.register(sys.stdout, 0)  # which tells of POLLHUP all the same
    while server.poll() is None:
        if terminal.poll(500):
            raise KeyboardInterrupt
    raise DemoError("the server ended")


def demo(folder: Path, log: Path, *, stay: bool) -> None:
    """Run the parts of the demo one after the other.

    :param stay: whether to leave the app running at the end.
    """
    env = environment(folder)
    (folder / "state").mkdir(mode=0o700)
    database = (env.get("DATABASE_URL") or "sqlite").partition(":")[0]
    print(
        f"A small Flask app under gunicorn, on {database}: {WORKERS} workers, whose"
        " pools have 2 connections each.",
        flush=True,
    )
    flask(env, "seed")
    with running_desk(env, log) as (desk, server):
        if desk.visit("/").status != 200:
            raise DemoError("the app did not start")
        desk.forget_times()  # of a start
        incident(desk, env)
        fix(desk, server, env)
        leak(desk, log)
        count(desk, env)
        if stay:
            keep(desk, server, env, folder)


def interrupt(*_: object) -> NoReturn:
    """Stop once; what comes after that must not interrupt the cleaning up."""
    for name in ENDING:
        signal.signal(name, signal.SIG_IGN)
    raise KeyboardInterrupt


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def tell(text: str) -> None:
    """Print to the terminal, which may be closed already."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run the demo and return its exit code."""
    began = time.monotonic()
    stay = "--keep" in sys.argv[1:]
    for name in ENDING:
        if signal.getsignal(name) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(name, interrupt)
    with tempfile.TemporaryDirectory(prefix="poolguard-demo-") as folder:
        log = Path(folder) / "gunicorn.log"
        try:
            demo(Path(folder), log, stay=stay)
        except KeyboardInterrupt:
            tell("\nStopped.")
            return 0 if stay else 130
        except Exception as error:
            if not isinstance(error, DemoError):
                traceback.print_exc()
            tell(f"\nThe demo failed: {error}")
            if log.exists():
                tail = last_lines(log.read_text(errors="replace"), LOG_TAIL_LINES)
                tell(f"The server's log ends:\n{tail}")
            return 1
    print(f"\nDone in {time.monotonic() - began:.1f} s. KEEP=1 leaves the app running.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
