"""Name the private servers that tests may start."""

from tests.support.database_server import APP_PASSWORD, APP_USER, DatabaseServer
from tests.support.mariadb import MariaDBServer
from tests.support.mysql9 import MySQLServer
from tests.support.postgresql import PostgreSQLServer
from tests.support.private_server import MissingServerError, ServerError

__all__ = [
    "APP_PASSWORD",
    "APP_USER",
    "DatabaseServer",
    "MariaDBServer",
    "MissingServerError",
    "MySQLServer",
    "PostgreSQLServer",
    "ServerError",
]
