"""The JSON Schema of what ``flask pool status --json`` prints, from the dataclasses."""

from __future__ import annotations

import inspect
import re
import types
import typing as t
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

from .model import SCHEMA_VERSION, Report
from .verdict import Verdict

_SIMPLE: t.Final[Mapping[t.Any, str]] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    types.NoneType: "null",
}
Json = dict[str, t.Any]


def report_schema() -> Json:
    """Return the schema (draft 2020-12). Later releases may add properties."""
    shapes: dict[str, Json] = {}
    verdict, report = _schema_of(Verdict, shapes), _shape_of(Report, shapes)
    report["properties"] = {"verdict": verdict, **report["properties"]}
    report["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    report["required"].insert(0, "verdict")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "flask pool status --json",
        **report,
        "$defs": dict(sorted(shapes.items())),
    }


def _shape_of(kind: type, shapes: dict[str, Json]) -> Json:
    """Return an object's schema; those within it are added to ``shapes``."""
    hints = t.get_type_hints(kind)
    names = [each.name for each in fields(kind) if each.metadata.get("json", True)]
    meanings = _meanings(kind)
    properties = {}
    for name in names:
        properties[name] = _schema_of(hints[name], shapes)
        if name in meanings:
            properties[name]["description"] = meanings[name]
    return {
        "description": _first_lines(kind).replace("None", "null"),
        "type": "object",
        "properties": properties,
        "required": names,
    }


def _schema_of(hint: t.Any, shapes: dict[str, Json]) -> Json:
    arguments, origin = t.get_args(hint), t.get_origin(hint)
    if origin is t.Literal:
        return {"enum": list(arguments)}
    if origin in (t.Union, types.UnionType):
        some, *_ = (each for each in arguments if each is not types.NoneType)
        return {"anyOf": [_schema_of(some, shapes), {"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": _schema_of(arguments[0], shapes)}
    if origin is Mapping:
        return {
            "type": "object",
            "additionalProperties": _schema_of(arguments[1], shapes),
        }
    if is_dataclass(hint):
        kind = t.cast(type, hint)
        if kind.__name__ not in shapes:
            shapes[kind.__name__] = {}  # in its place, before those within it
            shapes[kind.__name__] = _shape_of(kind, shapes)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    return {"type": _SIMPLE[hint]}


def _first_lines(kind: type) -> str:
    return (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")


def _meanings(kind: type) -> dict[str, str]:
    """Return what the class's docstring says of its fields."""
    found = re.findall(
        r"^:ivar ([\w, ]+): (.*?)(?=\n:|\n\n|\Z)",
        inspect.getdoc(kind) or "",
        re.M | re.S,
    )
    return {
        name: " ".join(text.replace("``", "").replace("None", "null").split())
        for names, text in found
        for name in names.split(", ")
    }
