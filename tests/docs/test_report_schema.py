"""The JSON Schema of the report fits what ``flask pool status --json`` prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flask_poolguard.report.json_schema import report_schema
from tests.conftest import Database
from tests.support import desk
from tests.support.app_server import REPOSITORY
from tests.support.desk import DeskServer, environment


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that allows no names but its own."""
    shapes = [schema, *schema["$defs"].values()]
    for each in shapes:
        each["additionalProperties"] = False
    return schema


@pytest.mark.process
@pytest.mark.every_product
def test_it_is_that_of_a_real_report(tmp_path: Path, served_database: Database) -> None:
    """With holders, leaks, findings, a budget and the servers' sessions."""
    env = environment(served_database.url, FLASK_POOLGUARD_BUDGET="8")
    with DeskServer(tmp_path, env, workers=2, threads=4) as server:
        server.wake()
        server.hold(2)
        server.get("/leak")
        report = desk.status(env, "--server", "--sql")
    schema = closed(report_schema())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(report)
    (sessions, holders) = (
        report["servers"][0]["sessions"],
        report["servers"][0]["budget_holders"],
    )
    assert sessions
    assert holders
    assert report["findings"]


def test_no_server_and_no_worker_fit_as_well(tmp_path: Path) -> None:
    """Unknown values are null."""
    report = desk.status({"DATABASE_URL": f"sqlite:///{tmp_path}/shop"})
    Draft202012Validator(closed(report_schema())).validate(report)


def test_the_command_prints_it() -> None:
    """Without looking at any server."""
    env = {"DATABASE_URL": "mysql+pymysql://app@localhost:1/none"}
    assert json.loads(desk.run_status(env, "--json-schema")) == report_schema()


def test_nothing_of_it_is_loaded_before_it_is_asked_for() -> None:
    """A command that prints a table is not slower for it."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, flask_poolguard.cli.status;"
            " print('flask_poolguard.report.json_schema' in sys.modules)",
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
