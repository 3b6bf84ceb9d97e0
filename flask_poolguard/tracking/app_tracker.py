"""All of one app in one process: a tracker per pool, one state file."""

from __future__ import annotations

import atexit
import os
import threading
import typing as t
import weakref

from ..log_lines import warn
from ..pool import after_fork_in_child, after_late_patch, housekeeper
from ..state import visibility
from ..state.directory import StateDirError
from ..state.ended_workers import PATIENCE
from ..state.process import this_process
from ..state.recycle_requests import Inbox, number_for
from ..state.writer import NoStateFile, StateFile

if t.TYPE_CHECKING:
    from flask import Flask

    from .pool_tracker import PoolTracker

_all: weakref.WeakSet[AppTracker] = weakref.WeakSet()

# The pools of all apps, by identity, for the pytest plugin: an app may be gone before
# what it took. This kind of table gives its values in one step (valuerefs), even while
# other threads add to it.
all_trackers: weakref.WeakValueDictionary[int, PoolTracker] = (
    weakref.WeakValueDictionary()
)


class AppTracker:
    """Opens the state file with the process's first request or connection, or when a
    server is known to have started the process.

    ``_lock`` protects the change-over from no file, or from a parent's, to the
    process's own.

    :ivar threads: with how many its server serves requests, if that is known.
    :ivar shown_pid: the process that :meth:`show_worker` has shown.
    """

    def __init__(self, app: Flask, state_dir: str | None) -> None:
        self._about = app.name, app.root_path
        self.state_dir = state_dir
        self._lock = threading.RLock()
        self._file: NoStateFile | None = None
        self._has_served = self._is_started = False
        self.threads: int | None = None
        self.shown_pid = 0
        self._pid = os.getpid()
        self._inbox = Inbox()
        # Replaced as a whole, under the lock, because each scope's end goes through it.
        self.trackers: tuple[PoolTracker, ...] = ()
        _all.add(self)
        housekeeper.add(self, may_hang=True)

    @property
    def path(self) -> str | None:
        """The state file of this process, None if it has none (yet)."""
        return None if self._file is None else self._file.path or None

    @property
    def is_serving(self) -> bool:
        """Whether this process has served, or a server has started it to do so."""
        return self._pid == os.getpid() and (self._has_served or self._is_started)

    def open_file(self) -> NoStateFile:
        """Return this process's state file, or the null object if there is none."""
        trouble: StateDirError | None = None
        with self._lock:
            try:
                file = self._find_file()
            except StateDirError as error:
                trouble, file = error, NoStateFile()
                self._file = file
        housekeeper.start()  # who can be seen can be asked for something
        if trouble is not None:  # a log handler may use the database
            warn(
                "worker_not_shown",
                "Other processes cannot see this worker's pools: %s. Set"
                " POOLGUARD_STATE_DIR to a folder that only this user can"
                " write to. The app goes on.",
                trouble,
            )
        return file

    def _find_file(self) -> NoStateFile:
        """Return the file, made if there is none yet. Called under the lock.

        :raises StateDirError: there is no folder for it.
        """
        if self._pid != os.getpid():
            self.forked()
        if self._file is None and visibility.is_hidden():
            self._file = NoStateFile()
        elif self._file is None:
            self._file = StateFile(
                self.state_dir, this_process(*self._about, self.threads)
            )
            if self._has_served:
                self._file.show_served()
            elif self._is_started:
                self._file.show_started()
        return self._file

    def add(self, tracker: PoolTracker) -> None:
        """Keep a pool's tracker here for as long as its engine lives."""
        all_trackers[id(tracker)] = tracker
        with self._lock:
            if tracker not in self.trackers:
                self.trackers = (*self.trackers, tracker)

    def forget_gone(self) -> None:
        """Drop the trackers of engines that are gone."""
        gone = [each for each in self.trackers if each.is_over()]
        if not gone:
            return
        with self._lock:
            self.trackers = tuple(each for each in self.trackers if each not in gone)
        for each in gone:
            each.hide()

    def show_started(self, threads: int | None) -> None:
        """Make this process visible, which a server has started to serve the app.

        Called while the app is made, so its pools are not known yet.

        :param threads: how many are to answer requests, if that is known.
        """
        self._is_started = True
        self._note_threads(threads)
        self.open_file()

    def show_forked(self, threads: int | None) -> None:
        """Make this process visible, which a server has forked to serve the app, with
        the pools that are known.

        Starts no thread: the server has not finished with the child (gevent has not
        patched it yet). Says nothing of trouble: the first request meets it again.

        :param threads: how many are to answer requests, if that is known.
        """
        if self._pid != os.getpid():  # a fork that ran no hooks (uWSGI)
            self.forked()
        self._is_started = True
        self._note_threads(threads)
        try:
            with self._lock:
                file = self._find_file()
        except StateDirError:
            return
        for tracker in self.trackers:
            tracker.show_in(file)

    def _note_threads(self, threads: int | None) -> None:
        self.threads = threads
        for tracker in self.trackers:
            tracker.start_sizes(threads)

    def show_pools(self) -> None:
        """Make all pools visible."""
        for tracker in self.trackers:
            _ = tracker.region

    def show_worker(self) -> None:
        """Make this process visible as one that serves, with all its pools.

        Called with each request, before that uses any.
        """
        if self._pid != os.getpid():  # a fork that ran no hooks (uWSGI)
            self.forked()
        is_first = not self._has_served
        if is_first:
            self._has_served = True
            if self._file is not None:
                self._file.show_served()
                housekeeper.start()
        if is_first or self._file is None:
            self.show_pools()
        if self._file is not None:
            self.shown_pid = self._pid

    def tend(self) -> None:
        """Forget pools that are gone, and do what other processes ask of this one; the
        housekeeper calls it.
        """
        self.forget_gone()
        path = self.path
        if path is None or self._pid != os.getpid():
            return
        if self.is_serving:
            for tracker in self.trackers:
                tracker.pools.join_budget()
        request = self._inbox.look(path)
        if not request:
            return
        for tracker in self.trackers:
            number = number_for(request, tracker.facts.bind)
            if number > tracker.usage.renewed:
                tracker.renew(number)

    def forked(self) -> None:
        """Leave the parent's file and connections to the parent."""
        file, self._file = self._file, None
        self._has_served = self._is_started = False
        self.threads = None
        self._pid = os.getpid()
        if file is not None:
            file.abandon()
        for tracker in self.trackers:
            tracker.forked()

    def remove_file(self) -> None:
        """Take the file away at the end of the process."""
        if self._file is not None and self._pid == os.getpid():
            for tracker in self.trackers:  # what was counted last is kept as well
                tracker.show_last()
            self._file.remove(PATIENCE)


def app_tracker_of(tracker: PoolTracker) -> AppTracker | None:
    """Return which of this process has a tracker."""
    return next((each for each in list(_all) if tracker in each.trackers), None)


@after_fork_in_child
def _after_fork_in_child() -> None:
    for app_tracker in list(_all):
        app_tracker._lock = threading.RLock()
        app_tracker.forked()


@after_late_patch
def _renew_locks() -> None:
    for app_tracker in list(_all):
        app_tracker._lock = threading.RLock()


def _at_exit() -> None:
    for app_tracker in list(_all):
        app_tracker.remove_file()


atexit.register(_at_exit)
