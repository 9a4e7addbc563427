"""Expected values: worked out by hand on a planar arm, MuJoCo's own geom distances, the package's other kinematics, ruckig."""

import ast
import math
import subprocess
import sys
from dataclasses import dataclass, replace
from math import cos, pi, sin
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import ruckig
from hypothesis import given, settings
from hypothesis import strategies as st

from ideomotor.core.errors import UserError
from ideomotor.robot import checker as module
from ideomotor.robot.arm import Arm, Mount, SpeedLaw, Vector3
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.body_file import load_body
from ideomotor.robot.checker import Checker, Kind, ModelFile, Violation, counts
from ideomotor.robot.kinematics import forward, joint_frames, link_frames
from ideomotor.robot.limits import Limits, Share, limits_of
from ideomotor.robot.surroundings import (
    Bounds,
    BoxShape,
    CapsuleShape,
    HalfSpace,
    Held,
    Margins,
    Obstacle,
    Sphere,
    Surroundings,
)

ALLOWED = {"ideomotor.core.errors", "ideomotor.robot.arm", "ideomotor.robot.limits", "ideomotor.robot.surroundings"}
TABLES = {
    "Arm",
    "Vector3",
    "Limits",
    "Share",
    "UserError",
    "BoxShape",
    "CapsuleShape",
    "HalfSpace",
    "Obstacle",
    "Sphere",
    "Surroundings",
}


def test_the_checker_imports_data_types_and_nothing_of_the_filter() -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(name.name.startswith("ideomotor") for name in node.names)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ideomotor"):
            assert node.module in ALLOWED
            assert {name.name for name in node.names} <= TABLES
        assert not (isinstance(node, ast.Name) and node.id in ("__import__", "importlib", "exec", "eval"))


def test_importing_the_checker_loads_no_part_of_the_filter() -> None:
    parts = ("kinematics", "clearance", "geometry", "shield", "joint_filter", "stop", "velocity_qp", "body", "control")
    code = f"import sys, ideomotor.robot.checker; print([p for p in {parts} if 'ideomotor.robot.' + p in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"
    )


# ------------------------------------------------------------------------------------------------- a planar arm by hand

PLANAR = """<mujoco><worldbody><body name="foot" pos="0 0 0.5">
<body name="upper"><joint name="j1" axis="0 0 1"/><geom size="0.01"/>
<body name="fore" pos="0.4 0 0"><joint name="j2" axis="0 0 1"/><geom size="0.01"/><site name="tcp" pos="0.3 0 0"/>
</body></body></body></worldbody></mujoco>"""  # 0.4 m and 0.3 m, turning about z at a height of 0.5 m

NUMBERS = Limits(
    q_min=(-3.0, -3.0), q_max=(3.0, 3.0), speed=(1.0, 2.0), acceleration=(10.0, 20.0), jerk=(500.0, 1000.0), torque=(1.0, 1.0),
    torque_rate=None, tool_speed=1.0, tool_acceleration=1.0, payload=1.0, sources=(),
)  # fmt: skip
UNLIMITED = Share(speed=math.inf, acceleration=math.inf, jerk=math.inf)
DT = 0.01  # [s]
EMPTY = Surroundings()


@dataclass(frozen=True)
class Cap:
    """A capsule as data: the checker needs no class of ours."""

    part: str
    link: int
    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radius: float


FORE = Cap("fore", 2, (0.0, 0.0, 0.0), (0.3, 0.0, 0.0), 0.05)
POST = Cap("post", 0, (-0.2, -0.3, 0.5), (-0.2, 0.3, 0.5), 0.02)  # beside the foot, along y


@pytest.fixture
def planar(tmp_path: Path) -> ModelFile:
    path = tmp_path / "planar.xml"
    path.write_text(PLANAR)
    return ModelFile(path, "tcp")


def made(source: Any, around: Surroundings = EMPTY, **changes: Any) -> Checker:
    fields: dict[str, Any] = {
        "source": source, "limits": NUMBERS, "capsules": (FORE,), "self_pairs": (), "around": around, "dt": DT,
        "share": UNLIMITED,
    }  # fmt: skip
    return Checker(**(fields | changes))


def still(*rows: tuple[float, float]) -> np.ndarray:
    return np.array(rows, dtype=np.float64)


def near(**obstacles: Any) -> Surroundings:
    return Surroundings(obstacles=tuple(Obstacle(name, shape) for name, shape in obstacles.items()))


def summary(violations: list[Violation]) -> list[tuple[Kind, int, tuple[str, ...]]]:
    return [(v.kind, v.tick, v.names) for v in violations]


def test_backward_differences_are_those_worked_out_by_hand(planar: ModelFile) -> None:
    # v = 1, 3, 3 rad/s and a = 100, 200, 0 rad/s^2 and j = 1e4, 1e4, -2e4 rad/s^3 in joint 2
    q = still((0, 0), (0, 0.01), (0, 0.04), (0, 0.07))
    found = made(planar, share=Share()).check(q)
    assert summary(found) == [
        (Kind.ACCELERATION, 1, ("joint2",)), (Kind.JERK, 1, ("joint2",)),
        (Kind.VELOCITY, 2, ("joint2",)), (Kind.ACCELERATION, 2, ("joint2",)), (Kind.JERK, 2, ("joint2",)),
        (Kind.VELOCITY, 3, ("joint2",)), (Kind.JERK, 3, ("joint2",)),
    ]  # fmt: skip
    np.testing.assert_allclose([v.value for v in found], [100, 1e4, 3, 200, 1e4, 3, 2e4], rtol=1e-9)
    np.testing.assert_allclose([v.allowed for v in found], [20, 1e3, 2, 20, 1e3, 2, 1e3], rtol=1e-8)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("order", "kind"), [(1, Kind.VELOCITY), (2, Kind.ACCELERATION), (3, Kind.JERK)])
def test_a_limit_is_met_to_one_part_in_a_billion(planar: ModelFile, order: int, kind: Kind, sign: float) -> None:
    limit = {1: 1.0, 2: 10.0, 3: 500.0}[order]
    share = {"speed": math.inf, "acceleration": math.inf, "jerk": math.inf}
    share[{1: "speed", 2: "acceleration", 3: "jerk"}[order]] = 1.0
    checker = made(planar, share=Share(**share))

    def ride(factor: float) -> np.ndarray:
        derivative = np.zeros(60)
        derivative[3:] = sign * factor * limit
        for _ in range(order):
            derivative = np.cumsum(derivative * DT)
        return np.stack([derivative, np.zeros(60)], axis=1)

    assert checker.check(np.clip(ride(1.0), -3.0, 3.0) if order == 1 else ride(1.0)[:25]) == []
    found = checker.check(ride(1.0 + 1e-6)[:25])
    assert {v.kind for v in found} == {kind}
    assert found[0].tick == 3


def test_the_rounding_of_positions_is_no_jerk(planar: ModelFile) -> None:
    t = np.arange(200) * 1e-4
    q = np.stack([2.5 + 500.0 * t**3 / 6.0, np.zeros(200)], axis=1)  # third differences of a cubic are exactly its jerk
    assert np.ptp(np.diff(q[:, 0], 3)) > 1e-9 * 500.0 * 1e-12  # and floating point does not hold them to 1e-9
    checker = made(planar, dt=1e-4, share=replace(UNLIMITED, jerk=1.0))
    assert checker.check(q) == []
    q[100, 0] += 1e-13
    assert {v.kind for v in checker.check(q)} == {Kind.JERK}


def test_a_share_lowers_the_limit(planar: ModelFile) -> None:
    q = still((0, 0), (0.008, 0), (0.016, 0))  # 0.8 of 1 rad/s
    assert made(planar, share=replace(UNLIMITED, speed=0.8)).check(q) == []
    (first, _) = made(planar, share=replace(UNLIMITED, speed=0.7)).check(q)
    assert first.allowed == pytest.approx(0.7)


def test_an_episode_begins_at_rest(planar: ModelFile) -> None:
    q = still((0, 0), (0.005, 0), (0.01, 0))  # 0.5 rad/s at once: 50 rad/s^2
    assert summary(made(planar, share=replace(UNLIMITED, acceleration=1.0)).check(q)) == [
        (Kind.ACCELERATION, 1, ("joint1",))
    ]


def test_positions_outside_the_range_are_found(planar: ModelFile) -> None:
    found = made(planar).check(still((0, 0), (3.0, -3.0), (3.0 + 1e-8, -3.0 - 1e-8)))
    assert summary(found) == [(Kind.POSITION, 2, ("joint1",)), (Kind.POSITION, 2, ("joint2",))]
    assert [v.value for v in found] == [3.0 + 1e-8, -3.0 - 1e-8]
    np.testing.assert_allclose([v.allowed for v in found], [3.0, -3.0], atol=5e-9)


def test_a_margin_of_the_joints_is_kept_too(planar: ModelFile) -> None:
    assert summary(made(planar, joint_margin=0.01).check(still((0, 0), (2.99, 0), (2.9901, -2.9901)))) == [
        (Kind.POSITION, 2, ("joint1",)), (Kind.POSITION, 2, ("joint2",)),
    ]  # fmt: skip


LAW = SpeedLaw(offset=(0.3, 0.3), gain=(12.0, 12.0), low=(-2.75, -2.75), high=(2.75, 2.75))


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_speed_that_depends_on_the_position_is_judged_where_the_tick_ends(planar: ModelFile, side: float) -> None:
    checker = made(planar, limits=replace(NUMBERS, speed_law=LAW))
    # at 2.65: sqrt(12 * 0.1) - 0.3 = 0.79545 rad/s; at 2.65 - 0.0079 = 2.6421: 0.83863 rad/s
    legal, riding = 0.0079, 0.0083
    assert checker.check(side * still((2.65 - legal, 0), (2.65, 0))) == []
    (found,) = checker.check(side * still((2.65 - riding, 0), (2.65, 0)))
    assert (found.kind, found.tick, found.names) == (Kind.SPEED_LAW, 1, ("joint1",))
    assert found.value == pytest.approx(0.83)
    assert found.allowed == pytest.approx(math.sqrt(1.2) - 0.3)
    assert checker.check(side * still((2.65, 0), (2.65 - riding, 0))) == []  # inwards it is free
    half = replace(checker, share=replace(UNLIMITED, speed=0.5))  # of the cap of 1 rad/s, and of nothing else
    assert summary(half.check(side * still((2.65 - legal, 0), (2.65, 0)))) == [(Kind.VELOCITY, 1, ("joint1",))]


def test_beyond_the_law_no_outward_speed_is_left(planar: ModelFile) -> None:
    checker = made(planar, limits=replace(NUMBERS, speed_law=LAW))
    found = checker.check(still((2.8, 0), (2.8, 0), (2.8 + 1e-5, 0)))
    assert (Kind.SPEED_LAW, 2, ("joint1",)) in summary(found)
    for side in (1.0, -1.0):
        assert checker.check(side * still((2.8, 0), (2.8, 0), (2.79, 0))) == []


def test_tool_speed_is_the_way_of_the_tool_over_the_tick(planar: ModelFile) -> None:
    q = still((0, 0), (0.004, 0))  # stretched 0.7 m: chord 1.4 sin(0.002) m in 0.01 s
    speed = 1.4 * sin(0.002) / 0.01
    (found,) = made(planar, tool_speed=0.25).check(q)
    assert (found.kind, found.tick, found.names) == (Kind.TOOL_SPEED, 1, ("tool",))
    assert found.value == pytest.approx(speed, rel=1e-9)
    assert made(planar, tool_speed=speed).check(q) == []
    assert len(made(planar, tool_speed=speed * (1.0 - 1e-6)).check(q)) == 1
    assert made(planar).check(q) == []


def test_a_cap_may_change_from_tick_to_tick(planar: ModelFile) -> None:
    q = still((0, 0), (0.004, 0), (0.008, 0), (0.012, 0))  # 0.28 m/s
    found = made(planar, tool_speed=0.1).check(q, tool_speed=[0.0, 0.3, 0.25, 0.3])
    assert summary(found) == [(Kind.TOOL_SPEED, 2, ("tool",))]


# at q = 0 the forearm lies on the x axis from 0.4 to 0.7 m, 0.5 m high, with a radius of 0.05 m
FLOOR = HalfSpace((0.0, 0.0, 1.0), 0.2)
SHAPES = [
    (Sphere((0.5, 0.2, 0.5), 0.1), 0.2 - 0.1 - 0.05),
    (Sphere((1.0, 0.4, 0.5), 0.1), 0.5 - 0.15),  # beyond the tip: 3 4 5
    (CapsuleShape((0.5, 0.3, 0.0), (0.5, 0.3, 1.0), 0.1), 0.3 - 0.15),  # across
    (CapsuleShape((0.3, 0.3, 0.5), (0.9, 0.3, 0.5), 0.1), 0.3 - 0.15),  # parallel, longer
    (CapsuleShape((0.5, 0.0, 0.7), (0.5, 0.0, 0.9), 0.1), 0.2 - 0.15),  # above, upright
    (BoxShape((0.5, 0.3, 0.5), (0.1, 0.1, 0.1)), 0.2 - 0.05),
    (BoxShape((1.0, 0.0, 0.5), (0.1, 0.1, 0.1), pi / 4.0), 0.3 - 0.1 * math.sqrt(2.0) - 0.05),  # an edge points at the tip
    (BoxShape((0.5, 0.3, 0.5), (0.2, 0.05, 0.1), pi / 2.0), 0.3 - 0.2 - 0.05),
    (BoxShape((0.9, 0.24, 0.82), (0.08, 0.08, 0.08)), math.sqrt(0.12**2 + 0.16**2 + 0.24**2) - 0.05),  # a corner
    (FLOOR, 0.3 - 0.05),
    (HalfSpace((-1.0, 0.0, 0.0), -0.8), 0.1 - 0.05),  # a wall at x = 0.8 m
    (HalfSpace((-0.6, 0.8, 0.0), -0.5), -0.42 + 0.5 - 0.05),
    (Sphere((0.5, 0.0, 0.5), 0.1), -0.15),  # around the axis
    (BoxShape((0.6, 0.0, 0.5), (0.2, 0.07, 0.2)), -0.07 - 0.05),  # the axis is 0.07 m under its sides
    (HalfSpace((0.0, 0.0, 1.0), 0.6), -0.1 - 0.05),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "distance"), SHAPES, ids=lambda value: type(value).__name__)
def test_distances_are_those_of_closed_forms(planar: ModelFile, shape: Any, distance: float) -> None:
    clearances = made(planar, near(thing=shape)).clearances(still((0, 0)))
    assert clearances.obstacle[0] == pytest.approx(distance, abs=2e-7)
    assert clearances.self_collision[0] == clearances.workspace[0] == math.inf


ASIDE = [case for case in SHAPES[:-3] if case[0] != FLOOR]  # the floor is as near from anywhere


@pytest.mark.parametrize(("shape", "distance"), ASIDE, ids=lambda value: type(value).__name__)
def test_a_capsule_nearer_than_the_margin_is_found_and_no_other(planar: ModelFile, shape: Any, distance: float) -> None:
    aside = still((3.0, 0), (0, 0))  # an episode may begin anywhere: begin far away
    around = replace(near(thing=shape), margins=Margins(obstacle=distance + 2e-4))
    (found,) = [v for v in made(planar, around, places=1).check(aside) if v.tick == 1]
    assert (found.kind, found.names) == (Kind.OBSTACLE, ("fore", "thing"))
    assert found.value == pytest.approx(distance, abs=2e-7)
    assert found.allowed == pytest.approx(distance + 1e-4)
    fits = replace(around, margins=Margins(obstacle=distance + 0.9e-4))  # within the allowance
    assert made(planar, fits, places=1).check(aside) == []
    assert len(made(planar, fits, places=1, allowance=0.0).check(aside)) == 1


def test_an_obstacle_may_have_its_own_margin(planar: ModelFile) -> None:
    ball = Obstacle("ball", Sphere((0.5, 0.2, 0.5), 0.1), margin=0.06)  # 0.05 m away
    aside = still((3.0, 0), (0, 0))
    wide = Margins(obstacle=0.02)
    assert len(made(planar, Surroundings(obstacles=(ball,), margins=wide), places=1).check(aside)) == 1
    assert made(planar, Surroundings(obstacles=(replace(ball, margin=0.04),)), places=1).check(aside) == []


def test_foot_and_first_link_and_parts_that_may_touch_are_no_matter(planar: ModelFile) -> None:
    def obstacles(cap: Cap, *may_touch: str) -> int:
        around = Surroundings(obstacles=(Obstacle("ball", Sphere((0.5, 0.0, 0.5), 0.1), may_touch=may_touch),))
        return counts(made(planar, around, capsules=(cap,), places=1).check(still((3.0, 0), (0, 0))))["obstacle"]

    assert obstacles(FORE) == 1
    assert obstacles(FORE, "hand", "fore") == 0
    assert obstacles(FORE, "hand") == 1
    assert obstacles(replace(FORE, link=1, start=(0.4, 0.0, 0.0), end=(0.7, 0.0, 0.0))) == 0


def test_own_parts_are_told_apart(planar: ModelFile) -> None:
    # folded by j2 = 180 degrees the forearm reaches back to x = 0.1; turned by j1 = 90 degrees as well it lies along y
    checker = made(planar, capsules=(POST, FORE), self_pairs=((0, 1),))
    q = still((0, 0), (0, pi), (pi, 2.9))
    # at (pi, 0.0): elbow at x = -0.4, forearm on towards -0.7; post at x = -0.2 with y within 0.3
    assert checker.clearances(q[:2]).self_collision[0] == pytest.approx(0.6 - 0.07, abs=2e-7)
    assert checker.clearances(still((0, pi), (0, pi))).self_collision[1] == pytest.approx(0.3 - 0.07, abs=2e-7)
    crossing = checker.check(still((2.5, 0), (pi, 3.0)))  # the forearm points back across the post
    found = [v for v in crossing if v.kind is Kind.SELF_COLLISION]
    assert [v.names for v in found] == [("post", "fore")]
    assert found[0].value < -0.06
    assert found[0].allowed == pytest.approx(0.005 - 1e-4)


def test_wrist_and_tool_stay_within_the_bounds(planar: ModelFile) -> None:
    around = Surroundings(bounds=Bounds((-1.0, -0.1, 0.0), (0.65, 0.5, 0.9)))
    checker = made(planar, around, places=1)
    # tool at (0.4 + 0.3 cos, 0.3 sin): 0.65 - 0.4 = 0.25 = 0.3 cos(0.5857)
    assert checker.check(still((0, 1.0), (0, 0.60))) == []
    (face,) = checker.check(still((0, 1.0), (0, 0.57)))
    assert (face.kind, face.names) == (Kind.WORKSPACE, ("tool", "high x"))
    assert face.value == pytest.approx(0.65 - 0.4 - 0.3 * cos(0.57), abs=1e-12)
    assert face.allowed == pytest.approx(0.0005 - 1e-4)
    (face,) = checker.check(still((0, 1.0), (-0.3, 1.3)))  # the wrist at y = -0.4 sin 0.3 = -0.118
    assert face.names == ("wrist", "low y")
    assert face.value == pytest.approx(0.1 - 0.4 * sin(0.3), abs=1e-12)
    assert checker.clearances(still((0, 1.0))).workspace[0] == pytest.approx(0.25 - 0.3 * cos(1.0), abs=1e-12)


def test_what_both_ends_of_a_tick_miss_is_found_between_them(planar: ModelFile) -> None:
    thin = near(rod=CapsuleShape((0.6, 0.0, 0.0), (0.6, 0.0, 1.0), 0.01))
    sweep = still((0.5, 0), (-0.5, 0))
    (found,) = made(planar, thin).check(sweep)
    assert (found.kind, found.tick) == (Kind.OBSTACLE, 1)
    assert found.value == pytest.approx(-0.06, abs=1e-3)  # in the middle of the tick the axis meets the rod
    assert made(planar, thin, places=1).check(sweep) == []
    assert made(planar, thin).clearances(sweep).obstacle[1] == pytest.approx(-0.06, abs=1e-3)


# ----------------------------------------------------------------------------------------------------- starting outside


def test_a_joint_outside_its_range_may_come_back_but_go_no_further_out(planar: ModelFile) -> None:
    checker = made(planar)
    assert checker.check(still((3.2, -3.2), (3.2, -3.2), (3.1, -3.1), (3.1, -3.1), (2.9, -2.9), (3.0, -3.0))) == []
    found = checker.check(still((3.2, -3.2), (3.1, -3.1), (3.15, -3.15), (2.9, -2.9), (3.05, -3.05)))
    assert summary(found) == [
        (Kind.POSITION, 2, ("joint1",)), (Kind.POSITION, 2, ("joint2",)),
        (Kind.POSITION, 4, ("joint1",)), (Kind.POSITION, 4, ("joint2",)),
    ]  # fmt: skip
    np.testing.assert_allclose([v.allowed for v in found], [3.1, -3.1, 3.0, -3.0], atol=1e-8)


def test_a_pair_within_its_margin_may_only_come_apart(planar: ModelFile) -> None:
    wall = near(
        wall=HalfSpace((-1.0, 0.0, 0.0), -0.76)
    )  # the tip at 0.7 cos(j1), with its radius 0.76 - 0.05 - 0.7 cos
    checker = made(planar, wall)

    def at(*distances: float) -> np.ndarray:
        return still(*((math.acos((0.71 - d) / 0.7), 0.0) for d in distances))

    assert checker.check(at(0.011, 0.011, 0.020, 0.020, 0.039, 0.060, 0.040)) == []
    (found,) = checker.check(at(0.011, 0.020, 0.015))
    assert (found.kind, found.tick) == (Kind.OBSTACLE, 2)
    assert found.value == pytest.approx(0.015, abs=1e-6)
    assert found.allowed == pytest.approx(0.020 - 1e-4, abs=1e-6)
    (found,) = checker.check(at(0.011, 0.060, 0.030))  # once outside of the margin it counts in full
    assert found.allowed == pytest.approx(0.040 - 1e-4, abs=1e-6)
    drift = checker.check(at(*(0.030 - 0.00006 * k for k in range(10))))  # small steps do not add up unseen
    assert [v.tick for v in drift] == list(range(2, 10))


def test_own_parts_and_bounds_follow_the_same_rule(planar: ModelFile) -> None:
    around = Surroundings(bounds=Bounds((-1.0, -1.0, 0.0), (0.6, 1.0, 0.9)))
    checker = made(planar, around)
    inwards = still((0.0, 0.0), (0.1, 0.0), (0.3, 0.0), (0.6, 0.0), (0.8, 0.0))
    assert checker.check(inwards) == []
    found = checker.check(inwards[[0, 2, 1]])
    assert summary(found) == [(Kind.WORKSPACE, 2, ("tool", "high x"))]
    assert found[0].allowed == pytest.approx(0.6 - 0.7 * cos(0.3) - 1e-4)

    # the tip at 0.4 - 0.3 cos(j2): folded onto a post that stands where it points
    post = replace(POST, start=(0.1, 0.0, 0.3), end=(0.1, 0.0, 0.7))
    pair = made(planar, capsules=(post, FORE), self_pairs=((0, 1),))
    out = still((0, 3.0), (0, 2.97), (0, 2.94), (0, 2.6))
    assert pair.check(out) == []
    found = pair.check(out[[0, 2, 1]])
    assert summary(found) == [(Kind.SELF_COLLISION, 2, ("post", "fore"))]


def test_a_first_command_far_from_the_measured_pose_is_found(planar: ModelFile) -> None:
    checker = made(planar, share=Share())
    assert checker.check(still((2.8, 0)), measured=(2.8, 0.0)) == []
    found = checker.check(still((2.8, 0)), measured=(0.0, 0.0))
    assert counts(found) == counts([]) | {"velocity": 1, "acceleration": 1, "jerk": 1}
    assert found[0].value == pytest.approx(280.0)
    stream = checker.stream()
    assert stream.extend(still((0, 0), (0, 0))) == []
    stream.restart([0.0, 0.0])
    assert {v.tick for v in stream.step([2.8, 0.0])} == {2}
    stream.restart()  # without a pose the episode begins in its first command
    assert stream.step([0.0, 0.0]) == []


# ---------------------------------------------------------------------------------------------------------- held objects


def test_a_held_object_is_checked_in_the_tool_frame(planar: ModelFile) -> None:
    # upright in the tool: 0.3 m down, 0.02 m thick, its end 0.18 m over the table that is at z = 0
    held = Held((0.0, 0.0, 0.0), (0.0, 0.0, -0.3), 0.02)
    table = Obstacle("table", HalfSpace((0.0, 0.0, 1.0), 0.17), may_touch=("fore",))
    around = Surroundings(obstacles=(table,), held=held, margins=Margins(obstacle=0.02))
    assert made(planar, around).clearances(still((0, 0))).obstacle[0] == pytest.approx(0.2 - 0.02 - 0.17, abs=1e-12)
    touching = replace(around, obstacles=(replace(table, may_touch=("fore", "held")),))
    assert made(planar, touching).clearances(still((0, 0))).obstacle[0] == math.inf

    # the parts of the last link keep apart from the post: so does the held object, which is at the tip
    apart = Surroundings(held=held)
    clear = made(planar, apart, capsules=(POST, replace(FORE, end=(0.1, 0.0, 0.0))), self_pairs=((0, 1),))
    assert clear.clearances(still((0, pi))).self_collision[0] == pytest.approx(0.3 - 0.02 - 0.02, abs=2e-7)


# -------------------------------------------------------------------------------------------------- garbage and streams


@pytest.mark.parametrize(
    "row",
    [[math.nan, 0.0], [math.inf, 0.0], [0.0, -math.inf], None, "up", [0.0], [[0.0, 0.0]], [0.0, 0.0, 0.0], [True, False],
     ["0", "0"], [0.0, 1j], object(), [[], [0.0]], np.longdouble("1e4000") * np.ones(2), [10**400, 0]],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_garbage_is_a_violation_and_no_exception(planar: ModelFile, row: Any) -> None:
    stream = made(planar).stream()
    assert {v.kind for v in stream.step(row)} == {Kind.NONFINITE}  # before any command
    assert stream.step([0.1, 0.2]) == []
    found = stream.step(row)
    assert {(v.kind, v.tick) for v in found} == {(Kind.NONFINITE, 2)}
    assert stream.step([0.1, 0.2]) == []


def test_numbers_of_any_size_are_judged(planar: ModelFile) -> None:
    around = Surroundings(
        bounds=Bounds((-1.0, -1.0, 0.0), (1.0, 1.0, 1.0)), obstacles=(Obstacle("ball", Sphere((5.0, 0.0, 0.0), 0.1)),)
    )
    for size in (1e300, -1e300, 1.7e308):
        found = made(planar, around, share=Share()).check(still((0, 0), (size, 0), (-size, 0), (0, 0)))
        assert {Kind.VELOCITY, Kind.ACCELERATION, Kind.JERK, Kind.POSITION} <= {v.kind for v in found if v.tick == 1}
    found = made(planar, share=Share()).check(still((-1.7e308, 0), (0, 0), (1.7e308, 0)))  # infinite minus infinite
    assert {Kind.ACCELERATION, Kind.JERK} <= {v.kind for v in found if v.tick == 2}
    assert made(planar, around, share=Share()).check(still((0, 0), (5e-324, -5e-324))) == []


def test_behind_a_gap_a_jump_is_still_seen(planar: ModelFile) -> None:
    checker = made(planar, share=replace(UNLIMITED, speed=1.0))
    gap = still((0, 0), (math.nan, 0), (0.005, 0), (math.nan, math.inf), (1.0, 0))
    assert summary(checker.check(gap)) == [
        (Kind.NONFINITE, 1, ("joint1",)), (Kind.NONFINITE, 3, ("joint1",)), (Kind.NONFINITE, 3, ("joint2",)),
        (Kind.VELOCITY, 4, ("joint1",)),
    ]  # fmt: skip
    assert np.isnan(checker.clearances(gap).obstacle).tolist() == [False, True, False, True, False]


def crowded(planar: ModelFile) -> Checker:
    around = Surroundings(
        bounds=Bounds((-0.6, -0.6, 0.0), (0.6, 0.6, 0.9)),
        obstacles=(
            Obstacle("ball", Sphere((0.5, 0.2, 0.5), 0.1)), Obstacle("rod", CapsuleShape((-0.4, -0.4, 0.0), (-0.4, -0.4, 1.0), 0.05)),
            Obstacle("box", BoxShape((0.0, -0.5, 0.5), (0.1, 0.1, 0.1), 0.5)), Obstacle("wall", HalfSpace((0.0, -1.0, 0.0), -0.55)),
        ),
    )  # fmt: skip
    law = replace(NUMBERS, speed_law=LAW)
    return made(planar, around, capsules=(POST, FORE), self_pairs=((0, 1),), limits=law, share=Share(), tool_speed=0.5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cut=st.lists(st.integers(1, 90), min_size=1, max_size=6))
def test_any_cut_into_blocks_finds_the_same(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cut: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.xml"
    path.write_text(PLANAR)
    checker, rng = crowded(ModelFile(path, "tcp")), np.random.default_rng(seed)
    q = np.cumsum(rng.normal(0, 0.05, (200, 2)), axis=0) + rng.uniform(-3, 3, 2)
    q[rng.random(200) < 0.03, 0] = np.nan
    stream, found, begin = checker.stream(), list[Violation](), 0
    while begin < 200:
        size = int(rng.choice(cut))
        found += stream.extend(q[begin : begin + size])
        begin += size
    whole = checker.check(q)
    assert len(whole) > 20
    # places within a block of the arrays may round differently in the last digit
    assert summary(found) == summary(whole)
    np.testing.assert_allclose([v.value for v in found], [v.value for v in whole], rtol=1e-9, atol=1e-12)


def test_single_steps_find_the_same_and_restarts_begin_anew(planar: ModelFile) -> None:
    checker, rng = crowded(planar), np.random.default_rng(1)
    first, second = (np.cumsum(rng.normal(0, 0.05, (150, 2)), axis=0) for _ in range(2))
    stream = checker.stream()
    found = [v for row in first for v in stream.step(row)]
    stream.restart()
    found += [v for row in second for v in stream.step(row)]
    whole = checker.check(first) + [replace(v, tick=v.tick + 150) for v in checker.check(second)]
    assert summary(found) == summary(whole)
    assert {Kind.OBSTACLE, Kind.WORKSPACE, Kind.JERK, Kind.TOOL_SPEED} <= {v.kind for v in found}


def test_two_streams_of_one_checker_do_not_disturb_each_other(planar: ModelFile) -> None:
    checker = crowded(planar)
    q = np.cumsum(np.random.default_rng(2).normal(0, 0.05, (50, 2)), axis=0)
    one, other = checker.stream(), checker.stream()
    found = list[Violation]()
    for row in q:
        found += one.step(row)
        other.step(-row)
    assert summary(found) == summary(checker.check(q))


# -------------------------------------------------------------------------------------------------------- other libraries


def geom(shape: Sphere | CapsuleShape | BoxShape) -> str:
    match shape:
        case Sphere(centre, radius):
            return f'<geom type="sphere" pos="{numbers(centre)}" size="{radius}"/>'
        case CapsuleShape(start, end, radius):
            return f'<geom type="capsule" fromto="{numbers(start)} {numbers(end)}" size="{radius}"/>'
        case BoxShape(centre, half, yaw):
            return f'<geom type="box" pos="{numbers(centre)}" size="{numbers(half)}" euler="0 0 {yaw}"/>'


def numbers(values: Vector3) -> str:
    return " ".join(repr(float(value)) for value in values)


def added(a: Vector3, b: Vector3) -> Vector3:
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def drawn(rng: np.random.Generator, low: Any, high: Any) -> Vector3:
    x, y, z = rng.uniform(low, high, 3).tolist()
    return (x, y, z)


@pytest.mark.parametrize("kind", [Sphere, CapsuleShape, BoxShape], ids=lambda kind: kind.__name__)
def test_distances_are_those_that_mujoco_finds(planar: ModelFile, kind: type) -> None:
    rng, compared, low, high = np.random.default_rng(3), 0, (-0.4, -0.8, -0.3), (1.2, 0.8, 1.3)
    for _ in range(150):
        start, end, radius = drawn(rng, -0.4, 0.4), drawn(rng, -0.4, 0.4), float(rng.uniform(0.01, 0.1))
        at, to, half, yaw = (
            drawn(rng, low, high),
            drawn(rng, low, high),
            drawn(rng, 0.02, 0.3),
            float(rng.uniform(-4, 4)),
        )
        shapes = (Sphere(at, half[0]), CapsuleShape(at, to, half[1]), BoxShape(at, half, yaw))
        (shape,) = [shape for shape in shapes if isinstance(shape, kind)]
        checker = made(planar, near(thing=shape), capsules=(Cap("part", 2, start, end, radius),))
        ours = float(checker.clearances(still((0, 0))).obstacle[0])
        elbow = (0.4, 0.0, 0.5)
        placed = CapsuleShape(added(start, elbow), added(end, elbow), radius)
        text = f'<mujoco><compiler angle="radian"/><worldbody>{geom(shape)}{geom(placed)}</worldbody></mujoco>'
        model = mujoco.MjModel.from_xml_string(text)
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        theirs = mujoco.mj_geomDistance(model, data, 0, 1, 10.0, np.zeros(6))
        if theirs > 1e-3:  # in contact MuJoCo measures a depth, which is another thing
            assert ours == pytest.approx(theirs, abs=2e-6)
            compared += 1
        else:
            assert ours < 2e-3
    assert compared > 80


ARMS = pytest.mark.parametrize("arm", [PANDA, UR5E, replace(UR5E, mount=Mount((0.1, -0.2, 0.3), 0.7), flange_turn=0.4)],
                               ids=["panda", "ur5e", "ur5e turned"])  # fmt: skip


def points_of_every_link(arm: Arm) -> tuple[Cap, ...]:
    rng = np.random.default_rng(4)
    points = rng.uniform(-0.3, 0.3, (arm.num_joints + 1, 2, 3)).tolist()
    return tuple(Cap(f"link{i}", i, tuple(a), tuple(b), 0.05) for i, (a, b) in enumerate(points))


@ARMS
def test_poses_are_those_of_the_other_kinematics(arm: Arm) -> None:
    caps = points_of_every_link(arm)
    held = Held((0.01, 0.02, 0.03), (-0.04, 0.05, 0.06), 0.01)
    checker = made(arm, Surroundings(held=held), limits=limits_of(arm), capsules=caps)
    q = np.random.default_rng(5).uniform(-pi, pi, (200, arm.num_joints))
    points = checker.skeleton.points(mujoco.MjData(checker.skeleton.model), q).transpose(2, 1, 0)
    frames, tool = link_frames(arm, q), forward(arm, q)
    expected = [
        *(
            frames[:, cap.link, :3, :3] @ np.array(end) + frames[:, cap.link, :3, 3]
            for cap in caps
            for end in (cap.start,)
        ),
        tool[:, :3, :3] @ np.array(held.start) + tool[:, :3, 3],
        *(frames[:, cap.link, :3, :3] @ np.array(cap.end) + frames[:, cap.link, :3, 3] for cap in caps),
        tool[:, :3, :3] @ np.array(held.end) + tool[:, :3, 3],
        frames[:, -1, :3, 3],
        tool[:, :3, 3],
    ]
    np.testing.assert_allclose(points, np.stack(expected, axis=1), rtol=0, atol=1e-12)


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + sin(angle) * cross + (1 - cos(angle)) * cross @ cross


SKEW = """<mujoco><compiler angle="radian"/><asset><mesh name="lost" file="lost.stl"/></asset><worldbody><geom type="plane" size="1 1 1"/>
<body name="foot" pos="0.1 0.2 0.3" axisangle="0 0 1 0.5">
<body name="one" pos="0 0 0.2"><joint name="a" axis="0 1 0" pos="0 0 0.1"/><geom type="mesh" mesh="lost"/>
<body name="plate" pos="0 0 0.3"><geom size="0.1"/>
<body name="two" pos="0.05 0 0"><joint name="b" axis="0 0 -1"/><geom size="0.1"/>
<body name="hand" pos="0 0 0.1"><site name="grip" pos="0.02 0 0.1" axisangle="0 1 0 0.3"/>
<body name="finger"><joint name="slide" type="slide" axis="0 1 0"/><geom size="0.01"/></body></body></body></body></body></body></worldbody>
<actuator><position joint="a"/></actuator><sensor><jointpos joint="b"/></sensor><keyframe><key qpos="0 0 0"/></keyframe>
</mujoco>"""


def test_a_file_is_read_with_its_own_joints_and_without_its_meshes(tmp_path: Path) -> None:
    path = tmp_path / "skew.xml"
    path.write_text(SKEW)
    caps = tuple(Cap(f"link{i}", i, (0.03, -0.02, 0.05), (0.1 * i, 0.2, -0.1), 0.02) for i in range(3))
    held = Held((0.0, 0.0, 0.0), (0.01, 0.02, 0.03), 0.01)
    checker = made(ModelFile(path, "grip"), Surroundings(held=held), capsules=caps)
    q = np.array([0.7, -1.1])
    points = checker.skeleton.points(mujoco.MjData(checker.skeleton.model), q[None])[:, :, 0].T

    # by hand: foot, then each body about its joint's anchor; a link's axes are its body's after the shortest turn onto the axis
    foot_turn, foot = rotation(np.array([0, 0, 1.0]), 0.5), np.array([0.1, 0.2, 0.3])
    one_turn = foot_turn @ rotation(np.array([0, 1.0, 0]), 0.7)
    anchor = foot + foot_turn @ np.array([0, 0, 0.3])
    one = anchor - one_turn @ np.array([0, 0, 0.1])
    link_one = one_turn @ rotation(np.array([1.0, 0, 0]), -pi / 2)  # z onto y: about x by -90 degrees
    two_turn = one_turn @ rotation(np.array([0, 0, -1.0]), -1.1)
    two = one + one_turn @ np.array([0.05, 0, 0.3])
    link_two = two_turn @ rotation(np.array([1.0, 0, 0]), pi)
    tool_turn = two_turn @ rotation(np.array([0, 1.0, 0]), 0.3)
    tool = two + two_turn @ np.array([0.02, 0, 0.2])
    frames = [(np.eye(3), np.zeros(3)), (link_one, anchor), (link_two, two)]
    expected = [frames[cap.link][0] @ cap.start + frames[cap.link][1] for cap in caps] + [tool]
    expected += [frames[cap.link][0] @ cap.end + frames[cap.link][1] for cap in caps] + [
        tool + tool_turn @ held.end,
        two,
        tool,
    ]
    np.testing.assert_allclose(points, expected, rtol=0, atol=1e-12)


URDF = """<robot name="r"><link name="base"/><link name="l1"><visual><geometry><mesh filename="package://x/lost.dae"/></geometry></visual>
<collision><geometry><mesh filename="package://x/lost.stl"/></geometry></collision></link><link name="l2"/><link name="tool"/>
<joint name="j1" type="revolute"><parent link="base"/><child link="l1"/><origin xyz="0 0 0.5"/><axis xyz="0 0 1"/>
<limit lower="-3" upper="3" effort="1" velocity="1"/></joint>
<joint name="j2" type="continuous"><parent link="l1"/><child link="l2"/><origin xyz="0.4 0 0"/><axis xyz="0 0 1"/></joint>
<joint name="fixed" type="fixed"><parent link="l2"/><child link="tool"/><origin xyz="0.3 0 0"/></joint></robot>"""


def test_a_urdf_is_read_too(tmp_path: Path, planar: ModelFile) -> None:
    path = tmp_path / "planar.urdf"
    path.write_text(URDF)
    q = np.random.default_rng(6).uniform(-3, 3, (20, 2))
    around = Surroundings(
        bounds=Bounds((-1.0, -1.0, 0.0), (1.0, 1.0, 1.0)), obstacles=(Obstacle("ball", Sphere((0.5, 0.2, 0.5), 0.1)),)
    )
    ours, mjcf = (made(source, around).clearances(q) for source in (ModelFile(path, "tool"), planar))
    np.testing.assert_allclose(ours.obstacle, mjcf.obstacle, atol=1e-9)
    np.testing.assert_allclose(ours.workspace, mjcf.workspace, atol=1e-9)


def test_without_a_name_the_tool_is_the_only_site_or_the_only_end_of_the_last_link(
    planar: ModelFile, tmp_path: Path
) -> None:
    around = Surroundings(bounds=Bounds((-1.0, -1.0, 0.0), (0.5, 1.0, 1.0)))

    def reach(text: str) -> float:
        path = tmp_path / "other.xml"
        path.write_text(text)
        return 0.5 - float(made(path, around).clearances(still((0, 0))).workspace[0])

    assert reach(PLANAR) == pytest.approx(0.7, abs=1e-12)
    site = '<site name="tcp" pos="0.3 0 0"/>'
    assert reach(PLANAR.replace(site, "")) == pytest.approx(0.4, abs=1e-12)
    hand = '<body pos="0.2 0 0"><body pos="0.3 0 0"/></body>'
    assert reach(PLANAR.replace(site, hand)) == pytest.approx(0.9, abs=1e-12)
    finger = '<body pos="0.2 0 0"><joint type="slide"/><geom size="0.01"/><site/></body>'
    assert reach(PLANAR.replace(site, finger)) == pytest.approx(0.4, abs=1e-12)
    for several in (hand + hand, site + site.replace("tcp", "other")):
        with pytest.raises(UserError, match="2 ends"):
            reach(PLANAR.replace(site, several))


def test_capsules_of_a_file_stand_where_its_reader_meant_them(tmp_path: Path) -> None:
    """Axes that point up, down, level and askew; the reader computes its frames in the world, the checker in each body."""
    axes = ("0 0 1", "0 0 -1", "1 0 0", "0 -1 0", "0.6 0 -0.8", "-0.3 0.5 0.1")
    text = '<site name="tcp" pos="0.1 0.02 0.03" euler="0.3 0 0"/>'
    for i, axis in reversed(list(enumerate(axes))):
        joint = f'<joint axis="{axis}" pos="0.01 0 0.02" range="-2 2"/><geom type="capsule" fromto="0 0 0 0.1 0 0.2" size="0.03"/>'
        text = f'<body pos="0.1 0 0.2" euler="0.{i} 0.2 0.1">{joint}{text}</body>'
    path = tmp_path / "askew.xml"
    path.write_text(f'<mujoco><compiler angle="radian" autolimits="true"/><worldbody>{text}</worldbody></mujoco>')
    limits = Limits((-2.0,) * 6, (2.0,) * 6, (1.0,) * 6, (1.0,) * 6, (1.0,) * 6, (1.0,) * 6, None, 1.0, 1.0, 1.0, ())
    chain = load_body(path, limits).chain
    caps = tuple(Cap(f"link{i}", i, (0.1, 0.2, 0.3), (-0.3, 0.1, 0.2), 0.02) for i in range(7))
    checker = made(path, limits=limits, capsules=caps)
    q = np.random.default_rng(9).uniform(-2, 2, (30, 6))
    points = checker.skeleton.points(mujoco.MjData(checker.skeleton.model), q)
    frames = np.concatenate([np.broadcast_to(chain.base_from_foot, (30, 1, 4, 4)), joint_frames(chain, q)], axis=1)
    for i, cap in enumerate(caps):
        expected = frames[:, i] @ np.array((*cap.start, 1.0))
        np.testing.assert_allclose(points[:, i].T, expected[:, :3], rtol=0, atol=1e-9)
    tool = frames[:, -1] @ chain.last_from_tcp
    np.testing.assert_allclose(points[:, -1].T, tool[:, :3, 3], rtol=0, atol=1e-9)


# ------------------------------------------------------------------------------------------------------- a Panda in a cell

CELL = Surroundings(
    bounds=Bounds((-0.9, -0.9, 0.0), (0.9, 0.9, 1.4)),
    obstacles=(
        Obstacle("floor", HalfSpace((0.0, 0.0, 1.0), 0.0), may_touch=("finger",)), Obstacle("wall", HalfSpace((-1.0, 0.0, 0.0), -0.75)),
        Obstacle("left", BoxShape((0.5, 0.3, 0.2), (0.1, 0.1, 0.2), 0.3)), Obstacle("right", BoxShape((0.5, -0.3, 0.2), (0.1, 0.1, 0.2))),
        Obstacle("ball", Sphere((0.6, 0.0, 0.8), 0.1)), Obstacle("pole", CapsuleShape((0.4, 0.45, 0.0), (0.4, 0.45, 0.9), 0.05)),
    ),
)  # fmt: skip


# roughly a Panda, in the frames of its links: z along the joint
PARTS = (
    Cap("link0", 0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.333), 0.065), Cap("link2", 2, (0.0, 0.0, 0.0), (0.0, -0.316, 0.0), 0.06),
    Cap("link3", 3, (0.0, 0.0, 0.0), (0.0825, 0.0, 0.0), 0.06), Cap("link4", 4, (0.0, 0.0, 0.0), (-0.0825, 0.0, 0.0), 0.055),
    Cap("link4", 4, (-0.0825, 0.0, 0.0), (-0.0825, 0.384, 0.0), 0.055), Cap("link6", 6, (0.0, 0.0, 0.0), (0.088, 0.0, 0.0), 0.05),
    Cap("link7", 7, (0.0, 0.0, 0.0), (0.0, 0.0, 0.107), 0.045), Cap("hand", 7, (0.07, 0.07, 0.13), (-0.07, -0.07, 0.13), 0.045),
    Cap("finger", 7, (0.0, 0.0, 0.165), (0.0, 0.0, 0.21), 0.04),
)  # fmt: skip
PAIRS = tuple(
    (i, k) for i, a in enumerate(PARTS) for k, b in enumerate(PARTS) if b.link - a.link >= 4 and b.part != "finger"
)


def panda(around: Surroundings = CELL, **changes: Any) -> Checker:
    fields: dict[str, Any] = {"limits": limits_of(PANDA), "capsules": PARTS, "self_pairs": PAIRS, "share": Share()}
    return made(PANDA, around, **(fields | changes))


def test_skipping_what_is_far_changes_nothing() -> None:
    checker = panda()
    q = np.random.default_rng(7).uniform(PANDA.q_min, PANDA.q_max, (600, 7))
    points = checker.skeleton.points(mujoco.MjData(checker.skeleton.model), q)
    quick, exact = checker.kept.distances(points), checker.kept.distances(points, exact=True)
    margin = checker.kept.margin[:, None]
    np.testing.assert_allclose(np.minimum(quick, margin), np.minimum(exact, margin), rtol=0, atol=1.1e-7)
    assert (quick <= exact + 1.1e-7).all()
    assert 300 < (exact < margin).sum() < exact.size / 4


@pytest.mark.parametrize("dt", [0.01, 0.001])
def test_a_time_optimal_motion_at_the_rated_limits_trips_nothing(dt: float) -> None:
    limits = limits_of(PANDA)
    generator = ruckig.Ruckig(7, dt)
    wanted, given_back = ruckig.InputParameter(7), ruckig.OutputParameter(7)
    wanted.max_velocity, wanted.max_acceleration, wanted.max_jerk = limits.speed, limits.acceleration, limits.jerk
    wanted.current_position = list(PANDA.home)
    rows, rng = [list(PANDA.home)], np.random.default_rng(8)
    for _ in range(4):
        wanted.target_position = list(
            np.clip(np.array(PANDA.home) + rng.uniform(-0.8, 0.8, 7), PANDA.q_min, PANDA.q_max)
        )
        while generator.update(wanted, given_back) == ruckig.Result.Working and len(rows) < 4000:
            rows.append(list(given_back.new_position))
            given_back.pass_to_input(wanted)
    checker = made(PANDA, limits=limits, capsules=PARTS, dt=dt, share=Share())
    assert checker.check(np.array(rows)) == []
    assert len(rows) > 100
    for kind, share in (
        ("velocity", {"speed": 0.999}),
        ("acceleration", {"acceleration": 0.999}),
        ("jerk", {"jerk": 0.99}),
    ):
        if not (kind == "jerk" and dt > 0.005):  # phases of the jerk are shorter than a tick of 10 ms
            assert counts(replace(checker, share=Share(**share)).check(np.array(rows)))[kind] > 0


def test_a_smooth_motion_between_clear_poses_trips_nothing() -> None:
    start, end = np.array(PANDA.home), np.array(PANDA.home) + (0.3, 0.2, -0.2, 0.3, 0.2, -0.3, 0.5)
    s = np.linspace(0.0, 1.0, 201)[:, None]
    quintic = start + (10 * s**3 - 15 * s**4 + 6 * s**5) * (end - start)
    around = replace(CELL, obstacles=CELL.obstacles[:2])
    checker = panda(around=around, tool_speed=0.5)
    assert checker.check(np.concatenate([quintic, quintic[::-1]])) == []
    clearances = checker.clearances(quintic)
    assert 0.04 < clearances.obstacle.min() < 0.5
    assert 0.005 < clearances.self_collision.min()
    assert 0.0 < clearances.workspace.min() < 0.5


# --------------------------------------------------------------------------------------------------------- words, refusals


def test_violations_are_counted_and_told() -> None:
    one = Violation(Kind.VELOCITY, 3, ("joint2",), 2.5, 2.0)
    assert counts([one, one])["velocity"] == 2
    assert set(counts([])) == {str(kind) for kind in Kind}
    assert sum(counts([]).values()) == 0
    assert str(one) == "tick 3: velocity of joint2 is 2.5 rad/s, up to 2 rad/s is allowed"
    assert (
        str(Violation(Kind.NONFINITE, 0, ("joint1",), math.nan, math.nan)) == "tick 0: joint1 is nan, no finite number"
    )


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"dt": 0.0}, "seconds"), ({"dt": math.nan}, "seconds"), ({"places": 0}, "place"),
        ({"self_pairs": ((0, 1),)}, "indices"), ({"capsules": (replace(FORE, link=3),)}, "link"),
        ({"capsules": (replace(FORE, radius=math.nan),)}, "below"), ({"source": PANDA}, "'panda'"),
        ({"source": Path("nowhere.xml")}, "nowhere.xml"), ({"tool": "wand"}, "'wand'"), ({"joints": 3}, "hinges"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(planar: ModelFile, changes: dict[str, Any], word: str) -> None:
    changes = dict(changes)
    source = changes.pop("source", replace(planar, tool=changes.pop("tool", "tcp")))
    if changes.pop("joints", None):
        changes["limits"] = limits_of(PANDA)
    with pytest.raises(UserError, match=word):
        made(source, **changes)


def test_two_joints_of_one_body_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "both.xml"
    path.write_text(
        PLANAR.replace('<joint name="j2" axis="0 0 1"/>', '<joint name="j2" axis="0 0 1"/><joint axis="0 1 0"/>')
    )
    with pytest.raises(UserError, match="hinges"):
        made(ModelFile(path, "tcp"))
    path.write_text(
        PLANAR.replace('<joint name="j1" axis="0 0 1"/>', "").replace(
            'name="j2" axis="0 0 1"/>', 'axis="0 0 1"/><joint axis="0 1 0"/>'
        )
    )
    with pytest.raises(UserError, match="two joints"):
        made(ModelFile(path, "tcp"))


@pytest.mark.parametrize(
    "rows", [np.zeros((3, 5)), np.zeros(2), "no", np.zeros((1, 2, 2))], ids=["width", "flat", "text", "deep"]
)
def test_blocks_of_the_wrong_shape_are_refused_with_what_is_expected(planar: ModelFile, rows: Any) -> None:
    with pytest.raises(UserError, match="2 joint positions"):
        made(planar).check(rows)


@pytest.mark.parametrize("pose", [np.zeros(3), [math.nan, 0.0], "here"], ids=["length", "nan", "text"])
def test_a_measured_pose_that_is_none_is_refused(planar: ModelFile, pose: Any) -> None:
    with pytest.raises(UserError, match="measured pose"):
        made(planar).stream().restart(pose)
