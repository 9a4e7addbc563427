"""The independent checker: reads what was commanded, and says where that broke a limit or came too near to something.

A second layer behind the shield, no safety-rated system. It shares nothing with the shield but the tables of numbers: poses come from
MuJoCo, distances from a search along the axis of each capsule. It knows neither proposals nor speeds: joint positions, one per tick.

What is checked at tick k, with v_k = (q_k - q_{k-1}) / dt, a_k = (v_k - v_{k-1}) / dt, j_k = (a_k - a_{k-1}) / dt:

- |v|, |a|, |j| against the rated limits times a share. Backward differences are weighted means of the derivatives, so a motion that keeps
  the limits at every instant keeps them here. Allowed beyond them: 1e-9 of the limit, and the rounding of the positions.
- A speed limit that depends on the position, at the *end* of the tick. Outwards the limit only falls, so of all positions of a tick the
  end allows least, and whichever of them a robot uses, it finds the command legal. A motion that rides on the law itself trips this: its
  mean speed belongs to a position half a tick earlier. A filter that passes here stays v dt / 2 inside the law. The law is the robot's
  own, and no share is taken of it.
- The tool centre point's |p_k - p_{k-1}| / dt against a cap, if there is one.
- Distances, also between the ticks: commands are joined by straight lines in joint space and looked at in `places` points of each.

*Episodes* begin at rest, in their first command (or in a measured pose that is handed over). They may begin outside a limit or a
margin. From there it may only get better: no joint moves further out than the least it has been, and the distance required of a pair is
the largest that its commanded poses have had so far, until that reaches the margin.

Letters: K ticks, J joints, N poses, W watched points, P pairs (or faces) that are kept apart, M elements; 3 = x y z, base frame [m].
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import mujoco
import numpy as np
from jaxtyping import Float, Int

from ideomotor.core.errors import UserError
from ideomotor.robot.arm import Arm, Vector3
from ideomotor.robot.limits import Limits, Share
from ideomotor.robot.surroundings import BoxShape, CapsuleShape, HalfSpace, Obstacle, Sphere, Surroundings

RELATIVE = 1e-9  # of a limit: what a difference may exceed it by
EPS = float(np.finfo(np.float64).eps)
PRECISION = 1e-7  # [m] of a distance
FREE = 2  # parts of the foot and of link 1 are no matter for obstacles: one stands, one turns about its own axis
BLOCK = 128  # ticks whose distances are computed together: a matter of speed alone
LARGEST = 100.0  # [m] of a capsule
RATED = Share()
GOLD = (math.sqrt(5.0) - 1.0) / 2.0  # golden section


class Kind(StrEnum):
    """What was broken."""

    NONFINITE = "nonfinite"  # NaN, infinite, or not J numbers
    POSITION = "position"  # [rad]
    VELOCITY = "velocity"  # [rad/s]
    ACCELERATION = "acceleration"  # [rad/s^2]
    JERK = "jerk"  # [rad/s^3]
    SPEED_LAW = "speed_law"  # [rad/s] the limit that depends on the position
    TOOL_SPEED = "tool_speed"  # [m/s]
    WORKSPACE = "workspace"  # [m] distance inside a face of the bounds
    OBSTACLE = "obstacle"  # [m] distance
    SELF_COLLISION = "self_collision"  # [m] distance


UNITS = {
    Kind.NONFINITE: "", Kind.POSITION: "rad", Kind.VELOCITY: "rad/s", Kind.ACCELERATION: "rad/s^2", Kind.JERK: "rad/s^3",
    Kind.SPEED_LAW: "rad/s", Kind.TOOL_SPEED: "m/s", Kind.WORKSPACE: "m", Kind.OBSTACLE: "m", Kind.SELF_COLLISION: "m",
}  # fmt: skip
DISTANCES = (Kind.WORKSPACE, Kind.OBSTACLE, Kind.SELF_COLLISION)


@dataclass(frozen=True)
class Violation:
    """One limit or margin that one command broke."""

    kind: Kind
    tick: int  # index of the command, counted from the start of the run
    names: tuple[str, ...]  # the joint, or the two that came too near
    value: float  # in the unit of the kind
    allowed: float  # the most for a limit, the least for a distance

    def __str__(self) -> str:
        """Return it as a sentence.

        >>> print(Violation(Kind.OBSTACLE, 7, ("link5", "shelf"), 0.031, 0.0399))
        tick 7: obstacle of link5, shelf is 0.031 m, at least 0.0399 m is allowed
        """
        if self.kind is Kind.NONFINITE:
            return f"tick {self.tick}: {', '.join(self.names)} is {self.value}, no finite number"
        unit, least = UNITS[self.kind], "at least" if self.kind in DISTANCES else "up to"
        names = ", ".join(self.names)
        return f"tick {self.tick}: {self.kind} of {names} is {self.value:.6g} {unit}, {least} {self.allowed:.6g} {unit} is allowed"


def counts(violations: Iterable[Violation]) -> dict[str, int]:
    """Return how many there are of each kind, zeros included."""
    found = dict.fromkeys(map(str, Kind), 0)
    for violation in violations:
        found[violation.kind] += 1
    return found


@runtime_checkable
class Rod(Protocol):
    """A capsule of a part (`robot.body.Capsule`), in the frame of its link.

    Link i's frame has joint i's axis as its z and turns with the joint; link 0 is the foot. From a table: modified DH frame i; for the
    standard convention frame i - 1, turned by q_i. From a file: the origin is the joint's anchor, the axes are those of the joint's
    body, turned half about their x if the joint's axis points down in them, and then by the shortest turn that brings z onto it;
    link 0's frame is the world's.
    """

    @property
    def part(self) -> str: ...
    @property
    def link(self) -> int: ...
    @property
    def start(self) -> Vector3: ...
    @property
    def end(self) -> Vector3: ...
    @property
    def radius(self) -> float: ...


@dataclass(frozen=True)
class ModelFile:
    """An arm from an MJCF or URDF file. Its joints are the hinges on the way to the tool; all others stay at their reference."""

    path: Path
    tool: str = ""  # site or body at the tool centre point; "": the only site on the last link, else its only end


@dataclass(frozen=True)
class _Held:
    """What `Surroundings.held` says, as a capsule of the last link's part "held"."""

    start: Vector3  # [m] in the tool frame, unlike the other capsules
    end: Vector3
    radius: float
    link: int
    part: str = "held"


@dataclass(frozen=True)
class Clearances:
    """Smallest distances within each tick [m]; infinite where there is nothing to keep away from, NaN where the command is."""

    obstacle: Float[np.ndarray, " K"]
    self_collision: Float[np.ndarray, " K"]
    workspace: Float[np.ndarray, " K"]  # inside the nearest face


@dataclass(frozen=True)
class Checker:
    """What is promised about the commands of one arm. Everything that runs is in its streams, which may live side by side."""

    source: Arm | ModelFile | Path
    limits: Limits  # as rated
    capsules: tuple[Rod, ...]
    self_pairs: tuple[tuple[int, int], ...]  # indices of capsules; what is held adds the pairs of the last link's parts
    around: Surroundings
    dt: float  # [s] between two commands
    share: Share = RATED  # of the rated speed, acceleration and jerk; infinite: not checked
    tool_speed: float | None = None  # [m/s] cap; None: not checked
    joint_margin: float = 0.0  # [rad] that is kept from the position limits
    allowance: float = 1e-4  # [m] that distances may fall short by
    places: int = 8  # places of each tick in which distances are looked at

    def __post_init__(self) -> None:
        """Refuse what does not fit together, before anything moves."""
        if not 0.0 < self.dt < 10.0 or self.places < 1:
            raise UserError(
                f"checker: ticks of {self.dt} s, {self.places} places; give seconds above 0, 1 place or more"
            )
        joints, count = self.limits.num_joints, len(self.capsules)
        if isinstance(self.source, Arm) and self.source.num_joints != joints:
            name, own = self.source.name, self.source.num_joints
            raise UserError(f"checker: limits of {joints} joints for arm '{name}', which has {own}; give its own")
        for capsule in self.capsules:
            numbers = (*capsule.start, *capsule.end, capsule.radius)
            if not (0 <= capsule.link <= joints and all(abs(number) < LARGEST for number in numbers)):
                raise UserError(f"checker: {capsule}: links 0 to {joints} and numbers below {LARGEST:g} m are allowed")
        if not all(0 <= i < count and 0 <= k < count and i != k for i, k in self.self_pairs):
            raise UserError(f"checker: pairs {self.self_pairs}: two different indices below {count} are allowed")
        _ = self.skeleton, self.kept

    @cached_property
    def rods(self) -> tuple[Rod, ...]:
        """All capsules; a held object is the last one, unless the capsules have one."""
        held = self.around.held
        if held is None or any(capsule.part == "held" for capsule in self.capsules):
            return self.capsules
        return (*self.capsules, _Held(held.start, held.end, held.radius, self.limits.num_joints))

    @cached_property
    def skeleton(self) -> "_Skeleton":
        """The arm in MuJoCo."""
        if isinstance(self.source, Arm):
            return _skeleton_of_table(self.source, self.rods)
        file = self.source if isinstance(self.source, ModelFile) else ModelFile(self.source)
        return _skeleton_of_file(file, self.rods, self.limits.num_joints)

    @cached_property
    def kept(self) -> "_Kept":
        """All distances that are kept."""
        return _kept(self)

    def stream(self) -> "Stream":
        """Return a checker of a run that comes in blocks or tick by tick."""
        return Stream(self)

    def check(self, q_KJ: Any, *, measured: Any = None, tool_speed: Any = None) -> list[Violation]:
        """Return what is wrong with a whole episode of commands [rad]; `measured` and `tool_speed` as in `Stream`."""
        stream = self.stream()
        stream.restart(measured)
        return stream.extend(q_KJ, tool_speed)

    def clearances(self, q_KJ: Any) -> Clearances:
        """Return the smallest distances within each tick of an episode (for plots)."""
        q = _commands(q_KJ, self.limits.num_joints)
        finite = np.all(np.isfinite(q), axis=1)
        rows = np.full((len(self.kept.kinds), len(q)), np.nan)
        if finite.any():
            rows[:, finite], data = 0.0, mujoco.MjData(self.skeleton.model)
            path = q[finite]
            path = np.concatenate([path[:1], path])
            for begin in range(0, len(path) - 1, BLOCK):
                block = _between(path[begin : begin + BLOCK + 1], self.places)
                distance = self.kept.distances(self.skeleton.points(data, block), exact=True)
                where = np.flatnonzero(finite)[begin : begin + BLOCK]
                rows[:, where] = distance.reshape(len(rows), len(where), self.places).min(axis=-1)
        floor = np.where(finite, np.inf, np.nan)[None]

        def least(kind: Kind) -> np.ndarray:
            return np.concatenate([floor, rows[[k is kind for k in self.kept.kinds]]]).min(axis=0)

        return Clearances(least(Kind.OBSTACLE), least(Kind.SELF_COLLISION), least(Kind.WORKSPACE))


class Stream:
    """Checks a run block by block: any cut into blocks, down to single commands, finds the same.

    A command with a number that is not finite is a violation, and the one before it stands in for it in everything else: a robot that
    is told nothing holds, and a jump behind the gap is seen.
    """

    def __init__(self, checker: Checker) -> None:
        self.tick = 0  # of the next command
        self._checker = checker
        self._data = mujoco.MjData(checker.skeleton.model)
        self._past: np.ndarray | None = None  # [rad] the last three commands; None: no command since the episode began
        self._least = self._most = np.empty(0)  # [rad] that each joint has had in this episode
        self._best = np.empty(0)  # [m] largest distance of each pair in this episode
        self._tool = np.empty(3)  # [m] tool centre point at the last command

    def restart(self, measured: Any = None) -> None:
        """Begin a new episode: after a start, a reconnect, a take-over. Ticks are counted on.

        Args:
            measured: [rad] where the arm stands; the first command is then checked against it. Without it, it begins in its first command.

        Raises:
            UserError: `measured` is not J finite numbers.
        """
        self._past = None
        if measured is None:
            return
        q, joints = _numbers(measured), self._checker.limits.num_joints
        if q is None or q.shape != (joints,) or not np.isfinite(q).all():
            raise UserError(f"checker: measured pose {measured}; give {joints} finite joint positions [rad]")
        self._begin(q)

    def step(self, q: Any, tool_speed: Any = None) -> list[Violation]:
        """Return what is wrong with one more command, whatever it is. It never raises."""
        joints = self._checker.limits.num_joints
        row = _numbers(q)
        if row is None or row.shape != (joints,):
            row = np.full(joints, np.nan)
        return self.extend(row[None], tool_speed)

    def extend(self, q_KJ: Any, tool_speed: Any = None) -> list[Violation]:
        """Return what is wrong with further commands [rad], in the order of their ticks.

        Args:
            q_KJ: K rows of J numbers.
            tool_speed: [m/s] cap of these commands, one number or K, instead of the checker's.

        Raises:
            UserError: not K rows of J numbers.
        """
        checker = self._checker
        q = _commands(q_KJ, checker.limits.num_joints)
        cap = checker.tool_speed if tool_speed is None else tool_speed
        cap_K = np.broadcast_to(np.asarray(math.inf if cap is None else cap, np.float64), (len(q),))
        ticks = self.tick + np.arange(len(q))
        self.tick += len(q)
        finite = np.all(np.isfinite(q), axis=1)
        found = [
            Violation(Kind.NONFINITE, int(ticks[k]), (f"joint{i + 1}",), math.nan, math.nan)
            for k, i in np.argwhere(~np.isfinite(q))
        ]
        begin = 0
        if self._past is None:
            if not finite.any():
                return found
            begin = int(finite.argmax()) + 1
            self._begin(q[begin - 1])
        assert self._past is not None
        known = np.concatenate([self._past[-1:], q[begin:]])
        kept = np.concatenate([[True], finite[begin:]])
        last = np.maximum.accumulate(np.where(kept, np.arange(len(known)), 0))[1:]
        path, ticks, cap_K = known[last], ticks[begin:], cap_K[begin:]
        with np.errstate(over="ignore", invalid="ignore"):  # 1e300 is a finite number; NaN never compares as allowed
            for start in range(0, len(path), BLOCK):
                block = slice(start, start + BLOCK)
                found += self._advance(path[block], ticks[block], cap_K[block])
        return sorted(found, key=lambda violation: violation.tick)

    def _begin(self, q: Float[np.ndarray, " J"]) -> None:
        """Start an episode at rest in a pose."""
        points = self._checker.skeleton.points(self._data, q[None])
        self._past = np.stack([q, q, q])
        self._least = self._most = q
        self._best = self._checker.kept.distances(points)[:, 0]
        self._tool = points[:, -1, 0]

    def _advance(
        self, q: Float[np.ndarray, "K J"], ticks: Int[np.ndarray, " K"], cap: Float[np.ndarray, " K"]
    ) -> list[Violation]:
        """Check finite commands and remember what the next ones need."""
        checker = self._checker
        assert self._past is not None
        path = np.concatenate([self._past, q])
        found = [*self._motion(ticks, path), *self._positions(q, ticks)]
        points = checker.skeleton.points(self._data, _between(path[2:], checker.places))
        tool = np.concatenate([self._tool[:, None], points[:, -1, checker.places - 1 :: checker.places]], axis=1)
        speed = np.linalg.norm(np.diff(tool, axis=1), axis=0) / checker.dt
        bound = cap * (1.0 + RELATIVE) + 16.0 * EPS / checker.dt  # rounding of poses a few metres away
        found += _found(Kind.TOOL_SPEED, ticks, [("tool",)], speed[:, None], bound[:, None])
        found += self._distances(checker.kept.distances(points).reshape(-1, len(q), checker.places), ticks)
        self._past, self._tool = path[-3:], tool[:, -1]
        return found

    def _motion(self, ticks: Int[np.ndarray, " K"], path: Float[np.ndarray, "K+3 J"]) -> list[Violation]:
        checker, limits, share, count = self._checker, self._checker.limits, self._checker.share, len(ticks)
        names = _joint_names(limits.num_joints)
        size = np.lib.stride_tricks.sliding_window_view(np.abs(path), 4, axis=0).max(axis=-1)  # of a jerk's positions
        value, found = path, list[Violation]()
        tables = (
            (Kind.VELOCITY, limits.speed, share.speed), (Kind.ACCELERATION, limits.acceleration, share.acceleration),
            (Kind.JERK, limits.jerk, share.jerk),
        )  # fmt: skip
        for order, (kind, table, part) in enumerate(tables, 1):
            value = np.diff(value, axis=0) / checker.dt
            rounding = 2.0**order * EPS * size / checker.dt**order  # weights 1 1, 1 2 1, 1 3 3 1 of what is off by eps
            bound = part * np.array(table) * (1.0 + RELATIVE) + rounding
            found += _found(kind, ticks, names, np.abs(value[-count:]), bound)
        law = limits.speed_law
        if law is not None:
            q, speed = path[3:], np.diff(path[2:], axis=0) / checker.dt
            room = np.where(speed > 0.0, np.array(law.high) - q, q - np.array(law.low))
            bound = np.sqrt(np.array(law.gain) * np.maximum(room, 0.0)) - np.array(law.offset)
            bound = np.maximum(bound, 0.0) + RELATIVE * np.array(limits.speed) + 2.0 * EPS * size / checker.dt
            found += _found(Kind.SPEED_LAW, ticks, names, np.abs(speed), bound)
        return found

    def _positions(self, q: Float[np.ndarray, "K J"], ticks: Int[np.ndarray, " K"]) -> list[Violation]:
        limits, margin = self._checker.limits, self._checker.joint_margin
        low, high = np.array(limits.q_min) + margin, np.array(limits.q_max) - margin
        least = np.minimum.accumulate(np.concatenate([self._least[None], q]))
        most = np.maximum.accumulate(np.concatenate([self._most[None], q]))
        self._least, self._most = least[-1], most[-1]
        names, slack = _joint_names(limits.num_joints), RELATIVE * np.maximum(np.abs(low), np.abs(high))
        above = _found(Kind.POSITION, ticks, names, q, np.maximum(high, least[:-1]) + slack)
        below = _found(Kind.POSITION, ticks, names, q, np.minimum(low, most[:-1]) - slack, at_least=True)
        return above + below

    def _distances(self, distance_PKS: Float[np.ndarray, "P K S"], ticks: Int[np.ndarray, " K"]) -> list[Violation]:
        """Compare with what is required; S places of each tick, its end last."""
        kept, found = self._checker.kept, list[Violation]()
        best = np.maximum.accumulate(np.concatenate([self._best[:, None], distance_PKS[:, :, -1]], axis=1), axis=1)
        self._best = best[:, -1]
        worst = distance_PKS.min(axis=-1)
        required = np.minimum(kept.margin[:, None], best[:, :-1]) - self._checker.allowance
        for kind in DISTANCES:
            rows = [p for p, k in enumerate(kept.kinds) if k is kind]
            names = [kept.names[p] for p in rows]
            found += _found(kind, ticks, names, worst[rows].T, required[rows].T, at_least=True)
        return found


def _found(
    kind: Kind,
    ticks: Int[np.ndarray, " K"],
    names: list[tuple[str, ...]],
    value: Float[np.ndarray, "K P"],
    bound: Float[np.ndarray, "K P"],
    *,
    at_least: bool = False,
) -> list[Violation]:
    """Return the places in which value is not within its bound; NaN is within none."""
    bad = ~(value >= bound) if at_least else ~(value <= bound)
    if not bad.any():
        return []
    return [
        Violation(kind, int(ticks[k]), names[p], float(value[k, p]), float(bound[k, p])) for k, p in np.argwhere(bad)
    ]


def _joint_names(joints: int) -> list[tuple[str, ...]]:
    return [(f"joint{i + 1}",) for i in range(joints)]


def _numbers(value: Any) -> np.ndarray | None:
    """Return real numbers as float64, anything else as None."""
    try:
        array = np.asarray(value)
        with np.errstate(over="ignore"):  # numbers that only a longer float holds become infinite
            return array.astype(np.float64) if array.dtype.kind in "fiu" else None
    except Exception:  # noqa: BLE001  whatever comes in, it is no command
        return None


def _commands(value: Any, joints: int) -> np.ndarray:
    array = _numbers(value)
    if array is None or array.ndim != 2 or array.shape[1] != joints:
        shape = "no numbers" if array is None else f"an array of shape {array.shape}"
        raise UserError(f"checker: commands are {shape}; give one row of {joints} joint positions [rad] for each tick")
    return array


def _between(path: Float[np.ndarray, "N J"], places: int) -> Float[np.ndarray, "M J"]:
    """Return `places` poses of each step of a path, its end last, its start left out."""
    share = np.arange(1, places + 1)[:, None] / places
    poses = path[:-1, None] * (1.0 - share) + path[1:, None] * share  # exact at the end, where the share is 1
    return poses.reshape(-1, path.shape[1])


# The arm in MuJoCo: every point whose place matters is a site.


@dataclass(frozen=True)
class _Skeleton:
    """A model without anything to collide, and where in it the joints and points are."""

    model: Any  # mujoco.MjModel
    joints: Int[np.ndarray, " J"]  # places in qpos
    sites: Int[np.ndarray, " W"]  # W = 2 C + 2: starts of the capsules, their ends, wrist, tool centre point

    def points(self, data: Any, q: Float[np.ndarray, "N J"]) -> Float[np.ndarray, "3 W N"]:
        """Return where the points are at each pose."""
        full = np.tile(self.model.qpos0, (len(q), 1))
        full[:, self.joints] = q
        places = np.empty((len(q), self.model.nsite, 3))
        qpos, site_xpos = data.qpos, data.site_xpos
        for n in range(len(q)):
            qpos[:] = full[n]
            mujoco.mj_kinematics(self.model, data)
            places[n] = site_xpos
        return np.ascontiguousarray(places[:, self.sites].transpose(2, 1, 0))


def _site_names(rods: tuple[Rod, ...]) -> list[str]:
    ends = [f"checker-{end}{i}" for end in ("start", "end") for i in range(len(rods))]
    return [*ends, "checker-wrist", "checker-tool"]


def _skeleton_of_table(arm: Arm, rods: tuple[Rod, ...]) -> _Skeleton:
    """Write the DH table as nested bodies, one for each of its four moves or two that commute, and let MuJoCo multiply.

    Craig's (modified): T_i = Rx(alpha_i) Tx(a_i) Tz(d_i) Rz(q_i), so link i turns about z at the end of row i.
    Classic (standard): T_i = Rz(q_i) Tz(d_i) Tx(a_i) Rx(alpha_i), so link i turns about z before row i.
    """
    rows = list(zip(arm.a, arm.d, arm.alpha, strict=True))

    def sites(link: int, *, held: bool = False) -> str:
        here = [(i, rod) for i, rod in enumerate(rods) if rod.link == link and isinstance(rod, _Held) is held]
        return "".join(_site(f"checker-start{i}", rod.start) + _site(f"checker-end{i}", rod.end) for i, rod in here)

    here = (0.0, 0.0, 0.0)
    tool = _site("checker-tool", here) + sites(arm.num_joints, held=True)
    text = _turned("z", arm.flange_turn, _moved((0.0, 0.0, arm.gripper.tcp_z), tool))
    if arm.convention == "modified":
        a, d, alpha = rows.pop()
        text = _turned("x", alpha, _moved((a, 0.0, d), text))
    for link, (a, d, alpha) in reversed(list(enumerate(rows, 1))):
        wrist = _site("checker-wrist", here) if link == arm.num_joints else ""
        inertial = '<inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>'
        joint = f'{inertial}<joint name="joint{link}" axis="0 0 1"/>{wrist}{sites(link)}'
        if arm.convention == "modified":
            text = _turned("x", alpha, _moved((a, 0.0, d), joint + text))
        else:
            text = _moved(here, joint + _moved((a, 0.0, d), _turned("x", alpha, text)))
    foot = _moved(arm.mount.position, _turned("z", arm.mount.yaw, sites(0) + text))
    model = mujoco.MjModel.from_xml_string(f'<mujoco><compiler angle="radian"/><worldbody>{foot}</worldbody></mujoco>')
    return _found_in(model, rods, [model.joint(f"joint{i + 1}").id for i in range(arm.num_joints)])


def _moved(position: Vector3, content: str) -> str:
    return f'<body pos="{_text(position)}">{content}</body>'


def _turned(axis: Literal["x", "z"], angle: float, content: str) -> str:
    return f'<body axisangle="{"1 0 0" if axis == "x" else "0 0 1"} {float(angle)!r}">{content}</body>'


def _site(name: str, position: Vector3) -> str:
    return f'<site name="{name}" pos="{_text(position)}"/>'


def _text(position: Vector3) -> str:
    return " ".join(repr(float(number)) for number in position)  # all digits


def _found_in(model: Any, rods: tuple[Rod, ...], joints: list[int]) -> _Skeleton:
    sites = [model.site(name).id for name in _site_names(rods)]
    return _Skeleton(model, np.array([model.jnt_qposadr[joint] for joint in joints]), np.array(sites))


def _skeleton_of_file(file: ModelFile, rods: tuple[Rod, ...], count: int) -> _Skeleton:
    """Read a file, leave out all that has a shape or drives, and put the sites into the bodies of its joints."""
    try:
        spec = mujoco.MjSpec.from_file(str(file.path))
        _strip(spec)
        model = spec.compile()
    except (ValueError, OSError, mujoco.FatalError) as error:
        raise UserError(f"{file.path}: MuJoCo cannot read it as MJCF or URDF: {error}") from error
    joints = _hinges(model, file, count)
    body, pose = _tool_of(model, file, int(model.jnt_bodyid[joints[-1]]))
    bodies = {int(item.id): item for item in spec.bodies}
    frames = [(0, (np.zeros(3), np.eye(3))), *((int(model.jnt_bodyid[j]), _joint_frame(model, j)) for j in joints)]

    def put(name: str, place: tuple[int, tuple[np.ndarray, np.ndarray]], point: Vector3) -> None:
        index, (origin, turn) = place
        bodies[index].add_site(name=name, pos=origin + turn @ np.array(point))

    for i, rod in enumerate(rods):
        place = (body, pose) if isinstance(rod, _Held) else frames[rod.link]
        put(f"checker-start{i}", place, rod.start)
        put(f"checker-end{i}", place, rod.end)
    put("checker-wrist", frames[-1], (0.0, 0.0, 0.0))
    put("checker-tool", (body, pose), (0.0, 0.0, 0.0))
    return _found_in(spec.compile(), rods, joints)


STRIPPED = (  # what refers to others first
    "sensors", "keys", "actuators", "tendons", "equalities", "pairs", "excludes", "skins", "flexes", "geoms", "meshes", "hfields",
    "materials", "textures",
)  # fmt: skip


def _strip(spec: Any) -> None:
    """Leave bodies, joints and sites: meshes may be missing, and a body's mass is no matter here."""
    spec.compiler.fusestatic = False
    for kind in STRIPPED:
        for item in list(getattr(spec, kind)):
            spec.delete(item)
    for body in spec.bodies[1:]:
        body.explicitinertial = True
        body.mass, body.inertia, body.ipos = 1.0, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]


def _tool_of(model: Any, file: ModelFile, last: int) -> tuple[int, tuple[np.ndarray, np.ndarray]]:
    """Return the body that carries the tool, and position and axes of the tool frame in it."""
    site, body = _named(model, file.tool)
    if not file.tool:
        stiff = [
            b
            for b in range(model.nbody)
            if last in (up := _way(model, b)) and not any(model.body_jntnum[up[: up.index(last)]])
        ]
        sites = [s for s in range(model.nsite) if model.site_bodyid[s] in stiff]
        ends = [b for b in stiff if not any(model.body_parentid[other] == b for other in stiff)]
        if len(sites) > 1 or (not sites and len(ends) > 1):
            raise UserError(
                f"{file.path}: the last link has {len(sites) or len(ends)} ends; name the tool's site or body"
            )
        site, body = (sites[0] if sites else -1), ends[0]
    if site < 0:
        return body, (np.zeros(3), np.eye(3))
    turn = np.empty(9)
    mujoco.mju_quat2Mat(turn, model.site_quat[site])
    return int(model.site_bodyid[site]), (model.site_pos[site].copy(), turn.reshape(3, 3))


def _named(model: Any, name: str) -> tuple[int, int]:
    """Return the indices of the site and of the body of a name, -1 where there is none."""
    kinds = (mujoco.mjtObj.mjOBJ_SITE, mujoco.mjtObj.mjOBJ_BODY)
    site, body = (int(mujoco.mj_name2id(model, kind, name)) if name else -1 for kind in kinds)
    return site, body


def _hinges(model: Any, file: ModelFile, count: int) -> list[int]:
    """Return the hinges on the way to the tool, from the foot on; without a tool the first ones that follow each other."""
    hinges = [joint for joint in range(model.njnt) if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE]
    bodies = {joint: int(model.jnt_bodyid[joint]) for joint in hinges}
    site, tool = _named(model, file.tool)
    if file.tool and site < 0 and tool < 0:
        names = [model.site(i).name for i in range(model.nsite)] + [model.body(i).name for i in range(1, model.nbody)]
        raise UserError(f"{file.path} has no site or body '{file.tool}' for the tool; it has {names}")
    if file.tool:
        way = _way(model, int(model.site_bodyid[site]) if site >= 0 else tool)
        chain = [joint for joint, body in bodies.items() if body in way]
    else:
        chain = list[int]()
        for joint, body in bodies.items():
            if len(chain) < count and (not chain or bodies[chain[-1]] in _way(model, body)):
                chain.append(joint)
    if len(chain) != count:
        where = f"'{file.tool}'" if file.tool else "the end of its first chain"
        raise UserError(f"{file.path}: {len(chain)} hinges lead to {where}, the limits have {count}; name another tool")
    if len({bodies[joint] for joint in chain}) < count:
        raise UserError(f"{file.path}: two joints move one body; give each joint a body of its own")
    return chain


def _way(model: Any, body: int) -> list[int]:
    """Return a body and all that carry it, up to the world."""
    found = [body]
    while found[-1]:
        found.append(int(model.body_parentid[found[-1]]))
    return found


def _joint_frame(model: Any, joint: int) -> tuple[np.ndarray, np.ndarray]:
    """Return origin and axes of a joint's link in its body, as `Rod` says."""
    axis = model.jnt_axis[joint] / np.linalg.norm(model.jnt_axis[joint])
    half_turn = np.diag([1.0, -1.0, -1.0]) if axis[2] < 0.0 else np.eye(3)
    x, y, z = half_turn @ axis
    p, q = x / (1.0 + z), y / (1.0 + z)
    turn = np.array([[1.0 - x * p, -x * q, x], [-x * q, 1.0 - y * q, y], [-x, -y, z]])
    return model.jnt_pos[joint].copy(), half_turn @ turn


# Distances: a capsule against anything convex.


@dataclass(frozen=True)
class _Lines:
    """Straight lines from start to start + along; points are lines without length."""

    start: np.ndarray  # [3, P, N], [3, P, 1] or [3, M]
    along: np.ndarray

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Return the distance of points from the lines, one by one. Along a straight way it is convex."""
        x, y, z = points - self.start
        u, v, w = self.along
        share = (x * u + y * v + z * w) / np.maximum(u * u + v * v + w * w, 1e-300)
        share = np.minimum(np.maximum(share, 0.0), 1.0)
        return np.sqrt((x - share * u) ** 2 + (y - share * v) ** 2 + (z - share * w) ** 2)


@dataclass(frozen=True)
class _Boxes:
    """Boxes turned about z."""

    centre: np.ndarray  # [3, P, 1] or [3, M]
    half: np.ndarray
    turn: np.ndarray  # [2, ...] cosine and sine of the yaw

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Return the distance of points from the boxes; inside, minus the depth under the nearest face. Convex as well."""
        x, y, z = points - self.centre
        cosine, sine = self.turn
        over = np.stack([np.abs(cosine * x + sine * y), np.abs(cosine * y - sine * x), np.abs(z)])
        over -= self.half
        a, b, c = np.maximum(over, 0.0)
        return np.sqrt(a * a + b * b + c * c) + np.minimum(over.max(axis=0), 0.0)


_Things = _Lines | _Boxes


def _some(things: _Things, *index: np.ndarray) -> _Things:
    """Return the things of some elements."""
    return type(things)(*(table[:, *index] for table in vars(things).values()))


def _capsule_distance(
    starts: Float[np.ndarray, "3 P N"], ends: Float[np.ndarray, "3 P N"], things: _Things, cut: Float[np.ndarray, " P"]
) -> Float[np.ndarray, "P N"]:
    """Return how far lines are from things; where that is at least `cut`, some number from `cut` to the distance."""
    along = ends - starts
    half = 0.5 * np.sqrt((along**2).sum(axis=0))
    distance = things.distance(starts + 0.5 * along) - half  # no point of a line is further from its middle than that
    near = np.nonzero(distance < cut[:, None])
    if near[0].size:
        wide = type(things)(*(np.broadcast_to(t, (len(t), *distance.shape)) for t in vars(things).values()))
        distance[near] = _search(starts[:, *near], along[:, *near], _some(wide, *near), cut[near[0]])
    return distance


def _search(
    start: Float[np.ndarray, "3 M"], along: Float[np.ndarray, "3 M"], things: _Things, cut: Float[np.ndarray, " M"]
) -> Float[np.ndarray, " M"]:
    """Return what `_capsule_distance` does, by golden section: the distance from something convex is convex along a line.

    The least lies in low + [0, width] (in lengths of the line), and both inner points of the section are known. No place in there is
    further than (1 - GOLD) width from the nearer of them, and a distance changes by no more than the way: that bounds what can be missed.
    """
    result, index, width = np.empty(len(cut)), np.arange(len(cut)), 1.0
    length = np.sqrt((along**2).sum(axis=0))
    low = np.zeros(len(cut))
    left, right = things.distance(start + (1.0 - GOLD) * along), things.distance(start + GOLD * along)
    step = 0
    while index.size:
        step += 1
        if step % 4 == 0:
            smaller, missed = np.minimum(left, right), (1.0 - GOLD) * width * length
            sure = missed < PRECISION
            done = sure | (smaller - missed >= cut)
            result[index[done]] = np.where(sure, smaller, smaller - missed)[done]
            go = np.flatnonzero(~done)
            index, start, along, things = index[go], start[:, go], along[:, go], _some(things, go)
            length, low, left, right, cut = length[go], low[go], left[go], right[go], cut[go]
        first = left <= right
        low = np.where(first, low, low + (1.0 - GOLD) * width)
        width *= GOLD
        there = low + np.where(first, 1.0 - GOLD, GOLD) * width
        new = things.distance(start + there * along)
        left, right = np.where(first, new, right), np.where(first, left, new)
    return result


@dataclass(frozen=True)
class _Kept:
    """All that is kept apart, as rows: capsules and spheres around, own parts, boxes, half spaces; then the faces of the bounds."""

    kinds: list[Kind]
    names: list[tuple[str, ...]]
    margin: Float[np.ndarray, " P"]  # [m]
    capsule: Int[np.ndarray, " Q"]  # the part, for all rows but the faces
    reach: Float[np.ndarray, " Q"]  # [m] its radius, with that of a sphere, capsule or part beside it
    axes: _Lines  # [3, A, 1] of capsules and spheres, for the first A rows
    other: Int[np.ndarray, " B"]  # the other part, for the next B rows
    boxes: _Boxes  # [3, C, 1] for the next C rows
    normal: Float[np.ndarray, "D 3"]  # of half spaces, for the next D rows
    offset: Float[np.ndarray, " D"]  # [m]
    faces: Float[np.ndarray, "2 3"] | None  # [m] low and high

    def distances(self, points: Float[np.ndarray, "3 W N"], *, exact: bool = False) -> Float[np.ndarray, "P N"]:
        """Return how far apart things are; unless `exact`, a distance of at least its margin may come out as any number between both."""
        count = points.shape[1] // 2 - 1
        starts, ends = points[:, :count], points[:, count:-2]
        cut = self.margin[: len(self.capsule)] + self.reach
        cut = np.full_like(cut, np.inf) if exact else cut
        parts = _Lines(starts[:, self.other], (ends - starts)[:, self.other])
        rows, row = list[np.ndarray](), 0
        for things, size in (
            (self.axes, self.axes.start.shape[1]), (parts, len(self.other)), (self.boxes, self.boxes.half.shape[1])
        ):  # fmt: skip
            here, row = slice(row, row + size), row + size
            at = self.capsule[here]
            rows.append(_capsule_distance(starts[:, at], ends[:, at], things, cut[here]))
        at = self.capsule[row:]
        heights = [np.einsum("dx,xdn->dn", self.normal, side[:, at]) for side in (starts, ends)]
        rows.append(np.minimum(*heights) - self.offset[:, None])
        rows = [np.concatenate(rows) - self.reach[:, None]]
        if self.faces is not None:
            low, high = self.faces[:, :, None]
            rows += [side for i in (-2, -1) for side in (points[:, i] - low, high - points[:, i])]
        return np.concatenate(rows)


@dataclass(frozen=True)
class _Row:
    """One pair, before all of them become arrays."""

    kind: Kind
    names: tuple[str, str]
    margin: float  # [m]
    capsule: int
    reach: float  # [m]
    thing: Any  # a shape, or the index of a capsule


def _kept(checker: Checker) -> _Kept:
    rods, around = checker.rods, checker.around
    rows = [_obstacle_row(i, rod, o, around) for o in around.obstacles for i, rod in enumerate(rods) if _minds(rod, o)]
    for i, k in _self_pairs(checker):
        names, reach = (rods[i].part, rods[k].part), rods[i].radius + rods[k].radius
        rows.append(_Row(Kind.SELF_COLLISION, names, around.margins.self_collision, i, reach, k))
    axes, own, boxes, spaces = (
        [row for row in rows if isinstance(row.thing, kind)]
        for kind in (Sphere | CapsuleShape, int, BoxShape, HalfSpace)
    )
    rows = [*axes, *own, *boxes, *spaces]
    ends = [(t.centre, t.centre) if isinstance(t, Sphere) else (t.start, t.end) for t in (row.thing for row in axes)]
    start, end = np.array(ends, np.float64).reshape(-1, 2, 3).transpose(1, 2, 0)[..., None]
    bricks: list[BoxShape] = [row.thing for row in boxes]
    turns = [(math.cos(brick.yaw), math.sin(brick.yaw)) for brick in bricks]
    faces = [(point, f"{side} {axis}") for point in ("wrist", "tool") for side in ("low", "high") for axis in "xyz"]
    bounds = around.bounds
    faces = [] if bounds is None else faces
    return _Kept(
        kinds=[*(row.kind for row in rows), *(Kind.WORKSPACE for _ in faces)],
        names=[*(row.names for row in rows), *faces],
        margin=np.array([*(row.margin for row in rows), *(around.margins.bounds for _ in faces)], np.float64),
        capsule=np.array([row.capsule for row in rows], np.int64),
        reach=np.array([row.reach for row in rows], np.float64),
        axes=_Lines(start, end - start),
        other=np.array([row.thing for row in own], np.int64),
        boxes=_Boxes(
            _columns([b.centre for b in bricks], 3), _columns([b.half for b in bricks], 3), _columns(turns, 2)
        ),
        normal=np.array([row.thing.normal for row in spaces], np.float64).reshape(-1, 3),
        offset=np.array([row.thing.offset for row in spaces], np.float64),
        faces=None if bounds is None else np.array([bounds.low, bounds.high], np.float64),
    )


def _columns(rows: Sequence[tuple[float, ...]], width: int) -> np.ndarray:
    """Return rows as columns of an array [width, len(rows), 1]."""
    return np.array(rows, np.float64).reshape(-1, width).T[..., None]


def _minds(rod: Rod, obstacle: Obstacle) -> bool:
    return rod.link >= FREE and rod.part not in obstacle.may_touch


def _obstacle_row(index: int, rod: Rod, obstacle: Obstacle, around: Surroundings) -> _Row:
    margin = around.margins.obstacle if obstacle.margin is None else obstacle.margin
    shape = obstacle.shape
    reach = rod.radius + (shape.radius if isinstance(shape, Sphere | CapsuleShape) else 0.0)
    return _Row(Kind.OBSTACLE, (rod.part, obstacle.name), margin, index, reach, shape)


def _self_pairs(checker: Checker) -> list[tuple[int, int]]:
    """Return the pairs, and those of the held object: with whatever the parts of the last link keep apart from."""
    pairs, last, held = list(checker.self_pairs), checker.limits.num_joints, len(checker.capsules)
    if len(checker.rods) > held:
        links = [capsule.link for capsule in checker.capsules]
        apart = {i for pair in pairs for i, k in (pair, pair[::-1]) if links[k] == last and links[i] != last}
        pairs += [(i, held) for i in sorted(apart)]
    return pairs
