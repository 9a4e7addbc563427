"""Joint speeds that come as near to what is wanted as speed limits and nearby obstacles allow: a small quadratic program.

    minimise  1/2 |J v - w|^2 + 1/2 lambda |v|^2    (J: of the tool for a wanted tool motion, 1 for a wanted joint motion)
    so that   every joint can still stop inside its limits (`joint_filter`), and for each part that is near something, with
              distance h beyond its margin and normal n towards the part:  -n . J_p v <= min(gamma h, sqrt(2 a h)),  h >= 0

The root is the speed that stops within h at the deceleration a; the linear part alone would ignore braking. This makes commands
useful near obstacles, it guarantees nothing: every result still has to pass the shield. Source of the barrier rows: Ames et al.,
Control Barrier Functions: Theory and Applications (2019), section II; solver: DAQP, Arnstrom et al. (2022).
"""

from dataclasses import dataclass

import daqp
import numpy as np
from jaxtyping import Float, Int

from ideomotor.robot.clearance import Clearance
from ideomotor.robot.kinematics import joint_frames

GAIN = 8.0  # [1/s] k: wanted speed per error
REGULAR = 1e-3  # lambda
GAMMA = 3.0  # [1/s]
BRAKING = 2.0  # [m/s^2] a
RESERVE = 0.004  # [m] taken off each distance
WITHIN = 0.15  # [m] pairs that are nearer get a row
TURN = 0.3  # [m/rad] worth of a rotation error against a position error


@dataclass(frozen=True)
class Wish:
    """What is wanted: rows J v = w in the least-squares sense."""

    matrix: Float[np.ndarray, "R J"]
    value: Float[np.ndarray, " R"]


def joint_wish(q: Float[np.ndarray, " J"], goal: Float[np.ndarray, " J"]) -> Wish:
    """Return the wish to move towards joint positions [rad]."""
    return Wish(np.eye(len(q)), GAIN * (goal - q))


def tool_wish(
    frames: Float[np.ndarray, "J 4 4"],
    last_from_tcp: Float[np.ndarray, "4 4"],
    error: Float[np.ndarray, " 6"],
) -> Wish:
    """Return the wish to move the tool by an error: [m] and rotation vector [rad], base frame."""
    tool = frames[-1] @ last_from_tcp
    axes, origins = frames[:, :3, 2], frames[:, :3, 3]
    linear = np.cross(axes, tool[:3, 3] - origins).T
    weights = np.array([1.0] * 3 + [TURN] * 3)
    return Wish(weights[:, None] * np.concatenate([linear, axes.T]), GAIN * weights * error)


def solve(
    clearance: Clearance,
    q: Float[np.ndarray, " J"],
    wish: Wish,
    low: Float[np.ndarray, " J"],
    high: Float[np.ndarray, " J"],
) -> Float[np.ndarray, " J"] | None:
    """Return joint speeds [rad/s] within bounds, or None where the program has no solution that is finite."""
    if not all(np.isfinite(numbers).all() for numbers in (q, wish.matrix, wish.value, low, high)):
        return None  # the solver would take NaN for no bound at all
    frames = joint_frames(clearance.body.chain, q)
    rows, most = barrier_rows(clearance, frames)
    joints = len(q)
    square = wish.matrix.T @ wish.matrix + REGULAR * np.eye(joints)
    upper = np.concatenate([high, most])
    lower = np.concatenate([low, np.full(len(most), -1e30)])
    solution = daqp.solve(square, -wish.matrix.T @ wish.value, rows, upper, lower, np.zeros(len(upper), dtype=np.int32))
    v, flag = np.asarray(solution[0], dtype=np.float64), int(solution[2])
    if flag < 1 or v.shape != (joints,) or not np.isfinite(v).all():
        return None
    return v


def barrier_rows(
    clearance: Clearance, frames: Float[np.ndarray, "J 4 4"]
) -> tuple[Float[np.ndarray, "K J"], Float[np.ndarray, " K"]]:
    """Return the rows of nearby pairs, and the largest speeds of approach [m/s]."""
    near = clearance.nearest(frames, WITHIN)
    axes, origins = frames[:, :3, 2], frames[:, :3, 3]
    joints = np.arange(1, len(frames) + 1)

    def motion(
        point: Float[np.ndarray, "K 3"], link: Int[np.ndarray, " K"], normal: Float[np.ndarray, "K 3"]
    ) -> Float[np.ndarray, "K J"]:
        lever = point[:, None] - origins  # K J 3; normal . (axis x lever) = axis . (lever x normal)
        n = normal[:, None]
        x = lever[..., 1] * n[..., 2] - lever[..., 2] * n[..., 1]
        y = lever[..., 2] * n[..., 0] - lever[..., 0] * n[..., 2]
        z = lever[..., 0] * n[..., 1] - lever[..., 1] * n[..., 0]
        return (axes[:, 0] * x + axes[:, 1] * y + axes[:, 2] * z) * (joints <= link[:, None])

    away = motion(near.point, near.link, near.normal) - motion(near.other_point, near.other_link, near.normal)
    distance = np.maximum(near.distance - RESERVE, 0.0)
    return -away, np.minimum(GAMMA * distance, np.sqrt(2.0 * BRAKING * distance))
