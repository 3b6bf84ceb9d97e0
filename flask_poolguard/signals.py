"""Signals that an app can subscribe to.

The sender is the :class:`~flask.Flask` app. :mod:`.tracking.sending` says from which
thread each is sent.
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

connection_leaked = _signals.signal(
    "poolguard-connection-leaked",
    doc="""Sent by the app once for every connection that its scope did not give back.

    The sender is the :class:`~flask.Flask` app; the keyword ``leak`` is a
    :class:`~flask_poolguard.Leak`. Receivers run after the connection is back.
    """,
)

pool_timeout = _signals.signal(
    "poolguard-pool-timeout",
    doc="""Sent once for every checkout that fails with a
    :class:`~flask_poolguard.PoolTimeout`, but for those of a deadlock.

    The keyword ``wait`` is a :class:`~flask_poolguard.FailedWait`. Receivers run in the
    thread that waited, before the error is raised there.
    """,
)

pool_deadlock = _signals.signal(
    "poolguard-pool-deadlock",
    doc="""Sent once for every checkout that fails with a
    :class:`~flask_poolguard.PoolDeadlock`.

    The keyword ``wait`` is a :class:`~flask_poolguard.FailedWait`. Receivers run in the
    thread that gives way, before the error is raised there.
    """,
)

connection_held_long = _signals.signal(
    "poolguard-connection-held-long",
    doc="""Sent once for every connection that is out for longer than
    ``POOLGUARD_HELD_WARNING``, while it is still out.

    The keyword ``held`` is a :class:`~flask_poolguard.HeldConnection`. Receivers run in
    a thread of the guard's, outside of any context.
    """,
)

connection_recycled = _signals.signal(
    "poolguard-connection-recycled",
    doc="""Sent once for every connection that its pool has closed because its time was
    up, or because ``guard.recycle()`` or ``flask pool recycle`` asked for it.

    The keyword ``recycled`` is a :class:`~flask_poolguard.RecycledConnection`.
    Receivers run in a thread of the guard's, outside of any context.
    """,
)

database_away = _signals.signal(
    "poolguard-database-away",
    doc="""Sent once for every outage of a bind's server, when this process could not
    connect to it for the first time.

    The keyword ``outage`` is a :class:`~flask_poolguard.DatabaseOutage`. Receivers run
    in a thread of the guard's, outside of any context.
    """,
)

database_back = _signals.signal(
    "poolguard-database-back",
    doc="""Sent once for every outage that :data:`database_away` was sent for, when this
    process has connected to the server again.

    The keyword ``outage`` is a :class:`~flask_poolguard.DatabaseOutage`. Receivers run
    in a thread of the guard's, outside of any context.
    """,
)
