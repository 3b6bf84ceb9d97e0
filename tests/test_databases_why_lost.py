"""Why a session is gone, as far as its error alone tells."""

from __future__ import annotations

import ssl
from typing import Any

import psycopg
import psycopg2
import pymysql
import pytest
import sqlalchemy as sa

from flask_poolguard.databases import Loss, for_dialect

pytestmark = pytest.mark.every_product

GONE = "Lost connection to MySQL server during query"

MYSQL = [
    (1053, "Server shutdown in progress", Loss.SHUT_DOWN),
    (1153, "Got a packet bigger than 'max_allowed_packet' bytes", Loss.TOO_BIG),
    (1927, "Connection was killed", Loss.KILLED),
    (3169, "Die Sitzung wurde beendet", Loss.KILLED),
    (4031, "The client was disconnected by the server", Loss.IDLE),
    (2006, "MySQL server has gone away", Loss.UNKNOWN),
    (2006, "MySQL server has gone away (TimeoutError('timed out'))", Loss.NO_ANSWER),
    (2013, GONE, Loss.UNKNOWN),
    (2013, f"{GONE} (timed out)", Loss.NO_ANSWER),
    (2013, f"{GONE} (The read operation timed out)", Loss.NO_ANSWER),
    # The network's, not the driver's.
    (2013, f"{GONE} ([Errno 110] Connection timed out)", Loss.UNKNOWN),
    (
        2013,
        f"{GONE} ([SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] bad (_ssl.c:2580))",
        Loss.OUT_OF_STEP,
    ),
    (2014, "Command Out of Sync", Loss.OUT_OF_STEP),
]
POSTGRESQL = [
    ("terminating connection due to administrator command\n", Loss.TERMINATED),
    ("terminating connection due to idle-session timeout\n", Loss.IDLE),
    (
        "terminating connection due to idle-in-transaction timeout\nSSL connection has"
        " been closed unexpectedly\n",
        Loss.IDLE_IN_TRANSACTION,
    ),
    (
        "terminating connection because of crash of another server process\n",
        Loss.SHUT_DOWN,
    ),
    ("SSL error: decryption failed or bad record mac\n", Loss.OUT_OF_STEP),
    ('lost synchronization with server: got message type "e"\n', Loss.OUT_OF_STEP),
    ("SSL connection has been closed unexpectedly\n", Loss.UNKNOWN),
    ("server closed the connection unexpectedly\n", Loss.UNKNOWN),
    # What is quoted is not the driver's word.
    ('connection to "bad record mac" is lost: the connection is lost', Loss.UNKNOWN),
]


def why(dialect: str, error: Exception) -> Loss:
    """Judge an error, bare and as SQLAlchemy wraps it."""
    family = for_dialect(dialect)
    assert family.means_lost(error)
    wrapped = sa.exc.DBAPIError("SELECT 1", {}, error)
    assert family.why_lost(wrapped) is family.why_lost(error)
    return family.why_lost(error)


@pytest.mark.parametrize(("code", "text", "loss"), MYSQL)
def test_mysql_by_number_and_what_pymysql_adds(
    code: int, text: str, loss: Loss
) -> None:
    assert why("mysql", pymysql.err.OperationalError(code, text)) is loss


def test_pymysql_without_a_number() -> None:
    error = pymysql.err.InternalError("Packet sequence number wrong - got 1 expected 2")
    assert why("mariadb", error) is Loss.OUT_OF_STEP


@pytest.mark.parametrize(("text", "loss"), POSTGRESQL)
def test_postgresql_by_text(text: str, loss: Loss) -> None:
    assert why("postgresql", psycopg2.OperationalError(text)) is loss


@pytest.mark.parametrize(
    ("error", "loss"),
    [
        (psycopg.errors.AdminShutdown, Loss.TERMINATED),
        (psycopg.errors.CrashShutdown, Loss.SHUT_DOWN),
        (psycopg.errors.IdleSessionTimeout, Loss.IDLE),
        (psycopg.errors.IdleInTransactionSessionTimeout, Loss.IDLE_IN_TRANSACTION),
    ],
)
def test_postgresql_by_sqlstate_in_any_language(error: Any, loss: Loss) -> None:
    assert why("postgresql", error("translated")) is loss


def test_a_server_that_nobody_knows() -> None:
    assert for_dialect("oracle").why_lost(ssl.SSLError()) is Loss.UNKNOWN
