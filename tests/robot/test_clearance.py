"""Expected values: distances worked out by hand on arms of two joints, brute force, MuJoCo's geom distances, the checker's own search."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from math import cos, hypot, sin, sqrt
from typing import Any

import mujoco
import numpy as np
import pytest

from ideomotor.robot.adversaries import CELL
from ideomotor.robot.arm import Arm, Vector3
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.body import Body, Capsule, body_of
from ideomotor.robot.checker import Checker, Kind
from ideomotor.robot.clearance import Clearance, Verdict
from ideomotor.robot.geometry import box_gap, segment_gap
from ideomotor.robot.kinematics import Chain, joint_frames
from ideomotor.robot.limits import Limits
from ideomotor.robot.reasons import Reason
from ideomotor.robot.stop import plan_stop
from ideomotor.robot.surroundings import (
    Bounds,
    BoxShape,
    CapsuleShape,
    HalfSpace,
    Held,
    Margins,
    Obstacle,
    Shape,
    Sphere,
    Surroundings,
)

FAST = math.inf  # no cap of the tool's speed

# ------------------------------------------------------------------------------------------------------ lines and boxes


def nearest_of_four_ends(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> float:
    """Return the distance of two lines: between their inner points, or from an end of one to the other."""

    def to_line(p: np.ndarray, u: np.ndarray, v: np.ndarray) -> float:
        along = v - u
        share = 0.0 if not along.any() else min(max(float((p - u) @ along / (along @ along)), 0.0), 1.0)
        return float(np.linalg.norm(p - u - share * along))

    found = [to_line(a, c, d), to_line(b, c, d), to_line(c, a, b), to_line(d, a, b)]
    normal = np.cross(b - a, d - c)
    if np.linalg.norm(normal) > 1e-9:
        (s, t, _), *_ = np.linalg.lstsq(np.stack([b - a, c - d, normal], axis=1), c - a, rcond=None)
        if 0.0 <= s <= 1.0 and 0.0 <= t <= 1.0:
            found.append(float(np.linalg.norm(a + s * (b - a) - c - t * (d - c))))
    return min(found)


def lines(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return pairs of lines: at random, parallel, nearly parallel, crossing, with a common end, and points."""
    ends = rng.uniform(-1.0, 1.0, (count, 4, 3))
    way = ends[:, 1] - ends[:, 0]
    kind = np.arange(count) % 8
    ends[kind == 1, 3] = (ends[:, 2] + rng.uniform(-2.0, 2.0, (count, 1)) * way)[kind == 1]
    ends[kind == 2, 3] = (ends[:, 2] + 1.3 * way + rng.normal(0.0, 1e-6, (count, 3)))[kind == 2]
    ends[kind == 3, 1] = ends[kind == 3, 0]
    ends[kind == 4, 3] = ends[kind == 4, 2]
    ends[kind == 5, 1], ends[kind == 5, 3] = ends[kind == 5, 0], ends[kind == 5, 2]
    ends[kind == 6, 2] = ends[kind == 6, 1]
    ends[kind == 7, 2] = (ends[:, 0] + 0.3 * way)[kind == 7]  # collinear, overlapping or touching
    ends[kind == 7, 3] = (ends[:, 0] + 1.7 * way)[kind == 7]
    return ends


def test_the_gap_of_two_lines_is_that_of_an_exhaustive_search() -> None:
    ends = lines(np.random.default_rng(1), 2000)
    s, t, gap = segment_gap(*ends.swapaxes(0, 1))
    assert ((s >= 0.0) & (s <= 1.0) & (t >= 0.0) & (t <= 1.0)).all()
    expected = [nearest_of_four_ends(*row) for row in ends]
    nearly = np.arange(len(ends)) % 8 == 2  # nearly parallel ones, where two places are almost as near
    np.testing.assert_allclose(gap[~nearly], np.array(expected)[~nearly], atol=1e-9)
    np.testing.assert_allclose(gap, expected, atol=2e-6)
    assert (gap >= np.array(expected) - 1e-9).all()
    a, b, c, d = ends.swapaxes(0, 1)
    np.testing.assert_allclose(
        np.linalg.norm(a + s[:, None] * (b - a) - c - t[:, None] * (d - c), axis=1), gap, atol=1e-12
    )


@pytest.mark.parametrize(
    ("line", "other", "gap"),
    [
        (((0, 0, 0), (1, 0, 0)), ((0.5, 1, 2), (0.5, -1, 2)), 2.0),  # crossed
        (((0, 0, 0), (1, 0, 0)), ((2, 0, 0), (5, 0, 0)), 1.0),  # one behind the other
        (((0, 0, 0), (1, 0, 0)), ((0.2, 3, 4), (0.8, 3, 4)), 5.0),  # side by side
        (((0, 0, 0), (0, 0, 0)), ((3, 4, 0), (3, 4, 0)), 5.0),  # points
        (((0, 0, 0), (2, 2, 0)), ((2, 0, 0), (0, 2, 0)), 0.0),  # through each other
        (((0, 0, 0), (1, 0, 0)), ((4, 4, 0), (9, 4, 1)), 5.0),  # end to end
    ],
)
def test_gaps_of_lines_by_hand(line: Any, other: Any, gap: float) -> None:
    ends = [np.array(point, dtype=float) for point in (*line, *other)]
    for a, b, c, d in (ends, ends[2:] + ends[:2], [ends[1], ends[0], ends[3], ends[2]]):
        assert float(segment_gap(a, b, c, d)[2]) == pytest.approx(gap, abs=1e-12)


def test_the_gap_of_a_line_and_a_box_is_that_of_a_fine_search() -> None:
    rng = np.random.default_rng(2)
    count = 1500
    half = rng.uniform(0.05, 0.8, (count, 3))
    a, b = rng.uniform(-2.0, 2.0, (2, count, 3))
    kind = np.arange(count) % 5
    b[kind == 1] = a[kind == 1]  # a point
    b[kind == 2, 0] = a[kind == 2, 0]  # along a side
    b[kind == 3] = a[kind == 3] + rng.uniform(0.1, 2.0, (count, 1))[kind == 3] * (0.0, 0.0, 1.0)  # along an edge
    b[kind == 4], half[kind == 4] = -a[kind == 4], 0.3  # through the middle
    gap, t = box_gap(a, b, half)
    assert ((t >= 0.0) & (t <= 1.0)).all()

    def at(share: np.ndarray) -> np.ndarray:
        point = a[:, None] + share[..., None] * (b - a)[:, None]
        return np.linalg.norm(point - np.clip(point, -half[:, None], half[:, None]), axis=-1)

    fine = np.broadcast_to(np.linspace(0.0, 1.0, 401), (count, 401))
    best = at(fine).argmin(axis=1)
    for _ in range(3):  # the distance from a box is convex along a line: refine around the best place
        centre = np.take_along_axis(fine, best[:, None], 1)
        width = fine[:, 1:2] - fine[:, :1]
        fine = np.clip(centre + width * np.linspace(-1.0, 1.0, 41), 0.0, 1.0)
        best = at(fine).argmin(axis=1)
    np.testing.assert_allclose(gap, at(fine).min(axis=1), atol=1e-5)
    np.testing.assert_allclose(at(t[:, None])[:, 0], gap, atol=1e-12)
    assert (gap[kind == 4] == 0.0).all()


@pytest.mark.parametrize(
    ("a", "b", "gap", "share"),
    [
        ((2, 0, 0), (2, 0, 5), 1.0, None),  # beside a face of the unit box [-1, 1]^3
        ((4, 5, 0), (9, 5, 0), 5.0, 0.0),  # an edge: 3, 4
        ((2, 0, 0), (0, 2, 0), 0.0, 0.5),  # touches an edge in its middle
        ((3, 3, 2), (3, 3, 2), 3.0, None),  # a point and a corner: 2, 2, 1
        ((-5, 0, 3), (5, 0, 3), 2.0, None),  # above
        ((-9, 0, 0), (9, 0, 0), 0.0, None),  # through
        ((0.1, 0, 0), (0.2, 0, 0), 0.0, None),  # inside
        ((2, 0, 0), (3, 0, 0), 1.0, 0.0),
        ((7, 0, 0), (3, 0, 0), 2.0, 1.0),
    ],
)
def test_gaps_of_a_box_by_hand(a: Any, b: Any, gap: float, share: float | None) -> None:
    ours, t = box_gap(np.array(a, dtype=float), np.array(b, dtype=float), np.ones(3))
    assert float(ours) == pytest.approx(gap, abs=1e-12)
    assert share is None or float(t) == pytest.approx(share)


def geom(shape: Sphere | CapsuleShape | BoxShape) -> str:
    def text(numbers: tuple[float, ...]) -> str:
        return " ".join(map(repr, numbers))

    match shape:
        case Sphere(centre, radius):
            return f'<geom type="sphere" size="{radius}" pos="{text(centre)}"/>'
        case CapsuleShape(start, end, radius):
            return f'<geom type="capsule" size="{radius}" fromto="{text(start)} {text(end)}"/>'
        case BoxShape(centre, half, yaw):
            return f'<geom type="box" size="{text(half)}" pos="{text(centre)}" axisangle="0 0 1 {yaw}"/>'


def by_mujoco(one: Any, other: Any) -> float:
    text = f'<mujoco><compiler angle="radian"/><worldbody>{geom(one)}{geom(other)}</worldbody></mujoco>'
    model = mujoco.MjModel.from_xml_string(text)
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    return mujoco.mj_geomDistance(model, data, 0, 1, 10.0, np.zeros(6))


# --------------------------------------------------------------------------------------------------- arms made for a test


def limits(joints: int) -> Limits:
    low, high, speed, acceleration, jerk, torque = ((x,) * joints for x in (-3.1, 3.1, 2.0, 10.0, 1000.0, 10.0))
    return Limits(low, high, speed, acceleration, jerk, torque, None, 1.0, 1.0, 3.0, ("made for this test",))


def spun(capsules: tuple[Capsule, ...], pairs: tuple[tuple[int, int], ...] = (), joints: int = 2) -> Body:
    """An arm whose joints all turn about the base's z, one within the other; its tool is at (0.5, 0, 0) of the last link."""
    tool = np.eye(4)
    tool[0, 3] = 0.5
    return Body("spun", Chain(np.eye(4), np.stack([np.eye(4)] * joints), tool), capsules, limits(joints), pairs)


def ball(link: int, at: Vector3, radius: float, part: str = "ball") -> Capsule:
    return Capsule(part, link, at, at, radius)


def around(*shapes: Any, margin: float = 0.04, **more: Any) -> Surroundings:
    obstacles = tuple(Obstacle(f"o{i}", shape) for i, shape in enumerate(shapes))
    return Surroundings(obstacles=obstacles, margins=Margins(obstacle=margin), **more)


def turned(*angles: float) -> np.ndarray:
    """Rows with these angles of the last joint."""
    return np.array([[0.0, angle] for angle in angles])


def judged(clearance: Clearance, path: np.ndarray, cap: float = FAST, step: float = 0.01) -> Verdict:
    return clearance.judge(path, np.full(len(path) - 1, step), cap)


def still(clearance: Clearance, *angles: float) -> Verdict:
    """Judge an arm that stands: nothing is lost between samples."""
    return judged(clearance, np.array([angles, angles, angles]))


@pytest.mark.parametrize(
    ("shape", "distance"),
    [  # of the ball of 0.1 m at (1, 0, 0)
        (Sphere((1.0, 0.5, 0.0), 0.2), 0.2),
        (CapsuleShape((0.0, 0.3, 0.4), (3.0, 0.3, 0.4), 0.15), 0.25),
        (HalfSpace((0.0, 0.0, 1.0), -0.35), 0.25),
        (BoxShape((1.0, 0.0, 0.7), (0.3, 0.3, 0.2)), 0.4),
        (BoxShape((1.0, 1.0, 0.0), (0.2, 0.2, 0.2), math.pi / 4), 1.0 - 0.2 * sqrt(2.0) - 0.1),  # an edge ahead
        (Sphere((1.0, 0.25, 0.0), 0.2), -0.05),  # too deep
    ],
)
def test_the_clearance_of_an_arm_that_stands_is_distance_minus_margin(shape: Any, distance: float) -> None:
    body = spun((ball(2, (1.0, 0.0, 0.0), 0.1),))
    one = Clearance(body, around(shape)).nearest(joint_frames(body.chain, np.zeros(2)), 9.0)
    np.testing.assert_allclose(one.distance, [distance - 0.04], atol=1e-12)
    verdict = still(Clearance(body, around(shape)), 0.0, 0.0)
    assert verdict.obstacle <= max(distance - 0.04, 0.0) + 1e-12  # a bound, and 0 where it is nearer already
    assert verdict.broken == ()
    assert verdict.self_collision == verdict.bounds == math.inf
    path = turned(1.0, 0.0, 0.0, 0.0)  # from far away: now it has to keep the margin
    verdict = judged(Clearance(body, around(shape, margin=0.001)), path)
    assert (Reason.COLLISION in verdict.broken) == (distance < 0.001 or verdict.obstacle < 0.0)


def test_an_obstacle_may_have_a_margin_of_its_own_and_parts_that_may_touch_it() -> None:
    body = spun((ball(2, (1.0, 0.0, 0.0), 0.1, "hand"), ball(2, (0.8, 0.0, 0.0), 0.1, "finger")))
    shape = Sphere((1.0, 0.5, 0.0), 0.2)  # 0.2 m and sqrt(0.04 + 0.25) - 0.3 m away

    def distances(**obstacle: Any) -> list[float]:
        place = Surroundings(obstacles=(Obstacle("o", shape, **obstacle),))
        return Clearance(body, place).nearest(joint_frames(body.chain, np.zeros(2)), 9.0).distance.tolist()

    assert distances() == pytest.approx([0.16, hypot(0.2, 0.5) - 0.34])
    assert distances(margin=0.0) == pytest.approx([0.2, hypot(0.2, 0.5) - 0.3])
    assert distances(margin=0.1, may_touch=("hand", "link2")) == pytest.approx([hypot(0.2, 0.5) - 0.4])


def test_the_first_link_and_the_foot_are_no_matter_for_obstacles() -> None:
    body = spun((ball(0, (1.0, 0.0, 0.0), 0.1), ball(1, (1.0, 0.0, 0.0), 0.1)))
    place = around(Sphere((1.0, 0.0, 0.0), 0.2))
    assert len(Clearance(body, place).nearest(joint_frames(body.chain, np.zeros(2)), 9.0).distance) == 0
    assert still(Clearance(body, place), 0.0, 0.0).obstacle == math.inf


def test_what_is_held_keeps_away_from_obstacles_and_from_what_the_hand_keeps_away_from() -> None:
    body = spun((ball(1, (0.0, 0.0, 1.0), 0.1, "link1"), ball(2, (0.0, 0.0, 0.0), 0.1, "hand")), ((0, 1),))
    held = Held((0.0, 0.0, 0.3), (0.0, 0.0, 0.6), 0.02)  # in the tool frame, which is at x = 0.5
    place = around(Sphere((0.5, 0.0, 1.0), 0.1), held=held)
    near = Clearance(body, place).nearest(joint_frames(body.chain, np.zeros(2)), 9.0)
    # hand and ball, held and ball, hand and link 1, held and link 1
    expected = [hypot(0.5, 1.0) - 0.24, 0.4 - 0.16, 1.0 - 0.205, hypot(0.5, 0.4) - 0.125]
    np.testing.assert_allclose(sorted(near.distance), sorted(expected), atol=1e-12)
    touching = replace(place, obstacles=(replace(place.obstacles[0], may_touch=("held",)),))
    near = Clearance(body, touching).nearest(joint_frames(body.chain, np.zeros(2)), 9.0)
    np.testing.assert_allclose(sorted(near.distance), sorted(expected[:1] + expected[2:]), atol=1e-12)


def test_wrist_and_tool_keep_inside_the_bounds_by_hand() -> None:
    body = spun((ball(2, (0.0, 0.0, 0.0), 0.1),))
    place = Surroundings(bounds=Bounds((-1.0, -0.4, -0.2), (1.0, 0.4, 0.3)), margins=Margins(bounds=0.1))
    clearance = Clearance(body, place)
    assert still(clearance, 0.0, 0.0).bounds == pytest.approx(0.1)  # wrist at the origin: 0.2 m above the lower face
    outside = judged(clearance, turned(0.0, 0.7))  # the tool at y = 0.5 sin 0.7 = 0.32
    assert outside.bounds == pytest.approx(0.4 - 0.5 * sin(0.7) - 0.1)
    assert outside.broken == (Reason.WORKSPACE,)
    assert judged(clearance, turned(0.0, -0.7)).broken == (Reason.WORKSPACE,)
    assert judged(clearance, turned(0.0, 0.6)).broken == ()
    assert judged(clearance, turned(0.9, 0.8)).broken == ()  # from outside it may come in
    assert judged(clearance, turned(0.9, 0.95)).broken == (Reason.WORKSPACE,)


def test_the_tools_speed_is_its_way_over_the_time_of_the_step() -> None:
    clearance = Clearance(spun((ball(2, (0.0, 0.0, 0.0), 0.1),)), Surroundings())
    steps = np.array([0.01, 0.05, 0.05])
    verdict = clearance.judge(turned(0.0, 0.02, 0.06, 0.06), steps, 0.99)
    assert verdict.tool_speed == pytest.approx(2 * 0.5 * sin(0.01) / 0.01)  # 1.0 m/s, then 0.4
    assert verdict.broken == (Reason.TOOL_SPEED,)
    assert clearance.judge(turned(0.0, 0.02, 0.06, 0.06), steps, 1.01).broken == ()


# --------------------------------------------------------------------------------------------- what is lost between samples

FAR = 10.0  # [m] so that an arc of some mm is a straight line


@pytest.mark.parametrize("delta", [0.001, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("shape", ["ball", "rod", "box"])
def test_a_ball_that_passes_an_obstacle_between_two_samples_loses_no_more_than_is_claimed(
    delta: float, shape: str
) -> None:
    """Both samples are d away between axes, and the worst is in the middle: sqrt(d^2 - delta^2 / 4)."""
    radius, margin = 0.05, 0.04
    other = 0.0 if shape == "box" else 0.03
    d = radius + other + margin  # exactly what is required at rest
    height = sqrt(d * d - delta * delta / 4.0)  # of the obstacle above the middle of the way
    shapes = {
        "ball": Sphere((FAR, 0.0, height), other),
        "rod": CapsuleShape((FAR - 1.0, 0.0, height), (FAR + 1.0, 0.0, height), other),
        "box": BoxShape((FAR, 0.0, height + 0.5), (1.0, 1e-9, 0.5)),
    }
    body = spun((ball(2, (FAR, 0.0, 0.0), radius),))
    half = math.asin(delta / (2 * FAR))
    verdict = judged(
        Clearance(body, around(shapes[shape], margin=margin)), turned(-5 * half, -3 * half, -half, half, 3 * half)
    )
    truth = d - height  # what is lost
    claimed = min(delta / 2, delta**2 / (4 * d))
    bend = delta**2 / (8 * FAR)
    assert verdict.obstacle == pytest.approx(-claimed - bend, rel=1e-3, abs=1e-9)
    assert verdict.obstacle <= -truth + 1e-9  # the claim is a bound
    assert claimed <= 2.1 * truth  # and no wild one
    assert verdict.broken == (Reason.COLLISION,)
    less = around(shapes[shape], margin=max(margin - 1.5 * (claimed + bend), 0.0))
    if delta < 0.1:
        assert judged(Clearance(body, less), turned(-5 * half, -3 * half, -half, half, 3 * half)).broken == ()


@pytest.mark.parametrize("delta", [0.001, 0.01, 0.03, 0.08])
def test_two_parts_that_pass_each_other_lose_no_more_than_is_claimed(delta: float) -> None:
    """Each moves by delta, in opposite directions: together 2 delta. A bound for one that moves alone would fail here."""
    radius, margin = 0.05, 0.005
    d = 2 * radius + margin
    height = sqrt(d * d - delta * delta)
    one, other = ball(1, (FAR, 0.0, 0.0), radius), ball(2, (FAR, 0.0, height), radius)
    clearance = Clearance(spun((one, other), ((0, 1),)), Surroundings(margins=Margins(self_collision=margin)))
    half = math.asin(delta / (2 * FAR))
    path = np.array([[share * half, -2.0 * share * half] for share in (-5, -3, -1, 1, 3)])
    verdict = judged(clearance, path)
    claimed = min(delta, delta**2 / d)
    assert verdict.self_collision == pytest.approx(-claimed - 2 * delta**2 / (8 * FAR), rel=1e-3, abs=1e-9)
    assert verdict.self_collision <= -(d - height) + 1e-9
    assert d - height > 1.9 * min(delta / 2, delta**2 / (4 * d))
    assert verdict.broken == (Reason.SELF_COLLISION,)


def test_an_arc_between_samples_bulges_towards_an_obstacle() -> None:
    """A ball at the radius R goes round in steps of 0.2 rad; a half space begins where the arc's top is, between two samples."""
    reach, radius = 0.5, 0.05
    bulge = reach * (1.0 - cos(0.1))  # of the arc beyond its samples: 2.5 mm
    body = spun((ball(2, (reach, 0.0, 0.0), radius),))
    wall = HalfSpace((-1.0, 0.0, 0.0), -(reach * cos(0.1) + radius + 0.04))  # x <= ...: samples just keep 0.04 m
    verdict = judged(Clearance(body, around(wall)), turned(-0.5, -0.3, -0.1, 0.1, 0.3, 0.5))
    second = 2 * reach * (1.0 - cos(0.2)) / 8
    assert verdict.obstacle == pytest.approx(-second, rel=1e-6)
    assert second >= 0.99 * bulge
    assert verdict.broken == (Reason.COLLISION,)


def test_the_first_step_may_be_shorter_than_the_others() -> None:
    """Bends are those of equal steps: a short first step that stands for a jump in the second difference adds none."""
    body = spun((ball(2, (FAR, 0.0, 0.0), 0.05),))
    clearance = Clearance(body, around(Sphere((FAR, 0.0, 0.12), 0.01)))
    path = turned(-0.0031, -0.003, -0.002, -0.001, 0.0)  # 1 mm, then 10 mm each
    verdict = clearance.judge(path, np.array([0.001, 0.01, 0.01, 0.01]), FAST)
    lost = 0.01**2 / (4 * 0.10)
    assert verdict.obstacle == pytest.approx(0.02 - lost, abs=1e-6)


def dense_shortfall(check: Checker, rows: np.ndarray, most: int) -> tuple[float, float]:
    """Return the smallest obstacle and self clearance beyond the margins on the poses of a path [m], by the checker's own search."""
    found = {Kind.OBSTACLE: math.inf, Kind.SELF_COLLISION: math.inf}
    kept = check.kept
    points = check.skeleton.points(mujoco.MjData(check.skeleton.model), rows[:most])
    distance = kept.distances(points, exact=True) - kept.margin[:, None]
    for kind in found:
        here = [p for p, k in enumerate(kept.kinds) if k is kind]
        found[kind] = float(distance[here].min(initial=math.inf))
    return found[Kind.OBSTACLE], found[Kind.SELF_COLLISION]


def paths(arm: Arm, rng: np.random.Generator, count: int) -> list[Any]:
    """Return stops from random states, in motion, most of them near something."""
    body = body_of(arm)
    speed, acceleration, jerk = (np.array(t) for t in (body.limits.speed, body.limits.acceleration, body.limits.jerk))
    low, high = np.array(body.limits.q_min), np.array(body.limits.q_max)
    clearance, stops = Clearance(body, CELL), list[Any]()
    while len(stops) < count:
        q = np.array(arm.home) + 0.6 * (rng.uniform(low, high) - arm.home)
        near = clearance.nearest(joint_frames(body.chain, q), 0.0).distance
        if len(near):
            continue  # start outside of all margins, so that the margins alone are required
        v, a = speed * rng.uniform(-1.0, 1.0, len(q)), 0.5 * acceleration * rng.uniform(-1.0, 1.0, len(q))
        stops.append(plan_stop(q, v, a, acceleration, jerk))
    return stops


@pytest.mark.parametrize(
    ("arm", "step", "count", "finer"),
    [
        (PANDA, 0.01, 8, 150), (PANDA, 0.05, 10, 200), (UR5E, 0.02, 8, 150),
        pytest.param(PANDA, 0.01, 100, 1000, marks=pytest.mark.slow),
        pytest.param(PANDA, 0.05, 100, 1000, marks=pytest.mark.slow),
        pytest.param(UR5E, 0.02, 100, 1000, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_what_is_claimed_for_a_path_holds_everywhere_between_its_samples(
    arm: Arm, step: float, count: int, finer: int
) -> None:
    """Against poses of the motion itself: five to a step, and `finer` to a step around the worst place."""
    rng = np.random.default_rng(11)
    body = body_of(arm)
    clearance = Clearance(body, CELL)
    check = Checker(arm, body.limits, body.capsules, body.self_pairs, CELL, step)
    needed = 0
    for stop in paths(arm, rng, 12 * count):
        times = step * np.arange(math.ceil(stop.duration / step) + 1)
        verdict = judged(clearance, stop.sample(times)[0], FAST, step)
        if count == 0 or max(map(abs, (verdict.obstacle, verdict.self_collision))) > 0.05:
            continue  # nothing near
        count -= 1
        dense = stop.sample(np.arange(times[1], times[-1], step / 5))[0]  # row 0 is past
        truths = list(dense_shortfall(check, dense, len(dense)))
        rows = stop.sample(times)[0][1:]
        worst = 1 + int(np.argmin([min(dense_shortfall(check, row[None], 1)) for row in rows]))
        around_it = np.linspace(max(times[worst] - step, times[1]), times[worst] + step, 2 * finer)
        truths = [
            min(pair) for pair in zip(truths, dense_shortfall(check, stop.sample(around_it)[0], 2 * finer), strict=True)
        ]
        sampled = dense_shortfall(check, rows, len(rows))
        for claim, truth, at_samples in zip((verdict.obstacle, verdict.self_collision), truths, sampled, strict=True):
            assert claim <= truth + 2e-7
            needed += truth < at_samples - 1e-6
    assert count == 0
    assert needed > 0 or arm is UR5E  # samples alone would have claimed too much (the UR5e stops too soon for that)


# ------------------------------------------------------------------------------------------------ starts inside a margin


def test_from_inside_a_margin_the_distance_may_only_grow() -> None:
    """A ball of 0.05 m on a radius of 1 m, an obstacle of 0.05 m at angle 0, a margin of 0.2 m."""
    clearance = Clearance(spun((ball(2, (1.0, 0.0, 0.0), 0.05),)), around(Sphere((1.0, 0.0, 0.0), 0.05), margin=0.2))

    def way(*corners: float) -> tuple[Reason, ...]:
        """Go from angle to angle in steps of 2.5 mm."""
        angles = [corners[0]]
        for a, b in itertools.pairwise(corners):
            angles += np.linspace(a, b, max(2, round(abs(b - a) / 0.0025)))[1:].tolist()
        return judged(clearance, turned(*angles)).broken

    hit = (Reason.COLLISION,)
    assert way(0.20, 0.22) == way(-0.20, -0.22) == ()  # 0.1 m away, and going
    assert way(0.20, 0.20) == ()  # staying
    assert way(0.20, 0.1975) == hit
    assert way(0.20, 0.25, 0.24) == hit  # never back
    assert way(0.20, 0.40, 0.32) == ()  # beyond the margin, at 0.302 rad, it is free
    assert way(0.20, 0.40, 0.30) == hit
    assert way(0.08, 0.10) == ()  # from where both touch as well
    assert way(0.08, 0.07) == hit


def test_one_pair_inside_its_margin_does_not_free_another() -> None:
    """The ball leaves one obstacle, whose margin it has broken, towards another."""
    body = spun((ball(2, (1.0, 0.0, 0.0), 0.05),))
    one, other = Sphere((1.0, 0.0, 0.0), 0.05), Sphere((cos(0.6), sin(0.6), 0.0), 0.05)
    clearance = Clearance(body, around(one, other, margin=0.2))
    assert judged(clearance, turned(0.20, 0.21, 0.22)).broken == ()
    assert judged(clearance, turned(0.20, 0.30, 0.31)).broken == (Reason.COLLISION,)


def test_parts_inside_their_margin_may_only_part() -> None:
    body = spun((ball(1, (1.0, 0.0, 0.0), 0.05), ball(2, (1.0, 0.0, 0.0), 0.05)), ((0, 1),))
    clearance = Clearance(body, Surroundings(margins=Margins(self_collision=0.2)))
    assert judged(clearance, turned(0.20, 0.21, 0.22)).broken == ()
    assert judged(clearance, turned(0.20, 0.19)).broken == (Reason.SELF_COLLISION,)
    assert judged(clearance, turned(0.20, 0.30, 0.25)).broken == (Reason.SELF_COLLISION,)


# -------------------------------------------------------------------------------- P6: a larger obstacle accepts no more


def grown(shape: Shape, by: float) -> Shape:
    match shape:
        case Sphere(centre, radius):
            return Sphere(centre, radius + by)
        case CapsuleShape(start, end, radius):
            return CapsuleShape(start, end, radius + by)
        case BoxShape(centre, half, yaw):
            return BoxShape(centre, (half[0] + by, half[1] + by, half[2] + by), yaw)
        case HalfSpace(normal, offset):
            return HalfSpace(normal, offset + by)


SHAPES: dict[str, Callable[[list[float], np.random.Generator], Any]] = {
    "ball": lambda p, rng: Sphere((p[0], p[1], p[2]), rng.uniform(0.02, 0.1)),
    "rod": lambda p, rng: CapsuleShape((p[0], p[1], p[2]), (p[0], p[1], p[2] + 0.4), rng.uniform(0.02, 0.1)),
    "box": lambda p, rng: BoxShape((p[0], p[1], p[2]), (0.1, 0.05, 0.02), rng.uniform(-3.0, 3.0)),
}


def wall_beside(body: Body, q: np.ndarray, rng: np.random.Generator) -> HalfSpace:
    """A wall at random, up to 0.15 m beyond the margin of an arm."""
    direction = rng.normal(0.0, 1.0, 3)
    x, y, z = (direction / np.linalg.norm(direction)).tolist()
    far = Clearance(body, around(HalfSpace((x, y, z), -5.0))).nearest(joint_frames(body.chain, q), 9.0)
    return HalfSpace((x, y, z), -5.0 + float(far.distance[far.distance > 2.0].min()) - rng.uniform(0.0, 0.15))


@pytest.mark.parametrize("kind", [*SHAPES, "wall"])
def test_growing_an_obstacle_never_turns_a_refusal_into_an_acceptance(kind: str) -> None:
    """As long as the arm begins outside the larger one's margin; inside, another rule holds (it may only come away).

    A margin that grows is the same, for obstacles and for the arm's own parts.
    """
    rng = np.random.default_rng(21)
    body = body_of(PANDA)
    seen = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for stop in paths(PANDA, rng, 260):
        path = stop.sample(0.01 * np.arange(math.ceil(stop.duration / 0.01) + 1))[0]
        tool = joint_frames(body.chain, path[-1])[-1, :3, 3]
        more = rng.uniform(0.001, 0.1)
        at = (tool + rng.normal(0.0, 0.15, 3)).tolist()
        shape = wall_beside(body, path[0], rng) if kind == "wall" else SHAPES[kind](at, rng)
        small, large = (
            Surroundings(obstacles=(Obstacle("o", shape),)),
            Surroundings(obstacles=(Obstacle("o", grown(shape, more)),)),
        )
        cautious = replace(small, margins=Margins(obstacle=0.04 + more, self_collision=0.005 + more))
        accepted = judged(Clearance(body, small), path).broken == ()
        for larger in (large, cautious):
            if len(Clearance(body, larger).nearest(joint_frames(body.chain, path[0]), 0.0).distance):
                continue
            still_accepted = judged(Clearance(body, larger), path).broken == ()
            assert accepted or not still_accepted
            seen[accepted, still_accepted] += 1
    assert min(seen[True, True], seen[True, False], seen[False, False]) > 5


# ------------------------------------------------------------------------------------------------------ one configuration


@pytest.mark.parametrize("arm", [PANDA, UR5E], ids=lambda arm: arm.name)
def test_distances_are_those_of_the_checkers_own_search(arm: Arm) -> None:
    rng = np.random.default_rng(31)
    body = body_of(arm)
    held = Held((0.0, 0.0, -0.02), (0.0, 0.05, 0.08), 0.03)
    for place in (CELL, replace(CELL, held=held)):
        clearance = Clearance(body, place)
        check = Checker(arm, body.limits, body.capsules, body.self_pairs, place, 0.01)
        data = mujoco.MjData(check.skeleton.model)
        q = np.array(arm.home) + 0.8 * (rng.uniform(arm.q_min, arm.q_max, (40, len(arm.home))) - arm.home)
        theirs = check.kept.distances(check.skeleton.points(data, q), exact=True) - check.kept.margin[:, None]
        for pose, column in zip(q, theirs.T, strict=True):
            ours = np.sort(clearance.nearest(joint_frames(body.chain, pose), 99.0).distance)
            column = np.sort(column)
            apart = column > 0.0  # in a box the checker measures a depth
            assert len(ours) == len(column)
            np.testing.assert_allclose(ours[apart], column[apart], atol=3e-7)
            assert (ours[~apart] <= 3e-7).all()


def test_distances_are_mujocos() -> None:
    rng = np.random.default_rng(32)
    body = spun((Capsule("part", 2, (0.2, -0.1, 0.0), (0.6, 0.2, 0.1), 0.07),))
    compared = 0
    for _ in range(200):
        at = rng.uniform(-0.8, 0.8, 3).tolist()
        angle = rng.uniform(-3.0, 3.0)
        turn = np.array([[cos(angle), -sin(angle), 0.0], [sin(angle), cos(angle), 0.0], [0.0, 0.0, 1.0]])
        a, b = (tuple((turn @ np.array(p)).tolist()) for p in ((0.2, -0.1, 0.0), (0.6, 0.2, 0.1)))
        kind = rng.choice(["ball", "rod", "box"])
        shape = SHAPES[kind](at, rng)
        theirs = by_mujoco(CapsuleShape(a, b, 0.07), shape)
        ours = Clearance(body, around(shape, margin=0.0)).nearest(joint_frames(body.chain, np.array([0.0, angle])), 9.0)
        if theirs > 1e-3:
            assert ours.distance[0] == pytest.approx(theirs, abs=5e-6)
            compared += 1
    assert compared > 120


@pytest.mark.parametrize("arm", [PANDA, UR5E], ids=lambda arm: arm.name)
def test_points_and_normals_are_the_gradient_of_the_distance(arm: Arm) -> None:
    """d distance / d q_j = n . (axis_j x (p - o_j)), less the same of the other part, against differences."""
    rng = np.random.default_rng(33)
    body = body_of(arm)
    clearance = Clearance(body, CELL)
    compared = 0
    for _ in range(12):
        q = np.array(arm.home) + 0.7 * (rng.uniform(arm.q_min, arm.q_max) - arm.home)
        frames = joint_frames(body.chain, q)
        near = clearance.nearest(frames, 99.0)
        np.testing.assert_allclose(np.linalg.norm(near.normal, axis=1), 1.0, atol=1e-6)
        h = 1e-6
        for joint in range(len(q)):
            step = h * (np.arange(len(q)) == joint)
            more, less = (clearance.nearest(joint_frames(body.chain, q + s), 99.0).distance for s in (step, -step))
            slope = (more - less) / (2 * h)
            curved = np.abs(more + less - 2 * near.distance) / h > 1e-3  # the nearest point jumps here
            axis, origin = frames[joint, :3, 2], frames[joint, :3, 3]

            def pushed(point: np.ndarray, link: np.ndarray, axis: np.ndarray = axis, origin: np.ndarray = origin, j: int = joint, n: np.ndarray = near.normal) -> np.ndarray:  # fmt: skip
                return np.einsum("kx,kx->k", n, np.cross(axis, point - origin)) * (link > j)

            expected = pushed(near.point, near.link) - pushed(near.other_point, near.other_link)
            good = ~curved & (near.distance > -0.02)
            np.testing.assert_allclose(slope[good], expected[good], atol=2e-5)
            compared += int(good.sum())
    assert compared > 1000


def test_pairs_that_are_far_are_left_out() -> None:
    body = body_of(PANDA)
    clearance = Clearance(body, CELL)
    frames = joint_frames(body.chain, np.array(PANDA.home))
    everything = clearance.nearest(frames, 99.0)
    for within in (0.3, 0.1, 0.0):
        some = clearance.nearest(frames, within)
        np.testing.assert_array_equal(
            np.sort(some.distance), np.sort(everything.distance[everything.distance < within])
        )
