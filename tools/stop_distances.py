"""How long the shield takes to react and to stop, and how far the tool gets: `python tools/stop_distances.py --table` prints docs tables.

A stop begins at 0.9 of the rated speed in a joint that still accelerates at half of the rated acceleration, the worst that the default
settings let happen, and uses the full rated acceleration and jerk. What the tool does is searched for: random postures, speeds and
directions, the best of them improved by random steps. A search finds no upper bound, so a proven one stands beside it. All of this is
about commands: what a real arm lags behind comes on top.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from ideomotor.robot.arm import Arm
from ideomotor.robot.arms.fr3 import FR3
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.body import Capsule, body_of
from ideomotor.robot.kinematics import forward, jacobian
from ideomotor.robot.limits import Limits, speed_bounds
from ideomotor.robot.shield_settings import REDUCED, Settings
from ideomotor.robot.stop import Stop, plan_stop
from ideomotor.robot.tracking import lever_arms

# In shapes, N stands for states, J for joints, T for instants.

ARMS = (PANDA, FR3, UR5E)
STATES, BEST, ROUNDS = 4000, 200, 60
TICKS = 12  # instants of a stop that are looked at
SHARES = np.arange(1.0, -0.01, -0.05)  # of a joint's speed: the largest whose stop keeps its limits is taken


@dataclass(frozen=True)
class Found:
    """The worst that was found for the tool, and what it cannot exceed."""

    speed: float  # [m/s]
    stop: float  # [m]
    speed_bound: float  # [m/s]
    stop_bound: float  # [m]


def joint_stops(limits: Limits, settings: Settings) -> tuple[Float[np.ndarray, " J"], Float[np.ndarray, " J"]]:
    """Return time [s] and travel [rad] of each joint's stop from the fastest motion."""
    still = np.zeros(limits.num_joints)
    stop = _stop(still, *_fastest(limits, settings), limits, settings)
    return stop.ends[2], stop.at(stop.duration)[0]


def tool_stops(arm: Arm, settings: Settings, seed: int = 0) -> Found:
    """Search for the fastest tool, and for the stop in which the tool gets furthest."""
    body, rng = body_of(arm), np.random.default_rng(seed)
    search = _Search(arm, body.limits, settings)
    speed, stop = (search.run(rng, value) for value in (search.speed, search.distance))
    time, travel = joint_stops(body.limits, settings)
    last = body.chain.last_from_tcp[:3, 3]
    at = (float(last[0]), float(last[1]), float(last[2]))
    lever = lever_arms(replace(body, capsules=(Capsule("tool", arm.num_joints, at, at, 0.0),)))[0]
    speed_bound, stop_bound = float(lever @ _fastest(body.limits, settings)[0]), float(lever @ travel)
    if settings.tool_speed is not None:
        speed_bound = min(speed_bound, settings.tool_speed)
        stop_bound = min(stop_bound, settings.tool_speed * (float(time.max()) + settings.dt))
    return Found(speed, stop, speed_bound, stop_bound)


def _fastest(limits: Limits, settings: Settings) -> tuple[Float[np.ndarray, " J"], Float[np.ndarray, " J"]]:
    """Return the largest speeds and the accelerations of motion."""
    follow = settings.follow
    return follow.speed * np.array(limits.speed), follow.acceleration * np.array(limits.acceleration)


def _stop(
    q: Float[np.ndarray, "*n J"],
    v: Float[np.ndarray, "*n J"],
    a: Float[np.ndarray, "*n J"],
    limits: Limits,
    settings: Settings,
) -> Stop:
    halt = settings.stop
    return plan_stop(q, v, a, halt.acceleration * np.array(limits.acceleration), halt.jerk * np.array(limits.jerk))


class _Search:
    """States are q [rad] and u, the speeds as shares of what each joint is allowed there."""

    def __init__(self, arm: Arm, limits: Limits, settings: Settings) -> None:
        self.arm, self.limits, self.settings = arm, limits, settings
        self.low, self.high = np.array(limits.q_min) + 0.02, np.array(limits.q_max) - 0.02

    def run(self, rng: np.random.Generator, value: "Callable[[np.ndarray, np.ndarray], np.ndarray]") -> float:
        """Return the largest value of random states and of their offspring."""
        joints = len(self.low)
        q, u = rng.uniform(self.low, self.high, (STATES, joints)), rng.uniform(-1.0, 1.0, (STATES, joints))
        u[: STATES // 2] = np.sign(u[: STATES // 2])
        score = value(q, u)
        best = np.argsort(score)[-BEST:]
        q, u, score = q[best], u[best], score[best]
        for round_ in range(ROUNDS):
            size = 0.5 * 0.93**round_
            near_q = np.clip(q + size * rng.normal(size=q.shape), self.low, self.high)
            near_u = np.clip(u + size * rng.normal(size=u.shape) * (rng.random(u.shape) < 0.4), -1.0, 1.0)
            new = value(near_q, near_u)
            better = new > score
            q[better], u[better], score[better] = near_q[better], near_u[better], new[better]
        return float(score.max())

    def speed(self, q: Float[np.ndarray, "N J"], u: Float[np.ndarray, "N J"]) -> Float[np.ndarray, " N"]:
        """Return the speed of the tool [m/s]."""
        v, _ = self._motion(q, u)
        speed = np.linalg.norm(np.einsum("nij,nj->ni", jacobian(self.arm, q)[:, :3], v), axis=1)
        cap = self.settings.tool_speed
        return speed if cap is None else np.minimum(speed, cap)

    def distance(self, q: Float[np.ndarray, "N J"], u: Float[np.ndarray, "N J"]) -> Float[np.ndarray, " N"]:
        """Return how far the tool gets from where a stop begins [m]; 0 where it would exceed its cap."""
        v, a = self._motion(q, u)
        cap = self.settings.tool_speed
        if cap is not None:  # slower until the tool keeps its cap, all along the stop
            fits, exceeds = np.zeros(len(q)), np.ones(len(q))
            for _ in range(14):
                share = 0.5 * (fits + exceeds)
                _, fastest = self._way(q, share[:, None] * v, share[:, None] * a)
                fits, exceeds = np.where(fastest <= cap, share, fits), np.where(fastest <= cap, exceeds, share)
            v, a = fits[:, None] * v, fits[:, None] * a
        return self._way(q, v, a)[0]

    def _way(
        self, q: Float[np.ndarray, "N J"], v: Float[np.ndarray, "N J"], a: Float[np.ndarray, "N J"]
    ) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        """Return the largest distance from the start [m], and the largest mean speed between two instants [m/s]."""
        stop = _stop(q, v, a, self.limits, self.settings)
        times = np.linspace(0.0, max(stop.duration, self.settings.dt), TICKS)
        tool = np.stack([forward(self.arm, _at(stop, time)[0])[:, :3, 3] for time in times])
        return (
            np.linalg.norm(tool - tool[0], axis=-1).max(axis=0),
            np.linalg.norm(np.diff(tool, axis=0), axis=-1).max(axis=0) / float(times[1]),
        )

    def _motion(
        self, q: Float[np.ndarray, "N J"], u: Float[np.ndarray, "N J"]
    ) -> tuple[Float[np.ndarray, "N J"], Float[np.ndarray, "N J"]]:
        """Return speeds and accelerations whose stop keeps the position limits and the speed law."""
        speed, acceleration = _fastest(self.limits, self.settings)
        share = np.zeros_like(q)
        for trial in SHARES[::-1]:
            share = np.where(self._keeps(q, trial * u * speed, trial * u * acceleration), trial, share)
        return share * u * speed, share * u * acceleration

    def _keeps(
        self, q: Float[np.ndarray, "N J"], v: Float[np.ndarray, "N J"], a: Float[np.ndarray, "N J"]
    ) -> Bool[np.ndarray, "N J"]:
        """Tell of each joint whether its stop keeps its limits."""
        stop = _stop(q, v, a, self.limits, self.settings)
        end = _at(stop, stop.duration)[0]
        kept = (end >= np.array(self.limits.q_min) + 0.001) & (end <= np.array(self.limits.q_max) - 0.001)
        if self.limits.speed_law is not None:
            for time in np.linspace(0.0, stop.duration, 2 * TICKS):
                where, now = _at(stop, time)
                low, high = speed_bounds(self.limits, where)
                kept &= (now >= np.minimum(low + 1e-3, 0.0)) & (now <= np.maximum(high - 1e-3, 0.0) + 1e-9)
        return kept


def _at(stop: Stop, time: float) -> tuple[Float[np.ndarray, "N J"], Float[np.ndarray, "N J"]]:
    """Return position and speed of many stops at one time: `Stop.sample` for a batch."""
    first = np.minimum(time, stop.ends[0])
    hold = np.minimum(time, stop.ends[1]) - first
    last = np.minimum(time, stop.ends[2]) - np.minimum(time, stop.ends[1])
    a1 = stop.a + stop.jerk * first
    v1 = stop.v + first * (stop.a + 0.5 * stop.jerk * first)
    q1 = stop.q + first * (stop.v + first * (0.5 * stop.a + stop.jerk * first / 6.0))
    v2 = v1 + a1 * hold
    q2 = q1 + hold * (v1 + 0.5 * a1 * hold)
    return q2 + last * (v2 + last * (0.5 * a1 - stop.jerk * last / 6.0)), v2 + last * (a1 - 0.5 * stop.jerk * last)


def table() -> str:
    """Return the tables of docs/safety.md."""
    free = Settings(tool_speed=None)
    lines = ["| stop, s / rad | J1 | J2 | J3 | J4 | J5 | J6 | J7 |", "|---|---|---|---|---|---|---|---|"]
    for arm in ARMS:
        time, travel = joint_stops(body_of(arm).limits, free)
        cells = [f"{t:.3f} / {x:.3f}" for t, x in zip(time, travel, strict=True)]
        lines.append("| " + " | ".join([arm.name, *cells, *["–"] * (7 - len(cells))]) + " |")
    react = free.dt + free.max_age
    lines += [
        "",
        "| | tool speed, m/s | reaction, s | tool in the reaction, mm | stop, s | tool in the stop, mm | together, mm |",
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for arm in ARMS:
        limits = body_of(arm).limits
        for cap in (REDUCED, limits.tool_speed, None):
            settings = Settings(tool_speed=cap)
            name = "no cap" if cap is None else f"cap {cap:g} m/s"
            found = tool_stops(arm, settings)
            time = joint_stops(limits, settings)[0].max()
            ways = [
                (1e3 * s * react, 1e3 * d)
                for s, d in ((found.speed, found.stop), (found.speed_bound, found.stop_bound))
            ]
            (a, b), (most_a, most_b) = ways
            cells = (
                f"{found.speed:.2f} ({found.speed_bound:.2f})",
                f"{react:.2f}",
                f"{a:.0f} ({most_a:.0f})",
                f"{time:.3f}",
                f"{b:.0f} ({most_b:.0f})",
                f"{a + b:.0f} ({most_a + most_b:.0f})",
            )
            lines.append(f"| {arm.name}, {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--table", action="store_true", help="print the tables of docs/safety.md (the only thing to do)"
    )
    parser.parse_args()
    print(table())
