"""Versions of drivers and servers with known faults.

Only what endangers data, lets others in or breaks a pool, and only where the project
itself says so.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterator
from dataclasses import dataclass

from ..evidence import Evidence
from ..model import Finding, Level

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Fault:
    """A fault of the releases from ``first`` to before ``fixed``."""

    product: str
    first: Version
    fixed: Version
    level: Level
    what: str
    fix: str = ""

    def has(self, product: str, version: Version) -> bool:
        return product == self.product and self.first <= version < self.fixed


# By SQLAlchemy's names of the drivers.
_DRIVERS: t.Final = {
    "pymysql": "PyMySQL",
    "mysqldb": "mysqlclient",
    "psycopg": "psycopg",
}
_DRIVER_FAULTS: t.Final = (
    # CVE-2024-36039, and PyMySQL's CHANGELOG of 1.1.1.
    _Fault(
        "PyMySQL",
        (0,),
        (1, 1, 1),
        "warning",
        "A dict given as a parameter is put into the statement with its keys as they"
        " are: with JSON of a stranger's that is SQL injection (CVE-2024-36039).",
    ),
    # "Fixed multithread safety issue in fetching row", mysqlclient's HISTORY of 2.0.1.
    _Fault(
        "mysqlclient",
        (2, 0, 0),
        (2, 0, 1),
        "critical",
        "Threads that fetch rows at the same time can crash the worker or disturb each"
        " other.",
    ),
    # "Fix possible hanging if a connection is closed while querying", #608 in the news
    # of psycopg 3.1.12.
    _Fault(
        "psycopg",
        (3,),
        (3, 1, 12),
        "warning",
        "A connection that is closed while it runs a query can hang its thread for"
        " good.",
    ),
)
_SERVER_FAULTS: t.Final = (
    # Release notes of PostgreSQL 14.4.
    _Fault(
        "PostgreSQL",
        (14, 0),
        (14, 4),
        "critical",
        "CREATE INDEX CONCURRENTLY and REINDEX CONCURRENTLY can leave rows out of the"
        " index, so that queries do not find them.",
        " Then REINDEX (without CONCURRENTLY) what was built that way.",
    ),
    # "Removed due to a critical issue that could cause data in InnoDB tables having
    # added columns to be interpreted incorrectly", release notes of MySQL 8.0.29.
    _Fault(
        "MySQL",
        (8, 0, 29),
        (8, 0, 30),
        "critical",
        "Rows of InnoDB tables with columns that were added can be read wrongly; this"
        " release was withdrawn.",
    ),
    # MySQL bug #115517, Percona PS-9306.
    *(
        _Fault(
            "MySQL",
            first,
            (*first[:2], first[2] + 1),
            "warning",
            "With some 8,000 tables or more it does not start again once it is"
            " stopped.",
        )
        for first in ((8, 0, 38), (8, 4, 1), (9, 0, 0))
    ),
)


def find_faulty_drivers(evidence: Evidence) -> Iterator[Finding]:
    """Yield the drivers in use of which a release with a known fault is installed."""
    seen = set()
    for each in evidence.engines:
        dialect = each.engine.dialect
        product = _DRIVERS.get(dialect.driver.removesuffix("_async"))
        text = str(getattr(dialect.dbapi, "__version__", ""))
        version = numbers(text)
        if product is None or product in seen or not version:
            continue
        seen.add(product)
        for fault in _DRIVER_FAULTS:
            if fault.has(product, version):
                yield Finding(
                    fault.level,
                    "driver",
                    f"{product} {text} has a known fault that is mended in"
                    f" {_text(fault.fixed)}",
                    f"pip install '{product.lower()}>={_text(fault.fixed)}'",
                    fault.what,
                )


def find_faulty_servers(evidence: Evidence) -> Iterator[Finding]:
    """Yield the servers that run a release with a known fault."""
    for server in evidence.answering_servers():
        version, product = server.view.version, server.view.product
        for fault in _SERVER_FAULTS:
            if version and fault.has(product.partition(" ")[0], version):
                yield Finding(
                    fault.level,
                    "server-version",
                    f"{server.name} runs {product}, which has a known fault that is"
                    f" mended in {_text(fault.fixed)}",
                    f"Upgrade the server to {_text(fault.fixed)} or later.{fault.fix}",
                    fault.what,
                )


def numbers(text: str) -> Version:
    """Return a release's numbers: ``2.9.13 (dt dec pq3 ext lo64)`` is (2, 9, 13)."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def _text(version: Version) -> str:
    return ".".join(map(str, version))
