"""The table of settings: which values are accepted, and which are refused."""

from __future__ import annotations

import math
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from flask_poolguard import ConfigError
from flask_poolguard.config import Settings, read_config
from flask_poolguard.options import OPTIONS

GOOD: list[tuple[str, Any]] = [
    ("POOLGUARD_POOL_SIZE", 0),
    ("POOLGUARD_POOL_SIZE", 7),
    ("POOLGUARD_POOL_SIZE", "auto"),
    ("POOLGUARD_MAX_OVERFLOW", "auto"),
    ("POOLGUARD_MAX_OVERFLOW", -1),
    ("POOLGUARD_MAX_OVERFLOW", 0),
    ("POOLGUARD_POOL_TIMEOUT", 0),
    ("POOLGUARD_POOL_TIMEOUT", 0.5),
    ("POOLGUARD_POOL_RECYCLE", "auto"),
    ("POOLGUARD_POOL_RECYCLE", -1),
    ("POOLGUARD_POOL_RECYCLE", 7200),
    ("POOLGUARD_POOL_RECYCLE", 0.25),
    ("POOLGUARD_POOL_CLASS", None),
    ("POOLGUARD_POOL_CLASS", "queue"),
    ("POOLGUARD_POOL_CLASS", "null"),
    ("POOLGUARD_IDLE_LIMIT", None),
    ("POOLGUARD_IDLE_LIMIT", 350),
    ("POOLGUARD_MAX_IDLE", None),
    ("POOLGUARD_MAX_IDLE", 0.001),
    ("POOLGUARD_MAX_IDLE", 600),
    ("POOLGUARD_MAX_IDLE", 1e9),
    ("POOLGUARD_MIN_IDLE", 0),
    ("POOLGUARD_MIN_IDLE", 1_000_000),
    ("POOLGUARD_MAX_AGE", None),
    ("POOLGUARD_MAX_AGE", 0.5),
    ("POOLGUARD_MAX_AGE", 1_000_000_000),
    ("POOLGUARD_MAX_WAITING", None),
    ("POOLGUARD_MAX_WAITING", 0),
    ("POOLGUARD_MAX_WAITING", 1_000_000),
    ("POOLGUARD_BUDGET", None),
    ("POOLGUARD_BUDGET", 1),
    ("POOLGUARD_BUDGET", 100_000),
    ("POOLGUARD_BUDGET", "auto"),
    ("POOLGUARD_BUDGET_HOSTS", 1),
    ("POOLGUARD_BUDGET_HOSTS", 12),
    ("POOLGUARD_BUDGET_NAME", None),
    ("POOLGUARD_BUDGET_NAME", "all of this host"),
    ("POOLGUARD_CONNECT_RETRY", 0),
    ("POOLGUARD_CONNECT_RETRY", 0.0),
    ("POOLGUARD_CONNECT_RETRY", 2.5),
    ("POOLGUARD_CONNECT_RETRY", 1e9),
    ("POOLGUARD_CONNECT_TIMEOUT", None),
    ("POOLGUARD_CONNECT_TIMEOUT", 0.001),
    ("POOLGUARD_CONNECT_TIMEOUT", 3),
    ("POOLGUARD_CONNECT_TIMEOUT", 1e6),
    ("POOLGUARD_PING_TIMEOUT", 0.001),
    ("POOLGUARD_PING_TIMEOUT", 1),
    ("POOLGUARD_PING_TIMEOUT", 1e6),
    ("POOLGUARD_TCP_USER_TIMEOUT", 0.001),
    ("POOLGUARD_TCP_USER_TIMEOUT", 1),
    ("POOLGUARD_TCP_USER_TIMEOUT", 1e6),
    ("POOLGUARD_HELD_WARNING", None),
    ("POOLGUARD_HELD_WARNING", 0.001),
    ("POOLGUARD_HELD_WARNING", 30),
    ("POOLGUARD_HELD_WARNING", 1e9),
    ("POOLGUARD_ON_LEAK", "return"),
    ("POOLGUARD_ON_LEAK", "discard"),
    ("POOLGUARD_ON_LEAK", "raise"),
    ("POOLGUARD_LABEL", True),
    ("POOLGUARD_LABEL", False),
    ("POOLGUARD_STATE_DIR", None),
    ("POOLGUARD_STATE_DIR", "/run/shop"),
    ("POOLGUARD_STATE_DIR", Path("/run/shop")),
    ("POOLGUARD_CLI_GROUP", None),
    ("POOLGUARD_CLI_GROUP", "db-pool_2"),
    ("POOLGUARD_HTTP_503", True),
    ("POOLGUARD_HTTP_503", False),
    ("POOLGUARD_BINDS", {}),
    ("POOLGUARD_BINDS", {"reports": {}}),
    ("POOLGUARD_BINDS", {None: {"pool_size": 2}}),
    ("POOLGUARD_BINDS", MappingProxyType({"reports": {"pool_size": 2}})),
]

BAD: list[tuple[str, Any, str]] = [
    ("POOLGUARD_POOL_SIZE", -1, "a whole number"),
    ("POOLGUARD_POOL_SIZE", True, "a whole number"),
    ("POOLGUARD_POOL_SIZE", "Auto", '"auto"'),
    ("POOLGUARD_POOL_SIZE", "automatic", '"auto"'),
    ("POOLGUARD_MAX_OVERFLOW", "Auto", '"auto"'),
    ("POOLGUARD_POOL_SIZE", 7.0, "a whole number"),
    ("POOLGUARD_POOL_SIZE", "7", "a whole number"),
    ("POOLGUARD_POOL_SIZE", None, "a whole number"),
    ("POOLGUARD_POOL_SIZE", 10**30, "a whole number"),
    ("POOLGUARD_MAX_OVERFLOW", -2, "-1 "),
    ("POOLGUARD_MAX_OVERFLOW", False, "-1 "),
    ("POOLGUARD_MAX_OVERFLOW", 10**30, "-1 "),
    ("POOLGUARD_POOL_TIMEOUT", -0.1, "seconds"),
    ("POOLGUARD_POOL_TIMEOUT", True, "seconds"),
    ("POOLGUARD_POOL_TIMEOUT", None, "seconds"),
    ("POOLGUARD_POOL_TIMEOUT", "30", "seconds"),
    ("POOLGUARD_POOL_TIMEOUT", math.nan, "seconds"),
    ("POOLGUARD_POOL_TIMEOUT", math.inf, "seconds"),
    # More than a lock can wait, and more than a float can hold.
    ("POOLGUARD_POOL_TIMEOUT", 1e300, "seconds"),
    ("POOLGUARD_POOL_TIMEOUT", 10**400, "seconds"),
    ("POOLGUARD_POOL_RECYCLE", 0, '"auto"'),
    ("POOLGUARD_POOL_RECYCLE", -2, '"auto"'),
    ("POOLGUARD_POOL_RECYCLE", True, '"auto"'),
    ("POOLGUARD_POOL_RECYCLE", None, '"auto"'),
    ("POOLGUARD_POOL_RECYCLE", "AUTO", '"auto"'),
    ("POOLGUARD_POOL_RECYCLE", "3600", '"auto"'),
    ("POOLGUARD_POOL_RECYCLE", math.nan, '"auto"'),
    ("POOLGUARD_POOL_RECYCLE", 10**400, '"auto"'),
    ("POOLGUARD_POOL_CLASS", "QueuePool", '"queue" or "null"'),
    ("POOLGUARD_POOL_CLASS", "None", '"queue" or "null"'),
    ("POOLGUARD_POOL_CLASS", ["queue"], '"queue" or "null"'),
    ("POOLGUARD_IDLE_LIMIT", 0, "seconds above 0"),
    ("POOLGUARD_IDLE_LIMIT", -1, "seconds above 0"),
    ("POOLGUARD_IDLE_LIMIT", True, "seconds above 0"),
    ("POOLGUARD_IDLE_LIMIT", math.inf, "seconds above 0"),
    ("POOLGUARD_IDLE_LIMIT", "350", "seconds above 0"),
    ("POOLGUARD_MAX_IDLE", 0, "seconds above 0"),
    ("POOLGUARD_MAX_IDLE", 0.0, "seconds above 0"),
    ("POOLGUARD_MAX_IDLE", -1, "seconds above 0"),
    ("POOLGUARD_MAX_IDLE", 1.1e9, "seconds above 0"),
    ("POOLGUARD_MAX_IDLE", 10**400, "seconds above 0"),
    ("POOLGUARD_MAX_IDLE", True, "seconds above 0"),
    ("POOLGUARD_MAX_IDLE", "5", "seconds above 0"),
    ("POOLGUARD_MAX_IDLE", [5], "seconds above 0"),
    ("POOLGUARD_MAX_IDLE", math.nan, "seconds above 0"),
    ("POOLGUARD_MAX_IDLE", math.inf, "seconds above 0"),
    ("POOLGUARD_MIN_IDLE", -1, "a whole number"),
    ("POOLGUARD_MIN_IDLE", 1_000_001, "a whole number"),
    ("POOLGUARD_MIN_IDLE", None, "a whole number"),
    ("POOLGUARD_MIN_IDLE", True, "a whole number"),
    ("POOLGUARD_MIN_IDLE", 2.0, "a whole number"),
    ("POOLGUARD_MIN_IDLE", "2", "a whole number"),
    ("POOLGUARD_MAX_AGE", 0, "seconds above 0"),
    ("POOLGUARD_MAX_AGE", 0.0, "seconds above 0"),
    ("POOLGUARD_MAX_AGE", -1, "seconds above 0"),
    ("POOLGUARD_MAX_AGE", 1.1e9, "seconds above 0"),
    ("POOLGUARD_MAX_AGE", 10**400, "seconds above 0"),
    ("POOLGUARD_MAX_AGE", True, "seconds above 0"),
    ("POOLGUARD_MAX_AGE", "5", "seconds above 0"),
    ("POOLGUARD_MAX_AGE", [5], "seconds above 0"),
    ("POOLGUARD_MAX_AGE", math.nan, "seconds above 0"),
    ("POOLGUARD_MAX_AGE", math.inf, "seconds above 0"),
    ("POOLGUARD_MAX_WAITING", -1, "a whole number"),
    ("POOLGUARD_MAX_WAITING", 1_000_001, "a whole number"),
    ("POOLGUARD_MAX_WAITING", 10**400, "a whole number"),
    ("POOLGUARD_MAX_WAITING", 5.0, "a whole number"),
    ("POOLGUARD_MAX_WAITING", False, "a whole number"),
    ("POOLGUARD_MAX_WAITING", True, "a whole number"),
    ("POOLGUARD_MAX_WAITING", "5", "a whole number"),
    ("POOLGUARD_MAX_WAITING", [5], "a whole number"),
    ("POOLGUARD_MAX_WAITING", math.nan, "a whole number"),
    ("POOLGUARD_MAX_WAITING", math.inf, "a whole number"),
    ("POOLGUARD_BUDGET", 0, "a whole number from 1"),
    ("POOLGUARD_BUDGET", -1, "a whole number from 1"),
    ("POOLGUARD_BUDGET", 100_001, "a whole number from 1"),
    ("POOLGUARD_BUDGET", 10**400, "a whole number from 1"),
    ("POOLGUARD_BUDGET", 5.0, "a whole number from 1"),
    ("POOLGUARD_BUDGET", True, "a whole number from 1"),
    ("POOLGUARD_BUDGET", "60", "a whole number from 1"),
    ("POOLGUARD_BUDGET", [60], "a whole number from 1"),
    ("POOLGUARD_BUDGET", math.nan, "a whole number from 1"),
    ("POOLGUARD_BUDGET", math.inf, "a whole number from 1"),
    ("POOLGUARD_BUDGET", "Auto", "a whole number from 1"),
    ("POOLGUARD_BUDGET_HOSTS", 0, "a whole number from 1"),
    ("POOLGUARD_BUDGET_HOSTS", None, "a whole number from 1"),
    ("POOLGUARD_BUDGET_HOSTS", "3", "a whole number from 1"),
    ("POOLGUARD_BUDGET_HOSTS", 1.5, "a whole number from 1"),
    ("POOLGUARD_BUDGET_NAME", "", "a text"),
    ("POOLGUARD_BUDGET_NAME", 7, "a text"),
    ("POOLGUARD_BUDGET_NAME", b"all", "a text"),
    ("POOLGUARD_CONNECT_RETRY", None, "seconds from 0"),
    ("POOLGUARD_CONNECT_RETRY", -0.1, "seconds from 0"),
    ("POOLGUARD_CONNECT_RETRY", 1.1e9, "seconds from 0"),
    ("POOLGUARD_CONNECT_RETRY", 10**400, "seconds from 0"),
    ("POOLGUARD_CONNECT_RETRY", False, "seconds from 0"),
    ("POOLGUARD_CONNECT_RETRY", True, "seconds from 0"),
    ("POOLGUARD_CONNECT_RETRY", "5", "seconds from 0"),
    ("POOLGUARD_CONNECT_RETRY", [5], "seconds from 0"),
    ("POOLGUARD_CONNECT_RETRY", math.nan, "seconds from 0"),
    ("POOLGUARD_CONNECT_RETRY", math.inf, "seconds from 0"),
    ("POOLGUARD_CONNECT_TIMEOUT", 0, "seconds above 0"),
    ("POOLGUARD_CONNECT_TIMEOUT", 0.0, "seconds above 0"),
    ("POOLGUARD_CONNECT_TIMEOUT", -1, "seconds above 0"),
    ("POOLGUARD_CONNECT_TIMEOUT", 1.1e6, "seconds above 0"),
    ("POOLGUARD_CONNECT_TIMEOUT", 10**400, "seconds above 0"),
    ("POOLGUARD_CONNECT_TIMEOUT", True, "seconds above 0"),
    ("POOLGUARD_CONNECT_TIMEOUT", "5", "seconds above 0"),
    ("POOLGUARD_CONNECT_TIMEOUT", [5], "seconds above 0"),
    ("POOLGUARD_CONNECT_TIMEOUT", math.nan, "seconds above 0"),
    ("POOLGUARD_CONNECT_TIMEOUT", math.inf, "seconds above 0"),
    ("POOLGUARD_PING_TIMEOUT", None, "seconds above 0"),
    ("POOLGUARD_PING_TIMEOUT", 0, "seconds above 0"),
    ("POOLGUARD_PING_TIMEOUT", 0.0, "seconds above 0"),
    ("POOLGUARD_PING_TIMEOUT", -1, "seconds above 0"),
    ("POOLGUARD_PING_TIMEOUT", 1.1e6, "seconds above 0"),
    ("POOLGUARD_PING_TIMEOUT", 10**400, "seconds above 0"),
    ("POOLGUARD_PING_TIMEOUT", True, "seconds above 0"),
    ("POOLGUARD_PING_TIMEOUT", "5", "seconds above 0"),
    ("POOLGUARD_PING_TIMEOUT", [5], "seconds above 0"),
    ("POOLGUARD_PING_TIMEOUT", math.nan, "seconds above 0"),
    ("POOLGUARD_PING_TIMEOUT", math.inf, "seconds above 0"),
    ("POOLGUARD_TCP_USER_TIMEOUT", None, "seconds above 0"),
    ("POOLGUARD_TCP_USER_TIMEOUT", 0, "seconds above 0"),
    ("POOLGUARD_TCP_USER_TIMEOUT", 0.0, "seconds above 0"),
    ("POOLGUARD_TCP_USER_TIMEOUT", -1, "seconds above 0"),
    ("POOLGUARD_TCP_USER_TIMEOUT", 1.1e6, "seconds above 0"),
    ("POOLGUARD_TCP_USER_TIMEOUT", 10**400, "seconds above 0"),
    ("POOLGUARD_TCP_USER_TIMEOUT", True, "seconds above 0"),
    ("POOLGUARD_TCP_USER_TIMEOUT", "5", "seconds above 0"),
    ("POOLGUARD_TCP_USER_TIMEOUT", [5], "seconds above 0"),
    ("POOLGUARD_TCP_USER_TIMEOUT", math.nan, "seconds above 0"),
    ("POOLGUARD_TCP_USER_TIMEOUT", math.inf, "seconds above 0"),
    ("POOLGUARD_HELD_WARNING", 0, "None for never"),
    ("POOLGUARD_HELD_WARNING", 0.0, "None for never"),
    ("POOLGUARD_HELD_WARNING", -1, "None for never"),
    ("POOLGUARD_HELD_WARNING", 1.1e9, "None for never"),
    ("POOLGUARD_HELD_WARNING", 10**400, "None for never"),
    ("POOLGUARD_HELD_WARNING", True, "None for never"),
    ("POOLGUARD_HELD_WARNING", "5", "None for never"),
    ("POOLGUARD_HELD_WARNING", [5], "None for never"),
    ("POOLGUARD_HELD_WARNING", math.nan, "None for never"),
    ("POOLGUARD_HELD_WARNING", math.inf, "None for never"),
    ("POOLGUARD_ON_LEAK", "ignore", '"return", "discard" or "raise"'),
    ("POOLGUARD_ON_LEAK", None, '"return", "discard" or "raise"'),
    ("POOLGUARD_LABEL", None, "True or False"),
    ("POOLGUARD_LABEL", 1, "True or False"),
    ("POOLGUARD_LABEL", "shop", "True or False"),
    ("POOLGUARD_STATE_DIR", "", "absolute path"),
    ("POOLGUARD_STATE_DIR", "var/state", "absolute path"),
    ("POOLGUARD_STATE_DIR", b"/run/shop", "absolute path"),
    ("POOLGUARD_STATE_DIR", 7, "absolute path"),
    ("POOLGUARD_CLI_GROUP", "", "the name of a command group"),
    ("POOLGUARD_CLI_GROUP", "db pool", "the name of a command group"),
    ("POOLGUARD_CLI_GROUP", 7, "the name of a command group"),
    ("POOLGUARD_HTTP_503", None, "True or False"),
    ("POOLGUARD_HTTP_503", 0, "True or False"),
    ("POOLGUARD_HTTP_503", 1, "True or False"),
    ("POOLGUARD_HTTP_503", 1.0, "True or False"),
    ("POOLGUARD_HTTP_503", "true", "True or False"),
    ("POOLGUARD_HTTP_503", [], "True or False"),
    ("POOLGUARD_BINDS", None, "a dict of bind names"),
    ("POOLGUARD_BINDS", ["reports"], "a dict of bind names"),
    ("POOLGUARD_BINDS", {"reports": 2}, "a dict of bind names"),
]


class TestTable:
    def test_every_default_is_a_value_that_is_allowed(self) -> None:
        assert [each.key for each in OPTIONS if not each.accepts(each.default)] == []

    @pytest.mark.parametrize(("key", "value"), GOOD)
    def test_a_possible_value_is_accepted(self, key: str, value: Any) -> None:
        read_config({key: value})

    @pytest.mark.parametrize(("key", "value", "allowed"), BAD)
    def test_an_impossible_value_is_refused_with_key_value_and_what_is_allowed(
        self, key: str, value: Any, allowed: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            read_config({key: value})
        assert str(caught.value).startswith(f"{key} is {value!r}")
        assert allowed in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "value", "allowed"),
        [
            (option.name, value, allowed)
            for option in OPTIONS
            for key, value, allowed in BAD
            if option.per_bind and option.key == key
        ],
    )
    def test_an_impossible_value_is_refused_for_a_single_bind_too(
        self, name: str, value: Any, allowed: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            read_config({"POOLGUARD_BINDS": {"reports": {name: value}}})
        place = f"POOLGUARD_BINDS['reports'][{name!r}] is {value!r}"
        assert str(caught.value).startswith(place)
        assert allowed in str(caught.value)

    def test_every_key_is_tried_with_good_and_bad_values(self) -> None:
        keys = {option.key for option in OPTIONS}
        assert {key for key, _ in GOOD} == keys
        assert {key for key, _, _ in BAD} == keys

    def test_every_setting_of_a_pool_may_be_set_per_bind(self) -> None:
        values = {
            option.name: value
            for option in OPTIONS
            for key, value in GOOD
            if option.per_bind and option.key == key
        }
        config = read_config({"POOLGUARD_BINDS": {"reports": values}})
        settings = config.for_bind("reports", {})
        read = {name: getattr(settings, name).value for name in Settings.__slots__}
        assert read == values
