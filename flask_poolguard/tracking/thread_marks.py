"""The identity of threads and greenlets, and whether they still live."""

from __future__ import annotations

import sys
import threading
import typing as t
import weakref
from collections import deque
from collections.abc import Callable, Iterable

from ..pool import after_fork_in_child, after_late_patch, late_patch
from ..state.file_format import MAX_THREAD

if t.TYPE_CHECKING:
    from flask.ctx import AppContext


class PushedScope(t.Protocol):
    """The scope of an app context, as far as this module keeps it.

    :ivar context: None once it has ended.
    """

    context: AppContext | None


# All there are, of threads that have pushed a context or taken a connection, by
# identity. This kind of table gives its values as a list in one step (valuerefs),
# even while other threads add to it.
live_marks: weakref.WeakValueDictionary[int, ThreadMark] = weakref.WeakValueDictionary()

# Those of the guard's own threads, which use no pool but for receivers of signals.
_own_marks: weakref.WeakSet[ThreadMark] = weakref.WeakSet()
_OWN: t.Final = b"poolguard-"

# Who keeps the most that there were, in a table of the same kind.
_counters: weakref.WeakValueDictionary[int, _Counter] = weakref.WeakValueDictionary()


class _Counter(t.Protocol):
    def saw_threads(self, alive: int) -> None: ...


def threads_alive() -> int:
    """Return how many threads of the app live that have a mark."""
    return len(live_marks) - len(_own_marks)


def count_threads(counter: _Counter) -> None:
    """Tell a counter, for as long as it lives, of each new mark how many live now.

    A look once a second would miss threads and greenlets that live for less.
    """
    _counters[id(counter)] = counter


class MarkRef(weakref.ref["ThreadMark"]):
    """A reference to a thread's mark; dead once the thread has ended.

    :ivar scopes: contexts that the thread has pushed outside of any WSGI call, and not
        popped yet. Weak: a context that nothing else refers to, with no connection
        out, may be collected as ever.
    """

    __slots__ = ("scopes",)

    def __init__(
        self, mark: ThreadMark, callback: Callable[[MarkRef], None] | None = None
    ) -> None:
        super().__init__(mark, callback)  # type: ignore[call-arg] # typeshed lacks it
        self.scopes: weakref.WeakSet[PushedScope] = weakref.WeakSet()


# Scopes of threads that have ended without popping their context, for whichever
# thread gives back what was taken for them.
deserted: deque[PushedScope] = deque()


def _note_end(
    mark: MarkRef, extend: Callable[[Iterable[PushedScope]], None] = deserted.extend
) -> None:
    # Runs in the middle of anything, the interpreter's end included, when this module
    # is empty already. So it does no more than this.
    extend(list(mark.scopes))


class ThreadMark:
    """A thread (or greenlet, if threading is patched), alive as long as this is.

    :ivar name: UTF-8, cut off for the state file.
    :ivar ident: the thread's number.
    :ivar greenlet: a weak reference, if the mark is a greenlet's.
    :ivar ref: a weak reference; dead once the thread has ended.
    """

    __slots__ = ("__weakref__", "greenlet", "ident", "name", "ref")

    def __init__(self) -> None:
        name = threading.current_thread().name.encode("utf-8", "replace")[:MAX_THREAD]
        self.name = name
        self.ident = threading.get_ident()
        self.greenlet: weakref.ref[t.Any] | None = None
        if "gevent" in sys.modules:
            from greenlet import getcurrent

            self.greenlet = weakref.ref(getcurrent())
        self.ref = MarkRef(self, _note_end)
        live_marks[id(self)] = self
        if name.startswith(_OWN):
            _own_marks.add(self)
        alive = threads_alive()
        for each in _counters.valuerefs():
            counter = each()
            if counter is not None:
                counter.saw_threads(alive)


class _AtFirstUse:
    """Makes a thread's mark when it is first asked for.

    The mark then hides this descriptor, which has no ``__set__``, so that later looks
    cost nothing more; with ``__getattr__`` each would take three times as long.
    """

    def __get__(self, thread: _ThisThread, owner: type[_ThisThread]) -> ThreadMark:
        if threading.local is not late_patch.local:
            late_patch.notice()
            return this_thread.mark
        mark = thread.__dict__["mark"] = ThreadMark()
        return mark


class _ThisThread:
    """With ``threading.local``, holds a thread's mark, which ends with the thread.

    :ivar mark: made when it is first asked for.
    """

    if t.TYPE_CHECKING:
        mark: ThreadMark
    else:
        mark = _AtFirstUse()

    def is_of(self, mark: ThreadMark) -> bool:
        """Tell whether a mark is this thread's, without making one."""
        return self.__dict__.get("mark") is mark


def _this_thread() -> _ThisThread:
    # Of what threading.local is by now.
    return t.cast(_ThisThread, type("_Local", (_ThisThread, threading.local), {})())


# Asked for in a module's own namespace only, where a late patch replaces it.
this_thread = _this_thread()

# Those before a late patch: with them would end what they have marked.
_replaced: list[_ThisThread] = []


@after_late_patch
def _tell_greenlets_apart() -> None:
    before, after = this_thread, _this_thread()
    _replaced.append(before)
    own = __package__.partition(".")[0]
    for name, module in list(sys.modules.items()):
        is_own = name.partition(".")[0] == own
        if is_own and vars(module).get("this_thread") is before:
            vars(module)["this_thread"] = after


# A child has none of its parent's other threads, and ends nothing of theirs.
after_fork_in_child(deserted.clear)
