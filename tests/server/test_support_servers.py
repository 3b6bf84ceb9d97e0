"""The private servers do what the other tests rely on."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import Database
from tests.support import private_server
from tests.support.run_servers import PRODUCTS, RunServers, borrow
from tests.support.servers import (
    APP_PASSWORD,
    DatabaseServer,
    MariaDBServer,
    MissingServerError,
    PostgreSQLServer,
    ServerError,
)
from tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.every_product


@pytest.fixture(params=[MariaDBServer, PostgreSQLServer])
def kind(
    request: pytest.FixtureRequest, mariadb: DatabaseServer, postgresql: DatabaseServer
) -> type[DatabaseServer]:
    """Return a class of servers whose programs are known to be installed."""
    kind: type[DatabaseServer] = request.param
    return kind


def connects(url: sa.URL) -> bool:
    """Tell whether a statement runs."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            return bool(connection.scalar(sa.text("SELECT 1")) == 1)
    except sa.exc.OperationalError:
        return False


class TestDatabases:
    def test_a_fresh_database_takes_tables_of_the_app_account(
        self, database: Database
    ) -> None:
        engine = sa.create_engine(database.url)
        table = sa.Table("notes", sa.MetaData(), sa.Column("id", sa.Integer))
        table.create(engine)
        with engine.begin() as connection:
            connection.execute(table.insert(), [{"id": 1}, {"id": 2}])
            count = connection.scalar(sa.select(sa.func.count()).select_from(table))
        engine.dispose()
        assert count == 2

    def test_each_database_has_a_name_of_its_own(
        self, served_database: Database
    ) -> None:
        server = served_database.running_server
        names = {server.create_database() for _ in range(3)}
        for name in names:
            server.drop_database(name)
        assert len(names) == 3

    def test_a_wrong_password_is_refused(self, served_database: Database) -> None:
        assert connects(served_database.url)
        assert not connects(served_database.url.set(password=f"{APP_PASSWORD}-not"))

    def test_dropping_a_database_ends_its_sessions(self, mariadb_url: sa.URL) -> None:
        # Its fixture would hang or fail if the open transaction stayed.
        engine = sa.create_engine(mariadb_url)
        connection = engine.connect()
        connection.execute(sa.text("CREATE TABLE held (id INT)"))
        connection.execute(sa.text("SELECT * FROM held"))
        connection.detach()
        connection.invalidate()


class TestStock:
    """Databases that come back are lent again."""

    def test_one_that_was_not_changed_is_lent_again(
        self, served_server: DatabaseServer
    ) -> None:
        name = served_server.lend_database()
        assert connects(served_server.url(database=name))
        served_server.take_back_database(name)
        assert served_server.lend_database() == name
        served_server.take_back_database(name)

    @pytest.mark.parametrize("left", ["", "BEGIN"])
    def test_it_comes_back_without_tables_and_sessions(
        self, served_server: DatabaseServer, left: str
    ) -> None:
        name = served_server.lend_database()
        engine = sa.create_engine(served_server.url(database=name))
        with engine.connect() as connection:
            connection.execute(sa.text("CREATE TABLE notes (id INT)"))
            connection.execute(sa.text("CREATE VIEW all_notes AS SELECT * FROM notes"))
            connection.commit()
            if left:
                connection.execute(sa.text("INSERT INTO notes VALUES (1)"))
            served_server.take_back_database(name)
            assert served_server.session_ids(database=name) == set()
            connection.invalidate()
        engine.dispose()
        assert served_server.lend_database() == name
        again = sa.create_engine(served_server.url(database=name))
        assert sa.inspect(again).get_table_names() == []
        assert sa.inspect(again).get_view_names() == []
        again.dispose()
        served_server.take_back_database(name)

    @pytest.mark.parametrize(
        "change",
        [
            "ALTER DATABASE {} CONNECTION LIMIT 5",
            "ALTER DATABASE {} SET idle_session_timeout = '60s'",
            "ALTER ROLE app IN DATABASE {} SET statement_timeout = '60s'",
            "REVOKE CONNECT ON DATABASE {} FROM PUBLIC",
            "REVOKE SELECT ON pg_catalog.pg_settings FROM PUBLIC",
            "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_sleep FROM PUBLIC",
            "CREATE SCHEMA others",
        ],
    )
    def test_one_with_other_settings_is_not(
        self, postgresql: DatabaseServer, change: str
    ) -> None:
        name = postgresql.lend_database()
        postgresql.execute(change.format(name), database=name)
        postgresql.take_back_database(name)
        assert postgresql.query(
            f"SELECT count(*) FROM pg_database WHERE datname = '{name}'"
        ) == [(0,)]


class TestShared:
    """The servers of a run, which all of its workers use."""

    def test_cannot_be_stopped(self, served_server: DatabaseServer) -> None:
        for stop in (served_server.stop, served_server.kill, served_server.restart):
            with pytest.raises(ServerError, match="needs the fixture `own_server`"):
                stop()
        assert served_server.running

    @pytest.mark.parametrize(
        "statement",
        [
            "SET GLOBAL wait_timeout = 60",
            "ALTER SYSTEM SET idle_session_timeout = '60s'",
            "ALTER ROLE app CONNECTION LIMIT 8",
            "GRANT PROCESS ON *.* TO app",
            "CREATE USER teller IDENTIFIED BY 'x'",
        ],
    )
    def test_cannot_be_reconfigured(
        self, served_server: DatabaseServer, statement: str
    ) -> None:
        with pytest.raises(ServerError, match="needs the fixture `own_server`"):
            served_server.execute(statement)

    @pytest.mark.usefixtures("own_server")
    def test_are_not_those_that_a_test_gets_for_itself(
        self, served_server: DatabaseServer, request: pytest.FixtureRequest
    ) -> None:
        name: str = request.node.callspec.params["served_server"]
        shared: DatabaseServer = request.getfixturevalue(f"shared_{name}")
        assert shared.port != served_server.port
        served_server.restart()
        assert served_server.query("SELECT 1")


class TestRunServers:
    """What runs the shared servers, and how workers ask for them."""

    @pytest.fixture
    def run_servers(self, tmp_path: Path) -> Iterator[RunServers]:
        """Run servers as a test run does."""
        servers = RunServers(tmp_path)
        yield servers
        servers.close()

    def test_lend_one_server_to_all_and_end_it(
        self, run_servers: RunServers, tmp_path: Path, mariadb: DatabaseServer
    ) -> None:
        with ThreadPoolExecutor(2) as executor:
            asked = [executor.submit(borrow, "mariadb", tmp_path) for _ in range(2)]
            first, second = (each.result() for each in asked)
        assert first.port == second.port == run_servers.lend("mariadb").port
        assert first.query("SELECT 1") == [(1,)]
        run_servers.close()
        with pytest.raises(ProcessLookupError):
            os.kill(first.pid, 0)

    def test_tell_a_worker_what_is_not_installed(
        self,
        run_servers: RunServers,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (empty := tmp_path / "empty").mkdir()
        monkeypatch.setitem(PRODUCTS, "mariadb", lambda: MariaDBServer(bin_dir=empty))
        with pytest.raises(MissingServerError, match="apt-get install mariadb-server"):
            borrow("mariadb", tmp_path)


class TestSessions:
    def test_lists_the_sessions_of_one_database(
        self, served_database: Database
    ) -> None:
        url, server = served_database.url, served_database.running_server
        engine = sa.create_engine(url)
        with engine.connect(), engine.connect():
            assert len(server.session_ids(database=url.database)) == 2
        assert server.session_ids(user="nobody-here") == set()
        engine.dispose()

    def test_a_killed_session_is_gone_at_once_and_its_client_notices(
        self, served_database: Database
    ) -> None:
        url, server = served_database.url, served_database.running_server
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            (session_id,) = server.session_ids(database=url.database)
            server.kill_session(session_id)
            assert server.session_ids(database=url.database) == set()
            with pytest.raises(sa.exc.OperationalError):
                connection.execute(sa.text("SELECT 1"))
        engine.dispose()

    def test_killing_a_session_twice_does_no_harm(
        self, served_database: Database
    ) -> None:
        url, server = served_database.url, served_database.running_server
        engine = sa.create_engine(url)
        with engine.connect():
            (session_id,) = server.session_ids(database=url.database)
            server.kill_session(session_id)
            server.kill_session(session_id)
        engine.dispose()


class TestLife:
    def test_keeps_its_port_and_data_over_a_restart(
        self, kind: type[DatabaseServer]
    ) -> None:
        with kind() as server:
            url = server.url(database=server.create_database())
            pid = server.pid
            server.restart()
            assert server.pid != pid
            assert connects(url)

    def test_comes_back_after_a_kill(self, kind: type[DatabaseServer]) -> None:
        with kind() as server:
            url = server.url(database=server.create_database())
            server.kill()
            assert not connects(url)
            server.start()
            assert connects(url)

    def test_comes_back_after_a_crash_that_nobody_told_it_of(
        self, kind: type[DatabaseServer]
    ) -> None:
        with kind() as server:
            url = server.url(database=server.create_database())
            os.kill(server.pid, signal.SIGKILL)
            wait_until(lambda: not server.running, what="the end of the server")
            server.start()
            assert connects(url)

    def test_leaves_no_process_and_no_file(self, kind: type[DatabaseServer]) -> None:
        with kind() as server:
            pid, folder = server.pid, server.folder
            assert folder.exists()
        assert not folder.exists()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_only_the_loopback_address_is_open(
        self, kind: type[DatabaseServer]
    ) -> None:
        with kind() as server:
            port = f":{server.port:04X}"
            listening = [
                line.split()[1]
                for table in ("tcp", "tcp6")
                for line in Path("/proc/net", table).read_text().splitlines()[1:]
                if line.split()[1].endswith(port) and line.split()[3] == "0A"
            ]
        assert listening == [f"0100007F{port}"]

    def test_takes_another_port_if_somebody_else_was_faster(
        self, kind: type[DatabaseServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as somebody:
            ports = [somebody.getsockname()[1], free_port()]
            picks = iter(ports)
            monkeypatch.setattr(private_server, "free_port", lambda: next(picks))
            with kind() as server:
                assert server.port == ports[1]
                assert connects(server.url(database=server.create_database()))

    def test_missing_programs_are_named(self, tmp_path: Path) -> None:
        server = MariaDBServer(bin_dir=tmp_path)
        with pytest.raises(MissingServerError, match="apt-get install mariadb-server"):
            server.start()
        assert not server.folder.exists()


class TestSettings:
    def test_mariadb_takes_variables(self, mariadb: DatabaseServer) -> None:
        with MariaDBServer(wait_timeout=7) as server:
            assert server.query("SELECT @@global.wait_timeout") == [(7,)]
            server.restart(wait_timeout=8)
            assert server.query("SELECT @@global.wait_timeout") == [(8,)]

    def test_postgresql_takes_settings_that_alter_system_can_change(
        self, postgresql: DatabaseServer
    ) -> None:
        with PostgreSQLServer(idle_session_timeout="7s") as server:
            assert server.query("SHOW idle_session_timeout") == [("7s",)]
            server.execute("ALTER SYSTEM SET idle_session_timeout = '8s'")
            server.execute("SELECT pg_reload_conf()")
            server.restart()
            assert server.query("SHOW idle_session_timeout") == [("8s",)]

    def test_offers_tls_with_a_certificate_that_clients_can_check(
        self, kind: type[DatabaseServer]
    ) -> None:
        with kind(tls=True) as server:
            name = server.create_database()
            engine = sa.create_engine(server.url(database=name, **server.tls_query()))
            with engine.connect() as connection:
                if isinstance(server, MariaDBServer):
                    status = sa.text("SHOW STATUS LIKE 'ssl_version'")
                    assert connection.execute(status).one()[1].startswith("TLS")
                else:
                    mine = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
                    assert connection.scalar(sa.text(mine)) is True
            engine.dispose()
