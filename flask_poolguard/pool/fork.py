"""What a forked child must do first, and what of its parent's it must not touch."""

from __future__ import annotations

import contextlib
import os
import typing as t
from collections.abc import Callable, Iterable

from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ..errors import SetupError
from ..log_lines import warn
from .pid import forget_pid

if t.TYPE_CHECKING:
    from sqlalchemy.pool.base import _ConnectionRecord

_Step = t.TypeVar("_Step", bound="Callable[[], None]")

# In the order of registration, which is that of the imports: lower rooms first.
_steps: list[Callable[[], None]] = [forget_pid]


def after_fork_in_child(step: _Step) -> _Step:
    """Call a function in each forked child before the child does anything else.

    Locks of the parent's are the first thing to replace: a thread that the child does
    not have may hold one. A fork that runs no hooks (uWSGI with C code) calls none of
    them; a pool finds out by the pid then. A function that raises is logged, and the
    others are called all the same.
    """
    _steps.append(step)
    return step


def _begin_child() -> None:
    for step in _steps:
        try:
            step()
        except Exception:
            warn(
                "guard_failed",
                "A step of a forked child failed: %r",
                step,
                exc_info=True,
            )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_child)

_inherited: list[object] = []


def keep_from_finalising(inherited: object) -> None:
    """Hold something of the parent's for the rest of this child's life, and beyond.

    A driver's destructor may say goodbye on the socket that the parent is still
    using (mysqlclient does), and the interpreter's end finalises all that modules
    hold. So one reference is taken that is never given back.
    """
    _inherited.append(inherited)
    with contextlib.suppress(ImportError, AttributeError):  # not CPython
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


class InheritedConnection:
    """Stands in a child for a connection that its parent had checked out.

    Ending it does nothing, so that a child can unwind what it was forked in; using
    it is an error.

    :param pid: the process that forked this one.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def rollback(self) -> None:
        """Do nothing: the transaction is the parent's."""

    def close(self) -> None:
        """Do nothing: the session is the parent's."""

    def commit(self) -> t.NoReturn:
        """Refuse.

        :raises SetupError: always.
        """
        self._refuse()

    def cursor(self, *args: object, **kwargs: object) -> t.NoReturn:
        """Refuse.

        :raises SetupError: always.
        """
        self._refuse()

    def _refuse(self) -> t.NoReturn:
        raise SetupError(
            f"This connection was taken in process {self._pid}, which goes on using"
            " it; this process was forked from it later. Take a connection of its"
            " own from the engine here, or roll the session back first."
        )


def orphan(record: ConnectionPoolEntry, fairy: PoolProxiedConnection | None) -> None:
    """Make an inherited connection unusable in a child, without a word to the server.

    :param fairy: through which it is used; None if it is not used any more.
    """
    keep_from_finalising((record, fairy, record.dbapi_connection))
    record.dbapi_connection = None  # type: ignore[misc] # declared wrongly
    if fairy is not None and fairy.is_valid:
        fairy.dbapi_connection = InheritedConnection(os.getppid())  # type: ignore[misc,assignment] # has what a child may call


def orphan_all(records: Iterable[_ConnectionRecord]) -> None:
    """Make the connections of all these records unusable, as :func:`orphan` does."""
    for record in records:
        if record.dbapi_connection is not None:
            reference = record.fairy_ref
            orphan(record, None if reference is None else reference())


def renew_listeners_locks(dispatch: t.Any) -> None:
    """Take away the locks that a pool's ``connect`` listeners have.

    SQLAlchemy's own (2.0.31 to 2.1.9), held while the first connection is set up, and
    made when that begins: by then gevent has patched threading, if it does at all.
    Without a dialect nothing sets it up.

    :param dispatch: the pool's.
    """
    for name in ("first_connect", "connect"):
        with contextlib.suppress(AttributeError):  # it has none
            listeners = getattr(dispatch, name)
            if hasattr(listeners, "_get_exec_once_mutex"):  # since 2.1
                listeners._exec_once_mutex = None
            else:
                del listeners._exec_once_mutex
