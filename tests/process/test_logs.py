"""The guard's logger outlives the configuration of others."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flask_poolguard.logs import NAME, keep_audible

REPOSITORY = Path(__file__).parents[2]

# What Alembic writes, as far as it matters here.
INI = """
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = generic
[logger_root]
level = WARNING
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stdout,)
formatter = generic
[formatter_generic]
format = %(name)s: %(message)s
"""
DICT = {
    "version": 1,
    "formatters": {"plain": {"format": "%(name)s: %(message)s"}},
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stdout",
            "formatter": "plain",
        }
    },
    "root": {"level": "WARNING", "handlers": ["console"]},
}
IMPORTS = "import logging, logging.config, sys\n"
GUARD = """
from flask_poolguard import PoolGuard
logger = logging.getLogger('flask_poolguard')
"""
WARN = "\nlogger.warning('a leak'); logging.getLogger('other').warning('a word')"
BY_FILE = "logging.config.fileConfig('logging.ini')"
BY_DICT = f"logging.config.dictConfig({DICT!r})"


def printed(folder: Path, source: str) -> list[str]:
    """Run a program that leaves the guard's logger to it; return what it prints."""
    (folder / "logging.ini").write_text(INI)
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.process
@pytest.mark.parametrize("configure", [BY_FILE, BY_DICT], ids=["file", "dict"])
class TestConfigurationOfOthers:
    def test_does_not_mute_it(self, configure: str, tmp_path: Path) -> None:
        others = "logging.getLogger('other')\n"
        source = IMPORTS + GUARD + others + configure + WARN
        # Another logger that is there already is muted, as ever.
        assert printed(tmp_path, source) == ["flask_poolguard: a leak"]

    def test_does_not_undo_that_the_app_disabled_it(
        self, configure: str, tmp_path: Path
    ) -> None:
        source = IMPORTS + GUARD + "logger.disabled = True\n" + configure + WARN
        assert printed(tmp_path, source) == ["other: a word"]

    def test_reaches_a_logger_of_a_class_of_the_apps(
        self, configure: str, tmp_path: Path
    ) -> None:
        own = """
import flask_poolguard.cli.entry_point  # as flask does before it imports the app
class Mine(logging.Logger):
    def warning(self, message, *args):
        super().warning('mine, ' + message, *args)
logging.setLoggerClass(Mine)
"""
        check = "\nassert isinstance(logger, Mine) and type(logger).__name__ == 'Mine'"
        source = IMPORTS + own + GUARD + configure + WARN + check
        assert printed(tmp_path, source)[0] == "flask_poolguard: mine, a leak"


@pytest.mark.process
def test_alembics_call_of_file_config_does_not_mute_it(tmp_path: Path) -> None:
    source = (
        IMPORTS
        + GUARD
        + """
from alembic import command
from alembic.config import Config
config = Config('alembic.ini', stdout=open('/dev/null', 'w'))
command.init(config, 'migrations')
config.set_main_option('sqlalchemy.url', 'sqlite://')
command.current(config)
assert logging.getLogger('alembic').level == logging.INFO
logging.root.handlers[0].stream = sys.stdout
logging.root.handlers[0].setFormatter(logging.Formatter('%(message)s'))
"""
        + WARN
    )
    assert printed(tmp_path, source)[-2:] == ["a leak", "a word"]


@pytest.mark.process
class TestConfigurationThatNamesIt:
    def test_is_obeyed(self, tmp_path: Path) -> None:
        named = {**DICT, "loggers": {NAME: {"level": "ERROR"}}}
        configure = f"logging.config.dictConfig({named!r})"
        error = "\nlogger.error('an error')"
        source = IMPORTS + GUARD + configure + WARN + error
        assert printed(tmp_path, source) == [
            "other: a word",
            "flask_poolguard: an error",
        ]


class TestLogger:
    @pytest.fixture
    def logger(self) -> logging.Logger:
        """Return the guard's logger."""
        return logging.getLogger(NAME)

    def test_may_be_disabled_by_all_other_code(
        self, logger: logging.Logger, caplog: pytest.LogCaptureFixture
    ) -> None:
        logger.disabled = True
        try:
            logger.warning("not this")
        finally:
            logger.disabled = False
        logger.warning("but this")
        assert caplog.messages == ["but this"]

    def test_keeps_levels_handlers_and_filters(
        self, logger: logging.Logger, caplog: pytest.LogCaptureFixture
    ) -> None:
        def drop(record: logging.LogRecord) -> bool:
            return "secret" not in record.getMessage()

        with caplog.at_level(logging.ERROR, logger=NAME):
            logger.warning("too low")
        logger.addFilter(drop)
        logger.warning("a secret")
        logger.removeFilter(drop)
        logger.warning("plain")
        assert caplog.messages == ["plain"]

    def test_is_changed_once(self, logger: logging.Logger) -> None:
        before = type(logger)
        keep_audible()
        assert type(logger) is before
        assert repr(logger) == f"<Logger {NAME} (WARNING)>"

    def test_of_a_class_that_cannot_be_changed_stays_as_it_is(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Fixed(logging.Logger):
            def __setattr__(self, name: str, value: object) -> None:
                if name == "__class__":
                    raise TypeError("fixed")
                super().__setattr__(name, value)

        fixed = Fixed(NAME)
        monkeypatch.setitem(logging.root.manager.loggerDict, NAME, fixed)
        keep_audible()
        assert type(fixed) is Fixed
