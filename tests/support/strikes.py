"""Strike a thread at one call after the other, as a signal's handler may."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Literal

import flask_poolguard
from tests.support.people import Struck

PACKAGE = str(Path(flask_poolguard.__file__).parent)

# Where CPython looks for signals: at the begin of a function in Python, and at the end
# of one in C, before its result is kept anywhere.
Moment = Literal["call", "c_return"]


def struck_at(
    number: int,
    work: Callable[[], object],
    moment: Moment = "call",
    spare: Collection[str] = (),
) -> str | None:
    """Do something, and strike this thread at the so-manieth such moment within the
    package.

    :param spare: places, as they are returned, that are left alone.
    :returns: where it struck, None if the work was done before.
    """
    moments, where = 0, list[str]()

    def look(frame: FrameType, event: str, argument: object) -> None:
        nonlocal moments
        code = frame.f_code
        if event != moment or not code.co_filename.startswith(PACKAGE):
            return
        place = f"{moment} in {Path(code.co_filename).name}, {code.co_name}"
        if event == "c_return":
            place += f", {getattr(argument, '__name__', argument)}"
        if place in spare:
            return
        moments += 1
        if moments == number:
            where.append(place)
            raise Struck

    before = sys.getprofile()
    gc.disable()  # what a finalizer raises goes nowhere
    try:
        sys.setprofile(look)
        work()
    except Struck:
        pass
    finally:
        sys.setprofile(before)
        gc.enable()
    return where[0] if where else None
