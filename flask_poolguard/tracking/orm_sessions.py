"""ORM sessions: to which scope each belongs, and when its old owner gets an error."""

from __future__ import annotations

import itertools
import sys
import typing as t
import weakref
from collections.abc import Callable

from sqlalchemy import event

from .checkout import OUTSIDE, Checkout, CheckoutScope
from .current_scope import current_scopes, home_of
from .endpoint import current_endpoint
from .extension_sessions import filed_under
from .pool_tracker import tracker_of
from .reclaimed import mark_of, unmark
from .scope import ContextScope, Scope, number_sessions

if t.TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session, SessionTransaction

    from .reclaimed import Reclaimed

# Where a session remembers whose it is: a function that returns the scope, None for a
# thread's, a test's or a job's own.
_OWNER: t.Final = "_poolguard_scope"

# Set by listen(), once.
is_listening = False


def listen() -> None:
    """Learn which session works on which connection, once SQLAlchemy's ORM is in use.

    A connection may be held by a session, so it only needs to be looked at when the
    ORM is loaded; importing it for apps without one would cost 40 ms.
    """
    global is_listening
    if not is_listening and "sqlalchemy.orm" in sys.modules:
        from sqlalchemy.orm import Session, session

        is_listening = True
        # Private; the same in SQLAlchemy 2.0.31 and 2.1.9. A session keeps its number
        # as ``hash_key``, and nothing else tells when it was made.
        number_sessions(_unlocked(session._new_sessionid))
        event.listen(Session, "after_begin", _after_begin)
        event.listen(Session, "before_commit", _before_commit)


def _unlocked(next_number: Callable[[], int]) -> Callable[[], int]:
    """Return a counter's own way to the next number, past a lock that each request
    would take three times: the counter itself needs none.
    """
    for cell in getattr(next_number, "__closure__", None) or ():
        if isinstance(cell.cell_contents, itertools.count):
            return cell.cell_contents.__next__
    return next_number


# Ownership ------------------------------------------------------------------------


def _nothing() -> None:
    """Stand for the scope of a session that belongs to none."""


def _kept() -> None:
    """Stand for the scope of a session that outlives its own on purpose."""


def keep_session(session: Session) -> None:
    """Let what a session takes from now on outlive its scope."""
    session.__dict__[_OWNER] = _kept


def _after_begin(
    session: Session, transaction: SessionTransaction, connection: Connection
) -> None:
    tracker = tracker_of(connection.engine)
    if tracker is None or not _took(transaction, connection):
        return
    checkout = tracker.checkout_of(connection.connection)
    if checkout is None or checkout.session is not None:
        return
    checkout.session = weakref.ref(session)
    _settle_owner(session, checkout)
    mark = mark_of(session)
    if mark is not None and mark.is_sure and not _is_used_anew(mark.reclaimed):
        raise mark.reclaimed.error()
    if mark is not None:
        unmark(session)


def _settle_owner(session: Session, checkout: Checkout) -> None:
    """Let a session's connection be of the scope that the session is of."""
    remembered = session.__dict__.get(_OWNER)
    if remembered is _kept:
        checkout.keep()
        return
    if remembered is None:
        owner = _owner_of(session, checkout.scope)
        session.__dict__[_OWNER] = _nothing if owner is None else weakref.ref(owner)
    elif remembered is _nothing:
        owner = None
    else:
        owner = remembered()
        if owner is None or owner.ended:
            owner = t.cast("Scope | None", checkout.scope)
            session.__dict__[_OWNER] = _nothing if owner is None else weakref.ref(owner)
    if owner is checkout.scope:
        return
    if owner is None:
        checkout.release()
    else:
        # A session of an outer context that is used within an inner one: the inner
        # one's end must leave it alone.
        owner.adopt(checkout)


def _owner_of(session: Session, current: CheckoutScope | None) -> Scope | None:
    """Return the scope that a session was made in, or is filed under.

    :param current: the innermost, in which it took a connection.
    """
    number = session.hash_key
    if isinstance(current, ContextScope) and current.first_session <= number:
        return current  # as a rule, and found without a look at those around it
    home = home_of(number)
    if home is None or isinstance(home, ContextScope):
        return home
    # Made during a WSGI call that shares a context with others: what is filed under
    # that context (db.session) is the context's, as tests rely on.
    for scope in current_scopes():
        context = scope.context if isinstance(scope, ContextScope) else None
        if context is not None and any(
            filed.session is session for filed in filed_under(context)
        ):
            return scope
    return home


def _is_used_anew(mark: Reclaimed) -> bool:
    """Tell whether a request, command or task that began later uses a session that was
    taken back: a scoped session that nothing removes goes from one to the next.
    """
    scopes = current_scopes()
    if not scopes or current_endpoint() is OUTSIDE:
        return False
    return scopes[-1].began_at > mark.at or _began_within(scopes, mark)


def _began_within(scopes: list[Scope], mark: Reclaimed) -> bool:
    # Requests that share a context: the call is newer, the context is not.
    return scopes[0].began_at > mark.at and not isinstance(scopes[0], ContextScope)


def _before_commit(session: Session) -> None:
    mark = mark_of(session)
    if mark is None:
        return
    if mark.is_sure or not _is_used_anew(mark.reclaimed):
        raise mark.reclaimed.error()
    unmark(session)


def _took(transaction: SessionTransaction, connection: Connection) -> bool:
    """Tell whether a session took the connection itself; it may be bound to one that
    other code took, and closes.

    Private; the same in SQLAlchemy 2.0.31 and 2.1.9: per connection a tuple, the last
    of which says whether the session is to close it.
    """
    known = transaction._connections.get(connection)
    return known is not None and bool(known[3])
