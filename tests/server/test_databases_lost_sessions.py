"""A session that is gone or out of step is recognized by the error that it gives."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import psycopg2
import pymysql
import pytest
import sqlalchemy as sa

from flask_poolguard.databases import Loss, for_dialect
from tests.conftest import Database as FreshDatabase
from tests.support.drivers import POSTGRESQL_DRIVERS, driver_connection
from tests.support.mysql_peer import MySQLPeer, _Session
from tests.support.proxy import Listener, TCPProxy
from tests.support.servers import DatabaseServer, MariaDBServer

pytestmark = pytest.mark.every_product

PSYCOPGS = pytest.mark.parametrize("drivername", POSTGRESQL_DRIVERS)


def error_of(call: Callable[..., object], *arguments: object) -> Exception:
    """Return what a call raises."""
    try:
        call(*arguments)
    except Exception as error:
        return error
    pytest.fail("Nothing was raised")


def execute(connection: Any, statement: str = "SELECT 1") -> None:
    """Run a statement and fetch its rows."""
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.fetchall()


def is_lost(error: Exception, url: sa.URL) -> bool:
    """Judge an error, bare and as SQLAlchemy wraps it."""
    family = for_dialect(url.get_backend_name())
    wrapped = sa.exc.DBAPIError("SELECT 1", {}, error)
    assert family.means_lost(wrapped) is family.means_lost(error)
    return family.means_lost(error)


class TestEndedByTheServer:
    def test_while_it_was_idle(self, driver_database: FreshDatabase) -> None:
        with driver_connection(driver_database.url) as connection:
            family = for_dialect(driver_database.url.get_backend_name())
            session_id = family.server_id(connection)
            assert session_id is not None
            driver_database.running_server.kill_session(session_id)
            assert is_lost(error_of(execute, connection), driver_database.url)
            # And whatever comes after.
            assert is_lost(error_of(execute, connection), driver_database.url)

    def test_during_a_query(self, driver_database: FreshDatabase) -> None:
        sleep = "SELECT pg_sleep(60)"
        if driver_database.url.get_backend_name() == "mysql":
            sleep = "SELECT SLEEP(60)"
        with driver_connection(driver_database.url) as connection:
            family = for_dialect(driver_database.url.get_backend_name())
            session_id = family.server_id(connection)
            assert session_id is not None
            timer = threading.Timer(
                0.3, driver_database.running_server.kill_session, [session_id]
            )
            timer.start()
            error = error_of(execute, connection, sleep)
            timer.join()
            assert is_lost(error, driver_database.url)

    @pytest.mark.usefixtures("own_server")
    def test_when_it_stops(self, driver_database: FreshDatabase) -> None:
        with driver_connection(driver_database.url) as connection:
            driver_database.running_server.stop()
            assert is_lost(error_of(execute, connection), driver_database.url)

    @PSYCOPGS
    @pytest.mark.parametrize(
        ("setting", "statement"),
        [
            ("idle_session_timeout", None),
            ("idle_in_transaction_session_timeout", "SELECT 1"),
        ],
    )
    def test_for_being_idle(
        self,
        drivername: str,
        setting: str,
        statement: str | None,
        postgresql_url: sa.URL,
    ) -> None:
        url = postgresql_url.set(drivername=drivername)
        with driver_connection(url, options=f"-c {setting}=50ms") as connection:
            if statement is not None:
                execute(connection, statement)
            # Readable, without being read: the server has said good-bye.
            self.wait_until_readable(connection.fileno())
            assert is_lost(error_of(execute, connection), url)

    def wait_until_readable(self, number: int) -> None:
        assert select.select([number], [], [], 10.0)[0]

    def test_for_being_idle_as_mysql_does(self) -> None:
        with MySQLPeer(wait_timeout=0.1) as peer, driver_connection(peer.url) as it:
            assert peer.timed_out.wait(10)
            assert is_lost(error_of(execute, it), peer.url)

    def test_for_a_packet_that_is_too_big(self, mariadb: DatabaseServer) -> None:
        with MariaDBServer(max_allowed_packet=16384) as server:
            url = server.url()
            with driver_connection(url) as connection:
                error = error_of(execute, connection, f"SELECT '{'x' * 20000}'")
                assert is_lost(error, url)
                assert is_lost(error_of(execute, connection), url)

    @pytest.mark.parametrize("reset", [False, True])
    def test_by_something_on_the_way(
        self, driver_database: FreshDatabase, reset: bool
    ) -> None:
        server = driver_database.running_server
        with TCPProxy("127.0.0.1", server.port) as proxy:
            url = driver_database.url.set(port=proxy.port)
            with driver_connection(url) as connection:
                proxy.cut(reset=reset)
                assert is_lost(error_of(execute, connection), url)


class TestClosedByTheDriver:
    def test_a_closed_connection(self, driver_database: FreshDatabase) -> None:
        with driver_connection(driver_database.url) as connection:
            connection.close()
            assert is_lost(error_of(execute, connection), driver_database.url)

    def test_a_closed_connection_of_pymysql_is_pinged(
        self, mariadb_url: sa.URL
    ) -> None:
        with driver_connection(mariadb_url) as connection:
            connection.close()
            assert is_lost(error_of(connection.ping, False), mariadb_url)


class GarblingPeer(MySQLPeer):
    """Answers the statement GARBLE with the bytes that it is given."""

    answer = b""

    def _session(self, client: socket.socket) -> None:
        session = _Session(self, client, 1)
        session._answer = lambda sql: (  # type: ignore[method-assign] # garbles
            client.sendall(self.answer)
            if sql == "GARBLE"
            else type(session)._answer(session, sql)
        )
        try:
            session.run()
        except (OSError, EOFError):
            client.close()


class TestGarbledPacketsOfMySQL:
    @pytest.mark.parametrize(
        "answer",
        [
            b"\x01\x00\x00\x05\x00",  # number 5, where 1 is due
            b"\x01\x00\x00\x00\x00",  # number 0: MariaDB's last word
            # One column, whose description is shorter than it says.
            b"\x01\x00\x00\x01\x01" + b"\x03\x00\x00\x02\x03de",
        ],
    )
    def test_pymysql_loses_step(self, answer: bytes) -> None:
        with GarblingPeer(wait_timeout=30) as peer:
            peer.answer = answer
            with driver_connection(peer.url) as connection:
                error = error_of(execute, connection, "GARBLE")
                family = for_dialect("mysql")
                assert family.means_lost(error), repr(error)

    @pytest.mark.parametrize(
        "code",
        [
            *(1053, 1153, 1156, 1157, 1158, 1159, 1160, 1161, 1927, 3169, 4031),
            *(2006, 2013, 2014, 2027, 2045, 2055),
        ],
    )
    def test_the_numbers_count_whatever_the_language(self, code: int) -> None:
        for kind in (pymysql.InternalError, pymysql.OperationalError):
            assert for_dialect("mysql").means_lost(kind(code, "Ein Fehler"))


def message(kind: bytes, body: bytes) -> bytes:
    """Return a message of PostgreSQL's protocol."""
    return kind + struct.pack("!I", len(body) + 4) + body


READY = message(b"Z", b"I")
COLUMN = message(
    b"T",
    struct.pack("!H", 1) + b"x\0" + struct.pack("!IHIHiH", 0, 0, 25, 0xFFFF, -1, 0),
)
DONE = message(b"C", b"SELECT 1\0") + READY


class PostgreSQLPeer(Listener):
    """Lets everybody in, and answers every query with the bytes that it is given."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        super().__init__()

    @property
    def url(self) -> sa.URL:
        """Return the address, by psycopg2."""
        return sa.URL.create(
            "postgresql+psycopg2", "app", None, self.host, self.port, "test"
        )

    def _serve(self, client: socket.socket) -> None:
        self._spawn(self._session, client)

    def _session(self, client: socket.socket) -> None:
        client.recv(4096)  # the start-up message: no TLS, no GSSAPI
        settings = {
            "client_encoding": "UTF8",
            "DateStyle": "ISO, MDY",
            "server_version": "15.1",
            "standard_conforming_strings": "on",
        }
        client.sendall(
            message(b"R", struct.pack("!I", 0))
            + b"".join(
                message(b"S", f"{name}\0{value}\0".encode())
                for name, value in settings.items()
            )
            + message(b"K", struct.pack("!II", 1, 1))
            + READY
        )
        client.recv(4096)
        client.sendall(self.answer)
        with contextlib.suppress(OSError):  # closed by the test's end
            client.recv(4096)
        client.close()


class TestGarbledMessagesOfPostgreSQL:
    @PSYCOPGS
    @pytest.mark.parametrize(
        "answer",
        [
            COLUMN + message(b"D", struct.pack("!HI", 1, 5000) + b"x") + DONE,
            COLUMN + message(b"D", struct.pack("!HIcIc", 2, 1, b"x", 1, b"y")) + DONE,
            COLUMN + message(b"C", b"SELECT 1\0rest") + READY,
            COLUMN + b"2" + struct.pack("!I", 758198560) + b"xxxx",
            message(b"D", struct.pack("!HIc", 1, 1, b"x")) + DONE,
            message(b"?", b"what") + READY,
            message(b"E", b"SFATAL\0VFATAL\0C08P01\0MProtokollfehler\0\0") + READY,
        ],
        ids=["short", "fields", "long", "sync", "rowless", "unknown", "sqlstate"],
    )
    def test_libpq_loses_step(self, drivername: str, answer: bytes) -> None:
        with PostgreSQLPeer(answer) as peer:
            url = peer.url.set(drivername=drivername)
            plain = {"sslmode": "disable", "gssencmode": "disable"}
            with driver_connection(url, **plain) as connection:
                connection.autocommit = True
                assert is_lost(error_of(execute, connection), url)

    def test_a_second_command_finds_the_first_one_unread(
        self, postgresql_url: sa.URL
    ) -> None:
        url = postgresql_url.set(drivername="postgresql+psycopg")
        with driver_connection(url) as connection:
            connection.pgconn.send_query(b"SELECT 1")
            error = error_of(connection.pgconn.send_query, b"SELECT 2")
            assert is_lost(error, url)

    @pytest.mark.parametrize(
        "error",
        [
            psycopg.errors.AdminShutdown("aus"),
            psycopg.errors.CrashShutdown("aus"),
            psycopg.errors.IdleSessionTimeout("aus"),
            psycopg.errors.IdleInTransactionSessionTimeout("aus"),
            psycopg.errors.ConnectionFailure("aus"),
            psycopg.errors.ProtocolViolation("aus"),
        ],
    )
    def test_the_sqlstates_count_whatever_the_language(self, error: Exception) -> None:
        assert for_dialect("postgresql").means_lost(error)


class TestStillThere:
    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT nothing FROM nowhere",
            "SELECT 'server closed the connection' FROM nowhere",
            "Packet sequence number wrong",
            "SELECT 'lost synchronization with server' 1 2",
        ],
    )
    def test_an_error_of_a_statement(
        self, driver_database: FreshDatabase, statement: str
    ) -> None:
        with driver_connection(driver_database.url) as connection:
            error = error_of(execute, connection, statement)
            assert not is_lost(error, driver_database.url)

    def test_a_query_that_was_interrupted(self, driver_database: FreshDatabase) -> None:
        server, url = driver_database.running_server, driver_database.url
        mysql = url.get_backend_name() == "mysql"
        with driver_connection(url) as connection:
            session_id = for_dialect(url.get_backend_name()).server_id(connection)
            interrupt = f"SELECT pg_cancel_backend({session_id})"
            if mysql:
                interrupt = f"KILL QUERY {session_id}"
            timer = threading.Timer(0.3, server.query, [interrupt])
            timer.start()
            sleep = "SELECT pg_sleep(60)"
            if mysql:  # where MySQL's SLEEP is all that is asked for, it returns 1
                sleep = "SELECT 1 FROM information_schema.tables WHERE SLEEP(60)"
            error = error_of(execute, connection, sleep)
            timer.join()
            assert not is_lost(error, url)
            connection.rollback()
            execute(connection)

    @pytest.mark.parametrize("dialect", ["mysql", "postgresql", "sqlite", "oracle"])
    def test_an_error_that_is_no_drivers(self, dialect: str) -> None:
        family = for_dialect(dialect)
        for error in (
            KeyError("server closed the connection"),
            ConnectionResetError("of another connection that the app has"),
            OSError(2013, "not MySQL's"),
            KeyboardInterrupt(),
        ):
            assert not family.means_lost(error)

    def test_an_error_about_a_statement_may_quote_it(self) -> None:
        error = psycopg2.ProgrammingError("lost synchronization with server")
        assert not for_dialect("postgresql").means_lost(error)


GONE = "Lost connection to MySQL server during query"

MYSQL_LOSSES = [
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
POSTGRESQL_LOSSES = [
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


class TestWhy:
    """Why a session is gone, as far as its error alone tells."""

    @pytest.mark.parametrize(("code", "text", "loss"), MYSQL_LOSSES)
    def test_mysql_by_number_and_what_pymysql_adds(
        self, code: int, text: str, loss: Loss
    ) -> None:
        assert why("mysql", pymysql.err.OperationalError(code, text)) is loss

    def test_pymysql_without_a_number(self) -> None:
        error = pymysql.err.InternalError(
            "Packet sequence number wrong - got 1 expected 2"
        )
        assert why("mariadb", error) is Loss.OUT_OF_STEP

    @pytest.mark.parametrize(("text", "loss"), POSTGRESQL_LOSSES)
    def test_postgresql_by_text(self, text: str, loss: Loss) -> None:
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
    def test_postgresql_by_sqlstate_in_any_language(
        self, error: Any, loss: Loss
    ) -> None:
        assert why("postgresql", error("translated")) is loss

    def test_a_server_that_nobody_knows(self) -> None:
        assert for_dialect("oracle").why_lost(ssl.SSLError()) is Loss.UNKNOWN
