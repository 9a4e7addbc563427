"""The simulated arm behind a shield: 100 commands a second that keep the arm's limits and a distance from the table.

A second layer, shown in simulation. It is no safety-rated system.

The tabletop's control asks for up to 0.5 m/s from one instant to the next, and policies learn from an arm that follows. No arm can within
rated accelerations: it takes about 0.1 s to come up to speed, and 3 cm to stop. So there are three stages, once in 10 ms:

1. *Way.* A jerk-limited motion to the end of the control's ramp and to rest there, straight in joint space, no sooner than the ramp ends.
   What it proposes is legal, so the shield has no need to change it unless something is in the way.
2. *Shield.* It sends the proposal, or something else, and says why.
3. *Arm.* It follows a straight line from the last command to this one.

A step of the environment lasts as long as the ramp, and on until the arm will be there within `NEARLY`. Otherwise a policy would see an arm
that lags and add its correction to a motion that is still to come. Measured with the shipped policy, 30 episodes each, successes by what is
left of the way when a step ends: 30 ms 30, 50 ms 30, 70 ms 29, 100 ms 27, steps of 0.1 s whatever is left 18.
"""

import copy
import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import ruckig
from jaxtyping import Bool, Float, Shaped

from ideomotor.core.errors import UserError
from ideomotor.robot.arm import Arm
from ideomotor.robot.body import Body, body_of
from ideomotor.robot.checker import Checker, counts
from ideomotor.robot.control import EndEffectorControl, leash
from ideomotor.robot.follower import TOOL_SHARE, straight_speeds
from ideomotor.robot.kinematics import forward
from ideomotor.robot.limits import Share, speed_bounds
from ideomotor.robot.proposal import Proposal
from ideomotor.robot.report import Report
from ideomotor.robot.shield import Shield
from ideomotor.robot.shield_settings import RATED, Settings
from ideomotor.robot.surroundings import Bounds, HalfSpace, Obstacle, Surroundings
from ideomotor.sim.world import PHYSICS_HZ, SimulatedArm

DT = 0.01  # [s] a tick of the shield
STEP_TICKS = 10  # of an action
NEARLY = 0.04  # [s] a step ends when the arm will be at the ramp's end so soon; see above
SPEED_SHARE = 0.95  # of the allowed speed: the shield's estimate at the end of a tick is up to 0.1 rad/s above the mean
PASSED = ("proposal", "follow")  # what a shield does when nothing is in the way
FORBIDDEN = ("table", "finger")  # that links and hand touch, in the simulation

# What hand and links, as commanded, keep from the table. They were measured up to 7 mm lower than commanded with the shipped policy, 11 mm
# with random actions, 20 mm with proposals that try to break the shield. With the tool at 10 mm, the lowest that the control goes to, a
# Panda's hand is still 48 mm above the table and a UR5e's gripper 41 mm; the lowest stop on the shipped policy's way takes it to 28 mm.
TABLE_MARGIN = 0.025  # [m]
TABLETOP = Surroundings(
    # Where the workspace takes tool and wrist. Downwards 1 cm into the table: a stop on the way down to it bends by up to 4 mm, as every
    # joint stops as soon as it can. What touches the table there are fingers.
    bounds=Bounds((-0.05, -0.65, -0.01), (1.00, 0.65, 1.00)),
    obstacles=(
        # The table's plane goes on beyond its edges and stands for the floor, too. What the fingers do on it is the task.
        Obstacle("table", HalfSpace((0.0, 0.0, 1.0), 0.0), TABLE_MARGIN, may_touch=("finger", "held")),
    ),
)


@dataclass(frozen=True)
class ShieldOptions:
    """How the arm of an environment is shielded. The default: rated limits of the joints, no cap of the tool's speed."""

    tool_speed: float | None = None  # [m/s] cap of the tool centre point
    wait: float = 0.5  # [s] that a step may last longer than an action; 0: never longer
    share: Share = RATED  # of the arm's limits
    around: Surroundings = TABLETOP

    def __post_init__(self) -> None:
        if not 0.0 <= self.wait < 60.0:
            raise UserError(f"shield of the tabletop: wait is {self.wait}; from 0 to below 60 is allowed [s]")

    @property
    def settings(self) -> Settings:
        """The shield's."""
        return Settings(dt=DT, follow=self.share, stop=self.share, tool_speed=self.tool_speed)


@dataclass(frozen=True)
class ShieldRecord:
    """What a shield did in an episode, and what an independent checker found in the commands that the arm got."""

    ticks: int
    altered: int  # ticks in which something else than the proposal was sent
    stopped: int  # ticks of a stop, or of standing after one
    latched: str | None  # why the arm was held until the end
    reasons: Mapping[str, int]  # ticks by reason
    touched: Mapping[str, int]  # ticks in which link or hand, in the simulation, touched "table", "object" or "finger"
    violations: Mapping[
        str, int
    ]  # by kind, those that were found: the checker's kinds, and "touched_..." of `FORBIDDEN`
    examples: tuple[str, ...]  # the first violation of each kind, in words


class _Motion(NamedTuple):
    """Positions [rad], speeds [rad/s] and accelerations [rad/s^2] of the joints."""

    q: Float[np.ndarray, " J"]
    v: Float[np.ndarray, " J"]
    a: Float[np.ndarray, " J"]


@dataclass
class _Log:
    """What has happened in this episode."""

    start: np.ndarray  # [rad] measured; what the checker begins with
    altered: int = 0
    stopped: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])
    touched: Counter[str] = field(default_factory=Counter[str])
    sent: list[np.ndarray] = field(default_factory=list[np.ndarray])


class ShieldedArm:
    """A simulated arm that only a shield moves."""

    def __init__(self, arm: SimulatedArm, options: ShieldOptions) -> None:
        """Take over an arm at rest, where it is."""
        self.arm, self.options = arm, options
        self._body, self._checker = _known(arm.arm, options)
        self._way = _Way(self._body, options)
        self._parts, self._others = _geoms(arm.world.model)
        self.begin()

    def begin(self) -> None:
        """Begin an episode with the arm where it is measured."""
        self.shield = Shield(self._body, self.options.around, self.options.settings)
        start = self.arm.read().q
        self._motion = _Motion(start, np.zeros_like(start), np.zeros_like(start))
        self._log = _Log(start)

    @property
    def time(self) -> float:
        """[s] on the clock of proposals."""
        return float(self.arm.world.data.time)

    @property
    def ticks(self) -> int:
        """How many there have been since the beginning."""
        return len(self._log.sent)

    # 1 motion

    def move(self, goal: Float[np.ndarray, " J"], opening: float) -> bool:
        """Go to joint positions [rad], for the time of an action and on until nearly there. Return whether the shield held the arm back."""
        longest = STEP_TICKS + round(self.options.wait / DT)
        held = False
        for tick in range(longest):
            motion, left = self._way.tick(self._motion, goal, (STEP_TICKS - tick) * DT)
            report = self.propose(Proposal(motion.q, self.time, self.ticks, opening))
            commanded = self.shield.commanded
            unchanged = report.how == "proposal" and not report.intervened
            if not unchanged and commanded is not None:
                motion = _Motion(commanded.q, commanded.v, commanded.a)
            self._motion = motion
            held = report.how not in PASSED
            if tick + 1 >= STEP_TICKS and (held or left <= NEARLY):
                break
        return held

    def propose(self, proposal: object) -> Report:
        """Let the shield judge a proposal, whatever that is, and move the arm for one tick by what it sends."""
        arm, log = self.arm, self._log
        state = arm.read()
        command, report = self.shield.filter(state, proposal, state.time)
        if command is None:
            raise RuntimeError(f"the shield has never seen a valid state of the arm: {state}")
        self._follow(command.q, command.opening)
        log.altered += report.intervened
        log.stopped += report.how in ("stop", "hold")
        log.reasons.update(str(reason) for reason in report.reasons)
        log.touched.update(self._touches())
        log.sent.append(arm.last_q)
        return report

    def _follow(self, q: Float[np.ndarray, " J"], opening: float) -> None:
        steps = round(DT * PHYSICS_HZ)
        before = self.arm.last_q
        rows_KJ = before + np.arange(1, steps + 1)[:, None] / steps * (q - before)
        rows_KJ[-1] = q
        self.arm.follow(rows_KJ, np.full(steps, opening))

    def _touches(self) -> set[str]:
        """Return what hand and links touch now."""
        pairs = self.arm.world.data.contact.geom
        found: set[str] = set()
        for a, b in ((0, 1), (1, 0)):
            found.update(self._others[pairs[self._parts[pairs[:, a]], b]].tolist())
        return found - {""}

    # 2 what came of it

    def record(self) -> ShieldRecord:
        """Return what has happened since the beginning; the checker looks at all commands anew."""
        log = self._log
        stream = self._checker.stream()
        stream.restart(log.start)
        found = stream.extend(np.stack(log.sent)) if log.sent else []
        violations = {kind: count for kind, count in counts(found).items() if count}
        violations |= {f"touched_{thing}": log.touched[thing] for thing in FORBIDDEN if log.touched[thing]}
        return ShieldRecord(
            ticks=len(log.sent),
            altered=log.altered,
            stopped=log.stopped,
            latched=None if self.shield.latched is None else str(self.shield.latched),
            reasons=dict(log.reasons),
            touched=dict(log.touched),
            violations=violations,
            examples=tuple(str(next(v for v in found if v.kind == kind)) for kind in sorted({v.kind for v in found})),
        )

    def get_state(self) -> Any:
        """Return all that changes during an episode, the physics apart."""
        return self.shield.get_state(), self._motion, _copied(self._log)

    def set_state(self, state: Any) -> None:
        """Undo everything since `get_state`."""
        shield, self._motion, log = state
        self.shield.set_state(shield)
        self._log = _copied(log)


def draw_back(control: EndEffectorControl, arm: Arm, q: Float[np.ndarray, " J"], *, held: bool) -> None:
    """Keep the commanded pose of a control near the joint positions [rad] that a shield has sent, so that it does not run away.

    An arm that is on its way is left alone within the leash that the control keeps to its own joints. One that is held back takes the
    commanded position along. The commanded rotation stays: else an arm that was held while it tilted would go on tilted.
    """
    reached, target = forward(arm, q), control.target
    if held:
        target[:3, 3] = reached[:3, 3]
    else:
        target, far = leash(reached, target, target)
        if not far:
            return
    state = control.get_state()
    joints = arm.num_joints
    state[:joints], state[joints : joints + 12] = q, target[:3].ravel()
    control.set_state(state)


class _Way:
    """Motions to rest at a goal, straight in joint space where the speed allows."""

    def __init__(self, body: Body, options: ShieldOptions) -> None:
        self._body, self._options, limits = body, options, body.limits
        joints, share = limits.num_joints, options.share
        self._top = SPEED_SHARE * share.speed * np.array(limits.speed)
        inside = options.around.margins.goal
        self._low, self._high = np.array(limits.q_min) + inside, np.array(limits.q_max) - inside
        self._otg: Any = ruckig.Ruckig(joints, DT)
        self._input: Any = ruckig.InputParameter(joints)
        self._output: Any = ruckig.OutputParameter(joints)
        self._input.max_acceleration = (share.acceleration * np.array(limits.acceleration)).tolist()
        self._input.max_jerk = (share.jerk * np.array(limits.jerk)).tolist()
        self._input.synchronization = ruckig.Synchronization.Phase

    def tick(self, now: _Motion, goal: Float[np.ndarray, " J"], least: float) -> tuple[_Motion, float]:
        """Return the motion a tick later, and the time [s] that it takes from there; in all at least `least` [s].

        Where ruckig finds no motion, it is the goal itself: if that is not near, the shield knows what to do with it.
        """
        given, out = self._input, self._output
        goal = np.minimum(np.maximum(goal, self._low), self._high)  # as far as a shield lets joints go
        low, high = self._speeds(now.q, goal)
        given.current_position, given.current_velocity, given.current_acceleration = (row.tolist() for row in now)
        given.target_position, given.minimum_duration = goal.tolist(), least if least > 0.0 else None
        given.min_velocity, given.max_velocity = low.tolist(), high.tolist()
        self._otg.reset()  # a function of its arguments
        try:
            result = self._otg.update(given, out)
        except ruckig.RuckigError:  # one in 10,000 times within 1e-9 rad of the goal
            result = ruckig.Result.Error
        motion = _Motion(*(np.array(row) for row in (out.new_position, out.new_velocity, out.new_acceleration)))
        good = result in (ruckig.Result.Working, ruckig.Result.Finished)
        if not good or not all(np.isfinite(row).all() for row in motion):
            return _Motion(goal, np.zeros_like(goal), np.zeros_like(goal)), 0.0
        return motion, out.trajectory.duration - DT

    def _speeds(
        self, q: Float[np.ndarray, " J"], goal: Float[np.ndarray, " J"]
    ) -> tuple[Float[np.ndarray, " J"], Float[np.ndarray, " J"]]:
        """Return the speeds [rad/s] that are allowed downwards and upwards."""
        top, cap = self._top, self._options.tool_speed
        if cap is not None:
            top = straight_speeds(self._body.chain, q, goal, top, TOOL_SHARE * cap)
        law_low, law_high = speed_bounds(self._body.limits, q)
        return np.minimum(np.maximum(-top, SPEED_SHARE * law_low), -1e-3), np.maximum(
            np.minimum(top, SPEED_SHARE * law_high), 1e-3
        )


def simulated_body(arm: Arm) -> Body:
    """Return the body of the arm as it is simulated: the capsules of `sim.mjcf`, as a real hull is another shape."""
    return body_of(replace(arm, hull=()))


@functools.lru_cache(maxsize=8)
def _known(arm: Arm, options: ShieldOptions) -> tuple[Body, Checker]:
    body = simulated_body(arm)
    checker = Checker(
        arm, body.limits, body.capsules, body.self_pairs, options.around, DT, options.share, options.tool_speed
    )
    return body, checker


def _geoms(model: Any) -> tuple[Bool[np.ndarray, " G"], Shaped[np.ndarray, " G"]]:
    """Tell which geoms are links or the hand, and what the others are called, if anything."""
    bodies = [str(model.body(int(body)).name) for body in model.geom_bodyid]
    parts = np.array([name.startswith("link") or name == "hand" for name in bodies])
    names = {"world": "table", "table": "table", "finger": "finger", "object": "object"}  # the floor is below the table
    others = [next((name for start, name in names.items() if body.startswith(start)), "") for body in bodies]
    return parts, np.array(others)


def _copied(log: _Log) -> _Log:
    return replace(
        log, reasons=copy.copy(log.reasons), touched=copy.copy(log.touched), sent=list(log.sent)
    )  # arrays are never changed
