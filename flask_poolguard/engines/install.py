"""Put guarded pools on engines, or watch the pools that they must keep."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import typing as t
from dataclasses import dataclass, field

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import (
    AsyncAdaptedQueuePool,
    ConnectionPoolEntry,
    NullPool,
    Pool,
    QueuePool,
    StaticPool,
)
from sqlalchemy.util.queue import Empty

from ..config import AUTO, AppConfig, Setting, Settings
from ..databases import for_dialect
from ..errors import SetupError
from ..log_lines import info, warn
from ..masking import secrets_of
from ..pool import GuardedPool, Policy, Recycle
from ..tracking.app_tracker import AppTracker
from ..tracking.dead_threads import give_back_deserted
from ..tracking.other_pools import observe
from ..tracking.pool_facts import PoolFacts
from ..tracking.pool_tracker import PoolTracker, attach_tracker, tracker_of
from ..tracking.statements import watch_statements
from ..urls import HOW_TO_QUOTE, is_in_memory, public_url, unquoted_tail
from .budgets import budget_file_of, places_for
from .connect_args import prepare
from .discover import Found, values_of
from .driver_errors import listen, note_failures
from .dropped_connections import roll_back_dropped
from .fixed_settings import SIZES, pool_class_for, refuse_or_warn
from .sizes import auto_sizes_for, first_sizes, shown_sizes

if t.TYPE_CHECKING:
    from flask import Flask


@dataclass(frozen=True, slots=True)
class Guarded:
    """An engine under guard, and what it was decided to be like."""

    bind: str
    engine: Engine = field(repr=False)  # whose own shows options of its URL
    settings: Settings
    tracker: PoolTracker


def guard(
    found: Found, app: Flask, config: AppConfig, app_tracker: AppTracker
) -> Guarded:
    """Put a guarded pool on an engine, or watch the pool that it must keep.

    An engine that two apps share belongs to the one that was set up last; the
    guarantee holds for both.

    :raises ConfigError: a setting contradicts an option of the engine.
    :raises SetupError: the app has guarded this engine already.
    """
    engine, pool = found.engine, found.engine.pool
    known = tracker_of(engine)
    earlier = known if known is not None and known.app is app else None
    if earlier is not None and not earlier.is_hidden:
        raise SetupError(
            f"The engine of bind {found.bind!r} is guarded already, as bind"
            f" {earlier.facts.bind!r}; give each bind an engine of its own, or"
            f" unregister({earlier.facts.bind!r}) first."
        )
    if known is not None and earlier is None and known.app is not None:
        # A module's engine and an app factory, called once per test.
        info(
            "engine_moved",
            "The engine of bind %r now shows in the status of the newest app, %r.",
            found.bind,
            app.name,
            bind=found.bind,
        )
    if unquoted_tail(engine.url):
        warn(
            "url_misquoted",
            "What stands for the host in the URL of bind %r has an @, so it is the end"
            " of a password, and connecting to it fails: %s.",
            found.bind,
            HOW_TO_QUOTE,
            bind=found.bind,
        )
    settings = config.for_bind(found.bind, found.options)
    pool_class = pool_class_for(pool, settings)
    refuse_or_warn(found, settings, pool_class)
    facts = facts_of(found, settings, pool_class, app.name)
    tracker = earlier or PoolTracker(
        app,
        facts,
        for_dialect(engine.dialect.name),
        settings.on_leak.value,
        app_tracker.open_file,
        recycle_before_connecting(settings, pool_class),
        settings.held_warning.value,
    )
    tracker.state_dir = app_tracker.state_dir
    tracker.server_threads = app_tracker.threads
    if earlier is not None:  # it was unregistered
        tracker.follow(settings.on_leak.value, settings.held_warning.value)
        tracker.show_again(facts)
    if _is_to_be_replaced(pool, pool_class, settings):
        replace_pool(engine, pool_class, settings, tracker)
    if not isinstance(engine.pool, GuardedPool):
        observe(engine, tracker)
    app_tracker.add(tracker)
    tracker.options = found.options
    attach_tracker(engine, tracker)
    tracker.on_deserted = give_back_deserted
    listen(engine)
    note_failures(engine)
    watch_statements(engine)
    roll_back_dropped(engine)
    prepare(
        engine,
        settings.connect_timeout.value,
        app.name if settings.label.value else None,
    )
    return Guarded(found.bind, engine, settings, tracker)


def resize(guarded: Guarded, size: int) -> None:
    """Give an engine a new pool of so many connections and no overflow.

    A thread that asks there waits until it is its turn: a test of load brings more
    threads than connections, and is not to be refused for that.

    :raises SetupError: the engine keeps a pool that is not the guard's.
    """
    if not isinstance(guarded.engine.pool, GuardedPool):
        raise SetupError(
            f"Bind {guarded.bind!r} keeps its own"
            f" {type(guarded.engine.pool).__name__}, whose size is not the guard's to"
            " set."
        )
    origin = "resize()"
    settings = dataclasses.replace(
        guarded.settings,
        pool_size=Setting(size, origin),
        max_overflow=Setting(0, origin),
        pool_timeout=Setting(math.inf, origin),
        min_idle=Setting(0, origin),
        max_waiting=Setting(None, origin),
        budget=Setting(None, origin),
    )
    replace_pool(guarded.engine, GuardedPool, settings, guarded.tracker)


def replace_pool(
    engine: Engine, pool_class: type[Pool], settings: Settings, tracker: PoolTracker
) -> None:
    """Give the engine its new pool, as ``Engine.dispose()`` would.

    Idle connections of the old pool are closed at once, those that are out when
    they come back.
    """
    old = t.cast(QueuePool, engine.pool)
    recycle = settings.pool_recycle
    if isinstance(old, GuardedPool):
        old.forget_parent()  # so that it tells how a pool of this process resets
    arguments: dict[str, t.Any] = {
        "echo": old.echo,
        "logging_name": old._orig_logging_name,
        "reset_on_return": old._reset_on_return,
        "pre_ping": old._pre_ping,
        "_dispatch": old.dispatch,
        "dialect": old._dialect,
    }
    auto = None
    if pool_class is NullPool:
        engine.pool = NullPool(old._creator, **arguments)
    elif pool_class is AsyncAdaptedQueuePool:
        engine.pool = AsyncAdaptedQueuePool(
            old._creator,
            **first_sizes(settings, old),
            timeout=settings.pool_timeout.value,
            use_lifo=old._pool.use_lifo,
            recycle=old._recycle if recycle.value == AUTO else int(recycle.value),
            **arguments,
        )
    else:
        auto = auto_sizes_for(settings)
        engine.pool = GuardedPool(
            old._creator,
            **first_sizes(settings),
            timeout=settings.pool_timeout.value,
            use_lifo=old._pool.use_lifo,
            policy=Policy(
                name=tracker.facts.bind,
                recycle=recycle.value,
                recycle_origin=recycle.origin,
                idle_limit=settings.idle_limit.value,
                max_idle=settings.max_idle.value,
                min_idle=settings.min_idle.value,
                max_age=settings.max_age.value,
                max_waiting=settings.max_waiting.value,
                connect_retry=settings.connect_retry.value,
                ping_timeout=settings.ping_timeout.value,
                tcp_user_timeout=settings.tcp_user_timeout.value,
                has_auto_sizes=auto is not None,
                describe=secrets_of(engine).describe,
            ),
            callbacks=tracker,
            holders=tracker,
            new_places=places_for(engine, settings, tracker),
            **arguments,
        )
    tracker.pools.belong_to(engine)
    tracker.follow_demand(auto)
    event.listen(old, "checkin", _close)
    out = old.checkedout()
    _close_idle(old)
    if out > 0:
        warn(
            "connections_not_shown",
            "Connections of bind %r were out when the guard took over (%d); they are"
            " closed when they come back, and not shown until then.",
            tracker.facts.bind,
            out,
            bind=tracker.facts.bind,
        )


def _is_to_be_replaced(pool: Pool, pool_class: type[Pool], settings: Settings) -> bool:
    """Tell whether the engine's pool is not what the settings say."""
    if pool_class is GuardedPool or pool_class is not type(pool):
        return True
    return pool_class is AsyncAdaptedQueuePool and any(
        getattr(settings, name).value not in (AUTO, value)
        for name, value in values_of(pool).items()
        if name in SIZES
    )


def _close_idle(pool: QueuePool) -> None:
    """Close the idle connections of a pool that was replaced.

    Those of an async engine are cut off: only their event loop, which may be gone, can
    end them in order.
    """
    if not isinstance(pool, AsyncAdaptedQueuePool):
        pool.dispose()
        return
    with contextlib.suppress(Empty):
        while True:
            pool._pool.get(block=False).invalidate()


def _close(connection: object, record: ConnectionPoolEntry) -> None:
    record.close()


def facts_of(
    found: Found, settings: Settings, pool_class: type[Pool], app: str
) -> PoolFacts:
    """Return what does not change while an engine's pool lives."""
    is_guarded = issubclass(pool_class, GuardedPool)
    size, max_overflow = shown_sizes(found.engine.pool, settings, pool_class)
    return PoolFacts(
        bind=found.bind,
        url=public_url(found.engine.url),
        pool_class=pool_class.__name__,
        size=size,
        max_overflow=max_overflow,
        pool_timeout=_timeout(settings) if is_guarded else None,
        counted=not issubclass(pool_class, StaticPool),
        age_based=settings.pool_recycle.value != AUTO,
        is_async=found.engine.dialect.is_async,
        in_memory=is_in_memory(found.engine.url),
        has_auto_size=is_guarded and settings.pool_size.value == AUTO,
        has_auto_overflow=is_guarded and settings.max_overflow.value == AUTO,
        budget_file=budget_file_of(found.engine, settings, pool_class, app),
    )


def _timeout(settings: Settings) -> float | None:
    seconds: float | None = settings.pool_timeout.value
    return None if seconds is None or math.isinf(seconds) else seconds


def recycle_before_connecting(settings: Settings, pool_class: type[Pool]) -> Recycle:
    """Return the recycle time as far as it is known without a server."""
    if not issubclass(pool_class, GuardedPool):
        return Recycle(None, f"{pool_class.__name__} keeps its own rules")
    if settings.pool_recycle.value == AUTO:
        return Recycle(None, "not known before the first connection")
    age = settings.pool_recycle.value
    return Recycle(
        age if age > -1 else None, f"{settings.pool_recycle.origin} = {age:g}"
    )
