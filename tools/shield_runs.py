"""Run a shield in front of an arm that follows at once, and let the independent checker look at every command.

python tools/shield_runs.py reaches --arm panda --seconds 600     benign motion: has to come through unchanged
python tools/shield_runs.py stops --arm panda --count 1000        pushes until the arm stands before something, then retreats
python tools/shield_runs.py halts --arm ur5e --count 300          from states of an adversarial run: stops, checked to the end
python tools/shield_runs.py soaks --seed 1                         adversaries, each arm, also with ticks of 1 and 20 ms

Prints one JSON object. Tests run it as a process of its own: there the shape checks of the tests do not slow it down.
"""

import os

os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})

import argparse
import copy
import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from ideomotor.robot.adversaries import ADVERSARIES, CELL, Episode, Place
from ideomotor.robot.arm import Arm
from ideomotor.robot.arms.fr3 import FR3
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.body import Body, body_of
from ideomotor.robot.checker import Checker, Violation
from ideomotor.robot.kinematics import forward, joint_frames
from ideomotor.robot.proposal import Proposal, Retreat
from ideomotor.robot.reasons import Reason
from ideomotor.robot.report import Report
from ideomotor.robot.robot import RobotState
from ideomotor.robot.shield import Shield
from ideomotor.robot.shield_settings import Settings
from ideomotor.robot.soak import Soak, run_block
from ideomotor.robot.surroundings import Surroundings

ARMS = {arm.name: arm for arm in (PANDA, UR5E, FR3)}
EMPTY = Surroundings()
FREE = Settings(tool_speed=None)
AWAY = 0.05  # [rad] that count as coming away, as in the soak
RECOVERY_S = 2.0  # [s] in which an arm has to come away from where it stopped
GEOMETRY = {Reason.COLLISION, Reason.SELF_COLLISION, Reason.WORKSPACE}


@cache
def body(arm_name: str) -> Body:
    return body_of(ARMS[arm_name])


@cache
def checker(arm_name: str, around: Surroundings, dt: float) -> Checker:
    b = body(arm_name)
    return Checker(ARMS[arm_name], b.limits, b.capsules, b.self_pairs, around, dt)


class Drive:
    """A shield, an arm that has reached its command after each tick, a clock, and what the checker says."""

    def __init__(
        self, arm: Arm = PANDA, around: Surroundings = EMPTY, settings: Settings = FREE, q: Any = None, **more: Any
    ) -> None:
        self.arm, self.around, self.dt = arm, around, settings.dt
        self.shield = Shield(body(arm.name), around, settings, **more)
        self.q = np.array(arm.home if q is None else q, np.float64)
        self.dq, self.now, self.sequence = np.zeros(len(self.q)), 100.0, 0
        self.begun = self.q.copy()  # where the arm was measured at first
        self.sent: list[np.ndarray] = []
        self.caps: list[float] = []  # [m/s] of the tool's speed that each command has to keep
        self.cap = np.inf if settings.tool_speed is None else settings.tool_speed
        self.report = Report("none")
        self.lenient = False  # whether numbers that are none are passed on to the checker

    def state(self, **changes: Any) -> RobotState:
        """Return what is measured now."""
        return replace(RobotState(self.now, self.q.copy(), self.dq.copy(), 1.0), **changes)

    def tick(self, proposal: Any, state: Any = "measured", now: Any = None) -> np.ndarray:
        """Give one tick; return how far the joints are told to move [rad]."""
        self.now += self.dt
        state = self.state() if isinstance(state, str) else state
        command, self.report = self.shield.filter(state, proposal, self.now if now is None else now)
        if command is None:
            return np.zeros_like(self.q)
        assert self.lenient or np.isfinite(command.q).all()
        step = command.q - self.q
        self.q, self.dq = command.q, step / self.dt
        self.sent.append(command.q)
        self.caps.append(self.cap)
        return step

    def joints(self, q: Any, **more: Any) -> np.ndarray:
        """Propose joint positions, with everything else in order."""
        self.sequence += 1
        return self.tick(Proposal(np.array(q, np.float64), self.now + self.dt, self.sequence), **more)

    def retreat(self) -> np.ndarray:
        """Propose to go back."""
        self.sequence += 1
        return self.tick(Retreat(self.now + self.dt, self.sequence))

    def settle(self) -> None:
        """Propose nothing until the arm stands."""
        for _ in range(round(2.0 / self.dt)):
            self.tick(None)
            if self.report.how in ("hold", "none"):
                return
        raise AssertionError("the arm did not come to a stand")

    def tool_speed(self) -> float:
        """Return the tool's speed in the last tick [m/s]."""
        before = self.sent[-2] if len(self.sent) > 1 else self.begun
        points = forward(self.arm, np.stack([before, self.q]))[:, :3, 3]
        return float(np.linalg.norm(points[1] - points[0])) / self.dt

    def clearance(self) -> float:
        """Return the smallest distance beyond a margin [m]."""
        frames = joint_frames(self.shield.body.chain, self.q)
        return float(self.shield.clearance.nearest(frames, 9.0).distance.min(initial=9.0))

    def violations(self) -> list[Violation]:
        """Return what the checker finds in everything that was sent."""
        if not self.sent:
            return []
        check = checker(self.arm.name, self.around, self.dt)
        return check.check(np.stack(self.sent), measured=self.begun, tool_speed=np.array(self.caps))


# ---------------------------------------------------------------------------------------------------------------- runs


def reach(arm: Arm, source: np.ndarray, goal: np.ndarray, dt: float, cap: float | None) -> np.ndarray:
    """Return a smooth way, x(s) = 10 s^3 - 15 s^4 + 6 s^5, at 0.9 of what is allowed: speed, acceleration, jerk, the tool's cap."""
    rated, follow, way = body(arm.name).limits, FREE.follow, goal - source
    size, law = np.abs(way), rated.speed_law
    least = [
        1.875 * size / (0.9 * follow.speed * np.array(rated.speed)),  # peaks of its derivatives: 15/8, 10/sqrt(3), 60
        np.sqrt(5.774 * size / (0.9 * follow.acceleration * np.array(rated.acceleration))),
        np.cbrt(60.0 * size / (0.9 * follow.jerk * np.array(rated.jerk))),
    ]
    ticks = max(4, math.ceil(float(np.max(least)) / dt))
    while True:
        s = np.arange(1, ticks + 1) / ticks
        path = source + (s**3 * (10.0 - 15.0 * s + 6.0 * s * s))[:, None] * way
        path[-1] = goal
        speed = np.diff(path, axis=0, prepend=source[None]) / dt
        tool = np.diff(forward(arm, np.concatenate([source[None], path]))[:, :3, 3], axis=0) / dt
        slow = cap is None or float(np.linalg.norm(tool, axis=1).max()) < 0.9 * cap
        if law is not None:
            room = np.where(speed > 0.0, np.array(law.high) - path, path - np.array(law.low))
            slow &= bool((np.abs(speed) < 0.5 * (np.sqrt(np.array(law.gain) * room) - np.array(law.offset))).all())
        if slow:
            return path
        ticks = math.ceil(1.1 * ticks)


def reaches(arm: Arm, seconds: float, cap: float | None = None, seed: int = 0) -> dict[str, Any]:
    """Benign reaches between free positions: count what was altered, and how far commands and proposals are apart."""
    place, rng = Place(body(arm.name), CELL, np.array(arm.home)), np.random.default_rng(seed)
    drive = Drive(arm, CELL, Settings(tool_speed=cap))
    altered, worst, path, count, reasons = 0, 0.0, 0.0, 0, Counter[str]()
    while len(drive.sent) < round(seconds / drive.dt):
        goal = place.free(rng, 0.5)
        line = drive.q + np.linspace(0.0, 1.0, 25)[1:, None] * (goal - drive.q)
        if any(place.blocked(point, 0.04) for point in line):
            continue
        count += 1
        for q in reach(arm, drive.q, goal, drive.dt, cap):
            path += float(np.abs(drive.joints(q)).sum())
            worst = max(worst, float(np.abs(drive.q - q).max()))
            altered += bool(drive.report.reasons) or drive.report.how != "proposal"
            reasons.update(map(str, drive.report.reasons))
    return {
        "ticks": len(drive.sent), "reaches": count, "altered": altered, "reasons": dict(reasons), "worst_rad": worst,
        "path_rad": path, "violations": [str(v) for v in drive.violations()[:5]],
    }  # fmt: skip


def stopped(arm: Arm, rng: np.random.Generator, dt: float) -> tuple[Drive, set[str]] | None:
    """Push towards something until the arm stands before it; return the drive and what stood in the way."""
    place = Place(body(arm.name), CELL, np.array(arm.home))
    drive = Drive(arm, CELL, Settings(dt=dt, tool_speed=None), q=place.free(rng, 0.7))
    goal = place.inside(rng, float(rng.choice([0.0, 0.05, 0.15])))
    why: set[str] = set()
    for _ in range(round(1.5 / dt)):
        drive.joints(goal)
        if drive.report.how in ("stop", "hold"):
            why |= {str(reason) for reason in drive.report.reasons if reason in GEOMETRY}
            if drive.report.how == "hold":
                break
    if not why:
        return None
    drive.settle()
    return drive, why


def stops(arm: Arm, count: int, dt: float = 0.01, seed: int = 0) -> dict[str, Any]:
    """Stops before obstacles, walls and the arm itself, and how soon a retreat comes away from each."""
    rng = np.random.default_rng(seed)
    kinds, slowest, first, stuck = Counter[str](), 0.0, 0.0, list[list[float]]()
    done, bad = 0, list[str]()
    while done < count:
        found = stopped(arm, rng, dt)
        if found is None:
            continue
        drive, why = found
        done += 1
        kinds.update(why)
        stood, accepted = drive.q.copy(), None
        for tick in range(round(RECOVERY_S / dt)):
            drive.retreat()
            if accepted is None and drive.report.accepted and (drive.q != stood).any():
                accepted = (tick + 1) * dt
                first = max(first, accepted)
            if np.abs(drive.q - stood).max() > AWAY:
                slowest = max(slowest, (tick + 1) * dt)
                break
        else:
            stuck.append(np.round(stood, 4).tolist())
        bad += [str(violation) for violation in drive.violations()]
    return {
        "stops": done, "kinds": dict(kinds), "stuck": stuck[:5], "recovered": done - len(stuck), "accepted_s": first,
        "slowest_s": slowest, "violations": bad[:5],
    }  # fmt: skip


def halts(arm: Arm, count: int, dt: float = 0.01, seed: int = 0) -> dict[str, Any]:
    """From every few states of adversarial runs: tell the shield nothing, and check its stop to the end."""
    rng = np.random.default_rng(seed)
    place, check = Place(body(arm.name), CELL, np.array(arm.home)), checker(arm.name, CELL, dt)
    done, moving, bad, longest = 0, 0, list[str](), 0.0
    names = ("uniform", "bang_bang", "limit_riding", "oscillating", "jumps", "push", "push_tool")
    while done < count:
        drive = Drive(arm, CELL, Settings(dt=dt, tool_speed=None), q=place.free(rng, 0.7))
        play = ADVERSARIES[str(rng.choice(names))](place, rng)
        stream = check.stream()
        stream.restart(drive.begun)
        episode = Episode(drive.q, dt, drive.dq, start=drive.now)
        for tick in range(round(1.2 / dt)):
            episode.tick, episode.q, episode.dq = tick, drive.q, drive.dq
            proposal = play(episode).proposal
            drive.now = episode.now - dt
            drive.tick(proposal)
            bad += [str(violation) for violation in stream.step(drive.q)]
            if rng.random() > 0.08:
                continue
            fork, memory = copy.copy(stream), drive.shield.get_state()
            promised, ends = drive.shield.stop, [drive.q]
            assert promised is not None
            q, dq, now = drive.q, drive.dq, drive.now
            for _ in range(round(3.0 / dt)):
                drive.tick(None)
                ends.append(drive.q)
                if drive.report.how == "hold":
                    break
            length = promised.duration
            where = promised.sample(dt * np.arange(len(ends)))[0]
            if np.abs(where - np.stack(ends)).max() > 1e-9:
                bad.append(f"the stop that was promised is not the one that was made, by {np.abs(where - ends).max()}")
            if np.abs(ends[-1] - ends[-2]).max() > 0.0 or drive.report.how != "hold":
                bad.append("it did not end at rest")
            if (len(ends) - 2) * dt > length + 2 * dt:
                bad.append(f"it took {len(ends) * dt} s, and {length} s were promised")
            bad += [str(violation) for violation in fork.extend(np.stack([*ends[1:], ends[-1], ends[-1], ends[-1]]))]
            done, moving, longest = done + 1, moving + bool(np.abs(dq).max() > 0.1), max(longest, length)
            drive.shield.set_state(memory)
            drive.q, drive.dq, drive.now = q, dq, now
    return {"halts": done, "moving": moving, "longest_s": longest, "violations": bad[:5]}


def soaks(seed: int = 0) -> dict[str, Any]:
    """Blocks of the soak: each arm, ticks of 1 and of 20 ms; in odd blocks the tool's speed has its cap."""
    found: dict[str, Any] = {}
    for arm, dt, block in ((PANDA, 0.01, 1), (UR5E, 0.01, 0), (UR5E, 0.001, 1), (FR3, 0.02, 0)):
        tally = run_block(Soak(arm, 0, seed=seed, dt=dt), block)
        found[f"{arm.name} {dt} {block}"] = {"faults": tally.faults, **tally.report()}
    return found


RUNS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "reaches": lambda a: reaches(ARMS[a.arm], a.seconds, a.cap, a.seed),
    "stops": lambda a: stops(ARMS[a.arm], a.count, a.dt, a.seed),
    "halts": lambda a: halts(ARMS[a.arm], a.count, a.dt, a.seed),
    "soaks": lambda a: soaks(a.seed),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--arm", choices=ARMS, default="panda")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cap", type=float)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--dt", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps(RUNS[given.run](given)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
