import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ideomotor.core.errors import UserError
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.body import Body, Capsule, body_of
from ideomotor.robot.kinematics import Chain, joint_frames
from ideomotor.robot.limits import Limits
from ideomotor.robot.tracking import TrackingMonitor, lever_arms, required_margin

BODIES = pytest.mark.parametrize("body", [body_of(PANDA), body_of(UR5E)], ids=lambda body: body.name)
BAD = [math.nan, math.inf, -math.inf]


# ------------------------------------------------------------------------------------------------------------ monitor


def test_the_monitor_trips_beyond_the_bound_of_either_sign_and_not_at_it() -> None:
    command = np.array([0.0, 1.0, -1.0])
    for joint in range(3):
        for sign in (-1.0, 1.0):
            error = np.zeros(3)
            error[joint] = sign
            assert not TrackingMonitor(0.125, 3).update(command + 0.125 * error, command)
            assert TrackingMonitor(0.125, 3).update(command + 0.1251 * error, command)


def test_each_joint_may_have_its_own_bound() -> None:
    monitor = TrackingMonitor((0.1, 0.2), 2)
    assert not monitor.update(np.array([0.05, 0.15]), np.zeros(2))
    assert monitor.update(np.array([0.15, 0.05]), np.zeros(2))


def test_a_position_that_is_no_number_trips() -> None:
    good = np.zeros(3)
    for value in BAD:
        bad = np.array([0.0, value, 0.0])
        for pair in ((bad, good), (good, bad), (bad, bad)):
            monitor = TrackingMonitor(0.1, 3)
            assert monitor.update(*pair)
            assert monitor.worst[1] == math.inf
    for garbage in (None, "x", [0.0, 0.0, 0.0], np.zeros(2), np.zeros(3, int), np.zeros((3, 1))):
        for pair in ((garbage, good), (good, garbage)):
            assert TrackingMonitor(0.1, 3).update(*pair)


def test_a_trip_stays_until_reset_and_a_reset_needs_the_cause_gone() -> None:
    for cause in (np.array([0.2]), np.array([math.nan]), None):
        monitor = TrackingMonitor(0.1, 1)
        monitor.update(cause, np.zeros(1))
        assert not monitor.reset()
        for _ in range(10):
            assert monitor.update(np.zeros(1), np.zeros(1))
        assert monitor.tripped
        assert monitor.reset()
        assert not monitor.tripped
        assert not monitor.update(np.zeros(1), np.zeros(1))


def test_the_worst_error_is_kept() -> None:
    monitor = TrackingMonitor(1.0, 2)
    for q in ([0.1, -0.3], [-0.2, 0.1], [0.0, 0.0]):
        monitor.update(np.array(q), np.zeros(2))
    np.testing.assert_array_equal(monitor.worst, [0.2, 0.3])
    monitor.worst[:] = 9.0
    np.testing.assert_array_equal(monitor.worst, [0.2, 0.3])


def test_float32_is_read() -> None:
    assert not TrackingMonitor(0.1, 2).update(np.zeros(2, np.float32), np.zeros(2))


@pytest.mark.parametrize("bound", [0.0, -0.1, math.nan, math.inf, (0.1, 0.1, 0.1), (0.1, 0.0)])
def test_a_bound_that_is_none_is_refused(bound: Any) -> None:
    with pytest.raises(UserError, match="bound"):
        TrackingMonitor(bound, 2)


# ------------------------------------------------------------------------------------------------------------- margin


def planar(lengths: tuple[float, ...], capsules: tuple[Capsule, ...]) -> Body:
    """Joints with parallel axes, each `length` along x from the one before; the first stands at the base."""
    joints = len(lengths) + 1
    parents = np.stack([np.eye(4)] * joints)
    parents[1:, 0, 3] = lengths
    limits = Limits(
        (-3.0,) * joints, (3.0,) * joints, (1.0,) * joints, (1.0,) * joints, (1.0,) * joints, (1.0,) * joints, None,
        1.0, 1.0, 0.0, ("made for this test",),
    )  # fmt: skip
    return Body("planar", Chain(np.eye(4), parents, np.eye(4)), capsules, limits, self_pairs=())


def test_a_base_joint_that_is_off_by_0_038_rad_needs_32_mm_at_a_reach_of_0_85_m() -> None:
    body = planar((), (Capsule("link1", 1, (0.1, 0.0, 0.2), (0.80, 0.0, 0.2), 0.05),))
    assert lever_arms(body) == pytest.approx(np.array([[0.85]]))
    assert required_margin(body, np.array([0.038])) == pytest.approx([0.0323], abs=1e-6)


def test_the_levers_of_a_planar_arm_are_its_stretched_lengths() -> None:
    body = planar(
        (0.4, 0.3),
        (
            Capsule("link0", 0, (0.0, 0.0, 0.0), (0.0, 0.0, 1.0), 0.1),
            Capsule("link1", 1, (0.0, 0.0, 0.0), (0.4, 0.0, 0.0), 0.05),
            Capsule("link3", 3, (0.0, 0.0, 0.7), (0.2, 0.0, -0.5), 0.02),  # height over the plane costs nothing
        ),
    )
    expected = [[0.0, 0.0, 0.0], [0.45, 0.0, 0.0], [0.92, 0.52, 0.22]]
    np.testing.assert_allclose(lever_arms(body), expected, rtol=2e-5)
    assert (lever_arms(body) >= np.array(expected) - 1e-12).all()
    np.testing.assert_allclose(
        required_margin(body, np.array([0.01, 0.02, 0.05])), [0.0, 0.0045, 0.0092 + 0.0104 + 0.011], rtol=2e-5
    )


def axis_points(body: Body, q: np.ndarray) -> np.ndarray:
    """Ends and middles of the capsules in the base frame, [N, C, 3, 3]."""
    frames = joint_frames(body.chain, q)
    foot = np.broadcast_to(body.chain.base_from_foot, frames[:, :1].shape)
    frames = np.concatenate([foot, frames], axis=1)
    points: list[np.ndarray] = []
    for c in body.capsules:
        start, end = np.array(c.start), np.array(c.end)
        local = np.stack([start, 0.5 * (start + end), end])
        base_from_link = frames[:, c.link]
        points.append(local @ base_from_link[:, :3, :3].swapaxes(1, 2) + base_from_link[:, None, :3, 3])
    return np.stack(points, axis=1)


@BODIES
def test_the_lever_arms_bound_the_distances_of_10000_random_configurations_closely(body: Body) -> None:
    rng, limits = np.random.default_rng(0), body.limits
    q = rng.uniform(limits.q_min, limits.q_max, (10_000, limits.num_joints))
    points, frames = axis_points(body, q), joint_frames(body.chain, q)
    radii = np.array([c.radius for c in body.capsules])
    carried = np.array([[joint < c.link for joint in range(limits.num_joints)] for c in body.capsules])
    largest = np.zeros(carried.shape)
    for joint in range(limits.num_joints):
        axis, origin = frames[:, joint, :3, 2], frames[:, joint, :3, 3]
        across = np.cross(points - origin[:, None, None], axis[:, None, None])
        largest[:, joint] = np.linalg.norm(across, axis=-1).max(axis=(0, 2)) + radii
    largest *= carried
    levers = lever_arms(body)
    assert (levers >= largest - 1e-12).all()
    assert (levers[carried] <= 1.11 * largest[carried] + 1e-9).all()  # the bound is stated as this close
    assert (levers[~carried] == 0.0).all()


@BODIES
def test_no_point_is_farther_from_its_commanded_place_than_the_margin(body: Body) -> None:
    rng, limits = np.random.default_rng(1), body.limits
    for size in (0.01, 0.1, 0.5):
        bound = size * rng.uniform(0.2, 1.0, limits.num_joints)
        q = rng.uniform(limits.q_min, limits.q_max, (10_000, limits.num_joints))
        off = q + bound * np.where(
            rng.random(q.shape) < 0.7, rng.choice([-1.0, 1.0], q.shape), rng.uniform(-1, 1, q.shape)
        )
        moved = np.linalg.norm(axis_points(body, off) - axis_points(body, q), axis=-1).max(axis=(0, 2))
        margin = required_margin(body, bound)
        assert (moved <= margin).all()
        assert (moved[-1] / margin[-1]) > 0.5  # and the margin is not just huge


def test_the_margin_is_additive_in_the_errors() -> None:
    body = body_of(PANDA)
    a, b = np.linspace(0.01, 0.07, 7), np.linspace(0.05, 0.0, 7)
    np.testing.assert_allclose(required_margin(body, a + b), required_margin(body, a) + required_margin(body, b))
    assert (required_margin(body, np.zeros(7)) == 0.0).all()


def test_the_foot_needs_no_margin() -> None:
    body = body_of(PANDA)
    feet = [index for index, c in enumerate(body.capsules) if c.link == 0]
    assert feet
    assert (required_margin(body, np.full(7, 0.1))[feet] == 0.0).all()


def test_a_longer_gripper_needs_a_larger_margin() -> None:
    body = body_of(PANDA)
    far = replace(body.capsules[-1], end=(0.0, 0.0, 0.6))
    longer = replace(body, capsules=(*body.capsules, far))
    margins = required_margin(longer, np.full(7, 0.02))
    assert margins[-1] > margins[:-1].max()


@pytest.mark.parametrize("error", [-0.01, *BAD])
def test_an_error_that_is_none_is_refused(error: float) -> None:
    with pytest.raises(UserError, match="tracking errors"):
        required_margin(body_of(PANDA), np.array([0.0] * 6 + [error]))
