"""One line for monitoring: ``check``, of ``flask pool`` and of the module.

It is one command. For an app (``flask pool check``) it looks at that app's workers,
without one (``python -m flask_poolguard check``) at those of all apps. Each error
on the way to it makes it exit with 3.
"""

from __future__ import annotations

import os
import re
import sys
import typing as t
from collections.abc import Callable

import click
from click.core import ParameterSource
from flask import current_app, has_app_context
from flask.cli import ScriptInfo

from ..report.deployment import (
    find_workers,
    names_of,
    parents_among,
    without_doubles,
)
from ..report.health import examine
from ..report.monitoring_plugin import Range, State, Thresholds, Verdict, render
from ..state.reader import read_workers
from . import current
from .output import Number, echo, echo_json, json_option

_EPILOG: t.Final = """
\b
Examples:
  flask pool check                                  this app's workers
  flask pool check --min-workers 4
  python -m flask_poolguard check                   the workers of all apps
  python -m flask_poolguard check --app-name shop   imports no app

Judges what is now, and what failed within the last five minutes, as flask pool doctor
does. A threshold is the greatest value that is still well; without one for held
connections each worker's POOLGUARD_HELD_WARNING counts. Exit status: 0 OK, 1 WARNING,
2 CRITICAL, 3 UNKNOWN (also after a wrong option and after --help, as the Monitoring
Plugins Development Guidelines want it).
"""

# By figure: type, greatest value without a warning, and without an alarm, and what it
# is. A pool that is full, or for which a thread waits for milliseconds, is busy, not
# ill, so neither has a limit of its own. That a thread waits for a second is worth a
# warning, and for 5 s an alarm: 25 s after that there are errors.
_FIGURES: t.Final[tuple[tuple[str, click.ParamType[t.Any], t.Any, t.Any, str], ...]] = (
    ("usage", click.IntRange(0, 100), None, None, "percent of a pool or budget used"),
    ("waiting", click.IntRange(0), None, None, "threads waiting for a connection"),
    ("wait-seconds", Number(0), 1.0, 5.0, "how long the first of them has waited"),
    ("held-seconds", Number(0), None, None, "how long a connection is held"),
)
_LEVELS: t.Final = ("warning", "critical")

# In the context: whether the output is to be JSON, if there are no options to ask.
_AS_JSON: t.Final = "flask_poolguard.as_json"

_KEYWORDS: t.Final = "(?:[a-z_]*pass[a-z_]*|pwd|secret)"
# In what an app's own error quotes. In a URL: before the host, and among the options.
# Among keywords, as libpq takes them: a value with spaces stands in quotes, and its own
# quotes have a backslash; in Python's repr() of all that, the outer ones have it too.
_PASSWORDS: t.Final = (
    (re.compile(r"(://[^\s/:@]*:)\S*@"), r"\1***@"),
    (re.compile(rf"(?i)([?&;]{_KEYWORDS}=)[^\s&;'\"]*"), r"\1***"),
    (
        re.compile(
            rf"(?i)(?<![?&;\w])({_KEYWORDS}\s*=\s*)"
            r"""(?:\\'.*?\\'|'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?|(?:\\.|[^\s\\])*)"""
        ),
        r"\1***",
    ),
)


class Plugin(click.Command):
    """Exits with 3 where click would exit with 1 (an exception), 2 (a wrong option) or,
    after help, 0: a monitoring system takes those for WARNING, CRITICAL and OK.
    """

    def make_context(
        self, info_name: str | None, args: list[str], *more: t.Any, **extra: t.Any
    ) -> click.Context:
        as_json = "--json" in args  # before the parser takes them away
        try:
            ctx = super().make_context(info_name, args, *more, **extra)
        except click.exceptions.Exit as done:  # --help
            raise click.exceptions.Exit(State.UNKNOWN) from done
        except click.ClickException as error:
            fail(error, as_json=as_json)
        ctx.meta[_AS_JSON] = as_json
        return ctx

    def invoke(self, ctx: click.Context) -> t.Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, KeyboardInterrupt):
            raise
        except (Exception, SystemExit) as error:  # an app may exit when imported
            fail(error, as_json=ctx.meta[_AS_JSON])


def fail(error: BaseException, *, as_json: bool = False) -> t.NoReturn:
    """Say in one line that nothing is known, and why, and exit with 3."""
    try:
        _tell(Verdict(State.UNKNOWN, _describe(error)), as_json=as_json)
    except Exception:
        # The output is what fails. At its end Python would try again, and say so.
        sys.stdout = None
    raise click.exceptions.Exit(State.UNKNOWN)


def _options(function: Callable[..., None]) -> Callable[..., None]:
    function = json_option(function)
    function = click.option(
        "--min-workers",
        type=click.IntRange(0),
        default=1,
        show_default=True,
        help="Critical if fewer live.",
    )(function)
    for name, kind, *defaults, what in reversed(_FIGURES):
        for level, default in reversed(list(zip(_LEVELS, defaults, strict=True))):
            function = click.option(
                f"--{level}-{name}",
                type=kind,
                default=default,
                show_default=True,
                metavar=name.rpartition("-")[2].upper() if "-" in name else "NUMBER",
                help=f"{level.capitalize()} above: {what}.",
            )(function)
    return function


def _existing(
    ctx: click.Context, param: click.Parameter, folder: str | None
) -> str | None:
    """Refuse a folder that is not there: no worker can be missed in it.

    Only where it is given by hand. What the workers have not made yet, among the
    folders that are searched without it, says that none has run.
    """
    if folder is None:
        return None
    if not os.path.isabs(folder):
        raise click.BadParameter(
            f"{folder!r} is not absolute: a monitoring system may run this anywhere."
        )
    try:
        os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        raise click.BadParameter(
            f"there is no folder {folder!r}. Give the one that the workers use: flask"
            " pool config shows it."
        ) from None
    except OSError:
        pass  # the search says why it cannot be looked at
    return folder


@click.command("check", cls=Plugin, epilog=_EPILOG)
@_options
@click.option("--app-name", metavar="NAME", help="Only the app of this name.")
@click.option("--root-path", metavar="PATH", help="Only the app with this root path.")
@click.option(
    "--state-dir",
    metavar="DIR",
    callback=_existing,
    help="Where the workers' state files are (the app's POOLGUARD_STATE_DIR).",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    as_json: bool,
    app_name: str | None,
    root_path: str | None,
    state_dir: str | None,
    **options: t.Any,
) -> None:
    """Tell a monitoring system in one line whether all is well.

    Looks at the live workers of this user on this host, through their state files:
    flask pool check at those of its app; python -m flask_poolguard check imports no
    app and looks at all of them, of which the worst counts. Asks no database.
    """
    thresholds = _thresholds(ctx, options)
    me = None if current.is_worker() else os.getpid()
    is_one = False
    if ctx.find_object(ScriptInfo) is not None:
        state = _state_of_app(ctx)
        state_dir = state_dir or state.config.state_dir
        is_one = app_name is None and root_path is None
    if is_one:
        app, own = current_app, names_of(state.engines)
        app_name = app.name
        found = find_workers(state_dir, app.name, app.root_path, own, without_pid=me)
        search, workers = found.search, list(found.ours)
    else:
        search = read_workers(state_dir, app_name, root_path)
        workers = [each for each in without_doubles(search.workers) if each.pid != me]
    parents = parents_among(workers)
    workers = [each for each in workers if each not in parents]
    verdict = examine(
        search, workers, thresholds, label_apps=app_name is None, is_one=is_one
    )
    _tell(verdict, as_json=as_json)
    ctx.exit(verdict.state)


def _state_of_app(ctx: click.Context) -> t.Any:
    """Return what the guard keeps of the app that flask was started for."""
    if not has_app_context():
        ctx.with_resource(ctx.ensure_object(ScriptInfo).load_app().app_context())
    return current.state()


def _thresholds(ctx: click.Context, options: dict[str, t.Any]) -> Thresholds:
    """Pair the limits; a default gives way to what was said about the other one."""
    ranges = {}
    for name, *_ in _FIGURES:
        first, second = (f"{level}_{name}".replace("-", "_") for level in _LEVELS)
        warning, critical = options[first], options[second]
        if warning is not None and critical is not None and warning > critical:
            if _was_said(ctx, first) and _was_said(ctx, second):
                raise click.UsageError(
                    f"--warning-{name} {warning:g} is above --critical-{name}"
                    f" {critical:g}, so that nothing could be only a warning."
                )
            if _was_said(ctx, first):
                critical = warning
            else:
                warning = critical
        ranges[name.replace("-", "_")] = Range(warning, critical)
    return Thresholds(min_workers=options["min_workers"], **ranges)


def _was_said(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not ParameterSource.DEFAULT


def _tell(verdict: Verdict, *, as_json: bool) -> None:
    if as_json:
        echo_json(verdict.to_dict(), on_one_line=True)
    else:
        echo(render(verdict))


def _describe(error: BaseException) -> str:
    """Return what went wrong; of a traceback its first and its last line."""
    if isinstance(error, SystemExit):
        return f"the app ended this process when it was imported ({error.code})"
    if isinstance(error, click.ClickException):
        text = error.format_message()
    else:
        text = f"{type(error).__name__}: {error}"
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    first_and_last = dict.fromkeys((*lines[:1], *lines[-1:]))
    line = " ".join(first_and_last)
    for pattern, masked in _PASSWORDS:
        line = pattern.sub(masked, line)
    return line
