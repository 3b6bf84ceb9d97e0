"""The pytest plugin: names tests that leak; fixtures that probe and break pools.

Loaded in each run of pytest where the package is installed, so it imports nothing
before that is needed.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterator

import pytest

from .testing.leak_watch import MODES, LeakWatch

if t.TYPE_CHECKING:
    from .testing.faults import PoolFaults
    from .testing.probe import OpenProbe


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option."""
    parser.addini(
        "poolguard_leaks",
        "what a test does that leaves a database connection out or a session open:"
        " 'warn' names it in the summary, 'error' fails it, 'off' does neither",
        default="warn",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin to watch, unless that is off.

    :raises pytest.UsageError: the ini option has another value.
    """
    config.addinivalue_line(
        "markers",
        "allow_leak: may leave a database connection out or a session open",
    )
    mode = str(config.getini("poolguard_leaks")).strip()
    if mode not in MODES:
        raise pytest.UsageError(
            f"poolguard_leaks must be one of {', '.join(MODES)}; not {mode!r}"
        )
    if mode != "off":
        config.pluginmanager.register(LeakWatch(mode), "poolguard-leaks")


@pytest.fixture
def pool_probe() -> OpenProbe:
    """Count what a block takes from its pools: ``with pool_probe(app) as probe:``."""
    from .testing.probe import open_probe

    return open_probe


@pytest.fixture
def pool_faults() -> Iterator[PoolFaults]:
    """Break connections of a guarded app on demand, until the end of the test."""
    from .testing.faults import PoolFaults

    faults = PoolFaults()
    yield faults
    faults.undo()
