"""Findings about a shell that is not in the environment of the service."""

from __future__ import annotations

import shlex
import typing as t
from collections.abc import Collection, Mapping, Sequence

from ..state.directory import user_id
from ..state.process import is_same_path
from ..state.search import Search
from ..state.status import Worker
from .gaps import describe_left_out, folders_of_others, user_name
from .model import Finding
from .phrases import capitalized, listed, named_binds, named_workers

if t.TYPE_CHECKING:
    from flask import Flask

# As many other users' folders are named at most.
_MAX_HINTS: t.Final = 5

_SAME_ENVIRONMENT: t.Final = (
    "Set the service's variables, such as DATABASE_URL, in this shell, and try again."
)
_IF_MEANT: t.Final = f"If you meant this one: {_SAME_ENVIRONMENT}"
_HOW_TO_MEAN: t.Final = {
    "app": "If it is this app, let it have one name wherever it is made: Flask({app!r})"
    " instead of Flask(__name__), where a server imports the module under another"
    " name.",
    "path": _IF_MEANT,
    "databases": _IF_MEANT,
    "unknown": "If you meant this one, try again in a few seconds; without threads"
    " (uWSGI without --enable-threads) its databases are known from its first request.",
    "version": "If you meant this one, restart the app's workers, so that all run the"
    " installed version.",
}
# With these reasons this shell is likely to be the one that is wrong.
_BY_ENVIRONMENT: t.Final = ("path", "databases")


def find_strange_binds(
    app: str, strange: Mapping[str, tuple[str, str]], workers: Sequence[Worker]
) -> list[Finding]:
    """Return that the app found here is not quite the one that runs.

    :param strange: binds, and their URLs in the workers and here.
    :param workers: those of this deployment.
    """
    if not strange:
        return []
    who = named_workers(each.pid for each in workers)
    urls = "; ".join(
        f"{bind} {there} there, {here} here" for bind, (there, here) in strange.items()
    )
    databases = "another database" if len(strange) == 1 else "other databases"
    return [
        Finding(
            "warning",
            "other-deployment",
            f"{capitalized(who)} of {app} use{_s(workers)} {databases} for"
            f" {named_binds(strange)} than this shell: {urls}",
            _SAME_ENVIRONMENT,
            f"Nothing is said of the servers and settings of {named_binds(strange)}.",
            f"{who} use{_s(workers)} {databases} for {named_binds(strange)} than this"
            " shell: set the service's variables, such as DATABASE_URL",
        )
    ]


def find_other_deployments(
    app: str, others: Sequence[Worker], *, is_meant: bool
) -> list[Finding]:
    """Return the workers left out because they use other databases.

    :param is_meant: whether they are likely to be what was looked for, because no
        worker of this deployment was found.
    """
    groups: dict[tuple[str, ...], list[Worker]] = {}
    for worker in others:
        urls = tuple(f"{pool.bind} {pool.url}" for pool in worker.pools)
        groups.setdefault(urls, []).append(worker)
    return [
        Finding(
            "warning" if is_meant else "info",
            "other-deployment",
            f"{_workers(group)} of {app} not shown: other databases"
            f" ({', '.join(urls)}) than this shell's",
            _SAME_ENVIRONMENT,
            "This report speaks of another deployment than the one that they serve.",
            f"{named_workers(each.pid for each in group)} of {app} use{_s(group)} other"
            " databases than this shell: set the service's variables, such as"
            " DATABASE_URL",
        )
        for urls, group in groups.items()
    ]


def find_no_worker(
    app: Flask,
    search: Search,
    configured: str | None,
    unseen: Collection[int] = (),
) -> list[Finding]:
    """Return where no worker was found, what was found instead, and who may have some.

    Workers on other databases of the same root path have a finding of their own.

    :param configured: ``POOLGUARD_STATE_DIR``.
    :param unseen: live processes of the app that the servers know.
    """
    absence = _absence(app, search, configured, unseen)
    left_out = [
        each
        for each in search.left_out
        if each.reason != "databases" or not is_same_path(each.root_path, app.root_path)
    ]
    found = [
        Finding(
            "warning" if reason in _BY_ENVIRONMENT else "info",
            "left-out",
            f"Found and left out: {text}",
            _HOW_TO_MEAN[reason].format(app=app.name),
            "This report says nothing of what is left out.",
            f"no live worker of this app was found on this host, but {text}",
        )
        for reason, text in describe_left_out(left_out)
    ]
    if configured is not None:
        return [absence, *found]
    theirs: dict[int, list[str]] = {}
    for folder, uid in folders_of_others(search.folders):
        theirs.setdefault(uid, []).append(folder)
    hints = [
        Finding(
            "info",
            "other-user",
            f"User {user_name(uid)} has"
            f" {'a folder' if len(folders) == 1 else 'folders'} for state files:"
            f" {', '.join(folders)}",
            f"If {app.name} runs as that user, run this command as that user, for"
            " example with sudo -u"
            f" {shlex.quote(user_name(uid).partition(' ')[0])}.",
            "Workers of other users are not shown to this one.",
        )
        for uid, folders in theirs.items()
    ]
    return [absence, *found, *hints[:_MAX_HINTS]]


def _absence(
    app: Flask, search: Search, configured: str | None, unseen: Collection[int]
) -> Finding:
    user = user_name(user_id())
    where = f"as user {user} in {', '.join(search.folders)}"
    seen = f", but {_processes(unseen)} to its servers" if unseen else ""
    if unseen:
        here = f"here it is {configured}" if configured else "here it is not set"
        fix = (
            f"Set POOLGUARD_STATE_DIR as the service has it ({here}), and run this as"
            " the user that the service runs as."
        )
    else:
        fix = (
            "Start the app. Under gunicorn, uWSGI, waitress-serve and flask run a"
            " worker shows up when it starts, under other servers with its first"
            " request. If it runs as another user, run this as that user; if it has a"
            " POOLGUARD_STATE_DIR, set the same here."
        )
    return Finding(
        "warning" if unseen else "info",
        "no-workers",
        f"No live worker of {app.name} found {where}{seen}",
        fix,
        "Nothing is known of its pools; only settings and servers were looked at.",
        f"no live worker of this app was found on this host{seen}; the service may have"
        " another POOLGUARD_STATE_DIR, DATABASE_URL or user than this shell",
    )


def _processes(pids: Collection[int]) -> str:
    numbers = [str(each) for each in sorted(pids)]
    if len(numbers) == 1:
        return f"its process {numbers[0]} is connected"
    return f"its processes {listed(numbers)} are connected"


def _workers(workers: Sequence[Worker]) -> str:
    return capitalized(named_workers(each.pid for each in workers))


def _s(workers: Sequence[Worker]) -> str:
    return "s" if len(workers) == 1 else ""
