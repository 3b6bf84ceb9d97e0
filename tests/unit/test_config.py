"""Reading the settings: which counts, what is refused, and in which words."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_poolguard import ConfigError, PoolGuard
from flask_poolguard.config import Setting, Settings, read_config
from flask_poolguard.options import OPTIONS


def settings_of(config: dict[str, Any], bind: str = "default") -> Settings:
    """Read a config and merge it for one bind whose engine sets nothing."""
    return read_config(config).for_bind(bind, {})


class TestDefaults:
    def test_without_any_key_a_pool_is_as_sqlalchemy_makes_it(self) -> None:
        settings = settings_of({})
        assert settings.pool_size.value == 5
        assert settings.max_overflow.value == 10
        assert settings.pool_timeout.value == 30
        assert settings.pool_class.value == "queue"

    def test_without_any_key_recycling_is_derived_and_leaks_are_returned(self) -> None:
        settings = settings_of({})
        assert settings.pool_recycle.value == "auto"
        assert settings.idle_limit.value is None
        assert settings.on_leak.value == "return"

    def test_without_any_key_nobody_is_turned_away_and_no_idle_one_is_closed(
        self,
    ) -> None:
        settings = settings_of({})
        assert settings.max_waiting.value is None
        assert settings.max_idle.value is None

    def test_without_any_key_nothing_takes_for_ever(self) -> None:
        settings = settings_of({})
        assert settings.connect_retry.value == 5
        assert settings.connect_timeout.value == 10
        assert settings.ping_timeout.value == 2
        assert settings.tcp_user_timeout.value == 90
        assert settings.held_warning.value == 60

    def test_without_any_key_a_database_that_is_away_is_http_503(self) -> None:
        assert read_config({}).http_503 is True

    def test_a_default_says_that_nobody_set_it(self) -> None:
        settings = settings_of({"POOLGUARD_POOL_SIZE": 5})
        assert settings.max_overflow.is_default
        assert not settings.pool_size.is_default

    def test_settings_of_others_are_left_alone(self) -> None:
        read_config({"POOL_SIZE": "x", "SQLALCHEMY_ECHO": True, "SECRET_KEY": b"x"})


class TestValues:
    @pytest.mark.parametrize("value", ["7", " 7", "-7", "7.5"])
    def test_a_number_in_quotes_is_told_from_other_strings(self, value: str) -> None:
        with pytest.raises(ConfigError, match="take the quotes away"):
            read_config({"POOLGUARD_POOL_SIZE": value})
        with pytest.raises(ConfigError) as caught:
            read_config({"POOLGUARD_POOL_SIZE": "seven"})
        assert "quotes" not in str(caught.value)

    @pytest.mark.parametrize("key", ["POOLGUARD_IDLE_LIMIT", "POOLGUARD_CLI_GROUP"])
    def test_the_word_none_from_an_environment_variable_is_no_none(
        self, key: str
    ) -> None:
        with pytest.raises(ConfigError, match="write null"):
            read_config({key: "None"})

    @pytest.mark.parametrize(("value", "right"), [("True", "true"), ("False", "false")])
    def test_the_words_true_and_false_of_python_are_none_of_the_environments(
        self, value: str, right: str
    ) -> None:
        with pytest.raises(ConfigError, match=f"write {right}"):
            read_config({"POOLGUARD_HTTP_503": value})

    def test_http_503_can_be_switched_off(self) -> None:
        assert read_config({"POOLGUARD_HTTP_503": False}).http_503 is False

    def test_the_origin_of_a_value_is_its_key(self) -> None:
        settings = settings_of({"POOLGUARD_POOL_SIZE": 7})
        assert settings.pool_size == Setting(7, "POOLGUARD_POOL_SIZE")

    def test_a_path_object_becomes_a_string(self) -> None:
        config = read_config({"POOLGUARD_STATE_DIR": Path("/run/shop")})
        assert config.state_dir == os.fspath(Path("/run/shop"))

    def test_a_config_error_is_also_a_value_error(self) -> None:
        with pytest.raises(ValueError, match="POOLGUARD_POOL_SIZE"):
            read_config({"POOLGUARD_POOL_SIZE": -1})


class TestUnknownKeys:
    def test_an_unknown_key_is_refused_with_its_value_and_the_nearest_name(
        self,
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            read_config({"POOLGUARD_POLL_SIZE": 7})
        message = str(caught.value)
        assert message.startswith("POOLGUARD_POLL_SIZE = 7 is not a setting")
        assert "Did you mean 'POOLGUARD_POOL_SIZE'?" in message

    def test_all_known_keys_are_listed(self) -> None:
        with pytest.raises(ConfigError) as caught:
            read_config({"POOLGUARD_NONSENSE": 7})
        assert all(option.key in str(caught.value) for option in OPTIONS)

    def test_a_key_that_resembles_nothing_gets_no_guess(self) -> None:
        with pytest.raises(ConfigError) as caught:
            read_config({"POOLGUARD_XYZZY": 7})
        assert "Did you mean" not in str(caught.value)

    def test_a_key_in_the_wrong_case_is_refused_with_the_right_one(self) -> None:
        with pytest.raises(ConfigError, match="Did you mean 'POOLGUARD_POOL_SIZE'"):
            read_config({"POOLGUARD_pool_size": 7})


class TestBinds:
    def test_a_bind_gets_the_settings_of_the_app(self) -> None:
        settings = settings_of({"POOLGUARD_POOL_SIZE": 7}, "reports")
        assert settings.pool_size == Setting(7, "POOLGUARD_POOL_SIZE")

    def test_a_setting_of_the_bind_beats_the_apps(self) -> None:
        config = {
            "POOLGUARD_POOL_SIZE": 7,
            "POOLGUARD_MAX_OVERFLOW": 3,
            "POOLGUARD_BINDS": {"reports": {"pool_size": 2}},
        }
        reports, default = settings_of(config, "reports"), settings_of(config)
        assert reports.pool_size.value == 2
        assert reports.pool_size.origin == "POOLGUARD_BINDS['reports']['pool_size']"
        assert reports.max_overflow.value == 3
        assert default.pool_size.value == 7

    @pytest.mark.parametrize("bind", [None, "default"])
    def test_the_main_database_goes_by_none_and_by_default(
        self, bind: str | None
    ) -> None:
        settings = settings_of({"POOLGUARD_BINDS": {bind: {"pool_size": 2}}})
        assert settings.pool_size.value == 2

    def test_the_main_database_may_not_be_named_twice(self) -> None:
        binds = {None: {"pool_size": 2}, "default": {"pool_size": 3}}
        with pytest.raises(ConfigError, match="None and 'default'"):
            read_config({"POOLGUARD_BINDS": binds})

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("pool_sise", "Did you mean 'pool_size'"),
            ("POOL_SIZE", "Did you mean 'pool_size'"),
            ("POOLGUARD_POOL_SIZE", "Did you mean 'pool_size'"),
            ("cli_group", "is not a setting of a bind"),
            ("http_503", "is not a setting of a bind"),
            ("state_dir", "is not a setting of a bind"),
            ("binds", "is not a setting of a bind"),
            (7, "is not a setting of a bind"),
        ],
    )
    def test_an_unknown_name_is_refused_with_the_nearest(
        self, name: Any, hint: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            read_config({"POOLGUARD_BINDS": {"reports": {name: 2}}})
        assert f"POOLGUARD_BINDS['reports'][{name!r}]" in str(caught.value)
        assert hint in str(caught.value)

    def test_an_impossible_value_is_refused_with_its_place(self) -> None:
        with pytest.raises(ConfigError) as caught:
            read_config({"POOLGUARD_BINDS": {"reports": {"pool_size": "2"}}})
        message = str(caught.value)
        assert message.startswith("POOLGUARD_BINDS['reports']['pool_size'] is '2'")

    def test_a_bind_whose_name_is_no_string_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"POOLGUARD_BINDS: 7 is not"):
            read_config({"POOLGUARD_BINDS": {7: {"pool_size": 2}}})

    def test_a_bind_that_does_not_exist_is_refused_with_the_nearest(self) -> None:
        config = read_config({"POOLGUARD_BINDS": {"report": {"pool_size": 2}}})
        with pytest.raises(ConfigError) as caught:
            config.check_binds(["default", "reports"])
        message = str(caught.value)
        assert "POOLGUARD_BINDS['report']" in message
        assert "'default', 'reports'" in message
        assert "Did you mean 'reports'?" in message

    def test_binds_that_exist_are_accepted(self) -> None:
        config = read_config({"POOLGUARD_BINDS": {"reports": {"pool_size": 2}}})
        config.check_binds(["default", "reports"])


class TestEngineOptions:
    OPTION = Setting(3, "SQLALCHEMY_ENGINE_OPTIONS['pool_size']")

    def test_an_option_of_the_engine_counts_where_no_key_is_set(self) -> None:
        settings = read_config({}).for_bind("default", {"pool_size": self.OPTION})
        assert settings.pool_size == self.OPTION

    def test_a_key_and_an_option_that_agree_are_fine(self) -> None:
        config = read_config({"POOLGUARD_POOL_SIZE": 3})
        settings = config.for_bind("default", {"pool_size": self.OPTION})
        assert settings.pool_size.value == 3

    def test_numbers_of_different_types_agree(self) -> None:
        config = read_config({"POOLGUARD_POOL_TIMEOUT": 30})
        option = Setting(30.0, "SQLALCHEMY_ENGINE_OPTIONS['pool_timeout']")
        config.for_bind("default", {"pool_timeout": option})

    @pytest.mark.parametrize(
        "config",
        [
            {"POOLGUARD_POOL_SIZE": 7},
            {"POOLGUARD_BINDS": {"default": {"pool_size": 7}}},
        ],
    )
    def test_a_key_and_an_option_that_disagree_are_refused_with_both(
        self, config: dict[str, Any]
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            read_config(config).for_bind("default", {"pool_size": self.OPTION})
        message = str(caught.value)
        assert "POOLGUARD_" in message
        assert "is 7" in message
        assert "SQLALCHEMY_ENGINE_OPTIONS['pool_size'] is 3" in message
        assert "bind 'default'" in message


class TestLeftovers:
    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("SQLALCHEMY_POOL_SIZE", "POOLGUARD_POOL_SIZE"),
            ("SQLALCHEMY_MAX_OVERFLOW", "POOLGUARD_MAX_OVERFLOW"),
            ("SQLALCHEMY_POOL_TIMEOUT", "POOLGUARD_POOL_TIMEOUT"),
            ("SQLALCHEMY_POOL_RECYCLE", "POOLGUARD_POOL_RECYCLE"),
        ],
    )
    def test_a_key_of_flask_sqlalchemy_2_is_warned_of_once_with_its_new_name(
        self, old: str, new: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        read_config({old: 20})
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.name == "flask_poolguard"
        assert old in record.getMessage()
        assert f"Rename it to {new}" in record.getMessage()

    def test_a_key_that_is_none_sets_nothing_and_is_no_leftover(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        read_config({"SQLALCHEMY_POOL_SIZE": None, "SQLALCHEMY_ECHO": True})
        assert caplog.records == []


class TestEnvironment:
    def test_settings_may_come_from_environment_variables(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {
            "FLASK_POOLGUARD_POOL_SIZE": "7",
            "FLASK_POOLGUARD_POOL_RECYCLE": "auto",
            "FLASK_POOLGUARD_POOL_TIMEOUT": "2.5",
            "FLASK_POOLGUARD_IDLE_LIMIT": "null",
            "FLASK_POOLGUARD_ON_LEAK": "discard",
            "FLASK_POOLGUARD_MAX_IDLE": "600",
            "FLASK_POOLGUARD_MAX_WAITING": "0",
            "FLASK_POOLGUARD_CONNECT_RETRY": "0",
            "FLASK_POOLGUARD_CONNECT_TIMEOUT": "null",
            "FLASK_POOLGUARD_PING_TIMEOUT": "0.5",
            "FLASK_POOLGUARD_HELD_WARNING": "null",
            "FLASK_POOLGUARD_HTTP_503": "false",
            "FLASK_POOLGUARD_BINDS__reports__pool_size": "2",
            "FLASK_POOLGUARD_BINDS__reports__held_warning": "5",
        }.items():
            monkeypatch.setenv(name, value)
        app = Flask(__name__)
        app.config.from_prefixed_env()
        config = read_config(app.config)
        default, reports = (
            config.for_bind("default", {}),
            config.for_bind("reports", {}),
        )
        assert default.pool_size.value == 7
        assert default.pool_recycle.value == "auto"
        assert default.pool_timeout.value == 2.5
        assert default.idle_limit.value is None
        assert default.max_idle.value == 600
        assert default.max_waiting.value == 0
        assert default.connect_retry.value == 0
        assert default.connect_timeout.value is None
        assert default.ping_timeout.value == 0.5
        assert default.held_warning.value is None
        assert default.on_leak.value == "discard"
        assert config.http_503 is False
        assert reports.pool_size.value == 2
        assert reports.pool_timeout.value == 2.5
        assert reports.held_warning.value == 5

    @pytest.mark.parametrize("value", ["null", '"null"'])
    def test_null_is_the_pool_class_of_that_name_with_and_without_quotes(
        self, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FLASK_POOLGUARD_POOL_CLASS", value)
        monkeypatch.setenv("FLASK_POOLGUARD_BINDS__reports__pool_class", "queue")
        monkeypatch.setenv("FLASK_POOLGUARD_BINDS__archive__pool_class", value)
        app = Flask(__name__)
        app.config.from_prefixed_env()
        default, reports, archive = (
            settings_of(app.config, bind) for bind in ("default", "reports", "archive")
        )
        assert default.pool_class == Setting("null", "POOLGUARD_POOL_CLASS")
        assert reports.pool_class.value == "queue"
        origin = "POOLGUARD_BINDS['archive']['pool_class']"
        assert archive.pool_class == Setting("null", origin)

    @pytest.mark.parametrize("value", ["NaN", "Infinity", "true", '"7"', "null", "7.0"])
    def test_what_json_makes_of_a_variable_is_checked_as_well(
        self, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FLASK_POOLGUARD_POOL_SIZE", value)
        app = Flask(__name__)
        app.config.from_prefixed_env()
        with pytest.raises(ConfigError, match="POOLGUARD_POOL_SIZE is"):
            PoolGuard(app)


class TestInitApp:
    @pytest.mark.parametrize(
        "config",
        [
            {"POOLGUARD_POOL_SIZE": "7"},
            {"POOLGUARD_POOLSIZE": 7},
            {"POOLGUARD_BINDS": {"reports": {"size": 7}}},
        ],
    )
    def test_a_mistake_stops_the_app_at_its_start_and_leaves_it_unguarded(
        self, config: dict[str, Any]
    ) -> None:
        app = Flask(__name__)
        app.config.update(config)
        before = app.wsgi_app
        with pytest.raises(ConfigError):
            PoolGuard(app)
        assert "poolguard" not in app.extensions
        assert app.wsgi_app == before

    def test_a_mistake_that_was_corrected_is_forgotten(self) -> None:
        app = Flask(__name__)
        guard = PoolGuard()
        app.config["POOLGUARD_POOL_SIZE"] = "7"
        with pytest.raises(ConfigError):
            guard.init_app(app)
        app.config["POOLGUARD_POOL_SIZE"] = 7
        guard.init_app(app)
        assert "poolguard" in app.extensions
