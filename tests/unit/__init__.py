"""Tests without a server and, as far as that can be, without another process."""
