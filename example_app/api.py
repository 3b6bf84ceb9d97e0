"""The desk for programs: one JSON document."""

from flask import Blueprint
from flask.typing import ResponseReturnValue
from sqlalchemy import select

from example_app.extensions import db
from example_app.models import Book

blueprint = Blueprint("api", __name__, url_prefix="/api")


@blueprint.get("/books")
def books() -> ResponseReturnValue:
    """List every book with the copies that the library has and that are in."""
    return {
        "books": [
            {
                "id": book.id,
                "shelf_mark": book.shelf_mark,
                "title": book.title,
                "author": book.author,
                "copies": book.copies,
                "on_shelf": book.on_shelf,
            }
            for book in db.session.scalars(select(Book).order_by(Book.shelf_mark))
        ]
    }
