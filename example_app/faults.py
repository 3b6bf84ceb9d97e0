"""Deliberate faults, to see what the guard does about them.

**Do not copy anything from here.** Each route does wrong what real apps do wrong by
accident. They exist only where the config says ``EXAMPLE_FAULTS`` (in the environment:
``EXAMPLE_FAULTS=1``), for the demo and for curious readers, and answer requests of this
machine only. **Never enable them behind a proxy**: one that sends no header of its own
(a plain ``proxy_pass``) cannot be told from a browser of this machine.

``/faults/`` has buttons for them, each with a link to the page of ``docs/how-to/``:

- ``/faults/leak`` takes a connection and never gives it back;
- ``/faults/crash`` fails in the middle of a transaction;
- ``/faults/hold``, ``saturate``, ``deadlock`` and ``kill`` start what
  ``fault_runs.py`` does;
- ``/faults/slow`` holds a connection while it does something else;
  ``/faults/slow-fixed`` does the same work right. ``make demo`` compares the two, and
  they have no button.
"""

import ipaddress
import math
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

from flask import (
    Blueprint,
    Response,
    abort,
    redirect,
    render_template,
    request,
    send_from_directory,
    url_for,
)
from flask.typing import ResponseReturnValue
from sqlalchemy import Connection, text

from example_app.extensions import db
from example_app.fault_runs import FAULTS, FaultRefusedError
from example_app.models import Member

LONGEST_SLEEP_SECONDS = 30.0
HOW_TO = Path(__file__).parents[1] / "docs" / "how-to"
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
# What a proxy adds. One that adds none of them cannot be told.
_FORWARDED = (
    "forwarded",
    "via",
    "x-real-ip",
    "cf-connecting-ip",
    "true-client-ip",
)
_FORWARDED_PREFIX = "x-forwarded"

blueprint = Blueprint("faults", __name__, url_prefix="/faults")

# Deliberate fault: what is in here stays reachable, so the garbage collector cannot
# close it and hide the leak.
_never_closed: list[Connection] = []


@blueprint.before_request
def refuse_strangers() -> None:
    """Answer this machine only, and no form of another site.

    A browser says of each POST where its page came from. What says nothing is no
    browser (curl, the demo), and no page can make it send that.
    """
    if not _is_local():
        abort(403, "The faults answer requests of this machine only.")
    source = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin")
    is_foreign = origin is not None and origin != request.host_url.rstrip("/")
    if request.method == "POST" and (
        is_foreign or source not in ("none", "same-origin")
    ):
        abort(403, "The faults answer no form of another site.")


def _is_local() -> bool:
    """Tell whether a request comes from this machine, by a name of this machine.

    By the name too: another site's name may lead here, and its pages would then be of
    the same origin. What a proxy hands on may come from anywhere.
    """
    try:
        is_loopback = ipaddress.ip_address(request.remote_addr or "").is_loopback
    except ValueError:  # a Unix socket
        return False
    host = urlsplit(request.host_url).hostname
    sent = [name.lower() for name, _ in request.headers]
    is_handed_on = any(
        each in _FORWARDED or each.startswith(_FORWARDED_PREFIX) for each in sent
    )
    return is_loopback and host in _LOOPBACK_NAMES and not is_handed_on


@blueprint.get("/")
def index() -> ResponseReturnValue:
    """Explain the faults, with a button for each, beside what it does to the pools."""
    done = request.args.get("done")
    return render_template(
        "faults/index.html",
        done=done if done in (*FAULTS, "leak") else None,
        worker=request.args.get("worker", type=int),
        product=db.engine.dialect.name,
    )


@blueprint.get("/how-to/<name>.md")
def how_to(name: str) -> Response:
    """Show a page of the docs as it is in this checkout: what to do about a fault."""
    return send_from_directory(HOW_TO, f"{name}.md", mimetype="text/plain")


@blueprint.post("/<any(hold, saturate, deadlock, kill):name>")
def start(name: str) -> ResponseReturnValue:
    """Start a fault that runs in threads of its own."""
    try:
        FAULTS[name]()
    except FaultRefusedError as refusal:
        abort(409, str(refusal))
    return _back(name)


@blueprint.post("/leak")
def leak() -> ResponseReturnValue:
    """Take a connection, use it, keep it."""
    connection = db.engine.connect()  # Deliberate fault: no "with", no close().
    connection.execute(text("SELECT 1"))
    _never_closed.append(connection)
    return _back("leak")


def _back(name: str) -> ResponseReturnValue:
    return redirect(url_for(".index", done=name, worker=os.getpid()), 303)


@blueprint.post("/slow")
def slow() -> ResponseReturnValue:
    """Hold a connection for a while (``?seconds=``, else 1.5) without using it."""
    seconds = _seconds()
    db.session.execute(text("SELECT 1"))
    time.sleep(seconds)  # Deliberate fault: the transaction stays open meanwhile.
    return {"slept_seconds": seconds}


@blueprint.post("/slow-fixed")
def slow_fixed() -> ResponseReturnValue:
    """Do the work of ``/faults/slow`` without a connection in hand."""
    seconds = _seconds()
    db.session.execute(text("SELECT 1"))
    db.session.commit()  # The fix: it gives the connection back before the slow work.
    time.sleep(seconds)
    return {"slept_seconds": seconds}


def _seconds() -> float:
    wanted = request.args.get("seconds", 1.5, type=float)
    if math.isnan(wanted):
        abort(400, "seconds must be a number.")
    return min(max(wanted, 0.0), LONGEST_SLEEP_SECONDS)


@blueprint.post("/crash")
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
