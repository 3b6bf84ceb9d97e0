"""The lending desk in ``example_app``, on SQLite."""

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, inspect, select
from sqlalchemy.pool import QueuePool

from example_app import create_app
from example_app.extensions import db, guard
from example_app.fault_runs import runs
from example_app.faults import _never_closed
from example_app.models import Book, JournalEntry, Member
from example_app.seeding import BOOKS, MEMBERS
from example_app.settings import from_environment
from tests.support.app_server import REPOSITORY
from tests.support.waiting import wait_until

BUTTONS = ["hold", "leak", "saturate", "deadlock", "kill", "crash"]
FAULTS = [f"/faults/{name}" for name in [*BUTTONS, "slow", "slow-fixed"]]
ADDED_BY_PROXIES = [
    "Forwarded",
    "X-Forwarded-For",
    "x-forwarded-proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Real-IP",
    "CF-Connecting-IP",
    "True-Client-IP",
    "Via",
]

AppFactory = Callable[..., Flask]


@pytest.fixture
def make_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppFactory]:
    """Build desks with a folder of their own, whatever the environment says."""
    for name in ("DATABASE_URL", "REPORTS_DATABASE_URL", "EXAMPLE_FAULTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EXAMPLE_INSTANCE_PATH", str(tmp_path / "instance"))
    made: list[Flask] = []

    def make(**overrides: object) -> Flask:
        made.append(create_app(overrides))
        return made[-1]

    yield make
    for app in made:
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()
    _never_closed.clear()


@pytest.fixture
def app(make_app: AppFactory) -> Flask:
    """A seeded desk."""
    app = make_app()
    assert app.test_cli_runner().invoke(args=["seed"]).exit_code == 0
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A visitor of the seeded desk."""
    return app.test_client()


@pytest.fixture
def faulty_app(make_app: AppFactory) -> Flask:
    """A seeded desk with the deliberate faults."""
    app = make_app(EXAMPLE_FAULTS=True)
    assert app.test_cli_runner().invoke(args=["seed"]).exit_code == 0
    return app


def figure(name: str) -> float:
    """Return a figure of the desk's pool in this process."""
    stat: Mapping[str, Any] = guard.stat()["default"]
    return float(stat[name])


def on_shelf(client: FlaskClient, title: str) -> int:
    """Return how many copies of the title are in, by the JSON document."""
    books = client.get("/api/books").get_json()["books"]
    return int(next(book["on_shelf"] for book in books if book["title"] == title))


def book_path(client: FlaskClient, title: str) -> str:
    """Return the address of the title's page, as the catalogue links it."""
    found = re.search(rf'href="(/books/\d+)">{title}<', client.get("/").text)
    assert found is not None
    return found[1]


def lend(client: FlaskClient, title: str) -> str:
    """Lend the title to the first member on its page; return the form that ends it."""
    path = book_path(client, title)
    member = re.search(r'<option value="(\d+)">', client.get(path).text)
    assert member is not None
    answer = client.post(f"{path}/loans", data={"member_id": member[1]})
    assert answer.status_code == 303
    return f"/loans/{answer.location.rpartition('#loan-')[2]}/return"


class TestSettings:
    def test_without_environment(self) -> None:
        """The desk and its journal are two SQLite files, and there are no faults."""
        config = from_environment({})

        assert config["SQLALCHEMY_DATABASE_URI"] == "sqlite:///desk.db"
        assert config["SQLALCHEMY_BINDS"] == {"reports": "sqlite:///reports.db"}
        assert config["EXAMPLE_FAULTS"] is False

    @pytest.mark.parametrize(
        ("environ", "reports"),
        [
            ({"DATABASE_URL": "mysql+pymysql://db/a"}, "mysql+pymysql://db/a"),
            ({"DATABASE_URL": "sqlite:////srv/a.db"}, "sqlite:///reports.db"),
            (
                {
                    "DATABASE_URL": "mysql+pymysql://db/a",
                    "REPORTS_DATABASE_URL": "mysql+pymysql://db/b",
                },
                "mysql+pymysql://db/b",
            ),
        ],
    )
    def test_database_of_the_journal(
        self, environ: dict[str, str], reports: str
    ) -> None:
        """The journal follows the desk to its server unless it is given its own."""
        config = from_environment(environ)

        assert config["SQLALCHEMY_DATABASE_URI"] == environ["DATABASE_URL"]
        assert config["SQLALCHEMY_BINDS"] == {"reports": reports}

    def test_instance_folder(self, make_app: AppFactory, tmp_path: Path) -> None:
        """The instance folder is the one that the environment names."""
        assert make_app().instance_path == str(tmp_path / "instance")

    @pytest.mark.parametrize(
        "seconds", ["nan", "inf", "-Infinity", "1e12", "-1", "0", "121", "true", "x"]
    )
    def test_a_fault_that_would_never_end_is_an_error_at_the_start(
        self, make_app: AppFactory, monkeypatch: pytest.MonkeyPatch, seconds: str
    ) -> None:
        monkeypatch.setenv("FLASK_EXAMPLE_FAULT_SECONDS", seconds)
        with pytest.raises(ValueError, match="EXAMPLE_FAULT_SECONDS must be a number"):
            make_app()

    @pytest.mark.parametrize("seconds", ["1", "2.5", "120"])
    def test_how_long_a_fault_lasts(
        self, make_app: AppFactory, monkeypatch: pytest.MonkeyPatch, seconds: str
    ) -> None:
        monkeypatch.setenv("FLASK_EXAMPLE_FAULT_SECONDS", seconds)
        assert make_app().config["EXAMPLE_FAULT_SECONDS"] == float(seconds)


class TestSeed:
    def test_fills_an_empty_database(self, make_app: AppFactory) -> None:
        """The first run makes the tables and adds all books and members."""
        app = make_app()

        result = app.test_cli_runner().invoke(args=["seed"])

        assert (
            result.output == f"Added {len(BOOKS)} books and {len(MEMBERS)} members.\n"
        )
        with app.app_context():
            assert db.session.scalar(select(func.count(Book.id))) == len(BOOKS)
            assert db.session.scalar(select(func.count(Member.id))) == len(MEMBERS)

    def test_is_idempotent(self, app: Flask) -> None:
        """A second run adds and lends nothing."""
        client = app.test_client()
        before = client.get("/api/books").get_json(), client.get("/journal").text

        result = app.test_cli_runner().invoke(args=["seed"])

        assert result.output == "Added 0 books and 0 members.\n"
        assert before == (
            client.get("/api/books").get_json(),
            client.get("/journal").text,
        )

    def test_replaces_what_is_missing(self, app: Flask) -> None:
        """A run adds what has been deleted since the last one."""
        with app.app_context():
            member = select(Member).where(Member.card == "M-004")
            db.session.delete(db.session.scalars(member).one())
            db.session.commit()

        result = app.test_cli_runner().invoke(args=["seed"])

        assert result.output == "Added 0 books and 1 members.\n"

    def test_tables_of_each_bind(self, app: Flask) -> None:
        """The journal alone is on ``reports``, and every table has the prefix."""
        with app.app_context():
            tables = {
                bind: set(inspect(engine).get_table_names())
                for bind, engine in db.engines.items()
            }

        assert tables == {
            None: {f"poolguard_example_{name}" for name in ("book", "loan", "member")},
            "reports": {"poolguard_example_journal"},
        }


class TestPages:
    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("/", "On the Origin of Species"),
            ("/members", "Noor Rahimi"),
            ("/journal", "Moby-Dick"),
            ("/static/desk.css", "body"),
        ],
    )
    def test_answers(self, client: FlaskClient, path: str, expected: str) -> None:
        """Each page shows what the seed put there."""
        with client.get(path) as answer:
            assert answer.status_code == 200
            assert expected in answer.get_data(as_text=True)

    def test_catalogue_before_the_first_book(self, make_app: AppFactory) -> None:
        """An empty catalogue says how to fill it."""
        app = make_app()
        with app.app_context():
            db.create_all()

        assert "example_app seed" in app.test_client().get("/").text

    @pytest.mark.parametrize("wanted", ["moby", "MELVILLE"])
    def test_search(self, client: FlaskClient, wanted: str) -> None:
        """A search finds titles and authors in any case, and nothing else."""
        page = client.get("/", query_string={"q": wanted}).text

        assert "Moby-Dick" in page
        assert "Walden" not in page

    @pytest.mark.parametrize("wanted", ["%", "no such book"])
    def test_search_in_vain(self, client: FlaskClient, wanted: str) -> None:
        """A search without a hit says so; the wildcards of SQL are plain signs."""
        page = client.get("/", query_string={"q": wanted}).text

        assert f"contains “{wanted}”" in page

    def test_book(self, client: FlaskClient) -> None:
        """A book's page shows who has it."""
        page = client.get(book_path(client, "Moby-Dick")).text

        assert "1 of 2 on the shelf" in page
        assert "<td>Noor Rahimi</td>" in page

    @pytest.mark.parametrize("path", ["/books/4711", "/nowhere"])
    def test_not_found(self, client: FlaskClient, path: str) -> None:
        """What is not there gets a page of the desk, not a bare error."""
        answer = client.get(path)

        assert answer.status_code == 404
        assert "Back to the catalogue" in answer.text


class TestJson:
    def test_books(self, client: FlaskClient) -> None:
        """The document lists every book by shelf mark with its copies."""
        books = client.get("/api/books").get_json()["books"]

        assert [book["shelf_mark"] for book in books] == sorted(b[0] for b in BOOKS)
        assert {key: books[1][key] for key in ("title", "copies", "on_shelf")} == {
            "title": "Moby-Dick",
            "copies": 2,
            "on_shelf": 1,
        }


class TestLending:
    def test_lend(self, client: FlaskClient) -> None:
        """A loan takes a copy off the shelf and writes a line into the journal."""
        lend(client, "Walden")

        assert on_shelf(client, "Walden") == 0
        assert "<td>Walden</td>" in client.get("/journal").text

    def test_last_copy_is_out(self, app: Flask) -> None:
        """A book that is out is refused, and nothing is written."""
        client = app.test_client()
        path = book_path(client, "Wuthering Heights")

        answer = client.post(f"{path}/loans", data={"member_id": "1"})

        assert answer.status_code == 409
        assert "All copies of “Wuthering Heights” are out." in answer.text
        assert on_shelf(client, "Wuthering Heights") == 0
        with app.app_context():
            entries = select(func.count(JournalEntry.id)).where(
                JournalEntry.title == "Wuthering Heights"
            )
            assert db.session.scalar(entries) == 1

    def test_take_back(self, client: FlaskClient) -> None:
        """A returned copy is on the shelf again, and the journal says so."""
        give_back = lend(client, "Walden")

        answer = client.post(give_back)

        assert answer.status_code == 303
        assert on_shelf(client, "Walden") == 1
        assert "1 returned so far" in client.get("/journal").text

    def test_take_back_twice(self, client: FlaskClient) -> None:
        """A second return of one loan is refused and adds no copy."""
        give_back = lend(client, "Walden")
        client.post(give_back)

        answer = client.post(give_back)

        assert answer.status_code == 409
        assert "has been returned already" in answer.text
        assert on_shelf(client, "Walden") == 1

    @pytest.mark.parametrize("data", [{}, {"member_id": ""}, {"member_id": "x"}])
    def test_lend_to_nobody(self, client: FlaskClient, data: dict[str, str]) -> None:
        """A loan needs a member."""
        path = book_path(client, "Walden")

        assert client.post(f"{path}/loans", data=data).status_code == 400
        assert on_shelf(client, "Walden") == 1

    @pytest.mark.parametrize("path", ["/books/4711/loans", "/loans/4711/return"])
    def test_unknown_number(self, client: FlaskClient, path: str) -> None:
        """A form for something that is not there is answered with 404."""
        assert client.post(path, data={"member_id": "1"}).status_code == 404


class TestMembers:
    def test_enrol(self, client: FlaskClient) -> None:
        """A new member is in the list."""
        answer = client.post("/members", data={"name": "Li Wei", "card": "M-005"})

        assert answer.status_code == 303
        assert "Li Wei" in client.get("/members").text

    def test_names_are_escaped(self, client: FlaskClient) -> None:
        """A name cannot put markup into a page."""
        client.post("/members", data={"name": "<b>Li</b>", "card": "M-005"})

        assert "<td>&lt;b&gt;Li&lt;/b&gt;</td>" in client.get("/members").text

    def test_card_in_use(self, client: FlaskClient) -> None:
        """A card that somebody has already is refused."""
        answer = client.post("/members", data={"name": "Li Wei", "card": "M-001"})

        assert answer.status_code == 409
        assert "Li Wei" not in client.get("/members").text

    @pytest.mark.parametrize(
        "data",
        [
            {"name": "Li Wei"},
            {"name": " ", "card": "M-005"},
            {"name": "L" * 81, "card": "M-005"},
        ],
    )
    def test_incomplete_form(self, client: FlaskClient, data: dict[str, str]) -> None:
        """A member without a card or a name of sensible length is refused."""
        assert client.post("/members", data=data).status_code == 400


class TestFaults:
    @pytest.mark.parametrize("path", ["/faults/", *FAULTS])
    def test_absent_by_default(self, client: FlaskClient, path: str) -> None:
        """Without the setting the faults do not exist."""
        assert client.get(path).status_code == client.post(path).status_code == 404
        assert "/faults" not in client.get("/").text

    @pytest.mark.parametrize("value", ["", "0", "no"])
    def test_only_1_turns_them_on(
        self, make_app: AppFactory, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        """The environment turns the faults on with 1 and nothing else."""
        monkeypatch.setenv("EXAMPLE_FAULTS", value)
        assert "faults" not in make_app().blueprints

        monkeypatch.setenv("EXAMPLE_FAULTS", "1")
        assert "faults" in make_app().blueprints

    def test_index(self, faulty_app: Flask) -> None:
        """The catalogue links to a page that has a button for every fault, and says
        which command goes with it.
        """
        client = faulty_app.test_client()

        assert 'href="/faults/"' in client.get("/").text
        page = client.get("/faults/").text
        assert re.findall(r'action="/faults/(\w+)"', page) == BUTTONS
        assert page.count("Then: <code>flask --app example_app pool ") == len(BUTTONS)

    @pytest.mark.parametrize("product", ["sqlite", "mysql", "mariadb", "postgresql"])
    def test_each_leads_to_its_how_to_page(
        self, faulty_app: Flask, product: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As text, as it is in the checkout."""
        client = faulty_app.test_client()
        with faulty_app.app_context():
            monkeypatch.setattr(db.engine.dialect, "name", product)
            page = client.get("/faults/").text
        links = re.findall(r'href="(/faults/how-to/[^"]+)">(docs/[^<]+)</a>', page)
        assert len(links) == len(BUTTONS)
        for link, file in links:
            with client.get(link) as answer:
                assert answer.data == (REPOSITORY / file).read_bytes()
                assert answer.mimetype == "text/plain"
        assert client.get("/faults/how-to/nothing.md").status_code == 404

    @pytest.mark.parametrize("path", FAULTS)
    def test_only_a_post_does_anything(self, faulty_app: Flask, path: str) -> None:
        """A link, a picture's address or a reload does nothing."""
        assert faulty_app.test_client().get(path).status_code == 405

    @pytest.mark.parametrize(
        ("headers", "is_let_in"),
        [
            ({}, True),
            ({"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}, True),
            ({"Sec-Fetch-Site": "none"}, True),
            ({"Origin": "http://evil.example"}, False),
            ({"Origin": "null"}, False),
            ({"Origin": "http://localhost:8000"}, False),
            ({"Sec-Fetch-Site": "same-site"}, False),
            ({"Sec-Fetch-Site": "cross-site"}, False),
            ({"Host": "evil.example", "Origin": "http://evil.example"}, False),
            *(({name: "203.0.113.7"}, False) for name in ADDED_BY_PROXIES),
        ],
    )
    def test_answers_no_form_of_another_site_and_no_proxy(
        self, faulty_app: Flask, headers: dict[str, str], is_let_in: bool
    ) -> None:
        answer = faulty_app.test_client().post("/faults/leak", headers=headers)
        assert answer.status_code == (303 if is_let_in else 403)
        assert len(_never_closed) == is_let_in

    @pytest.mark.parametrize("address", ["203.0.113.7", ""])
    def test_answers_this_machine_only(self, faulty_app: Flask, address: str) -> None:
        client = faulty_app.test_client()
        environ = {"REMOTE_ADDR": address}
        assert client.get("/faults/", environ_base=environ).status_code == 403
        assert client.post("/faults/leak", environ_base=environ).status_code == 403

    def test_each_runs_once_at_a_time_and_ends_by_itself(
        self, faulty_app: Flask
    ) -> None:
        client = faulty_app.test_client()
        faulty_app.config["EXAMPLE_FAULT_SECONDS"] = 1.0
        with faulty_app.app_context():
            assert client.post("/faults/saturate").status_code == 303
            wait_until(lambda: figure("checked_out") == 6, what="a full pool")
            assert client.post("/faults/saturate").status_code == 409
            wait_until(lambda: not runs.is_running("saturate"), what="its end")
            assert figure("checked_out") == 0
            assert client.post("/faults/saturate").status_code == 303
            wait_until(lambda: not runs.is_running("saturate"), what="its end")

    def test_a_deadlock_is_ended(self, faulty_app: Flask) -> None:
        with faulty_app.app_context():
            assert faulty_app.test_client().post("/faults/deadlock").status_code == 303
            wait_until(lambda: not runs.is_running("deadlock"), what="its end")
            assert figure("timeouts") >= 1
            assert figure("checked_out") == 0

    def test_sqlite_has_no_sessions_to_kill(self, faulty_app: Flask) -> None:
        client = faulty_app.test_client()
        assert client.post("/faults/kill").status_code == 409
        assert '<button id="kill-title" disabled>' in client.get("/faults/").text

    def test_a_pool_without_a_limit_is_not_filled(self, make_app: AppFactory) -> None:
        app = make_app(EXAMPLE_FAULTS=True, POOLGUARD_MAX_OVERFLOW=-1)
        assert app.test_client().post("/faults/saturate").status_code == 409

    def test_its_pools_are_shown_with_the_faults_and_in_debug_mode_only(
        self, app: Flask, faulty_app: Flask
    ) -> None:
        """The desk has no log-in that could say who may see them."""
        assert app.test_client().get("/pools/").status_code == 404
        client = faulty_app.test_client()
        assert client.get("/pools/").status_code == 200
        assert 'href="/pools/"' in client.get("/faults/").text

    def test_leak(self, faulty_app: Flask, caplog: pytest.LogCaptureFixture) -> None:
        """The guard returns the leaked connection and names the route and the line."""
        with caplog.at_level(logging.WARNING, "flask_poolguard"):
            answer = faulty_app.test_client().post("/faults/leak")

        assert answer.status_code == 303
        with faulty_app.app_context():
            assert "Current Checked out connections: 0" in db.engine.pool.status()
        (record,) = [r for r in caplog.records if r.name == "flask_poolguard"]
        assert record.levelno == logging.WARNING
        assert "faults.leak" in record.getMessage()
        assert re.search(r"example_app/faults\.py:\d+", record.getMessage())

    def test_slow(self, faulty_app: Flask) -> None:
        """The slow route answers after as long as it is asked to sleep."""
        answer = faulty_app.test_client().post("/faults/slow?seconds=0.01")

        assert answer.get_json() == {"slept_seconds": 0.01}

    @pytest.mark.parametrize("seconds", ["nan", "-nan"])
    def test_slow_takes_a_number(self, faulty_app: Flask, seconds: str) -> None:
        client = faulty_app.test_client()
        for path in ("slow", "slow-fixed"):
            answer = client.post(f"/faults/{path}?seconds={seconds}")
            assert answer.status_code == 400

    def test_slow_fixed(
        self, faulty_app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The fixed route has no connection while it sleeps."""
        out: list[int] = []
        with faulty_app.app_context():
            pool = db.engine.pool
        assert isinstance(pool, QueuePool)
        here = threading.get_ident()

        def sleep(seconds: float) -> None:
            if threading.get_ident() == here:  # other threads sleep as well
                out.append(pool.checkedout())

        monkeypatch.setattr("time.sleep", sleep)
        client = faulty_app.test_client()

        client.post("/faults/slow?seconds=1")
        client.post("/faults/slow-fixed?seconds=1")

        assert out == [1, 0]

    def test_crash(self, faulty_app: Flask) -> None:
        """A failure in a transaction is a page with status 500, and leaves no row."""
        client = faulty_app.test_client()

        answer = client.post("/faults/crash")

        assert answer.status_code == 500
        assert "Back to the catalogue" in answer.text
        assert "Nobody" not in client.get("/members").text
