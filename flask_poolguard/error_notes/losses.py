"""Notes on lost connections."""

from __future__ import annotations

import typing as t

from ..databases import Loss
from .endings import (
    BY_LOSS,
    Why,
    explain_idle,
    explain_idle_in_transaction,
    explain_outage,
    explain_size,
    others,
)
from .facts import Lost
from .wording import note, seconds

# A statement of this size may be above max_allowed_packet: by default 64 MB in MySQL 8
# and 16 MB in MariaDB, but 1 MB in older versions of both.
LARGE: t.Final = 1_000_000


def explain_loss(facts: Lost) -> str:
    """Return the note of an error that lost a connection."""
    return note(_describe(facts), *_explain(facts))


def _describe(facts: Lost) -> str:
    held = facts.held
    if held is None:
        return f"a connection of bind {facts.bind!r} was lost at {facts.site}."
    return (
        f"{held.endpoint} took this connection of bind {facts.bind!r} at {held.site},"
        f" {seconds(held.seconds)} before it was lost at {facts.site}."
    )


def _explain(facts: Lost) -> Why:
    """Return the first explanation that the facts bear."""
    if facts.opened_by is not None:
        return _forked(facts, facts.opened_by)
    is_down = bool(facts.outage or facts.neighbours.gone)
    if facts.loss is Loss.OUT_OF_STEP or (facts.users and not is_down):
        return _out_of_step(facts)
    if facts.loss is not Loss.UNKNOWN:
        return BY_LOSS[facts.loss](facts)
    if facts.largest >= LARGE:
        return explain_size(facts)
    if is_down:
        return explain_outage(facts)
    if facts.was_idle_too_long_in_transaction():
        return explain_idle_in_transaction(facts)
    if facts.was_idle_too_long():
        return explain_idle(facts)
    return _unknown(facts)


# Two at one connection --------------------------------------------------------


def _forked(facts: Lost, opener: int) -> Why:
    return Why(
        f"process {opener} opened it and forked this one, {facts.pid}, later; the two"
        " read each other's answers from one line.",
        "let no Session or Connection cross a fork: take one in the child, from the"
        " engine, and none while the app is imported (gunicorn --preload).",
        "Packet sequence number wrong",
    )


def _out_of_step(facts: Lost) -> Why:
    held, me = facts.held, f"thread {facts.thread!r}"
    remedy = (
        "give each thread a Session or Connection of its own, made within the function"
        " that the thread runs."
    )
    if facts.users:
        cause = f"{me} and {_list(facts.users)} use it at the same time"
        if held is not None and held.thread is not None:
            cause += f"; thread {held.thread!r} took it at {held.site}"
    elif held is not None and held.is_by_other:
        taker = (
            "a thread that has ended"
            if held.thread is None
            else f"thread {held.thread!r}"
        )
        cause = (
            f"{taker} took it at {held.site}, and {me} uses it at {facts.site}: two"
            " threads read each other's answers"
        )
    else:
        cause = (
            f"{me} took it and met the error, so either another thread used it at the"
            " same time (look for a Session or Connection that is global, or handed to"
            " a thread), or an exception from outside (a gevent.Timeout, a worker's"
            " time limit) struck in the middle of an answer and was caught"
        )
        remedy += (
            " After an exception from outside call invalidate() on the Session or"
            " Connection."
        )
    return Why(f"{cause}.", remedy, "Packet sequence number wrong")


# No reason was given --------------------------------------------------------------


def _unknown(facts: Lost) -> Why:
    """Explain by what is left, the likeliest first, and how to tell them apart."""
    see = "2013"
    guesses = []
    remedy = (
        "repeat the request: the next checkout gets a new connection. If it comes"
        " back, compare the times with the logs of the server and of what lies between."
    )
    if facts.neighbours.quiet:
        what = (
            "the server closed this session only;"
            f" {others(facts.neighbours.quiet)} of this process"
            f" {'is' if facts.neighbours.quiet == 1 else 'are'} well, so it runs."
        )
        guesses.append(
            "an administrator, or a program that ends long queries, ended it (KILL,"
            " pg_terminate_backend())"
        )
    else:
        what = "the line was closed without a word."
        guesses.append("the server restarted or crashed (its log tells)")
        guesses.append("an administrator ended the session (KILL)")
    if facts.read_timeout is not None:
        guesses.insert(
            0,
            f"the driver's read_timeout of {facts.read_timeout:g} s was up (then the"
            " statement took that long)",
        )
    limit = facts.limit
    if limit is not None and limit.seconds is not None:
        remedy += f" It was not for idling: the limit is {limit.seconds:g} s"
        remedy += f" ({limit.source})."
    guesses.append(
        "a proxy, balancer or firewall on the way has a time limit of its own (then it"
        " happens after about the same time each time)"
    )
    return Why(f"{what} Either {', or '.join(guesses)}.", remedy, see)


def _list(texts: t.Sequence[str]) -> str:
    return " and ".join(texts)
