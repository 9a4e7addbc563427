"""Bound what an arm presses with: torques where it takes torques, the distance of its reference where it takes positions.

A second layer in front of the robot's own safety functions. It replaces none of them and is no safety-rated system: a force that hurts
depends on what is hit, and on the arm's mass and speed, which nothing here knows.

**References.** An arm under impedance control is pulled towards its reference by K x. Pushed against something stiff it stands still while
the reference runs away, and the force grows with it. Here the reference stays within reach of where the arm is: at 2000 N/m and 10 mm
the spring pulls with at most 20 N, in any direction (damping and integral terms come on top).
Source: Luo et al., SERL (2024), arXiv 2401.16013; its controller (rail-berkeley/serl_franka_controllers at 5576ce1) clips each axis by
itself, which allows sqrt(3) times as much along a diagonal.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ideomotor.core.errors import UserError
from ideomotor.core.rotation import matrix_to_rotation_vector, rotation_vector_to_matrix
from ideomotor.robot.limits import Limits
from ideomotor.robot.reading import as_floats
from ideomotor.robot.reasons import Reason

# In shapes, J stands for the joints.

RIGID = 1e-6  # how far R R^T may be from 1: a pose that is farther off is no pose


@dataclass(frozen=True)
class Reach:
    """How far a reference may be ahead of the measured pose."""

    position: float = 0.010  # [m]
    rotation: float = 0.05  # [rad]

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0.0 < value < float("inf"):
                raise UserError(f"reach: {name} is {value}; it should be above 0 and finite")


def clip_reference(
    q_command: Any, q_measured: Float[np.ndarray, " J"], reach: float | tuple[float, ...]
) -> Float[np.ndarray, " J"]:
    """Return joint references within `reach` of where the joints are.

    Args:
        q_command: references [rad], J floats in an array. Where one is NaN or infinite the joint is told where it is, which pulls with no
            torque; anything else than such an array counts as NaN throughout.
        q_measured: [rad].
        reach: of all joints or of each [rad].

    Raises:
        UserError: the measured positions are not finite, or the reach is not above 0.
    """
    radius = np.array(reach, np.float64)
    if not (np.isfinite(radius) & (radius > 0.0)).all() or radius.shape not in ((), q_measured.shape):
        raise UserError(
            f"reach is {reach}; one number above 0 is needed, or one for each of {q_measured.size} joints [rad]"
        )
    if not np.isfinite(q_measured).all():
        raise UserError(
            "a measured position is NaN or infinite, so nothing can be said of the reference; measure again"
        )
    measured = np.asarray(q_measured, np.float64)
    command = as_floats(q_command, measured.shape)
    command = measured if command is None else np.where(np.isfinite(command), command, measured)
    return np.minimum(np.maximum(command, measured - radius), measured + radius)


def clip_pose(command: Any, measured: Float[np.ndarray, "4 4"], reach: Reach) -> Float[np.ndarray, "4 4"]:
    """Return a pose reference within `reach` of the measured pose, on the straight way (and the direct turn) to the command.

    Args:
        command: base_from_tool. Anything but a finite pose counts as the measured one, which pulls with no force.
        measured: base_from_tool.
        reach: its distances.

    Raises:
        UserError: the measured pose is none.
    """
    here = _pose(measured)
    if here is None:
        raise UserError(
            "the measured pose is no finite rotation and position, so nothing can be said of the reference; measure again"
        )
    there = _pose(command)
    if there is None:
        return here.copy()
    clipped = there.copy()
    step = there[:3, 3] - here[:3, 3]
    distance = float(np.hypot(np.hypot(step[0], step[1]), step[2]))
    if distance > reach.position:
        clipped[:3, 3] = here[:3, 3] + step * (reach.position / distance)
    turn = matrix_to_rotation_vector(there[:3, :3] @ here[:3, :3].T)
    angle = float(np.linalg.norm(turn))
    if angle > reach.rotation:
        clipped[:3, :3] = rotation_vector_to_matrix(turn * (reach.rotation / angle)) @ here[:3, :3]
    return clipped


class TorqueLimiter:
    """Limits of torque and of torque rate, for a robot that takes torques beyond those that carry its own weight.

    On a robot that does not carry its own weight, 0 lets the arm sink: add what carries it behind this limiter.
    """

    def __init__(self, limits: Limits, dt: float) -> None:
        """Begin at no torque.

        Raises:
            UserError: the robot takes no torques, or the tick `dt` [s] is not above 0.
        """
        if limits.torque_rate is None:
            raise UserError("these limits have no torque_rate: the arm takes no torques; send positions")
        if not 0.0 < dt < float("inf"):
            raise UserError(f"a tick of {dt} s; it should be above 0 and finite")
        self._torque = np.array(limits.torque, np.float64)
        self._step = np.array(limits.torque_rate, np.float64) * dt
        self._last = np.zeros_like(self._torque)

    def start(self, torque: Any) -> None:
        """Go on from what the robot measures or last tracked [N m]; what is not finite counts as 0."""
        values = as_floats(torque, self._last.shape)
        self._last = np.zeros_like(self._last) if values is None else np.where(np.isfinite(values), values, 0.0)

    def limit(self, proposal: Any) -> tuple[Float[np.ndarray, " J"], tuple[Reason, ...]]:
        """Return the torques of the next tick [N m], and why they are not the proposed ones.

        Anything but an array of J finite floats lets all torques fall towards 0 at the rate limit: a NaN tells nothing good of its
        neighbours. Never raises, and never returns a number that is not finite.
        """
        wanted, reasons = as_floats(proposal, self._last.shape), ()
        if wanted is None:
            wanted, reasons = np.zeros_like(self._last), (Reason.SHAPE,)
        elif not np.isfinite(wanted).all():
            wanted, reasons = np.zeros_like(self._last), (Reason.NONFINITE,)
        inside = np.minimum(np.maximum(wanted, -self._torque), self._torque)
        torque = np.minimum(np.maximum(inside, self._last - self._step), self._last + self._step)
        if not reasons and (torque != wanted).any():
            reasons = (Reason.TORQUE,)
        self._last = torque
        return torque.copy(), reasons


class TorqueReflex:
    """Trips on external torques, as the robot estimates them, and stays tripped until somebody resets it.

    For comparison: libfranka's examples let the robot react at 20 N m while it accelerates and at 10 N m otherwise, on all joints
    (setDefaultBehavior in examples/examples_common.cpp).
    """

    def __init__(self, threshold: tuple[float, ...], debounce: int = 1) -> None:
        """Trip when, `debounce` ticks in a row, any joint's torque is beyond its `threshold` [N m].

        Raises:
            UserError: a threshold is not above 0 and finite, or the debounce is below 1.
        """
        if not threshold or not all(0.0 < value < float("inf") for value in threshold):
            raise UserError(f"torque thresholds are {threshold}; every one should be above 0 and finite [N m]")
        if debounce < 1:
            raise UserError(f"a debounce of {debounce} ticks; 1 or more is allowed")
        self._threshold, self._debounce = np.array(threshold, np.float64), debounce
        self._count = 0
        self._clear = False  # whether the last torques were all below their thresholds
        self._tripped = False

    @property
    def tripped(self) -> bool:
        """Whether it has tripped since the last reset."""
        return self._tripped

    def update(self, torque: Any) -> bool:
        """Judge the external torques of a tick [N m]; return whether it has tripped.

        Anything but an array of J finite floats trips at once: an arm that does not know what it touches stops.
        """
        values = as_floats(torque, self._threshold.shape)
        if values is None or not np.isfinite(values).all():
            self._clear, self._tripped = False, True
            return True
        self._clear = not bool((np.abs(values) > self._threshold).any())
        self._count = 0 if self._clear else self._count + 1
        self._tripped |= self._count >= self._debounce
        return self._tripped

    def reset(self) -> bool:
        """Untrip, unless the last torques were still beyond their thresholds or unknown; return whether it is free."""
        if self._clear:
            self._tripped = False
        return not self._tripped


def _pose(value: Any) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    pose = as_floats(value, (4, 4))
    if pose is None or not (np.abs(pose) < 1e9).all():  # [m] the Earth is smaller; NaN is not
        return None
    turn = pose[:3, :3]
    rigid = np.abs(turn @ turn.T - np.eye(3)).max() < RIGID and np.linalg.det(turn) > 0.0
    return pose if rigid and (pose[3] == (0.0, 0.0, 0.0, 1.0)).all() else None
