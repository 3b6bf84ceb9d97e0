"""A library's lending desk: a small Flask app that runs under Flask-PoolGuard.

Try it, from the folder above this one::

    flask --app example_app seed
    flask --app example_app run
    flask --app example_app pool status        # in a second terminal

or under several worker processes::

    gunicorn -c python:example_app.gunicorn_settings "example_app:create_app()"

``DATABASE_URL`` names the database; without it the desk keeps SQLite files in its
instance folder. Any of these works, as long as its driver is installed::

    mysql+pymysql://user:password@localhost/library
    mariadb+pymysql://user:password@localhost/library
    postgresql+psycopg2://user:password@localhost/library

The URL goes to SQLAlchemy as it stands. A bare ``postgresql://`` means psycopg2 to
SQLAlchemy 2.0 but psycopg 3 to SQLAlchemy 2.1, so it is best to name the driver.
``settings.py`` lists everything else that the environment can say.

Where to look first: ``extensions.py`` has the two lines that put the guard in
place, ``lending.py`` what the desk does, ``faults.py`` the mistakes that it can make
on request. The desk has no log-in and no protection against forged forms: it is
there to be read and tried on one's own machine, not to be put on a network.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

from flask import Flask

from example_app import api, desk, faults, seeding, settings
from example_app.extensions import db, guard


def create_app(overrides: Mapping[str, Any] | None = None) -> Flask:
    """Build the lending desk.

    :param overrides: config values that win over those from the environment.
    """
    # Does nothing where the server or the test runner has set up logging already.
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    app = Flask(__name__, instance_path=settings.instance_path())
    app.config.from_mapping(settings.from_environment(os.environ))
    app.config.from_prefixed_env()
    app.config.from_mapping(overrides)
    settings.check(app.config)

    db.init_app(app)
    guard.init_app(app)

    app.register_blueprint(desk.blueprint)
    app.register_blueprint(api.blueprint)
    if app.config["EXAMPLE_FAULTS"]:
        app.register_blueprint(faults.blueprint)
    if app.config["EXAMPLE_FAULTS"] or app.debug:
        # At /pools, for everyone: the desk has no log-in. A real app says who may.
        app.register_blueprint(guard.blueprint(auth=None))
    app.cli.add_command(seeding.seed)
    return app
