"""Prometheus metrics: the pools of all workers of the host, in one scrape of any.

:func:`render` needs no dependency. :class:`Collector` needs ``prometheus_client``,
which is imported with it (``pip install "flask-poolguard[prometheus]"``).
"""

from __future__ import annotations

import importlib
import typing as t

from .families import FAMILIES, Family
from .gathering import gather
from .text import CONTENT_TYPE, render_families

if t.TYPE_CHECKING:
    from flask import Flask

    from .collector import Collector

__all__ = ["CONTENT_TYPE", "FAMILIES", "Collector", "Family", "render"]


def render(app: Flask) -> str:
    """Return the metrics of an app's workers on this host as Prometheus' text format.

    Reads the workers' state files. Touches no pool, and asks no server. Needs no app
    context.

    :returns: what to serve as :data:`CONTENT_TYPE`.
    :raises SetupError: the app has no PoolGuard.
    """
    return render_families(gather(app))


def __getattr__(name: str) -> t.Any:
    if name != "Collector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(".collector", __name__).Collector
