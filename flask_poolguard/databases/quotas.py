"""How many connections a server has left: its limits, and who has taken them.

A server has a limit, and its users and databases may have lower ones. What asks
how much is left of a limit goes by the same head room: a tenth of it stays free, for
administrators and backups, and for the moment of a restart at which old and new workers
live side by side.

- ``POOLGUARD_BUDGET = "auto"`` is what is left besides others and head room.
- ``flask pool advise``, and the sizes that a finding of ``flask pool doctor`` names,
  divide what is left besides others and head room among all workers.
- ``flask pool tune`` takes half of what is free now, because others may want the rest
  during the run, and none of the head room.
- ``flask pool doctor`` calls a limit nearly full once its head room is in use, so never
  because of sizes that were advised. Whether pools fit at all (``budget``) is judged
  without head room: up to its limit a server refuses nothing.
"""

from __future__ import annotations

import math
import typing as t
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from .types import ConnectionLimit, ServerSession, ServerView

# Of each limit, to stay free.
HEAD_ROOM: t.Final = Fraction(1, 10)
# Of what is free, for a load run.
RUN_SHARE: t.Final = Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit on a number of connections, and who has taken them; None is unknown.

    :ivar owner: the user or database that has the limit, "" for the server.
    :ivar remedy: what raises it.
    :ivar binds: those that it limits.
    :ivar reserved: how many of ``maximum`` the app's users may not have.
    :ivar used: by all clients, now.
    :ivar of_users: of these, sessions of the users as whom the binds connect.
    :ivar sessions: those that the server shows, where they can be of several users.
    """

    scope: t.Literal["server", "user", "database"]
    owner: str
    remedy: str
    binds: tuple[str, ...]
    maximum: int
    used: int | None
    of_users: int | None
    reserved: int = 0
    sessions: tuple[ServerSession, ...] = ()

    @property
    def name(self) -> str:
        """What has the limit, for a sentence."""
        return f"{self.scope} {self.owner}" if self.owner else "the server"

    @property
    def limit(self) -> int:
        """How many connections the app's users and others may have together."""
        return self.maximum - self.reserved

    @property
    def terms(self) -> str:
        """The limit in words."""
        if not self.reserved:
            return str(self.limit)
        return f"{self.limit} ({self.maximum} less {self.reserved} reserved)"

    @property
    def head_room(self) -> int:
        """How many connections stay free, if all goes by this module."""
        return head_room(self.limit)

    @property
    def free(self) -> int | None:
        """How many connections are not in use now."""
        return None if self.used is None else max(self.limit - self.used, 0)

    @property
    def is_nearly_full(self) -> bool:
        """Whether the head room is in use: the rest is gone with the next burst."""
        return self.free is not None and self.free < self.head_room

    @property
    def for_run(self) -> int:
        """How many connections a load run may take; 0 where that is unknown."""
        free = self.free or 0
        return max(min(int(free * RUN_SHARE), free - self.head_room), 0)

    def others(
        self, ours: int | None, hosts: int = 1, *, is_planned: bool = False
    ) -> int | None:
        """Return how many connections others than the app's workers have now.

        Every host is taken to have as many of the app's as this one, but not more than
        the sessions of its users: those of other users are never the app's.

        :param ours: of the workers on this host.
        :param hosts: on which the app runs.
        :param is_planned: whether a deployment is judged that need not run here. Where
            no worker here has a connection, all of the users' count as the app's.
        """
        own = ours
        if is_planned and not ours:
            own = self.of_users
        elif ours is not None:
            own = max(ours, min(ours * hosts, self.of_users or 0))
        if self.used is None or own is None:
            return None
        return max(self.used - own, 0)

    def per_worker(self, others: int, workers: int) -> int:
        """Return how many connections each worker may have, besides the head room.

        :param others: connections that others have.
        :param workers: on all hosts, at least 1.
        """
        return max(self.limit - others - self.head_room, 0) // workers


def head_room(limit: int) -> int:
    """Return how many connections of a limit stay free: a tenth, rounded up."""
    return math.ceil(limit * HEAD_ROOM)


def quotas_of(views: Mapping[str, ServerView | None]) -> list[Quota]:
    """Return all that limits the binds of one server, the server's own limit last.

    :param views: what the server told each bind, in the order in which they asked: the
        first saw none of the other questions' sessions, so its figures count.
    """
    known = {bind: view for bind, view in views.items() if view is not None}
    limits: dict[tuple[str, str], tuple[ConnectionLimit, list[str]]] = {}
    for bind, view in known.items():
        for limit in view.limits:
            _, binds = limits.setdefault((limit.scope, limit.name), (limit, []))
            binds.append(bind)
    quotas = [_quota(known, *each) for each in limits.values()]
    first = next(iter(known.values()), None)
    if first is not None and first.max_connections is not None:
        own = ConnectionLimit(
            scope="server",
            name="",
            limit=first.max_connections,
            used=first.connections,
            remedy="the server's max_connections",
        )
        quotas.append(_quota(known, own, list(known), first.reserved or 0))
    return quotas


def why_unknown(
    views: Collection[ServerView | None], quotas: Sequence[Quota]
) -> str | None:
    """Return why it is not known what a server has left, None if it is.

    :param views: what it told all its binds.
    :param quotas: what :func:`quotas_of` made of that.
    """
    if any(view is not None and view.is_proxied for view in views):
        return "a pooler stands before the server, and its own limit is what counts"
    told_by_all = None not in views and any(each.scope == "server" for each in quotas)
    if not told_by_all or any(each.used is None for each in quotas):
        return "the server does not say how many connections it has left"
    return None


def _quota(
    views: Mapping[str, ServerView],
    limit: ConnectionLimit,
    binds: Sequence[str],
    reserved: int = 0,
) -> Quota:
    database = limit.name if limit.scope == "database" else None
    shown = () if limit.scope == "user" else views[binds[0]].sessions or ()
    return Quota(
        scope=limit.scope,
        owner=limit.name,
        remedy=limit.remedy,
        binds=tuple(binds),
        maximum=limit.limit,
        used=limit.used,
        of_users=_of_users(views, binds, database),
        reserved=reserved,
        sessions=tuple(s for s in shown if database in (None, s.database)),
    )


def _of_users(
    views: Mapping[str, ServerView], binds: Sequence[str], database: str | None
) -> int | None:
    """Count the sessions of all users as whom some binds connect.

    What one of them may not see of another, that one sees itself.

    :param database: whose sessions alone count.
    """
    asked = [views[bind] for bind in binds]
    users = {view.user for view in asked}
    if None in users or any(view.sessions is None for view in asked):
        return None
    found = {
        each.id
        for view in asked
        for each in view.sessions or ()
        if each.user in users and database in (None, each.database)
    }
    return len(found - {view.session_id for view in views.values()})
