"""A file that is written whole or not at all, and replaces none unasked."""

from __future__ import annotations

import os
import secrets

from .failures import TuneError


class NewFile:
    """A file to be written after the run, checked before it.

    :param replace: whether a file of that name may be replaced.
    :raises TuneError: the file exists, or cannot be written.
    """

    def __init__(self, path: str, *, replace: bool) -> None:
        self._path = path
        self._replace = replace
        if not replace and os.path.lexists(path):
            raise self._exists()
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            raise TuneError(f"{path} cannot be written: there is no folder {folder}.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise TuneError(f"{path} cannot be written: no permission in {folder}.")

    def write(self, content: bytes) -> None:
        """Write it whole or not at all.

        :raises TuneError: it cannot be written, or has appeared since the check.
        """
        # In the same folder, so that it only needs a new name.
        draft = f"{self._path}.{secrets.token_hex(4)}.part"
        try:
            try:
                with open(draft, "xb") as file:
                    file.write(content)
                if self._replace:
                    os.replace(draft, self._path)
                else:
                    os.link(draft, self._path)  # unlike a renaming it replaces nothing
            finally:
                if os.path.lexists(draft):
                    os.unlink(draft)
        except FileExistsError:
            raise self._exists() from None
        except OSError as error:
            raise TuneError(
                f"{self._path} cannot be written: {error.strerror}."
            ) from error

    def _exists(self) -> TuneError:
        return TuneError(
            f"{self._path} is there already; --force replaces it, or choose another"
            " name."
        )
