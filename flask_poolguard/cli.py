"""Placeholder."""

import click


def make_group(name: str) -> click.Group:
    return click.Group(name)
