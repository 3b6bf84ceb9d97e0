"""Name the private servers that tests may start."""

from tests.support.database_server import (
    APP_PASSWORD,
    APP_USER,
    DatabaseServer,
    MissingServerError,
    ServerError,
)
from tests.support.mariadb import MariaDBServer
from tests.support.postgresql import PostgreSQLServer

__all__ = [
    "APP_PASSWORD",
    "APP_USER",
    "DatabaseServer",
    "MariaDBServer",
    "MissingServerError",
    "PostgreSQLServer",
    "ServerError",
]
