"""What is the same of several binds or workers is said once."""

from __future__ import annotations

import dataclasses

from flask_poolguard.report.evidence import Evidence
from flask_poolguard.report.gaps import find_problems
from flask_poolguard.report.merging import merged
from flask_poolguard.report.model import Finding
from flask_poolguard.report.rules import OF_WORKERS, findings_of
from flask_poolguard.state.search import Problem
from flask_poolguard.state.status import PoolStatus, Worker
from tests.support.statuses import POOL, WORKER


def pinged(bind: str, key: str = "POOLGUARD_MAX_IDLE", level: str = "info") -> Finding:
    """Return a finding of one bind."""
    return Finding(
        level,  # type: ignore[arg-type] # one of the levels
        "pre-ping",
        f"A ping of bind {bind!r} costs a round trip",
        f"Set {key}.",
        "It takes longer.",
        f"pool of bind {bind} pings",
    )


def worker(pid: int, *pools: PoolStatus, stopped: bool = False) -> Worker:
    """Return a worker with this number."""
    return dataclasses.replace(WORKER, pid=pid, pools=pools, stopped=stopped)


def found(code: str, *workers: Worker) -> list[Finding]:
    """Return what `check` and `doctor` find of workers, with this code."""
    evidence = Evidence(config={}, engines=(), workers=workers, answers={})
    return [each for each in findings_of(evidence, OF_WORKERS) if each.code == code]


class TestBinds:
    def test_of_which_the_same_is_said_are_one_finding(self) -> None:
        key = "POOLGUARD_BINDS['reports']['max_idle']"
        (one,) = merged([pinged("default"), pinged("reports", key), pinged("log")])
        assert one.message == (
            "A ping of bind 'default' (and likewise 'reports' and 'log') costs a round"
            " trip"
        )
        assert one.fix == "Set POOLGUARD_MAX_IDLE."

    def test_keep_their_order_and_what_is_said_of_them_alone(self) -> None:
        others = [pinged("reports", "X"), pinged("log", level="warning")]
        assert merged([pinged("default"), *others]) == [pinged("default"), *others]

    def test_of_which_one_begins_like_the_other_are_told_apart(self) -> None:
        first, second = pinged("a"), pinged("a.b")
        (one,) = merged([first, second])
        assert "bind 'a' (and likewise 'a.b')" in one.message

    def test_that_get_no_connection_from_one_server_are_one_finding(self) -> None:
        away = dataclasses.replace(
            POOL, obstacle="away", obstacle_seconds=12.0, waiting=0, unavailable=2
        )
        reports = dataclasses.replace(
            away, bind="reports", url="mysql+pymysql://app@db/reports"
        )
        (one,) = found("unavailable", worker(7, away, reports), worker(8, away))
        assert one.message.startswith(
            "Binds 'default' and 'reports' get no connection from their server: workers"
            " 7 and 8: it has been away for 12s. 6 of "
        )
        assert one.message.endswith("(by worker: 7: 4, 8: 2)")
        assert one.in_short.startswith(
            "binds default and reports get no connection for 12s: their server does not"
            " answer"
        )

    def test_that_meet_something_else_are_not(self) -> None:
        away = dataclasses.replace(POOL, obstacle="away", obstacle_seconds=1.0)
        login = dataclasses.replace(away, bind="reports", obstacle="login")
        assert len(found("unavailable", worker(7, away, login))) == 2


class TestWorkers:
    def test_that_are_stopped_are_one_finding(self) -> None:
        pool = dataclasses.replace(POOL, waiting=0)
        (one,) = found(
            "stopped",
            worker(9, pool, stopped=True),
            worker(7, pool, stopped=True),
            worker(8, pool),
        )
        assert one.message.startswith("Workers 7 and 9 are stopped, by a signal")
        assert "with 2 connections out and 4 connections idle" in one.message
        assert "kill -CONT 9 7; or end them" in one.fix

    def test_of_another_version_are_one_finding(self) -> None:
        (one,) = find_problems(
            [
                Problem("layout", f"/run/{pid}.state", "layout 5, not 6", pid)
                for pid in (12, 13, 14)
            ]
        )
        assert one.message == (
            "Workers 12, 13 and 14 run another version of Flask-PoolGuard (layout 5,"
            " not 6), so they are not shown: /run/12.state, /run/13.state,"
            " /run/14.state"
        )

    def test_with_other_reasons_are_not(self) -> None:
        problems = [Problem("file", f"/run/{n}", f"error {n}", n) for n in (1, 2)]
        assert len(find_problems(problems)) == 2
