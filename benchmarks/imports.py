"""What importing the guard adds to importing Flask and SQLAlchemy."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

RUNS = 25
# Collections fall where they fall; without them the two are comparable.
CODE = """
import gc, time
gc.disable()
import flask, sqlalchemy
start = time.perf_counter()
import flask_poolguard
print(time.perf_counter() - start)
"""


def main() -> None:
    """Print the median of fresh processes, with compiled files in place."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        times = [
            float(
                subprocess.run(
                    [sys.executable, "-c", CODE],
                    check=True,
                    capture_output=True,
                    text=True,
                    env=env,
                ).stdout
            )
            for _ in range(RUNS + 1)
        ][1:]
    low, middle, high = statistics.quantiles(times, n=4)
    print(
        f"  import flask_poolguard: {middle * 1000:.1f} ms"
        f" (quartiles {low * 1000:.1f} to {high * 1000:.1f})"
    )
