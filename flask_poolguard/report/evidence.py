"""The facts from which rules make findings."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..budget import Standing
from ..databases import ServerView
from ..engines import Guarded
from ..state.status import PoolStatus, Worker
from ..urls import ServerKey, public_url, server_key
from .monitoring_plugin import Thresholds
from .phrases import Bind
from .servers import Answer, group_by_server
from .session_counts import open_server_ids
from .session_matching import Joined


@dataclass(frozen=True, slots=True)
class Plan:
    """A deployment to judge instead of the workers that are found.

    :ivar workers: on each host; None for as many as are found on this one.
    """

    workers: int | None = None
    hosts: int = 1

    @property
    def is_none(self) -> bool:
        """Tell whether what is found is to be judged."""
        return self.workers is None and self.hosts == 1


@dataclass(frozen=True, slots=True)
class AnsweringServer:
    """A server that answered, and the binds that lead to it.

    :ivar key: None where the URL does not say which server it is.
    :ivar view: what it told the first of the binds.
    :ivar earlier: the same at the first of two looks.
    """

    key: ServerKey | None
    binds: tuple[Guarded, ...]
    view: ServerView
    earlier: ServerView | None

    @property
    def name(self) -> str:
        """Return host and port, or the first bind's URL."""
        if self.key is None:
            return public_url(self.binds[0].engine.url)
        _, host, port = self.key
        return f"{host}:{port}" if port else host


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of one app.

    :ivar config: ``app.config``.
    :ivar engines: of this process, under guard.
    :ivar workers: the app's live workers.
    :ivar parents: the processes that only started these.
    :ivar answers: what each bind's server said.
    :ivar sessions: of each bind's server; empty if they were not asked for.
    :ivar budgets: how those stand that the binds have, by bind.
    :ivar plan: the deployment to judge.
    :ivar earlier: what the servers said at the first of two looks.
    :ivar earlier_workers: the live workers at that look.
    :ivar seconds: between the two looks; 0 for only one.
    :ivar has_all_workers: whether every worker's file could be read.
    :ivar thresholds: from when on waiting and holding are found.
    """

    config: Mapping[str, t.Any]
    engines: Sequence[Guarded]
    workers: Sequence[Worker]
    answers: Mapping[str, Answer]
    sessions: Mapping[str, Joined] = field(default_factory=dict)
    budgets: Mapping[str, Standing] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    earlier: Mapping[str, Answer] = field(default_factory=dict)
    earlier_workers: Sequence[Worker] = ()
    seconds: float = 0.0
    has_all_workers: bool = True
    parents: Sequence[Worker] = ()
    thresholds: Thresholds = field(default_factory=Thresholds)

    def binds(self) -> list[Bind]:
        """Return the app's binds, and further ones that its workers have."""
        own = [Bind(each.bind, each) for each in self.engines]
        names = {pool.bind for worker in self.workers for pool in worker.pools}
        names -= {each.bind for each in own}
        return own + [Bind(each, None) for each in sorted(names)]

    def all_pools(self) -> Iterator[PoolStatus]:
        """Yield the pools of workers and parents."""
        for worker in (*self.workers, *self.parents):
            yield from worker.pools

    def view(self, guarded: Guarded) -> ServerView | None:
        """Return what a bind's server said, if it did."""
        return self.answers[guarded.bind].view

    def answering_servers(self) -> list[AnsweringServer]:
        """Return the servers that answered, once each, however many binds they have."""
        answering = (
            each
            for each in self.engines
            if each.tracker.database.has_server and self.view(each) is not None
        )
        return [
            AnsweringServer(
                key=server_key(binds[0].engine.url),
                binds=tuple(binds),
                view=t.cast(ServerView, self.view(binds[0])),
                earlier=self._earlier(binds[0]),
            )
            for binds in group_by_server(answering)
        ]

    def our_ids(self, pools: Sequence[PoolStatus]) -> frozenset[int] | None:
        """Return the servers' numbers of what pools have open, None for unknown."""
        return open_server_ids(pools) if self.has_all_workers else None

    def _earlier(self, guarded: Guarded) -> ServerView | None:
        answer = self.earlier.get(guarded.bind)
        return None if answer is None else answer.view
