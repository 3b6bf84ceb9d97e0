"""The app's line that took a connection, found without a traceback."""

from __future__ import annotations

import enum
import os
import sys
import sysconfig
import typing as t
from types import FrameType, TracebackType

from sqlalchemy.engine import Connection, Engine

from ..log_lines import Facts

_ENGINE_CONNECT: t.Final = Engine.connect.__code__
_RAW_CONNECTION: t.Final = Engine.raw_connection.__code__
_NEW: t.Final = Connection.__init__.__code__
# Private; the same in SQLAlchemy 2.0.31 and 2.1.9.
_RECONNECT: t.Final = Connection._revalidate_connection.__code__

# Layers between the app's line and the pool; a frame of theirs is not the cause.
_LAYERS: t.Final = (
    "asgiref",
    "blinker",
    "click",
    "flask",
    "flask_poolguard",
    "flask_sqlalchemy",
    "flask_sqlalchemy_lite",
    "gevent",
    "greenlet",
    "gunicorn",
    "jinja2",
    "sqlalchemy",
    "waitress",
    "werkzeug",
)
# Functions that layers make at run time.
_GENERATED: t.Final = (
    "<frozen",
    "<sqlalchemy",
    "<decorator-gen",
    "<attrs",
    "<template>",
)
# Where packages are installed.
_INSTALLED: t.Final = tuple(
    {sysconfig.get_path(each) + os.sep for each in ("purelib", "platlib")}
)
_MAX_DEPTH: t.Final = 100

# Per source file, whether it is a layer; grows with the files of the process.
_is_layer: dict[str, bool] = {}


class TakenAs(enum.Enum):
    """As what a connection is taken from its pool."""

    CONNECTION = "a Connection, of the app's or of a session"
    RAW = "the driver's connection, by raw_connection() or from the pool itself"
    AGAIN = "a Connection that lost the one it had"


class CallSite:
    """A step of the app's code: its file and line.

    :param frame: one that is at that step, None if there is none.
    :ivar taken_as: as what that step takes a connection.
    """

    __slots__ = ("_code", "filename", "line", "taken_as")

    def __init__(
        self, frame: FrameType | None = None, taken_as: TakenAs = TakenAs.CONNECTION
    ) -> None:
        self.filename, self.line, self.taken_as = "", 0, taken_as
        if frame is None:
            return
        # Kept, so that its number is given to no other while it is a key.
        self._code = frame.f_code
        self.filename, self.line = frame.f_code.co_filename, frame.f_lineno
        template = frame.f_globals.get("__jinja_template__")
        if template is not None:
            # Its code is generated, under the name of the template's file.
            self.line = template.get_corresponding_lineno(self.line)

    def describe(self, root_path: str) -> str:
        """Return ``shop/views.py:88``, relative to the folder that the app lies in."""
        return describe_callsite(self.filename, self.line, root_path)

    def facts(self, root_path: str) -> Facts:
        """Return file and line for a log record; neither if they are not known."""
        if not self.filename:
            return Facts()
        return Facts(file=_in_app(self.filename, root_path), line=self.line)


_NO_CALLSITE: t.Final = {each: CallSite(taken_as=each) for each in TakenAs}

# By the numbers of the code object and of the instruction: to find a line takes longer
# than to look that up. Emptied when there are too many, because an app may compile code
# at run time.
_CallSites = dict[tuple[int, int], CallSite]
_callsites: dict[TakenAs, _CallSites] = {each: {} for each in TakenAs}
# Each look into an enumeration costs a checkout 0.1 µs (CPython 3.11).
_CONNECTION: t.Final = TakenAs.CONNECTION
_usual: t.Final = _callsites[_CONNECTION]
MOST_CALLSITES: t.Final = 4096


def find_callsite(depth: int) -> CallSite:
    """Return where the first frame outside the layers is; one without name if none is.

    To look at a frame makes Python build an object for it, some 0.3 µs each, so
    frames that are known are jumped over.

    :param depth: how many frames lie between this one and the pool's caller.
    """
    frame: FrameType | None
    taken, callsites = _CONNECTION, _usual
    try:
        # The pool's caller is Engine.raw_connection, that one's Connection.__init__.
        frame = sys._getframe(depth + 3)
        if frame.f_code is _ENGINE_CONNECT:
            frame = frame.f_back
        else:
            frame = sys._getframe(depth + 1)
            taken = _taken_as(frame)
            callsites = _callsites[taken]
    except ValueError:  # the stack is not that deep
        frame = sys._getframe(0)
        taken, callsites = TakenAs.RAW, _callsites[TakenAs.RAW]
    left = _MAX_DEPTH
    while frame is not None and left:
        code = frame.f_code
        layer = _is_layer.get(code.co_filename)
        if layer is None:
            layer = _classify(code.co_filename, frame)
        if not layer:
            callsite = callsites.get((id(code), frame.f_lasti))
            return _new_callsite(frame, taken) if callsite is None else callsite
        frame = frame.f_back
        left -= 1
    if "greenlet" in sys.modules:
        frame = find_app_frame(_frame_of_parent_greenlet())
        if frame is not None:
            callsite = callsites.get((id(frame.f_code), frame.f_lasti))
            return _new_callsite(frame, taken) if callsite is None else callsite
    return _NO_CALLSITE[taken]


def _frame_of_parent_greenlet() -> FrameType | None:
    """Return where the greenlet that started this one waits for it.

    SQLAlchemy runs what an async engine does in a greenlet of its own, whose stack ends
    where it begins; the coroutine that awaits it is in the parent's.
    """
    import greenlet

    parent = greenlet.getcurrent().parent
    return None if parent is None else parent.gr_frame


def _taken_as(frame: FrameType | None) -> TakenAs:
    """Tell by the stack as what a connection is taken; not every pool is near."""
    for _ in range(_MAX_DEPTH):
        if frame is None:
            break
        if frame.f_code is _RAW_CONNECTION:
            caller = None if frame.f_back is None else frame.f_back.f_code
            if caller is _NEW:
                return TakenAs.CONNECTION
            return TakenAs.AGAIN if caller is _RECONNECT else TakenAs.RAW
        frame = frame.f_back
    return TakenAs.RAW


def find_reconnecting() -> Connection | None:
    """Return the Connection that is taking another one in this thread, if one is."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_MAX_DEPTH):
        if frame is None:
            break
        if frame.f_code is _RECONNECT:
            return t.cast(Connection, frame.f_locals["self"])
        frame = frame.f_back
    return None


def find_app_callsite(depth: int) -> CallSite | None:
    """Return where the app's code is, None if it is not in the stack.

    :param depth: how many of the innermost frames to leave out.
    """
    frame = find_app_frame(sys._getframe(depth))
    if frame is None:
        return None
    callsite = _usual.get((id(frame.f_code), frame.f_lasti))
    return _new_callsite(frame, TakenAs.CONNECTION) if callsite is None else callsite


def _new_callsite(frame: FrameType, taken_as: TakenAs) -> CallSite:
    callsites = _callsites[taken_as]
    if len(callsites) >= MOST_CALLSITES:
        callsites.clear()
    callsite = callsites[id(frame.f_code), frame.f_lasti] = CallSite(frame, taken_as)
    return callsite


def find_app_frame(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame outside the layers, from this one on."""
    for _ in range(_MAX_DEPTH):
        if frame is None:
            break
        filename = frame.f_code.co_filename
        layer = _is_layer.get(filename)
        if not (_classify(filename, frame) if layer is None else layer):
            return frame
        frame = frame.f_back
    return None


def find_own_frame(frame: FrameType | None, root_path: str) -> FrameType | None:
    """Return the innermost frame of the app's own code, from this one on.

    A driver, or another package, that the app has called is not its own, unless there
    is nothing else outside the layers. The app itself may be installed as a package.

    :param root_path: the app's.
    """
    first, root = None, root_path + os.sep
    is_installed = root.startswith(_INSTALLED)
    for _ in range(_MAX_DEPTH):
        frame = find_app_frame(frame)
        if frame is None:
            break
        filename = frame.f_code.co_filename
        if not filename.startswith(_INSTALLED):
            return frame
        # An environment may lie in the app's folder, so that alone says nothing.
        if is_installed and filename.startswith(root):
            return frame
        first = first or frame
        frame = frame.f_back
    return first


def find_app_line(traceback: TracebackType | None) -> tuple[str, int] | None:
    """Return file and line of the last step of a traceback outside the layers."""
    found = None
    while traceback is not None:
        frame = traceback.tb_frame
        if find_app_frame(frame) is frame:
            found = frame.f_code.co_filename, traceback.tb_lineno
        traceback = traceback.tb_next
    return found


def _classify(filename: str, frame: FrameType) -> bool:
    if filename == "<string>":  # SQLAlchemy 2.0's own, or what python -c runs
        return str(frame.f_globals.get("__name__")).startswith("sqlalchemy.")
    layer = _is_layer[filename] = _belongs_to_layer(filename)
    return layer


def _belongs_to_layer(filename: str) -> bool:
    if filename.startswith(_GENERATED):
        return True
    stdlib = sysconfig.get_path("stdlib") + os.sep
    if filename.startswith(stdlib):
        inside = filename[len(stdlib) :]
        if not inside.startswith(("site-packages", "dist-packages")):
            return True
    for name in _LAYERS:
        path = getattr(sys.modules.get(name), "__file__", None)
        if path and filename.startswith(os.path.dirname(path) + os.sep):
            return True
    return False


def describe_callsite(filename: str, line: int, root_path: str) -> str:
    """Return ``shop/views.py:88``, relative to the folder that the app lies in."""
    if not filename:
        return "unknown"
    return f"{_in_app(filename, root_path)}:{line}"


def _in_app(filename: str, root_path: str) -> str:
    return filename.removeprefix(os.path.dirname(root_path) + os.sep)
