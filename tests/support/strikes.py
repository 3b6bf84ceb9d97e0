"""Strike a thread at one call after the other, as a signal's handler may."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import flask_poolguard
from tests.support.people import Struck

PACKAGE = str(Path(flask_poolguard.__file__).parent)


def struck_at(number: int, work: Callable[[], object]) -> str | None:
    """Do something, and strike this thread where it enters the so-manieth function of
    the package.

    :returns: the function, None if the work was done before.
    """
    calls, where = 0, list[str]()

    def look(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        calls += 1
        if calls == number:
            where.append(f"{Path(code.co_filename).name}: {code.co_name}")
            raise Struck

    before = sys.getprofile()
    try:
        sys.setprofile(look)
        work()
    except Struck:
        pass
    finally:
        sys.setprofile(before)
    return where[0] if where else None
