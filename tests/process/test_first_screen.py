"""What the first ten lines of each command say, in the states that apps get into.

In each the true cause is named by every command, with the line that runs now where
there is one; and where all is well nothing above a hint is said.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import URL, NullPool, create_engine

from tests.conftest import started
from tests.support import desk, products
from tests.support.desk import DeskServer, environment, suspend
from tests.support.gunicorn import is_gunicorn
from tests.support.monitoring import check
from tests.support.mysql9 import MySQLServer
from tests.support.proxy import TCPProxy
from tests.support.reporting import sessions
from tests.support.servers import (
    DatabaseServer,
    MariaDBServer,
    PostgreSQLServer,
)
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.process,
    pytest.mark.every_product,
    pytest.mark.timeout(300),
]

# Each of them begins with the verdict.
COMMANDS = (
    ("status",),
    ("holders",),
    ("top", "--count=1"),
    ("doctor", "--seconds=0"),
    ("history",),
)
WIDTH = 80
MAXIMUM = 24
RETRY = "FLASK_POOLGUARD_CONNECT_RETRY"
# So that what the workers may open fits in.
SMALL = {"FLASK_POOLGUARD_POOL_SIZE": "2", "FLASK_POOLGUARD_MAX_OVERFLOW": "2"}
ONE = {"FLASK_POOLGUARD_POOL_SIZE": "1", "FLASK_POOLGUARD_MAX_OVERFLOW": "0"}
PATIENT = {**ONE, "FLASK_POOLGUARD_POOL_TIMEOUT": "100"}

Env = dict[str, str]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each state on MariaDB and PostgreSQL, and on MySQL 9 if all are wanted."""
    if "server" in metafunc.fixturenames:
        servers: list[type[DatabaseServer]] = [MariaDBServer, PostgreSQLServer]
        if products.are_all_wanted(metafunc.config):
            servers.append(MySQLServer)
        metafunc.parametrize("server", servers, indirect=True, scope="module")


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    """Run a server that takes few connections."""
    if request.param is MySQLServer:
        request.getfixturevalue("shared_mysql9")  # or a loud skip
    yield from started(lambda: request.param(max_connections=MAXIMUM))


@pytest.fixture
def url(server: DatabaseServer) -> Iterator[URL]:
    """Return the URL of a fresh database on it."""
    name = server.create_database()
    yield server.url(database=name)
    if not server.running:
        server.start()
    server.drop_database(name)


@dataclass(frozen=True)
class Scene:
    """What a state is made of."""

    folder: Path
    url: URL
    server: DatabaseServer

    def desk(
        self,
        env: Env | None = None,
        *,
        workers: int = 1,
        threads: int = 4,
        url: URL | None = None,
        arguments: tuple[str, ...] = (),
    ) -> DeskServer:
        """Return the app under gunicorn, not started yet."""
        return DeskServer(
            self.folder,
            environment(url or self.url, **{**SMALL, **(env or {})}),
            workers=workers,
            threads=threads,
            arguments=arguments,
        )

    @property
    def is_postgresql(self) -> bool:
        return isinstance(self.server, PostgreSQLServer)


@pytest.fixture
def scene(tmp_path: Path, url: URL, server: DatabaseServer) -> Scene:
    """Return what a state is made of."""
    return Scene(tmp_path, url, server)


def wait_for_alarm(server: DeskServer, what: str) -> None:
    """Wait until `check` says that requests fail, or soon will."""
    wait_until(lambda: check(server.env).state == "CRITICAL", seconds=60, what=what)


def wait_for_count(server: DeskServer, figure: str, number: int) -> None:
    """Wait until all that was counted is shown, which on a busy machine takes longer
    than the next command.
    """
    (pid,) = server.worker_pids()
    wait_until(
        lambda: desk.pool_of(desk.status(server.env), pid)[figure] == number,
        seconds=30,
        what=f"{number} {figure}",
    )


State = Callable[[Scene], AbstractContextManager[Env]]


@contextmanager
def idle(scene: Scene) -> Iterator[Env]:
    with scene.desk(workers=2) as server:
        server.wake()
        yield server.env


@contextmanager
def load(scene: Scene) -> Iterator[Env]:
    with scene.desk(ONE, workers=2) as server:
        server.wake()
        is_over = threading.Event()

        def use() -> None:
            while not is_over.is_set():
                server.get("/query")
                time.sleep(0.05)  # so that the commands get their turn, too

        # Two, so that none waits for a second while the machine has other work.
        threads = [threading.Thread(target=use) for _ in range(2)]
        for each in threads:
            each.start()
        try:
            yield server.env
        finally:
            is_over.set()
            for each in threads:
                each.join(60)


@contextmanager
def killed(scene: Scene) -> Iterator[Env]:
    """One of two workers is gone; gunicorn starts another."""
    with scene.desk(workers=2) as server:
        first = min(server.wake().worker_pids())
        assert is_gunicorn(first), first
        os.kill(first, signal.SIGKILL)
        wait_until(
            lambda: len(server.worker_pids() - {first}) == 2, seconds=30, what="another"
        )
        server.wake()
        yield server.env


@contextmanager
def full_but_served(scene: Scene) -> Iterator[Env]:
    """The pool is at its limit, with a connection for each thread."""
    lock = (
        "SELECT pg_advisory_lock(1)"
        if scene.is_postgresql
        else "SELECT GET_LOCK('served', 100)"
    )
    engine = create_engine(scene.url, poolclass=NullPool)
    # A sync worker; gunicorn replaces it if a request takes longer than that.
    with scene.desk(ONE, threads=1, arguments=("--timeout=300",)) as server:
        (pid,) = server.wake().worker_pids()
        with ExitStack() as ours:
            ours.enter_context(engine.connect()).exec_driver_sql(lock)
            with server.in_background(f"/run?sql={quote(lock)}"):
                wait_until(
                    lambda: desk.pool_of(desk.status(server.env), pid)["checked_out"],
                    seconds=30,
                    what="the query",
                )
                yield server.env
                ours.close()


@contextmanager
def leaking(scene: Scene) -> Iterator[Env]:
    with scene.desk() as server:
        server.get("/leak")
        yield server.env


@contextmanager
def saturated(scene: Scene) -> Iterator[Env]:
    with scene.desk(PATIENT) as server:
        server.hold(1)
        with server.in_background("/wait"):
            wait_for_alarm(server, "a wait of five seconds")
            yield server.env


@contextmanager
def just_after_timeouts(scene: Scene) -> Iterator[Env]:
    with scene.desk({**ONE, "FLASK_POOLGUARD_POOL_TIMEOUT": "0.1"}) as server:
        server.hold(1)
        for _ in range(3):
            server.get("/wait")
        server.let_go()
        wait_for_count(server, "timeouts", 3)
        yield server.env


@contextmanager
def stopped_server(scene: Scene) -> Iterator[Env]:
    with scene.desk({RETRY: "0.2"}) as server:
        server.wake()
        scene.server.stop()
        for _ in range(3):
            server.get("/query")
        wait_for_count(server, "unavailable", 3)
        yield server.env


@contextmanager
def black_hole(scene: Scene) -> Iterator[Env]:
    with TCPProxy.before(scene.url) as proxy:
        url = scene.url.set(host=proxy.host, port=proxy.port)
        with scene.desk(url=url) as server:
            server.wake("/pid")
            proxy.drop()
            with server.in_background("/query"):
                wait_for_alarm(server, "a connect that hangs")
                yield server.env
                proxy.resume()


@contextmanager
def taken(url: URL, count: int) -> Iterator[Callable[[], None]]:
    """Hold so many sessions; what it yields ends them before their time."""
    with ExitStack() as stack:
        stack.enter_context(sessions(url, count))
        yield stack.close


@contextmanager
def full_server(scene: Scene) -> Iterator[Env]:
    with scene.desk({**PATIENT, RETRY: "100"}) as server:
        server.wake("/pid")
        # Some of the connections are for superusers only.
        free = MAXIMUM - (3 if scene.is_postgresql else 0)
        with taken(scene.url, free) as give_back, server.in_background("/query"):
            wait_for_alarm(server, "a connect that is refused")
            yield server.env
            give_back()


@contextmanager
def full_account(scene: Scene) -> Iterator[Env]:
    """The user, or the role, has as many connections as it may."""
    limit = (
        "ALTER ROLE app CONNECTION LIMIT {}"
        if scene.is_postgresql
        else "ALTER USER app WITH MAX_USER_CONNECTIONS {}"
    )
    with scene.desk({RETRY: "100"}) as server:
        server.wake("/pid")
        scene.server.execute(limit.format(2))
        try:
            with taken(scene.url, 2) as give_back, server.in_background("/query"):
                wait_for_alarm(server, "a connect that is refused")
                yield server.env
                give_back()
        finally:
            scene.server.execute(limit.format(-1 if scene.is_postgresql else 0))


@contextmanager
def password_changed(scene: Scene) -> Iterator[Env]:
    """The app is told another password than the server knows."""
    url = scene.url.set(password="not-any-more")
    with scene.desk(url=url) as server:
        server.wake("/pid")
        for _ in range(3):
            server.get("/query")
        wait_for_count(server, "unavailable", 3)
        yield server.env


@contextmanager
def recycled_too_late(scene: Scene) -> Iterator[Env]:
    """The server ends idle sessions long before the app would replace them."""
    if scene.is_postgresql:
        limit = "ALTER ROLE app SET idle_session_timeout = '{}s'"
    else:
        limit = "SET GLOBAL wait_timeout = {}"
    scene.server.execute(limit.format(5))
    try:
        with scene.desk({"POOL_RECYCLE": "3600"}) as server:
            server.wake()
            yield server.env
    finally:
        scene.server.execute(limit.format(0 if scene.is_postgresql else 28800))


@contextmanager
def over_budget(scene: Scene) -> Iterator[Env]:
    """The workers may open more than the server takes, and no request has come yet."""
    sizes = {
        "FLASK_POOLGUARD_POOL_SIZE": "10",
        "FLASK_POOLGUARD_MAX_OVERFLOW": "5",
    }
    with scene.desk(sizes, workers=3, threads=10) as server:
        yield server.env


@contextmanager
def deadlocked(scene: Scene) -> Iterator[Env]:
    """Each of two requests holds a connection, and wants another."""
    two = {**ONE, "FLASK_POOLGUARD_POOL_SIZE": "2"}
    with scene.desk(two) as server:
        server.hold(2, view="nest")
        server.let_go()
        wait_for_count(server, "deadlocks", 1)
        yield server.env


@contextmanager
def read_only(scene: Scene) -> Iterator[Env]:
    """The server may not write any more, as a primary that was made a replica."""
    if scene.is_postgresql:
        setting = f"ALTER DATABASE {scene.url.database} SET"
        setting += " default_transaction_read_only = {}"
    else:
        setting = "SET GLOBAL read_only = {}"
    with scene.desk() as server:
        scene.server.execute(setting.format("ON"))
        try:
            for number in range(3):
                server.get(f"/run?sql=CREATE+TABLE+t{number}+(id+INTEGER)")
            yield server.env
        finally:
            scene.server.execute(setting.format("OFF"))


@contextmanager
def stopped_worker(scene: Scene) -> Iterator[Env]:
    # Otherwise gunicorn replaces it after 30 s.
    with scene.desk(workers=2, arguments=("--timeout=300",)) as server:
        (pid,) = server.wake().hold(1)
        wait_until(
            lambda: bool(
                desk.pool_of(desk.status(server.env), pid)["holders"][0]["now"]
            ),
            seconds=30,
            what="the line that runs",
        )
        suspend(pid)
        try:
            yield server.env
        finally:
            os.kill(pid, signal.SIGCONT)


@dataclass(frozen=True)
class Expected:
    """What is to be read.

    :ivar cause: in the first ten lines of every command.
    :ivar of_check: the state of `check`, and what it says.
    :ivar setting: named by `doctor`, anywhere.
    """

    level: str
    cause: str
    of_check: tuple[str, str]
    setting: str = ""


NOW = r"now at apps/desk\.py:\d+ in hold"
ILL: dict[str, tuple[State, Expected]] = {
    "leak": (
        leaking,
        Expected(
            "WARNING",
            r"leak did not give back 1 connection taken at apps/desk\.py:\d+",
            ("WARNING", r"leak did not give back 1 connection"),
            "with block",
        ),
    ),
    "saturated": (
        saturated,
        Expected(
            "CRITICAL",
            rf"pool default of worker \d+ has 1 of 1 out, 1 request waits.*{NOW}",
            ("CRITICAL", NOW),
            "FLASK_POOLGUARD_POOL_SIZE|POOLGUARD_POOL_SIZE",
        ),
    ),
    "just after timeouts": (
        just_after_timeouts,
        Expected(
            "CRITICAL|WARNING",
            r"3 of \d checkouts of bind default got no connection in time"
            r" (at|between) \d\d:\d\d:\d\d",
            ("CRITICAL|WARNING", r"3 of \d checkouts"),
            "POOLGUARD_POOL_SIZE",
        ),
    ),
    "server stopped": (
        stopped_server,
        Expected(
            "CRITICAL",
            r"does not answer|cannot be reached",
            ("CRITICAL", r"its server does not answer .*3 of \d checkouts failed"),
            "Check that it runs",
        ),
    ),
    "black hole": (
        black_hole,
        Expected(
            "CRITICAL",
            # Until the connect is given up, and after that.
            r"bind default gets no connection",
            ("CRITICAL", r"1 request in the middle of connecting|does not answer"),
        ),
    ),
    "too many for the server": (
        full_server,
        Expected(
            "CRITICAL",
            r"server full",
            ("CRITICAL", r"its server is full"),
            "POOLGUARD_MAX_OVERFLOW",
        ),
    ),
    "too many for the account": (
        full_account,
        Expected(
            "CRITICAL",
            r"server full",
            ("CRITICAL", r"its server is full"),
            "POOLGUARD_MAX_OVERFLOW",
        ),
    ),
    "password changed": (
        password_changed,
        Expected(
            "CRITICAL",
            r"refuses the login",
            ("CRITICAL", r"its server refuses the login .*3 of 3 checkouts failed"),
            "password",
        ),
    ),
    "recycled too late": (
        recycled_too_late,
        Expected(
            "WARNING",
            r"SQLALCHEMY_ENGINE_OPTIONS\['pool_recycle'\] = 3600 s of bind 'default' is"
            r" not below the server's idle limit of 5 s",
            ("WARNING", r"= 3600 s .* idle limit of 5 s"),
            r"Remove SQLALCHEMY_ENGINE_OPTIONS\['pool_recycle'\]",
        ),
    ),
    "over the budget": (
        over_budget,
        Expected(
            "WARNING",
            rf"3 workers may open 45 connections.*"
            rf" allows (21 \(24 less 3 reserved\)|{MAXIMUM})",
            # It asks no server, so it does not know what one takes.
            ("OK", r"3 live workers"),
            "POOLGUARD_MAX_OVERFLOW",
        ),
    ),
    "deadlock": (
        deadlocked,
        Expected(
            "WARNING",
            r"1 request failed in a deadlock at \d\d:\d\d:\d\d: .*"
            r"at apps/desk\.py:\d+ in nest",
            ("WARNING", r"1 request failed in a deadlock"),
            "POOLGUARD_POOL_SIZE",
        ),
    ),
    "read-only": (
        read_only,
        Expected(
            "CRITICAL",
            r"server of bind default is read-only: it refused 3 writes"
            r" (at|between) \d\d:\d\d:\d\d",
            ("CRITICAL", r"server of bind default is read-only"),
            r"SELECT pg_is_in_recovery\(\)",
        ),
    ),
    "worker stopped": (
        stopped_worker,
        Expected(
            "CRITICAL",
            rf"worker \d+ is stopped by a signal or a debugger, with 1 connection out;"
            rf" before that, it is in hold, {NOW}",
            ("CRITICAL", r"worker \d+ is stopped"),
            "kill -CONT",
        ),
    ),
}
WELL: dict[str, State] = {
    "idle": idle,
    "load": load,
    "killed": killed,
    "full but served": full_but_served,
}


def first_screen(env: Env, *command: str) -> str:
    """Return the first ten lines of a command, as one."""
    done = desk.ask({**env, "COLUMNS": str(WIDTH)}, *command)
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= WIDTH, done.stdout
    return re.sub(r"\s+", " ", " ".join(lines[:10]))


@pytest.mark.parametrize("name", ILL)
def test_names_the_true_cause(scene: Scene, name: str) -> None:
    state, expected = ILL[name]
    with state(scene) as env:
        seen = {command[0]: first_screen(env, *command) for command in COMMANDS}
        plugin = check(env)
        doctor = desk.ask(env, "doctor", "--seconds=0")
    for text in seen.values():
        assert re.match(rf"({expected.level}) ", text), seen
        assert re.search(expected.cause, text), seen
    assert re.fullmatch(expected.of_check[0], plugin.state), plugin.line
    assert re.search(expected.of_check[1], plugin.text), plugin.line
    assert re.search(expected.setting, " ".join(doctor.stdout.split()))
    # One function judges: the exit codes agree.
    assert (doctor.returncode == 1) == (plugin.state == "CRITICAL")


@pytest.mark.parametrize("name", WELL)
def test_says_that_all_is_well(scene: Scene, name: str) -> None:
    with WELL[name](scene) as env:
        seen = {command[0]: first_screen(env, *command) for command in COMMANDS}
        plugin = check(env)
        report = desk.status(env)
    for text in seen.values():
        assert text.startswith("OK "), seen
    assert plugin.state == "OK", plugin.line
    assert {each["level"] for each in report["findings"]} <= {"info"}, report[
        "findings"
    ]
