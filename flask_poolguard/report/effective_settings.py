"""The settings in force with their origin, and workers that run with others."""

from __future__ import annotations

import os
import typing as t
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ..config import AUTO, DEFAULT, AppConfig, Setting, came_too_late, leftovers_in
from ..engines import Found, Guarded, not_followed
from ..options import OPTIONS
from ..state.search import Search
from ..state.status import PoolStatus, Worker
from ..urls import public_url
from .deployment import find_workers, names_of
from .model import SCHEMA_VERSION
from .phrases import named_workers

if t.TYPE_CHECKING:
    from flask import Flask

# What the guard does for pools of any class; the others need its own pool.
_FOR_ANY_POOL: t.Final = frozenset({"connect_timeout", "held_warning", "on_leak"})
# A pool class that can be asked for, and what it is then.
_NULL: t.Final = ("null", "NullPool")

# What to do about workers that run with other sizes.
RESTART: t.Final = "Restart them, or run this with the environment of the service."

_SECONDS: t.Final = frozenset(
    option.name for option in OPTIONS if "seconds" in option.allowed
)


@dataclass(frozen=True, slots=True)
class Effective:
    """One setting.

    :ivar value: None is "none" or "never", unless it is not ``in_force``.
    :ivar origin: a key of ``app.config``, an engine option, what it follows from, or
        "default".
    """

    name: str
    value: t.Any
    origin: str
    in_force: bool = True


@dataclass(frozen=True, slots=True)
class RecycleInForce:
    """After how long some live workers replace connections; None is never."""

    seconds: float | None
    source: str | None
    workers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SizesInForce:
    """Which sizes some live workers have, where they are ``"auto"``."""

    pool_size: int | None
    max_overflow: int | None
    workers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EffectiveBind:
    """A bind's settings in this process, and what its live workers made of them.

    :ivar sizes: of workers whose pools have automatic ones.
    """

    bind: str
    url: str
    pool_class: str
    settings: tuple[Effective, ...]
    recycle: tuple[RecycleInForce, ...]
    sizes: tuple[SizesInForce, ...] = ()


@dataclass(frozen=True, slots=True)
class EffectiveConfig:
    """All settings of an app.

    :ivar settings: of the app as a whole.
    :ivar set_by: the keys and engine options that set any of them.
    :ivar differences: where live workers run with others, in words.
    :ivar without_effect: which keys set nothing, in words.
    """

    schema_version: int
    app: str
    workers: tuple[int, ...]
    settings: tuple[Effective, ...]
    binds: tuple[EffectiveBind, ...]
    set_by: tuple[str, ...]
    differences: tuple[str, ...]
    without_effect: tuple[str, ...]

    def to_dict(self) -> dict[str, t.Any]:
        """Return what ``flask pool config --json`` prints, before it is JSON."""
        return asdict(self)


def find_effective(
    app: Flask, config: AppConfig, engines: Sequence[Guarded]
) -> EffectiveConfig:
    """Look up all settings. Asks no server, and needs no worker."""
    engines = sorted(engines, key=lambda each: (each.bind != "default", each.bind))
    found = find_workers(
        config.state_dir,
        app.name,
        app.root_path,
        names_of(engines),
        without_pid=os.getpid(),
    )
    workers = found.ours
    return EffectiveConfig(
        schema_version=SCHEMA_VERSION,
        app=app.name,
        workers=tuple(each.pid for each in workers),
        settings=tuple(_app_wide(app.config, config, found.search)),
        binds=tuple(_bind(each, workers) for each in engines),
        set_by=tuple(dict.fromkeys(_set_by(app.config, engines))),
        differences=find_differences(workers, engines),
        without_effect=tuple(_without_effect(app.config, config, engines)),
    )


def _set_by(
    written: Mapping[str, t.Any], engines: Sequence[Guarded]
) -> t.Iterator[str]:
    for option in OPTIONS:
        if option.per_bind:
            settings = (getattr(each.settings, option.name) for each in engines)
            yield from (each.origin for each in settings if not each.is_default)
        elif option.name != "binds" and option.key in written:
            yield option.key


def _without_effect(
    written: Mapping[str, t.Any], config: AppConfig, engines: Sequence[Guarded]
) -> t.Iterator[str]:
    yield from came_too_late(written, config)
    for each in engines:
        found = Found(each.bind, each.engine, each.tracker.options)
        yield from not_followed(found, each.settings)
    yield from leftovers_in(written)


def find_differences(
    workers: Sequence[Worker], engines: Sequence[Guarded]
) -> tuple[str, ...]:
    """Return, in words, which workers run with other sizes than this process has."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for guarded in engines:
        facts = guarded.tracker.facts
        here = _sizes(facts)
        for worker, pool in _pools_of(workers, guarded.bind):
            there = _sizes(pool)
            if there != here:
                found.setdefault((guarded.bind, there, here), []).append(worker.pid)
    return tuple(
        f"{_workers(pids)} bind {bind!r} with {there}, not with {here} as configured"
        f" here. {RESTART}"
        for (bind, there, here), pids in found.items()
    )


def _workers(pids: Sequence[int]) -> str:
    numbers = ", ".join(map(str, pids))
    return f"Worker {numbers} runs" if len(pids) == 1 else f"Workers {numbers} run"


def _pools_of(
    workers: Sequence[Worker], bind: str
) -> t.Iterator[tuple[Worker, PoolStatus]]:
    for worker in workers:
        for pool in worker.pools:
            if pool.bind == bind:
                yield worker, pool


class _Sized(t.Protocol):
    """A pool, as far as its sizes are compared."""

    @property
    def pool_class(self) -> str: ...
    @property
    def size(self) -> int | None: ...
    @property
    def max_overflow(self) -> int | None: ...
    @property
    def has_auto_size(self) -> bool: ...
    @property
    def has_auto_overflow(self) -> bool: ...


def _sizes(pool: _Sized) -> str:
    text = f"a {pool.pool_class}"
    if pool.size is not None:
        size = AUTO if pool.has_auto_size else pool.size
        overflow = AUTO if pool.has_auto_overflow else pool.max_overflow
        text += f" of pool_size {size}, max_overflow {overflow}"
    return text


def _app_wide(
    written: Mapping[str, t.Any], config: AppConfig, search: Search
) -> t.Iterator[Effective]:
    for option in OPTIONS:
        if not option.per_bind and option.name != "binds":
            value = getattr(config, option.name)
            origin = option.key if option.key in written else DEFAULT
            if option.name == "state_dir" and value is None:
                origin = f"the first usable of {', '.join(search.folders)}"
            yield Effective(option.name, value, origin)


def _bind(guarded: Guarded, workers: Sequence[Worker]) -> EffectiveBind:
    facts = guarded.tracker.facts
    return EffectiveBind(
        bind=guarded.bind,
        url=public_url(guarded.engine.url),
        pool_class=facts.pool_class,
        settings=tuple(
            _setting(guarded, option.name) for option in OPTIONS if option.per_bind
        ),
        recycle=_recycle(guarded.bind, workers),
        sizes=sizes_in_force(guarded.bind, workers),
    )


def _setting(guarded: Guarded, name: str) -> Effective:
    facts = guarded.tracker.facts
    setting: Setting[t.Any] = getattr(guarded.settings, name)
    if facts.pool_class != "GuardedPool" and name not in _FOR_ANY_POOL:
        return _of_other_class(guarded, name, setting)
    if name == "max_overflow" and facts.size == 0 and setting.value != -1:
        return Effective(name, facts.max_overflow, "pool_size 0 is no limit")
    if name == "connect_timeout" and name in guarded.engine.url.query:
        return Effective(name, guarded.engine.url.query[name], "the database URL")
    return Effective(name, setting.value, setting.origin)


def _of_other_class(guarded: Guarded, name: str, setting: Setting[t.Any]) -> Effective:
    """Return a setting of a pool that is not the guard's."""
    facts = guarded.tracker.facts
    if name == "pool_class" and (setting.value, facts.pool_class) == _NULL:
        return Effective(name, setting.value, setting.origin)
    own = {
        "pool_class": facts.pool_class,
        "pool_size": facts.size,
        "max_overflow": facts.max_overflow,
    }
    if own.get(name) is not None:
        return Effective(name, own[name], f"{facts.pool_class} keeps its own")
    return Effective(name, None, f"no effect on {facts.pool_class}", False)


def _recycle(bind: str, workers: Sequence[Worker]) -> tuple[RecycleInForce, ...]:
    """Return the recycle times at the live workers, the most common first."""
    pids: dict[tuple[float | None, str | None], list[int]] = {}
    for worker, pool in _pools_of(workers, bind):
        key = pool.recycle_seconds, pool.recycle_source
        pids.setdefault(key, []).append(worker.pid)
    order = Counter({key: len(each) for key, each in pids.items()}).most_common()
    return tuple(RecycleInForce(*key, tuple(pids[key])) for key, _ in order)


def sizes_in_force(bind: str, workers: Sequence[Worker]) -> tuple[SizesInForce, ...]:
    """Return the automatic sizes at the live workers, the most common first."""
    pids: dict[tuple[int | None, int | None], list[int]] = {}
    for worker, pool in _pools_of(workers, bind):
        if pool.has_auto_size or pool.has_auto_overflow:
            pids.setdefault((pool.size, pool.max_overflow), []).append(worker.pid)
    most_first = sorted(pids.items(), key=lambda each: -len(each[1]))
    return tuple(SizesInForce(*key, tuple(found)) for key, found in most_first)


def describe_auto(guarded: Guarded, workers: Sequence[Worker]) -> str:
    """Return which sizes are ``"auto"``, and what they are at the live workers."""
    settings = (guarded.settings.pool_size, guarded.settings.max_overflow)
    keys = " and ".join(each.origin for each in settings if each.value == AUTO)
    now = ", ".join(
        f"pool_size {each.pool_size} and max_overflow {each.max_overflow} in"
        f" {named_workers(each.workers)}"
        for each in sizes_in_force(guarded.bind, workers)
    )
    return f'{keys} = "auto"' + (f", now {now}" if now else "")


def unit_of(name: str, value: t.Any) -> str:
    """Return the unit of a setting's value, with a space before it."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return " s" if is_number and name in _SECONDS and value != -1 else ""
