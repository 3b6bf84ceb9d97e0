"""``flask pool check``: judges by the state files of the live workers alone."""

from __future__ import annotations

import os
import shlex
import typing as t
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..state.directory import user_id
from ..state.search import Problem, Search
from ..state.status import Worker
from .deployment import are_of_one_deployment
from .evidence import Evidence
from .fullest import BudgetInUse, budgets_of, by_bind, fullest
from .gaps import describe_left_out, find_problems, folders_of_others, user_name
from .model import Level
from .monitoring_plugin import (
    BY_WEIGHT,
    Health,
    State,
    Thresholds,
    Verdict,
    clean_label,
    datum,
    perfdata_of,
)
from .rules import OF_WORKERS, findings_of
from .text import duration
from .verdict import rank

# As many other users' folders are named at most; the line is to stay short.
_MAX_HINTS: t.Final = 3


@dataclass(frozen=True, slots=True)
class _Issue:
    state: State
    text: str


def examine(
    search: Search,
    workers: Sequence[Worker],
    thresholds: Thresholds,
    *,
    label_apps: bool,
    is_one: bool = False,
) -> Verdict:
    """Judge the live workers that were found.

    :param workers: those of ``search`` that are meant.
    :param label_apps: whether figures are labelled by app. Not decided by how many
        apps live right now: a graph must keep its name while its app is down.
    :param is_one: whether all workers are of one deployment.
    """
    issues = [_judge_problem(each) for each in search.problems]
    apps, lines = [], []
    for label, group in _by_app(workers, label_apps, is_one):
        budgets = budgets_of(group)
        health = _measure(label, group, budgets)
        apps.append(health)
        found = list(_judge(health, group, budgets, thresholds))
        issues += [_Issue(each.state, f"{health.app}: {each.text}") for each in found]
        lines.append(f"{health.app}: {_summarize(health)}")
    if not apps:
        absence = _judge_absence(search, thresholds)
        issues.append(absence)
        lines.append(absence.text)
    bad = [each for each in issues if each.state is not State.OK]
    bad.sort(key=lambda each: -BY_WEIGHT.index(each.state))
    state = bad[0].state if bad else State.OK
    text = "; ".join([each.text for each in bad] or lines)
    perfdata = " ".join(perfdata_of(each, thresholds) for each in apps)
    if not apps:
        perfdata = datum("workers", 0, low=thresholds.min_workers)
    return Verdict(state, text, tuple(apps), perfdata)


def _by_app(
    workers: Sequence[Worker], label_apps: bool, is_one: bool
) -> Iterator[tuple[str, list[Worker]]]:
    """Yield the workers of each app, with its label.

    Two apps of one name are told apart by where they are; one app that was started
    from several paths, such as releases behind a symbolic link, is one.
    """
    groups: list[list[Worker]] = []
    for each in workers:
        apart, group = [], [each]
        for other in groups:
            if is_one or any(are_of_one_deployment(each, one) for one in other):
                group = other + group
            else:
                apart.append(other)
        groups = [*apart, group]
    where = [
        (group[0].process.app, min(os.path.realpath(each.root_path) for each in group))
        for group in groups
    ]
    names = [name for name, _ in where]
    for (name, path), group in sorted(
        zip(where, groups, strict=True), key=lambda each: each[0]
    ):
        label = name if names.count(name) == 1 else f"{name}@{path}"
        has_label = label_apps or len(groups) > 1
        yield (clean_label(label) + "." if has_label else ""), group


def _measure(
    label: str, workers: Sequence[Worker], budgets: Mapping[str, BudgetInUse]
) -> Health:
    process = workers[0].process
    pools = [pool for worker in workers for pool in worker.pools]
    worst = fullest(workers, budgets)
    used_most = max(
        budgets.values(),
        key=lambda each: each.standing.taken / each.limit,
        default=None,
    )
    waits = [pool.waiting for pool in pools if pool.waiting is not None]
    held = [
        0.0 if pool.checked_out == 0 else pool.longest_held_seconds
        for pool in pools
        if pool.checked_out == 0 or pool.longest_held_seconds is not None
    ]
    timeouts = [pool.timeouts for pool in pools if pool.timeouts is not None]
    connects = [pool for pool in pools if pool.connecting is not None]
    return Health(
        app=process.app,
        root_path=process.root_path,
        label=label,
        workers=len(workers),
        usage_percent=None if worst is None else worst.percent,
        can_wait=worst is not None and worst.can_wait,
        waiting=sum(waits) if waits else None,
        oldest_wait_seconds=_greatest(
            (pool.oldest_wait_seconds or 0.0 for pool in pools if pool.waiting),
            0.0 if waits else None,
        ),
        longest_held_seconds=_greatest((each or 0.0 for each in held), None),
        timeouts=sum(timeouts) if timeouts else None,
        leaks=sum(pool.leaks for pool in pools),
        connecting=sum(pool.connecting or 0 for pool in connects) if connects else None,
        oldest_connect_seconds=_greatest(
            (pool.oldest_connect_seconds or 0.0 for pool in connects), None
        ),
        unavailable=sum(pool.unavailable or 0 for pool in connects)
        if connects
        else None,
        budget=None if used_most is None else used_most.limit,
        budget_taken=None if used_most is None else used_most.standing.taken,
    )


def _greatest(values: Iterable[float], default: float | None) -> float | None:
    return max(values, default=default)


def _judge(
    health: Health,
    workers: Sequence[Worker],
    budgets: Mapping[str, BudgetInUse],
    thresholds: Thresholds,
) -> Iterator[_Issue]:
    if health.workers < thresholds.min_workers:
        number = _live(health.workers)
        yield _Issue(State.CRITICAL, f"{number}, fewer than {thresholds.min_workers}")
    evidence = Evidence(
        config={},
        engines=(),
        workers=workers,
        answers={},
        budgets=by_bind(budgets),
        thresholds=thresholds,
    )
    for finding in sorted(findings_of(evidence, OF_WORKERS), key=rank):
        yield _Issue(_STATES[finding.level], finding.in_short)
    worst = fullest(workers, budgets)
    if worst is not None and worst.can_wait:
        yield _Issue(thresholds.usage.judge(worst.percent), str(worst))
    yield _Issue(
        thresholds.waiting.judge(health.waiting),
        f"{health.waiting} waiting for a connection, the first for"
        f" {duration(health.oldest_wait_seconds)}",
    )


_STATES: t.Final[Mapping[Level, State]] = {
    "critical": State.CRITICAL,
    "warning": State.WARNING,
    "info": State.OK,
}


def _judge_problem(problem: Problem) -> _Issue:
    (finding,) = find_problems([problem])
    return _Issue(State.UNKNOWN, f"{finding.message}. {finding.fix}".rstrip("."))


def _judge_absence(search: Search, thresholds: Thresholds) -> _Issue:
    """Judge that there is no worker.

    Where something could not be read, one may be hidden there. A user who has no folder
    at all has most likely never run a worker: if others have one, the wrong user asks.
    """
    user = user_name(user_id())
    text = f"no live worker found as user {user} in {', '.join(search.folders)}"
    left_out = [each for _, each in describe_left_out(search.left_out)]
    if left_out:
        text += f"; found and left out: {'; '.join(left_out)}"
    others = list(folders_of_others(search.folders))[:_MAX_HINTS]
    names = dict.fromkeys(user_name(uid).partition(" ")[0] for _, uid in others)
    if names:
        text += "; workers may run as another user, try " + " or ".join(
            f"sudo -u {shlex.quote(name)}" for name in names
        )
    own = set(search.folders).difference(each.path for each in search.taken)
    is_stranger = others and not any(map(os.path.lexists, own))
    if search.problems or is_stranger:
        return _Issue(State.UNKNOWN, text)
    return _Issue(State.CRITICAL if thresholds.min_workers else State.OK, text)


def _live(number: int) -> str:
    return f"{number} live {'worker' if number == 1 else 'workers'}"


def _summarize(health: Health) -> str:
    parts = [_live(health.workers)]
    if health.usage_percent is not None:
        parts.append(f"{health.usage_percent:g}% used at most")
        if not health.can_wait:
            parts[-1] += " (a connection for every thread)"
    if health.waiting is not None:
        parts.append(f"{health.waiting or 'none'} waiting")
    if health.budget is not None:
        taken = f"{health.budget_taken} of {health.budget}"
        parts.append(f"{taken} places of the budget taken")
    if health.longest_held_seconds:
        parts.append(f"longest held {duration(health.longest_held_seconds)}")
    return ", ".join(parts)
