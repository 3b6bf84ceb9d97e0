"""What may be shown of a database's URL, and what is taken out of messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from flask import Flask
from sqlalchemy import URL, create_engine, make_url

from flask_poolguard import PoolGuard
from flask_poolguard.urls import is_in_memory, public_url, server_key, unquoted_tail
from tests.conftest import Database
from tests.support.database_server import APP_PASSWORD
from tests.support.outputs import without_secrets
from tests.support.reporting import found, shops
from tests.support.shop import Shop

PASSWORD = "p@ss/w:rd 1"
SECRET = "hush-hush"

HARMLESS = {
    "charset": "utf8mb4",
    "unix_socket": "/run/db.sock",
    "sslmode": "require",
}
SECRET_OPTIONS = (
    "api_key",
    "auth",
    "init_command",
    "odbc_connect",
    "options",
    "password",
    "sslpassword",
    "token",
)


def url_with(**options: Any) -> URL:
    """Return a URL with a password and these options."""
    return URL.create(
        "postgresql+psycopg2", "app", PASSWORD, "db.test", 5433, "shop", options
    )


class TestPublicUrl:
    def test_the_password_is_left_out(self) -> None:
        shown = public_url(url_with())
        assert shown == "postgresql+psycopg2://app@db.test:5433/shop"

    @pytest.mark.parametrize("option", SECRET_OPTIONS)
    def test_an_option_that_is_not_known_to_be_harmless_is_left_out(
        self, option: str
    ) -> None:
        shown = public_url(url_with(**{option: SECRET}, charset="utf8"))
        assert shown == "postgresql+psycopg2://app@db.test:5433/shop?charset=utf8"

    def test_an_option_that_nobody_has_heard_of_is_left_out(self) -> None:
        assert SECRET not in public_url(url_with(something_new=SECRET))

    def test_an_option_that_is_given_twice_is_left_out(self) -> None:
        assert SECRET not in public_url(url_with(api_key=("other", SECRET)))

    @pytest.mark.parametrize("option", HARMLESS)
    def test_a_harmless_option_is_kept(self, option: str) -> None:
        shown = public_url(url_with(**{option: HARMLESS[option]}))
        assert shown.partition("?")[2] == f"{option}={quote_plus(HARMLESS[option])}"

    def test_a_url_that_is_text_is_treated_alike(self) -> None:
        url = url_with(api_key=SECRET, **HARMLESS)
        text = url.render_as_string(hide_password=False)
        assert SECRET in text
        assert public_url(text) == public_url(url)

    def test_nothing_secret_is_left_of_text_that_was_cut_off(self) -> None:
        url = url_with(api_key=SECRET).render_as_string(hide_password=False)
        text = url.replace("postgresql+psycopg2", "postgresql psycopg2")
        assert public_url(text) == "db.test:5433/shop"


# The host is db.test; each password has an "@" that is not quoted.
UNQUOTED = (
    "postgresql+psycopg2://app:s3cr/et@sauce@db.test:5433/shop",
    "postgresql+psycopg2://app:s3cr@sauce@more@db.test:5433/shop",
    "postgresql+psycopg2://app:s3cr@sauce/more@db.test:5433/shop",
    "postgresql+psycopg2://app:s3cr@sauce:1/more@db.test:5433/shop",
)


class TestAPasswordThatIsNotQuoted:
    @pytest.mark.parametrize("url", UNQUOTED)
    def test_is_left_out_up_to_the_host(self, url: str) -> None:
        expected = "postgresql+psycopg2://app@db.test:5433/shop"
        assert public_url(url) == public_url(make_url(url)) == expected
        assert public_url(expected) == expected
        assert server_key(url) == ("postgresql", "db.test", 5433)

    def test_is_left_out_before_a_port_that_is_no_number(self) -> None:
        url = "postgresql://app:s3cr@sauce/more@db.test:x/shop"
        assert public_url(url) == "postgresql://app@"

    @pytest.mark.parametrize("url", UNQUOTED)
    def test_is_hidden_where_a_driver_repeats_what_it_took_for_the_host(
        self, url: str
    ) -> None:
        parsed = make_url(url)
        message = f'no host "{parsed.host}", and no database "{parsed.database}"'
        hidden = without_secrets(message, parsed)
        assert "sauce" not in hidden
        assert "more" not in hidden
        assert without_secrets(hidden, parsed) == hidden

    @pytest.mark.parametrize(
        "url",
        [
            "mysql+pymysql://app:s3cr%40et@db.test/shop",
            "mysql+pymysql://app@corp:s3cr@db.test/shop",
            "mysql+pymysql://app:s3cr@db.test/shop?init_command=a@b",
            "sqlite:////srv/shop@home.db",
            "postgresql+psycopg2://app:s3cr/et@db.test/shop",
        ],
    )
    def test_is_not_seen_where_there_is_none(self, url: str) -> None:
        assert unquoted_tail(make_url(url)) == ""

    def test_is_warned_of_with_what_to_write(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = Flask("shop")
        engine = create_engine(UNQUOTED[0])
        PoolGuard(app).register(engine)
        with app.app_context():
            pass
        (warning,) = [each.getMessage() for each in caplog.records]
        assert "bind 'default'" in warning
        assert "must be written %40" in warning
        assert "sauce" not in warning
        app.extensions["poolguard"].app_tracker.remove_file()

    def test_is_named_by_the_finding(self) -> None:
        with shops() as make:
            (finding,) = found(
                make(default=create_engine(UNQUOTED[0])).report(), "server-unreachable"
            )
        assert "postgresql+psycopg2://app@db.test:5433/shop" in finding.message
        assert "must be written %40" in finding.message
        assert "sauce" not in finding.message


class TestMessages:
    @pytest.mark.parametrize(
        "form",
        [PASSWORD, quote(PASSWORD), quote(PASSWORD, ""), quote_plus(PASSWORD)],
    )
    def test_the_password_is_hidden_however_it_is_quoted(self, form: str) -> None:
        message = f"cannot log in with {form}, said the server"
        hidden = "cannot log in with ***, said the server"
        assert without_secrets(message, url_with()) == hidden

    @pytest.mark.parametrize("option", SECRET_OPTIONS)
    def test_the_value_of_an_option_is_hidden(self, option: str) -> None:
        url = url_with(**{option: "s3cr=t-4"})
        message = "unknown option s3cr=t-4 (s3cr%3Dt-4)"
        assert without_secrets(message, url) == "unknown option *** (***)"

    def test_every_value_of_an_option_is_hidden(self) -> None:
        url = url_with(api_key=("first", "second"))
        assert without_secrets("first, second, third", url) == "***, ***, third"

    def test_a_value_is_hidden_if_its_name_or_its_length_tells_that_it_is_secret(
        self,
    ) -> None:
        url = url_with(auth="four", pin="1234567", other="12345678")
        text = without_secrets("four of 1234567, 12345678", url)
        assert text == "*** of 1234567, ***"

    @pytest.mark.parametrize(
        "query",
        [
            "ssl=true",
            "ssl_mode=REQUIRED",
            "sslmode=verify-full",
            "gssencmode=disable",
            "sslrootcert=system",
            "auth_plugin=caching_sha2_password",
            "allow_public_key_retrieval=true",
            "keepalives_idle=30",
            "service=shop",
        ],
    )
    def test_an_option_that_is_no_secret_spoils_no_message(self, query: str) -> None:
        message = (
            "it is true that SSL is REQUIRED (not disable, but verify-full of system,"
            " 30 s) by caching_sha2_password of the shop"
        )
        url = make_url(f"postgresql+psycopg://app@db.test/shop?{query}")
        given = dict(url.query)
        assert without_secrets(message, url, given) == message

    def test_the_value_of_a_harmless_option_is_kept(self) -> None:
        url = url_with(**HARMLESS)
        message = "no utf8mb4 at /run/db.sock, but require"
        assert without_secrets(message, url) == message


def bytes_in(folder: Path) -> bytes:
    """Return what stands in a folder's only state file."""
    (file,) = folder.iterdir()
    return file.read_bytes()


class TestStateFile:
    def test_it_holds_no_secret_of_an_engine_that_never_connects(
        self, tmp_path: Path
    ) -> None:
        folder = tmp_path / "workers"
        app = Flask("shop")
        app.config["POOLGUARD_STATE_DIR"] = str(folder)
        secrets = {option: f"{SECRET}-{option}" for option in SECRET_OPTIONS}
        engine = create_engine(url_with(application_name="till", **secrets))
        PoolGuard(app).register(engine)
        app.test_client().get("/")
        written = bytes_in(folder)
        assert b"application_name=till" in written
        for form in (PASSWORD, quote(PASSWORD), quote(PASSWORD, ""), SECRET):
            assert form.encode() not in written
        app.extensions["poolguard"].app_tracker.remove_file()

    def test_it_holds_no_password_of_an_engine_that_is_used(
        self, served_database: Database, tmp_path: Path
    ) -> None:
        folder = tmp_path / "workers"
        with Shop(served_database.url, POOLGUARD_STATE_DIR=str(folder)) as shop:
            with shop.app.app_context():
                shop.engine.connect().close()
            written = bytes_in(folder)
            assert str(shop.url.database).encode() in written
            assert APP_PASSWORD.encode() not in written


class TestTheSameServer:
    @pytest.mark.parametrize(
        "urls",
        [
            (
                "mysql+pymysql://a@localhost/x",
                "mysql+pymysql://b@127.0.0.1:3306/y",
                "mysql+asyncmy://a@[::1]/x",
                "mariadb+mysqldb://a@127.0.0.1/x",
                "mysql+pymysql://a@:3306/x",
            ),
            (
                "postgresql://LOCALHOST/x",
                "postgresql+psycopg://127.0.0.1:5432/x",
                "postgresql:///x?host=::1",
                "postgresql:///x?host=localhost&port=5432",
                "postgresql:///x?host=127.0.0.1:5432",
                "postgresql+pg8000://a@:5432/x",
            ),
            (
                "mysql+pymysql://a@127.0.0.1:3306/x?unix_socket=/run/db.sock",
                "mysql+mysqldb://a@localhost:3307/x?unix_socket=/run/db.sock",
                "mysql://a@/x?unix_socket=/run/db.sock",
            ),
            ("mysql+mysqldb://a@localhost/x", "mysql://a@localhost:3307/y"),
            ("postgresql:///x?host=/run/db", "postgresql:///y?host=/run/db&port=5432"),
            ("mysql+pymysql://DB/x", "mysql+pymysql://db:3306/x"),
        ],
        ids=lambda urls: urls[0],
    )
    def test_is_known_by_all_of_its_addresses(self, urls: tuple[str, ...]) -> None:
        (key,) = {server_key(url) for url in urls}
        assert key is not None

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("mysql+pymysql://localhost/x", "mysql+pymysql://localhost:3307/x"),
            ("mysql+pymysql://localhost/x", "mysql+pymysql://db/x"),
            ("mysql+pymysql://localhost/x", "mysql+mysqldb://localhost/x"),
            (
                "mysql+pymysql://localhost/x",
                "mysql+pymysql://localhost/x?unix_socket=/run/db.sock",
            ),
            (
                "mysql+mysqldb://127.0.0.1/x?unix_socket=/run/db.sock",
                "mysql+mysqldb:///x?unix_socket=/run/db.sock",
            ),
            ("postgresql:///x?host=/run/db", "postgresql:///x?host=/run/DB"),
            ("postgresql:///x?host=/run/db", "postgresql:///x?host=/run/db&port=5433"),
            ("postgresql://localhost/x", "postgresql:///x?host=/run/db"),
            ("postgresql:///x?host=db&port=5433", "postgresql:///x?host=db"),
            ("postgresql://localhost:3306/x", "mysql+pymysql://localhost/x"),
        ],
    )
    def test_is_not_taken_for_another(self, one: str, other: str) -> None:
        assert server_key(one) is not None
        assert server_key(one) != server_key(other)

    @pytest.mark.parametrize(
        "url",
        ["sqlite:///x", "postgresql:///x", "postgresql://a@:5433/x", "mysql:///x"],
    )
    def test_is_unknown_where_the_url_does_not_say(self, url: str) -> None:
        assert server_key(url) is None


class TestADatabaseInMemory:
    @pytest.mark.parametrize(
        "url",
        [
            "sqlite://",
            "sqlite:///:memory:",
            "sqlite+aiosqlite://",
            "sqlite:///file:shop?mode=memory&cache=shared&uri=true",
            "sqlite:///file::memory:?cache=shared&uri=true",
            "sqlite:///file:%3Amemory%3A?uri=1",
            "sqlite:///file:/shop?vfs=memdb&uri=true",
            "sqlite:///file:?uri=true",
        ],
    )
    def test_is_known_by_its_url(self, url: str) -> None:
        assert is_in_memory(make_url(url))

    @pytest.mark.parametrize(
        "url",
        [
            "sqlite:///shop.db",
            "sqlite:////srv/:memory:",
            "sqlite:///file:shop?cache=shared&uri=true",
            "sqlite:///file:shop?mode=rwc&uri=true",
            # Without uri=true they are names of files.
            "sqlite:///file::memory:?cache=shared",
            "sqlite:///file:shop?mode=memory&uri=false",
            "sqlite:///file:shop?mode=memory&uri=perhaps",
            "postgresql://",
            "mysql:///?mode=memory&uri=true",
        ],
    )
    def test_is_not_taken_for_one(self, url: str) -> None:
        assert not is_in_memory(make_url(url))
