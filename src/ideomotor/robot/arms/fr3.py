"""Franka Research 3 with the Panda's hand. Links, hand and cameras are the Panda's; ranges, speeds and accelerations its own."""

from dataclasses import replace

from ideomotor.robot.arm import Motion, SpeedLaw
from ideomotor.robot.arms.panda import PANDA

LAW = SpeedLaw(
    offset=(0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35),
    gain=(12.0, 5.17, 7.0, 8.0, 34.0, 11.0, 34.0),
    low=(-2.7501, -1.7918, -2.9065, -3.0481, -2.8101, 0.54092, -3.0196),
    high=(2.7501, 1.7918, 2.9065, -0.1458, 2.8101, 4.5205, 3.0196),
)

FR3 = replace(
    PANDA,
    name="fr3",
    q_min=(-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159),
    q_max=(2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159),
    dq_max=(2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26),
    sources=(
        "DH parameters: the Panda's, which Franka's documentation gives for both; verify on your robot",
        "joint ranges, speeds, torques: Franka Control Interface, https://frankaemika.github.io/docs/control_parameters.html",
        "hand, masses, capsule radii, damping, home, cameras, inertias: as for the Panda, not measured on an FR3",
    ),
    motion=Motion(
        acceleration=(10.0,) * 7,
        jerk=(5000.0,) * 7,
        torque_rate=(1000.0,) * 7,
        tool_speed=3.0,
        tool_acceleration=9.0,
        payload=3.0,
        sources=(
            "acceleration, jerk, torque rate, tool speed and acceleration: Franka Control Interface, limits for Franka Research 3",
            "speed that depends on position: libfranka, include/franka/rate_limiting.h, computeUpperLimitsJointVelocity",
            "firmware from 5.9.0 on reports its own limits of speed: read them from the robot",
            "payload: Franka Robotics, data sheet of the Franka Research 3",
        ),
        speed_law=LAW,
    ),
)
