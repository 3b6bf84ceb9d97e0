"""Make certificates for the private servers."""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate for 127.0.0.1 that is signed by itself."""

    certificate_file: Path
    key_file: Path

    @classmethod
    def make(cls, folder: Path, account: pwd.struct_passwd | None) -> Certificate:
        """Make a certificate that is valid for a day.

        :param account: who runs the server and must own the key.
        """
        made = cls(folder / "certificate.pem", folder / "key.pem")
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-nodes", "-days", "1"),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-subj", "/CN=127.0.0.1"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", str(made.key_file), "-out", str(made.certificate_file)),
            ],
            check=True,
            capture_output=True,
        )
        made.key_file.chmod(0o600)
        if account is not None:
            os.chown(made.key_file, account.pw_uid, account.pw_gid)
        return made
