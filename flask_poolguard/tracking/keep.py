"""``guard.keep()``: connections and sessions that outlive their scope on purpose."""

from __future__ import annotations

import sys
import typing as t
from collections.abc import Iterable, Iterator

from sqlalchemy.engine import Connection
from sqlalchemy.pool import PoolProxiedConnection

from ..log_lines import warn
from .orm_sessions import keep_session

if t.TYPE_CHECKING:
    from .checkout import Checkout
    from .pool_tracker import PoolTracker


def keep(kept: t.Any, trackers: Iterable[PoolTracker]) -> None:
    """Let what was taken from a pool outlive its scope.

    :param kept: a Connection, a proxy as ``raw_connection()`` returns it, an ORM
        session (with all that it takes later), or a scoped session, of which the
        current one is meant; also those of SQLAlchemy's asyncio extension.
    :raises TypeError: it is none of these.
    :raises sqlalchemy.exc.ResourceClosedError: the connection is closed.
    """
    kept = _plain(kept)
    found = [each for tracker in trackers for each in _checkouts_of(kept, tracker)]
    for checkout in found:
        checkout.keep()
    if isinstance(kept, PoolProxiedConnection) and not found and not kept.is_detached:
        warn(
            "keep_without_effect",
            "keep() was given a connection that no guarded pool of this app gave out;"
            " it stays as it is.",
        )


def _plain(kept: t.Any) -> t.Any:
    """Return the session, Connection or proxy that is meant."""
    orm = sys.modules.get("sqlalchemy.orm")
    registry = getattr(kept, "registry", None)
    if registry is not None and callable(kept):  # a scoped session
        kept = registry()
    kept = getattr(kept, "sync_session", None) or kept
    kept = getattr(kept, "sync_connection", None) or kept
    if orm is not None and isinstance(kept, orm.Session):
        keep_session(kept)
        return kept
    if isinstance(kept, Connection):
        return kept.connection
    if isinstance(kept, PoolProxiedConnection):
        return kept
    raise TypeError(
        "keep() takes a Connection, what raw_connection() returned, or a session;"
        f" not {type(kept).__name__}"
    )


def _checkouts_of(kept: t.Any, tracker: PoolTracker) -> Iterator[Checkout]:
    for checkout in list(tracker.out.values()):
        if checkout.fairy() is kept or checkout.is_of(kept):
            yield checkout
