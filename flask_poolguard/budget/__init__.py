"""One budget of connections for all processes of a host."""

from __future__ import annotations

from .budget import Budget
from .pool_places import PoolPlaces
from .registry import find_budget, find_standing, find_standing_in
from .shared_file import file_name
from .standing import PlaceHolder, Standing

__all__ = [
    "Budget",
    "PlaceHolder",
    "PoolPlaces",
    "Standing",
    "file_name",
    "find_budget",
    "find_standing",
    "find_standing_in",
]
