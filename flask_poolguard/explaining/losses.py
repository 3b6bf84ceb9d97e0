"""Why a connection was lost, in words."""

from __future__ import annotations

import typing as t

from ..databases import Loss
from .facts import Lost
from .wording import note, seconds

# A statement of this size may be above max_allowed_packet: 1 MB was MySQL's own default
# before 8.0 and is that of MariaDB before 10.2.4; 16 MB and 64 MB are today's.
LARGE: t.Final = 1_000_000

_GIVE_BACK: t.Final = (
    "commit and give the connection back before slow work that needs no database (end"
    " the with block, db.session.close()), and take one again after it."
)
_AGAIN: t.Final = (
    "repeat the request: the pool connects anew, and waits up to"
    " POOLGUARD_CONNECT_RETRY for a server that restarts. The server's own log says"
    " why it ended."
)


class _Why(t.NamedTuple):
    cause: str
    remedy: str
    section: str


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


def _explain(facts: Lost) -> _Why:
    """Return the first explanation that the facts bear."""
    if facts.opened_by is not None:
        return _forked(facts, facts.opened_by)
    is_down = bool(facts.trouble or facts.neighbours.gone)
    if facts.loss is Loss.OUT_OF_STEP or (facts.users and not is_down):
        return _out_of_step(facts)
    if facts.loss is not Loss.UNKNOWN:
        return _EXPLAINED[facts.loss](facts)
    if facts.largest >= LARGE:
        return _too_big(facts)
    if is_down:
        return _shut_down(facts)
    if facts.was_idle_too_long_in_transaction():
        return _idle_in_transaction(facts)
    if facts.was_idle_too_long():
        return _idle(facts)
    return _unknown(facts)


# Two at one connection --------------------------------------------------------


def _forked(facts: Lost, opener: int) -> _Why:
    return _Why(
        f"process {opener} opened it and forked this one, {facts.pid}, later; the two"
        " read each other's answers from one line.",
        "let no Session or Connection cross a fork: take one in the child, from the"
        " engine, and none while the app is imported (gunicorn --preload).",
        "packet-sequence-number-wrong",
    )


def _out_of_step(facts: Lost) -> _Why:
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
    return _Why(f"{cause}.", remedy, "packet-sequence-number-wrong")


# The server's limits ----------------------------------------------------------


def _idle(facts: Lost) -> _Why:
    limit, held = facts.limit, facts.held
    section = "2006-mysql-server-has-gone-away"
    if limit is None or limit.seconds is None:
        cause = "the server ends sessions that idle for longer than it allows"
    elif held is None or held.seconds >= limit.seconds:
        cause = (
            f"the server ends sessions that idle for longer than {limit.seconds:g} s"
            f" ({limit.source}), and this one was held for longer"
        )
    else:
        return _Why(
            "the server ended it for idling, sooner than the limit that it told when"
            f" the connection was made ({limit.source}): something has changed the"
            " session's limit since.",
            "look for a SET of the limit in the app, or set POOLGUARD_IDLE_LIMIT to"
            " the seconds that do hold.",
            section,
        )
    return _Why(f"{cause}.", _GIVE_BACK, section)


def _idle_in_transaction(facts: Lost) -> _Why:
    limit = None if facts.limit is None else facts.limit.transaction_seconds
    allowed = "it allows" if limit is None else f"{limit:g} s"
    return _Why(
        "the server ends sessions that idle within a transaction for longer than"
        f" {allowed} (idle_in_transaction_session_timeout); every statement, a SELECT"
        " too, begins a transaction that lasts until commit or rollback.",
        _GIVE_BACK,
        "idle-in-transaction",
    )


def _long_transaction(facts: Lost) -> _Why:
    return _Why(
        "the transaction took longer than the server's transaction_timeout allows.",
        "commit in smaller portions, or raise transaction_timeout for this role.",
        "idle-in-transaction",
    )


def _too_big(facts: Lost) -> _Why:
    size = f"{facts.largest / 1e6:.1f} MB"
    is_sure = facts.loss is Loss.TOO_BIG
    return _Why(
        (
            f"this statement has {size}, more than max_allowed_packet allows."
            if is_sure
            else f"most likely this statement, of {size}, is bigger than the server's"
            " max_allowed_packet: it hangs up then."
        ),
        "compare with SHOW VARIABLES LIKE 'max_allowed_packet'; send the data in"
        " portions, or raise that.",
        "2006-mysql-server-has-gone-away",
    )


# Somebody ended it ------------------------------------------------------------


def _killed(facts: Lost) -> _Why:
    return _Why(
        "somebody ended this session: KILL or pg_terminate_backend() by an"
        " administrator, or a program that ends long queries.",
        "ask who did; if it was for the time that the query takes, make that shorter."
        " The next checkout gets a new connection.",
        "2013-lost-connection-to-mysql-server-during-query",
    )


def _terminated(facts: Lost) -> _Why:
    if facts.trouble or facts.neighbours.gone:
        return _shut_down(facts)
    if facts.neighbours.quiet:
        return _killed(facts)
    return _Why(
        "an administrator ended this session (pg_terminate_backend()), or shut the"
        " server down, which its log tells.",
        _AGAIN,
        "2013-lost-connection-to-mysql-server-during-query",
    )


def _shut_down(facts: Lost) -> _Why:
    if facts.loss in (Loss.SHUT_DOWN, Loss.TERMINATED):
        cause = "the server shut down or crashed"
    else:
        cause = "the server, or the line to it, went down"
    if facts.neighbours.gone:
        cause += f": {_others(facts.neighbours.gone)} of this process ended with it"
    if facts.trouble:
        cause += f"; since then: {facts.trouble}"
    return _Why(
        f"{cause}.", _AGAIN, "2013-lost-connection-to-mysql-server-during-query"
    )


def _no_answer(facts: Lost) -> _Why:
    limit = facts.read_timeout
    length = "" if limit is None else f" of {limit:g} s"
    return _Why(
        f"the driver waited for as long as its read_timeout{length} allows, and hung"
        " up; the server may still be at work on the statement.",
        "make the statement faster, or raise read_timeout in connect_args.",
        "2013-lost-connection-to-mysql-server-during-query",
    )


def _unknown(facts: Lost) -> _Why:
    """Explain by what is left, the likeliest first, and how to tell them apart."""
    section = "2013-lost-connection-to-mysql-server-during-query"
    guesses = []
    remedy = (
        "repeat the request: the next checkout gets a new connection. If it comes"
        " back, compare the times with the logs of the server and of what lies between."
    )
    if facts.neighbours.quiet:
        what = (
            "the server closed this session only;"
            f" {_others(facts.neighbours.quiet)} of this process"
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
    return _Why(f"{what} Either {', or '.join(guesses)}.", remedy, section)


def _others(count: int) -> str:
    return "1 other connection" if count == 1 else f"{count} other connections"


def _list(texts: t.Sequence[str]) -> str:
    return " and ".join(texts)


_EXPLAINED: t.Final[dict[Loss, t.Callable[[Lost], _Why]]] = {
    Loss.IDLE: _idle,
    Loss.IDLE_IN_TRANSACTION: _idle_in_transaction,
    Loss.LONG_TRANSACTION: _long_transaction,
    Loss.KILLED: _killed,
    Loss.TERMINATED: _terminated,
    Loss.SHUT_DOWN: _shut_down,
    Loss.TOO_BIG: _too_big,
    Loss.NO_ANSWER: _no_answer,
}
