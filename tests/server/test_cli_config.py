"""`flask pool config`: every setting, and where it comes from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from sqlalchemy import URL, NullPool, QueuePool, create_engine

from flask_poolguard.cli.config_view import render, verdict_on
from flask_poolguard.options import OPTIONS
from flask_poolguard.report.effective_settings import EffectiveConfig, find_effective
from flask_poolguard.report.text import Page
from tests.support.app_server import REPOSITORY
from tests.support.desk import APP, DeskServer, environment
from tests.support.monitoring import run
from tests.support.proxy import SilentServer
from tests.support.reporting import MakeShop, Shop


def effective(shop: Shop) -> EffectiveConfig:
    """Return the settings in force of an app in this process."""
    with shop.app.app_context():
        state = shop.app.extensions["poolguard"]
        return find_effective(shop.app, state.config, state.engines)


def values(config: EffectiveConfig, bind: str = "default") -> dict[str, Any]:
    """Return a bind's settings as pairs of value and origin."""
    (found,) = [each for each in config.binds if each.bind == bind]
    return {each.name: (each.value, each.origin) for each in found.settings}


def run_config(env: Mapping[str, str], *arguments: str) -> str:
    """Return what `flask pool config` prints."""
    command = [sys.executable, "-m", "flask", "--app", APP, "pool", "config"]
    done = run([*command, *arguments], {**os.environ, **env})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


class TestOrigins:
    def test_all_settings_are_there(self, make_shop: MakeShop, sqlite_url: URL) -> None:
        config = effective(make_shop(default=create_engine(sqlite_url)))
        app_wide = {each.name for each in config.settings}
        assert app_wide | set(values(config)) == {
            option.name for option in OPTIONS if option.name != "binds"
        }
        defaults = {option.name: option.default for option in OPTIONS}
        for name, (value, origin) in values(config).items():
            assert (value, origin) == (defaults[name], "default")

    def test_a_key_a_binds_key_and_an_engine_option_are_named(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(
            {
                "POOLGUARD_MAX_IDLE": 60,
                "POOLGUARD_TCP_USER_TIMEOUT": 20,
                "POOLGUARD_BINDS": {"reports": {"pool_size": 2}},
                "POOLGUARD_HTTP_503": False,
            },
            default=create_engine(sqlite_url, max_overflow=3),
            reports=create_engine(sqlite_url),
        )
        config = effective(shop)
        first, second = values(config), values(config, "reports")
        assert first["max_idle"] == (60, "POOLGUARD_MAX_IDLE")
        assert first["tcp_user_timeout"] == (20, "POOLGUARD_TCP_USER_TIMEOUT")
        assert first["max_overflow"] == (
            3,
            "create_engine(max_overflow=…) of 'default'",
        )
        assert first["pool_size"] == (5, "default")
        assert second["pool_size"] == (2, "POOLGUARD_BINDS['reports']['pool_size']")
        (http_503,) = [each for each in config.settings if each.name == "http_503"]
        assert (http_503.value, http_503.origin) == (False, "POOLGUARD_HTTP_503")

    def test_what_follows_from_another_setting_says_so(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop({"POOLGUARD_POOL_SIZE": 0}, default=create_engine(sqlite_url))
        found = values(effective(shop))["max_overflow"]
        assert found == (-1, "pool_size 0 is no limit")

    def test_a_time_limit_in_the_url_comes_first(self, make_shop: MakeShop) -> None:
        url = "mysql+pymysql://app@localhost/shop?connect_timeout=3"
        found = values(effective(make_shop(default=create_engine(url))))
        assert found["connect_timeout"] == ("3", "the database URL")

    def test_what_another_pool_does_not_do_is_not_claimed(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        class OwnPool(QueuePool):
            pass

        shop = make_shop(
            {"POOLGUARD_BINDS": {"none": {"pool_class": "null"}}},
            default=create_engine(sqlite_url, poolclass=OwnPool, pool_size=4),
            none=create_engine(sqlite_url),
            chosen=create_engine(sqlite_url, poolclass=NullPool),
        )
        config = effective(shop)
        own, null = values(config), values(config, "none")
        assert own["pool_size"] == (4, "OwnPool keeps its own")
        assert own["max_idle"] == (None, "no effect on OwnPool")
        assert own["held_warning"] == (60.0, "default")
        assert null["pool_class"] == ("null", "POOLGUARD_BINDS['none']['pool_class']")
        assert null["pool_size"] == (None, "no effect on NullPool")
        assert values(config, "chosen")["pool_class"][0] == "null"

    def test_fits_on_eighty_columns_and_hides_control_characters(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(
            {"POOLGUARD_STATE_DIR": "/nowhere/\x1b[31m"},
            default=create_engine(sqlite_url),
        )
        text = render(effective(shop), Page(80, True))
        plain = click.unstyle(text)
        assert max(map(len, plain.splitlines())) <= 80
        assert "\x1b" not in plain


class TestVerdict:
    def test_says_where_the_settings_come_from(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(
            {"POOLGUARD_MAX_IDLE": 60, "POOLGUARD_HTTP_503": False},
            default=create_engine(sqlite_url, max_overflow=3),
        )
        found = verdict_on(effective(shop))
        assert found.level == "ok"
        assert found.text == (
            "1 bind as configured: settings from create_engine(max_overflow=…) of"
            " 'default', POOLGUARD_MAX_IDLE, POOLGUARD_HTTP_503, the others are"
            " defaults; no live worker to compare with"
        )

    def test_of_defaults_alone_says_so(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(
            default=create_engine(sqlite_url), reports=create_engine(sqlite_url)
        )
        found = verdict_on(effective(shop))
        assert found.text.startswith("2 binds as configured: all settings are defaults")

    def test_without_a_bind_knows_nothing(self, make_shop: MakeShop) -> None:
        found = effective(make_shop())
        assert verdict_on(found).level == "unknown"
        assert "no bind" in render(found, Page(80, False)).splitlines()[0]

    def test_names_the_keys_without_effect(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(
            {"POOLGUARD_MAX_IDLE": 60, "SQLALCHEMY_POOL_SIZE": 7},
            default=create_engine(sqlite_url),
            chosen=create_engine(sqlite_url, poolclass=NullPool),
        )
        found = effective(shop)
        assert verdict_on(found).level == "warning"
        assert verdict_on(found).text == (
            "POOLGUARD_MAX_IDLE = 60 has no effect on bind 'chosen', which keeps its"
            " own NullPool (without-effect, 1 more without effect)"
        )
        first, second = found.without_effect
        assert "Remove it, or the choice of NullPool" in first
        assert "SQLALCHEMY_POOL_SIZE is ignored" in second
        text = click.unstyle(render(found, Page(80, False)))
        # Before the tables.
        assert text.index("Rename it to POOLGUARD_POOL_SIZE") < text.index("All binds")

    def test_names_what_was_set_too_late(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        shop.app.config["POOLGUARD_HTTP_503"] = False
        found = verdict_on(effective(shop))
        assert found.level == "warning"
        assert found.text.startswith("POOLGUARD_HTTP_503 = False has no effect")


@pytest.mark.process
class TestBesideWorkers:
    @pytest.mark.quick
    def test_shows_the_recycle_time_in_force_and_who_runs_with_other_sizes(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url, FLASK_POOLGUARD_IDLE_LIMIT="600")
        with DeskServer(tmp_path, env, workers=2) as server:
            pids = server.wake().worker_pids()
            same = run_config(env)
            other = {**env, "FLASK_POOLGUARD_POOL_SIZE": "7"}
            found = json.loads(run_config(other, "--json"))
        recycle = "now 500 s in 2 workers (POOLGUARD_IDLE_LIMIT 600 s × 5/6)"
        assert recycle in same
        assert same.startswith("OK  1 bind as configured: ")
        assert "2 workers run with these sizes" in " ".join(same.split())
        assert "WARNING" not in same
        assert next(iter(found)) == "verdict"
        assert found["verdict"]["level"] == "warning"
        assert found["verdict"]["text"].startswith("workers ")
        assert found["verdict"]["text"].endswith("as configured here (other-sizes)")
        (difference,) = found["differences"]
        assert "pool_size 5" in difference
        assert "pool_size 7" in difference
        assert all(str(pid) in difference for pid in pids)
        (bind,) = found["binds"]
        assert bind["recycle"] == [
            {
                "seconds": 500.0,
                "source": "POOLGUARD_IDLE_LIMIT 600 s × 5/6",
                "workers": sorted(pids),
            }
        ]

    def test_needs_neither_worker_nor_server(self, mariadb_url: URL) -> None:
        with SilentServer() as silent:
            text = run_config(environment(mariadb_url.set(port=silent.port)))
        assert "pool_timeout      30 s    default" in text


@pytest.mark.process
def test_a_pipe_gets_no_colours(sqlite_url: URL) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", APP, "pool", "config"],
        cwd=REPOSITORY,
        env={**os.environ, **environment(sqlite_url)},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert b"\x1b" not in done.stdout
