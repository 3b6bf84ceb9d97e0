"""Which budgets this process has part in."""

from __future__ import annotations

import os
import typing as t
from collections.abc import Iterable

from ..pool import after_fork_in_child
from .allowance import MOST
from .budget import Budget
from .shared_file import BudgetFile, file_name
from .standing import Standing, standing_by_server, standing_in

# Each is a few objects, and an app has few.
_by_name: dict[tuple[str | None, str], Budget] = {}


def find_budget(state_dir: str | None, parts: Iterable[object], app: str) -> Budget:
    """Return this process's budget of these parts; pools with equal ones share it.

    :param state_dir: ``POOLGUARD_STATE_DIR``.
    :param parts: what tells it from others: its name, the server, the user.
    :param app: the app's name, shown to others.
    """
    key = _key(state_dir, parts)
    return _by_name.setdefault(key, Budget(*key, app))


def find_standing(
    state_dir: str | None, parts: Iterable[t.Any], number: int | None
) -> Standing | None:
    """Return how a budget stands on this host; None if no process has used it, or its
    file cannot be trusted.

    :param number: counts if no process is there that goes by one; None for what the
        server allows. The others are as of :func:`find_budget`.
    """
    return _standing(_key(state_dir, parts), number)


def find_standing_in(state_dir: str | None, name: str) -> Standing | None:
    """Return the same of a file, by its name and by the limits that its processes go
    by; None also if there is none.

    :param state_dir: ``POOLGUARD_STATE_DIR``.
    """
    folder = None if state_dir is None else os.path.realpath(state_dir)
    standing = _standing((folder, name), 0)
    return standing if standing and 0 < (standing.limit or 0) < MOST else None


def _standing(key: tuple[str | None, str], number: int | None) -> Standing | None:
    file, budget = BudgetFile.find(*key), _by_name.get(key)
    if file is None:
        return None
    limits = [row.limit for _, row in file.rows().values()]
    own = None if budget is None else budget.own()
    if budget is not None and own is not None and own[0]:
        limits.append(budget.limit)
    if number is not None:
        return standing_in(file, max(limits, default=number), own)
    return standing_by_server(file, own)


def _key(state_dir: str | None, parts: Iterable[object]) -> tuple[str | None, str]:
    # Two ways to one file would be two budgets that both have its places.
    folder = None if state_dir is None else os.path.realpath(state_dir)
    return folder, file_name(parts)


@after_fork_in_child
def _after_fork_in_child() -> None:
    for budget in list(_by_name.values()):
        budget.forked()
