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


def find_callsite(depth: int) -> tuple[str, int]:
    """Return file and line of the first frame outside the layers, or ``("", 0)``.

    To look at a frame makes Python build an object for it, some 0.3 µs each, so
    frames that are known are jumped over.

    :param depth: how many frames lie between this one and the pool's caller.
    """
    frame: FrameType | None
    try:
        # The pool's caller is Engine.raw_connection, that one's Connection.__init__.
        frame = sys._getframe(depth + 3)
        if frame.f_code is not _ENGINE_CONNECT:
            frame = sys._getframe(depth + 1)
    except ValueError:  # the stack is not that deep
        frame = sys._getframe(0)
    for _ in range(_MAX_DEPTH):
        if frame is None:
            break
        filename = frame.f_code.co_filename
        layer = _is_layer.get(filename)
        if layer is None:
            layer = _classify(filename, frame)
        if not layer:
            template = frame.f_globals.get("__jinja_template__")
            if template is not None:
                # Its code is generated, under the name of the template's file.
                line: int = template.get_corresponding_lineno(frame.f_lineno)
                return filename, line
            return filename, frame.f_lineno
        frame = frame.f_back
    return "", 0


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
