"""The true state of the world at one instant, as predicates and experts read it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ideomotor.sim.objects import ObjectKind


@dataclass(frozen=True)
class View:
    """A snapshot in the base frame. N = objects."""

    kinds: tuple[ObjectKind, ...]
    position: Float[np.ndarray, "N 3"]  # [m] centres of the objects
    rotation: Float[np.ndarray, "N 3 3"]  # base_from_object
    speed: Float[np.ndarray, " N"]  # [m/s]
    spin: Float[np.ndarray, " N"]  # [rad/s]
    touched: Bool[np.ndarray, "N 2"]  # by which finger
    tcp: Float[np.ndarray, " 3"]  # [m] measured position of the tool centre point
    tcp_yaw: float  # [rad] measured direction of the tool's x axis in the base frame
    opening: float  # [fraction] measured, 1 = open
    commanded: Float[np.ndarray, " 3"]  # [m] where the tool has been told to be: actions are added to this
    commanded_yaw: float  # [rad]

    def held(self, index: int) -> bool:
        """Tell whether both fingers touch the object."""
        return bool(self.touched[index].all())

    def rests(self, index: int) -> bool:
        """Tell whether the object has come to rest."""
        return bool(self.speed[index] < REST_SPEED and self.spin[index] < REST_SPIN)

    def is_on(self, index: int, support: int) -> bool:
        """Tell whether the centre of the object is within the outline of the support, and its bottom on the support's top."""
        offset = self.position[index] - self.position[support]
        shape, below = self.kinds[index].shape, self.kinds[support].shape
        low = below.half_height + min(shape.size) - ON_TOLERANCE
        high = below.half_height + max(shape.size) + ON_TOLERANCE  # it may stand or have fallen over
        return bool(np.hypot(offset[0], offset[1]) <= below.radius and low <= offset[2] <= high)


REST_SPEED = 0.02  # [m/s]
REST_SPIN = 0.3  # [rad/s]
ON_TOLERANCE = 0.006  # [m]
