"""Writes the guard's log lines: each has an event and fields, and no storm of them.

All lines of the package go through here, so that a formatter for JSON finds the same
fields on each (:data:`FIELDS`). What no field fits stands in the text only.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import sys
import typing as t
from collections.abc import Hashable
from dataclasses import dataclass, replace

from .log_storms import Count, Storms
from .logs import NAME

# On each record; None where one does not apply.
FIELDS: t.Final = (
    "event",
    "bind",
    "endpoint",
    "file",
    "line",
    "seconds",
    "count",
    "pid",
)

# Characters of a line that are kept for a storm, and make it equal to others.
_LONGEST: t.Final = 500


class Facts(t.TypedDict, total=False):
    """What is known of an event.

    :ivar file, line: the app's line.
    :ivar seconds: how long what the line tells of took, or has taken so far.
    """

    bind: str | None
    endpoint: str | None
    file: str | None
    line: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class _Line:
    level: int
    event: str
    message: str
    args: tuple[object, ...]
    facts: Facts
    exc_info: bool = False

    def in_short(self) -> _Line:
        """Return its first line. What its arguments refer to, such as an exception and
        with it the variables of a request, is not to be kept for a storm.
        """
        text = self.message
        with contextlib.suppress(Exception):  # logging shows such an error itself
            text = self.message % self.args if self.args else text
        return replace(self, message=_first_line(text), args=(), exc_info=False)

    def key(self, unlike: Hashable, text: str) -> Hashable:
        """Return what is the same for equal lines: event, bind and place, or where
        there is no place, the text; and the error of which it shows the traceback.
        """
        facts = self.facts
        place = facts.get("file"), facts.get("line"), facts.get("endpoint")
        what = None if place[0] is not None else text
        raised = sys.exc_info()[1] if self.exc_info else None
        error = None if raised is None else (type(raised), _first_line(raised))
        return (self.event, facts.get("bind"), place, unlike, what, error)

    def fields(self, count: int) -> dict[str, object]:
        """Return what its record carries."""
        facts: dict[str, object] = dict.fromkeys(FIELDS)
        facts.update(self.facts, event=self.event, count=count, pid=os.getpid())
        seconds = self.facts.get("seconds")
        if seconds is not None:
            facts["seconds"] = round(seconds, 3)
        return facts


def _first_line(value: object) -> str:
    try:
        line = str(value).partition("\n")[0]
    except Exception:  # an app's exception
        return ""
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


_storms: t.Final = Storms[_Line]()


def debug(event: str, message: str, *args: object, exc_info: bool = False) -> None:
    """Log what only helps to find a defect of the guard's."""
    _log(_Line(logging.DEBUG, event, message, args, {}, exc_info), None)


def info(event: str, message: str, *args: object, **facts: t.Unpack[Facts]) -> None:
    """Log what is as it should be."""
    _log(_Line(logging.INFO, event, message, args, facts), None)


def warn(
    event: str,
    message: str,
    *args: object,
    exc_info: bool = False,
    unlike: Hashable = None,
    **facts: t.Unpack[Facts],
) -> None:
    """Log what should not be; equal lines that follow soon are counted.

    :param event: its name, as ``docs/signals.md`` has it.
    :param unlike: what else must be the same for two lines to be equal.
    """
    _log(_Line(logging.WARNING, event, message, args, facts, exc_info), unlike)


def error(event: str, message: str, *args: object, exc_info: bool = False) -> None:
    """Log that something was refused because of a mistake in the app."""
    _log(_Line(logging.ERROR, event, message, args, {}, exc_info), None)


def _log(line: _Line, unlike: Hashable) -> None:
    logger = logging.getLogger(NAME)  # not before the app can have chosen its class
    if not logger.isEnabledFor(line.level):
        return
    if line.level >= logging.WARNING:
        short = line.in_short()
        is_first, over = _storms.admit(line.key(unlike, short.message), short)
        _tell(over)
        if not is_first:
            _tell_before_app_ends_its_log()
            return
    _emit(logger, line, line.fields(1))


def _tell(over: list[Count[_Line]]) -> None:
    """Tell how many lines were not logged. Called without a lock: a log handler may
    use the database.
    """
    for each in over:
        said = replace(
            each.line,
            message="%d more like this within %.0f s: %s",
            args=(each.more, each.seconds, each.line.message),
            facts={**each.line.facts, "seconds": each.seconds},
        )
        # The error of a handler is not one of the line that is logged now, if any.
        with contextlib.suppress(Exception):
            _emit(logging.getLogger(NAME), said, said.fields(each.more))


# Frames between the search for a record's caller and the module that logs.
_DEPTH: t.Final = 5


def _emit(logger: logging.Logger, line: _Line, fields: dict[str, object]) -> None:
    """Log a line. No request fails because of an app's record factory or logger class;
    what a handler or filter raises goes on, as with any log line of the app's.
    """
    record = _record(logger, line)
    for name, value in fields.items():
        # What the app sets itself stays, and its record may refuse others.
        with contextlib.suppress(Exception):
            if not hasattr(record, name):
                setattr(record, name, value)
    logger.handle(record)


def _record(logger: logging.Logger, line: _Line) -> logging.LogRecord:
    """Make a record as ``Logger._log()`` does, but without ``extra``: that must not
    name what the app's factory sets, which may be another thing for each record.
    """
    try:
        place = logger.findCaller(False, _DEPTH)[:3]
    except Exception:  # as logging has it for a ValueError
        place = "(unknown file)", 0, "(unknown function)"
    file, number, function = place
    raised = sys.exc_info() if line.exc_info else None
    name, level, message, args = logger.name, line.level, line.message, line.args
    try:
        return logger.makeRecord(
            name, level, file, number, message, args, raised, function, None, None
        )
    except Exception:  # the app's; a formatter that misses something tells of it
        return logging.LogRecord(
            name, level, file, number, message, args, raised, function
        )


class _Rest:
    """What is left to tell of storms; the housekeeper looks with each round."""

    def tend(self) -> None:
        """Tell what is due."""
        _tell(_storms.take_over())


rest: t.Final = _Rest()


def begin_anew() -> None:
    """Let the next line of each kind be logged, as at the start of a test."""
    _storms.reset()


# Registered after logging's own, and so called before it closes the handlers.
@atexit.register
def _tell_all() -> None:
    _tell(_storms.take_over(is_end=True))


@functools.cache
def _tell_before_app_ends_its_log() -> None:
    """Let this be called at exit a first time, before what is registered by now, such
    as the end of the app's QueueListener.
    """
    atexit.register(_tell_all)
