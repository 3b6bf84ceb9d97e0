"""Who waits for a server that does not answer, and what the workers say of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError

from flask_poolguard import PoolTimeout
from flask_poolguard.report import PoolStatus
from tests.conftest import Database
from tests.support.desk import DeskServer, environment, finding, pool_of, status
from tests.support.monitoring import check
from tests.support.proxy import TCPProxy
from tests.support.reporting import MakeShop, Shop, found, pool_in
from tests.support.waiting import wait_until

pytestmark = pytest.mark.every_product


@pytest.fixture
def proxy(driver_database: Database) -> Iterator[TCPProxy]:
    """Return what stands before the server."""
    with TCPProxy.before(driver_database.url) as proxy:
        yield proxy


@pytest.fixture
def shop(make_shop: MakeShop, driver_database: Database, proxy: TCPProxy) -> Shop:
    """Return an app that reaches its server through the proxy."""
    url = driver_database.url.set(host=proxy.host, port=proxy.port)
    config = {
        "POOLGUARD_POOL_TIMEOUT": 5,
        "POOLGUARD_CONNECT_RETRY": 0.5,
        "POOLGUARD_CONNECT_TIMEOUT": 3,
    }
    return make_shop(config, default=create_engine(url))


@contextmanager
def users(shop: Shop, count: int) -> Iterator[list[BaseException]]:
    """Let threads use the shop; give what they raise."""
    errors: list[BaseException] = []

    def use() -> None:
        try:
            shop.use()
        except (DBAPIError, PoolTimeout) as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield errors
    finally:
        for thread in threads:
            thread.join(60)


def figures(shop: Shop) -> PoolStatus:
    """Return the pool's figures after a round of the housekeeper."""
    for tracker in shop.app.extensions["poolguard"].app_tracker.trackers:
        tracker.tend()
    return pool_in(shop.report())


class TestConnecting:
    def test_is_shown_while_it_hangs_and_counted_when_it_fails(
        self, shop: Shop, proxy: TCPProxy
    ) -> None:
        shop.use()
        shop.engines["default"].dispose()
        proxy.drop()
        with users(shop, 3) as errors:
            wait_until(lambda: figures(shop).connecting == 3, what="three that connect")
            seen = figures(shop)
            assert (seen.waiting, seen.checked_out) == (0, 0)
            assert seen.oldest_connect_seconds is not None
            assert seen.unserved == 3
        assert len(errors) == 3
        after = figures(shop)
        assert (after.connecting, after.oldest_connect_seconds) == (0, None)
        assert after.longest_connect_seconds is not None
        assert after.longest_connect_seconds >= seen.oldest_connect_seconds
        assert (after.unavailable, after.timeouts) == (3, 0)
        assert after.obstacle == "away"
        (critical,) = found(shop.report(), "unavailable")
        assert critical.level == "critical"
        assert "Bind 'default' gets no connection from its server: worker" in (
            critical.message
        )
        assert "3 of 4 checkouts of bind 'default' failed" in critical.message

    def test_begins_when_the_wait_for_another_connection_ends(self, shop: Shop) -> None:
        """What waits for a connection that comes back connects for no time."""
        shop.use()
        engine = shop.engines["default"]
        with ExitStack() as stack:
            while figures(shop).checked_out != figures(shop).limit:
                stack.enter_context(engine.connect())
            with users(shop, 1) as errors:
                wait_until(
                    lambda: (figures(shop).oldest_wait_seconds or 0) > 1.5,
                    what="one that waits for long",
                )
                stack.close()
        assert errors == []
        assert (figures(shop).longest_connect_seconds or 0) < 1

    def test_that_hangs_in_a_question_is_shown(
        self, shop: Shop, proxy: TCPProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An idle connection is tested before it is handed out."""
        shop.use()
        pool = shop.engines["default"].pool
        now = pool.clock()  # type: ignore[attr-defined] # a GuardedPool
        monkeypatch.setattr(type(pool), "clock", staticmethod(lambda: now + 60))
        proxy.drop()
        with users(shop, 1):
            wait_until(lambda: figures(shop).connecting == 1, what="the question")

    def test_that_succeeds_leaves_nothing(self, shop: Shop, proxy: TCPProxy) -> None:
        shop.use()
        shop.engines["default"].dispose()
        proxy.drop()
        with users(shop, 2) as errors:
            wait_until(lambda: figures(shop).connecting == 2, what="two that connect")
            wait_until(lambda: figures(shop).obstacle == "away", what="the first error")
            proxy.resume()
        shop.use()
        after = figures(shop)
        assert (after.connecting, after.obstacle) == (0, None)
        assert after.unavailable == len(errors)

    def test_counts_among_what_was_wanted_at_once(
        self, shop: Shop, proxy: TCPProxy
    ) -> None:
        shop.use()
        shop.engines["default"].dispose()
        proxy.drop()
        with users(shop, 3):
            wait_until(lambda: figures(shop).connecting == 3, what="three that connect")
            proxy.resume()
        assert max(figures(shop).usage.demand) == 3

    def test_that_somebody_waits_for_in_vain_is_no_timeout(
        self, make_shop: MakeShop, driver_database: Database, proxy: TCPProxy
    ) -> None:
        """The pool is not too small: it gets nothing."""
        url = driver_database.url.set(host=proxy.host, port=proxy.port)
        config = {
            "POOLGUARD_POOL_SIZE": 1,
            "POOLGUARD_MAX_OVERFLOW": 0,
            "POOLGUARD_POOL_TIMEOUT": 4,
        }
        shop = make_shop(config, default=create_engine(url))
        proxy.close()
        with users(shop, 3) as errors:
            pass
        assert len(errors) == 3
        assert (figures(shop).timeouts, figures(shop).unavailable) == (0, 3)


@pytest.mark.process
class TestUnderGunicorn:
    def test_a_server_that_hangs_is_no_quiet_worker(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        with TCPProxy.before(served_database.url) as proxy:
            url = served_database.url.set(host=proxy.host, port=proxy.port)
            env = environment(
                url,
                FLASK_POOLGUARD_POOL_TIMEOUT="25",
                FLASK_POOLGUARD_CONNECT_TIMEOUT="25",
            )
            with DeskServer(tmp_path, env, threads=4) as server:
                (pid,) = server.wake("/pid").worker_pids()
                proxy.drop()
                with server.in_background("/query"), server.in_background("/query"):
                    wait_until(
                        lambda: pool_of(status(env), pid)["connecting"] == 2,
                        seconds=30,
                        what="two that connect",
                    )
                    wait_until(
                        lambda: check(env).state in ("WARNING", "CRITICAL"),
                        seconds=30,
                        what="the check to see it",
                    )
                    seen = check(env)
                    critical = finding(status(env), "unavailable")
                    proxy.resume()
        assert critical["level"] == "critical"
        assert f"worker {pid}: " in critical["message"]
        assert seen.data["connecting"] == 2
        assert "2 requests in the middle of connecting for" in seen.text

    def test_a_server_that_is_gone_is_critical_for_a_check(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        with TCPProxy.before(served_database.url) as proxy:
            url = served_database.url.set(host=proxy.host, port=proxy.port)
            env = environment(url, FLASK_POOLGUARD_CONNECT_RETRY="0.2")
            with DeskServer(tmp_path, env) as server:
                (pid,) = server.wake("/pid").worker_pids()
                assert check(env).state == "OK"
                proxy.close()
                assert server.get("/query")[0] == 503
                wait_until(
                    lambda: check(env).state == "CRITICAL",
                    seconds=30,
                    what="the check to see it",
                )
                seen = check(env)
        assert pid
        assert "bind default gets no connection for " in seen.text
        assert "its server does not answer" in seen.text
        assert "1 of 1 checkouts failed at " in seen.text
        assert seen.data["unavailable"] == 1
