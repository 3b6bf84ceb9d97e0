"""Connections carry a label that says whose they are."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from flask_poolguard.databases import Label, for_dialect, make_label, parse_label
from flask_poolguard.databases.labels import own_label
from tests.conftest import started
from tests.support.drivers import POSTGRESQL_DRIVERS
from tests.support.forking import in_child
from tests.support.guarded_app import guarded_engine, make_app
from tests.support.servers import APP_USER, DatabaseServer, MariaDBServer

pytestmark = pytest.mark.every_product

OWN = f"shop@{socket.gethostname()}:{os.getpid()}"
SEEN_BY_MARIADB = (
    "SELECT ATTR_VALUE FROM performance_schema.session_account_connect_attrs"
    " WHERE ATTR_NAME = 'program_name' AND PROCESSLIST_ID = CONNECTION_ID()"
)


@pytest.fixture(scope="module")
def watched_mariadb() -> Iterator[DatabaseServer]:
    """Run a MariaDB that keeps connection attributes."""
    yield from started(lambda: MariaDBServer(performance_schema="ON"))


@pytest.fixture
def watched_url(watched_mariadb: DatabaseServer) -> Iterator[sa.URL]:
    """Return the URL of a fresh database on that server."""
    name = watched_mariadb.create_database()
    yield watched_mariadb.url(database=name)
    watched_mariadb.drop_database(name)


def seen(connection: sa.Connection) -> str | None:
    """Return the name of a connection as its server knows it."""
    if connection.dialect.name == "postgresql":
        return str(connection.exec_driver_sql("SHOW application_name").scalar())
    found = connection.exec_driver_sql(SEEN_BY_MARIADB).scalar()
    return None if found is None else str(found)


def label_of(url: sa.URL, **config: Any) -> str | None:
    """Return the name of a new connection of a guarded app."""
    with guarded_engine(url, **config) as engine, engine.connect() as connection:
        return seen(connection)


class TestText:
    def test_names_app_host_and_process(self) -> None:
        assert str(make_label("shop", "web1", 42, 63)) == "shop@web1:42"

    @pytest.mark.parametrize("app", ["shop", "a@b", "a:b c", ""])
    def test_can_be_parsed_back(self, app: str) -> None:
        label = make_label(app, "web1.example.org", 4123, 63)
        assert label == Label(app, "web1.example.org", 4123)
        assert parse_label(str(label)) == label

    @pytest.mark.parametrize(
        "text", ["", "psql", "a@b", "a@b:", "a@b:x", "a@b:0", "a@b:1 ", "@:1", "ä@b:1"]
    )
    def test_of_somebody_else_is_none(self, text: str) -> None:
        assert parse_label(text) is None

    def test_has_plain_characters_only(self) -> None:
        label = str(make_label("läd\n", "hø@st:", 1, 63))
        assert re.fullmatch(r"l\?d\?~[0-9a-f]{4}@h\?\?st\?:1", label)

    def test_of_apps_that_differ_in_other_characters_differs(self) -> None:
        names = ("größe", "grüße", "gr??e", "gr\udcffße")
        assert len({make_label(each, "web1", 1, 63) for each in names}) == len(names)

    def test_with_other_characters_is_known_again(self) -> None:
        label = make_label("größe", "web1", 1, 63)
        assert label is not None
        assert parse_label(str(label)) == label

    def test_is_none_where_a_sum_has_no_room(self) -> None:
        assert make_label("é", "h", 1, 9) is None
        assert make_label("é", "h", 1, 10) is not None

    def test_is_none_on_a_host_without_a_name(self) -> None:
        assert make_label("shop", "", 1, 63) is None

    def test_is_cut_in_the_apps_name_alone(self) -> None:
        label = make_label("a" * 100, "web1", 4123, 63)
        assert len(str(label)) == 63
        assert re.fullmatch(r"a+~[0-9a-f]{4}@web1:4123", str(label))

    def test_of_apps_that_begin_alike_differs_when_it_is_cut(self) -> None:
        one, other = (make_label("a" * 100 + end, "web1", 1, 63) for end in "xy")
        assert one != other

    @pytest.mark.parametrize("longest", [13, 14, 15, 16, 63])
    def test_never_is_longer_than_what_the_server_keeps(self, longest: int) -> None:
        label = make_label("bookshop", "web1", 42, longest)
        assert label is None or len(str(label)) <= longest
        assert (label is None) == (longest < 14)

    def test_is_none_where_host_and_process_have_no_room(self) -> None:
        assert make_label("shop", "h" * 60, 1, 63) is None


class TestServer:
    @pytest.mark.parametrize("driver", POSTGRESQL_DRIVERS)
    def test_postgresql_sees_it(self, driver: str, postgresql_url: sa.URL) -> None:
        assert label_of(postgresql_url.set(drivername=driver)) == OWN

    def test_mariadb_sees_it(self, watched_url: sa.URL) -> None:
        assert label_of(watched_url) == OWN

    @pytest.mark.parametrize("kind", ["queue", "null"])
    def test_sees_it_on_every_connection(
        self, postgresql_url: sa.URL, kind: str
    ) -> None:
        config = {"POOLGUARD_POOL_CLASS": kind}
        with guarded_engine(postgresql_url, **config) as engine:
            for _ in range(2):
                with engine.connect() as one, engine.connect() as other:
                    assert [seen(one), seen(other)] == [OWN, OWN]
                engine.dispose()

    def test_keeps_the_cut_one_whole(self, postgresql_url: sa.URL) -> None:
        app = make_app(postgresql_url)
        app.name = "s" * 80
        label = own_label(app.name, 63)
        with app.app_context():
            engine: sa.Engine = app.extensions["sqlalchemy"].engine
            with engine.connect() as connection:
                assert seen(connection) == label
        engine.dispose()
        assert label is not None
        assert len(label) == 63


@pytest.mark.parametrize("product", ["postgresql_url", "watched_url"])
class TestBothServers:
    @pytest.fixture
    def url(self, product: str, request: pytest.FixtureRequest) -> sa.URL:
        """Return the URL of a fresh database."""
        url: sa.URL = request.getfixturevalue(product)
        return url

    def test_see_none_where_it_is_off(self, url: sa.URL) -> None:
        assert not label_of(url, POOLGUARD_LABEL=False)

    def test_see_it_by_bind(self, url: sa.URL) -> None:
        binds = {"default": {"label": False}}
        assert not label_of(url, POOLGUARD_BINDS=binds)

    @pytest.mark.process
    def test_see_the_number_of_the_process_that_connects(self, url: sa.URL) -> None:
        with guarded_engine(url) as engine:
            with engine.connect() as connection:
                assert seen(connection) == OWN

            def check() -> None:
                with engine.connect() as connection:
                    assert seen(connection) == OWN.replace(f":{pid}", f":{os.getpid()}")
                engine.dispose()

            pid = os.getpid()
            in_child(check)
            with engine.connect() as connection:
                assert seen(connection) == OWN


def options(**connect_args: Any) -> dict[str, Any]:
    """Return the config of an app that passes arguments to its driver."""
    return {"SQLALCHEMY_ENGINE_OPTIONS": {"connect_args": connect_args}}


class TestUsersOwnName:
    def test_in_connect_args_stays(
        self, postgresql_url: sa.URL, watched_url: sa.URL
    ) -> None:
        assert label_of(postgresql_url, **options(application_name="mine")) == "mine"
        assert label_of(watched_url, **options(program_name="mine")) == "mine"

    def test_in_the_url_stays(
        self, postgresql_url: sa.URL, watched_url: sa.URL
    ) -> None:
        url = postgresql_url.update_query_dict({"application_name": "mine"})
        assert label_of(url) == "mine"
        url = watched_url.update_query_dict({"program_name": "mine"})
        assert label_of(url) == "mine"

    @pytest.mark.parametrize("driver", POSTGRESQL_DRIVERS)
    def test_in_the_environment_stays(
        self, driver: str, postgresql_url: sa.URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGAPPNAME", "mine")
        assert label_of(postgresql_url.set(drivername=driver)) == "mine"

    @pytest.mark.parametrize("driver", POSTGRESQL_DRIVERS)
    @pytest.mark.parametrize(
        "text", ["-c application_name=mine", "--Application-Name=mine"]
    )
    def test_among_the_servers_options_stays(
        self, driver: str, text: str, postgresql_url: sa.URL
    ) -> None:
        url = postgresql_url.set(drivername=driver)
        assert label_of(url, **options(options=text)) == "mine"

    def test_among_the_servers_options_in_the_environment_stays(
        self, postgresql_url: sa.URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGOPTIONS", "-c application_name=mine")
        assert label_of(postgresql_url) == "mine"

    def test_as_a_fallback_stays(self, postgresql_url: sa.URL) -> None:
        config = options(fallback_application_name="mine")
        assert label_of(postgresql_url, **config) == "mine"

    def test_in_a_dsn_stays(self, postgresql_url: sa.URL) -> None:
        config = options(dsn="application_name=mine")
        assert label_of(postgresql_url, **config) == "mine"


class TestDriversArguments:
    """What drivers get that are not installed for the tests."""

    def test_pg8000_takes_the_name_itself(self) -> None:
        arguments: dict[str, Any] = {}
        for_dialect("postgresql").label_connect(arguments, "pg8000", "shop")
        assert arguments == {"application_name": OWN}

    def test_asyncpg_takes_it_among_the_settings(self) -> None:
        users = {"jit": "off"}
        arguments: dict[str, Any] = {"server_settings": users}
        for_dialect("postgresql").label_connect(arguments, "asyncpg", "shop")
        assert arguments == {"server_settings": {"jit": "off", "application_name": OWN}}
        assert users == {"jit": "off"}
        # It refuses what is only derived from a str.
        assert type(arguments["server_settings"]["application_name"]) is str

    def test_asyncpg_keeps_the_users_own(self) -> None:
        arguments = {"server_settings": {"application_name": "mine"}}
        for_dialect("postgresql").label_connect(arguments, "asyncpg", "shop")
        assert arguments == {"server_settings": {"application_name": "mine"}}

    @pytest.mark.parametrize(
        ("dialect", "driver"),
        [
            ("mysql", "mysqldb"),
            ("mysql", "mysqlconnector"),
            ("postgresql", "unheard-of"),
            ("sqlite", "pysqlite"),
            ("oracle", "oracledb"),
        ],
    )
    def test_no_other_driver_gets_one(self, dialect: str, driver: str) -> None:
        arguments: dict[str, Any] = {}
        for_dialect(dialect).label_connect(arguments, driver, "shop")
        assert arguments == {}


def test_the_account_of_the_tests_may_not_see_others_attributes(
    watched_mariadb: DatabaseServer, watched_url: sa.URL
) -> None:
    """Labels are seen without a privilege, as these tests claim."""
    (grants,) = zip(
        *watched_mariadb.query(f"SHOW GRANTS FOR {APP_USER}@'%'"), strict=True
    )
    assert not any("performance_schema" in grant for grant in grants)
