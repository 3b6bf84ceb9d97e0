"""Answers a pool's questions about who has its connections."""

from __future__ import annotations

import time
import typing as t
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy.pool import ConnectionPoolEntry

from ..errors import PoolTimeout
from ..pool import Claim, Holders
from .checkout import PoolCheckouts
from .claims import ScopeClaim
from .deadlocks import describe_holders, find_deadlock

_monotonic = time.monotonic


class PoolHolders(PoolCheckouts, Holders):
    """The checkouts of one pool, as far as the pool itself asks for them."""

    def find_deadlock(
        self,
        claim: Claim,
        waiting: Callable[[], Sequence[Claim]],
        opened: int,
        owns: Callable[[ConnectionPoolEntry], bool],
    ) -> tuple[Claim, PoolTimeout] | None:
        """Tell who is to give way, if all that have a connection wait."""
        claims = t.cast("Callable[[], Sequence[ScopeClaim]]", waiting)
        return find_deadlock(self, t.cast(ScopeClaim, claim), claims, opened, owns)

    def sessions_out(self) -> Sequence[int]:
        """Return the server's numbers of the sessions that are out."""
        ids = [
            self.info.database.server_id(record.dbapi_connection)
            for record in [each.record for each in list(self.out.values())]
        ]
        return [each for each in ids if each is not None]

    def held_seconds(self) -> Sequence[float]:
        """Return for how long each connection that is out has been out."""
        now = _monotonic()
        return [now - each.taken_at for each in list(self.out.values())]

    def describe_holders(self, states: Mapping[int, str]) -> str:
        """Say who has the connections, and what they do with them."""
        return describe_holders(self, states)
