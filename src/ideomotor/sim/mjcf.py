"""The tabletop as MJCF text: arm, gripper, table, objects, cameras.

Text rather than calls on a specification object: it reads the same in all MuJoCo versions and can be stored and compared.
Physical values: solver, contacts and actuators as measured for grasping (stiff finger contacts at a step of 2 ms).
"""

import math
from collections.abc import Iterable, Sequence

from ideomotor.robot.arm import Arm, Box, CameraPose, Contact, GripperTable, Segment, fixed_offsets, segments
from ideomotor.sim.objects import Shape

TIMESTEP = 0.002  # [s] at 4 ms the finger contact becomes too soft to hold cylinders
TABLE_HALF = (0.5, 0.6, 0.02)  # [m]
TABLE_CENTRE = (0.4, 0.0, -0.02)  # [m] its top is z = 0
FLOOR_Z = -0.75  # [m]
TABLE_CONTACT = 'friction="1 0.01 0.001" condim="4"'  # slide, twist, roll

ARM_COLOURS = ("0.92 0.92 0.94 1", "0.82 0.84 0.88 1")  # links in turn
HAND_COLOUR = "0.35 0.36 0.40 1"
FINGER_COLOUR = "0.15 0.15 0.17 1"


def world_xml(arm: Arm, shapes: Sequence[Shape]) -> str:
    """Return the MJCF of the arm at a table with one free body `object<i>` for each shape."""
    return "\n".join(
        [
            f'<mujoco model="tabletop {arm.name}">',
            '<compiler angle="radian" autolimits="true"/>',
            f'<option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10">',
            '<flag sleep="enable"/></option>',  # objects at rest cost nothing: a step takes a third of the time
            '<visual><global offwidth="640" offheight="480"/></visual>',
            "<worldbody>",
            '<light pos="-0.3 0.5 1.6" dir="0.4 -0.3 -0.85" castshadow="false"/>',
            f'<geom name="floor" type="plane" pos="0 0 {FLOOR_Z}" size="3 3 0.1" rgba="0.45 0.47 0.50 1"/>',
            f'<body name="table" pos="{_text(TABLE_CENTRE)}">',
            f'<geom name="table" type="box" size="{_text(TABLE_HALF)}" {TABLE_CONTACT} rgba="0.62 0.50 0.38 1"/>',
            "</body>",
            _camera("front", arm.front_camera),
            _arm(arm),
            *(_object(i, shape) for i, shape in enumerate(shapes)),
            "</worldbody>",
            '<contact><exclude body1="link1" body2="table"/><exclude body1="foot" body2="link1"/></contact>',
            "<equality>",
            f'<joint joint1="finger_right" joint2="finger_left" solref="{_text(arm.gripper.equality_solref)}"/>',
            "</equality>",
            _actuators(arm),
            "</mujoco>",
        ]
    )


def _arm(arm: Arm) -> str:
    """Return the chain of bodies: foot, link1 ... linkJ, hand, fingers. Each link carries the capsules of its DH row."""
    offsets = fixed_offsets(arm)
    capsules = segments(arm)
    mount = arm.mount
    lines = [f'<body name="foot" pos="{_text(mount.position)}" euler="0 0 {mount.yaw!r}">']
    lines += [_capsule(s, mass=1.0) for s in capsules if s.link == 0]
    for joint in range(arm.num_joints):
        own = [s for s in capsules if s.link == joint + 1]
        offset = offsets[joint]
        lines += [
            f'<body name="link{joint + 1}" pos="{_text(offset.position)}" euler="{offset.alpha!r} 0 0" gravcomp="1">',
            _joint(arm, joint),
            *(_capsule(s, mass=arm.link_mass[joint] / len(own)) for s in own),
        ]
    lines += [_hand(arm), "</body>" * (arm.num_joints + 1)]
    return "\n".join(lines)


def _joint(arm: Arm, joint: int) -> str:
    return (
        f'<joint name="joint{joint + 1}" type="hinge" axis="0 0 1" range="{arm.q_min[joint]!r} {arm.q_max[joint]!r}"'
        f' damping="{arm.damping[joint]!r}" armature="{arm.armature!r}"/>'
    )


def _capsule(segment: Segment, mass: float) -> str:
    """Return one capsule of a link; links meet fingers, objects and table, never each other."""
    colour = ARM_COLOURS[segment.link % len(ARM_COLOURS)]
    return (
        f'<geom type="capsule" fromto="{_text((*segment.start, *segment.end))}" size="{segment.radius!r}" mass="{mass!r}"'
        f' contype="0" conaffinity="1" rgba="{colour}"/>'
    )


def _hand(arm: Arm) -> str:
    gripper, flange = arm.gripper, fixed_offsets(arm)[-1]
    half_turn = arm.flange_turn / 2
    match gripper.hand:
        case Box(half, centre_z):
            shape = f'type="box" size="{_text(half)}" pos="0 0 {centre_z!r}"'
        case other:
            shape = f'type="cylinder" size="{other.radius!r} {other.half_length!r}" pos="0 0 {other.centre_z!r}"'
    return "\n".join(
        [
            f'<body name="flange" pos="{_text(flange.position)}" euler="{flange.alpha!r} 0 0" gravcomp="1">',
            f'<body name="hand" quat="{math.cos(half_turn)!r} 0 0 {math.sin(half_turn)!r}" gravcomp="1">',
            f'<geom name="hand" {shape} mass="{gripper.hand_mass!r}" contype="0" conaffinity="1" rgba="{HAND_COLOUR}"/>',
            f'<site name="tcp" pos="0 0 {gripper.tcp_z!r}" size="0.004" group="3"/>',
            _camera("wrist", gripper.wrist_camera),
            _finger("finger_left", gripper, 1.0),
            _finger("finger_right", gripper, -1.0),
            "</body></body>",
        ]
    )


def _finger(name: str, gripper: GripperTable, side: float) -> str:
    x, y, z = gripper.finger_centre
    return (
        f'<body name="{name}" pos="0 0 {gripper.slide_z!r}" gravcomp="1">'
        f'<joint name="{name}" type="slide" axis="0 {side!r} 0" range="{_text(gripper.slide_range)}"'
        f' damping="{gripper.damping!r}" armature="{gripper.armature!r}"/>'
        f'<geom name="{name}" type="box" size="{_text(gripper.finger_half)}" pos="{_text((x, side * y, z))}"'
        f' mass="{gripper.finger_mass!r}" {_contact(gripper.contact)} rgba="{FINGER_COLOUR}"/></body>'
    )


def _contact(contact: Contact) -> str:
    return (
        f'friction="{_text(contact.friction)}" condim="{contact.condim}" priority="{contact.priority}"'
        f' solref="{_text(contact.solref)}" solimp="{_text(contact.solimp)}"'
    )


def _object(index: int, shape: Shape) -> str:
    condim = (
        6 if shape.geometry == "cylinder" else 4
    )  # with rolling friction, or a can that fell over rolls off the table
    return (
        f'<body name="object{index}" pos="0 0 {1.0 + 0.3 * index!r}"><freejoint name="object{index}"/>'
        f'<geom name="object{index}" type="{shape.geometry}" size="{_text(shape.size)}" mass="{shape.mass!r}"'
        f' friction="1 0.01 0.001" condim="{condim}"/></body>'
    )


def _camera(name: str, pose: CameraPose) -> str:
    axes = (*pose.image_right, *pose.image_up)
    return f'<camera name="{name}" pos="{_text(pose.position)}" xyaxes="{_text(axes)}" fovy="{pose.fovy!r}"/>'


def _actuators(arm: Arm) -> str:
    """Return critically damped position servos with the real torque limits, and the gripper's."""
    lines = ["<actuator>"]
    for j in range(arm.num_joints):
        lines.append(
            f'<position name="joint{j + 1}" joint="joint{j + 1}" kp="{arm.kp[j]!r}" kv="{arm.kv[j]!r}"'
            f' forcerange="{-arm.tau_max[j]!r} {arm.tau_max[j]!r}" ctrlrange="{arm.q_min[j]!r} {arm.q_max[j]!r}"/>'
        )
    gripper = arm.gripper
    lines.append(
        f'<position name="gripper" joint="finger_left" kp="{gripper.kp!r}" kv="{gripper.kv!r}"'
        f' forcerange="{-gripper.force!r} {gripper.force!r}" ctrlrange="{_text(gripper.slide_range)}"/>'
    )
    return "\n".join([*lines, "</actuator>"])


def _text(values: Iterable[float]) -> str:
    return " ".join(repr(float(value)) for value in values)
