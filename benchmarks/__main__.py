"""Run all measurements, or those that are named."""

from __future__ import annotations

import argparse
import time
from importlib import import_module
from pathlib import Path

from benchmarks.figures import Curve, wrapped
from benchmarks.support import machine

# What each is about, as the documentation calls it.
BENCHMARKS = {
    "checkout": "A checkout and checkin",
    "requests": "A request, without a server",
    "instructions": "A request, in instructions",
    "timeouts": "A pool timeout",
    "first": "The first request of a worker",
    "delay": "A short transaction over a network",
    "others": "What a user would take instead",
    "growth": "Cost as work grows",
    "saturation": "More requests than connections: gunicorn, gthread",
    "waitress": "More requests than connections: waitress",
    "gevent": "More requests than connections: gunicorn, gevent",
    "overload": "More requests than an app can serve: gunicorn, gthread",
    "overload_waitress": "More requests than an app can serve: waitress",
    "overload_gevent": "More requests than an app can serve: gunicorn, gevent",
    "crowd": "More workers than connections, killed and reloaded",
    "workers": "Cost of the status as workers become more",
    "memory": "Memory",
    "imports": "Import",
    "status": "The status",
    "page": "The live page",
}
# Takes minutes; of the overload, its sibling shows nearly all of it.
ONLY_IF_NAMED = {"overload_waitress", "overload_gevent", "page"}


def draw(curve: Curve, folder: Path) -> None:
    """Draw a curve into a folder."""
    # Here, because it imports matplotlib, which the others do without.
    from benchmarks.pictures import write

    write(curve, folder)


def main() -> None:
    """Print one section per measurement."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--markdown", action="store_true", help="print sections for the documentation"
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="also draw what grows (growth, workers), as SVG files in this folder",
    )
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    print("\n".join(wrapped(machine())))
    for name in options.names or [n for n in BENCHMARKS if n not in ONLY_IF_NAMED]:
        start = time.monotonic()
        print(f"\n## {BENCHMARKS[name] if options.markdown else name}", flush=True)
        for table in import_module(f"benchmarks.{name}").run():
            text = table.markdown() if options.markdown else table.text()
            print(f"\n{text}", flush=True)
            if options.pictures is not None and table.curve is not None:
                draw(table.curve, options.pictures)
        if not options.markdown:
            print(f"\n({name} took {time.monotonic() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
