"""Signals that an app can subscribe to."""

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
