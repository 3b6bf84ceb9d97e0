"""What the desk knows: books, members and loans; and the journal in ``reports``.

All tables start with ``poolguard_example_``, so that they are easy to tell from
others in a database that the desk shares.
"""

from datetime import UTC, date, datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from example_app.extensions import Model


def utc_now() -> datetime:
    """Return the time in UTC, without a zone and to the second, as columns keep it."""
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


class Book(Model):
    """A title, and how many of its copies are on the shelf."""

    __tablename__ = "poolguard_example_book"

    id: Mapped[int] = mapped_column(primary_key=True)
    shelf_mark: Mapped[str] = mapped_column(String(20), unique=True)
    title: Mapped[str] = mapped_column(String(200))
    author: Mapped[str] = mapped_column(String(120))
    copies: Mapped[int]
    on_shelf: Mapped[int]


class Member(Model):
    """A person who may borrow."""

    __tablename__ = "poolguard_example_member"

    id: Mapped[int] = mapped_column(primary_key=True)
    card: Mapped[str] = mapped_column(String(20), unique=True)
    name: Mapped[str] = mapped_column(String(80))


class Loan(Model):
    """One copy of a book in a member's hands until ``returned_on`` is set."""

    __tablename__ = "poolguard_example_loan"

    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[int] = mapped_column(ForeignKey(Book.id), index=True)
    member_id: Mapped[int] = mapped_column(ForeignKey(Member.id), index=True)
    lent_on: Mapped[date]
    due_on: Mapped[date]
    returned_on: Mapped[date | None]

    book: Mapped[Book] = relationship()
    member: Mapped[Member] = relationship()


class JournalEntry(Model):
    """One line of the journal, on the second bind: what happened at the desk, and when.

    It holds copies of the names, not foreign keys: those cannot reach into another
    database.
    """

    __tablename__ = "poolguard_example_journal"
    __bind_key__ = "reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=utc_now)
    action: Mapped[str] = mapped_column(String(20))
    title: Mapped[str] = mapped_column(String(200))
    member: Mapped[str] = mapped_column(String(80))
