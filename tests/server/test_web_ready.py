"""`/ready` of `guard.blueprint()` while no connection is to be had."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_poolguard import PoolGuard
from tests.support.database_server import APP_PASSWORD
from tests.support.guarded_app import checked_out_id
from tests.support.people import people
from tests.support.proxy import TCPProxy
from tests.support.waiting import free_port, wait_until

Make = Callable[..., tuple[Flask, sa.Engine]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make apps whose pages everyone may see, each with one engine."""
    made: list[tuple[Flask, sa.Engine]] = []

    def make(url: sa.URL, **config: Any) -> tuple[Flask, sa.Engine]:
        app = Flask("shop")
        app.config.update(config)
        guard = PoolGuard(app)
        engine = sa.create_engine(url)
        guard.register(engine)
        app.register_blueprint(guard.blueprint(auth=None))
        made.append((app, engine))
        assert ready(app)[0] == 200
        return app, engine

    yield make
    for app, engine in made:
        engine.dispose()
        app.extensions["poolguard"].app_tracker.remove_file()


def ready(app: Flask) -> tuple[int, str]:
    """Return what `/ready` answers."""
    answer = app.test_client().get("/pools/ready")
    assert len(answer.text.splitlines()) == 1
    return answer.status_code, answer.text


def wait_for_503(app: Flask, reason: str) -> None:
    """Wait until the app is not ready, and for this reason."""
    found: list[tuple[int, str]] = []

    def is_unready() -> bool:
        found[:] = [ready(app)]
        return found[0][0] == 503

    wait_until(is_unready, seconds=30, what=f"503: {reason}")
    assert found[0][1].startswith("POOL CRITICAL - ")
    assert reason in found[0][1]


def checkouts(app: Flask) -> int:
    """Return what has been asked of the one pool."""
    report = json.loads(app.test_client().get("/pools/status.json").text)
    (pool,) = report["workers"][0]["pools"]
    return int(pool["checkouts"])


class TestSaturated:
    def test_it_answers_while_others_wait_and_takes_no_connection(
        self, make: Make, mariadb_url: sa.URL
    ) -> None:
        app, engine = make(
            mariadb_url,
            POOLGUARD_POOL_SIZE=1,
            POOLGUARD_MAX_OVERFLOW=0,
            POOLGUARD_POOL_TIMEOUT=60,
        )
        with people(engine, 2) as (holder, waiter):
            holder.take()
            waiting = waiter.ask()
            wait_until(lambda: "1 request waits" in ready(app)[1], seconds=30)
            wait_for_503(app, "1 of 1 out")
            assert not waiting.done()
            assert checkouts(app) == 1  # the holder's
            holder.give_back()
            waiting.result(30)
            waiter.give_back()
        wait_until(lambda: ready(app)[0] == 200, seconds=30, what="200")


class TestBlackHole:
    def test_it_answers_while_the_server_swallows_all(
        self, make: Make, mariadb_url: sa.URL
    ) -> None:
        with TCPProxy.before(mariadb_url) as proxy:
            app, engine = make(
                mariadb_url.set(port=proxy.port),
                POOLGUARD_CONNECT_TIMEOUT=20,
                POOLGUARD_POOL_TIMEOUT=60,
            )
            proxy.drop()
            with people(engine, 1) as (visitor,):
                stuck = visitor.start(engine.connect)
                wait_for_503(app, "connect")
                assert not stuck.done()
                proxy.resume()
                proxy.cut()
                visitor.do(stuck.result(60).close)


class TestLoginRefused:
    def test_it_says_so(self, make: Make, mariadb_url: sa.URL) -> None:
        app, engine = make(mariadb_url.set(password="wrong"))
        with pytest.raises(sa.exc.OperationalError):
            checked_out_id(engine)
        wait_for_503(app, "refuses the login")
        assert "wrong" not in ready(app)[1]


class TestServerGone:
    def test_it_says_so(self, make: Make, mariadb_url: sa.URL) -> None:
        app, engine = make(mariadb_url.set(port=free_port()), POOLGUARD_CONNECT_RETRY=0)
        for _ in range(3):
            with pytest.raises(sa.exc.DBAPIError):
                checked_out_id(engine)
        wait_for_503(app, "no connection")


class TestTheLivePage:
    def test_no_server_is_asked_for_it_and_no_secret_is_told(
        self, make: Make, mariadb_url: sa.URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app, _ = make(mariadb_url)
        connects: list[object] = []
        client = app.test_client()
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "connect", lambda *a: connects.append(a))
            text = client.get("/pools/status.json").text
            assert client.get("/pools/").status_code == 200
        report = json.loads(text)
        assert connects == []
        (server,) = report["servers"]
        assert server["reachable"] is None
        assert server["sessions"] is None
        assert APP_PASSWORD not in text
        assert "server-unreachable" not in [each["code"] for each in report["findings"]]
