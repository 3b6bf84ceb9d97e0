"""How many connections a server allows one host, and what of many answers counts.

Pure arithmetic. One answer may be wrong for a moment: sessions of a process that was
killed, or of a host that is being replaced, look like another's.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping

from ..databases import ServerView
from ..databases.quotas import Quota, head_room, quotas_of, why_unknown
from .layout import Allowed

# What a budget without a limit is reckoned with: more places than any host has use for.
MOST: t.Final = 100_000
# Instead of a number: the server tells none, or could not be asked.
NO_LIMIT: t.Final = -1
FAILED: t.Final = -2

# Seconds between two questions; where the last answer is to be confirmed, all places
# are taken, or the server could not be asked; and until it was asked.
PERIOD: t.Final = 60.0
AGAIN: t.Final = 5.0
FIRST: t.Final = 1.0

# Others count with the most that they had in this span of seconds and the one before.
SPAN: t.Final = 600


class Answer(t.NamedTuple):
    """What came of one question.

    :ivar number: of connections; or ``NO_LIMIT``, ``FAILED``.
    :ivar limits: the sum of the limits that it goes by.
    :ivar told: how the number came about, or why there is none.
    """

    number: int
    limits: int
    told: str


def allowance(views: Mapping[str, ServerView], ours: int, hosts: int) -> Answer:
    """Return how many connections one host may have.

    It is what the server, the user and the databases allow, less what is reserved, what
    others have, and the head room, divided by the hosts.

    :param views: what the server told, by database.
    :param ours: connections that the budget's processes on this host have.
    :param hosts: that share the server.
    """
    quotas = quotas_of(views)
    unknown = why_unknown(views.values(), quotas)
    if unknown is not None:
        return Answer(NO_LIMIT, 0, unknown)
    found: list[tuple[int, str]] = []
    for quota in quotas:
        others = _others(quota, ours, hosts)
        if others is None:
            told = "the server does not say whose its sessions are"
            return Answer(NO_LIMIT, 0, told)
        number = max(quota.per_worker(others, hosts), 1)
        found.append((number, _told(quota, others, hosts)))
    number, told = min(found, key=lambda each: each[0])
    return Answer(number, sum(each.limit for each in quotas), told)


def _others(quota: Quota, ours: int, hosts: int) -> int | None:
    """Count the connections of others; those of the app's users are the app's where
    it runs on several hosts, because one that just began has few to go by.
    """
    if hosts > 1 and quota.of_users is not None:
        ours = max(ours, quota.of_users)
    return quota.others(ours)


def _told(quota: Quota, others: int, hosts: int) -> str:
    less = [f"{others} of others"] if others else []
    text = f"{quota.terms} of {quota.name} less {', '.join([*less, 'a tenth'])}"
    return f"{text}, on {hosts} hosts" if hosts > 1 else text


def renewed(before: Allowed, now: float, answer: Answer) -> Allowed:
    """Return what counts after an answer.

    It is the smallest number of this span and the last, because others may want again
    what they had. In the first span after a beginning only the last two answers count:
    a deployment's old processes are others too. A number falls, or ends, and in the
    first span rises, only with the second answer in a row that says so. Other limits
    begin anew.

    :param now: seconds since 1970.
    """
    number, limits, told = answer
    span = int(now // SPAN)
    if number < 1 and before.number > 0:
        is_sure = number == NO_LIMIT and before.last == NO_LIMIT
        if not is_sure:
            return before._replace(asked_at=now, last=number)
    is_other = number < 1 or before.number < 1 or before.limits != limits
    if is_other or not before.span <= span <= before.span + 1:
        return Allowed(now, now, number, limits, span, number, number, number, 1, told)
    sure = max(number, before.last)
    if span == before.span:
        least, earlier = min(before.least, sure), before.before
    else:
        least, earlier = sure, before.least
    if now - before.began_at < SPAN:  # only the last two are kept
        low = min(number, before.last)
        least = earlier = min(max(before.number, low), sure)
    smallest = min(least, earlier)
    return before._replace(
        asked_at=now,
        number=smallest,
        span=span,
        least=least,
        before=earlier,
        last=number,
        answers=min(before.answers + 1, 2),
        told=before.told if smallest == before.number else told,
    )


def pressed(before: Allowed, now: float, ours: int) -> Allowed:
    """Return what counts if the server has no room even for a question: what this host
    has, less a tenth, but not less than half of what an answer allowed.

    :param ours: connections that the budget's processes on this host have.
    """
    floor = max(before.least // 2, 1) if before.number > 0 else 1
    number = max(ours - head_room(ours), floor)
    if 0 < before.number < number:
        number = before.number
    told = f"the server was full when this host had {ours} connections"
    # Other limits than any: the next answer begins anew.
    return before._replace(
        asked_at=now, number=number, limits=0, last=number, told=told
    )


def pause_after(allowed: Allowed, is_short: bool) -> float:
    """Return how many seconds after the last question to ask again.

    :param is_short: a thread waits for a place.
    """
    if not allowed.number:
        return FIRST
    if allowed.number < 1:
        return AGAIN if allowed.number == FAILED else PERIOD
    is_settled = allowed.answers > 1 and allowed.last >= allowed.number
    return PERIOD if is_settled and not is_short else AGAIN
