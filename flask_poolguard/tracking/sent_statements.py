"""What a request has sent to databases so far, for views that may be repeated."""

from __future__ import annotations

import threading
import typing as t
import weakref

from .endpoint import current_request

if t.TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from .checkout import Checkout

# In a request's WSGI environment, which threads that copy its context share.
_IN_ENVIRON: t.Final = "flask_poolguard.sent_statements"

# Whether any view asks; without one, statements are not noted.
is_noted = False


class SentStatements:
    """The statements of one request, as far as the guard sees them.

    :ivar count: how many were sent, to all databases and in all threads; all but the
        last one have ended.
    :ivar statement: the last one.
    :ivar thread: in which it was sent.
    :ivar had_changes: a session had unsaved changes when it sent one.
    :ivar session: the ORM session that sent the last one.
    """

    __slots__ = ("count", "had_changes", "session", "statement", "thread")

    def __init__(self) -> None:
        self.count = 0
        self.statement = ""
        self.thread = 0
        self.had_changes = False
        self.session: weakref.ref[Session] | None = None

    def sends(self, statement: str, checkout: Checkout | None) -> None:
        """Note a statement before it is sent."""
        self.count += 1
        self.statement, self.thread = statement, threading.get_ident()
        self.session = None if checkout is None else checkout.session
        session = None if self.session is None else self.session()
        if session is not None and has_changes(session):
            self.had_changes = True


def has_changes(session: Session) -> bool:
    """Tell whether a session has changes that are not saved; also during a flush."""
    return bool(session.new or session.dirty or session.deleted)


def begin_to_note() -> None:
    """Note what requests send from now on."""
    global is_noted
    is_noted = True


def sent_by(request: t.Any) -> SentStatements:
    """Return what a request has sent so far."""
    sent: SentStatements = request.environ.setdefault(_IN_ENVIRON, SentStatements())
    return sent


def note_sent(statement: str, checkout: Checkout | None) -> None:
    """Note that the current request, if there is one, sends a statement.

    :param checkout: that of its connection.
    """
    request = current_request()
    if request is not None:
        sent_by(request).sends(statement, checkout)
