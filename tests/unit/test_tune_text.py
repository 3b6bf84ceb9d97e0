"""How an outcome is told: in words, in a table, as JSON."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from flask_poolguard.report.text import Page
from flask_poolguard.tune import run_view, text
from flask_poolguard.tune.caveats import caveats_of
from flask_poolguard.tune.experiment import Step
from flask_poolguard.tune.outcome import Outcome
from flask_poolguard.tune.run_json import to_dict
from flask_poolguard.tune.work import Work
from tests.support.tuning import LAW, a_plan, an_outcome

PAGE = Page(80, break_words=False)


def codes(outcome: Outcome) -> list[str]:
    return [note.code for note in caveats_of(outcome)]


class TestFigures:
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
        assert text.number(value) == expected

    def test_an_unknown_latency_is_a_question_mark(self) -> None:
        assert text.latency(None) == "?"


class TestText:
    def test_fits_eighty_columns(self) -> None:
        rendered = run_view.render(an_outcome(), PAGE)
        assert max(map(len, rendered.splitlines())) <= 80

    def test_tells_size_range_setting_and_parameters(self) -> None:
        verdict = run_view.verdict_on(an_outcome())
        assert verdict.level == "ok"
        assert re.match(
            r"pool_size \d+ is enough \(95% range: \d+( to \d+)?\): ", verdict.text
        )
        assert verdict.text.endswith("within 5% of the most")
        rendered = " ".join(run_view.render(an_outcome(), PAGE).split())
        assert re.search(r"POOLGUARD_POOL_SIZE = \d+ ", rendered)
        assert "one connection alone does 100 requests/s (λ)" in rendered
        assert "5.0% of the work waits for its turn (σ" in rendered
        assert "each pair of connections costs 0.40% (κ" in rendered
        assert "more than 15.4 connections do less" in rendered

    def test_a_size_at_which_it_still_rises_is_the_least_and_not_enough(self) -> None:
        outcome = an_outcome(lambda n: 1000 * n)
        assert outcome.choice is not None
        verdict = run_view.verdict_on(outcome)
        assert verdict.level == "warning"
        text = verdict.text
        assert text.startswith(f"It takes pool_size {outcome.choice.size} or more")
        assert "still rising at 24, the largest size measured" in text
        assert text.endswith("Where it ends is not known (rising)")
        assert "95% range" not in text

    @pytest.mark.parametrize(
        ("source", "whose"),
        [("option", "24 threads"), ("workers", "24 threads (as a live worker has)")],
    )
    def test_a_size_that_all_threads_use_is_enough(
        self, source: str, whose: str
    ) -> None:
        plan = a_plan(threads=24, threads_from=source)
        outcome = an_outcome(lambda n: 1000 * n, plan=plan)
        assert outcome.choice is not None
        assert outcome.choice.still_rising
        verdict = run_view.verdict_on(outcome)
        assert verdict.level == "ok"
        assert verdict.text.startswith(f"pool_size {outcome.choice.size} is enough")
        assert verdict.text.endswith(f"and {whose} use no more than 24")
        assert codes(outcome) == ["threads"]
        rendered = " ".join(run_view.render(outcome, PAGE).split())
        assert f"2 processes of {whose}, 3 rounds" in rendered

    def test_what_limits_the_result_comes_before_the_table(self) -> None:
        outcome = an_outcome(lambda n: 1000 * n)
        assert run_view.render(outcome, PAGE).startswith("  POOLGUARD_POOL_SIZE = ")
        rendered = run_view.render(outcome, PAGE)
        assert rendered.index("To know") < rendered.index("PER SECOND")

    def test_tells_the_share_of_each_work(self) -> None:
        rendered = run_view.render(an_outcome(), PAGE)
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

        rendered = run_view.render(an_outcome(steps=without), PAGE)
        rows = [line for line in rendered.splitlines() if " ms " in line]
        assert all(row.endswith("  ?") for row in rows)

    def test_too_few_sizes_give_no_choice_but_a_table(self) -> None:
        outcome = an_outcome(plan=a_plan(sizes=(1, 2)))
        assert outcome.choice is None
        verdict = run_view.verdict_on(outcome)
        assert verdict.level == "unknown"
        assert verdict.text == (
            "no size can be chosen: 2 sizes of 2 did any work, and it takes 3"
        )
        rendered = run_view.render(outcome, PAGE)
        assert "PER SECOND" in rendered

    def test_control_characters_are_shown_and_not_obeyed(self) -> None:
        work = Work("sql", "SELECT '\x1b[2J'")
        rendered = run_view.render(an_outcome(plan=a_plan(works=(work,))), PAGE)
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

    def test_connections_that_no_thread_uses_are_named(self) -> None:
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
