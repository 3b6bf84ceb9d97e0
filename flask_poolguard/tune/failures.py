"""Errors that end a run."""

from __future__ import annotations


class TuneError(Exception):
    """The run cannot begin, or go on; the message says why and what to do."""


class WorkFailed(Exception):
    """In a process of the load: a piece of work failed, so measuring it is senseless.

    The message is one line and tells no secret.
    """
