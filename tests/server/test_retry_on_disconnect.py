"""`guard.retry_on_disconnect` repeats a view once, if nothing is done twice by that."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, Response, request, stream_with_context
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Session

from flask_poolguard import PoolGuard
from tests.conftest import Database
from tests.support.app_server import REPOSITORY
from tests.support.guarded_app import SESSION_ID, session_id, warnings_of
from tests.support.servers import DatabaseServer

pytestmark = pytest.mark.every_product

ONE = sa.text("SELECT 1")


class Shop:
    """An app whose views lose their connection where a test says.

    :ivar calls: how often a view began.
    :ivar kills: how many kills are still to come.
    """

    def __init__(self, database: Database) -> None:
        self.server, self.url = database.running_server, database.url
        self.app = Flask("shop")
        self.app.config.update(
            SQLALCHEMY_DATABASE_URI=database.url,
            SQLALCHEMY_BINDS={"other": database.url},
            TESTING=True,
        )
        self.db = SQLAlchemy(self.app)
        self.guard = PoolGuard(self.app)
        self.calls, self.kills = 0, 1
        with self.app.app_context(), self.db.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE orders (number INTEGER)"))

    def kill(self, source: Any) -> None:
        """End the server's session that a session or Connection works on, without a
        statement that the guard would see.
        """
        if self.kills:
            self.kills -= 1
            is_session = not isinstance(source, sa.Connection)
            connection = source.connection() if is_session else source
            self.server.kill_session(self.server_number(connection))

    def server_number(self, connection: sa.Connection) -> int:
        """Return the server's number of a session, in the way that kill() does."""
        cursor = connection.connection.dbapi_connection.cursor()  # type: ignore[union-attr] # open
        cursor.execute(SESSION_ID[connection.dialect.name])
        (number,) = cursor.fetchone() or (0,)
        cursor.close()
        return int(number)

    def add(
        self, view: Callable[[], Any], guarded: Any = None, **options: Any
    ) -> Callable[..., Any]:
        """Add a view at /, decorated; return a function that requests it."""

        def counted() -> Any:
            self.calls += 1
            return view()

        decorate = guarded or self.guard.retry_on_disconnect
        self.app.add_url_rule("/", "page", decorate(counted), **options)
        return self.app.test_client().open

    def orders(self) -> int:
        """Return how many orders there are."""
        with self.app.app_context(), self.db.engine.connect() as connection:
            count = connection.scalar(sa.text("SELECT COUNT(*) FROM orders"))
        assert isinstance(count, int)
        return count


class Order:
    """A row of orders."""

    number: int


@pytest.fixture
def mapped_order() -> Iterator[None]:
    table = sa.Table("orders", sa.MetaData(), sa.Column("number", sa.Integer))
    mapper = sa.orm.registry()
    mapper.map_imperatively(Order, table, primary_key=[table.c.number])
    yield
    mapper.dispose()


def shop_on(database: Database) -> Iterator[Shop]:
    """Give an app, and close its connections at the end."""
    shop = Shop(database)
    yield shop
    with shop.app.app_context():
        for engine in shop.db.engines.values():
            engine.dispose()


@pytest.fixture
def shop(served_database: Database) -> Iterator[Shop]:
    yield from shop_on(served_database)


@pytest.fixture
def postgresql_shop(
    postgresql_url: sa.URL, postgresql: DatabaseServer
) -> Iterator[Shop]:
    yield from shop_on(Database(postgresql_url, postgresql))


def lost() -> Any:
    """Expect a request to fail because its connection was lost."""
    return pytest.raises(sa.exc.DBAPIError)


class TestRepeats:
    def test_a_view_that_lost_its_first_statement(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        sessions = []

        def view() -> str:
            sessions.append(shop.db.session())
            shop.kill(shop.db.session)
            return str(shop.db.session.scalar(ONE))

        assert shop.add(view)("/").text == "1"
        assert shop.calls == 2
        assert sessions[0] is not sessions[1]
        (line,) = warnings_of(caplog)
        assert line.startswith("page is called once more: its connection was lost")

    def test_with_arguments_and_by_head(self, shop: Shop) -> None:
        @shop.app.get("/orders/<int:number>")
        @shop.guard.retry_on_disconnect
        def orders(number: int) -> str:
            """Show it."""
            shop.kill(shop.db.session)
            shop.calls += 1
            return str(shop.db.session.scalar(ONE)) + str(number)

        assert shop.app.test_client().head("/orders/7").status_code == 200
        assert (shop.calls, orders.__name__, orders.__doc__) == (
            2,
            "orders",
            "Show it.",
        )

    def test_one_that_uses_a_connection_or_session_of_its_own(self, shop: Shop) -> None:
        def view() -> str:
            if shop.calls == 1:
                with shop.db.engine.connect() as connection:
                    shop.kill(connection)
                    return str(connection.scalar(ONE))
            with Session(shop.db.engine) as session:
                return str(session.scalar(ONE))

        assert shop.add(view)("/").text == "1"
        assert shop.calls == 2

    def test_with_a_session_that_the_app_files_elsewhere(self, shop: Shop) -> None:
        """Which would stay in its broken transaction."""
        with shop.app.app_context():
            engine = shop.db.engine
        registry = sa.orm.scoped_session(sa.orm.sessionmaker(engine))

        def view() -> str:
            shop.kill(registry())
            return str(registry.scalar(ONE))

        assert shop.add(view)("/").text == "1"
        assert shop.calls == 2
        registry.remove()

    def test_other_methods_that_it_is_told(self, shop: Shop) -> None:
        def view() -> str:
            shop.kill(shop.db.session)
            number = shop.db.session.scalar(ONE)
            shop.db.session.execute(
                sa.text("INSERT INTO orders VALUES (:number)"), {"number": number}
            )
            shop.db.session.commit()
            return "ordered"

        guarded = shop.guard.retry_on_disconnect(methods=["post"])
        open_page = shop.add(view, guarded, methods=["POST"])
        assert open_page("/", method="POST").text == "ordered"
        assert (shop.calls, shop.orders()) == (2, 1)

    def test_the_example_of_the_docs(self, shop: Shop) -> None:
        page = (REPOSITORY / "docs" / "pool.md").read_text()
        (code,) = re.findall(r"```python\n(.*?)```", page, re.S)

        def text(statement: str) -> sa.TextClause:
            shop.calls += 1
            shop.kill(shop.db.session)
            return sa.text(statement)

        names = {"app": shop.app, "db": shop.db, "guard": shop.guard, "text": text}
        exec(compile(code, "pool.md", "exec"), names)  # noqa: S102 (ours)
        assert shop.app.test_client().get("/orders").text == "42"
        assert shop.calls == 2


class TestDoesNotRepeat:
    def test_after_an_answer(self, shop: Shop) -> None:
        def view() -> str:
            shop.db.session.execute(ONE)
            shop.kill(shop.db.session)
            return str(shop.db.session.scalar(ONE))

        with lost():
            shop.add(view)("/")
        assert shop.calls == 1

    def test_after_an_answer_before_the_view(self, shop: Shop) -> None:
        """Such as that of a function that loads the user."""

        @shop.app.before_request
        def load() -> None:
            shop.db.session.execute(ONE)

        def view() -> str:
            shop.kill(shop.db.session)
            return str(shop.db.session.scalar(ONE))

        with lost():
            shop.add(view)("/")
        assert shop.calls == 1

    def test_after_an_answer_of_another_bind(self, shop: Shop) -> None:
        def view() -> str:
            with shop.db.engines["other"].connect() as other:
                other.execute(ONE)
            shop.kill(shop.db.session)
            return str(shop.db.session.scalar(ONE))

        with lost():
            shop.add(view)("/")
        assert shop.calls == 1

    def test_after_an_answer_of_an_outer_session(self, shop: Shop) -> None:
        def view() -> str:
            with Session(shop.db.engine) as outer:
                outer.execute(ONE)
                with Session(shop.db.engine) as inner:
                    shop.kill(inner)
                    return str(inner.scalar(ONE))

        with lost():
            shop.add(view)("/")
        assert shop.calls == 1

    def test_a_write(self, shop: Shop) -> None:
        """Also one that the server may have done before the connection went."""

        def view() -> str:
            autocommit = shop.db.engine.execution_options(isolation_level="AUTOCOMMIT")
            with autocommit.connect() as connection:
                shop.kill(connection)
                connection.execute(sa.text("INSERT INTO orders VALUES (1)"))
            return "ordered"

        with lost():
            shop.add(view)("/")
        assert (shop.calls, shop.orders()) == (1, 0)

    def test_a_flush(self, shop: Shop, mapped_order: None) -> None:
        def view() -> str:
            shop.kill(shop.db.session)
            order = Order()
            order.number = 1
            shop.db.session.add(order)
            shop.db.session.commit()
            return "ordered"

        with lost():
            shop.add(view)("/")
        assert (shop.calls, shop.orders()) == (1, 0)

    @pytest.mark.parametrize("rolls_back", [False, True])
    def test_a_read_with_unsaved_changes(
        self, shop: Shop, mapped_order: None, rolls_back: bool
    ) -> None:
        """What a function before the view has added would be lost in silence."""

        @shop.app.before_request
        def add() -> None:
            shop.db.session.add(Order())

        def view() -> str:
            with shop.db.session.no_autoflush:
                shop.kill(shop.db.session)
                try:
                    return str(shop.db.session.scalar(ONE))
                except sa.exc.DBAPIError:
                    if rolls_back:
                        shop.db.session.rollback()
                    raise

        with lost():
            shop.add(view)("/")
        assert shop.calls == 1

    def test_a_read_while_another_session_has_unsaved_changes(
        self, shop: Shop, mapped_order: None
    ) -> None:
        @shop.app.before_request
        def add() -> None:
            shop.db.session.add(Order())

        def view() -> str:
            with shop.db.engine.connect() as connection:
                shop.kill(connection)
                return str(connection.scalar(ONE))

        with lost():
            shop.add(view)("/")
        assert shop.calls == 1

    def test_a_commit_after_a_read(self, shop: Shop) -> None:
        def view() -> str:
            shop.db.session.execute(ONE)
            shop.kill(shop.db.session)
            shop.db.session.commit()
            return "read"

        with lost():
            shop.add(view)("/")
        assert shop.calls == 1

    def test_rows_that_are_fetched(self, postgresql_shop: Shop) -> None:
        """The statement was answered, in part. (PyMySQL raises an error of its own from
        the destructor of such a result.)
        """
        shop = postgresql_shop
        rows = sa.text(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
            " WHERE i < 900) SELECT a.i, b.i FROM n a, n b"
        )

        def view() -> str:
            streaming = shop.db.session.connection(
                execution_options={"stream_results": True, "max_row_buffer": 10}
            )
            number = shop.server_number(streaming)
            result = streaming.execute(rows)
            result.fetchone()
            shop.server.kill_session(number)
            return str(len(result.fetchall()))

        with lost():
            shop.add(view)("/")
        assert shop.calls == 1

    def test_a_commit(self, shop: Shop) -> None:
        def view() -> str:
            shop.db.session.execute(sa.text("INSERT INTO orders VALUES (1)"))
            shop.kill(shop.db.session)
            shop.db.session.commit()
            return "ordered"

        with lost():
            shop.add(view)("/")
        assert (shop.calls, shop.orders()) == (1, 0)

    def test_a_post(self, shop: Shop) -> None:
        def view() -> str:
            shop.kill(shop.db.session)
            return str(shop.db.session.scalar(ONE)) + request.method

        with lost():
            shop.add(view, methods=["GET", "POST"])("/", method="POST")
        assert shop.calls == 1

    def test_a_request_with_a_body(self, shop: Shop) -> None:
        """The view may have read it, and would find it empty."""

        def view() -> str:
            body = request.stream.read()
            shop.kill(shop.db.session)
            return f"{shop.db.session.scalar(ONE)} {body!r}"

        guarded = shop.guard.retry_on_disconnect(methods=["POST"])
        with lost():
            shop.add(view, guarded, methods=["POST"])("/", method="POST", data="1" * 99)
        assert shop.calls == 1

    def test_a_loss_of_an_engine_that_is_not_guarded(self, shop: Shop) -> None:
        own = sa.create_engine(
            shop.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"
        )

        def view() -> str:
            shop.db.session.scalar(ONE)
            with own.connect() as connection:
                number = shop.server_number(connection)
                connection.execute(sa.text("INSERT INTO orders VALUES (1)"))
                shop.server.kill_session(number)
                connection.execute(sa.text("INSERT INTO orders VALUES (2)"))
            return "ordered"

        with lost():
            shop.add(view)("/")
        assert (shop.calls, shop.orders()) == (1, 1)

    def test_a_loss_in_another_thread(self, shop: Shop) -> None:
        def ask(engine: sa.Engine) -> None:
            with engine.connect() as connection:
                shop.server.kill_session(shop.server_number(connection))
                connection.execute(sa.text("UPDATE orders SET number = 1"))

        def view() -> str:
            shop.db.session.scalar(ONE)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(ask, shop.db.engine).result()
            return "ordered"

        with lost():
            shop.add(view)("/")
        assert shop.calls == 1

    def test_a_second_time(self, shop: Shop) -> None:
        """Also if a view that is decorated calls another one that is."""
        shop.kills = 3

        def view() -> str:
            shop.kill(shop.db.session)
            return str(shop.db.session.scalar(ONE))

        inner = shop.guard.retry_on_disconnect(view)
        with lost():
            shop.add(inner)("/")
        assert (shop.calls, shop.kills) == (1, 1)

    def test_a_stream(self, shop: Shop) -> None:
        """Its view has returned, and what it has sent cannot be taken back."""

        def view() -> Response:
            def rows() -> Iterator[str]:
                yield "first"
                shop.kill(shop.db.session)
                yield str(shop.db.session.scalar(ONE))

            return Response(stream_with_context(rows()))

        with lost():
            _ = shop.add(view)("/").data
        assert shop.calls == 1

    def test_another_error(self, shop: Shop) -> None:
        def view() -> str:
            return str(shop.db.session.scalar(sa.text("SELECT nothing")))

        with lost():
            shop.add(view)("/")
        assert shop.calls == 1

    def test_outside_of_a_request(self, shop: Shop) -> None:
        @shop.guard.retry_on_disconnect
        def job() -> None:
            shop.calls += 1
            shop.kill(shop.db.session)
            shop.db.session.execute(ONE)

        with shop.app.app_context(), lost():
            job()
        assert shop.calls == 1


class TestWhatIsLeftForIt:
    def test_the_guard_itself_replaces_what_died_in_the_pool(self, shop: Shop) -> None:
        """So a view need not be repeated for that."""

        def view() -> str:
            return str(shop.db.session.scalar(ONE))

        open_page = shop.add(view)
        with shop.app.app_context(), shop.db.engine.connect() as connection:
            number = session_id(connection)
        shop.server.kill_session(number)
        assert open_page("/").text == "1"
        assert shop.calls == 1


class TestRefuses:
    def test_what_runs_after_its_call(self) -> None:
        guard = PoolGuard()

        async def view() -> None: ...

        def stream() -> Iterator[int]:
            yield 1

        for each in (view, stream):
            with pytest.raises(TypeError, match="async or generator function"):
                guard.retry_on_disconnect(each)
        with pytest.raises(TypeError, match="class-based"):
            guard.retry_on_disconnect(Shop)

    def test_methods_as_one_text(self) -> None:
        with pytest.raises(TypeError, match="several methods"):
            PoolGuard().retry_on_disconnect(methods="GET")(lambda: "page")
