"""The protocol that real and simulated arms share: read the state, give joint commands at the robot's own rate."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ideomotor.robot.arm import Arm


@dataclass(frozen=True)
class RobotState:
    """What an arm measures at one instant."""

    time: float  # [s] when it was measured, on the clock that the shield's `now` is read from
    q: Float[np.ndarray, " J"]  # [rad]
    dq: Float[np.ndarray, " J"]  # [rad/s]
    opening: float  # [fraction] of the gripper, 1 = open
    external_torque: Float[np.ndarray, " J"] | None = None  # [N m] as the robot estimates it; None: it does not


@dataclass(frozen=True)
class JointCommand:
    """What an arm is told for one period of its own rate."""

    q: Float[np.ndarray, " J"]  # [rad] position targets
    opening: float  # [fraction] of the gripper, 1 = open


@runtime_checkable
class Robot(Protocol):
    """An arm with a gripper, real or simulated."""

    @property
    def arm(self) -> Arm:
        """Its table of numbers."""
        ...

    @property
    def rate_hz(self) -> float:
        """How many commands a second it takes [1/s]; each lasts one period."""
        ...

    def read(self) -> RobotState:
        """Return the state now."""
        ...

    def command(self, command: JointCommand) -> None:
        """Hold `command` for one period. A simulated arm advances its time by it, a real one returns at once."""
        ...
