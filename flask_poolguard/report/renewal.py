"""How far all workers are with replacing their connections, as frozen data; the names
are those of its JSON.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ..state.plain import INTERNAL, to_plain
from ..state.status import Holder
from .model import Finding

SCHEMA_VERSION: t.Final = 1

_GUARDED: t.Final = "GuardedPool"


@dataclass(frozen=True, slots=True)
class PoolRenewal:
    """How far a pool is; None is unknown.

    :ivar answered: its worker has begun to replace its connections, or has none to
        replace: it has opened none so far.
    :ivar closed: connections that were closed as unusable since the request, those that
        the app itself declared unusable meanwhile included.
    :ivar outdated: older connections that are still there, most often because
        code has them; without those that the app has detached.
    :ivar holders: who has those, longest first.
    """

    bind: str
    pool_class: str
    answered: bool
    closed: int | None
    outdated: int | None
    holders: tuple[Holder, ...]

    @property
    def is_done(self) -> bool:
        """Tell whether it hands out no older connection, and none is in use."""
        return self.answered and self.outdated == 0

    @property
    def is_unknown(self) -> bool:
        """Tell whether it will never be known to be done."""
        return self.answered and self.outdated is None

    @property
    def replaces_later(self) -> bool:
        """Tell whether idle connections stay until one is asked for."""
        return self.pool_class not in (_GUARDED, "NullPool")


@dataclass(frozen=True, slots=True)
class WorkerRenewal:
    """How far a worker is.

    :ivar ended: it has ended since the request, and its connections with it.
    :ivar problem: what keeps the request or its answer from getting through.
    :ivar is_unused: it had not used any of its pools when the request was made, so
        there is nothing to replace.
    """

    pid: int | None
    host: str
    ended: bool
    problem: str | None
    pools: tuple[PoolRenewal, ...]
    is_unused: bool = field(metadata=INTERNAL, default=False)

    @property
    def is_done(self) -> bool:
        """Tell whether it uses no older connection any more."""
        return self.ended or (
            self.problem is None
            and (self.is_unused or bool(self.pools))
            and all(pool.is_done for pool in self.pools)
        )


@dataclass(frozen=True, slots=True)
class Renewal:
    """How far all workers are.

    :ivar refused: why workers could not be looked for; None if that worked.
    :ivar left_out: why live workers may not have been told; None if all were.
    :ivar elapsed_seconds: since the request.
    """

    schema_version: int
    app: str
    host: str
    done: bool
    refused: str | None
    left_out: str | None
    elapsed_seconds: float
    workers: tuple[WorkerRenewal, ...]
    findings: tuple[Finding, ...]

    @property
    def is_final(self) -> bool:
        """Tell whether there is nothing left to wait for."""
        return self.refused is not None or all(
            each.is_done or (each.pools and all(map(_is_final, each.pools)))
            for each in self.workers
        )

    def to_dict(self) -> dict[str, t.Any]:
        """Return what ``flask pool recycle --json`` prints, before it is JSON."""
        return t.cast("dict[str, t.Any]", to_plain(self))


def _is_final(pool: PoolRenewal) -> bool:
    return pool.is_done or pool.is_unknown
