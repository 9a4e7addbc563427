"""What a shield knows of an arm: its chain of joints, capsules around its parts, and its limits.

Made from a table (`body_of`) or from a file (`robot.body_file`).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ideomotor.robot.arm import Arm, Box, Vector3, segments
from ideomotor.robot.geometry import segment_gap
from ideomotor.robot.kinematics import Chain, chain, joint_frames
from ideomotor.robot.limits import Limits, limits_of

NEAR = 3  # joints between two parts from which on they are told apart: nearer ones cannot meet, or always do
TOGETHER = 0.02  # [m] parts that are nearer than this at home are neighbours
FIRST = 2  # parts from this link on are kept away from obstacles: the foot stands, link 1 turns about its own axis


@dataclass(frozen=True)
class Capsule:
    """All points of a part within `radius` of a line, in the frame of the link that carries it (z = the joint's axis)."""

    part: str  # "link3", "hand", "finger", "held"
    link: int  # 0 is the foot, i the body that joint i moves; hand, fingers and what they hold ride on the last
    start: Vector3  # [m]
    end: Vector3  # [m]
    radius: float  # [m]


@dataclass(frozen=True)
class Body:
    """An arm as a shield sees it."""

    name: str
    chain: Chain
    capsules: tuple[Capsule, ...]
    limits: Limits
    self_pairs: tuple[tuple[int, int], ...]  # indices of capsules that are kept apart from each other


def parts_apart(
    matrices: Chain, capsules: tuple[Capsule, ...], home: Float[np.ndarray, " J"]
) -> tuple[tuple[int, int], ...]:
    """Return the pairs of capsules that can meet: at least `NEAR` joints apart, and not close to each other by construction.

    What is within `TOGETHER` at home always is, such as forearm and flange of an arm with an offset wrist. Fingers keep from what the
    hand keeps from.
    """
    frames = [matrices.base_from_foot, *joint_frames(matrices, home)]
    ends = [[frames[c.link][:3, :3] @ np.array(p) + frames[c.link][:3, 3] for p in (c.start, c.end)] for c in capsules]

    def apart(i: int, k: int) -> bool:
        _, _, gap = segment_gap(*(p[None] for p in (*ends[i], *ends[k])))
        return float(gap[0]) - capsules[i].radius - capsules[k].radius > TOGETHER

    pairs = [
        (i, k)
        for i, a in enumerate(capsules)
        for k, b in enumerate(capsules)
        if b.link - a.link >= NEAR and "finger" not in (a.part, b.part) and apart(i, k)
    ]
    fingers = [k for k, capsule in enumerate(capsules) if capsule.part == "finger"]
    of_hand = dict.fromkeys(i for i, k in pairs if capsules[k].part == "hand")
    return (*pairs, *((i, k) for i in of_hand for k in fingers))


def body_of(arm: Arm) -> Body:
    """Return the body of a table: the capsules around its real links (else those it is simulated with), its hand and fingers.

    Raises:
        UserError: the table has no limits of acceleration and jerk.
    """
    links = [Capsule(f"link{s.link}", s.link, s.start, s.end, s.radius) for s in arm.hull or segments(arm)]
    capsules = (*links, *_tool(arm))
    return Body(arm.name, chain(arm), capsules, limits_of(arm), parts_apart(chain(arm), capsules, np.array(arm.home)))


def _tool(arm: Arm) -> tuple[Capsule, ...]:
    """Return capsules in the frame of the last link. A box of half edges x, y, z lies in the capsule along y of radius hypot(x, z)."""
    gripper, last = arm.gripper, arm.num_joints
    link_from_hand = chain(arm).last_from_tcp.copy()
    link_from_hand[:3, 3] -= gripper.tcp_z * link_from_hand[:3, 2]

    def placed(part: str, start: Vector3, end: Vector3, radius: float) -> Capsule:
        a, b = (link_from_hand[:3, :3] @ np.array(p) + link_from_hand[:3, 3] for p in (start, end))
        return Capsule(
            part, last, (float(a[0]), float(a[1]), float(a[2])), (float(b[0]), float(b[1]), float(b[2])), radius
        )

    match gripper.hand:
        case Box(half, z):
            reach = max(half[1], 1e-6)
            hand = placed("hand", (0.0, -reach, z), (0.0, reach, z), math.hypot(half[0], half[2]))
        case other:
            z, reach = other.centre_z, other.half_length
            hand = placed("hand", (0.0, 0.0, z - reach), (0.0, 0.0, z + reach), other.radius)
    x, y, length = gripper.finger_half
    open_y = gripper.slide_range[1] + y  # of the open fingers; closed ones lie between
    fingers = [
        placed(
            "finger",
            (0.0, side * open_y, gripper.slide_z),
            (0.0, side * open_y, gripper.slide_z + 2 * length),
            math.hypot(x, y),
        )
        for side in (1.0, -1.0)
    ]
    return (hand, *fingers)
