"""Applies the sizes of a pool that are ``"auto"``, and shows them."""

from __future__ import annotations

import typing as t
from dataclasses import replace

from ..log_lines import info
from ..pool import GuardedPool
from .engine_pools import EnginePools
from .pool_facts import PoolFacts
from .shown_pool import ShownPool

if t.TYPE_CHECKING:
    from .auto_sizes import AutoSizes, PoolSizes, Seen


class SizedPool(ShownPool):
    """A pool of which both sizes, or one, follow what is asked for.

    What decides that is imported by apps that have such pools only.

    They are looked at in the housekeeper's rounds, in the thread that never waits:
    what a smaller pool has too many, the pool itself closes in the other one.

    :ivar auto_sizes: decides them; None if both are the user's own numbers.
    :ivar server_threads: with how many threads this worker's server serves; None is
        unknown.
    """

    pools: EnginePools
    auto_sizes: AutoSizes | None = None
    server_threads: int | None = None

    def follow_demand(self, sizes: AutoSizes | None) -> None:
        """Let the pool that the engine has now follow this."""
        self.auto_sizes = sizes
        self.start_sizes(self.server_threads)

    def start_sizes(self, threads: int | None) -> None:
        """Begin with the sizes of a worker that has seen nothing yet.

        :param threads: see ``server_threads``.
        """
        self.server_threads = threads
        auto, pool = self.auto_sizes, self._pool()
        if auto is not None and pool is not None:
            auto.begin(threads, pool.budget_limit, pool.clock())
            self._apply(auto.sizes, pool)

    def tend_sizes(self) -> None:
        """Look whether the sizes are to be others, and say so; once a second."""
        auto = self.auto_sizes
        pool = None if auto is None else self._pool()
        if auto is None or pool is None:
            return
        now, before = pool.clock(), auto.sizes
        why = auto.look(self._seen(pool), now)
        self._apply(auto.sizes, pool)
        self._show_swings(auto.swings(now))
        if why is not None:
            info(
                "sizes_changed",
                "Sizes of bind %r: pool_size %d -> %d, max_overflow %d -> %d: %s.",
                self.facts.bind,
                *(before.pool_size, auto.sizes.pool_size),
                *(before.max_overflow, auto.sizes.max_overflow),
                why,
                bind=self.facts.bind,
            )

    def _pool(self) -> GuardedPool | None:
        engine = self.pools.engine
        pool = None if engine is None else engine.pool
        return pool if isinstance(pool, GuardedPool) else None

    def _seen(self, pool: GuardedPool) -> Seen:
        from .auto_sizes import Seen

        usage = self.figures.usage.status()
        return Seen(
            demand=usage.demand,
            threads=max(usage.threads, self.server_threads or 0),
            nesting=usage.nesting,
            waits=usage.waits,
            budget=pool.budget_limit,
            may_open=self.pools.obstacle() is None,
        )

    def _apply(self, sizes: PoolSizes, pool: GuardedPool) -> None:
        if (pool.size(), pool._max_overflow) != sizes:
            pool.forget_parent()  # does nothing but after a fork that ran no hooks
            pool.resize(*sizes)
        if (self.facts.size, self.facts.max_overflow) != sizes:
            with self.figures.lock:
                self._note_facts(replace(self.facts, **_shown(sizes)))
                self.figures.changed()

    def _note_facts(self, facts: PoolFacts) -> None:
        self.info = replace(self.info, facts=facts)
        self.figures.facts = facts

    def _show_swings(self, swings: int) -> None:
        if swings != self.figures.swings:
            with self.figures.lock:
                self.figures.swings = swings
                self.figures.changed()


def _shown(sizes: PoolSizes) -> dict[str, t.Any]:
    return {"size": sizes.pool_size, "max_overflow": sizes.max_overflow}
