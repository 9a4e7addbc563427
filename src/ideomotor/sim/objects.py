"""The things on the table: one frozen table of shapes, colours and their combinations.

A row index of `OBJECTS` is an identity: it is stored in datasets and is a class of the label heads. Rows may be appended,
never moved or changed.
"""

from dataclasses import dataclass
from typing import Literal

Split = Literal["robot", "web", "never"]  # seen by robots; seen only in web data; never seen in training

GAP = 0.015  # [m] smallest free space between the outlines of two objects on the table


@dataclass(frozen=True)
class Shape:
    """A form with its physics. Lengths in metres, masses in kilograms."""

    name: str
    geometry: Literal["box", "cylinder"]
    size: tuple[float, ...]  # half sizes x, y, z; for a cylinder radius and half height
    mass: float
    radius: float  # of the smallest upright cylinder that holds it
    yaw_symmetry: int  # equal views in one turn about the vertical; 0: round
    graspable: bool
    receptacle: bool
    stackable: bool  # its top is flat and wide enough to carry another object

    @property
    def half_height(self) -> float:
        """Half of its height."""
        return self.size[-1]

    @property
    def rest_z(self) -> float:
        """Height of its centre when it stands on the table."""
        return self.size[-1]


@dataclass(frozen=True)
class Colour:
    """A colour with its name in instructions."""

    name: str
    rgb: tuple[float, float, float]


# Sizes: two centimetres of room in the gripper, no taller than 1.5 diameters, >= 8 px in the front image.
# Bars and cubes are grasped across x.
SHAPES = (
    Shape("cube", "box", (0.026, 0.026, 0.026), 0.05, 0.037, 4, graspable=True, receptacle=False, stackable=True),
    Shape("can", "cylinder", (0.025, 0.032), 0.05, 0.025, 0, graspable=True, receptacle=False, stackable=True),
    Shape("bar", "box", (0.020, 0.045, 0.020), 0.05, 0.0493, 2, graspable=True, receptacle=False, stackable=False),
    Shape("plate", "cylinder", (0.060, 0.004), 0.15, 0.060, 0, graspable=False, receptacle=True, stackable=False),
)
COLOURS = (
    Colour("red", (0.85, 0.10, 0.10)),
    Colour("green", (0.10, 0.65, 0.15)),
    Colour("blue", (0.10, 0.25, 0.90)),
    Colour("yellow", (0.95, 0.85, 0.10)),
    Colour("purple", (0.55, 0.15, 0.70)),
    Colour("orange", (0.98, 0.50, 0.05)),
    Colour("pink", (0.98, 0.60, 0.75)),
    Colour("cyan", (0.10, 0.80, 0.85)),
    Colour("white", (0.93, 0.93, 0.93)),
    Colour("brown", (0.40, 0.22, 0.10)),
)
SHAPES_BY_NAME = {shape.name: shape for shape in SHAPES}
COLOURS_BY_NAME = {colour.name: colour for colour in COLOURS}


@dataclass(frozen=True)
class ObjectKind:
    """One row of the table: a shape in a colour, and who may see it."""

    shape: Shape
    colour: Colour
    split: Split

    @property
    def name(self) -> str:
        """What people call it, as "red cube"."""
        return f"{self.colour.name} {self.shape.name}"


def _kind(shape: str, colour: str, split: Split) -> ObjectKind:
    return ObjectKind(SHAPES_BY_NAME[shape], COLOURS_BY_NAME[colour], split)


# fmt: off
OBJECTS: tuple[ObjectKind, ...] = (
    _kind("cube", "red", "robot"), _kind("cube", "green", "robot"), _kind("cube", "blue", "robot"),
    _kind("cube", "yellow", "robot"), _kind("cube", "purple", "robot"), _kind("cube", "orange", "robot"),
    _kind("can", "red", "robot"), _kind("can", "green", "robot"), _kind("can", "blue", "robot"),
    _kind("can", "yellow", "robot"), _kind("can", "purple", "robot"), _kind("can", "orange", "never"),  # new combination
    _kind("bar", "red", "robot"), _kind("bar", "green", "robot"), _kind("bar", "blue", "robot"),
    _kind("bar", "yellow", "robot"), _kind("bar", "purple", "never"), _kind("bar", "orange", "robot"),  # new combination
    _kind("plate", "red", "robot"), _kind("plate", "green", "robot"), _kind("plate", "blue", "robot"),
    _kind("plate", "yellow", "robot"), _kind("plate", "purple", "robot"), _kind("plate", "orange", "robot"),
    _kind("cube", "pink", "web"), _kind("can", "pink", "web"), _kind("bar", "pink", "web"), _kind("plate", "pink", "web"),
    _kind("cube", "cyan", "web"), _kind("can", "cyan", "web"), _kind("bar", "cyan", "web"), _kind("plate", "cyan", "web"),
    _kind("cube", "white", "never"), _kind("can", "white", "never"),
    _kind("bar", "white", "never"), _kind("plate", "white", "never"),
    _kind("cube", "brown", "never"), _kind("can", "brown", "never"),
    _kind("bar", "brown", "never"), _kind("plate", "brown", "never"),
)
# fmt: on
ROBOT_ROWS = tuple(row for row, kind in enumerate(OBJECTS) if kind.split == "robot")
