"""Where the links and the tool centre point are, and how they move with the joints.

J = joints. Everything works on any leading axes; poses are 4 x 4 in the base frame of `robot.arm`.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ideomotor.robot.arm import Arm, fixed_offsets


@dataclass(frozen=True)
class Chain:
    """The constant matrices of an arm: base_from_tcp = (parent_from_joint_1 Rz(q_1)) ... (parent_from_joint_J Rz(q_J)) last_from_tcp."""

    base_from_foot: Float[np.ndarray, "4 4"]
    parent_from_joint: Float[np.ndarray, "J 4 4"]  # the first has the base as its parent
    last_from_tcp: Float[np.ndarray, "4 4"]


@functools.lru_cache(maxsize=64)
def chain(arm: Arm) -> Chain:
    """Return the matrices of `arm`."""
    base_from_foot = _turn_z(arm.mount.yaw)
    base_from_foot[:3, 3] = arm.mount.position
    offsets = [_turn_x(offset.alpha, offset.position) for offset in fixed_offsets(arm)]
    flange_from_tcp = _turn_z(arm.flange_turn)
    flange_from_tcp[2, 3] = arm.gripper.tcp_z
    return Chain(
        base_from_foot=base_from_foot,
        parent_from_joint=np.stack([base_from_foot @ offsets[0], *offsets[1:-1]]),
        last_from_tcp=offsets[-1] @ flange_from_tcp,
    )


def link_frames(arm: Arm, q: Float[np.ndarray, "*batch J"]) -> Float[np.ndarray, "*batch J+1 4 4"]:
    """Return base_from_link: of the foot, then of the body that each joint moves, with that joint's axis as its z."""
    matrices = chain(arm)
    foot = np.broadcast_to(matrices.base_from_foot, (*q.shape[:-1], 1, 4, 4))
    return np.concatenate([foot, joint_frames(matrices, q)], axis=-3)


def forward(arm: Arm, q: Float[np.ndarray, "*batch J"]) -> Float[np.ndarray, "*batch 4 4"]:
    """Return base_from_tcp."""
    matrices = chain(arm)
    return joint_frames(matrices, q)[..., -1, :, :] @ matrices.last_from_tcp


def jacobian(arm: Arm, q: Float[np.ndarray, "*batch J"]) -> Float[np.ndarray, "*batch 6 J"]:
    """Return the velocity of the TCP for each joint's: three rows of [m/rad], three of [rad/rad] (angular), base frame."""
    return pose_and_jacobian(chain(arm), q)[1]


def pose_and_jacobian(
    matrices: Chain, q: Float[np.ndarray, "*batch J"]
) -> tuple[Float[np.ndarray, "*batch 4 4"], Float[np.ndarray, "*batch 6 J"]]:
    """Return `forward` and `jacobian` in one pass."""
    frames = joint_frames(matrices, q)
    base_from_tcp = frames[..., -1, :, :] @ matrices.last_from_tcp
    axis_x, axis_y, axis_z = frames[..., 0, 2], frames[..., 1, 2], frames[..., 2, 2]
    arm_x = base_from_tcp[..., None, 0, 3] - frames[..., 0, 3]
    arm_y = base_from_tcp[..., None, 1, 3] - frames[..., 1, 3]
    arm_z = base_from_tcp[..., None, 2, 3] - frames[..., 2, 3]
    rows = np.empty((*q.shape[:-1], 6, q.shape[-1]))
    rows[..., 0, :] = axis_y * arm_z - axis_z * arm_y  # axis x lever arm
    rows[..., 1, :] = axis_z * arm_x - axis_x * arm_z
    rows[..., 2, :] = axis_x * arm_y - axis_y * arm_x
    rows[..., 3, :] = axis_x
    rows[..., 4, :] = axis_y
    rows[..., 5, :] = axis_z
    return base_from_tcp, rows


def joint_frames(matrices: Chain, q: Float[np.ndarray, "*batch J"]) -> Float[np.ndarray, "*batch J 4 4"]:
    """Return base_from_link of the body that each joint moves."""
    fixed = matrices.parent_from_joint
    cosine, sine = np.cos(q)[..., None], np.sin(q)[..., None]
    steps = np.empty((*q.shape, 4, 4))  # parent_from_joint Rz(q): the turn mixes the first two columns only
    steps[..., 0] = cosine * fixed[:, :, 0] + sine * fixed[:, :, 1]
    steps[..., 1] = cosine * fixed[:, :, 1] - sine * fixed[:, :, 0]
    steps[..., 2:] = fixed[:, :, 2:]
    for joint in range(1, q.shape[-1]):
        steps[..., joint, :, :] = steps[..., joint - 1, :, :] @ steps[..., joint, :, :]
    return steps


def _turn_z(angle: float) -> Float[np.ndarray, "4 4"]:
    matrix = np.eye(4)
    matrix[:2, :2] = ((math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle)))
    return matrix


def _turn_x(angle: float, position: tuple[float, float, float]) -> Float[np.ndarray, "4 4"]:
    matrix = np.eye(4)
    matrix[1:3, 1:3] = ((math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle)))
    matrix[:3, 3] = position
    return matrix
