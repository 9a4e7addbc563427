"""One tick of motion towards a goal: the goal itself where that is legal, else the quickest jerk-limited motion (ruckig).

Source: Berscheid and Kroeger, Jerk-limited Real-time Trajectory Generation with Arbitrary Target States (2021).
"""

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import ruckig
from jaxtyping import Float

from ideomotor.robot.kinematics import Chain, pose_and_jacobian
from ideomotor.robot.limits import Limits, Share, speed_bounds
from ideomotor.robot.proposal import Found
from ideomotor.robot.reasons import Reason
from ideomotor.robot.report import How

ROUNDING = 1e-9  # relative
SLOWEST = 1e-3  # [rad/s] the follower needs a speed limit above 0
TOOL_SHARE = 0.9  # of the cap of the tool's speed
LAW_SHARE = 0.9  # of a speed limit that depends on the position


@dataclass(frozen=True)
class Moving:
    """How an arm is told to move after a tick. All arrays run over the joints."""

    q: Float[np.ndarray, " J"]  # [rad]
    v: Float[np.ndarray, " J"]  # [rad/s]
    a: Float[np.ndarray, " J"]  # [rad/s^2]
    speed: Float[np.ndarray, " J"]  # [rad/s] the last two commands' difference, per tick
    change: Float[np.ndarray, " J"]  # [rad/s^2] the difference of the last two speeds


@dataclass(frozen=True)
class Candidate:
    """Where a tick may lead."""

    how: How
    q: Float[np.ndarray, " J"]
    v: Float[np.ndarray, " J"]
    a: Float[np.ndarray, " J"]


class Follower:
    """The motion of one arm within a share of its limits."""

    def __init__(self, limits: Limits, dt: float, share: Share) -> None:
        self._limits, self._dt, self._joints = limits, dt, limits.num_joints
        rated = np.array([limits.speed, limits.acceleration, limits.jerk])
        self.bounds: Float[np.ndarray, "3 J"] = rated * [[share.speed], [share.acceleration], [share.jerk]]
        self._otg: Any = ruckig.Ruckig(self._joints, dt)
        self._input: Any = ruckig.InputParameter(self._joints)
        self._output: Any = ruckig.OutputParameter(self._joints)
        self._input.max_acceleration = self.bounds[1].tolist()
        self._input.max_jerk = self.bounds[2].tolist()

    def legal(self, now: Moving, goal: Float[np.ndarray, " J"], found: Found) -> list[Candidate]:
        """Return the goal itself, or nothing: it is legal if going there in this tick keeps speed, acceleration and jerk as differences of commands."""
        d = self._dt
        speed = (goal - now.q) / d
        change = (speed - now.speed) / d
        jolt = (change - now.change) / d
        end = speed + 0.5 * d * change  # a difference is the speed half a tick ago
        bound = self.bounds * (1.0 + ROUNDING)
        over = {
            Reason.JOINT_VELOCITY: ~(np.maximum(np.abs(speed), np.abs(end)) <= bound[0]),
            Reason.ACCELERATION: ~(np.abs(change) <= bound[1]),
            Reason.JERK: ~(np.abs(jolt) <= bound[2] + 8.0 * np.finfo(np.float64).eps * np.abs(goal) / d**3),
        }
        exceeded = [reason for reason, joints in over.items() if joints.any()]
        if not exceeded:
            return [Candidate("proposal", goal, end, change)]
        found.add(exceeded[0])
        found.joints = found.joints or tuple(np.flatnonzero(over[exceeded[0]]).tolist())
        return []

    def follow(
        self,
        now: Moving,
        how: How,
        goal: Float[np.ndarray, " J"],
        goal_speed: Float[np.ndarray, " J"] | None,
        top: Float[np.ndarray, " J"],
        found: Found,
    ) -> list[Candidate]:
        """Return one tick of the quickest motion to a goal, at rest or moving along with it, or nothing.

        "follow" lets every joint be as quick as it can; any other way is straight, as far as the speed now allows.
        """
        low, high = -top, top
        if self._limits.speed_law is not None:
            law_low, law_high = speed_bounds(self._limits, now.q)
            high = np.maximum(np.minimum(top, LAW_SHARE * law_high), SLOWEST)
            low = np.minimum(np.maximum(-top, LAW_SHARE * law_low), -SLOWEST)
        end = np.zeros(self._joints) if goal_speed is None else np.minimum(np.maximum(goal_speed, low), high)
        given = self._input
        given.synchronization = ruckig.Synchronization.No if how == "follow" else ruckig.Synchronization.Phase
        given.current_position, given.current_velocity = now.q.tolist(), now.v.tolist()
        given.current_acceleration = now.a.tolist()
        given.target_position, given.target_velocity = goal.tolist(), end.tolist()
        given.max_velocity, given.min_velocity = high.tolist(), low.tolist()
        with contextlib.suppress(ruckig.RuckigError, RuntimeError, ValueError):
            result = self._otg.update(given, self._output)
            if result in (ruckig.Result.Working, ruckig.Result.Finished):
                out = self._output
                q, v, a = (np.array(x) for x in (out.new_position, out.new_velocity, out.new_acceleration))
                if np.isfinite(q).all() and np.isfinite(v).all() and np.isfinite(a).all():
                    return [Candidate(how, q, v, a)]
        found.add(Reason.SOLVER)
        return []


def straight_speeds(
    chain: Chain,
    q: Float[np.ndarray, " J"],
    goal: Float[np.ndarray, " J"],
    top: Float[np.ndarray, " J"],
    tool_speed: float,
) -> Float[np.ndarray, " J"]:
    """Return speed limits [rad/s] for the straight way to a goal, at most `top`, that keep the tool's speed [m/s] at its beginning."""
    way = goal - q
    need = float((np.abs(way) / top).max())
    if need < 1e-9:
        return top
    straight = way / need  # the joints' speeds, as quick as they can
    _, jacobian = pose_and_jacobian(chain, q)
    tool = float(np.linalg.norm(jacobian[:3] @ straight))
    return np.maximum(np.abs(straight) * min(1.0, tool_speed / max(tool, 1e-9)), SLOWEST)
