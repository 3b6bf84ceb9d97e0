"""What other processes see of one pool: its part of the state file."""

from __future__ import annotations

import typing as t
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy.pool import ConnectionPoolEntry

from ..state.pool_region import PoolRegion
from ..state.writer import NoStateFile
from .checkout import Checkout, PoolInfo
from .pool_facts import PoolFacts
from .pool_figures import PoolFigures
from .pool_holders import PoolHolders

if t.TYPE_CHECKING:
    from ..databases import Database


class ShownPool(PoolHolders):
    """The checkouts of one pool, and the part of the state file that shows them.

    The change-over to another part is protected by the lock of ``figures``.

    :param open_file: opens the process's state file.
    :ivar is_hidden: its engine was unregistered: its connections are guarded as ever,
        but nothing of them is shown.
    """

    def __init__(
        self,
        info: PoolInfo,
        figures: PoolFigures,
        open_file: Callable[[], NoStateFile],
    ) -> None:
        super().__init__(info)
        self.figures = figures
        self._open_file = open_file
        self.is_hidden = False

    @property
    def database(self) -> Database:
        """What is known of the server's family."""
        return self.info.database

    @property
    def facts(self) -> PoolFacts:
        """What does not change while the pool lives."""
        return self.info.facts

    @property
    def region(self) -> PoolRegion:
        """This pool's part of the process's state file, made with the first event."""
        region = self.figures.region
        return self.show_in(self._open_file()) if region is None else region

    def show_in(self, file: NoStateFile) -> PoolRegion:
        """Return this pool's part of the state file, made if there is none yet."""
        figures = self.figures
        with figures.lock:
            region = figures.region
            if region is None:
                if self.is_hidden:
                    file = NoStateFile()
                region = PoolRegion(file, self.facts.slots(), self._lost)
                figures.show_in(region)
                region.publish()
            return region

    def show_last(self) -> None:
        """Show all that was counted, at the end of the process: no thread that has the
        lock may keep it from ending.
        """
        lock = self.figures.lock
        if lock.acquire(timeout=0.1):
            try:
                self.figures.write()
            finally:
                lock.release()

    def hide(self) -> None:
        """Show no other process this pool any more."""
        self.is_hidden = True
        self._drop_region()

    def show_again(self, facts: PoolFacts) -> None:
        """Show a pool that was hidden.

        What is out has no slot in its new part of the file, and is only counted.
        """
        self.info = replace(self.info, facts=facts)
        self.figures.facts = facts
        for checkout in list(self.out.values()):
            if facts.counted and checkout.is_listed:
                checkout.is_listed = False
                self.figures.count("unlisted_out")
        self.is_hidden = False
        self._drop_region()
        if self.figures.counts["connects"]:  # else with the first event, as ever
            _ = self.region

    def _drop_region(self) -> None:
        with self.figures.lock:
            region, self.figures.region = self.figures.region, None
            if region is not None:  # the next one begins with none
                self.figures.count("earlier_checkouts", region.checkouts)
        if region is not None:
            region.close()

    # Its connections ---------------------------------------------------------------

    def count_leak(self, checkout: Checkout) -> None:
        """Count a leak under its endpoint and line."""
        self.figures.count_leak(checkout.endpoint, checkout.site())

    def show_kept(self, checkout: Checkout) -> None:
        """Show that a connection outlives its scope on purpose."""
        if self.out.get(checkout.record) is checkout:
            mark = checkout.mark()
            name = b"" if mark is None else mark.name
            self.region.show_kept(checkout.record, checkout, name)

    def _show_connected(self, record: ConnectionPoolEntry) -> None:
        server_id = self.database.server_id(record.dbapi_connection)
        self.region.show_connected(record, -1 if server_id is None else server_id)

    def _lost(self) -> None:
        """Count a connection that was collected with its record."""
        self.figures.count("closed")
