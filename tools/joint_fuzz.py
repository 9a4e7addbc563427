"""Try to break the joint filter: many arms at once, proposals made to do harm, a checker that sees positions only.

python tools/joint_fuzz.py --proposals 1e8 --seed 0 --out build/joint_fuzz.json [--workers 2]

Saves after each block and goes on from there when started again. One proposal is one target for all joints of one arm at one tick. The
numbers of the arms are typed here and the checker uses nothing of the filter: speeds and accelerations are differences of the positions it
returned. Exit code 1 on any violation.
"""

import os

os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})

import argparse
import hashlib
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ideomotor.core.files import write_json
from ideomotor.robot import joint_filter
from ideomotor.robot.arm import SpeedLaw
from ideomotor.robot.joint_filter import JointFilter
from ideomotor.robot.limits import Limits

Array = np.ndarray[Any, np.dtype[np.float64]]
Rule = Callable[[Array, Array, Array], tuple[Array, Array]]  # q, v, proposal -> next q, next v

RELATIVE = 1e-9  # of a limit (of the range, for positions): what is beyond by more is a violation
TICKS_S = (0.001, 0.010, 0.020, 1 / 15)
ATTACKS = ("uniform", "limit", "bang_bang", "oscillating", "nan", "infinite", "huge", "edge")
HUGE = np.array([1e300, -1e300, 1.7e308, -1.7e308, 5e-324, -5e-324, 1e-310, 0.0])
BLOCK_ARMS, BLOCK_TICKS = 512, 2000


@dataclass(frozen=True)
class Rig:
    """An arm's limits, typed from its manual (accelerations of the UR5e: ours, nobody publishes any)."""

    name: str
    low: Array  # [rad]
    high: Array  # [rad]
    speed: Array  # [rad/s]
    acceleration: Array  # [rad/s^2]
    law: tuple[Array, Array, Array, Array] | None = None  # offset [rad/s], gain [rad/s^2], low and high [rad]

    @property
    def limits(self) -> Limits:
        """The same for the filter, which does not look at what it gets for jerk and torque."""
        low, high, speed, acceleration = (
            tuple(row.tolist()) for row in (self.low, self.high, self.speed, self.acceleration)
        )
        filler = (1000.0,) * len(low)
        law = None if self.law is None else SpeedLaw(*(tuple(row.tolist()) for row in self.law))
        return Limits(
            low, high, speed, acceleration, filler, filler, None, 1.0, 10.0, 3.0, ("tools/joint_fuzz.py",), law
        )


RIGS = (
    Rig(
        "panda",
        np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973]),
        np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973]),
        np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61]),
        np.array([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0]),
    ),
    Rig(
        "fr3",
        np.array([-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159]),
        np.array([2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159]),
        np.array([2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26]),
        np.full(7, 10.0),
        (
            np.array([0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35]),
            np.array([12.0, 5.17, 7.0, 8.0, 34.0, 11.0, 34.0]),
            np.array([-2.7501, -1.7918, -2.9065, -3.0481, -2.8101, 0.54092, -3.0196]),
            np.array([2.7501, 1.7918, 2.9065, -0.1458, 2.8101, 4.5205, 3.0196]),
        ),
    ),
    Rig(
        "ur5e",
        np.array([-2.0, -2.0, -1.0, -2.0, -2.0, -2.0]) * np.pi,
        np.array([2.0, 2.0, 1.0, 2.0, 2.0, 2.0]) * np.pi,
        np.full(6, np.pi),
        np.array([12.0, 6.0, 15.0, 15.0, 15.0, 15.0]),
    ),
)


@dataclass
class Tally:
    """What happened, over all joints."""

    proposals: int = 0
    joint_steps: int = 0
    position: int = 0  # violations, each
    speed: int = 0
    acceleration: int = 0
    speed_law: int = 0
    unstoppable: int = 0  # states from which braking leaves the limits
    nonfinite: int = 0
    stops_checked: int = 0
    overshoot_rad: float = 0.0  # largest
    speed_ratio: float = 0.0  # largest, of the limit
    acceleration_ratio: float = 0.0
    moved_rad: float = 0.0  # of all joints: a rule that never moves breaks nothing

    @property
    def violations(self) -> int:
        """How many there were of any kind."""
        return self.position + self.speed + self.acceleration + self.speed_law + self.unstoppable + self.nonfinite

    def add(self, other: "Tally") -> None:
        """Add counts and lengths, keep the larger of the extremes."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            extreme = name in ("overshoot_rad", "speed_ratio", "acceleration_ratio")
            setattr(self, name, max(mine, value) if extreme else mine + value)


class Watch:
    """The checker: sees positions, one after the other, of arms that begin at rest."""

    def __init__(self, rig: Rig, dt: float, q: Array) -> None:
        self.rig, self.dt, self.tally = rig, dt, Tally()
        self.q, self.v = q, np.zeros_like(q)
        self.span = rig.high - rig.low

    def see(self, q: Array) -> None:
        """Judge the next positions."""
        rig, tally = self.rig, self.tally
        v = (q - self.q) / self.dt
        a = (v - self.v) / self.dt
        finite = np.isfinite(q)
        tally.proposals += len(q)
        tally.joint_steps += q.size
        tally.nonfinite += int(q.size - finite.sum())
        outside = np.maximum(rig.low - q, q - rig.high)
        speeds, accelerations = np.abs(v) / rig.speed, np.abs(a) / rig.acceleration
        tally.position += int((outside > RELATIVE * self.span).sum())
        tally.speed += int((speeds > 1 + RELATIVE).sum())
        tally.acceleration += int((accelerations > 1 + RELATIVE).sum())
        tally.overshoot_rad = max(tally.overshoot_rad, float(np.fmax.reduce(outside, axis=None)))
        tally.speed_ratio = max(tally.speed_ratio, float(np.fmax.reduce(speeds, axis=None)))
        tally.acceleration_ratio = max(tally.acceleration_ratio, float(np.fmax.reduce(accelerations, axis=None)))
        tally.moved_rad += float(np.abs(v[finite]).sum() * self.dt)
        if rig.law is not None:
            tally.speed_law += int((v > self._law(rig.law, np.minimum(rig.law[3] - self.q, rig.law[3] - q))).sum())
            tally.speed_law += int((-v > self._law(rig.law, np.minimum(self.q - rig.law[2], q - rig.law[2]))).sum())
        self.q, self.v = q, v

    def _law(self, law: tuple[Array, Array, Array, Array], gap: Array) -> Array:
        """Return the largest speed at the nearer of both ends of a move."""
        return np.maximum(np.sqrt(law[1] * np.maximum(gap, 0.0)) - law[0], 0.0) + RELATIVE * self.rig.speed

    def stop(self) -> None:
        """Judge where the arms would stand if they braked from here on."""
        q, v = self.q.copy(), self.v.copy()
        while v.any() and np.isfinite(v).all():
            v = np.sign(v) * np.maximum(np.abs(v) - self.rig.acceleration * self.dt, 0.0)
            v[np.abs(v) < 1e-12] = 0.0
            q += v * self.dt
        outside = np.maximum(self.rig.low - q, q - self.rig.high)
        self.tally.unstoppable += int((outside > RELATIVE * self.span).sum())
        self.tally.stops_checked += q.size


def proposals(rig: Rig, dt: float, arms: int, rng: np.random.Generator) -> Iterator[Callable[[Array, Array], Array]]:
    """Yield, for each tick, what turns last positions and speeds into proposals; arm i is under attack i mod 8."""
    joints = len(rig.low)
    span, centre = rig.high - rig.low, 0.5 * (rig.low + rig.high)
    kinds = np.arange(arms) % len(ATTACKS)
    rows = {name: np.flatnonzero(kinds == index) for index, name in enumerate(ATTACKS)}
    side = np.where(rng.random((arms, joints)) < 0.5, -1.0, 1.0)
    flips = np.select([kinds == 1, kinds == 2], [0.003, 0.05], 0.02)[:, None] * np.exp(rng.uniform(-2, 2, (arms, 1)))
    waves = rng.uniform(0.0, np.pi, (2, arms, joints)) ** 2 / np.pi  # [rad a tick] up to half a turn, and phases
    far = span * 10.0 ** rng.uniform(-2, 3, (arms, joints))

    def attack(q: Array, v: Array, u: Array, tick: int) -> Array:
        p = centre + span * (1.5 * u - 0.75)
        r = rows["limit"]
        p[r] = np.where(side[r] > 0, rig.high, rig.low)
        for r in (rows["bang_bang"], rows["nan"]):
            p[r] = centre + far[r] * side[r]
        r = rows["nan"]
        p[r] = np.where(u[r] < 0.3, np.nan, p[r])
        r = rows["oscillating"]
        p[r] = centre + far[r] * np.sin(waves[0, r] * tick + waves[1, r])
        r = rows["infinite"]
        p[r] = np.where(u[r] < 0.9, side[r] * np.inf, p[r])
        r = rows["huge"]
        p[r] = HUGE[(u[r] * len(HUGE)).astype(int)]
        r = rows["edge"]  # as much acceleration as allowed, and a hair more
        p[r] = q[r] + (v[r] + side[r] * rig.acceleration * dt * (1.0 + 1e-6 * u[r])) * dt
        return p

    tick = 0
    while True:
        u = rng.random((arms, joints))
        side = np.where(u < flips, -side, side)
        yield lambda q, v, u=u, tick=tick: attack(q, v, u, tick)
        tick += 1


def fuzz(rig: Rig, dt: float, rule: Rule, size: tuple[int, int], rng: np.random.Generator, stops_every: int) -> Tally:
    """Run arms x ticks = `size` from random positions at rest, a third of them close to a limit."""
    arms, ticks = size
    u = rng.random((arms, len(rig.low)))
    q = rig.low + (rig.high - rig.low) * np.where(u < 1 / 6, 0.05 * u, np.where(u > 5 / 6, 1 - 0.05 * (1 - u), u))
    v = np.zeros_like(q)
    watch = Watch(rig, dt, q)
    attacks = proposals(rig, dt, arms, rng)
    for tick in range(ticks):
        q, v = rule(q, v, next(attacks)(q, v))
        with np.errstate(all="ignore"):
            watch.see(q)
            if tick % stops_every == 0:
                watch.stop()
    return watch.tally


def _wanted(q: Array, proposal: Array, dt: float) -> Array:
    with np.errstate(over="ignore"):
        return (np.where(np.isfinite(proposal), proposal, q) - q) / dt


def position_bound(rig: Rig, dt: float) -> Rule:
    """Return a rule of others, written anew: limits of acceleration and speed, then (limit - q) / T, which forgets braking.

    That is what clamping a position command to its limits does. NaN counts as q here, to show this fault alone.
    """

    def rule(q: Array, v: Array, proposal: Array) -> tuple[Array, Array]:
        wanted = _wanted(q, proposal, dt)
        speed = np.clip(np.clip(wanted, v - rig.acceleration * dt, v + rig.acceleration * dt), -rig.speed, rig.speed)
        speed = np.clip(speed, (rig.low - q) / dt, (rig.high - q) / dt)
        return q + speed * dt, speed

    return rule


def swapped_bound(rig: Rig, dt: float) -> Rule:
    """Return the same with the acceleration limit last, and ends that cross swapped.

    So in ros2_control, compute_velocity_limits in joint_limits/src/joint_limits_helpers.cpp at 057d367; left out: it raises an
    exception half a degree outside a limit.
    """

    def rule(q: Array, v: Array, proposal: Array) -> tuple[Array, Array]:
        wanted = _wanted(q, proposal, dt)
        low, high = np.maximum(-rig.speed, (rig.low - q) / dt), np.minimum(rig.speed, (rig.high - q) / dt)
        inside = (q >= rig.low) & (q <= rig.high)
        low, high = np.where(inside, low, 0.0), np.where(inside, high, 0.0)
        low, high = np.maximum(low, v - rig.acceleration * dt), np.minimum(high, v + rig.acceleration * dt)
        speed = np.clip(wanted, np.minimum(low, high), np.maximum(low, high))
        return q + speed * dt, speed

    return rule


def block(seed: int, index: int) -> tuple[str, Tally, float]:
    """Run one block of the filter, arm and tick by turns; return its name, what happened, and how long it took one core [s]."""
    rig, dt = RIGS[index % len(RIGS)], TICKS_S[index // len(RIGS) % len(TICKS_S)]
    started = time.process_time()
    rule = JointFilter(rig.limits, dt).filter
    tally = fuzz(rig, dt, rule, (BLOCK_ARMS, BLOCK_TICKS), np.random.default_rng([seed, index]), stops_every=64)
    return f"{rig.name} {1000 * dt:.1f} ms", tally, time.process_time() - started


@dataclass
class State:
    """What the result file holds."""

    seed: int
    source: str  # hash of filter and attacks: other code starts another file
    blocks: int = 0
    seconds: float = 0.0  # of one core
    total: Tally = field(default_factory=Tally)
    cases: dict[str, Tally] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Replace the result file."""
        write_json(path, {**asdict(self), "violations": self.total.violations})


def resumed(path: Path, seed: int) -> State:
    """Return the state in the file, or a new one where there is none.

    Raises:
        SystemExit: the file comes from another seed or from other code.
    """
    files = (Path(joint_filter.__file__), Path(__file__))
    new = State(seed, hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16])
    if not path.is_file():
        return new
    saved: dict[str, Any] = json.loads(path.read_text())
    if (saved["seed"], saved["source"]) != (new.seed, new.source):
        raise SystemExit(f"{path} comes from another seed or from other code; remove it, or give another --out")
    cases = {name: Tally(**tally) for name, tally in saved["cases"].items()}
    return replace(new, blocks=saved["blocks"], seconds=saved["seconds"], total=Tally(**saved["total"]), cases=cases)


def main() -> None:
    """Run what is missing, print the sums, fail on violations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proposals", type=float, default=1e8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/joint_fuzz.json"))
    parser.add_argument("--workers", type=int, default=1, help="processes")
    options = parser.parse_args()
    state = resumed(options.out, options.seed)
    goal = -(-int(options.proposals) // (BLOCK_ARMS * BLOCK_TICKS))
    todo = range(state.blocks, goal)
    with ProcessPoolExecutor(max(1, options.workers), multiprocessing.get_context("spawn")) as pool:
        for name, tally, seconds in pool.map(block, [options.seed] * len(todo), todo):
            state.blocks += 1
            state.seconds += seconds
            state.total.add(tally)
            state.cases.setdefault(name, Tally()).add(tally)
            state.write(options.out)
            print(f"{state.blocks}/{goal} {name}: {tally.violations} violations, {seconds:.1f} s", file=sys.stderr)
    state.write(options.out)
    for name, tally in {**state.cases, "all": state.total}.items():
        print(
            f"{name:14} {tally.proposals:>11,} proposals: {tally.violations} violations, overshoot {tally.overshoot_rad:.1e} rad, "
            f"speed {tally.speed_ratio:.12f}, acceleration {tally.acceleration_ratio:.12f} of the limit"
        )
    bound = f"; with 95 % confidence at most {3 / state.total.proposals:.0e} a proposal of these attacks"
    print(f"{state.seconds:.0f} s of one core{'' if state.total.violations else bound}; {options.out}")
    sys.exit(state.total.violations > 0)


if __name__ == "__main__":
    main()
