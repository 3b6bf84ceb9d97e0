"""What the guard adds to the memory of a worker.

Fresh processes in turns, each of which imports the app, with or without the guard, and
answers one request.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial

import sqlalchemy as sa

from benchmarks.figures import Table, difference, ratio, spread
from benchmarks.processes import run_python
from benchmarks.support import (
    GUARDED,
    IN_MEMORY,
    SERVERS,
    STOCK,
    database,
    in_turns,
)

ROUNDS = 9
CODE = """
import gc
from benchmarks.app import create_app

app = create_app()
assert app.test_client().get("/transactions/1").status_code == 200
gc.collect()
with open("/proc/self/smaps_rollup") as smaps:
    sizes = dict(line.split()[:2] for line in list(smaps)[1:])
print(sizes["Rss:"], int(sizes["Private_Clean:"]) + int(sizes["Private_Dirty:"]))
"""
KINDS = {"resident": 0, "private": 1}


def run() -> Iterator[Table]:
    """Measure with each driver."""
    for server_class in SERVERS:
        with (
            database(server_class) as (name, url),
            tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder,
        ):
            found = in_turns(
                {kind: partial(sizes, url, kind, folder) for kind in (STOCK, GUARDED)},
                ROUNDS + 1,
            )
            rows = []
            for what, index in KINDS.items():
                stock, guarded = (
                    # The first round compiled.
                    [s[index] for s in found[k][1:]]
                    for k in (STOCK, GUARDED)
                )
                added = difference(guarded, stock)
                spreads = spread(stock), spread(guarded)
                rows.append([what, *spreads, added, ratio(guarded, stock)])
            yield Table(name, ("MiB", STOCK, GUARDED, "added", "ratio"), rows)


def sizes(url: sa.URL, kind: str, folder: str) -> tuple[float, ...]:
    """Return resident and private memory of a worker, in MiB."""
    env = {
        **os.environ,
        "DATABASE_URL": url.render_as_string(hide_password=False),
        "GUARDED": "yes" if kind == GUARDED else "no",
        "POOL_TIMEOUT": "30",
        "POOLGUARD_STATE_DIR": folder,
        "PYTHONPYCACHEPREFIX": os.path.join(folder, "compiled"),
        "WORK_SECONDS": "0",
    }
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    answer = run_python("-c", CODE, env=env)
    return tuple(int(kibibytes) / 1024 for kibibytes in answer.split())
