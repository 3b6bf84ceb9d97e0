"""``instrument()``: begins to report a guard's pools, once for each meter provider."""

from __future__ import annotations

import threading
import typing as t
import weakref

from opentelemetry.metrics import MeterProvider, get_meter_provider

from ..errors import SetupError
from ..pool import after_fork_in_child
from .instruments import Apps, Instruments

if t.TYPE_CHECKING:
    from ..extension import PoolGuard


class Instrumentation:
    """What :func:`instrument` has begun; lasts whether it is kept or not."""

    def __init__(self, instruments: Instruments, apps: Apps) -> None:
        self._instruments = instruments
        self._apps = apps

    def __repr__(self) -> str:
        names = ", ".join(sorted(app.name for app in self._apps)) or "no app any more"
        return f"<Instrumentation of {names}{'' if self.is_active else ', ended'}>"

    @property
    def is_active(self) -> bool:
        """Whether the pools are reported."""
        return self._instruments.reports(self._apps)

    def uninstrument(self) -> None:
        """Report these pools no more; to call it again does nothing."""
        with _registry.lock:
            self._instruments.remove(self._apps)


def instrument(
    guard: PoolGuard, meter_provider: MeterProvider | None = None
) -> Instrumentation:
    """Report the pools of this process as OpenTelemetry's metrics.

    Of all apps of the guard, later ones too; in a forked child, those of the child. To
    call it again for the same guard changes nothing. Keeps no guard, app or engine
    alive. A collection touches no pool and asks no database.

    :param meter_provider: the global one if left out, also if that is set later.
    :raises SetupError: the guard has no app yet.
    """
    if not guard._apps:
        raise SetupError("This PoolGuard has no app yet; call init_app(app) first.")
    with _registry.lock:
        instruments = _registry.instruments_of(meter_provider)
        return Instrumentation(instruments, instruments.add(guard))


class _Registry:
    """The instruments of each meter provider.

    A provider keeps the first instrument of a name, gives that to all who ask for it
    again, and cannot drop it. So all guards share those of a provider. These live as
    long as it does, by its hold on their callbacks.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._known: weakref.WeakKeyDictionary[
            MeterProvider, weakref.ref[Instruments]
        ] = weakref.WeakKeyDictionary()
        self._global: weakref.ref[Instruments] | None = None

    def instruments_of(self, provider: MeterProvider | None) -> Instruments:
        """Return those of a provider. Called under the lock."""
        current = get_meter_provider()
        if provider is None:
            provider = current
        # What stood for the global provider hands on to the one that was set later.
        if provider is current and self._global is not None:
            found = self._global()
            if found is not None:
                return found
        reference = self._known.get(provider)
        found = None if reference is None else reference()
        if found is None:
            found = Instruments(provider)
            self._known[provider] = weakref.ref(found)
        if provider is current:
            self._global = self._known[provider]
        return found


_registry = _Registry()


@after_fork_in_child
def _after_fork_in_child() -> None:
    # Another thread of the parent's may have been instrumenting.
    _registry.lock = threading.RLock()
