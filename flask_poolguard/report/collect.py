"""Makes a report from state files, the servers' answers and the settings."""

from __future__ import annotations

import dataclasses
import os
import socket
import time
import typing as t
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from ..budget import Standing
from ..config import AUTO, AppConfig, Setting
from ..engines import Guarded, standing_of
from ..pool import GuardedPool
from ..state.search import Search
from ..state.status import Worker
from ..urls import public_url
from . import environment, gaps, servers
from .deployment import (
    Found,
    find_workers,
    names_of,
    parents_among,
    strange_binds,
)
from .effective_settings import SizesInForce, sizes_in_force
from .ended_sessions import find_ended, mark_ended
from .evidence import Evidence, Plan
from .model import (
    SCHEMA_VERSION,
    BindSetting,
    BindSettings,
    Report,
    Server,
)
from .rules import findings_of
from .servers import Detail
from .session_counts import count_at_server
from .session_matching import Joined, join, unseen_processes
from .verdict import is_blind, rank

if t.TYPE_CHECKING:
    from flask import Flask


def make_report(
    app: Flask,
    config: AppConfig,
    engines: Sequence[Guarded],
    *,
    with_this_process: bool = True,
    detail: Detail = Detail.VIEW,
    plan: Plan | None = None,
    seconds: float = 0.0,
) -> Report:
    """Report on the app's live workers on this host, and on their servers.

    Takes two seconds at most, however many servers do not answer; with a second look
    twice that and the time between. Reads files only if no server is asked.

    :param engines: of this process; they say which servers to ask, and how.
    :param with_this_process: whether this process's own pools count as a worker's.
    :param detail: whether servers are asked, for their sessions, and for statements.
    :param plan: the deployment to judge, if it is not what is found.
    :param seconds: after how long to look a second time, to see what servers and
        workers count rise; 0 for not at all.
    """
    # Flask-SQLAlchemy's order varies from process to process.
    engines = sorted(engines, key=lambda each: (each.bind != "default", each.bind))

    def read() -> Found:
        for each in engines:  # which may be shown in a moment only
            each.tracker.figures.tend()
        return find_workers(
            config.state_dir,
            app.name,
            app.root_path,
            names_of(engines),
            without_pid=None if with_this_process else os.getpid(),
        )

    questions = servers.begin(engines, detail)
    earlier: Mapping[str, servers.Answer] = {}
    earlier_workers: tuple[Worker, ...] = ()
    watched = 0.0
    if seconds > 0:
        then, first = read().ours, servers.finish(questions, engines)
        if _can_rise(then, first):
            time.sleep(seconds)
            watched = seconds
            earlier_workers = tuple(then)
            earlier, questions = first, servers.begin(engines, detail)
    found = read()
    search, ours = found.search, found.ours
    strange = strange_binds(engines, ours) if plan is None or plan.is_none else {}
    asked, engines = engines, [each for each in engines if each.bind not in strange]
    parents = parents_among(ours)
    serving = [each for each in ours if each not in parents]
    answers = servers.finish(questions, asked)
    gone = find_ended(engines, answers, serving)
    if gone:  # and not given back before the server listed its sessions
        gone &= find_ended(engines, answers, read().ours)
    workers = mark_ended(serving, gone)
    with_sessions = detail >= Detail.SESSIONS
    sessions = join(app.name, engines, answers, ours) if with_sessions else {}
    standings = _standings(engines)
    evidence = Evidence(
        config=app.config,
        engines=engines,
        parents=parents,
        workers=workers,
        answers=answers,
        sessions=sessions,
        budgets={k: v for k, v in standings.items() if v.limit is not None},
        plan=plan or Plan(),
        earlier=earlier,
        earlier_workers=earlier_workers,
        seconds=watched,
        has_all_workers=not search.problems,
    )
    findings = [
        *environment.find_other_deployments(
            app.name, found.others, is_meant=not ours and evidence.plan.is_none
        ),
        *gaps.find_problems(search.problems),
    ]
    if ours or not is_blind(findings):  # else all follows from this shell's settings
        findings += [
            *findings_of(evidence),
            *environment.find_strange_binds(app.name, strange, serving),
            *gaps.find_taken(search.taken),
            *gaps.find_parents(parents),
        ]
    if not ours and not is_blind(findings):
        unseen = unseen_processes(app.name, engines, answers)
        findings += environment.find_no_worker(app, search, config.state_dir, unseen)
    return Report(
        schema_version=SCHEMA_VERSION,
        taken_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        app=app.name,
        workers=workers,
        servers=tuple(
            _with_budget(
                _with_sessions(_server(each, engines, answers, ours, search), sessions),
                standings,
                each.tracker.facts.budget_file,
            )
            for each in engines
        ),
        findings=tuple(sorted(findings, key=rank)),
        host=socket.gethostname(),
        binds=tuple(_settings(each, workers) for each in engines),
        root_path=app.root_path,
    )


def _standings(engines: Sequence[Guarded]) -> dict[str, Standing]:
    """Return how the budgets of binds stand; those of one are looked at once, so that
    all tell the same.
    """
    found: dict[str, Standing] = {}
    by_file: dict[str, Standing | None] = {}
    for each in engines:
        file = each.tracker.facts.budget_file
        if file and file not in by_file:
            by_file[file] = standing_of(each.engine, each.settings, each.tracker)
        standing = by_file.get(file)
        if standing is not None:
            found[each.bind] = standing
    return found


def _can_rise(workers: Sequence[Worker], answers: Mapping[str, servers.Answer]) -> bool:
    """Tell whether anything is counted that a second look could see rise."""
    return any(each.pools for each in workers) or any(
        each.view and each.view.counters for each in answers.values()
    )


def _server(
    guarded: Guarded,
    engines: Sequence[Guarded],
    answers: Mapping[str, servers.Answer],
    workers: Sequence[Worker],
    search: Search,
) -> Server:
    answer = answers[guarded.bind]
    view = answer.view
    if view is None:
        return Server(
            guarded.bind,
            None,
            answer.reachable,
            None,
            None,
            None,
            None,
            failure=answer.failure,
        )
    return Server(
        bind=guarded.bind,
        product=view.product,
        reachable=answer.reachable,
        idle_timeout_seconds=view.idle_limit.seconds,
        max_connections=view.max_connections,
        connections=view.connections,
        ours=None
        if search.problems  # of a file that could not be read
        else count_at_server(guarded, engines, answers, workers),
        reserved=view.reserved,
        failure=answer.failure,
    )


def _with_sessions(server: Server, sessions: Mapping[str, Joined]) -> Server:
    found = sessions.get(server.bind)
    if found is None:
        return server
    return dataclasses.replace(
        server, sessions=found.sessions, sessions_hidden=found.hidden
    )


def _with_budget(
    server: Server, standings: Mapping[str, Standing], file: str
) -> Server:
    found = standings.get(server.bind)
    if found is None:
        return server
    return dataclasses.replace(
        server,
        budget=found.limit,
        budget_taken=found.taken,
        budget_holders=found.holders,
        budget_told=found.told,
        budget_file=file,
    )


def _settings(guarded: Guarded, workers: Sequence[Worker]) -> BindSettings:
    """Describe how this process would set up a bind's pool; of sizes that are
    automatic, what they are at the workers too.
    """
    sizes = sizes_in_force(guarded.bind, workers)
    facts, settings = guarded.tracker.facts, guarded.settings
    shown: list[tuple[str, Setting[t.Any], str]] = []
    if isinstance(guarded.engine.pool, GuardedPool):
        recycle = settings.pool_recycle
        shown = [
            ("size", settings.pool_size, _now(sizes, settings.pool_size, 0)),
            ("overflow", settings.max_overflow, _now(sizes, settings.max_overflow, 1)),
            ("timeout", settings.pool_timeout, " s"),
            ("recycle", recycle, "" if recycle.value in (AUTO, -1) else " s"),
        ]
        if settings.idle_limit.value is not None:
            shown.append(("idle limit", settings.idle_limit, " s"))
    elif facts.size is not None:
        own = f"{facts.pool_class} keeps its own"
        shown = [
            ("size", Setting(facts.size, own), ""),
            ("overflow", Setting(facts.max_overflow, own), ""),
        ]
    return BindSettings(
        bind=guarded.bind,
        url=public_url(guarded.engine.url),
        pool_class=facts.pool_class,
        settings=tuple(
            BindSetting(name, _text(setting.value) + unit, setting.origin)
            for name, setting, unit in shown
        ),
    )


def _now(
    sizes: Sequence[SizesInForce], setting: Setting[t.Any], index: t.Literal[0, 1]
) -> str:
    """Return what an automatic size is at the workers now; "" for a number."""
    pairs = [(each.pool_size or 0, each.max_overflow or 0) for each in sizes]
    found = sorted({pair[index] for pair in pairs})
    if setting.value != AUTO or not found:
        return ""
    return f", now {' to '.join(map(str, dict.fromkeys((found[0], found[-1]))))}"


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
