"""What Flask-PoolGuard asks of a database server: one module per server family.

Adding a server is adding a module here and a line to ``_FAMILIES``. What is advised for
a server, or known of its network, stands elsewhere and has to be looked through as
well: ``urls.py`` (ports, drivers), ``tune/workload.py``, ``report/rules/``
(``network``, ``idle_sessions``, ``silent_servers``, ``aborted_sessions``),
``report/servers.py``, ``report/session_owners.py``, ``engines/discover.py``,
``engines/error_facts.py`` and ``error_notes/endings.py``.
"""

from __future__ import annotations

from .base import Database
from .labels import Label, make_label, parse_label, plain_host
from .mysql import MySQL
from .postgresql import PostgreSQL
from .sqlite import SQLite
from .types import (
    ConnectFailure,
    ConnectionLimit,
    IdleLimit,
    Loss,
    ServerSession,
    ServerView,
    SessionList,
    SessionState,
    merge_sessions,
    transaction_settings,
)
from .unknown import UnknownDatabase

__all__ = [
    "ConnectFailure",
    "ConnectionLimit",
    "Database",
    "IdleLimit",
    "Label",
    "Loss",
    "ServerSession",
    "ServerView",
    "SessionList",
    "SessionState",
    "for_dialect",
    "make_label",
    "merge_sessions",
    "parse_label",
    "plain_host",
    "transaction_settings",
]

_FAMILIES: dict[str, Database] = {
    "mysql": MySQL(),
    "mariadb": MySQL(),
    "postgresql": PostgreSQL(),
    "sqlite": SQLite(),
}


def for_dialect(dialect_name: str) -> Database:
    """Return what is known of the server family of a SQLAlchemy dialect."""
    return _FAMILIES.get(dialect_name) or UnknownDatabase(dialect_name)
