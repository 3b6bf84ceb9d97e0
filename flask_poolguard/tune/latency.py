"""Latencies of many requests in a histogram."""

from __future__ import annotations

import math
import typing as t
from collections import Counter
from collections.abc import Iterable, Mapping

# Each bucket is so much longer than the one before: what is read off it is 1 % off at
# most. Prometheus and HdrHistogram do the same.
_GROWTH: t.Final = math.log(1.02)
_SHORTEST: t.Final = 1e-6


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket for a latency."""
    return math.floor(math.log(max(seconds, _SHORTEST)) / _GROWTH)


def count(latencies: Iterable[float]) -> Counter[int]:
    """Return how many latencies are in each bucket."""
    return Counter(map(bucket_of, latencies))


def quantile(buckets: Mapping[int, int], share: float) -> float | None:
    """Return the latency, in seconds, that a share of them does not exceed.

    :returns: None if there is none.
    """
    rank = max(math.ceil(share * sum(buckets.values())), 1)
    for bucket in sorted(buckets):
        rank -= buckets[bucket]
        if rank <= 0:
            return math.exp((bucket + 0.5) * _GROWTH)
    return None
