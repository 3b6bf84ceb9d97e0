"""A file for node_exporter's textfile collector, replaced whole or not at all.

https://github.com/prometheus/node_exporter#textfile-collector
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat


class UnwritableFile(Exception):
    """The file cannot be written; the message says which and why."""


def write(path: str, text: str) -> None:
    """Write a text to a file that every user may read (mode 0644).

    A symbolic link at this place is refused and never followed; its folder may be one.
    The text is written under another name in the same folder first, which does not end
    in ``.prom``, so that the collector never reads a part of it.

    :raises UnwritableFile: the place is taken by something else than a file, or the
        folder cannot be written to, or is full.
    """
    folder, name = os.path.split(os.path.abspath(path))
    try:
        where = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UnwritableFile(f"folder {folder}: {error.strerror}") from error
    try:
        _refuse_others(path, name, where)
        draft = f".poolguard-{secrets.token_hex(8)}.part"
        try:
            _write_new(draft, text.encode("utf-8", "replace"), where)
            # Replaces a link that has come there meanwhile, and does not follow it.
            os.replace(draft, name, src_dir_fd=where, dst_dir_fd=where)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(draft, dir_fd=where)
            raise UnwritableFile(f"{path}: {error.strerror}") from error
    finally:
        os.close(where)


def _refuse_others(path: str, name: str, where: int) -> None:
    """Refuse a place that is taken by something else than a file."""
    try:
        found = os.stat(name, dir_fd=where, follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UnwritableFile(f"{path}: {error.strerror}") from error
    if stat.S_ISLNK(found.st_mode):
        raise UnwritableFile(f"{path} is a symbolic link; name the file itself")
    if not stat.S_ISREG(found.st_mode):
        raise UnwritableFile(f"{path} is there and is not a file")


def _write_new(name: str, data: bytes, where: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=where), "wb") as file:
        # The umask does not count: the collector is another user's.
        os.fchmod(file.fileno(), 0o644)
        file.write(data)
