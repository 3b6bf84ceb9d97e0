"""``POOLGUARD_BUDGET = "auto"``: asks for the number that the server's limits allow.

One process of the host asks, once a minute as a rule, on a connection of its own, and
writes the answer into the budget's file, from where all take it.
"""

from __future__ import annotations

import math
import threading
import time
import typing as t
from collections.abc import Callable, Mapping

from ..databases import ServerView
from ..log_lines import warn
from . import allowance as arithmetic
from .allowance import FAILED, MOST, NO_LIMIT, Answer, allowance, pressed, renewed
from .shared_file import BudgetError

if t.TYPE_CHECKING:
    from .layout import Allowed
    from .shared_file import BudgetFile

_clock = time.monotonic

# Seconds for which a process gets along with one connection, before there is an answer.
PATIENCE: t.Final = 15.0
# Seconds after which a question is given up; the thread that asks may hang for ever.
_HANGS: t.Final = 60.0

NOT_ASKED: t.Final = "the server was not asked yet"


class ServerIsFull(Exception):
    """The server has no room for one more connection, not even to ask it."""


class CannotAsk(Exception):
    """The server is not to be asked; the message says why."""


Ask = Callable[[], "ServerView | None"]


class AutoLimit:
    """Asks for one process, in a thread that no other waits for.

    Only the budget's thread calls :meth:`tend`, so what that changes needs no lock. Of
    two questions at once, of two processes or threads, the later counts.

    :param ask: returns what the server tells, None once its engine is gone.
    :param database: that it asks in.
    :param hosts: ``POOLGUARD_BUDGET_HOSTS``.
    """

    def __init__(self, ask: Ask, database: str, hosts: int) -> None:
        self._asks, self._hosts = {database: ask}, hosts
        self._unknown_since = math.inf
        self._is_told = False
        self.forked()

    def joined(self, other: AutoLimit | None) -> AutoLimit:
        """Return this, which asks in the other's databases too; of the numbers of hosts
        the larger counts.
        """
        if other is not None:
            self._asks = {**other._asks, **self._asks}
            self._hosts = max(self._hosts, other._hosts)
        return self

    def forked(self) -> None:
        """Leave the parent's question to the parent."""
        self._asks_since = -math.inf
        # Whether it cannot be known here: no thread, or no room in the file.
        self._has_given_up = False

    def number_in(self, file: BudgetFile) -> int | None:
        """Return how many places there are; None is not known yet, which lasts for
        some seconds at most.
        """
        number = file.allowed().number
        if number:
            self._unknown_since = math.inf
            return MOST if number < 0 else min(number, MOST)
        now = _clock()
        self._unknown_since = min(self._unknown_since, now)
        if now - self._unknown_since > PATIENCE or self._has_given_up:
            self._tell(FAILED, "the server has not answered")
            return MOST
        return None

    def tend(
        self,
        file: BudgetFile,
        ours: Callable[[], int],
        then: Callable[[], None],
        is_short: bool = False,
    ) -> None:
        """Begin to ask if it is time.

        :param ours: counts the connections of all processes of this budget.
        :param then: called when there is an answer.
        :param is_short: a thread waits for a place.
        """
        allowed, now, began_at = file.allowed(), time.time(), _clock()
        pause = arithmetic.pause_after(allowed, is_short)
        if 0 <= now - allowed.asked_at < pause or began_at < self._asks_since + _HANGS:
            return
        self._asks_since = began_at
        try:
            file.write_asked(now)  # the others see that it is being asked
            threading.Thread(
                target=self._run,
                args=(file, now, ours, then),
                name="poolguard-budget-question",
                daemon=True,
            ).start()
        except (BudgetError, OSError, RuntimeError):
            self._asks_since, self._has_given_up = -math.inf, True
        except BaseException:
            self._asks_since = -math.inf
            raise

    def _run(
        self,
        file: BudgetFile,
        asked_at: float,
        ours: Callable[[], int],
        then: Callable[[], None],
    ) -> None:
        began_at = self._asks_since
        try:
            before = ours()
            answer = self._answer(before, ours)
            allowed = file.allowed()
            # Another question has begun since, and may have been answered.
            if allowed.asked_at == asked_at:
                file.write_allowed(self._allowed(allowed, before, answer))
        except (BudgetError, OSError):
            self._has_given_up = True
        finally:
            if self._asks_since == began_at:
                self._asks_since = -math.inf
            then()

    def _allowed(self, allowed: Allowed, ours: int, answer: Answer | None) -> Allowed:
        now = time.time()
        if answer is None and ours:
            return pressed(allowed, now, ours)
        if answer is None:
            answer = Answer(FAILED, 0, "the server is full, and could not be asked")
        after = renewed(allowed, now, answer)
        if after.number < 1:
            self._tell(after.number, answer.told)
        return after

    def _answer(self, before: int, ours: Callable[[], int]) -> Answer | None:
        """Ask; return None if the server is full."""
        try:
            views = self._ask()
        except ServerIsFull:
            return None
        except CannotAsk as error:
            return Answer(NO_LIMIT, 0, str(error))
        except BaseException as error:  # a driver's, or a listener's, SystemExit too
            name = type(error).__name__  # its text may show a password
            return Answer(FAILED, 0, f"the server could not be asked ({name})")
        if not views:
            return Answer(FAILED, 0, NOT_ASKED)
        # Counted before and after: one that was closed meanwhile is not another's.
        return allowance(views, max(before, ours()), self._hosts)

    def _ask(self) -> Mapping[str, ServerView]:
        asked = {database: ask() for database, ask in list(self._asks.items())}
        found = {database: view for database, view in asked.items() if view is not None}
        for database in asked.keys() - found.keys():  # their engines are gone
            self._asks.pop(database, None)
        return found

    def _tell(self, number: int, told: str) -> None:
        if not self._is_told:
            self._is_told = True
            warn(
                "budget_not_kept",
                'POOLGUARD_BUDGET = "auto" keeps no budget, because %s. It is asked'
                " again every %d s; until then pools open connections up to their"
                " sizes.",
                told,
                arithmetic.AGAIN if number == FAILED else arithmetic.PERIOD,
            )
