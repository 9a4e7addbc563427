"""What each number of an action and a state means, as data: the embodiment specification.

It lives in every dataset and checkpoint and is compared before the first step. `docs/words.md` explains the fields; the
list follows the convention slips that cost published policies 0 to 80 points of success.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError

FORMAT = 1  # version of this specification's JSON form

Unit = Literal["m", "rad", "m/s", "rad/s", "fraction", "1", "unknown"]
Mode = Literal["absolute", "delta", "relative_to_chunk_start", "unknown"]


@dataclass(frozen=True)
class Channel:
    """One number of an action or a state."""

    name: str  # e.g. "ee_delta_x"
    unit: Unit
    frame: str = "base"  # "base", "world", "tool", "joint", "none" or "unknown"
    mode: Mode = "absolute"
    low: float | None = None  # smallest and largest legal value, None where not stated
    high: float | None = None


@dataclass(frozen=True)
class RotationForm:
    """How a rotation is written, and which channels hold it."""

    form: Literal["none", "rotation_vector", "euler", "quaternion", "rot6d", "matrix", "unknown"]
    layout: str = (
        ""  # euler: "xyz" extrinsic, "XYZ" intrinsic; quaternion: "xyzw" or "wxyz"; rot6d: "rows" or "columns"
    )
    sign: Literal["canonical", "continuous", "none"] = "none"  # quaternion sign: w >= 0, or as it comes
    first: int = -1  # index of its first channel, -1 without rotation


@dataclass(frozen=True)
class Gripper:
    """Which action channel moves the gripper, and which value opens it."""

    channel: str
    open: float
    closed: float
    threshold: float  # value that separates open from closed
    hold_steps: int = 0  # [control ticks] a changed command is held for this long


@dataclass(frozen=True)
class Camera:
    """One camera by its role, and the pixels it gives."""

    role: str  # "front", "wrist", ...
    height: int  # [px]
    width: int  # [px]
    crop: str = "none"
    colour: Literal["rgb", "bgr", "unknown"] = "rgb"
    orientation: Literal["upright", "flipped", "rotated_180", "unknown"] = "upright"
    source: str = "unknown"  # renderer and profile in simulation, else the device


@dataclass(frozen=True)
class ChunkLength:
    """How many actions a policy predicts at once, and how many of them are executed."""

    predicted: int
    executed: int


@dataclass(frozen=True)
class Normalization:
    """How actions are scaled for the network; `statistics_hash` names the numbers used."""

    kind: Literal["none", "normal", "bounds", "bounds_q99", "quantile_bins"]
    statistics_hash: str = ""


@dataclass(frozen=True)
class Embodiment:
    """The written specification of a body: what its actions, states and cameras mean.

    `chunk` and `normalization` belong to a policy and are None in a dataset, which does not decide them.
    """

    name: str  # "panda-tabletop"
    robot: str  # "panda"
    rate_hz: float  # [1/s] control rate of the actions
    action: tuple[Channel, ...]
    state: tuple[Channel, ...]
    cameras: tuple[Camera, ...]
    action_rotation: RotationForm = RotationForm("none")
    state_rotation: RotationForm = RotationForm("none")
    gripper: Gripper | None = None
    state_source: str = "measured"  # "measured", "commanded" or "unknown"
    alignment: Literal["observation_before_action", "observation_after_action", "unknown"] = "observation_before_action"
    chunk: ChunkLength | None = None
    normalization: Normalization | None = None

    @property
    def cameras_by_role(self) -> dict[str, Camera]:
        """The cameras by role."""
        return {camera.role: camera for camera in self.cameras}

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON."""
        return jsonable.fingerprint(self)

    def to_text(self) -> str:
        """Return the JSON that is stored in datasets and checkpoints."""
        return json.dumps({"format": FORMAT, "hash": self.hash, **jsonable.to_json(self)}, indent=2, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str, where: str) -> "Embodiment":
        """Read the JSON of `to_text`.

        Raises:
            UserError: not JSON, another format version, unknown or missing fields, or a hash that does not fit.
        """
        try:
            value: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{where} is not JSON ({error}); it should hold an embodiment specification") from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:  # pyright: ignore[reportUnknownMemberType]
            raise UserError(f"{where} is no embodiment specification of format {FORMAT}; write one with this version")
        fields: dict[str, Any] = dict(value)  # pyright: ignore[reportUnknownArgumentType]
        del fields["format"]
        stated = fields.pop("hash", None)
        embodiment = jsonable.from_json(cls, fields, where)
        if stated is not None and stated != embodiment.hash:
            raise UserError(
                f"{where} was changed by hand: its hash is {embodiment.hash}, it states {stated}; remove the hash"
            )
        return embodiment


class SpecMismatchError(UserError):
    """Two specifications that should agree do not."""


def check_same(left: Embodiment, right: Embodiment, left_name: str = "left", right_name: str = "right") -> None:
    """Compare two specifications field by field; `chunk` and `normalization` only where both sides state them.

    Raises:
        SpecMismatchError: names every field that differs, with both sides.
    """
    lines = [
        f"  {path}: {left_name} has {a!r}, {right_name} has {b!r}"
        for path, a, b in differences(left, right)
        if not (path.startswith(("chunk", "normalization")) and (a is None or b is None))
    ]
    if lines:
        raise SpecMismatchError(
            f"{left_name} ({left.name}) and {right_name} ({right.name}) mean different things by their numbers:\n"
            + "\n".join(lines)
            + "\nUse data and policy of one embodiment, or convert the data first."
        )


def differences(left: Any, right: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Return (path, left value, right value) for each leaf in which two nested specifications differ."""
    if dataclasses.is_dataclass(left) and type(left) is type(right):
        pairs = [(f.name, getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left)]
        dot = f"{path}." if path else ""
        return [d for name, a, b in pairs for d in differences(a, b, dot + name)]
    if isinstance(left, tuple) and isinstance(right, tuple) and len(left) == len(right):  # pyright: ignore[reportUnknownArgumentType]
        return [d for i, (a, b) in enumerate(zip(left, right, strict=True)) for d in differences(a, b, f"{path}[{i}]")]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return [] if left == right else [(path, left, right)]
