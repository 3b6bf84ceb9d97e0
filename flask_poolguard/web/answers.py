"""What the pages answer: the report, and whether the app is ready, from state files."""

from __future__ import annotations

import dataclasses
import json
import os
import typing as t
import weakref

from ..errors import SetupError
from ..log_lines import error
from ..report import Detail, make_report
from ..report.deployment import find_workers, names_of, parents_among
from ..report.health import examine
from ..report.hour import history_of, minutes_to_plain
from ..report.monitoring_plugin import State, Thresholds, Verdict, render
from ..report.verdict import verdict_of
from ..state.plain import to_plain
from .shared_value import PATIENCE, NotMadeInTime, SharedValue

if t.TYPE_CHECKING:
    from flask import Flask

# That this process answers shows that a worker lives, also where it can keep no state
# file.
_THRESHOLDS: t.Final = Thresholds(min_workers=0)

NOT_IN_TIME: t.Final = (
    f"the state files were not read within {PATIENCE:g} s: another request is at it"
)


class Answers:
    """The answers of one app, each made once for all who ask at about the same time."""

    def __init__(self, app: Flask) -> None:
        # Those who keep this keep it for as long as the app lives.
        reference = weakref.ref(app)
        self.status = SharedValue(lambda: _status(_alive(reference)))
        self.readiness = SharedValue(lambda: _readiness(_alive(reference)))
        self.metrics = SharedValue(lambda: _metrics(_alive(reference)))

    def is_ready(self) -> tuple[bool, str]:
        """Return whether the app can serve, and why in one line."""
        try:
            return self.readiness.get()
        except NotMadeInTime:
            found = Verdict(State.UNKNOWN, NOT_IN_TIME)
            return True, render(found)


def _alive(reference: weakref.ref[Flask]) -> Flask:
    app = reference()
    assert app is not None  # noqa: S101 (it serves this very request)
    return app


def _state(app: Flask) -> t.Any:
    """Return what the guard keeps of an app: the extension's ``AppState``.

    :raises SetupError: it has no guard.
    """
    state = app.extensions.get("poolguard")
    if state is None:
        raise SetupError(
            f"The app {app.name!r} shows the pages of guard.blueprint() and has no"
            " PoolGuard; call guard.init_app(app) too."
        )
    return state


def _status(app: Flask) -> bytes:
    """Return what ``flask pool status --json`` shows and can be read without asking a
    server, with the last hour and the settings beside it, as JSON.
    """
    state = _state(app)
    report = make_report(app, state.config, state.engines, detail=Detail.NOTHING)
    shown = verdict_of(report).before(report.to_dict())
    shown["host"] = report.host
    shown["minutes"] = minutes_to_plain(history_of(report))
    shown["settings"] = to_plain(report.binds)
    shown["answered_by"] = os.getpid()
    return json.dumps(shown, separators=(",", ":")).encode()


def _readiness(app: Flask) -> tuple[bool, str]:
    """Return whether the app can serve, and the line that ``flask pool check`` prints.

    Only what is critical takes an app out of service: what is slow still serves, and
    what cannot be told must not end what may work.
    """
    try:
        verdict = _judge(app)
    except Exception:
        error(
            "readiness_unknown",
            "Whether the app is ready could not be told.",
            exc_info=True,
        )
        verdict = Verdict(State.UNKNOWN, "it could not be told, the app's log says why")
    line = render(dataclasses.replace(verdict, perfdata=""))
    return verdict.state is not State.CRITICAL, line


def _judge(app: Flask) -> Verdict:
    state = _state(app)
    engines = state.engines
    for each in engines:  # which may be shown in a moment only
        each.tracker.figures.tend()
    config, own = state.config, names_of(engines)
    found = find_workers(config.state_dir, app.name, app.root_path, own)
    workers = [each for each in found.ours if each not in parents_among(found.ours)]
    return examine(found.search, workers, _THRESHOLDS, label_apps=False, is_one=True)


def _metrics(app: Flask) -> str:
    """Return the metrics in Prometheus' text format."""
    from ..metrics import render as render_metrics

    return render_metrics(app)
