"""Named runs: functions that return configurations, nothing else."""
