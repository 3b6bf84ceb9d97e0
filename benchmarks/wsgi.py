"""The app for servers that want it made."""

from __future__ import annotations

from benchmarks.app import create_app

app = create_app()
