"""A guarded app to misuse, and a witness who sees its database from outside."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, Self, TypeVar

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import URL, Engine, create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from flask_poolguard import PoolGuard
from flask_poolguard.tracking.pool_tracker import PoolTracker

# A row that is always there, for locks to be taken on.
SEED = "seed"

Step = Callable[["Shop"], None]


def add_database(shop: Shop) -> None:
    """Set up Flask-SQLAlchemy on the app."""
    shop.db.init_app(shop.app)


def add_guard(shop: Shop) -> None:
    """Set up the guard on the app."""
    shop.guard.init_app(shop.app)


class Shop:
    """A small app with a model on each of two binds.

    :ivar kept: what must not be collected, which would give a connection back.
    """

    def __init__(
        self,
        url: URL,
        *,
        steps: Sequence[Step] = (add_database, add_guard),
        app: Flask | None = None,
        seeds: bool = True,
        **config: Any,
    ) -> None:
        """Set up the app.

        :param steps: what is done to the app, in this order.
        :param app: an app of another class.
        :param seeds: whether the tables are to be made and get their first rows.
        :param config: added to the app's config.
        """
        self.url = url
        self.app = Flask("shop") if app is None else app
        self.app.config["SQLALCHEMY_DATABASE_URI"] = url
        self.app.config["SQLALCHEMY_BINDS"] = {"other": other_database(url)}
        self.app.config.update(config)
        self.db = SQLAlchemy()
        self.guard = PoolGuard()
        self.kept: list[object] = []
        self.Item, self.Part, self.Note = define_models(self.db)
        for step in steps:
            step(self)
        with self.app.app_context():
            self.engines: dict[str | None, Engine] = dict(self.db.engines)
            if seeds:
                self.db.create_all()
                seed = self.Item(name=SEED, parts=[self.Part(name="bolt")])
                self.db.session.add_all([seed, self.Note(name=SEED)])
                self.db.session.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kept.clear()
        # What an unguarded app leaked is collected here, while its server is there. A
        # collection that logs a traceback within ast.parse(), which werkzeug calls for
        # each route, makes that fail (CPython 3.11: "recursion depth mismatch").
        gc.collect()
        for engine in self.engines.values():
            engine.dispose()

    @property
    def engine(self) -> Engine:
        """Return the engine of the main database."""
        return self.engines[None]

    @property
    def client(self) -> FlaskClient:
        """Return a new client of the app."""
        return self.app.test_client()

    @property
    def trackers(self) -> tuple[PoolTracker, ...]:
        """Return the guard's books, of all binds."""
        trackers: tuple[PoolTracker, ...] = self.app.extensions[
            "poolguard"
        ].app_tracker.trackers
        return trackers

    @property
    def tracker(self) -> PoolTracker:
        """Return the guard's books of the main database."""
        return next(each for each in self.trackers if each.facts.bind == "default")

    def out(self) -> int:
        """Return how many connections of all binds are out, by the pools' counts."""
        return sum(engine.pool.checkedout() for engine in self.engines.values())  # type: ignore[attr-defined] # a QueuePool's

    def keep(self, value: Any) -> Any:
        """Return something after making sure that it is not collected."""
        self.kept.append(value)
        return value

    def route(self, view: Callable[..., Any]) -> Callable[..., Any]:
        """Serve a view under its own name."""
        return self.app.get(f"/{view.__name__}")(view)


def other_database(url: URL) -> URL:
    """Return where the second bind keeps its table.

    SQLite lets only one connection write to a file.
    """
    if url.get_backend_name() == "sqlite":
        return url.set(database=f"{url.database}.other")
    return url


def define_models(db: SQLAlchemy) -> tuple[Any, Any, Any]:
    """Return an item, its parts, and a note on the other bind."""

    class Item(db.Model):  # type: ignore[name-defined,misc] # made at run time
        id = db.Column(db.Integer, primary_key=True)
        name = db.Column(db.String(50), nullable=False)
        parts = db.relationship("Part")

    class Part(db.Model):  # type: ignore[name-defined,misc] # made at run time
        id = db.Column(db.Integer, primary_key=True)
        item_id = db.Column(db.ForeignKey(Item.id), nullable=False)
        name = db.Column(db.String(50), nullable=False)

    class Note(db.Model):  # type: ignore[name-defined,misc] # made at run time
        __bind_key__ = "other"
        id = db.Column(db.Integer, primary_key=True)
        name = db.Column(db.String(50), nullable=False)

    return Item, Part, Note


class Witness:
    """Sees what is committed and what is locked, by connections of its own."""

    def __init__(self, shop: Shop) -> None:
        self._stack = ExitStack()
        self._main = self._engine(shop.url)
        self._other = self._engine(other_database(shop.url))

    def _engine(self, url: URL) -> Engine:
        backend = url.get_backend_name()
        limits: dict[str, dict[str, Any]] = {
            "mysql": {"init_command": "SET innodb_lock_wait_timeout = 1"},
            "postgresql": {"options": "-c lock_timeout=1s"},
            "sqlite": {"timeout": 1},
        }
        return create_engine(url, poolclass=NullPool, connect_args=limits[backend])

    def names(self) -> list[str]:
        """Return the names of all rows that are committed, of both tables."""
        found: list[str] = []
        for engine, table in ((self._main, "item"), (self._other, "note")):
            with engine.connect() as connection:
                found += connection.scalars(text(f"SELECT name FROM {table}"))
        return sorted(found)

    def write_everywhere(self) -> None:
        """Change every row and undo it; fails if anything is locked."""
        for engine, table in ((self._main, "item"), (self._other, "note")):
            with engine.connect() as connection:
                connection.execute(text(f"UPDATE {table} SET name = 'changed'"))
                connection.rollback()

    def assert_nothing_left(self) -> None:
        """Check that only the seeds are there, and that nothing is locked."""
        assert self.names() == [SEED, SEED]
        self.write_everywhere()


Error = TypeVar("Error", bound=BaseException)


class Raised(Generic[Error]):
    """What was raised."""

    value: Error


@contextmanager
def raises(kind: type[Error]) -> Iterator[Raised[Error]]:
    """Check that a teardown raises, alone or in a group (Flask 3.2 collects)."""
    raised: Raised[Error] = Raised()
    try:
        yield raised
    except BaseException as error:
        found = first_of(kind, error)
        if found is None:
            raise
        raised.value = found
    else:
        pytest.fail(f"{kind.__name__} was not raised")


def first_of(kind: type[Error], error: BaseException) -> Error | None:
    """Return the first error of a kind, in groups of groups as well."""
    if isinstance(error, kind):
        return error
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for each in inner:
        found = first_of(kind, each)
        if found is not None:
            return found
    return None


# Ways to take a connection. Each leaves a row that is not committed and a lock on the
# seed, and keeps what it took.

INSERT = "INSERT INTO {table} (name) VALUES ('stray')"
LOCK = "UPDATE {table} SET name = name WHERE name = 'seed'"


def _misuse(connection: Any, table: str = "item") -> None:
    connection.execute(text(INSERT.format(table=table)))
    connection.execute(text(LOCK.format(table=table)))


def take_db_session(shop: Shop) -> None:
    """Use Flask-SQLAlchemy's session."""
    _misuse(shop.keep(shop.db.session()))


def take_session(shop: Shop) -> None:
    """Use a session of one's own."""
    _misuse(shop.keep(Session(shop.engine)))


def take_two_sessions(shop: Shop) -> None:
    """Use one session on two binds."""
    session = shop.keep(shop.db.session())
    session.add_all([shop.Item(name="stray"), shop.Note(name="stray")])
    session.flush()


def take_connection(shop: Shop) -> None:
    """Use `engine.connect()`."""
    _misuse(shop.keep(shop.engine.connect()))


def take_transaction(shop: Shop) -> None:
    """Use `engine.begin()`, of which the end never comes."""
    _misuse(shop.keep(shop.engine.begin()).__enter__())


def take_raw_connection(shop: Shop) -> None:
    """Use the driver's own connection."""
    cursor = shop.keep(shop.engine.raw_connection()).cursor()
    cursor.execute(INSERT.format(table="item"))
    cursor.execute(LOCK.format(table="item"))
    cursor.close()


def take_other_bind(shop: Shop) -> None:
    """Use a connection of the second bind."""
    _misuse(shop.keep(shop.engines["other"].connect()), "note")


WAYS: tuple[Step, ...] = (
    take_db_session,
    take_session,
    take_two_sessions,
    take_connection,
    take_transaction,
    take_raw_connection,
    take_other_bind,
)


def name_of(value: Any) -> str:
    """Return the name of a function, for the ids of tests."""
    return str(value.__name__)
