import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ideomotor.core.errors import UserError
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.contact import Reach, TorqueLimiter, TorqueReflex, clip_pose, clip_reference
from ideomotor.robot.limits import limits_of
from ideomotor.robot.reasons import Reason

law = settings(max_examples=200, deadline=None, database=None)
BAD = [math.nan, math.inf, -math.inf]
GARBAGE = [
    None,
    "0",
    1.0,
    [0.0] * 7,
    np.zeros(6),
    np.zeros((1, 7)),
    np.zeros(7, int),
    np.zeros(7, complex),
    object(),
    np.ma.masked_array(np.zeros(7), mask=True),
    np.zeros(7, object),
]

# The Panda's manual: 87 N m (joints 1 to 4), 12 N m (5 to 7), 1000 N m/s, at 1 kHz.
TORQUE = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])
STEP = 1.0  # [N m] in a tick


def limiter() -> TorqueLimiter:
    return TorqueLimiter(limits_of(PANDA), 0.001)


# ------------------------------------------------------------------------------------------------------------- torques


def test_a_torque_within_both_limits_is_unchanged() -> None:
    rules = limiter()
    torque = np.zeros(7)
    rng = np.random.default_rng(0)
    for _ in range(200):
        torque = np.clip(torque + rng.uniform(-0.999, 0.999, 7), -TORQUE, TORQUE)
        out, reasons = rules.limit(torque)
        np.testing.assert_array_equal(out, torque)
        assert reasons == ()


def test_a_jump_is_taken_at_the_torque_rate_and_ends_at_the_torque_limit() -> None:
    rules = limiter()
    for tick in range(1, 101):
        out, reasons = rules.limit(np.full(7, 1e300))
        np.testing.assert_allclose(out, np.minimum(TORQUE, STEP * tick), rtol=1e-12)
        assert reasons == (Reason.TORQUE,)
    for tick in range(1, 201):
        out, _ = rules.limit(np.full(7, -1e300))
        np.testing.assert_allclose(out, np.maximum(-TORQUE, TORQUE - STEP * tick), atol=1e-10)


@pytest.mark.parametrize("garbage", [*GARBAGE, *(np.full(7, value) for value in BAD)], ids=lambda g: type(g).__name__)
def test_garbage_lets_every_torque_fall_towards_zero_at_the_rate(garbage: Any) -> None:
    rules = limiter()
    start = np.array([3.5, -3.5, 0.25, 0.0, 10.0, -10.0, 2.0])
    rules.start(start)
    with np.errstate(all="raise"):
        for tick in range(1, 13):
            out, reasons = rules.limit(garbage)
            np.testing.assert_allclose(out, np.sign(start) * np.maximum(np.abs(start) - STEP * tick, 0.0), atol=1e-12)
            assert reasons in {(Reason.SHAPE,), (Reason.NONFINITE,)}
        assert (rules.limit(garbage)[0] == 0.0).all()


def test_one_bad_torque_takes_its_neighbours_with_it() -> None:
    for value in BAD:
        for joint in range(7):
            rules = limiter()
            rules.start(np.full(7, 5.0))
            proposal = np.full(7, 5.5)
            proposal[joint] = value
            out, reasons = rules.limit(proposal)
            np.testing.assert_allclose(out, 4.0)
            assert reasons == (Reason.NONFINITE,)
            np.testing.assert_allclose(rules.limit(np.full(7, 5.5))[0], 5.0)  # the state is not contaminated


ANY_TORQUE = st.lists(
    st.one_of(st.sampled_from([*BAD, 1e300, -1e300, 5e-324]), st.floats(-200, 200)), min_size=7, max_size=7
)


@law
@given(st.lists(st.one_of(ANY_TORQUE, st.none()), min_size=1, max_size=40))
def test_whatever_comes_torque_and_rate_stay_in_their_limits(proposals: list[list[float] | None]) -> None:
    rules, last = limiter(), np.zeros(7)
    for proposal in proposals:
        out, _ = rules.limit(None if proposal is None else np.array(proposal))
        assert (np.abs(out) <= TORQUE).all()
        assert (np.abs(out - last) <= STEP * (1 + 1e-12)).all()
        last = out.copy()
        out[:] = math.nan  # what was returned is the caller's


def test_a_start_beyond_the_torque_limit_comes_back_at_the_rate() -> None:
    rules = limiter()
    rules.start(np.full(7, 90.0))
    out, _ = rules.limit(np.full(7, 90.0))
    np.testing.assert_allclose(out, 89.0)
    out, _ = rules.limit(np.full(7, 90.0))
    np.testing.assert_allclose(out, [88.0] * 7)
    out, _ = rules.limit(np.full(7, 90.0))
    np.testing.assert_allclose(out, [87.0] * 7)
    out, _ = rules.limit(np.full(7, 90.0))
    np.testing.assert_allclose(out, [87.0] * 4 + [86.0] * 3)


@pytest.mark.parametrize("garbage", [*GARBAGE, np.full(7, math.nan)], ids=lambda g: type(g).__name__)
def test_a_start_from_garbage_is_one_from_zero(garbage: Any) -> None:
    rules = limiter()
    rules.start(garbage)
    np.testing.assert_allclose(rules.limit(np.full(7, 50.0))[0], STEP)


def test_an_arm_that_takes_no_torques_gets_no_limiter() -> None:
    with pytest.raises(UserError, match="send positions"):
        TorqueLimiter(limits_of(UR5E), 0.001)


@pytest.mark.parametrize("dt", [0.0, -1.0, math.nan, math.inf])
def test_a_torque_limiter_needs_a_tick(dt: float) -> None:
    with pytest.raises(UserError, match="tick"):
        TorqueLimiter(limits_of(PANDA), dt)


# ---------------------------------------------------------------------------------------------------- joint references


def test_a_joint_reference_stays_within_reach_of_the_joint() -> None:
    measured = np.array([0.0, 1.0, -1.0])
    out = clip_reference(np.array([0.05, 5.0, -1.3]), measured, 0.1)
    np.testing.assert_allclose(out, [0.05, 1.1, -1.1], rtol=1e-15)
    out = clip_reference(np.array([1.0, 5.0, -9.0]), measured, (0.1, 0.2, 0.3))
    np.testing.assert_allclose(out, [0.1, 1.2, -1.3], rtol=1e-15)


def test_a_joint_without_a_readable_reference_is_told_where_it_is() -> None:
    measured = np.array([0.5, 1.0, -1.0])
    for value in BAD:
        out = clip_reference(np.array([0.55, value, -1.3]), measured, 0.1)
        np.testing.assert_allclose(out, [0.55, 1.0, -1.1], rtol=1e-15)
    for garbage in (None, [0.5, 1.0, -1.0], "x", np.zeros(4), np.zeros((3, 1)), np.zeros(3, int)):
        out = clip_reference(garbage, measured, 0.1)
        np.testing.assert_array_equal(out, measured)
        out[:] = 9.0
        np.testing.assert_array_equal(measured, [0.5, 1.0, -1.0])


@pytest.mark.parametrize("reach", [0.0, -0.1, math.nan, math.inf, (0.1, 0.1), (0.1, 0.0, 0.1)])
def test_a_reach_that_is_none_is_refused(reach: Any) -> None:
    with pytest.raises(UserError, match="reach"):
        clip_reference(np.zeros(3), np.zeros(3), reach)


def test_a_measured_joint_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="measure again"):
        clip_reference(np.zeros(3), np.array([0.0, math.nan, 0.0]), 0.1)


# -------------------------------------------------------------------------------------------------------------- poses


def pose(position: Any, rotation_vector: Any) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(rotation_vector).as_matrix()
    matrix[:3, 3] = position
    return matrix


def test_at_the_defaults_the_spring_of_serl_pulls_with_20_newtons_at_most() -> None:
    """2000 N/m x 10 mm, whatever the direction and however far the command."""
    rng, stiffness = np.random.default_rng(1), 2000.0
    for _ in range(300):
        measured = pose(rng.uniform(-1, 1, 3), rng.uniform(-2, 2, 3))
        step = rng.normal(size=3)
        step *= 10.0 ** rng.uniform(-4, 6) / np.linalg.norm(step)
        command = measured.copy()
        command[:3, 3] += step
        force = stiffness * (clip_pose(command, measured, Reach())[:3, 3] - measured[:3, 3])
        size = np.linalg.norm(step)
        assert np.linalg.norm(force) == pytest.approx(min(20.0, 2000.0 * size), rel=1e-6)
        np.testing.assert_allclose(np.cross(force, step) / size, 0.0, atol=1e-6)
        assert force @ step > 0


def test_a_turn_is_cut_at_its_reach_about_the_same_axis() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        measured = pose(np.zeros(3), rng.uniform(-2, 2, 3))
        turn = rng.normal(size=3)
        turn *= rng.uniform(0.001, 3.1) / np.linalg.norm(turn)
        command = pose(np.zeros(3), np.zeros(3))
        command[:3, :3] = Rotation.from_rotvec(turn).as_matrix() @ measured[:3, :3]
        clipped = clip_pose(command, measured, Reach())
        left = Rotation.from_matrix(clipped[:3, :3] @ measured[:3, :3].T).as_rotvec()
        angle = np.linalg.norm(turn)
        np.testing.assert_allclose(left, turn * min(1.0, 0.05 / angle), atol=1e-9)


def test_a_pose_within_reach_is_unchanged_and_clipping_twice_is_clipping_once() -> None:
    measured = pose([0.4, 0.0, 0.3], [3.0, 0.1, 0.0])
    near = pose([0.404, 0.003, 0.306], [3.0, 0.11, 0.01])
    assert np.linalg.norm([0.004, 0.003, 0.006]) < 0.010
    np.testing.assert_array_equal(clip_pose(near, measured, Reach()), near)
    once = clip_pose(pose([1.0, 2.0, 0.0], [1.0, 0.0, 0.0]), measured, Reach())
    np.testing.assert_allclose(clip_pose(once, measured, Reach()), once, atol=1e-12)


def test_what_is_no_pose_pulls_nowhere() -> None:
    measured = pose([0.4, 0.0, 0.3], [0.3, 0.0, 0.0])
    scaled, mirrored, sheared, affine, far = (np.eye(4) for _ in range(5))
    scaled[:3, :3] *= 1.001
    mirrored[0, 0] = -1.0
    sheared[0, 1] = 0.01
    affine[3, 0] = 0.1
    far[0, 3] = 1e300
    bad = [scaled, mirrored, sheared, affine, far, np.zeros((4, 4)), np.eye(3), np.eye(4, dtype=int), None, "x", [1.0]]
    for value in BAD:
        for index in ((0, 0), (1, 3), (3, 3)):
            broken = np.eye(4)
            broken[index] = value
            bad.append(broken)
    for command in bad:
        np.testing.assert_array_equal(clip_pose(command, measured, Reach()), measured)
    with pytest.raises(UserError, match="measure again"):
        clip_pose(np.eye(4), scaled, Reach())


@pytest.mark.parametrize(
    "reach", [{"position": 0.0}, {"rotation": -0.1}, {"position": math.nan}, {"rotation": math.inf}]
)
def test_a_pose_reach_that_is_none_is_refused(reach: dict[str, float]) -> None:
    with pytest.raises(UserError, match="reach"):
        Reach(**reach)


# ------------------------------------------------------------------------------------------------------------- reflex

NORMAL = np.array([5.0, -5.0, 2.0])
THRESHOLD = (20.0, 20.0, 10.0)


def test_the_reflex_trips_on_either_sign_and_not_at_the_threshold() -> None:
    for torque in ([20.0, 0.0, 0.0], [-20.0, 20.0, -10.0]):
        assert not TorqueReflex(THRESHOLD).update(np.array(torque))
    for torque in ([20.001, 0.0, 0.0], [0.0, -20.001, 0.0], [0.0, 0.0, 10.001]):
        assert TorqueReflex(THRESHOLD).update(np.array(torque))


def test_a_debounce_wants_so_many_ticks_in_a_row() -> None:
    reflex, hit, other = TorqueReflex(THRESHOLD, debounce=3), np.array([30.0, 0.0, 0.0]), np.array([0.0, 0.0, -30.0])
    for torque in (hit, hit, NORMAL, hit, hit, NORMAL):
        assert not reflex.update(torque)
    assert not reflex.update(hit)
    assert not reflex.update(other)  # another joint: the arm is still being hit
    assert reflex.update(hit)


def test_a_torque_that_is_no_number_trips_at_once() -> None:
    for value in BAD:
        assert TorqueReflex(THRESHOLD, debounce=5).update(np.array([0.0, value, 0.0]))
    for garbage in (None, "x", [0.0, 0.0, 0.0], np.zeros(2), np.zeros(3, int), 0.0):
        assert TorqueReflex(THRESHOLD, debounce=5).update(garbage)


def test_a_trip_stays_until_reset_and_a_reset_needs_the_cause_gone() -> None:
    for cause in (np.array([30.0, 0.0, 0.0]), np.array([math.nan, 0.0, 0.0]), None):
        reflex = TorqueReflex(THRESHOLD)
        reflex.update(cause)
        assert not reflex.reset()
        assert reflex.tripped
        for _ in range(100):
            assert reflex.update(NORMAL)
        assert reflex.reset()
        assert not reflex.tripped
        assert not reflex.update(NORMAL)
        assert reflex.update(cause)


def test_a_reset_does_not_shorten_the_next_debounce() -> None:
    reflex, hit = TorqueReflex(THRESHOLD, debounce=2), np.array([30.0, 0.0, 0.0])
    reflex.update(hit)
    reflex.update(hit)
    reflex.update(NORMAL)
    assert reflex.reset()
    assert not reflex.update(hit)
    assert reflex.update(hit)


@pytest.mark.parametrize("threshold", [(), (0.0,), (-1.0,), (math.nan,), (math.inf, 1.0)])
def test_thresholds_that_are_none_are_refused(threshold: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="threshold"):
        TorqueReflex(threshold)


def test_a_debounce_below_one_is_refused() -> None:
    with pytest.raises(UserError, match="debounce"):
        TorqueReflex(THRESHOLD, debounce=0)
