"""Put defects into the shield on purpose, and see whether what judges it finds each of them.

python tools/shield_defects.py [--json] [--only NAME] [--all-scenes]

Every defect is a text of the source replaced by another, or another value of a constant, in the running program. The same proposals go
through the shield without and with it: legal motion at speed into limits, walls, obstacles and the arm itself; pushes and jumps; stops
from anywhere in between; inputs that have to be refused. The independent checker looks at every command. A defect is caught by a
violation, by an input that was not refused, by an arm that does not come away from where it stands, or by a distance that was claimed
and is not there. Exit code 1 if one is not caught, or if the shield as it is is found fault with.
"""

import os

os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})

import argparse
import contextlib
import copy
import inspect
import itertools
import json
import math
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import mujoco
import numpy as np
from shield_runs import ARMS, EMPTY, FREE, Drive, checker

from ideomotor.robot import clearance, shield, velocity_qp
from ideomotor.robot.adversaries import CELL, Place
from ideomotor.robot.body import body_of
from ideomotor.robot.clearance import Clearance, Verdict
from ideomotor.robot.follower import Follower
from ideomotor.robot.kinematics import forward
from ideomotor.robot.proposal import Proposal
from ideomotor.robot.robot import RobotState
from ideomotor.robot.shield import Shield
from ideomotor.robot.stop import plan_stop
from ideomotor.robot.surroundings import Bounds, HalfSpace, Obstacle, Sphere, Surroundings

DT = 0.01  # [s]
Scene = Iterator[list[str]]  # for each proposal, what is wrong


@dataclass(frozen=True)
class Change:
    """Texts of a function that others take the place of."""

    owner: Any  # module or class
    name: str  # of the function in it
    texts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Defect:
    """What is broken, how, and where it should show."""

    name: str
    scene: str
    changes: tuple[Change, ...] = ()
    values: tuple[tuple[Any, str, Any], ...] = ()  # owner, name, and another value of a constant or function


def change(owner: Any, name: str, *texts: tuple[str, str]) -> Change:
    return Change(owner, name, texts)


def rewritten(what: Change) -> Any:
    """Return the function with its text changed."""
    function = inspect.unwrap(getattr(what.owner, what.name))
    text = textwrap.dedent(inspect.getsource(function))
    for old, new in what.texts:
        if text.count(old) != 1:
            where = f"{what.owner.__name__}.{what.name}"
            raise LookupError(f"{where} has {old!r} {text.count(old)} times; put this defect anew")
        text = text.replace(old, new)
    scope: dict[str, Any] = {}
    exec(compile(text, f"<{what.name}>", "exec"), function.__globals__, scope)  # noqa: S102 (our own source, changed)
    return scope[what.name]


@contextlib.contextmanager
def broken(defect: Defect) -> Iterator[None]:
    """Put a defect in for a while."""
    with contextlib.ExitStack() as stack:
        for what in defect.changes:
            stack.enter_context(mock.patch.object(what.owner, what.name, rewritten(what)))
        for owner, name, value in defect.values:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def harder(acceleration: float, jerk: float) -> Callable[..., Any]:
    """Return a planner of stops that takes limits for larger than they are."""
    return lambda q, v, a, most, jolt: plan_stop(q, v, a, acceleration * most, jerk * jolt)


def lookless(*_: Any) -> Verdict:
    return Verdict(1.0, 1.0, 1.0, 0.0, ())


NAN_WRONG = (  # "is it too much?" is asked everywhere, and NaN is never too much
    change(shield, "read_floats", ("not np.isfinite(numbers).all()", "(np.abs(numbers) > 1e9).any()")),
    change(
        Follower,
        "legal",
        ("~(np.maximum(np.abs(speed), np.abs(end)) <= bound[0])", "np.abs(speed) > bound[0]"),
        ("~(np.abs(change) <= bound[1])", "np.abs(change) > bound[1]"),
        ("~(np.abs(jolt) <= bound[2]", "(np.abs(jolt) > bound[2]"),
    ),
    change(Shield, "_verified", ("not (np.isfinite(path).all() and np.isfinite(v_NJ).all())", "False"),
           ("math.ceil(stop.duration / step - 1e-9)", "50")),
    change(Shield, "_broken_limits", ("not ((path[1:] >= low) & (path[1:] <= high)).all()", "((path[1:] < low) | (path[1:] > high)).any()")),
    change(Clearance, "judge", ("not value >= 0.0", "value < 0.0")),
    change(Shield, "_move", ("not (np.isfinite(q).all() and np.isfinite(v).all() and np.isfinite(a).all())", "False")),
)  # fmt: skip

DEFECTS = (
    Defect("joint limits are not looked at", "one joint",
           (change(Shield, "_broken_limits", ("if not ((path[1:] >= low) & (path[1:] <= high)).all():", "if False:")),)),
    Defect("the speed law is not looked at", "one joint",
           (change(Shield, "_law_kept", ("if self.body.limits.speed_law is None:", "if True:")),)),
    Defect("obstacles are not looked at", "push", (change(Clearance, "judge", ("(obstacle, Reason.COLLISION),", "")),)),
    Defect("the arm itself is not looked at", "fold", (change(Clearance, "judge", ("(own, Reason.SELF_COLLISION),", "")),)),
    Defect("bounds are not looked at", "out", (change(Clearance, "judge", ("(inside, Reason.WORKSPACE),", "")),)),
    Defect("the tool's speed is not looked at", "ram ur5e",
           (change(Clearance, "judge", ("(tool_speed - speed, Reason.TOOL_SPEED),", "")),)),
    Defect("thickness with the wrong sign", "push", (change(Clearance, "_pairs", ("gap - thick", "gap + thick")),)),
    Defect("a half space's normal with the wrong sign", "push",
           (change(Clearance, "_planes", ("self._normal[plane]", "-self._normal[plane]")),)),
    Defect("normals of the velocity program with the wrong sign", "inside a margin",
           (change(velocity_qp, "barrier_rows", ("return -away,", "return away,")),)),
    Defect("nothing is lost between samples", "claims", (change(clearance, "_lost", ("0.5 * delta", "0.0 * delta")),)),
    Defect("arcs are taken for straight lines", "claims", (change(clearance, "_bend", ("/ 8.0", "/ 1e9")),)),
    Defect("of a stop, only the first sample is looked at", "push",
           (change(Shield, "_verified", ("np.arange(math.ceil(stop.duration / step - 1e-9) + 1)", "np.arange(1)")),)),
    Defect("the present command is not put in front", "inside a margin",
           (change(Shield, "_verified", ("np.concatenate([memory.moving.q[None], q_NJ])", "np.concatenate([q_NJ[:1], q_NJ])")),)),
    Defect("inside a margin anything goes", "inside a margin",
           (change(clearance, "_kept", ("np.minimum(margin, np.maximum.accumulate(distance[:-1]))", "np.where(distance[:1] < margin, -1.0, margin)")),)),
    Defect("the stop is not planned anew", "push",
           (change(Shield, "_accepted", ("memory.kept, memory.elapsed, memory.tool_speed = stop, 0.0,", "memory.tool_speed =")),)),
    Defect("sent without a verified stop", "push", (), ((Shield, "_verified", lookless),)),
    Defect("stops brake twice as hard", "push", (), ((shield, "plan_stop", harder(2.0, 1.0)),)),
    Defect("stops with 1.5 times acceleration and jerk", "push", (), ((shield, "plan_stop", harder(1.5, 1.5)),)),
    Defect("stops with twice the jerk", "1 ms", (), ((shield, "plan_stop", harder(1.0, 2.0)),)),
    Defect("motion at 1.2 times the rated speed", "one joint",
           (change(Follower, "__init__", ("rated * [[share.speed]", "rated * [[1.34 * share.speed]")),)),
    Defect("no limit of acceleration for a proposal that is taken as it is", "jitter",
           (change(Follower, "legal", ("Reason.ACCELERATION: ~(np.abs(change) <= bound[1]),", "")),)),
    Defect("no limit of jerk for a proposal that is taken as it is", "1 ms",
           (change(Follower, "legal", ("for reason, joints in over.items() if joints.any()", "for reason, joints in over.items() if reason != Reason.JERK and joints.any()")),)),
    Defect("a stop jumps to its end", "push",
           (change(Shield, "_halted", ("min(memory.elapsed + self.settings.dt, ", "max(memory.elapsed + self.settings.dt, ")),)),
    Defect("an old state is taken", "inputs",
           (change(Shield, "_measured", ("if not -FUTURE <= self._watch.now - state.time <= self.settings.max_age:", "if False:")),)),
    Defect("an old proposal is taken", "inputs",
           (change(Shield, "_in_time", ("if not -FUTURE <= self._watch.now - stamp <= self.settings.max_age:", "if False:")),)),
    Defect("a repeated proposal is taken", "inputs", (change(Shield, "_in_time", ("sequence <= self._watch.sequence", "False")),)),
    Defect("a clock that stands is taken", "inputs", (change(Shield, "_check_clock", ("if gap <= 0.0:", "if False:")),)),
    Defect("NaN is compared the wrong way", "inputs", NAN_WRONG),
    Defect("a latch that holds nothing", "inputs", (change(Shield, "_tick", ("found.add(watch.latch, Reason.LATCHED)", "pass")),)),
    Defect("tracking errors are not looked at", "inputs",
           (change(Shield, "_compare", ("if self._watch.tracking.update(q, memory.moving.q):", "if False:")),)),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- scenes


class Run:
    """A drive whose commands are checked as they come, and whose stops are tried out in between."""

    def __init__(
        self, arm: str, q: np.ndarray, around: Surroundings = CELL, cap: float | None = None, dt: float = DT
    ) -> None:
        self.drive = Drive(ARMS[arm], around, replace(FREE, tool_speed=cap, dt=dt), q)
        self.drive.lenient = True
        self.stream = checker(arm, around, dt).stream()
        self.stream.restart(self.drive.begun)
        self.cap = math.inf if cap is None else cap

    def look(self) -> list[str]:
        """Return what is wrong with the command that was sent last."""
        return [str(v.kind) for v in self.stream.step(self.drive.q, self.cap)]

    def stop(self) -> list[str]:
        """Return what is wrong with a stop from here, and come back."""
        drive, found = self.drive, list[str]()
        fork, memory = copy.copy(self.stream), drive.shield.get_state()
        here = drive.q, drive.dq, drive.now
        for _ in range(100):
            drive.tick(None)
            found += [str(v.kind) for v in fork.step(drive.q, self.cap)]
            if drive.report.how == "hold" or found:
                break
        drive.shield.set_state(memory)
        drive.q, drive.dq, drive.now = here
        return found

    def settle(self) -> Scene:
        """Stop for good."""
        for _ in range(100):
            self.drive.tick(None)
            yield self.look()
            if self.drive.report.how == "hold":
                return


def line(arm: str, q: np.ndarray, towards: np.ndarray, pace: float) -> Iterator[np.ndarray]:
    """Legal motion from rest to a share of the speed limits, on a straight line in joint space, that does not end."""
    limits = body_of(ARMS[arm]).limits
    speed, acceleration = 0.9 * np.array(limits.speed), 0.5 * np.array(limits.acceleration)
    way = (towards - q) / np.abs((towards - q) / speed).max()
    rise = max(10, math.ceil(float((1.875 * pace * np.abs(way) / (0.9 * acceleration)).max()) / DT))
    for tick in itertools.count():
        s = min((tick + 0.5) / rise, 1.0)
        q = q + pace * (s**3 * (10.0 - 15.0 * s + 6.0 * s * s)) * way * DT
        yield q


def insist(run: Run, targets: Iterator[np.ndarray], rng: np.random.Generator, stops: float) -> Scene:
    """Propose until it has been refused for a while; then stop."""
    refused = 0
    for q in itertools.islice(targets, 300):
        run.drive.joints(q)
        refused += run.drive.report.how != "proposal"
        yield run.look() or (run.stop() if rng.random() < stops else [])
        if refused > 15:
            break
    yield from run.settle()


def ram(arm: str, episodes: int, seed: int, cap: float | None = None) -> Scene:
    """Legal motion straight into whatever is there."""
    rng, place = np.random.default_rng(seed), Place(body_of(ARMS[arm]), CELL, np.array(ARMS[arm].home))
    for _ in range(episodes):
        run = Run(arm, place.free(rng, 0.7), cap=cap)
        pace = rng.uniform(0.3, 0.9) if cap is None else rng.uniform(0.1, 0.4)
        yield from insist(run, line(arm, run.drive.q, place.anywhere(rng, 2.0), pace), rng, 0.06)


def one_joint() -> Scene:
    """Full speed of one joint into its limit, with nothing around."""
    for arm, joint, side, pace in (("panda", 0, 1.0, 0.999), ("panda", 4, -1.0, 0.999), ("fr3", 4, 1.0, 0.6)):
        home = np.array(ARMS[arm].home)
        run = Run(arm, home, EMPTY)
        target = home + 5.0 * side * (np.arange(7) == joint)
        yield from insist(run, line(arm, home, target, pace), np.random.default_rng(0), 0.04)
        run = Run(arm, home, EMPTY)
        for _ in range(90):  # the follower at full speed
            run.drive.joints(target)
            yield run.look()


def fold() -> Scene:
    """Into the arm itself."""
    home, rng = np.array(ARMS["panda"].home), np.random.default_rng(1)
    place = Place(body_of(ARMS["panda"]), EMPTY, home)
    for _ in range(2):
        yield from insist(Run("panda", home, EMPTY), line("panda", home, place.inside(rng, 0.05), 0.5), rng, 0.06)


def out() -> Scene:
    """Out of bounds, in every direction."""
    home, rng = np.array(ARMS["panda"].home), np.random.default_rng(1)
    place = Surroundings(bounds=Bounds((0.2, -0.25, 0.1), (0.65, 0.25, 0.9)))
    for joint, side in ((0, 1.0), (1, 1.0), (3, 1.0)):
        target = home + side * (np.arange(7) == joint)
        yield from insist(Run("panda", home, place), line("panda", home, target, 0.5), rng, 0.06)


def push(arm: str, episodes: int, seed: int) -> Scene:
    """Pushes into things and jumps, with stops in between; at the end a retreat has to come away."""
    rng, place = np.random.default_rng(seed), Place(body_of(ARMS[arm]), CELL, np.array(ARMS[arm].home))
    for _ in range(episodes):
        run = Run(arm, place.free(rng, 0.7))
        goals = place.inside(rng, 0.1), place.anywhere(rng)
        for tick in range(80):
            run.drive.joints(goals[tick // 8 % 9 == 5])
            yield run.look() or (run.stop() if rng.random() < 0.05 else [])
        yield from run.settle()
        yield from away(run, 200)


def away(run: Run, patience: int) -> Scene:
    """Retreat from where the arm stands."""
    stood = run.drive.q
    for _ in range(patience):
        run.drive.retreat()
        yield run.look()
        if np.abs(run.drive.q - stood).max() > 0.05:
            return
    yield ["no recovery"]


def inside_a_margin() -> Scene:
    """Start with a ball under the fingers, and push into it; or retreat."""
    home = np.array(ARMS["panda"].home)
    x, y, z = forward(ARMS["panda"], home)[:3, 3].tolist()
    place = Surroundings(obstacles=(Obstacle("ball", Sphere((x, y, z - 0.05), 0.02)),))
    yield from away(Run("panda", home, place), 100)
    run = Run("panda", home, place)
    for goal in (home + 0.3 * (np.arange(7) == 1), home - 0.2 * (np.arange(7) == 1)):
        for _ in range(25):
            run.drive.joints(goal)
            yield run.look()


def one_millisecond() -> Scene:
    """Ticks that are short enough for jerk to be seen: jumps, tiny legal-looking steps, and stops."""
    home, rng = np.array(ARMS["panda"].home), np.random.default_rng(1)
    run = Run("panda", home, EMPTY, dt=0.001)
    for tick in range(120):
        run.drive.joints(home + (0.5 if tick // 40 % 2 == 0 else -0.5))
        yield run.look() or (run.stop() if tick in (35, 80) else [])
    yield from run.settle()
    for _ in range(60):
        run.drive.joints(run.drive.q + run.drive.dq * 0.001 + rng.choice([-3e-6, 3e-6], 7))  # 3 rad/s^2 at once
        yield run.look()


def jitter() -> Scene:
    """Proposals that keep the limits of speed and nothing else."""
    home, rng = np.array(ARMS["panda"].home), np.random.default_rng(2)
    run = Run("panda", home, EMPTY)
    for _ in range(80):
        run.drive.joints(home + rng.uniform(-3e-4, 3e-4, 7))
        yield run.look()


def claims() -> Scene:
    """What is claimed between samples far apart, against the checker's search: swings over a ball, and past a wall."""
    home, first = np.array(ARMS["panda"].home), np.arange(7) == 0
    x, _, z = forward(ARMS["panda"], home)[:3, 3].tolist()
    ball, wall = (
        Sphere((x, 0.0, z - 0.06), 0.02),
        HalfSpace((-1.0, 0.0, 0.0), -0.48),
    )  # lowest, nearest halfway between samples
    for shape, step in ((ball, 0.6), (wall, 0.2)):
        around = Surroundings(obstacles=(Obstacle("thing", shape),))
        swing = home + step * np.arange(-2.5, 2.51)[:, None] * first
        between = home + step * np.linspace(-1.5, 2.5, 161)[:, None] * first
        wrong = claimed(around, swing) > there(around, between) + 1e-6
        yield ["more distance claimed than is there"] if wrong else []


def claimed(around: Surroundings, path: np.ndarray) -> float:
    """Return the least distance beyond a margin that is claimed [m]."""
    verdict = Clearance(body_of(ARMS["panda"]), around).judge(path, np.full(len(path) - 1, 0.1), math.inf)
    return min(verdict.obstacle, verdict.self_collision)


def there(around: Surroundings, poses: np.ndarray) -> float:
    """Return the least distance beyond a margin at these poses, by the checker [m]."""
    found = checker("panda", around, DT)
    kept, points = found.kept, found.skeleton.points(mujoco.MjData(found.skeleton.model), poses)
    distance = kept.distances(points, exact=True) - kept.margin[:, None]
    return float(distance[[str(kind) != "workspace" for kind in kept.kinds]].min())


def inputs() -> Scene:
    """Inputs that have to be refused, one after the other, each given to an arm in motion that goes on in between."""
    home = np.array(ARMS["panda"].home)
    run, goal = Run("panda", home, EMPTY), home + 0.4 * (np.arange(7) == 0)
    drive = run.drive

    def given(what: str, proposal: Proposal, late: float = 0.0, off: float = 0.0, now: float = 0.0) -> list[str]:
        """Give one tick; the state is `late` old, and the arm is measured `off` its command."""
        at = drive.now + DT
        drive.tick(proposal, state=RobotState(at - late, drive.q + off, drive.dq, 1.0), now=now or at)
        return run.look() + ([f"{what} accepted"] if what and drive.report.accepted else [])

    def bad(joint: int, value: float) -> np.ndarray:
        return np.where(np.arange(7) == joint, value, drive.q + drive.dq * DT)

    cases: tuple[Callable[[float, int], list[str]], ...] = (
        lambda at, number: given("NaN", Proposal(bad(2, math.nan), at, number)),
        lambda at, number: given("infinity", Proposal(bad(6, math.inf), at, number)),
        lambda at, number: given("old proposal", Proposal(goal, at - 0.2, number)),
        lambda at, number: given("repeated proposal", Proposal(goal, at, number - 1)),
        lambda at, number: given("clock that stands", Proposal(goal, at - DT, number), late=DT, now=at - DT),
        lambda at, number: given("old state", Proposal(goal, at, number), late=1.0),
        lambda at, number: given("arm elsewhere", Proposal(goal, at, number), off=0.15),
    )
    for index, case in enumerate(cases):
        for _ in range(12):
            drive.sequence += 1
            yield given("", Proposal(goal if index % 2 else home, drive.now + DT, drive.sequence))
        yield case(drive.now + DT, drive.sequence + 1)
    for more in range(70):
        yield given("proposal while latched", Proposal(home, drive.now + DT, drive.sequence + 2 + more))


SCENES: dict[str, Callable[[], Scene]] = {
    "inputs": inputs,
    "push": lambda: itertools.chain(push("panda", 3, 5), push("ur5e", 2, 6)),
    "one joint": one_joint,
    "fold": fold,
    "out": out,
    "ram panda": lambda: ram("panda", 3, 2),
    "ram ur5e": lambda: ram("ur5e", 2, 4, 0.25),
    "ram fr3": lambda: ram("fr3", 2, 3),
    "inside a margin": inside_a_margin,
    "1 ms": one_millisecond,
    "jitter": jitter,
    "claims": claims,
}


def first_finding(scenes: tuple[str, ...]) -> tuple[int, str, int]:
    """Return at which proposal something is found first (0: never), what, and how many proposals were made."""
    count = 0
    for name in scenes:
        for found in SCENES[name]():
            count += 1
            if found:
                return count, ", ".join(sorted(set(found))), count
    return 0, "", count


def table(only: str = "", *, everywhere: bool = False) -> dict[str, Any]:
    """Run the shield as it is in all scenes, and each defect in its own; return what was found first."""
    result: dict[str, Any] = {"clean": first_finding(tuple(SCENES)), "defects": {}}
    for defect in DEFECTS:
        if only in defect.name:
            with broken(defect), warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                result["defects"][defect.name] = first_finding(tuple(SCENES) if everywhere else (defect.scene,))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", default="", help="a part of a defect's name")
    parser.add_argument("--all-scenes", action="store_true", help="each defect in all scenes, not in its own alone")
    given = parser.parse_args()
    result = table(given.only, everywhere=given.all_scenes)
    at, what, count = result["clean"]
    if given.json:
        print(json.dumps(result))
    else:
        print("| defect | caught by | first at proposal |\n|---|---|---|")
        for name, (first, found, _) in result["defects"].items():
            print(f"| {name} | {found or 'NOT CAUGHT'} | {first or ''} |")
        print(f"\nwithout a defect: {what or 'nothing found'} in {count} proposals")
    return int(at > 0 or not all(first for first, _, _ in result["defects"].values()))


if __name__ == "__main__":
    sys.exit(main())
