"""Requests in greenlets of a process that gevent has changed in part, or not at all.

    python -m tests.apps.blocked_greenlets URL PATCHES [COOPERATES]

PATCHES are arguments of `gevent.monkey.patch_all` as JSON, or null for none at all.
Prints the findings with the code `gevent` as JSON, by what was done. It must be a
program of its own, because gevent changes the standard library for the whole process.
"""

# ruff: noqa: E402 (nothing may be imported before gevent has changed it)
import json
import sys

PATCHES = json.loads(sys.argv[2])
if PATCHES is not None:
    from gevent import monkey

    monkey.patch_all(**PATCHES)

import dataclasses
import logging
from typing import Any

import gevent
from flask import Flask
from sqlalchemy import create_engine

from tests.support.evidence import evidence_of, found_by_rules
from tests.support.reporting import Shop


def main() -> None:
    """Use a database outside greenlets, then in one."""
    logging.basicConfig(level=logging.ERROR)
    if sys.argv[3:] == ["COOPERATES"]:
        # Imported this late because it patches everything itself.
        from tests.apps.greenlets import make_psycopg2_cooperate

        make_psycopg2_cooperate()
    engine = create_engine(sys.argv[1], pool_size=1, max_overflow=0)
    shop = Shop({}, default=engine)
    _add_view(shop.app, shop)
    shop.use()
    before = _found(shop)
    # The one connection is open by now: it is no connect that tells.
    answer = gevent.spawn(shop.app.test_client().get, "/use").get(timeout=20)
    assert answer.status_code == 200, answer.status
    after = _found(shop)
    engine.dispose()
    shop.app.extensions["poolguard"].app_tracker.remove_file()
    print(json.dumps({"before": before, "after": after}))


def _add_view(app: Flask, shop: Shop) -> None:
    @app.get("/use")
    def use() -> str:
        shop.use()
        return "used"


def _found(shop: Shop) -> list[dict[str, Any]]:
    findings = found_by_rules(evidence_of(shop), "gevent")
    return [dataclasses.asdict(each) for each in findings]


if __name__ == "__main__":
    main()
