"""Tests that start processes: commands, workers, forked children."""
