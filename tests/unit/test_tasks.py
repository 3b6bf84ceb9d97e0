"""Background tasks are called by their names."""

from __future__ import annotations

import sys
import timeit
from types import ModuleType

import pytest

from flask_poolguard.tracking.endpoint import current_task_name
from tests.support.programs import run_program


@pytest.mark.process
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("celery", "celery task shop.tasks.mail"),
        ("celery_eagerly", "celery task shop.tasks.mail"),
        ("rq", "rq job tests.apps.background_tasks.rq_job"),
        ("apscheduler", "apscheduler job nightly?export"),
        ("apscheduler_asyncio", "apscheduler job nightly"),
        ("socketio", "socketio chat"),
        ("loaded", "(outside any request)"),
        ("request", "page"),
    ],
)
def test_a_leak_of_one_names_it(kind: str, name: str) -> None:
    found = run_program("background_tasks", kind)
    assert found["names"] == [name]
    assert name in found["counted"]


@pytest.mark.process
def test_one_within_a_request_is_part_of_the_request() -> None:
    found = run_program("background_tasks", "celery_in_a_request")
    assert set(found["names"]) == {"order"}


class TestWithoutALibrary:
    def test_none_is_imported(self) -> None:
        before = set(sys.modules)
        assert current_task_name() is None
        assert set(sys.modules) == before

    def test_it_costs_next_to_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("celery._state", "rq.job", "apscheduler.executors.base"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        number = 10_000
        best = min(timeit.repeat(current_task_name, number=number, repeat=5))
        # Measured: 0.2 µs. Ten times that is what a slow machine may take.
        assert best / number < 2e-6


class TestForeignReleases:
    @pytest.mark.parametrize(
        "name", ["celery._state", "rq.job", "apscheduler.executors.base"]
    )
    def test_one_that_keeps_its_task_elsewhere_gives_no_name(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        assert current_task_name() is None
