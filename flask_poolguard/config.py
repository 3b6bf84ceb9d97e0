"""All reading of ``app.config``: frozen settings, each with the origin of its value."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import os
import re
import typing as t
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import ConfigError
from .log_lines import warn
from .logs import keep_audible
from .options import AUTO, BY_NAME, OPTIONS, PREFIX, Option

__all__ = [
    "AUTO",
    "DEFAULT",
    "FIXED",
    "LEFTOVERS",
    "PREFIX",
    "AppConfig",
    "Setting",
    "Settings",
    "came_too_late",
    "has_changed",
    "leftovers_in",
    "read_config",
    "read_config_again",
    "snapshot",
]

# All that logs imports this module. Not done by the package itself, which flask loads
# for each command before the app can choose a class with logging.setLoggerClass().
keep_audible()
DEFAULT: t.Final = "default"

_NUMBER: t.Final = re.compile(r"-?\d+(\.\d*)?")

T = t.TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting(t.Generic[T]):
    """A value and where it came from (a config key, an engine option, "default")."""

    value: T
    origin: str = DEFAULT

    @property
    def is_default(self) -> bool:
        """Tell whether this was set nowhere."""
        return self.origin == DEFAULT


@dataclass(frozen=True, slots=True)
class Settings:
    """What one pool is to be like; times in seconds."""

    pool_size: Setting[int | t.Literal["auto"]]
    max_overflow: Setting[int | t.Literal["auto"]]
    pool_timeout: Setting[float]
    pool_recycle: Setting[float | t.Literal["auto"]]
    pool_class: Setting[str]
    idle_limit: Setting[float | None]
    max_idle: Setting[float | None]
    min_idle: Setting[int]
    max_age: Setting[float | None]
    max_waiting: Setting[int | None]
    budget: Setting[int | t.Literal["auto"] | None]
    budget_hosts: Setting[int]
    budget_name: Setting[str | None]
    connect_retry: Setting[float]
    connect_timeout: Setting[float | None]
    ping_timeout: Setting[float]
    tcp_user_timeout: Setting[float]
    held_warning: Setting[float | None]
    on_leak: Setting[t.Literal["return", "discard", "raise"]]
    label: Setting[bool]


# Flask-SQLAlchemy 2 read these; Flask-SQLAlchemy 3 ignores them without a word.
LEFTOVERS: t.Final = {
    "SQLALCHEMY_POOL_SIZE": "POOLGUARD_POOL_SIZE",
    "SQLALCHEMY_MAX_OVERFLOW": "POOLGUARD_MAX_OVERFLOW",
    "SQLALCHEMY_POOL_TIMEOUT": "POOLGUARD_POOL_TIMEOUT",
    "SQLALCHEMY_POOL_RECYCLE": "POOLGUARD_POOL_RECYCLE",
}


# What init_app itself makes use of, so that a later change comes too late.
FIXED: t.Final = ("state_dir", "cli_group", "http_503")


@dataclass(frozen=True, slots=True)
class AppConfig:
    """The validated ``POOLGUARD_*`` keys of one app."""

    state_dir: str | None
    cli_group: str | None
    http_503: bool
    _app_wide: Mapping[str, Setting[t.Any]]
    _binds: Mapping[str, Mapping[str, Setting[t.Any]]]

    def for_bind(
        self, bind: str, engine_options: Mapping[str, Setting[t.Any]]
    ) -> Settings:
        """Merge what was set for one bind.

        ``POOLGUARD_BINDS`` comes before the app-wide key, and that before the
        engine's own option.

        :param engine_options: what the user himself passed to the engine.
        :raises ConfigError: a ``POOLGUARD_*`` key and an engine option disagree.
        """
        own = {**self._app_wide, **self._binds.get(bind, {})}
        for name, option in engine_options.items():
            ours = own.get(name)
            if ours is not None and ours.value != option.value:
                raise ConfigError(
                    f"{ours.origin} is {ours.value!r}, but {option.origin} is"
                    f" {option.value!r}, for bind {bind!r}. Remove one of them: both"
                    f" set the {name} of the same pool."
                )
        merged = {**engine_options, **own}
        return Settings(
            **{
                name: merged.get(name, Setting(BY_NAME[name].default))
                for name in Settings.__slots__
            }
        )

    def check_binds(self, known: t.Collection[str]) -> None:
        """Refuse settings for binds that do not exist.

        :raises ConfigError: naming the key and the nearest bind.
        """
        for bind in self._binds:
            if bind not in known:
                raise ConfigError(
                    f"POOLGUARD_BINDS[{bind!r}]: the app has no bind of this name;"
                    f" it has {', '.join(map(repr, sorted(known))) or 'none'}."
                    " (An engine of your own must be registered before the first app"
                    " context.)" + _nearest(bind, known)
                )


def snapshot(config: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return the ``POOLGUARD_*`` keys as they are now, to be compared later."""
    return copy.deepcopy(
        {key: value for key, value in config.items() if key.startswith(PREFIX)}
    )


def has_changed(config: Mapping[str, t.Any], keys: Mapping[str, t.Any]) -> bool:
    """Tell whether the keys are others than at a :func:`snapshot`."""
    now = {key: value for key, value in config.items() if key.startswith(PREFIX)}
    return now != keys


def read_config_again(config: Mapping[str, t.Any], earlier: AppConfig) -> AppConfig:
    """Validate the keys of an app that is set up; what cannot change stays as it was.

    :raises ConfigError: as :func:`read_config`.
    """
    fixed = {name: getattr(earlier, name) for name in FIXED}
    return dataclasses.replace(_read(config), **fixed)


def came_too_late(config: Mapping[str, t.Any], in_force: AppConfig) -> t.Iterator[str]:
    """Yield in words which keys say something else than what an app was set up with,
    and cannot change it any more.
    """
    wanted = _read(config)
    for name in FIXED:
        now, before = getattr(wanted, name), getattr(in_force, name)
        if now != before:
            yield (
                f"{BY_NAME[name].key} = {now!r} has no effect: PoolGuard was set up"
                f" with {before!r}. Set it before PoolGuard(app) or init_app(app)."
            )


def leftovers_in(config: Mapping[str, t.Any]) -> t.Iterator[str]:
    """Yield in words which keys of Flask-SQLAlchemy 2 are set, and set nothing."""
    for old, new in LEFTOVERS.items():
        if config.get(old) is not None:
            yield (
                f"{old} is ignored by Flask-SQLAlchemy since version 3, so it sets"
                f" nothing. Rename it to {new}."
            )


def read_config(config: Mapping[str, t.Any]) -> AppConfig:
    """Validate every ``POOLGUARD_*`` key of an app's config.

    :raises ConfigError: for an unknown key, a wrong type or an impossible value.
    """
    read = _read(config)
    for text in leftovers_in(config):
        warn("setting_left_over", "%s", text)
    return read


def _read(config: Mapping[str, t.Any]) -> AppConfig:
    app_wide: dict[str, Setting[t.Any]] = {}
    for key in config:
        if key.startswith(PREFIX):
            option = BY_NAME.get(key[len(PREFIX) :].lower())
            if option is None or option.key != key:
                known = [each.key for each in OPTIONS]
                raise ConfigError(
                    f"{key} = {config[key]!r} is not a setting; those are"
                    f" {', '.join(known)}.{_nearest(key.upper(), known)}"
                )
            _check(option, key, config[key])
            app_wide[option.name] = Setting(option.meaning_of(config[key]), key)
    state_dir = app_wide.pop("state_dir", Setting(None)).value
    return AppConfig(
        state_dir=None if state_dir is None else os.fspath(state_dir),
        cli_group=app_wide.pop("cli_group", Setting("pool")).value,
        http_503=app_wide.pop("http_503", Setting(True)).value,
        _binds=_read_binds(app_wide.pop("binds", Setting({})).value),
        _app_wide=app_wide,
    )


def _read_binds(
    binds: Mapping[t.Any, Mapping[t.Any, t.Any]],
) -> dict[str, dict[str, Setting[t.Any]]]:
    known = [option.name for option in OPTIONS if option.per_bind]
    read: dict[str, dict[str, Setting[t.Any]]] = {}
    for bind, values in binds.items():
        # Flask-SQLAlchemy's own key for the main database is None.
        bind = "default" if bind is None else bind
        if bind in read:
            raise ConfigError(
                "POOLGUARD_BINDS has both None and 'default', which name the same"
                " bind; remove one of them."
            )
        if not isinstance(bind, str):
            raise ConfigError(
                f"POOLGUARD_BINDS: {bind!r} is not a bind's name; use a string."
            )
        read[bind] = {}
        for name, value in values.items():
            origin = f"POOLGUARD_BINDS[{bind!r}][{name!r}]"
            if name not in known:
                hint = _nearest(str(name).lower().removeprefix("poolguard_"), known)
                raise ConfigError(
                    f"{origin} is not a setting of a bind; those are"
                    f" {', '.join(known)}.{hint}"
                )
            option = BY_NAME[name]
            _check(option, origin, value)
            read[bind][name] = Setting(option.meaning_of(value), origin)
    return read


def _check(option: Option, origin: str, value: t.Any) -> None:
    if not option.accepts(value):
        hint = ""
        if value == "None":
            hint = " In an environment variable, write null for None."
        elif type(option.default) is bool and value in ("True", "False"):
            hint = f" In an environment variable, write {value.lower()}."
        elif isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            hint = " It is a string: take the quotes away."
        raise ConfigError(f"{origin} is {value!r}; allowed is {option.allowed}.{hint}")


def _nearest(name: str, known: t.Collection[str]) -> str:
    # Without the prefix, which all have in common.
    by_word = {each.removeprefix(PREFIX): each for each in known}
    word = name.removeprefix(PREFIX)
    found = difflib.get_close_matches(word, by_word, n=1, cutoff=0.5)
    return f" Did you mean {by_word[found[0]]!r}?" if found else ""
