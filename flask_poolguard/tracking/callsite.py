"""The line of the app that asked for a connection, found without a traceback."""

from __future__ import annotations

import os
import sys
import sysconfig
import typing as t
from types import FrameType, TracebackType

from sqlalchemy.engine import Engine

_ENGINE_CONNECT: t.Final = Engine.connect.__code__

# Layers between the app's line and the pool; a frame of theirs is not the cause.
_LAYERS: t.Final = (
    "asgiref",
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
_MAX_DEPTH: t.Final = 100

# Per source file, whether it is a layer; grows with the files of the process.
_is_layer: dict[str, bool] = {}


class Place:
    """A step of the app's code: its file and line.

    :param frame: one that is at that step, None if there is none.
    """

    __slots__ = ("_code", "filename", "line")

    def __init__(self, frame: FrameType | None = None) -> None:
        self.filename, self.line = "", 0
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


_NO_PLACE: t.Final = Place()

# By the numbers of the code object and of the instruction: to find a line takes longer
# than to look that up. Emptied when there are too many, because an app may compile code
# at run time.
_places: dict[tuple[int, int], Place] = {}
MOST_PLACES: t.Final = 4096


def find_place(depth: int) -> Place:
    """Return where the first frame outside the layers is; one without name if none is.

    To look at a frame makes Python build an object for it, some 0.3 µs each, so
    frames that are known are jumped over.

    :param depth: how many frames lie between this one and the pool's caller.
    """
    frame: FrameType | None
    try:
        # The pool's caller is Engine.raw_connection, that one's Connection.__init__.
        frame = sys._getframe(depth + 3)
        if frame.f_code is _ENGINE_CONNECT:
            frame = frame.f_back
        else:
            frame = sys._getframe(depth + 1)
    except ValueError:  # the stack is not that deep
        frame = sys._getframe(0)
    left = _MAX_DEPTH
    while frame is not None and left:
        code = frame.f_code
        layer = _is_layer.get(code.co_filename)
        if layer is None:
            layer = _classify(code.co_filename, frame)
        if not layer:
            place = _places.get((id(code), frame.f_lasti))
            return _new_place(frame) if place is None else place
        frame = frame.f_back
        left -= 1
    if "greenlet" in sys.modules:
        frame = find_app_frame(_frame_of_parent_greenlet())
        if frame is not None:
            return _places.get((id(frame.f_code), frame.f_lasti)) or _new_place(frame)
    return _NO_PLACE


def _frame_of_parent_greenlet() -> FrameType | None:
    """Return where the greenlet that started this one waits for it.

    SQLAlchemy runs what an async engine does in a greenlet of its own, whose stack ends
    where it begins; the coroutine that awaits it is in the parent's.
    """
    import greenlet

    parent = greenlet.getcurrent().parent
    return None if parent is None else parent.gr_frame


def _new_place(frame: FrameType) -> Place:
    if len(_places) >= MOST_PLACES:
        _places.clear()
    place = _places[id(frame.f_code), frame.f_lasti] = Place(frame)
    return place


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
    parent = os.path.dirname(root_path) + os.sep
    return f"{filename.removeprefix(parent)}:{line}"
