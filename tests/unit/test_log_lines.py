"""The guard's log lines: their fields, and storms of equal ones."""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_poolguard import log_lines
from flask_poolguard.log_lines import FIELDS, debug, error, info, rest, warn
from flask_poolguard.log_storms import MOST_KINDS, WINDOW, Storms
from flask_poolguard.logs import NAME
from flask_poolguard.pool import housekeeper
from flask_poolguard.pool.housekeeper import Housekeeper
from tests.support.forking import MAY_DEADLOCK, fork_without_hooks, in_child
from tests.support.guarded_app import Clock

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "signals.md"
PLACE: Any = {"bind": "default", "endpoint": "desk", "file": "shop.py", "line": 7}


class JSONFormatter(logging.Formatter):
    """What an app may write for a collector of logs, with what Python has."""

    def format(self, record: logging.LogRecord) -> str:
        found = {"level": record.levelname, "message": record.getMessage()}
        return json.dumps(found | {name: vars(record)[name] for name in FIELDS})


class Lines(logging.Handler):
    """Keeps each line as the formatter made it."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JSONFormatter())
        self.found: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(json.loads(self.format(record)))

    def take(self) -> list[dict[str, Any]]:
        """Return what came since the last call."""
        found, self.found = self.found, []
        return found


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Listen to the guard's logger."""
    logger, handler = logging.getLogger(NAME), Lines()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Let storms go by a clock of the test's, which alone tells of them."""
    clock = Clock()
    monkeypatch.setattr(Storms, "clock", staticmethod(clock))
    with housekeeper._round:  # it finds that a round is under way
        yield clock


class TestFields:
    def test_all_are_on_each_record(self, lines: Lines) -> None:
        warn("connection_leaked", "%s forgot one", "desk", seconds=1.5, **PLACE)
        assert lines.take() == [
            {
                "level": "WARNING",
                "message": "desk forgot one",
                "event": "connection_leaked",
                "bind": "default",
                "endpoint": "desk",
                "file": "shop.py",
                "line": 7,
                "seconds": 1.5,
                "count": 1,
                "pid": os.getpid(),
            }
        ]

    def test_one_that_does_not_apply_is_there_as_none(
        self, lines: Lines, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG, logger=NAME):
            debug("not_known", "this")
            info("engine_moved", "that")
            error("blueprint_auth_failed", "100 %")
        found = lines.take()
        assert [each["level"] for each in found] == ["DEBUG", "INFO", "ERROR"]
        assert {each["bind"] for each in found} == {None}
        assert found[2]["message"] == "100 %"

    def test_none_is_a_name_of_logging_s_own(self) -> None:
        record = logging.LogRecord("", 0, "", 0, "", (), None)
        own = {*vars(record), "message", "asctime", "taskName"}
        assert own.isdisjoint(FIELDS)

    def test_the_module_that_has_something_to_say_is_named(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        warn("finding", "this")
        info("finding", "that")
        assert {each.filename for each in caplog.records} == {Path(__file__).name}


def makes_of_itself(**own: Any) -> Any:
    """Return a record factory that sets attributes of warnings of the guard's only."""

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = logging.LogRecord(*args, **kwargs)
        if record.levelno >= logging.WARNING and record.name == NAME:
            vars(record).update(own)
        return record

    return make


class TestAppsOwnRecords:
    """An error in a log line would be one of the request's teardown."""

    @pytest.fixture
    def factory(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Set the app's factory, until the test ends."""
        return lambda made: monkeypatch.setattr(logging, "_logRecordFactory", made)

    @pytest.fixture
    def logger_class(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Let the guard's logger be of another class, until the test ends."""
        logger = logging.getLogger(NAME)

        def choose(**methods: Any) -> None:
            chosen = type("Chosen", (type(logger),), methods)
            monkeypatch.setattr(logger, "__class__", chosen)

        return choose

    def test_what_the_factory_sets_stays(self, lines: Lines, factory: Any) -> None:
        factory(makes_of_itself(**dict.fromkeys(FIELDS, "the app's")))
        warn("connection_leaked", "one", **PLACE)
        (found,) = lines.take()
        assert {found[name] for name in FIELDS} == {"the app's"}

    def test_what_it_does_not_set_is_the_guards(
        self, lines: Lines, factory: Any
    ) -> None:
        factory(makes_of_itself(pid="the app's"))
        warn("connection_leaked", "one", **PLACE)
        (found,) = lines.take()
        assert (found["pid"], found["event"]) == ("the app's", "connection_leaked")

    def test_it_is_called_once_for_each_line_as_logging_calls_it(
        self, lines: Lines, factory: Any
    ) -> None:
        made = []

        def make(
            name: str,
            level: int,
            path: str,
            number: int,
            message: object,
            args: Any,
            raised: Any,
            function: str,
            stack: str | None,
        ) -> logging.LogRecord:
            made.append((name, level, Path(path).name, function, stack))
            return logging.LogRecord(
                name, level, path, number, message, args, raised, function, stack
            )

        factory(make)
        warn("connection_leaked", "one", **PLACE)
        here = "test_it_is_called_once_for_each_line_as_logging_calls_it"
        assert made == [(NAME, logging.WARNING, Path(__file__).name, here, None)]
        assert len(lines.take()) == 1

    def test_one_that_fails_costs_neither_the_line_nor_its_fields(
        self, lines: Lines, factory: Any
    ) -> None:
        def fail(*args: Any, **kwargs: Any) -> logging.LogRecord:
            raise RuntimeError("the app's own")

        factory(fail)
        warn("connection_leaked", "one", **PLACE)
        (found,) = lines.take()
        assert (found["message"], found["line"]) == ("one", 7)

    def test_a_record_may_refuse_fields(
        self, factory: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Refusing(logging.LogRecord):
            @property
            def seconds(self) -> float:
                raise RuntimeError("not known")

            line = property()

        factory(Refusing)
        warn("connection_leaked", "one", **PLACE)
        assert [each.getMessage() for each in caplog.records] == ["one"]

    def test_a_logger_class_may_know_fewer_arguments(
        self, lines: Lines, logger_class: Any
    ) -> None:
        def narrow(self: logging.Logger, *args: Any) -> Any:
            raise AssertionError("another method's arguments")

        def find(self: logging.Logger) -> Any:
            raise AssertionError("not reached")

        logger_class(log=narrow, _log=narrow, makeRecord=narrow, findCaller=find)
        warn("connection_leaked", "one", **PLACE)
        (found,) = lines.take()
        assert (found["message"], found["event"]) == ("one", "connection_leaked")

    def test_a_traceback_stays(
        self, factory: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        factory(makes_of_itself(event="the app's"))
        wrong = KeyError("a")
        try:
            raise wrong
        except KeyError:
            warn("guard_failed", "It failed", exc_info=True)
        (found,) = caplog.records
        assert found.exc_info is not None
        assert found.exc_info[1] is wrong


class TestStructlog:
    """What the page says of its set-up for lines that are not its own."""

    @pytest.fixture
    def told(self, lines: Lines) -> Any:
        """Log a line through structlog, and return what its JSON has."""
        structlog = pytest.importorskip("structlog", reason="structlog is missing")

        def tell(make: Any) -> dict[str, Any]:
            formatter = structlog.stdlib.ProcessorFormatter
            lines.setFormatter(
                formatter(
                    foreign_pre_chain=[make(structlog.stdlib.ExtraAdder)],
                    processors=[
                        formatter.remove_processors_meta,
                        structlog.processors.JSONRenderer(),
                    ],
                )
            )
            warn("connection_leaked", "%s forgot one", "desk", **PLACE)
            (found,) = lines.take()
            return found

        return tell

    def test_with_the_fields_that_the_page_allows(self, told: Any) -> None:
        (allowed,) = re.findall(r"ExtraAdder\(allow=(\[.*?\])\)", PAGE.read_text())
        found = told(lambda adder: adder(allow=ast.literal_eval(allowed)))
        assert found.pop("event") == "desk forgot one"
        assert {*found, "event"} == set(FIELDS)

    def test_with_the_function_of_the_page(self, told: Any) -> None:
        (source,) = re.findall(
            r"^```python\n(def keep_message.*?)^```", PAGE.read_text(), re.M | re.S
        )
        namespace: dict[str, Any] = {}
        exec(source, namespace)  # noqa: S102 (the page's own)
        found = told(lambda adder: namespace["keep_message"](adder()))
        assert (found["event"], found["kind"]) == (
            "desk forgot one",
            "connection_leaked",
        )
        assert (found["line"], found["count"]) == (7, 1)


class Refusing(logging.Handler):
    """Raises on purpose, as a test's may that wants no warning."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(record.getMessage())


class TestHandlerThatRaises:
    @pytest.fixture(autouse=True)
    def refusing(self) -> Iterator[None]:
        logger, handler = logging.getLogger(NAME), Refusing()
        logger.addHandler(handler)
        yield
        logger.removeHandler(handler)

    def test_raises_where_the_line_is_logged(self) -> None:
        with pytest.raises(RuntimeError, match="one"):
            warn("connection_leaked", "one", **PLACE)

    def test_does_not_for_the_count_of_other_lines(self, clock: Clock) -> None:
        for _ in range(2):
            with contextlib.suppress(RuntimeError):
                warn("connection_leaked", "one", **PLACE)
        clock.now += WINDOW
        rest.tend()

    def test_does_not_end_the_housekeeper(self) -> None:
        class Failing:
            def tend(self) -> None:
                raise ValueError("no housekeeping")

        tended: list[bool] = []

        class Next:
            def tend(self) -> None:
                tended.append(True)

        Housekeeper()._tend_each([Failing(), Next()])
        assert tended == [True]


class TestStorm:
    def test_is_one_line_at_once_and_their_number(
        self, lines: Lines, clock: Clock
    ) -> None:
        for number in range(5):
            warn("connection_leaked", "%d forgotten", number, seconds=0.5, **PLACE)
        (first,) = lines.take()
        assert first["message"] == "0 forgotten"
        rest.tend()
        assert lines.take() == []
        clock.now += WINDOW
        rest.tend()
        (told,) = lines.take()
        assert told["message"] == "4 more like this within 10 s: 0 forgotten"
        assert (told["count"], told["seconds"]) == (4, WINDOW)
        same = ("level", "event", "bind", "endpoint", "file", "line", "pid")
        assert all(told[name] == first[name] for name in same)

    def test_that_lasts_has_one_line_in_each_window(
        self, lines: Lines, clock: Clock
    ) -> None:
        for _ in range(3 * int(WINDOW)):
            warn("connection_leaked", "one", **PLACE)
            rest.tend()
            clock.now += 1
        rest.tend()
        found = lines.take()
        assert len(found) == 4
        assert sum(each["count"] for each in found) == 3 * int(WINDOW)

    def test_after_a_quiet_window_the_next_comes_at_once(
        self, lines: Lines, clock: Clock
    ) -> None:
        for _ in range(3):
            warn("connection_leaked", "one", **PLACE)
            clock.now += WINDOW
            rest.tend()
        assert [each["count"] for each in lines.take()] == [1, 1, 1]

    def test_is_told_by_the_next_line_of_another_kind(
        self, lines: Lines, clock: Clock
    ) -> None:
        warn("connection_leaked", "one", **PLACE)
        warn("connection_leaked", "one", **PLACE)
        clock.now += WINDOW
        warn("finding", "something else")
        assert [each["message"] for each in lines.take()] == [
            "one",
            "1 more like this within 10 s: one",
            "something else",
        ]

    @pytest.mark.parametrize(
        "other",
        [
            {"bind": "other"},
            {"line": 8},
            {"file": "desk.py"},
            {"endpoint": "till"},
            {"unlike": "2 new"},
        ],
        ids=str,
    )
    def test_is_none_of_lines_that_are_not_equal(
        self, lines: Lines, other: dict[str, Any]
    ) -> None:
        warn("connection_leaked", "one", **PLACE)
        warn("connection_leaked", "one", **{**PLACE, **other})
        warn("connection_back", "one", **PLACE)
        assert len(lines.take()) == 3

    def test_without_a_place_the_text_tells(self, lines: Lines) -> None:
        for folder in ("a", "b", "a"):
            warn("worker_not_shown", "No room in %s", folder)
        assert [each["message"][-1] for each in lines.take()] == ["a", "b"]

    def test_of_tracebacks_has_one_of_each_error(self, lines: Lines) -> None:
        for wrong in (KeyError("a"), KeyError("b"), ValueError("a"), KeyError("a")):
            try:
                raise wrong
            except Exception:
                warn("guard_failed", "It failed", exc_info=True)
        assert len(lines.take()) == 3

    def test_is_none_where_the_level_is_too_low_for_it(
        self, lines: Lines, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG, logger=NAME):
            for _ in range(3):
                debug("not_known", "this")
                info("sizes_changed", "that")
        assert len(lines.take()) == 6

    def test_keeps_nothing_of_a_request_alive(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Told:
            pass

        # pytest keeps all that is logged.
        monkeypatch.setattr(logging.getLogger(NAME), "propagate", False)
        told = Told()
        gone = weakref.ref(told)
        warn("worker_not_shown", "This: %r", told)
        del told
        assert gone() is None

    def test_keeps_only_the_beginning_of_a_long_line(
        self, lines: Lines, clock: Clock
    ) -> None:
        for _ in range(2):
            try:
                raise ValueError("y" * 10_000)
            except ValueError:
                warn("worker_not_shown", "x" * 10_000, exc_info=True)
        assert len(repr(log_lines._storms._storms)) < 2_000
        clock.now += WINDOW
        rest.tend()
        first, told = lines.take()
        assert first["message"] == "x" * 10_000
        assert told["message"] == f"1 more like this within 10 s: {'x' * 500}…"

    def test_of_a_line_that_cannot_be_formatted_is_loggings_affair(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Mute:
            def __str__(self) -> str:
                raise RuntimeError("nothing to say")

        monkeypatch.setattr(logging, "raiseExceptions", False)
        monkeypatch.setattr(logging.getLogger(NAME), "propagate", False)
        warn("worker_not_shown", "This: %s", Mute())

    def test_only_so_many_kinds_are_kept_and_none_is_lost(
        self, lines: Lines, clock: Clock
    ) -> None:
        kinds = 2 * MOST_KINDS
        for line in range(kinds):
            for _ in range(3):
                warn("connection_leaked", "one", **{**PLACE, "line": line})
        assert len(log_lines._storms._storms) == MOST_KINDS
        clock.now += WINDOW
        rest.tend()
        found = lines.take()
        assert sum(each["count"] for each in found) == 3 * kinds
        assert len(found) == 2 * kinds

    def test_of_many_threads_is_counted_right(self, lines: Lines, clock: Clock) -> None:
        def work() -> None:
            for _ in range(200):
                warn("connection_leaked", "one", **PLACE)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        clock.now += WINDOW
        rest.tend()
        assert [each["count"] for each in lines.take()] == [1, 1599]


@pytest.mark.filterwarnings(MAY_DEADLOCK)
@pytest.mark.parametrize("fork", [os.fork, fork_without_hooks], ids=["os", "c"])
def test_a_child_begins_anew_and_leaves_its_parents_count_to_it(
    lines: Lines, clock: Clock, fork: Any
) -> None:
    def child() -> list[tuple[int, int]]:
        lines.take()
        warn("connection_leaked", "one", **PLACE)
        clock.now += WINDOW
        rest.tend()
        return [(each["count"], each["pid"] == os.getpid()) for each in lines.take()]

    warn("connection_leaked", "one", **PLACE)
    warn("connection_leaked", "one", **PLACE)
    assert in_child(child, fork=fork) == [(1, True)]
    clock.now += WINDOW
    rest.tend()
    assert [each["count"] for each in lines.take()] == [1, 1]


QUEUED = """
import atexit, logging.handlers, queue
lines = queue.SimpleQueue()
(direct,) = logging.getLogger().handlers
listener = logging.handlers.QueueListener(lines, direct)
listener.start()
atexit.register(listener.stop)
logging.getLogger().handlers = [logging.handlers.QueueHandler(lines)]
"""


@pytest.mark.process
@pytest.mark.parametrize("queued", ["", QUEUED], ids=["direct", "queued"])
def test_the_end_of_the_process_tells_what_is_left(queued: str) -> None:
    source = f"""
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(count)d %(message)s")
from flask_poolguard.log_lines import warn
{queued}
for _ in range(7):
    warn("connection_leaked", "one", file="shop.py", line=7)
"""
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "WARNING 1 one",
        "WARNING 6 6 more like this within 0 s: one",
    ]


# What the package's source has to say ------------------------------------------------

PACKAGE = ROOT / "flask_poolguard"
METHODS = {"debug", "info", "warning", "warn", "error", "exception", "critical", "log"}
# The module that all lines go through, and what it needs itself.
WRITERS = {"log_lines.py", "logs.py"}
# SQLAlchemy's logger, in the words of its own pools.
POOLS_OWN = {"self.logger", "pool.logger", "self._pool.logger"}
# Called with an event first; `log` stands for two of them, `warn_once` calls one.
CALLS = {"debug", "info", "warn", "error", "log", "warn_once"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Give each call in the package, with its file."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                yield file.relative_to(PACKAGE).as_posix(), node


class TestSource:
    def test_all_lines_go_through_the_same_functions(self) -> None:
        """But for those of SQLAlchemy's own logger of a pool, as any pool has it."""
        others = []
        for file, call in calls():
            if file in WRITERS or not isinstance(call.func, ast.Attribute):
                continue
            of, name = ast.unparse(call.func.value), call.func.attr
            is_log = name in METHODS and of.split(".")[-1] in ("logger", "logging")
            is_pools = file.startswith("pool/") and of in POOLS_OWN
            if name == "getLogger" or (is_log and not is_pools):
                others.append(f"{file}: {of}.{name}")
        assert others == []

    def test_the_page_has_each_event_and_no_other(self) -> None:
        table = PAGE.read_text().partition("## Log events")[2]
        documented = re.findall(r"^\| `(\w+)` \|", table, re.M)
        assert documented
        assert sorted(set(documented)) == sorted(documented)
        events = set()
        for file, call in calls():
            name = call.func.attr if isinstance(call.func, ast.Attribute) else None
            if isinstance(call.func, ast.Name):
                name = call.func.id
            is_ours = name == "warn_once" or isinstance(call.func, ast.Name)
            if (
                name not in CALLS
                or not is_ours
                or file in WRITERS
                or len(call.args) < 2
            ):
                continue
            if isinstance(call.args[0], ast.Constant):
                events.add(str(call.args[0].value))
            else:
                assert (file, name) == ("pool/idle_limits.py", "warn")  # warn_once's
        assert set(documented) == events
