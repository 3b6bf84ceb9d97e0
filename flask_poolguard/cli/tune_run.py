"""One run of ``flask pool tune``: measured, evaluated, printed; needs the extra."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import click

from ..engines import Guarded
from ..masking import secrets_of
from ..tune import experiment, run_view
from ..tune.choice import Choice
from ..tune.experiment import Step
from ..tune.failures import TuneError
from ..tune.new_file import NewFile
from ..tune.outcome import Outcome, summarise
from ..tune.planning import RunPlan
from ..tune.run_json import to_dict
from .findings_view import verdict_lines
from .output import echo, echo_json, page

# A file, and what draws its content.
Drawing = tuple[NewFile, Callable[[Outcome, Choice], bytes]]


def drawings(html: str | None, png: str | None, *, replace: bool) -> list[Drawing]:
    """Check where the files go, and import what draws them, before anything is run.

    :param replace: whether files of these names may be replaced.
    :raises TuneError: a file exists, or cannot be written.
    """
    if html is None and png is None:
        return []
    from ..tune import diagram, html_page  # matplotlib takes a second to import

    def draw_page(outcome: Outcome, choice: Choice) -> bytes:
        return html_page.render(outcome, choice).encode()

    wanted = [(html, draw_page), (png, diagram.png)]
    return [(NewFile(each, replace=replace), draw) for each, draw in wanted if each]


def run(
    plan: RunPlan,
    import_path: str | None,
    engines: Sequence[Guarded],
    files: Sequence[Drawing],
    *,
    as_json: bool,
) -> int:
    """Measure, print what was found, and write the files.

    :param import_path: what Flask's ``--app`` was.
    :param engines: whose secrets are not shown.
    :param files: written if a size could be chosen.
    :returns: the exit status: 128 and the number of the signal that ended the run
        early, else 1 without an answer and 0 with one.
    :raises TuneError: something failed; what was measured before is printed.
    """
    outcome, signum, failure = _measure(plan, import_path, engines)
    verdict = run_view.verdict_on(outcome)
    if as_json:
        echo_json(to_dict(outcome), verdict)
    else:
        lines = verdict_lines(verdict, page())
        echo("\n\n".join(["\n".join(lines), run_view.render(outcome, page())]))
    if outcome.choice is not None:
        for file, draw in files:
            file.write(draw(outcome, outcome.choice))
    if failure is not None:
        raise failure
    return 128 + signum if signum else int(outcome.choice is None)


def _measure(
    plan: RunPlan, import_path: str | None, engines: Sequence[Guarded]
) -> tuple[Outcome, int, TuneError | None]:
    """Measure; a Ctrl-C or SIGTERM ends it early, and so does an error.

    :returns: what was found, the number of the signal, or 0, and the error.
    :raises TuneError: it failed before anything was measured.
    """

    def clean(line: str) -> str:
        for each in engines:
            line = secrets_of(each.engine).hide(line)
        return line

    steps: list[Step] = []
    signum = 0
    failure = None
    with _ended_by_sigterm():
        try:
            with experiment.started(plan, import_path, sys.path, clean) as (
                plan,
                found,
            ):
                click.echo(run_view.announce(plan, page()), err=True)
                for step in _shown(found, plan):
                    steps.append(step)
        except _Terminated:
            signum = signal.SIGTERM
        except KeyboardInterrupt:
            signum = signal.SIGINT
        except TuneError as error:
            if not steps:
                raise
            failure = error
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return summarise(plan, steps, now), signum, failure


def _shown(found: Iterator[Step], plan: RunPlan) -> Iterator[Step]:
    """Pass the steps on, and show on a terminal how far it is."""
    if not sys.stderr.isatty():
        yield from found
        return
    steps = len(plan.sizes) * plan.rounds
    with click.progressbar(
        found, length=steps, label="Measuring", show_pos=True, file=sys.stderr
    ) as bar:
        yield from bar


class _Terminated(BaseException):
    """SIGTERM, as an exception: what was begun is to be ended in order."""


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only there may signals be handled
        return

    def end(signum: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
