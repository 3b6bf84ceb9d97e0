"""One budget of connections for all processes of a host."""

from __future__ import annotations

from .auto_limit import NOT_ASKED, AutoLimit, CannotAsk, ServerIsFull
from .budget import Budget
from .pool_places import PoolPlaces
from .registry import find_budget, find_standing, find_standing_in
from .shared_file import file_name
from .standing import PlaceHolder, Standing

__all__ = [
    "NOT_ASKED",
    "AutoLimit",
    "Budget",
    "CannotAsk",
    "PlaceHolder",
    "PoolPlaces",
    "ServerIsFull",
    "Standing",
    "file_name",
    "find_budget",
    "find_standing",
    "find_standing_in",
]
