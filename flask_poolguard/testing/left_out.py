"""Finds what one test left: connections that are out, and leaks of its requests."""

from __future__ import annotations

import os
import time
import typing as t

from ..log_lines import begin_anew
from ..signals import connection_leaked
from ..tracking.app_tracker import all_trackers
from ..tracking.checkout import Checkout
from ..tracking.extension_sessions import filed_under
from ..tracking.scope import ContextScope, next_session
from ..tracking.thread_marks import this_thread

if t.TYPE_CHECKING:
    from flask import Flask

    from ..errors import Leak

_clock = time.monotonic


class Moment(t.NamedTuple):
    """A point in time.

    :ivar at: monotonic seconds.
    :ivar session: the number of the next ORM session.
    """

    at: float
    session: int


_BEGINNING: t.Final = Moment(0.0, 0)


class LeftByTest:
    """What the test that runs now has left.

    What is older than the test, or taken while a fixture of several tests was set up,
    is not the test's.
    """

    def __init__(self) -> None:
        # It is made while a test or a fixture is under way, whose beginning is unknown.
        self._began = _BEGINNING
        self._others: list[tuple[Moment, Moment]] = []
        self._told: list[str] = []
        connection_leaked.connect(self._leaked)

    def close(self) -> None:
        """Hear of no more leaks."""
        connection_leaked.disconnect(self._leaked)

    def now(self) -> Moment:
        """Return this moment."""
        return Moment(_clock(), next_session())

    def begin(self) -> None:
        """Begin with a test."""
        self._began = self.now()
        self._others.clear()
        self._told.clear()

    def leave_alone(self, since: Moment | None) -> None:
        """Leave alone what was taken until now.

        :param since: None for the beginning of the process.
        """
        self._others.append((since or _BEGINNING, self.now()))

    def end(self) -> list[str]:
        """Return what the test has left, a sentence each."""
        texts = list(self._told)
        for reference in all_trackers.valuerefs():
            tracker = reference()
            if tracker is None:
                continue
            for checkout in list(tracker.out.values()):
                if self._is_left(checkout):
                    texts.append(_describe(checkout))
        self._began = self.now()
        self._told.clear()
        begin_anew()  # what the next test logs is not counted with what this one has
        return list(dict.fromkeys(texts))

    def _leaked(self, sender: Flask, leak: Leak) -> None:
        if self._is_at_test(_clock() - leak.held_seconds):
            where = _in_this_folder(leak.site, sender.root_path)
            self._told.append(
                f"{leak.endpoint} did not give back a connection of bind {leak.bind!r}"
                f" that it took at {where}"
            )

    def _is_at_test(self, at: float) -> bool:
        return at >= self._began.at and not any(
            begin.at <= at <= end.at for begin, end in self._others
        )

    def _is_session_of_test(self, number: int) -> bool:
        return number >= self._began.session and not any(
            begin.session <= number < end.session for begin, end in self._others
        )

    def _is_left(self, checkout: Checkout) -> bool:
        if checkout.is_kept or checkout.fairy() is None:
            return False
        mark = checkout.mark()
        if mark is not None and not this_thread.is_of(mark):
            return False  # a thread that still runs may be about to give it back
        if not self._is_at_test(checkout.taken_at):
            return False
        session = None if checkout.session is None else checkout.session()
        if session is None:
            return True
        if not self._is_session_of_test(session.hash_key):
            return False
        return not self._is_of_older_context(checkout, session)

    def _is_of_older_context(self, checkout: Checkout, session: object) -> bool:
        """Tell whether a session is the database extension's of a context that a
        fixture of several tests has pushed, and will pop.
        """
        scope = checkout.scope
        if not isinstance(scope, ContextScope) or scope.context is None:
            return False
        return not self._is_at_test(scope.began_at) and any(
            each.session is session for each in filed_under(scope.context)
        )


def _describe(checkout: Checkout) -> str:
    info = checkout.pool.info
    bind, where = info.facts.bind, _in_this_folder(checkout.site(), info.root_path)
    if checkout.session is None:
        return f"left a connection of bind {bind!r} out that was taken at {where}"
    return (
        f"left a session open, whose connection of bind {bind!r} was taken at {where}"
    )


def _in_this_folder(site: str, root_path: str) -> str:
    """Return a ``file:line`` as seen from the folder that pytest runs in."""
    # A site is relative to the folder that the app lies in, or absolute.
    path = os.path.join(os.path.dirname(root_path), site)
    if not os.path.exists(path.rpartition(":")[0]):
        return site
    try:
        short = os.path.relpath(path)
    except (OSError, ValueError):  # that folder is gone, or on another drive
        return site
    return path if short.startswith(os.pardir) else short
