"""Which objects stand where: drawn from a seed, by counters, so that the same seed gives the same scene on every machine."""

import math
from dataclasses import dataclass

import numpy as np

from ideomotor.sim.objects import GAP, OBJECTS, ROBOT_ROWS, ObjectKind

X_RANGE = (0.36, 0.62)  # [m] where centres of objects may stand, from the base of the arm
Y_RANGE = (-0.22, 0.22)  # [m]
FINGER_ROOM = (
    0.070  # [m] from the centre of a grasped object to the nearest other one that stands upright: open fingers fit
)
PLACEMENT_TRIES = 40  # draws for one object before the whole layout is started again
LAYOUT_TRIES = 200

# What the numbers drawn from a seed are used for; each use has its own stream, so that adding a draw to one moves no other.
STREAM_SCENE, STREAM_GOAL, STREAM_WORDING, STREAM_TASK = 0, 1, 2, 3


@dataclass(frozen=True)
class Placed:
    """One object on the table: its row in `OBJECTS` and where it stands in the base frame."""

    kind_row: int
    x: float  # [m]
    y: float  # [m]
    yaw: float  # [rad]

    @property
    def kind(self) -> ObjectKind:
        """Its row of the table."""
        return OBJECTS[self.kind_row]


@dataclass(frozen=True)
class Scene:
    """A layout. Objects are ordered by shape, so that scenes with the same set of shapes share one physics model."""

    seed: int
    objects: tuple[Placed, ...]

    @property
    def graspable(self) -> tuple[int, ...]:
        """Indices of the objects that fit the gripper."""
        return tuple(i for i, placed in enumerate(self.objects) if placed.kind.shape.graspable)

    @property
    def receptacles(self) -> tuple[int, ...]:
        """Indices of the objects that other objects are put on."""
        return tuple(i for i, placed in enumerate(self.objects) if placed.kind.shape.receptacle)


class ScenePlacementError(RuntimeError):
    """The objects do not fit on the table."""


def generator(seed: int, stream: int) -> np.random.Generator:
    """Return the generator of one stream of a seed (Philox: a pure function of key and counter).

    >>> generator(7, STREAM_GOAL).integers(1000) == generator(7, STREAM_GOAL).integers(1000)
    np.True_
    """
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))


def separation(first: ObjectKind, second: ObjectKind) -> float:
    """Return the smallest allowed distance [m] between the centres of two objects."""
    least = first.shape.radius + second.shape.radius + GAP
    if first.shape.graspable and second.shape.graspable:
        least = max(least, FINGER_ROOM + max(first.shape.radius, second.shape.radius))
    return least


def draw_scene(seed: int, rows: tuple[int, ...] = ROBOT_ROWS) -> Scene:
    """Draw 2-4 graspable objects and two receptacles of different colours from the allowed rows.

    No two objects are equal, and every graspable object shares its colour or its shape with another one where the rows allow it,
    so that both words of an instruction matter.
    """
    rng = generator(seed, STREAM_SCENE)
    chosen = sorted(
        [*_draw_graspable(rng, rows), *_draw_receptacles(rng, rows)], key=lambda row: (_shape_order(row), rng.random())
    )
    return Scene(seed, place(rng, tuple(chosen)))


def place(rng: np.random.Generator, rows: tuple[int, ...]) -> tuple[Placed, ...]:
    """Find a free place for each row; a layout in which one does not fit is given up as a whole.

    Raises:
        ScenePlacementError: no layout was found.
    """
    for _ in range(LAYOUT_TRIES):
        placed = _try_layout(rng, rows)
        if placed is not None:
            return placed
    raise ScenePlacementError(f"no layout of {len(rows)} objects found in {LAYOUT_TRIES} tries; use fewer objects")


def _try_layout(rng: np.random.Generator, rows: tuple[int, ...]) -> tuple[Placed, ...] | None:
    placed: dict[int, Placed] = {}
    for i in sorted(
        range(len(rows)), key=lambda i: -OBJECTS[rows[i]].shape.radius
    ):  # large ones first: they fit less often
        for _ in range(PLACEMENT_TRIES):
            x, y, yaw = rng.uniform(*X_RANGE), rng.uniform(*Y_RANGE), rng.uniform(-math.pi, math.pi)
            here = Placed(rows[i], float(x), float(y), float(yaw))
            if all(math.hypot(x - o.x, y - o.y) >= separation(here.kind, o.kind) for o in placed.values()):
                placed[i] = here
                break
        else:
            return None
    return tuple(placed[i] for i in range(len(rows)))


def _draw_graspable(rng: np.random.Generator, rows: tuple[int, ...]) -> list[int]:
    candidates = [row for row in rows if OBJECTS[row].shape.graspable]
    chosen = [int(rng.choice(candidates))]
    for _ in range(min(int(rng.integers(2, 5)), len(candidates)) - 1):
        free = [row for row in candidates if row not in chosen]
        alike = [row for row in free if any(_alike(row, other) for other in chosen)]
        chosen.append(int(rng.choice(alike or free)))
    return chosen


def _draw_receptacles(rng: np.random.Generator, rows: tuple[int, ...]) -> list[int]:
    candidates = [row for row in rows if OBJECTS[row].shape.receptacle]
    first = int(rng.choice(candidates))
    second = int(rng.choice([row for row in candidates if OBJECTS[row].colour != OBJECTS[first].colour]))
    return [first, second]


def _alike(first: int, second: int) -> bool:
    return OBJECTS[first].shape == OBJECTS[second].shape or OBJECTS[first].colour == OBJECTS[second].colour


def _shape_order(row: int) -> str:
    return OBJECTS[row].shape.name
