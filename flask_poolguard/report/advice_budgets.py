"""What advice says of budgets: of those that are set, and of one that could be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..engines import Guarded
from .advice_model import BindAdvice
from .host_budget import is_auto
from .phrases import key_of
from .worker_shares import Share


def add_kept(
    advice: dict[str, BindAdvice],
    engines: Sequence[Guarded],
    budgets: Mapping[str, tuple[str, int]],
    workers: int,
) -> None:
    """Add how many connections the workers keep open, beside their budget.

    :param engines: that were advised on, and have one.
    :param budgets: file and limit, by bind.
    :param workers: on this host.
    """
    kept: dict[str, int] = {}
    for each in engines:
        file, _ = budgets[each.bind]
        size = (advice[each.bind].pool_size or 0) * workers
        kept[file] = kept.get(file, 0) + size
    for each in engines:
        file, limit = budgets[each.bind]
        advice[each.bind] = replace(
            advice[each.bind],
            budget=limit,
            budget_key=None if is_auto(each) else key_of(each, "budget"),
            budget_kept=kept[file],
        )


def budget_instead(
    advice: Mapping[str, BindAdvice],
    engines: Sequence[Guarded],
    shares: Sequence[Share],
) -> list[str]:
    """Return the line of a budget for the workers of a host, if what a server has left
    is too little for all that their threads could use.

    :param engines: that were advised on, and have no budget.
    """
    cut = [each.bind for each in engines if _is_cut(advice[each.bind])]
    found = [
        share.budget
        for share in shares
        if share.budget is not None and any(bind in share.binds for bind in cut)
    ]
    if not found or any(
        share.budget is None for share in shares if set(cut) & set(share.binds)
    ):
        return []
    return [str(min(found, key=lambda each: each.number))]


def _is_cut(each: BindAdvice) -> bool:
    """Tell whether a worker may have fewer connections than its threads could use."""
    if each.pool_size is None or each.max_overflow is None:
        return False
    if each.max_overflow < 0:
        return False
    return each.is_short or each.pool_size + each.max_overflow < (each.most or 0)
