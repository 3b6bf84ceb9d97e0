"""Notes on connections that the server, or an administrator, ended."""

from __future__ import annotations

import typing as t

from ..databases import Loss
from .facts import Lost

_GIVE_BACK: t.Final = (
    "commit and give the connection back before slow work that needs no database (end"
    " the with block, db.session.close()), and take one again after it."
)
_AGAIN: t.Final = (
    "repeat the request: the pool connects anew, and waits up to"
    " POOLGUARD_CONNECT_RETRY for a server that restarts. The server's own log says"
    " why it ended."
)


class Why(t.NamedTuple):
    cause: str
    remedy: str
    see: str


# The server's limits ----------------------------------------------------------


def explain_idle(facts: Lost) -> Why:
    limit, held = facts.limit, facts.held
    see = "2006"
    if limit is None or limit.seconds is None:
        cause = "the server ends sessions that idle for longer than it allows"
    elif held is None or held.seconds >= limit.seconds:
        cause = (
            f"{_likely(facts)}the server ends sessions that idle for longer than"
            f" {limit.seconds:g} s"
            f" ({limit.source}), and this one was held for longer"
        )
    else:
        return Why(
            "the server ended it for idling, sooner than the limit that it told when"
            f" the connection was made ({limit.source}): something has changed the"
            " session's limit since.",
            "look for a SET of the limit in the app, or set POOLGUARD_IDLE_LIMIT to"
            " the seconds that do hold.",
            see,
        )
    return Why(f"{cause}.", _GIVE_BACK, see)


def explain_idle_in_transaction(facts: Lost) -> Why:
    limit = None if facts.limit is None else facts.limit.transaction_seconds
    allowed = "it allows" if limit is None else f"{limit:g} s"
    return Why(
        f"{_likely(facts)}the server ends sessions that idle within a transaction for"
        " longer than"
        f" {allowed} (idle_in_transaction_session_timeout); every statement, a SELECT"
        " too, begins a transaction that lasts until commit or rollback.",
        _GIVE_BACK,
        "25P03",
    )


def _long_transaction(facts: Lost) -> Why:
    return Why(
        "the transaction took longer than the server's transaction_timeout allows.",
        "commit in smaller portions, or raise transaction_timeout for this role.",
        "25P03",
    )


def explain_size(facts: Lost) -> Why:
    size = f"{facts.largest / 1e6:.1f} MB"
    is_sure = facts.loss is Loss.TOO_BIG
    return Why(
        (
            f"this statement has {size}, more than max_allowed_packet allows."
            if is_sure
            else f"most likely this statement, of {size}, is bigger than the server's"
            " max_allowed_packet: it hangs up then."
        ),
        "compare with SHOW VARIABLES LIKE 'max_allowed_packet'; send the data in"
        " portions, or raise that.",
        "2006",
    )


# It was ended by hand ------------------------------------------------------------


def _killed(facts: Lost) -> Why:
    return Why(
        "another client ended this session: KILL or pg_terminate_backend() by an"
        " administrator, or a program that ends long queries.",
        "ask who did; if it was for the time that the query takes, make that shorter."
        " The next checkout gets a new connection.",
        "2013",
    )


def _terminated(facts: Lost) -> Why:
    if facts.outage or facts.neighbours.gone:
        return explain_outage(facts)
    if facts.neighbours.quiet:
        return _killed(facts)
    return Why(
        "an administrator ended this session (pg_terminate_backend()), or shut the"
        " server down, which its log tells.",
        _AGAIN,
        "2013",
    )


def explain_outage(facts: Lost) -> Why:
    if facts.loss in (Loss.SHUT_DOWN, Loss.TERMINATED):
        cause = "the server shut down or crashed"
    else:
        cause = "the server, or the line to it, went down"
    if facts.neighbours.gone:
        cause += f": {others(facts.neighbours.gone)} of this process ended with it"
    if facts.outage:
        cause += f"; since then: {facts.outage}"
    return Why(f"{cause}.", _AGAIN, "2013")


def _no_answer(facts: Lost) -> Why:
    limit = facts.read_timeout
    length = "" if limit is None else f" of {limit:g} s"
    return Why(
        f"the driver waited for as long as its read_timeout{length} allows, and hung"
        " up; the server may still be at work on the statement.",
        "make the statement faster, or raise read_timeout in connect_args.",
        "2013",
    )


def _likely(facts: Lost) -> str:
    return "most likely idling: " if facts.loss is Loss.UNKNOWN else ""


def others(count: int) -> str:
    return "1 other connection" if count == 1 else f"{count} other connections"


BY_LOSS: t.Final[dict[Loss, t.Callable[[Lost], Why]]] = {
    Loss.IDLE: explain_idle,
    Loss.IDLE_IN_TRANSACTION: explain_idle_in_transaction,
    Loss.LONG_TRANSACTION: _long_transaction,
    Loss.KILLED: _killed,
    Loss.TERMINATED: _terminated,
    Loss.SHUT_DOWN: explain_outage,
    Loss.TOO_BIG: explain_size,
    Loss.NO_ANSWER: _no_answer,
}
