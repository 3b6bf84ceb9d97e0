"""The pages of `guard.blueprint()`: who may see them, and what browsers are told."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, abort, redirect, request
from sqlalchemy import create_engine
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_poolguard import PoolGuard, SetupError
from flask_poolguard.metrics import CONTENT_TYPE
from flask_poolguard.report import make_report
from flask_poolguard.web import answers
from flask_poolguard.web.shared_value import KEPT_SECONDS, SharedValue

STATIC = Path(answers.__file__).parent / "static"
FILES = sorted(each.name for each in STATIC.iterdir() if each.name != "page.html")
PAGES = [
    "/",
    "/status.json",
    "/metrics",
    *(f"/poolguard-static/{each}" for each in FILES),
]
PROBES = ["/live", "/ready"]
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
Make = Callable[..., Flask]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make apps with an SQLite pool and the pages at /pools."""
    made: list[tuple[Flask, Any]] = []

    def make(debug: bool = False, name: str = "shop", **arguments: Any) -> Flask:
        app = Flask(name)
        app.debug = debug
        guard = PoolGuard(app)
        engine = create_engine("sqlite://")
        guard.register(engine)
        made.append((app, engine))
        app.register_blueprint(guard.blueprint(**arguments))
        return app

    yield make
    for app, engine in made:
        engine.dispose()
        app.extensions["poolguard"].app_tracker.remove_file()


def get(app: Flask, path: str, **options: Any) -> Any:
    """Return the answer to a GET below /pools."""
    return app.test_client().get(f"/pools{path}", **options)


def statuses(app: Flask, paths: list[str]) -> set[int]:
    """Return with which statuses a visitor's GETs are answered."""
    return {get(app, each).status_code for each in paths}


class TestWhoMaySeeThem:
    def test_an_app_that_does_not_say_does_not_start(self, make: Make) -> None:
        with pytest.raises(SetupError, match=r"pass auth=.*or auth=None"):
            make()

    def test_in_debug_mode_it_need_not_be_said(self, make: Make) -> None:
        assert statuses(make(debug=True), PAGES) == {200}

    def test_what_was_not_said_in_debug_mode_is_closed_outside_of_it(
        self, make: Make
    ) -> None:
        app = make(debug=True)
        app.debug = False
        assert statuses(app, [*PAGES, *PROBES]) == {404}

    def test_none_lets_everyone_see_them(self, make: Make) -> None:
        assert statuses(make(auth=None), [*PAGES, *PROBES]) == {200}

    def test_who_is_refused_gets_404_for_each_page(self, make: Make) -> None:
        app = make(auth=lambda: False)
        paths = [*PAGES, *PROBES, "/poolguard-static/none"]
        assert statuses(app, paths) == {404}

    def test_each_request_is_asked_for(self, make: Make) -> None:
        app = make(auth=lambda: request.headers.get("X-Key") == "right")
        assert get(app, "/").status_code == 404
        assert get(app, "/", headers={"X-Key": "right"}).status_code == 200
        assert get(app, "/", headers={"X-Key": "wrong"}).status_code == 404

    @pytest.mark.parametrize("error", [RuntimeError("no cookie"), None])
    def test_if_auth_raises_it_is_refused_and_logged(
        self,
        make: Make,
        caplog: pytest.LogCaptureFixture,
        error: Exception | None,
    ) -> None:
        def auth() -> bool:
            if error is None:
                abort(403)
            raise error

        app = make(auth=auth)
        assert get(app, "/status.json").status_code == 404
        (record,) = caplog.records
        assert record.exc_info is not None
        assert "auth function" in record.getMessage()

    @pytest.mark.parametrize(
        "auth",
        [
            lambda: Response("log in first"),
            lambda: redirect("/login"),
            lambda: asyncio.sleep(0, True),
            lambda: str.isdigit,
            lambda: ("log in first", 401),
            lambda: "<form>log in</form>",
            lambda: {"error": "no"},
            lambda: (each for each in [True]),
            object,
        ],
        ids=[
            *("response", "redirect", "coroutine", "function"),
            *("tuple", "text", "dict", "generator", "object"),
        ],
    )
    def test_what_is_always_true_is_refused_and_logged(
        self, make: Make, auth: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A log-in page, or a function that was not called, is no yes."""
        assert get(make(auth=auth), "/").status_code == 404
        assert "Let it return True or False" in caplog.text

    def test_auth_may_be_a_coroutine_function(self, make: Make) -> None:
        async def auth() -> bool:
            return request.headers.get("X-Key") == "right"

        app = make(auth=auth)
        assert get(app, "/").status_code == 404
        assert get(app, "/", headers={"X-Key": "right"}).status_code == 200

    def test_auth_must_be_a_function(self, make: Make) -> None:
        with pytest.raises(TypeError, match="must be a function or None"):
            make(auth="admin")

    def test_open_probes_do_not_ask(self, make: Make) -> None:
        app = make(auth=lambda: abort(500), probes_open=True)
        assert statuses(app, PROBES) == {200}
        assert statuses(app, PAGES) == {404}


class TestHeaders:
    @pytest.mark.parametrize("path", [*PAGES, *PROBES])
    def test_each_page_has_them(self, make: Make, path: str) -> None:
        headers = get(make(auth=None), path).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["Content-Security-Policy"] == POLICY
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"

    def test_what_the_app_answers_before_a_page_has_none(self, make: Make) -> None:
        """They would forbid the form of a log-in page to be sent."""
        app = make(auth=None)
        app.before_request(lambda: "<form method=post>")
        added = {"Cache-Control", "Content-Security-Policy", "Referrer-Policy"}
        for path in [*PAGES, *PROBES]:
            answer = get(app, path)
            assert answer.status_code == 200
            assert added.isdisjoint(answer.headers.keys()), path

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    def test_a_page_can_only_be_read(self, make: Make, method: str) -> None:
        client = make(auth=None).test_client()
        for path in [*PAGES, *PROBES]:
            answer = client.open(f"/pools{path}", method=method)
            assert answer.status_code == 405, path
            assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD"}

    def test_head_is_a_get_without_its_body(self, make: Make) -> None:
        answer = make(auth=None).test_client().head("/pools/status.json")
        assert (answer.status_code, answer.data) == (200, b"")
        assert answer.mimetype == "application/json"

    def test_types_do_not_depend_on_the_system(self, make: Make) -> None:
        app = make(auth=None)
        types = {each: get(app, f"/poolguard-static/{each}").mimetype for each in FILES}
        expected = {
            "css": "text/css",
            "js": "text/javascript",
            "svg": "image/svg+xml",
        }
        assert types == {each: expected[each.partition(".")[2]] for each in FILES}

    @pytest.mark.parametrize("name", ["page.html", "..%2faccess.py", "none"])
    def test_no_other_file_is_served(self, make: Make, name: str) -> None:
        assert get(make(auth=None), f"/poolguard-static/{name}").status_code == 404


class TestAddresses:
    def test_the_app_may_choose_the_prefix(self, make: Make) -> None:
        app = make(auth=None)
        pages = PoolGuard().blueprint(auth=None)
        app.register_blueprint(pages, name="again", url_prefix="/ops/db")
        assert app.test_client().get("/ops/db/status.json").status_code == 200
        assert (
            app.test_client().get("/ops/db/poolguard-static/page.js").status_code == 200
        )

    def test_the_page_names_no_address_but_relative_ones(self, make: Make) -> None:
        """So it works below any prefix, and behind any proxy."""
        page = get(make(auth=None), "/").text
        found = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(found) == 4
        for each in found:
            assert re.fullmatch(r"(poolguard-static/)?\w+\.\w+", each)
            assert get(make(auth=None, name=each), f"/{each}").status_code == 200
        scripts = "".join((STATIC / each).read_text() for each in FILES)
        assert set(re.findall(r'from "([^"]+)"', scripts)) == {
            "./parts.js",
            "./pools.js",
            "./sections.js",
        }
        assert re.findall(r'fetch\("([^"]+)"', scripts) == ["status.json"]

    def test_behind_a_proxy_the_missing_slash_leads_below_its_prefix(
        self, make: Make
    ) -> None:
        app = make(auth=None)
        fixed = ProxyFix(app.wsgi_app, x_prefix=1, x_host=1, x_proto=1)
        app.wsgi_app = fixed  # type: ignore[method-assign] # as its docs tell to
        headers = {
            "X-Forwarded-Prefix": "/shop",
            "X-Forwarded-Host": "example.org",
            "X-Forwarded-Proto": "https",
        }
        answer = get(app, "", headers=headers)
        assert answer.status_code == 308
        assert answer.location == "https://example.org/shop/pools/"
        assert get(app, "/status.json", headers=headers).status_code == 200


class TestThePage:
    def test_has_no_script_or_style_of_its_own(self) -> None:
        page = (STATIC / "page.html").read_text()
        assert re.findall(r"<script[^>]*>(.*?)</script>", page, re.S) == [""]
        assert re.search(r"<style|\sstyle=|\son\w+=", page) is None

    def test_its_scripts_turn_no_text_into_html(self) -> None:
        for file in STATIC.glob("*.js"):
            text = file.read_text()
            assert re.search(r"innerHTML|outerHTML|insertAdjacent|eval", text) is None

    def test_its_files_are_short(self) -> None:
        for file in STATIC.iterdir():
            assert len(file.read_text().splitlines()) <= 300, file


class TestAnswers:
    def test_the_report_is_that_of_the_command_with_the_hour_and_the_settings(
        self, make: Make
    ) -> None:
        app = make(auth=None)
        answer = json.loads(get(app, "/status.json").text)
        state = app.extensions["poolguard"]
        report = make_report(app, state.config, state.engines)
        beside = {"verdict", "host", "minutes", "settings", "answered_by"}
        assert set(answer) == set(report.to_dict()) | beside
        assert next(iter(answer)) == "verdict"
        assert answer["app"] == "shop"
        (worker,) = answer["workers"]
        assert [each["bind"] for each in worker["pools"]] == ["default"]

    def test_no_page_uses_a_pool(self, make: Make) -> None:
        app = make(auth=None)
        assert statuses(app, [*PAGES, *PROBES]) == {200}
        (pool,) = json.loads(get(app, "/status.json").text)["workers"][0]["pools"]
        assert (pool["checkouts"], pool["connects"]) == (0, 0)

    def test_each_app_has_its_own(self, make: Make) -> None:
        one, other = make(auth=None), make(auth=None, name="other")
        assert json.loads(get(one, "/status.json").text)["app"] == "shop"
        assert json.loads(get(other, "/status.json").text)["app"] == "other"

    def test_an_app_that_is_gone_is_not_kept(self) -> None:
        guard = PoolGuard()
        pages = guard.blueprint(auth=None)
        app = Flask("shop")
        guard.init_app(app)
        app.register_blueprint(pages)
        assert get(app, "/status.json").status_code == 200
        app.extensions["poolguard"].app_tracker.remove_file()
        reference = weakref.ref(app)
        del app
        gc.collect()
        assert reference() is None

    def test_metrics_are_prometheus_text(self, make: Make) -> None:
        answer = get(make(auth=None), "/metrics")
        assert answer.content_type == CONTENT_TYPE
        assert answer.text.startswith("# HELP ")
        assert 'pool="default"' in answer.text

    def test_live_looks_at_nothing(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(answers, "find_workers", None)
        monkeypatch.setattr(answers, "make_report", None)
        answer = get(make(auth=None), "/live")
        assert (answer.status_code, answer.text) == (200, "OK\n")

    def test_ready_says_what_check_says(self, make: Make) -> None:
        answer = get(make(auth=None), "/ready")
        assert answer.mimetype == "text/plain"
        assert answer.text.startswith("POOL OK - shop: 1 live worker, ")
        assert "|" not in answer.text

    def test_an_app_that_cannot_tell_stays_in_service(
        self,
        make: Make,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A mistake of the guard's own takes no app away from its users."""
        app = make(auth=None)
        monkeypatch.setattr(answers, "find_workers", None)
        answer = get(app, "/ready")
        assert answer.status_code == 200
        assert answer.text.startswith("POOL UNKNOWN - ")
        assert "TypeError" in caplog.text

    def test_where_no_state_file_can_be_kept_the_app_is_ready(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        app = make(auth=None)
        get(app, "/live")
        app.extensions["poolguard"].app_tracker.remove_file()
        assert get(app, "/ready").status_code == 200

    def test_an_app_without_a_guard_is_told(self) -> None:
        app = Flask("shop")
        app.register_blueprint(PoolGuard().blueprint(auth=None))
        app.testing = True
        with pytest.raises(SetupError, match=r"has no PoolGuard; call guard\.init_app"):
            get(app, "/status.json")

    def test_nothing_is_imported_before_it_is_asked_for(self) -> None:
        code = (
            "import sys, flask; from flask_poolguard import PoolGuard;"
            "PoolGuard(flask.Flask('a')); print('flask_poolguard.web' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout == "False\n"


class TestSharedValue:
    def test_is_made_once_for_half_a_second(self) -> None:
        now, made = [0.0], iter(range(9))
        value = SharedValue(lambda: next(made), lambda: now[0])
        assert [value.get(), value.get()] == [0, 0]
        now[0] += KEPT_SECONDS
        assert value.get() == 1

    def test_is_made_once_for_all_who_ask_meanwhile(self) -> None:
        begun, go_on = threading.Event(), threading.Event()
        made, got = [], []

        def make() -> int:
            made.append(1)
            begun.set()
            assert go_on.wait(30)
            return len(made)

        value = SharedValue(make)
        threads = [
            threading.Thread(target=lambda: got.append(value.get())) for _ in range(3)
        ]
        for each in threads:
            each.start()
        assert begun.wait(30)
        go_on.set()
        for each in threads:
            each.join(30)
        assert (got, len(made)) == ([1, 1, 1], 1)

    def test_an_error_is_not_kept(self) -> None:
        asked: list[int] = []

        def make() -> int:
            asked.append(1)
            if len(asked) == 1:
                raise ValueError("no")
            return 5

        value = SharedValue(make)
        with pytest.raises(ValueError, match="no"):
            value.get()
        assert value.get() == 5


@pytest.fixture(autouse=True)
def log_all(caplog: pytest.LogCaptureFixture) -> None:
    """Show what the guard logs."""
    caplog.set_level(logging.WARNING, "flask_poolguard")
