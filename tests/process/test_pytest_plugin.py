"""The pytest plugin names the tests that leave a connection out."""

from __future__ import annotations

import tomllib

import pytest

from tests.support.app_server import REPOSITORY
from tests.support.plugin_suite import PluginSuite, install_plugin

pytestmark = pytest.mark.process

TITLE = "*= tests that left a connection out =*"


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> PluginSuite:
    return install_plugin(pytester, monkeypatch)


def named(result: pytest.RunResult) -> list[str]:
    """Return the lines that name a test, without its file, in their order."""
    return [
        line.removeprefix("test_shop.py::")
        for line in result.outlines
        if line.startswith("test_shop.py::")
        and (": left" in line or " did not" in line)
    ]


LEAKY = """
def test_clean(app):
    assert app.test_client().get("/page").text == "42"

def test_connection(engine):
    held.append(engine.connect())

def test_session(engine):
    session = Session(engine)
    session.execute(sa.text("SELECT 1"))
    held.append(session)

def test_request(app):
    app.test_client().get("/leak")
"""
LEFT = [
    "test_connection: left a connection of bind 'default' out that was taken at"
    " test_shop.py:11",
    "test_session: left a session open, whose connection of bind 'default' was taken"
    " at test_shop.py:15",
    "test_request: leak did not give back a connection of bind 'default' that it took"
    " at conftest.py:26",
]


class TestNames:
    @pytest.mark.quick
    def test_each_test_that_leaks_once_and_fails_none(self, suite: PluginSuite) -> None:
        result = suite.run(LEAKY)
        result.assert_outcomes(passed=4, warnings=1)
        assert result.ret == 0
        result.stdout.fnmatch_lines([TITLE, "*Give each back*guard.keep()*'warn'*"])
        assert named(result) == LEFT

    def test_the_same_with_workers(self, suite: PluginSuite) -> None:
        result = suite.run(LEAKY, "-n", "2")
        result.assert_outcomes(passed=4, warnings=1)
        assert sorted(named(result)) == sorted(LEFT)
        assert result.stdout.str().count("tests that left a connection out") == 1

    def test_some_of_many(self, suite: PluginSuite) -> None:
        many = """
        @pytest.mark.parametrize("number", range(23))
        def test_connection(one_engine, number):
            connection = one_engine.connect()
            connection.close()
            held.append(sa.create_engine("sqlite://"))
            held.append(engine_of(make_app()).connect())
        """
        result = suite.run(many)
        assert len(named(result)) == 20
        result.stdout.fnmatch_lines(["*and 3 more tests; -v names all"])
        assert len(named(suite.run(many, "-v"))) == 23

    def test_what_an_ended_thread_left(self, suite: PluginSuite) -> None:
        result = suite.run("""
        def test_thread(engine):
            thread = threading.Thread(target=lambda: held.append(engine.connect()))
            thread.start()
            thread.join()
        """)
        assert named(result) == [
            "test_thread: left a connection of bind 'default' out that was taken at"
            " test_shop.py:8"
        ]

    def test_what_is_left_of_an_app_that_is_gone(self, suite: PluginSuite) -> None:
        result = suite.run("""
        import gc

        def test_gone():
            held.append(engine_of(make_app()).connect())
            gc.collect()
        """)
        assert len(named(result)) == 1

    def test_unittest_cases(self, suite: PluginSuite) -> None:
        result = suite.run("""
        import unittest

        class TestCase(unittest.TestCase):
            def setUp(self):
                self.app = make_app()
                self.closed_in_tear_down = engine_of(self.app).connect()

            def tearDown(self):
                self.closed_in_tear_down.close()

            def test_clean(self):
                self.app.test_client().get("/page")

            def test_leak(self):
                self.app.test_client().get("/leak")
        """)
        result.assert_outcomes(passed=2, warnings=1)
        assert [each.partition(" ")[0] for each in named(result)] == [
            "TestCase::test_leak:"
        ]


class TestIsSilentOf:
    @pytest.mark.parametrize(
        "tests",
        [
            """
            @pytest.fixture
            def connection(engine):
                connection = engine.connect()
                yield connection
                connection.close()

            def test_it(connection):
                connection.execute(sa.text("SELECT 1"))
            """,
            """
            @pytest.fixture(scope="module")
            def connection(one_engine):
                with one_engine.connect() as connection:
                    yield connection

            def test_it(connection):
                connection.execute(sa.text("SELECT 1"))

            def test_again(connection):
                connection.execute(sa.text("SELECT 1"))
            """,
            """
            @pytest.fixture(scope="session")
            def connection():
                app = make_app()
                connection = engine_of(app).connect()
                yield connection
                connection.close()

            def test_it(connection):
                connection.execute(sa.text("SELECT 1"))
            """,
            """
            @pytest.fixture(scope="session")
            def session(one_engine):
                with Session(one_engine) as session:
                    yield session

            def test_it(session):
                session.execute(sa.text("SELECT 1"))

            def test_again(session):
                session.execute(sa.text("SELECT 1"))
            """,
            """
            @pytest.fixture(scope="session", autouse=True)
            def context(one_app):
                with one_app.app_context():
                    yield

            def test_it(one_app):
                one_app.db.session.execute(sa.text("SELECT 1"))

            def test_again(one_app):
                one_app.db.session.execute(sa.text("SELECT 1"))
                assert one_app.test_client().get("/page").text == "42"
            """,
            """
            @pytest.fixture(scope="module", autouse=True)
            def outer(one_app, one_engine):
                connection = one_engine.connect()
                transaction = connection.begin()
                yield connection
                transaction.rollback()
                connection.close()

            @pytest.fixture
            def session(outer):
                session = Session(outer, join_transaction_mode="create_savepoint")
                yield session
                session.close()

            def test_it(session):
                session.execute(sa.text("SELECT 1"))
            """,
            """
            def test_it(app, engine):
                held.append(app.guard.keep(engine.connect()))
            """,
            """
            def setup_module(module):
                module.connection = engine_of(make_app()).connect()

            def teardown_module(module):
                module.connection.close()

            def test_it():
                connection.execute(sa.text("SELECT 1"))
            """,
            """
            @pytest.mark.allow_leak
            def test_it(engine):
                held.append(engine.connect())
            """,
            """
            def test_it(engine):
                engine.connect()
            """,
        ],
        ids=[
            "fixture",
            "module",
            "made-in-session",
            "session-of-session",
            "pushed",
            "outer-transaction",
            "kept",
            "setup-module",
            "marked",
            "collected",
        ],
    )
    def test_what_is_no_leak_of_the_test(self, suite: PluginSuite, tests: str) -> None:
        suite.set_mode("error")
        result = suite.run(tests, "--strict-markers")
        assert result.parseoutcomes().keys() == {"passed"}
        result.stdout.no_fnmatch_line(TITLE)

    def test_a_thread_that_still_runs(self, suite: PluginSuite) -> None:
        result = suite.run("""
        @pytest.fixture(scope="session")
        def worker(one_engine):
            take, taken, end = threading.Event(), threading.Event(), threading.Event()

            def work():
                take.wait(30)
                with one_engine.connect():
                    taken.set()
                    end.wait(30)

            thread = threading.Thread(target=work)
            thread.start()
            yield take, taken
            end.set()
            thread.join()

        def test_it(worker):
            take, taken = worker
            take.set()
            assert taken.wait(30)

        def test_next():
            pass
        """)
        result.assert_outcomes(passed=2)
        result.stdout.no_fnmatch_line(TITLE)

    def test_what_an_earlier_test_left(self, suite: PluginSuite) -> None:
        """Also if it comes back in a later one."""
        result = suite.run("""
        @pytest.fixture(scope="session")
        def context(one_app):
            with one_app.app_context():
                yield

        def test_leak(context, one_app):
            held.append(one_app.db.engine.connect())

        def test_next(context):
            pass

        def test_last(context):
            pass
        """)
        assert [each.partition(":")[0] for each in named(result)] == ["test_leak"]

    def test_fixtures_of_pytest_flask(self, suite: PluginSuite) -> None:
        """Which pushes a context around each test that has an app."""
        suite.set_mode("error")
        result = suite.run(
            """
            def test_it(app, client):
                assert client.get("/page").text == "42"
                app.db.session.execute(sa.text("SELECT 1"))
            """,
            "flask",
        )
        result.assert_outcomes(passed=1)


class TestModes:
    def test_error_fails_the_tests(self, suite: PluginSuite) -> None:
        suite.set_mode("error")
        result = suite.run(LEAKY)
        result.assert_outcomes(passed=4, errors=3, warnings=1)
        assert result.ret == 1
        result.stdout.fnmatch_lines(
            ["*ERROR at teardown of test_connection*", LEFT[0].partition(": ")[2]]
        )

    def test_error_adds_none_to_a_test_that_failed(self, suite: PluginSuite) -> None:
        suite.set_mode("error")
        result = suite.run("""
        def test_it(engine):
            held.append(engine.connect())
            assert False
        """)
        result.assert_outcomes(failed=1)
        assert len(named(result)) == 1

    def test_off_says_nothing(self, suite: PluginSuite) -> None:
        suite.set_mode("off")
        result = suite.run(LEAKY)
        result.assert_outcomes(passed=4, warnings=1)
        result.stdout.no_fnmatch_line(TITLE)

    def test_without_the_plugin(self, suite: PluginSuite) -> None:
        result = suite.run(LEAKY, "-p", "no:poolguard")
        result.assert_outcomes(passed=4, warnings=1)
        result.stdout.no_fnmatch_line(TITLE)

    def test_another_is_refused(self, suite: PluginSuite) -> None:
        suite.set_mode("loud")
        result = suite.run(LEAKY)
        result.stderr.fnmatch_lines(["*must be one of warn, error, off; not 'loud'*"])
        assert result.ret == pytest.ExitCode.USAGE_ERROR


class TestDoesNotEndTheRun:
    def test_if_the_current_folder_is_gone(self, suite: PluginSuite) -> None:
        result = suite.run("""
        import os

        def test_leak(engine, tmp_path):
            held.append(engine.connect())
            before = os.getcwd()
            os.chdir(tmp_path)
            tmp_path.rmdir()
            held.append(before)

        def test_next():
            os.chdir(held[-1])
        """)
        result.assert_outcomes(passed=2)
        (line,) = named(result)
        assert line.startswith("test_leak: left a connection of bind 'default' out")
        assert line.endswith("test_shop.py:10")

    def test_if_a_leak_is_reported_while_it_is_gone(self, suite: PluginSuite) -> None:
        result = suite.run("""
        import os

        def test_leak(app, tmp_path):
            before = os.getcwd()
            os.chdir(tmp_path)
            tmp_path.rmdir()
            app.test_client().get("/leak")
            held.append(before)

        def test_next():
            os.chdir(held[-1])
        """)
        result.assert_outcomes(passed=2, warnings=1)
        (line,) = named(result)
        assert line.startswith("test_leak: leak did not give back a connection")

    def test_by_an_error_of_its_own(self, suite: PluginSuite) -> None:
        result = suite.run(
            """
            from flask_poolguard.testing.left_out import LeftByTest

            def test_broken(app):
                def fail(self):
                    raise ZeroDivisionError

                held.append(LeftByTest.end)
                LeftByTest.end = fail

            def test_next(app):
                LeftByTest.end = held[-1]
            """,
            "-o",
            "log_cli=true",
        )
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(
            ["*What test_shop.py::test_broken left could not be determined*"]
        )


class TestWithoutAGuardedApp:
    def test_nothing_is_imported(self, suite: PluginSuite) -> None:
        suite.pytester.makeconftest("")
        suite.pytester.makepyfile("""
        import sys

        import pytest

        @pytest.fixture(scope="module")
        def wide():
            return 1

        def test_it(wide):
            assert "flask_poolguard.pytest_plugin" in sys.modules
            for name in ("sqlalchemy", "flask", "blinker", "flask_poolguard.errors"):
                assert name not in sys.modules
        """)
        result = suite.pytester.runpytest_subprocess("-p", "no:flask")
        result.assert_outcomes(passed=1)

    def test_the_package_does_not_import_it(self, suite: PluginSuite) -> None:
        suite.pytester.makepyfile("""
        import subprocess
        import sys

        def test_it():
            code = (
                "import sys, flask_poolguard; flask_poolguard.PoolGuard;"
                "assert 'pytest' not in sys.modules;"
                "assert 'flask_poolguard.testing' not in sys.modules"
            )
            subprocess.run([sys.executable, "-c", code], check=True)
        """)
        suite.pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_it_is_an_entry_point() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {
        "poolguard": "flask_poolguard.pytest_plugin"
    }
