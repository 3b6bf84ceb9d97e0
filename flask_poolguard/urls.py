"""Database URLs without secrets, which may be shown."""

from __future__ import annotations

import re
import typing as t
from urllib.parse import unquote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.util import asbool

# Options whose values may be shown. Any other may be a secret: SQLAlchemy passes
# whatever stands in a URL on to the driver.
HARMLESS: t.Final = frozenset(
    (
        "application_name",
        "cache",
        "charset",
        "check_same_thread",
        "client_encoding",
        "collation",
        "connect_timeout",
        "database",
        "db",
        "dbname",
        "host",
        "mode",
        "port",
        "program_name",
        "read_timeout",
        "sslmode",
        "target_session_attrs",
        "timeout",
        "unix_socket",
        "uri",
        "user",
        "write_timeout",
    )
)
# Shorter parts of a host are not looked for in messages.
_SHORTEST_PART: t.Final = 4
# Of an option's value, neither a path nor a URL: the end of a URL whose password has
# "@" and "?" in it.
_END_OF_URL: t.Final = re.compile(r"(?![/~.])(?:(?!//).)*@[^@/\s]+/[^/@\s]*", re.S)

HOW_TO_QUOTE: t.Final = 'an "@" in the password of a database URL must be written %40'

_PORTS: t.Final = {"mysql": 3306, "postgresql": 5432}
# SQLAlchemy's, of a URL that names none.
_DRIVERS: t.Final = {"mysql": "mysqldb", "postgresql": "psycopg2"}
# The names of this machine that lead to the same server.
_LOOPBACK: t.Final = "127.0.0.1"
_LOOPBACK_NAMES: t.Final = ("localhost", _LOOPBACK, "::1")
# Those to which no host means this machine, by TCP. To libpq and libmysqlclient it is
# the socket in a folder that they were built with.
_TCP_WITHOUT_HOST: t.Final = (
    "aiomysql",
    "asyncmy",
    "mysqlconnector",
    "pg8000",
    "pymysql",
)
# Those of libmysqlclient, to which localhost means that socket as well.
_SOCKET_BY_NAME: t.Final = ("mariadbconnector", "mysqldb")
_NO_NAMES: t.Final = ("", "localhost")

# The one server that several URLs lead to: family, host or socket, port.
ServerKey = tuple[str, str, int | None]


def public_url(url: URL | str) -> str:
    """Return a URL without its password, and with harmless options only."""
    if isinstance(url, str):
        text = url
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):  # cut off, or not SQLAlchemy's
            return text.partition("?")[0].rpartition("@")[2]
    url = _as_meant(url)
    query = {name: each for name, each in url.query.items() if name in HARMLESS}
    public = URL.create(
        url.drivername, url.username, None, url.host, url.port, url.database, query
    )
    return public.render_as_string(hide_password=False)


def unquoted_tail(url: URL) -> str:
    """Return what SQLAlchemy takes for the host but is the end of the password.

    It ends the password at the first "@": one that belongs to the password must be
    quoted. Else the rest stands in the host, or, with a "/" in it, in the name of the
    database as well.

    :returns: nothing for a URL that is as it should be.
    """
    if not url.host or url.password is None:
        return ""
    return _place(url).rpartition("@")[0]


def parts_taken_for_a_place(url: URL) -> list[str]:
    """Return the parts of a password that a driver may repeat as host or database."""
    if not unquoted_tail(url):
        return []
    host, database = url.host or "", url.database or ""
    found = [f"{each.rpartition('@')[0]}@" for each in (host, database) if "@" in each]
    if "@" in _place(url).removeprefix(host) or not _as_meant(url).host:
        parts = (host, host.rpartition("@")[2])  # all of it
        found += [each for each in parts if len(each) >= _SHORTEST_PART]
    return found


def _as_meant(url: URL) -> URL:
    """Return a URL without the end of its password in its host."""
    tail = unquoted_tail(url)
    if not tail:
        return url
    query = {} if _rest_in_query(url) else url.query
    meant = URL.create(url.drivername, url.username, query=query)
    try:
        place = make_url(f"x://{_place(url).removeprefix(f'{tail}@')}")
    except ValueError:  # it has no number for its port
        return meant
    if place.database is None:  # the end may be lost: ?x@db.test/shop is no option
        return meant
    return meant.set(host=place.host, port=place.port, database=place.database)


def _place(url: URL) -> str:
    """Return host, port and database as they stand in a URL, and options of it that
    are none.
    """
    port = "" if url.port is None else f":{url.port}"
    database = "" if url.database is None else f"/{url.database}"
    return f"{url.host}{port}{database}{_rest_in_query(url)}"


def _rest_in_query(url: URL) -> str:
    """Return what SQLAlchemy takes for options, but is the end of the password and what
    follows; "" if these are options.
    """
    if not url.host or url.database is not None:
        return ""
    unknown = (each for name, each in url.query.items() if name not in HARMLESS)
    if not any(
        isinstance(each, str) and _END_OF_URL.fullmatch(each) for each in unknown
    ):
        return ""
    return "?" + "&".join(f"{name}={each}" for name, each in url.query.items())


def server_key(url: URL | str) -> ServerKey | None:
    """Return what tells one server from another, None if the URL does not say.

    A URL without a host may stand for a ``creator`` that goes anywhere.
    """
    if isinstance(url, str):
        try:
            url = make_url(url)
        except (ArgumentError, ValueError):
            return None
    url = _as_meant(url)
    family = url.get_backend_name().replace("mariadb", "mysql")
    if family == "sqlite":
        return None
    driver = url.drivername.partition("+")[2] or _DRIVERS.get(family, "")
    host, port = _mysql_address(url, driver) if family == "mysql" else _address(url)
    if not host and url.port and driver in _TCP_WITHOUT_HOST:
        host = _LOOPBACK
    if not host:
        return None
    if host.startswith("/"):  # a socket, or the folder of PostgreSQL's
        return family, host, None if family == "mysql" else port or _PORTS.get(family)
    if driver in _SOCKET_BY_NAME and host.lower() == "localhost":
        return family, "localhost", None
    host = _LOOPBACK if host.lower() in _LOOPBACK_NAMES else host.lower()
    return family, host, port or _PORTS.get(family)


def database_key(url: str) -> tuple[object, ...]:
    """Return what tells one database from another, apart from user and options."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # cut off, or not SQLAlchemy's
        return (url,)
    return (server_key(parsed), parsed.get_backend_name(), parsed.database)


def _mysql_address(url: URL, driver: str) -> tuple[str, int | None]:
    """Return a host or a socket; libmysqlclient takes the latter for localhost only."""
    socket = _option(url, "unix_socket")
    host = url.host or _option(url, "host")
    goes_by_host = driver in _SOCKET_BY_NAME and host.lower() not in _NO_NAMES
    return (socket, None) if socket and not goes_by_host else (host, url.port)


def _address(url: URL) -> tuple[str, int | None]:
    """Return host and port, as options may have them: ``?host=db:5433``."""
    host = _option(url, "host") or url.host or ""
    name, _, end = host.partition(":")
    if end.isdecimal():  # else it is an IPv6 address, or has no port
        return name, int(end)
    port = _option(url, "port")
    return host, int(port) if port.isdecimal() else url.port


def _option(url: URL, name: str) -> str:
    """Return an option's value, "" if it has none or several."""
    value = url.query.get(name, "")
    return value if isinstance(value, str) else ""


def is_in_memory(url: URL) -> bool:
    """Tell whether a database is SQLite's and gone with its last connection.

    Which names SQLite keeps in memory: https://sqlite.org/inmemorydb.html, and
    https://sqlite.org/uri.html for those of the form ``file:…``, which SQLAlchemy
    takes for names of files without ``uri=true``.
    """
    if url.get_backend_name() != "sqlite":
        return False
    name = url.database or ""
    if name in ("", ":memory:"):
        return True
    query = {key: values[-1] for key, values in url.normalized_query.items()}
    if not name.startswith("file:") or not _is_true(query.get("uri", "")):
        return False
    path = unquote(name.removeprefix("file:").partition("#")[0])
    return (
        path in ("", ":memory:")
        or query.get("mode") == "memory"
        or query.get("vfs") == "memdb"
    )


def is_of_one_place(url: str) -> bool:
    """Tell whether a URL means the same database in every process of this host.

    :param url: as :func:`public_url` returns it.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return False
    if parsed.get_backend_name() != "sqlite":
        return True
    name = (parsed.database or "").removeprefix("file:")
    return name.startswith("/") and not is_in_memory(parsed)


def _is_true(text: str) -> bool:
    try:
        return asbool(text)
    except ValueError:  # the driver's dialect refuses it as well
        return False
