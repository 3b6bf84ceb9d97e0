"""What happens at the desk: lend a book, take it back, take on a new member.

Each function is one transaction on ``db.session``. None of them closes or removes
anything: on success they commit, otherwise they raise, and what is left over is rolled
back when the request or command ends.
"""

from datetime import timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, Update, update
from sqlalchemy.exc import IntegrityError

from example_app.extensions import db
from example_app.models import Book, JournalEntry, Loan, Member, utc_now

LOAN_PERIOD = timedelta(days=21)


class LendingRefusedError(Exception):
    """The desk cannot do what was asked; the message says why, for the person there."""


def lend(book: Book, member: Member) -> Loan:
    """Hand a copy of the book to the member.

    :raises LendingRefusedError: if no copy is on the shelf.
    """
    # The database decides who gets the last copy: two requests that read the number
    # first, and wrote it back after, could both get it.
    taken = _changes_a_row(
        update(Book)
        .where(Book.id == book.id, Book.on_shelf > 0)
        .values(on_shelf=Book.on_shelf - 1)
    )
    if not taken:
        raise LendingRefusedError(f"All copies of “{book.title}” are out.")
    today = utc_now().date()
    loan = Loan(book=book, member=member, lent_on=today, due_on=today + LOAN_PERIOD)
    db.session.add(loan)
    _record("lent", book, member)
    db.session.commit()
    return loan


def take_back(loan: Loan) -> None:
    """Put the copy that was lent back on the shelf.

    :raises LendingRefusedError: if it came back before.
    """
    returned = _changes_a_row(
        update(Loan)
        .where(Loan.id == loan.id, Loan.returned_on.is_(None))
        .values(returned_on=utc_now().date())
    )
    if not returned:
        raise LendingRefusedError(f"“{loan.book.title}” has been returned already.")
    db.session.execute(
        update(Book).where(Book.id == loan.book_id).values(on_shelf=Book.on_shelf + 1)
    )
    _record("returned", loan.book, loan.member)
    db.session.commit()


def enrol(card: str, name: str) -> Member:
    """Take on a new member.

    :raises LendingRefusedError: if the card belongs to somebody already.
    """
    member = Member(card=card, name=name)
    db.session.add(member)
    try:
        db.session.commit()
    except IntegrityError as error:
        raise LendingRefusedError(
            f"Card {card} belongs to somebody already."
        ) from error
    return member


def _record(action: str, book: Book, member: Member) -> None:
    """Add a line to the journal.

    It is committed with the session, but in a transaction of its own database: if that
    one fails after the other succeeded, the loan stands and its line is missing.
    """
    db.session.add(JournalEntry(action=action, title=book.title, member=member.name))


def _changes_a_row(statement: Update) -> bool:
    """Execute the statement and say whether it found a row to change."""
    result = cast("CursorResult[Any]", db.session.execute(statement))
    return result.rowcount == 1
