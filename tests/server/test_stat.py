"""`guard.stat()`: the figures of a process's own pools, from memory."""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import URL, NullPool, StaticPool, create_engine, event

from flask_poolguard import PoolGuard, PoolTimeout, SetupError
from flask_poolguard.state import reader
from flask_poolguard.state.status import PoolStatus
from tests.conftest import Database
from tests.support.forking import MAY_DEADLOCK, fork_without_hooks, in_child
from tests.support.reporting import MakeShop, Shop
from tests.support.tracked import shown
from tests.support.waiting import free_port, wait_until

NAMES = [
    "size",
    "max_overflow",
    "checked_out",
    "idle",
    "overflow",
    "waiting",
    "connecting",
    "longest_held_seconds",
    "peak_checked_out",
    "checkouts",
    "connects",
    "timeouts",
    "unavailable",
    "leaks",
]


def stat(shop: Shop, bind: str = "default") -> dict[str, Any]:
    """Return a bind's figures; they must be numbers that JSON knows."""
    found = shop.guard.stat(shop.app)[bind]
    assert list(found) == NAMES
    assert all(each is None or type(each) in (int, float) for each in found.values())
    json.dumps(found, allow_nan=False)
    return found


def agree(shop: Shop) -> dict[str, Any]:
    """Check that the figures are those that another process sees."""
    found, status = stat(shop), shown(shop.app)
    now = {name: getattr(status, name) for name in NAMES}
    longest, shown_longest = (each.pop("longest_held_seconds") for each in (found, now))
    assert found == now
    assert longest == pytest.approx(shown_longest or 0.0, abs=5.0)
    return found


class TestFigures:
    @pytest.mark.every_product
    def test_are_those_of_the_report(
        self, make_shop: MakeShop, database: Database
    ) -> None:
        """After each thing that happens to connections, in any order."""
        engine = create_engine(database.url, pool_size=2, max_overflow=2)
        shop = make_shop(default=engine)
        with shop.app.app_context():
            pass
        assert stat(shop)["connects"] == 0  # and no file yet
        shop.use()
        chance = random.Random(4)
        held: list[Any] = []
        seen = set()
        for _ in range(60):
            what = chance.choice(["take", "take", "give", "invalidate", "detach"])
            if what == "take" and len(held) < 4:
                held.append(engine.connect())
            elif held:
                connection = held.pop(chance.randrange(len(held)))
                if what == "invalidate":
                    connection.invalidate()
                elif what == "detach":
                    connection.detach()
                connection.close()
            found = agree(shop)
            assert found["checked_out"] == len(held)
            seen.add((found["checked_out"], found["idle"], found["overflow"]))
        for each in held:
            each.close()
        found = agree(shop)
        assert (found["checked_out"], found["overflow"]) == (0, 0)
        assert found["peak_checked_out"] == 4
        assert found["checkouts"] > 15
        assert len(seen) > 5

    def test_tell_who_waits_and_who_got_nothing(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        engine = create_engine(
            served_database.url, pool_size=1, max_overflow=0, pool_timeout=30
        )
        shop = make_shop({"POOLGUARD_POOL_TIMEOUT": 0.5}, default=engine)
        with shop.app.app_context():
            pass
        failures: list[Exception] = []

        def want() -> None:
            try:
                engine.connect().close()
            except PoolTimeout as error:
                failures.append(error)

        with engine.connect():
            thread = threading.Thread(target=want)
            thread.start()
            wait_until(lambda: stat(shop)["waiting"] == 1)
            thread.join()
        assert len(failures) == 1
        found = agree(shop)
        assert (found["waiting"], found["timeouts"]) == (0, 1)

    def test_count_leaks_and_leave_out_what_is_kept(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        held = []
        with shop.app.app_context():
            held.append(shop.engines["default"].connect())
            assert stat(shop)["longest_held_seconds"] >= 0.0
        assert agree(shop)["leaks"] == 1
        with shop.app.app_context():
            held.append(shop.guard.keep(shop.engines["default"].connect()))
        found = stat(shop)
        assert (found["checked_out"], found["longest_held_seconds"]) == (1, 0.0)
        assert (found["leaks"], found["checkouts"]) == (1, 2)
        held[1].close()

    def test_say_how_long_the_oldest_is_held(
        self, make_shop: MakeShop, sqlite_url: URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        with shop.app.app_context(), shop.engines["default"].connect():
            (tracker,) = shop.app.extensions["poolguard"].app_tracker.trackers
            (checkout,) = tracker.out.values()
            checkout.taken_at -= 41.5
            with shop.engines["default"].connect():
                longest = stat(shop)["longest_held_seconds"]
        assert 41.5 <= longest < 60.0

    def test_count_what_the_server_refused(self, make_shop: MakeShop) -> None:
        """A server that is away does not hold the call up."""
        url = URL.create("postgresql+psycopg2", host="127.0.0.1", port=free_port())
        shop = make_shop({"POOLGUARD_CONNECT_RETRY": 0}, default=create_engine(url))
        assert stat(shop)["unavailable"] == 0
        with shop.app.app_context(), pytest.raises(Exception, match="refused"):
            shop.engines["default"].connect()
        found = stat(shop)
        assert (found["unavailable"], found["connects"]) == (1, 0)

    @pytest.mark.parametrize(
        ("pool", "known"),
        [
            (StaticPool, {"connects": 1, "leaks": 0, "waiting": 0}),
            (NullPool, {"connects": 2, "checkouts": 2, "checked_out": 0, "idle": 0}),
        ],
    )
    def test_that_are_unknown_are_none(
        self, make_shop: MakeShop, sqlite_url: URL, pool: Any, known: dict[str, int]
    ) -> None:
        """Not 0: a pool that keeps its own class does not tell all."""
        shop = make_shop(default=create_engine(sqlite_url, poolclass=pool))
        shop.use()
        shop.use()
        found = agree(shop) if pool is NullPool else stat(shop)
        assert {name: found[name] for name in known} == known
        assert (found["size"], found["overflow"]) == (None, None)
        if pool is StaticPool:
            assert found["checked_out"] is found["checkouts"] is None

    @pytest.mark.filterwarnings(MAY_DEADLOCK)
    @pytest.mark.leaves_behind("forks without hooks")
    def test_begin_anew_in_a_child(self, make_shop: MakeShop, sqlite_url: URL) -> None:
        """Also where Python runs no hook."""
        shop = make_shop(default=create_engine(sqlite_url))
        shop.use()
        found = in_child(lambda: stat(shop), fork=fork_without_hooks)
        assert (found["connects"], found["checkouts"], found["idle"]) == (0, 0, 0)
        assert agree(shop)["connects"] == 1


class TestCost:
    def test_no_server_is_asked_and_no_file_read(
        self,
        make_shop: MakeShop,
        served_database: Database,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        engine = create_engine(served_database.url)
        shop = make_shop(default=engine)
        shop.use()
        done: list[str] = []
        for name in ("connect", "checkout"):
            event.listen(engine, name, lambda *_, name=name: done.append(name))
        event.listen(engine, "before_cursor_execute", lambda *_: done.append("SQL"))

        def read(*_: object) -> None:
            done.append("file")

        with monkeypatch.context() as patch:
            patch.setattr(reader, "read_workers", read)
            patch.setattr("builtins.open", read)
            patch.setattr("os.open", read)
            found = stat(shop)
        assert done == []
        assert (found["connects"], found["idle"]) == (1, 1)

    def test_needs_no_state_file(
        self, make_shop: MakeShop, sqlite_url: URL, tmp_path: Path, caplog: Any
    ) -> None:
        """As on Windows, or in a folder that is not safe."""
        caplog.set_level(logging.CRITICAL, "flask_poolguard")
        folder = tmp_path / "open"
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
        shop = make_shop(
            {"POOLGUARD_STATE_DIR": str(folder)}, default=create_engine(sqlite_url)
        )
        shop.use()
        with shop.app.app_context(), shop.engines["default"].connect():
            found = stat(shop)
        assert list(folder.iterdir()) == []
        assert (found["checked_out"], found["idle"], found["checkouts"]) == (1, 0, 2)


class TestAsking:
    def test_has_all_binds_the_default_first(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        def make() -> Any:
            return create_engine(sqlite_url)

        shop = make_shop(audit=make(), reports=make(), default=make())
        assert list(shop.guard.stat(shop.app)) == ["default", "audit", "reports"]
        with shop.app.app_context():
            assert shop.guard.stat() == shop.guard.stat(shop.app)

    def test_looks_for_engines_before_the_first_request(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url, pool_size=7))
        assert stat(shop)["size"] == 7

    def test_an_app_without_binds_has_none(self, make_shop: MakeShop) -> None:
        shop = make_shop()
        assert shop.guard.stat(shop.app) == {}

    @pytest.mark.parametrize(
        ("ask", "message"),
        [
            (lambda: PoolGuard().stat(), r"stat\(\) needs an app context"),
            (lambda: PoolGuard().stat(Flask("bare")), "'bare' has no PoolGuard"),
        ],
        ids=["no app", "no guard"],
    )
    def test_a_mistake_is_named(self, ask: Callable[[], Any], message: str) -> None:
        with pytest.raises(SetupError, match=message):
            ask()

    def test_has_names_of_the_report(self) -> None:
        assert set(NAMES) <= set(PoolStatus.__dataclass_fields__)
