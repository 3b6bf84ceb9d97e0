"""Findings about what a report cannot show: folders, files and processes."""

from __future__ import annotations

import contextlib
import glob
import os
import typing as t
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..state.directory import FOLDER, user_id
from ..state.search import LeftOut, Problem, TakenFolder
from ..state.status import Worker
from .model import Finding
from .phrases import capitalized, connections, named_workers

# As many kinds of workers that were left out are named at most.
_MAX_LEFT_OUT: t.Final = 5

# By reason: why a worker is left out.
_WHY: t.Final = {
    "app": "another app's name",
    "path": "another root path",
    "databases": "other databases",
    "unknown": "from another path, with databases that are not known yet",
    "version": "from another path, with another version of Flask-PoolGuard",
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
            f"{_workers(numbers)} of {kind.app!r} in"
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
    return capitalized(named_workers(pids)) if pids else "a worker"
