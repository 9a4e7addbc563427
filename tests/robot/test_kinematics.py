"""Expected values: the published DH tables, typed again; MuJoCo's own chain; finite differences."""

import itertools
from collections.abc import Callable
from math import cos, pi, sin

import mujoco
import numpy as np
import pytest

from ideomotor.robot.arm import Arm, fixed_offsets, segments
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.kinematics import forward, jacobian, link_frames

ARMS = pytest.mark.parametrize("arm", [PANDA, UR5E], ids=lambda arm: arm.name)

# (a, d, alpha) per joint: Panda modified DH with the flange last, UR5e standard DH
PANDA_DH = [
    (0, 0.333, 0), (0, 0, -pi / 2), (0, 0.316, pi / 2), (0.0825, 0, pi / 2), (-0.0825, 0.384, -pi / 2), (0, 0, pi / 2),
    (0.088, 0, pi / 2), (0, 0.107, 0),
]  # fmt: skip
UR5E_DH = [
    (0, 0.1625, pi / 2), (-0.425, 0, 0), (-0.3922, 0, 0), (0, 0.1333, pi / 2), (0, 0.0997, -pi / 2), (0, 0.0996, 0),
]  # fmt: skip


def random_q(arm: Arm, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(
        np.maximum(arm.q_min, -pi), np.minimum(arm.q_max, pi), (count, arm.num_joints)
    )


def panda_by_hand(q: np.ndarray) -> np.ndarray:
    """Craig's matrix, written out; then the hand, turned by -45 degrees, and 0.1034 m to the TCP."""
    pose = np.eye(4)
    for (a, d, alpha), t in zip(PANDA_DH, [*q, 0.0], strict=True):
        pose = pose @ np.array([
            [cos(t), -sin(t), 0, a],
            [sin(t) * cos(alpha), cos(t) * cos(alpha), -sin(alpha), -d * sin(alpha)],
            [sin(t) * sin(alpha), cos(t) * sin(alpha), cos(alpha), d * cos(alpha)],
            [0, 0, 0, 1],
        ])  # fmt: skip
    half = 0.5**0.5
    return pose @ np.array([[half, half, 0, 0], [-half, half, 0, 0], [0, 0, 1, 0.1034], [0, 0, 0, 1]])


def ur5e_by_hand(q: np.ndarray) -> np.ndarray:
    """The classic matrix, written out, from a foot at x = -0.05 m to a TCP 0.13 m beyond the flange."""
    pose = np.eye(4)
    pose[0, 3] = -0.05
    for (a, d, alpha), t in zip(UR5E_DH, q, strict=True):
        pose = pose @ np.array([
            [cos(t), -sin(t) * cos(alpha), sin(t) * sin(alpha), a * cos(t)],
            [sin(t), cos(t) * cos(alpha), -cos(t) * sin(alpha), a * sin(t)],
            [0, sin(alpha), cos(alpha), d],
            [0, 0, 0, 1],
        ])  # fmt: skip
    return pose @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.13], [0, 0, 0, 1]])


def mujoco_chain(arm: Arm) -> mujoco.MjModel:
    """Nested bodies: modified DH at (a, -d sin, d cos), standard DH at (a, 0, d), each turned by alpha about x, hinge z."""
    if arm is PANDA:
        places = [((a, -d * sin(al), d * cos(al)), al) for a, d, al in PANDA_DH]
        foot, tail = "0 0 0", f'<body euler="0 0 {-pi / 4}"><site name="tcp" pos="0 0 0.1034"/></body>'
    else:
        places = [((0, 0, 0), 0.0), *(((a, 0, d), al) for a, d, al in UR5E_DH)]
        foot, tail = "-0.05 0 0", '<site name="tcp" pos="0 0 0.13"/>'
    *bodies, (flange, flange_turn) = places
    text = f'<body pos="{" ".join(map(repr, flange))}" euler="{flange_turn!r} 0 0">{tail}</body>'
    for place, turn in reversed(bodies):
        joint = '<joint axis="0 0 1"/><geom size="0.01" mass="1"/>'
        text = f'<body pos="{" ".join(map(repr, place))}" euler="{turn!r} 0 0">{joint}{text}</body>'
    compiler = '<compiler angle="radian" eulerseq="XYZ"/>'
    return mujoco.MjModel.from_xml_string(
        f'<mujoco>{compiler}<worldbody><body pos="{foot}">{text}</body></worldbody></mujoco>'
    )


def test_panda_home_is_where_the_reference_has_it() -> None:
    pose = forward(PANDA, np.array(PANDA.home))
    np.testing.assert_allclose(pose[:3, 3], [0.386, 0, 0.448], atol=5e-4)
    np.testing.assert_allclose(pose[:3, :3], np.diag([1, -1, -1]), atol=1e-3)  # tool down


def test_ur5e_home_is_where_the_reference_has_it() -> None:
    pose = forward(UR5E, np.array(UR5E.home))
    np.testing.assert_allclose(pose[:3, 3], [0.45, 0, 0.25], atol=5e-4)
    np.testing.assert_allclose(pose[:3, :3], np.diag([1, -1, -1]), atol=1e-3)


@pytest.mark.parametrize(("arm", "by_hand"), [(PANDA, panda_by_hand), (UR5E, ur5e_by_hand)], ids=["panda", "ur5e"])
def test_forward_equals_the_product_of_published_dh_matrices(
    arm: Arm, by_hand: Callable[[np.ndarray], np.ndarray]
) -> None:
    for q in random_q(arm, 20):
        np.testing.assert_allclose(forward(arm, q), by_hand(q), atol=1e-12)


@ARMS
def test_forward_frames_and_jacobian_equal_mujocos_chain(arm: Arm) -> None:
    model = mujoco_chain(arm)
    data = mujoco.MjData(model)
    position, rotation = np.zeros((3, arm.num_joints)), np.zeros((3, arm.num_joints))
    for q in random_q(arm, 20, seed=1):
        data.qpos[:] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        pose = forward(arm, q)
        np.testing.assert_allclose(pose[:3, 3], data.site("tcp").xpos, atol=1e-12)
        np.testing.assert_allclose(pose[:3, :3].ravel(), data.site("tcp").xmat, atol=1e-12)
        frames = link_frames(arm, q)
        joints = arm.num_joints  # bodies: world, foot, joint 1 ... J, flange, ...
        np.testing.assert_allclose(frames[:, :3, 3], data.xpos[1 : joints + 2], atol=1e-12)
        np.testing.assert_allclose(frames[:, :3, :3].reshape(-1, 9), data.xmat[1 : joints + 2], atol=1e-12)
        mujoco.mj_jacSite(model, data, position, rotation, model.site("tcp").id)
        np.testing.assert_allclose(jacobian(arm, q), np.vstack([position, rotation]), atol=1e-12)


@ARMS
def test_the_jacobian_equals_finite_differences(arm: Arm) -> None:
    step = 1e-6
    for q in random_q(arm, 5, seed=2):
        moves = step * np.eye(arm.num_joints)
        after, before = forward(arm, q + moves), forward(arm, q - moves)
        linear = (after[:, :3, 3] - before[:, :3, 3]) / (2 * step)
        spin = (after[:, :3, :3] - before[:, :3, :3]) @ np.swapaxes(forward(arm, q)[None, :3, :3], -1, -2) / (2 * step)
        angular = np.stack([spin[:, 2, 1], spin[:, 0, 2], spin[:, 1, 0]], axis=-1)
        np.testing.assert_allclose(jacobian(arm, q), np.hstack([linear, angular]).T, atol=1e-8)


@ARMS
def test_leading_axes_equal_the_loop(arm: Arm) -> None:
    q = random_q(arm, 6, seed=3).reshape(2, 3, arm.num_joints)
    for function in (forward, link_frames, jacobian):
        whole = function(arm, q)
        for i, j in np.ndindex(2, 3):
            np.testing.assert_allclose(whole[i, j], function(arm, q[i, j]), atol=1e-14)


@ARMS
def test_segments_lead_from_each_body_to_the_next(arm: Arm) -> None:
    for link, offset in enumerate(fixed_offsets(arm)):
        own = [segment for segment in segments(arm) if segment.link == link]
        if any(offset.position):
            assert own[0].start == (0.0, 0.0, 0.0)
            assert own[-1].end == offset.position
            assert all(first.end == second.start for first, second in itertools.pairwise(own))
        else:
            assert len(own) == (link > 0)  # a housing; nothing for a foot without height


@ARMS
def test_capsules_never_share_a_surface(arm: Arm) -> None:
    assert np.diff(sorted(arm.link_radius)).min() >= 1e-3


@ARMS
def test_camera_axes_are_right_handed_and_the_front_camera_sees_the_table_upright(arm: Arm) -> None:
    for camera in (arm.front_camera, arm.gripper.wrist_camera):
        right, up, forwards = np.array(camera.image_right), np.array(camera.image_up), np.array(camera.direction)
        np.testing.assert_allclose(np.cross(right, up), -forwards / np.linalg.norm(forwards), atol=1e-12)
    assert arm.front_camera.image_up[2] > 0
    towards = np.array(arm.front_camera.position) + np.array(arm.front_camera.direction)
    np.testing.assert_allclose(towards, [0.49, 0, 0], atol=1e-12)


def test_servo_gains_are_those_of_a_critically_damped_joint_at_50_rad_per_second() -> None:
    assert PANDA.kp[1] == pytest.approx(1.51 * 2500)
    assert PANDA.kv[1] == pytest.approx(2 * 1.51 * 50)
