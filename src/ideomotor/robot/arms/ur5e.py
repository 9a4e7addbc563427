"""Universal Robots UR5e with a generic parallel gripper, from primitives."""

from math import pi

from ideomotor.robot.arm import Arm, CameraPose, Cylinder, Motion, Mount, ParallelGripper, Segment

GRIPPER = ParallelGripper(
    name="generic_parallel",
    hand=Cylinder(radius=0.04, half_length=0.03, centre_z=0.029),  # ends 1 mm before the fingers begin
    slide_z=0.06,
    slide_range=(0.0, 0.0425),
    finger_half=(0.011, 0.006, 0.040),
    tcp_z=0.13,
    wrist_camera=CameraPose(
        position=(0.09, 0.0, 0.02), direction=(-0.35, 0.0, 1.0), image_right=(0.0, 1.0, 0.0), fovy=75.0
    ),
)

# The DH table hides that upper arm and forearm lie beside each other: 138 mm and 7 mm along the joints' axes.
HULL = (
    Segment(1, (0.0, 0.0, 0.0625), (0.0, 0.0, 0.1825), 0.06),
    Segment(2, (0.0, 0.0, 0.038), (0.0, 0.0, 0.158), 0.06),
    Segment(2, (0.0, 0.0, 0.138), (-0.40, 0.0, 0.138), 0.05),
    Segment(3, (0.0, 0.0, 0.027), (0.0, 0.0, 0.147), 0.055),
    Segment(3, (-0.01, 0.0, 0.007), (-0.39, 0.0, 0.007), 0.038),
    Segment(4, (0.0, 0.0, -0.013), (0.0, 0.0, 0.127), 0.04),
    Segment(5, (0.0, 0.0, -0.02), (0.0, 0.0, 0.10), 0.04),
    Segment(5, (0.0, -0.02, 0.10), (0.0, 0.06, 0.10), 0.04),
    Segment(6, (0.0, 0.0, 0.06), (0.0, 0.0, 0.10), 0.04),
)

UR5E = Arm(
    name="ur5e",
    convention="standard",
    a=(0.0, -0.425, -0.3922, 0.0, 0.0, 0.0),
    d=(0.1625, 0.0, 0.0, 0.1333, 0.0997, 0.0996),
    alpha=(pi / 2, 0.0, 0.0, pi / 2, -pi / 2, 0.0),
    q_min=(-2 * pi, -2 * pi, -pi, -2 * pi, -2 * pi, -2 * pi),  # elbow: as planners take it, for a unique solution
    q_max=(2 * pi, 2 * pi, pi, 2 * pi, 2 * pi, 2 * pi),
    dq_max=(pi, pi, pi, pi, pi, pi),
    tau_max=(150.0, 150.0, 150.0, 28.0, 28.0, 28.0),
    home=(2.872, -1.559, 1.837, -1.849, -1.571, -1.841),
    link_mass=(3.761, 8.058, 2.846, 1.37, 1.3, 0.365),
    link_radius=tuple(0.045 * (1.0 - 0.06 * i) for i in range(7)),  # the foot has no capsule in this convention
    inertia=(1.65, 1.86, 1.24, 0.15, 0.12, 0.10),
    damping=(2.0, 2.0, 2.0, 1.0, 1.0, 1.0),
    gripper=GRIPPER,
    hull=HULL,
    front_camera=CameraPose(  # looks at (0.49, 0, 0), as for the Panda
        position=(1.0, 0.0, 0.65), direction=(-0.51, 0.0, -0.65), image_right=(0.0, 1.0, 0.0), fovy=36.0
    ),
    mount=Mount(position=(-0.05, 0.0, 0.0)),
    sources=(
        "DH parameters, masses: Universal Robots, article 'DH parameters for calculations of kinematics and dynamics'",
        "hull: collision capsules of MuJoCo Menagerie universal_robots_ur5e, in the frames of the DH table",
        "joint limits, torques: Universal_Robots_ROS2_Description, config/ur5e/joint_limits.yaml",
        "everything else: ours; joint inertias: ours at home (with other link masses; now 0.6 to 1.2 times)",
    ),
    motion=Motion(
        acceleration=(12.0, 6.0, 15.0, 15.0, 15.0, 15.0),
        jerk=(3000.0,) * 6,
        torque_rate=None,
        tool_speed=1.0,
        tool_acceleration=10.0,
        payload=5.0,
        sources=(
            "acceleration, jerk 3000 rad/s^3: ours, assumed; Universal Robots publishes none",
            "base, shoulder, elbow brake no harder than a UR5 (CB3 manual, category 0 stop, full load: 0.244, 0.530, 0.164 s)",
            "tool speed: Universal Robots, data sheet of the UR5e, which calls 1 m/s the typical TCP speed; it is no upper limit",
            "tool acceleration 10 m/s^2: ours, assumed; none is published",
            "torque rate: none, the arm takes no torques from us",
            "payload: Universal Robots, data sheet of the UR5e",
        ),
    ),
)
