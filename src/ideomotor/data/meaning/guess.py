"""What the numbers of a dataset probably mean, where it does not say: an embodiment with the evidence for each of its parts.

A guess is shown to the user, who writes it to a file, corrects it and gives it back (`--embodiment FILE`); it is never used before.
What nothing tells stays "unknown".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ideomotor.core.spec import Camera, Channel, Embodiment
from ideomotor.data.dataset import ACTION, STATE, Dataset
from ideomotor.data.meaning.action import read_action
from ideomotor.data.meaning.evidence import take_sample
from ideomotor.data.meaning.parts import Read
from ideomotor.data.meaning.specification import unknowns
from ideomotor.data.meaning.state import read_state

STAND_IN = 1.0  # [1/s] rate where nothing is known: slow
TIMES = ("timestamp", "observation.timestamp", "observation.time", "time")  # columns that may hold seconds

ROBOTS = (  # words in a dataset's name, and the robot; the first that is found
    (r"franka|panda|droid", "franka"),
    (r"widowx|bridge", "widowx"),
    (r"ur5e?", "ur5"),
    (r"ur10e?", "ur10"),
    (r"so-?10[01]", "so100"),
    (r"aloha", "aloha"),
    (r"koch", "koch"),
    (r"xarm", "xarm"),
    (r"kuka", "kuka-iiwa"),
    (r"sawyer", "sawyer"),
    (r"jaco", "jaco-2"),
    (r"fanuc", "fanuc"),
    (r"stretch", "stretch"),
)
ROLES = (  # words in a camera's name, and its role
    (r"wrist|hand|gripper", "wrist"),
    (r"top|overhead|high", "top"),
    (r"low", "low"),
    (r"side", "side"),
    (r"back|rear", "back"),
    (r"front|agentview|primary|static|exterior|third|main|base|scene", "front"),
)


@dataclass(frozen=True)
class Guess:
    """An embodiment that nobody has confirmed."""

    embodiment: Embodiment
    evidence: tuple[str, ...]  # a sentence for each of its parts


def guess(dataset: Dataset) -> Guess:
    """Return the likely meaning of a dataset's numbers.

    Raises:
        UserError: it has no action, no frames, or values that are not finite.
    """
    sample = take_sample(dataset)
    rate, when = _rate(dataset)
    action = read_action(sample, _names(dataset, ACTION), rate)
    state = read_state(sample, _names(dataset, STATE), action)
    name = _name(dataset)
    robot, who = _robot(name)
    cameras, seen = _cameras(dataset.cameras)
    embodiment = Embodiment(
        name=name,
        robot=robot,
        rate_hz=rate or STAND_IN,
        action=_with_unit_of_state(action, state),
        state=state.channels,
        cameras=cameras,
        action_rotation=action.rotation,
        state_rotation=state.rotation,
        gripper=action.gripper,
        state_source="unknown",
        alignment=action.alignment,
    )
    looked = f"looked at {len(sample.action)} frames of {len(sample.actions)} episodes"
    return Guess(embodiment, (looked, who, when, *action.sentences, *state.sentences, *seen))


def guess_text(found: Guess) -> str:
    """Return a guess for people: what it says, why, and what is left open."""
    e = found.embodiment
    lines = [f"{e.name}: robot {e.robot}, {e.rate_hz:g} Hz"]
    for column, channels, rotation in (("action", e.action, e.action_rotation), ("state", e.state, e.state_rotation)):
        for first, last in _alike(channels):
            c = channels[first]
            names = ", ".join(channel.name for channel in channels[first:last])
            lines.append(f"  {column}[{first}:{last}]  {names}: {c.mode}, unit {c.unit}, frame {c.frame}")
        if rotation.form != "none":
            lines.append(f"  rotation of {column}  {rotation.form} {rotation.layout or 'of unknown layout'}")
    if e.gripper:
        lines.append(f"  gripper  {e.gripper.channel}: {e.gripper.open:g} opens, {e.gripper.closed:g} closes")
    for camera in e.cameras:
        named = f" (called '{camera.source}')" if camera.source not in ("unknown", camera.role) else ""
        lines.append(f"  camera  {camera.role}{named}: {camera.width} x {camera.height}")
    lines += ["Why:", *(f"  - {sentence}" for sentence in found.evidence)]
    if left := unknowns(e):
        lines += ["Unknown, and refused on robots until it is written down:", *(f"  - {what}" for what in left)]
    return "\n".join(lines)


def write_guess(found: Guess, path: Path) -> None:
    """Write the embodiment as a file to be corrected.

    Raises:
        UserError: the file is there already.
    """
    from ideomotor.data.meaning.described import write_embodiment

    write_embodiment(found.embodiment, path)


def _with_unit_of_state(action: Read, state: Read) -> tuple[Channel, ...]:
    """Return the action's channels, those that move in the state's unit with that unit."""
    channels = list(action.channels)
    for run, first in action.unit_of_state:
        for k, channel in enumerate(run.channels):
            if first + k < len(state.channels):
                channels[channel] = replace(channels[channel], unit=state.channels[first + k].unit)
    return tuple(channels)


def _names(dataset: Dataset, column: str) -> Sequence[str] | None:
    return dataset.features[column].names if column in dataset.features else None


def _name(dataset: Dataset) -> str:
    path = dataset.path.resolve()
    return path.parent.name if re.fullmatch(r"v?\d+(\.\d+)+", path.name) else path.stem


def _robot(name: str) -> tuple[str, str]:
    for words, robot in ROBOTS:
        if found := re.search(words, name, re.IGNORECASE):
            return robot, f"robot {robot}: the dataset is called '{name}', which holds '{found.group()}'"
    return "unknown", f"robot unknown: the name '{name}' says none"


def _rate(dataset: Dataset) -> tuple[float | None, str]:
    if dataset.fps is not None:
        return float(dataset.fps), f"rate {dataset.fps:g} Hz: the dataset says so"
    for name in TIMES:
        feature = dataset.features.get(name)
        if feature is None or not feature.numeric or int(np.prod(feature.shape)) != 1:
            continue
        episodes = [e for e in range(min(len(dataset), 8)) if dataset.length(e) > 1]
        steps = [np.diff(dataset.column(e, name).reshape(-1).astype(np.float64)) for e in episodes]
        step = float(np.median(np.concatenate(steps))) if steps else 0.0
        if 1e-3 <= step <= 10.0:
            return round(1 / step, 3), f"rate {1 / step:.3g} Hz: '{name}' goes on by {step:.4g} a frame, in the median"
    return None, f"rate unknown: neither the format nor a column of times tells; {STAND_IN:g} Hz stands in, correct it"


def _cameras(cameras: Mapping[str, Camera]) -> tuple[tuple[Camera, ...], list[str]]:
    found: list[Camera] = []
    sentences: list[str] = []
    for name, camera in cameras.items():
        role, why = camera_role(name), "by its name"
        if not role and len(cameras) == 1:
            role, why = "front", "the only one"
        if not role or role in {other.role for other in found} or (role != name and role in cameras):
            sentences.append(f"camera '{name}': its name tells no role of its own, and it keeps the name")
            found.append(replace(camera, role=name, source=name))
        else:
            sentences.append(f"camera '{name}': {role}, {why}")
            found.append(replace(camera, role=role, source=name))
    if any(camera.orientation == "unknown" for camera in found):
        sentences.append("whether pictures stand upright nothing tells: look at them (`ideomotor data view`)")
    return tuple(found), sentences


def camera_role(name: str) -> str:
    """Return the role that a camera's name tells, "" where it tells none.

    >>> [camera_role(name) for name in ("cam_left_wrist", "agentview_rgb", "image_0", "exterior_image_1_left", "eye_in_hand_rgb")]
    ['left_wrist', 'front', '', 'front', 'wrist']
    """
    for words, role in ROLES:
        if re.search(words, name, re.IGNORECASE):
            side = re.search(r"left|right", name, re.IGNORECASE) if role == "wrist" else None
            return f"{side.group().lower()}_{role}" if side else role
    return ""


def _alike(channels: Sequence[Channel]) -> list[tuple[int, int]]:
    """Return runs (first, one past the last) of channels that differ by their names alone."""
    starts = [i for i, c in enumerate(channels) if i == 0 or replace(c, name="") != replace(channels[i - 1], name="")]
    return list(zip(starts, [*starts[1:], len(channels)], strict=False))
