"""What another thread or greenlet is doing right now."""

from __future__ import annotations

import sys
import traceback
import typing as t
from types import FrameType

from .callsite import describe_callsite, find_app_frame
from .scope import ThreadMark, this_thread

# The innermost frames tell what is going on.
_FRAMES: t.Final = 30


def frame_of(mark: ThreadMark | None) -> FrameType | None:
    """Return the innermost frame of a thread; None if it is not known."""
    if mark is None:
        return None
    if mark is this_thread.mark:
        return sys._getframe(1)
    if mark.greenlet is not None:
        greenlet = mark.greenlet()
        frame: FrameType | None = getattr(greenlet, "gr_frame", None)
        if frame is not None:
            return frame
    return sys._current_frames().get(mark.ident)


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
    frame = find_app_frame(frame_of(mark))
    if frame is None:
        return None
    place = describe_callsite(frame.f_code.co_filename, frame.f_lineno, root_path)
    return f"{place} in {frame.f_code.co_name}"
