"""The signals of checkouts that fail, and of connections held for long or recycled.

Called only if a signal has receivers: what it tells is found out for them.
"""

from __future__ import annotations

import time
import typing as t

from ..errors import PoolDeadlock, PoolTimeout
from ..events import FailedWait, HeldConnection, RecycledConnection
from ..signals import (
    connection_held_long,
    connection_recycled,
    pool_deadlock,
    pool_timeout,
)
from .callsite import CallSite, find_app_callsite
from .endpoint import current_endpoint
from .sending import send_later, send_now, sender_of

if t.TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

    from ..pool import CloseReason
    from .checkout import Checkout, PoolCheckouts


def say_failed(pool: PoolCheckouts, error: PoolTimeout, text: str) -> None:
    """Send the signal of a checkout that fails in this thread.

    :param text: the error's, without secrets.
    """
    is_deadlock = isinstance(error, PoolDeadlock)
    signal = pool_deadlock if is_deadlock else pool_timeout
    if not signal.receivers:
        return
    callsite = find_app_callsite(1) or CallSite()
    wait = FailedWait(
        bind=pool.info.facts.bind,
        endpoint=current_endpoint(),
        site=callsite.describe(pool.info.root_path),
        waited_seconds=error.waited_seconds,
        error=type(error).__name__,
        text=text,
    )
    send_now(signal, sender_of(pool), wait=wait)


def say_held(
    checkout: Checkout, seconds: float, limit: float, activity: str | None
) -> None:
    """Send the signal of a connection that is out for too long.

    :param activity: what its thread does now.
    """
    held = HeldConnection(
        bind=checkout.pool.info.facts.bind,
        endpoint=checkout.endpoint,
        site=checkout.site(),
        held_seconds=seconds,
        limit_seconds=limit,
        now_at=activity,
    )
    send_later(connection_held_long, checkout.pool.app, held=held)


def say_recycled(
    pool: PoolCheckouts, record: ConnectionPoolEntry, reason: CloseReason
) -> None:
    """Send the signal of a connection that was closed, if it is to be replaced."""
    if reason == "recycled":
        why = "time"
    elif reason == "invalidated" and record.was_renewed():  # type: ignore[attr-defined] # only the guard's tell a reason
        why = "asked"
    else:
        return
    age = time.time() - record.starttime  # type: ignore[attr-defined] # of each record
    bind = pool.info.facts.bind
    recycled = RecycledConnection(bind=bind, reason=why, age_seconds=age)
    send_later(connection_recycled, pool.app, recycled=recycled)
