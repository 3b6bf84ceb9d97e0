"""Deliberate faults, to see what the guard does about them.

**Do not copy anything from here.** Each route does wrong what real apps do wrong by
accident. They exist only where the config says ``EXAMPLE_FAULTS`` (in the environment:
``EXAMPLE_FAULTS=1``), for the demo and for curious readers:

- ``/faults/leak`` takes a connection and never gives it back;
- ``/faults/slow`` holds a connection while it does something else;
  ``/faults/slow-fixed`` does the same work right;
- ``/faults/crash`` fails in the middle of a transaction.
"""

import os
import time

from flask import Blueprint, Response, render_template, request
from flask.typing import ResponseReturnValue
from sqlalchemy import Connection, text

from example_app.extensions import db
from example_app.models import Member

LONGEST_SLEEP_SECONDS = 30.0

blueprint = Blueprint("faults", __name__, url_prefix="/faults")

# Deliberate fault: whatever is in here stays reachable, so the garbage collector cannot
# close it and hide the leak.
_never_closed: list[Connection] = []


@blueprint.get("/")
def index() -> ResponseReturnValue:
    """Explain the faults, with a link to each."""
    return render_template("faults/index.html")


@blueprint.get("/leak")
def leak() -> ResponseReturnValue:
    """Take a connection, use it, keep it."""
    connection = db.engine.connect()  # Deliberate fault: no "with", no close().
    connection.execute(text("SELECT 1"))
    _never_closed.append(connection)
    return {"connections_never_closed_here": len(_never_closed)}


@blueprint.get("/slow")
def slow() -> ResponseReturnValue:
    """Hold a connection for a while (``?seconds=``, else 1.5) without using it."""
    seconds = _seconds()
    db.session.execute(text("SELECT 1"))
    time.sleep(seconds)  # Deliberate fault: the transaction stays open meanwhile.
    return {"slept_seconds": seconds}


@blueprint.get("/slow-fixed")
def slow_fixed() -> ResponseReturnValue:
    """Do the work of ``/faults/slow`` without a connection in hand."""
    seconds = _seconds()
    db.session.execute(text("SELECT 1"))
    db.session.commit()  # The fix: it gives the connection back before the slow work.
    time.sleep(seconds)
    return {"slept_seconds": seconds}


def _seconds() -> float:
    wanted = request.args.get("seconds", 1.5, type=float)
    return min(max(wanted, 0.0), LONGEST_SLEEP_SECONDS)


@blueprint.get("/crash")
def crash() -> ResponseReturnValue:
    """Write a row, then fail before the commit; the row must not survive."""
    db.session.add(Member(card="CRASH", name="Nobody"))
    db.session.flush()
    raise RuntimeError("a deliberate failure in the middle of a transaction")


@blueprint.after_app_request
def name_the_worker(response: Response) -> Response:
    """Say in a header which worker process answered, for the demo."""
    response.headers["X-Worker-Pid"] = str(os.getpid())
    return response
