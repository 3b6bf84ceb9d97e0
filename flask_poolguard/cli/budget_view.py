"""How budgets stand, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..budget import PlaceHolder, Standing
from ..report.host_budget import holders_of
from ..report.model import Report, Server
from ..report.phrases import listed
from ..report.text import Page
from .marks import UNUSUAL, paint_first


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """One budget of this host.

    :ivar binds: those that share it.
    :ivar limit: how many connections the processes of this host may have together.
    :ivar taken: how many places of it are taken.
    :ivar holders: by which processes, those with the most first.
    """

    binds: tuple[str, ...]
    limit: int
    taken: int
    holders: tuple[PlaceHolder, ...]


def budgets_in(report: Report) -> tuple[BudgetUse, ...]:
    """Return the budgets of an app's binds, each once."""
    found: dict[str, list[Server]] = {}
    for server in report.servers:
        if server.budget is not None:
            found.setdefault(server.budget_file, []).append(server)
    return tuple(
        BudgetUse(
            binds=tuple(each.bind for each in servers),
            limit=servers[0].budget or 0,
            taken=servers[0].budget_taken or 0,
            holders=servers[0].budget_holders,
        )
        for servers in found.values()
    )


def budget_lines(budgets: Sequence[BudgetUse], app: str, page: Page) -> list[str]:
    """Return a line for each budget, with those who have most of it.

    :param app: whose workers need no name.
    """
    lines: list[str] = []
    for each in budgets:
        by = holders_of(Standing(each.limit, each.holders), app)
        text = (
            f"Budget of {listed(each.binds)}: {each.taken} of {each.limit}"
            f" taken{f' ({by})' if by else ''}"
        )
        colour = UNUSUAL if each.taken >= each.limit else None
        lines += paint_first(
            page.wrap(text, rest="  "), f"{each.taken} of {each.limit}", colour
        )
    return lines
