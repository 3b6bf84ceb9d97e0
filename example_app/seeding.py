"""``flask --app example_app seed``: make the tables and put something into them.

It is a command, and not a part of ``create_app``, because every worker process calls
``create_app`` and they would race each other to make the same tables.
"""

import click
from flask.cli import with_appcontext
from sqlalchemy import select

from example_app import lending
from example_app.extensions import db
from example_app.models import Book, Member

# Shelf mark, title, author, copies.
BOOKS = [
    ("F-001", "Middlemarch", "George Eliot", 3),
    ("F-002", "Moby-Dick", "Herman Melville", 2),
    ("F-003", "The Time Machine", "H. G. Wells", 2),
    ("F-004", "Pride and Prejudice", "Jane Austen", 4),
    ("F-005", "Frankenstein", "Mary Shelley", 2),
    ("F-006", "Wuthering Heights", "Emily Brontë", 1),
    ("N-001", "On the Origin of Species", "Charles Darwin", 2),
    ("N-002", "Walden", "Henry David Thoreau", 1),
]

# Card, name.
MEMBERS = [
    ("M-001", "Ada Byron"),
    ("M-002", "Ignaz Held"),
    ("M-003", "Noor Rahimi"),
    ("M-004", "Tomás Quiroga"),
]

# Shelf mark, card: lent when the book is new to the database.
LOANS = [("F-002", "M-003"), ("F-006", "M-001"), ("N-001", "M-003")]


@click.command("seed")
@with_appcontext
def seed() -> None:
    """Make the tables and add the books and members that are missing."""
    db.create_all()
    new_books = _add_missing_books()
    new_members = _add_missing_members()
    db.session.commit()
    for shelf_mark, card in LOANS:
        if shelf_mark in new_books:
            member = select(Member).where(Member.card == card)
            lending.lend(new_books[shelf_mark], db.session.scalars(member).one())
    click.echo(f"Added {len(new_books)} books and {new_members} members.")


def _add_missing_books() -> dict[str, Book]:
    """Add the books that are not there yet, and return them by shelf mark."""
    present = set(db.session.scalars(select(Book.shelf_mark)))
    added = {
        mark: Book(
            shelf_mark=mark, title=title, author=author, copies=copies, on_shelf=copies
        )
        for mark, title, author, copies in BOOKS
        if mark not in present
    }
    db.session.add_all(added.values())
    return added


def _add_missing_members() -> int:
    """Add the members who are not there yet, and return how many those are."""
    present = set(db.session.scalars(select(Member.card)))
    added = [
        Member(card=card, name=name) for card, name in MEMBERS if card not in present
    ]
    db.session.add_all(added)
    return len(added)
