"""The projects whose test suites are run, each pinned to a version."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

# What every environment gets. pytest-timeout ends a test that waits for ever.
COMMON: Final = ("pytest==9.0.2", "pytest-timeout==2.4.0")
# The suites of Flask-SQLAlchemy and -Lite fail on SQLAlchemy 2.1 without a guard, too.
SQLALCHEMY: Final = "sqlalchemy==2.0.58"


@dataclass(frozen=True, slots=True)
class Project:
    """A project, and how its tests are had and run.

    :ivar package: its name in the package index.
    :ivar arguments: for pytest, from the root of the source distribution.
    :ivar minimum: tests that pass in both stock runs at least; fewer means that the
        environment or the selection is broken, and fails the run.
    :ivar extras: of the package, comma-separated.
    :ivar requirements: what else the tests import, and pins.
    :ivar git: a repository with the tests, at a tag named like the version, if the
        source distribution has none.
    :ivar pools: whether the suite makes pools that the guard replaces; a suite that
        does, but in which none was, fails the run.
    :ivar on_files: give databases in memory a file each, so that they have pools that
        the guard replaces. Tests that then fail in stock, too, tell nothing.
    """

    package: str
    version: str
    arguments: tuple[str, ...]
    minimum: int
    extras: str = ""
    requirements: tuple[str, ...] = ()
    git: str | None = None
    pools: bool = False
    on_files: bool = False

    @property
    def name(self) -> str:
        """Return what the suite is asked for by."""
        return f"{self.package}-on-files" if self.on_files else self.package

    @property
    def requirement(self) -> str:
        """Return the project itself as pip wants it."""
        extras = f"[{self.extras}]" if self.extras else ""
        return f"{self.package}{extras}=={self.version}"


_AS_THEY_ARE: Final = (
    Project(
        "flask-sqlalchemy",
        "3.1.1",
        arguments=("tests",),
        minimum=440,
        requirements=(SQLALCHEMY, "flask[async]==3.1.3"),
    ),
    Project(
        "flask-sqlalchemy-lite",
        "0.2.1",
        arguments=("tests",),
        minimum=40,
        pools=True,
        requirements=(SQLALCHEMY, "flask[async]==3.1.3", "aiosqlite"),
        # None of its source distributions (0.1.0 to 0.2.1) has the tests.
        git="https://github.com/pallets-eco/flask-sqlalchemy-lite",
    ),
    Project(
        "flask-security",
        "5.9.2",
        # The other datastores, MongoEngine and Peewee, have no SQLAlchemy pool.
        arguments=("tests", "-k", "not mongo and not peewee"),
        minimum=700,
        extras="babel,fsqla,common,mfa",
        requirements=(
            *(SQLALCHEMY, "flask[async]==3.1.3", "flask-sqlalchemy-lite==0.2.1"),
            *("authlib", "cbor2", "freezegun", "msgcheck", "requests"),
            *("sqlalchemy-utils", "zxcvbn"),
        ),
    ),
    Project(
        "flask-admin",
        "2.2.1",
        # What is left out needs a PostgreSQL server.
        arguments=(
            "flask_admin/tests/sqla",
            *("--ignore", "flask_admin/tests/sqla/test_postgres.py"),
        ),
        minimum=270,
        extras="sqlalchemy,sqlalchemy-lite,sqlalchemy-with-utils,translation,export",
        requirements=(
            *(SQLALCHEMY, "flask[async]==3.1.3", "beautifulsoup4"),
            # The next one deprecates what Flask-Admin does, which fails its tests.
            "wtforms==3.2.1",
        ),
    ),
    Project(
        "flask-appbuilder",
        "5.3.0",
        # LDAP needs a module that would have to be compiled. 99 tests fail without the
        # guard as well; a run takes 15 minutes.
        arguments=("tests", "--ignore", "tests/security/test_auth_ldap.py"),
        pools=True,
        minimum=330,
        extras="jmespath,oauth,talisman",
        requirements=(SQLALCHEMY, "flask==3.1.3", "hiro", "parameterized", "requests"),
    ),
    Project(
        "ihatemoney",
        "7.2.1",
        arguments=("ihatemoney/tests",),
        minimum=140,
        requirements=(SQLALCHEMY, "flask==3.1.3", "pytest-flask==1.3.0"),
    ),
)

# The least that passes in stock when databases in memory are files.
_ON_FILES: Final = {
    "flask-sqlalchemy": 420,
    "flask-sqlalchemy-lite": 35,
    "flask-admin": 270,
    "ihatemoney": 140,
}

PROJECTS: Final = {
    project.name: project
    for each in _AS_THEY_ARE
    for project in (
        each,
        *(
            replace(each, on_files=True, pools=True, minimum=minimum)
            for package, minimum in _ON_FILES.items()
            if package == each.package
        ),
    )
}
