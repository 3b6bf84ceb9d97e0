"""What a report finds about the room that servers, users and databases have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import URL, create_engine

from flask_poolguard.databases import for_dialect
from flask_poolguard.report import Plan
from tests.conftest import fresh_database, started
from tests.support.drivers import driver_connection
from tests.support.reporting import MakeShop, found, sessions, the_one
from tests.support.servers import (
    APP_PASSWORD,
    DatabaseServer,
    MariaDBServer,
    PostgreSQLServer,
)
from tests.support.waiting import wait_until

MAXIMUM = 20


@pytest.fixture(scope="module")
def small_mariadb() -> Iterator[DatabaseServer]:
    """Run a MariaDB server that takes few connections."""
    yield from started(lambda: MariaDBServer(max_connections=MAXIMUM))


@pytest.fixture(scope="module")
def small_postgresql() -> Iterator[DatabaseServer]:
    """Run a PostgreSQL server that takes few connections, and reserves 3 of them."""
    yield from started(lambda: PostgreSQLServer(max_connections=MAXIMUM))


@pytest.fixture
def my(small_mariadb: DatabaseServer) -> Iterator[URL]:
    """Return the URL of a fresh database on the small MariaDB server."""
    yield from fresh_database(small_mariadb)


@pytest.fixture
def pg(small_postgresql: DatabaseServer) -> Iterator[URL]:
    """Return the URL of a fresh database on the small PostgreSQL server."""
    yield from fresh_database(small_postgresql)


@pytest.fixture
def teller(small_mariadb: DatabaseServer) -> Iterator[URL]:
    """Return the URL of a second account on the small MariaDB server."""
    small_mariadb.execute("CREATE USER teller IDENTIFIED BY 'x'")
    yield small_mariadb.url(user="teller", password="x")
    wait_until(
        lambda: not small_mariadb.session_ids(user="teller"), what="the teller's end"
    )
    small_mariadb.execute("DROP USER teller")


class TestAccounts:
    """Whose sessions count for the limit of an account of MariaDB."""

    @pytest.fixture
    def limited(self, small_mariadb: DatabaseServer) -> Iterator[None]:
        """Limit the app's account."""
        small_mariadb.execute("ALTER USER app WITH MAX_USER_CONNECTIONS 10")
        yield
        small_mariadb.execute("ALTER USER app WITH MAX_USER_CONNECTIONS 0")

    @pytest.fixture
    def by_socket(self, my: URL, small_mariadb: DatabaseServer) -> URL:
        """Return the same URL through the server's socket."""
        return my.set(host=None, port=None).update_query_dict(
            {"unix_socket": str(small_mariadb.socket_path)}
        )

    @pytest.fixture
    def namesake(
        self, my: URL, small_mariadb: DatabaseServer, by_socket: URL
    ) -> Iterator[URL]:
        """Return the URL of another account of the app's name, which has no limit."""
        small_mariadb.execute("CREATE USER app@localhost IDENTIFIED BY 'x'")
        yield by_socket.set(password="x", database=None)
        wait_until(lambda: not small_mariadb.session_ids(), what="the namesake's end")
        small_mariadb.execute("DROP USER app@localhost")

    @pytest.fixture
    def with_process(self, small_mariadb: DatabaseServer) -> Iterator[None]:
        """Let the app's account see the sessions of all others."""
        small_mariadb.execute("GRANT PROCESS ON *.* TO app")
        yield
        small_mariadb.execute("REVOKE PROCESS ON *.* FROM app")

    @pytest.fixture
    def in_the_know(self, small_mariadb: DatabaseServer) -> Iterator[None]:
        """Let the app's account see which accounts there are."""
        small_mariadb.execute("GRANT SELECT ON mysql.user TO app")
        yield
        small_mariadb.execute("REVOKE SELECT ON mysql.user FROM app")

    @staticmethod
    def used(url: URL) -> int | None:
        """Return how many sessions count for the app's account."""
        with driver_connection(url) as connection:
            (limit,) = for_dialect("mysql").view(connection).limits
        assert limit.limit == 10
        return limit.used

    @pytest.mark.usefixtures("limited")
    def test_all_from_one_place_do(self, my: URL) -> None:
        with sessions(my, 3):
            assert self.used(my) == 3

    @pytest.mark.usefixtures("limited", "with_process")
    @pytest.mark.parametrize("knows", [False, True])
    def test_those_of_a_namesake_leave_it_unknown(
        self,
        make_shop: MakeShop,
        request: pytest.FixtureRequest,
        my: URL,
        namesake: URL,
        knows: bool,
    ) -> None:
        if knows:
            request.getfixturevalue("in_the_know")
        with sessions(namesake, 8), sessions(my, 3):
            assert self.used(my) is None
            shop = make_shop({"POOLGUARD_POOL_SIZE": 1}, default=create_engine(my))
            shop.use()
            assert not found(shop.report(), "full")
            shop.engines["default"].dispose()

    @pytest.mark.usefixtures("limited", "in_the_know")
    def test_those_from_elsewhere_do_if_there_is_no_namesake(
        self, my: URL, by_socket: URL
    ) -> None:
        with sessions(by_socket, 2), sessions(my, 3):
            assert self.used(my) == 5


class TestBudget:
    def test_leaves_out_what_is_reserved_on_postgresql(
        self, make_shop: MakeShop, pg: URL
    ) -> None:
        shop = make_shop(
            {"POOLGUARD_POOL_SIZE": 18, "POOLGUARD_MAX_OVERFLOW": 0},
            default=create_engine(pg),
        )
        shop.use()
        finding = the_one(shop.report(), "budget")
        assert "allows 17 (20 less 3 reserved)" in finding.message
        assert finding.level == "warning"

    def test_counts_no_reserve_for_a_superuser(
        self, make_shop: MakeShop, pg: URL, small_postgresql: DatabaseServer
    ) -> None:
        small_postgresql.execute("ALTER ROLE app SUPERUSER")
        try:
            shop = make_shop(
                {"POOLGUARD_POOL_SIZE": 18, "POOLGUARD_MAX_OVERFLOW": 0},
                default=create_engine(pg),
            )
            shop.use()
            assert not found(shop.report(), "budget")
        finally:
            small_postgresql.execute("ALTER ROLE app NOSUPERUSER")

    def test_leaves_out_what_others_use_now(self, make_shop: MakeShop, my: URL) -> None:
        shop = make_shop(default=create_engine(my))  # 15
        shop.use()
        with sessions(my, 5):
            assert not found(shop.report(), "budget")
        with sessions(my, 6):
            finding = the_one(shop.report(), "budget")
        assert finding.message.endswith("allows 20, of which others use 6 now")
        # 20 - 6 of others - 2 head room, as `flask pool advise` reckons.
        assert "a worker's pools have 12 at most, which leaves a tenth" in finding.fix

    def test_is_no_alarm_while_nobody_fails(self, make_shop: MakeShop, my: URL) -> None:
        shop = make_shop(default=create_engine(my))
        shop.use()
        with sessions(my, 18):
            assert the_one(shop.report(), "budget").level == "warning"

    @pytest.mark.parametrize("is_option", [False, True])
    def test_goes_by_the_limit_of_a_role(
        self,
        make_shop: MakeShop,
        pg: URL,
        small_postgresql: DatabaseServer,
        is_option: bool,
    ) -> None:
        small_postgresql.execute("ALTER ROLE app CONNECTION LIMIT 12")
        url = pg
        if is_option:
            options = {"user": "app", "password": APP_PASSWORD}
            url = URL.create(
                pg.drivername,
                host=pg.host,
                port=pg.port,
                database=pg.database,
                query=options,
            )
        try:
            shop = make_shop(default=create_engine(url))
            shop.use()
            finding = the_one(shop.report(), "budget")
        finally:
            small_postgresql.execute("ALTER ROLE app CONNECTION LIMIT -1")
        assert f"user app at 127.0.0.1:{pg.port} allows 12" in finding.message
        assert 'ALTER ROLE "app" CONNECTION LIMIT' in finding.fix

    def test_goes_by_the_limit_of_a_database(
        self, make_shop: MakeShop, pg: URL, small_postgresql: DatabaseServer
    ) -> None:
        name = pg.database
        small_postgresql.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 12")
        other = pg.set(database=small_postgresql.create_database())
        try:
            # The second bind's database has no such limit.
            shop = make_shop(
                {"POOLGUARD_BINDS": {"b": {"pool_size": 1, "max_overflow": 0}}},
                default=create_engine(pg),
                b=create_engine(other),
            )
            shop.use()
            shop.use("b")
            finding = the_one(shop.report(), "budget")
        finally:
            small_postgresql.drop_database(str(other.database))
        assert "open 15 connections: 1 × 15 (default); database" in finding.message
        assert f"database {name} at 127.0.0.1:{pg.port} allows 12" in finding.message

    def test_goes_by_the_limit_of_an_account_on_mariadb(
        self,
        make_shop: MakeShop,
        my: URL,
        small_mariadb: DatabaseServer,
        teller: URL,
    ) -> None:
        small_mariadb.execute("ALTER USER app WITH MAX_USER_CONNECTIONS 12")
        try:
            with sessions(teller, 3):
                shop = make_shop(default=create_engine(my))
                shop.use()
                finding = the_one(shop.report(), "budget")
        finally:
            small_mariadb.execute("ALTER USER app WITH MAX_USER_CONNECTIONS 0")
        # Other users' sessions do not count.
        assert finding.message.endswith(f"user app at 127.0.0.1:{my.port} allows 12")
        assert "ALTER USER" in finding.fix

    def test_goes_by_the_limit_of_all_users_on_mariadb(
        self, make_shop: MakeShop, my: URL, small_mariadb: DatabaseServer
    ) -> None:
        # The server refuses to count users who connected while this was 0.
        small_mariadb.restart(max_user_connections=12)
        try:
            shop = make_shop(default=create_engine(my))
            shop.use()
            finding = the_one(shop.report(), "budget")
        finally:
            small_mariadb.restart(max_user_connections=0)
        assert "allows 12" in finding.message
        assert "the server's max_user_connections" in finding.fix

    @pytest.mark.parametrize("privilege", ["CONNECTION ADMIN", "SUPER"])
    def test_goes_by_an_administrators_own_limit_only_on_mariadb(
        self, make_shop: MakeShop, privilege: str
    ) -> None:
        with MariaDBServer(max_connections=50, max_user_connections=5) as server:
            server.execute("CREATE USER boss IDENTIFIED BY 'x'")
            server.execute(f"GRANT {privilege} ON *.* TO boss")
            url = server.url(user="boss", password="x")
            size = {"POOLGUARD_POOL_SIZE": 8, "POOLGUARD_MAX_OVERFLOW": 0}
            shop = make_shop(size, default=create_engine(url))
            with ExitStack() as stack:
                stack.enter_context(shop.app.app_context())
                for _ in range(8):
                    stack.enter_context(shop.engines["default"].connect())
                codes = {each.code for each in shop.report().findings}
            server.execute("ALTER USER boss WITH MAX_USER_CONNECTIONS 7")
            shop.engines["default"].dispose()
            shop.use()
            finding = the_one(shop.report(), "budget")
            shop.engines["default"].dispose()
        assert codes.isdisjoint({"budget", "full"})
        assert "user boss at" in finding.message
        assert finding.message.endswith("allows 7")

    def test_of_a_plan_counts_its_workers_and_hosts(
        self, make_shop: MakeShop, my: URL
    ) -> None:
        engine = create_engine(my)
        shop = make_shop(
            {"POOLGUARD_POOL_SIZE": 2, "POOLGUARD_MAX_OVERFLOW": 1}, default=engine
        )
        fits = shop.diagnose(Plan(workers=3, hosts=2))
        assert not found(fits, "budget")
        finding = the_one(shop.diagnose(Plan(workers=7)), "budget")
        assert finding.message.startswith("7 workers may open 21 connections: 7 × 3")
        finding = the_one(shop.diagnose(Plan(workers=4, hosts=2)), "budget")
        assert finding.message.startswith("8 workers may open 24 connections: 8 × 3")
        assert "2 at most" in finding.fix

    def test_of_a_plan_takes_this_users_sessions_for_the_apps(
        self, make_shop: MakeShop, my: URL, teller: URL
    ) -> None:
        shop = make_shop(
            {"POOLGUARD_POOL_SIZE": 2, "POOLGUARD_MAX_OVERFLOW": 0},
            default=create_engine(my),
        )
        plan = Plan(workers=9)
        with sessions(my, 5):
            assert not found(shop.diagnose(plan), "budget")
        with sessions(teller, 5):
            finding = the_one(shop.diagnose(plan), "budget")
        assert "of which others use 5 now" in finding.message

    def test_of_a_plan_takes_the_sessions_of_all_its_users_for_the_apps(
        self, make_shop: MakeShop, my: URL, teller: URL
    ) -> None:
        shop = make_shop(
            {"POOLGUARD_POOL_SIZE": 5, "POOLGUARD_MAX_OVERFLOW": 0},
            default=create_engine(my),
            b=create_engine(teller),
        )
        for name in ("default", "b"):
            with ExitStack() as stack:
                for _ in range(5):
                    stack.enter_context(shop.engines[name].connect())
        assert not found(shop.diagnose(Plan(workers=2)), "budget")
        finding = the_one(shop.diagnose(Plan(workers=3)), "budget")
        assert finding.message.endswith(f"allows {MAXIMUM}")

    def test_of_more_hosts_multiplies_the_workers_that_are_found(
        self, make_shop: MakeShop, my: URL
    ) -> None:
        shop = make_shop(default=create_engine(my))
        shop.use()
        finding = the_one(shop.diagnose(Plan(hosts=2)), "budget")
        assert finding.message.startswith("2 workers may open 30 connections: 2 × 15")

    def test_without_room_for_one_each_asks_for_fewer_workers(
        self, make_shop: MakeShop, my: URL
    ) -> None:
        shop = make_shop(default=create_engine(my))
        finding = the_one(shop.diagnose(Plan(workers=21)), "budget")
        assert finding.fix.startswith("Start 18 workers at most")


class TestFull:
    @pytest.mark.parametrize(("name", "count"), [("my", 19), ("pg", 16)])
    def test_begins_beyond_nine_tenths(
        self,
        make_shop: MakeShop,
        request: pytest.FixtureRequest,
        name: str,
        count: int,
    ) -> None:
        url: URL = request.getfixturevalue(name)
        shop = make_shop({"POOLGUARD_POOL_SIZE": 2}, default=create_engine(url))
        shop.use()
        with sessions(url, count - 2):
            assert not found(shop.report(), "full")
        with sessions(url, count - 1):
            finding = the_one(shop.report(), "full")
            with shop.app.app_context(), ExitStack() as stack:
                # Requests fail, or wait, only when all is taken.
                stack.enter_context(shop.engines["default"].connect())
                assert the_one(shop.report(), "full").level == "warning"
        assert finding.level == "warning"
        assert finding.message.startswith(f"The server 127.0.0.1:{url.port} has")
        assert f"has {count} of " in finding.message
        assert "1 of them by this app's workers on this host" in finding.message

    def test_names_who_has_most_where_all_are_shown(
        self, make_shop: MakeShop, pg: URL
    ) -> None:
        shop = make_shop(default=create_engine(pg))
        with sessions(pg, 16):
            finding = the_one(shop.report(), "full")
        assert finding.message.endswith("(by user, most first: app 16)")

    @pytest.mark.parametrize(
        ("name", "limit"),
        [
            ("my", "ALTER USER app WITH MAX_USER_CONNECTIONS {}"),
            ("pg", "ALTER ROLE app CONNECTION LIMIT {}"),
        ],
    )
    def test_is_nothing_that_the_apps_own_pools_can_reach(
        self,
        make_shop: MakeShop,
        request: pytest.FixtureRequest,
        name: str,
        limit: str,
    ) -> None:
        url: URL = request.getfixturevalue(name)
        server: DatabaseServer = request.getfixturevalue(
            "small_mariadb" if name == "my" else "small_postgresql"
        )
        server.execute(limit.format(11))
        try:
            shop = make_shop(
                {"POOLGUARD_POOL_SIZE": 10, "POOLGUARD_MAX_OVERFLOW": 0},
                default=create_engine(url),
            )
            with shop.app.app_context(), ExitStack() as stack:
                for _ in range(10):
                    stack.enter_context(shop.engines["default"].connect())
            alone = shop.report()
            planned = shop.diagnose(Plan(workers=2))
            with shop.app.app_context(), shop.engines["default"].connect() as one:
                one.invalidate()
            with sessions(url, 1):
                wait_until(
                    lambda: len(server.session_ids(database=url.database)) == 10,
                    what="the end of the one that was given up",
                )
                shared = shop.report()
            shop.engines["default"].dispose()
            with sessions(url, 9):
                shop.use()
                wait_until(
                    lambda: len(server.session_ids(database=url.database)) == 10,
                    what="the end of all others",
                )
                short = shop.report()
        finally:
            server.execute(limit.format(0 if name == "my" else -1))
        assert not found(alone, "full")
        assert not found(alone, "budget")
        assert {each.level for each in found(planned, "budget")} == {"warning"}
        finding = the_one(shared, "full")
        assert finding.level == "warning"
        assert finding.message == (
            f"User app at 127.0.0.1:{url.port} has 10 of 11 connections in use, 9 of"
            " them by this app's workers on this host, which may open 1 more"
        )
        finding = the_one(short, "full")
        assert finding.level == "warning"
        assert "by user" not in finding.message

    def test_names_whose_a_databases_sessions_are(
        self, make_shop: MakeShop, pg: URL, small_postgresql: DatabaseServer
    ) -> None:
        small_postgresql.execute(f"ALTER DATABASE {pg.database} CONNECTION LIMIT 11")
        other = pg.set(database=small_postgresql.create_database())
        try:
            shop = make_shop(default=create_engine(pg))
            with sessions(pg, 10), sessions(other, 2):
                finding = the_one(shop.report(), "full")
        finally:
            small_postgresql.drop_database(str(other.database))
        assert finding.message.endswith("(by user, most first: app 10)")

    def test_names_nobody_where_others_are_hidden(
        self, make_shop: MakeShop, my: URL, teller: URL
    ) -> None:
        shop = make_shop(default=create_engine(my))
        with sessions(teller, 18), sessions(my, 1):
            finding = the_one(shop.report(), "full")
        assert "by user" not in finding.message

    @pytest.mark.parametrize("name", ["my", "pg"])
    def test_is_what_a_refusal_says(
        self, make_shop: MakeShop, request: pytest.FixtureRequest, name: str
    ) -> None:
        url: URL = request.getfixturevalue(name)
        shop = make_shop(default=create_engine(url))
        with sessions(url, 17 if name == "pg" else MAXIMUM):
            report = shop.report()
        finding = the_one(report, "full")
        assert "refuses connections" in finding.message
        assert APP_PASSWORD not in finding.message
        assert not found(report, "server-unreachable")
