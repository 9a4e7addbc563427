"""Franka Emika Panda with its own hand, from primitives."""

from math import pi

from ideomotor.robot.arm import Arm, Box, CameraPose, Motion, ParallelGripper, Segment

HAND = ParallelGripper(
    name="panda_hand",
    hand=Box(half=(0.025, 0.10, 0.033), centre_z=0.0244),  # ends 1 mm before the fingers begin
    slide_z=0.0584,
    slide_range=(0.0, 0.04),
    finger_half=(0.010, 0.006, 0.026),
    tcp_z=0.1034,
    wrist_camera=CameraPose(
        position=(0.08, 0.0, 0.03), direction=(-0.35, 0.0, 1.0), image_right=(0.0, 1.0, 0.0), fovy=75.0
    ),
    hand_mass=0.73,
)

TURN = 0.5**0.5  # the flange's camera lug points 45 degrees away from x

HULL = (
    Segment(0, (-0.09, 0.0, 0.06), (-0.06, 0.0, 0.06), 0.06),
    Segment(1, (0.0, 0.0, -0.333), (0.0, 0.0, -0.05), 0.06),
    Segment(2, (0.0, 0.0, -0.06), (0.0, 0.0, 0.06), 0.06),
    Segment(3, (0.0, 0.0, -0.22), (0.0, 0.0, -0.07), 0.06),
    Segment(4, (0.0, 0.0, -0.06), (0.0, 0.0, 0.06), 0.06),
    Segment(5, (0.0, 0.0, -0.31), (0.0, 0.0, -0.21), 0.06),
    Segment(5, (0.0, 0.08, -0.20), (0.0, 0.08, -0.06), 0.025),
    Segment(6, (0.0, 0.0, -0.07), (0.0, 0.0, 0.01), 0.05),
    Segment(7, (0.0, 0.0, -0.06), (0.0, 0.0, 0.08), 0.04),
    Segment(7, (0.055 * TURN, 0.055 * TURN, 0.082), (0.065 * TURN, 0.065 * TURN, 0.082), 0.03),
)

PANDA = Arm(
    name="panda",
    convention="modified",
    a=(0.0, 0.0, 0.0, 0.0825, -0.0825, 0.0, 0.088, 0.0),
    d=(0.333, 0.0, 0.316, 0.0, 0.384, 0.0, 0.0, 0.107),
    alpha=(0.0, -pi / 2, pi / 2, pi / 2, -pi / 2, pi / 2, pi / 2, 0.0),
    q_min=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
    q_max=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
    dq_max=(2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61),
    tau_max=(87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0),
    home=(0.0, -0.55, 0.0, -2.3, 0.0, 1.75, 0.785),
    link_mass=(4.97, 0.65, 3.23, 3.59, 1.23, 1.67, 0.74),
    link_radius=(0.065, 0.062, 0.059, 0.056, 0.053, 0.050, 0.047, 0.045),
    inertia=(0.62, 1.51, 0.94, 0.86, 0.12, 0.14, 0.10),
    damping=(2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0),
    gripper=HAND,
    front_camera=CameraPose(  # looks at (0.49, 0, 0): nearer than usual, so that every object is at least 8 px across at 96 px
        position=(1.0, 0.0, 0.65), direction=(-0.51, 0.0, -0.65), image_right=(0.0, 1.0, 0.0), fovy=36.0
    ),
    flange_turn=-pi / 4,
    hull=HULL,
    sources=(
        "DH parameters and joint limits: Franka Control Interface, https://frankaemika.github.io/docs/control_parameters.html",
        "link and hand masses, finger and TCP offsets: franka_ros franka_description and MuJoCo Menagerie franka_emika_panda",
        "hull: Franka's own capsules, franka_ros franka_description/robots/common/franka_arm.xacro (self-collision geometries)",
        "capsule radii, damping, armature, home, cameras: ours; joint inertias: ours at home (with lighter links; now 1.0 to 1.3 times)",
    ),
    motion=Motion(
        acceleration=(15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0),
        jerk=(7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0),
        torque_rate=(1000.0,) * 7,
        tool_speed=1.7,
        tool_acceleration=13.0,
        payload=3.0,
        sources=(
            "acceleration, jerk, torque rate, tool speed and acceleration: Franka Control Interface, limits for Panda",
            "payload: Franka Emika, data sheet of the Panda",
        ),
    ),
)
