"""How many processes can work at once."""

import os


def usable_cores() -> int:
    """Return the number of cores that this process may use, where the system tells; else that of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
