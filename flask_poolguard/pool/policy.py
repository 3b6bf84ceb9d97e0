"""What a guarded pool knows beyond a QueuePool's arguments."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of one pool; times in seconds.

    :ivar name: the bind's, for messages.
    :ivar recycle: ``"auto"``, seconds of age, or -1.
    :ivar recycle_origin: who set it, for messages.

    The others are the settings of the same names.
    """

    name: str = "default"
    recycle: float | t.Literal["auto"] = -1
    recycle_origin: str = "recycle"
    idle_limit: float | None = None
    max_idle: float | None = None
    max_waiting: int | None = None
    connect_retry: float = 5.0
    ping_timeout: float = 2.0
    tcp_user_timeout: float = 90.0
