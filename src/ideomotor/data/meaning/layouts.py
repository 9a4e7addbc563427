"""Which channels of an action or a state are places, rotations, joints and grippers: by their names, else by their numbers.

N = frames, D = channels.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from ideomotor.core.spec import RotationForm, Unit
from ideomotor.data.meaning.evidence import largest_norm, rot6d_layout, unit_quaternion, wraps
from ideomotor.data.meaning.specification import GRIPPER

Kind = Literal["position", "rotation", "joint", "gripper", "unknown"]

FARTHEST = 2.5  # [m] an arm on a table does not reach further
WIDEST = 0.12  # [m] nor does a finger move further
TURN = 2 * np.pi + 0.01  # [rad]
SMALL = 0.5  # [rad] below, Euler angles and rotation vectors differ by less than an eighth of the angle

_TOKENS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_AXES, _QUATERNION = {"x", "y", "z"}, {"qx", "qy", "qz", "qw"}
_ANGLES = {"roll", "pitch", "yaw", "rx", "ry", "rz", "rot", "rotation", "euler", "axis", "angle", "wx", "wy", "wz"}
_JOINT = re.compile(r"joint|waist|shoulder|elbow|forearm|wrist|motor|qpos|servo", re.IGNORECASE)


@dataclass(frozen=True)
class Run:
    """Neighbouring channels of one kind."""

    kind: Kind
    first: int
    width: int

    @property
    def channels(self) -> range:
        """Their numbers."""
        return range(self.first, self.first + self.width)

    def text(self, column: str) -> str:
        """Name them: "action[0:3]"."""
        return f"{column}[{self.first}]" if self.width == 1 else f"{column}[{self.first}:{self.first + self.width}]"


def kind_of(name: str) -> Kind:
    """Return what a channel's name says.

    >>> [kind_of(name) for name in ("ee_delta_x", "left_wrist_rotate", "pitch", "gripper.pos", "dim_3", "qw", "world_vector_x")]
    ['position', 'joint', 'rotation', 'gripper', 'unknown', 'rotation', 'position']
    """
    if GRIPPER.search(name):
        return "gripper"
    if _JOINT.search(name):
        return "joint"
    tokens = [token.lower() for token in _TOKENS.findall(name)]
    if any(token in _ANGLES | _QUATERNION for token in tokens):
        return "rotation"
    return "position" if tokens and tokens[-1] in _AXES else "unknown"


def kinds_by_name(names: Sequence[str] | None, width: int) -> list[Kind] | None:
    """Return the kinds that names say, None where they say nothing of more than half of the channels."""
    if names is None or len(names) != width:
        return None
    kinds: list[Kind] = [kind_of(name) for name in names]
    return kinds if kinds.count("unknown") * 2 < width else None


def runs_of(kinds: Sequence[Kind]) -> list[Run]:
    """Return neighbouring channels of one kind together; places and angles in threes, grippers alone.

    >>> [run.text("state") for run in runs_of(["position"] * 3 + ["rotation"] * 3 + ["gripper"] * 2)]
    ['state[0:3]', 'state[3:6]', 'state[6]', 'state[7]']
    """
    runs: list[Run] = []
    for channel, kind in enumerate(kinds):
        last = runs[-1] if runs else None
        longest = {"position": 3, "gripper": 1}.get(kind, len(kinds))
        if last is not None and last.kind == kind and last.width < longest:
            runs[-1] = Run(kind, last.first, last.width + 1)
        else:
            runs.append(Run(kind, channel, 1))
    return runs


def find_rotation(values_ND: Float64[np.ndarray, "N D"]) -> tuple[Run, RotationForm] | None:
    """Return where four numbers are a unit quaternion, or six two orthonormal columns."""
    for first in range(values_ND.shape[1] - 5):
        if layout := rot6d_layout(values_ND[:, first : first + 6]):
            return Run("rotation", first, 6), RotationForm("rot6d", layout, first=first)
    for first in range(values_ND.shape[1] - 3):
        if unit_quaternion(values_ND[:, first : first + 4]):
            return Run("rotation", first, 4), RotationForm("quaternion", first=first)
    return None


def three_angles(parts: Sequence[np.ndarray], run: Run, column: str) -> tuple[RotationForm, str]:
    """Return how three angles of each episode are written, as far as their ranges tell, and a sentence about it."""
    runs = [part[:, run.channels] for part in parts]
    values = np.concatenate(runs)
    norm, largest, jumps = largest_norm(values), float(np.abs(values).max()), wraps(runs)
    where = run.text(column)
    if largest > TURN:
        return RotationForm(
            "unknown", first=run.first
        ), f"{where} reaches {largest:.3g}: no radians (degrees?), form unknown"
    if largest <= np.pi + 0.01 and (norm > np.pi + 0.01 or jumps):
        why = f"its length reaches {norm:.2f}, that of a turn by rotation vector ends at 3.14"
        if jumps:
            why = f"one angle alone jumps by a whole turn {jumps} times"
        return RotationForm(
            "euler", first=run.first
        ), f"{where} holds Euler angles ({why}), in an order that nothing tells"
    why = f"its length stays below {norm:.2f} rad, where Euler angles and rotation vectors look alike"
    if norm > np.pi + 0.01:
        why = f"it reaches {largest:.2f} rad: angles that do not wrap, or a rotation vector of robosuite's"
    return RotationForm("unknown", first=run.first), f"{where}: form of the rotation unknown ({why})"


def unit_of(kind: Kind, values: np.ndarray, form: RotationForm) -> tuple[Unit, str]:
    """Return the likely unit of channels of a state, and why."""
    low, high = float(values.min()), float(values.max())
    largest = max(abs(low), abs(high))
    within = f"within [{low:.3g}, {high:.3g}]"
    match kind:
        case "position":
            return ("m", f"{within}: metres") if largest <= FARTHEST else ("unknown", f"{within}: no metres of an arm")
        case "rotation" if form.form in ("quaternion", "rot6d", "matrix"):
            return "1", "numbers of a unit vector"
        case "rotation" | "joint":
            return ("rad", f"{within}: radians") if largest <= TURN else ("unknown", f"{within}: no radians (degrees?)")
        case "gripper":
            if largest <= WIDEST:
                return "m", f"{within}: metres of a finger"
            return ("fraction", f"{within}: a share") if low >= -0.1 and high <= 1.1 else ("unknown", within)
        case _:
            return "unknown", within
