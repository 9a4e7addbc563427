"""The quickest stop of each joint under limits of acceleration and jerk, in closed form.

From speed v and acceleration a, seen in the direction of v + a|a| / 2j (the speed that would be left if a ended first), the jerk is
-j until the deceleration reaches its peak, 0 for a while if the peak is the limit A, then +j:

    peak p = min(A, sqrt(j v + a^2 / 2))     t1 = (a + p) / j     t2 = (v + (a^2 - 2 p^2) / 2j) / p  (0 below A)     t3 = p / j

The joints are not synchronised: each stands as soon as it can. Source: double-S speed profiles, Biagiotti and Melchiorri, Trajectory
Planning for Automatic Machines and Robots (2008), section 3.4, with a start in motion.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Stop:
    """A motion to rest that begins now. All arrays run over the joints."""

    q: Float[np.ndarray, " J"]  # [rad] at the beginning
    v: Float[np.ndarray, " J"]  # [rad/s]
    a: Float[np.ndarray, " J"]  # [rad/s^2]
    jerk: Float[np.ndarray, " J"]  # [rad/s^3] of the first phase, signed; the third has the opposite one
    ends: Float[np.ndarray, "3 J"]  # [s] when the phases end

    @property
    def duration(self) -> float:
        """When all joints stand [s]."""
        return float(self.ends[2].max())

    def sample(
        self, times: Float[np.ndarray, " N"]
    ) -> tuple[Float[np.ndarray, "N J"], Float[np.ndarray, "N J"], Float[np.ndarray, "N J"]]:
        """Return positions, speeds and accelerations at times from the beginning [s]."""
        t_N1 = times[:, None]
        first, held, whole = np.minimum(t_N1, self.ends[:, None])  # each phase, and those before it
        hold, last = held - first, whole - held
        jerk_first, jerk_last = self.jerk * first, self.jerk * last
        a1 = self.a + jerk_first
        v1 = self.v + first * (self.a + 0.5 * jerk_first)
        q1 = self.q + first * (self.v + first * (0.5 * self.a + jerk_first / 6.0))
        v2 = v1 + a1 * hold
        q2 = q1 + hold * (v1 + 0.5 * a1 * hold)
        q3 = q2 + last * (v2 + last * (0.5 * a1 - jerk_last / 6.0))
        moving = t_N1 < self.ends[2]
        return q3, np.where(moving, v2 + last * (a1 - 0.5 * jerk_last), 0.0), np.where(moving, a1 - jerk_last, 0.0)

    def at(self, time: float) -> "tuple[Float[np.ndarray, ' J'], Float[np.ndarray, ' J'], Float[np.ndarray, ' J']]":
        """Return position, speed and acceleration at one time."""
        q, v, a = self.sample(np.array([time]))
        return q[0], v[0], a[0]


def plan_stop(
    q: Float[np.ndarray, " J"],
    v: Float[np.ndarray, " J"],
    a: Float[np.ndarray, " J"],
    acceleration: Float[np.ndarray, " J"],
    jerk: Float[np.ndarray, " J"],
) -> Stop:
    """Return the quickest stop from a state, with limits above 0.

    >>> one = np.ones(1)
    >>> stop = plan_stop(0 * one, 2 * one, 0 * one, acceleration=one, jerk=one)
    >>> stop.duration, round(float(stop.at(3.0)[0][0]), 12)  # v/A + A/j = 3 s, v/2 of it as distance
    (3.0, 3.0)
    """
    left = v + a * np.abs(a) / (2.0 * jerk)
    side = np.where(left != 0.0, np.sign(left), np.sign(a))
    v, a, signed_v, signed_a = side * v, side * a, v, a
    peak = np.sqrt(np.maximum(jerk * v + 0.5 * a * a, 0.0))
    long = peak > acceleration
    peak = np.where(long, np.maximum(acceleration, -a), peak)
    first = np.maximum(a + peak, 0.0) / jerk
    hold = np.where(long, np.maximum(v + (0.5 * a * a - peak * peak) / jerk, 0.0) / np.where(long, peak, 1.0), 0.0)
    return Stop(q, signed_v, signed_a, -side * jerk, np.cumsum([first, hold, peak / jerk], axis=0))


def standstill(q: Float[np.ndarray, " J"]) -> Stop:
    """Return the stop of an arm that stands."""
    zero = np.zeros_like(q)
    return Stop(q, zero, zero, zero, np.zeros((3, len(q))))
