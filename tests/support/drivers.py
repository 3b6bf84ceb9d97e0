"""The drivers that tests go by, and connections of theirs without SQLAlchemy."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

POSTGRESQL_DRIVERS = ["postgresql+psycopg2", "postgresql+psycopg"]
# Those that the tests require; mysqlclient comes in where it is installed.
REQUIRED_DRIVERS = ["mysql+pymysql", *POSTGRESQL_DRIVERS]
MYSQL_DRIVERS = ["mysql+pymysql"]
if importlib.util.find_spec("MySQLdb"):
    MYSQL_DRIVERS.append("mysql+mysqldb")
# SQLAlchemy knows each of them by a second name.
MYSQL_AND_MARIADB_DRIVERS = [
    *MYSQL_DRIVERS,
    *(name.replace("mysql+", "mariadb+") for name in MYSQL_DRIVERS),
]
DRIVERS = [*MYSQL_DRIVERS, *POSTGRESQL_DRIVERS]


@contextmanager
def driver_connection(url: sa.URL, **arguments: Any) -> Iterator[Any]:
    """Give the driver's connection, which no pool looks after.

    :param arguments: of the driver, besides those of the URL.
    """
    dialect = sa.create_engine(url).dialect
    positional, keywords = dialect.create_connect_args(url)
    connection = dialect.connect(*positional, **{**keywords, **arguments})
    try:
        yield connection
    finally:
        if getattr(connection, "open", True):  # PyMySQL does not like a second close
            connection.close()
