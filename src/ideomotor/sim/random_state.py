"""Unrelated states of the world, for teaching a vision tower: the arm anywhere over the table, at times holding something."""

import math
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float

from ideomotor.robot.control import InverseKinematics, pose_error
from ideomotor.robot.kinematics import forward
from ideomotor.sim.expert import LOWEST, MAX_YAW, grip_of
from ideomotor.sim.world import DROP, World

ON_PLATE, HOLDING, NEAR_OBJECT = 0.25, 0.3, 0.5  # shares of the states
X_RANGE, Y_RANGE, Z_RANGE = (0.28, 0.70), (-0.32, 0.32), (LOWEST, 0.50)  # [m] of the tool
SPREAD = 0.04  # [m] standard deviation of the distance to the object that the tool is near
HELD_HEIGHT = (0.03, 0.30)  # [m] of the bottom of a held object
IK_ROUNDS = 8
IK_TOLERANCE = 0.004  # [m], [rad]
TRIES = 30
CLOSE_STEPS, SETTLE_STEPS = 40, 25  # [physics steps]


@dataclass(frozen=True)
class ArmState:
    """Where the arm has been put."""

    q: Float[np.ndarray, " J"]  # [rad]
    opening: float  # [fraction] commanded


def randomize(world: World, rng: np.random.Generator) -> ArmState:
    """Move some objects and the arm of a world that has just been loaded, and let it settle."""
    graspable = [i for i, kind in enumerate(world.kinds) if kind.shape.graspable]
    plates = [i for i, kind in enumerate(world.kinds) if kind.shape.receptacle]
    if plates and rng.random() < ON_PLATE:
        _put_on(world, int(rng.choice(graspable)), int(rng.choice(plates)), rng)
    if rng.random() < HOLDING and (state := _hold(world, int(rng.choice(graspable)), rng)) is not None:
        return state
    return _hover(world, int(rng.choice(graspable)), rng)


def _put_on(world: World, index: int, plate: int, rng: np.random.Generator) -> None:
    pose = world.object_pose(index)
    pose[:2] = world.object_pose(plate)[:2] + rng.uniform(-0.02, 0.02, 2)
    pose[2] = 2 * world.kinds[plate].shape.half_height + world.kinds[index].shape.half_height + DROP
    world.set_object(index, pose)
    world.refresh()


def _hold(world: World, index: int, rng: np.random.Generator) -> ArmState | None:
    """Put an object between closing fingers somewhere over the table; None if that does not hold."""
    before = world.object_pose(index)
    kind = world.kinds[index].shape
    bottom = rng.uniform(*HELD_HEIGHT)
    place = np.array([rng.uniform(*X_RANGE), rng.uniform(*Y_RANGE), bottom + kind.half_height])
    yaw = rng.uniform(-MAX_YAW, MAX_YAW)
    q = _reach(world, place + (*rng.uniform(-0.006, 0.006, 2), 0.0), yaw)
    if q is None:
        return None
    grip_yaw = grip_of(world.view(np.eye(4)), index).yaw
    turn = yaw - grip_yaw + rng.uniform(-0.1, 0.1) + math.atan2(2 * before[3] * before[6], 1 - 2 * before[6] ** 2)
    world.set_object(index, np.array([*place, math.cos(turn / 2), 0.0, 0.0, math.sin(turn / 2)]))
    world.set_arm(q, opening=1.0)
    world.refresh()
    if world.arm_contacts() or world.object_contacts(index):
        world.set_object(index, before)
        return None
    weight = world.model.body_gravcomp[world.object_bodies[index]]
    world.model.body_gravcomp[world.object_bodies[index]] = 1.0  # it floats until the fingers have closed
    _run(world, CLOSE_STEPS, opening=0.0)
    world.model.body_gravcomp[world.object_bodies[index]] = weight
    _run(world, SETTLE_STEPS, opening=0.0)
    if world.view(np.eye(4)).held(index):
        return ArmState(q, 0.0)
    world.set_object(index, before)
    return None


def _hover(world: World, index: int, rng: np.random.Generator) -> ArmState:
    """Put the arm at a random place over the table, or near an object, where it touches nothing."""
    for attempt in range(TRIES):
        place = np.array([rng.uniform(*X_RANGE), rng.uniform(*Y_RANGE), rng.uniform(*Z_RANGE)])
        yaw = rng.uniform(-MAX_YAW, MAX_YAW)
        if rng.random() < NEAR_OBJECT:
            target = int(rng.integers(len(world.kinds))) if rng.random() < 0.5 else index
            place[:2] = world.object_pose(target)[:2] + rng.normal(0.0, SPREAD, 2)
            place[2] = LOWEST + rng.exponential(0.06)
            grip = grip_of(world.view(np.eye(4)), target)
            near = (grip.yaw + rng.normal(0.0, 0.2) + math.pi / 2) % math.pi - math.pi / 2
            yaw = near if grip.period else yaw
        place[2] = min(place[2] + 0.01 * attempt, Z_RANGE[1])
        q = _reach(world, place, yaw)
        if q is None:
            continue
        opening = 1.0 if rng.random() < 0.6 else float(rng.uniform(0.0, 1.0))
        world.set_arm(q, opening)
        world.refresh()
        if not world.arm_contacts():
            _run(world, SETTLE_STEPS, opening)
            return ArmState(q, opening)
    home = np.array(world.arm.home)
    world.set_arm(home, 1.0)
    _run(world, SETTLE_STEPS, 1.0)
    return ArmState(home, 1.0)


def _reach(world: World, place: Float[np.ndarray, " 3"], yaw: float) -> Float[np.ndarray, " J"] | None:
    """Return joint positions with the tool down at a place, None if the arm does not get there."""
    solver = InverseKinematics(world.arm)
    q = np.array(world.arm.home)
    target = np.eye(4)
    cos, sin = math.cos(yaw), math.sin(yaw)
    target[:3, :3] = [[cos, sin, 0.0], [sin, -cos, 0.0], [0.0, 0.0, -1.0]]
    target[:3, 3] = place
    for _ in range(IK_ROUNDS):
        q = solver.solve(q, target, dt=10.0)
        if np.abs(pose_error(forward(world.arm, q), target)).max() < IK_TOLERANCE:
            return q
    return None


def _run(world: World, steps: int, opening: float) -> None:
    world.data.ctrl[world.arm.num_joints] = world.finger_command(opening)
    for _ in range(steps):
        mujoco.mj_step(world.model, world.data)
    world.refresh()
