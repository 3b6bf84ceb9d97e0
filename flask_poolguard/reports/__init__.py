"""One report for every surface: the live workers' pools, the servers, the findings."""

from __future__ import annotations

from .collect import make_report
from .model import (
    BindSetting,
    BindSettings,
    Closed,
    Finding,
    Holder,
    Level,
    PoolStatus,
    Report,
    Server,
    Session,
    Usage,
    Worker,
)
from .servers import Detail

__all__ = [
    "BindSetting",
    "BindSettings",
    "Closed",
    "Detail",
    "Finding",
    "Holder",
    "Level",
    "PoolStatus",
    "Report",
    "Server",
    "Session",
    "Usage",
    "Worker",
    "make_report",
]
