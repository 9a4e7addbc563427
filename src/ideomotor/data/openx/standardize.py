"""From a raw episode to the standard form: most datasets are slices put side by side; two need a function of their own.

The rules are those of OpenVLA's data loading (Kim et al. 2024, arXiv 2406.09246), written anew.

L = steps of a raw episode, K = steps that remain, S = state channels, A = action channels.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32

from ideomotor.data.openx.parts import Binarized, Fill, Inverted, Part, Relabelled, Take, joined, restored
from ideomotor.data.openx.record import RawEpisode, StandardEpisode

RULES = 1  # raised when a rule in this folder gives other numbers, so that no cache of the old ones is found

REPLACEMENT = 0xFFFD  # Unicode's sign for what is no character


@dataclass(frozen=True)
class Slices:
    """State and action are parts side by side; a fixed number of steps is left out at both ends."""

    state: tuple[Part, ...]
    action: tuple[Part, ...]
    trim: tuple[int, int] = (0, 0)  # steps left out at the start and at the end

    def __call__(self, raw: RawEpisode) -> StandardEpisode:
        """Return the standard form of an episode.

        Raises:
            UserError: a column is missing or too narrow.
        """
        length = len(next(iter(raw.columns.values()), ()))
        keep = np.arange(self.trim[0], max(self.trim[0], length - self.trim[1]), dtype=np.int64)
        state, action = joined(self.state, raw.columns, length), joined(self.action, raw.columns, length)
        return StandardEpisode(keep, state[keep], action[keep], raw.instruction)

    def restore(self, action: Float32[np.ndarray, "K A"]) -> dict[str, np.ndarray]:
        """Return the raw action columns of the steps that remain."""
        return {name: rows for name, rows in restored(self.action, action).items() if name.startswith("action")}


# BridgeData V2: x, y, z, roll, pitch, yaw, gripper in both state and action. The first step's action is all zero, and a policy that
# learns it freezes (arXiv 2406.09246); the motion is read off the states, and the last step has no next one.

BRIDGE = Slices(
    state=(Take("observation.state", 0, 6), Fill(0.0, 1), Take("observation.state", -1, 1)),
    action=(Relabelled(Take("observation.state", 0, 6)), Binarized(Take("action", -1, 1))),
    trim=(1, 1),
)


# DROID: velocities of the end effector, and steps in which the robot stands still.

DROID = Slices(
    state=(Take("observation.cartesian_position", 0, 6), Take("observation.gripper_position", 0, 1)),
    action=(Take("action_dict.cartesian_velocity", 0, 6), Inverted(Take("action_dict.gripper_position", 0, 1))),
)
DROID_Q01 = np.array([-0.77762979, -0.58035141, -0.57950908, -0.64640477, -0.70411083, -0.88951044])
DROID_Q99 = np.array([0.75979321, 0.57262422, 0.73510006, 0.67056103, 0.64649482, 0.88975422])
IDLE = 1e-5  # in normalized units: a motion nearer to 0 is none


def droid(raw: RawEpisode) -> StandardEpisode:
    """Leave out the steps in which the end effector is told to stand still."""
    whole = DROID(raw)
    moves = moving(whole.action[:, :6])
    return replace(whole, keep=whole.keep[moves], state=whole.state[moves], action=whole.action[moves])


def moving(velocity: Float32[np.ndarray, "L 6"]) -> Bool[np.ndarray, " L"]:
    """Return where one of six numbers, scaled by DROID's 1st and 99th percentiles to [-1, 1], is off zero by more than 1e-5."""
    scale = 2 / (DROID_Q99 - DROID_Q01)  # the offset of the scaling cancels, and so near to zero nothing is clipped
    return np.any(np.abs(velocity.astype(np.float64) * scale) > IDLE, axis=1)


# Language-Table: two numbers, and a sentence written as numbers.

LANGUAGE_TABLE = Slices(
    state=(Take("observation.effector_translation", 0, 2), Fill(0.0, 6)),
    action=(Take("action", 0, 2), Fill(0.0, 4), Fill(1.0, 1)),
)


def language_table(raw: RawEpisode) -> StandardEpisode:
    """Read the sentence of the first step from its code points."""
    standard = LANGUAGE_TABLE(raw)
    codes = raw.columns["observation.instruction"]
    return replace(standard, instruction=decoded(codes[0]) if len(codes) else raw.instruction)


def decoded(codes: np.ndarray) -> str:
    """Return the text of code points up to the first 0.

    >>> decoded(np.array([112, 117, 115, 104, 0, 0, 33]))
    'push'
    """
    text = codes.reshape(-1).astype(np.int64)
    text = text[: np.argmax(text == 0)] if (text == 0).any() else text
    legal = (text > 0) & (text <= 0x10FFFF) & ~((text >= 0xD800) & (text <= 0xDFFF))
    return "".join(map(chr, np.where(legal, text, REPLACEMENT).tolist()))
