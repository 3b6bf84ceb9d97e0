"""The panel of Flask-DebugToolbar in a browser, and under greenlets."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.support.browser import browser
from tests.support.desk import environment
from tests.support.gunicorn import GunicornApp

pytestmark = pytest.mark.process

pytest.importorskip("flask_debugtoolbar", reason="Flask-DebugToolbar is missing")

APP = """
import os
from flask import Flask
from flask_debugtoolbar import DebugToolbarExtension
from flask_poolguard import PoolGuard
from flask_sqlalchemy import SQLAlchemy
from werkzeug.debug import DebuggedApplication

app = Flask("shop")
app.debug = True
app.config.update(
    SQLALCHEMY_DATABASE_URI=os.environ["DATABASE_URL"],
    SECRET_KEY="secret",
    DEBUG_TB_PANELS=["flask_poolguard.debug_toolbar.PoolPanel"],
)
db = SQLAlchemy(app)
PoolGuard(app)
DebugToolbarExtension(app)
leaked = []
PAGE = "<!doctype html><html><title>Shop</title><body><h1>Shop</h1></body></html>"


@app.get("/<int:times>")
def view(times):
    for _ in range(times):
        with db.engine.connect() as connection:
            connection.execute(db.text("SELECT " + os.environ["SLEEP"]))
    db.session.execute(db.text("SELECT 1"))
    return PAGE


@app.get("/leak")
def leak():
    leaked.append(db.engine.connect())
    return view(1)


@app.get("/fail")
def fail():
    db.session.execute(db.text("SELECT 1"))
    raise ValueError("no such order")


wsgi = DebuggedApplication(app)
"""


def server_for(folder: Path, url: URL, worker_class: str) -> GunicornApp:
    """Return the app under a kind of worker; each statement takes a while."""
    (folder / "shop.py").write_text(APP)
    env = environment(url, SLEEP="SLEEP(0.05)")
    return GunicornApp(
        "shop:wsgi", folder, worker_class=worker_class, threads=4, env=env
    )


def test_requests_in_greenlets_have_panels_of_their_own(
    tmp_path: Path, mariadb_url: URL
) -> None:
    found: dict[int, str] = {}
    with server_for(tmp_path, mariadb_url, "gevent") as server:

        def visit(times: int) -> None:
            found[times] = server.get(f"/{times}")[1]

        threads = [threading.Thread(target=visit, args=(each,)) for each in range(1, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    panels = {
        each: len(re.findall(r"flDebug(?:Odd|Even)", found[each])) for each in found
    }
    assert panels == {each: each + 1 for each in range(1, 6)}


def test_the_panel_opens_and_an_errors_page_has_the_note(
    tmp_path: Path, mariadb_url: URL
) -> None:
    server = server_for(tmp_path, mariadb_url, "gthread")
    with server, browser() as tab:
        tab.look(1280)
        tab.open(f"{server.base_url}/leak")
        tab.wait_for("3 checkouts, 2 out", "#flDebugToolbar")
        tab.run("document.querySelector('a.flDebugPoolGuardPanel').click(); 0")
        tab.wait_for("with its session, at the end", "#flDebugPoolGuardPanel-content")
        assert "not yet" in tab.text("#flDebugPoolGuardPanel-content")
        tab.open(f"{server.base_url}/fail")
        tab.wait_for("this request took 1 connection")
        assert re.search(r"default at \S*shop\.py:\d+, still out", tab.text())
