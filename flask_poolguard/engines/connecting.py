"""What an engine's driver is given when it connects: a time limit, and a label."""

from __future__ import annotations

import math
import time
import typing as t

from sqlalchemy import event
from sqlalchemy.engine import Dialect, Engine
from sqlalchemy.pool import ConnectionPoolEntry

from ..databases import Database, OurLabel, for_dialect

_clock = time.monotonic

# Others may not know the argument, or mean something else by it.
_TAKE_CONNECT_TIMEOUT: t.Final = frozenset(
    {"mysqldb", "psycopg", "psycopg2", "pymysql"}
)

# On a dialect, which an engine keeps for life: its engine is listened to already.
_LISTENED: t.Final = "_poolguard_connecting"

# PyMySQL's arguments, which its connection keeps in private attributes.
_LIMITS: t.Final = ("read_timeout", "write_timeout")


def prepare(engine: Engine, connect_timeout: float | None, app: str | None) -> None:
    """Let the engine's connects end in time, and carry a label.

    A ``creator`` of the user's connects as it likes, without either.

    :param connect_timeout: seconds; None leaves the limit to the driver.
    :param app: the app's name; None for no label.
    """
    listener = engine.dialect.__dict__.get(_LISTENED)
    if listener is None:
        listener = engine.dialect.__dict__[_LISTENED] = _Listener(engine)
        event.listen(engine, "do_connect", listener.do_connect)
        if engine.dialect.driver == "pymysql":
            # Before the listeners that talk to the server.
            event.listen(engine, "connect", listener.lift_limits, insert=True)
    listener.connect_timeout, listener.app = connect_timeout, app


def read_timeout_of(dialect: Dialect) -> float | None:
    """Return the seconds that the user lets PyMySQL wait for an answer, None if he
    set none, or it is not known yet.
    """
    listener = dialect.__dict__.get(_LISTENED)
    return None if listener is None else t.cast(_Listener, listener).read_timeout


def carries_label(dialect: Dialect) -> bool:
    """Tell whether this process's last connect carried a label of ours."""
    listener = dialect.__dict__.get(_LISTENED)
    return listener is not None and t.cast(_Listener, listener).has_labelled


class _Listener:
    """Listens to one engine, through ``engine.dispose()``.

    :ivar read_timeout: the driver's, if the user set one, in seconds.
    :ivar has_labelled: whether the last connect carried a label of ours.
    """

    def __init__(self, engine: Engine) -> None:
        self._database: Database = for_dialect(engine.dialect.name)
        self.connect_timeout: float | None = None
        self.app: str | None = None
        self.read_timeout: float | None = None
        self.has_labelled = False

    def do_connect(
        self,
        dialect: Dialect,
        record: ConnectionPoolEntry,
        arguments: list[t.Any],
        keywords: dict[str, t.Any],
    ) -> None:
        """Add what the user did not set himself."""
        driver = dialect.driver
        limit = keywords.get("read_timeout")
        if not isinstance(limit, _OurSeconds):
            self.read_timeout = limit
        if self.app is not None:
            self._database.label_connect(keywords, driver, self.app)
        self.has_labelled = self.app is not None and any(
            isinstance(each, OurLabel) for each in keywords.values()
        )
        if self.connect_timeout is None or driver not in _TAKE_CONNECT_TIMEOUT:
            return
        # A record of the guard's own pool knows when its checkout gives up.
        left = getattr(record, "connect_until", math.inf) - _clock()
        self._database.limit_connect(keywords, driver, self.connect_timeout, left)
        # Who calls a pool's creator himself gives no record.
        if driver == "pymysql" and hasattr(record, "info"):
            _limit_handshake(keywords)

    def lift_limits(self, connection: t.Any, record: ConnectionPoolEntry) -> None:
        """Let statements take their time, unless another listener has set a limit.

        The attributes are private, but the same in PyMySQL 1.1 and 1.2.
        """
        for name in _LIMITS:
            if isinstance(getattr(connection, f"_{name}", None), _OurSeconds):
                setattr(connection, f"_{name}", None)
        self.read_timeout = getattr(connection, "_read_timeout", None)


class _OurSeconds(float):
    """A time limit that is not the user's."""


def _limit_handshake(keywords: dict[str, t.Any]) -> None:
    """Limit the waiting for what PyMySQL reads and writes while it connects.

    Its connect_timeout ends with the TCP connect: a proxy that has lost its server,
    or a machine that hangs, would be waited for without end.
    """
    ours = [
        name
        for name in _LIMITS
        # SQLAlchemy 2.0 gives the same dict again, with what was added the last time.
        if isinstance(keywords.get(name, _OurSeconds()), _OurSeconds)
    ]
    seconds = keywords.get("connect_timeout")
    if seconds:
        keywords.update(dict.fromkeys(ours, _OurSeconds(seconds)))
