"""The hooks of this test suite skip loudly and notice what is left behind."""

from __future__ import annotations

import pytest

from tests.support.app_server import REPOSITORY

pytestmark = pytest.mark.process

CONFTEST = """
import pytest
from tests.conftest import nothing_left_behind, pytest_terminal_summary, state_dir
from tests.support import not_tested
from tests.support.leftovers import expect

@pytest.fixture
def absent():
    not_tested.stop_test("FooDB is not installed. Install it.")
"""


@pytest.fixture
def suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """Return an empty test suite that uses the hooks of this one."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("CI", raising=False)
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\nmarkers = leaves_behind")
    return pytester


class TestMissingServer:
    TESTS = "def test_one(absent): pass\ndef test_two(absent): pass"

    @pytest.mark.parametrize("workers", ["0", "2"])
    def test_is_a_loud_skip_for_a_user(
        self, suite: pytest.Pytester, workers: str
    ) -> None:
        suite.makepyfile(self.TESTS)
        result = suite.runpytest_subprocess("-p", "no:flask", "-n", workers)
        result.assert_outcomes(skipped=2)
        result.stdout.fnmatch_lines(
            ["!*NOT TESTED*!", "2 tests did not run. FooDB is not installed*"]
        )
        assert result.ret == 0

    def test_is_a_failure_in_ci(
        self, suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CI", "true")
        suite.makepyfile(self.TESTS)
        result = suite.runpytest_subprocess("-p", "no:flask")
        result.assert_outcomes(errors=2)
        result.stdout.fnmatch_lines(["*FooDB is not installed. Install it.*"])


class TestLeftovers:
    @pytest.mark.parametrize(
        ("body", "named"),
        [
            ("threading.Thread(target=time.sleep, args=[4]).start()", "thread Thread-"),
            ("subprocess.Popen(['sleep', '8'])", "process *: sleep 8"),
        ],
    )
    def test_are_an_error_that_names_them(
        self, suite: pytest.Pytester, body: str, named: str
    ) -> None:
        suite.makepyfile(f"import subprocess, threading, time\ndef test(): {body}")
        result = suite.runpytest_subprocess("-p", "no:flask")
        result.assert_outcomes(passed=1, errors=1)
        result.stdout.fnmatch_lines(["*This test left behind:*", f"*{named}*"])

    def test_are_no_error_when_the_test_says_so(self, suite: pytest.Pytester) -> None:
        suite.makepyfile(
            "import pytest, threading, time\n"
            "@pytest.mark.leaves_behind\n"
            "def test(): threading.Thread(target=time.sleep, args=[1]).start()"
        )
        suite.runpytest_subprocess("-p", "no:flask").assert_outcomes(passed=1)

    def test_may_take_a_moment_to_end(self, suite: pytest.Pytester) -> None:
        suite.makepyfile(
            "import threading, time\n"
            "def test(): threading.Thread(target=time.sleep, args=[0.2]).start()"
        )
        suite.runpytest_subprocess("-p", "no:flask").assert_outcomes(passed=1)
