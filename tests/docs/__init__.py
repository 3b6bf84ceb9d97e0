"""The documentation's code is run."""
