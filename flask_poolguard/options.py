"""The table of ``POOLGUARD_*`` keys: default, allowed values, who may set them.

To add a setting: a row of ``OPTIONS``; a field of ``Settings`` (per bind) or
``AppConfig`` in ``config.py``; its section in ``docs/settings.md``. One that a pool
goes by is passed on in ``engines/install.py``, as a field of ``pool.types.Policy`` or
an argument of the pool, and named in ``OF_POOLS`` of ``engines/fixed_settings.py``:
a change that comes late is ignored otherwise. One that ``init_app`` itself goes by, so
that no later change can be followed, is named in ``FIXED`` of ``config.py``. One that a
tracker goes by is a field of ``PoolInfo`` and followed in ``PoolTracker.follow``.
"""

from __future__ import annotations

import os
import typing as t
from collections.abc import Callable, Mapping
from dataclasses import dataclass

PREFIX: t.Final = "POOLGUARD_"
AUTO: t.Final = "auto"


@dataclass(frozen=True, slots=True)
class Option:
    """One key: its default, who may set it, and what it accepts.

    :ivar null: what None stands for; None is what flask makes of ``null`` in an
        environment variable.
    """

    name: str
    default: t.Any
    allowed: str
    accepts: Callable[[t.Any], bool]
    per_bind: bool = True
    null: t.Any = None

    def meaning_of(self, value: t.Any) -> t.Any:
        """Return what an accepted value stands for."""
        return self.null if value is None else value

    @property
    def key(self) -> str:
        """Return the key in ``app.config``."""
        return PREFIX + self.name.upper()


# More than any server takes connections, and more than any wait lasts (31 years);
# what lies beyond overflows counters and locks.
_MOST: t.Final = 1_000_000
_LONGEST: t.Final = 1_000_000_000
# poll() and TCP_USER_TIMEOUT take no more than 24 days, PyMySQL no more than a year for
# its connect.
_LONGEST_ANSWER: t.Final = 1_000_000


# Places are locked one by one, and counted for each error of a pool that has none left.
_MOST_PLACES: t.Final = 100_000


def _is_count(value: t.Any, at_least: int = 0) -> bool:
    return type(value) is int and at_least <= value <= _MOST


def _is_seconds(value: t.Any, at_most: int = _LONGEST) -> bool:
    # NaN compares false with everything.
    return type(value) in (int, float) and 0 < value <= at_most


def _is_zero(value: t.Any) -> bool:
    return type(value) in (int, float) and value == 0


def _is_folder(value: t.Any) -> bool:
    if not isinstance(value, (str, os.PathLike)):
        return False
    path = os.fspath(value)
    return isinstance(path, str) and os.path.isabs(path)


def _is_group_name(value: t.Any) -> bool:
    # "None" is written into an environment variable to have no group.
    return (
        type(value) is str
        and value != "None"
        and value.replace("-", "").replace("_", "").isalnum()
    )


def _one_of(*values: str) -> Callable[[t.Any], bool]:
    return lambda value: type(value) is str and value in values


OPTIONS: t.Final = (
    Option(
        "pool_size",
        5,
        '"auto", or a whole number from 0 to 1,000,000',
        lambda v: v == AUTO or _is_count(v),
    ),
    Option(
        "max_overflow",
        10,
        '"auto", a whole number from 0 to 1,000,000, or -1 for no limit',
        lambda v: v == AUTO or _is_count(v, -1),
    ),
    Option(
        "pool_timeout",
        30.0,
        "seconds from 0 to 1e9",
        lambda v: _is_seconds(v) or _is_zero(v),
    ),
    Option(
        "pool_recycle",
        AUTO,
        '"auto", seconds above 0 (to 1e9), or -1 for never',
        lambda v: v == AUTO or _is_seconds(v) or (type(v) is int and v == -1),
    ),
    Option(
        "pool_class",
        "queue",
        '"queue" or "null"',
        lambda v: v is None or _one_of("queue", "null")(v),
        null="null",
    ),
    Option(
        "idle_limit",
        None,
        "seconds above 0 (to 1e9), or None",
        lambda v: v is None or _is_seconds(v),
    ),
    Option(
        "max_idle",
        None,
        "seconds above 0 (to 1e9), or None",
        lambda v: v is None or _is_seconds(v),
    ),
    Option("min_idle", 0, "a whole number from 0 to 1,000,000", _is_count),
    Option(
        "max_age",
        None,
        "seconds above 0 (to 1e9), or None",
        lambda v: v is None or _is_seconds(v),
    ),
    Option(
        "max_waiting",
        None,
        "a whole number from 0 to 1,000,000, or None",
        lambda v: v is None or _is_count(v),
    ),
    Option(
        "budget",
        None,
        '"auto", a whole number from 1 to 100,000, or None',
        lambda v: v is None or v == AUTO or (_is_count(v, 1) and v <= _MOST_PLACES),
    ),
    Option("budget_hosts", 1, "a whole number from 1", lambda v: _is_count(v, 1)),
    Option(
        "budget_name",
        None,
        "a text, or None for the app's name",
        lambda v: v is None or (type(v) is str and v != ""),
    ),
    Option(
        "connect_retry",
        5.0,
        "seconds from 0 to 1e9",
        lambda v: _is_seconds(v) or _is_zero(v),
    ),
    Option(
        "connect_timeout",
        10.0,
        "seconds above 0 (to 1e6), or None",
        lambda v: v is None or _is_seconds(v, _LONGEST_ANSWER),
    ),
    Option(
        "ping_timeout",
        2.0,
        "seconds above 0 (to 1e6)",
        lambda v: _is_seconds(v, _LONGEST_ANSWER),
    ),
    Option(
        "tcp_user_timeout",
        90.0,
        "seconds above 0 (to 1e6)",
        lambda v: _is_seconds(v, _LONGEST_ANSWER),
    ),
    Option(
        "held_warning",
        60.0,
        "seconds above 0 (to 1e9), or None for never",
        lambda v: v is None or _is_seconds(v),
    ),
    Option(
        "on_leak",
        "return",
        '"return", "discard" or "raise"',
        _one_of("return", "discard", "raise"),
    ),
    Option("label", True, "True or False", lambda v: type(v) is bool),
    Option(
        "state_dir",
        None,
        "the absolute path of a folder, or None",
        lambda v: v is None or _is_folder(v),
        per_bind=False,
    ),
    Option(
        "cli_group",
        "pool",
        "the name of a command group (letters, digits, - and _), or None",
        lambda v: v is None or _is_group_name(v),
        per_bind=False,
    ),
    Option(
        "http_503", True, "True or False", lambda v: type(v) is bool, per_bind=False
    ),
    Option(
        "binds",
        {},
        "a dict of bind names, each with a dict of settings",
        lambda v: (
            isinstance(v, Mapping)
            and all(isinstance(each, Mapping) for each in v.values())
        ),
        per_bind=False,
    ),
)
BY_NAME: t.Final = {option.name: option for option in OPTIONS}
