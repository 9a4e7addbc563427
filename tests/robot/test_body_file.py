"""Expected values: poses worked out by hand, products of matrices written here, MuJoCo on the unread file, points on surfaces."""

import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from math import cos, pi, sin
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from ideomotor.core.errors import UserError
from ideomotor.core.jsonable import to_json
from ideomotor.robot.arm import Arm
from ideomotor.robot.arms.fr3 import FR3
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.body import Body, body_of
from ideomotor.robot.body_file import load_body
from ideomotor.robot.description import DEEPEST, LARGEST_XML, MOST
from ideomotor.robot.enclosing import enclose
from ideomotor.robot.kinematics import forward, joint_frames, link_frames
from ideomotor.robot.limits import Limits, limits_of
from ideomotor.sim.mjcf import world_xml
from ideomotor.sim.objects import SHAPES

ARMS = pytest.mark.parametrize("arm", [PANDA, UR5E, FR3], ids=lambda arm: arm.name)
Write = Callable[..., Path]


def generous(joints: int, **changes: Any) -> Limits:
    """Limits within which every file of these tests lies, or rather the other way round."""
    one = (1.0,) * joints
    return replace(
        Limits((-0.5,) * joints, (0.5,) * joints, one, one, one, one, None, 1.0, 1.0, 1.0, ("made up",)), **changes
    )


def tool_pose(body: Body, q: np.ndarray) -> np.ndarray:
    return joint_frames(body.chain, q)[..., -1, :, :] @ body.chain.last_from_tcp


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(content: str | bytes, name: str = "arm.xml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


# ------------------------------------------------------------------------------------------------------- arms of tables


@ARMS
def test_a_table_written_as_mjcf_is_the_same_arm_again(arm: Arm, write: Write):
    body = load_body(write(world_xml(arm, ())), limits_of(arm))
    q = np.random.default_rng(0).uniform(arm.q_min, arm.q_max, (200, arm.num_joints))
    np.testing.assert_allclose(tool_pose(body, q), forward(arm, q), atol=1e-9)
    np.testing.assert_allclose(joint_frames(body.chain, q), link_frames(arm, q)[:, 1:], atol=1e-9)
    assert body.limits == limits_of(arm)


@ARMS
def test_its_joint_ranges_are_those_of_the_table(arm: Arm, write: Write):
    fields = to_json(limits_of(arm))
    del fields["q_min"], fields["q_max"]
    body = load_body(write(world_xml(arm, ())), write(json.dumps(fields), "limits.json"))
    assert (body.limits.q_min, body.limits.q_max) == (arm.q_min, arm.q_max)


@ARMS
def test_its_links_have_the_capsules_of_the_table(arm: Arm, write: Write):
    arm = replace(arm, hull=())  # what it is simulated with
    body, table = load_body(write(world_xml(arm, ())), limits_of(arm), home=arm.home), body_of(arm)
    assert body.self_pairs == table.self_pairs
    assert [(c.part, c.link) for c in body.capsules] == [(c.part, c.link) for c in table.capsules]
    for ours, theirs in zip(body.capsules, table.capsules, strict=True):
        if ours.part.startswith("link"):  # which end is the first is of no account
            assert ours.radius == pytest.approx(theirs.radius, abs=1e-12)
            ends = np.array([ours.start, ours.end])
            gaps = [np.abs(ends - order).max() for order in ((theirs.start, theirs.end), (theirs.end, theirs.start))]
            assert min(gaps) < 1e-9


def test_objects_that_lie_about_are_no_part_of_the_arm(write: Write):
    alone = load_body(write(world_xml(PANDA, ())), limits_of(PANDA))
    among = load_body(write(world_xml(PANDA, tuple(SHAPES[:3]))), limits_of(PANDA))
    assert among.capsules == alone.capsules
    np.testing.assert_array_equal(among.chain.parent_from_joint, alone.chain.parent_from_joint)


# ------------------------------------------------------------------------------------------------------- poses by hand

URDF = """<?xml version="1.0"?>
<robot name="by_hand">
  <link name="base"><collision><geometry><box size="0.2 0.2 0.1"/></geometry></collision></link>
  <link name="one"><collision name="c"><geometry><sphere radius="0.05"/></geometry></collision></link>
  <link name="two"><collision name="c"><geometry><cylinder radius="0.03" length="0.2"/></geometry></collision></link>
  <link name="three"><collision name="c"><origin xyz="0 0.1 0" rpy="1.5707963267948966 0 0"/><geometry><box size="0.1 0.02 0.3"/></geometry></collision></link>
  <link name="tool"/>
  <joint name="j1" type="revolute"><parent link="base"/><child link="one"/><origin xyz="0 0 0.3"/><axis xyz="1 0 0"/>
    <limit lower="-2" upper="1.5" velocity="2.5" effort="40"/></joint>
  <joint name="j2" type="revolute"><parent link="one"/><child link="two"/><origin xyz="0 0 0.2"/><axis xyz="0 1 0"/>
    <limit lower="-1" upper="1" velocity="2" effort="30"/></joint>
  <joint name="j3" type="revolute"><parent link="two"/><child link="three"/><origin xyz="0.1 0 0"/><axis xyz="0 0 -1"/>
    <limit lower="-3" upper="3" velocity="1.5" effort="20"/></joint>
  <joint name="fixed" type="fixed"><parent link="three"/><child link="tool"/><origin xyz="0 0.05 0"/></joint>
</robot>
"""


@pytest.mark.parametrize(
    ("q", "position"),
    [
        ((0, 0, 0), (0.1, 0.05, 0.5)),
        ((pi / 2, 0, 0), (0.1, -0.2, 0.35)),  # about x at z = 0.3: y goes to z, z to -y
        ((0, pi / 2, 0), (0, 0.05, 0.4)),  # about y at z = 0.5: x goes down
        ((0, 0, pi / 2), (0.15, 0, 0.5)),  # about -z at x = 0.1: y goes to x
        ((pi / 2, pi / 2, pi / 2), (0, -0.05, 0.3)),  # from the inside: (0.15, 0, 0) after j3, (0, 0, -0.15) after j2
        ((0, 0, pi), (0.1, -0.05, 0.5)),
    ],
)
def test_a_small_urdf_stands_where_it_stands_on_paper(q: tuple[float, ...], position: tuple[float, ...], write: Write):
    body = load_body(write(URDF, "arm.urdf"), generous(3))
    pose = tool_pose(body, np.array(q, dtype=float))
    np.testing.assert_allclose(pose[:3, 3], position, atol=1e-12)
    np.testing.assert_allclose(pose[:3, :3], turn_x(q[0]) @ turn_y(q[1]) @ turn_z(-q[2]), atol=1e-12)


def test_each_link_frame_has_its_joints_axis_as_z(write: Write):
    body = load_body(write(URDF, "arm.urdf"), generous(3))
    frames = joint_frames(body.chain, np.zeros(3))
    np.testing.assert_allclose(frames[:, :3, 2], [[1, 0, 0], [0, 1, 0], [0, 0, -1]], atol=1e-12)
    np.testing.assert_allclose(frames[:, :3, 3], [[0, 0, 0.3], [0, 0, 0.5], [0.1, 0, 0.5]], atol=1e-12)


def turn_x(angle: float) -> np.ndarray:
    return np.array([[1, 0, 0], [0, cos(angle), -sin(angle)], [0, sin(angle), cos(angle)]])


def turn_y(angle: float) -> np.ndarray:
    return np.array([[cos(angle), 0, sin(angle)], [0, 1, 0], [-sin(angle), 0, cos(angle)]])


def turn_z(angle: float) -> np.ndarray:
    return np.array([[cos(angle), -sin(angle), 0], [sin(angle), cos(angle), 0], [0, 0, 1]])


def turn_about(axis: np.ndarray, angle: float) -> np.ndarray:
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + sin(angle) * k + (1 - cos(angle)) * k @ k


AXES = [
    (0, 0, 1),
    (0, 0, -1),
    (1, 0, 0),
    (0, -1, 0),
    (1e-7, 0, -1),
    (0, 1e-9, 1),
    (1, 2, -3),
    (-0.5, 0.1, 0.3),
    (1, 1, -1e-12),
]


def test_any_axis_and_any_origin_give_the_product_of_their_matrices(write: Write):
    rng = np.random.default_rng(4)
    origins, angles = rng.uniform(-0.3, 0.3, (len(AXES), 3)), rng.uniform(-3, 3, (len(AXES), 3))
    links = "".join(
        f'<link name="l{i}"><collision><geometry><sphere radius="0.02"/></geometry></collision></link>'
        for i in range(len(AXES) + 1)
    )
    joints = "".join(
        f'<joint name="j{i}" type="continuous"><parent link="l{i}"/><child link="l{i + 1}"/>'
        f'<origin xyz="{text(origins[i])}" rpy="{text(angles[i])}"/><axis xyz="{text(axis)}"/></joint>'
        for i, axis in enumerate(AXES)
    )
    body = load_body(write(f'<robot name="r">{links}{joints}</robot>', "arm.urdf"), generous(len(AXES)))
    for q in rng.uniform(-3, 3, (20, len(AXES))):
        pose = np.eye(4)
        for origin, (roll, pitch, yaw), axis, angle in zip(origins, angles, AXES, q, strict=True):
            step = np.eye(4)
            step[:3, :3] = (
                turn_z(yaw) @ turn_y(pitch) @ turn_x(roll) @ turn_about(np.array(axis) / np.linalg.norm(axis), angle)
            )
            step[:3, 3] = origin
            pose = pose @ step
        np.testing.assert_allclose(tool_pose(body, q), pose, atol=1e-9)


def text(numbers: Any) -> str:
    return " ".join(repr(float(number)) for number in numbers)


UNUSUAL = """<mujoco>
  <compiler angle="degree" eulerseq="zyx"/>
  <option gravity="0 0 0"/>
  <default><geom rgba="1 0 0 1"/><default class="arm"><joint axis="0 1 1" range="-100 120" limited="true"/></default></default>
  <worldbody>
    <light pos="0 0 3"/>
    <geom type="plane" size="5 5 0.1"/>
    <body name="foot" pos="0.1 0.2 0.3" euler="10 20 30">
      <geom type="cylinder" size="0.1 0.05"/>
      <frame pos="0 0 0.1" euler="0 40 0">
        <body name="shoulder" childclass="arm">
          <joint name="pan" axis="0 0 1" pos="0.01 0.02 0.03"/>
          <joint name="lift" axis="1 0 0" ref="25"/>
          <geom type="capsule" fromto="0 0 0 0.1 0.1 0.3" size="0.04"/>
          <body name="elbow" pos="0.1 0.1 0.3" axisangle="1 0 0 50">
            <joint name="bend" pos="0 0 -0.02" ref="-70"/>
            <geom type="ellipsoid" size="0.03 0.05 0.2" pos="0 0 0.1"/>
            <site name="tip" pos="0 0.01 0.3" euler="5 6 7"/>
          </body>
        </body>
      </frame>
    </body>
  </worldbody>
  <actuator><position joint="pan"/></actuator>
</mujoco>
"""


def test_unusual_mjcf_stands_where_mujoco_says(write: Write):
    """Two joints of a body, axes beside its origin, positions that begin elsewhere than at 0, degrees, frames, defaults."""
    path = write(UNUSUAL)
    body = load_body(path, generous(3))
    model: Any = mujoco.MjModel.from_xml_string(UNUSUAL)
    data: Any = mujoco.MjData(model)
    for q in np.random.default_rng(5).uniform(-3, 3, (20, 3)):
        data.qpos[:] = q
        mujoco.mj_kinematics(model, data)
        pose = tool_pose(body, q)
        np.testing.assert_allclose(pose[:3, 3], data.site("tip").xpos, atol=1e-9)
        np.testing.assert_allclose(pose[:3, :3].ravel(), data.site("tip").xmat, atol=1e-9)
    with pytest.raises(UserError, match="q_min of 'pan' is -1.8, beyond -1.74533"):  # 100 degrees
        load_body(path, generous(3, q_min=(-1.8, -0.5, -0.5)))


# --------------------------------------------------------------------------------------------------- capsules enclose


def stl(triangles: np.ndarray) -> bytes:
    faces = [struct.pack("<12fH", 0, 0, 0, *triangle.ravel(), 0) for triangle in triangles.astype(float)]
    return b"\0" * 80 + struct.pack("<I", len(faces)) + b"".join(faces)


def l_shape() -> np.ndarray:
    """Triangles of two long boxes that meet at a corner: a mesh that is not convex."""
    triangles: list[np.ndarray] = []
    for low, high in (((0, 0, 0), (0.3, 0.04, 0.05)), ((0, 0, 0), (0.04, 0.2, 0.05))):
        corners = np.array([[(low, high)[(i >> k) & 1][k] for k in range(3)] for i in range(8)])
        quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
        triangles += [corners[[a, b, c]] for w, x, y, z in quads for a, b, c in ((w, x, y), (w, y, z))]
    return np.stack(triangles)


SIZES = {
    "sphere": [(0.05,)],
    "capsule": [(0.04, 0.1)],
    "box": [(0.02, 0.05, 0.2), (0.1, 0.1, 0.1), (0.2, 0.19, 0.01), (0.3, 0.001, 0.002)],
    "cylinder": [(0.05, 0.2), (0.2, 0.01), (0.1, 0.1)],
    "ellipsoid": [(0.03, 0.05, 0.2), (0.2, 0.05, 0.03), (0.05, 0.2, 0.19), (0.1, 0.1, 0.1), (0.1, 0.001, 0.1)],
    "mesh": [()],
}


def surface(kind: str, size: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """Points on the surface of a shape, in its own frame."""
    directions = rng.normal(size=(4000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    match kind:
        case "sphere":
            return size[0] * directions
        case "capsule":
            return size[0] * directions + np.outer(rng.uniform(-1, 1, 4000).round(), (0, 0, size[1]))
        case "ellipsoid":
            return directions * size
        case "box":
            points = rng.uniform(-1, 1, (4000, 3))
            points[np.arange(4000), rng.integers(0, 3, 4000)] = rng.choice([-1, 1], 4000)
            corners = np.array([[(-1) ** (i >> k & 1) for k in range(3)] for i in range(8)])
            return np.concatenate([points, corners]) * size
        case "cylinder":
            angle, height = (
                rng.uniform(0, 2 * pi, 4000),
                rng.choice([-1, 1], 4000) * rng.choice([1, rng.random()], 4000),
            )
            reach = np.where(np.abs(height) == 1, np.sqrt(rng.choice([1, rng.random()], 4000)), 1)
            return np.stack(
                [size[0] * reach * np.cos(angle), size[0] * reach * np.sin(angle), size[1] * height], axis=-1
            )
        case _:
            triangles = l_shape()
            weights = rng.dirichlet((0.3, 0.3, 0.3), (4000,))
            return np.einsum("nk,nkx->nx", weights, triangles[rng.integers(0, len(triangles), 4000)])


def outside(points: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float) -> float:
    """How far the furthest point is from a capsule's surface; negative: all lie within."""
    line = end - start
    along = np.clip((points - start) @ line / max(float(line @ line), 1e-300), 0, 1)
    return float(np.linalg.norm(points - start - along[:, None] * line, axis=1).max() - radius)


SHAPES_TO_ENCLOSE = [(kind, size) for kind, sizes in SIZES.items() for size in sizes]


@pytest.mark.parametrize(("kind", "size"), SHAPES_TO_ENCLOSE, ids=lambda value: str(value))
def test_all_points_of_a_surface_lie_in_its_capsule(kind: str, size: tuple[float, ...], write: Write):
    """At random poses of the shape and of the arm; MuJoCo says where the unread file's shape then is."""
    rng = np.random.default_rng(6)
    shape = 'type="mesh" mesh="l"' if kind == "mesh" else f'type="{kind}" size="{text(size)}"'
    quaternion, position = rng.normal(size=4), rng.normal(size=3) / 5
    mesh = '<asset><mesh name="l" file="l.stl"/></asset>' if kind == "mesh" else ""
    xml = (
        f'<mujoco><compiler angle="radian"/>{mesh}<worldbody><body pos="0.1 0 0.2"><joint name="a" axis="1 2 3" pos="0 0.1 0"/>'
        f'<body pos="0.2 0.1 0" euler="1 2 3"><joint name="b" axis="0 -1 2"/><geom name="it" {shape} pos="{text(position)}" '
        f'quat="{text(quaternion)}"/></body><geom size="0.01"/></body></worldbody></mujoco>'
    )
    content = stl(l_shape())
    write(content, "l.stl")
    body = load_body(write(xml), generous(2))
    capsule = next(c for c in body.capsules if c.link == 2)
    reader: Any = mujoco.MjModel
    model: Any = reader.from_xml_string(xml, {"l.stl": content})
    data: Any = mujoco.MjData(model)
    points = surface(kind, size, rng)
    if kind == "mesh":  # MuJoCo moves a mesh to its centre, and says by how much
        mesh_pose = turn_of_quaternion(model.mesh_quat[0])
        points = (points - model.mesh_pos[0]) @ mesh_pose
    for q in rng.uniform(-3, 3, (5, 2)):
        data.qpos[:] = q
        mujoco.mj_kinematics(model, data)
        world = points @ data.geom("it").xmat.reshape(3, 3).T + data.geom("it").xpos
        frame = joint_frames(body.chain, q)[1]
        start, end = (frame[:3, :3] @ np.array(p) + frame[:3, 3] for p in (capsule.start, capsule.end))
        allowed = 1e-7 if kind == "mesh" else 1e-12  # a mesh is stored in single precision
        assert outside(world, start, end, capsule.radius) <= allowed
        assert outside(world, start, end, capsule.radius - 0.002) > 0  # and it is not a size too large


def turn_of_quaternion(q: np.ndarray) -> np.ndarray:
    return turn_about(
        q[1:] / max(float(np.linalg.norm(q[1:])), 1e-300), 2 * float(np.arctan2(np.linalg.norm(q[1:]), q[0]))
    )


@pytest.mark.parametrize(
    ("half", "ends", "radius"),
    [
        ((0.02, 0.03, 0.2), [(0, 0, 0.2), (0, 0, -0.2)], np.hypot(0.02, 0.03)),  # long: along the long edge
        ((0.1, 0.1, 0.1), [(0, 0, 0), (0, 0, 0)], 0.1 * np.sqrt(3)),  # a cube: the ball through its corners
    ],
)
def test_a_box_has_the_capsule_that_geometry_gives_it(
    half: tuple[float, ...], ends: list[tuple[float, ...]], radius: float
):
    corners = np.array([[(-1) ** (i >> k & 1) * half[k] for k in range(3)] for i in range(8)])
    found = enclose(corners)
    assert found.radius == pytest.approx(radius, abs=1e-8)
    np.testing.assert_allclose(sorted(map(tuple, found.ends)), sorted(ends), atol=1e-9)


def test_clouds_of_points_lie_in_their_capsules():
    rng = np.random.default_rng(7)
    for count in (1, 2, 3, 4, 10, 500):
        for stretch in ((1, 1, 1), (5, 1, 1), (1, 0, 0), (3, 3, 0.01), (0, 0, 0)):
            points = rng.normal(size=(count, 3)) * stretch @ turn_about(np.array([0.6, 0, 0.8]), 1.1) + rng.normal(
                size=3
            )
            found = enclose(points, 0.1)
            assert outside(points, found.ends[0], found.ends[1], found.radius - 0.1) <= 1e-12
            spread = np.linalg.norm(points - points.mean(axis=0), axis=1).max()
            assert found.volume <= 4 / 3 * pi * (spread + 0.1) ** 3 * 1.1  # no larger than the plain ball, nearly


GRIPPER = """<mujoco><compiler angle="radian"/><worldbody><body name="arm"><joint name="a" axis="0 0 1"/><geom size="0.05"/>
  <body name="palm" pos="0 0 0.2"><geom type="box" size="0.05 0.02 0.02"/><site name="grip" pos="0 0 0.1"/>
    <body name="left" pos="0 0 0.03"><joint name="left" type="slide" axis="0 1 0" range="-0.01 0.05" ref="0.02"/>
      <geom name="left" type="capsule" fromto="0 0 0 0.01 0.02 0.06" size="0.01"/></body>
    <body name="right" pos="0 0 0.03"><joint name="right" axis="1 0 0.1" pos="0 -0.02 0" range="-0.8 0.9"/>
      <geom name="right" type="capsule" fromto="0 0 0 0.01 0.02 0.06" size="0.01"/>
      <body name="nail" pos="0 0 0.06"><joint name="nail" axis="1 0 0" range="-0.5 0.5"/>
        <joint name="slide" type="slide" axis="1 0 0" range="0 0.01"/>
        <geom name="nail" type="capsule" fromto="0 0 0 0 0.03 0" size="0.008"/></body></body>
    <body name="wheel" pos="0 0.1 0"><joint name="wheel" axis="1 1 0"/><geom name="wheel" size="0.01" pos="0.02 0 0"/></body>
  </body></body></worldbody></mujoco>"""


def test_fingers_stay_in_their_capsules_wherever_they_stand(write: Write):
    body = load_body(write(GRIPPER), generous(1), tool="grip")
    assert [c.part for c in body.capsules] == ["link1", "hand", "finger", "finger", "finger", "finger"]
    fingers = dict(zip(("left", "right", "nail", "wheel"), body.capsules[2:], strict=True))
    model: Any = mujoco.MjModel.from_xml_string(GRIPPER)
    data: Any = mujoco.MjData(model)
    rng = np.random.default_rng(8)
    low, high = model.jnt_range.T
    low[~model.jnt_limited], high[~model.jnt_limited] = -4, 4
    reached = dict.fromkeys(fingers, -1.0)
    for _ in range(500):
        data.qpos[:] = np.where(rng.random(6) < 0.3, rng.choice([low, high]), rng.uniform(low, high))
        mujoco.mj_kinematics(model, data)
        frame = joint_frames(body.chain, data.qpos[:1].copy())[0]
        for name, capsule in fingers.items():
            geom = data.geom(name)
            half = model.geom(name).size[1] if name != "wheel" else 0.0
            ends = geom.xpos + np.outer((-half, half), geom.xmat.reshape(3, 3)[:, 2])
            start, end = (frame[:3, :3] @ np.array(p) + frame[:3, 3] for p in (capsule.start, capsule.end))
            reached[name] = max(reached[name], outside(ends, start, end, capsule.radius - model.geom(name).size[0]))
    assert max(reached.values()) <= 1e-9
    assert min(reached.values()) > -0.012, reached  # they do reach about that far


@pytest.mark.parametrize(
    ("joint", "words"),
    [
        ('type="slide"', "'f' behind the hand is a slide joint without a range"),
        ('type="ball"', "'f' behind the hand is a ball joint"),
    ],
)
def test_a_finger_that_may_be_anywhere_is_refused(joint: str, words: str, write: Write):
    xml = GRIPPER.replace('type="slide" axis="0 1 0" range="-0.01 0.05" ref="0.02"', joint).replace(
        'name="left" type', 'name="f" type'
    )
    with pytest.raises(UserError, match=words):
        load_body(write(xml), generous(1), tool="grip")


# ---------------------------------------------------------------------------------------------------------------- tool


def test_the_tool_is_the_only_site_or_the_only_end(write: Write):
    q = np.array([0.3, -0.2, 0.4])
    arm = write(URDF, "arm.urdf")
    by_default, by_name = (tool_pose(load_body(arm, generous(3), tool=tool), q) for tool in (None, "tool"))
    np.testing.assert_array_equal(by_default, by_name)
    other = tool_pose(load_body(arm, generous(3), tool="three"), q)
    np.testing.assert_allclose(other[:3, 3] + other[:3, 1] * 0.05, by_name[:3, 3], atol=1e-12)  # 5 cm on, along y
    hand = load_body(write(GRIPPER), generous(1), tool="grip")
    np.testing.assert_allclose(tool_pose(hand, np.zeros(1))[:3, 3], (0, 0, 0.3), atol=1e-12)
    palm = load_body(write(GRIPPER), generous(1), tool="palm")
    np.testing.assert_allclose(tool_pose(palm, np.zeros(1))[:3, 3], (0, 0, 0.2), atol=1e-12)
    assert palm.capsules == hand.capsules


def test_several_ends_are_asked_about_by_name(write: Write):
    second = (
        '<link name="camera"/><joint name="k" type="fixed"><parent link="three"/><child link="camera"/></joint></robot>'
    )
    with pytest.raises(UserError, match="the last link has several ends: 'tool', 'camera'.*--tool"):
        load_body(write(URDF.replace("</robot>", second), "arm.urdf"), generous(3))
    sites = UNUSUAL.replace("<site ", '<site name="other"/><site ')
    with pytest.raises(UserError, match="several ends: 'other', 'tip'"):
        load_body(write(sites), generous(3))
    with pytest.raises(
        UserError, match="branches: 'slide', 'wheel' lie on different branches.*before a gripper's hinges"
    ):
        load_body(write(GRIPPER), generous(1))


def test_a_tool_that_is_not_there_is_answered_with_the_known_ones(write: Write):
    with pytest.raises(UserError, match="unknown tool 'tol'; known: .*three, tool.*Did you mean 'tool'"):
        load_body(write(URDF, "arm.urdf"), generous(3), tool="tol")
    with pytest.raises(UserError, match="no hinge lies between the world and 'base'"):
        load_body(write(URDF, "arm.urdf"), generous(3), tool="base")


# ------------------------------------------------------------------------------------------------------------ refusals

HINGED = '<body name="{name}"><joint name="{name}" axis="0 0 1"/><geom size="0.1"/>{inside}</body>'


def mjcf(*bodies: str) -> str:
    return f"<mujoco><worldbody>{''.join(bodies)}</worldbody></mujoco>"


def hinged(name: str, inside: str = "") -> str:
    return HINGED.format(name=name, inside=inside)


@pytest.mark.parametrize(
    ("xml", "tool", "words"),
    [
        (mjcf(hinged("a", hinged("b") + hinged("c"))), None, "branches: 'b', 'c' lie on different branches.*--tool"),
        (mjcf(hinged("left"), hinged("right")), None, "branches: 'left', 'right'"),
        (mjcf(hinged("left"), hinged("right")), "left", "branches: 'right' do not lead to 'left'"),
        (mjcf(hinged("a", hinged("b") + hinged("c", hinged("d")))), "b", "branches: 'c', 'd' do not lead to 'b'"),
        (
            mjcf(f'<body name="torso"><freejoint name="root"/><geom size="0.1"/>{hinged("a", hinged("b"))}</body>'),
            None,
            "'root' before 'b' is a free joint; its base moves freely",
        ),
        (
            mjcf(f'<body name="cart"><joint name="rail" type="slide"/><geom size="0.1"/>{hinged("a")}</body>'),
            None,
            "'rail' before 'a' is a slide joint",
        ),
        (
            mjcf(f'<body name="x"><joint name="b" type="ball"/><geom size="0.1"/>{hinged("a")}</body>'),
            None,
            "'b' before 'a' is a ball joint",
        ),
        (
            mjcf(hinged("a", '<body name="f"><joint name="f" type="slide" range="0 1"/><geom size="0.1"/></body>')),
            "f",
            "'f' before 'f' is a slide joint",
        ),
        (mjcf('<body><geom size="0.1"/></body>'), None, "has no hinge joint"),
        (mjcf('<body name="a"><joint/></body>'), None, "no link of the arm has no shape that collides"),
        (
            mjcf('<body name="a"><joint/><geom size="0.1" contype="0" conaffinity="0"/></body>'),
            None,
            "a of the arm can be seen but has no shape that collides",
        ),
        (
            mjcf('<body name="a"><joint/><geom size="0.1"/><body name="k"><geom size="0.1" contype="0" conaffinity="0"/></body></body>'),
            None,
            "k of the arm can be seen",
        ),
        (mjcf('<body name="foot"><geom type="plane" size="1 1 1"/>', hinged("a"), "</body>"), None, "foot has a shape without an end"),
        (mjcf('<body name="a" pos="0 0 500"><joint/><geom size="0.1"/></body>'), None, "more than 100 m away"),
        (mjcf('<body name="a"><joint/><geom size="500"/></body>'), None, "a shape of more than 100 m"),
    ],
)  # fmt: skip
def test_what_is_no_serial_arm_is_refused_with_names(xml: str, tool: str | None, words: str, write: Write):
    with pytest.raises(UserError, match=words):
        load_body(write(xml), generous(2), tool=tool)


def test_a_link_that_is_only_seen_is_refused(write: Write):
    seen = URDF.replace(
        '<link name="tool"/>', '<link name="tool"><visual><geometry><sphere radius="0.1"/></geometry></visual></link>'
    )
    with pytest.raises(UserError, match="tool of the arm can be seen but has no shape that collides"):
        load_body(write(seen, "arm.urdf"), generous(3))


# -------------------------------------------------------------------------------------------------------------- limits

WRITTEN = {
    "acceleration": [5, 5, 5], "jerk": [50, 50, 50], "torque_rate": None, "tool_speed": 1, "tool_acceleration": 4, "payload": 1,
    "sources": ["a guess"],
}  # fmt: skip


def test_a_urdf_gives_ranges_speeds_and_torques_and_the_user_the_rest(write: Write):
    body = load_body(write(URDF, "arm.urdf"), write(json.dumps(WRITTEN), "limits.json"))
    limits = body.limits
    assert (limits.q_min, limits.q_max) == ((-2, -1, -3), (1.5, 1, 3))
    assert (limits.speed, limits.torque) == ((2.5, 2, 1.5), (40, 30, 20))
    assert (limits.acceleration, limits.torque_rate, limits.sources) == ((5, 5, 5), None, ("a guess",))
    assert body.name == "arm"


def test_without_limits_no_arm_and_the_error_says_which_are_missing(write: Write):
    with pytest.raises(UserError) as caught:
        load_body(write(URDF, "arm.urdf"))
    said = str(caught.value)
    assert "nothing about acceleration, jerk, torque_rate, tool_speed, tool_acceleration, payload, sources" in said
    assert "it says q_min, q_max, speed, torque" in said
    assert "--limits FILE" in said


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ('velocity="2"', "", "speed"),
        ('velocity="2"', 'velocity="0"', "speed"),  # a 0 stands for "not known"
        ('effort="30"', 'effort="lots"', "torque"),
        ('type="revolute"><parent link="one"', 'type="continuous"><parent link="one"', "q_max"),
    ],
)
def test_what_a_urdf_does_not_say_of_every_joint_has_to_be_written(old: str, new: str, missing: str, write: Write):
    assert old in URDF
    with pytest.raises(UserError, match=rf"limits\.json lacks .*'{missing}'"):
        load_body(write(URDF.replace(old, new), "arm.urdf"), write(json.dumps(WRITTEN), "limits.json"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q_max": [1.5, 1.1, 3]}, "q_max of 'j2' is 1.1, beyond 1 of .*arm.urdf"),
        ({"q_min": [-2, -1, -3.1]}, "q_min of 'j3' is -3.1, beyond -3"),
        ({"speed": [2, 2.5, 1.5]}, "speed of 'j2' is 2.5, beyond 2 "),
        ({"torque": [40, 30, 21]}, "torque of 'j3' is 21, beyond 20 "),
    ],
)
def test_a_user_may_lower_the_limits_of_a_file_and_not_raise_them(changes: dict[str, Any], words: str, write: Write):
    arm = write(URDF, "arm.urdf")
    with pytest.raises(UserError, match=words):
        load_body(arm, write(json.dumps({**WRITTEN, **changes}), "limits.json"))
    lower = {"q_min": [-1, -1, -1], "q_max": [1, 0.5, 1], "speed": [1, 1, 1], "torque": [1, 1, 1]}
    assert load_body(arm, write(json.dumps({**WRITTEN, **lower}), "limits.json")).limits.speed == (1, 1, 1)


def test_limits_of_another_arm_are_refused(write: Write):
    with pytest.raises(UserError, match=r"has 3 joints \('j1', 'j2', 'j3'\); the limits are of 7"):
        load_body(write(URDF, "arm.urdf"), limits_of(PANDA))


@pytest.mark.parametrize("home", [(0.0,), (0.0, 0.0, 9.0), (0.0, float("nan"), 0.0)])
def test_a_home_outside_the_limits_is_refused(home: tuple[float, ...], write: Write):
    with pytest.raises(UserError, match="home is .*3 positions within the limits"):
        load_body(write(URDF, "arm.urdf"), generous(3), home=home)


# ------------------------------------------------------------------------------------------------- includes and meshes


def test_included_files_below_the_folder_are_read(write: Write):
    write(
        '<mujocoinclude><body name="a"><joint/><geom size="0.1"/><include file="parts/deep.xml"/></body></mujocoinclude>',
        "parts/arm.xml",
    )
    write('<mujoco><body name="b" pos="0 0 1"><joint/><geom size="0.1"/></body></mujoco>', "parts/deep.xml")
    body = load_body(write(mjcf('<include file="parts/arm.xml"/>')), generous(2))
    np.testing.assert_allclose(tool_pose(body, np.zeros(2))[:3, 3], (0, 0, 1))


@pytest.mark.parametrize("name", ["../outside.xml", "{folder}/../outside.xml", "sub/../../outside.xml", "link.xml"])
def test_an_include_that_leads_out_of_the_folder_is_refused(name: str, write: Write, tmp_path: Path):
    write("<mujocoinclude/>", "outside.xml")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.xml").symlink_to(tmp_path / "outside.xml")
    arm = write(mjcf(f'<include file="{name.format(folder=tmp_path / "in")}"/>', hinged("a")), "in/arm.xml")
    with pytest.raises(UserError, match="includes '.*', outside of its folder"):
        load_body(arm, generous(1))


def test_includes_that_are_missing_or_go_in_circles_are_refused(write: Write):
    with pytest.raises(UserError, match=r"not\.xml is not there"):
        load_body(write(mjcf('<include file="not.xml"/>')), generous(1))
    with pytest.raises(UserError, match="includes 'arm.xml' twice"):
        load_body(write(mjcf('<include file="arm.xml"/>')), generous(1))
    write('<mujocoinclude><include file="b.xml"/></mujocoinclude>', "a.xml")
    write('<mujocoinclude><include file="a.xml"/></mujocoinclude>', "b.xml")
    with pytest.raises(UserError, match="twice"):
        load_body(write(mjcf('<include file="a.xml"/>')), generous(1))
    with pytest.raises(UserError, match="is not there"):
        load_body(write(mjcf("<include/>")), generous(1))


def test_includes_that_pile_up_are_refused(write: Write):
    deep = DEEPEST - 10
    for i in range(20):
        write(
            f'<mujocoinclude>{"<body>" * deep}<include file="{i + 1}.xml"/>{"</body>" * deep}</mujocoinclude>',
            f"{i}.xml",
        )
    with pytest.raises(UserError, match="inside each other"):
        load_body(write(mjcf('<include file="0.xml"/>')), generous(1))
    for i in range(4):
        write(f"<mujocoinclude>{'<site/>' * (MOST // 3)}</mujocoinclude>", f"wide{i}.xml")
    with pytest.raises(UserError, match=f"more than {MOST:,} elements"):
        load_body(write(mjcf(*(f'<include file="wide{i}.xml"/>' for i in range(4)))), generous(1))


MESHED = (
    '<mujoco><compiler meshdir="{folder}"/><asset><mesh file="{file}"/></asset><worldbody><body><joint/>'
    '<geom type="mesh" mesh="part"/></body></worldbody></mujoco>'
)


def test_meshes_are_found_where_the_file_says(write: Write, tmp_path: Path):
    write(stl(l_shape()), "ros/parts/meshes/part.STL")
    write(stl(l_shape()), "ros/parts/urdf/near.stl")
    arm = load_body(write(MESHED.format(folder="../meshes", file="part.STL"), "ros/parts/urdf/arm.xml"), generous(1))
    assert arm.capsules[0].radius > 0.05
    for name in (
        "package://parts/meshes/part.STL", "../meshes/part.STL", "near.stl", "package://elsewhere/meshes/near.stl",
        f"file://{tmp_path}/ros/parts/meshes/part.STL",
    ):  # fmt: skip
        urdf = URDF.replace('<sphere radius="0.05"/>', f'<mesh filename="{name}"/>')
        body = load_body(write(urdf, "ros/parts/urdf/arm.urdf"), generous(3))
        assert body.capsules[1].radius == pytest.approx(arm.capsules[0].radius, abs=1e-9)


def test_one_mesh_in_two_sizes_is_two_meshes(write: Write):
    write(stl(l_shape()), "part.stl")
    urdf = URDF.replace('<sphere radius="0.05"/>', '<mesh filename="part.stl"/>')
    urdf = urdf.replace('<cylinder radius="0.03" length="0.2"/>', '<mesh filename="part.stl" scale="2 2 2"/>')
    body = load_body(write(urdf, "arm.urdf"), generous(3))
    assert body.capsules[2].radius == pytest.approx(2 * body.capsules[1].radius, rel=1e-6)


@pytest.mark.parametrize("name", ["not.stl", "package://not/here.stl", "/not/here.stl", "pipe.stl", "..", ""])
def test_a_mesh_that_is_absent_is_named(name: str, write: Write, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.stl")  # to read from it would wait for ever
    with pytest.raises(UserError, match=f"names the mesh '{re.escape(name)}', which is not there"):
        load_body(write(MESHED.format(folder="", file=name)), generous(1))


@pytest.mark.parametrize(
    "content",
    [b"", b"solid part\n", b"\0" * 80 + b"\xff\xff\xff\x7f", b"\0" * 80 + b"\2\0\0\0" + b"\0" * 40, b"junk" * 100],
)
@pytest.mark.parametrize("kind", ["stl", "obj", "msh"])
def test_a_mesh_of_rubbish_is_refused(content: bytes, kind: str, write: Write):
    write(content, f"part.{kind}")
    with pytest.raises(UserError, match="is no model that MuJoCo can read"):
        load_body(write(MESHED.format(folder="", file=f"part.{kind}")), generous(1))


def test_meshes_beyond_number_are_refused(write: Write):
    write(stl(l_shape()), "part.stl")
    many = '<mesh file="part.stl"/>' * 500
    with pytest.raises(UserError, match="names 501 meshes"):
        load_body(write(MESHED.format(folder="", file="part.stl").replace("<asset>", f"<asset>{many}")), generous(1))


# ------------------------------------------------------------------------------------------------------- hostile files

BOMB = """<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><robot name="&c;"/>"""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (BOMB, "declares a document type"),
        (BOMB.replace("?>", ' encoding="utf-16"?>', 1).encode("utf-16"), "declares a document type"),
        ('<!DOCTYPE r SYSTEM "file:///etc/passwd"><robot/>', "declares a document type"),
        ('<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><mujoco>&x;</mujoco>', "declares a document type"),
        ("<robot>&undeclared;</robot>", "is not XML"),
        ("", "is not XML"),
        (b"\x00\x01\x02", "is not XML"),
        (b"\xff\xfe", "is not XML"),
        ("not xml at all", "is not XML"),
        ("<robot>", "is not XML"),
        ("<robot/><robot/>", "is not XML"),
        ('<?xml version="1.0" encoding="klingon"?><robot/>', "is not XML"),
        ("<html><body/></html>", "begins with <html>"),
        ("<sdf/>", "begins with <sdf>"),
        ("<mujoco>" + "<body>" * DEEPEST + "</body>" * DEEPEST + "</mujoco>", "inside each other"),
        ("<mujoco>" + "<a>" * 100_000, "inside each other"),
        ("<mujoco>" + "<a/>" * (MOST + 1) + "</mujoco>", f"more than {MOST:,} elements"),
        (b"<mujoco>" + b" " * LARGEST_XML + b"</mujoco>", "bytes; such a file has at most"),
        ("<mujoco/>", "has no hinge joint"),
        ("<robot/>", "is no model that MuJoCo can read|has no hinge joint"),
        ('<robot name="r"/>', "is no model that MuJoCo can read|has no hinge joint"),
        (mjcf('<body><joint/><geom size="nan"/></body>'), "is no number that an arm has"),
        (mjcf('<body pos="0 -inf 0"><joint/><geom size="0.1"/></body>'), "is no number that an arm has"),
        (mjcf('<body><joint/><geom size="1e999"/></body>'), "is no number that an arm has"),
        (mjcf('<body pos="1e300 0 0"><joint/><geom size="0.1"/></body>'), "is no number that an arm has"),
        (mjcf('<body pos="0 0 1e-"><joint/><geom size="0.1"/></body>'), "is no model that MuJoCo can read"),
        (mjcf('<body><joint axis="0 0 0"/><geom size="0.1"/></body>'), "is no model that MuJoCo can read"),
        (mjcf('<body><joint/><geom size="-1"/></body>'), "is no model that MuJoCo can read"),
        (mjcf('<body><joint/><geom type="mesh" mesh="gone"/></body>'), "is no model that MuJoCo can read"),
        (mjcf('<body><joint type="warp"/><geom size="0.1"/></body>'), "is no model that MuJoCo can read"),
        (mjcf('<replicate count="1000000000"><body><joint/><geom size="1"/></body></replicate>'), "holds <replicate>"),
        (mjcf('<body><composite count="1000 1000 1"/></body>'), "holds <composite>"),
        (mjcf('<body><flexcomp name="f" type="grid" count="1000 1000 1000"/></body>'), "holds <flexcomp>"),
        ('<mujoco><asset><model file="../../x.xml"/></asset></mujoco>', "holds <model>"),
        ('<mujoco><asset><hfield name="h" nrow="100000" ncol="100000"/></asset></mujoco>', "holds <hfield>"),
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused_in_words(content: str | bytes, words: str, write: Write):
    with pytest.raises(UserError, match=words) as caught:
        load_body(write(content), generous(5))
    assert len(str(caught.value)) < 2000


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.xml")
    for path in (tmp_path / "nothing.xml", tmp_path, tmp_path / "pipe.xml", tmp_path / "nothing" / "arm.urdf"):
        with pytest.raises(UserError, match="is not there, or no file; give the MJCF"):
            load_body(path, generous(1))


def test_what_costs_memory_and_has_no_part_in_shape_never_reaches_mujoco(write: Write):
    heavy = (
        '<size memory="900G" nuserdata="1000000"/><visual><global offwidth="100000"/></visual><asset><texture name="t" type="2d" '
        'builtin="checker" width="60000" height="60000"/><material name="m" texture="t"/></asset><extension><plugin plugin="none.such"/>'
        '</extension><worldbody><body name="a"><joint/><geom size="0.1" material="m"/></body></worldbody>'
    )
    body = load_body(write(f"<mujoco>{heavy}</mujoco>"), generous(1))
    assert body.capsules[0].radius == 0.1


def test_damaged_files_end_in_an_arm_or_in_words_and_leave_nothing_behind(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Bytes changed, cut out, doubled. MuJoCo would write its warnings into a file where one stands."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    rng = np.random.default_rng(9)
    refused = 0
    for number, (whole, name, joints) in enumerate(
        [(URDF, "arm.urdf", 3), (UNUSUAL, "arm.xml", 3), (GRIPPER, "arm.xml", 1)] * 60
    ):
        damaged = bytearray(whole.encode())
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(0, len(damaged)))
            match number % 4:
                case 0:
                    damaged[at] = int(rng.integers(0, 256))
                case 1:
                    del damaged[at : at + int(rng.integers(1, 30))]
                case 2:
                    damaged[at:at] = damaged[at : at + int(rng.integers(1, 200))]
                case _:
                    digits = [i for i, byte in enumerate(damaged) if 48 <= byte <= 57]
                    at = int(rng.choice(digits))
                    damaged[at : at + 1] = [b"-", b"1e9", b"nan", b"1e-300", b"9" * 400, b"."][int(rng.integers(0, 6))]
        try:
            body = load_body(write(bytes(damaged), name), generous(joints))
        except UserError:
            refused += 1
        else:
            assert np.isfinite(body.chain.parent_from_joint).all()
            assert np.isfinite([(*c.start, *c.end, c.radius) for c in body.capsules]).all()
    assert 60 < refused < 175
    assert not list((tmp_path / "here").iterdir())
