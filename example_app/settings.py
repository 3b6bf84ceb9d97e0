"""What the environment can say about the lending desk.

==========================  ====================================================
``DATABASE_URL``            the desk's database; else ``desk.db`` in the instance
``REPORTS_DATABASE_URL``    the journal's database; else the same server, or for
                            SQLite ``reports.db`` in the instance
``EXAMPLE_INSTANCE_PATH``   another instance folder
``EXAMPLE_FAULTS``          ``1`` adds the routes of ``faults.py`` and the live page
                            ``/pools/``: on your own machine only, and never behind
                            a proxy
``FLASK_EXAMPLE_FAULT_…``   ``FLASK_EXAMPLE_FAULT_SECONDS``: how long a fault lasts that
                            ``/faults/`` starts, from 1 to 120; else 20
``FLASK_POOLGUARD_…``       any setting of the guard, for example
                            ``FLASK_POOLGUARD_POOL_SIZE=2``
==========================  ====================================================
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LEAST_FAULT_SECONDS, MOST_FAULT_SECONDS = 1, 120


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the app's config as the environment and the defaults below give it.

    :param environ: the environment, as in ``os.environ``.
    """
    database_url = environ.get("DATABASE_URL") or "sqlite:///desk.db"
    reports_url = environ.get("REPORTS_DATABASE_URL") or (
        # Two SQLite files, because two writers of one file wait for each other.
        "sqlite:///reports.db" if database_url.startswith("sqlite") else database_url
    )
    return {
        "SQLALCHEMY_DATABASE_URI": database_url,
        "SQLALCHEMY_BINDS": {"reports": reports_url},
        # Every worker process has pools of these sizes. A worker with four threads
        # needs four connections; two more are its reserve.
        "POOLGUARD_POOL_SIZE": 4,
        "POOLGUARD_MAX_OVERFLOW": 2,
        "POOLGUARD_POOL_TIMEOUT": 5,
        # The journal is written seldom, so it keeps fewer connections open.
        "POOLGUARD_BINDS": {"reports": {"pool_size": 2}},
        # "return" is the default; written down because the demo shows it.
        "POOLGUARD_ON_LEAK": "return",
        "EXAMPLE_FAULTS": environ.get("EXAMPLE_FAULTS") == "1",
        # For so long a fault lasts that its button has started.
        "EXAMPLE_FAULT_SECONDS": 20.0,
    }


def check(config: Mapping[str, Any]) -> None:
    """Refuse what makes no sense for a fault.

    :raises ValueError: a fault would never end, or could not begin.
    """
    seconds = config["EXAMPLE_FAULT_SECONDS"]
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    # nan is in no range.
    if not is_number or not LEAST_FAULT_SECONDS <= seconds <= MOST_FAULT_SECONDS:
        raise ValueError(
            f"EXAMPLE_FAULT_SECONDS must be a number from {LEAST_FAULT_SECONDS} to"
            f" {MOST_FAULT_SECONDS}, not {seconds!r}."
        )


def instance_path() -> str | None:
    """Return the instance folder that the environment asks for, or None for Flask's."""
    path = os.environ.get("EXAMPLE_INSTANCE_PATH")
    return str(Path(path).absolute()) if path else None
