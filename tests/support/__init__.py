"""Provide what the tests need besides the package: servers, proxies, workers."""
