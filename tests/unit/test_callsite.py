"""The line that is named is the app's own, whatever lies between it and the pool."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import render_template_string, stream_with_context
from sqlalchemy import URL, event, select, text
from sqlalchemy.orm import Session

from flask_poolguard.tracking.callsite import describe_callsite
from tests.support.shop import Shop

COUNT = text("SELECT COUNT(*) FROM item")


@pytest.fixture
def shop(sqlite_url: URL) -> Iterator[Shop]:
    """Run an app whose root is this folder."""
    with Shop(sqlite_url) as shop:
        yield shop


def line_of(function: Callable[..., object], needle: str) -> str:
    """Return the ``file:line`` of a piece of a function, as the guard writes it."""
    code = function.__code__
    lines = Path(code.co_filename).read_text().splitlines()
    for number, line in enumerate(
        lines[code.co_firstlineno :], code.co_firstlineno + 1
    ):
        if needle in line:
            return f"unit/test_callsite.py:{number}"
    raise AssertionError(needle)


def site(shop: Shop) -> str:
    """Return the site of the one connection that is out."""
    (checkout,) = shop.tracker.out.values()
    return checkout.site()


class TestNamedLine:
    def test_of_engine_connect(self, shop: Shop) -> None:
        def take() -> str:
            with shop.engine.connect():
                return site(shop)

        assert take().endswith(line_of(take, "connect()"))

    def test_of_engine_begin(self, shop: Shop) -> None:
        def take() -> str:
            with shop.engine.begin():
                return site(shop)

        assert take().endswith(line_of(take, "begin()"))

    def test_of_a_raw_connection(self, shop: Shop) -> None:
        def take() -> str:
            connection = shop.engine.raw_connection()
            try:
                return site(shop)
            finally:
                connection.close()

        assert take().endswith(line_of(take, "raw_connection()"))

    def test_of_the_pool_itself(self, shop: Shop) -> None:
        def take() -> str:
            connection = shop.engine.pool.connect()
            try:
                return site(shop)
            finally:
                connection.close()

        assert take().endswith(line_of(take, "pool.connect()"))

    def test_of_an_engine_with_other_options(self, shop: Shop) -> None:
        def take() -> str:
            engine = shop.engine.execution_options(isolation_level="AUTOCOMMIT")
            with engine.connect():
                return site(shop)

        assert take().endswith(line_of(take, "connect()"))

    @pytest.mark.parametrize(
        "use",
        [
            lambda session, item: session.execute(COUNT),
            lambda session, item: session.scalar(COUNT),
            lambda session, item: session.scalars(select(item)),
            lambda session, item: session.get(item, 1),
            lambda session, item: session.query(item).first(),
            lambda session, item: list(session.query(item)),
            lambda session, item: session.connection(),
            lambda session, item: (session.add(item(name="new")), session.flush()),
            lambda session, item: (session.add(item(name="new")), session.commit()),
            lambda session, item: session.bulk_save_objects([item(name="new")]),
        ],
    )
    @pytest.mark.parametrize("kind", ["plain", "flask"])
    def test_of_a_session(self, shop: Shop, use: Callable[..., Any], kind: str) -> None:
        """SQLAlchemy makes some of the functions in between at run time."""
        seen: list[str] = []

        def note(*_: object) -> None:
            seen.append(site(shop))

        event.listen(shop.engine, "before_cursor_execute", note)
        with shop.app.app_context():
            session: Any = Session(shop.engine) if kind == "plain" else shop.db.session
            use(session, shop.Item)
            if not seen:  # nothing was executed
                note()
            session.close()
        expected = f"test_callsite.py:{use.__code__.co_firstlineno}"
        assert seen[0].endswith(expected)

    def test_of_a_lazy_load(self, shop: Shop) -> None:
        def take() -> str:
            item: Any = shop.db.session.get(shop.Item, 1)
            shop.db.session.commit()
            _ = item.parts
            return site(shop)

        with shop.app.app_context():
            assert take().endswith(line_of(take, "item.parts"))

    def test_of_flask_sqlalchemys_query(self, shop: Shop) -> None:
        def take() -> str:
            shop.Item.query.first_or_404()
            return site(shop)

        with shop.app.app_context():
            assert take().endswith(line_of(take, "first_or_404"))

    def test_of_pagination(self, shop: Shop) -> None:
        def take() -> str:
            shop.db.paginate(select(shop.Item))
            return site(shop)

        with shop.app.test_request_context():
            assert take().endswith(line_of(take, "paginate"))

    def test_of_a_template(self, shop: Shop, tmp_path: Path) -> None:
        """The template's own line, for a template that is a file."""
        (tmp_path / "item.html").write_text("<ul>\n{{ item.parts[0].name }}\n</ul>")
        shop.app.template_folder = str(tmp_path)
        shop.app.jinja_loader  # noqa: B018 (cached, so made with the new folder)
        seen: list[str] = []

        @shop.route
        def page() -> str:
            from flask import render_template

            item = shop.db.session.get(shop.Item, 1)
            shop.db.session.commit()
            answer = render_template("item.html", item=item)
            seen.append(site(shop))
            return answer

        assert "bolt" in shop.client.get("/page").text
        assert seen[0].endswith("item.html:2")

    def test_of_a_template_without_a_file(self, shop: Shop) -> None:
        seen: list[str] = []

        @shop.route
        def page() -> str:
            item = shop.db.session.get(shop.Item, 1)
            shop.db.session.commit()
            answer = render_template_string("{{ item.parts[0].name }}", item=item)
            seen.append(site(shop))
            return answer

        assert shop.client.get("/page").text == "bolt"
        assert seen[0].endswith(line_of(page, "render_template_string"))

    def test_of_a_stream(self, shop: Shop) -> None:
        seen: list[str] = []

        @shop.route
        def stream() -> Iterator[str]:
            def generate() -> Iterator[str]:
                shop.db.session.scalar(COUNT)
                seen.append(site(shop))
                yield "chunk"

            return stream_with_context(generate())

        shop.client.get("/stream").close()
        response = shop.client.get("/stream")
        assert response.text == "chunk"
        response.close()
        assert seen[-1].endswith(line_of(stream, "scalar(COUNT)"))

    @pytest.mark.parametrize("pool", ["NullPool", "SingletonThreadPool", "StaticPool"])
    def test_of_pools_that_keep_their_class(self, sqlite_url: URL, pool: str) -> None:
        from sqlalchemy import pool as pools

        options = {"poolclass": getattr(pools, pool)}
        with Shop(sqlite_url, SQLALCHEMY_ENGINE_OPTIONS=options) as shop:

            def take() -> str:
                with shop.engine.connect():
                    (checkout,) = shop.tracker.out.values()
                    return checkout.site()

            assert take().endswith(line_of(take, "connect()"))


@pytest.mark.process
class TestPrograms:
    def test_a_program_given_on_the_command_line_is_named(
        self, sqlite_url: URL
    ) -> None:
        program = textwrap.dedent(
            f"""
            import sqlalchemy, flask, flask_poolguard
            app = flask.Flask("__main__")
            engine = sqlalchemy.create_engine({str(sqlite_url)!r})
            flask_poolguard.PoolGuard(app).register(engine)
            with app.app_context():
                connection = engine.connect()
            """
        )
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert "that it took at <string>:7 " in result.stderr

    def test_a_program_in_a_file_is_named(
        self, sqlite_url: URL, tmp_path: Path
    ) -> None:
        program = tmp_path / "program.py"
        program.write_text(
            "import sqlalchemy, flask, flask_poolguard\n"
            'app = flask.Flask("__main__")\n'
            f"engine = sqlalchemy.create_engine({str(sqlite_url)!r})\n"
            "flask_poolguard.PoolGuard(app).register(engine)\n"
            "with app.app_context():\n"
            "    connection = engine.connect()\n"
        )
        result = subprocess.run(
            [sys.executable, program], capture_output=True, text=True, check=True
        )
        assert f"that it took at {tmp_path.name}/program.py:6 " in result.stderr


class TestDescription:
    def test_it_is_relative_to_the_folder_in_which_the_app_lies(self) -> None:
        described = describe_callsite("/srv/shop/views.py", 88, "/srv/shop")
        assert described == "shop/views.py:88"

    def test_a_file_elsewhere_keeps_its_whole_path(self) -> None:
        described = describe_callsite("/opt/library/code.py", 5, "/srv/shop")
        assert described == "/opt/library/code.py:5"

    def test_what_is_not_known_is_said_to_be_unknown(self) -> None:
        assert describe_callsite("", 0, "/srv/shop") == "unknown"
