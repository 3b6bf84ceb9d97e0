"""A process of an app with a budget; it does what it is told, line by line.

Orders: `serve` (a request, which makes it a worker), `take` (a connection, kept),
`give` (the one that was taken last), `use N` (N threads query until `rest`), `rest`,
`fork` (a child that sleeps; answers its pid), `ask` (the server, and soon again).
Each is answered by one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import sqlalchemy as sa
from flask import Flask

from flask_poolguard.budget import allowance
from tests.support.guarded_app import engine_of, make_app


def main() -> None:
    """Follow orders until the input ends."""
    url, config = sys.argv[1], json.loads(sys.argv[2])
    app = make_app(url, **config)
    app.add_url_rule("/", view_func=lambda: "")
    engine = engine_of(app)
    taken: list[sa.Connection] = []
    resting = threading.Event()
    users: list[threading.Thread] = []
    counts = {"served": 0, "failed": 0}
    for line in sys.stdin:
        order, *arguments = line.split()
        begun = time.monotonic()
        answer: dict[str, object] = {}
        try:
            if order == "serve":
                app.test_client().get("/")
            elif order == "take":
                taken.append(engine.connect())
            elif order == "give":
                taken.pop().close()
            elif order == "use":
                resting.clear()
                users = [
                    threading.Thread(target=use, args=(app, resting, counts))
                    for _ in range(int(arguments[0]))
                ]
                for each in users:
                    each.start()
            elif order == "rest":
                resting.set()
                for each in users:
                    each.join()
                answer |= counts
            elif order == "fork":
                answer["pid"] = fork()
            elif order == "ask":
                allowance.pause_after = lambda *_: 0.2
            elif order == "dispose":
                engine.dispose()
        except Exception as error:
            notes = " ".join(getattr(error, "__notes__", ()))
            answer["error"] = f"{type(error).__name__}: {error} {notes}"
        answer["seconds"] = time.monotonic() - begun
        print(json.dumps(answer), flush=True)


def use(app: Flask, resting: threading.Event, counts: dict[str, int]) -> None:
    """Query again and again, each time within an app context."""
    while not resting.is_set():
        try:
            with app.app_context(), engine_of(app).connect() as connection:
                connection.exec_driver_sql("SELECT 1")
                time.sleep(0.01)
            counts["served"] += 1
        except Exception as error:
            counts["failed"] += 1
            print(type(error).__name__, error, file=sys.stderr, flush=True)


def fork() -> int:
    """Fork a child that does nothing for a minute; return its pid."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return pid


if __name__ == "__main__":
    main()
