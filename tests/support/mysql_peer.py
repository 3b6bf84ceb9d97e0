"""Speak just enough of MySQL 8.0's protocol to end idle sessions as it does.

MariaDB closes an idle session without a word. MySQL, since 8.0.24, first sends error
4031, which the client finds where it expects the answer to its next command.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import struct
import threading

from sqlalchemy import URL

from tests.support.proxy import HOST, Listener, shut

VERSION = "8.0.36"
INACTIVITY = (
    "The client was disconnected by the server because of inactivity. See"
    " wait_timeout and interactive_timeout for configuring this behavior."
)

# CLIENT_PROTOCOL_41, CONNECT_WITH_DB, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH.
CAPABILITIES = 0x200 | 0x8 | 0x2000 | 0x8000 | 0x80000
STATUS_AUTOCOMMIT = 2
UTF8MB4 = 45
VAR_STRING = 0xFD
QUIT, QUERY, PING = 1, 3, 14


def length_encoded(text: str) -> bytes:
    """Return a string with its length, which must be below 251, before it."""
    data = text.encode()
    return bytes([len(data)]) + data


def ok_packet() -> bytes:
    """Return "done", with no row changed."""
    return b"\x00\x00\x00" + struct.pack("<HH", STATUS_AUTOCOMMIT, 0)


def error_packet(code: int, state: str, message: str) -> bytes:
    """Return an error as the server's MySQL 4.1 protocol words it."""
    return b"\xff" + struct.pack("<H", code) + f"#{state}{message}".encode()


def end_packet() -> bytes:
    """Return what ends a list of columns or rows."""
    return b"\xfe" + struct.pack("<HH", 0, STATUS_AUTOCOMMIT)


def column_packet(name: str) -> bytes:
    """Return the description of a column of text."""
    names = "".join(("\x03def", *("\x00",) * 3)).encode()
    fixed = struct.pack("<BHIBHBH", 12, UTF8MB4, 1024, VAR_STRING, 0, 0, 0)
    return names + length_encoded(name) * 2 + fixed


class MySQLPeer(Listener):
    """A server that knows no tables, and whose sessions time out.

    :ivar timed_out: set whenever a session was ended for its inactivity.
    """

    def __init__(self, *, wait_timeout: float, goodbye_number: int = 0) -> None:
        """Start to listen.

        :param wait_timeout: seconds, as `@@session.wait_timeout` of new sessions.
        :param goodbye_number: the sequence number of error 4031. A server gives 0, for
            which PyMySQL says 2013; with 1 it passes the error on, as the clients in
            C do.
        """
        self.wait_timeout = wait_timeout
        self.goodbye_number = goodbye_number
        # What it says of it; it may be wrong.
        self.idle_limit = f"{wait_timeout:g}"
        self.timed_out = threading.Event()
        self.statements: list[str] = []
        self._session_ids = itertools.count(1)
        super().__init__()

    @property
    def url(self) -> URL:
        """Return the address, by PyMySQL; any user and password will do."""
        return URL.create(
            "mysql+pymysql",
            username="app",
            password="any",
            host=HOST,
            port=self.port,
            database="test",
        )

    def _serve(self, client: socket.socket) -> None:
        self._spawn(self._session, client)

    def _session(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            _Session(self, client, next(self._session_ids)).run()
        shut(client)


class _Session:
    """One client's conversation."""

    def __init__(self, peer: MySQLPeer, client: socket.socket, number: int) -> None:
        self._peer = peer
        self._client = client
        self._number = number
        self._sequence = 0
        self._variables = {
            "wait_timeout": peer.idle_limit,
            "transaction_isolation": "REPEATABLE-READ",
            "sql_mode": "STRICT_TRANS_TABLES",
            "lower_case_table_names": "0",
        }
        self._constants = {
            "1": "1",
            "CONNECTION_ID()": str(number),
            "DATABASE()": "test",
            "VERSION()": VERSION,
        }

    def run(self) -> None:
        self._send(self._handshake())
        self._receive()
        self._send(ok_packet())
        self._client.settimeout(self._peer.wait_timeout)
        while True:
            try:
                command = self._receive()
            except TimeoutError:
                # Not an answer to anything: its number begins anew.
                self._sequence = self._peer.goodbye_number
                self._send(error_packet(4031, "HY000", INACTIVITY))
                shut(self._client)
                self._peer.timed_out.set()
                return
            if command[0] == QUIT:
                return
            if command[0] == QUERY:
                self._answer(command[1:].decode())
            else:
                assert command[0] == PING, command
                self._send(ok_packet())

    def _handshake(self) -> bytes:
        salt = b"12345678901234567890"
        return b"".join(
            (
                b"\x0a",
                VERSION.encode() + b"\x00",
                struct.pack("<I", self._number),
                salt[:8] + b"\x00",
                struct.pack("<H", CAPABILITIES & 0xFFFF),
                struct.pack("<BH", UTF8MB4, STATUS_AUTOCOMMIT),
                struct.pack("<H", CAPABILITIES >> 16),
                bytes([len(salt) + 1]) + bytes(10),
                salt[8:] + b"\x00",
                b"mysql_native_password\x00",
            )
        )

    def _answer(self, sql: str) -> None:
        self._peer.statements.append(sql)
        variables = re.findall(r"@@(?:session\.|global\.)?(\w+)", sql)
        pattern = re.search(r"SHOW VARIABLES LIKE '(\w+)'", sql, re.IGNORECASE)
        constant = self._constants.get(sql.upper().removeprefix("SELECT "))
        if pattern:
            self._send_row(pattern[1], self._variables[pattern[1]])
        elif variables and self._variables.keys() >= set(variables):
            self._send_row(*(self._variables[name] for name in variables))
        elif constant is not None:
            self._send_row(constant)
        elif sql.upper().startswith(("SET", "ROLLBACK", "COMMIT")):
            self._send(ok_packet())
        else:
            self._send(error_packet(1064, "42000", f"No answer is known to {sql}"))

    def _send_row(self, *values: str) -> None:
        """Send one row of text."""
        self._send(bytes([len(values)]))
        for _ in values:
            self._send(column_packet("value"))
        self._send(end_packet())
        self._send(b"".join(map(length_encoded, values)))
        self._send(end_packet())

    def _send(self, payload: bytes) -> None:
        header = len(payload).to_bytes(3, "little") + bytes([self._sequence])
        self._sequence += 1
        self._client.sendall(header + payload)

    def _receive(self) -> bytes:
        header = self._read(4)
        self._sequence = header[3] + 1
        return self._read(int.from_bytes(header[:3], "little"))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._client.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data
