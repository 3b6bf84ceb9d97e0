"""The line of the app that asked for a connection, found without a traceback."""

from __future__ import annotations

import os
import sys
import sysconfig
import typing as t

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
    "sqlalchemy",
    "waitress",
    "werkzeug",
)
_MAX_DEPTH: t.Final = 100

# Per source file, whether it is a layer; grows with the files of the process.
_is_layer: dict[str, bool] = {}


def find_callsite() -> tuple[str, int]:
    """Return file and line of the first frame outside the layers, or ``("", 0)``."""
    frame = sys._getframe(1)
    for _ in range(_MAX_DEPTH):
        filename = frame.f_code.co_filename
        layer = _is_layer.get(filename)
        if layer is None:
            layer = _is_layer[filename] = _classify(filename)
        if not layer:
            return filename, frame.f_lineno
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "", 0


def _classify(filename: str) -> bool:
    if filename.startswith("<frozen"):
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
