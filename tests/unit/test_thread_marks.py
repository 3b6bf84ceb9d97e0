"""Which threads count as those of the app."""

from __future__ import annotations

import threading

import pytest

from flask_poolguard.tracking.thread_marks import this_thread, threads_alive


@pytest.mark.parametrize(
    ("name", "more"), [("waitress-0", 1), ("poolguard-signals", 0)]
)
def test_the_guards_own_threads_are_not_counted(name: str, more: int) -> None:
    before = threads_alive()
    counted: list[int] = []

    def work() -> None:
        assert this_thread.mark.name == name.encode()
        counted.append(threads_alive())

    thread = threading.Thread(target=work, name=name)
    thread.start()
    thread.join()
    assert counted == [before + more]
    assert threads_alive() == before
