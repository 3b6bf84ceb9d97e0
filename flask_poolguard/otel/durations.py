"""Histograms: what a pool has counted since the last collection, recorded then.

OpenTelemetry's API knows no observable histogram. To record each duration as it ends
would run the SDK in every checkout, and under the pool's locks. So a collection records
what was counted: of each bucket as many durations as it has got, all of one value
within the bucket's bounds, and such values that the sum is the true one.
"""

from __future__ import annotations

import math
import operator
import threading
import time
import typing as t
import weakref
from collections.abc import Iterable, Mapping, Sequence

from ..metrics.families import Family
from ..pool import after_fork_in_child
from ..state.histogram import BOUNDS, BUCKETS, Durations, Histogram

if t.TYPE_CHECKING:
    from opentelemetry.metrics import Histogram as Instrument
    from opentelemetry.metrics import Meter

_LOWEST: t.Final = (0.0, *BOUNDS)  # not itself in the bucket, but for 0.0
_WIDTHS: t.Final = tuple(
    bound - lowest for lowest, bound in zip(_LOWEST, BOUNDS, strict=False)
)

# As many durations are recorded without a pause.
_AT_ONCE: t.Final = 50

_NOTHING: t.Final = Histogram((0,) * BUCKETS)

# By a pool's counter of its use, which is another one in a forked child: for each of
# its histograms, what was recorded.
_Recorded = weakref.WeakKeyDictionary[t.Any, dict[str, Histogram]]

recorders: weakref.WeakSet[DurationRecorder] = weakref.WeakSet()


class DurationRecorder:
    """Records in the histograms of a meter what pools have counted.

    :param families: those of ``Durations``, by the last part of their names.
    """

    def __init__(self, meter: Meter, families: Iterable[Family]) -> None:
        self._instruments: dict[str, Instrument] = {
            each.otel_name.rpartition(".")[2].removesuffix("_time"): (
                meter.create_histogram(
                    each.otel_name,
                    each.unit,
                    each.help,
                    explicit_bucket_boundaries_advisory=BOUNDS,
                )
            )
            for each in families
        }
        self._recorded: _Recorded = weakref.WeakKeyDictionary()
        self.lock = threading.Lock()
        recorders.add(self)

    def record(
        self, usage: object, attributes: Mapping[str, str], durations: Durations
    ) -> None:
        """Record what is new, unless another thread is about to.

        :param usage: the counter that the durations come from.
        """
        if not self.lock.acquire(blocking=False):
            return
        try:
            recorded = self._recorded.setdefault(usage, {})
            for name, instrument in self._instruments.items():
                counted: Histogram | None = getattr(durations, name)
                before = recorded.get(name, _NOTHING)
                news = None if counted is None else _since(before, counted)
                if news is None or not news.count:
                    continue
                values = spread(news.counts, news.seconds)
                pairs = list(zip(values, news.counts, strict=True))
                seconds = sum(value * count for value, count in pairs)
                recorded[name] = Histogram(
                    tuple(map(operator.add, before.counts, news.counts)),
                    before.seconds + seconds,
                )
                for value, count in pairs:
                    _record(instrument, value, count, attributes)
        finally:
            self.lock.release()


def _record(
    instrument: Instrument, value: float, count: int, attributes: Mapping[str, str]
) -> None:
    """Record a value so many times.

    That takes microseconds each time. Requests go on in between: else they would wait
    for the interpreter's lock, or a gevent worker for this greenlet.
    """
    for number in range(1, count + 1):
        instrument.record(value, attributes)
        if number % _AT_ONCE == 0:
            time.sleep(0)


def _since(before: Histogram, now: Histogram) -> Histogram:
    """Return what was counted in between.

    Threads count without a lock, so that a bucket may seem to have less than before.
    """
    pairs = zip(now.counts or _NOTHING.counts, before.counts, strict=True)
    counts = tuple(max(one - other, 0) for one, other in pairs)
    return Histogram(counts, now.seconds - before.seconds)


def spread(counts: Sequence[int], seconds: float) -> list[float]:
    """Return of each bucket a value within it, so that all values have this sum.

    All are at the same part of their bucket's width; in the one without an upper bound,
    what is left. If the sum cannot be right, because a duration was counted in a bucket
    and not yet in the sum, it is as near as it can be.

    :param counts: how many durations each bucket has.
    """
    bounded, above = counts[:-1], counts[-1]
    room = sum(n * width for n, width in zip(bounded, _WIDTHS, strict=True))
    spare = seconds - sum(n * low for n, low in zip(counts, _LOWEST, strict=True))
    part = min(max(spare / room, 0.0), 0.5 if above else 1.0) if room else 0.0
    values = [low + part * width for low, width in zip(_LOWEST, _WIDTHS, strict=False)]
    values.append(BOUNDS[-1] + max((spare - part * room) / (above or 1), 0.0))
    return [
        min(max(value, math.nextafter(low, math.inf) if low else 0.0), bound)
        for value, low, bound in zip(values, _LOWEST, (*BOUNDS, math.inf), strict=True)
    ]


@after_fork_in_child
def _after_fork_in_child() -> None:
    for each in list(recorders):
        each.lock = threading.Lock()
