"""Findings about what could be set better."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import URL, create_engine

from flask_poolguard.databases import Loss
from flask_poolguard.pool import idle_deaths
from flask_poolguard.pool.guarded_pool import GuardedPool
from tests.support.reporting import MakeShop, found


class TestPrePing:
    def test_is_no_longer_needed(self, make_shop: MakeShop, sqlite_url: URL) -> None:
        shop = make_shop(default=create_engine(sqlite_url, pool_pre_ping=True))
        (finding,) = found(shop.report(), "pre-ping")
        assert finding.level == "info"
        assert "bind 'default'" in finding.message
        assert "Remove pool_pre_ping" in finding.fix

    def test_is_not_spoken_of_where_nobody_set_it(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        assert not found(
            make_shop(default=create_engine(sqlite_url)).report(), "pre-ping"
        )


class TestHiddenLimit:
    def test_is_named_with_the_key_to_set(
        self, make_shop: MakeShop, sqlite_url: URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]
        monkeypatch.setattr(idle_deaths, "_clock", lambda: now[0])
        engine = create_engine(sqlite_url)
        shop = make_shop(default=engine)
        shop.use()
        pool: Any = engine.pool
        assert isinstance(pool, GuardedPool)
        for idle in (301.0, 305.0, 302.0):
            assert not found(shop.report(), "idle-limit")
            pool.limits.died(idle, Loss.UNKNOWN)
            pool.limits.explain(lambda: None)
            now[0] += 100
            pool.tend()
        (finding,) = found(shop.report(), "idle-limit")
        assert finding.level == "warning"
        assert "about 301 s" in finding.message
        assert "POOLGUARD_IDLE_LIMIT = 301" in finding.fix
        assert pool.limits.recycle.seconds == pytest.approx(301 * 5 / 6)
        (worker,) = shop.report().workers
        assert "idle connections die after 301 s" in str(worker.pools[0].recycle_source)
