"""What the pytest plugin does: leaks of tests, probes, faults on demand."""
