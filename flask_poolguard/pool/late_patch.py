"""What gevent leaves as it was, when it patches threading after the guard was imported.

So does gunicorn's ``--preload -k gevent``, in each worker. A lock that was made before
stops all greenlets of the process while one of them waits for it, and a
``threading.local`` is the same for all of them. A native ``RLock`` lets all greenlets
in, so one that is never held where they switch does no harm.
"""

from __future__ import annotations

import threading
import typing as t
from collections.abc import Callable

from ..log_lines import warn

_Step = t.TypeVar("_Step", bound="Callable[[], None]")

_steps: list[Callable[[], None]] = []


class _Patch:
    """Whether it came late.

    :ivar local: ``threading.local``, as the guard's own were made from it.
    """

    def __init__(self) -> None:
        self.local = threading.local
        self._is_to_be_told = False

    def notice(self) -> None:
        """Make anew what was made before, once. To be called if ``threading.local`` is
        another than that of this object. Takes no lock, and logs nothing.
        """
        self.local = threading.local
        for step in _steps:
            step()
        self._is_to_be_told = True

    def tend(self) -> None:
        """Log it once; the housekeeper calls it."""
        if self._is_to_be_told:
            self._is_to_be_told = False
            warn(
                "patched_late",
                "gevent has patched threading after flask_poolguard was imported. The"
                " guard goes on, but a threading.local that other code made before"
                " (that of a scoped_session, for example) is the same for all"
                " greenlets, and a lock stops them all while one waits for it. Call"
                " gevent.monkey.patch_all() before anything else is imported; with"
                " gunicorn's --preload, in the first lines of its configuration file.",
            )


late_patch: t.Final = _Patch()


def after_late_patch(step: _Step) -> _Step:
    """Call a function when threading is found to be patched since the import, in the
    greenlet that finds it, before that uses anything of the guard's.
    """
    _steps.append(step)
    return step
