"""One budget of connections for all processes of a host."""

from __future__ import annotations

from .budget import Budget, PoolPlaces, find_budget
from .standing import PlaceHolder, Standing, find_standing

__all__ = [
    "Budget",
    "PlaceHolder",
    "PoolPlaces",
    "Standing",
    "find_budget",
    "find_standing",
]
