"""What tests may ask of a private database server, whatever its product."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import uuid
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import URL

from tests.support.private_server import PrivateServer, ServerError
from tests.support.processes import account_arguments
from tests.support.templates import copy_template
from tests.support.waiting import wait_until

# The account of the apps under test. The password is one that no other text
# contains, so that a test can search for it.
APP_USER = "app"
APP_PASSWORD = "s3cret-pw"

# Statements that other tests would notice.
CONCERNS_ALL = re.compile(
    r"(ALTER|CREATE|DROP) (SYSTEM|ROLE|USER)\b(?!.* IN DATABASE )"
    r"|SET GLOBAL|(GRANT|REVOKE) .* ON \*\.\*",
    re.IGNORECASE,
)


class DatabaseServer(PrivateServer):
    """Run a private server and look at it as its administrator."""

    default_driver: ClassVar[str]
    admin_user: ClassVar[str]

    def __init__(
        self,
        *,
        tls: bool = False,
        bin_dir: Path | None = None,
        **settings: str | int,
    ) -> None:
        """Prepare a server; nothing happens before `start`."""
        super().__init__(tls=tls, bin_dir=bin_dir, **settings)
        # Databases that were lent before and are as new.
        self._stock: list[str] = []

    def url(
        self,
        *,
        database: str | None = None,
        drivername: str | None = None,
        user: str = APP_USER,
        password: str | None = APP_PASSWORD,
        **query: str,
    ) -> URL:
        """Return the address of a database, by default for the app's account."""
        return URL.create(
            drivername or self.default_driver,
            username=user,
            password=password,
            host="127.0.0.1",
            port=self.port,
            database=database,
            query=query,
        )

    def create_database(self) -> str:
        """Create an empty database that the app's account owns; return its name."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._create_database(name)
        return name

    def drop_database(self, name: str) -> None:
        """End the sessions of a database and remove it."""
        for session_id in self.session_ids(user="", database=name):
            with contextlib.suppress(TimeoutError):
                self.kill_session(session_id)
        self._drop_database(name)

    def lend_database(self) -> str:
        """Return the name of an empty database that the app's account owns."""
        return self._stock.pop() if self._stock else self.create_database()

    def take_back_database(self, name: str) -> None:
        """Keep a lent database for the next test, or drop it if it was changed."""
        if self._is_as_new(name):
            self._stock.append(name)
        else:
            self.drop_database(name)

    def execute(self, sql: str, *, database: str | None = None) -> None:
        """Run a statement as administrator, in a session of its own."""
        if CONCERNS_ALL.match(sql):
            self._must_be_ours()
        self._run(sql, database)

    def query(self, sql: str, *, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run a query as administrator, in a session of its own."""
        return self._run(sql, database)

    def kill_session(self, session_id: int) -> None:
        """End a session from the server's side and wait until it is gone."""
        self._kill_session(session_id)
        wait_until(
            lambda: session_id not in self.session_ids(user=""),
            what=f"the end of session {session_id} of {self.product}",
        )

    @abstractmethod
    def session_ids(
        self, *, user: str = APP_USER, database: str | None = None
    ) -> set[int]:
        """Return the ids of client sessions other than the one that asks.

        :param user: whose sessions, empty for everybody's.
        :param database: in which database, None for all.
        """

    @abstractmethod
    def tls_query(self) -> dict[str, str]:
        """Return what a URL needs so that the driver checks the certificate."""

    def _ask(self) -> None:
        self.query("SELECT 1")

    def _copy_template(self, program: str, command: list[str], made: Path) -> None:
        """Copy the first state of the data, which a command makes once.

        :param program: the path that tells one version's data from another's.
        :param made: the folder that the command makes.
        """
        account = self._account()

        def make(folder: Path) -> None:
            # Made where the account may write, moved to where it may not.
            result = subprocess.run(
                command,
                capture_output=True,
                text=True,
                cwd=self.folder,
                check=False,
                **account_arguments(account),
            )
            if result.returncode:
                raise ServerError(
                    f"{command[0]} failed:\n{result.stdout}{result.stderr}"
                )
            subprocess.run(["cp", "-Rp", str(made), str(folder)], check=True)
            shutil.rmtree(made)

        name = program.strip("/").replace("/", "-")
        copy_template(name, make, self.folder / "data")

    # What each product does its own way

    @abstractmethod
    def _run(self, sql: str, database: str | None) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    def _create_database(self, name: str) -> None: ...

    @abstractmethod
    def _drop_database(self, name: str) -> None: ...

    @abstractmethod
    def _is_as_new(self, name: str) -> bool:
        """Tell whether a database is as it was created, emptying it if that is cheap.

        One with sessions is not: their end would be counted after that.
        """

    @abstractmethod
    def _kill_session(self, session_id: int) -> None: ...
