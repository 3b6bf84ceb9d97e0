"""What another thread or greenlet is doing right now."""

from __future__ import annotations

import functools
import gc
import os
import sys
import threading
import traceback
import typing as t
from collections.abc import Callable, Collection, Iterable, Mapping
from types import FrameType

from sqlalchemy.engine import Connection

from .callsite import describe_callsite, find_app_frame, find_own_frame
from .thread_marks import ThreadMark, live_marks, this_thread

# The innermost frames tell what is going on.
_FRAMES: t.Final = 30

# How deep a stack is searched.
_DEPTH: t.Final = 200

# The file whose functions are a Connection's methods.
_METHODS: t.Final = Connection.execute.__code__.co_filename
# Those that take one from the pool.
_TAKING: t.Final = ("__init__", "connect", "raw_connection", "_revalidate_connection")

# CPython before 3.11.9 lists the threads' frames while it holds a lock of its own, and
# a garbage collection in there can stop the whole process for good
# (python/cpython#106883). Since 3.12 nothing is collected at such moments.
_MUST_NOT_COLLECT: t.Final = sys.version_info[:3] < (3, 11, 9)

# Held while the collector is off, so that each turns it on again who turned it off.
# Re-entrant because a finaliser that runs just before that may ask for frames itself.
_collector_lock = threading.RLock()

if _MUST_NOT_COLLECT and hasattr(os, "register_at_fork"):
    # A child begins with the lock free and its collector on.
    os.register_at_fork(
        before=_collector_lock.acquire,
        after_in_parent=_collector_lock.release,
        after_in_child=_collector_lock.release,
    )


def current_frames() -> dict[int, FrameType]:
    """Return the innermost frame of every thread, by the thread's number."""
    if not _MUST_NOT_COLLECT:
        return sys._current_frames()
    with _collector_lock:
        was_on = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if was_on:
                gc.enable()


def frame_of(mark: ThreadMark | None) -> FrameType | None:
    """Return the innermost frame of a thread; None if it is not known."""
    if mark is None:
        return None
    if this_thread.is_of(mark):
        return sys._getframe(1)
    return _frame_in(mark, current_frames)


def _frame_in(
    mark: ThreadMark, running: Callable[[], Mapping[int, FrameType]]
) -> FrameType | None:
    """Return the innermost frame of another thread, or of a greenlet."""
    if mark.greenlet is not None:
        frame: FrameType | None = getattr(mark.greenlet(), "gr_frame", None)
        if frame is not None:
            return frame
    return running().get(mark.ident)


def format_stack(mark: ThreadMark | None) -> str:
    """Return the thread's innermost lines, as in a traceback; "" if unknown."""
    frame = frame_of(mark)
    if frame is None:
        return ""
    return "".join(traceback.format_stack(frame)[-_FRAMES:]).rstrip()


def describe_site(mark: ThreadMark | None, root_path: str) -> str:
    """Return ``file:line`` of the app's line that the thread is at."""
    frame = find_app_frame(frame_of(mark))
    if frame is None:
        return "an unknown line"
    return describe_callsite(frame.f_code.co_filename, frame.f_lineno, root_path)


def describe_activity(mark: ThreadMark | None, root_path: str) -> str | None:
    """Return the line of the app that the thread is at, None if it is not known."""
    return _activity_in(frame_of(mark), root_path)


def describe_activities(
    marks: Iterable[ThreadMark | None], root_path: str
) -> list[str | None]:
    """Return the lines of the app that other threads are at, each None if it is not
    known; it takes a single look at all threads.
    """
    look = functools.cache(current_frames)
    return [
        None if mark is None else _activity_in(_frame_in(mark, look), root_path)
        for mark in marks
    ]


def _activity_in(innermost: FrameType | None, root_path: str) -> str | None:
    frame = find_own_frame(innermost, root_path)
    if frame is None:
        return None
    place = describe_callsite(frame.f_code.co_filename, frame.f_lineno, root_path)
    return f"{place} in {frame.f_code.co_name}"


def describe_users(owners: Collection[ThreadMark], root_path: str) -> list[str]:
    """Return which other threads, or greenlets, are within a method of a Connection
    that they did not take: each as ``thread NAME at file:line in function``.

    Which Connection it is cannot be seen: to read the variables of a running frame
    can end the process (CPython before 3.13).

    :param owners: who has connections of their own out.
    """
    stacks: list[tuple[str, FrameType]] = []
    running, idents = current_frames(), {each.ident for each in owners}
    for thread in threading.enumerate():
        frame = running.get(thread.ident or 0)
        is_other = thread is not threading.current_thread()
        if frame is not None and is_other and thread.ident not in idents:
            stacks.append((thread.name, frame))
    for reference in live_marks.valuerefs():
        mark = reference()
        if mark is None or mark.greenlet is None or this_thread.is_of(mark):
            continue
        frame = getattr(mark.greenlet(), "gr_frame", None)
        if frame is not None and mark not in owners:
            stacks.append((mark.name.decode(errors="replace"), frame))
    found = ((name, _method_in(frame)) for name, frame in stacks)
    return [
        f"thread {name!r} at {_describe_frame(method, root_path)}"
        for name, method in found
        if method is not None
    ]


def _method_in(frame: FrameType | None) -> FrameType | None:
    """Return the frame of a Connection's method, None if the stack has none, or is
    about to get a connection.
    """
    method = None
    for _ in range(_DEPTH):
        if frame is None:
            break
        if frame.f_code.co_filename == _METHODS:
            if frame.f_code.co_name in _TAKING:
                return None
            method = method or frame
        frame = frame.f_back
    return method


def _describe_frame(frame: FrameType | None, root_path: str) -> str:
    found = find_app_frame(frame)
    if found is None:
        return "an unknown line"
    place = describe_callsite(found.f_code.co_filename, found.f_lineno, root_path)
    return f"{place} in {found.f_code.co_name}"
