"""RT-X's target: the action of RT-1's robot, as the public training example of RT-1-X maps ten datasets to it.

Source: the notebook of google-deepmind/open_x_embodiment (Open X-Embodiment Collaboration 2023, arXiv 2310.08864).

**Surprises.** Three defects of that example are not repeated: TACO play is scaled by its own bounds, not by BridgeData's; labels are meant
for the bounds with which the network decodes (`WORLD_BOUNDS`); TOTO's open gripper is -1, as everyone's. Kuka and Language-Table
have weights in the example, but no mapping.

L = steps of an episode.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32

from ideomotor.core.errors import UserError, unknown
from ideomotor.data.openx.parts import Columns

WORLD_BOUNDS = (-2.0, 2.0)  # of the world vector, for labels and for decoding alike
Triple = tuple[float, float, float]
Rows = Float32[np.ndarray, "L 3"]


@dataclass(frozen=True)
class RtxAction:
    """An action of RT-1's arm; its base stands still."""

    world_vector: Float32[np.ndarray, "L 3"]
    rotation_delta: Float32[np.ndarray, "L 3"]
    gripper_closedness: Float32[np.ndarray, "L 1"]  # -1 opens, +1 closes
    terminate: Float32[np.ndarray, "L 3"]  # one of: end the episode, move the arm, move the base


@dataclass(frozen=True)
class Times:
    """Multiplied by a number."""

    factor: float = 1.0

    def __call__(self, rows: Rows) -> Rows:
        """Return the scaled numbers."""
        return rows * np.float32(self.factor)

    def undo(self, rows: Rows) -> Rows:
        """Return the raw numbers."""
        return rows / np.float32(self.factor)


@dataclass(frozen=True)
class Ranged:
    """[low, high] becomes [-bound, bound], and what is beyond `clip` is clipped."""

    low: Triple
    high: Triple
    bound: float
    clip: float = np.inf

    def __call__(self, rows: Rows) -> Rows:
        """Return the scaled numbers."""
        low, high = np.array(self.low), np.array(self.high)
        scaled = ((rows - low) / (high - low) * 2 - 1) * self.bound
        return np.clip(scaled, -self.clip, self.clip).astype(np.float32)

    def undo(self, rows: Rows) -> Rows:
        """Return the raw numbers, where nothing was clipped."""
        low, high = np.array(self.low), np.array(self.high)
        return ((rows / self.bound + 1) / 2 * (high - low) + low).astype(np.float32)


@dataclass(frozen=True)
class Standard:
    """Minus the mean, divided by the deviation."""

    mean: Triple
    std: Triple

    def __call__(self, rows: Rows) -> Rows:
        """Return the scaled numbers."""
        return ((rows - np.array(self.mean)) / np.array(self.std)).astype(np.float32)

    def undo(self, rows: Rows) -> Rows:
        """Return the raw numbers."""
        return (rows * np.array(self.std) + np.array(self.mean)).astype(np.float32)


@dataclass(frozen=True)
class Gripper:
    """Where the gripper's command is, and what it says: closedness as it is, or whether to open."""

    column: str = "action.gripper_closedness_action"
    says: Literal["closedness", "open"] = "closedness"
    index: int = 0

    def __call__(self, columns: Columns, length: int) -> Float32[np.ndarray, "L 1"]:
        """Return -1 where it opens, +1 where it closes."""
        values = _rows(columns, self.column, length)[:, self.index : self.index + 1]
        return np.float32(1) - np.float32(2) * (values > 0.5).astype(np.float32) if self.says == "open" else values


@dataclass(frozen=True)
class RtxMap:
    """How one dataset becomes RT-1's action; None: zeros."""

    world: Times | Ranged | Standard = Times()
    rotation: Times | Ranged | None = Times()
    gripper: Gripper | None = Gripper()
    pose: str = ""  # one column that holds world vector and rotation; empty: one for each

    @property
    def reads(self) -> tuple[str, ...]:
        """The raw columns that are needed."""
        rotation = ("action.rotation_delta",) if self.rotation else ()
        motion = (self.pose,) if self.pose else ("action.world_vector", *rotation)
        gripper = (self.gripper.column,) if self.gripper else ()
        return tuple(dict.fromkeys((*motion, *gripper, "action.terminate_episode")))


RTX_MAPS: Mapping[str, RtxMap] = {
    "fractal20220817_data": RtxMap(),
    "bridge": RtxMap(
        Ranged((-0.05, -0.05, -0.05), (0.05, 0.05, 0.05), 1.75, 1.74),
        Ranged((-0.25, -0.25, -0.25), (0.25, 0.25, 0.25), 1.4, 1.39),
        Gripper("action.open_gripper", "open"),
    ),
    "taco_play": RtxMap(
        Ranged((0.0, -0.5, 0.0), (0.8, 0.7, 0.6), 0.99),
        Ranged((-3.2, -0.8, -1.8), (3.2, 0.2, 2.5), 0.99),
        Gripper("action.actions", index=6),
        pose="action.actions",
    ),
    "jaco_play": RtxMap(
        Standard((0.00096585, -0.00580069, -0.00395066), (0.12234575, 0.09676983, 0.11155209)), rotation=None
    ),
    "berkeley_cable_routing": RtxMap(gripper=None),
    "roboturk": RtxMap(),
    "nyu_door_opening_surprising_effectiveness": RtxMap(Times(20.0), Times(15.0)),
    "viola": RtxMap(Times(1.75), Times(3.0)),
    "berkeley_autolab_ur5": RtxMap(Times(100.0), Times(15.0)),
    "toto": RtxMap(Times(2.0), gripper=Gripper("action.open_gripper", "open")),
}


def rtx_action(name: str, columns: Columns) -> RtxAction:
    """Return the actions of an episode of dataset `name`, from its raw columns (`RTX_MAPS[name].reads`).

    Raises:
        UserError: there is no mapping of it, or a column is missing or too narrow.
    """
    if name not in RTX_MAPS:
        raise unknown("dataset that RT-X's example maps", name, RTX_MAPS)
    mapping = RTX_MAPS[name]
    if missing := [column for column in mapping.reads if column not in columns]:
        raise UserError(f"'{name}' lacks {', '.join(missing)}, which RT-X's mapping reads; it has {', '.join(columns)}")
    length = len(columns[mapping.reads[0]])
    world = _rows(columns, mapping.pose or "action.world_vector", length)[:, :3]
    if mapping.rotation is None:
        rotation = np.zeros((length, 3), np.float32)
    elif mapping.pose:
        rotation = mapping.rotation(_rows(columns, mapping.pose, length)[:, 3:6])
    else:
        rotation = mapping.rotation(_rows(columns, "action.rotation_delta", length)[:, :3])
    gripper = mapping.gripper(columns, length) if mapping.gripper else np.zeros((length, 1), np.float32)
    terminate = _terminate(_rows(columns, "action.terminate_episode", length))
    return RtxAction(mapping.world(world), rotation, gripper, terminate)


def _terminate(flags: Float32[np.ndarray, "L n"]) -> Float32[np.ndarray, "L 3"]:
    """Return RT-1's three-way choice: as it is where the dataset has it, else from a flag that is 1 at the end."""
    if flags.shape[1] == 3:
        return flags
    ends = flags[:, 0] == 1
    return np.stack([ends, ~ends, np.zeros_like(ends)], axis=1).astype(np.float32)


def _rows(columns: Columns, name: str, length: int) -> Float32[np.ndarray, "L n"]:
    values = np.asarray(columns[name])
    return values.reshape(length, int(np.prod(values.shape[1:]))).astype(np.float32)
