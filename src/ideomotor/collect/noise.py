"""Bursts of action noise, so that demonstrations contain recoveries."""

import numpy as np
from jaxtyping import Float

# Shares and sizes follow a study of small policies on two cores: half of the steps of a noisy episode are disturbed, by up to
# 0.3 of the 0.05 m range per axis (uniform, here in bursts of 1 to 4 steps) and 0.15 rad of yaw.
BURST_STEPS = 4  # [control steps] longest burst; the mean pause has the same length as the mean burst
POSITION_NOISE = 0.3 * 0.05  # [m] largest disturbance per axis
YAW_NOISE = 0.15  # [rad]


def burst_noise(random: np.random.Generator, steps: int, width: int) -> Float[np.ndarray, "steps width"]:
    """Return additive noise for the actions of one episode; zero rows between bursts.

    Columns 0-2 are positions [m], column 5 is the rotation about the vertical [rad]; the rest stays zero.
    """
    noise = np.zeros((steps, width))
    start = int(random.integers(0, BURST_STEPS + 1))
    while start < steps:
        length = int(random.integers(1, BURST_STEPS + 1))
        rows = noise[start : start + length]
        rows[:, :3] = random.uniform(-POSITION_NOISE, POSITION_NOISE, (len(rows), 3))
        rows[:, 5] = random.uniform(-YAW_NOISE, YAW_NOISE, len(rows))
        start += length + int(random.integers(1, BURST_STEPS + 1))
    return noise
