"""Which products a test runs on.

A test whose subject is the product, marked `every_product`, runs on each of them. Any
other test with several to choose from runs on one, which its name decides, unless all
are asked for.
"""

from __future__ import annotations

import zlib

import pytest

OPTION = "--all-products"
# Fixtures with products as their parameters.
CHOOSING_FIXTURES = ("database", "served_database", "served_server")
# One with drivers; those are never fewer, but this parameter of it is a product.
DRIVER_FIXTURE = "driver_database"
MYSQL9 = "mysql9"


def add_option(parser: pytest.Parser) -> None:
    """Let all products be asked for."""
    parser.addoption(
        OPTION,
        action="store_true",
        help="run tests on every product, MySQL 9 too where that is the subject",
    )


def are_all_wanted(config: pytest.Config) -> bool:
    """Tell whether all products were asked for."""
    return bool(config.getoption("all_products", False))


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take away the tests on products that were not asked for."""
    everything = are_all_wanted(config)
    variants: dict[str, list[pytest.Item]] = {}
    dropped: set[pytest.Item] = set()
    for item in items:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        parameters = item.callspec.params
        is_subject = item.get_closest_marker("every_product") is not None
        products = [parameters.get(name) for name in CHOOSING_FIXTURES]
        if MYSQL9 in (*products, parameters.get(DRIVER_FIXTURE)):
            if not (everything and is_subject):
                dropped.add(item)
        elif parameters.get("mysql_product") == MYSQL9:
            if str(parameters.get("drivername")).startswith("mariadb+"):
                dropped.add(item)  # SQLAlchemy refuses MySQL by that name
        elif any(products) and not (everything or is_subject):
            variants.setdefault(_apart_from_product(item), []).append(item)
    for name, those in variants.items():
        # By the name: the same in each run, and over all tests of each product some.
        chosen = those[zlib.crc32(name.encode()) % len(those)]
        dropped.update(item for item in those if item is not chosen)
    if dropped:
        config.hook.pytest_deselected(items=[item for item in items if item in dropped])
        items[:] = [item for item in items if item not in dropped]


def add_mysql(metafunc: pytest.Metafunc) -> None:
    """Let a test that is written for MariaDB run on MySQL as well."""
    if (
        "mysql_product" in metafunc.fixturenames
        and are_all_wanted(metafunc.config)
        and metafunc.definition.get_closest_marker("every_product") is not None
        and not {*CHOOSING_FIXTURES, DRIVER_FIXTURE} & set(metafunc.fixturenames)
    ):
        metafunc.parametrize("mysql_product", ["mariadb", MYSQL9], indirect=True)


def _apart_from_product(item: pytest.Function) -> str:
    """Name a test and its parameters other than the product."""
    others = [
        (name, index)
        for name, index in item.callspec.indices.items()
        if name not in CHOOSING_FIXTURES
    ]
    return f"{item.nodeid.partition('[')[0]} {sorted(others)}"
