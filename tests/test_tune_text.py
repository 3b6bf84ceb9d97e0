"""How an outcome is told: in words, in a table, in diagrams of characters."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from flask_poolguard.report.text import Page
from flask_poolguard.tune import axes, plot, run_view
from flask_poolguard.tune.caveats import caveats_of
from flask_poolguard.tune.outcome import Outcome, Step
from flask_poolguard.tune.run_json import to_dict
from flask_poolguard.tune.work import Work
from tests.support.tuning import LAW, a_plan, an_outcome

PAGE = Page(80, break_words=False)
POINTS = {1: 10.0, 2: 18.0, 4: 30.0, 8: 40.0}


def codes(outcome: Outcome) -> list[str]:
    return [note.code for note in caveats_of(outcome)]


class TestDiagram:
    def test_stands_within_its_width(self) -> None:
        lines = plot.draw("t", POINTS, lambda n: 5 * n, 4, 60, plot.FULL)
        assert max(map(len, lines)) <= 60

    def test_plain_characters_are_ascii(self) -> None:
        lines = plot.draw("t", POINTS, lambda n: 5 * n, 4, 60, plot.PLAIN)
        assert "\n".join(lines).isascii()

    @pytest.mark.parametrize("characters", [plot.FULL, plot.PLAIN])
    def test_has_every_point_at_its_size(self, characters: plot.Characters) -> None:
        lines = plot.draw("t", POINTS, None, None, 70, characters)
        *rows, sizes = lines[1:]
        for size in POINTS:
            column = re.search(rf"\b{size}\b", sizes)
            assert column is not None
            assert characters.point in {row[column.start() :][:1] for row in rows}

    def test_points_are_higher_where_values_are(self) -> None:
        lines = plot.draw("t", POINTS, None, None, 70, plot.PLAIN)
        columns = [line.index("o", 9) for line in lines if "o" in line[9:]]
        assert len(columns) == 4
        assert columns == sorted(columns, reverse=True)

    def test_a_line_meets_the_points_that_it_goes_through(self) -> None:
        outside = plot.draw("t", {1: 10.0, 10: 100.0}, None, None, 40, plot.PLAIN)
        line = plot.draw(
            "t", {1: 10.0, 10: 100.0}, lambda n: 10 * n, None, 40, plot.PLAIN
        )
        assert "\n".join(outside).count(".") == 0
        assert "\n".join(line).count(".") >= 20

    def test_marks_the_chosen_size(self) -> None:
        lines = plot.draw("t", POINTS, None, 2, 70, plot.PLAIN)
        column = lines[-1].index("2")
        assert sum(line[column : column + 1] == ":" for line in lines) >= 8

    def test_sizes_that_have_no_room_are_left_out_but_the_largest(self) -> None:
        points = dict.fromkeys(range(1, 100), 1.0)
        lines = plot.draw("t", points, None, None, 40, plot.PLAIN)
        assert lines[-1].endswith(" 99")
        assert len(lines[-1]) <= 40

    @pytest.mark.parametrize("value", [0.0, 1e-9, 1e12])
    def test_of_any_value_can_be_drawn(self, value: float) -> None:
        assert plot.draw("t", {1: value, 2: value}, None, None, 40, plot.PLAIN)

    def test_of_one_size_can_be_drawn(self) -> None:
        lines = plot.draw("t", {1: 5.0}, lambda n: 5 * n, 1, 40, plot.FULL)
        assert "●" in "\n".join(lines)

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", None, "no-such"])
    def test_is_plain_where_the_output_is(self, encoding: str | None) -> None:
        assert plot.characters_for(encoding) is plot.PLAIN

    def test_is_of_dots_where_the_output_has_them(self) -> None:
        assert plot.characters_for("utf-8") is plot.FULL


class TestAxes:
    @pytest.mark.parametrize("size", [1, 2, 7, 24])
    def test_a_size_is_found_again_at_its_place(self, size: int) -> None:
        assert axes.size_at(axes.place_of(size, 24), 24) == pytest.approx(size)

    @pytest.mark.parametrize("highest", [0.003, 0.9, 1, 7, 99.9, 101, 12345])
    def test_ticks_are_few_and_reach_the_highest(self, highest: float) -> None:
        ticks = axes.ticks(highest)
        assert ticks[0] == 0
        assert highest <= ticks[-1] <= 2 * highest
        assert 3 <= len(ticks) <= 8

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (0, "0"),
            (0.123, "0.12"),
            (9.96, "10"),
            (12.34, "12.3"),
            (75.0, "75"),
            (12345.6, "12,346"),
        ],
    )
    def test_numbers_are_short(self, value: float, expected: str) -> None:
        assert axes.number(value) == expected

    def test_an_unknown_latency_is_a_question_mark(self) -> None:
        assert axes.latency(None) == "?"


class TestText:
    def test_fits_eighty_columns(self) -> None:
        rendered = run_view.render(an_outcome(), PAGE, plot.FULL)
        assert max(map(len, rendered.splitlines())) <= 80

    def test_tells_size_range_setting_and_parameters(self) -> None:
        rendered = " ".join(run_view.render(an_outcome(), PAGE, plot.FULL).split())
        assert re.search(
            r"pool_size \d+ is enough \(95% range: \d+( to \d+)?\)", rendered
        )
        assert re.search(r" POOLGUARD_POOL_SIZE = \d+ ", rendered)
        assert "one connection alone does 100 requests/s (λ)" in rendered
        assert "5.0% of the work waits for its turn (σ" in rendered
        assert "each pair of connections costs 0.40% (κ" in rendered
        assert "more than 15.4 connections do less" in rendered

    def test_a_size_at_which_it_still_rises_is_the_least_and_not_enough(self) -> None:
        outcome = an_outcome(lambda n: 1000 * n)
        assert outcome.choice is not None
        rendered = " ".join(run_view.render(outcome, PAGE, plot.FULL).split())
        assert f"It takes pool_size {outcome.choice.size} or more" in rendered
        assert "still rising at 24, the largest size measured" in rendered
        assert "is enough" not in rendered
        assert "of the most" not in rendered
        assert "95% range" not in rendered

    def test_tells_the_share_of_each_work(self) -> None:
        rendered = run_view.render(an_outcome(), PAGE, plot.FULL)
        assert "75% GET /search?q=tea" in rendered
        assert "25% GET /basket" in rendered

    def test_another_bind_has_a_line_of_its_own(self) -> None:
        outcome = an_outcome(plan=a_plan(bind="reports"))
        assert outcome.choice is not None
        line = run_view.setting(outcome.plan, outcome.choice)
        size = outcome.choice.size
        assert line == f'POOLGUARD_BINDS = {{"reports": {{"pool_size": {size}}}}}'

    def test_what_is_unknown_is_a_question_mark(self) -> None:
        def without(step: Step) -> Step:
            return dataclasses.replace(step, machine_share=None)

        rendered = run_view.render(an_outcome(steps=without), PAGE, plot.FULL)
        rows = [line for line in rendered.splitlines() if " ms " in line]
        assert all(row.endswith("  ?") for row in rows)

    def test_too_few_sizes_give_no_choice_but_a_table(self) -> None:
        outcome = an_outcome(plan=a_plan(sizes=(1, 2)))
        assert outcome.choice is None
        rendered = run_view.render(outcome, PAGE, plot.FULL)
        assert "Too few sizes were measured" in rendered
        assert "PER SECOND" in rendered

    def test_control_characters_are_shown_and_not_obeyed(self) -> None:
        work = Work("sql", "SELECT '\x1b[2J'")
        rendered = run_view.render(
            an_outcome(plan=a_plan(works=(work,))), PAGE, plot.FULL
        )
        assert "\x1b[2J" not in rendered
        assert r"\x1b[2J" in rendered

    def test_json_is_json_without_endless_digits(self) -> None:
        found = json.dumps(to_dict(an_outcome()), allow_nan=False)
        assert not re.search(r"\.\d{8}", found.partition('"law"')[0])
        assert json.loads(found)["recommended"]["by"] == "law"


class TestNotes:
    def test_there_is_none_where_all_went_well(self) -> None:
        assert codes(an_outcome()) == []

    def test_full_processors_make_a_lower_bound(self) -> None:
        outcome = an_outcome(
            steps=lambda step: dataclasses.replace(
                step, machine_share=0.97 if step.size > 3 else 0.5
            )
        )
        (note,) = caveats_of(outcome)
        assert note.code == "machine"
        assert note.is_serious
        assert "with sizes 4 to 24, up to 97% of its 8 cores" in note.message
        assert "lower bound" in note.message

        assert "may be flat" in note.message

    def test_full_processors_make_no_curve_flat_that_rises(self) -> None:
        outcome = an_outcome(
            lambda n: 1000 * n,
            steps=lambda step: dataclasses.replace(step, machine_share=0.97),
        )
        machine, rising = caveats_of(outcome)
        assert (machine.code, rising.code) == ("machine", "rising")
        assert "flat" not in machine.message
        assert "lower bound" in machine.message

    def test_full_processors_are_found_without_proc_stat_too(self) -> None:
        outcome = an_outcome(
            plan=a_plan(cores=2),
            steps=lambda step: dataclasses.replace(
                step, machine_share=None, process_cores=0.95
            ),
        )
        assert codes(outcome) == ["machine"]

    def test_processes_at_their_core_are_told_from_a_full_machine(self) -> None:
        outcome = an_outcome(
            steps=lambda step: dataclasses.replace(step, process_cores=0.95)
        )
        (note,) = caveats_of(outcome)
        assert note.code == "python"
        assert not note.is_serious

    def test_throughput_that_still_rises_makes_a_lower_bound(self) -> None:
        (note,) = caveats_of(an_outcome(lambda n: 1000 * n))
        assert note.code == "rising"
        assert "without --max-size" in note.message

    @pytest.mark.parametrize(
        ("status", "code"), [(404, "client-error"), (302, "redirect")]
    )
    def test_answers_that_are_no_pages_are_named(self, status: int, code: str) -> None:
        outcome = an_outcome(
            steps=lambda step: dataclasses.replace(step, statuses={(1, status): 10})
        )
        (note,) = caveats_of(outcome)
        assert note.code == code
        assert f"GET /basket answered {status} (270 times)" in note.message

    def test_connections_that_nobody_uses_are_named(self) -> None:
        outcome = an_outcome(
            steps=lambda step: dataclasses.replace(step, busy=min(step.size, 5.0))
        )
        assert codes(outcome) == ["unused"]

    def test_a_curve_that_misses_is_named(self) -> None:
        assert codes(an_outcome(lambda n: min(n, 8) * 100.0)) == ["law"]

    def test_steps_shorter_than_requests_are_named(self) -> None:
        outcome = an_outcome(lambda n: LAW.throughput(n) / 100)
        assert "short" in codes(outcome)

    def test_rounds_that_differ_widely_are_named(self) -> None:
        factors = iter([1.0] * 9 + [0.4] * 9 + [1.6] * 9)
        outcome = an_outcome(
            steps=lambda step: dataclasses.replace(
                step, per_second=step.per_second * next(factors)
            )
        )
        assert "unsteady" in codes(outcome)

    def test_few_requests_are_named(self) -> None:
        outcome = an_outcome(
            steps=lambda step: dataclasses.replace(step, latencies={-100: 20})
        )
        assert codes(outcome) == ["few"]

    def test_an_early_end_is_named_first(self) -> None:
        outcome = an_outcome(rounds=1)
        assert not outcome.complete
        assert codes(outcome)[0] == "interrupted"
