"""What stands around an arm, as a shield sees it: bounds, obstacles, a held object, and how far to stay away.

Everything is in the base frame of `robot.arm` [m], except a held object, which rides in the tool frame. Data only: who computes
distances is `robot.clearance`, and, independently of it, `robot.checker`.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError
from ideomotor.core.files import read_json
from ideomotor.robot.arm import Vector3

FURTHEST = 1e3  # [m] no number here is larger: squares stay finite, and no arm reaches so far


@dataclass(frozen=True)
class Sphere:
    """A ball."""

    centre: Vector3
    radius: float


@dataclass(frozen=True)
class CapsuleShape:
    """All points within `radius` of a line from `start` to `end`."""

    start: Vector3
    end: Vector3
    radius: float


@dataclass(frozen=True)
class BoxShape:
    """A box, turned about the base's z by `yaw`."""

    centre: Vector3
    half: Vector3  # half of its edges
    yaw: float = 0.0  # [rad]


@dataclass(frozen=True)
class HalfSpace:
    """All points p with normal . p <= offset: a floor is normal (0, 0, 1), offset its height."""

    normal: Vector3  # unit vector out of the obstacle, towards the free side
    offset: float


Shape = Sphere | CapsuleShape | BoxShape | HalfSpace


@dataclass(frozen=True)
class Obstacle:
    """Something to stay away from."""

    name: str
    shape: Shape
    margin: float | None = None  # [m] instead of the common one
    may_touch: tuple[str, ...] = ()  # parts of the arm for which it is none: "finger", "held", "hand", "link6", ...


@dataclass(frozen=True)
class Bounds:
    """The box in which wrist (origin of the last link) and tool centre point stay."""

    low: Vector3
    high: Vector3


@dataclass(frozen=True)
class Held:
    """An object in the gripper: a capsule in the tool frame, part "held"."""

    start: Vector3
    end: Vector3
    radius: float
    mass: float = 0.0  # [kg]


@dataclass(frozen=True)
class Margins:
    """Distances that every commanded pose keeps."""

    obstacle: float = 0.040  # [m]
    self_collision: float = 0.005  # [m] between parts of the arm
    bounds: float = 0.0005  # [m] inside the bounds
    joint: float = 0.001  # [rad] inside the position limits
    goal: float = 0.020  # [rad] proposals are clipped this far inside the position limits


@dataclass(frozen=True)
class Surroundings:
    """Where an arm works. The default is empty space: joint limits and self-collision alone."""

    bounds: Bounds | None = None
    obstacles: tuple[Obstacle, ...] = ()
    held: Held | None = None
    payload: float = 0.0  # [kg] beyond the held object's mass
    margins: Margins = Margins()

    def __post_init__(self) -> None:
        _check(self)


def load_surroundings(path: Path) -> Surroundings:
    """Read a user's JSON file; its fields are those of `Surroundings`, shapes carry their class name as "type".

    Raises:
        UserError: it is missing or no such file; the message names the field.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there; give a JSON file with bounds, obstacles, held, payload and margins")
    return jsonable.from_json(Surroundings, read_json(path), str(path))


def _check(around: Surroundings) -> None:
    names = [obstacle.name for obstacle in around.obstacles]
    if len(set(names)) < len(names):
        raise UserError(f"surroundings: obstacles share a name in {names}; give each its own")
    for obstacle in around.obstacles:
        _check_shape(obstacle.name, obstacle.shape)
        if obstacle.margin is not None:
            _within(f"margin of {obstacle.name}", obstacle.margin, 0.0)
    if around.bounds is not None and not all(
        -FURTHEST < low < high < FURTHEST for low, high in zip(around.bounds.low, around.bounds.high, strict=True)
    ):
        raise UserError(
            f"surroundings: {around.bounds}: low should lie below high on every axis, within {FURTHEST:g} m"
        )
    if around.held is not None:
        _check_shape("the held object", CapsuleShape(around.held.start, around.held.end, around.held.radius))
        _within("mass of the held object", around.held.mass, 0.0)
    _within("payload", around.payload, 0.0)
    for name, value in vars(around.margins).items():
        if not 0.0 <= value < 1.0:
            raise UserError(f"surroundings: margin {name} is {value}; from 0 to below 1 is allowed")
    _positive("margin self_collision", around.margins.self_collision)  # the bound between samples needs a distance


def _check_shape(name: str, shape: Shape) -> None:
    match shape:
        case Sphere(centre, radius):
            sizes, numbers = (radius,), centre
        case CapsuleShape(start, end, radius):
            sizes, numbers = (radius,), (*start, *end)
        case BoxShape(centre, half, yaw):
            sizes, numbers = half, (*centre, yaw)
        case HalfSpace(normal, offset):
            sizes, numbers = (), (*normal, offset)
            if not abs(math.hypot(*normal) - 1.0) <= 1e-6:
                raise UserError(f"surroundings: normal of {name} has length {math.hypot(*normal):g}; it should be 1")
    for size in sizes:
        _positive(f"radius or half edge of {name}", size)
    for number in numbers:
        _within(f"a number of {name}", number, -FURTHEST)


def _positive(what: str, value: float) -> None:
    if not 0.0 < value < FURTHEST:
        raise UserError(f"surroundings: {what} is {value}; it should be above 0 and below {FURTHEST:g}")


def _within(what: str, value: float, lowest: float) -> None:
    if not lowest <= value <= FURTHEST:
        raise UserError(f"surroundings: {what} is {value}; it should lie from {lowest:g} to {FURTHEST:g}")
