"""Async views: their event loop runs in a thread of its own."""

from __future__ import annotations

import functools
import typing as t

from .thread_marks import this_thread

if t.TYPE_CHECKING:
    from flask import Flask


def count_async_views_as_requests(app: Flask) -> None:
    """Let the thread of an async view's event loop count as the request's own."""
    original = app.async_to_sync

    @functools.wraps(original)
    def async_to_sync(func: t.Any) -> t.Callable[..., t.Any]:
        @functools.wraps(func)
        def call(*args: t.Any, **kwargs: t.Any) -> t.Any:
            mark = this_thread.mark

            async def on_behalf() -> t.Any:
                before, this_thread.mark = this_thread.mark, mark
                try:
                    return await func(*args, **kwargs)
                finally:
                    this_thread.mark = before

            return original(on_behalf)()

        return call

    app.async_to_sync = async_to_sync  # type: ignore[method-assign] # of this app only
