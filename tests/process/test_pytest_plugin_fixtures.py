"""The plugin's fixtures, in suites that run against real databases."""

from __future__ import annotations

import pytest

from tests.conftest import Database
from tests.support.plugin_suite import PluginSuite, install_plugin

pytestmark = pytest.mark.process


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> PluginSuite:
    """Return a suite that runs on SQLite, and fails a test that leaks."""
    suite = install_plugin(pytester, monkeypatch)
    suite.set_mode("error")
    return suite


@pytest.fixture
def served(
    suite: PluginSuite, served_database: Database, monkeypatch: pytest.MonkeyPatch
) -> PluginSuite:
    """Return one that runs on a server."""
    url = served_database.url.render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)
    return suite


class TestProbe:
    @pytest.mark.quick
    def test_counts_what_a_block_takes(self, suite: PluginSuite) -> None:
        suite.run("""
        def test_it(app, pool_probe):
            client = app.test_client()
            client.get("/nested")
            with pool_probe(app) as probe:
                client.get("/page")
                client.get("/page")
            assert (probe.peak, probe.nested, probe.checkouts) == (1, 1, 2)
            assert (probe.connects, probe.statements) == (0, 2)
            with pool_probe() as probe:
                client.get("/nested")
            assert (probe.peak, probe.nested, probe.checkouts) == (2, 2, 2)
            client.get("/nested")
            assert probe.checkouts == 2
            assert repr(probe).startswith("<Probe peak=2 nested=2 checkouts=2")
        """).assert_outcomes(passed=1)

    def test_does_not_count_what_was_out_before(self, suite: PluginSuite) -> None:
        suite.run("""
        def test_it(app, engine, pool_probe):
            with engine.connect(), pool_probe(engine) as probe:
                app.test_client().get("/page")
            assert (probe.peak, probe.checkouts, probe.connects) == (1, 1, 1)
        """).assert_outcomes(passed=1)

    def test_counts_threads_apart(self, suite: PluginSuite) -> None:
        suite.run("""
        def test_it(engine, pool_probe):
            both = threading.Barrier(2)

            def work():
                with engine.connect():
                    both.wait(30)

            with pool_probe(engine) as probe:
                threads = [threading.Thread(target=work) for _ in range(2)]
                [each.start() for each in threads]
                [each.join() for each in threads]
            assert (probe.peak, probe.nested, probe.checkouts) == (2, 1, 2)
        """).assert_outcomes(passed=1)

    def test_takes_any_engine(self, suite: PluginSuite) -> None:
        """Not guarded; in memory, where all share one connection; disposed of."""
        suite.run("""
        from sqlalchemy.pool import NullPool, StaticPool

        @pytest.mark.parametrize("pool", [NullPool, StaticPool, None])
        def test_it(tmp_path, pool, pool_probe):
            engine = sa.create_engine(f"sqlite:///{tmp_path}/db", poolclass=pool)
            with pool_probe(engine) as probe:
                with engine.connect() as one, engine.connect() as two:
                    one.execute(sa.text("SELECT 1"))
                    two.execute(sa.text("SELECT 1"))
                engine.dispose()
                with engine.connect():
                    pass
            assert (probe.peak, probe.nested, probe.checkouts) == (2, 2, 3)
            assert probe.statements == 2
            with engine.connect():
                pass
            assert probe.checkouts == 3
        """).assert_outcomes(passed=3)

    def test_says_that_there_is_no_app(self, suite: PluginSuite) -> None:
        result = suite.run("""
        def test_it(pool_probe):
            with pool_probe():
                pass
        """)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E *SetupError: No app has a PoolGuard yet*"])


@pytest.mark.every_product
class TestFaults:
    def test_idle_connections_are_killed(self, served: PluginSuite) -> None:
        served.run("""
        def test_guarded(app, engine, pool_faults, pool_probe):
            client = app.test_client()
            client.get("/nested")
            assert engine.pool.checkedin() == 2
            pool_faults.kill_idle()
            with pool_probe(app) as probe:
                assert client.get("/nested").text == "42"
            assert probe.connects == 2

        def test_undone(one_app, one_engine, pool_faults, pool_probe):
            one_app.test_client().get("/page")
            with pool_faults.kill_idle(one_app):
                assert one_engine.pool.checkedin() == 1
            assert one_engine.pool.checkedin() == 0
        """).assert_outcomes(passed=2)

    def test_all_connections_are_killed(self, served: PluginSuite) -> None:
        served.run("""
        def test_it(app, engine, pool_faults):
            with engine.connect() as connection:
                connection.execute(sa.text("SELECT 1"))
                pool_faults.kill_all(app)
                with pytest.raises(sa.exc.OperationalError) as info:
                    connection.execute(sa.text("SELECT 1"))
                assert info.value.connection_invalidated
            assert app.test_client().get("/page").text == "42"
        """).assert_outcomes(passed=1)

    def test_pools_are_exhausted(self, served: PluginSuite) -> None:
        """Until the end of the test."""
        served.run("""
        from flask_poolguard import PoolTimeout

        def test_it(one_app, one_engine, pool_faults):
            one_app.config["TESTING"] = True
            pool_faults.exhaust(one_app)
            with pytest.raises(PoolTimeout):
                one_app.test_client().get("/page")

        def test_next(one_app, one_engine):
            assert one_engine.pool.checkedout() == 0
            assert one_app.test_client().get("/page").text == "42"
        """).assert_outcomes(passed=2)

    def test_connects_are_refused(self, served: PluginSuite) -> None:
        served.run("""
        from flask_poolguard import DatabaseUnavailable

        def test_it(one_app, one_engine, pool_faults):
            client = one_app.test_client()
            client.get("/page")
            pool_faults.refuse_connects()
            assert client.get("/page").text == "42"
            pool_faults.kill_all()
            with pytest.raises((sa.exc.OperationalError, DatabaseUnavailable)):
                client.get("/page")

        def test_next(one_app):
            assert one_app.test_client().get("/page").text == "42"
        """).assert_outcomes(passed=2)

    def test_connects_are_slow(self, served: PluginSuite) -> None:
        served.run("""
        def test_it(app, engine, pool_faults):
            slow = pool_faults.slow_connects(60)
            pages = []
            page = lambda: pages.append(app.test_client().get("/page").text)
            thread = threading.Thread(target=page)
            thread.start()
            while app.guard.stat(app)["default"]["connecting"] != 1:
                thread.join(0.01)
                assert thread.is_alive()
            assert pages == []
            slow.undo()
            thread.join(30)
            assert pages == ["42"]
        """).assert_outcomes(passed=1)


class TestFaultsOnSqlite:
    def test_what_needs_a_server_is_refused(self, suite: PluginSuite) -> None:
        suite.run("""
        from flask_poolguard import SetupError

        @pytest.mark.parametrize("name", ["kill_idle", "kill_all"])
        def test_it(app, engine, pool_faults, name):
            with pytest.raises(SetupError, match="does not have a server"):
                getattr(pool_faults, name)()
        """).assert_outcomes(passed=2)

    def test_the_others_work(self, suite: PluginSuite) -> None:
        suite.run("""
        from flask_poolguard import PoolTimeout, SetupError

        def test_exhaust(app, engine, pool_faults):
            with engine.connect():
                pool_faults.exhaust(engine)
                with pytest.raises(PoolTimeout):
                    app.test_client().get("/page")

        def test_refuse(app, engine, pool_faults):
            with pool_faults.refuse_connects():
                with pytest.raises(sa.exc.OperationalError, match="unable to open"):
                    engine.connect()
            assert app.test_client().get("/page").text == "42"

        def test_slow(app, engine, pool_faults):
            pool_faults.slow_connects(0.01)
            assert app.test_client().get("/page").text == "42"
            with pytest.raises(ValueError, match="takes seconds"):
                pool_faults.slow_connects(-1)

        def test_in_memory(pool_faults):
            app = make_app("sqlite://")
            with pytest.raises(SetupError, match="does not have a limit"):
                pool_faults.exhaust(app)

        def test_other_engine(app, engine, pool_faults):
            with pytest.raises(SetupError, match="has no guarded engine"):
                pool_faults.exhaust(sa.create_engine("sqlite://"))
        """).assert_outcomes(passed=5)

    def test_it_is_off_with_the_watch(self, suite: PluginSuite) -> None:
        """The fixtures work though nothing is watched."""
        suite.set_mode("off")
        suite.run("""
        def test_it(app, engine, pool_faults, pool_probe):
            with pool_probe() as probe, pool_faults.refuse_connects():
                with pytest.raises(sa.exc.OperationalError):
                    engine.connect()
            assert probe.checkouts == 0
        """).assert_outcomes(passed=1)
