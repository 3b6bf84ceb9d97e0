"""Frozen dataclasses as JSON, and what is refused on the way back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from flask_poolguard.state.plain import (
    FOUND_OUT,
    INTERNAL,
    Damaged,
    dump,
    load,
    to_plain,
)


@dataclass(frozen=True, slots=True)
class Part:
    """What a whole has several of."""

    text: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Whole:
    """One field of each kind that a state file may hold."""

    number: int
    flag: bool
    parts: tuple[Part, ...] = ()
    counts: Mapping[int, int] = field(default_factory=dict)
    inner: str = field(default="", metadata=INTERNAL)
    found: str = field(default="", metadata=FOUND_OUT)


WHOLE = Whole(7, True, (Part("a", 1.5), Part("ü", None)), {3: 4}, "inner", "found")


def altered(**fields: Any) -> bytes:
    """Return a file's JSON with other values."""
    return json.dumps({**json.loads(dump(WHOLE)), **fields}).encode()


def test_a_file_brings_back_all_but_what_the_reader_finds_out() -> None:
    assert load(Whole, dump(WHOLE)) == Whole(
        7, True, WHOLE.parts, WHOLE.counts, "inner"
    )


def test_json_has_all_but_what_is_internal() -> None:
    assert to_plain(WHOLE) == {
        "number": 7,
        "flag": True,
        "parts": [{"text": "a", "seconds": 1.5}, {"text": "ü", "seconds": None}],
        "counts": {"3": 4},
        "found": "found",
    }


def test_unknown_names_are_left_out_and_missing_ones_have_their_default() -> None:
    data = json.dumps({"number": 7, "flag": False, "newer": 1}).encode()
    assert load(Whole, data) == Whole(7, False)


@pytest.mark.parametrize(
    "value",
    [
        *(float("nan"), float("inf"), -float("inf"), 2**53, -2, 1.5, True, "7", None),
        *([], {}),
    ],
)
def test_a_number_that_no_figure_can_be_is_damage(value: Any) -> None:
    with pytest.raises(Damaged):
        load(Whole, altered(number=value))
    if value is not None and value != 1.5:
        with pytest.raises(Damaged):
            load(Whole, altered(parts=[{"text": "a", "seconds": value}]))
    with pytest.raises(Damaged):
        load(Whole, altered(counts={"3": value}))


@pytest.mark.parametrize(
    "fields",
    [
        {"flag": 1},
        {"parts": {}},
        {"parts": [1]},
        {"parts": [{"text": "a"}]},
        {"parts": [{"text": "a\0b", "seconds": 1.0}]},
        {"counts": []},
        {"counts": {"three": 1}},
        {"counts": {"9007199254740992": 1}},
    ],
    ids=str,
)
def test_another_type_or_text_that_a_terminal_could_mistake_is_damage(
    fields: dict[str, Any],
) -> None:
    with pytest.raises(Damaged):
        load(Whole, altered(**fields))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_damage(data: bytes) -> None:
    with pytest.raises(Damaged):
        load(Whole, data)
