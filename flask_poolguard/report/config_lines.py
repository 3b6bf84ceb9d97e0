"""Lines of configuration that set recommended sizes."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping, Sequence

from ..config import PREFIX
from ..engines import Guarded

_BINDS: t.Final = f"{PREFIX}BINDS"


def lines_to_write(
    engines: Sequence[Guarded],
    sizes: Mapping[str, Mapping[str, int]],
    config: Mapping[str, t.Any],
) -> tuple[str, ...]:
    """Return the lines that change settings, each where its value came from.

    A key of the guard's that contradicts an option of the engine is an error, so what
    was given to the engine must be changed there. An app-wide key reaches all binds,
    so where there are several they are set one by one.

    :param sizes: by bind and name of the setting.
    :param config: ``app.config``; what it has in ``POOLGUARD_BINDS`` stays.
    """
    lines = []
    by_bind: dict[str, dict[str, t.Any]] = {
        "default" if bind is None else bind: dict(values)
        for bind, values in (config.get(_BINDS) or {}).items()
    }
    is_changed = False
    for each in engines:
        for name, value in sizes.get(each.bind, {}).items():
            setting = getattr(each.settings, name)
            if setting.value == value:
                continue
            if setting.origin.startswith(f"{_BINDS}["):
                by_bind[each.bind][name] = value
                is_changed = True
            elif not setting.is_default and not setting.origin.startswith(PREFIX):
                lines.append(_of_engine(setting.origin, value))
            elif len(engines) == 1:
                lines.append(f"{PREFIX}{name.upper()} = {value}")
            else:
                by_bind.setdefault(each.bind, {})[name] = value
                is_changed = True
    if is_changed:
        lines.append(f"{_BINDS} = {by_bind!r}")
    return tuple(lines)


def _of_engine(origin: str, value: int) -> str:
    """Return the line for an option that was given to the engine itself."""
    if origin.startswith("create_engine("):
        return origin.replace("…", str(value))
    return f"{origin} = {value}"
