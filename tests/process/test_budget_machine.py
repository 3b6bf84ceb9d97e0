"""A budget agrees with a model while processes come, take, fork and are killed."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flask_poolguard.budget import Budget, PoolPlaces
from flask_poolguard.budget import budget as budget_module
from flask_poolguard.budget.shared_file import BudgetFile
from flask_poolguard.pool import FairQueue
from tests.support.forking import MAY_DEADLOCK

pytestmark = [pytest.mark.process, pytest.mark.filterwarnings(MAY_DEADLOCK)]

LIMIT = 5
NAME = "model.budget"


class Slot:
    """A slot whose connection takes no time."""

    returns = 0
    dbapi_connection = None
    idle_since = 0.0


class Process:
    """A forked process with two pools of one budget, and what the model knows of it."""

    def __init__(self, folder: str) -> None:
        (order, self._orders), (self._answers, answer) = os.pipe(), os.pipe()
        self.taken = [0, 0]
        self.children: list[int] = []
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._orders)
            os.close(self._answers)
            follow(folder, order, answer)
        os.close(order)
        os.close(answer)

    def ask(self, order: str) -> int:
        """Give an order; return its answer."""
        os.write(self._orders, order.encode())
        return int(os.read(self._answers, 20))

    def kill(self) -> None:
        """End it as the kernel does when there is no memory left."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._orders)
        os.close(self._answers)


def follow(folder: str, orders: int, answers: int) -> None:
    """Follow orders of one letter and the number of a pool, without a thread."""
    budget_module._start = lambda *args: None
    budget = Budget(folder, NAME, "shop")
    budget.go_by(LIMIT)
    queues: list[FairQueue[Any]] = [
        FairQueue(0, float("inf"), False, Slot, PoolPlaces(budget)) for _ in range(2)
    ]
    slots: list[list[Any]] = [[], []]
    while order := os.read(orders, 2).decode():
        answer = 0
        pool = int(order[1])
        budget._refused_until = 0.0
        if order[0] == "t":
            slot = queues[pool].get_now()
            if slot is not None:
                slots[pool].append(slot)
                answer = 1
        elif order[0] == "g":
            queues[pool].free(slots[pool].pop())
        elif order[0] == "f":
            answer = os.fork()
            if answer == 0:
                for each in (orders, answers):
                    os.close(each)
                signal.pause()
                os._exit(0)
        os.write(answers, str(answer).encode())
    os._exit(0)


class BudgetMachine(RuleBasedStateMachine):
    """Processes come, take, give, fork and are killed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.file = BudgetFile.open(self.folder.name, NAME)
        self.processes: list[Process] = []
        self.orphans: list[int] = []

    @property
    def total(self) -> int:
        """How many places are taken."""
        return sum(sum(each.taken) for each in self.processes)

    @precondition(lambda self: len(self.processes) < 4)
    @rule()
    def start(self) -> None:
        """A worker starts."""
        self.processes.append(Process(self.folder.name))

    @precondition(lambda self: self.processes)
    @rule(which=st.integers(0, 3), pool=st.integers(0, 1))
    def take(self, which: int, pool: int) -> None:
        """A checkout opens a connection, if there is a place."""
        process = self.processes[which % len(self.processes)]
        got = process.ask(f"t{pool}")
        assert got == (self.total < LIMIT)
        process.taken[pool] += got

    @precondition(lambda self: self.total > 0)
    @rule(which=st.integers(0, 3), pool=st.integers(0, 1))
    def give(self, which: int, pool: int) -> None:
        """A connection is closed."""
        process = self.processes[which % len(self.processes)]
        if process.taken[pool]:
            process.ask(f"g{pool}")
            process.taken[pool] -= 1

    @precondition(lambda self: self.processes and len(self.orphans) < 4)
    @rule(which=st.integers(0, 3))
    def fork(self, which: int) -> None:
        """A worker forks a child, which lives on and does nothing."""
        process = self.processes[which % len(self.processes)]
        self.orphans.append(process.ask("f0"))

    @precondition(lambda self: self.processes)
    @rule(which=st.integers(0, 3))
    def kill(self, which: int) -> None:
        """A worker is killed."""
        self.processes.pop(which % len(self.processes)).kill()

    @invariant()
    def the_kernel_agrees(self) -> None:
        """Each process has as many places as it has connections."""
        expected = {each.pid: sum(each.taken) for each in self.processes}
        found = dict(self.file.holders(LIMIT))
        assert found == {pid: count for pid, count in expected.items() if count}
        assert sum(found.values()) <= LIMIT

    def teardown(self) -> None:
        """End all."""
        for each in self.processes:
            each.kill()
        for pid in self.orphans:
            os.kill(pid, signal.SIGKILL)
        os.close(self.file._fd)
        Path(self.file.path).unlink()
        self.folder.cleanup()


TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
