"""What follows from an embodiment's specification alone: the keys that statistics belong to, what is unknown in it, which channels grip."""

import re
from collections import defaultdict
from typing import Any

import numpy as np
from jaxtyping import Bool

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError
from ideomotor.core.spec import Channel, Embodiment, RotationForm

GRIPPER = re.compile(r"grip|finger|jaw|claw", re.IGNORECASE)  # names of channels that open and close
UNKNOWN = "unknown"


def action_key(embodiment: Embodiment) -> str:
    """Return the hash of the action's specification: robot, channels (name, unit, frame, mode), rotation, gripper.

    Datasets of one key share their statistics. An unknown is not equal to another unknown: where a part of the specification is
    unknown, the key is that of the embodiment's name alone, and nothing is pooled with it.
    """
    gripper = embodiment.gripper
    grips = None if gripper is None else [gripper.channel, gripper.open, gripper.closed]
    return _key(embodiment, embodiment.action, embodiment.action_rotation, {"gripper": grips})


def state_key(embodiment: Embodiment) -> str:
    """Return the hash of the state's specification: robot, channels (name, unit, frame, mode), rotation, and what measured it."""
    return _key(embodiment, embodiment.state, embodiment.state_rotation, {"source": embodiment.state_source})


def _key(embodiment: Embodiment, channels: tuple[Channel, ...], rotation: RotationForm, more: dict[str, Any]) -> str:
    whole = not _unknown_of(channels) and not _doubtful(rotation)
    return jsonable.fingerprint(
        {
            "robot": embodiment.robot,
            "channels": [[channel.name, channel.unit, channel.frame, channel.mode] for channel in channels],
            "rotation": jsonable.to_json(rotation),
            "only": "" if whole and embodiment.robot != UNKNOWN else embodiment.name,
            **more,
        }
    )


def unknowns(embodiment: Embodiment) -> tuple[str, ...]:
    """Return what is not known of the numbers, a sentence for each kind; nothing where all is known."""
    found: list[str] = []
    for name, channels, rotation in (
        ("action", embodiment.action, embodiment.action_rotation),
        ("state", embodiment.state, embodiment.state_rotation),
    ):
        found += [f"{what} of {name} {', '.join(names)}" for what, names in _unknown_of(channels).items()]
        if _doubtful(rotation):
            layout = " (its layout)" if rotation.form != UNKNOWN else ""
            found.append(f"rotation of {name}{layout}")
    grips = [channel.name for channel in embodiment.action if GRIPPER.search(channel.name)]
    if grips and embodiment.gripper is None:
        found.append(f"which value of {', '.join(grips)} opens the gripper")
    return tuple(found)


def check_for_robot(embodiment: Embodiment) -> None:
    """Refuse to move a robot by numbers of which something is not known.

    Raises:
        UserError: an unknown unit, frame, mode or rotation; the message names the channels.
    """
    if open_questions := unknowns(embodiment):
        raise UserError(
            f"the embodiment '{embodiment.name}' does not say all that a robot needs to know. Unknown: {'; '.join(open_questions)}."
            " Nothing moves by such numbers: find out what they are, write it into the embodiment's file, and train or load with"
            " --embodiment FILE"
        )


def grippers(embodiment: Embodiment) -> Bool[np.ndarray, " A"]:
    """Return which action channels move a gripper: the stated one, and others by their name."""
    stated = None if embodiment.gripper is None else embodiment.gripper.channel
    return np.array([c.name == stated or bool(GRIPPER.search(c.name)) for c in embodiment.action], bool)


def _unknown_of(channels: tuple[Channel, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for channel in channels:
        for what in ("unit", "frame", "mode"):
            if getattr(channel, what) == UNKNOWN:
                found[what].append(channel.name)
    return found


def _doubtful(rotation: RotationForm) -> bool:
    """Tell whether a rotation cannot be read: of another form than stated, or in an order that is not stated."""
    needs_layout = rotation.form in ("euler", "quaternion", "rot6d")
    return rotation.form == UNKNOWN or (needs_layout and rotation.layout in ("", UNKNOWN))
