"""Put a simulated arm with limited torques behind the shield, and measure what it really does: safe commands are not yet a safe robot.

python tools/shield_plant.py --minutes 10 --seed 0 --out build/plant.json [--curve] [--arm panda|fr3|ur5e] [--workers 2]

The arm alone in MuJoCo, with gravity, follows the shield's 100 Hz commands while adversaries propose; what it measures goes back into the
shield. Torques are limited by the arm's table, and so is their rate where the arm has one. With --curve, other shares of speed,
acceleration and jerk, and margins against the tracking error, tried on other proposals. Prints a table, writes it as JSON, and a plot
beside it. Work is cut into blocks of 10 s, saved one by one: started again, it goes on, and other code begins anew. No obstacle is in the
simulation: what comes too near is measured, not felt.

"limited" stands for a controller that sends torques, whose rate the robot limits; "free" for one inside the robot, which gets positions.
What is left out, and makes a real arm worse: a model that is wrong beyond the damping of the joints, elastic joints, delays, noise.
"""

import os

os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})
os.environ.setdefault("MUJOCO_GL", "disabled")

import argparse
import contextlib
import hashlib
import importlib
import json
import math
import multiprocessing
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from ideomotor import robot
from ideomotor.core import jsonable
from ideomotor.core.files import write_json
from ideomotor.robot.adversaries import ADVERSARIES, CELL, FREE, TRIES, Asked, Episode, Place, Play
from ideomotor.robot.arm import Arm
from ideomotor.robot.arms.fr3 import FR3
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.body import Body, Capsule, body_of
from ideomotor.robot.checker import Checker, Kind
from ideomotor.robot.kinematics import forward, joint_frames
from ideomotor.robot.limits import Share, speed_bounds
from ideomotor.robot.robot import RobotState
from ideomotor.robot.shield import Settings, Shield
from ideomotor.robot.shield_settings import SMOOTH_MOTION, SMOOTH_STOP
from ideomotor.robot.surroundings import Margins, Surroundings
from ideomotor.robot.tracking import lever_arms, required_margin
from ideomotor.sim.mjcf import world_xml

# In shapes, J stands for the joints, S for the control steps of a tick, T for those of a block, 3 for position, speed, acceleration.

GENTLE = SMOOTH_MOTION.jerk  # times 4 kg m^2, the Panda stretched out, 0.02 of 7500 rad/s^3 is 600 of 1000 Nm/s
SMOOTH = (SMOOTH_MOTION.speed, SMOOTH_MOTION.acceleration, GENTLE, SMOOTH_STOP.acceleration, SMOOTH_STOP.jerk)
ARMS = {arm.name: arm for arm in (PANDA, FR3, UR5E)}
STEP = 0.001  # [s] of the torque controller
PHYSICS = 2  # steps of the simulation in one of the controller
BLOCK_S, STRETCH_S = 10.0, 2.0  # [s] of a block, and of one adversary in it
BIN = 2e-4  # [rad] of the tracking errors
SUMS = ("seconds", "ticks", "accepted", "tool_path_m", "steps", "saturated", "rate_limited", "resets", "runaways")
RUNAWAY = 2.0  # times the rated speed: a real arm has stopped itself long before
LOOK = 2  # control steps between two looks at distances
WIDE = {"obstacle": 0.15, "self_collision": 0.10, "bounds": 0.10}  # [m] below these, smallest distances are exact
KINDS = {Kind.OBSTACLE: "obstacle", Kind.SELF_COLLISION: "self_collision", Kind.WORKSPACE: "bounds"}


@dataclass(frozen=True)
class ComputedTorque:
    """tau = M(q) (a_d + stiffness e + damping de/dt) + bias(q, dq), with the plant's own M and bias."""

    stiffness: float = 900.0  # [1/s^2]
    damping: float = 60.0  # [1/s]
    friction: bool = False  # whether the damping of the joints is fed forward too; the controller else does not know it


@dataclass(frozen=True)
class PositionServo:
    """tau = kp e - kv dq + bias(q, dq), the arm's gains: damped on its speed, so that it lags by kv / kp of it."""


Servo = ComputedTorque | PositionServo


@dataclass(frozen=True)
class Case:
    """One arm, one controller, one setting of the shield."""

    name: str
    arm: str = "panda"
    settings: Settings = field(default_factory=lambda: Settings(tool_speed=None))
    servo: Servo = field(default_factory=ComputedTorque)
    rate_limited: bool = True  # torques, where the arm's table has a rate: for who sends torques, not positions
    around: Surroundings = CELL
    told_margins: Margins | None = None  # what the shield keeps instead of the margins that are asked for


def shares(speed: float, motion: float, jerk: float, stop: float, stop_jerk: float) -> Settings:
    """Return settings with these shares of speed, acceleration and jerk in motion, of acceleration and jerk in stops."""
    return Settings(tool_speed=None, follow=Share(speed, motion, jerk), stop=Share(1.0, stop, stop_jerk))


# --------------------------------------------------------------------------------------------------------- the plant


def model_of(arm: Arm, wall: tuple[float, ...] = ()) -> Any:
    """Return the arm of the tabletop alone: with weight, fingers fixed, no stops in the joints, and perhaps a box to run into.

    `wall` is its centre and half its edges [m].
    """
    spec: Any = mujoco.MjSpec.from_string(world_xml(arm, ()))
    for kind in ("equalities", "actuators", "excludes", "cameras", "lights"):
        for item in list(getattr(spec, kind)):
            spec.delete(item)
    for joint in list(spec.joints):
        joint.limited = 0
        if joint.name.startswith("finger"):
            spec.delete(joint)
    for geom in list(spec.geoms):
        geom.contype, geom.conaffinity = 0, 1  # parts of the arm meet the wall, not each other
    for name in ("floor", "table"):
        spec.delete(spec.geom(name))
    spec.delete(spec.body("table"))
    for body in spec.bodies:
        body.gravcomp = 0
    if wall:
        box = mujoco.mjtGeom.mjGEOM_BOX
        spec.worldbody.add_geom(name="wall", type=box, pos=wall[:3], size=wall[3:], contype=1, conaffinity=0)
    spec.option.timestep = STEP / PHYSICS
    spec.option.enableflags = 0  # an arm never sleeps
    return spec.compile()


class Plant:
    """A simulated arm and its controller. Positions [rad], speeds [rad/s], torques [N m]."""

    def __init__(self, case: Case, wall: tuple[float, ...] = ()) -> None:
        """Let an arm stand at home."""
        arm, dt = ARMS[case.arm], case.settings.dt
        assert arm.motion is not None
        self.model = model_of(arm, wall)
        self.data = mujoco.MjData(self.model)
        self.steps = round(dt / STEP)
        self._torque = np.array(arm.tau_max)
        rate = arm.motion.torque_rate if case.rate_limited else None
        self._change = np.full(arm.num_joints, math.inf) if rate is None else STEP * np.array(rate)
        self._law = _law(case.servo, arm, self.model, self.data)
        self._curve = _hermite(self.steps, dt)
        self.place(np.array(arm.home))

    def place(self, q: Float[np.ndarray, " J"]) -> None:
        """Let the arm stand somewhere."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = q
        mujoco.mj_forward(self.model, self.data)
        self.tau = self.data.qfrc_bias.copy()
        self.told = q.copy(), np.zeros_like(q)

    def tell(self, q: Float[np.ndarray, " J"], v: Float[np.ndarray, " J"]) -> Float[np.ndarray, "S 3 J"]:
        """Return the way from the last command to this one: a cubic through positions and speeds."""
        way = np.einsum("spk,kj->spj", self._curve, np.stack([*self.told, q, v]))
        self.told = q, v
        return way

    @property
    def force(self) -> float:
        """What presses on the wall [N]."""
        each, found = np.zeros(6), 0.0
        for contact in range(self.data.ncon):
            mujoco.mj_contactForce(self.model, self.data, contact, each)
            found += float(each[0])
        return found

    def follow(self, way: Float[np.ndarray, "S 3 J"], log: "Log") -> None:
        """Let a tick pass."""
        model, data = self.model, self.data
        for now in way:
            mujoco.mj_step1(model, data)
            log.q.append(data.qpos.copy())
            log.v.append(data.qvel.copy())
            wanted = self._law(now)
            tau = np.clip(wanted, self.tau - self._change, self.tau + self._change)
            log.rate_limited += bool((tau != wanted).any())
            self.tau = np.clip(tau, -self._torque, self._torque)
            log.saturated += bool((self.tau != tau).any())
            data.qfrc_applied[:] = self.tau
            mujoco.mj_step2(model, data)
            for _ in range(PHYSICS - 1):
                mujoco.mj_step(model, data)
        log.way.append(way)


def _law(servo: Servo, arm: Arm, model: Any, data: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return the torques that a servo wants at a row of position, speed and acceleration."""
    product = np.empty(arm.num_joints)
    match servo:
        case PositionServo():
            kp, kv = np.array(arm.kp), np.array(arm.kv)
            return lambda now: kp * (now[0] - data.qpos) - kv * data.qvel + data.qfrc_bias
        case ComputedTorque(stiffness, damping, friction):
            known = np.array(arm.damping) if friction else np.zeros(arm.num_joints)

            def law(now: np.ndarray) -> np.ndarray:
                wanted = now[2] + stiffness * (now[0] - data.qpos) + damping * (now[1] - data.qvel)
                mujoco.mj_mulM(model, data, product, wanted)
                return product + data.qfrc_bias + known * now[1]

            return law


def _hermite(steps: int, dt: float) -> Float[np.ndarray, "S 3 4"]:
    """Return what turns (q0, v0, q1, v1) into position, speed and acceleration at the beginning of each step."""
    s, one, nought = np.arange(steps) / steps, np.ones(steps), np.zeros(steps)
    position = [
        1.0 - s * s * (3.0 - 2.0 * s),
        dt * s * (1.0 - s) ** 2,
        s * s * (3.0 - 2.0 * s),
        dt * s * s * (s - 1.0),
    ]
    speed = [-6.0 * s * (1.0 - s) / dt, one - s * (4.0 - 3.0 * s), 6.0 * s * (1.0 - s) / dt, s * (3.0 * s - 2.0)]
    change = [
        (12.0 * s - 6.0) / dt**2,
        (6.0 * s - 4.0) / dt,
        (6.0 - 12.0 * s) / dt**2,
        (6.0 * s - 2.0) / dt + nought,
    ]
    return np.stack([position, speed, change]).transpose(2, 0, 1)


@dataclass
class Log:
    """What was measured in a stretch of time, one row a control step."""

    q: list[np.ndarray] = field(default_factory=list[np.ndarray])
    v: list[np.ndarray] = field(default_factory=list[np.ndarray])
    way: list[np.ndarray] = field(default_factory=list[np.ndarray])  # one entry a tick
    saturated: int = 0  # control steps with a torque at its limit
    rate_limited: int = 0  # and with one whose rate is


# --------------------------------------------------------------------------------------------------- what is counted


@dataclass
class Tally:
    """What was measured. Lists run over the joints; tallies of blocks add up."""

    seconds: float = 0.0
    ticks: int = 0
    accepted: int = 0
    tool_path_m: float = 0.0
    speed: list[float] = field(default_factory=list[float])  # largest, of the rated one
    told_speed: list[float] = field(default_factory=list[float])  # of the way that was commanded
    error: list[float] = field(default_factory=list[float])  # [rad] largest between measured and commanded
    over: float = -math.inf  # [rad/s] largest speed over the one allowed where the joint is
    beyond: float = -math.inf  # [rad] outside the position limits
    errors: list[Counter[str]] = field(default_factory=list[Counter[str]])  # control steps by bin
    steps: int = 0
    saturated: int = 0
    rate_limited: int = 0
    latched: Counter[str] = field(default_factory=Counter[str])  # by reason
    resets: int = 0
    runaways: int = 0  # blocks that ended early because a joint was faster than RUNAWAY
    clearance: dict[str, float] = field(default_factory=dict[str, float])  # [m] smallest measured, by kind
    told_clearance: dict[str, float] = field(default_factory=dict[str, float])  # [m] of the commanded way
    need: float = 0.0  # [m] largest sum of lever arms times errors at one instant
    deviation: float = 0.0  # [m] largest distance of a capsule's end from where it was commanded
    fastest: dict[str, float] = field(default_factory=dict[str, float])  # share of the rated speed, by adversary

    def add(self, other: "Tally") -> None:
        """Take over another tally."""
        for name in ("speed", "told_speed", "error"):
            setattr(self, name, _largest(getattr(self, name), getattr(other, name)))
        for name in ("over", "beyond", "need", "deviation"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))
        for name in ("clearance", "told_clearance"):
            mine, its = getattr(self, name), getattr(other, name)
            setattr(self, name, {key: min(mine.get(key, math.inf), value) for key, value in its.items()})
        for name, value in other.fastest.items():
            self.fastest[name] = max(self.fastest.get(name, 0.0), value)
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.latched.update(other.latched)
        self.errors = self.errors or [Counter[str]() for _ in other.errors]
        for mine, its in zip(self.errors, other.errors, strict=True):
            mine.update(its)

    def error_at(self, share: float) -> list[float]:
        """Return a percentile of each joint's tracking error [rad], rounded up to a bin."""
        found: list[float] = []
        for counts in self.errors:
            seen, total = 0, sum(counts.values())
            for index in sorted(map(int, counts)):
                seen += counts[str(index)]
                if seen >= share * total:
                    found.append((index + 1) * BIN)
                    break
        return found


def _largest(mine: list[float], its: list[float]) -> list[float]:
    return [max(pair) for pair in zip(mine, its, strict=True)] if mine else list(its)


@dataclass(frozen=True)
class Meter:
    """Turns what was logged into a tally, with the checker's distances (MuJoCo's poses, none of the shield's geometry)."""

    arm: Arm
    body: Body
    around: Surroundings

    @cached_property
    def checker(self) -> Checker:
        """A checker that knows all small distances exactly."""
        obstacles = tuple(replace(obstacle, margin=None) for obstacle in self.around.obstacles)
        around = replace(self.around, obstacles=obstacles, margins=replace(self.around.margins, **WIDE))
        return Checker(self.arm, self.body.limits, self.body.capsules, self.body.self_pairs, around, STEP, places=1)

    def measure(self, log: Log, name: str, tally: Tally) -> None:
        """Add a stretch of time in which an adversary proposed."""
        limits, rated = self.body.limits, np.array(self.body.limits.speed)
        q_TJ, v_TJ, way = np.stack(log.q), np.stack(log.v), np.concatenate(log.way)
        error = np.abs(way[:, 0] - q_TJ)
        slowest, fastest = speed_bounds(limits, q_TJ)
        bins = np.minimum(error / BIN, 9999).astype(int)
        found = Tally(
            steps=len(q_TJ),
            saturated=log.saturated,
            rate_limited=log.rate_limited,
            speed=(np.abs(v_TJ).max(axis=0) / rated).tolist(),
            told_speed=(np.abs(way[:, 1]).max(axis=0) / rated).tolist(),
            error=error.max(axis=0).tolist(),
            errors=[Counter({str(k): n for k, n in enumerate(np.bincount(column).tolist()) if n}) for column in bins.T],
            over=float(np.maximum(v_TJ - fastest, slowest - v_TJ).max()),
            beyond=float(np.maximum(q_TJ - np.array(limits.q_max), np.array(limits.q_min) - q_TJ).max()),
            need=float((error @ lever_arms(self.body).T).max()),
            tool_path_m=float(np.linalg.norm(np.diff(forward(self.arm, q_TJ[::10])[:, :3, 3], axis=0), axis=1).sum()),
        )
        points = [self._points(path[::LOOK]) for path in (q_TJ, way[:, 0])]
        found.fastest = {name: max(found.speed)}
        found.clearance, found.told_clearance = (self._smallest(each) for each in points)
        found.deviation = float(np.linalg.norm(points[0] - points[1], axis=0).max())
        tally.add(found)

    def _points(self, q_TJ: Float[np.ndarray, "T J"]) -> np.ndarray:
        skeleton = self.checker.skeleton
        return skeleton.points(mujoco.MjData(skeleton.model), q_TJ)

    def _smallest(self, points: np.ndarray) -> dict[str, float]:
        kept = self.checker.kept
        distance = kept.distances(points).min(axis=1)
        return {
            name: float(distance[[k is kind for k in kept.kinds]].min(initial=math.inf)) for kind, name in KINDS.items()
        }


# ---------------------------------------------------------------------------------------------------------- a block


def far_first(place: Place, rng: np.random.Generator) -> Play:
    """Goals 2.8 rad from home, and now and then nothing but what is no proposal."""
    goal = place.home + rng.choice([-2.8, 2.8], len(place.home))
    return lambda episode: episode.give(None) if episode.tick % 100 >= 50 else episode.ask(goal)


PHYSICAL = (
    *((name, ADVERSARIES[name]) for name in ("uniform", "limit_riding", "bang_bang", "oscillating")),
    *((name, ADVERSARIES[name]) for name in ("push", "push_tool", "jumps")),
    ("far_first", far_first),
)
SILENT = range(85, 100)  # ticks of far_first in which the shield is not called, if it is at rest: it then starts anew


class Loop:
    """Shield and plant, tick by tick."""

    def __init__(self, case: Case, wall: tuple[float, ...] = ()) -> None:
        """Prepare both."""
        self.arm, self.case = ARMS[case.arm], case
        self.body, dt = body_of(self.arm), case.settings.dt
        self.shield = Shield(self.body, told_surroundings(self.body, case), case.settings)
        self.plant = Plant(case, wall)
        self.place = Place(self.body, case.around, np.array(self.arm.home))
        self.log, self.tally, self.resets = Log(), Tally(), True
        self.episode = Episode(np.zeros(len(self.arm.home)), dt, np.zeros(len(self.arm.home)))

    def anywhere(self, rng: np.random.Generator) -> Float[np.ndarray, " J"]:
        """Draw a position that is away from everything, also by what the shield keeps; without one, the last that was tried."""
        clearance, q = self.shield.clearance, self.place.home
        for _ in range(TRIES):
            q = self.place.free(rng, 0.7)
            if not len(clearance.nearest(joint_frames(self.body.chain, q), FREE).distance):
                break
        return q

    def start(self, q: Float[np.ndarray, " J"]) -> None:
        """Let the arm stand at `q`."""
        self.plant.place(q)
        self.episode.q, self.episode.dq = q.copy(), np.zeros_like(q)

    def play(self, name: str, play: Play) -> Log:
        """Let one adversary propose for a stretch of time."""
        self.log, first, fastest = Log(), self.episode.tick, RUNAWAY * np.array(self.arm.dq_max)
        for tick in range(round(STRETCH_S / self.case.settings.dt)):
            silent = name == "far_first" and tick in SILENT and not self.plant.told[1].any()
            self.tick(None if silent else play(self.episode))
            if (np.abs(self.episode.dq) > fastest).any():
                self.tally.runaways += 1
                break
        self.tally.seconds += self.case.settings.dt * (self.episode.tick - first)
        return self.log

    def tick(self, asked: Asked | None) -> None:
        """Let the shield answer, unless it is not asked, and the arm follow."""
        if asked is None:
            q, v = self.plant.told[0], np.zeros_like(self.plant.told[1])
        else:
            q, v = self._command(asked)
        self.plant.follow(self.plant.tell(q, v), self.log)
        data, episode = self.plant.data, self.episode
        episode.tick += 1
        episode.q, episode.dq = data.qpos.copy(), data.qvel.copy()

    def _command(self, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
        episode, tally, shield = self.episode, self.tally, self.shield
        before = shield.latched
        if self.resets and before is not None and shield.reset(RobotState(episode.now, episode.q, episode.dq, 1.0)):
            tally.resets += 1
            self.plant.told, before = (episode.q, np.zeros_like(episode.q)), None
        command, report = shield.filter(asked.state, asked.proposal, asked.now)
        halt = shield.stop
        assert command is not None, "a measured state is always there"
        assert halt is not None
        if before is None and shield.latched is not None:
            tally.latched[str(shield.latched)] += 1
        tally.ticks += 1
        tally.accepted += report.accepted
        return command.q, halt.v


def told_surroundings(body: Body, case: Case) -> Surroundings:
    """Return what the shield is told: with the case's margins, and bounds that leave room for what an allowance does to wrist and tool."""
    around = case.around if case.told_margins is None else replace(case.around, margins=case.told_margins)
    if case.settings.allowance is None:
        return around
    x, y, z = (float(value) for value in body.chain.last_from_tcp[:3, 3])
    last = body.limits.num_joints
    points = tuple(Capsule("point", last, p, p, 0.0) for p in ((0.0, 0.0, 0.0), (x, y, z)))
    more = float((lever_arms(replace(body, capsules=points)) @ np.array(case.settings.allowance)).max())
    return replace(around, margins=replace(around.margins, bounds=around.margins.bounds + more))


def run_block(case: Case, seed: int, index: int) -> Tally:
    """Run one block from a free position, with one adversary after the other and no pause between them."""
    loop = Loop(case)
    rng = np.random.default_rng([seed, index])
    loop.start(loop.anywhere(rng))
    meter = Meter(loop.arm, loop.body, case.around)
    stretches = round(BLOCK_S / STRETCH_S)
    for stretch in range(stretches):
        name, make = PHYSICAL[(stretches * index + stretch) % len(PHYSICAL)]
        meter.measure(loop.play(name, make(loop.place, rng)), name, loop.tally)
        if loop.tally.runaways:
            break
    return loop.tally


# ------------------------------------------------------------------------------------------------------ a blocked arm


@dataclass(frozen=True)
class Blocked:
    """What happened to an arm that ran into something that its shield was not told of. One entry a tick."""

    error: list[float]  # [rad] between measured and commanded position, as the shield sees it when it is called
    latched: list[bool]  # after that call
    told: Float[np.ndarray, "K J"]  # [rad] the command that came of it
    push: float  # [N] largest force on the wall

    @property
    def tripped(self) -> int:
        """The first tick with a latched shield."""
        return self.latched.index(True)

    def report(self) -> dict[str, Any]:
        """Return what is written of it."""
        after = np.abs(np.diff(self.told[self.tripped :], axis=0)).max(axis=1)
        return {
            "error_before_rad": self.error[self.tripped - 1],
            "error_when_latched_rad": self.error[self.tripped],
            "travel_after_rad": float(np.abs(self.told[-1] - self.told[self.tripped]).max()),
            "ticks_until_still": int(np.flatnonzero(after)[-1]) + 1,
            "push_N": self.push,
        }


def run_into_a_wall(case: Case, ticks: int = 200) -> Blocked:
    """Turn the first joint until the tool meets a wall, and go on proposing."""
    arm = ARMS[case.arm]
    home, one = np.array(arm.home), np.eye(arm.num_joints)[0]
    centre = forward(arm, home + 0.7 * one)[:3, 3]
    loop = Loop(case, (*centre.tolist(), 0.1, 0.1, 0.1))
    loop.resets = False
    loop.start(home)
    error, latched, told, push = list[float](), list[bool](), list[np.ndarray](), 0.0
    for _ in range(ticks):
        error.append(float(np.abs(loop.episode.q - loop.plant.told[0]).max()))
        loop.tick(loop.episode.ask(home + 1.4 * one))
        latched.append(loop.shield.latched is not None)
        told.append(loop.plant.told[0])
        push = max(push, loop.plant.force)
    return Blocked(error, latched, np.stack(told), push)


# --------------------------------------------------------------------------------------------------------- all cases


def comparison(arm: str) -> tuple[Case, ...]:
    """Return the two controllers at the shield's own settings; with and without the limit of the torque's rate."""
    return (
        Case("position servo", arm, servo=PositionServo()),
        Case("computed torque", arm),
        Case("computed torque, rate free", arm, rate_limited=False),
    )


def at(arm: str, numbers: tuple[float, ...], *, rate: bool, friction: bool = False) -> Case:
    """Return a case with these `shares`."""
    speed, motion, jerk, halt, halt_jerk = numbers
    name = f"{'limited' if rate else 'free'}: v {speed:g}, a {motion:g}, j {jerk:g}, stop a {halt:g}, j {halt_jerk:g}"
    name += ", friction known" if friction else ""
    return Case(name, arm, shares(*numbers), ComputedTorque(friction=friction), rate_limited=rate)


def curve(arm: str) -> tuple[Case, ...]:
    """Return other shares of speed, acceleration and jerk."""
    limited = [(0.9, share, share, share, share) for share in (0.5, 0.35, 0.25)]
    limited += [(0.9, 0.5, jerk, 0.7, jerk) for jerk in (0.5, 0.2, 0.1, 0.05, 0.03, GENTLE)]
    limited += [(0.9, 0.5, GENTLE, halt, GENTLE) for halt in (1.0, 0.5)]
    limited += [(speed, 0.5, GENTLE, 0.7, GENTLE) for speed in (0.95, 0.8, 0.7)]
    free = [(0.9, 0.5, 0.5, halt, halt) for halt in (0.7, 0.5)]
    free += [(0.9, share, share, 0.7, 0.7) for share in (0.35, 0.25)]
    free += [(speed, 0.5, 0.5, 0.7, 0.7) for speed in (0.95, 0.8, 0.7)]
    return (*(at(arm, each, rate=True) for each in limited), *(at(arm, each, rate=False) for each in free))


def to_be_margined(arm: str) -> tuple[Case, ...]:
    """Return the cases whose errors become margins."""
    free = (0.9, 0.5, 0.5, 0.7, 0.7)
    return (
        at(arm, SMOOTH, rate=True),
        at(arm, SMOOTH, rate=True, friction=True),
        at(arm, free, rate=False),
        at(arm, free, rate=False, friction=True),
    )


def with_margins(case: Case, tally: Tally) -> tuple[Case, Case]:
    """Return the case with margins against what was measured: for the largest errors all at once, and for what was missing.

    Both are rounded up, the first to milliradians, the second to millimetres with one more.
    """
    errors = tuple(math.ceil(1e3 * error) / 1e3 for error in tally.error)
    margins = case.around.margins
    more = {name: 1e-3 * (1 + math.ceil(1e3 * max(0.0, short))) for name, short in shortfall(case, tally).items()}
    margins = replace(margins, **{name: getattr(margins, name) + value for name, value in more.items()})
    return (
        replace(case, name=f"{case.name}, allowance", settings=replace(case.settings, allowance=errors)),
        replace(case, name=f"{case.name}, margins", told_margins=margins),
    )


def shortfall(case: Case, tally: Tally) -> dict[str, float]:
    """Return by how much measured distances fell short of the margins [m]."""
    return {name: getattr(case.around.margins, name) - tally.clearance[name] for name in KINDS.values()}


def holds(case: Case, tally: Tally) -> dict[str, bool]:
    """Return what held: speed, distances, position limits."""
    return {
        "speed": tally.over <= 0.0,
        "distance": max(shortfall(case, tally).values()) <= 0.0,
        "position": tally.beyond <= 0.0,
    }


@dataclass
class Runner:
    """Runs cases block by block, and keeps the blocks in a file."""

    minutes: float
    seed: int
    workers: int
    blocks: Path

    def __post_init__(self) -> None:
        """Read what is there; a line that a crash cut off is dropped."""
        folder = Path(str(robot.__file__)).parent
        files = (Path(__file__), *sorted(folder.rglob("*.py")))
        self.source = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
        self.done: dict[str, dict[int, Tally]] = {}
        self.blocks.parent.mkdir(parents=True, exist_ok=True)
        text = self.blocks.read_text(encoding="utf-8") if self.blocks.is_file() else ""
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        self.blocks.write_text("".join(whole), encoding="utf-8")
        for entry in map(json.loads, whole):
            tally = Tally(**entry["tally"])
            tally.latched, tally.errors = Counter(tally.latched), [Counter(counts) for counts in tally.errors]
            self.done.setdefault(entry["case"], {})[entry["block"]] = tally

    def run(self, cases: tuple[Case, ...]) -> list[Tally]:
        """Return the tally of each case."""
        count = round(60.0 * self.minutes / BLOCK_S)
        keys = [jsonable.fingerprint([case, self.seed, self.source]) for case in cases]
        todo = [(k, i) for k, key in enumerate(keys) for i in range(count) if i not in self.done.get(key, {})]
        jobs = [(cases[k], self.seed, i) for k, i in todo]
        with self.blocks.open("a", encoding="utf-8") as file, _results(jobs, self.workers) as results:
            for (k, index), tally in zip(todo, tqdm(results, total=len(todo), unit="block"), strict=True):
                self.done.setdefault(keys[k], {})[index] = tally
                print(json.dumps({"case": keys[k], "block": index, "tally": vars(tally)}), file=file, flush=True)
        totals: list[Tally] = []
        for key in keys:
            total = Tally()
            for index in range(count):
                total.add(self.done[key][index])
            totals.append(total)
        return totals


@contextlib.contextmanager
def _results(jobs: list[tuple[Case, int, int]], workers: int) -> Generator[Iterator[Tally]]:
    if workers == 1:
        yield (run_block(*job) for job in jobs)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield pool.map(run_block, *zip(*jobs, strict=True)) if jobs else iter(())


# --------------------------------------------------------------------------------------------------------- what is shown


def row(case: Case, tally: Tally) -> dict[str, Any]:
    """Return what is written of a case."""
    joints = {"speed": tally.speed, "told_speed": tally.told_speed, "error": tally.error, "p99": tally.error_at(0.99)}
    margin = None
    if case.settings.allowance is not None:
        margin = float(required_margin(body_of(ARMS[case.arm]), np.array(case.settings.allowance)).max())
    return {
        "name": case.name,
        "case": jsonable.to_json(case),
        "seconds": tally.seconds,
        **{name: [round(value, 5) for value in values] for name, values in joints.items()},
        "saturated_share": tally.saturated / tally.steps,
        "rate_limited_share": tally.rate_limited / tally.steps,
        "latched": dict(tally.latched),
        "resets": tally.resets,
        "runaways": tally.runaways,
        "clearance_m": tally.clearance,
        "told_clearance_m": tally.told_clearance,
        "shortfall_m": shortfall(case, tally),
        "over_rad_s": tally.over,
        "beyond_rad": tally.beyond,
        "need_m": tally.need,
        "deviation_m": tally.deviation,
        "margin_m": margin,
        "accepted_share": tally.accepted / tally.ticks,
        "tool_path_m": tally.tool_path_m,
        "fastest": tally.fastest,
        "holds": holds(case, tally),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    head = (
        f"{'case':58} {'dq/rated':>8} {'err max':>8} {'p99':>7} {'obstacle':>8} {'self':>7} {'bounds':>7} {'torque':>7} {'rate':>6} "
        f"{'latched':>7} {'runaway':>7} {'accept':>6} {'path':>6}  holds"
    )
    units = f"{'':58} {'':>8} {'mrad':>8} {'mrad':>7} {'mm':>8} {'mm':>7} {'mm':>7} {'% steps':>7} {'%':>6} {'':>7} {'%':>6} {'m':>6}"
    lines = [head, units]
    for r in rows:
        near = [1e3 * r["clearance_m"][name] for name in KINDS.values()]
        good = ", ".join(name for name, value in r["holds"].items() if value) or "nothing"
        lines.append(
            f"{r['name']:58} {max(r['speed']):8.3f} {1e3 * max(r['error']):8.1f} {1e3 * max(r['p99']):7.1f} {near[0]:8.2f} {near[1]:7.2f} "
            f"{near[2]:7.2f} {100 * r['saturated_share']:7.2f} {100 * r['rate_limited_share']:6.1f} {sum(r['latched'].values()):7} {r['runaways']:7} "
            f"{100 * r['accepted_share']:6.1f} {r['tool_path_m']:6.0f}  {good}"
        )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw measured speed and distance over the commanded share of speed, and over that of jerk."""
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    figure, panels = pyplot.subplots(2, 2, figsize=(9, 6), sharex="col", sharey="row")
    lines = {
        f"torque rate limited, jerk {GENTLE:g}": (0, "speed", _points(rows, rate=True, jerk=GENTLE)),
        "torque rate free, jerk 0.5": (0, "speed", _points(rows, rate=False, jerk=0.5)),
        "torque rate limited, speed 0.9": (1, "jerk", _points(rows, rate=True, speed=0.9)),
    }
    for colour, (label, (column, share, points)) in enumerate(lines.items()):
        x = [r["case"]["settings"]["follow"][share] for r in points]
        style = {"marker": "o", "markersize": 4, "label": label, "color": f"C{colour}"}
        panels[0, column].plot(x, [max(r["speed"]) for r in points], **style)
        panels[1, column].plot(x, [1e3 * r["clearance_m"]["obstacle"] for r in points], **style)
    for column in range(2):
        panels[0, column].axhline(1.0, color="black", linewidth=0.8)
        panels[1, column].axhline(40.0, color="black", linewidth=0.8)
        panels[1, column].legend(fontsize=8, loc="lower left")
    panels[0, 0].plot((0.7, 0.95), (0.7, 0.95), color="grey", linestyle=":", label="commanded")
    panels[0, 0].set(ylabel="largest measured speed / rated")
    panels[1, 0].set(ylabel="smallest measured distance [mm]", xlabel="share of the rated speed, acceleration 0.5")
    panels[1, 1].set(xlabel="share of the rated jerk", xscale="log")
    shares = sorted({r["case"]["settings"]["follow"]["jerk"] for r in lines["torque rate limited, speed 0.9"][2]})
    panels[1, 1].set_xticks(shares, [f"{share:g}" for share in shares])
    panels[1, 1].minorticks_off()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _points(rows: list[dict[str, Any]], *, rate: bool, **share: float) -> list[dict[str, Any]]:
    """Return the rows on a line: acceleration 0.5, stops 0.7, nothing known of friction, no other margins."""
    found: list[dict[str, Any]] = []
    for r in rows:
        case = r["case"]
        follow, halt = case["settings"]["follow"], case["settings"]["stop"]
        plain = (
            case["servo"] == jsonable.to_json(ComputedTorque()) and r["margin_m"] is None and not case["told_margins"]
        )
        same = follow["acceleration"] == 0.5 and halt["acceleration"] == 0.7 and case["rate_limited"] is rate
        if plain and same and all(follow[name] == value for name, value in share.items()):
            found.append(r)
    return sorted(
        found, key=lambda r: (r["case"]["settings"]["follow"]["jerk"], r["case"]["settings"]["follow"]["speed"])
    )


def main() -> None:
    """Run what is missing, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="simulated, of each case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/plant.json"))
    parser.add_argument("--arm", choices=sorted(ARMS), default="panda")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--curve", action="store_true", help="other shares, and margins")
    options = parser.parse_args()
    runner = Runner(options.minutes, options.seed, options.workers, options.out.with_suffix(".jsonl"))
    cases, bases = comparison(options.arm), to_be_margined(options.arm)
    if options.curve:
        cases = tuple(dict.fromkeys((*cases, *curve(options.arm), *bases)))
    tallies = runner.run(cases)
    if options.curve:
        measured = dict(zip(cases, tallies, strict=True))
        margined = tuple(each for case in bases for each in with_margins(case, measured[case]))
        fresh = Runner(options.minutes, options.seed + 1, options.workers, runner.blocks)  # on other proposals
        cases, tallies = (*cases, *margined), [*tallies, *fresh.run(margined)]
    rows = [row(case, tally) for case, tally in zip(cases, tallies, strict=True)]
    blocked = run_into_a_wall(cases[2])
    write_json(options.out, {"seed": options.seed, "rows": rows, "blocked": blocked.report()})
    print(table(rows))
    print("blocked:", json.dumps(blocked.report()))
    if options.curve:
        plot(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
