"""Keeps the guard's logger from being muted as a side effect.

``logging.config.fileConfig()``, and ``dictConfig()`` too, disable all loggers that
exist and are not named, unless told otherwise. Alembic's ``env.py`` calls the former,
and apps that migrate when they start would never hear of a leak again.
"""

from __future__ import annotations

import logging
import sys
import typing as t

NAME: t.Final = "flask_poolguard"

# Which code disables what it does not name.
_CONFIGURES: t.Final = "logging.config"


class _Audible:
    """Of a logger: ignores that the configuration of others disables it.

    All other code may disable it, and a configuration that names it is obeyed.
    """

    def __setattr__(self, name: str, value: t.Any) -> None:
        if name == "disabled" and value:
            caller = sys._getframe(1).f_globals.get("__name__")
            if caller == _CONFIGURES:
                return
        super().__setattr__(name, value)


def keep_audible() -> None:
    """Let the guard's logger outlive the configuration of others.

    Its class is the one that the app chose with ``logging.setLoggerClass()``, with
    this added.
    """
    logger: t.Any = logging.getLogger(NAME)
    chosen = type(logger)
    if not issubclass(chosen, _Audible):
        try:
            logger.__class__ = type(chosen.__name__, (_Audible, chosen), {})
        except TypeError:  # a class with slots, or one that refuses to be derived from
            logger.debug("The logger can be disabled by logging.config", exc_info=True)
