"""Test suites of other projects, run without and with a guard on each of their apps.

    make test-suites
    make test-suites SUITES="flask-sqlalchemy ihatemoney"

A suite runs twice without the guard, which tells which of its tests always end alike,
and once with it. Each of those tests must end with the guard as it does without.
"""
