"""A line that goes dead: packets are lost, both ways, and nobody says so.

Its two ends are in network namespaces of their own, which are gone with the process.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from sqlalchemy import URL, Dialect

from tests.support import not_tested
from tests.support.proxy import TCPProxy

# <linux/sched.h>
CLONE_NEWNET = 0x40000000
# The calling thread's; a process's own may be another.
CURRENT = "/proc/thread-self/ns/net"
# Addresses that belong to nobody (RFC 5737).
NEAR, FAR, BITS = "192.0.2.1", "192.0.2.2", 30


def _call(name: str, *arguments: int) -> None:
    """Call a function of the C library; Python has these since 3.12 only."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


class Namespace:
    """A network of its own, without any interface that is up."""

    def __init__(self) -> None:
        """Make it.

        :raises OSError: this process may not, or the platform has none.
        """
        self._home = os.open(CURRENT, os.O_RDONLY)
        try:
            _call("unshare", CLONE_NEWNET)
            try:
                self._number = os.open(CURRENT, os.O_RDONLY)
            finally:
                _call("setns", self._home, CLONE_NEWNET)
        except BaseException:
            os.close(self._home)
            raise

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be in there with this thread; sockets that are made meanwhile stay there."""
        _call("setns", self._number, CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", self._home, CLONE_NEWNET)

    @property
    def path(self) -> str:
        """Where other programs find it."""
        return f"/proc/{os.getpid()}/fd/{self._number}"

    def ip(self, program: str, arguments: str) -> None:
        """Run `ip` in there."""
        with self.entered():
            subprocess.run(
                [program, *arguments.split()],
                check=True,
                capture_output=True,
                text=True,
            )

    def close(self) -> None:
        """Leave it to the kernel, which keeps it while sockets are in it."""
        os.close(self._number)
        os.close(self._home)


class DeadLine:
    """Two namespaces and a line between them, which can be cut."""

    def __init__(self) -> None:
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        program = shutil.which("ip", path=path)
        if program is None:
            not_tested.stop_test(
                "There is no program `ip`: install iproute2 (see tools/ensure-servers)."
            )
        self._program: str = program
        try:
            self.near = Namespace()
        except (OSError, AttributeError) as error:  # not root, not Linux
            not_tested.skip_test(f"Network namespaces cannot be made here: {error}.")
        try:
            self.far = Namespace()
        except BaseException:
            self.near.close()
            raise
        try:
            self._connect()
        except subprocess.CalledProcessError as error:
            self.close()
            not_tested.skip_test(
                f"Two network namespaces cannot be joined here: {error.stderr.strip()}."
            )

    def _connect(self) -> None:
        self.near.ip(
            self._program,
            f"link add name near type veth peer name far netns {self.far.path}",
        )
        for namespace, name, address in (
            (self.near, "near", NEAR),
            (self.far, "far", FAR),
        ):
            namespace.ip(self._program, f"address add {address}/{BITS} dev {name}")
            namespace.ip(self._program, f"link set dev {name} up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self) -> None:
        """Lose every packet from now on, in both directions."""
        self.far.ip(self._program, "link set dev far down")

    def mend(self) -> None:
        """Let packets through again."""
        self.far.ip(self._program, "link set dev far up")

    def connect(
        self, dialect: Dialect, record: object, arguments: Any, keywords: Any
    ) -> Any:
        """Connect from the near end, as a `do_connect` listener."""
        with self.near.entered():
            return dialect.connect(*arguments, **keywords)

    def close(self) -> None:
        """Take it away."""
        self.near.close()
        self.far.close()


class FarProxy(TCPProxy):
    """Stands at the far end of a line, and passes on what comes from the near one."""

    def __init__(self, line: DeadLine, url: URL) -> None:
        assert url.host is not None
        assert url.port is not None
        self._line = line
        super().__init__(url.host, url.port)

    def _listen(self) -> socket.socket:
        with self._line.far.entered():
            return socket.create_server((FAR, 0), backlog=256)
