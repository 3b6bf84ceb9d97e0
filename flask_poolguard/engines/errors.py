"""What an engine is to make of its driver's errors."""

from __future__ import annotations

import time
import typing as t

from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext

from ..databases import Database, for_dialect
from ..errors import DatabaseUnavailable
from ..pool import GuardedPool, gave_up

# So many seconds pass between two retirements of a pool whose server refuses to
# write: if the new connections cannot write either, nothing is gained by more.
_BETWEEN_RETIREMENTS: t.Final = 10.0

# On a dialect, which an engine keeps for life: its engine is listened to already.
_LISTENED: t.Final = "_poolguard_errors"


def listen(engine: Engine) -> None:
    """Let the engine judge errors better."""
    if _LISTENED not in engine.dialect.__dict__:
        judge = engine.dialect.__dict__[_LISTENED] = _Judge(engine)
        event.listen(engine, "handle_error", judge.handle_error, retval=True)


class _Judge:
    """Listens to one engine, through ``engine.dispose()``."""

    def __init__(self, engine: Engine) -> None:
        self._database: Database = for_dialect(engine.dialect.name)
        self._retired_at = -_BETWEEN_RETIREMENTS

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


def _has_guard(context: ExceptionContext) -> bool:
    return context.engine is not None and isinstance(context.engine.pool, GuardedPool)
