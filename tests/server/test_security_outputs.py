"""No output shows a password, in any way that URL, driver and server show it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from logging import Formatter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from flask_poolguard import PoolGuard
from tests.conftest import Database
from tests.support.outputs import all_shown, files_in

SECRET = "hush'hush\n\x1b[31m 4%/7+1"
UNQUOTED = (
    "{driver}://app:s3cr@sauce@127.0.0.1:1/shop",
    "{driver}://app:s3cr@sauce/s3cr@127.0.0.1:1/shop",
    "{driver}://app:s3cr@sauce?x=s3cr@127.0.0.1:1/shop",
)


class Shown:
    """An app whose one engine cannot connect, and all that is shown of it."""

    def __init__(self, url: Any, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.app = Flask("shop")
        self.app.config.update(
            POOLGUARD_STATE_DIR=str(folder),
            POOLGUARD_CONNECT_RETRY=0,
            POOLGUARD_CONNECT_TIMEOUT=5,
            POOLGUARD_MIN_IDLE=1,
        )
        guard = PoolGuard(self.app)
        self.engine: Engine = create_engine(url, **options)
        guard.register(self.engine)
        self.app.register_blueprint(guard.blueprint(auth=None))
        self.notes: list[str] = []
        self._error: BaseException = RuntimeError("none")

    def use(self) -> None:
        """Try to connect, from a request and in the background."""
        with self.app.app_context():
            for _ in range(2):
                with contextlib.suppress(SQLAlchemyError, UnicodeError, TypeError):
                    self._connect()
        filling = self.app.extensions["poolguard"].idle_filling
        with contextlib.suppress(Exception):  # it is logged
            filling.fill()
        pool: Any = self.engine.pool
        pool.idle_filler._failed(self._error)
        self.notes += [pool.outage or "", pool._breaker.outage or ""]

    def _connect(self) -> None:
        try:
            self.engine.connect()
        except BaseException as error:
            self._error = error
            self.notes += getattr(error, "__notes__", [])
            raise

    def everything(self, caplog: pytest.LogCaptureFixture) -> dict[str, str]:
        """Return all that is shown, logged, kept and noted."""
        shown = all_shown(self.app)
        logged = [each for each in caplog.records if each.name == "flask_poolguard"]
        shown["log"] = "\n".join(Formatter().format(each) for each in logged)
        shown["notes"] = "\n".join(self.notes)
        return shown | files_in(self.folder)

    def close(self) -> None:
        """End it."""
        self.engine.dispose()
        self.app.extensions["poolguard"].app_tracker.remove_file()


@pytest.fixture
def made() -> Iterator[list[Shown]]:
    """Collect apps, and end them."""
    found: list[Shown] = []
    yield found
    for each in found:
        each.close()


@pytest.mark.parametrize("text", UNQUOTED)
def test_of_a_url_that_is_not_quoted(
    driver_database: Database,
    text: str,
    tmp_path: Path,
    made: list[Shown],
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = make_url(text.format(driver=driver_database.url.drivername))
    shown = Shown(url, tmp_path / "state")
    made.append(shown)
    shown.use()
    found = shown.everything(caplog)
    assert "must be written %40" in found["doctor --json"]
    for name, each in found.items():
        assert "sauce" not in each, name
        assert "s3cr" not in each, name


@pytest.mark.parametrize("text", UNQUOTED)
def test_of_a_url_that_is_not_quoted_by_pg8000(
    text: str, tmp_path: Path, made: list[Shown], caplog: pytest.LogCaptureFixture
) -> None:
    """Its errors are worded in Python, and repeat more."""
    pytest.importorskip("pg8000", reason="pg8000 is not installed")
    shown = Shown(text.format(driver="postgresql+pg8000"), tmp_path / "state")
    made.append(shown)
    shown.use()
    for name, each in shown.everything(caplog).items():
        assert "sauce" not in each, name
        assert "s3cr" not in each, name


def test_the_drivers_own_error_stays_as_it_is(
    tmp_path: Path, made: list[Shown]
) -> None:
    """Only what the guard adds and shows is its own to word."""
    url = UNQUOTED[0].format(driver="postgresql+psycopg2")
    shown = Shown(url, tmp_path / "state")
    made.append(shown)
    with shown.app.app_context(), pytest.raises(DBAPIError, match="sauce"):
        shown.engine.connect()


def test_of_a_server_that_refuses_it(
    driver_database: Database,
    tmp_path: Path,
    made: list[Shown],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown = Shown(driver_database.url.set(password=SECRET), tmp_path / "state")
    made.append(shown)
    shown.use()
    for name, each in shown.everything(caplog).items():
        for form in (SECRET, quote(SECRET), quote(SECRET, ""), SECRET[:9]):
            assert form not in each, name


@pytest.mark.parametrize("where", ["query", "connect_args"])
@pytest.mark.parametrize("option", ["password", "sslpassword", "options", "made_up"])
def test_of_an_option(
    driver_database: Database,
    where: str,
    option: str,
    tmp_path: Path,
    made: list[Shown],
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret, url, arguments = "hush-hush-4711", driver_database.url, {}
    value = f"-c made.up={secret}" if option == "options" else secret
    if where == "query":
        url = url.update_query_dict({option: value})
    else:
        arguments[option] = value
    shown = Shown(url, tmp_path / "state", connect_args=arguments)
    made.append(shown)
    shown.use()
    for name, each in shown.everything(caplog).items():
        assert secret not in each, name


def test_of_a_server_that_repeats_it(
    served_database: Database,
    tmp_path: Path,
    made: list[Shown],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In a syntax error, say, which the notes on later errors tell again."""
    shown = Shown(served_database.url, tmp_path / "state")
    made.append(shown)
    password = str(served_database.url.password)
    with shown.app.app_context(), shown.engine.connect() as connection:
        for sql in (f"SELECT {password} {password} FROM", "SELECT 1"):
            try:
                connection.exec_driver_sql(sql)
            except DBAPIError as error:
                shown.notes += getattr(error, "__notes__", [])
    for name, each in shown.everything(caplog).items():
        assert password not in each, name


@pytest.fixture(autouse=True)
def log_all(caplog: pytest.LogCaptureFixture) -> None:
    """Show what the guard logs."""
    caplog.set_level(logging.DEBUG, "flask_poolguard")
