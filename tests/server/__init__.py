"""Tests on real database servers, in this process."""
