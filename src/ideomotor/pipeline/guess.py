"""What the numbers of a foreign checkpoint probably mean: an embodiment with the evidence for each of its parts.

OpenVLA's files hold statistics and sizes, and nothing about robot, rate, units or frames. A guess is shown to the user and
not used until they say that it is right.
"""

from dataclasses import dataclass

import numpy as np

from ideomotor.core.spec import Camera, Channel, Embodiment, Gripper, RotationForm
from ideomotor.data.norm_stats import Column
from ideomotor.data.openx.record import SIGN_TO_VERIFY
from ideomotor.data.openx.records import RECORDS

UNKNOWN_RATE = 1.0  # [1/s] stands in where nothing is known: slow

# Robot and rate [1/s] of the datasets that OpenVLA's statistics name, and those whose gripper's sign was never verified on the data.
DATASETS = {name: (record.embodiment.robot, record.embodiment.rate_hz) for name, record in RECORDS.items()}
DOUBTFUL_GRIPPERS = frozenset(name for name, record in RECORDS.items() if SIGN_TO_VERIFY in record.questions)
ROLES = {
    1: ("front",),
    2: ("front", "wrist"),
    3: ("front", "left_wrist", "right_wrist"),
}  # primary first, then the wrists

MOVES = tuple(f"ee_delta_{axis}" for axis in "xyz")
TURNS = tuple(f"ee_delta_{angle}" for angle in ("roll", "pitch", "yaw"))
SIX = tuple(f"ee_delta_r{row}{column}" for row in range(2) for column in range(3))


@dataclass(frozen=True)
class Guess:
    """An embodiment that nobody has confirmed."""

    embodiment: Embodiment
    evidence: tuple[str, ...]  # a sentence for each of its parts

    def __str__(self) -> str:
        """The evidence, a line each."""
        return "\n".join(f"  - {sentence}" for sentence in self.evidence)


@dataclass(frozen=True)
class Sizes:
    """What the weights say."""

    cameras: tuple[str, ...]  # the roles they are given
    image_size: int  # [px]
    state_width: int | None  # None: the state is not read


def guess_embodiment(key: str, action: Column, sizes: Sizes) -> Guess:
    """Return the likely meaning of a checkpoint's numbers.

    Args:
        key: of the statistics.
        action: the statistics of the action.
        sizes: what the weights say.
    """
    robot, rate_hz, who = _robot(key)
    channels, rotation, gripper, what = _action(key, action)
    state, whence = _state(sizes.state_width)
    cameras, seen = _cameras(key, sizes)
    embodiment = Embodiment(
        name=key,
        robot=robot,
        rate_hz=rate_hz,
        action=channels,
        state=state,
        cameras=cameras,
        action_rotation=rotation,
        state_rotation=RotationForm("unknown" if state else "none"),
        gripper=gripper,
        state_source="unknown",
        alignment="unknown",
    )
    return Guess(embodiment, (who, *what, *whence, *seen))


def _robot(key: str) -> tuple[str, float, str]:
    known = DATASETS.get(key) or DATASETS.get(f"{key}_no_noops")  # users shorten LIBERO's names
    if known is None:
        return "unknown", UNKNOWN_RATE, f"robot and rate unknown: no known dataset is called '{key}'; 1 Hz stands in"
    return (
        *known,
        f"robot {known[0]} at {known[1]:g} Hz: '{key}' is a dataset of that robot and rate",
    )


def _action(key: str, action: Column) -> tuple[tuple[Channel, ...], RotationForm, Gripper | None, list[str]]:
    """Return channels, rotation and gripper of an action, and the sentences about them."""
    width = action.width
    passes = action.mask[:-1].all() and not action.mask[-1]
    if width in (7, 10) and (passes or (width == 7 and key in DATASETS)):
        turns, form = (TURNS, RotationForm("unknown", first=3)) if width == 7 else (SIX, RotationForm("rot6d", first=3))
        channels = (
            *(Channel(name, "unknown", "unknown", "delta") for name in (*MOVES, *turns)),
            Channel("gripper", "fraction", "none", "absolute", 0.0, 1.0),
        )
        form_name = "roll, pitch and yaw" if width == 7 else "six numbers of a rotation matrix"
        last = "the last of them alone not scaled" if passes else "of a known dataset"
        sentences = [
            f"action = steps of the end effector in x, y, z, {form_name}, and a gripper: {width} numbers, {last}, as in OpenVLA's form",
            "gripper 1 = open, 0 = closed: what OpenVLA's readers make of every dataset"
            + ("; for this one the sign was never verified: try it" if key in DOUBTFUL_GRIPPERS else ""),
            "units and frames unknown: the datasets mix metres, scaled steps and speeds, and no file says which",
        ]
        return channels, form, Gripper("gripper", open=1.0, closed=0.0, threshold=0.5), sentences
    if width == 14:
        joints = tuple(Channel(f"joint_{i}", "unknown", "joint", "absolute") for i in range(width))
        return (
            joints,
            RotationForm("none"),
            None,
            ["action = positions of two arms' joints: 14 numbers, as OpenVLA-OFT has for ALOHA"],
        )
    unknown = tuple(Channel(f"action_{i}", "unknown", "unknown", "unknown") for i in range(width))
    scaled = "all of them scaled" if bool(action.mask.all()) else f"scaled: {int(np.count_nonzero(action.mask))}"
    return (
        unknown,
        RotationForm("unknown"),
        None,
        [f"action unknown: {width} numbers, {scaled}, is no form that OpenVLA's readers make"],
    )


def _state(width: int | None) -> tuple[tuple[Channel, ...], list[str]]:
    if width is None:
        return (), ["no state: the network does not read it"]
    channels = tuple(Channel(f"state_{i}", "unknown", "unknown", "unknown") for i in range(width))
    return channels, [f"state unknown: {width} numbers, in the order of the dataset that it was trained on"]


def camera_roles(key: str, count: int) -> tuple[str, ...]:
    """Return roles for the images that a network takes: OpenVLA's primary view first, then the wrists."""
    if key == "dobbe" and count == 1:  # its primary view is the wrist's
        return ("wrist",)
    return ROLES.get(count) or tuple(f"camera_{i}" for i in range(count))


def _cameras(key: str, sizes: Sizes) -> tuple[tuple[Camera, ...], list[str]]:
    cameras = tuple(Camera(role, sizes.image_size, sizes.image_size, orientation="unknown") for role in sizes.cameras)
    count = len(cameras)
    sentences = [
        f"camera{'s' if count > 1 else ''} {', '.join(sizes.cameras)}: the network takes {count} image{'s' if count > 1 else ''}; any size will do"
    ]
    if key.startswith("libero_"):
        sentences.append("LIBERO's pictures were turned by 180 degrees for training: turn those of the simulator, too")
    return cameras, sentences
