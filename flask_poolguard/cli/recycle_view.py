"""The progress of replacing connections, as text."""

from __future__ import annotations

import typing as t
from collections.abc import Iterable, Iterator

from ..report.recycling import PoolRenewal, Renewal, WorkerRenewal
from ..report.text import NONE, UNKNOWN, Page, columns, duration, visible
from ..state.status import Holder

_MAX_HOLDERS: t.Final = 10
_HEADINGS: t.Final = ("PID", "BIND", "CLOSED", "STILL OUT")


def render(renewal: Renewal, page: Page) -> str:
    """Return what came of it."""
    sections = [
        page.wrap(_headline(renewal)),
        _table(renewal, page),
        _wrapped(_open_ends(renewal), page),
        _wrapped((f"{each.message}. {each.fix}" for each in renewal.findings), page),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _wrapped(texts: Iterable[str], page: Page) -> list[str]:
    return [line for text in texts for line in page.wrap(text, "  ", "    ")]


def render_progress(renewal: Renewal, page: Page) -> str:
    """Return one line that says how far it is."""
    done = sum(worker.is_done for worker in renewal.workers)
    out = sum(pool.outdated or 0 for each in renewal.workers for pool in each.pools)
    text = (
        f"{done} of {_count(len(renewal.workers), 'worker')} done, {out} still out,"
        f" {duration(renewal.elapsed_seconds)}"
    )
    return visible(text)[: page.width - 1]


def _headline(renewal: Renewal) -> str:
    app, host = renewal.app, renewal.host
    took = duration(renewal.elapsed_seconds)
    if renewal.refused is not None:
        return (
            f"{app}: no worker was told to replace connections, because they cannot"
            f" be looked for: {renewal.refused}. Run this as the user that the app runs"
            " as."
        )
    if renewal.left_out is not None and not renewal.workers:
        return (
            f"{app}: NOT DONE, no worker on host {host} was told to replace"
            f" connections: {renewal.left_out}."
        )
    if not renewal.workers:
        return (
            f"{app}: no worker on host {host} to tell. Whichever starts now makes new"
            " connections anyway."
        )
    workers = _count(len(renewal.workers), "worker")
    if renewal.done:
        return f"{app}: {workers} on host {host} replaced all connections in {took}"
    left = sum(not worker.is_done for worker in renewal.workers)
    if not left:
        return (
            f"{app}: NOT DONE, {workers} on host {host} replaced all connections in"
            f" {took}, but others may not have been told: {renewal.left_out}."
        )
    return (
        f"{app}: NOT DONE after {took}, {left} of {workers} on host {host} still may"
        " use older connections. They go on with it by themselves."
    )


def _table(renewal: Renewal, page: Page) -> list[str]:
    rows = []
    for worker in renewal.workers:
        name = _name(worker, renewal)
        if worker.ended:
            rows.append([name, "(ended meanwhile)", NONE, NONE])
        elif worker.is_unused:
            rows.append([name, "(no connection yet)", NONE, NONE])
        elif not worker.pools:
            rows.append([name, NONE, UNKNOWN, UNKNOWN])
        for pool in worker.pools:
            closed = NONE if pool.pool_class == "NullPool" else _figure(pool.closed)
            rows.append([name, visible(pool.bind), closed, _figure(pool.outdated)])
    return list(columns(_HEADINGS, rows, page)) if rows else []


def _open_ends(renewal: Renewal) -> Iterator[str]:
    """Yield why it is not done, or not quite."""
    for worker in renewal.workers:
        name = _name(worker, renewal)
        if worker.ended:
            continue
        if worker.problem is not None:
            yield f"{name}: {worker.problem}. Restart that worker to be sure."
        silent = [pool.bind for pool in worker.pools if not pool.answered]
        if silent:
            yield (
                f"{name} has not answered ({', '.join(silent)}): it is stopped, very"
                " busy, or runs without threads and has had no request. It will when"
                " it runs again."
            )
        for pool in worker.pools:
            yield from _pool(name, pool)


def _pool(name: str, pool: PoolRenewal) -> Iterator[str]:
    if pool.is_unknown:
        yield (
            f"{name} {pool.bind}: a {pool.pool_class} does not tell who has its"
            " connection, so whether the old one is still in use is unknown. Restart"
            " that worker to be sure."
        )
    elif pool.answered and pool.replaces_later:
        yield (
            f"{name} {pool.bind}: a {pool.pool_class} keeps idle connections open, and"
            " replaces each when it is next asked for."
        )
    for holder in pool.holders[:_MAX_HOLDERS]:
        yield f"{name} {pool.bind}: {_describe(holder)}"
    if len(pool.holders) > _MAX_HOLDERS:
        more = len(pool.holders) - _MAX_HOLDERS
        yield f"{name} {pool.bind}: … and {more} more (--json has all)"


def _describe(holder: Holder) -> str:
    text = (
        f"{holder.endpoint or UNKNOWN} at {holder.site or UNKNOWN} has had one for"
        f" {duration(holder.held_seconds)}"
    )
    if holder.thread:
        text += f", thread {holder.thread}"
    if holder.server_id is not None:
        text += f", server id {holder.server_id}"
    return text


def _name(worker: WorkerRenewal, renewal: Renewal) -> str:
    pid = UNKNOWN if worker.pid is None else str(worker.pid)
    if worker.host in ("", renewal.host):
        return pid
    return visible(f"{worker.host}:{pid}")  # a container that shares the folder


def _figure(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
