"""Test Flask-PoolGuard against real servers, each started by the tests."""
