"""``POOLGUARD_BUDGET = "auto"``: the number that the server's own limits allow.

One process of the host asks once a minute, on a connection of its own, and writes the
answer into the budget's file, from where all take it.
"""

from __future__ import annotations

import logging
import threading
import time
import typing as t
from collections.abc import Callable

from ..databases import ServerView
from ..databases.quotas import Quota, head_room, quotas_of, why_unknown
from .layout import Allowed
from .shared_file import BudgetError

if t.TYPE_CHECKING:
    from .shared_file import BudgetFile

logger = logging.getLogger("flask_poolguard")

# Seconds between two questions; where the last answer is to be confirmed, or the server
# could not be asked; and until it was asked.
PERIOD = 60.0
AGAIN = 5.0
FIRST = 1.0
# What a budget without a limit is reckoned with: more places than any host has use for.
MOST: t.Final = 100_000
# Instead of a number: the server tells none, or could not be asked.
NO_LIMIT: t.Final = -1
FAILED: t.Final = -2
# For how long others count with the most that they had.
_HOUR: t.Final = 3600

NOT_ASKED: t.Final = "the server was not asked yet"


class ServerIsFull(Exception):
    """The server has no room for one more connection, not even to ask it."""


Ask = Callable[[], "ServerView | None"]


def allowance(view: ServerView, ours: int, hosts: int) -> tuple[int, int, str]:
    """Return how many connections one host may have, the sum of the limits that it goes
    by, and how the number came about; -1, and why, if it cannot be told.

    It is what the server, the user and the database allow, less what is reserved, what
    others have, and the head room, divided by the hosts.

    :param view: what the server told.
    :param ours: connections that the budget's processes on this host have.
    :param hosts: that share the server.
    """
    quotas = quotas_of({"": view})
    unknown = why_unknown([view], quotas)
    if unknown is not None:
        return NO_LIMIT, 0, unknown
    found: list[tuple[int, str]] = []
    for quota in quotas:
        others = quota.others(ours, hosts)
        if others is None:
            return NO_LIMIT, 0, "the server does not say whose its sessions are"
        number = max(quota.per_worker(others, hosts), 1)
        found.append((number, _told(quota, others, hosts)))
    number, told = min(found, key=lambda each: each[0])
    return number, sum(each.limit for each in quotas), told


def _told(quota: Quota, others: int, hosts: int) -> str:
    less = [f"{others} of others"] if others else []
    text = f"{quota.terms} of {quota.name} less {', '.join([*less, 'a tenth'])}"
    return f"{text}, on {hosts} hosts" if hosts > 1 else text


def renewed(
    before: Allowed, now: float, number: int, limits: int, told: str
) -> Allowed:
    """Return what counts after an answer: the smallest number of this hour and the
    last, because others may want again what they had. Other limits begin anew.

    A number falls only with the second answer in a row that says so: sessions of a
    process that was killed are another's for a moment.

    :param now: seconds since 1970.
    :param number: what the answer alone allows, with the limits and the reason.
    """
    hour = int(now // _HOUR)
    is_new = number < 1 or before.number < 1 or before.limits != limits
    if is_new or not 0 <= hour - before.hour <= 1:
        return Allowed(now, number, limits, hour, number, number, number, 1, told)
    sure = max(number, before.last)
    if hour == before.hour:
        least, earlier = min(before.least, sure), before.before
    else:
        least, earlier = sure, before.least
    smallest = min(least, earlier)
    if smallest == before.number:
        told = before.told
    answers = min(before.answers + 1, 2)
    return Allowed(now, smallest, limits, hour, least, earlier, number, answers, told)


def _pause(allowed: Allowed) -> float:
    if not allowed.number:
        return FIRST
    is_settled = allowed.answers > 1 and allowed.last >= allowed.number
    return PERIOD if is_settled and allowed.number != FAILED else AGAIN


class AutoLimit:
    """Asks for one process, in a thread that no other waits for.

    No lock: ``_is_open`` keeps the budget's thread, which alone calls :meth:`tend`,
    from a second question; two processes that ask at once write the same.

    :param ask: returns what the server tells, None once its engine is gone.
    :param hosts: ``POOLGUARD_BUDGET_HOSTS``.
    """

    def __init__(self, ask: Ask, hosts: int) -> None:
        self._asks, self._hosts = [ask], hosts
        self._is_open = self._is_told = False

    def joined(self, other: AutoLimit | None) -> AutoLimit:
        """Return this, which asks by the other's engine too once its own is gone; of
        the numbers of hosts the larger counts.
        """
        if other is not None:
            self._asks = [*other._asks, *self._asks]
            self._hosts = max(self._hosts, other._hosts)
        return self

    def forked(self) -> None:
        """Leave the parent's question to the parent."""
        self._is_open = False

    def number_in(self, file: BudgetFile) -> int | None:
        """Return how many places there are; None is not known yet."""
        number = file.allowed().number
        return (MOST if number < 0 else min(number, MOST)) if number else None

    def tend(
        self, file: BudgetFile, ours: Callable[[], int], then: Callable[[], None]
    ) -> None:
        """Begin to ask if it is time.

        :param ours: counts the connections of all processes of this budget.
        :param then: called when there is an answer.
        """
        allowed, now = file.allowed(), time.time()
        if self._is_open or 0 <= now - allowed.asked_at < _pause(allowed):
            return
        self._is_open = True
        try:
            # The others see that it is being asked.
            file.write_allowed(allowed._replace(asked_at=now))
            threading.Thread(
                target=self._run,
                args=(file, ours, then),
                name="poolguard-budget-question",
                daemon=True,
            ).start()
        except (BudgetError, OSError, RuntimeError):  # no thread can be started
            self._is_open = False

    def _run(
        self, file: BudgetFile, ours: Callable[[], int], then: Callable[[], None]
    ) -> None:
        try:
            allowed = file.allowed()
            number, limits, told = self._answer(allowed, ours)
            if number > 0 or allowed.number < 1:
                self._tell(number, told)
                file.write_allowed(renewed(allowed, time.time(), number, limits, told))
        except Exception:
            logger.debug("The limit of a budget could not be written", exc_info=True)
        finally:
            self._is_open = False
            then()

    def _answer(
        self, allowed: Allowed, ours: Callable[[], int]
    ) -> tuple[int, int, str]:
        before = ours()
        try:
            view = self._ask()
        except ServerIsFull:
            if allowed.number < 1:
                return FAILED, 0, "the server is full, and could not be asked"
            told = f"the server was full when this host had {before} connections"
            return max(before - head_room(before), 1), allowed.limits, told
        except Exception as error:  # a driver's, or a listener's
            logger.debug("The server could not be asked", exc_info=True)
            name = type(error).__name__  # its text may show a password
            return FAILED, 0, f"the server could not be asked ({name})"
        if view is None:
            return FAILED, 0, NOT_ASKED
        # Counted before and after: one that was closed meanwhile is not another's.
        return allowance(view, max(before, ours()), self._hosts)

    def _ask(self) -> ServerView | None:
        while self._asks:
            view = self._asks[-1]()
            if view is not None:
                return view
            self._asks.pop()  # its engine is gone
        return None

    def _tell(self, number: int, told: str) -> None:
        if number < 1 and not self._is_told:
            self._is_told = True
            logger.warning(
                'POOLGUARD_BUDGET = "auto" keeps no budget, because %s. It is asked'
                " again every %d s; until then pools open connections up to their"
                " sizes.",
                told,
                AGAIN if number == FAILED else PERIOD,
            )
