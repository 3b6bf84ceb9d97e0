"""Find an app's engines and put guarded pools on them."""

from __future__ import annotations

import logging
import typing as t
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool, Pool, QueuePool, StaticPool

from .config import AUTO, AppConfig, Setting, Settings
from .databases import for_dialect
from .errors import SetupError
from .pool import GuardedPool, Policy, Recycle
from .tracking.books import Books
from .tracking.foreign import observe
from .tracking.ledger import PoolLedger, ledgers
from .tracking.page import PoolFacts

if t.TYPE_CHECKING:
    from flask import Flask

logger = logging.getLogger("flask_poolguard")

_CLASS_NAMES: t.Final = {QueuePool: "queue", GuardedPool: "queue", NullPool: "null"}

# SQLAlchemy's own defaults: a value that differs was set by somebody.
_SQLALCHEMY: t.Final = {
    "pool_class": "queue",
    "pool_size": 5,
    "max_overflow": 10,
    "pool_timeout": 30.0,
    "pool_recycle": -1,
}


@dataclass(frozen=True, slots=True)
class Found:
    """An engine of the app.

    :ivar options: what the user set on it himself, by setting name.
    """

    bind: str
    engine: Engine
    options: Mapping[str, Setting[t.Any]]
    is_async: bool = False


@dataclass(frozen=True, slots=True)
class Guarded:
    """An engine under guard, and what it was decided to be like."""

    bind: str
    engine: Engine
    settings: Settings
    ledger: PoolLedger


def find(app: Flask) -> list[Found]:
    """Return the engines of the app's database extension, within its context."""
    extension = app.extensions.get("sqlalchemy")
    if extension is None:
        return []
    base: Mapping[str, t.Any] = getattr(extension, "_engine_options", None) or {}
    found = []
    for key, engine in getattr(extension, "engines", {}).items():
        bind = "default" if key is None else str(key)
        found.append(Found(bind, engine, _explicit(app, key, base, engine)))
    for key, engine in getattr(extension, "async_engines", {}).items():
        sync_engine = engine.sync_engine
        found.append(
            Found(f"{key} (async)", sync_engine, {}, is_async=True),
        )
    # Flask-SQLAlchemy lists the main database last.
    return sorted(found, key=lambda each: each.bind != "default")


def plain(engine: Engine, bind: str) -> Found:
    """Describe an engine that the app made itself; values that differ from
    SQLAlchemy's defaults count as set by the user.
    """
    values = _values(engine.pool)
    return Found(
        bind,
        engine,
        {
            name: Setting(value, f"create_engine({name}=…) of {bind!r}")
            for name, value in values.items()
            if value != _SQLALCHEMY[name]
        },
    )


def guard(found: Found, app: Flask, config: AppConfig, books: Books) -> Guarded:
    """Put a guarded pool on an engine, or watch the pool that it must keep.

    :raises ConfigError: a setting contradicts an option of the engine.
    :raises SetupError: the engine is guarded already.
    """
    engine, pool = found.engine, found.engine.pool
    if isinstance(pool, GuardedPool) and isinstance(pool.observer, PoolLedger):
        raise SetupError(
            f"The engine of bind {found.bind!r} is guarded already, as bind"
            f" {pool.name!r}; give each app and each bind an engine of its own."
        )
    settings = config.for_bind(found.bind, found.options)
    pool_class = _pool_class(pool, settings)
    ledger = PoolLedger(
        app,
        _facts(found, settings, pool_class),
        for_dialect(engine.dialect.name),
        settings.on_leak.value,
        books.open_file,
        _recycle_before_connecting(settings, pool_class),
    )
    if pool_class is type(pool):
        observe(engine, ledger)
    else:
        _replace(engine, pool_class, settings, ledger)
    books.ledgers.append(ledger)
    ledgers[engine.dialect] = ledger
    return Guarded(found.bind, engine, settings, ledger)


def _pool_class(pool: Pool, settings: Settings) -> type[Pool]:
    """Only a stock QueuePool is replaced: who chose another class meant it."""
    if type(pool) is not QueuePool and not isinstance(pool, GuardedPool):
        return type(pool)
    return NullPool if settings.pool_class.value == "null" else GuardedPool


def _replace(
    engine: Engine, pool_class: type[Pool], settings: Settings, ledger: PoolLedger
) -> None:
    """Give the engine its new pool, as ``Engine.dispose()`` would.

    Idle connections of the old pool are closed. Those that are out go back to it
    and are closed with it.
    """
    old = engine.pool
    arguments: dict[str, t.Any] = {
        "echo": old.echo,
        "logging_name": old._orig_logging_name,
        "reset_on_return": old._reset_on_return,
        "pre_ping": old._pre_ping,
        "_dispatch": old.dispatch,
        "dialect": old._dialect,
    }
    new: Pool
    if pool_class is NullPool:
        new = NullPool(old._creator, **arguments)
    else:
        new = GuardedPool(
            old._creator,
            pool_size=settings.pool_size.value,
            max_overflow=settings.max_overflow.value,
            timeout=settings.pool_timeout.value,
            use_lifo=t.cast(QueuePool, old)._pool.use_lifo,
            policy=Policy(
                name=ledger.facts.bind,
                recycle=settings.pool_recycle.value,
                recycle_origin=settings.pool_recycle.origin,
                idle_limit=settings.idle_limit.value,
            ),
            observer=ledger,
            **arguments,
        )
    out = t.cast(QueuePool, old).checkedout()
    engine.pool = new
    old.dispose()
    if out > 0:
        logger.warning(
            "%d connections of bind %r were out when the guard took over; they are"
            " closed when they come back, and not shown until then.",
            out,
            ledger.facts.bind,
        )
    if pool_class is NullPool:
        observe(engine, ledger)


def _facts(found: Found, settings: Settings, pool_class: type[Pool]) -> PoolFacts:
    queue = issubclass(pool_class, QueuePool)
    own = pool_class is not GuardedPool and queue
    values = _values(found.engine.pool) if own else {}
    return PoolFacts(
        bind=found.bind,
        url=found.engine.url.render_as_string(hide_password=True),
        pool_class=pool_class.__name__,
        size=values.get("pool_size", settings.pool_size.value) if queue else None,
        max_overflow=(
            values.get("max_overflow", settings.max_overflow.value) if queue else None
        ),
        counted=not issubclass(pool_class, StaticPool),
        age_based=settings.pool_recycle.value != AUTO,
        is_async=found.is_async,
    )


def _recycle_before_connecting(settings: Settings, pool_class: type[Pool]) -> Recycle:
    if not issubclass(pool_class, GuardedPool):
        return Recycle(None, f"{pool_class.__name__} keeps its own rules")
    if settings.pool_recycle.value == AUTO:
        return Recycle(None, "not known before the first connection")
    age = settings.pool_recycle.value
    return Recycle(
        age if age > -1 else None, f"{settings.pool_recycle.origin} = {age:g}"
    )


def _values(pool: Pool) -> dict[str, t.Any]:
    """Read what a pool was made with; only few of it has public names."""
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


def _explicit(
    app: Flask, key: str | None, base: Mapping[str, t.Any], engine: Engine
) -> dict[str, Setting[t.Any]]:
    """Return the options that the user wrote down for an engine of an extension.

    The names come from his config, the values from the engine, which has turned
    strings into numbers. So Flask-SQLAlchemy's own 7,200 s for MySQL does not count.
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
    values = _values(engine.pool)
    explicit = {}
    for origin, options in sources:
        for name in options if isinstance(options, Mapping) else ():
            # Flask-SQLAlchemy 3.1 looks for pool_class, SQLAlchemy for poolclass.
            setting = "pool_class" if name == "poolclass" else name
            if setting in values:
                explicit[setting] = Setting(values[setting], f"{origin}[{name!r}]")
    return explicit


__all__ = ["Found", "Guarded", "find", "guard", "plain"]
