"""Keep each joint inside its limits of position, speed and acceleration, whatever is proposed, for robots that take speeds.

A second layer in front of the robot's own safety functions. It replaces none of them and is no safety-rated system.

The model: once every tick of length T a joint gets a speed, and keeps it for the tick: q+ = q + v+ T. Three limits: |v+ - v| <= a T,
|v+| <= V, and q+ between two positions. Jerk is not limited; a robot that limits it needs the shield's verified stop instead.

**The braking bound.** Let g >= 0 be the gap to a limit, x = v+ / (a T) and D = g / (a T^2). A joint that moves at x and then brakes by
1 a tick covers

    S(x) = x + (x - 1) + (x - 2) + ...   (as long as the terms are positive)
         = (n + 1) (x - n / 2),  n = floor(x)                          `stopping_distance` is S(x) a T^2

which grows with x and has no jumps. Its inverse is the largest speed from which the joint stops inside the gap:

    n = floor((sqrt(1 + 8 D) - 1) / 2),   x = D / (n + 1) + n / 2       `stoppable_speed` is x a T =: cap(g)

(n + 1 is how many ticks have positive terms: S(n) = n (n + 1) / 2 <= D < S(n + 1). At S(n) both branches agree, so rounding n is harmless.)

**The filter.** From a proposed position p, w = (p - q) / T with p clipped to the limits (to q itself where that is outside), and then

    v+ = w clipped to [max(-V, v - a T, -cap(q - low)), min(V, v + a T, cap(high - q))].

*The interval is never empty, so the joint can always stop inside.* Six pairs of ends could cross. (1) v - a T <= cap(g), g = high - q:
the last command, v, obeyed its cap at the gap g0 before it, so S(x) <= D0 with x = v / (a T), if v > 0. The gap is now D = D0 - x, and
S(x) = x + S(max(x - 1, 0)). Hence S(max(x - 1, 0)) <= D, which says v - a T <= cap(g). If v <= 0, v - a T < 0 <= cap(g). (2) Mirrored:
-cap(q - low) <= v + a T. (3), (4) v - a T <= V and -V <= v + a T, since |v| <= V. (5) -cap <= 0 <= cap. (6) -V <= cap and -cap <= V. And
v - a T <= v + a T. The claim holds at the first tick when the joint starts at rest inside its limits; then each tick hands it to the
next. The gap after a move is D - x >= D - S(x) >= 0, so the joint never leaves. QED

A proposal inside the interval is taken unchanged; what was taken, proposed again, is taken again; and beyond an end it does not matter
how far. A proposal is where to be after this tick, not a goal: one that lies many ticks away is passed at speed, within the limits.

*Where braking is slower* (b < a), cap is taken with b: v - a T <= v - b T <= cap. It is always slower by a billionth and a little: the
computer rounds q, close to a limit cap is steep in q, and at b = a a long braking can sum these errors up until it needs more than a.
*Lowering V in motion* could break (3) and (4), so V counts as max(V, |v| - a T). *Outside a limit* g counts as 0: no speed outwards, and
none inwards unasked. An interval that is empty all the same (started in motion towards a near limit) is answered by braking at a, and
`JointGate` latches.

**A speed limit that depends on position** (Franka FR3: v <= sqrt(K (q* - q)) - c towards a limit q*). To follow it at speed v costs a
deceleration of K/2 v / (v + c), on some joints more than the robot allows. So it is replaced by the bound above with b = min(a, 0.4 K)
towards a nearer limit q* - m, where m is at least the largest (v + c)^2 / K - v^2 / 2b + v T / 2 over the speeds (`limits.law_braking`):
as S(x) >= (x^2 + x) / 2, a speed under the cap leaves g >= v^2 / 2b + v T / 2, hence q* - q - v T >= (v + c)^2 / K. That is the law after
the move, and so before it.
"""

import functools
import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ideomotor.core.errors import UserError
from ideomotor.robot.limits import Limits, Share, law_braking
from ideomotor.robot.reading import LARGEST_MEASURED, as_floats
from ideomotor.robot.reasons import Reason

# In shapes, J stands for the joints.

LARGEST = 1e300  # a gap that stands for "no limit", so that nothing overflows
ROUNDING = 1e-9  # of a T: by so much braking is slower


class Move(NamedTuple):
    """Where the joints are told to be after the tick, and their speed on the way."""

    q: Float[np.ndarray, "*batch J"]  # [rad]
    v: Float[np.ndarray, "*batch J"]  # [rad/s]


class Interval(NamedTuple):
    """The speeds from which each joint can still stop."""

    low: Float[np.ndarray, "*batch J"]  # [rad/s]
    high: Float[np.ndarray, "*batch J"]  # [rad/s]
    empty: Bool[np.ndarray, "*batch J"]  # there was none: both ends are the speed after a tick of braking


class Bounds(NamedTuple):
    """The numbers of the filter, one for each joint."""

    low: Float[np.ndarray, " J"]  # [rad]
    high: Float[np.ndarray, " J"]  # [rad]
    speed: Float[np.ndarray, " J"]  # [rad/s] V
    acceleration: Float[np.ndarray, " J"]  # [rad/s^2] a
    braking: Float[np.ndarray, " J"]  # [rad/s^2] b
    rounding: Float[np.ndarray, " J"]  # [rad/s] a bit more than that of a speed that follows from two positions


def stopping_distance(
    speed: Float[np.ndarray, "*shape"], acceleration: float | Float[np.ndarray, "..."], dt: float
) -> Float[np.ndarray, "*shape"]:
    """Return how far a joint moves that has `speed` [rad/s] for one tick and then brakes [rad]. Undoes `stoppable_speed`.

    Args:
        speed: of either sign.
        acceleration: of braking [rad/s^2], above 0.
        dt: the tick [s].
    """
    step = acceleration * dt
    x = np.abs(np.asarray(speed, np.float64)) / step
    n = np.floor(x)
    return np.asarray((n + 1.0) * (x - 0.5 * n) * (step * dt))


def stoppable_speed(
    gap: Float[np.ndarray, "*shape"], acceleration: float | Float[np.ndarray, "..."], dt: float
) -> Float[np.ndarray, "*shape"]:
    """Return the largest speed [rad/s] for one tick after which braking ends within `gap` [rad]: the module's cap.

    Args:
        gap: to the limit; below 0 (outside) and NaN count as 0.
        acceleration: of braking [rad/s^2], above 0.
        dt: the tick [s].
    """
    step = acceleration * dt
    with np.errstate(all="ignore"):  # a caller may have turned underflow into an exception
        ticks = np.fmin(np.fmax(np.asarray(gap, np.float64), 0.0) / (step * dt), LARGEST)
        n = np.floor(0.5 * (np.sqrt(1.0 + 8.0 * ticks) - 1.0))
        return np.asarray((ticks / (n + 1.0) + 0.5 * n) * step)


@dataclass(frozen=True)
class JointFilter:
    """The filter of the module's docstring: pure, and for any number of arms at once."""

    limits: Limits
    dt: float  # [s] the tick; the guarantee holds for ticks of this length only
    share: Share = field(default_factory=Share)  # of the rated speed and acceleration

    def __post_init__(self) -> None:
        if not 0.0 < self.dt < math.inf:
            raise UserError(f"a tick of {self.dt} s; it should be above 0 and finite")
        for name in ("speed", "acceleration"):
            if not 0.0 < getattr(self.share, name) <= 1.0:
                raise UserError(f"share.{name} is {getattr(self.share, name)}; above 0 and at most 1 is allowed")
        if not (self.bounds.rounding < 0.1 * self.bounds.acceleration * self.dt).all():
            raise UserError(
                f"a tick of {self.dt} s is too short to tell accelerations in the rounding of positions; take a longer one"
            )
        if not (self.bounds.low < self.bounds.high).all():
            raise UserError(
                f"the speed law leaves no room between {self.bounds.low} and {self.bounds.high} rad; take a shorter tick"
            )

    @functools.cached_property
    def bounds(self) -> Bounds:
        """The numbers: rated limits, shares, and what a speed law takes from the range and from braking."""
        limits, dt = self.limits, self.dt
        low, high = np.array(limits.q_min, np.float64), np.array(limits.q_max, np.float64)
        acceleration = self.share.acceleration * np.array(limits.acceleration, np.float64)
        braking = acceleration
        law = limits.speed_law
        if law is not None:
            braking, margin = law_braking(limits, dt)  # at a lower share of a, m is more than enough
            low, high = np.maximum(low, np.array(law.low) + margin), np.minimum(high, np.array(law.high) - margin)
        spacing = np.spacing(np.maximum(np.abs(low), np.abs(high)))
        rounding = ROUNDING * acceleration * dt + 8.0 * spacing / dt
        braking = np.minimum(braking, acceleration - rounding / dt)
        return Bounds(low, high, self.share.speed * np.array(limits.speed, np.float64), acceleration, braking, rounding)

    def interval(self, q: Float[np.ndarray, "*batch J"], v: Float[np.ndarray, "*batch J"]) -> Interval:
        """Return the speeds that may come after `v` at `q`."""
        b = self.bounds
        step = b.acceleration * self.dt
        slower = np.abs(v) - step
        speed = np.maximum(b.speed, slower)
        low = np.maximum(np.maximum(-speed, v - step), -stoppable_speed(q - b.low, b.braking, self.dt))
        high = np.minimum(np.minimum(speed, v + step), stoppable_speed(b.high - q, b.braking, self.dt))
        empty = low > high
        if empty.any():
            braked = np.copysign(slower, v)  # empty means faster than a tick can brake
            low, high = np.where(empty, braked, low), np.where(empty, braked, high)
        return Interval(low, high, empty)

    def filter(self, q: Float[np.ndarray, "*batch J"], v: Float[np.ndarray, "*batch J"], proposal: Any) -> Move:
        """Return the next positions and speeds, as near to the proposed positions as the limits allow.

        Args:
            q: the last commanded positions [rad]; at the start the measured ones.
            v: the last commanded speeds [rad/s]; at the start 0.
            proposal: positions [rad], an array of floats of the shape of `q`. Where it is NaN or infinite the joint brakes; anything
                else than such an array brakes all of them.

        Raises:
            UserError: q or v is of another arm, or not finite; nothing can be commanded then. A proposal never raises.
        """
        q, v = self._state(q, v)
        return self.towards(_readable(q, proposal)[0], q, self.interval(q, v))

    def towards(
        self, target: Float[np.ndarray, "*batch J"], q: Float[np.ndarray, "*batch J"], interval: Interval
    ) -> Move:
        """Return the move towards `target` [rad], finite, whose speed lies in the interval that `interval` gave for `q`."""
        low = np.minimum(self.bounds.low, q)  # outside a limit, staying there is no motion
        high = np.maximum(self.bounds.high, q)
        with np.errstate(all="ignore"):
            wanted = (np.minimum(np.maximum(target, low), high) - q) / self.dt
            speed = np.minimum(np.maximum(wanted, interval.low), interval.high)
            free = q + speed * self.dt
            moved = np.minimum(np.maximum(free, low), high)  # rounding does not lead out either
        if interval.empty.any():
            moved = np.where(interval.empty, free, moved)
        return Move(moved, speed)

    def reasons(self, q: Float[np.ndarray, " J"], v: Float[np.ndarray, " J"], proposal: Any) -> tuple[Reason, ...]:
        """Return every limit that a proposal breaks: why `filter` changes it. Empty if it does not."""
        q, v = self._state(q, v)
        target, flaw = _readable(q, proposal)
        b = self.bounds
        with np.errstate(all="ignore"):
            wanted = (target - q) / self.dt
            caps = stoppable_speed(q - b.low, b.braking, self.dt), stoppable_speed(b.high - q, b.braking, self.dt)
            broken = {
                Reason.JOINT_POSITION: (wanted < -caps[0] - b.rounding) | (wanted > caps[1] + b.rounding),
                Reason.JOINT_VELOCITY: np.abs(wanted) > b.speed + b.rounding,
                Reason.ACCELERATION: np.abs(wanted - v) > b.acceleration * self.dt + b.rounding,
            }
        found = tuple(reason for reason, where in broken.items() if where.any())
        return found if flaw is None else (flaw, *found)

    def _state(
        self, q: Float[np.ndarray, "*batch J"], v: Float[np.ndarray, "*batch J"]
    ) -> tuple[Float[np.ndarray, "*batch J"], Float[np.ndarray, "*batch J"]]:
        if q.shape != v.shape or q.shape[-1:] != (self.limits.num_joints,):
            raise UserError(
                f"positions {q.shape} and speeds {v.shape}; both should end in {self.limits.num_joints} joints"
            )
        if not (np.isfinite(q).all() and np.isfinite(v).all()):
            raise UserError(
                "a position or speed of the arm is NaN or infinite, and no command can follow it; measure again"
            )
        return np.asarray(q, np.float64), np.asarray(v, np.float64)


class Step(NamedTuple):
    """What `JointGate.step` commands, and why it is not what was proposed."""

    q: Float[np.ndarray, " J"]  # [rad]
    v: Float[np.ndarray, " J"]  # [rad/s]
    reasons: tuple[Reason, ...]
    latched: bool


class JointGate:
    """A `JointFilter` of one arm that remembers its last command, so that no proposal can touch what the next one is held against."""

    def __init__(self, joint_filter: JointFilter, q: Any, v: Any = None) -> None:
        """Begin at a measured pose; see `start`."""
        self._filter = self._given = joint_filter
        self._latched = False
        self.start(q, v)

    @property
    def latched(self) -> bool:
        """Whether it only brakes and stands until `reset`."""
        return self._latched

    def start(self, q: Any, v: Any = None) -> None:
        """Forget the last command and go on from a measured pose, also one outside the limits. A latch stays.

        Args:
            q: measured positions [rad], J floats.
            v: measured speeds [rad/s]; without them the arm is taken to stand.

        Raises:
            UserError: they are not J finite floats. The last command stays in force.
        """
        joints = self._filter.limits.num_joints
        v = np.zeros(joints) if v is None else v
        for what, value in (("positions", q), ("speeds", v)):
            if _readable(np.zeros(joints), value)[1] is not None or (np.abs(value) > LARGEST_MEASURED).any():
                raise UserError(
                    f"the measured {what} are {value!r:.80}; an array of {joints} floats, finite and "
                    f"at most {LARGEST_MEASURED:g} in size, is needed to start"
                )
        self._q, self._v = np.array(q, np.float64), np.array(v, np.float64)

    def step(self, proposal: Any) -> Step:
        """Return the command of the next tick. Never raises and never returns a number that is not finite."""
        try:
            move, reasons = self._judged(proposal)
            if not (np.isfinite(move.q).all() and np.isfinite(move.v).all()):
                raise ArithmeticError("a command that is not finite")
        except Exception:  # noqa: BLE001 (a fault in here must stop the arm, not the program that holds it)
            self._latched = True
            move, reasons = self._braked(), (Reason.INTERNAL, Reason.LATCHED)
        self._q, self._v = move
        return Step(self._q.copy(), self._v.copy(), reasons, self._latched)

    def _judged(self, proposal: Any) -> tuple[Move, tuple[Reason, ...]]:
        rules, q = self._filter, self._q
        target, flaw = _readable(q, proposal)
        interval = rules.interval(q, self._v)
        starts_latch = bool(interval.empty.any())
        self._latched |= starts_latch
        move = rules.towards(q if self._latched else target, q, interval)
        if self._latched:
            return move, (Reason.JOINT_POSITION, Reason.LATCHED) if starts_latch else (Reason.LATCHED,)
        if flaw is None and (np.abs(move.q - target) <= rules.bounds.rounding * rules.dt).all():
            return move, ()
        return move, rules.reasons(q, self._v, proposal)

    def _braked(self) -> Move:
        """Return the move after a tick of braking at the given acceleration, from the last command alone."""
        given = self._given
        step = given.share.acceleration * given.dt * np.array(given.limits.acceleration)
        v = np.copysign(np.maximum(np.abs(self._v) - step, 0.0), self._v)
        return Move(self._q + v * given.dt, v)

    def limit_speed(self, share: float) -> None:
        """Lower the speed limits to a share of the given ones, or raise them again; in motion the arm slows down at its acceleration.

        Raises:
            UserError: the share is not above 0 and at most 1.
        """
        if not 0.0 < share <= 1.0:
            raise UserError(f"a share of {share} of the speed; above 0 and at most 1 is allowed")
        given = self._given.share
        self._filter = replace(self._given, share=replace(given, speed=given.speed * share))

    def reset(self) -> bool:
        """Let proposals move the arm again, if it stands; return whether they do. Moves nothing by itself."""
        if (self._v == 0.0).all():
            self._latched = False
        return not self._latched


def _readable(q: Float[np.ndarray, "*batch J"], proposal: Any) -> tuple[Float[np.ndarray, "*batch J"], Reason | None]:
    """Return the proposal with `q` where nothing can be read, and what was wrong."""
    target = as_floats(proposal, q.shape)
    if target is None:
        return q, Reason.SHAPE
    finite = np.isfinite(target)
    return (target, None) if finite.all() else (np.where(finite, target, q), Reason.NONFINITE)
