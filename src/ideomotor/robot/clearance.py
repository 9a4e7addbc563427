"""How far the parts of an arm are from obstacles, from each other and from the bounds, along a path given by samples.

Letters: N samples along a path, C capsules of the arm, O obstacles, M pairs that are looked at, 3 = x y z in the base frame [m].

Between neighbouring samples every capsule end moves almost on a straight line (`_bend` says how nearly) by at most delta. If both ends of the line are at least d away from a point, all of it is at least sqrt(d^2 - delta^2 / 4) away: take the obstacle's point
nearest to the worst point of the line, and both ends are at least d from *that* point. What is lost is at most
min(delta / 2, delta^2 / 8 m0) as long as d >= 2 m0, with d and m0 between axes: m0 = (margin + radii) / 2. Where both parts of a pair
move, the sum of both stands for delta. The loss is of second order: a slow retreat gains more clearance than it loses.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ideomotor.robot.arm import Vector3
from ideomotor.robot.body import FIRST, Body, Capsule
from ideomotor.robot.geometry import box_gap, segment_gap
from ideomotor.robot.kinematics import joint_frames
from ideomotor.robot.reasons import Reason
from ideomotor.robot.surroundings import BoxShape, CapsuleShape, HalfSpace, Obstacle, Sphere, Surroundings


@dataclass(frozen=True)
class Nearest:
    """Pairs of a part and something else at one configuration. K pairs; normals point from the other thing to the part."""

    distance: Float[np.ndarray, " K"]  # [m] beyond the margin
    point: Float[np.ndarray, "K 3"]  # on the part's axis
    normal: Float[np.ndarray, "K 3"]
    link: Int[np.ndarray, " K"]  # that carries the part
    other_point: Float[np.ndarray, "K 3"]  # on the other part's axis
    other_link: Int[np.ndarray, " K"]  # 0 where the other thing does not move

    def rows(self, chosen: "slice | Bool[np.ndarray, ' K']") -> "Nearest":
        """Return some of the pairs."""
        return Nearest(*(column[chosen] for column in vars(self).values()))

    def below(self, distance: float) -> "Nearest":
        """Return the pairs nearer than a distance [m]."""
        return self.rows(self.distance < distance)


@dataclass(frozen=True)
class Verdict:
    """What a path through N samples keeps. Clearances are beyond the margins and after what is lost between samples [m]."""

    obstacle: float
    self_collision: float
    bounds: float
    tool_speed: float  # [m/s] largest between samples
    broken: tuple[Reason, ...]


class Clearance:
    """Distances of one arm in one place."""

    def __init__(self, body: Body, around: Surroundings) -> None:
        self.body, self.around = body, around
        held = () if around.held is None else (_held(body, around),)
        self.capsules = (*body.capsules, *held)
        self._links = np.array([c.link for c in self.capsules])
        assert (np.diff(self._links) >= 0).all(), "capsules run from the foot to the tool"
        ends = np.array([[c.start, c.end] for c in self.capsules])
        self._local = np.concatenate([np.swapaxes(ends, 1, 2), np.ones((len(ends), 1, 2))], axis=1)  # C 4 2
        self._radius = np.array([c.radius for c in self.capsules])
        self._half = 0.5 * np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)
        self._foot = body.chain.base_from_foot
        self._by_link = {
            link: (
                slice(
                    int(np.argmax(self._links == link)),
                    int(np.argmax(self._links == link) + (self._links == link).sum()),
                ),
                np.concatenate(self._local[self._links == link], axis=1),
            )
            for link in sorted(set(self._links.tolist()))
        }
        self._set_obstacles()

    # 1 what is compared with what

    def _set_obstacles(self) -> None:
        everything = self.around.obstacles
        rods = [(o, o.shape) for o in everything if isinstance(o.shape, Sphere | CapsuleShape)]
        boxes = [(o, o.shape) for o in everything if isinstance(o.shape, BoxShape)]
        planes = [(o, o.shape) for o in everything if isinstance(o.shape, HalfSpace)]
        rod_pairs, rod_margin = self._kept_apart([o for o, _ in rods])
        self._box_pairs, self._box_margin = self._kept_apart([o for o, _ in boxes])
        self._plane_pairs, self._plane_margin = self._kept_apart([o for o, _ in planes])
        lines = [_line(shape) for _, shape in rods]
        self._rods = np.array([(start, end) for start, end, _ in lines]).reshape(-1, 2, 3)
        self._set_pairs(rod_pairs, rod_margin, np.array([radius for _, _, radius in lines]))
        self._box_centre = np.array([shape.centre for _, shape in boxes]).reshape(-1, 3)
        self._box_half = np.array([shape.half for _, shape in boxes]).reshape(-1, 3)
        self._box_turn = np.array([_turn(shape.yaw) for _, shape in boxes]).reshape(-1, 3, 3)  # base_from_box
        self._normal = np.array([shape.normal for _, shape in planes]).reshape(-1, 3)
        self._offset = np.array([shape.offset for _, shape in planes])

    def _kept_apart(
        self, obstacles: list[Obstacle]
    ) -> tuple[tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"]], Float[np.ndarray, " O"]]:
        """Return the indices of parts and obstacles that keep apart, and the obstacles' margins."""
        pairs = [
            (c, o)
            for o, obstacle in enumerate(obstacles)
            for c, part in enumerate(self.capsules)
            if part.link >= FIRST and part.part not in obstacle.may_touch
        ]
        part, other = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        common = self.around.margins.obstacle
        return (part, other), np.array([common if o.margin is None else o.margin for o in obstacles])

    def _set_pairs(
        self,
        rod_pairs: tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"]],
        rod_margin: Float[np.ndarray, " O"],
        rod_radius: Float[np.ndarray, " O"],
    ) -> None:
        """Prepare pairs of lines: a part and a rod, or two parts. The rods' lines stand behind those of the parts."""
        own, capsules = list(self.body.self_pairs), self.capsules
        if self.around.held is not None:
            held, last = len(capsules) - 1, self.body.limits.num_joints
            own += [(c, held) for c in sorted({i for i, k in own if capsules[k].link == last})]
        inner, outer = np.array(own, dtype=np.int64).reshape(-1, 2).T
        part, rod = rod_pairs
        half = 0.5 * np.linalg.norm(self._rods[:, 1] - self._rods[:, 0], axis=1)
        radius, halves = np.concatenate([self._radius, rod_radius]), np.concatenate([self._half, half])
        self._part = np.concatenate([part, outer])
        self._other = np.concatenate([rod + len(capsules), inner])
        self._own = np.arange(len(self._part)) >= len(part)  # pairs of two parts
        self._thick = radius[self._part] + radius[self._other]
        self._margin = np.concatenate([rod_margin[rod], np.full(len(inner), self.around.margins.self_collision)])
        self._reach = halves[self._part] + halves[self._other] + self._thick + self._margin
        self._other_link = np.concatenate([np.zeros_like(rod), self._links[inner]])

    # 2 a path

    def judge(
        self,
        q_NJ: Float[np.ndarray, "N J"],
        steps: Float[np.ndarray, " P"],
        tool_speed: float,
    ) -> Verdict:
        """Judge a path: row 0 is where the arm is told to be now, the P = N - 1 others are what is to come.

        Everything from row 1 on keeps its margin, or, where row 0 is nearer already, never comes nearer on the way.

        Args:
            q_NJ: [rad].
            steps: [s] from each row to the next.
            tool_speed: [m/s] that is allowed.
        """
        frames = joint_frames(self.body.chain, q_NJ)
        ends = self._ends(frames)  # N C 2 3
        moved = _length(ends[1:] - ends[:-1])  # N-1 C
        delta = moved.copy()
        delta[:-1] = np.maximum(moved[:-1], moved[1:])  # at rows 1 ... N-1: the longer of the two neighbours
        bend = _bend(ends, steps)
        travel = _length(ends[1:] - ends[0]).max(axis=0) + bend.max(axis=0)  # C: how far each part comes from row 0
        rods, own = self._pairs(ends, delta, bend, travel)
        obstacle = _smallest(rods, self._boxes(ends, delta, bend, travel), self._planes(ends, bend))
        tool = frames[:, -1] @ self.body.chain.last_from_tcp[:, 3]
        way = tool[1:, :3] - tool[:-1, :3]
        speed = float((np.sqrt(np.einsum("nk,nk->n", way, way)) / steps).max())
        inside = self._bounds(frames[:, -1, :3, 3], tool[:, :3])
        found = (
            (obstacle, Reason.COLLISION),
            (own, Reason.SELF_COLLISION),
            (inside, Reason.WORKSPACE),
            (tool_speed - speed, Reason.TOOL_SPEED),
        )
        return Verdict(obstacle, own, inside, speed, tuple(reason for value, reason in found if not value >= 0.0))

    def _ends(self, frames: Float[np.ndarray, "N J 4 4"]) -> Float[np.ndarray, "N C 2 3"]:
        """Return the ends of all capsules, and behind them those of rods, which stand still."""
        ends = np.empty((len(frames), len(self.capsules) + len(self._rods), 2, 3))
        ends[:, len(self.capsules) :] = self._rods
        for link, (these, local) in self._by_link.items():
            if link == 0:
                ends[:, these] = (self._foot[:3] @ local).T.reshape(-1, 2, 3)
            else:
                ends[:, these] = np.swapaxes(frames[:, link - 1, :3] @ local, 1, 2).reshape(len(frames), -1, 2, 3)
        return ends

    def _planes(self, ends: Float[np.ndarray, "N C 2 3"], bend: Float[np.ndarray, "P C"]) -> float:
        """Return the smallest clearance from half spaces beyond what is required; P = N - 1 rows to come."""
        part, plane = self._plane_pairs
        if len(part) == 0:
            return float("inf")
        height = np.einsum("nmek,mk->nme", ends[:, part], self._normal[plane]).min(axis=-1)
        distance = height - self._offset[plane] - self._radius[part]
        return _least(distance, self._plane_margin[plane], bend[:, part])

    def _pairs(
        self,
        ends: Float[np.ndarray, "N C 2 3"],
        delta: Float[np.ndarray, "P C"],
        bend: Float[np.ndarray, "P C"],
        travel: Float[np.ndarray, " C"],
    ) -> tuple[float, float]:
        """Return the smallest clearances from rods, and of parts from each other."""
        middle = 0.5 * (ends[0, :, 0] + ends[0, :, 1])
        way = middle[self._part] - middle[self._other]
        # a bound from row 0 alone: nothing comes nearer by more than it moves
        beyond = np.sqrt(np.einsum("mk,mk->m", way, way)) - self._reach - travel[self._part] - travel[self._other]
        near = ~(beyond >= 0.0)
        least = [float(beyond.min(initial=np.inf, where=~near & kind)) for kind in (~self._own, self._own)]
        if not near.any():
            return least[0], least[1]
        part, other, own = self._part[near], self._other[near], self._own[near]
        a, b = ends[:, part], ends[:, other]
        _, _, gap = segment_gap(a[:, :, 0], a[:, :, 1], b[:, :, 0], b[:, :, 1])
        thick, margin = self._thick[near], self._margin[near]
        lost = _lost(delta[:, part] + delta[:, other], margin + thick) + bend[:, part] + bend[:, other]
        kept = _kept(gap - thick, margin, lost).min(axis=0)
        return (
            _smallest(least[0], float(kept.min(initial=np.inf, where=~own))),
            _smallest(least[1], float(kept.min(initial=np.inf, where=own))),
        )

    def _boxes(
        self,
        ends: Float[np.ndarray, "N C 2 3"],
        delta: Float[np.ndarray, "P C"],
        bend: Float[np.ndarray, "P C"],
        travel: Float[np.ndarray, " C"],
    ) -> float:
        """Return the smallest clearance from boxes."""
        part, box = self._box_pairs
        if len(part) == 0:
            return float("inf")
        margin, thick = self._box_margin[box], self._radius[part]
        middle = 0.5 * (ends[0, :, 0] + ends[0, :, 1])[part] - self._box_centre[box]
        outside = np.maximum(np.abs(np.einsum("mk,mkj->mj", middle, self._box_turn[box])) - self._box_half[box], 0.0)
        apart = np.sqrt(np.einsum("mk,mk->m", outside, outside)) - self._half[part] - thick - margin
        beyond = apart - travel[part]
        near = beyond < 0.0
        least = float(beyond.min(initial=np.inf, where=~near))
        if not near.any():
            return least
        part, box, margin, thick = part[near], box[near], margin[near], thick[near]
        local = np.einsum("nmek,mkj->nmej", ends[:, part] - self._box_centre[box][:, None], self._box_turn[box])
        gap, _ = box_gap(local[..., 0, :], local[..., 1, :], self._box_half[box])
        return _smallest(least, _least(gap - thick, margin, _lost(delta[:, part], margin + thick) + bend[:, part]))

    def _bounds(self, wrist: Float[np.ndarray, "N 3"], tool: Float[np.ndarray, "N 3"]) -> float:
        if self.around.bounds is None:
            return float("inf")
        low, high = np.array(self.around.bounds.low), np.array(self.around.bounds.high)
        inside = np.concatenate([wrist - low, high - wrist, tool - low, high - tool], axis=1)
        margin = np.full(inside.shape[1], self.around.margins.bounds)
        return _least(inside, margin, np.zeros((len(inside) - 1, 1)))

    # 3 one configuration

    def nearest(self, frames: Float[np.ndarray, "J 4 4"], within: float) -> Nearest:
        """Return the pairs nearer than `within` [m] beyond their margins, with the points where they are nearest."""
        ends = self._ends(frames[None])[0]
        found = [self._nearest_planes(ends), self._nearest_pairs(ends, within), self._nearest_boxes(ends)]
        found.append(self._nearest_bounds(frames))
        chosen = [part.below(within) for part in found]
        return Nearest(
            *(np.concatenate(column) for column in zip(*(vars(part).values() for part in chosen), strict=True))
        )

    def _nearest_planes(self, ends: Float[np.ndarray, "C 2 3"]) -> Nearest:
        part, plane = self._plane_pairs
        heights = np.einsum("mek,mk->me", ends[part], self._normal[plane])
        lower = heights.argmin(axis=1)
        distance = heights.min(axis=1) - self._offset[plane] - self._radius[part] - self._plane_margin[plane]
        points = ends[part, lower]
        return Nearest(distance, points, self._normal[plane], self._links[part], points, np.zeros_like(part))

    def _nearest_pairs(self, ends: Float[np.ndarray, "C 2 3"], within: float) -> Nearest:
        """Return pairs with rods, and pairs of parts; far ones are left out before anything is computed."""
        middle = 0.5 * (ends[:, 0] + ends[:, 1])
        way = middle[self._part] - middle[self._other]
        near = np.sqrt(np.einsum("mk,mk->m", way, way)) - self._reach < within
        part, other = self._part[near], self._other[near]
        a, b, c, d = ends[part, 0], ends[part, 1], ends[other, 0], ends[other, 1]
        s, t, gap = segment_gap(a, b, c, d)
        points, others = a + s[:, None] * (b - a), c + t[:, None] * (d - c)
        normals = (points - others) / np.maximum(gap, 1e-9)[:, None]
        distance = gap - self._thick[near] - self._margin[near]
        return Nearest(distance, points, normals, self._links[part], others, self._other_link[near])

    def _nearest_boxes(self, ends: Float[np.ndarray, "C 2 3"]) -> Nearest:
        part, box = self._box_pairs
        local = np.einsum("mek,mkj->mej", ends[part] - self._box_centre[box][:, None], self._box_turn[box])
        gap, t = box_gap(local[:, 0], local[:, 1], self._box_half[box])
        inner = local[:, 0] + t[:, None] * (local[:, 1] - local[:, 0])
        away = inner - np.clip(inner, -self._box_half[box], self._box_half[box])
        normals = np.einsum("mkj,mj->mk", self._box_turn[box], away) / np.maximum(gap, 1e-9)[:, None]
        points = ends[part, 0] + t[:, None] * (ends[part, 1] - ends[part, 0])
        distance = gap - self._radius[part] - self._box_margin[box]
        return Nearest(distance, points, normals, self._links[part], points, np.zeros_like(part))

    def _nearest_bounds(self, frames: Float[np.ndarray, "J 4 4"]) -> Nearest:
        bounds = self.around.bounds
        count = 0 if bounds is None else 4
        normals = np.concatenate([np.eye(3), -np.eye(3)] * 2)[: 3 * count]
        wrist, tool = frames[-1, :3, 3], (frames[-1] @ self.body.chain.last_from_tcp[:, 3])[:3]
        points = np.repeat(np.stack([wrist, tool]), 6, axis=0)[: 3 * count]
        distance = np.zeros(0)
        if bounds is not None:
            low, high = np.array(bounds.low), np.array(bounds.high)
            distance = np.concatenate([wrist - low, high - wrist, tool - low, high - tool]) - self.around.margins.bounds
        last = np.full(len(points), len(frames))
        return Nearest(distance, points, normals, last, points, np.zeros_like(last))


def _length(ways: Float[np.ndarray, "N C 2 3"]) -> Float[np.ndarray, "N C"]:
    """Return how far the end of each capsule goes that goes further [m]."""
    return np.sqrt(np.einsum("ncek,ncek->nce", ways, ways).max(axis=-1))


def _bend(ends: Float[np.ndarray, "N C 2 3"], steps: Float[np.ndarray, " P"]) -> Float[np.ndarray, "P C"]:
    """Return how far the way to and from each row to come may leave the straight line: |second difference| / 8.

    Joints that go straight carry parts along arcs, and between samples that are further apart than commands they are accelerated.
    Where the first step is a shorter one, its bend is that of the next.
    """
    bend = np.zeros((len(ends) - 1, ends.shape[1]))
    first = 0 if steps[0] >= 0.999 * steps[-1] else 1
    if len(ends) > first + 2:
        bend[first:-1] = _length(ends[first + 2 :] - 2.0 * ends[first + 1 : -1] + ends[first:-2]) / 8.0
        bend[0] = bend[first]
    return bend


def _lost(delta: Float[np.ndarray, "P M"], around: Float[np.ndarray, " M"]) -> Float[np.ndarray, "P M"]:
    """Return what may be lost between samples, with `around` = margin + radii = 2 m0."""
    return np.minimum(0.5 * delta, delta * delta / (4.0 * around))


def _kept(
    distance: Float[np.ndarray, "N M"], margin: Float[np.ndarray, " M"], lost: Float[np.ndarray, "P M2"]
) -> Float[np.ndarray, "P M"]:
    """Return distances of rows 1 ... N - 1 beyond what each pair has to keep: its margin, or the largest that it had before."""
    return distance[1:] - lost - np.minimum(margin, np.maximum.accumulate(distance[:-1]))


def _smallest(*values: float) -> float:
    """Return the smallest; NaN where one is, which Python's min would lose."""
    return math.nan if any(value != value for value in values) else min(values)  # noqa: PLR0124 (true of NaN alone)


def _least(
    distance: Float[np.ndarray, "N M"], margin: Float[np.ndarray, " M"], lost: Float[np.ndarray, "P M2"]
) -> float:
    after = distance[1:] - lost - margin
    if (after >= 0.0).all():
        return float(after.min())
    return float(_kept(distance, margin, lost).min())


def _line(shape: Sphere | CapsuleShape) -> tuple[Vector3, Vector3, float]:
    """Return the axis of a ball or capsule, and its radius."""
    if isinstance(shape, Sphere):
        return shape.centre, shape.centre, shape.radius
    return shape.start, shape.end, shape.radius


def _turn(yaw: float) -> Float[np.ndarray, "3 3"]:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _held(body: Body, around: Surroundings) -> Capsule:
    held = around.held
    assert held is not None
    turn, at = body.chain.last_from_tcp[:3, :3], body.chain.last_from_tcp[:3, 3]
    ends = [turn @ np.array(p) + at for p in (held.start, held.end)]
    start, end = ((float(p[0]), float(p[1]), float(p[2])) for p in ends)
    return Capsule("held", body.limits.num_joints, start, end, held.radius)
