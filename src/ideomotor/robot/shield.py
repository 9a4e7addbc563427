"""A filter between any policy and the motors: it sends a command only if a complete, verified stop follows from where it leads.

A second layer. It is no safety-rated system (ISO 10218, ISO 13849): those live in the robot's controller and its emergency stop. What it
promises holds for the obstacles it was told of, as long as they stand still and the robot follows its commands.

One tick, `dt` long:

1. Proposal, measured state and clock are checked: shape, numbers, age, order. What is wrong leads to a stop.
2. Candidates, best first: the proposal itself where it is legal; one tick of the time-optimal jerk-limited motion towards it (ruckig); one
   towards what a velocity program finds around an obstacle; where nothing is in the way, one towards a quarter of the way.
3. For each candidate the quickest stop from where it leads is computed (`robot.stop`) and sampled, the present command in front. Every
   sample must keep joint limits, speed law, margins to obstacles, to the arm itself and to the bounds, and the tool's speed cap.
4. The first candidate that does is sent, and its stop is kept. If none does, the arm goes one tick further along the stop it kept before.

So the command always lies on a verified stop, and by induction everything that was verified holds for ever. A margin that is broken
already (an arm started there, somebody moved an obstacle in) counts as what is left of it: it may only grow. Source: Schepp et al., SaRA: A
Tool for Safe Human-Robot Coexistence (2022) and Wabersich and Zeilinger, predictive safety filters (2021), for the principle.
"""

import copy
import math
import time as clocks
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from jaxtyping import Float

from ideomotor.core.errors import UserError
from ideomotor.core.rotation import log_of_one
from ideomotor.robot.body import Body
from ideomotor.robot.clearance import Clearance, Verdict
from ideomotor.robot.contact import TorqueReflex
from ideomotor.robot.follower import TOOL_SHARE, Candidate, Follower, Moving, straight_speeds
from ideomotor.robot.joint_filter import stoppable_speed
from ideomotor.robot.kinematics import joint_frames
from ideomotor.robot.limits import speed_bounds
from ideomotor.robot.proposal import Found, PoseProposal, Proposal, Retreat, read_floats, read_state
from ideomotor.robot.reading import is_number
from ideomotor.robot.reasons import Reason
from ideomotor.robot.report import How, Report
from ideomotor.robot.robot import JointCommand, RobotState
from ideomotor.robot.shield_settings import REDUCED, Settings
from ideomotor.robot.stop import Stop, plan_stop, standstill
from ideomotor.robot.surroundings import Surroundings
from ideomotor.robot.tracking import TrackingMonitor, required_margin
from ideomotor.robot.velocity_qp import GAIN, Wish, barrier_rows, joint_wish, solve, tool_wish

LARGEST_SEQUENCE = 2**63
SAMPLE = 0.01  # [s] between samples of a stop, or a tick where that is longer
AHEAD = 0.08  # [s] how far ahead of the arm a goal made of speeds lies
SCALE = 0.25  # share of the way to the goal that is tried last
STILL = 0.02  # [rad/s] a joint that is slower counts as standing when the filter starts
HALTED = 0.1  # [rad/s] an arm that stands, though its last command was faster than this, has been stopped meanwhile
MOVED = 0.01  # [rad] further from its last command, it has been moved
AT_REST = 0.05  # [rad/s] the arm has to be slower than this for a reset
FUTURE = 0.001  # [s] a stamp may lie this far ahead of the clock
LAW_RESERVE = 1e-3  # [rad/s] as the robot's own limiter takes off
CLOSE = 0.02  # [m] beyond its margin, something is near enough to retreat from
LEFT = 0.05  # [m/s] what may be approached no faster, some 2 cm beyond its margin, is what to move away from
WAYPOINT = 0.02  # [rad] between remembered positions
REMEMBERED = 2000  # positions
GEOMETRIC = frozenset({Reason.COLLISION, Reason.SELF_COLLISION, Reason.WORKSPACE})


@dataclass
class Memory:
    """All that changes from tick to tick. Arrays are replaced, never changed in place."""

    moving: Moving  # the last command
    kept: Stop  # the stop that was verified last
    elapsed: float  # [s] on it
    measured: Float[np.ndarray, " J"]  # [rad]
    goal: Float[np.ndarray, " J"] | None = None  # [rad] of the tick before
    cap: float = math.inf  # [m/s] of the tool now
    tool_speed: float = 0.0  # [m/s] largest of the last command and its stop
    recovering: bool = True  # until a tick has found everything inside
    history: deque[np.ndarray] = field(default_factory=lambda: deque[np.ndarray](maxlen=REMEMBERED))


@dataclass
class Watch:
    """What has been heard, and what has gone wrong."""

    tracking: TrackingMonitor
    reflex: TorqueReflex | None
    latch: Reason | None = None
    now: float = -math.inf  # [s] of the last call
    sequence: int | None = None
    opening: float = 1.0  # [fraction]


class Shield:
    """The filter of one arm. It never raises, and never returns a number that is not finite."""

    def __init__(
        self,
        body: Body,
        around: Surroundings | None = None,
        settings: Settings | None = None,
        clock: Callable[[], float] = clocks.perf_counter,
    ) -> None:
        """Prepare a filter; it takes its first position from the first valid state.

        Raises:
            UserError: the payload is more than the arm is rated for.
        """
        self.body, self.around, self.settings = body, around or Surroundings(), settings or Settings()
        s, limits = self.settings, body.limits
        held = self.around.held
        load = self.around.payload + (held.mass if held else 0.0)
        if load > limits.payload:
            raise UserError(f"{body.name} carries {limits.payload:g} kg, and the payload is {load:g} kg; lighten it")
        self._joints = limits.num_joints
        for name, table in {"allowance": s.allowance, "reflex": s.reflex}.items():
            if table is not None and len(table) != self._joints:
                raise UserError(
                    f"{body.name} has {self._joints} joints, and {name} {len(table)} numbers; give one for each joint"
                )
        self.clearance = Clearance(_thicker(body, s.allowance), self.around)
        self.follower = Follower(limits, s.dt, s.follow)
        self._halt = np.array([limits.speed, limits.acceleration, limits.jerk])
        self._halt *= [[s.stop.speed], [s.stop.acceleration], [s.stop.jerk]]
        margins, more = self.around.margins, np.array(s.allowance or (0.0,) * self._joints)
        low, high = np.array(limits.q_min) + more, np.array(limits.q_max) - more
        self._q_min, self._q_max = low + margins.joint, high - margins.joint
        self._goal_min, self._goal_max = low + margins.goal, high - margins.goal
        if not (self._goal_min < self._goal_max).all():
            raise UserError(
                f"{body.name}: margins goal and joint and the allowance leave no room between q_min and q_max; make them smaller"
            )
        self._stride = max(1, round(SAMPLE / s.dt))
        self._clock = clock
        self._memory: Memory | None = None
        self._watch = Watch(
            TrackingMonitor(s.tracking, self._joints),
            None if s.reflex is None else TorqueReflex(s.reflex, s.reflex_ticks),
        )

    # 1 what a caller uses

    def filter(self, state: object, proposal: object, now: object) -> tuple[JointCommand | None, Report]:
        """Return the command of this tick, and what became of the proposal.

        Args:
            state: `RobotState`, measured.
            proposal: `Proposal`, `PoseProposal` or `Retreat`; anything else stops the arm.
            now: [s] on a monotonic clock.

        Returns:
            The command is None only as long as no valid state has ever come in: there is nothing that could be sent.
        """
        try:
            return self._tick(state, proposal, now)
        except Exception:  # noqa: BLE001 (a fault in here must stop the arm, not the program that holds it)
            return self._failed()

    def reset(self, state: object) -> bool:
        """Clear the latch if its cause is gone and the arm stands; start anew from the measured position. Never starts motion."""
        measured, watch, memory = read_state(state, self._joints), self._watch, self._memory
        if measured is None or np.abs(measured[1]).max() > AT_REST or (memory is not None and not _standing(memory)):
            return False
        if watch.now - cast("RobotState", state).time > self.settings.max_age:
            return False
        if watch.reflex is not None:
            watch.reflex.update(getattr(state, "external_torque", None))
            if not watch.reflex.reset():
                return False
        watch.latch, watch.tracking = None, TrackingMonitor(self.settings.tracking, self._joints)
        self._memory = self._begun(measured[0], np.zeros(self._joints))
        return True

    @property
    def latched(self) -> Reason | None:
        """Why the filter holds the arm until `reset`, or None."""
        return self._watch.latch

    @property
    def commanded(self) -> Moving | None:
        """The motion that was sent last; None before the first valid state."""
        return None if self._memory is None else self._memory.moving

    @property
    def stop(self) -> Stop | None:
        """The verified stop from the last command on; None before the first valid state."""
        if self._memory is None:
            return None
        now = self._memory.moving
        return plan_stop(now.q, now.v, now.a, self._halt[1], self._halt[2])

    def set_tool_speed(self, cap: float | None) -> None:
        """Change the cap [m/s]; a lower one comes down at `tool_braking`.

        Raises:
            UserError: it is not above 0.
        """
        self.settings = replace(self.settings, tool_speed=cap)

    def get_state(self) -> tuple[Memory | None, Watch]:
        """Return all that changes from tick to tick, for `set_state`."""
        return copy.deepcopy((self._memory, self._watch))

    def set_state(self, state: tuple[Memory | None, Watch]) -> None:
        """Undo everything since `get_state`."""
        self._memory, self._watch = copy.deepcopy(state)

    # 2 a tick

    def _tick(self, state: object, proposal: object, now: object) -> tuple[JointCommand | None, Report]:
        begun = self._clock()
        found = Found()
        gap = self._check_clock(now, found)
        measured = self._measured(state, found)
        if self._memory is None:
            if measured is None:
                return None, Report("none", tuple(found.reasons))
            self._watch.opening = measured[2]
            self._memory = self._begun(measured[0], measured[1])
        elif gap > self.settings.gap:
            self._memory = self._resumed(self._memory, measured, found)
        elif measured is not None:
            self._compare(self._memory, measured[0], found)
        memory, watch = self._memory, self._watch
        if watch.reflex is not None and watch.reflex.update(getattr(state, "external_torque", None)):
            watch.latch = watch.latch or Reason.CONTACT
        if watch.latch is not None:
            found.add(watch.latch, Reason.LATCHED)
        goal = self._goal(memory, proposal, found)
        if goal is None or found.reasons:
            return self._halted(memory, found)
        return self._sent(memory, proposal, goal, found, begun)

    def _check_clock(self, now: object, found: Found) -> float:
        """Return how long ago the last call was [s]."""
        if not is_number(now):
            found.add(Reason.NONFINITE)
            return 0.0
        time = float(cast("float", now))
        gap, self._watch.now = time - self._watch.now, time
        if gap <= 0.0:
            found.add(Reason.OUT_OF_ORDER)
            return 0.0
        return gap

    def _measured(self, state: object, found: Found) -> tuple[np.ndarray, np.ndarray, float] | None:
        """Return position, speed and opening, or None where they are no numbers or not of now."""
        measured = read_state(state, self._joints)
        if measured is None or not isinstance(state, RobotState):
            found.add(Reason.NONFINITE if isinstance(state, RobotState) else Reason.SHAPE)
            return None
        if not -FUTURE <= self._watch.now - state.time <= self.settings.max_age:
            found.add(Reason.STALE)
            return None
        return measured

    def _begun(self, q: Float[np.ndarray, " J"], dq: Float[np.ndarray, " J"]) -> Memory:
        """Take the measured position as the command; what moves already is stopped first."""
        moves = np.abs(dq) > STILL
        speed = np.where(moves, np.clip(dq, -self._halt[0], self._halt[0]), 0.0)
        zero = np.zeros(self._joints)
        kept = plan_stop(q, speed, zero, self._halt[1], self._halt[2]) if moves.any() else standstill(q)
        self._watch.sequence = None  # somebody else may be counting now; age and clock still tell old proposals
        return Memory(Moving(q.copy(), speed, zero, speed, zero), kept, 0.0, q.copy())

    def _resumed(self, memory: Memory, measured: tuple[np.ndarray, np.ndarray, float] | None, found: Found) -> Memory:
        """Begin anew after a silence, if the arm stands. If it still moves, the clock jumped and not the arm: go on with the stop."""
        if measured is not None and self._watch.latch is None:
            q, dq, _ = measured
            unlike = np.abs(memory.moving.v).max() > HALTED or np.abs(q - memory.moving.q).max() > MOVED
            if _standing(memory) or (unlike and np.abs(dq).max() <= STILL):
                return self._begun(q, np.zeros(self._joints))
        found.add(Reason.DEADLINE)
        return memory

    def _compare(self, memory: Memory, q: Float[np.ndarray, " J"], found: Found) -> None:
        if self._watch.tracking.update(q, memory.moving.q):
            found.joints = tuple(np.flatnonzero(np.abs(q - memory.moving.q) > self.settings.tracking).tolist())
            self._watch.latch = self._watch.latch or Reason.TRACKING_ERROR
        memory.measured = q

    # 3 what is wanted

    def _goal(self, memory: Memory, proposal: object, found: Found) -> Float[np.ndarray, " J"] | None:
        """Return joint positions to move towards, or None for a proposal that is not valid."""
        if not isinstance(proposal, Proposal | PoseProposal | Retreat):
            found.add(Reason.SHAPE)
            return None
        if not self._in_time(proposal, found):
            return None
        match proposal:
            case Proposal(q):
                goal = read_floats(q, (self._joints,), found)
            case PoseProposal(pose):
                matrix = read_floats(pose, (4, 4), found)
                goal = None if matrix is None else self._towards(memory, matrix, found)
            case Retreat():
                goal = _back(memory)
        if goal is not None:
            self._watch.sequence = proposal.sequence
            self._watch.opening = min(max(float(proposal.opening), 0.0), 1.0)
        return goal

    def _in_time(self, proposal: Proposal | PoseProposal | Retreat, found: Found) -> bool:
        stamp, opening = proposal.time, proposal.opening
        sequence: object = proposal.sequence
        if not is_number(stamp) or not is_number(opening):
            found.add(Reason.NONFINITE)
            return False
        if type(sequence) is not int or abs(sequence) > LARGEST_SEQUENCE:
            found.add(Reason.SHAPE)
            return False
        if not -FUTURE <= self._watch.now - stamp <= self.settings.max_age:
            found.add(Reason.STALE)
        if self._watch.sequence is not None and sequence <= self._watch.sequence:
            found.add(Reason.OUT_OF_ORDER)
        return not found.reasons

    def _towards(
        self, memory: Memory, base_from_goal: Float[np.ndarray, "4 4"], found: Found
    ) -> Float[np.ndarray, " J"] | None:
        frames = joint_frames(self.body.chain, memory.moving.q)
        last = self.body.chain.last_from_tcp
        tool = frames[-1] @ last
        turn = base_from_goal[:3, :3]
        if not np.abs(turn @ turn.T - np.eye(3)).max() <= 1e-3 or np.linalg.det(turn) < 0.0:
            found.add(Reason.SHAPE)
            return None
        error = np.concatenate([base_from_goal[:3, 3] - tool[:3, 3], log_of_one(turn @ tool[:3, :3].T)])
        error[:3] *= min(1.0, 0.3 / max(float(np.linalg.norm(error[:3])), 1e-9))
        return self._wished(memory, tool_wish(frames, last, error), found)

    def _wished(self, memory: Memory, wish: Wish, found: Found) -> Float[np.ndarray, " J"] | None:
        """Return a goal a little ahead, in the direction that the velocity program allows."""
        q, d, a = memory.moving.q, self.settings.dt, self.follower.bounds[1]
        high = np.minimum(0.8 * self._halt[0], stoppable_speed(np.maximum(self._goal_max - q, 0.0), a, d))
        low = -np.minimum(0.8 * self._halt[0], stoppable_speed(np.maximum(q - self._goal_min, 0.0), a, d))
        v = solve(self.clearance, q, wish, low, high)
        if v is None:
            found.add(Reason.SOLVER)
            return None
        return q + AHEAD * v

    # 4 candidates

    def _sent(
        self, memory: Memory, proposal: object, goal: Float[np.ndarray, " J"], found: Found, begun: float
    ) -> tuple[JointCommand, Report]:
        """Send the first candidate whose stop keeps everything, else a tick of the stop that was kept."""
        inside = np.minimum(np.maximum(goal, self._goal_min), self._goal_max)
        if (inside != goal).any():
            found.add(Reason.JOINT_POSITION)
            found.joints = tuple(np.flatnonzero(inside != goal).tolist())
        self._lower_cap(memory)
        budget = self.settings.budget
        for candidate in self._candidates(memory, proposal, inside, found):
            if budget is not None and self._clock() - begun > budget:
                found.add(Reason.DEADLINE)
                break
            stop = plan_stop(candidate.q, candidate.v, candidate.a, self._halt[1], self._halt[2])
            verdict = self._verified(memory, stop, found)
            if verdict is not None:
                memory.goal = inside
                return self._accepted(memory, candidate, stop, verdict, found)
        return self._halted(memory, found)

    def _candidates(
        self, memory: Memory, proposal: object, goal: Float[np.ndarray, " J"], found: Found
    ) -> Iterator[Candidate]:
        how: How = "retreat" if isinstance(proposal, Retreat) else "follow"
        now, follow = memory.moving, self.follower
        if how == "retreat" and not memory.history:  # nothing to go back to
            yield from self._leaving(memory, found)
        if isinstance(proposal, Proposal):
            yield from follow.legal(now, goal, found)
        speed = self._goal_speed(memory, goal) if how == "follow" else None
        yield from follow.follow(now, how, goal, speed, self._top_speed(memory, goal, how), found)
        if not GEOMETRIC.isdisjoint(found.reasons):
            if how == "retreat":
                yield from self._leaving(memory, found)
                return
            around = self._wished(memory, joint_wish(now.q, goal), found)
            if around is not None:
                yield from follow.follow(now, "around", around, None, self._top_speed(memory, around, "around"), found)
                return
        nearer = now.q + SCALE * (goal - now.q)
        yield from follow.follow(now, "scaled", nearer, None, self._top_speed(memory, nearer, "scaled"), found)

    def _goal_speed(self, memory: Memory, goal: Float[np.ndarray, " J"]) -> Float[np.ndarray, " J"] | None:
        """Return how fast the goal moves, unless it jumped: then it should be reached at rest."""
        if memory.goal is None:
            return None
        speed = (goal - memory.goal) / self.settings.dt
        return speed if (np.abs(speed) <= 0.95 * self.follower.bounds[0]).all() else None

    def _top_speed(self, memory: Memory, goal: Float[np.ndarray, " J"], how: How) -> Float[np.ndarray, " J"]:
        """Return the speed limits of the follower: a straight way at the tool's cap, where there is one."""
        share = {"follow": 1.0, "retreat": 0.3}.get(how, 0.5)
        top = share * self.follower.bounds[0]
        if not math.isfinite(memory.cap):
            return top
        return straight_speeds(self.body.chain, memory.moving.q, goal, top, TOOL_SHARE * memory.cap)

    def _leaving(self, memory: Memory, found: Found) -> Iterator[Candidate]:
        """Move away from what is near, the nearest first; nothing where nothing is."""
        q = memory.moving.q
        frames = joint_frames(self.body.chain, q)
        if len(self.clearance.nearest(frames, CLOSE).distance) == 0:
            return
        rows, room = barrier_rows(self.clearance, frames)
        moves = np.abs(rows).max(axis=1, initial=0.0) > 1e-6  # a part that no joint moves cannot be led away
        near = moves & (
            room <= max(LEFT, float(room[moves].min(initial=math.inf)))
        )  # what is far must not push towards it
        away = -(rows / (0.05 + room)[:, None])[near].sum(axis=0)
        wish = joint_wish(q, q + 0.3 / GAIN * away / max(float(np.abs(away).max()), 1e-9))
        goal = self._wished(memory, wish, found)
        if goal is not None:
            top = self._top_speed(memory, goal, "retreat")
            yield from self.follower.follow(memory.moving, "retreat", goal, None, top, found)

    # 5 the guarantee

    def _verified(self, memory: Memory, stop: Stop, found: Found) -> Verdict | None:
        """Return what one tick to where a stop begins and that stop keep, or None, with the reasons, where they break something."""
        step = self._stride * self.settings.dt
        q_NJ, v_NJ, _ = stop.sample(step * np.arange(math.ceil(stop.duration / step - 1e-9) + 1))
        path = np.concatenate([memory.moving.q[None], q_NJ])
        steps = np.full(len(q_NJ), step)
        steps[0] = self.settings.dt
        if not (np.isfinite(path).all() and np.isfinite(v_NJ).all()):
            found.add(Reason.SOLVER)
            return None
        broken = [*self._broken_limits(path, steps, v_NJ), *self._pressing(memory, path)]
        verdict = self.clearance.judge(path, steps, memory.cap)
        broken += verdict.broken
        if self._stride > 1:
            broken += self._too_fast_between(memory, stop)
        if broken:
            found.add(*broken)
            return None
        return verdict

    def _broken_limits(
        self, path: Float[np.ndarray, "N J"], steps: Float[np.ndarray, " P"], speeds: Float[np.ndarray, "P J"]
    ) -> list[Reason]:
        """Return which joint limits a path breaks; a joint that is outside already may only come back."""
        broken: list[Reason] = []
        low = np.minimum(self._q_min, np.maximum.accumulate(path[:-1]))
        high = np.maximum(self._q_max, np.minimum.accumulate(path[:-1]))
        if not ((path[1:] >= low) & (path[1:] <= high)).all():
            broken.append(Reason.JOINT_POSITION)
        return broken if self._law_kept(path, steps, speeds) else [*broken, Reason.JOINT_VELOCITY]

    def _law_kept(
        self, path: Float[np.ndarray, "N J"], steps: Float[np.ndarray, " P"], speeds: Float[np.ndarray, "P J"] | float
    ) -> bool:
        """Tell whether speeds, at the rows to come and as means on the way to them, keep a limit that depends on the position.

        A robot may test the speed of a tick where the tick ends.
        """
        if self.body.limits.speed_law is None:
            return True
        law_low, law_high = speed_bounds(self.body.limits, path[1:])
        mean = np.diff(path, axis=0) / steps[:, None]
        low, high = np.minimum(law_low + LAW_RESERVE, 0.0), np.maximum(law_high - LAW_RESERVE, 0.0)
        return bool(((np.minimum(mean, speeds) >= low) & (np.maximum(mean, speeds) <= high)).all())

    def _pressing(self, memory: Memory, path: Float[np.ndarray, "N J"]) -> list[Reason]:
        """Return CONTACT where the command would run further ahead of the measured position than allowed."""
        reach = self.settings.reach
        if reach is None:
            return []
        ahead, before = np.abs(path[1] - memory.measured), np.abs(path[0] - memory.measured)
        return [Reason.CONTACT] if ((ahead > reach) & (ahead > before)).any() else []

    def _too_fast_between(self, memory: Memory, stop: Stop) -> list[Reason]:
        """Return which speed limits any single tick of a stop exceeds whose samples are further apart than ticks."""
        d, chain, law = self.settings.dt, self.body.chain, self.body.limits.speed_law
        if law is None and not math.isfinite(memory.cap):
            return []
        q_NJ, _, _ = stop.sample(d * np.arange(math.ceil(stop.duration / d) + 2))
        path = np.concatenate([memory.moving.q[None], q_NJ])
        found = [] if self._law_kept(path, np.full(len(q_NJ), d), 0.0) else [Reason.JOINT_VELOCITY]
        tool = joint_frames(chain, path)[:, -1] @ chain.last_from_tcp[:, 3]
        slow = float(np.linalg.norm(np.diff(tool[:, :3], axis=0), axis=1).max()) <= d * memory.cap
        return found if slow else [*found, Reason.TOOL_SPEED]

    def _lower_cap(self, memory: Memory) -> None:
        """Let the cap of the tool's speed come down to where it should be."""
        cap = math.inf if self.settings.tool_speed is None else self.settings.tool_speed
        if memory.recovering:
            memory.recovering = self._outside(memory.moving.q)
            cap = min(cap, REDUCED) if memory.recovering else cap
        falling = min(memory.cap, memory.tool_speed + 1e-3) - self.settings.tool_braking * self.settings.dt
        memory.cap = max(cap, falling) if math.isfinite(cap) else math.inf

    def _outside(self, q: Float[np.ndarray, " J"]) -> bool:
        """Tell whether the arm is beyond a limit or margin."""
        if ((q < self._q_min) | (q > self._q_max)).any():
            return True
        return len(self.clearance.nearest(joint_frames(self.body.chain, q), -1e-6).distance) > 0

    def _accepted(
        self, memory: Memory, candidate: Candidate, stop: Stop, verdict: Verdict, found: Found
    ) -> tuple[JointCommand, Report]:
        if memory.recovering and candidate.how != "proposal":
            found.add(Reason.RECOVERY)
        self._move(memory, candidate.q, candidate.v, candidate.a)
        memory.kept, memory.elapsed, memory.tool_speed = stop, 0.0, verdict.tool_speed
        history, q = memory.history, memory.moving.q
        if candidate.how != "retreat" and (not history or np.abs(q - history[-1]).max() > WAYPOINT):
            history.append(q)
        return self._command(memory), Report(candidate.how, tuple(found.reasons), found.joints, verdict=verdict)

    def _halted(self, memory: Memory, found: Found) -> tuple[JointCommand, Report]:
        """Go one tick further along the stop that was verified before."""
        how: How = "hold" if _standing(memory) else "stop"
        memory.elapsed = min(memory.elapsed + self.settings.dt, memory.kept.duration + self.settings.dt)
        self._move(memory, *memory.kept.at(memory.elapsed))
        memory.goal = None
        return self._command(memory), Report(how, tuple(found.reasons), found.joints, self._watch.latch is not None)

    def _move(
        self, memory: Memory, q: Float[np.ndarray, " J"], v: Float[np.ndarray, " J"], a: Float[np.ndarray, " J"]
    ) -> None:
        if not (np.isfinite(q).all() and np.isfinite(v).all() and np.isfinite(a).all()):
            raise ArithmeticError("a command that is not finite")
        d, before = self.settings.dt, memory.moving
        speed = (q - before.q) / d
        memory.moving = Moving(q, v, a, speed, (speed - before.speed) / d)

    def _command(self, memory: Memory) -> JointCommand:
        return JointCommand(memory.moving.q.copy(), self._watch.opening)

    def _failed(self) -> tuple[JointCommand | None, Report]:
        """Stop after a fault of this filter, for good."""
        self._watch.latch = Reason.INTERNAL
        if self._memory is None:
            return None, Report("none", (Reason.INTERNAL,), latched=True)
        try:
            return self._halted(self._memory, Found([Reason.INTERNAL]))
        except Exception:  # noqa: BLE001 (then the last command is all that is left)
            return self._command(self._memory), Report("hold", (Reason.INTERNAL,), latched=True)


def _standing(memory: Memory) -> bool:
    return memory.elapsed >= memory.kept.duration


def _back(memory: Memory) -> Float[np.ndarray, " J"]:
    """Return the last remembered position that is not here."""
    history, q = memory.history, memory.moving.q
    while history and np.abs(history[-1] - q).max() < 1.5 * WAYPOINT:
        history.pop()
    return history[-1] if history else q


def _thicker(body: Body, errors: tuple[float, ...] | None) -> Body:
    """Return a body whose parts are thicker by how far tracking errors [rad] can carry them."""
    if errors is None:
        return body
    more = required_margin(body, np.array(errors)).tolist()
    capsules = tuple(replace(c, radius=c.radius + by) for c, by in zip(body.capsules, more, strict=True))
    return replace(body, capsules=capsules)
