"""``flask pool tune``: the smallest sufficient pool size, measured under load."""

from __future__ import annotations

import importlib.util
import os
import time
import typing as t

import click
from flask import current_app
from flask.cli import ScriptInfo, with_appcontext

from ..report.deployment import find_workers, names_of
from ..report.estimate import Asked, threads_of
from ..tune.connection_budget import DEFAULT_LARGEST
from ..tune.failures import TuneError
from ..tune.planning import FEWEST_SIZES, make_plan
from ..tune.processor import cores
from ..tune.work import Kind, Work, parse
from . import current
from .output import Number, json_option, page

# What the extra installs; nothing of it is imported before it is needed.
_EXTRA: t.Final = ("matplotlib", "numpy", "scipy")
_MOST_PROCESSES: t.Final = 64
_MOST_THREADS: t.Final = 1000
_MOST_BY_DEFAULT: t.Final = 4
_EPILOG: t.Final = """
\b
Examples:
  flask --debug pool tune --url /
  flask --debug pool tune --url 3:/search --url 1:/basket --html tune.html
  flask --debug pool tune --sql 'SELECT COUNT(*) FROM orders' --processes 2
"""


class MissingExtra(click.ClickException):
    """Ends a command that needs packages which are not installed."""

    exit_code = 2  # as for wrong usage: nothing was measured

    def __init__(self, missing: list[str]) -> None:
        super().__init__(
            f"flask pool tune needs {', '.join(missing)}:"
            " pip install 'flask-poolguard[tune]'"
        )


class _WorkType(click.ParamType):  # type: ignore[type-arg,unused-ignore] # generic in new versions of click only
    """A path or a query, with its weight."""

    def __init__(self, kind: Kind, name: str) -> None:
        self._kind: Kind = kind
        self.name = name

    def convert(
        self,
        value: t.Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Work:
        if isinstance(value, Work):
            return value
        try:
            return parse(self._kind, value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("tune", epilog=_EPILOG)
@click.option(
    "--url",
    "urls",
    type=_WorkType("url", "path"),
    metavar="[WEIGHT:]PATH",
    multiple=True,
    help="A path of the app, to be asked for with GET. Several are mixed by weight.",
)
@click.option(
    "--sql",
    "queries",
    type=_WorkType("sql", "query"),
    metavar="[WEIGHT:]QUERY",
    multiple=True,
    help="Instead: a query, in a transaction of its own that may only read.",
)
@click.option("--bind", default="default", show_default=True, help="Whose pool.")
@click.option(
    "--processes",
    type=click.IntRange(1, _MOST_PROCESSES),
    default=lambda: min(cores(), _MOST_BY_DEFAULT),
    show_default="cores, up to 4",
    help="How many processes run the app, as it has workers.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, _MOST_THREADS),
    show_default="those of a live worker, else twice the largest size",
    help="How many threads of each process send requests, as a worker has threads. No"
    " pool larger than that is measured.",
)
@click.option(
    "--max-size",
    type=click.IntRange(FEWEST_SIZES, 1000),
    show_default=str(DEFAULT_LARGEST),
    help="The largest pool of each process. Never more than half of what the server,"
    " its user and its database have free is used; needed behind a pooler.",
)
@click.option(
    "--seconds",
    type=Number(0.1, 600),
    default=2.0,
    show_default=True,
    help="How long each step is measured.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    help="How often each size is measured.",
)
@click.option(
    "--html",
    "html_file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the result, with its diagram, as one HTML page too.",
)
@click.option(
    "--png",
    "png_file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the diagram as a PNG picture too.",
)
@click.option("--force", is_flag=True, help="Replace files of these names.")
@click.option(
    "--yes-load-this-database",
    "is_meant",
    is_flag=True,
    help="Run although the app is not in debug mode.",
)
@json_option
@with_appcontext
def command(
    urls: tuple[Work, ...],
    queries: tuple[Work, ...],
    bind: str,
    processes: int,
    threads: int | None,
    max_size: int | None,
    seconds: float,
    rounds: int,
    html_file: str | None,
    png_file: str | None,
    force: bool,
    is_meant: bool,
    as_json: bool,
) -> None:
    """Measure which pool size is enough, with requests of your own.

    Starts processes that run the app, loads them with as many requests as they can
    do, over pools of one size after the other, and tells the smallest that is within
    5 % of the best. No server is needed; nothing is sent over the network but to the
    database.
    """
    if bool(urls) == bool(queries):
        raise click.UsageError(
            "Say what to run: --url /a/path, once or more; or --sql 'SELECT …'. (Not"
            " both: a request and a query are not the same unit.)"
        )
    if os.name != "posix":
        raise click.ClickException(
            "This command starts processes in a way that only Unix has. Run it on the"
            " kind of machine that the app will run on."
        )
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(missing)
    if (
        html_file
        and png_file
        and os.path.abspath(html_file) == os.path.abspath(png_file)
    ):
        raise click.UsageError("--html and --png need files of different names.")
    current.check_bind(bind)
    import_path = _import_path()
    # These need the extra.
    from ..tune.run_view import warning
    from . import tune_run

    try:
        files = tune_run.drawings(html_file, png_file, replace=force)
        engines = current.state().engines
        plan = make_plan(
            current_app.name,
            engines,
            urls or queries,
            bind,
            processes=processes,
            threads=threads,
            max_size=max_size,
            seconds=seconds,
            rounds=rounds,
            worker_threads=_worker_threads(bind),
        )
        if not current_app.debug and not is_meant:
            raise TuneError(warning(plan))
        status = tune_run.run(plan, import_path, engines, files, as_json=as_json)
    except TuneError as error:
        raise click.ClickException(_wrapped(str(error))) from error
    click.get_current_context().exit(status)


def _worker_threads(bind: str) -> int | None:
    """Return with how many threads the live workers use a bind's pool; None if there is
    none, or that is not known.
    """
    state = current.state()
    found = find_workers(
        state.config.state_dir,
        current_app.name,
        current_app.root_path,
        names_of(state.engines),
        without_pid=os.getpid(),
    )
    now = time.time()
    threads = threads_of(
        [
            Asked(pool.usage, now - worker.process.started_at)
            for worker in found.ours
            for pool in worker.pools
            if pool.bind == bind
        ]
    )
    return None if threads is None else min(threads, _MOST_THREADS)


def _wrapped(message: str) -> str:
    """Return an error's lines, none longer than the page; "Error: " comes before."""
    first, *rest = message.splitlines()
    lines = page().wrap(first, "Error: ", "  ")
    lines += [line for each in rest for line in page().wrap(each.strip(), "  ", "  ")]
    return "\n".join(lines).removeprefix("Error: ")


def _import_path() -> str | None:
    """Return how other processes can import the app."""
    info = click.get_current_context().ensure_object(ScriptInfo)
    if info.create_app is None:
        return info.app_import_path
    name = getattr(info.create_app, "__qualname__", "<locals>")
    module = getattr(info.create_app, "__module__", "__main__")
    if "<" in name or "." in name or module == "__main__":
        raise click.UsageError(
            "This script makes its app in a way that no other process can repeat. Run"
            " flask --app MODULE pool tune instead."
        )
    return f"{module}:{name}"
