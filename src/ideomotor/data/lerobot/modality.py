"""`meta/modality.json`: how GR00T cuts the state and the action of a LeRobotDataset v2.1 into parts, and what its cameras are called.

Source of the keys: getting_started/data_preparation.md and gr00t/data/schema.py of Isaac-GR00T.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ideomotor.core.spec import Channel, Embodiment, RotationForm
from ideomotor.data.dataset import ACTION, STATE, Feature
from ideomotor.data.lerobot.info import CameraFeature

INSTRUCTION = "human.action.task_description"  # GR00T's name of the instruction
_WIDTH = {"rotation_vector": 3, "euler": 3, "quaternion": 4, "rot6d": 6, "matrix": 9}


def modality(
    features: Mapping[str, Feature], cameras: Sequence[CameraFeature], embodiment: Embodiment | None
) -> dict[str, Any]:
    """Return the content of the file: parts by the embodiment's channels, one part each where it is not known."""
    known = {
        STATE: (embodiment.state, embodiment.state_rotation) if embodiment else None,
        ACTION: (embodiment.action, embodiment.action_rotation) if embodiment else None,
    }
    gripper = embodiment.gripper.channel if embodiment and embodiment.gripper else ""
    parts: dict[str, Any] = {}
    for key, name in ((STATE, "state"), (ACTION, "action")):
        feature, meaning = features.get(key), known[key]
        if feature is None:
            parts[name] = {}
        elif meaning and len(meaning[0]) == feature.shape[0]:
            parts[name] = channel_parts(meaning[0], meaning[1], gripper, feature.dtype)
        else:
            parts[name] = {name: {"start": 0, "end": feature.shape[0], "dtype": feature.dtype}}
    return {
        **parts,
        "video": {camera.role: {"original_key": camera.key} for camera in cameras},
        "annotation": {INSTRUCTION: {"original_key": "task_index"}},
    }


def channel_parts(
    channels: Sequence[Channel], rotation: RotationForm, gripper: str = "", dtype: str = "float32"
) -> dict[str, dict[str, Any]]:
    """Return half-open slices of neighbouring channels: the rotation, the gripper, and runs of one name ("joint_0", "joint_1").

    >>> channels = [Channel(n, "rad", frame="joint") for n in ("joint_0", "joint_1")] + [Channel("grip", "fraction")]
    >>> channel_parts(channels, RotationForm("none"), "grip")["joint"]
    {'start': 0, 'end': 2, 'dtype': 'float32', 'absolute': True}
    """
    stems = [_stem(channel.name) if channel.name != gripper else "gripper" for channel in channels]
    turned = range(rotation.first, rotation.first + _WIDTH.get(rotation.form, 0)) if rotation.first >= 0 else range(0)
    parts: dict[str, dict[str, Any]] = {}
    start = 0
    for end in range(1, len(channels) + 1):
        if end < len(channels) and _kind(channels, stems, turned, end) == _kind(channels, stems, turned, start):
            continue
        name = "rotation" if start in turned else stems[start]
        part: dict[str, Any] = {"start": start, "end": end, "dtype": dtype}
        if (mode := channels[start].mode) != "unknown":
            part["absolute"] = mode == "absolute"
        if start in turned and (form := rotation_type(rotation)):
            part["rotation_type"] = form
        parts[_free(name, parts)] = part
        start = end
    return parts


def rotation_type(rotation: RotationForm) -> str | None:
    """Return GR00T's word for a rotation, None where it has none that means the same.

    It converts by pytorch3d: quaternions begin with w, Euler angles are intrinsic and in the order of their letters.
    """
    if rotation.form == "euler":
        intrinsic = sorted(rotation.layout) == ["X", "Y", "Z"]
        letters = rotation.layout.translate(str.maketrans("XYZ", "rpy"))
        return f"euler_angles_{letters}" if intrinsic else None
    if rotation.form == "quaternion" and rotation.layout != "wxyz":
        return None
    if rotation.form == "rot6d" and rotation.layout != "rows":
        return None
    return {
        "rotation_vector": "axis_angle", "quaternion": "quaternion", "rot6d": "rotation_6d", "matrix": "matrix"
    }.get(rotation.form)  # fmt: skip


def _kind(channels: Sequence[Channel], stems: Sequence[str], turned: range, index: int) -> tuple[Any, ...]:
    if index in turned:
        return ("rotation",)
    return (stems[index], channels[index].mode)


def _stem(name: str) -> str:
    """Return a channel's name without its number or axis: "joint_3" and "joint_4" are one part."""
    return re.sub(r"[_.\-]?(?:[xyzw]|\d+)$", "", name) or "part"


def _free(name: str, taken: Mapping[str, Any]) -> str:
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free
