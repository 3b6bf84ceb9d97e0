"""The same program without and with the guard, each on an empty table."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import URL, Engine, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

from flask_poolguard import PoolGuard


class Base(DeclarativeBase):
    """Of the model here."""


class Row(Base):
    """One row of the table."""

    __tablename__ = "harm"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(20))


ADD = text("INSERT INTO harm (name) VALUES ('row')")
COUNT = text("SELECT count(*) FROM harm")


@dataclass
class World:
    """An app with a table, stock or guarded.

    :ivar guard: None for the stock one.
    :ivar kept: what must not be collected.
    """

    app: Flask
    db: SQLAlchemy
    engine: Engine
    guard: PoolGuard | None
    url: URL
    kept: list[Any] = field(default_factory=list)

    @property
    def client(self) -> FlaskClient:
        """Return a new client."""
        return self.app.test_client()

    def rows(self) -> list[str]:
        """Return what is committed, as another client sees it."""
        engine = create_engine(self.url, poolclass=NullPool)
        with engine.connect() as connection:
            return list(connection.scalars(text("SELECT name FROM harm ORDER BY id")))

    def keep(self, value: Any) -> Any:
        """Return something after making sure that it is not collected."""
        self.kept.append(value)
        return value


Program = Callable[[World], object]


def make_world(
    url: URL,
    guarded: bool,
    db: SQLAlchemy | None = None,
    prepare: Callable[[Flask], None] | None = None,
    **config: Any,
) -> World:
    """Return an app with an empty table on a database.

    :param prepare: is given the app before the guard is.
    """
    engine = create_engine(url, poolclass=NullPool)
    metadata = sa.MetaData()
    key: Any = sa.Column("id", sa.Integer, primary_key=True)
    sa.Table("harm", metadata, key, sa.Column("name", sa.String(20)))
    metadata.drop_all(engine)
    metadata.create_all(engine)
    app, db = Flask("harm"), db or SQLAlchemy()
    app.testing = True
    if prepare is not None:
        prepare(app)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    guard_config = {key: config.pop(key) for key in list(config) if "POOLG" in key}
    app.config.update(config)
    guard = None
    if guarded:
        app.config.update(guard_config)
        guard = PoolGuard(app)
    db.init_app(app)
    with app.app_context():
        return World(app, db, db.engine, guard, url)


def outcome(world: World, program: Program) -> object:
    """Return what a program returns, or the name of what it raises."""
    try:
        return program(world)
    except Exception as error:
        return type(error).__name__
    finally:
        world.kept.clear()
        world.db.session.registry.registry.clear()
        gc.collect()  # what still has a lock on the table
        world.engine.dispose()


def both(
    url: URL,
    program: Program,
    make_db: Callable[[], SQLAlchemy] = SQLAlchemy,
    **config: Any,
) -> tuple[object, object]:
    """Return the outcomes of a program, stock and guarded."""
    stock, guarded = (
        outcome(make_world(url, guarded, make_db(), **config), program)
        for guarded in (False, True)
    )
    return stock, guarded
