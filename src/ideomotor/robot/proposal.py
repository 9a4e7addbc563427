"""What a shield is asked for, and how it reads what comes in: nothing is taken for granted, and nothing raises."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from ideomotor.robot.reading import LARGEST_MEASURED, as_floats, is_number
from ideomotor.robot.reasons import Reason
from ideomotor.robot.robot import RobotState

FLOATS = (np.dtype(np.float32).str, np.dtype(np.float64).str)


@dataclass(frozen=True)
class Proposal:
    """Joint positions that somebody wants to have at the end of this tick."""

    q: Float[np.ndarray, " J"]  # [rad] float32 or float64; anything else is refused
    time: float  # [s] when it was made, on the clock that `now` is read from
    sequence: int  # rises with every proposal
    opening: float = 1.0  # [fraction] of the gripper, 1 = open


@dataclass(frozen=True)
class PoseProposal:
    """A pose that the tool should move towards."""

    base_from_tcp: Float[np.ndarray, "4 4"]
    time: float
    sequence: int
    opening: float = 1.0


@dataclass(frozen=True)
class Retreat:
    """Go back along what was executed, slowly; where that is over or blocked, away from what is near."""

    time: float
    sequence: int
    opening: float = 1.0


@dataclass
class Found:
    """What the checks of one tick have found."""

    reasons: list[Reason] = field(default_factory=list[Reason])
    joints: tuple[int, ...] = ()

    def add(self, *reasons: Reason) -> None:
        """Note reasons, each once."""
        self.reasons += [reason for reason in reasons if reason not in self.reasons]


def read_state(state: object, joints: int) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Return position, speed and opening of a state whose numbers are all there and finite, else None."""
    if not isinstance(state, RobotState):
        return None
    found = Found()
    q, dq = read_floats(state.q, (joints,), found), read_floats(state.dq, (joints,), found)
    if (
        not is_number(state.time)
        or q is None
        or dq is None
        or np.abs(q).max() > LARGEST_MEASURED
        or np.abs(dq).max() > LARGEST_MEASURED
    ):
        return None
    return q, dq, float(state.opening) if is_number(state.opening) else 1.0


def read_floats(value: object, shape: tuple[int, ...], found: Found) -> np.ndarray | None:
    """Return an array as float64, if it is one of float32 or float64, of a shape, and finite."""
    numbers = as_floats(value, shape)
    if numbers is None or not isinstance(value, np.ndarray) or value.dtype.str not in FLOATS:
        found.add(Reason.SHAPE)
        return None
    if not np.isfinite(numbers).all():
        found.add(Reason.NONFINITE)
        return None
    return numbers
