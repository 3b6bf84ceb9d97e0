"""Frozen dataclasses as JSON and back; nothing that is read is trusted."""

from __future__ import annotations

import functools
import json
import math
import types
import typing as t
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass

# What a field is for: "json", what ``--json`` prints; "file", what a state file holds.
Purpose = t.Literal["json", "file"]

T = t.TypeVar("T")

# More than any figure can be; what is above is garbage.
_TOO_MUCH: t.Final = 2**53
# -1 stands for "no limit" in SQLAlchemy's settings.
_LEAST: t.Final = -1


class Damaged(Exception):
    """The data is not what a worker writes; the message says where."""


# Metadata of a field that state files hold and ``--json`` does not print.
INTERNAL: t.Final = {"json": False}
# Of one that state files do not hold: the reader finds it out.
FOUND_OUT: t.Final = {"file": False}
# Of seconds that go on after the file was written.
ELAPSING: t.Final = {"elapsing": True}


# Of fields that always have a value of their own.
_NO_DEFAULT: t.Final = object()


@functools.cache
def _names(kind: type, purpose: Purpose) -> tuple[tuple[str, t.Any], ...]:
    """Return the fields that are wanted, and with which value they may be left out."""
    return tuple(
        (each.name, _default(each) if purpose == "file" else _NO_DEFAULT)
        for each in fields(kind)
        if each.metadata.get(purpose, True)
    )


def _default(field: Field[t.Any]) -> t.Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return _NO_DEFAULT if field.default is MISSING else field.default


def to_plain(value: t.Any, purpose: Purpose = "json") -> t.Any:
    """Return frozen data as what JSON has."""
    if (
        value is None or type(value) in _SIMPLE
    ):  # most are, and the other questions are slower
        return value
    if is_dataclass(value):
        return {
            name: to_plain(found, purpose)
            for name, default in _names(t.cast(type, type(value)), purpose)
            if (found := getattr(value, name)) != default
        }
    if isinstance(value, Mapping):
        return {str(name): to_plain(each, purpose) for name, each in value.items()}
    if isinstance(value, tuple):
        return [to_plain(each, purpose) for each in value]
    return value


def dump(value: t.Any) -> bytes:
    """Return the JSON of what a state file holds of frozen data, without the fields
    that have their default.
    """
    plain = to_plain(value, "file")
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def load(kind: type[T], data: bytes) -> T:
    """Return the frozen data that :func:`dump` has written.

    Names that the class does not have are left out.

    :raises Damaged: it is anything else; a type is not right, a number is impossible.
    """
    try:
        return t.cast(T, _build(kind, json.loads(data)))
    except (ValueError, TypeError, RecursionError) as error:
        raise Damaged("its figures are garbage") from error


def _build(kind: type, plain: t.Any) -> t.Any:
    if type(plain) is not dict:
        raise TypeError(plain)
    values = {}
    for name, read, has_default in _readers(kind):
        if name in plain:
            values[name] = read(plain[name])
        elif not has_default:
            raise ValueError(name)
    return kind(**values)


_Read = Callable[[t.Any], t.Any]


@functools.cache
def _readers(kind: type) -> tuple[tuple[str, _Read, bool], ...]:
    """Return of each field its name, what checks it, and whether it may be missing."""
    hints = t.get_type_hints(kind)
    return tuple(
        (
            each.name,
            _reader(hints[each.name]),
            each.default is not MISSING or each.default_factory is not MISSING,
        )
        for each in fields(kind)
        if each.metadata.get("file", True)
    )


def _reader(hint: t.Any) -> _Read:
    arguments = t.get_args(hint)
    origin = t.get_origin(hint)
    if origin is types.UnionType:
        (some,) = (_reader(each) for each in arguments if each is not types.NoneType)
        return lambda value: None if value is None else some(value)
    if origin is tuple:
        item = _reader(arguments[0])
        return lambda value: tuple(item(each) for each in _of_type(list, value))
    if origin is Mapping:  # its keys are numbers
        item = _reader(arguments[1])
        return lambda value: {
            _number(int(name)): item(each)
            for name, each in _of_type(dict, value).items()
        }
    if is_dataclass(hint):
        return functools.partial(_build, t.cast(type, hint))
    return _SIMPLE[hint]


def _of_type(kind: type, value: t.Any) -> t.Any:
    if type(value) is not kind:
        raise TypeError(value)
    return value


def _integer(value: t.Any) -> int:
    return t.cast(int, _number(_of_type(int, value)))


def _float(value: t.Any) -> float:
    return float(_number(value if type(value) is int else _of_type(float, value)))


def _number(value: float) -> float:
    if not (math.isfinite(value) and _LEAST <= value < _TOO_MUCH):
        raise ValueError(value)
    return value


def _text(value: t.Any) -> str:
    if "\0" in _of_type(str, value):
        raise ValueError(value)
    return t.cast(str, value)


_SIMPLE: t.Final[Mapping[t.Any, _Read]] = {
    bool: functools.partial(_of_type, bool),
    int: _integer,
    float: _float,
    str: _text,
}
