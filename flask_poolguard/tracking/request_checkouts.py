"""Records what each request takes from its pools: in debug mode only.

By SQLAlchemy's own events, so that without it a checkout has nothing to ask.
"""

from __future__ import annotations

import time
import typing as t
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from .abandoned_streams import IN_ENVIRON
from .callsite import CallSite, find_app_callsite
from .current_scope import current_wsgi_scope
from .pool_tracker import PoolTracker
from .scope import WSGIScope

_clock = time.monotonic

# A request that takes more is shown with these, and the number of the others.
MOST_RECORDED: t.Final = 100

# On a dialect, which an engine keeps for life: its engine is listened to already.
_LISTENED: t.Final = "_poolguard_request_checkouts"

# In a record's ``info``: the last that was noted of it.
_TAKEN: t.Final = "_poolguard_taken"


@dataclass(slots=True, eq=False)
class Taken:
    """One connection that a request took.

    :ivar callsite: the app's line that took it; None if that is not known.
    :ivar waited: for how many seconds, for its turn or while it was opened; None where
        the pool does not tell.
    :ivar given_at: monotonic seconds; None while it is out, and where all share one.
    """

    tracker: PoolTracker
    fairy: weakref.ref[PoolProxiedConnection]
    callsite: CallSite | None
    waited: float | None
    taken_at: float = field(default_factory=_clock)
    given_at: float | None = None

    def is_out(self) -> bool:
        """Tell whether it was not given back yet."""
        fairy = self.fairy()
        return self.given_at is None and fairy is not None and bool(fairy.is_valid)

    def is_of_session(self) -> bool:
        """Tell whether it is out and an ORM session has it, which gives it back."""
        checkout = self.tracker.checkout_of(self.fairy())
        return checkout is not None and checkout.session is not None

    def site(self) -> str:
        """Return ``file:line``."""
        if self.callsite is None:
            return "unknown"
        return self.callsite.describe(self.tracker.info.root_path)

    def held(self) -> float | None:
        """Return for how many seconds it has been out; None if that is not known."""
        if self.given_at is not None:
            return self.given_at - self.taken_at
        return _clock() - self.taken_at if self.is_out() else None


@dataclass(slots=True, eq=False)
class Request:
    """What one request has taken so far.

    :ivar count: how often; the first ``MOST_RECORDED`` are in ``taken``.
    """

    taken: list[Taken] = field(default_factory=list)
    count: int = 0


# What ends with its response; each is changed by the thread that runs that only.
_requests: weakref.WeakKeyDictionary[WSGIScope, Request] = weakref.WeakKeyDictionary()


def record(engine: Engine, tracker: PoolTracker) -> None:
    """Record what requests take from an engine from now on; idempotent."""
    noted: dict[str, PoolTracker] = engine.dialect.__dict__.setdefault(_LISTENED, {})
    is_new = not noted
    noted["tracker"] = tracker  # of the app that has the engine now
    if not is_new:
        return

    def checkout(
        connection: object, record: ConnectionPoolEntry, fairy: PoolProxiedConnection
    ) -> None:
        scope = current_wsgi_scope()
        if scope is None:
            record.info.pop(_TAKEN, None)
            return
        request = _requests.setdefault(scope, Request())
        request.count += 1
        if len(request.taken) < MOST_RECORDED:
            known = weakref.ref(fairy)
            taken = Taken(
                noted["tracker"], known, find_app_callsite(2), _waited(record)
            )
            request.taken.append(taken)
            record.info[_TAKEN] = taken

    def comes_back(connection: object, record: ConnectionPoolEntry) -> None:
        taken: Taken | None = record.info.pop(_TAKEN, None)
        # Where all share one record, which of them comes back is not known.
        if taken is not None and taken.tracker.facts.counted:
            taken.given_at = _clock()

    event.listen(engine, "checkout", checkout)
    event.listen(engine, "checkin", comes_back)
    event.listen(engine, "detach", comes_back)


def _waited(record: t.Any) -> float | None:
    if not hasattr(record, "is_counted"):  # of a pool that keeps its own class
        return None
    return float(record.waited_seconds) if record.is_counted else 0.0


def taken_by(environ: Mapping[str, t.Any]) -> Request:
    """Return what the request of a WSGI environment has taken so far."""
    scope = environ.get(IN_ENVIRON)
    found = None if scope is None else _requests.get(scope)
    return found or Request()
