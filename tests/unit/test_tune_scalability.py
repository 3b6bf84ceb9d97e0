"""The universal scalability law is found again in what it made."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flask_poolguard.tune.scalability import Floats, Law, fit

SIZES = np.array([1.0, 2, 3, 4, 6, 8, 12, 16, 24])

rates = st.floats(1e-3, 1e6)
contentions = st.one_of(st.just(0.0), st.floats(1e-4, 1))
coherencies = st.one_of(st.just(0.0), st.floats(1e-5, 0.5))


def measured(law: Law, noise: float = 0.0, seed: int = 1) -> Floats:
    """Return throughputs at SIZES that follow a law, each off by chance.

    :param noise: the standard deviation, as a share.
    """
    off = np.random.default_rng(seed).normal(1, noise, len(SIZES))
    throughputs: Floats = law.throughput(SIZES) * np.maximum(off, 0.1)
    return throughputs


def error_of(law: Law, throughputs: Floats) -> float:
    return float(np.sum((throughputs - law.throughput(SIZES)) ** 2))


class TestLaw:
    def test_one_connection_does_lambda(self) -> None:
        assert Law(120.0, 0.3, 0.01).throughput(1) == 120

    def test_is_linear_without_contention_and_coherency(self) -> None:
        assert Law(10.0, 0, 0).throughput(7) == pytest.approx(70)

    def test_contention_alone_is_amdahls_law(self) -> None:
        assert Law(1.0, 0.25, 0).throughput(1e9) == pytest.approx(4)

    def test_the_peak_is_where_the_throughput_is_highest(self) -> None:
        law = Law(100.0, 0.05, 0.01)
        best = math.sqrt(0.95 / 0.01)
        assert law.best == pytest.approx(best)
        assert law.throughput(best) > law.throughput(best - 0.5)
        assert law.throughput(best) > law.throughput(best + 0.5)

    def test_without_coherency_there_is_no_peak(self) -> None:
        assert Law(100.0, 0.5, 0).best is None


class TestFit:
    @given(rates, contentions, coherencies)
    def test_finds_the_parameters_of_a_law_without_noise(
        self, rate: float, contention: float, coherency: float
    ) -> None:
        found = fit(SIZES, measured(Law(rate, contention, coherency)))
        assert found.rate == pytest.approx(rate, rel=1e-5)
        assert found.contention == pytest.approx(contention, rel=1e-4, abs=1e-7)
        assert found.coherency == pytest.approx(coherency, rel=1e-4, abs=1e-7)

    @pytest.mark.parametrize("seed", range(10))
    def test_comes_near_them_with_noise(self, seed: int) -> None:
        law = Law(100.0, 0.08, 0.004)
        found = fit(SIZES, measured(law, 0.02, seed))
        assert found.rate == pytest.approx(law.rate, rel=0.1)
        assert found.contention == pytest.approx(law.contention, abs=0.04)
        assert found.coherency == pytest.approx(law.coherency, abs=0.002)

    @given(st.lists(st.floats(0.01, 1e5), min_size=9, max_size=9))
    def test_never_finds_anything_below_zero(self, throughputs: list[float]) -> None:
        law = fit(SIZES, throughputs)
        assert law.rate > 0
        assert law.contention >= 0
        assert law.coherency >= 0
        assert all(map(math.isfinite, (law.rate, law.contention, law.coherency)))

    @settings(max_examples=50)
    @given(
        st.lists(st.floats(0.5, 2), min_size=9, max_size=9),
        st.floats(0.9, 1.1),
        st.floats(0.9, 1.1),
        st.floats(0.9, 1.1),
    )
    def test_no_law_nearby_fits_better(
        self, factors: list[float], rate: float, contention: float, coherency: float
    ) -> None:
        throughputs = Law(100.0, 0.1, 0.01).throughput(SIZES) * factors
        law = fit(SIZES, throughputs)
        other = Law(
            law.rate * rate, law.contention * contention, law.coherency * coherency
        )
        assert error_of(law, throughputs) <= error_of(other, throughputs) * (1 + 1e-6)

    @given(rates, contentions, coherencies, st.floats(1e-3, 1e3))
    def test_does_not_depend_on_the_unit(
        self, rate: float, contention: float, coherency: float, unit: float
    ) -> None:
        throughputs = measured(Law(rate, contention, coherency), 0.05)
        law = fit(SIZES, throughputs)
        scaled = fit(SIZES, throughputs * unit)
        assert scaled.throughput(5) == pytest.approx(unit * law.throughput(5), rel=1e-3)

    def test_superlinear_growth_is_taken_for_linear(self) -> None:
        law = fit(SIZES, SIZES**1.5)
        assert (law.contention, law.coherency) == (0, 0)

    @given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
    def test_three_points_are_enough(self, a: int, b: int, c: int) -> None:
        assume(len({a, b, c}) == 3)
        law = Law(50.0, 0.1, 0.002)
        found = fit((a, b, c), [law.throughput(n) for n in (a, b, c)])
        assert found.throughput(b) == pytest.approx(law.throughput(b), rel=1e-3)

    @pytest.mark.parametrize(
        ("connections", "throughputs"),
        [
            ([1, 2], [10.0, 20.0]),
            ([1, 1, 2], [10.0, 11.0, 20.0]),
            ([1, 2, 3], [10.0, 0.0, 20.0]),
            ([0, 2, 3], [10.0, 15.0, 20.0]),
            ([1, 2, 3], [10.0, math.nan, 20.0]),
            ([1, 2, 3], [10.0, math.inf, 20.0]),
        ],
    )
    def test_refuses_what_determines_no_law(
        self, connections: list[int], throughputs: list[float]
    ) -> None:
        with pytest.raises(ValueError, match=r"three|above 0"):
            fit(connections, throughputs)
