"""What an engine is to make of its driver's errors, and how long it may connect."""

from __future__ import annotations

import time
import typing as t

from sqlalchemy import event
from sqlalchemy.engine import Dialect, Engine, ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry

from ..databases import Database, for_dialect
from ..errors import DatabaseUnavailable
from ..pool import GuardedPool, gave_up

# So many seconds pass between two retirements of a pool whose server refuses to
# write: if the new connections cannot write either, nothing is gained by more.
_BETWEEN_RETIREMENTS: t.Final = 10.0

# Others may not know the argument, or mean something else by it.
_TAKE_CONNECT_TIMEOUT: t.Final = frozenset(
    {"mysqldb", "psycopg", "psycopg2", "pymysql"}
)

# On a dialect, which an engine keeps for life: its engine is listened to already.
_LISTENED: t.Final = "_poolguard_errors"

# In a record's info, from the connect to its first listener: the attributes of
# PyMySQL's connection that hold a time limit of ours.
_OUR_LIMITS: t.Final = "_poolguard_limits"


def listen(engine: Engine, connect_timeout: float | None) -> None:
    """Let the engine judge errors better, and end connects that take too long.

    :param connect_timeout: seconds; None leaves the limit to the driver.
    """
    judge = engine.dialect.__dict__.get(_LISTENED)
    if judge is None:
        judge = engine.dialect.__dict__[_LISTENED] = _Judge(engine)
        event.listen(engine, "handle_error", judge.handle_error, retval=True)
        event.listen(engine, "do_connect", judge.do_connect)
        if engine.dialect.driver == "pymysql":
            # Before the listeners that talk to the server.
            event.listen(engine, "connect", _lift_limits, insert=True)
    judge.connect_timeout = connect_timeout


class _Judge:
    """Listens to one engine, through ``engine.dispose()``."""

    def __init__(self, engine: Engine) -> None:
        self._database: Database = for_dialect(engine.dialect.name)
        self.connect_timeout: float | None = None
        self._retired_at = -_BETWEEN_RETIREMENTS

    def do_connect(
        self,
        dialect: Dialect,
        record: ConnectionPoolEntry,
        arguments: list[t.Any],
        keywords: dict[str, t.Any],
    ) -> None:
        """Give the driver a time limit for its connect, unless it has one."""
        if self.connect_timeout is None or dialect.driver not in _TAKE_CONNECT_TIMEOUT:
            return
        self._database.limit_connect(keywords, self.connect_timeout)
        # Who calls a pool's creator himself gives no record.
        if dialect.driver == "pymysql" and hasattr(record, "info"):
            _limit_handshake(record, keywords)

    def handle_error(self, context: ExceptionContext) -> BaseException | None:
        """Judge an error of the driver's.

        :returns: an error to raise in its place, None to leave it as it is.
        """
        error = context.original_exception
        if gave_up(error) is not None:
            # Set if a listener of the app's, before this one, returned its own error.
            if getattr(context, "chained_exception", None) is not None:
                return None
            return DatabaseUnavailable(None, None, error)
        if context.is_disconnect:
            return None
        if self._database.means_lost(error):
            context.is_disconnect = True
            # It says nothing of the others, and each is looked at before it is
            # handed out.
            context.invalidate_pool_on_disconnect = not _has_guard(context)
        elif self._means_demoted(context, error):
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = True
        return None

    def _means_demoted(self, context: ExceptionContext, error: BaseException) -> bool:
        """Tell whether all connections lead to a server that may not write any more.

        The next ones may lead to its successor, through a name or a proxy.
        """
        connection = context.connection
        if connection is None or connection.invalidated:
            return False
        raw = connection.connection.dbapi_connection
        if not self._database.means_read_only(error, raw):
            return False
        now = time.monotonic()
        if now - self._retired_at < _BETWEEN_RETIREMENTS:
            return False
        self._retired_at = now
        return True


class _OurSeconds(float):
    """A time limit that is not the user's."""


def _limit_handshake(record: ConnectionPoolEntry, keywords: dict[str, t.Any]) -> None:
    """Limit the waiting for what PyMySQL reads and writes while it connects.

    Its connect_timeout ends with the TCP connect: a proxy that has lost its server,
    or a machine that hangs, would be waited for without end.
    """
    ours = [
        name
        for name in ("read_timeout", "write_timeout")
        # SQLAlchemy 2.0 gives the same dict again, with what was added the last time.
        if isinstance(keywords.get(name, _OurSeconds()), _OurSeconds)
    ]
    seconds = keywords.get("connect_timeout")
    if seconds:
        keywords.update(dict.fromkeys(ours, _OurSeconds(seconds)))
        record.info[_OUR_LIMITS] = ours


def _lift_limits(connection: t.Any, record: ConnectionPoolEntry) -> None:
    """Let statements take their time; private, but the same in PyMySQL 1.1 and 1.2."""
    for name in record.info.pop(_OUR_LIMITS, ()):
        setattr(connection, f"_{name}", None)


def _has_guard(context: ExceptionContext) -> bool:
    return context.engine is not None and isinstance(context.engine.pool, GuardedPool)
