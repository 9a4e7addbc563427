"""Closed-loop measurement: suites, rollouts, exact intervals, reports. Policies are seen through the protocol in `core` only."""
