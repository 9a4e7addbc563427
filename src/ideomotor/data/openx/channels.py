"""The embodiment of standardized numbers: names, and units and frames where a source states them, else "unknown".

Nothing in the files says units, frames or the order of rotations. What is stated here comes from the descriptions in TFDS's catalogue
(tensorflow.org/datasets/catalog) or follows from the standardization itself.
"""

from dataclasses import dataclass
from typing import Literal

from ideomotor.core.spec import Channel, Embodiment, Gripper, Mode, RotationForm
from ideomotor.data.openx.parts import Binarized, Clipped, Fill, FromSign, Held, Inverted, Part

Motion = Literal["step", "velocity", "unknown"]

POSITION, ANGLES, QUATERNION = (
    ("ee_x", "ee_y", "ee_z"),
    ("ee_roll", "ee_pitch", "ee_yaw"),
    ("ee_q0", "ee_q1", "ee_q2", "ee_q3"),
)
JOINTS = tuple(f"joint_{i}" for i in range(1, 8))
NO_ROTATION = RotationForm("none")
RELATIVE = RotationForm(
    "unknown", first=3
)  # three angles that OpenVLA calls roll, pitch, yaw; their order is written nowhere


@dataclass(frozen=True)
class Encoding:
    """What the numbers of a state are, in order, before pads take the places of those that a dataset lacks."""

    names: tuple[str, ...]
    rotation: RotationForm = NO_ROTATION
    frame: str = "unknown"


EULER = Encoding((*POSITION, *ANGLES, "pad", "gripper"), RotationForm("euler", first=3))
QUAT = Encoding((*POSITION, *QUATERNION, "gripper"), RotationForm("quaternion", first=3))
JOINT = Encoding((*JOINTS, "gripper"), frame="joint")
NONE = Encoding(())


@dataclass(frozen=True)
class Body:
    """A robot, its rate, and how its numbers are to be read."""

    robot: str
    rate_hz: float  # [1/s] of control; no file records it, several overviews agree
    state: Encoding
    motion: Motion = "step"
    frame: str = "unknown"  # of the action's motion
    rotation: RotationForm = RELATIVE  # of the action


def embodiment(name: str, body: Body, state: tuple[Part, ...], action: tuple[Part, ...]) -> Embodiment:
    """Return the specification of a dataset's standardized numbers, without cameras."""
    return Embodiment(
        name=f"openx-{name}",
        robot=body.robot,
        rate_hz=body.rate_hz,
        action=_action(body, action),
        state=_state(body.state, state),
        cameras=(),
        action_rotation=body.rotation,
        state_rotation=body.state.rotation,
        gripper=Gripper("gripper", open=1.0, closed=0.0, threshold=0.5),
        state_source="unknown",
    )


def _action(body: Body, parts: tuple[Part, ...]) -> tuple[Channel, ...]:
    prefix, mode = _PREFIXES[body.motion]
    names = [f"ee_{prefix}{axis}" for axis in ("x", "y", "z", "roll", "pitch", "yaw")]
    if body.rotation.form == "rotation_vector":
        names[3:] = [f"ee_{prefix}r{axis}" for axis in "xyz"]
    bounds = [
        (part.value, part.value) if isinstance(part, Fill) else (None, None)
        for part in parts
        for _ in range(part.width)
    ]
    motion = [
        Channel(name, "unknown", body.frame, mode, low, high)
        for name, (low, high) in zip(names, bounds[:6], strict=True)
    ]
    low, high = (0.0, 1.0) if _bounded(parts[-1]) else bounds[6]
    return (*motion, Channel("gripper", "fraction", "none", "absolute", low, high))


_PREFIXES: dict[Motion, tuple[str, Mode]] = {
    "step": ("delta_", "delta"),
    "velocity": ("velocity_", "absolute"),  # a speed that is told, not one that is added to
    "unknown": ("", "unknown"),
}


def _bounded(part: Part) -> bool:
    """Whether a gripper command lies in [0, 1] whatever the raw numbers are."""
    inner = part.part if isinstance(part, Inverted) else part
    return isinstance(inner, Held | Binarized | FromSign | Clipped)


def _state(encoding: Encoding, parts: tuple[Part, ...]) -> tuple[Channel, ...]:
    filled = [isinstance(part, Fill) for part in parts for _ in range(part.width)]
    return tuple(
        Channel(f"pad_{i}", "1", "none", "absolute", 0.0, 0.0)
        if pad
        else Channel(name, "unknown", _frame(name, encoding))
        for i, (name, pad) in enumerate(zip(encoding.names, filled, strict=True))
    )


def _frame(name: str, encoding: Encoding) -> str:
    return "none" if name.startswith("gripper") else encoding.frame
