"""What a driver is given when it connects: a time limit, and a label.

SQLAlchemy calls the dialect's ``connect`` last, with what all ``do_connect`` listeners
have left of the arguments. It is wrapped, so no listener sees what the guard adds, and
the arguments that SQLAlchemy 2.0 passes again with the next connect stay the user's.
"""

from __future__ import annotations

import math
import threading
import time
import typing as t
import weakref

from sqlalchemy import event
from sqlalchemy.engine import Dialect, Engine
from sqlalchemy.pool import ConnectionPoolEntry

from ..databases import Database, for_dialect
from ..log_lines import debug
from ..masking import Secrets, secrets_of
from ..pool import UnpooledEntry, after_late_patch

_clock = time.monotonic

# Others may not know the argument, or mean something else by it.
_TAKE_CONNECT_TIMEOUT: t.Final = frozenset(
    {"mysqldb", "psycopg", "psycopg2", "pymysql"}
)

# On a dialect, which an engine keeps for life: its connect is wrapped already.
_WRAPPED: t.Final = "_poolguard_connecting"

# PyMySQL's arguments, which its connection keeps in private attributes.
_LIMITS: t.Final = ("read_timeout", "write_timeout")

_all: weakref.WeakSet[_Connecting] = weakref.WeakSet()


def prepare(engine: Engine, connect_timeout: float | None, app: str | None) -> None:
    """Let the engine's connects end in time, and carry a label.

    A ``creator`` of the user's, or a ``do_connect`` listener that returns a connection
    of its own, connects as it likes, without either.

    :param connect_timeout: seconds; None leaves the limit to the driver.
    :param app: the app's name; None for no label.
    """
    dialect = engine.dialect
    wrapper = dialect.__dict__.get(_WRAPPED)
    if wrapper is None:
        wrapper = dialect.__dict__[_WRAPPED] = _Connecting(dialect, secrets_of(engine))
        dialect.connect = wrapper.connect  # type: ignore[method-assign] # for this engine
        event.listen(engine, "do_connect", wrapper.note_record, insert=True)
        if dialect.driver == "pymysql":
            event.listen(engine, "connect", wrapper.note_limit, insert=True)
    wrapper.connect_timeout, wrapper.app = connect_timeout, app


def read_timeout_of(dialect: Dialect) -> float | None:
    """Return the seconds that the user lets PyMySQL wait for an answer, None if he
    set none, or it is not known yet.
    """
    wrapper = dialect.__dict__.get(_WRAPPED)
    return None if wrapper is None else t.cast(_Connecting, wrapper).read_timeout


def carries_label(dialect: Dialect) -> bool:
    """Tell whether this process's last connect carried a label of ours."""
    wrapper = dialect.__dict__.get(_WRAPPED)
    return wrapper is not None and t.cast(_Connecting, wrapper).has_labelled


class _Connecting:
    """Connects in place of one dialect, through ``engine.dispose()``.

    :ivar read_timeout: the driver's, if the user set one, in seconds.
    :ivar has_labelled: whether the last connect carried a label of ours.
    """

    def __init__(self, dialect: Dialect, secrets: Secrets) -> None:
        self._dialect, self._secrets = dialect, secrets
        self._connect = dialect.connect
        self._database: Database = for_dialect(dialect.name)
        self._note_anew()
        _all.add(self)
        self.connect_timeout: float | None = None
        self.app: str | None = None
        self.read_timeout: float | None = None
        self.has_labelled = False

    def _note_anew(self) -> None:
        # The record that the calling thread (or greenlet) connects for.
        self._noted = threading.local()

    def note_record(
        self,
        dialect: Dialect,
        record: ConnectionPoolEntry,
        arguments: list[t.Any],
        keywords: dict[str, t.Any],
    ) -> None:
        """Note what the pool connects for, which :meth:`connect` is not told."""
        self._noted.record = record

    def connect(self, *arguments: t.Any, **keywords: t.Any) -> t.Any:
        """Connect with what the user did not set himself added."""
        record = getattr(self._noted, "record", None)
        self._noted.record = None
        self.read_timeout = keywords.get("read_timeout")
        try:
            self._secrets.note(arguments, keywords)
        except Exception:  # some mapping of the user's; its driver may read it
            debug("not_known", "What a connect is given could not be read")
        self._add_label(keywords)
        added = self._add_limits(keywords, record)
        connection = self._connect(*arguments, **keywords)
        # Who asks on a connection of the guard's own is not to wait without end.
        if not isinstance(record, UnpooledEntry):
            _lift(added, connection)
        return connection

    def note_limit(self, connection: t.Any, record: ConnectionPoolEntry) -> None:
        """Note the limit of a connection that a listener may have made, in a private
        attribute that is the same in PyMySQL 1.1 and 1.2.
        """
        self.read_timeout = getattr(connection, "_read_timeout", None)

    def _add_label(self, keywords: dict[str, t.Any]) -> None:
        given = dict(keywords)
        if self.app is not None:
            self._database.label_connect(keywords, self._dialect.driver, self.app)
        self.has_labelled = keywords != given

    def _add_limits(
        self, keywords: dict[str, t.Any], record: ConnectionPoolEntry | None
    ) -> list[str]:
        """Add time limits; return those that are for the handshake only.

        PyMySQL's connect_timeout ends with the TCP connect: a proxy that has lost its
        server, or a machine that hangs, would be waited for without end.
        """
        driver = self._dialect.driver
        if self.connect_timeout is None or driver not in _TAKE_CONNECT_TIMEOUT:
            return []
        left = _deadline_of(record) - _clock()
        self._database.limit_connect(keywords, driver, self.connect_timeout, left)
        seconds = keywords.get("connect_timeout")
        if driver != "pymysql" or not seconds:
            return []
        added = [name for name in _LIMITS if name not in keywords]
        keywords.update(dict.fromkeys(added, seconds))
        return added


@after_late_patch
def _note_anew() -> None:
    for each in list(_all):
        each._note_anew()


def _deadline_of(record: ConnectionPoolEntry | None) -> float:
    """Return when the checkout gives up, which a record of the guard's own pool knows.

    One that connects no more was left noted by a listener with a connection of its own.
    """
    if not getattr(record, "is_connecting", False):
        return math.inf
    return t.cast(float, getattr(record, "connect_until", math.inf))


def _lift(limits: list[str], connection: t.Any) -> None:
    """Let statements take their time, which connect listeners send too.

    The attributes are private, but the same in PyMySQL 1.1 and 1.2.
    """
    for name in limits:
        if hasattr(connection, f"_{name}"):
            setattr(connection, f"_{name}", None)
