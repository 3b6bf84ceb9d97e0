"""The state files: what a worker shows to other processes."""
