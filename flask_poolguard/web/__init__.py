"""The pages of ``guard.blueprint()``: they show the report, and touch no pool."""

from __future__ import annotations

from .blueprint import make_blueprint

__all__ = ["make_blueprint"]
