"""What a visitor of the app's pages can and cannot do (docs/security.md)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import (
    Blueprint,
    Flask,
    Response,
    g,
    render_template_string,
    request,
    session,
)
from sqlalchemy import create_engine
from werkzeug.routing import BaseConverter

from flask_poolguard import PoolGuard
from flask_poolguard.web import answers, shared_value
from flask_poolguard.web.answers import NOT_IN_TIME

PAGES = [
    "",
    "/",
    "//",
    "/status.json",
    "//status.json",
    "/metrics",
    "/live",
    "/ready",
    "/poolguard-static/page.js",
    "/poolguard-static/none",
    "/no/such/page",
]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO"]
KEY = {"X-Key": "right"}

Change = Callable[[Flask], None]


def has_key() -> bool:
    """Tell whether a request may see the pages."""
    return request.headers.get("X-Key") == "right"


def reads_session() -> bool:
    """Tell it from the session, as most apps do."""
    return bool(session.get("is_admin"))


def reads_g() -> bool:
    """Tell it from what the app's own function has found."""
    return bool(g.is_admin)


def make_app(auth: Any = has_key, prefix: str = "/pools", **options: Any) -> Flask:
    """Return an app with the pages."""
    app = Flask("shop")
    app.secret_key = "key"
    guard = PoolGuard(app)
    app.extensions["test_engine"] = engine = create_engine("sqlite://")
    guard.register(engine)
    pages = guard.blueprint(auth=auth, **options)
    app.register_blueprint(pages, url_prefix=prefix)

    @app.before_request
    def find_user() -> None:  # made after the pages, as many apps do
        g.is_admin = has_key()

    return app


@pytest.fixture
def make() -> Iterator[Callable[..., Flask]]:
    """Make apps, which end with the test."""
    made: list[Flask] = []

    def make(*arguments: Any, **options: Any) -> Flask:
        made.append(make_app(*arguments, **options))
        return made[-1]

    yield make
    for app in made:
        app.extensions["test_engine"].dispose()
        app.extensions["poolguard"].app_tracker.remove_file()


Make = Callable[..., Flask]


def as_it_is(app: Flask) -> None:
    """Leave Flask's own page for what is not there."""


def handler_of_404(app: Flask) -> None:
    """Tell in the page all that the request says of where it leads."""

    @app.errorhandler(404)
    def missing(error: Any) -> tuple[str, int]:
        found = request.endpoint, request.blueprints, request.view_args
        return render_template_string(
            "no {{ method }} {{ found }} {{ error.description }}",
            method=request.method,
            found=found,
            error=error,
        ), 404


def handler_of_all(app: Flask) -> None:
    """Answer errors of all kinds in one function."""

    @app.errorhandler(Exception)
    def failed(error: Any) -> tuple[dict[str, object], int]:
        return {"type": type(error).__name__, "text": str(error)}, error.code


def headers_of_all(app: Flask) -> None:
    """Give all answers headers, and say which view made them."""

    @app.after_request
    def add(response: Response) -> Response:
        response.headers["X-Endpoint"] = str(request.endpoint)
        response.headers["X-Url-Rule"] = str(request.url_rule)
        response.headers["Cache-Control"] = "max-age=60"
        return response


def session_in_404(app: Flask) -> None:
    """Read the session in the page for what is not there."""
    app.register_error_handler(404, lambda _: (f"{session.get('name')}", 404))


def log_in_first(app: Flask) -> None:
    """Protect what changes something, as extensions against CSRF do."""

    @app.before_request
    def check() -> tuple[str, int] | None:
        if request.endpoint and request.method not in ("GET", "HEAD"):
            return "no token", 400
        return None


def code_of_routing(app: Flask) -> None:
    """Let functions before the view look at what the routing found, and tell of it."""

    @app.before_request
    def look() -> tuple[str, int] | None:
        found: Any = request.routing_exception
        if found is not None and request.method == "POST":
            return f"{found.code} {found}", found.code
        return None


def raises_routing(app: Flask) -> None:
    """Let a function before the view raise what the routing found."""

    @app.before_request
    def fail() -> None:
        if request.routing_exception is not None:
            raise request.routing_exception


CHANGES = [
    as_it_is,
    handler_of_404,
    handler_of_all,
    headers_of_all,
    session_in_404,
    log_in_first,
    code_of_routing,
    raises_routing,
]


def answer_of(app: Flask, path: str, method: str) -> tuple[Any, ...]:
    """Return all that a visitor learns, but for the time that it took."""
    answer = app.test_client().open(path, method=method)
    # Werkzeug lists the methods of a set, in an order that differs from rule to rule.
    headers = [
        (name, ", ".join(sorted(value.split(", "))) if name == "Allow" else value)
        for name, value in answer.headers
    ]
    return answer.status, headers, answer.data


class TestARefusal:
    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("auth", [has_key, reads_session, reads_g])
    def test_is_byte_for_byte_the_apps_own_404(
        self, make: Make, change: Change, auth: Callable[[], bool]
    ) -> None:
        app = make(auth)
        change(app)
        for method in METHODS:
            for path in PAGES:
                found = answer_of(app, f"/pools{path}", method)
                assert found == answer_of(app, "/nothing", method), (method, path)

    def test_is_the_apps_own_404_at_the_root_as_well(self, make: Make) -> None:
        app = make(prefix="/")
        for path in ("/", "/status.json", "/poolguard-static/page.js"):
            for method in METHODS:
                found = answer_of(app, path, method)
                assert found == answer_of(app, "/nothing", method), (method, path)

    def test_says_nothing_behind_a_prefix_of_the_server(self, make: Make) -> None:
        app = make()
        environ = {"SCRIPT_NAME": "/shop"}
        for method in ("GET", "POST"):
            for path in ("/pools", "/pools//", "/pools/"):
                answer = app.test_client().open(
                    path, method=method, environ_overrides=environ
                )
                assert answer.status_code == 404, (method, path)

    def test_says_nothing_to_who_asks_for_a_websocket(self, make: Make) -> None:
        client = make().test_client()
        headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
        expected = client.get("/nothing", headers=headers)
        for path in PAGES:
            answer = client.get(f"/pools{path}", headers=headers)
            assert answer.status == expected.status, path
            assert answer.data == expected.data, path
        answer = client.get("/pools/", headers={**headers, **KEY})
        assert answer.status_code == 400

    def test_can_be_told_where_a_view_answers_all_other_addresses(
        self, make: Make
    ) -> None:
        app = make()
        app.add_url_rule("/<path:path>", "all", lambda path: "all")
        client = app.test_client()
        assert client.get("/nothing/").text == "all"
        assert client.get("/pools/").status_code == 404
        # But not by a method that the view has not.
        for method in METHODS[2:]:
            found = answer_of(app, "/pools/", method)
            assert found == answer_of(app, "/nothing/", method), method

    def test_can_be_told_by_functions_of_a_blueprint_around_it(self) -> None:
        app = Flask("own")
        app.secret_key = "key"
        around = Blueprint("admin", __name__, url_prefix="/admin")
        around.before_request(lambda: session.update(seen=True))
        around.register_blueprint(PoolGuard().blueprint(auth=lambda: False))
        app.register_blueprint(around)
        answers_of = app.test_client().get
        assert "Set-Cookie" in answers_of("/admin/pools/").headers
        assert "Set-Cookie" not in answers_of("/admin/nothing/").headers
        # But not where Flask answers by itself.
        for method, path in (("GET", "/admin/pools"), ("POST", "/admin/pools/")):
            expected = answer_of(app, "/admin/nothing/", method)
            assert answer_of(app, path, method) == expected

    def test_can_be_told_by_a_variable_of_the_prefix(self) -> None:
        app = Flask("own")
        pages = PoolGuard().blueprint(auth=lambda: False)
        app.register_blueprint(pages, url_prefix="/<lang>/pools")

        @app.url_value_preprocessor
        def take(_: object, values: dict[str, Any] | None) -> None:
            g.lang = values.pop("lang") if values else "none"

        app.register_error_handler(404, lambda _: (g.lang, 404))
        client = app.test_client()
        assert client.get("/en/pools/").text == "en"
        assert client.get("/en/nothing/").text == "none"
        assert client.get("/en/pools").text == "none"

    def test_saves_a_session_that_auth_has_changed(self, make: Make) -> None:
        def auth() -> bool:
            session["refused"] = session.get("refused", 0) + 1
            return False

        client = make(auth).test_client()
        for _ in range(2):
            assert client.get("/pools/").status_code == 404
        with client.session_transaction() as found:
            assert found["refused"] == 2

    def test_keeps_the_mark_of_a_session_that_the_app_has_read(
        self, make: Make
    ) -> None:
        app = make(reads_session)
        app.before_request(lambda: session.get("name") and None)
        found = app.test_client().get("/pools/").headers["Vary"]
        assert found == app.test_client().get("/nothing").headers["Vary"] == "Cookie"

    def test_asks_once(self, make: Make) -> None:
        asked = []
        app = make(lambda: asked.append(1))
        for path in PAGES:
            app.test_client().post(f"/pools{path}")
            assert len(asked) <= 1
            asked.clear()

    def test_is_none_for_open_probes(self, make: Make) -> None:
        app = make(probes_open=True)
        assert app.test_client().get("/pools/live").status_code == 200
        assert app.test_client().post("/pools/live").status_code == 405
        assert app.test_client().post("/pools/").status_code == 404

    def test_of_one_of_two_mounts_is_not_that_of_the_other(self, make: Make) -> None:
        app = make()
        pages = PoolGuard().blueprint(auth=None)
        app.register_blueprint(pages, name="open", url_prefix="/open")
        assert app.test_client().post("/open/").status_code == 405
        assert app.test_client().post("/pools/").status_code == 404

    def test_leaves_other_answers_of_flask_alone(self, make: Make) -> None:
        app = make()
        app.add_url_rule("/own/", "own", lambda: "own")
        assert app.test_client().post("/own/").status_code == 405
        assert app.test_client().get("/own").status_code == 308


class TestTheAppsOwnAddresses:
    @pytest.mark.parametrize("prefix", ["/", "/pools", "/<model:user>"])
    def test_are_answered_by_flask_without_their_converters(self, prefix: str) -> None:
        class Model(BaseConverter):
            def to_python(self, value: str) -> str:
                raise RuntimeError("the database is down")

        app = Flask("own")
        app.url_map.converters["model"] = Model
        app.add_url_rule("/users/<model:user>/", "user", lambda user: user)
        app.add_url_rule("/<model:user>/", "any", lambda user: user)
        pages = PoolGuard().blueprint(auth=lambda: False)
        app.register_blueprint(pages, url_prefix=prefix)
        client = app.test_client()
        for path in ("/users/5", "/5", "/5//"):
            assert client.get(path).status_code in (308, 404), path
        for path in ("/users/5/", "/5/", "/5/metrics", "/metrics/"):
            assert client.post(path).status_code in (404, 405), path

    @pytest.mark.parametrize("first", [True, False])
    def test_are_its_own_where_a_page_has_the_same(self, first: bool) -> None:
        app = Flask("own")

        def add_own() -> None:
            for path in ("/own/", "/own/live"):
                app.add_url_rule(
                    path, path[1:], lambda: "own", provide_automatic_options=False
                )

        if first:
            add_own()
        pages = PoolGuard().blueprint(auth=lambda: False)
        app.register_blueprint(pages, url_prefix="/own")
        if not first:
            add_own()
        client = app.test_client()
        assert client.get("/own").status_code == 308
        assert client.post("/own/").status_code == 405
        assert client.post("/own/live").status_code == 405
        assert client.post("/own/ready").status_code == 404

    def test_on_another_subdomain_are_its_own(self) -> None:
        app = Flask("own", subdomain_matching=True)
        app.config["SERVER_NAME"] = "shop.test"
        app.add_url_rule("/pools/", "own", lambda: "own")
        pages = PoolGuard().blueprint(auth=lambda: False)
        app.register_blueprint(pages, subdomain="admin")
        client = app.test_client()
        for host, status in (("shop.test", 308), ("admin.shop.test", 404)):
            assert client.get("/pools", base_url=f"http://{host}").status_code == status

    @pytest.mark.parametrize("method", METHODS)
    def test_below_the_root_that_are_files_tell_nothing(self, method: str) -> None:
        app = Flask("own", static_url_path="")
        app.register_blueprint(PoolGuard().blueprint(auth=lambda: False))
        for path in PAGES:
            found = answer_of(app, f"/pools{path}", method)
            assert found == answer_of(app, f"/nothing{path}", method), path


class TestWhoMaySee:
    @pytest.mark.parametrize("path", ["/pools", "/pools//status.json"])
    def test_is_redirected_to_where_it_is(self, make: Make, path: str) -> None:
        answer = make().test_client().get(f"{path}?a=b", headers=KEY)
        assert answer.status_code == 308
        assert answer.location.endswith("?a=b")

    @pytest.mark.parametrize("change", CHANGES)
    def test_is_told_by_flask_in_each_app(self, make: Make, change: Change) -> None:
        app = make()
        change(app)
        client = app.test_client()
        assert client.get("/pools", headers=KEY).status_code == 308
        expected = 404 if change is code_of_routing else 405  # it answers by itself
        assert client.post("/pools/", headers=KEY).status_code == expected

    @pytest.mark.parametrize("method", METHODS[2:])
    def test_can_only_read(self, make: Make, method: str) -> None:
        client = make(reads_g).test_client()
        answer = client.open("/pools/metrics", method=method, headers=KEY)
        assert answer.status_code == 405
        assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD"}

    def test_gets_what_no_cache_keeps(self, make: Make) -> None:
        answer = make(reads_session).test_client().get("/pools/", headers=KEY)
        assert answer.status_code == 404
        found = make().test_client().get("/pools/", headers=KEY)
        assert found.headers["Cache-Control"] == "no-store"


class TestMountedAtTheRoot:
    def test_the_apps_own_files_and_views_stay_its_own(
        self, make: Make, tmp_path: Any
    ) -> None:
        (tmp_path / "page.css").write_text("own")
        app = Flask("shop", static_folder=tmp_path, static_url_path="/static")
        app.add_url_rule("/", "home", lambda: "home")
        app.register_blueprint(PoolGuard(app).blueprint(auth=None), url_prefix="/")
        client = app.test_client()
        with client.get("/static/page.css") as answer:
            assert answer.data == b"own"
        assert client.get("/").data == b"home"
        assert client.get("/status.json").status_code == 200
        assert client.get("/poolguard-static/page.css").status_code == 200
        assert client.get("/static/none").status_code == 404
        app.extensions["poolguard"].app_tracker.remove_file()


class TestAReadingThatHangs:
    """As on a folder of a network that does not answer."""

    @pytest.fixture
    def app(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
        """Give an app of which one request hangs in each page."""
        monkeypatch.setattr(shared_value, "PATIENCE", 0.01)
        begun, go_on = threading.Semaphore(0), threading.Event()
        own = threading.get_ident()

        def hang(original: Any) -> Any:
            def hanging(app: Flask) -> Any:
                if threading.get_ident() != own:
                    begun.release()
                    assert go_on.wait(60)
                return original(app)

            return hanging

        for name in ("_status", "_readiness", "_metrics"):
            monkeypatch.setattr(answers, name, hang(getattr(answers, name)))
        app = make(auth=None)
        paths = ["status.json", "ready", "metrics"]
        app.test_client().get("/pools/live")  # Flask sets itself up in one thread
        threads = [
            threading.Thread(target=app.test_client().get, args=[f"/pools/{each}"])
            for each in paths
        ]
        for each in threads:
            each.start()
            assert begun.acquire(timeout=60)
        yield app
        go_on.set()
        for each in threads:
            each.join(60)

    def test_lets_no_other_wait_without_end(self, app: Flask) -> None:
        client = app.test_client()
        for path in ("status.json", "metrics"):
            answer = client.get(f"/pools/{path}")
            assert (answer.status_code, answer.text) == (503, f"{NOT_IN_TIME}\n")
            assert answer.headers["Retry-After"] == "1"
            assert answer.headers["Cache-Control"] == "no-store"

    def test_takes_no_app_out_of_service(self, app: Flask) -> None:
        answer = app.test_client().get("/pools/ready")
        assert answer.status_code == 200
        assert answer.text == f"POOL UNKNOWN - {NOT_IN_TIME}\n"
