"""Runs one piece of work, in a load process."""

from __future__ import annotations

import io
import typing as t
from collections.abc import Callable, Sequence

from flask import got_request_exception
from flask.testing import EnvironBuilder
from sqlalchemy import event

from ..engines import Guarded
from ..masking import first_line, secrets_of
from .failures import WorkFailed
from .work import Work

if t.TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIEnvironment
    from flask import Flask
    from sqlalchemy.engine import Engine

# The server itself then refuses every change, that of a function in a query too.
_READ_ONLY: t.Final = {
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "mariadb": "SET SESSION TRANSACTION READ ONLY",
    "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "sqlite": "PRAGMA query_only = ON",
}
_USER_AGENT: t.Final = "flask-pool-tune"


# Does the work once; returns the HTTP status, 0 for a query.
Deed = Callable[[], int]


def prepare(
    work: Work, app: Flask, engine: Engine, engines: Sequence[Guarded]
) -> tuple[Deed, Callable[[BaseException], str]]:
    """Return what does the work, and what describes its errors.

    :param engine: which queries go to.
    :param engines: all of the app's, whose secrets are kept.
    """

    def describe(error: BaseException) -> str:
        text = str(error)
        for each in engines:
            text = secrets_of(each.engine).hide(text)
        return f"{work}: {first_line(error, text)}"

    if work.kind == "sql":
        return _query(work, app, engine), describe
    return _request(work, app, describe), describe


def only_read(engine: Engine) -> None:
    """Let the server refuse every change on connections that are made from now on."""
    statement = _READ_ONLY.get(engine.dialect.name)
    if statement is None:
        return

    @event.listens_for(engine, "connect")
    def refuse_changes(connection: t.Any, record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()
        # Rolled back, PostgreSQL would forget it.
        connection.commit()


def _query(work: Work, app: Flask, engine: Engine) -> Deed:
    def run() -> int:
        with app.app_context(), engine.connect() as connection:
            # As written: a % is no placeholder of the driver's.
            connection = connection.execution_options(no_parameters=True)
            connection.exec_driver_sql(work.text).fetchall()
            # Leaving the block rolls back.
        return 0

    return run


def _request(work: Work, app: Flask, describe: Callable[[BaseException], str]) -> Deed:
    builder = EnvironBuilder(app, work.text, headers={"User-Agent": _USER_AGENT})
    template = builder.get_environ()
    builder.close()
    template["wsgi.multithread"] = True

    def run() -> int:
        environ = template.copy()
        environ["wsgi.input"] = io.BytesIO()
        status = _call(app, environ)
        if status >= 500:
            error = environ.get(_ERROR)
            raise WorkFailed(
                f"{work} answered {status}"
                if error is None
                else f"{work} answered {status}: {describe(error).split(': ', 1)[1]}"
            )
        return status

    return run


# In a request's environ: the error that its view raised.
_ERROR: t.Final = "flask_poolguard.tune.error"


def keep_errors(app: Flask) -> None:
    """Let the error behind a status of 500 be known."""

    @got_request_exception.connect_via(app, weak=False)
    def keep(sender: Flask, exception: BaseException, **_: t.Any) -> None:
        from flask import request

        request.environ[_ERROR] = exception


def _call(app: Flask, environ: WSGIEnvironment) -> int:
    """Serve a request as a WSGI server does, reading the whole answer (PEP 3333)."""
    statuses: list[str] = []

    def start_response(
        status: str,
        headers: list[tuple[str, str]],
        exc_info: OptExcInfo | None = None,
        /,
    ) -> Callable[[bytes], object]:
        statuses.append(status)
        return lambda data: None

    body = app(environ, start_response)
    try:
        for _ in body:
            pass
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()
    return int(statuses[-1].partition(" ")[0])
