"""Whatever is done in whatever order: pool, books and state file tell the same."""

from __future__ import annotations

import gc
import tempfile
import warnings
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import URL, PoolProxiedConnection, event

from flask_poolguard.errors import PoolTimeout
from flask_poolguard.pool import GuardedPool
from tests.support.forking import in_child
from tests.support.guarded_app import guarded_pool
from tests.support.tracked import Tracked, shown

pytestmark = pytest.mark.process

tend = GuardedPool.tend


class Slots:
    """The model: what one pool should have.

    :ivar out: the connections that are out.
    :ivar soft: those, out or idle, that are to be replaced when they are next taken.
    :ivar old: those that are out and to be replaced when they come back.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size, self.limit = size, limit
        self.out: set[int] = set()
        self.idle: list[int] = []
        self.soft: set[int] = set()
        self.old: set[int] = set()
        self.is_retired = False


class Taken:
    """A connection that is out. Hypothesis keeps all of these, so what is in it is
    taken out of it to be given up.
    """

    def __init__(self, slots: Slots, number: int, fairy: PoolProxiedConnection) -> None:
        self.slots, self.number = slots, number
        self._fairies = [fairy]

    @property
    def fairy(self) -> PoolProxiedConnection:
        """Return the connection."""
        return self._fairies[0]

    def forget(self) -> weakref.ref[PoolProxiedConnection]:
        """Drop the reference to the connection and return a weak one."""
        return weakref.ref(self._fairies.pop())


class PoolMachine(RuleBasedStateMachine):
    """Does all that one thread can do with a pool."""

    taken: Bundle[Any] = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.patch = pytest.MonkeyPatch()
        self.patch.setenv("XDG_RUNTIME_DIR", self.folder.name)
        # Its rounds are steps of the machine's own.
        self.patch.setattr(GuardedPool, "tend", lambda _: None)
        self.numbers = 0
        self.closed: Counter[str] = Counter()
        self.connects = self.checkouts = self.timeouts = 0
        self.fails = False

    @initialize(
        size=st.integers(0, 3), overflow=st.integers(-1, 2), use_lifo=st.booleans()
    )
    def begin(self, size: int, overflow: int, use_lifo: bool) -> None:
        """Make a pool."""
        url = URL.create("sqlite", database=str(Path(self.folder.name) / "db"))
        self.tracked = Tracked(
            url,
            pool_size=size,
            max_overflow=overflow,
            pool_timeout=0,
            pool_use_lifo=use_lifo,
        )
        self.use_lifo = use_lifo
        self.limit = 10**6 if size == 0 or overflow < 0 else size + overflow
        self.size = size
        self.slots = Slots(size or 10**6, self.limit)
        event.listen(self.tracked.engine, "do_connect", self.connect)
        self.section = self.tracked.tracker.region

    @property
    def pool(self) -> GuardedPool:
        """Return the engine's pool of now."""
        return guarded_pool(self.tracked.engine)

    def connect(self, *_: object) -> None:
        """Fail if the connect is to fail."""
        if self.fails:
            raise OSError("no route")

    # Taking

    @rule(target=taken, fails=st.booleans())
    def check_out(self, fails: bool) -> Any:
        """Take a connection, which may take a connect, which may fail."""
        slots = self.slots
        self.fails = fails
        if not slots.idle and len(slots.out) >= slots.limit:
            return self.check_out_in_vain()
        number = None
        if slots.idle:
            number = slots.idle.pop(-1 if self.use_lifo else 0)
        if number in slots.soft:
            slots.soft.discard(number or 0)
            self.closed["invalidated"] += 1
            number = None
        if number is None and fails:
            with pytest.raises(OSError, match="no route"):
                self.tracked.engine.raw_connection()
            return None
        fairy = self.tracked.engine.raw_connection()
        if number is None:
            self.connects += 1
            self.numbers += 1
            number = self.numbers
            fairy.info["number"] = number
        assert fairy.info["number"] == number
        self.checkouts += 1
        slots.out.add(number)
        return Taken(slots, number, fairy)

    def check_out_in_vain(self) -> None:
        """Take one more than there are."""
        with pytest.raises(PoolTimeout):
            self.tracked.engine.raw_connection()
        self.timeouts += 1

    # Giving back

    def end(self, slots: Slots, number: int, reason: str) -> None:
        """Note that a connection is gone."""
        slots.out.discard(number)
        slots.soft.discard(number)
        slots.old.discard(number)
        self.closed[reason] += 1

    @rule(took=consumes(taken))
    def check_in(self, took: Taken | None) -> None:
        """Give a connection back, to whichever pool it is of."""
        if took is not None:
            took.fairy.close()
            self.is_back(took.slots, took.number)

    @rule(took=consumes(taken))
    def forget(self, took: Taken | None) -> None:
        """Lose the last reference to a connection, which gives it back."""
        if took is not None:
            reference = took.forget()
            if reference() is not None:  # an interpreter that does not count them
                gc.collect()
            assert reference() is None
            self.is_back(took.slots, took.number)

    def is_back(self, slots: Slots, number: int) -> None:
        """Note that a connection is back in its pool."""
        if slots.is_retired:
            self.end(slots, number, "closed")
            return
        if number in slots.old:
            self.end(slots, number, "invalidated")
            return
        slots.out.discard(number)
        slots.idle.append(number)
        if len(slots.idle) > slots.size:
            surplus = slots.idle.pop(0 if self.use_lifo else -1)
            self.end(slots, surplus, "overflow")

    @rule(took=consumes(taken))
    def detach(self, took: Taken | None) -> None:
        """Take a connection out of its pool for good."""
        if took is not None:
            took.fairy.detach()
            took.fairy.close()
            self.end(took.slots, took.number, "detached")

    @rule(took=consumes(taken))
    def invalidate(self, took: Taken | None) -> None:
        """Declare a connection unusable."""
        if took is not None:
            took.fairy.invalidate()
            self.end(took.slots, took.number, "invalidated")

    @rule(target=taken, took=consumes(taken))
    def invalidate_softly(self, took: Taken | None) -> Taken | None:
        """Have a connection replaced when it is next taken."""
        if took is not None:
            took.fairy.invalidate(soft=True)
            took.slots.soft.add(took.number)
        return took

    # All at once

    def close_idle(self, slots: Slots) -> None:
        """Note that all idle connections are gone."""
        while slots.idle:
            self.end(slots, slots.idle.pop(), "closed")

    @rule()
    def dispose_of_idle(self) -> None:
        """Close what is idle, as `Pool.dispose` does."""
        self.pool.dispose()
        self.close_idle(self.slots)

    @rule()
    def renew(self) -> None:
        """Have all connections replaced, those that are out when they come back."""
        self.pool.renew()
        while self.slots.idle:
            self.end(self.slots, self.slots.idle.pop(), "invalidated")
        self.slots.old |= self.slots.out

    @rule()
    def dispose(self) -> None:
        """Have another pool, as `Engine.dispose` does."""
        self.tracked.engine.dispose()
        self.close_idle(self.slots)
        self.slots.is_retired = True
        self.slots = Slots(self.size or 10**6, self.limit)

    @rule()
    def tend(self) -> None:
        """Let the housekeeper make a round, which finds nothing to do but replace."""
        tend(self.pool)
        soft = [each for each in self.slots.idle if each in self.slots.soft]
        for number in soft:
            self.slots.idle.remove(number)
            self.end(self.slots, number, "invalidated")

    @precondition(lambda self: self.connects)
    @rule(fails=st.booleans())
    def fork(self, fails: bool) -> None:
        """Start anew in a child, and change nothing here."""
        self.fails = fails

        def work() -> tuple[int, ...]:
            pool = self.pool
            before = pool.checkedout(), pool.checkedin(), pool.waiting
            out = self.tracked.tracker.out
            if fails:
                with pytest.raises(OSError, match="no route"):
                    self.tracked.engine.connect()
                return (*before, pool.checkedout(), len(out))
            with self.tracked.engine.connect():
                return (*before, pool.checkedout(), len(out))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            found = in_child(work)
        assert found == ((0, 0, 0, 0, 0) if fails else (0, 0, 0, 1, 1))

    # What must hold

    @invariant()
    def the_pool_counts_right(self) -> None:
        """Compare the pool with the model."""
        if not hasattr(self, "tracked"):
            return
        pool, slots = self.pool, self.slots
        counts = len(slots.out), len(slots.idle), 0
        assert (pool.checkedout(), pool.checkedin(), pool.waiting) == counts
        assert pool._pool.opened == len(slots.out) + len(slots.idle)
        assert pool.outdated() == len(slots.old)
        with_one = sum(each.dbapi_connection is not None for each in pool._pool.records)
        assert with_one == len(slots.out) + len(slots.idle)
        assert len(pool._pool.records) == pool._pool.opened + pool._pool.spare
        over = pool._pool.opened - pool.size()
        assert pool.overflow() == (over if pool.size() else 0)

    @invariant()
    def the_tracker_and_the_file_tell_the_same(self) -> None:
        """Compare the tracker and what others may read of it."""
        if not hasattr(self, "tracked"):
            return
        tracker = self.tracked.tracker
        state = shown(self.tracked.app)
        for name in ("closed", "dead", "detached", "invalidated", "overflow"):
            assert (
                getattr(state.closed, name)
                == tracker.figures.counts[name]
                == self.closed[name]
            ), name
        assert state.connects == tracker.figures.counts["connects"] == self.connects
        assert state.timeouts == tracker.figures.counts["timeouts"] == self.timeouts
        assert state.waiting == tracker.figures.waiting == 0
        assert state.checkouts == self.checkouts
        out = self.connects - self.closed.total() - len(self.slots.idle)
        assert len(tracker.out) == out
        assert len(state.holders) + state.unlisted_out == out
        assert len(state.idle_connections) == len(self.slots.idle)

    def teardown(self) -> None:
        """Close everything."""
        if hasattr(self, "tracked"):
            self.tracked.engine.dispose()
            self.tracked.app.extensions["poolguard"].app_tracker.remove_file()
        self.patch.undo()
        self.folder.cleanup()


QUICK = settings(
    max_examples=100,
    stateful_step_count=30,
    derandomize=True,
    # A failure is to be seen at once; `soak` shrinks it.
    phases=[Phase.generate],
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
DEEP = settings(
    QUICK,
    max_examples=800,
    stateful_step_count=60,
    derandomize=False,
    phases=[Phase.generate, Phase.shrink],
)


@pytest.mark.parametrize(
    "budget",
    [
        pytest.param(QUICK, marks=pytest.mark.timeout(360)),
        pytest.param(DEEP, marks=[pytest.mark.soak, pytest.mark.timeout(1200)]),
    ],
    ids=["quick", "deep"],
)
def test_pool_books_and_file_agree_with_the_model(budget: settings) -> None:
    run_state_machine_as_test(PoolMachine, settings=budget)
