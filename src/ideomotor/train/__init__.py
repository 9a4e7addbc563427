"""One training loop with its stages; data-parallel over processes, resumable to the bit."""
