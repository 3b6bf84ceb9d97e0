"""One report for every surface: the live workers' pools, the servers, the findings."""

from __future__ import annotations

from .collect import make_report
from .evidence import Plan
from .model import (
    LEVELS,
    BindSetting,
    BindSettings,
    Closed,
    Finding,
    Holder,
    Level,
    PoolStatus,
    Report,
    Server,
    Usage,
    Worker,
)

__all__ = [
    "LEVELS",
    "BindSetting",
    "BindSettings",
    "Closed",
    "Finding",
    "Holder",
    "Level",
    "Plan",
    "PoolStatus",
    "Report",
    "Server",
    "Usage",
    "Worker",
    "make_report",
]
