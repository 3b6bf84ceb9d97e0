"""A server that is away for a while: who tries to connect, how often, how long."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_poolguard.errors import DatabaseUnavailable
from tests.conftest import Database
from tests.support.drivers import POSTGRESQL_DRIVERS, REQUIRED_DRIVERS
from tests.support.guarded_app import checked_out_id, guarded_engine, guarded_pool
from tests.support.proxy import TCPProxy
from tests.support.servers import APP_PASSWORD
from tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.every_product

WAYS: dict[str, Callable[[sa.Engine], Any]] = {
    "connect": lambda engine: engine.connect(),
    "session": lambda engine: Session(engine).scalar(sa.text("SELECT 1")),
    "raw": lambda engine: engine.raw_connection(),
}
# As many as a pool of the default size, and its overflow.
LIMIT = 15


class Doorman(TCPProxy):
    """A proxy that notes who knocks, and turns everybody away while it is closed."""

    def __init__(self, host: str, port: int) -> None:
        self.is_closed = False
        self.knocks: list[float] = []
        self.turned_away: list[float] = []
        super().__init__(host, port)

    def _serve(self, client: socket.socket) -> None:
        self.knocks.append(time.monotonic())
        if self.is_closed:
            self.turned_away.append(time.monotonic())
            self._end(client)
        else:
            super()._serve(client)


class StartingServer(Doorman):
    """What a PostgreSQL server says while it starts."""

    def _serve(self, client: socket.socket) -> None:
        if not self.is_closed:
            super()._serve(client)
            return
        self.knocks.append(time.monotonic())
        fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
        client.recv(1024)
        client.sendall(b"E" + struct.pack(">I", len(fields) + 4) + fields)
        self._end(client)


@pytest.fixture
def doorman(driver_url: sa.URL) -> Iterator[Doorman]:
    """Stand before the database."""
    with Doorman.before(driver_url) as doorman:
        yield doorman


def busiest_second(moments: list[float]) -> int:
    """Return the largest number of moments within one second."""
    return max(
        (sum(0 <= each - first < 1 for each in moments) for first in moments),
        default=0,
    )


class Crowd:
    """Threads that send one request after the other, as a busy app's do.

    :ivar failed: how long those that failed took.
    """

    def __init__(self, engine: sa.Engine, threads: int) -> None:
        self.served = 0
        self.failed: list[float] = []
        self.errors: Counter[str] = Counter()
        self._engine = engine
        self._over = threading.Event()
        self._executor = ThreadPoolExecutor(threads)
        self._done = [self._executor.submit(self._work) for _ in range(threads)]

    def _work(self) -> None:
        while not self._over.wait(0.01):
            began = time.monotonic()
            try:
                with self._engine.connect() as connection:
                    connection.execute(sa.text("SELECT 1"))
            except sa.exc.SQLAlchemyError as error:
                self.failed.append(time.monotonic() - began)
                self.errors[type(error).__name__] += 1
            else:
                self.served += 1

    def go_home(self) -> None:
        self._over.set()
        for each in self._done:
            each.result(60)
        self._executor.shutdown()


def outage(engine: sa.Engine, doorman: Doorman, seconds: float) -> dict[str, Any]:
    """Close the door on 64 threads for some time; return what was measured."""
    crowd = Crowd(engine, 64)
    try:
        wait_until(lambda: crowd.served > 200, what="requests")
        before = len(doorman.knocks)
        doorman.is_closed = True
        doorman.cut()
        time.sleep(seconds)
        doorman.is_closed = False
        away, served = len(doorman.knocks), crowd.served
        wait_until(lambda: crowd.served > served + 300, what="requests again")
    finally:
        crowd.go_home()
    first = doorman.turned_away[0]
    return {
        "turned away": len(doorman.turned_away),
        "busiest second, after the first": busiest_second(
            [each for each in doorman.turned_away if each > first + 1]
        ),
        "busiest second": busiest_second(doorman.turned_away),
        "knocks in the second of the return": sum(
            doorman.knocks[away] <= each < doorman.knocks[away] + 1
            for each in doorman.knocks[away:]
        ),
        "knocks before": before,
        "errors": dict(crowd.errors),
        "longest failure": max(crowd.failed, default=0),
    }


class TestManyThreads:
    @pytest.mark.parametrize("driver_url", REQUIRED_DRIVERS[:2], indirect=True)
    def test_one_of_them_tries_and_nobody_storms_the_door(
        self, driver_url: sa.URL, doorman: Doorman
    ) -> None:
        # Without overflow: what is closed and opened again while few wait is no storm.
        config = {"POOLGUARD_POOL_SIZE": LIMIT, "POOLGUARD_MAX_OVERFLOW": 0}
        with guarded_engine(driver_url.set(port=doorman.port), **config) as engine:
            found = outage(engine, doorman, 6)
            print(found)
            assert found["busiest second, after the first"] <= 10
            # At first each connection that was lost is replaced by its own thread.
            assert found["busiest second"] <= LIMIT + 10
            assert found["knocks in the second of the return"] <= LIMIT
            assert set(found["errors"]) <= {"DatabaseUnavailable", "OperationalError"}
            assert found["longest failure"] < 15
            pool = guarded_pool(engine)
            assert (pool.checkedout(), pool.waiting) == (0, 0)

    def test_without_retries_they_do_not_storm_it_either(
        self, mariadb_url: sa.URL
    ) -> None:
        with Doorman.before(mariadb_url) as doorman:
            config = {"POOLGUARD_CONNECT_RETRY": 0}
            with guarded_engine(mariadb_url.set(port=doorman.port), **config) as engine:
                found = outage(engine, doorman, 2)
                print(found)
                assert found["busiest second, after the first"] <= 30
                assert found["longest failure"] < 5


class TestOne:
    def test_a_short_outage_is_not_noticed(
        self, driver_url: sa.URL, doorman: Doorman
    ) -> None:
        with guarded_engine(driver_url.set(port=doorman.port)) as engine:
            first = checked_out_id(engine)
            doorman.is_closed = True
            doorman.cut()
            with ThreadPoolExecutor(1) as executor:
                second = executor.submit(checked_out_id, engine)
                wait_until(lambda: len(doorman.turned_away) > 2, what="attempts")
                doorman.is_closed = False
                assert second.result(10) != first

    @pytest.mark.parametrize("way", WAYS)
    def test_the_error_says_since_when_how_often_and_when_last(
        self, way: str, driver_url: sa.URL
    ) -> None:
        closed = driver_url.set(port=free_port())
        with guarded_engine(closed, POOLGUARD_CONNECT_RETRY=0.3) as engine:
            expected: type[Exception] = DatabaseUnavailable
            if way == "raw":
                expected = engine.dialect.loaded_dbapi.OperationalError
            with pytest.raises(expected) as caught:
                WAYS[way](engine)
        text = str(caught.value)
        since = r"no connection since \d\d:\d\d:\d\d; tried (once|\d+ times)"
        assert re.search(since, text)
        assert re.search(r"last at \d\d:\d\d:\d\d\.\d{3}\b", text)
        assert APP_PASSWORD not in text
        assert APP_PASSWORD not in repr(caught.value)
        if way != "raw":
            assert isinstance(caught.value, sa.exc.OperationalError)
            driver = engine.dialect.loaded_dbapi
            assert isinstance(caught.value.orig, driver.OperationalError)

    def test_a_wrong_password_is_not_tried_again(
        self, driver_url: sa.URL, doorman: Doorman
    ) -> None:
        wrong = driver_url.set(port=doorman.port, password="wrong")
        with guarded_engine(wrong) as engine:
            with pytest.raises(sa.exc.OperationalError) as caught:
                engine.connect()
            assert not isinstance(caught.value, DatabaseUnavailable)
            # libpq asks without TLS again if the first refused, on its own account.
            most = 2 if engine.dialect.name == "postgresql" else 1
            assert 1 <= len(doorman.knocks) <= most
            assert guarded_pool(engine).checkedout() == 0

    def test_without_retries_it_is_tried_once(
        self, driver_url: sa.URL, doorman: Doorman
    ) -> None:
        config = {"POOLGUARD_CONNECT_RETRY": 0}
        doorman.is_closed = True
        with guarded_engine(driver_url.set(port=doorman.port), **config) as engine:
            with pytest.raises(DatabaseUnavailable, match="tried once"):
                engine.connect()
            doorman.is_closed = False
            time.sleep(0.1)
            checked_out_id(engine)

    def test_the_pools_own_timeout_is_the_limit(self, driver_url: sa.URL) -> None:
        config = {"POOLGUARD_POOL_TIMEOUT": 0.2, "POOLGUARD_CONNECT_RETRY": 60}
        with guarded_engine(driver_url.set(port=free_port()), **config) as engine:
            began = time.monotonic()
            with pytest.raises(DatabaseUnavailable):
                engine.connect()
            assert time.monotonic() - began < 10


@pytest.mark.usefixtures("own_server")
class TestServers:
    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_a_restart_between_two_requests_is_not_noticed(
        self, end: str, served_database: Database
    ) -> None:
        server = served_database.running_server
        with guarded_engine(served_database.url) as engine:
            with engine.connect(), engine.connect():
                pass
            getattr(server, end)()
            server.start()
            for _ in range(3):
                checked_out_id(engine)

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_a_request_during_a_restart_waits_for_its_end(
        self, end: str, served_database: Database
    ) -> None:
        server = served_database.running_server
        with (
            guarded_engine(served_database.url, POOLGUARD_CONNECT_RETRY=25) as engine,
            ThreadPoolExecutor(1) as executor,
        ):
            checked_out_id(engine)
            getattr(server, end)()
            # PostgreSQL's killed parent leaves sessions behind for a moment.
            engine.dispose()
            waiting = executor.submit(checked_out_id, engine)
            wait_until(lambda: guarded_pool(engine)._breaker.outage, what="trouble")
            server.start()
            assert waiting.result(30)

    @pytest.mark.parametrize("driver_url", POSTGRESQL_DRIVERS, indirect=True)
    def test_a_server_that_starts_up_is_waited_for(self, driver_url: sa.URL) -> None:
        with (
            StartingServer.before(driver_url) as server,
            guarded_engine(
                driver_url.set(port=server.port).update_query_dict(
                    {"sslmode": "disable"}
                )
            ) as engine,
            ThreadPoolExecutor(1) as executor,
        ):
            server.is_closed = True
            waiting = executor.submit(checked_out_id, engine)
            wait_until(lambda: len(server.knocks) > 2, what="attempts")
            assert "starting up" in str(guarded_pool(engine)._breaker.outage)
            server.is_closed = False
            assert waiting.result(10)
