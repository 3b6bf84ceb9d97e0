"""Findings about what a report cannot show: folders, files and users."""

from __future__ import annotations

import contextlib
import glob
import os
import shlex
import typing as t
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..state.directory import FOLDER, user_id
from ..state.process import is_same_path
from ..state.search import LeftOut, Problem, Search, TakenFolder
from ..state.status import Worker
from .model import Finding
from .phrases import capitalized, connections, named_workers

if t.TYPE_CHECKING:
    from flask import Flask

# As many other users' folders are named at most.
_MAX_HINTS: t.Final = 5
# And as many kinds of workers that were left out.
_MAX_LEFT_OUT: t.Final = 5

# By reason: why a worker is left out, and what to do if it was meant.
_WHY: t.Final = {
    "app": "another app's name",
    "path": "another root path",
    "databases": "other databases",
    "unknown": "from another path, with databases that are not known yet",
    "version": "from another path, with another version of Flask-PoolGuard",
}
_SAME_ENVIRONMENT: t.Final = (
    "If you meant this one, this shell lacks the service's environment: set the same"
    " variables (such as DATABASE_URL) and try again."
)
_HOW_TO_MEAN: t.Final = {
    "app": "If it is this app, let it have one name wherever it is made: Flask({app!r})"
    " instead of Flask(__name__), where a server imports the module under another"
    " name.",
    "path": _SAME_ENVIRONMENT,
    "databases": _SAME_ENVIRONMENT,
    "unknown": "If you meant this one, try again in a few seconds; without threads"
    " (uWSGI without --enable-threads) its databases are known from its first request.",
    "version": "If you meant this one, restart the app's workers, so that all run the"
    " installed version.",
}


def find_problems(problems: Sequence[Problem]) -> list[Finding]:
    """Return what was wrong with folders and files; the same of several is one."""
    groups: dict[tuple[str, str], list[Problem]] = {}
    for each in problems:
        groups.setdefault((each.kind, each.reason), []).append(each)
    return [_describe(group) for group in groups.values()]


def find_taken(taken: Sequence[TakenFolder]) -> list[Finding]:
    """Return the default folders whose names other users have taken."""
    paths: dict[int, list[str]] = {}
    for each in taken:
        paths.setdefault(each.owner, []).append(each.path)
    return [
        Finding(
            "info",
            "state-folder",
            f"User {user_name(owner)} has taken the name of"
            f" {'a folder' if len(found) == 1 else f'{len(found)} folders'} for state"
            f" files: {', '.join(found)}",
            "Nothing has to be done. If it is in the way, set POOLGUARD_STATE_DIR, for"
            " the app and for this command, to a folder of the app's user.",
            "Nothing is hidden by it: workers refuse a folder of another user, and keep"
            " their files in the next.",
        )
        for owner, found in paths.items()
    ]


def find_other_deployments(app: str, others: Sequence[Worker]) -> list[Finding]:
    """Return the workers left out because they use other databases."""
    pids: dict[tuple[str, ...], list[int]] = {}
    for worker in others:
        urls = tuple(f"{pool.bind} {pool.url}" for pool in worker.pools)
        pids.setdefault(urls, []).append(worker.pid)
    return [
        Finding(
            "info",
            "other-deployment",
            f"{_workers(numbers)} of {app} not shown: other databases"
            f" ({', '.join(urls)})",
            "If you meant these workers, this shell lacks the service's environment:"
            " set the same variables (such as DATABASE_URL) and try again.",
            "This report speaks of another deployment than the one that they serve.",
        )
        for urls, numbers in pids.items()
    ]


def find_parents(parents: Sequence[Worker]) -> list[Finding]:
    """Return the processes that started the workers, and are none."""
    return [
        Finding(
            "info",
            "parent",
            f"Process {parent.pid} started the workers and serves no requests,"
            " so it is not counted; it keeps"
            f" {connections(sum(len(pool.connections) for pool in parent.pools))} open",
            "Use no database before the workers are forked, or call dispose() on the"
            " engine at the end of that.",
            "No worker uses what it keeps open, and the server has it less for others.",
        )
        for parent in parents
    ]


def find_no_worker(app: Flask, search: Search, configured: str | None) -> list[Finding]:
    """Return where no worker was found, what was found instead, and who may have some.

    Workers on other databases of the same root path have a finding of their own.
    """
    user = user_name(user_id())
    absence = Finding(
        "info",
        "no-workers",
        f"No live worker of {app.name} found as user {user} in"
        f" {', '.join(search.folders)}",
        "Start the app. Under gunicorn, uWSGI, waitress-serve and flask run a worker"
        " shows up when it starts, under other servers with its first request. If it"
        " runs as another user, run this as that user; if it has a"
        " POOLGUARD_STATE_DIR, set the same here.",
        "Nothing is known of its pools; only settings and servers were looked at.",
    )
    left_out = [
        each
        for each in search.left_out
        if each.reason != "databases" or not is_same_path(each.root_path, app.root_path)
    ]
    found = [
        Finding(
            "info",
            "left-out",
            f"Found and left out: {text}",
            _HOW_TO_MEAN[reason].format(app=app.name),
            "This report says nothing of what is left out.",
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


def describe_left_out(left_out: Sequence[LeftOut]) -> Sequence[tuple[str, str]]:
    """Return reason and description of workers that were found and left out; several
    of one kind are one, and there are five at most.
    """
    pids: dict[LeftOut, list[int]] = {}
    for each in left_out:
        numbers = pids.setdefault(replace(each, pid=None), [])
        numbers += [] if each.pid is None else [each.pid]
    told = [
        (
            kind.reason,
            f"{_workers(numbers) if numbers else 'a worker'} of {kind.app!r} in"
            f" {kind.root_path}: {_WHY[kind.reason]}"
            + (f" ({', '.join(kind.databases)})" if kind.databases else ""),
        )
        for kind, numbers in pids.items()
    ]
    more = len(told) - _MAX_LEFT_OUT
    if more > 0:
        reason, text = told[_MAX_LEFT_OUT - 1]
        told[_MAX_LEFT_OUT - 1 :] = [(reason, f"{text}; and {more} more kinds")]
    return told


def user_name(uid: int) -> str:
    """Return a user's name and number."""
    with contextlib.suppress(ImportError, KeyError):  # Windows; no such user
        import pwd

        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    return f"#{uid}"


def folders_of_others(searched: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Find other users' folders beside those that were searched.

    One that has a third user's number in its name was made to mislead.
    """
    patterns = [f"/run/user/*/{FOLDER}"]
    patterns += [
        os.path.join(glob.escape(os.path.dirname(folder)), f"{FOLDER}-*")
        for folder in searched
        if os.path.basename(folder).startswith(f"{FOLDER}-")
    ]
    for pattern in patterns:
        for folder in sorted(glob.glob(pattern)):
            with contextlib.suppress(OSError):
                uid = os.lstat(folder).st_uid
                is_own_name = os.path.basename(folder) in (FOLDER, f"{FOLDER}-{uid}")
                if uid != user_id() and is_own_name:
                    yield folder, uid


def _describe(problems: Sequence[Problem]) -> Finding:
    """Describe what is wrong with folders or files for the same reason."""
    problem = problems[0]
    paths = ", ".join(each.path for each in problems)
    pids = [each.pid for each in problems if each.pid is not None]
    workers = named_workers(pids) if len(pids) == len(problems) else "a worker"
    is_one = len(problems) == 1
    if problem.kind == "folder":
        return Finding(
            "warning",
            "state-folder",
            f"A folder of state files cannot be used: {problem.reason}",
            "Run this command as the user that the app runs as. If you are, make the"
            " folder that user's own with mode 0700, or set POOLGUARD_STATE_DIR to one"
            " that is.",
            "Workers that keep their files there are missing from this report.",
        )
    if problem.kind == "layout":
        return Finding(
            "warning",
            "layout",
            f"{capitalized(workers)} {'runs' if is_one else 'run'} another version of"
            f" Flask-PoolGuard ({problem.reason}), so"
            f" {'it is' if is_one else 'they are'} not shown: {paths}",
            "Restart the app's workers, so that all run the installed version.",
            "Their connections are not counted.",
        )
    return Finding(
        "warning",
        "state-file",
        f"{'The state file' if is_one else 'The state files'} of {workers} cannot be"
        f" read: {paths}: {problem.reason}",
        "Restart workers that run: they then begin new files. Their figures are"
        " missing until then.",
        "How many connections the workers have is not known.",
    )


def _workers(pids: Sequence[int]) -> str:
    return capitalized(named_workers(pids))
