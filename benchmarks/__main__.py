"""Run all measurements, or those that are named."""

from __future__ import annotations

import platform
import sys

import sqlalchemy

from benchmarks import checkout, imports, status

BENCHMARKS = {
    "checkout": checkout.main,
    "imports": imports.main,
    "status": status.main,
}


def main() -> None:
    """Print one section per measurement."""
    unknown = set(sys.argv[1:]) - set(BENCHMARKS)
    if unknown:
        sys.exit(f"no such measurement: {', '.join(unknown)}; {', '.join(BENCHMARKS)}")
    print(
        f"{platform.platform()}, Python {platform.python_version()},"
        f" SQLAlchemy {sqlalchemy.__version__}"
    )
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"\n## {name}", flush=True)
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
