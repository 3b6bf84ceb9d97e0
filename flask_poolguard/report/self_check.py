"""What a worker finds wrong with its own pools, and logs.

It reads its own state file, as any other process would, so that its log and a report
cannot differ. No server is asked.
"""

from __future__ import annotations

import dataclasses
import os
import typing as t
from collections.abc import Sequence

from ..engines import Guarded
from ..log_lines import warn
from ..state.reader import read_own
from ..state.status import Worker
from .evidence import Evidence
from .model import Finding
from .rules import OF_ONE_WORKER, findings_of
from .servers import Answer

if t.TYPE_CHECKING:
    from flask import Flask

_UNASKED: t.Final = Answer(None)


def log_findings(
    app: Flask,
    engines: Sequence[Guarded],
    path: str | None,
    logged: set[tuple[int, str, str]],
) -> None:
    """Log each warning, and what is worse, of each bind once per process.

    :param path: of this process's state file; without one there is nothing to say.
    :param logged: what was logged before, by pid, code and bind; gains what is new.
    """
    for each in list(engines):  # which may be shown in a moment only
        each.tracker.figures.tend()
    own = None if path is None else read_own(path)
    if own is None:
        return
    for each in list(engines):
        for finding in findings_of(_of_bind(app, each, own), OF_ONE_WORKER):
            what = (os.getpid(), finding.code, each.bind)
            if finding.level != "info" and what not in logged:
                logged.add(what)
                _log(finding, each.bind)


def _of_bind(app: Flask, guarded: Guarded, own: Worker) -> Evidence:
    pools = tuple(pool for pool in own.pools if pool.bind == guarded.bind)
    return Evidence(
        config=app.config,
        engines=(guarded,),
        workers=(dataclasses.replace(own, pools=pools),),
        answers={guarded.bind: _UNASKED},
    )


def _log(finding: Finding, bind: str) -> None:
    consequence = f" {finding.consequence}" if finding.consequence else ""
    warn(
        "finding",
        "%s: %s.%s %s",
        finding.code,
        finding.message,
        consequence,
        finding.fix,
        bind=bind,
    )
