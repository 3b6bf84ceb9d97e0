"""Which size is chosen from what was measured, and with what range."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from flask_poolguard.tune.choice import TOLERANCE, choose
from flask_poolguard.tune.scalability import Law

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24)


def rounds_of(
    throughput: Callable[[int], float], noise: float = 0.01, rounds: int = 5
) -> dict[int, list[float]]:
    """Return what so many rounds measure, each a little off."""
    chance = random.Random(7)
    return {
        n: [throughput(n) * chance.gauss(1, noise) for _ in range(rounds)]
        for n in SIZES
    }


class TestSize:
    def test_is_the_smallest_within_five_per_cent_of_the_peak(self) -> None:
        law = Law(100.0, 0.05, 0.01)
        choice = choose(rounds_of(law.throughput, noise=0), 1)
        highest = max(law.throughput(n) for n in range(1, 25))
        assert law.throughput(choice.size) >= (1 - TOLERANCE) * highest
        assert law.throughput(choice.size - 1) < (1 - TOLERANCE) * highest
        assert choice.by_law
        assert choice.throughput == pytest.approx(law.throughput(choice.size))

    def test_is_one_where_a_second_connection_brings_nothing(self) -> None:
        choice = choose(rounds_of(lambda n: 100.0), 1)
        assert (choice.size, choice.low, choice.high) == (1, 1, 1)

    def test_is_the_knee_where_the_server_runs_so_many_at_a_time(self) -> None:
        choice = choose(rounds_of(lambda n: min(n, 4) * 25.0), 1)
        assert choice.size == 4
        assert not choice.by_law
        assert choice.law_error > TOLERANCE

    def test_goes_by_the_law_where_only_chance_speaks_against_it(self) -> None:
        rounds = rounds_of(Law(100.0, 0.05, 0.004).throughput, noise=0.25)
        choice = choose(rounds, 1)
        assert choice.law_error > TOLERANCE
        assert choice.by_law

    def test_may_lie_between_two_that_were_measured(self) -> None:
        choice = choose(rounds_of(lambda n: min(n, 10) * 10.0, noise=0), 1)
        # Between 8 and 12 a straight line is drawn: 90 at 10, 95 at 11.
        assert choice.size == 11

    def test_counts_the_connections_of_all_processes(self) -> None:
        law = Law(100.0, 0.05, 0.002)
        choice = choose(rounds_of(lambda n: law.throughput(4 * n), noise=0), 4)
        assert choice.law.rate == pytest.approx(100)
        assert choice.law.contention == pytest.approx(0.05)

    @pytest.mark.parametrize("busy", range(1, 5))
    def test_is_found_although_rounds_did_nothing(self, busy: int) -> None:
        """As where one request takes about as long as a step."""
        chance = random.Random(busy)
        rounds = {
            n: [10.0, *(10.0 * (chance.random() < busy / 5) for _ in range(4))]
            for n in (1, 2, 3, 4, 6)
        }
        choice = choose(rounds, 1)
        assert choice.low is not None
        assert choice.high is not None
        assert 1 <= choice.low <= choice.size <= choice.high <= 6


class TestStillRising:
    def test_is_told_where_the_last_step_still_brought_much(self) -> None:
        assert choose(rounds_of(lambda n: 50.0 * n), 1).still_rising

    def test_is_not_told_after_the_peak(self) -> None:
        assert not choose(rounds_of(Law(100.0, 0.1, 0.01).throughput), 1).still_rising


class TestRange:
    def test_holds_the_size(self) -> None:
        choice = choose(rounds_of(Law(100.0, 0.05, 0.004).throughput, noise=0.05), 1)
        assert choice.low is not None
        assert choice.high is not None
        assert choice.low <= choice.size <= choice.high

    def test_is_wider_with_more_noise(self) -> None:
        def width(noise: float) -> int:
            rounds = rounds_of(Law(100.0, 0.05, 0.004).throughput, noise)
            choice = choose(rounds, 1)
            assert choice.low is not None
            assert choice.high is not None
            return choice.high - choice.low

        assert width(0.2) > width(0.005)

    def test_is_unknown_after_one_round(self) -> None:
        choice = choose(rounds_of(Law(100.0, 0.05, 0.004).throughput, rounds=1), 1)
        assert (choice.low, choice.high) == (None, None)

    def test_is_the_same_each_time(self) -> None:
        rounds = rounds_of(Law(100.0, 0.05, 0.004).throughput, noise=0.1)
        assert choose(rounds, 1) == choose(rounds, 1)

    def test_reaches_from_what_is_clearly_too_small_to_what_is_clearly_enough(
        self,
    ) -> None:
        # Between 8, with 80 % of the most, and 12 none was measured.
        choice = choose(rounds_of(lambda n: min(n, 10) * 10.0, noise=0.005), 1)
        assert not choice.by_law
        assert (choice.low, choice.high) == (9, 12)


def ranges(
    throughput: Callable[[int], float], noise: float, rounds: int
) -> tuple[int, list[tuple[int, int]]]:
    """Return the true size, and the range of each of 40 runs of two processes."""
    every = {n: throughput(2 * n) for n in range(1, max(SIZES) + 1)}
    enough = (1 - TOLERANCE) * max(every.values())
    found = []
    for seed in range(40):
        chance = random.Random(seed)
        run = {
            n: [every[n] * chance.gauss(1, noise) for _ in range(rounds)] for n in SIZES
        }
        choice = choose(run, 2)
        assert choice.low is not None
        assert choice.high is not None
        found.append((choice.low, choice.high))
    return next(n for n in every if every[n] >= enough), found


# Throughput that stops rising all at once: right above a size that was measured, and
# between two of them.
KNEES = (9, 17)


class TestManyRuns:
    """A range that were half as wide would hold the size in fewer than 90 %."""

    @pytest.fixture(autouse=True)
    def few_samples(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let a choice take less time."""
        monkeypatch.setattr("flask_poolguard.tune.choice._SAMPLES", 100)

    @pytest.mark.parametrize("knee", KNEES)
    def test_have_the_size_in_their_range_where_there_is_a_knee(
        self, knee: int
    ) -> None:
        # In a third of them only chance may speak for the law.
        true, found = ranges(lambda n: min(n, knee) * 10.0, 0.1, 2)
        assert sum(low <= true <= high for low, high in found) > 0.9 * len(found)

    def test_have_the_size_in_their_range_where_the_law_holds(self) -> None:
        law = Law(100.0, 0.02, 0.0002)
        true, found = ranges(law.throughput, 0.05, 5)
        assert sum(low <= true <= high for low, high in found) > 0.9 * len(found)
        assert all(high <= 3 * low for low, high in found)

    @pytest.mark.parametrize("knee", KNEES)
    def test_have_a_range_of_use(self, knee: int) -> None:
        _, found = ranges(lambda n: min(n, knee) * 10.0, 0.05, 5)
        assert all(high <= 3 * low for low, high in found)
