"""Wait for things that happen elsewhere, always with a bound."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

# Below the range from which kernels pick ports for outgoing connections, so
# that a server that restarts finds its port still free.
PORT_RANGE = (15_000, 32_000)
# A test that seeds `random` must not make all workers pick the same ports.
chance = random.SystemRandom()


def wait_until(
    condition: Callable[[], object], *, seconds: float = 10.0, what: str = "condition"
) -> None:
    """Poll a condition until it holds.

    :param seconds: how long to wait at most.
    :param what: what is waited for, for the error.
    :raises TimeoutError: when it did not come true in time.
    """
    deadline = time.monotonic() + seconds
    pause_seconds = 0.002
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Waited {seconds:g} s in vain for: {what}")
        time.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 1.5, 0.05)


def free_port() -> int:
    """Return a TCP port of the loopback address on which nothing listens."""
    for _ in range(200):
        port = chance.randint(*PORT_RANGE)
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"No free port between {PORT_RANGE[0]} and {PORT_RANGE[1]}")
