"""Handles driver errors: lost connections, refused connects, and their notes.

Errors that lose a connection, or find none, get a note that says why.
"""

from __future__ import annotations

import time
import typing as t

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry

from ..databases import ConnectFailure, Database, Loss, for_dialect
from ..error_notes import (
    add_note,
    explain_away,
    explain_full,
    explain_login,
    explain_loss,
)
from ..errors import ConnectionReturned, DatabaseUnavailable
from ..log_lines import debug
from ..masking import secrets_of
from ..pool import GuardedPool, gave_up, give_up
from ..tracking.current_scope import remember_owner
from ..tracking.pool_tracker import PoolTracker, tracker_of
from ..tracking.reclaimed import HOW_TO_KEEP
from .error_facts import TAKE_NO_LOCK, ErrorFacts, first_error, room_of
from .first_errors import remember

# So many seconds pass between two retirements of a pool whose server refuses to
# write: if the new connections cannot write either, nothing is gained by more.
_BETWEEN_RETIREMENTS: t.Final = 10.0

# On a dialect, which an engine keeps for life: its engine is listened to already.
_LISTENED: t.Final = "_poolguard_errors"


def listen(engine: Engine) -> None:
    """Let the engine judge errors better."""
    if _LISTENED not in engine.dialect.__dict__:
        judge = engine.dialect.__dict__[_LISTENED] = DriverErrorListener(engine)
        event.listen(engine, "handle_error", judge.handle_error, retval=True)


def note_failures(engine: Engine) -> None:
    """Let a connect that failed in a way that may pass be known by its error, also
    where the pool is not the guard's, which does so itself.

    SQLAlchemy has no event for that, and raises the error of ``raw_connection()``
    without asking the server. The pools that take this one's place (``Engine.dispose``)
    are given the same creator.
    """
    pool = engine.pool
    if isinstance(pool, GuardedPool) or isinstance(pool._creator, _NotingCreator):
        return
    database = for_dialect(engine.dialect.name)
    pool._creator = _NotingCreator(pool._invoke_creator, database)


class _NotingCreator:
    """Connects as a pool's own creator."""

    def __init__(
        self, connect: t.Callable[[ConnectionPoolEntry], t.Any], database: Database
    ) -> None:
        self._connect, self._database = connect, database

    # With just this signature SQLAlchemy passes the record.
    def __call__(self, connection_record: t.Any = None) -> t.Any:
        try:
            return self._connect(connection_record)
        except Exception as error:
            if self._database.connect_failure(error) is not None:
                give_up(error)
            raise


class DriverErrorListener:
    """Listens to one engine, through ``engine.dispose()``."""

    def __init__(self, engine: Engine) -> None:
        self._database: Database = for_dialect(engine.dialect.name)
        self._evidence = ErrorFacts()
        self._retired_at = -_BETWEEN_RETIREMENTS

    def handle_error(self, context: ExceptionContext) -> BaseException | None:
        """Judge an error of the driver's, and say in a note what is known of it.

        :returns: an error to raise in its place, None to leave it as it is.
        """
        returned = self._judge(context)
        try:
            self._explain(context, returned)
        except Exception:  # the error itself is what counts
            debug("not_known", "An error could not be explained", exc_info=True)
        return returned

    def _judge(self, context: ExceptionContext) -> BaseException | None:
        error = context.original_exception
        if isinstance(error, ConnectionReturned):
            # As SQLAlchemy treats a lost connection: after a rollback the Connection
            # takes another one. Nothing is wrong with those of the pool.
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = False
            return None
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
        elif self._refused_to_write(context, error) and self._may_retire():
            # The next connections may lead to the server's successor, through a name
            # or a proxy.
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = True
        return None

    def _explain(
        self, context: ExceptionContext, returned: BaseException | None
    ) -> None:
        if isinstance(context.original_exception, ConnectionReturned):
            if context.sqlalchemy_exception is not None:
                add_note(context.sqlalchemy_exception, HOW_TO_KEEP)
            return
        tracker = None if context.engine is None else tracker_of(context.engine)
        if tracker is None or context.is_pre_ping:
            return
        if context.connection is None:
            note = self._explain_connect(context, tracker)
        else:
            if context.is_disconnect:
                _remember_owner(context.connection, tracker)
            note = self._explain_loss(context, tracker)
        seen = (
            returned
            or getattr(context, "chained_exception", None)
            or context.sqlalchemy_exception
            or context.original_exception
        )
        if note is not None:
            add_note(seen, note)
        first = first_error(context, tracker, note)
        remember(first, context.connection, context.original_exception, seen)

    def _explain_connect(
        self, context: ExceptionContext, tracker: PoolTracker
    ) -> str | None:
        error = context.original_exception
        failure = self._database.connect_failure(error)
        if failure is ConnectFailure.FULL:
            return explain_full(room_of(context, tracker))
        if failure is ConnectFailure.AWAY:
            engine, retry = context.engine, None
            if engine is not None and isinstance(engine.pool, GuardedPool):
                retry = engine.pool.policy.connect_retry  # it has told its tracker
            else:
                told = type(error).__name__
                if engine is not None:
                    told = secrets_of(engine).describe(error)
                tracker.server_is_away(told, time.monotonic())
            return explain_away(tracker.facts.bind, retry)
        if self._database.refuses_login(error):
            return explain_login(tracker.facts.bind)
        return None

    def _explain_loss(
        self, context: ExceptionContext, tracker: PoolTracker
    ) -> str | None:
        error = context.original_exception
        if not isinstance(error, Exception):  # struck from outside
            return None
        if isinstance(error, context.dialect.loaded_dbapi.Error):
            if not context.is_disconnect or self._database.means_read_only(error, None):
                return None
            facts = self._evidence.lost(
                context, tracker, self._database.why_lost(error)
            )
        elif context.dialect.name in TAKE_NO_LOCK:
            # PyMySQL meets an AttributeError or the like when another thread uses or
            # closes its connection meanwhile.
            facts = self._evidence.lost(context, tracker, Loss.OUT_OF_STEP)
            if facts is None or not facts.users:
                return None
        else:
            return None
        return None if facts is None else explain_loss(facts)

    def _refused_to_write(
        self, context: ExceptionContext, error: BaseException
    ) -> bool:
        """Tell, and count, that the server may not write any more."""
        connection = context.connection
        if connection is None or connection.invalidated:
            return False
        raw = connection.connection.dbapi_connection
        if not self._database.means_read_only(error, raw):
            return False
        tracker = None if context.engine is None else tracker_of(context.engine)
        if tracker is not None:
            tracker.figures.count("refused_writes")
        return True

    def _may_retire(self) -> bool:
        now = time.monotonic()
        if now - self._retired_at < _BETWEEN_RETIREMENTS:
            return False
        self._retired_at = now
        return True


def _remember_owner(connection: Connection, tracker: PoolTracker) -> None:
    proxy = None if connection.invalidated else connection.connection
    checkout = tracker.checkout_of(proxy)
    if checkout is not None:
        remember_owner(connection, checkout.scope)


def _has_guard(context: ExceptionContext) -> bool:
    return context.engine is not None and isinstance(context.engine.pool, GuardedPool)
