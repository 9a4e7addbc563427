"""What an arm is: one frozen table of numbers, enough for its kinematics, its control and a simulated body.

Frames. *base* is the frame of every pose in this package: z = 0 is the top of the table, x points away from the robot.
`Mount` says where the arm's foot stands in it. *hand* is the flange turned by `flange_turn` about its z; the tool centre
point (TCP) lies at `gripper.tcp_z` on the hand's z axis, with the hand's orientation.

Both Denavit-Hartenberg conventions become one chain (`fixed_offsets`): fixed offset, turn about z by q, fixed offset, ...
"""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

Vector3 = tuple[float, float, float]

HOUSING = 0.05  # [m] half length of the capsule that stands for a joint whose link has no length of its own


@dataclass(frozen=True)
class CameraPose:
    """Where a camera sits and looks. It looks along `direction`; +`image_up` is up and `image_right` is right in the image."""

    position: Vector3  # [m]
    direction: Vector3  # of any length
    image_right: Vector3  # unit vector, perpendicular to `direction`
    fovy: float  # [degrees] vertical field of view

    @property
    def image_up(self) -> Vector3:
        """Unit vector that points up in the image (MuJoCo's `xyaxes` are `image_right` and this)."""
        (x, y, z), (rx, ry, rz) = self.direction, self.image_right
        up = (z * ry - y * rz, x * rz - z * rx, y * rx - x * ry)
        length = math.hypot(*up)
        return (up[0] / length, up[1] / length, up[2] / length)


@dataclass(frozen=True)
class Mount:
    """Pose of the arm's foot (frame 0 of its DH table) in the base frame."""

    position: Vector3 = (0.0, 0.0, 0.0)  # [m]
    yaw: float = 0.0  # [rad] about the base's z


@dataclass(frozen=True)
class Box:
    """A box in the hand frame."""

    half: Vector3  # [m]
    centre_z: float  # [m]


@dataclass(frozen=True)
class Cylinder:
    """A cylinder along the hand's z."""

    radius: float  # [m]
    half_length: float  # [m]
    centre_z: float  # [m]


@dataclass(frozen=True)
class Contact:
    """How fingers touch, in MuJoCo's words. The stiff contact does the grasping, and priority lets it win."""

    friction: Vector3 = (1.2, 0.02, 0.001)  # slide, twist, roll
    condim: int = 4
    priority: int = 1
    solref: tuple[float, float] = (0.004, 1.0)  # [s], damping ratio
    solimp: tuple[float, float, float, float, float] = (0.95, 0.99, 0.001, 0.5, 2.0)


@dataclass(frozen=True)
class ParallelGripper:
    """Two fingers that slide along the hand's +y and -y; the finger gap is twice the slide's value.

    A finger is a box from the slide's start on along z, shifted outwards, so that its inner face lies at the slide's value.
    """

    name: str
    hand: Box | Cylinder
    slide_z: float  # [m] where the finger boxes begin
    slide_range: tuple[float, float]  # [m] closed, open, of each finger
    finger_half: Vector3  # [m]
    tcp_z: float  # [m] tool centre point
    wrist_camera: CameraPose  # in the hand frame
    finger_mass: float = 0.05  # [kg] each
    hand_mass: float = 0.5  # [kg]
    damping: float = 10.0  # [N s/m]
    armature: float = 0.1  # [kg]
    kp: float = 1000.0  # [N/m] of the one servo; an equality moves the other finger
    kv: float = 50.0  # [N s/m]
    force: float = 60.0  # [N] largest servo force
    equality_solref: tuple[float, float] = (0.005, 1.0)  # [s], damping ratio
    contact: Contact = Contact()

    @property
    def finger_centre(self) -> Vector3:
        """Centre of the +y finger's box in the frame of its slide, which starts at (0, 0, `slide_z`) of the hand [m]."""
        return (0.0, self.finger_half[1], self.finger_half[2])


GripperTable = ParallelGripper  # becomes a union when the next kind comes


@dataclass(frozen=True)
class SpeedLaw:
    """A joint's speed limit that depends on its position: within [0, sqrt(gain (high - q)) - offset] upwards, mirrored downwards.

    Source: Franka Control Interface, limits of the FR3. Tuples run over the joints.
    """

    offset: tuple[float, ...]  # [rad/s] c
    gain: tuple[float, ...]  # [rad/s^2] K
    low: tuple[float, ...]  # [rad] q* below
    high: tuple[float, ...]  # [rad] q* above


@dataclass(frozen=True)
class Motion:
    """How fast an arm may change its motion. Tuples run over the joints; without this table no shield arms it."""

    acceleration: tuple[float, ...]  # [rad/s^2]
    jerk: tuple[float, ...]  # [rad/s^3]
    torque_rate: tuple[float, ...] | None  # [N m/s]; None: the robot takes no torques
    tool_speed: float  # [m/s] of the tool centre point, as rated
    tool_acceleration: float  # [m/s^2]
    payload: float  # [kg] rated
    sources: tuple[str, ...]  # where the numbers come from; "ours, assumed" where nobody publishes them
    speed_law: SpeedLaw | None = None


@dataclass(frozen=True)
class Segment:
    """A capsule of a link, in the frame of the body that carries it."""

    link: int  # 0 is the foot, i the body that joint i moves
    start: Vector3  # [m]
    end: Vector3  # [m]
    radius: float  # [m]


@dataclass(frozen=True)
class Arm:
    """An arm with J joints and its gripper. Tuples run over the joints unless a comment says otherwise."""

    name: str
    convention: Literal["modified", "standard"]  # Denavit-Hartenberg: Craig's, or the classic one
    a: tuple[float, ...]  # [m] modified: J + 1 entries, the last leads to the flange (with q = 0)
    d: tuple[float, ...]  # [m]
    alpha: tuple[float, ...]  # [rad]
    q_min: tuple[float, ...]  # [rad]
    q_max: tuple[float, ...]  # [rad]
    dq_max: tuple[float, ...]  # [rad/s]
    tau_max: tuple[float, ...]  # [N m]
    home: tuple[float, ...]  # [rad] tool down over the table
    link_mass: tuple[float, ...]  # [kg]
    link_radius: tuple[float, ...]  # [m] of the capsules; J + 1 entries, the foot first; all differ by >= 1 mm
    inertia: tuple[float, ...]  # [kg m^2] joint-space diagonal at home, with armature: the servo gains follow from it
    damping: tuple[float, ...]  # [N m s/rad]
    gripper: GripperTable
    front_camera: CameraPose  # in the base frame
    sources: tuple[str, ...]  # where the numbers come from
    armature: float = 0.1  # [kg m^2] of every joint
    bandwidth: float = 50.0  # [rad/s] omega of the servos: kp = I omega^2, kv = 2 I omega
    flange_turn: float = 0.0  # [rad] hand against flange, about z
    mount: Mount = Mount()
    motion: Motion | None = None  # accelerations, jerks and what else a shield has to know
    hull: tuple[
        Segment, ...
    ] = ()  # around the links of the real arm; empty: `segments`, which a simulated one consists of

    def __post_init__(self) -> None:
        """Check that the tables fit each other."""
        joints = len(self.q_min)
        rows = joints + (self.convention == "modified")
        assert len(self.a) == len(self.d) == len(self.alpha) == rows, f"{self.name}: {rows} DH rows expected"
        per_joint = (self.q_max, self.dq_max, self.tau_max, self.home, self.link_mass, self.inertia, self.damping)
        assert all(len(table) == joints for table in per_joint), f"{self.name}: {joints} joints expected in every table"
        assert len(self.link_radius) == joints + 1, f"{self.name}: foot and {joints} links need a radius"
        motion = self.motion
        if motion is not None:
            law = motion.speed_law
            tables = [motion.acceleration, motion.jerk, *([] if motion.torque_rate is None else [motion.torque_rate])]
            tables += [] if law is None else [law.offset, law.gain, law.low, law.high]
            assert all(len(table) == joints for table in tables), f"{self.name}: {joints} joints expected in its motion"

    @property
    def num_joints(self) -> int:
        """J."""
        return len(self.q_min)

    @property
    def kp(self) -> tuple[float, ...]:
        """Position gains [N m/rad]."""
        return tuple(inertia * self.bandwidth**2 for inertia in self.inertia)

    @property
    def kv(self) -> tuple[float, ...]:
        """Velocity gains [N m s/rad]: critical damping."""
        return tuple(2.0 * inertia * self.bandwidth for inertia in self.inertia)


@dataclass(frozen=True)
class Offset:
    """A fixed step of the chain: move by `position`, then turn by `alpha` about the own x."""

    position: Vector3  # [m]
    alpha: float  # [rad]


def fixed_offsets(arm: Arm) -> tuple[Offset, ...]:
    """Return the J + 1 offsets O of foot_from_flange = O_0 Rz(q_1) O_1 Rz(q_2) ... Rz(q_J) O_J.

    O_i is where the next body sits in the body that joint i moves (i = 0: in the foot), and where the flange sits at the end.

    Modified DH: T_i = Rx(alpha) Tx(a) Rz(q) Tz(d), and Tz(d) commutes with Rz(q). Standard: T_i = Rz(q) Tz(d) Tx(a) Rx(alpha).
    """
    rows = zip(arm.a, arm.d, arm.alpha, strict=True)
    if arm.convention == "modified":
        return tuple(Offset((a, -d * math.sin(alpha), d * math.cos(alpha)), alpha) for a, d, alpha in rows)
    return (Offset((0.0, 0.0, 0.0), 0.0), *(Offset((a, 0.0, d), alpha) for a, d, alpha in rows))


def segments(arm: Arm) -> tuple[Segment, ...]:
    """Return the capsules along a and d of each link; a link without length gets one along its joint axis."""
    result: list[Segment] = []
    for link, offset in enumerate(fixed_offsets(arm)):
        corner = (offset.position[0], 0.0, 0.0) if arm.convention == "modified" else (0.0, 0.0, offset.position[2])
        corners = ((0.0, 0.0, 0.0), corner, offset.position)
        pairs = [(p, q) for p, q in itertools.pairwise(corners) if math.dist(p, q) > 1e-6]  # no length
        if not pairs and link > 0:
            pairs = [((0.0, 0.0, -HOUSING), (0.0, 0.0, HOUSING))]
        result += [Segment(link, start, end, arm.link_radius[link]) for start, end in pairs]
    return tuple(result)
