import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ideomotor.core.errors import UserError
from ideomotor.robot.arm import Arm, Mount
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.control import EndEffectorControl, InverseKinematics
from ideomotor.robot.kinematics import forward
from ideomotor.robot.robot import JointCommand, Robot, RobotState

ARMS = pytest.mark.parametrize("arm", [PANDA, UR5E], ids=lambda arm: arm.name)
law = settings(max_examples=30, deadline=None, database=None)


def down(x: float, y: float, z: float, yaw: float = 0.0) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("z", yaw).as_matrix() @ np.diag([1.0, -1.0, -1.0])
    pose[:3, 3] = x, y, z
    return pose


def error(pose: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    turn = Rotation.from_matrix(target[:3, :3] @ pose[:3, :3].T).magnitude()
    return float(np.linalg.norm(pose[:3, 3] - target[:3, 3])), float(turn)


@ARMS
def test_inverse_kinematics_reaches_targets_over_the_whole_table(arm: Arm) -> None:
    solver = InverseKinematics(arm)
    for x, y, z in np.ndindex(4, 5, 3):
        target = down(0.34 + 0.1 * x, -0.24 + 0.12 * y, 0.02 + 0.1 * z, 0.5 * (y - 2))
        q = np.array(arm.home)
        for _ in range(30):
            q = solver.solve(q, target, 0.1)
        distance, turn = error(forward(arm, q), target)
        assert distance < 1e-3
        assert turn < 5e-3


@law
@given(
    st.sampled_from([PANDA, UR5E]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.002, 0.1, 10.0]),
    st.sampled_from([0.1, 3.0, 1e300]),
)
def test_any_target_gives_finite_joints_within_position_and_velocity_limits(
    arm: Arm, seed: int, dt: float, far: float
) -> None:
    rng = np.random.default_rng(seed)
    low, high = np.array(arm.q_min), np.array(arm.q_max)
    q = rng.uniform(low, high)
    target = np.eye(4)
    target[:3, :3] = Rotation.random(None, rng).as_matrix()
    target[:3, 3] = far * rng.uniform(-1, 1, 3)
    solver = InverseKinematics(arm)
    for _ in range(4):
        new = solver.solve(q, target, dt)
        assert np.isfinite(new).all()
        assert (new >= low).all()
        assert (new <= high).all()
        assert (np.abs(new - q) <= np.array(arm.dq_max) * dt + 1e-12).all()
        q = new


@ARMS
def test_a_straight_arm_and_a_half_turn_give_finite_joints(arm: Arm) -> None:
    q = np.clip(np.zeros(arm.num_joints), arm.q_min, arm.q_max)  # singular
    target = forward(arm, q)
    target[:3, :3] = np.diag([1.0, -1.0, -1.0]) @ target[:3, :3]  # turned by pi
    solver = InverseKinematics(arm)
    for _ in range(20):
        q = solver.solve(q, target, 0.1)
        assert np.isfinite(q).all()


def test_the_spare_joint_moves_towards_home_while_the_hand_stays() -> None:
    solver = InverseKinematics(PANDA)
    q = np.array(PANDA.home)
    target = forward(PANDA, q)
    away = q + [0.3, 0, -0.3, 0, 0, 0, 0]
    for _ in range(60):
        away = solver.solve(away, target, 0.1)
    assert np.abs(away - q).max() < 0.02
    assert error(forward(PANDA, away), target)[0] < 1e-4


def test_a_target_that_is_not_finite_is_refused() -> None:
    target = down(0.4, 0, 0.2)
    target[0, 3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        InverseKinematics(PANDA).solve(np.array(PANDA.home), target, 0.1)


@ARMS
def test_the_ramp_is_a_straight_line_of_joints_that_ends_at_the_target(arm: Arm) -> None:
    control = EndEffectorControl(arm, 10.0, 500.0)
    start, before = control.q, control.target
    ramp = control.command(np.array([0.02, -0.01, -0.03, 0, 0, 0.1, 0.25]))
    assert ramp.q.shape == (50, arm.num_joints)
    steps = np.diff(np.vstack([start, ramp.q]), axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-12)
    np.testing.assert_array_equal(ramp.q[-1], control.q)
    np.testing.assert_array_equal(ramp.opening, np.full(50, 0.25))
    distance, turn = error(forward(arm, ramp.q[-1]), control.target)
    assert distance < 1e-3
    assert turn < 1e-2
    expected = before[:3, 3] + [0.02, -0.01, -0.03]
    np.testing.assert_allclose(control.target[:3, 3], expected, atol=1e-15)
    turned = Rotation.from_euler("z", 0.1).as_matrix() @ before[:3, :3]  # from the left: about the base's z
    np.testing.assert_allclose(control.target[:3, :3], turned, atol=1e-12)
    assert not control.unreachable


def test_commanded_poses_add_up_whatever_the_arm_lags_behind() -> None:
    control = EndEffectorControl(PANDA, 10.0, 100.0)
    start = control.target[:3, 3]
    for _ in range(6):
        control.command(np.array([0.01, 0.02, -0.03, 0, 0, 0, 1.0]))
    np.testing.assert_allclose(control.target[:3, 3], start + 6 * np.array([0.01, 0.02, -0.03]), atol=1e-12)


def test_the_commanded_position_stays_in_the_workspace_and_one_action_is_clipped_to_its_range() -> None:
    control = EndEffectorControl(PANDA, 10.0, 100.0)
    start = control.target[:3, 3]
    control.command(np.array([9.0, -9.0, 0.0, 0, 0, 9.0, 7.0]))
    np.testing.assert_allclose(control.target[:3, 3], start + [0.05, -0.05, 0])
    assert control.opening == 1.0
    for direction in ([1, 1, 1], [-1, -1, -1]):
        for _ in range(40):
            control.command(np.array([*direction, 0, 0, 0, 1.0]))
            position = control.target[:3, 3]
            assert (position >= [0.2, -0.4, 0.01]).all()
            assert (position <= [0.75, 0.4, 0.6]).all()
    np.testing.assert_allclose(control.target[:3, 3], [0.2, -0.4, 0.01])


def test_an_unreachable_pose_is_reported_and_the_command_waits_within_the_leash() -> None:
    short = replace(PANDA, mount=Mount(position=(-0.35, 0.0, 0.0)))  # the far end of the workspace is out of reach
    control = EndEffectorControl(short, 10.0, 100.0)
    control.reset(np.array(short.home), 1.0)
    for _ in range(40):
        control.command(np.array([0.05, 0.03, 0.02, 0, 0, 0, 1.0]))
    assert control.unreachable
    tcp = forward(short, control.q)[:3, 3]
    assert np.linalg.norm(control.target[:3, 3] - tcp) <= 0.15 + 1e-9
    for _ in range(8):  # at most 0.15 m of wound-up command to take back, not 40 steps of it
        control.command(np.array([-0.05, 0.0, 0.0, 0, 0, 0, 1.0]))
    assert not control.unreachable
    assert forward(short, control.q)[0, 3] < tcp[0] - 0.1


@ARMS
def test_turns_against_a_joint_limit_do_not_wind_up_tilt_the_command_or_carry_the_hand_away(arm: Arm) -> None:
    control = EndEffectorControl(arm, 10.0, 100.0)
    start = control.target
    for _ in range(40):  # 12 rad commanded; no wrist has as much
        control.command(np.array([0, 0, 0, 0, 0, 0.3, 1.0]))
        assert error(forward(arm, control.q), start)[0] < 0.06
    assert control.unreachable
    np.testing.assert_allclose(control.target[:3, 3], start[:3, 3])
    np.testing.assert_allclose(control.target[2, :3], start[2, :3], atol=1e-12)  # only turns about z were commanded
    wrist = control.q[-1]
    for _ in range(10):
        control.command(np.array([0, 0, 0, 0, 0, -0.3, 1.0]))
    distance, turn = error(forward(arm, control.q), control.target)
    assert not control.unreachable
    assert abs(control.q[-1] - wrist) > 1.5  # at once, not after 12 rad of commands
    assert distance < 2e-3
    assert turn < 2e-2


@law
@given(st.sampled_from([PANDA, UR5E]), st.integers(0, 2**32 - 1))
def test_after_any_actions_commands_back_home_bring_the_arm_home(arm: Arm, seed: int) -> None:
    rng = np.random.default_rng(seed)
    control = EndEffectorControl(arm, 10.0, 100.0)
    start = control.target
    push = rng.uniform(-1, 1, 3)
    for _ in range(25):
        control.command(np.array([*np.clip(0.05 * push + rng.normal(0, 0.03, 3), -0.05, 0.05), 0, 0, 0, 1.0]))
    for _ in range(40):
        way = start[:3, 3] - control.target[:3, 3]
        control.command(np.array([*way, 0, 0, 0, 1.0]))
    distance, turn = error(forward(arm, control.q), start)
    assert distance < 2e-3
    assert turn < 2e-2


@ARMS
def test_a_restored_state_goes_on_to_the_last_bit(arm: Arm) -> None:
    rng = np.random.default_rng(4)
    control = EndEffectorControl(arm, 10.0, 100.0)
    actions = rng.uniform(-0.04, 0.04, (12, 7))
    for action in actions[:6]:
        control.command(action)
    state = control.get_state()
    ramps = [control.command(action) for action in actions[6:]]
    end = control.get_state()
    other = EndEffectorControl(arm, 10.0, 100.0)
    other.set_state(state)
    np.testing.assert_array_equal(other.get_state(), state)
    for action, ramp in zip(actions[6:], ramps, strict=True):
        again = other.command(action)
        np.testing.assert_array_equal(again.q, ramp.q)
        np.testing.assert_array_equal(again.opening, ramp.opening)
    np.testing.assert_array_equal(other.get_state(), end)


def test_hundreds_of_turns_keep_the_rotation_orthonormal() -> None:
    control = EndEffectorControl(UR5E, 10.0, 10.0)
    rng = np.random.default_rng(5)
    for turn in rng.uniform(-0.05, 0.05, (300, 3)):
        control.command(np.array([0, 0, 0, *turn, 1.0]))
    rotation = control.target[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-14)


def test_an_action_that_is_not_finite_is_refused_and_changes_nothing() -> None:
    control = EndEffectorControl(PANDA, 10.0, 100.0)
    state = control.get_state()
    for bad in (np.nan, np.inf):
        with pytest.raises(UserError, match="not finite"):
            control.command(np.array([0, 0, bad, 0, 0, 0, 1.0]))
    np.testing.assert_array_equal(control.get_state(), state)


def test_rates_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="no multiple"):
        EndEffectorControl(PANDA, 10.0, 125.0)


@ARMS
def test_an_arm_is_hashable_and_survives_pickling(arm: Arm) -> None:
    copy = pickle.loads(pickle.dumps(arm))
    assert copy == arm
    assert hash(copy) == hash(arm)


def test_anything_that_reads_and_commands_at_a_rate_is_a_robot() -> None:
    class Still:
        arm = PANDA
        rate_hz = 100.0

        def read(self) -> RobotState:
            return RobotState(time=0.0, q=np.array(PANDA.home), dq=np.zeros(7), opening=1.0)

        def command(self, command: JointCommand) -> None:
            pass

    assert isinstance(Still(), Robot)
    assert not isinstance(PANDA, Robot)
