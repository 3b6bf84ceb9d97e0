"""One budget of connections for all processes of a host."""

from __future__ import annotations

from .budget import Budget, PoolPlaces, find_budget

__all__ = ["Budget", "PoolPlaces", "find_budget"]
