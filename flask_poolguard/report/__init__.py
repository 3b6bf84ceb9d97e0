"""The report: pools of all live workers, servers, findings; for every surface."""

from __future__ import annotations

from ..state.status import Closed, Holder, PoolStatus, Usage, Worker
from .collect import make_report
from .evidence import Plan
from .model import (
    LEVELS,
    BindSetting,
    BindSettings,
    Finding,
    Level,
    Report,
    Server,
    Session,
)
from .servers import Detail

__all__ = [
    "LEVELS",
    "BindSetting",
    "BindSettings",
    "Closed",
    "Detail",
    "Finding",
    "Holder",
    "Level",
    "Plan",
    "PoolStatus",
    "Report",
    "Server",
    "Session",
    "Usage",
    "Worker",
    "make_report",
]
