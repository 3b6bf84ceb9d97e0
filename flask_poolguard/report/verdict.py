"""The verdict with which each command begins: a level and one line."""

from __future__ import annotations

import typing as t
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..state.status import Worker
from .model import LEVELS, Finding, Report
from .phrases import requests
from .phrases import workers as number_of_workers

# Worst first: requests fail now; something is to be changed; all is well; it cannot be
# told.
VerdictLevel = t.Literal["critical", "warning", "ok", "unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a command found, in one line.

    :ivar text: cause, place and number.
    """

    level: VerdictLevel
    text: str

    def before(self, data: dict[str, t.Any]) -> dict[str, t.Any]:
        """Return what a command prints as JSON, with the verdict as its first key."""
        return {"verdict": {"level": self.level, "text": self.text}, **data}


# As warnings these say that this shell has not the service's environment.
_BLIND: t.Final = ("other-deployment", "left-out", "no-workers")
# What is a cause comes before what follows from it.
_CAUSES_FIRST: t.Final = (
    *_BLIND,
    "full",
    "unavailable",
    "read-only",
    "server-unreachable",
    "saturated",
    "stopped",
    "deadlock",
    "timeouts",
    "held",
)


def rank(finding: Finding) -> tuple[int, int]:
    """Return the order of findings: the worst first, and of these the causes. That no
    worker was found, though some seem to run, is before all.
    """
    code = finding.code
    if finding.level == "warning" and code in ("left-out", "no-workers"):
        return -1, _BLIND.index(code)
    place = _CAUSES_FIRST.index(code) if code in _CAUSES_FIRST else len(_CAUSES_FIRST)
    return LEVELS.index(finding.level), place


def is_blind(findings: Iterable[Finding]) -> bool:
    """Tell whether workers seem to run that this shell's environment does not show."""
    return any(each.code in _BLIND and each.level == "warning" for each in findings)


def verdict_of(report: Report) -> Verdict:
    """Return the worst finding that is more than a hint, in short; without any, how
    busy the workers are, and without any worker why none was found.
    """
    worst = min(report.findings, key=rank, default=None)
    if worst is not None:
        text = f"{worst.in_short} ({worst.code})"
        if not report.workers and worst.code in _BLIND:
            return Verdict("unknown", text)
        if worst.level != "info":
            return Verdict(worst.level, text)
    if not report.workers:
        return Verdict("unknown", "no live worker of this app was found on this host")
    return Verdict("ok", how_busy(report.workers))


def how_busy(workers: Sequence[Worker]) -> str:
    """Return how many connections the workers have out, and how many requests wait."""
    pools = [pool for worker in workers for pool in worker.pools]
    parts = [number_of_workers(len(workers))]
    known = [pool for pool in pools if pool.checked_out is not None]
    if known:
        out = sum(pool.checked_out or 0 for pool in known)
        limits = [pool.limit for pool in known]
        of = f" of {sum(filter(None, limits))}" if all(limits) else ""
        parts.append(f"{out}{of} connections out")
    waits = [pool.waiting for pool in pools if pool.waiting is not None]
    if waits:
        number = sum(waits)
        parts.append(requests(number) if number else "no request waits")
    return ", ".join(parts)
