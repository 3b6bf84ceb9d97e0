"""Applies settings that changed after an engine was put under guard."""

from __future__ import annotations

import typing as t
from collections.abc import Sequence

from sqlalchemy.pool import AsyncAdaptedQueuePool, Pool

from ..config import AppConfig, Settings
from ..log_lines import warn
from ..pool import GuardedPool
from ..tracking.other_pools import observe
from .connect_args import prepare
from .discover import Found
from .fixed_settings import OF_POOLS, check_followed, pool_class_for, refuse_or_warn
from .install import Guarded, facts_of, recycle_before_connecting, replace_pool

if t.TYPE_CHECKING:
    from flask import Flask

_REPLACEABLE: t.Final = (GuardedPool, AsyncAdaptedQueuePool)


def reconfigure(
    app: Flask, engines: Sequence[Guarded], config: AppConfig
) -> list[Guarded]:
    """Let engines under guard follow settings that were changed.

    A pool is replaced if its own settings are others now.

    :raises ConfigError: a setting contradicts an option of an engine, or has no effect;
        nothing was changed then.
    """
    found = [Found(each.bind, each.engine, each.tracker.options) for each in engines]
    check_followed(found, config)
    plans = []
    for one, guarded in zip(found, engines, strict=True):
        settings = config.for_bind(one.bind, one.options)
        pool_class = pool_class_for(one.engine.pool, settings)
        refuse_or_warn(one, settings, pool_class, guarded.settings)
        plans.append((one, guarded, settings, pool_class))
    return [_apply(app, *plan) for plan in plans]


def _apply(
    app: Flask,
    found: Found,
    guarded: Guarded,
    settings: Settings,
    pool_class: type[Pool],
) -> Guarded:
    engine, tracker = guarded.engine, guarded.tracker
    tracker.follow(settings.on_leak.value, settings.held_warning.value)
    prepare(
        engine,
        settings.connect_timeout.value,
        app.name if settings.label.value else None,
    )
    changed = [
        name
        for name in OF_POOLS
        if getattr(settings, name).value != getattr(guarded.settings, name).value
    ]
    if changed and tracker.facts.in_memory and tracker.figures.counts["connects"]:
        # Its data is gone with its last connection.
        warn(
            "setting_without_effect",
            "%s was set after the database in memory of bind %r had been used, and has"
            " no effect on it. Set it before PoolGuard(app) or init_app(app).",
            ", ".join(getattr(settings, name).origin for name in changed),
            guarded.bind,
            bind=guarded.bind,
        )
    elif changed and (
        pool_class is not type(engine.pool) or pool_class in _REPLACEABLE
    ):
        _replace(found, guarded, settings, pool_class, app.name)
    return Guarded(guarded.bind, engine, settings, tracker)


def _replace(
    found: Found,
    guarded: Guarded,
    settings: Settings,
    pool_class: type[Pool],
    app_name: str,
) -> None:
    engine, tracker = guarded.engine, guarded.tracker
    was_guarded = isinstance(engine.pool, GuardedPool)
    facts = facts_of(found, settings, pool_class, app_name)
    replace_pool(engine, pool_class, settings, tracker)
    if was_guarded and not isinstance(engine.pool, GuardedPool):
        observe(engine, tracker)
    tracker.learned(recycle_before_connecting(settings, pool_class), None)
    tracker.show_again(facts)
    tracker.start_sizes(tracker.server_threads)
