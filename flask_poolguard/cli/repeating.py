"""Repeats a command's output until Ctrl-C."""

from __future__ import annotations

import itertools
import time
import typing as t

import click

from .output import prints_to_terminal


def repeat(
    show: t.Callable[[], None], seconds: float, count: int | None = None
) -> None:
    """Show something, with pauses between.

    :param seconds: of each pause.
    :param count: how often; None for no end but Ctrl-C, which is no error.
    """
    try:
        for number in itertools.count(1):
            show()
            if number == count:
                return
            time.sleep(seconds)
    except KeyboardInterrupt:
        if prints_to_terminal():
            click.echo()


def begin_page(text: str) -> str:
    """Clear a terminal; where there is none, keep the pages of a file apart.

    On a terminal nothing is added: a page of its height would lose its first line.
    """
    click.clear()
    return text if prints_to_terminal() else f"{text}\n\n"
