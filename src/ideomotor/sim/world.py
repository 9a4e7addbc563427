"""The physics of one tabletop: a MuJoCo model for one set of shapes, and the arm on it as a `Robot`.

All that can be read (poses, contacts) is a pure function of the state, so that a restored state looks and continues exactly as
the saved one.

Surprises: MuJoCo's own state vector leaves out which objects sleep, so a saved state is a copy of the whole MjData; colours are changed in place, so a model belongs to one world; MuJoCo's own contacts and positions lag one step
behind the state until `mj_fwdPosition` runs.
"""

import math
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Bool, Float

from ideomotor.robot.arm import Arm
from ideomotor.robot.robot import JointCommand, RobotState
from ideomotor.sim.mjcf import TIMESTEP, world_xml
from ideomotor.sim.objects import ObjectKind, Shape
from ideomotor.sim.scene import Placed, Scene
from ideomotor.sim.view import View

PHYSICS_HZ = 1.0 / TIMESTEP  # [1/s]
DROP = 0.002  # [m] objects are set down from this height
SETTLE_STEPS = 50  # [physics steps]
SETTLE_TOLERANCE = 0.005  # [m]
FINGERS = ("finger_left", "finger_right")


class UnsettledSceneError(RuntimeError):
    """Objects did not come to rest where they were put."""


class World:
    """An arm at a table with objects of given shapes."""

    def __init__(self, arm: Arm, shapes: Sequence[Shape]) -> None:
        self.arm = arm
        self.shapes = tuple(shapes)
        self.kinds: tuple[ObjectKind, ...] = ()
        self.model: Any = mujoco.MjModel.from_xml_string(world_xml(arm, self.shapes))
        self.data: Any = mujoco.MjData(self.model)
        self.spare: Any = mujoco.MjData(self.model)  # room for a state to come back to: making a new copy costs 0.3 ms
        joints = arm.num_joints
        self._tcp = self.model.site("tcp").id
        bodies = [self.model.body(f"object{i}").id for i in range(len(self.shapes))]
        self.object_bodies = np.array(bodies, dtype=np.int64)  # [N] MuJoCo's numbers of the free bodies
        self._object_geoms = [self.model.geom(f"object{i}").id for i in range(len(self.shapes))]
        self._finger_qpos = joints
        self._first_qpos = joints + 2
        self._first_dof = joints + 2
        self._object_of_geom = np.full(self.model.ngeom, -1)
        self._object_of_geom[self._object_geoms] = np.arange(len(self.shapes))
        self._finger_of_geom = np.full(self.model.ngeom, -1)
        self._finger_of_geom[[self.model.geom(name).id for name in FINGERS]] = (0, 1)

    # 1 layout

    def load(self, scene: Scene) -> None:
        """Paint the objects, set them on the table, bring the arm home, and let everything settle.

        Raises:
            UnsettledSceneError: an object moved by more than 5 mm, or the arm touches something.
        """
        assert tuple(placed.kind.shape for placed in scene.objects) == self.shapes, (
            "the world was built for other shapes"
        )
        mujoco.mj_resetData(self.model, self.data)
        self.paint([placed.kind for placed in scene.objects])
        self.set_arm(np.array(self.arm.home), opening=1.0)
        for i, placed in enumerate(scene.objects):
            self.set_object(i, _pose(placed))
        for _ in range(SETTLE_STEPS):
            mujoco.mj_step(self.model, self.data)
        self.refresh()
        self._check_settled(scene)

    def paint(self, kinds: Sequence[ObjectKind]) -> None:
        """Give the objects their colours, in place."""
        self.kinds = tuple(kinds)
        for geom, kind in zip(self._object_geoms, kinds, strict=True):
            self.model.geom_rgba[geom, :3] = kind.colour.rgb

    def set_object(self, index: int, pose: Float[np.ndarray, " 7"]) -> None:
        """Put an object at rest at a pose: position [m], quaternion wxyz."""
        at, dof = self._first_qpos + 7 * index, self._first_dof + 6 * index
        self.data.qpos[at : at + 7] = pose
        self.data.qvel[dof : dof + 6] = 0

    def set_arm(self, q: Float[np.ndarray, " J"], opening: float) -> None:
        """Put the arm at rest at joint positions [rad], with the fingers at an opening, and command it to stay there."""
        joints, finger = self.arm.num_joints, self.finger_command(opening)
        self.data.qpos[:joints] = q
        self.data.qpos[joints : joints + 2] = finger
        self.data.qvel[: joints + 2] = 0
        self.data.ctrl[:joints] = q
        self.data.ctrl[joints] = finger

    def finger_command(self, opening: float) -> float:
        """Return the slide position [m] of an opening in [0, 1]."""
        closed, opened = self.arm.gripper.slide_range
        return closed + min(max(opening, 0.0), 1.0) * (opened - closed)

    def _check_settled(self, scene: Scene) -> None:
        for i, placed in enumerate(scene.objects):
            offset = self.object_pose(i)[:3] - (placed.x, placed.y, placed.kind.shape.rest_z)
            if not float(np.abs(offset).max()) < SETTLE_TOLERANCE:
                raise UnsettledSceneError(
                    f"the {placed.kind.name} of scene {scene.seed} moved by {offset} m while settling"
                )
        if self.arm_contacts():
            raise UnsettledSceneError(f"the arm touches something at home in scene {scene.seed}")

    # 2 what can be read

    def refresh(self) -> None:
        """Recompute poses and contacts from the state. `SimulatedArm.follow` does this itself."""
        mujoco.mj_fwdPosition(self.model, self.data)

    def object_pose(self, index: int) -> Float[np.ndarray, " 7"]:
        """Return an object's pose in the base frame: position [m], quaternion wxyz."""
        at = self._first_qpos + 7 * index
        return self.data.qpos[at : at + 7].copy()

    def tcp_pose(self) -> Float[np.ndarray, "4 4"]:
        """Return base_from_tcp, measured."""
        pose = np.eye(4)
        pose[:3, :3] = self.data.site_xmat[self._tcp].reshape(3, 3)
        pose[:3, 3] = self.data.site_xpos[self._tcp]
        return pose

    def opening(self) -> float:
        """Return the measured opening of the gripper, 1 = open."""
        closed, opened = self.arm.gripper.slide_range
        left, right = self.data.qpos[self._finger_qpos : self._finger_qpos + 2].tolist()
        return (0.5 * (left + right) - closed) / (opened - closed)

    def finger_contacts(self) -> Bool[np.ndarray, "N 2"]:
        """Tell which object touches which finger."""
        touched = np.zeros((len(self.shapes), 2), dtype=bool)
        geoms = self.data.contact.geom
        objects, fingers = self._object_of_geom[geoms], self._finger_of_geom[geoms]
        for a, b in ((0, 1), (1, 0)):
            meet = (objects[:, a] >= 0) & (fingers[:, b] >= 0)
            touched[objects[meet, a], fingers[meet, b]] = True
        return touched

    def arm_contacts(self) -> int:
        """Return how many contacts the arm and its gripper have."""
        bodies = self.model.geom_bodyid[self.data.contact.geom]
        objects = np.isin(bodies, self.object_bodies)
        return int(((self.model.body_weldid[bodies] != 0) & ~objects).any(axis=1).sum()) if len(bodies) else 0

    def object_contacts(self, index: int) -> int:
        """Return how many contacts an object has."""
        return int((self._object_of_geom[self.data.contact.geom] == index).any(axis=1).sum())

    def view(self, commanded: Float[np.ndarray, "4 4"]) -> View:
        """Return the true state; `commanded` is where the tool has been told to be (base_from_tcp)."""
        first, count, data = self._first_dof, len(self.shapes), self.data
        velocity = data.qvel[first : first + 6 * count].reshape(count, 6)
        tcp = data.site_xmat[self._tcp]
        speed_spin = np.sqrt((velocity.reshape(count, 2, 3) ** 2).sum(axis=2))
        return View(
            kinds=self.kinds,
            position=data.xpos[self.object_bodies],
            rotation=data.xmat[self.object_bodies].reshape(count, 3, 3),
            speed=speed_spin[:, 0],
            spin=speed_spin[:, 1],
            touched=self.finger_contacts(),
            tcp=data.site_xpos[self._tcp].copy(),
            tcp_yaw=math.atan2(tcp[3], tcp[0]),
            opening=self.opening(),
            commanded=commanded[:3, 3].copy(),
            commanded_yaw=math.atan2(commanded[1, 0], commanded[0, 0]),
        )

    # 3 saved states

    def get_state(self) -> mujoco.MjData:
        """Return a copy of all that the physics remembers, colours apart."""
        saved = mujoco.MjData(self.model)
        mujoco.mj_copyData(saved, self.model, self.data)
        return saved

    def set_state(self, state: mujoco.MjData) -> None:
        """Undo everything since `get_state`; the copy stays as it is."""
        mujoco.mj_copyData(self.data, self.model, state)


class SimulatedArm:
    """The arm of a world as a `Robot`: a command lasts one physics step.

    Its joints follow a ramp without lag, as industrial drives do: the servo's target leads the command by its speed times
    kv / kp. What the tool has been told and where it is then differ by about a millimetre, so a camera sees the whole state.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.last_q: Float[np.ndarray, " J"] = np.array(world.arm.home)  # [rad] command before

    @property
    def arm(self) -> Arm:
        """Its table of numbers."""
        return self.world.arm

    @property
    def rate_hz(self) -> float:
        """Commands a second."""
        return PHYSICS_HZ

    def read(self) -> RobotState:
        """Return the state now."""
        data, joints = self.world.data, self.arm.num_joints
        return RobotState(float(data.time), data.qpos[:joints].copy(), data.qvel[:joints].copy(), self.world.opening())

    def command(self, command: JointCommand) -> None:
        """Hold `command` for one period."""
        self.follow(command.q[None], np.array([command.opening]))

    def follow(self, q_KJ: Float[np.ndarray, "K J"], opening_K: Float[np.ndarray, " K"]) -> None:
        """Hold each of K commands for one period."""
        world, joints = self.world, self.arm.num_joints
        before_KJ = np.concatenate([self.last_q[None], q_KJ[:-1]])
        ctrl_KU = np.empty((len(q_KJ), joints + 1))
        ctrl_KU[:, :joints] = q_KJ + (q_KJ - before_KJ) * (2.0 * PHYSICS_HZ / self.arm.bandwidth)
        closed, opened = self.arm.gripper.slide_range
        ctrl_KU[:, joints] = closed + np.clip(opening_K, 0.0, 1.0) * (opened - closed)
        model, data, ctrl_U, step = world.model, world.data, world.data.ctrl, mujoco.mj_step
        for row_U in ctrl_KU:
            ctrl_U[:] = row_U
            step(model, data)
        self.last_q = q_KJ[-1].copy()
        world.refresh()


def _pose(placed: Placed) -> Float[np.ndarray, " 7"]:
    height = placed.kind.shape.rest_z + DROP
    return np.array([placed.x, placed.y, height, math.cos(placed.yaw / 2), 0.0, 0.0, math.sin(placed.yaw / 2)])
