"""An arm from a file: chain, capsules and joint ranges out of MJCF or URDF, the limits that no such file holds from the user.

A second layer, no safety-rated system: what a file leaves out, no shield can know.

Poses are in the file's world frame, which thus is the base frame of the arm; for a URDF it is the frame of the first link. The
chain runs from there to the tool through hinges. What moves behind its last link (fingers) is no joint of the arm; capsules enclose
such parts wherever they may stand, one part at a time.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float

from ideomotor.core.errors import UserError, unknown
from ideomotor.robot.body import Body, Capsule, parts_apart
from ideomotor.robot.description import Description, read_description
from ideomotor.robot.enclosing import Enclosing, enclose, enclose_cylinder, enclose_ellipsoid
from ideomotor.robot.kinematics import Chain
from ideomotor.robot.limits import FIELDS, Limits, check_within, load_limits

FREE, BALL, SLIDE, HINGE = range(4)  # MuJoCo's kinds of joints
KINDS = ("free", "ball", "slide", "hinge")
SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX, MESH = range(2, 8)  # MuJoCo's kinds of shapes that have an end
ARC_STEPS = 16  # of a finger's hinge; the arc between two steps is added to the radius
FURTHEST = 100.0  # [m] from the base: what lies beyond is a mistake in units
WORLD = 0
NAMED = 8  # joints at most in a message


def load_body(
    path: Path, limits: Limits | Path | None = None, tool: str | None = None, home: Sequence[float] | None = None
) -> Body:
    """Return the arm of an MJCF or URDF file.

    `limits`: accelerations, jerks and what else the file does not say; a path is read by `load_limits`, and may leave out what the
    file says. `tool`: the site or body whose frame is the tool's; default: the only site on the last link, else its only end.
    `home` [rad]: a pose in which no parts meet that can be kept apart (`parts_apart`); default: the middle of the limits.

    Raises:
        UserError: the file cannot be used, or limits are missing. Nothing is assumed in silence.
    """
    description = read_description(path)
    tree = _Tree(description, _compiled(description))
    tip = tree.body_of(tool) if tool is not None else tree.last_hinge_body()
    joints = tree.joints_to(tip)
    arm = _Links(tree, joints)
    frames = [tree.frame(joint) for joint in joints]
    world_from_tool = tree.pose_of(tool if tool is not None else arm.only_tool())
    steps = [frames[0], *(np.linalg.inv(a) @ b for a, b in itertools.pairwise(frames))]
    chain = Chain(np.eye(4), np.stack(steps), np.linalg.inv(frames[-1]) @ world_from_tool)
    capsules = arm.capsules(frames)
    numbers = (*chain.parent_from_joint.flat, *chain.last_from_tcp.flat)
    if not all(abs(number) < FURTHEST for number in numbers):
        raise UserError(f"{path} has a joint or tool more than {FURTHEST:g} m away; lengths are in metres")
    rated = _limits(description, tree, joints, limits)
    middle = (np.array(rated.q_min) + np.array(rated.q_max)) / 2
    return Body(
        path.stem,
        chain,
        capsules,
        rated,
        parts_apart(chain, capsules, middle if home is None else _pose_of(home, rated)),
    )


def _pose_of(home: Sequence[float], limits: Limits) -> Float[np.ndarray, " J"]:
    q = np.array(home, dtype=float)
    if q.shape != (limits.num_joints,) or not ((q >= limits.q_min) & (q <= limits.q_max)).all():
        raise UserError(f"home is {list(home)}; it should be {limits.num_joints} positions within the limits [rad]")
    return q


def _compiled(description: Description) -> Any:
    model_class: Any = mujoco.MjModel
    try:
        return model_class.from_xml_string(description.text, description.meshes)
    except (ValueError, mujoco.FatalError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{description.path} is no model that MuJoCo can read: {said}. Correct it there") from error


# --------------------------------------------------------------------------------------------------------------- tree


class _Tree:
    """The bodies of a model with all joints of the arm at 0, and who carries whom."""

    def __init__(self, description: Description, model: Any) -> None:
        self.description, self.path, self.model = description, description.path, model
        self.data: Any = mujoco.MjData(model)
        self.parent = [int(p) for p in model.body_parentid]
        self.joints = [  # of each body, in their order
            list(range(int(first), int(first) + int(count))) if count else []
            for first, count in zip(model.body_jntadr, model.body_jntnum, strict=True)
        ]

    def name(self, body: int) -> str:
        """Return a body's name, or its number."""
        return self.model.body(body).name or f"body {body}"

    def joint_name(self, joint: int) -> str:
        """Return a joint's name, or where it is."""
        return self.model.joint(joint).name or f"a joint of {self.name(int(self.model.jnt_bodyid[joint]))}"

    def joint_names(self, joints: list[int]) -> str:
        """Return the names of joints, for a message."""
        named = ", ".join(f"'{self.joint_name(joint)}'" for joint in joints[:NAMED])
        return f"{named} and {len(joints) - NAMED} more" if len(joints) > NAMED else named

    def up(self, body: int) -> list[int]:
        """Return the bodies from `body` up to the world, which is left out."""
        line: list[int] = []
        while body != WORLD:
            line.append(body)
            body = self.parent[body]
        return line

    def _site(self, name: str) -> int:
        return int(mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_SITE, name))

    def body_of(self, tool: str) -> int:
        """Return the body that carries a site, or that has this name itself."""
        if (site := self._site(tool)) >= 0:
            return int(self.model.site_bodyid[site])
        body = int(mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_BODY, tool))
        if body < 0:
            bodies = [self.model.body(i).name for i in range(self.model.nbody)]
            sites = [self.model.site(i).name for i in range(self.model.nsite)]
            raise unknown("tool", tool, filter(None, bodies + sites))
        return body

    def pose_of(self, tool: str | int) -> Float[np.ndarray, "4 4"]:
        """Return world_from_tool of a site or body."""
        site = self._site(tool) if isinstance(tool, str) else -1
        if site >= 0:
            return _pose(self.data.site_xmat[site], self.data.site_xpos[site])
        body = tool if isinstance(tool, int) else self.body_of(tool)
        return _pose(self.data.xmat[body], self.data.xpos[body])

    def last_hinge_body(self) -> int:
        """Return the body of the only chain's last hinge."""
        carriers = [b for b, joints in enumerate(self.joints) if any(self.model.jnt_type[j] == HINGE for j in joints)]
        if not carriers:
            raise UserError(f"{self.path} has no hinge joint; give the file of an arm")
        inner = {body for carrier in carriers for body in self.up(carrier)[1:]}
        ends = [body for body in carriers if body not in inner]
        if len(ends) > 1:
            joints = [self.joints[b][-1] for b in ends]
            raise UserError(
                f"{self.path} branches: {self.joint_names(joints)} lie on different branches; name the site or body in which "
                "the arm ends as tool (--tool), before a gripper's hinges"
            )
        return ends[0]

    def joints_to(self, tip: int) -> list[int]:
        """Return the hinges from the world to a body, all at 0 from then on; nothing else may lie between."""
        line = [joint for body in reversed(self.up(tip)) for joint in self.joints[body]]
        other = [joint for joint in line if self.model.jnt_type[joint] != HINGE]
        if other:
            kind = KINDS[int(self.model.jnt_type[other[0]])]
            free = "its base moves freely" if kind == "free" else "an arm is a chain of hinges here"
            raise UserError(
                f"{self.path}: {self.joint_names(other[:1])} before '{self.name(tip)}' is a {kind} joint; {free}"
            )
        if not line:
            raise UserError(f"{self.path}: no hinge lies between the world and '{self.name(tip)}'; name another tool")
        self.data.qpos[:] = self.model.qpos0
        self.data.qpos[self.model.jnt_qposadr[line]] = 0.0
        mujoco.mj_kinematics(self.model, self.data)
        return line

    def frame(self, joint: int) -> Float[np.ndarray, "4 4"]:
        """Return world_from_link: the frame of the joint's body, turned so that the axis is z (not at all if it is), on the axis."""
        rotation = self.data.xmat[int(self.model.jnt_bodyid[joint])].reshape(3, 3)
        x, y, z = np.round(rotation.T @ self.data.xaxis[joint], 12)  # or rounding would choose the half turn
        half_turn = (
            np.diag([1.0, -1.0, -1.0]) if z < 0 else np.eye(3)
        )  # about x, so that less than a right angle is left
        x, y, z = half_turn @ (x, y, z)
        cross = np.array([[0.0, 0.0, x], [0.0, 0.0, y], [-x, -y, 0.0]])
        turn = half_turn @ (np.eye(3) + cross + cross @ cross / (1 + z))  # Rodrigues' formula: (0, 0, 1) to (x, y, z)
        return _pose(rotation @ turn, self.data.xanchor[joint])


def _pose(rotation: Any, position: Any) -> Float[np.ndarray, "4 4"]:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.reshape(rotation, (3, 3)), position
    return matrix


# ------------------------------------------------------------------------------------------------------------ capsules


@dataclass(frozen=True)
class _Part:
    name: str
    link: int
    moving: tuple[int, ...] = ()  # joints between the last link and it, the inner one first


class _Links:
    """Which bodies belong to the foot, to each link, to the hand, and to what moves behind it."""

    def __init__(self, tree: _Tree, joints: list[int]) -> None:
        self._tree, model = tree, tree.model
        carriers = [int(model.jnt_bodyid[joint]) for joint in joints]
        self._link = {body: carriers[::-1].index(body) for body in carriers}
        self._link = {body: len(joints) - from_end for body, from_end in self._link.items()}
        self._last, self._joints = carriers[-1], joints
        self._root = int(model.body_rootid[carriers[0]])
        self.parts = {body: part for body in range(model.nbody) if (part := self._part(body)) is not None}
        moving = {joint for part in self.parts.values() for joint in part.moving}
        others = [
            joint
            for body in range(model.nbody)
            for joint in tree.joints[body]
            if joint not in joints and joint not in moving and not self._loose(body)
        ]
        if others:
            raise UserError(
                f"{tree.path} branches: {tree.joint_names(others)} do not lead to '{tree.name(self._last)}'; one serial arm "
                "is read: take out the others, or name the site or body in which the arm ends as tool (--tool)"
            )

    def _loose(self, body: int) -> bool:
        """Whether a body lies or flies about: it hangs on a free joint, and so is no part of an arm."""
        tree = self._tree
        return any(tree.model.jnt_type[joint] == FREE for up in tree.up(body) for joint in tree.joints[up])

    def _part(self, body: int) -> _Part | None:
        tree, last, moving = self._tree, len(self._joints), list[int]()
        for up in tree.up(body):
            if up in self._link:
                link = self._link[up]
                if link == last:
                    name = "finger" if moving else f"link{link}" if up == body else "hand"
                    return _Part(name, link, tuple(moving))
                return None if moving else _Part(f"link{link}", link)
            moving += reversed(tree.joints[up])
        stands = body != WORLD and int(tree.model.body_rootid[body]) == self._root or tree.description.urdf
        return _Part("link0", 0) if stands and not moving else None

    def only_tool(self) -> str | int:
        """Return the only site on the last link, else the body in which it ends."""
        tree, model = self._tree, self._tree.model
        bodies = [body for body, part in self.parts.items() if part.link == len(self._joints) and not part.moving]
        sites = [model.site(i).name for i in range(model.nsite) if int(model.site_bodyid[i]) in bodies]
        ends = [body for body in bodies if not any(tree.parent[other] == body for other in bodies)]
        if len(sites) == 1 and sites[0]:
            return sites[0]
        if len(sites) > 1 or len(ends) > 1:
            names = ", ".join(f"'{name}'" for name in filter(None, [*sites, *map(tree.name, ends)]))
            raise UserError(
                f"{tree.path}: the last link has several ends: {names}; name the tool's site or body (--tool)"
            )
        return ends[0]

    def capsules(self, frames: list[Float[np.ndarray, "4 4"]]) -> tuple[Capsule, ...]:
        """Return a capsule around each shape that can collide, in the frame of its link."""
        tree, model, result = self._tree, self._tree.model, list[Capsule]()
        seen, solid = set(tree.description.bare), set[str]()
        for geom in range(model.ngeom):
            body = int(model.geom_bodyid[geom])
            if (part := self.parts.get(body)) is None:
                continue
            seen.add(tree.name(body))
            if not (model.geom_contype[geom] or model.geom_conaffinity[geom]):
                continue
            solid.add(tree.name(body))
            shape = self._shape(geom)
            for joint in part.moving:
                shape = _swept(tree, joint, shape)
            result.append(_in_link(part, shape, np.eye(4) if part.link == 0 else frames[part.link - 1]))
        bare = sorted((seen - solid) & {tree.name(body) for body in self.parts})
        if bare or not result:
            raise UserError(
                f"{tree.path}: {', '.join(bare[:NAMED]) or 'no link'} of the arm {'can be seen but has' if bare else 'has'} no shape that "
                "collides, so nothing could be kept away from it; add collision geometry"
            )
        if not all(abs(x) < FURTHEST for c in result for x in (*c.start, *c.end, c.radius)):
            raise UserError(f"{tree.path} has a shape of more than {FURTHEST:g} m; lengths are in metres")
        return tuple(result)

    def _shape(self, geom: int) -> Enclosing:
        """Return a capsule around a shape, in the world frame."""
        tree, model, data = self._tree, self._tree.model, self._tree.data
        size = np.array(model.geom_size[geom])
        match int(model.geom_type[geom]):
            case kind if kind in (SPHERE, CAPSULE):
                half = size[1] if kind == CAPSULE else 0.0
                shape = Enclosing(np.array([[0.0, 0.0, -half], [0.0, 0.0, half]]), float(size[0]))
            case kind if kind == ELLIPSOID:
                shape = enclose_ellipsoid(size)
            case kind if kind == CYLINDER:
                shape = enclose_cylinder(float(size[0]), float(size[1]))
            case kind if kind == BOX:
                shape = enclose(np.stack(np.meshgrid(*([-s, s] for s in size)), axis=-1).reshape(8, 3))
            case kind if kind == MESH:
                mesh = int(model.geom_dataid[geom])
                first, count = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
                shape = enclose(np.array(model.mesh_vert[first : first + count], dtype=float))
            case _:
                name = tree.name(int(model.geom_bodyid[geom]))
                raise UserError(
                    f"{tree.path}: {name} has a shape without an end (a plane, say); give it a box or a capsule"
                )
        return _moved(_pose(data.geom_xmat[geom], data.geom_xpos[geom]), shape)


def _moved(target_from_source: Float[np.ndarray, "4 4"], shape: Enclosing) -> Enclosing:
    return shape._replace(ends=shape.ends @ target_from_source[:3, :3].T + target_from_source[:3, 3])


def _in_link(part: _Part, shape: Enclosing, world_from_link: Float[np.ndarray, "4 4"]) -> Capsule:
    start, end = ((float(x), float(y), float(z)) for x, y, z in _moved(np.linalg.inv(world_from_link), shape).ends)
    return Capsule(part.name, part.link, start, end, shape.radius)


def _swept(tree: _Tree, joint: int, shape: Enclosing) -> Enclosing:
    """Return a capsule around all places to which one joint behind the hand moves a shape."""
    model, data = tree.model, tree.data
    kind, limited = int(model.jnt_type[joint]), bool(model.jnt_limited[joint])
    if kind not in (SLIDE, HINGE) or (kind == SLIDE and not limited):
        raise UserError(
            f"{tree.path}: {tree.joint_names([joint])} behind the hand is a {KINDS[kind]} joint{'' if limited else ' without a range'}, "
            "so nobody knows where its parts may be; give it a range, or fix it"
        )
    axis, anchor = np.array(data.xaxis[joint]), np.array(data.xanchor[joint])
    here = float(data.qpos[int(model.jnt_qposadr[joint])])
    low, high = (float(end) - here for end in model.jnt_range[joint])
    if kind == SLIDE:
        return enclose(np.concatenate([shape.ends + low * axis, shape.ends + high * axis]), shape.radius)
    if not limited or high - low > 2 * np.pi:
        low, high = -np.pi, np.pi
    aside = np.linalg.norm(np.cross(axis, shape.ends - anchor), axis=1).max()
    sagitta = float(aside) * (1 - np.cos((high - low) / ARC_STEPS / 2))
    turned = [_turned(shape.ends, anchor, axis, angle) for angle in np.linspace(low, high, ARC_STEPS + 1)]
    return enclose(np.concatenate(turned), shape.radius + sagitta)


def _turned(
    points: Float[np.ndarray, "N 3"], anchor: Float[np.ndarray, " 3"], axis: Float[np.ndarray, " 3"], angle: float
) -> Float[np.ndarray, "N 3"]:
    arm = points - anchor
    along = (arm @ axis)[:, None] * axis
    return anchor + along + np.cos(angle) * (arm - along) + np.sin(angle) * np.cross(axis, arm)


# -------------------------------------------------------------------------------------------------------------- limits


def _limits(description: Description, tree: _Tree, joints: list[int], limits: Limits | Path | None) -> Limits:
    """Return the user's limits, where they lie within what the file says."""
    said = _said(description, tree, joints)
    stated = {field: list(table) for field, table in said.items() if None not in table}
    if limits is None:
        missing = [name for name in FIELDS if name not in stated and name != "speed_law"]
        says = f"it says {', '.join(stated)}" if stated else "not of every joint"
        raise UserError(
            f"{description.path} says nothing about {', '.join(missing)} ({says}), so the arm is not armed; write these as fields of a "
            "JSON file and give it as limits (--limits FILE)"
        )
    if isinstance(limits, Path):
        limits = load_limits(limits, stated)
    check_within(limits, said, [f"'{tree.joint_name(joint)}'" for joint in joints], str(description.path))
    return limits


def _said(description: Description, tree: _Tree, joints: list[int]) -> dict[str, list[float | None]]:
    """Return what the file says of each joint, by the names of `Limits`."""
    model = tree.model
    names = [model.joint(joint).name for joint in joints]
    low, high = (
        [float(model.jnt_range[joint][end]) if model.jnt_limited[joint] else None for joint in joints] for end in (0, 1)
    )
    speed, torque = ([table.get(name) for name in names] for table in (description.speed, description.torque))
    return {"q_min": low, "q_max": high, "speed": speed, "torque": torque}
