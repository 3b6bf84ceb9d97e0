"""Compare the guard of another commit with the one of this tree, in one run.

    python -m benchmarks.compare BASE [NAME …]

The measuring code is this tree's for both; only the package differs. Each round has a
fresh process for either, and these run short batches in turns on one core, so that
the machine's other work falls on both.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.figures import Table, interval, median, wrapped
from benchmarks.one_tree import MEASUREMENTS
from benchmarks.support import SERVERS, database, in_turns, machine, one_core
from benchmarks.trees import NotMeasuredError, Tree, trees
from tests.support.servers import MissingServerError

# The interval of so many leaves out one value at each end.
ROUNDS = 9
# In a round, if not 30 of some milliseconds.
BATCHES = {"timeouts": 5, "imports": 3, "instructions": 1}
BASE, HERE = "base", "this tree"

# By figure and tree, what each batch found.
Round = dict[str, dict[str, list[float]]]


def main() -> None:
    """Print a table for each measurement."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__
    )
    parser.add_argument("base", metavar="BASE", help="a commit, branch or tag")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=", ".join(MEASUREMENTS)
    )
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="%(default)s if left out"
    )
    options = parser.parse_intermixed_args()
    unknown = set(options.names) - set(MEASUREMENTS)
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if unknown:
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    # So that processes end and folders are removed, as by ^C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with trees(options.base) as folders:
            print("\n".join(wrapped(machine())), flush=True)
            both = dict(zip((BASE, HERE), folders, strict=True))
            for table in compare(both, options.names, options.rounds):
                print(f"\n{table.text()}", flush=True)
    except NotMeasuredError as error:
        sys.exit(str(error))


def compare(
    folders: Mapping[str, Path], names: Sequence[str], rounds: int
) -> Iterator[Table]:
    """Measure both trees.

    :param names: of the measurements; all of them if there are none.
    """
    for name in names or MEASUREMENTS:
        if name == "instructions" and shutil.which("valgrind") is None:
            yield not_measured(name, "valgrind is not installed")
            continue
        count = 1 if name == "instructions" else rounds
        try:
            with servers(name) as urls:
                found = [
                    one_round(name, folders, urls, number) for number in range(count)
                ]
        except NotMeasuredError as error:
            yield not_measured(name, str(error))
        else:
            yield table_of(name, found)


@contextlib.contextmanager
def servers(name: str) -> Iterator[dict[str, str]]:
    """Run the database servers that a measurement needs; give URLs by product."""
    with contextlib.ExitStack() as stack:
        urls = {}
        for server_class in SERVERS if name == "checkout" else ():
            with contextlib.suppress(MissingServerError):
                _, url = stack.enter_context(database(server_class))
                urls[server_class.product] = url.render_as_string(hide_password=False)
        yield urls


def one_round(
    name: str,
    folders: Mapping[str, Path],
    urls: Mapping[str, str],
    number: int,
) -> Round:
    """Let a fresh process for each tree run batches, in turns.

    :param number: the round's; the other tree goes first in the next one.
    :raises NotMeasuredError: if one of these processes failed.
    """
    kinds = list(folders)[:: -1 if number % 2 else 1]
    # One may be slower than another, and both processes must have the same.
    with one_core(), contextlib.ExitStack() as stack:
        running = {
            kind: stack.enter_context(Tree(name, folders[kind], urls)) for kind in kinds
        }
        return {
            each: in_turns(
                {kind: partial(tree.batch, each) for kind, tree in running.items()},
                BATCHES.get(name, 30),
            )
            for each in running[BASE].figures
        }


def table_of(name: str, rounds: Sequence[Round]) -> Table:
    """Return a row for each figure."""
    rows = []
    for each in rounds[0]:
        base, here = (
            median([min(found[each][kind]) for found in rounds])
            for kind in (BASE, HERE)
        )
        ratios = [ratio_of(found[each]) for found in rounds]
        middle = f"{statistics.median(ratios):.3f}"
        rows.append([each, base, here, middle, limits(ratios)])
    note = (
        "Medians over the rounds: of the best batch, and of the ratio of batches that"
        " followed each other. Where the interval contains 1, no difference is shown."
    )
    return Table(
        f"{name}, rounds: {len(rounds)}",
        ("", BASE, HERE, "ratio", "95 % interval"),
        rows,
        [note if len(rounds) > 1 else "Two counts differ by less than 1 %."],
    )


def ratio_of(found: Mapping[str, Sequence[float]]) -> float:
    """Return the median ratio of batches that followed each other."""
    pairs = zip(found[BASE], found[HERE], strict=True)
    return statistics.median(here / base for base, here in pairs)


def limits(ratios: list[float]) -> str:
    """Return the confidence interval of the median."""
    found = interval(ratios)
    return "-" if found is None else "-".join(f"{each:.3f}" for each in found)


def not_measured(name: str, reason: str) -> Table:
    """Return a table that says why there is none."""
    return Table(name, ("not measured",), [[reason]])


if __name__ == "__main__":
    main()
