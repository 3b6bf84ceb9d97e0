"""Phrases that several rules use."""

from __future__ import annotations

import typing as t
from collections import Counter

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..engines import Guarded
    from ..state.status import Holder


class Bind(t.NamedTuple):
    """A bind by its name; ``guarded`` is None where there is no app to ask."""

    bind: str
    guarded: Guarded | None


def key_of(guarded: Guarded | Bind, name: str) -> str:
    """Return the key to change for a setting: where it was set, or could be."""
    known = guarded.guarded if isinstance(guarded, Bind) else guarded
    if known is not None:
        setting = getattr(known.settings, name)
        if not setting.is_default:
            return t.cast(str, setting.origin)
    if guarded.bind == "default":
        return f"POOLGUARD_{name.upper()}"
    return f"POOLGUARD_BINDS[{guarded.bind!r}][{name!r}]"


def change_sizes(guarded: Guarded | Bind, verb: str, sizes: str) -> str:
    """Return what to do about sizes: where they are ``"auto"``, about the budget that
    they end at.

    :param verb: ``raise`` or ``lower``.
    :param sizes: the keys to change where they are numbers.
    """
    known = guarded.guarded if isinstance(guarded, Bind) else guarded
    if known is None or not known.tracker.facts.is_auto:
        return f"{verb} {sizes}"
    if known.settings.budget.value is None:
        verb = "set"
    return f"{verb} {key_of(guarded, 'budget')}, at which automatic sizes end"


def requests(count: int) -> str:
    """Return how many requests wait, in words."""
    return "1 request waits" if count == 1 else f"{count} requests wait"


def busiest(holders: Iterable[Holder]) -> str:
    """Say where most of these connections are, and which line runs there now; "" if
    that is not known of any.
    """
    where = Counter(
        (each.endpoint, each.now or each.site, each.now is not None)
        for each in holders
        if not each.kept and (each.now or each.site)
    )
    if not where:
        return ""
    (endpoint, line, is_now), count = max(
        where.items(), key=lambda each: (each[1], each[0][2])
    )
    total = where.total()
    many = (
        "it is" if total == 1 else "most are" if count * 2 > total else f"{count} are"
    )
    at = f"now at {line}" if is_now else f"taken at {line}"
    return f"{many} in {endpoint or '(unknown)'}, {at}"


def connections(count: int) -> str:
    """Return a number of connections in words."""
    return f"{count} connection" if count == 1 else f"{count} connections"


def binds(count: int) -> str:
    """Return a number of binds in words."""
    return f"{count} bind" if count == 1 else f"{count} binds"


def sessions(count: int) -> str:
    """Return a number of sessions in words."""
    return f"{count} session" if count == 1 else f"{count} sessions"


def workers(count: int) -> str:
    """Return a number of workers in words."""
    return f"{count} worker" if count == 1 else f"{count} workers"


def listed(texts: Sequence[str]) -> str:
    """Return texts as a person lists them: ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def named_workers(pids: Iterable[int]) -> str:
    """Return which workers: ``worker 12``, or ``workers 12, 13 and 14``."""
    numbers = [str(each) for each in sorted(set(pids))]
    return f"{'worker' if len(numbers) == 1 else 'workers'} {listed(numbers)}"


def named_binds(binds: Iterable[str]) -> str:
    """Return which binds: ``bind 'default'``, or ``binds 'default' and 'reports'``."""
    names = [repr(each) for each in dict.fromkeys(binds)]
    return f"{'bind' if len(names) == 1 else 'binds'} {listed(names)}"


def capitalized(text: str) -> str:
    """Return a text that begins with a capital letter, and is else as it was."""
    return text[:1].upper() + text[1:]


def line_of(holder: Holder) -> str:
    """Return who holds a connection, taken where, and what runs there now."""
    if holder.endpoint is None and holder.site is None:
        return "a connect that has not ended"
    line = f"{holder.endpoint or '(unknown)'} at {holder.site or 'an unknown line'}"
    return f"{line}, now at {holder.now}" if holder.now else line


def size_key(guarded: Guarded, name: str) -> str:
    """Return the key of ``pool_size`` or ``max_overflow``, or where that is set if the
    engine keeps its own pool.
    """
    if guarded.tracker.facts.pool_class == "GuardedPool":
        return key_of(guarded, name)
    return f"{name} of the engine of bind {guarded.bind!r}"
