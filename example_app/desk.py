"""The pages of the lending desk."""

from flask import Blueprint, abort, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import func, or_, select
from sqlalchemy.orm import joinedload
from werkzeug.exceptions import HTTPException

from example_app import lending
from example_app.extensions import db
from example_app.models import Book, JournalEntry, Loan, Member, utc_now

JOURNAL_LINES = 30

blueprint = Blueprint("desk", __name__)


@blueprint.get("/")
def catalogue() -> ResponseReturnValue:
    """List the books, or those whose title or author contains what was searched."""
    wanted = request.args.get("q", "").strip()
    query = select(Book).order_by(Book.title)
    if wanted:
        query = query.where(
            or_(
                Book.title.icontains(wanted, autoescape=True),
                Book.author.icontains(wanted, autoescape=True),
            )
        )
    books = db.session.scalars(query).all()
    return render_template("desk/catalogue.html", books=books, wanted=wanted)


@blueprint.get("/books/<int:book_id>")
def book(book_id: int) -> ResponseReturnValue:
    """Show one book, who has it, and the form that lends it."""
    open_loans = (
        select(Loan)
        .where(Loan.book_id == book_id, Loan.returned_on.is_(None))
        .options(joinedload(Loan.member))
        .order_by(Loan.due_on, Loan.id)
    )
    return render_template(
        "desk/book.html",
        book=db.get_or_404(Book, book_id),
        loans=db.session.scalars(open_loans).all(),
        members=db.session.scalars(select(Member).order_by(Member.name)).all(),
        today=utc_now().date(),
    )


@blueprint.post("/books/<int:book_id>/loans")
def lend(book_id: int) -> ResponseReturnValue:
    """Lend the book to the member who was chosen in the form."""
    member_id = request.form.get("member_id", type=int)
    if member_id is None:
        abort(400, "Choose the member who borrows the book.")
    loan = lending.lend(db.get_or_404(Book, book_id), db.get_or_404(Member, member_id))
    return redirect(url_for(".book", book_id=book_id, _anchor=f"loan-{loan.id}"), 303)


@blueprint.post("/loans/<int:loan_id>/return")
def take_back(loan_id: int) -> ResponseReturnValue:
    """Take a copy back."""
    loan = db.get_or_404(Loan, loan_id)
    book_id = loan.book_id
    lending.take_back(loan)
    return redirect(url_for(".book", book_id=book_id), 303)


@blueprint.get("/members")
def members() -> ResponseReturnValue:
    """List the members with the number of books that each has."""
    query = (
        select(Member, func.count(Loan.id))
        .outerjoin(Loan, (Loan.member_id == Member.id) & Loan.returned_on.is_(None))
        .group_by(Member.id, Member.card, Member.name)
        .order_by(Member.name)
    )
    rows = [(member, count) for member, count in db.session.execute(query)]
    return render_template("desk/members.html", rows=rows)


@blueprint.post("/members")
def enrol() -> ResponseReturnValue:
    """Take on the member whom the form describes."""
    card = request.form.get("card", "").strip()
    name = request.form.get("name", "").strip()
    if not (0 < len(card) <= 20 and 0 < len(name) <= 80):
        abort(400, "A member needs a card of up to 20 signs and a name of up to 80.")
    lending.enrol(card, name)
    return redirect(url_for(".members"), 303)


@blueprint.get("/journal")
def journal() -> ResponseReturnValue:
    """Show the latest lines of the journal, which is kept on the ``reports`` bind."""
    latest = select(JournalEntry).order_by(JournalEntry.id.desc()).limit(JOURNAL_LINES)
    totals = select(JournalEntry.action, func.count()).group_by(JournalEntry.action)
    return render_template(
        "desk/journal.html",
        entries=db.session.scalars(latest).all(),
        totals={action: count for action, count in db.session.execute(totals)},
    )


@blueprint.app_errorhandler(HTTPException)
def show_error(error: HTTPException) -> ResponseReturnValue:
    """Show an HTTP error as a page of the desk."""
    return _error_page(error.name, error.description or ""), error.code or 500


@blueprint.app_errorhandler(lending.LendingRefusedError)
def show_refusal(refusal: lending.LendingRefusedError) -> ResponseReturnValue:
    """Show why the desk refused."""
    return _error_page("Sorry", str(refusal)), 409


def _error_page(heading: str, explanation: str) -> str:
    return render_template("error.html", heading=heading, explanation=explanation)
