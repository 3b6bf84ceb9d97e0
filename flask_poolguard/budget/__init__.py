"""One budget of connections for all processes of a host."""

from __future__ import annotations

from .budget import Budget
from .pool_places import PoolPlaces
from .registry import find_budget, find_standing
from .standing import PlaceHolder, Standing

__all__ = [
    "Budget",
    "PlaceHolder",
    "PoolPlaces",
    "Standing",
    "find_budget",
    "find_standing",
]
