"""All that the guard shows of an app, as commands and pages print it."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import URL

from flask_poolguard.masking import Secrets

# What makes each command say most.
TEXTS = {
    "status": ["status", "--server", "--sql"],
    "holders": ["holders"],
    "top": ["top", "--count", "1"],
    "history": ["history"],
    "config": ["config"],
    "check": ["check"],
    "advise": ["advise"],
}
JSONS = {
    "status --json": ["status", "--server", "--sql", "--json"],
    "holders --json": ["holders", "--json"],
    "doctor --json": ["doctor", "--json"],
    "history --json": ["history", "--json"],
    "config --json": ["config", "--json"],
    "advise --json": ["advise", "--json"],
}
PAGES = ["/", "/status.json", "/metrics", "/ready"]


def obeyed(text: str) -> set[str]:
    """Return the characters in a text that are more than something to read: a terminal,
    or who reads a log by its lines, would obey them.
    """
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {each for each in text if unicodedata.category(each) in kinds} - {"\n"}


def without_secrets(text: str, url: URL, given: object = ()) -> str:
    """Return a text as the guard shows it, of an engine that has connected so."""
    secrets = Secrets(url)
    secrets.note(given)
    return secrets.hide(text)


def texts_of(app: Flask) -> dict[str, str]:
    """Return what commands print for people; not the doctor, who looks for a while."""
    return _run(app, TEXTS)


def jsons_of(app: Flask) -> dict[str, str]:
    """Return what commands print for programs."""
    found = _run(app, JSONS)
    for each in found.values():
        json.loads(each)
    return found


def metrics_of(app: Flask) -> str:
    """Return the metrics, as the command prints them."""
    return _run(app, {"metrics": ["metrics"]})["metrics"]


def pages_of(app: Flask) -> dict[str, str]:
    """Return what the pages answer; the app has them at /pools."""
    client = app.test_client()
    return {each: client.get(f"/pools{each}").text for each in PAGES}


def files_in(folder: Path) -> dict[str, str]:
    """Return what stands in the guard's files."""
    return {
        each.name: each.read_bytes().decode(errors="replace")
        for each in folder.rglob("*")
        if each.is_file()
    }


def reprs_of(app: Flask) -> dict[str, str]:
    """Return the names that the guard's objects have in logs and debuggers."""
    state = app.extensions["poolguard"]
    found: list[Any] = [state, state.config, *state.engines]
    for each in state.engines:
        found += [each.engine.pool, each.settings, each.tracker]
    return {f"repr {number}": repr(each) for number, each in enumerate(found)}


def all_shown(app: Flask) -> dict[str, str]:
    """Return all of it."""
    return {
        **texts_of(app),
        **jsons_of(app),
        "metrics": metrics_of(app),
        **pages_of(app),
        **reprs_of(app),
    }


def _run(app: Flask, commands: Mapping[str, list[str]]) -> dict[str, str]:
    runner = app.test_cli_runner()
    found = {}
    for name, arguments in commands.items():
        done = runner.invoke(args=["pool", *arguments])
        # A status at most: no command fails over what it has to show.
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        found[name] = done.output
    return found
