"""What findings are made of."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..engines import Guarded
from ..tracking.decoding import PoolState
from ..tracking.reader import WorkerState
from .model import Worker
from .servers import Answer
from .sessions import Joined


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of one app.

    :ivar config: ``app.config``.
    :ivar engines: of this process, under guard.
    :ivar states: the files of the app's live workers.
    :ivar workers: the same, as a report shows them.
    :ivar answers: what each bind's server said.
    :ivar sessions: of each bind's server; empty if they were not asked for.
    """

    config: Mapping[str, t.Any]
    engines: Sequence[Guarded]
    states: Sequence[WorkerState]
    workers: Sequence[Worker]
    answers: Mapping[str, Answer]
    sessions: Mapping[str, Joined] = field(default_factory=dict)

    def pool_states(self) -> Iterator[PoolState]:
        """Yield the pools of all workers, as their files have them."""
        for state in self.states:
            yield from state.pools
