"""The proxies misbehave exactly as told."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tests.support.proxy import Listener, SilentServer, TCPProxy
from tests.support.servers import DatabaseServer
from tests.support.waiting import free_port, wait_until

# Long enough to trust that nothing comes, in seconds.
SILENCE = 0.2


class Echo(Listener):
    """Send back whatever comes."""

    def _serve(self, client: socket.socket) -> None:
        self._spawn(self._echo, client)

    def _echo(self, client: socket.socket) -> None:
        try:
            while data := client.recv(4096):
                client.sendall(data)
        except OSError:
            pass
        finally:
            client.close()


@pytest.fixture
def proxy() -> Iterator[TCPProxy]:
    """Return a proxy before a server that echoes."""
    with Echo() as echo, TCPProxy(echo.host, echo.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: TCPProxy) -> Iterator[socket.socket]:
    """Return a connection through the proxy."""
    with socket.create_connection((proxy.host, proxy.port), timeout=5) as client:
        yield client


def says(client: socket.socket, text: bytes) -> bytes:
    """Send a text and return the answer."""
    client.sendall(text)
    return client.recv(4096)


class TestTCPProxy:
    def test_passes_both_directions_on(self, client: socket.socket) -> None:
        assert says(client, b"hello") == b"hello"

    def test_counts_connections(self, proxy: TCPProxy) -> None:
        assert proxy.connections == 0
        for expected in (1, 2, 3):
            with socket.create_connection((proxy.host, proxy.port)) as client:
                says(client, b"x")
            assert proxy.connections == expected

    def test_drop_is_silence_and_no_end(
        self, proxy: TCPProxy, client: socket.socket
    ) -> None:
        assert says(client, b"before") == b"before"
        proxy.drop()
        client.settimeout(SILENCE)
        with pytest.raises(TimeoutError):
            says(client, b"into the void")

    def test_drop_holds_new_connections_too(self, proxy: TCPProxy) -> None:
        proxy.drop()
        with socket.create_connection((proxy.host, proxy.port), SILENCE) as client:
            with pytest.raises(TimeoutError):
                says(client, b"anybody there?")
            assert proxy.connections == 1

    def test_resume_delivers_what_was_held_back(
        self, proxy: TCPProxy, client: socket.socket
    ) -> None:
        says(client, b"before")
        proxy.drop()
        client.sendall(b"late")
        proxy.resume()
        assert client.recv(4096) == b"late"

    def test_cut_closes_connections_and_takes_new_ones(
        self, proxy: TCPProxy, client: socket.socket
    ) -> None:
        says(client, b"before")
        proxy.cut()
        assert client.recv(4096) == b""
        with socket.create_connection((proxy.host, proxy.port), timeout=5) as again:
            assert says(again, b"again") == b"again"

    def test_cut_resets_if_asked(self, proxy: TCPProxy, client: socket.socket) -> None:
        says(client, b"before")
        proxy.cut(reset=True)
        with pytest.raises(ConnectionResetError):
            client.recv(4096)

    def test_a_server_that_is_not_there_is_an_end(self) -> None:
        with (
            TCPProxy("127.0.0.1", free_port()) as proxy,
            socket.create_connection((proxy.host, proxy.port), timeout=5) as client,
        ):
            assert client.recv(1) == b""

    def test_closes_while_it_drops(self, proxy: TCPProxy) -> None:
        with socket.create_connection((proxy.host, proxy.port), timeout=5) as client:
            says(client, b"before")
            proxy.drop()
            client.sendall(b"held")
            proxy.close()
            assert client.recv(4096) in (b"", b"held")

    def test_carries_a_database(self, served_server: DatabaseServer) -> None:
        with TCPProxy("127.0.0.1", served_server.port) as proxy:
            name = served_server.create_database()
            url = served_server.url(database=name).set(port=proxy.port)
            engine = sa.create_engine(url)
            with engine.connect() as connection:
                assert connection.scalar(sa.text("SELECT 42")) == 42
                proxy.cut()
                with pytest.raises(sa.exc.OperationalError):
                    connection.execute(sa.text("SELECT 42"))
            engine.dispose()
            served_server.drop_database(name)


class TestSilentServer:
    def test_accepts_counts_and_says_nothing(self) -> None:
        with SilentServer() as server:
            address = (server.host, server.port)
            with socket.create_connection(address, SILENCE) as client:
                client.sendall(b"hello?")
                with pytest.raises(TimeoutError):
                    client.recv(1)
            wait_until(lambda: server.connections == 1, what="one connection")
