"""Tells an app once that the server of a bind is away, and once that it is back."""

from __future__ import annotations

import threading
import time
import typing as t
from dataclasses import replace
from datetime import datetime

from ..events import DatabaseOutage
from ..signals import database_away, database_back
from .sending import deliver, post

if t.TYPE_CHECKING:
    from flask import Flask

_clock = time.monotonic


class ServerOutage:
    """Whether the server of one bind is away, as this process meets it.

    It outlives the pools of its engine, each of which has a breaker of its own.
    ``_lock`` protects the change from one to the other, and that their signals are
    queued in this order. It is re-entrant because a garbage collection inside may
    return a connection.

    :ivar is_on: it is away.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.is_on = False
        self._began_at, self._back_at = 0.0, 0.0
        self._told: DatabaseOutage | None = None

    def met(self, bind: str, app: Flask | None, error: str, began_at: float) -> None:
        """Note an attempt to connect that found it away.

        :param began_at: when the attempt began, in monotonic seconds. One that was
            under way when another one succeeded says nothing new.
        """
        with self._lock:
            if self.is_on or began_at < self._back_at:
                return
            self.is_on, self._began_at, self._told = True, began_at, None
            if not database_away.receivers and not database_back.receivers:
                return
            away = _clock() - began_at
            outage = DatabaseOutage(bind, error, datetime.now(), away)
            self._told = outage
            post(database_away, app, outage=outage)
        deliver()

    def is_over(self, app: Flask | None) -> None:
        """Note that a connection was opened."""
        with self._lock:
            if not self.is_on:  # another thread has noted it
                return
            self.is_on, self._back_at = False, _clock()
            told, self._told = self._told, None
            if told is not None:
                away = self._back_at - self._began_at
                outage = replace(told, away_seconds=away)
                post(database_back, app, outage=outage)
        deliver()
