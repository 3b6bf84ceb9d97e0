"""Run the checks on every supported Python, each in an environment of its own."""

from __future__ import annotations

import nox

PYTHONS = ["3.11", "3.12", "3.13"]
# Most tests wait for a server, so more workers than cores pay off.
WORKERS = "4"

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "venv"
# A Python that is not installed shows as skipped, not as a failure.
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "types", "tests", "tests_lowest", "docs"]


def install(session: nox.Session, *groups: str) -> None:
    """Install the package and dependency groups of pyproject.toml."""
    session.install("--upgrade", "pip>=25.1")
    words = [word for group in groups for word in ("--group", group)]
    session.install("--editable", ".", *words)


def run_pytest(session: nox.Session, *options: str) -> None:
    """Run all tests but those that take minutes."""
    session.run("tools/ensure-servers", external=True)
    words = ["-m", "not soak", "-n", WORKERS, "--dist", "worksteal", "-ra", *options]
    session.run("pytest", *words, *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on the newest releases of everything."""
    install(session, "tests")
    run_pytest(session, "--all-products")


@nox.session(python=PYTHONS[0])
def tests_lowest(session: nox.Session) -> None:
    """Run the tests on the oldest supported releases."""
    install(session, "lowest")
    run_pytest(session)


@nox.session(python=PYTHONS[0])
def lint(session: nox.Session) -> None:
    """Check style, format and the direction of imports."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session(python=PYTHONS[0])
def types(session: nox.Session) -> None:
    """Check the types."""
    install(session, "dev")
    session.run("mypy")


@nox.session(python=PYTHONS[0])
def docs(session: nox.Session) -> None:
    """Build the documentation, warnings are errors."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "-b", "html", "docs", "docs/_build/html")
