"""One file for each arm: a table of numbers with its sources."""
