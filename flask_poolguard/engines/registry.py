"""Which engines of an app are under guard; keeps none of them alive."""

from __future__ import annotations

import dataclasses
import weakref
from dataclasses import dataclass

from sqlalchemy.engine import Engine

from ..config import Settings
from ..errors import SetupError
from ..tracking.pool_tracker import PoolTracker
from .install import Guarded

# Registered, but not looked at yet; nothing in here keeps an engine alive.
Waiting = dict[str, "weakref.ref[Engine]"]


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """What is kept of a :class:`Guarded`.

    :ivar is_registered: the app registered it; it is not a database extension's.
    """

    bind: str
    engine: weakref.ref[Engine]
    settings: Settings
    tracker: PoolTracker
    is_registered: bool

    def guarded(self) -> Guarded | None:
        """Return the engine with what is kept of it, None if it is gone."""
        engine = self.engine()
        if engine is None:
            return None
        return Guarded(self.bind, engine, self.settings, self.tracker)


class Registry:
    """The engines under guard, by their bind's name, in the order they were added.

    What is kept of an engine that is gone is dropped when another is added, and when
    the worker looks at its own findings. The caller
    sees to it that changes do not overlap; reading is safe at any time.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def all(self) -> list[Guarded]:
        """Return the engines that are not gone."""
        found = [each.guarded() for each in list(self._entries.values())]
        return [each for each in found if each is not None]

    def get(self, bind: str) -> Guarded | None:
        """Return the engine of this name, None if there is none, or it is gone."""
        entry = self._entries.get(bind)
        return None if entry is None else entry.guarded()

    def is_vacant(self, bind: str) -> bool:
        """Tell whether another engine may have this name: it has no engine, or one that
        the app registered and has disposed of, with no connection made since.
        """
        entry = self._entries.get(bind)
        if entry is None or entry.engine() is None:
            return True
        return entry.is_registered and entry.tracker.pools.is_disposed()

    def add(self, guarded: Guarded, *, is_registered: bool) -> None:
        """Keep what is known of an engine, in place of another of its name."""
        self.forget_gone()
        self.remove(guarded.bind)
        self._entries[guarded.bind] = _Entry(
            guarded.bind,
            weakref.ref(guarded.engine),
            guarded.settings,
            guarded.tracker,
            is_registered,
        )

    def update(self, guarded: Guarded) -> None:
        """Keep other settings of an engine that is kept already."""
        entry = self._entries[guarded.bind]
        self._entries[guarded.bind] = dataclasses.replace(
            entry, settings=guarded.settings
        )

    def forget_gone(self) -> None:
        """Drop what is kept of engines that are gone."""
        for entry in [each for each in self._entries.values() if not each.engine()]:
            self.remove(entry.bind)

    def remove(self, bind: str) -> None:
        """Forget an engine, and show no other process its pool any more."""
        entry = self._entries.pop(bind, None)
        if entry is not None:
            entry.tracker.hide()


def note_waiting(engine: Engine, name: str, waiting: Waiting) -> None:
    """Note an engine that is to be guarded later. Called under a lock.

    :raises SetupError: another engine has its name.
    """
    reference = waiting.get(name)
    before = None if reference is None else reference()
    if before is not None and before is not engine:
        raise taken("This PoolGuard", name)
    waiting[name] = weakref.ref(engine)


def forget_engine(
    engine: Engine | str, waiting: Waiting, guarded: Registry, where: str
) -> None:
    """Forget an engine. Called under a lock.

    :raises SetupError: it is not known, naming those that are.
    """
    known = {name: reference() for name, reference in waiting.items()}
    known |= {each.bind: each.engine for each in guarded.all()}
    names = [name for name, each in known.items() if engine in (name, each)]
    if not names:
        asked = repr(engine) if isinstance(engine, str) else f"engine {engine!r}"
        raise SetupError(
            f"{where} has no {asked} to unregister; it has"
            f" {', '.join(sorted(map(repr, known))) or 'none'}."
        )
    for name in names:
        waiting.pop(name, None)
        guarded.remove(name)


def taken(where: str, name: str) -> SetupError:
    """Return the error of a name that another engine has."""
    return SetupError(
        f"{where} has another engine under the name {name!r}. Call"
        f" unregister({name!r}) first if you are done with that one, or register this"
        " one under another name."
    )
