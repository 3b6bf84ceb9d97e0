"""Between the app and its server: missing TLS, a pooler or proxy."""

from __future__ import annotations

import ipaddress
import typing as t
from collections.abc import Iterator

from sqlalchemy.engine import URL

from ..evidence import Evidence
from ..model import Finding
from ..phrases import key_of

_POOLERS: t.Final = {
    "postgresql": ("PgBouncer, Odyssey or Pgpool-II", "client_idle_timeout"),
    "mysql": ("ProxySQL or MaxScale", "wait_timeout"),
}


def find_plain_text(evidence: Evidence) -> Iterator[Finding]:
    """Yield the binds that send everything in the clear to another machine."""
    for each in evidence.engines:
        view, hosts = evidence.view(each), remote_hosts(each.engine.url)
        if view is None or view.is_encrypted is not False or not hosts:
            continue
        options = "ssl_ca=/path/to/ca.pem"
        if each.engine.dialect.name == "postgresql":
            options = "sslmode=verify-full&sslrootcert=/path/to/ca.pem"
        yield Finding(
            "warning",
            "tls",
            f"Bind {each.bind!r} talks to {', '.join(hosts)} without TLS",
            f"Add ?{options} to its URL, and let the server refuse plain connections.",
            "Anyone on the network path can read every query and every row, and can"
            " change them.",
        )


def find_proxies(evidence: Evidence) -> Iterator[Finding]:
    """Yield the servers that something stands before which pools connections."""
    for server in evidence.answering_servers():
        view, guarded = server.view, server.binds[0]
        if not view.is_proxied:
            continue
        dialect = guarded.engine.dialect
        family = "postgresql" if dialect.name == "postgresql" else "mysql"
        products, idle_limit = _POOLERS[family]
        fix = (
            f"Set {key_of(guarded, 'idle_limit')} to the pooler's {idle_limit}, if it"
            " has one. If it pools by transaction, keep to what lives within one"
        )
        if dialect.driver == "psycopg":
            fix += ', and give the engine connect_args={"prepare_threshold": None}'
        yield Finding(
            "info",
            "proxy",
            f"A pooler ({products}) stands before {server.name}: the driver was told"
            f" session {view.handshake_id}, the server runs {view.session_id}",
            f"{fix}.",
            "Pooling by transaction loses SET, temporary tables, advisory locks and"
            " prepared statements between two transactions. The idle limit and the"
            " sizes that count are the pooler's, which cannot be asked; the server's"
            " numbers of sessions do not match those of the workers.",
        )


def remote_hosts(url: URL) -> list[str]:
    """Return the hosts of a URL that are not this machine, by their names.

    None for a Unix socket, or where the URL does not say.
    """
    if "unix_socket" in url.query:
        return []
    # libpq takes several, with a port each or without.
    hosts = [url.host or "", *map(_without_port, _values(url, "host"))]
    # To these it connects; the hosts are then no more than names of them.
    addresses = _values(url, "hostaddr")
    for asked in (hosts, addresses):
        found = [host for host in asked if host and not _is_local(host)]
        if found:
            return found
    return []


def _values(url: URL, name: str) -> list[str]:
    """Return all values of an option, which may be given twice, or be a list."""
    value = url.query.get(name, ())
    texts = (value,) if isinstance(value, str) else value
    return [each for text in texts for each in text.split(",")]


def _without_port(host: str) -> str:
    """Return a host without its port; more than one colon is an IPv6 address."""
    return host.partition(":")[0] if host.count(":") == 1 else host


def _is_local(host: str) -> bool:
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost") or name[:1] in "/@":
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:  # a name
        return False
