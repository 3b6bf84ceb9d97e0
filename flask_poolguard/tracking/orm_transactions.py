"""An ORM session's uncommitted objects, and how to end its transaction.

Uses of what SQLAlchemy keeps private stand here: ``SessionTransaction._new``,
``_dirty`` and ``_deleted`` (what it has flushed), the same in SQLAlchemy 2.0.31 and
2.1.9. Nothing of the ORM is imported: an app may not use it.
"""

from __future__ import annotations

import contextlib
import typing as t

from sqlalchemy import inspect

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session, SessionTransaction


def _transactions(session: Session) -> Iterator[SessionTransaction]:
    """Give the session's transactions, the innermost savepoint first."""
    found = session.get_nested_transaction() or session.get_transaction()
    while found is not None:
        yield found
        found = found.parent


def describe_unsaved(session: Session) -> str:
    """Return what a rollback would throw away, such as ``3 new, 1 changed``.

    Counts objects: those that are to be flushed, and those that were flushed in the
    transaction in progress. Empty if there are none.
    """
    new = {inspect(each) for each in session.new}
    deleted = {inspect(each) for each in session.deleted}
    changed = {inspect(each) for each in session.dirty if session.is_modified(each)}
    for transaction in _transactions(session):
        new.update(transaction._new)
        deleted.update(transaction._deleted)
        changed.update(transaction._dirty)
    changed -= new | deleted
    counts = {"new": len(new), "changed": len(changed), "deleted": len(deleted)}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)


def end_or_cut_off(session: Session, has_written: bool = False) -> str:
    """End a session's transaction; if that fails, as when its connection is dead, end
    it without a word to the server.

    :return: as :func:`end_transaction`.
    """
    try:
        return end_transaction(session, has_written)
    except Exception:
        unsaved = describe_unsaved(session)
        transactions = list(_transactions(session))
        for transaction in transactions:
            for connection, *_ in transaction._connections.values():
                with contextlib.suppress(Exception):  # it was closed already
                    connection.invalidate()
        for transaction in transactions:
            transaction.close()
        return unsaved or "its transaction"


def end_transaction(session: Session, has_written: bool = False) -> str:
    """End a session's transaction and give back its connections; roll it back if it
    has anything that was not committed.

    The objects of a session that has not are left as they are: ``rollback()`` would
    expire them, so that the next look at one, in any thread, asks the database through
    this session.

    :param has_written: its statements wrote, which its objects do not show.
    :return: what was thrown away, in words; empty if nothing was.
    """
    unsaved = describe_unsaved(session)
    if unsaved or has_written:
        session.rollback()
        return unsaved or "what its statements wrote"
    for transaction in list(_transactions(session)):
        transaction.close()
    return ""
