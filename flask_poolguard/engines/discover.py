"""Finds an app's engines, and what the app itself set for their pools."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool, Pool, QueuePool

from ..config import Setting
from ..pool import GuardedPool
from ..tracking.pool_tracker import tracker_of

if t.TYPE_CHECKING:
    from flask import Flask
    from sqlalchemy.ext.asyncio import AsyncEngine

Options = Mapping[str, Setting[t.Any]]

_CLASS_NAMES: t.Final = {QueuePool: "queue", GuardedPool: "queue", NullPool: "null"}

# SQLAlchemy's own defaults: a value that differs was set on purpose.
_SQLALCHEMY: t.Final = {
    "pool_size": 5,
    "max_overflow": 10,
    "pool_timeout": 30.0,
    "pool_recycle": -1,
}

# What changes by itself where it is "auto".
_SIZES: t.Final = ("pool_size", "max_overflow")

# The pool_recycle that both database extensions give to MySQL by themselves.
_THEIRS: t.Final = 7200


@dataclass(frozen=True, slots=True)
class Found:
    """An engine of the app.

    :ivar options: what the user set on it himself, by setting name.
    """

    bind: str
    engine: Engine = field(repr=False)  # whose own shows options of its URL
    options: Options


def find(app: Flask) -> list[Found]:
    """Return the engines of the app's database extension, within its context."""
    extension = app.extensions.get("sqlalchemy")
    if extension is None:
        return []
    base = _mapping(extension, "_engine_options")
    found = []
    engines = _mapping(extension, "engines")
    for key, engine in engines.items():
        if not isinstance(engine, Engine):
            continue  # a test's Connection in its place, or a mock
        bind = "default" if key is None else str(key)
        if key == "default" and None in engines:
            bind = "default (bind)"  # Flask-SQLAlchemy's main database is None
        options = _set_in_code(engine, bind)
        options.update(_written(app, key, base, engine))
        found.append(Found(bind, engine, options))
    for key, engine in _mapping(extension, "async_engines").items():
        if not isinstance(engine.sync_engine, Engine):
            continue
        bind = f"{key} (async)"
        found.append(
            Found(bind, engine.sync_engine, _set_in_code(engine.sync_engine, bind))
        )
    # Flask-SQLAlchemy lists the main database last.
    return sorted(found, key=lambda each: each.bind != "default")


def _mapping(extension: object, name: str) -> Mapping[t.Any, t.Any]:
    # What stands for the extension may be a test's mock.
    found = getattr(extension, name, None)
    return found if isinstance(found, Mapping) else {}


def sync_engine_of(engine: Engine | AsyncEngine) -> Engine:
    """Return the engine that has the pool."""
    return t.cast(Engine, getattr(engine, "sync_engine", engine))


def plain(engine: Engine, bind: str) -> Found:
    """Describe an engine that the app made itself."""
    known = tracker_of(engine)
    if known is not None:  # of another app; its pool has that one's settings
        return Found(bind, engine, known.options)
    options = _unusual(engine, bind)
    if type(engine.pool) is not engine.dialect.get_dialect_pool_class(engine.url):
        kind = values_of(engine.pool)["pool_class"]
        options["pool_class"] = Setting(kind, _origin("poolclass", bind))
    return Found(bind, engine, options)


def values_of(pool: Pool) -> dict[str, t.Any]:
    """Read what a pool was made with, by setting name; only few of it is public."""
    kind = _CLASS_NAMES.get(type(pool), type(pool).__name__)
    if not isinstance(pool, QueuePool):
        return {"pool_class": kind}
    return {
        "pool_class": kind,
        "pool_size": pool.size(),
        "max_overflow": pool._max_overflow,
        "pool_timeout": pool.timeout(),
        "pool_recycle": pool._recycle,
    }


def _origin(name: str, bind: str) -> str:
    return f"create_engine({name}=…) of {bind!r}"


def _unusual(engine: Engine, bind: str) -> dict[str, Setting[t.Any]]:
    """Return the values that differ from SQLAlchemy's defaults.

    They were set, if not in the config then in code: a subclass of the
    extension, a pool object, a plugin of SQLAlchemy's.
    """
    known = tracker_of(engine)
    ours = () if known is None or known.auto_sizes is None else _SIZES
    return {
        name: Setting(value, _origin(name, bind))
        for name, value in values_of(engine.pool).items()
        if name in _SQLALCHEMY and value != _SQLALCHEMY[name] and name not in ours
    }


def _set_in_code(engine: Engine, bind: str) -> dict[str, Setting[t.Any]]:
    """Return such values of an engine that a database extension has made."""
    options = _unusual(engine, bind)
    recycle = options.get("pool_recycle")
    if engine.dialect.name == "mysql" and recycle and recycle.value == _THEIRS:
        del options["pool_recycle"]
    return options


def _written(
    app: Flask, key: str | None, base: Mapping[str, t.Any], engine: Engine
) -> Iterator[tuple[str, Setting[t.Any]]]:
    """Return the options that the user wrote down for an engine of an extension.

    The names come from his config, the values from the engine, which has turned
    strings into numbers.
    """
    sources: list[tuple[str, t.Any]] = [("SQLAlchemy(engine_options=…)", base)]
    if "SQLALCHEMY_ENGINES" in app.config:
        own = app.config["SQLALCHEMY_ENGINES"].get(key)
        sources.append((f"SQLALCHEMY_ENGINES[{key!r}]", own))
    else:
        own = (app.config.get("SQLALCHEMY_BINDS") or {}).get(key)
        sources.append((f"SQLALCHEMY_BINDS[{key!r}]", own))
        if key is None:
            own = app.config.get("SQLALCHEMY_ENGINE_OPTIONS")
            sources.append(("SQLALCHEMY_ENGINE_OPTIONS", own))
    values = values_of(engine.pool)
    for origin, options in sources:
        for name in options if isinstance(options, Mapping) else ():
            # Flask-SQLAlchemy 3.1 looks for pool_class, SQLAlchemy for poolclass.
            setting = "pool_class" if name == "poolclass" else name
            if setting in values:
                yield setting, Setting(values[setting], f"{origin}[{name!r}]")
