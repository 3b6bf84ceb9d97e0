"""The fixture ``pool_probe``: what a block of a test takes from its pools."""

from __future__ import annotations

import threading
import typing as t
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from sqlalchemy.engine import Engine
from sqlalchemy.pool import (
    ConnectionPoolEntry,
    PoolProxiedConnection,
    StaticPool,
)

from .listeners import listen
from .targets import Target, engines_of


class Probe:
    """What a block has taken so far, in all threads; nothing is counted after its end.

    :ivar peak: how many of its connections were out at the same time.
    :ivar nested: how many of them one thread had out at the same time; more than 1 can
        end in a deadlock.
    :ivar checkouts: how often a connection was taken.
    :ivar connects: how many new connections were opened.
    :ivar statements: how many statements were sent; an ``executemany`` is one.
    """

    def __init__(self) -> None:
        self.peak = self.nested = 0
        self.checkouts = self.connects = self.statements = 0
        self._lock = threading.RLock()  # protects the figures and what is out
        self._out: list[tuple[weakref.ref[t.Any], ConnectionPoolEntry, int]] = []

    def __repr__(self) -> str:
        return (
            f"<Probe peak={self.peak} nested={self.nested} checkouts={self.checkouts}"
            f" connects={self.connects} statements={self.statements}>"
        )

    def took(
        self,
        record: ConnectionPoolEntry,
        proxy: PoolProxiedConnection,
        is_shared: bool,
    ) -> None:
        """Count a checkout.

        :param is_shared: several checkouts have the record at the same time.
        """
        with self._lock:
            # A record that is given out again has come back, though the proxy of its
            # last user may not know yet.
            self._out = [
                each
                for each in self._out
                if _is_valid(each[0])
                and each[0]() is not proxy
                and (is_shared or each[1] is not record)
            ]
            self._out.append((weakref.ref(proxy), record, threading.get_ident()))
            self.checkouts += 1
            self.peak = max(self.peak, len(self._out))
            threads = Counter(thread for _, _, thread in self._out)
            self.nested = max(self.nested, *threads.values())

    def connected(self) -> None:
        """Count a new connection."""
        with self._lock:
            self.connects += 1

    def sent(self) -> None:
        """Count a statement."""
        with self._lock:
            self.statements += 1


class OpenProbe(t.Protocol):
    """What the fixture ``pool_probe`` is."""

    def __call__(self, target: Target = None) -> AbstractContextManager[Probe]:
        """Open a probe for a block.

        :param target: an app, of which all engines are probed, or an engine, guarded
            or not; the app that was guarded last if left out.
        :raises SetupError: there is no such app, or it has no guard.
        """


@contextmanager
def open_probe(target: Target = None) -> Iterator[Probe]:
    """Count what a block takes, as :class:`OpenProbe` says."""
    probe = Probe()
    with ExitStack() as stack:
        for engine in engines_of(target):
            _listen(engine, probe, stack)
        yield probe


def _listen(engine: Engine, probe: Probe, stack: ExitStack) -> None:
    def checkout(
        connection: object, record: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        probe.took(record, proxy, isinstance(engine.pool, StaticPool))

    def connect(*_: object) -> None:
        probe.connected()

    def before_cursor_execute(*_: object) -> None:
        probe.sent()

    listen(engine, "checkout", checkout, stack)
    listen(engine, "connect", connect, stack)
    listen(engine, "before_cursor_execute", before_cursor_execute, stack)


def _is_valid(reference: weakref.ref[t.Any]) -> bool:
    proxy = reference()
    return proxy is not None and bool(proxy.is_valid)
