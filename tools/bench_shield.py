"""How long the filters between policy and motors take: rows of `tools/bench.py`, or alone: `python tools/bench_shield.py`."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.body import Body, body_of, parts_apart
from ideomotor.robot.joint_filter import JointFilter
from ideomotor.robot.proposal import Proposal
from ideomotor.robot.robot import RobotState
from ideomotor.robot.shield import Shield
from ideomotor.robot.shield_settings import Settings
from ideomotor.robot.surroundings import BoxShape, CapsuleShape, HalfSpace, Obstacle, Sphere, Surroundings

if TYPE_CHECKING:
    from bench import Entry

TICKS, WARM_UP, HOLD = 3000, 300, 25  # a new random target every HOLD ticks
BATCH = 100_000  # joint proposals at once


def rows() -> "list[Entry]":
    """Return `shield.joint`, `shield.p50` and `shield.p99`."""
    from bench import Entry

    joint = joint_us()
    times = shield_ms(10)
    p50, p99 = (float(np.percentile(times, q)) for q in (50, 99))
    more = (float(np.median(shield_ms(30))) - p50) / 20
    what = f"7 joints, 8 capsules, 10 obstacles, a random target every {HOLD} ticks; {1e3 * more:.1f} us for each further obstacle"
    return [
        Entry(
            "shield.joint",
            joint,
            None,
            None,
            "us/proposal",
            None,
            "<= 10",
            joint <= 10,
            f"batches of {BATCH:,}, 7 joints",
        ),
        Entry("shield.p50", p50, None, None, "ms", None, "<= 0.5", p50 <= 0.5, what),
        Entry("shield.p99", p99, None, None, "ms", None, "<= 2", p99 <= 2.0, what),
    ]


def joint_us() -> float:
    """Return the time of one proposal of 7 joints in the joint filter [us]."""
    limits, rng = body_of(PANDA).limits, np.random.default_rng(0)
    gate = JointFilter(limits, 0.01)
    q, v = np.tile(np.array(PANDA.home), (BATCH, 1)), np.zeros((BATCH, 7))
    proposals = [rng.uniform(limits.q_min, limits.q_max, (BATCH, 7)) for _ in range(4)]
    best = np.inf
    for _ in range(6):
        begin = time.perf_counter()
        for proposal in proposals:
            q, v = gate.filter(q, v, proposal)
        best = min(best, time.perf_counter() - begin)
    return 1e6 * best / (BATCH * len(proposals))


def shield_ms(obstacles: int) -> np.ndarray:
    """Return the times of calls [ms] among some obstacles."""
    body, rng = _eight(body_of(PANDA)), np.random.default_rng(0)
    shield = Shield(body, Surroundings(obstacles=_cell(obstacles)), Settings(tool_speed=None))
    q, dq, goal, times = np.array(PANDA.home), np.zeros(7), np.array(PANDA.home), np.zeros(TICKS)
    for tick in range(TICKS):
        if tick % HOLD == 0:
            goal = rng.uniform(body.limits.q_min, body.limits.q_max)
        now = 0.01 * tick
        state, proposal = RobotState(now, q, dq, 1.0), Proposal(goal, now, tick)
        begin = time.perf_counter()
        command, _ = shield.filter(state, proposal, now)
        times[tick] = time.perf_counter() - begin
        assert command is not None
        q, dq = command.q, (command.q - q) / 0.01
    return 1e3 * times[WARM_UP:]


def _eight(body: Body) -> Body:
    """Return the arm with eight capsules: links 2 to 7 without the flange's lug, and the hand."""
    moving = [c for c in body.capsules if c.link >= 2 and c.part != "finger"]
    lug = min((c for c in moving if c.part == "link7"), key=lambda c: c.radius)
    capsules = tuple(c for c in moving if c is not lug)
    assert len(capsules) == 8, "one for each of links 2 to 4, 6 and 7, two for link 5, the hand"
    return replace(body, capsules=capsules, self_pairs=parts_apart(body.chain, capsules, np.array(PANDA.home)))


def _cell(count: int) -> tuple[Obstacle, ...]:
    """Return a floor, and rods, boxes and balls around the arm, none within 20 cm of it at home."""
    rng, found = np.random.default_rng(1), [Obstacle("floor", HalfSpace((0.0, 0.0, 1.0), 0.0))]
    while len(found) < count:
        angle, far, height = rng.uniform(0.6, 2 * np.pi - 0.6), rng.uniform(0.45, 0.8), rng.uniform(0.1, 0.9)
        x, y, z = (float(value) for value in (far * np.cos(angle), far * np.sin(angle), height))
        kind = len(found) % 3
        if kind == 0:
            shape = Sphere((x, y, z), 0.06)
        elif kind == 1:
            shape = CapsuleShape((x, y, z), (x, y, z + 0.25), 0.03)
        else:
            shape = BoxShape((x, y, z), (0.05, 0.08, 0.06), float(angle))
        found.append(Obstacle(f"{kind}-{len(found)}", shape))
    return tuple(found)


if __name__ == "__main__":
    for entry in rows():
        print(f"{entry.name:14} {entry.ours:.4g} {entry.unit}, goal {entry.goal}: {entry.met}. {entry.note}")
