"""Names that an app, a thread or a visitor may have chosen command no reader."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine

from flask_poolguard import PoolGuard
from flask_poolguard.metrics import FAMILIES
from flask_poolguard.pool.housekeeper import Housekeeper
from tests.support.outputs import jsons_of, metrics_of, obeyed, pages_of, texts_of

HOSTILE = {
    "newline": "a\nCRITICAL forged\r\n2026-01-01 ERROR forged",
    "html": "<script>alert(1)</script><img src=x onerror=alert(2)>'\"&amp;",
    "prometheus": 'a"} 9\n# TYPE evil gauge\nevil{x="\\',
    "ansi": "\x1b[2J\x1b]0;owned\x07\x9b31m\x1bc",
    "bidi": "safe\u202egnp.exe\u2066\u200b\ufeff",
    "nul": "a\0b\x08\x7f",
    "long": "x" * 10_000,
    "surrogate": "half \ud800 \udc80 a",
    "perfdata": "a | 'x'=1;2;3",
    "format": "%s %d {0} {name} %(x)s",
    "separators": "a\u2028b\u2029c\x85d",
}
pytestmark = pytest.mark.filterwarnings("ignore::flask_poolguard.LeakWarning")


class Tags(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Note one."""
        self.seen.append(tag)


@pytest.fixture(params=HOSTILE)
def name(request: pytest.FixtureRequest) -> str:
    """Give each hostile name in turn."""
    return HOSTILE[request.param]


@pytest.fixture
def app(
    name: str,
    tmp_path: Path,
    threadless: Housekeeper,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Flask]:
    """Give an app in which all that can have a name has this one."""
    caplog.set_level(logging.DEBUG, "flask_poolguard")
    app = Flask(name if len(name) < 1000 and name.isprintable() else "shop")
    app.config["POOLGUARD_STATE_DIR"] = str(tmp_path / "state")
    guard = PoolGuard(app)
    engine = create_engine(f"sqlite:///{tmp_path}/shop.sqlite", pool_size=3)
    guard.register(engine, name="half" if "\ud800" in name else name)
    app.register_blueprint(guard.blueprint(auth=None))

    def view() -> str:
        guard.keep(engine.connect())
        held.append(engine.connect())
        return "done"

    held: list[Any] = []
    endpoint = name.replace(".", "-") or "view"
    app.add_url_rule("/view", endpoint, view)

    def hold() -> None:
        with app.test_request_context("/view"), guard.scope(name):
            held.append(guard.keep(engine.connect()))

    thread = threading.Thread(target=hold, name=name)
    thread.start()
    thread.join(60)
    app.test_client().get("/view")
    for each in app.extensions["poolguard"].app_tracker.trackers:
        each.tend()
    yield app
    for each in held:
        each.close()
    engine.dispose()
    app.extensions["poolguard"].app_tracker.remove_file()


def test_are_only_read_in_texts(app: Flask) -> None:
    for command, text in texts_of(app).items():
        assert obeyed(text) == set(), command
        assert not any(line.startswith("CRITICAL forged") for line in text.splitlines())


def test_do_not_make_two_lines_of_one_in_the_log(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    texts_of(app)
    records = [*caplog.get_records("setup"), *caplog.records]
    messages = [each.getMessage() for each in records if each.name == "flask_poolguard"]
    assert any("did not give back" in each for each in messages)
    for each in messages:
        assert obeyed(each) == set()
        assert len(each.splitlines()) == 1


def test_stay_within_their_json(app: Flask) -> None:
    for text in jsons_of(app).values():
        assert obeyed(text) == set()
        text.encode("ascii")


def test_stay_within_their_labels(app: Flask) -> None:
    text = metrics_of(app)
    assert obeyed(text) == set()
    families = list(text_string_to_metric_families(text))
    assert {each.name.removesuffix("_total") for each in families} <= {
        each.name.removesuffix("_total") for each in FAMILIES
    }


def test_stay_text_on_the_page(app: Flask) -> None:
    pages = pages_of(app)
    tags = Tags()
    tags.feed(pages["/"])
    assert tags.seen.count("script") == 1
    assert json.loads(pages["/status.json"])["workers"]
    assert len(pages["/ready"].splitlines()) == 1
    assert obeyed(pages["/ready"]) == set()


def test_are_kept_short(app: Flask) -> None:
    """A name of 10 kB costs no more room than another."""
    text = metrics_of(app)
    assert all(len(line) < 2000 for line in text.splitlines())
