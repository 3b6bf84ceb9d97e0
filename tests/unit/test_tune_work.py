"""What may be run, and how it is written."""

from __future__ import annotations

import math
import random

import pytest

from flask_poolguard.tune import latency
from flask_poolguard.tune.work import Kind, Work, parse


class TestWeights:
    @pytest.mark.parametrize(
        ("kind", "text", "expected"),
        [
            ("url", "/", Work("url", "/")),
            ("url", "3:/a", Work("url", "/a", 3)),
            ("url", "/a:3", Work("url", "/a:3")),
            ("url", "/a?q=2:/b*3", Work("url", "/a?q=2:/b*3")),
            ("url", "12:/a?q=3:4", Work("url", "/a?q=3:4", 12)),
            ("sql", "SELECT 1", Work("sql", "SELECT 1")),
            ("sql", "2: select 1 ;", Work("sql", "select 1", 2)),
            ("sql", "SELECT '3:x'", Work("sql", "SELECT '3:x'")),
            ("sql", "WITH a AS (SELECT 1)\nTABLE a", None),
        ],
    )
    def test_stand_before_a_colon(
        self, kind: Kind, text: str, expected: Work | None
    ) -> None:
        assert parse(kind, text) == (expected or Work(kind, text))

    @pytest.mark.parametrize("text", ["0:/", "00:/a"])
    def test_are_one_or_more(self, text: str) -> None:
        with pytest.raises(ValueError, match="a weight is 1 or more"):
            parse("url", text)


class TestRefusals:
    @pytest.mark.parametrize(
        "text",
        ["", "a", "//evil.example/", "http://x/", "-1:/a", "x:/a", "/a b", "/a#b"],
    )
    def test_of_what_is_no_path(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not a path of this app"):
            parse("url", text)

    @pytest.mark.parametrize(
        "text",
        ["", "DELETE FROM a", "INSERT INTO a VALUES (1)", "SELECTED", "COMMIT", "3:"],
    )
    def test_of_what_is_no_query(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not a query"):
            parse("sql", text)

    def test_of_a_second_statement(self) -> None:
        with pytest.raises(ValueError, match="semicolon"):
            parse("sql", "SELECT 1; COMMIT; DROP TABLE a")


class TestLatencies:
    @pytest.mark.parametrize("share", [0.5, 0.95])
    def test_quantiles_are_one_per_cent_off_at_most(self, share: float) -> None:
        chance = random.Random(5)
        seconds = sorted(chance.lognormvariate(-3, 1) for _ in range(2001))
        exact = seconds[math.ceil(share * len(seconds)) - 1]
        found = latency.quantile(latency.count(seconds), share)
        assert found == pytest.approx(exact, rel=0.0101)

    def test_of_nothing_are_unknown(self) -> None:
        assert latency.quantile({}, 0.5) is None

    def test_that_are_not_there_are_very_short(self) -> None:
        assert latency.bucket_of(0) == latency.bucket_of(1e-9)
