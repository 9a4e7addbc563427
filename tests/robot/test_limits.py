"""Expected values: the makers' tables, typed again; a brute-force maximum; ruckig's stops; figures worked out by hand."""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ruckig

from ideomotor.core.errors import UserError
from ideomotor.core.jsonable import to_json
from ideomotor.robot.arm import Arm, SpeedLaw
from ideomotor.robot.arms.fr3 import FR3
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.body import body_of
from ideomotor.robot.geometry import segment_gap
from ideomotor.robot.kinematics import forward, link_frames
from ideomotor.robot.limits import (
    Limits,
    check_within,
    law_braking,
    limits_of,
    load_limits,
    speed_bounds,
    stop_time_travel,
)

ARMS = pytest.mark.parametrize("arm", [PANDA, UR5E, FR3], ids=lambda arm: arm.name)

# Joint by joint: speed cap V, c, K of the speed law, and its ends q*, as libfranka's rate_limiting.h has them
FR3_LAW = [
    (2.62, 0.30, 12.0, -2.7501, 2.7501),
    (2.62, 0.20, 5.17, -1.7918, 1.7918),
    (2.62, 0.20, 7.00, -2.9065, 2.9065),
    (2.62, 0.30, 8.00, -3.0481, -0.1458),
    (5.26, 0.35, 34.0, -2.8101, 2.8101),
    (4.18, 0.35, 11.0, 0.54092, 4.5205),
    (5.26, 0.35, 34.0, -3.0196, 3.0196),
]


def law_by_hand(joint: int, q: float) -> tuple[float, float]:
    cap, c, gain, low, high = FR3_LAW[joint]
    up = min(cap, max(0.0, math.sqrt(max(0.0, gain * (high - q))) - c))
    down = max(-cap, min(0.0, c - math.sqrt(max(0.0, gain * (q - low)))))
    return down, up


# ------------------------------------------------------------------------------------------------------------- tables


def test_the_panda_has_the_limits_of_its_manual():
    limits = limits_of(PANDA)
    assert limits.acceleration == (15, 7.5, 10, 12.5, 15, 20, 20)
    assert limits.jerk == (7500, 3750, 5000, 6250, 7500, 10000, 10000)
    assert limits.torque_rate == (1000,) * 7
    assert (limits.tool_speed, limits.tool_acceleration, limits.payload) == (1.7, 13, 3)
    assert limits.speed == PANDA.dq_max
    assert limits.torque == (87, 87, 87, 87, 12, 12, 12)


def test_the_fr3_has_its_own_ranges_and_the_kinematics_of_the_panda():
    limits = limits_of(FR3)
    assert limits.q_max == (2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159)
    assert limits.q_min == (-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159)
    assert (limits.acceleration, limits.jerk) == ((10,) * 7, (5000,) * 7)
    assert (limits.tool_speed, limits.tool_acceleration, limits.payload) == (3.0, 9.0, 3.0)
    q = np.random.default_rng(0).uniform(limits.q_min, limits.q_max, (20, 7))
    np.testing.assert_array_equal(forward(FR3, q), forward(PANDA, q))


def test_what_nobody_publishes_is_called_ours_and_assumed():
    limits = limits_of(UR5E)
    assert limits.torque_rate is None
    assert limits.payload == 5
    assumed = [source for source in limits.sources if "ours, assumed" in source]
    assert any("acceleration, jerk 3000 rad/s^3" in source for source in assumed)
    times = (
        0.244,
        0.530,
        0.164,
    )  # [s] the UR5's stops from 183 degrees/s with full load (CB3 manual): base, shoulder, elbow
    assert all(a < math.radians(183) / time for a, time in zip(limits.acceleration, times, strict=False))
    assert any("tool acceleration" in source for source in assumed)


@ARMS
def test_every_arm_waits_well_inside_its_ranges_and_may_move_from_there(arm: Arm):
    limits, home = limits_of(arm), np.array(arm.home)
    assert (home > np.array(limits.q_min) + 0.1).all()
    assert (home < np.array(limits.q_max) - 0.1).all()
    low, high = speed_bounds(limits, home)
    assert (high > 1.0).all()
    assert (low < -1.0).all()


def test_an_arm_without_accelerations_is_not_armed():
    with pytest.raises(UserError, match=r"arm 'panda' has no limits of acceleration and jerk.*motion=Motion"):
        limits_of(replace(PANDA, motion=None))


# ---------------------------------------------------------------------------------------------------------- speed law


def test_the_fr3_may_move_as_fast_as_libfranka_lets_it():
    limits = limits_of(FR3)
    for share in np.linspace(-0.01, 1.01, 60):  # a little outside too
        q = np.array([low + share * (high - low) for *_, low, high in FR3_LAW])
        down, up = speed_bounds(limits, q)
        expected = [law_by_hand(joint, position) for joint, position in enumerate(q)]
        np.testing.assert_allclose(np.stack([down, up], axis=-1), expected, atol=1e-12)


def test_speed_bounds_work_on_many_poses_at_once():
    limits = limits_of(FR3)
    q = np.random.default_rng(1).uniform(limits.q_min, limits.q_max, (3, 5, 7))
    low, high = speed_bounds(limits, q)
    assert low.shape == high.shape == q.shape
    for index in np.ndindex(3, 5):
        one = speed_bounds(limits, q[index])
        np.testing.assert_array_equal(one, (low[index], high[index]))


def test_without_a_law_the_bounds_are_the_same_everywhere():
    limits = limits_of(PANDA)
    low, high = speed_bounds(limits, np.random.default_rng(2).normal(size=(4, 7)))
    np.testing.assert_array_equal(high, np.tile(PANDA.dq_max, (4, 1)))
    np.testing.assert_array_equal(low, -high)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_a_position_that_is_none_allows_no_speed_outwards(value: float):
    low, high = speed_bounds(limits_of(FR3), np.full(7, value))
    assert np.isfinite([low, high]).all()
    assert (high == 0).all() or value == -math.inf
    assert (low == 0).all() or value > 0


def test_the_law_takes_the_printed_distances():
    braking, moved_in = law_braking(limits_of(FR3))
    np.testing.assert_allclose(braking, [4.8, 2.068, 2.8, 3.2, 10, 4.4, 10], rtol=1e-12)
    printed = [0.038, 0.039, 0.029, 0.056, 0.0088, 0.056, 0.0088]
    np.testing.assert_allclose(moved_in, printed, rtol=0.02)


@pytest.mark.parametrize(
    "cap", [0.05, 0.3, 0.79, 0.81, 6.0]
)  # v* of J2 is 0.8: the range of speeds ends before it, or after
def test_the_distance_is_the_largest_difference_over_all_speeds(cap: float):
    limits = replace(limits_of(FR3), speed=(cap,) * 7)
    braking, moved_in = law_braking(limits)
    for joint, (_, c, gain, _, _) in enumerate(FR3_LAW):
        v = np.linspace(0, cap, 200_001)
        differences = (v + c) ** 2 / gain - v**2 / (2 * braking[joint])
        assert moved_in[joint] == pytest.approx(differences.max(), abs=1e-9)


def test_who_can_stop_before_the_moved_limit_keeps_to_the_law():
    limits = limits_of(FR3)
    braking, moved_in = law_braking(limits)
    v = np.linspace(0, limits.speed, 5_000)
    gap = moved_in + v**2 / (2 * braking)  # the least gap from which the joint stops in time
    _, high = speed_bounds(limits, np.array(limits.speed_law.high) - gap)
    assert (v <= high + 1e-12).all()
    assert (high - v).min() < 1e-6  # and not a hair wider than it has to be


@pytest.mark.parametrize("dt", [0.001, 0.01])
def test_with_half_a_tick_of_full_speed_the_law_also_holds_after_the_move(dt: float):
    """Discrete braking: at v = x a dt the joint still covers (x + (x - 1) + ...) a dt^2, this tick's v dt included."""
    limits = limits_of(FR3)
    braking, moved_in = law_braking(limits, dt)
    v = np.linspace(0, limits.speed, 3_000)
    x = v / (braking * dt)
    n = np.floor(x)
    covered = ((n + 1) * x - n * (n + 1) / 2) * braking * dt**2
    after = moved_in + covered - v * dt
    _, high = speed_bounds(limits, np.array(limits.speed_law.high) - after)
    assert (v <= high + 1e-12).all()
    without = after - np.array(limits.speed) * dt / 2
    _, high = speed_bounds(limits, np.array(limits.speed_law.high) - without)
    assert (v > high + 1e-6).any()  # the half tick is needed


def test_without_a_law_braking_is_the_rated_acceleration():
    braking, moved_in = law_braking(limits_of(PANDA), 0.01)
    np.testing.assert_array_equal(braking, (15, 7.5, 10, 12.5, 15, 20, 20))
    np.testing.assert_array_equal(moved_in, np.zeros(7))


# -------------------------------------------------------------------------------------------------------------- stops

STOPS = [  # arm, shares of speed, acceleration and jerk; seconds and radians as published for a start at no acceleration
    (
        PANDA,
        (1.0, 1.0, 1.0),
        [0.147, 0.292, 0.219, 0.176, 0.176, 0.132, 0.132],
        [0.160, 0.318, 0.239, 0.191, 0.230, 0.173, 0.173],
    ),
    (
        PANDA,
        (0.9, 0.5, 0.5),
        [0.263, 0.524, 0.393, 0.315, 0.315, 0.237, 0.237],
        [0.257, 0.513, 0.385, 0.309, 0.370, 0.278, 0.278],
    ),
    (
        FR3,
        (1.0, 1.0, 1.0),
        [0.264, 0.264, 0.264, 0.264, 0.528, 0.420, 0.528],
        [0.346, 0.346, 0.346, 0.346, 1.39, 0.878, 1.39],
    ),
]


@pytest.mark.parametrize(("arm", "share", "seconds", "radians"), STOPS, ids=["panda full", "panda reduced", "fr3 full"])
def test_stops_from_rated_speed_are_those_of_the_published_table(
    arm: Arm, share: tuple[float, float, float], seconds: list[float], radians: list[float]
):
    limits = limits_of(arm)
    tables = [limits.speed, limits.acceleration, limits.jerk]
    time, travel = stop_time_travel(*(part * np.array(table) for part, table in zip(share, tables, strict=True)))
    np.testing.assert_allclose(time, seconds, atol=6e-4)
    np.testing.assert_allclose(travel, radians, atol=6e-4, rtol=1e-3)  # 1.39 is printed with two digits


def test_stops_are_as_quick_as_those_of_ruckig():
    rng = np.random.default_rng(3)
    speed, acceleration, jerk = rng.uniform(0, 3, 200), rng.uniform(0.5, 20, 200), 10 ** rng.uniform(0.5, 4, 200)
    reached = speed >= acceleration**2 / jerk
    assert 20 < reached.sum() < 180  # both branches
    time, travel = stop_time_travel(speed, acceleration, jerk)
    for i in range(200):
        given = ruckig.InputParameter(1)
        given.control_interface = ruckig.ControlInterface.Velocity
        given.current_position, given.current_velocity, given.current_acceleration = [0.0], [speed[i]], [0.0]
        given.target_velocity, given.target_acceleration = [0.0], [0.0]
        given.max_acceleration, given.max_jerk = [acceleration[i]], [jerk[i]]
        trajectory = ruckig.Trajectory(1)
        assert ruckig.Ruckig(1).calculate(given, trajectory) == ruckig.Result.Working
        assert time[i] == pytest.approx(trajectory.duration, abs=1e-9)
        assert travel[i] == pytest.approx(trajectory.at_time(trajectory.duration)[0][0], abs=1e-9)


def test_who_stands_need_not_stop():
    time, travel = stop_time_travel(np.zeros(1), np.ones(1), np.ones(1))
    assert (time[0], travel[0]) == (0, 0)


# ------------------------------------------------------------------------------------------------------------ refusals


def law(**changes: Any) -> SpeedLaw:
    table = limits_of(FR3).speed_law
    assert table is not None
    return replace(table, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"acceleration": (10.0,) * 6}, "acceleration has 6 numbers"),
        ({"torque_rate": ()}, "torque_rate has 0 numbers"),
        ({"jerk": (5000.0,) * 6 + (0.0,)}, "jerk"),
        ({"jerk": (5000.0,) * 6 + (-1.0,)}, "jerk"),
        ({"speed": (math.nan,) * 7}, "speed"),
        ({"acceleration": (math.inf,) * 7}, "acceleration"),
        ({"acceleration": (1e300,) * 7}, "acceleration"),
        ({"torque": (1e-300,) * 7}, "torque"),
        ({"torque_rate": (math.nan,) * 7}, "torque_rate"),
        ({"tool_speed": 0.0}, "tool_speed"),
        ({"tool_speed": math.nan}, "tool_speed"),
        ({"tool_acceleration": math.inf}, "tool_acceleration"),
        ({"payload": -1.0}, "payload"),
        ({"payload": math.nan}, "payload"),
        ({"q_min": (3.0,) * 7}, "q_min"),
        ({"q_max": (math.nan,) * 7}, "q_max"),
        ({"q_max": (math.inf,) * 7}, "q_max"),
        ({"speed_law": law(gain=(1.0,) * 6)}, "speed_law.gain has 6 numbers"),
        ({"speed_law": law(gain=(0.0,) * 7)}, "speed_law.gain"),
        ({"speed_law": law(offset=(-0.1,) * 7)}, "speed_law.offset"),
        ({"speed_law": law(offset=(math.nan,) * 7)}, "speed_law.offset"),
        ({"speed_law": law(low=(math.nan,) * 7)}, "speed_law leaves no position"),
        ({"speed_law": law(low=(5.0,) * 7)}, "speed_law leaves no position"),
        ({"speed_law": law(gain=(0.01,) * 7)}, "speed_law leaves no position"),
    ],
)
def test_limits_that_no_arm_has_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(UserError, match=words):
        replace(limits_of(FR3), **changes)


def test_limits_of_no_joint_are_refused():
    with pytest.raises(UserError):
        Limits((), (), (), (), (), (), None, 1.0, 1.0, 1.0, ())


# ------------------------------------------------------------------------------------------------------------ from files

Write = Callable[[Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(content: Any) -> Path:
        path = tmp_path / "limits.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return written


@ARMS
def test_limits_come_back_from_a_file(arm: Arm, write: Write):
    assert load_limits(write(to_json(limits_of(arm)))) == limits_of(arm)


def test_what_another_file_states_may_be_left_out(write: Write):
    full = to_json(limits_of(PANDA))
    stated = {name: full.pop(name) for name in ("q_min", "q_max", "speed", "torque")}
    assert load_limits(write(full), stated) == limits_of(PANDA)
    full["speed"] = [1.0] * 7  # and what the user says comes first
    assert load_limits(write(full), stated).speed == (1.0,) * 7


@pytest.mark.parametrize("missing", ["acceleration", "jerk", "torque_rate", "tool_speed", "payload", "sources"])
def test_what_is_missing_is_named(missing: str, write: Write):
    fields = to_json(limits_of(PANDA))
    del fields[missing]
    with pytest.raises(UserError, match=rf"limits\.json lacks \['{missing}'\]"):
        load_limits(write(fields))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"acceleration": "fast"}, r"limits\.json\.acceleration should be a list"),
        ({"jerk": [True] * 7}, r"limits\.json\.jerk\[0\] should be a number"),
        ({"joint_speed": [1.0] * 7}, "unknown fields"),
        ({"tool_speed": 10**400}, "of 401 digits|not JSON"),
        ({"jerk": [10**9] * 7}, "jerk"),
        ({"speed_law": {"gain": [1.0] * 7}}, r"limits\.json\.speed_law lacks"),
    ],
)
def test_a_field_of_another_kind_is_refused_by_name(changes: dict[str, Any], words: str, write: Write):
    with pytest.raises(UserError, match=words):
        load_limits(write({**to_json(limits_of(PANDA)), **changes}))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"q_min": NaN}',
        '{"q_min": [1e999]}',
        "[" * 100_000,
        "\ud83d".encode("utf-8", "surrogatepass").decode("latin-1"),
    ],
)
def test_what_is_no_json_object_is_refused(content: str, write: Write):
    with pytest.raises(UserError):
        load_limits(write(content))


def test_a_file_that_is_not_there_is_named_with_the_fields_it_should_have(tmp_path: Path):
    for path in (tmp_path / "nothing.json", tmp_path):
        with pytest.raises(UserError, match="is not there.*acceleration, jerk"):
            load_limits(path)


def test_limits_beyond_the_rated_ones_name_the_joint():
    limits = limits_of(PANDA)
    rated = {"q_min": limits.q_min, "q_max": limits.q_max, "speed": (*limits.speed[:6], None), "torque": limits.torque}
    names = [f"J{i}" for i in range(1, 8)]
    check_within(limits, rated, names, "the file")
    check_within(replace(limits, speed=(*limits.speed[:6], 99.0)), rated, names, "the file")  # nobody states J7's
    for field, table in (
        ("q_min", (*limits.q_min[:3], -3.08, *limits.q_min[4:])),
        ("q_max", (*limits.q_max[:3], -0.06, *limits.q_max[4:])),
        ("speed", (*limits.speed[:3], 2.18, *limits.speed[4:])),
        ("torque", (*limits.torque[:3], 87.1, *limits.torque[4:])),
    ):
        with pytest.raises(UserError, match=f"{field} of J4 is .* beyond .* of the file"):
            check_within(replace(limits, **{field: table}), rated, names, "the file")
    with pytest.raises(UserError, match="has 7 joints .*; the limits are of 6"):
        check_within(limits_of(UR5E), rated, names, "the file")


# ------------------------------------------------------------------------------------------------------- hulls


def test_the_links_of_the_ur5e_meet_end_to_end():
    """The hull's frames were converted by hand: each part has to begin where the one before ends, at joint positions anywhere."""
    body = body_of(UR5E)
    capsules = [c for c in body.capsules if c.part.startswith("link")]
    for q in np.random.default_rng(0).uniform(-3, 3, (20, 6)):
        frames = link_frames(UR5E, q)
        ends = {
            id(c): [frames[c.link][:3, :3] @ np.array(p) + frames[c.link][:3, 3] for p in (c.start, c.end)]
            for c in capsules
        }
        for a, b in itertools.pairwise(range(1, 7)):
            gaps = [
                segment_gap(*ends[id(x)], *ends[id(y)])[2] - x.radius - y.radius
                for x in capsules
                if x.link == a
                for y in capsules
                if y.link == b
            ]
            assert min(gaps) < 0.0, f"links {a} and {b} come apart"


def test_the_upper_arm_of_the_ur5e_lies_beside_its_axis():
    """138 mm along the shoulder's axis (MuJoCo Menagerie), and the forearm 7 mm: the elbow brings the arm back by 131 mm."""
    upper = next(c for c in body_of(UR5E).capsules if c.part == "link2" and abs(c.end[0]) > 0.3)
    fore = next(c for c in body_of(UR5E).capsules if c.part == "link3" and abs(c.end[0]) > 0.3)
    assert (upper.start[2], upper.end[2], fore.start[2]) == (0.138, 0.138, 0.007)


def test_the_panda_s_hull_is_wider_at_its_joints_than_the_simulated_arm():
    """Franka's capsules reach 120 mm along the axes of joints 2 and 4, and the camera's lug stands out of the flange."""
    hull = {(s.link, s.radius): s for s in PANDA.hull}
    assert hull[4, 0.06].start == (0.0, 0.0, -0.06)
    lug = hull[7, 0.03]
    assert math.hypot(*lug.end[:2]) == pytest.approx(0.065)
    assert math.atan2(lug.end[1], lug.end[0]) == pytest.approx(math.pi / 4)
