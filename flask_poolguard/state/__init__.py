"""What other processes may read of a worker: its state file, and how that is found."""
