"""The progress of replacing connections, as text, and the verdict on it."""

from __future__ import annotations

import typing as t
from collections.abc import Iterable, Iterator, Sequence

from ..report.phrases import busiest, connections
from ..report.phrases import workers as number_of_workers
from ..report.renewal import PoolRenewal, Renewal, WorkerRenewal
from ..report.text import NONE, UNKNOWN, Page, columns, duration, visible
from ..report.verdict import Verdict
from ..state.status import Holder
from .findings_view import render as findings_lines
from .findings_view import verdict_lines

_MAX_HOLDERS: t.Final = 10
_HEADINGS: t.Final = ("PID", "BIND", "CLOSED", "STILL OUT")


def render(renewal: Renewal, page: Page) -> str:
    """Return what came of it."""
    sections = [
        [
            *verdict_lines(verdict_on(renewal), page),
            *page.wrap(_headline(renewal)),
        ],
        findings_lines(renewal.findings, page),
        _wrapped(_open_ends(renewal), page),
        _table(renewal, page),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _wrapped(texts: Iterable[str], page: Page) -> list[str]:
    return [line for text in texts for line in page.wrap(text, "  ", "    ")]


def render_progress(renewal: Renewal, page: Page) -> str:
    """Return one line that says how far it is."""
    done = sum(worker.is_done for worker in renewal.workers)
    out = sum(pool.outdated or 0 for each in renewal.workers for pool in each.pools)
    text = (
        f"{done} of {number_of_workers(len(renewal.workers))} done, {out} still out,"
        f" {duration(renewal.elapsed_seconds)}"
    )
    return visible(text)[: page.width - 1]


def verdict_on(renewal: Renewal) -> Verdict:
    """Return in one line what was renewed, what was not, and why. It is ok if the
    command ends with 0.
    """
    workers, host = renewal.workers, renewal.host
    if renewal.refused is not None:
        return Verdict(
            "unknown",
            "no worker was told to replace connections, because they cannot be looked"
            f" for: {renewal.refused}",
        )
    if not workers and renewal.left_out is not None:
        return Verdict(
            "unknown",
            f"no worker on host {host} was told to replace connections:"
            f" {renewal.left_out}",
        )
    if not workers:
        return Verdict(
            "ok",
            f"no live worker on host {host}, so there is no connection to replace",
        )
    who = number_of_workers(len(workers))
    took = duration(renewal.elapsed_seconds)
    left = [each for each in workers if not each.is_done]
    if left:
        return Verdict(
            "warning",
            f"{len(left)} of {who} on host {host} may still use older connections"
            f" after {took}: {_why(left)}",
        )
    closed = sum(pool.closed or 0 for each in workers for pool in each.pools)
    text = f"{who} on host {host} replaced all connections in {took}, {closed} closed"
    if renewal.done:
        return Verdict("ok", text)
    return Verdict(
        "warning", f"{text}; others may not have been told: {renewal.left_out}"
    )


def _why(left: Sequence[WorkerRenewal]) -> str:
    """Return in short what keeps workers from being done."""
    pools = [pool for each in left for pool in each.pools]
    out = sum(pool.outdated or 0 for pool in pools)
    where = busiest(each for pool in pools for each in pool.holders)
    silent = [each for each in left if _is_silent(each)]
    parts = []
    if out:
        parts.append(f"{connections(out)} out" + (f", {where}" if where else ""))
    if silent:
        parts.append(f"no answer from {number_of_workers(len(silent))}")
    parts += dict.fromkeys(each.problem for each in left if each.problem)
    parts += dict.fromkeys(
        f"a {pool.pool_class} does not tell who has its connection"
        for pool in pools
        if pool.is_unknown
    )
    return "; ".join(parts)


def _is_silent(worker: WorkerRenewal) -> bool:
    return worker.problem is None and (
        not worker.pools or not all(pool.answered for pool in worker.pools)
    )


def _headline(renewal: Renewal) -> str:
    """Return of which app this is, and what comes next."""
    if renewal.refused is not None:
        after = "run this as the user that the app runs as"
    elif renewal.left_out is not None and not renewal.workers:
        after = "nothing was replaced"
    elif not renewal.workers:
        after = "a worker that starts now makes new connections anyway"
    elif all(each.is_done for each in renewal.workers):
        after = "each checkout gets a new connection now"
    else:
        after = "the workers go on with it by themselves"
    return f"{renewal.app}: {after}"


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
