"""What grows is drawn, and said in figures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import growth
from benchmarks.figures import Curve, Table, exponents
from benchmarks.pictures import svg

CURVE = Curve(
    "curve",
    "threads",
    "µs",
    {
        "stock": {1: [1, 1, 1], 10: [10, 10, 10]},
        "guarded": {1: [1, 2, 3], 10: [1, 2, 3]},
    },
)


class TestCurves:
    def test_growing_as_the_number_does_is_an_exponent_of_one(self) -> None:
        (step,) = exponents(CURVE.found["stock"])
        assert step == pytest.approx((1.0, 1, 10))
        assert "stock 1.00 (from 1 to 10), guarded 0.00" in CURVE.steepest()

    def test_the_same_figures_give_the_same_picture(self) -> None:
        picture = svg(CURVE)
        assert picture == svg(CURVE)
        for text in ("threads", "µs", "stock", "guarded", "linear"):
            assert f">{text}</text>" in picture

    def test_a_picture_is_written_for_each_table_with_a_curve(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "pictures"
        tables = Table("a", (), (), curve=CURVE), Table("b", (), ())
        monkeypatch.setattr(growth, "run", lambda: iter(tables))
        arguments = ["benchmarks", "growth", "--pictures", str(folder)]
        monkeypatch.setattr(sys, "argv", arguments)
        command.main()
        assert [each.name for each in folder.iterdir()] == ["curve.svg"]
