"""Workers of an app that do nothing but keep their state files.

    python -m benchmarks.worker_processes COUNT

Each is a fork, makes the app of `benchmarks.app` and answers one request. Prints a line
once all have, and ends when its standard input does.
"""

from __future__ import annotations

import os
import sys

from benchmarks.app import create_app


def main() -> None:
    """Fork, and wait."""
    count = int(sys.argv[1])
    told, tell = os.pipe()
    ended, keep = os.pipe()
    pids = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            os.close(keep)
            work(tell, ended)
        pids.append(pid)
    os.close(tell)
    with open(told, "rb") as answers:
        for _ in range(count):
            if not answers.read(1):
                sys.exit("a worker failed")
    print("ready", flush=True)
    sys.stdin.read()
    # The workers read this pipe's end.
    os.close(keep)
    for pid in pids:
        os.waitpid(pid, 0)


def work(tell: int, ended: int) -> None:
    """Answer one request, say so, and stay until the other end of a pipe is closed."""
    try:
        answer = create_app().test_client().get("/transactions/1")
        if answer.status_code == 200:
            os.write(tell, b".")
        os.close(tell)
        os.read(ended, 1)
    finally:
        # Not the parent's way out, which would flush its buffers again.
        os._exit(0)


if __name__ == "__main__":
    main()
