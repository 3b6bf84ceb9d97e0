"""Automatic sizes that are lowered and raised again and again."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator

from ..evidence import Evidence
from ..model import Finding
from ..phrases import size_key
from .pool_use import estimate_of, in_worker, uses_of

# Within an hour. Once or twice is what a demand that varies looks like.
_MANY: t.Final = 3


def find_swinging_sizes(evidence: Evidence) -> Iterator[Finding]:
    """Find the pools whose size follows a demand that goes up and down."""
    for each in evidence.engines:
        uses = uses_of(evidence, each)
        such = [use for use in uses if use.pool.swings >= _MANY]
        if not such:
            continue
        worst = max(such, key=lambda use: use.pool.swings)
        yield Finding(
            "info",
            "sizes-swing",
            f"The automatic size of bind {each.bind!r} was lowered and raised again"
            f" {worst.pool.swings} times within the last hour, and is"
            f" {worst.pool.size} now ({in_worker(worst, such)})",
            f"Set {size_key(each, 'pool_size')} = {estimate_of(uses).need.size}, which"
            f" is enough for the demand since the workers began, if connections are"
            " slow to open.",
            "What a lower size closes is opened again soon after, and a request waits"
            " for each connect.",
        )
