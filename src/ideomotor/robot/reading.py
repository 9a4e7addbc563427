"""Numbers from outside, which may be anything: read without raising. Exactly `ndarray` counts, as subclasses run their own code."""

import math
from typing import Any

import numpy as np

LARGEST_MEASURED = 1e3  # [rad], [rad/s] no arm stands or moves there: such a measurement is a fault
HUGE = 10**300  # whole numbers go on beyond any float


def as_floats(value: Any, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Return a copy of an array of floats of that shape, NaN and all; None for anything else."""
    if type(value) is not np.ndarray or value.dtype.kind != "f" or value.shape != shape:
        return None
    with np.errstate(all="ignore"):
        return value.astype(np.float64)


def is_number(value: object) -> bool:
    """Tell whether something is one finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating):
        return False
    return abs(value) < HUGE if isinstance(value, int) else math.isfinite(value)
