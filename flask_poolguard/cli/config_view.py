"""Settings as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import click

from ..report.effective_settings import (
    Effective,
    EffectiveBind,
    EffectiveConfig,
    unit_of,
)
from ..report.text import NONE, Page, visible


def render(config: EffectiveConfig, page: Page) -> str:
    """Return all settings, and who runs with others."""
    sections = [
        page.wrap(f"{config.app}: settings in force"),
        ["All binds", *_table(config.settings, page)],
        *(list(_bind(each, page)) for each in config.binds),
        list(_differences(config.differences, page)),
    ]
    if not config.binds:
        sections.append(page.wrap("No bind is known to Flask-PoolGuard in this app."))
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _bind(bind: EffectiveBind, page: Page) -> Iterator[str]:
    yield from page.wrap(f"{bind.bind}: {bind.url}, {bind.pool_class}", rest="  ")
    for line, setting in _rows(bind.settings, page):
        yield line
        if setting.name == "pool_recycle":
            yield from _recycle(bind, page)


def _recycle(bind: EffectiveBind, page: Page) -> Iterator[str]:
    """Yield what the live workers made of the setting."""
    for each in bind.recycle:
        number = len(each.workers)
        value = "none" if each.seconds is None else f"{each.seconds:g} s"
        source = f" ({each.source})" if each.source else ""
        text = f"{value} in {number} {'worker' if number == 1 else 'workers'}{source}"
        yield from page.wrap(text, "    now ", "        ")


def _table(settings: Sequence[Effective], page: Page) -> list[str]:
    return [line for line, _ in _rows(settings, page)]


def _rows(settings: Sequence[Effective], page: Page) -> Iterator[tuple[str, Effective]]:
    """Yield lines, each with its setting; the last line of several is its own."""
    names = max(len(each.name) for each in settings)
    values = max(len(_value(each)) for each in settings if len(_value(each)) <= 16)
    for each in settings:
        first = f"  {each.name:<{names}}  {visible(_value(each)):<{values}}  "
        rest = " " * (names + values + 6)
        lines = page.wrap(each.origin, first, rest)
        yield "\n".join(lines), each


def _value(setting: Effective) -> str:
    if not setting.in_force:
        return NONE
    value = setting.value
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text + unit_of(setting.name, value)


def _differences(differences: Iterable[str], page: Page) -> Iterator[str]:
    level = "WARNING"
    for each in differences:
        first, *rest = page.wrap(f"{level} other-sizes: {each}", rest="  ")
        yield first.replace(level, click.style(level, fg="yellow", bold=True), 1)
        yield from rest
