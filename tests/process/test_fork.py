"""A forked child gets connections of its own, and the parent's stay the parent's."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import event
from sqlalchemy.pool import NullPool, QueuePool, SingletonThreadPool, StaticPool

from flask_poolguard import PoolGuard, SetupError
from flask_poolguard.pool import GuardedPool, housekeeper
from flask_poolguard.pool.housekeeper import Housekeeper
from flask_poolguard.state.locked_file import is_locked
from tests.conftest import Database
from tests.support.forking import MAY_DEADLOCK, fork_without_hooks, in_child
from tests.support.guarded_app import (
    checked_out_id,
    engine_of,
    guarded_engine,
    guarded_pool,
    make_app,
    session_id,
)
from tests.support.gunicorn import GunicornApp
from tests.support.people import SECONDS
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.process, pytest.mark.filterwarnings(MAY_DEADLOCK)]

REPOSITORY = Path(__file__).parents[2]
FORKS = {"os.fork": os.fork, "without hooks": fork_without_hooks}

Fork = Callable[[], int]


@pytest.fixture
def forked_database(driver_database: Database) -> Database:
    """Run the test with each driver in turn, on a fresh database with one table."""
    engine = sa.create_engine(driver_database.url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE books (title VARCHAR(50))"))
    engine.dispose()
    return driver_database


@pytest.fixture(params=FORKS)
def fork(request: pytest.FixtureRequest) -> Fork:
    """Fork with Python's hooks and without."""
    return FORKS[request.param]


def titles(database: Database) -> list[str]:
    """Return the books that are committed."""
    engine = sa.create_engine(database.url, poolclass=NullPool)
    with engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT title FROM books")))


def add_book(connection: sa.Connection, title: str) -> None:
    """Add a book without committing it."""
    connection.execute(sa.text("INSERT INTO books VALUES (:title)"), {"title": title})


class TestIdleConnections:
    def test_the_child_gets_one_of_its_own_and_the_parents_goes_on_working(
        self, forked_database: Database, fork: Fork
    ) -> None:
        with guarded_engine(forked_database.url) as engine:
            with engine.connect() as one, engine.connect() as other:
                ours = {session_id(one), session_id(other)}

            def work() -> set[int]:
                with engine.connect() as one, engine.connect() as other:
                    return {session_id(one), session_id(other)}

            theirs = in_child(work, fork=fork)
            assert len(theirs) == 2
            assert not ours & theirs
            with engine.connect() as one, engine.connect() as other:
                assert {session_id(one), session_id(other)} == ours

    def test_children_of_children_do_so_as_well(
        self, forked_database: Database, fork: Fork
    ) -> None:
        with guarded_engine(forked_database.url) as engine:
            first = checked_out_id(engine)

            def work() -> list[int]:
                second = checked_out_id(engine)
                third = in_child(lambda: checked_out_id(engine), fork=fork)
                assert checked_out_id(engine) == second
                return [second, third]

            assert len({first, *in_child(work, fork=fork)}) == 3
            assert checked_out_id(engine) == first

    def test_a_disposal_in_the_child_closes_nothing_of_the_parents(
        self, forked_database: Database, fork: Fork
    ) -> None:
        # As everybody writes it into post_fork hooks.
        with guarded_engine(forked_database.url) as engine:
            first = checked_out_id(engine)

            def work() -> int:
                engine.dispose()
                return checked_out_id(engine)

            assert in_child(work, fork=fork) != first
            assert checked_out_id(engine) == first

    def test_a_pool_that_the_child_replaces_goes_on_to_roll_back(
        self, forked_database: Database, fork: Fork
    ) -> None:
        # As SQLAlchemy's documentation says.
        with guarded_engine(forked_database.url, POOLGUARD_POOL_SIZE=1) as engine:
            checked_out_id(engine)

            def work() -> int:
                engine.dispose(close=False)
                fairy = engine.raw_connection()
                fairy.cursor().execute("INSERT INTO books VALUES ('forgotten')")
                fairy.close()
                with engine.connect() as connection:
                    query = sa.text("SELECT COUNT(*) FROM books")
                    return int(connection.scalar(query) or 0)

            assert in_child(work, fork=fork) == 0

    def test_a_pool_that_is_guarded_in_the_child_only_rolls_back_too(
        self, forked_database: Database, fork: Fork
    ) -> None:
        engine = sa.create_engine(forked_database.url, poolclass=GuardedPool)
        ours = checked_out_id(engine)

        def work() -> int:
            app = Flask("child")
            PoolGuard(app).register(engine, app=app)
            with app.app_context():
                fairy = engine.raw_connection()
                fairy.cursor().execute("INSERT INTO books VALUES ('forgotten')")
                fairy.close()
                with engine.connect() as connection:
                    query = sa.text("SELECT COUNT(*) FROM books")
                    return int(connection.scalar(query) or 0)

        assert in_child(work, fork=fork) == 0
        assert checked_out_id(engine) == ours
        engine.dispose()

    def test_the_childs_pool_counts_from_zero(
        self, forked_database: Database, fork: Fork
    ) -> None:
        with (
            guarded_engine(
                forked_database.url,
                POOLGUARD_POOL_SIZE=1,
                POOLGUARD_MAX_OVERFLOW=0,
                POOLGUARD_POOL_TIMEOUT=0,
            ) as engine,
            engine.connect() as held,
        ):
            first = session_id(held)

            def work() -> tuple[int, int, int]:
                with engine.connect() as connection:
                    pool = guarded_pool(engine)
                    number = session_id(connection)
                    return number, pool.checkedin(), pool.checkedout()

            number, checked_in, checked_out = in_child(work, fork=fork)
            assert number != first
            assert (checked_in, checked_out) == (0, 1)


class TestConnectionsInUse:
    def test_the_parents_transaction_goes_on(
        self, forked_database: Database, fork: Fork
    ) -> None:
        with (
            guarded_engine(forked_database.url) as engine,
            engine.connect() as connection,
        ):
            number = session_id(connection)
            add_book(connection, "before")
            assert in_child(lambda: checked_out_id(engine), fork=fork) != number
            add_book(connection, "after")
            connection.commit()
            assert session_id(connection) == number
        assert titles(forked_database) == ["before", "after"]

    def test_the_child_may_unwind_the_block_that_it_was_forked_in(
        self, forked_database: Database
    ) -> None:
        with (
            guarded_engine(forked_database.url) as engine,
            engine.connect() as connection,
        ):
            add_book(connection, "before")

            def work() -> int:
                connection.close()
                return checked_out_id(engine)

            assert in_child(work) != session_id(connection)
            connection.commit()
        assert titles(forked_database) == ["before"]

    @pytest.mark.parametrize("end", ["rollback", "invalidate", "close", "detach"])
    def test_however_the_child_ends_the_parents_connection_nothing_is_sent(
        self, end: str, forked_database: Database
    ) -> None:
        with (
            guarded_engine(forked_database.url) as engine,
            engine.connect() as connection,
        ):
            number = session_id(connection)
            add_book(connection, "before")

            def work() -> int:
                getattr(connection, end)()
                connection.close()
                return checked_out_id(engine)

            assert in_child(work) != number
            assert titles(forked_database) == []
            assert session_id(connection) == number
            connection.commit()
        assert titles(forked_database) == ["before"]

    def test_to_use_the_parents_connection_in_the_child_is_an_error_that_says_so(
        self, forked_database: Database
    ) -> None:
        with (
            guarded_engine(forked_database.url) as engine,
            engine.connect() as connection,
        ):
            add_book(connection, "before")

            def work() -> None:
                message = f"was taken in process {os.getppid()}"
                with pytest.raises(sa.exc.StatementError, match=message):
                    add_book(connection, "child")
                with pytest.raises(SetupError, match=message):
                    connection.commit()

            in_child(work)
            connection.commit()
        assert titles(forked_database) == ["before"]

    def test_a_raw_connection_may_be_given_back_in_the_child(
        self, forked_database: Database, fork: Fork
    ) -> None:
        with guarded_engine(forked_database.url) as engine:
            fairy = engine.raw_connection()
            fairy.cursor().execute("INSERT INTO books VALUES ('before')")

            def work() -> int:
                fairy.close()
                return checked_out_id(engine)

            in_child(work, fork=fork)
            fairy.commit()
            fairy.close()
        assert titles(forked_database) == ["before"]

    def test_one_of_a_pool_that_was_disposed_of_costs_the_child_nothing(
        self, forked_database: Database, fork: Fork
    ) -> None:
        with guarded_engine(forked_database.url) as engine:
            fairy = engine.raw_connection()
            fairy.cursor().execute("INSERT INTO books VALUES ('before')")
            engine.dispose()

            def work() -> bool:
                with engine.connect() as connection:
                    number = session_id(connection)
                    fairy.close()
                    return session_id(connection) == number

            assert in_child(work, fork=fork)
            fairy.commit()
            fairy.close()
        assert titles(forked_database) == ["before"]

    def test_a_raw_connection_may_be_forgotten_in_the_child(
        self, forked_database: Database, fork: Fork
    ) -> None:
        with guarded_engine(forked_database.url) as engine:
            held = [engine.raw_connection()]
            held[0].cursor().execute("INSERT INTO books VALUES ('before')")

            def work() -> int:
                held.clear()
                gc.collect()
                return checked_out_id(engine)

            in_child(work, fork=fork)
            held[0].commit()
            held.pop().close()
        assert titles(forked_database) == ["before"]

    @pytest.mark.parametrize("reset", ["commit", "rollback"])
    @pytest.mark.parametrize("is_late", [False, True])
    def test_a_plain_pool_class_leaves_the_parents_transaction_alone(
        self, reset: Any, is_late: bool, forked_database: Database, fork: Fork
    ) -> None:
        engine = sa.create_engine(
            forked_database.url, poolclass=GuardedPool, pool_reset_on_return=reset
        )
        fairy = engine.raw_connection()
        fairy.cursor().execute("INSERT INTO books VALUES ('before')")

        def work() -> int:
            found = checked_out_id(engine) if is_late else 0
            fairy.close()
            return found or checked_out_id(engine)

        theirs = in_child(work, fork=fork)
        assert titles(forked_database) == []
        fairy.commit()
        assert titles(forked_database) == ["before"]
        fairy.close()
        assert checked_out_id(engine) != theirs
        engine.dispose()

    def test_an_inherited_context_may_be_left_in_the_child(
        self, forked_database: Database
    ) -> None:
        app = make_app(forked_database.url)
        db = app.extensions["sqlalchemy"]
        context = app.app_context()
        context.push()
        add_book(db.session, "before")
        number = session_id(db.session.connection())

        def work() -> int:
            context.pop()
            with app.app_context():
                return session_id(db.session.connection())

        assert in_child(work) != number
        add_book(db.session, "after")
        assert session_id(db.session.connection()) == number
        db.session.commit()
        context.pop()
        assert titles(forked_database) == ["before", "after"]
        engine_of(app).dispose()

    def test_an_inherited_session_may_be_used_in_the_child(
        self, forked_database: Database
    ) -> None:
        app = make_app(forked_database.url)
        db = app.extensions["sqlalchemy"]
        with app.app_context():
            add_book(db.session, "before")
            number = session_id(db.session.connection())

            def work() -> int:
                db.session.rollback()
                found = session_id(db.session.connection())
                add_book(db.session, "child")
                db.session.commit()
                return found

            assert in_child(work) != number
            db.session.commit()
        assert sorted(titles(forked_database)) == ["before", "child"]
        engine_of(app).dispose()


class TestOtherPools:
    CLASSES = (NullPool, StaticPool, SingletonThreadPool, type("Own", (QueuePool,), {}))

    @contextmanager
    def engine(self, url: sa.URL, pool_class: Any) -> Iterator[sa.Engine]:
        with guarded_engine(
            url, SQLALCHEMY_ENGINE_OPTIONS={"poolclass": pool_class}
        ) as engine:
            assert type(engine.pool) is pool_class
            yield engine

    @pytest.mark.parametrize("pool_class", CLASSES)
    def test_the_child_gets_one_of_its_own_and_the_parents_goes_on_working(
        self, pool_class: Any, forked_database: Database, fork: Fork
    ) -> None:
        with self.engine(forked_database.url, pool_class) as engine:
            ours = checked_out_id(engine)
            assert in_child(lambda: checked_out_id(engine), fork=fork) != ours
            if pool_class is not NullPool:
                assert checked_out_id(engine) == ours

    @pytest.mark.parametrize("pool_class", CLASSES)
    def test_the_parents_transaction_goes_on(
        self, pool_class: Any, forked_database: Database
    ) -> None:
        with (
            self.engine(forked_database.url, pool_class) as engine,
            engine.connect() as connection,
        ):
            number = session_id(connection)
            add_book(connection, "before")

            def work() -> int:
                connection.close()
                return checked_out_id(engine)

            assert in_child(work) != number
            assert session_id(connection) == number
            connection.commit()
        assert titles(forked_database) == ["before"]

    @pytest.mark.parametrize("pool_class", CLASSES)
    def test_a_disposal_in_the_child_closes_nothing_of_the_parents(
        self, pool_class: Any, forked_database: Database
    ) -> None:
        with self.engine(forked_database.url, pool_class) as engine:
            ours = checked_out_id(engine)

            def work() -> int:
                engine.dispose()
                return checked_out_id(engine)

            assert in_child(work) != ours
            if pool_class is not NullPool:
                assert checked_out_id(engine) == ours

    def test_an_in_memory_database_is_copied_as_the_process_is(
        self, fork: Fork
    ) -> None:
        with guarded_engine("sqlite://") as engine:
            with engine.begin() as connection:
                connection.execute(sa.text("CREATE TABLE books (title TEXT)"))
                add_book(connection, "before")

            def work() -> list[str]:
                with engine.begin() as connection:
                    add_book(connection, "child")
                    return list(connection.scalars(sa.text("SELECT title FROM books")))

            assert in_child(work, fork=fork) == ["before", "child"]
            with engine.connect() as connection:
                found = list(connection.scalars(sa.text("SELECT title FROM books")))
            assert found == ["before"]


class TestLocks:
    """A lock that another thread holds at the fork is held in the child for ever."""

    LOCKS: ClassVar[dict[str, Callable[[Flask, sa.Engine], Any]]] = {
        "slots": lambda app, engine: guarded_pool(engine)._pool._lock,
        "breaker": lambda app, engine: guarded_pool(engine)._breaker._turns,
        "session probe": lambda app, engine: guarded_pool(engine)._session_probe._lock,
        "housekeeper": lambda app, engine: housekeeper._lock,
        "pool tracker": lambda app, engine: (
            app.extensions["poolguard"].engines[0].tracker.figures.lock
        ),
        "app tracker": lambda app, engine: (
            app.extensions["poolguard"].app_tracker._lock
        ),
        "state file": lambda app, engine: (
            app.extensions["poolguard"].app_tracker.open_file()._lock
        ),
        "look": lambda app, engine: app.extensions["poolguard"].lock,
    }

    @contextmanager
    def held_by_another(self, lock: Any) -> Iterator[None]:
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with lock:
                held.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        try:
            yield
        finally:
            done.set()
            thread.join()

    @pytest.mark.parametrize("name", LOCKS)
    def test_it_does_not_stop_the_child(self, name: str, sqlite_url: sa.URL) -> None:
        app = make_app(sqlite_url)
        engine = engine_of(app)
        with engine.connect():
            pass

        def work() -> int:
            with app.app_context(), engine.connect() as connection:
                return int(connection.scalar(sa.text("SELECT 1")))

        with self.held_by_another(self.LOCKS[name](app, engine)):
            assert in_child(work) == 1
        engine.dispose()

    @pytest.mark.parametrize("name", ["_lock", "_round", "_closing_round"])
    def test_the_housekeepers_does_not_keep_it_from_tending_what_the_child_adds(
        self, name: str, fork: Fork
    ) -> None:
        class Guest:
            def __init__(self) -> None:
                self.tended = threading.Event()

            def tend(self) -> None:
                self.tended.set()

        def work() -> bool:
            guest = Guest()
            housekeeper.add(guest, may_hang=name == "_closing_round")
            housekeeper.start()
            return guest.tended.wait(SECONDS)

        housekeeper.start()  # the child is to start one of its own all the same
        with self.held_by_another(getattr(housekeeper, name)):
            assert in_child(work, fork=fork)

    def test_a_first_look_that_goes_on_elsewhere_does_not_stop_the_child(
        self, sqlite_url: sa.URL
    ) -> None:
        app = make_app(sqlite_url)
        state = app.extensions["poolguard"]

        def work() -> str:
            return type(engine_of(app).pool).__name__

        with self.held_by_another(state.lock):
            assert in_child(work) == "GuardedPool"

    @pytest.mark.parametrize("moment", ["first_connect", "connect"])
    def test_a_first_connect_that_goes_on_elsewhere_does_not_stop_the_child(
        self, moment: str, fork: Fork, sqlite_url: sa.URL
    ) -> None:
        parent = os.getpid()
        inside, done = threading.Event(), threading.Event()

        def connect(connection: Any, record: Any) -> None:
            # SQLAlchemy holds a lock while the first connection is set up.
            if os.getpid() == parent:
                inside.set()
                done.wait()

        with guarded_engine(sqlite_url) as engine:
            event.listen(engine, moment, connect)
            thread = threading.Thread(target=lambda: engine.connect().close())
            thread.start()
            inside.wait()
            try:

                def work() -> int:
                    with engine.connect() as connection:
                        return int(connection.scalar(sa.text("SELECT 1")))

                assert in_child(work, fork=fork) == 1
            finally:
                done.set()
                thread.join()

    def test_busy_threads_do_not_stop_children(self, mariadb_url: sa.URL) -> None:
        with guarded_engine(mariadb_url, POOLGUARD_POOL_SIZE=2) as engine:
            stop = threading.Event()

            def hammer() -> None:
                while not stop.is_set():
                    with engine.connect() as connection:
                        session_id(connection)

            threads = [threading.Thread(target=hammer) for _ in range(4)]
            for thread in threads:
                thread.start()
            try:
                for _ in range(15):
                    assert in_child(lambda: checked_out_id(engine))
            finally:
                stop.set()
                for thread in threads:
                    thread.join()


class TestMultiprocessing:
    def test_processes_get_connections_of_their_own(
        self, forked_database: Database
    ) -> None:
        with guarded_engine(forked_database.url) as engine:
            ours = checked_out_id(engine)
            context = multiprocessing.get_context("fork")
            answers = context.SimpleQueue()
            processes = [
                context.Process(target=lambda: answers.put(checked_out_id(engine)))
                for _ in range(3)
            ]
            for process in processes:
                process.start()
            theirs = {answers.get() for _ in processes}
            for process in processes:
                process.join(20)
            answers.close()
            assert [process.exitcode for process in processes] == [0, 0, 0]
            assert len(theirs | {ours}) == 4
            assert checked_out_id(engine) == ours


class TestAppTracker:
    def test_the_child_keeps_books_of_its_own(
        self, forked_database: Database, fork: Fork
    ) -> None:
        app = make_app(forked_database.url)
        engine = engine_of(app)
        tracker = app.extensions["poolguard"].engines[0].tracker
        with engine.connect(), engine.connect():

            def work() -> tuple[int, int]:
                with engine.connect():
                    return tracker.figures.counts["connects"], len(tracker.out)

            assert in_child(work, fork=fork) == (1, 1)
            assert tracker.figures.counts["connects"] == 2
            assert len(tracker.out) == 2
        engine.dispose()

    def test_the_child_writes_a_state_file_of_its_own(
        self, forked_database: Database, fork: Fork, threadless: Housekeeper
    ) -> None:
        app = make_app(forked_database.url)
        engine = engine_of(app)
        app_tracker = app.extensions["poolguard"].app_tracker
        checked_out_id(engine)
        ours = Path(app_tracker.path)
        for tracker in app_tracker.trackers:
            tracker.tend()
        before = ours.read_bytes()

        def work() -> tuple[str, bool]:
            checked_out_id(engine)
            return app_tracker.path, ours.read_bytes() == before

        theirs, untouched = in_child(work, fork=fork)
        assert untouched
        assert theirs != str(ours)
        assert Path(theirs).name.partition("-")[0] != str(os.getpid())
        assert app_tracker.path == str(ours)
        assert ours.exists()
        engine.dispose()


SCRIPT = """
    import os, signal, sys
    import sqlalchemy as sa
    from flask import Flask
    from flask_sqlalchemy import SQLAlchemy
    from flask_poolguard import PoolGuard

    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["SHOP_DATABASE"]
    db = SQLAlchemy(app)
    PoolGuard(app)
    with app.app_context():
        engine = db.engine
    app_tracker = app.extensions["poolguard"].app_tracker
"""

LIVING_CHILD = """
    engine.connect().close()
    ours = app_tracker.path
    ready, told = os.pipe()
    if os.fork() == 0:
        if sys.argv[1] == "busy":
            engine.connect().close()
        os.write(told, (app_tracker.path or "none").encode() + b"\\n")
        sys.stdin.read()
        os._exit(0)
    theirs = os.read(ready, 4096).decode().strip()
    print(ours, theirs, flush=True)
    signal.pause()
"""

ENDING_CHILD = """
    held = engine.connect()
    idle = engine.connect()
    idle.close()
    held.execute(sa.text("INSERT INTO books VALUES ('before')"))
    pid = os.fork()
    if pid == 0:
        if sys.argv[1] == "busy":
            with engine.connect() as connection:
                connection.execute(sa.text("SELECT 1"))
        # The whole end of an interpreter, as a worker of gunicorn goes through it.
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    held.commit()
    held.close()
    with engine.connect() as one, engine.connect() as other:
        one.execute(sa.text("SELECT 1"))
        other.execute(sa.text("SELECT 1"))
    tracker = app.extensions["poolguard"].engines[0].tracker
    print("connects:", tracker.figures.counts["connects"])
    engine.dispose()
"""


def start(folder: Path, url: sa.URL, script: str, *words: str) -> subprocess.Popen[str]:
    """Run a program of its own with a guarded app."""
    program = folder / "program.py"
    program.write_text(dedent(SCRIPT) + dedent(script))
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(program), *words],
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "SHOP_DATABASE": url.render_as_string(hide_password=False),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class TestStateFile:
    @pytest.mark.parametrize("child", ["busy", "idle"])
    def test_the_parents_is_dead_when_the_parent_is_although_a_child_lives(
        self, child: str, sqlite_url: sa.URL, tmp_path: Path
    ) -> None:
        process = start(tmp_path, sqlite_url, LIVING_CHILD, child)
        assert process.stdin is not None
        assert process.stdout is not None
        ours, theirs = process.stdout.readline().split()
        assert locked(ours)
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        assert not locked(ours)
        if child == "busy":
            assert locked(theirs)
        else:
            assert theirs == "none"
        # The child's end.
        process.stdin.close()
        assert process.stdout.read() == ""
        process.stdout.close()


def locked(path: str) -> bool:
    """Tell whether a live process holds a state file."""
    with Path(path).open("rb") as file:
        return is_locked(file.fileno())


class TestEndOfAChild:
    @pytest.mark.parametrize("child", ["busy", "idle"])
    def test_it_takes_nothing_of_the_parents_with_it(
        self, child: str, forked_database: Database, tmp_path: Path
    ) -> None:
        process = start(tmp_path, forked_database.url, ENDING_CHILD, child)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert printed == "connects: 2\n"
        assert titles(forked_database) == ["before"]


PRELOADED = """
    with app.app_context():
        connection = db.engine.connect()
        MASTER = connection.scalar(sa.text(os.environ["SHOP_QUESTION"]))
        connection.close()

    @app.get("/")
    def index():
        number = db.session.scalar(sa.text(os.environ["SHOP_QUESTION"]))
        return f"{os.getpid()} {number} {MASTER}"
"""


class TestGunicorn:
    QUESTIONS: ClassVar = {
        "mysql": "SELECT CONNECTION_ID()",
        "postgresql": "SELECT pg_backend_pid()",
    }

    def test_workers_of_a_preloaded_app_leave_the_masters_connection_alone(
        self, forked_database: Database, tmp_path: Path
    ) -> None:
        url, server = forked_database.url, forked_database.running_server
        (tmp_path / "preloaded.py").write_text(dedent(SCRIPT) + dedent(PRELOADED))
        gunicorn = GunicornApp(
            "preloaded:app",
            tmp_path,
            workers=2,
            threads=2,
            preload=True,
            env={
                "SHOP_DATABASE": url.render_as_string(hide_password=False),
                "SHOP_QUESTION": self.QUESTIONS[url.get_backend_name()],
            },
        )
        with gunicorn:
            numbers: dict[int, set[int]] = {}
            master = 0

            def ask() -> bool:
                nonlocal master
                status, body = gunicorn.get("/")
                assert status == 200
                pid, number, master = map(int, body.split())
                numbers.setdefault(pid, set()).add(number)
                return len(numbers) == 2

            wait_until(ask, what="an answer of both workers")
            one, other = numbers.values()
            assert not one & other
            assert master not in one | other
            # The old workers end as interpreters do, and the master's stays open.
            gunicorn.reload()
            assert master in server.session_ids(database=url.database)
            numbers.clear()
            wait_until(ask, what="an answer of both new workers")
            assert master in server.session_ids(database=url.database)
