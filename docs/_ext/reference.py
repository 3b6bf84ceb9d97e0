"""Writes the parts of the reference that the code knows, when the pages are built.

A page has ``<!-- generated: NAME -->`` where one is to stand.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import re
import tomllib
import typing as t
from collections.abc import Iterator
from pathlib import Path

import click
from sphinx.application import Sphinx

from flask_poolguard.cli import COMMANDS, make_group
from flask_poolguard.report.json_schema import Json, report_schema

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.M)

# What a status other than 0 means; docs/reference/commands.md says what it means else.
EXITS = {
    "check": "0 for OK, 1 for WARNING, 2 for CRITICAL, 3 for UNKNOWN, which is also the"
    " answer to wrong arguments and to an app that cannot be imported.",
    "doctor": "1 if a finding is critical.",
    "explain": "2 if nothing fits.",
    "advise": "1 if the verdict is `CRITICAL` or `UNKNOWN`: there is nothing to advise"
    " by, or no room.",
    "tune": "1 if it failed, or too few sizes were measured; 2 if the extra `tune` is"
    " not installed; 128 and the number of the signal that ended it.",
    "recycle": "1 if a worker may still use an older connection, or no worker was"
    " found.",
}


def commands() -> Iterator[str]:
    """Yield a section for each command."""
    group = make_group("pool")
    if unknown := EXITS.keys() - set(COMMANDS):
        raise ValueError(f"EXITS has no commands: {unknown}")
    above = click.Context(group, info_name="flask pool")
    for name in COMMANDS:
        command = t.cast(click.Command, group.get_command(above, name))
        ctx = click.Context(command, info_name=name, parent=above)
        usage = " ".join(command.collect_usage_pieces(ctx))
        yield f"## `{name}`\n\n```sh\nflask pool {name} {usage}\n```\n"
        yield _escaped(inspect.cleandoc(command.help or "").replace("\b\n", "")) + "\n"
        for parameter in command.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                yield f"`{record[0]}`\n: {_escaped(record[1])}\n"
        if name in EXITS:
            yield f"**Exit status:** {EXITS[name]}\n"
        if command.epilog:
            examples = command.epilog.replace("\b\n", "").strip("\n")
            yield f"```text\n{examples}\n```\n"


def schema() -> Iterator[str]:
    """Yield a table for each kind of object in the report, and the schema itself."""
    whole = report_schema()
    for name, shape in {"The report": whole, **whole["$defs"]}.items():
        title = name if " " in name else f"`{name}`"
        yield f"## {title}\n\n{_escaped(shape['description'])}\n"
        yield "| name | type | meaning |\n|---|---|---|"
        for each, value in shape["properties"].items():
            meaning = _escaped(value.get("description", ""))
            yield f"| `{each}` | {_type_of(value)} | {meaning} |"
        yield ""
    yield f"## The schema\n\n```json\n{json.dumps(whole, indent=1)}\n```\n"


def versions() -> Iterator[str]:
    """Yield what pyproject.toml asks for, with the oldest releases that are tested."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lowest = dict(
        re.findall(r"^([\w-]+)==([\d.]+)", each)[0]
        for each in project["dependency-groups"]["lowest"]
        if isinstance(each, str)
    )
    data = project["project"]
    extras = data["optional-dependencies"]
    needed = {each: "always" for each in data["dependencies"]}
    needed |= {each: f"extra `{name}`" for name in extras for each in extras[name]}
    yield f"Python `{data['requires-python']}`.\n"
    yield "| package | needed | oldest release that is tested |\n|---|---|---|"
    for package, when in needed.items():
        (name,) = re.findall(r"^[\w-]+", package)
        yield f"| `{package}` | {when} | {lowest.pop(name, 'that one')} |"
    needs = importlib.metadata.requires("flask") or ()
    with_flask = {re.split(r"[^\w-]", each)[0].lower() for each in needs}
    for name, release in lowest.items():
        when = "with Flask" if name in with_flask else "if it is there"
        yield f"| `{name}` | {when} | {release} |"
    yield ""


def changes() -> Iterator[str]:
    """Yield CHANGES.md without its title."""
    yield (ROOT / "CHANGES.md").read_text().partition("\n")[2]


PARTS = {each.__name__: each for each in (commands, schema, versions, changes)}


def _type_of(schema: Json) -> str:
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        return " or ".join(map(_type_of, schema["anyOf"]))
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "items" in schema:
        return f"list of {_type_of(schema['items'])}"
    return str(schema["type"])


def _escaped(text: str) -> str:
    """Return a text in which Markdown sees no mark-up of its own."""
    return re.sub(r"([*_<|\[])", r"\\\1", text.replace("``", ""))


def write_parts(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the parts in their places."""
    source[0] = MARK.sub(lambda found: "\n".join(PARTS[found[1]]()), source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", write_parts)
    return {"parallel_read_safe": True}
