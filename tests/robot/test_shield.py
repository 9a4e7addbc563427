"""Properties of the shield, judged from outside: by the independent checker, by hand, by differences of its commands.

P1 to P8 are the properties of a filter: sound, stops from everywhere, legal proposals unchanged, idempotent, saturated proposals do not
scale, larger obstacles accept no more, recovers, leaves benign motion alone. Runs of many ticks are processes of their own
(`tools/shield_runs.py`): the shape checks of these tests would make them ten times slower.
"""

import importlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import daqp
import numpy as np
import pytest
import ruckig

from ideomotor.core.errors import UserError
from ideomotor.robot import clearance as clearance_module
from ideomotor.robot import shield as shield_module
from ideomotor.robot.adversaries import CELL
from ideomotor.robot.arm import Vector3
from ideomotor.robot.arms.fr3 import FR3
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.body import body_of
from ideomotor.robot.kinematics import forward, joint_frames
from ideomotor.robot.limits import Share
from ideomotor.robot.proposal import PoseProposal, Proposal, Retreat
from ideomotor.robot.reasons import Reason
from ideomotor.robot.robot import RobotState
from ideomotor.robot.shield import Shield
from ideomotor.robot.shield_settings import Settings
from ideomotor.robot.stop import plan_stop
from ideomotor.robot.surroundings import HalfSpace, Held, Margins, Obstacle, Sphere, Surroundings

TOOLS = Path(__file__).parents[2] / "tools"
HOME = np.array(PANDA.home)
SPEED = np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61])  # the Panda's manual
ACCELERATION = np.array([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0])
JERK = np.array([7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0])
DT = 0.01


@pytest.fixture(scope="module")
def runs() -> Any:
    """The runs, in this process."""
    sys.path.insert(0, str(TOOLS))
    try:
        return importlib.import_module("shield_runs")
    finally:
        sys.path.remove(str(TOOLS))


@pytest.fixture
def drive(runs: Any) -> Callable[..., Any]:
    """Make a shield with an arm that follows at once; keyword arguments are settings."""

    def make(arm: Any = PANDA, around: Any = None, q: Any = None, clock: Any = None, **settings: Any) -> Any:
        more = {} if clock is None else {"clock": clock}
        return runs.Drive(arm, around or Surroundings(), replace(runs.FREE, **settings), q, **more)

    return make


def process(*arguments: object) -> Any:
    """Run `tools/shield_runs.py`, and return what it prints."""
    command = [sys.executable, str(TOOLS / "shield_runs.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def moving(make: Callable[..., Any], ticks: int = 40, offset: float = 0.6, **settings: Any) -> Any:
    """Return a drive in full motion."""
    d = make(**settings)
    for _ in range(ticks):
        d.joints(HOME + offset * np.array([1.0, 0.3, -1.0, 0.5, 1.0, 0.5, -1.0]))
    assert np.abs(d.dq).max() > 0.5
    return d


def stands_within_limits(d: Any) -> None:
    """Let it run on without a proposal: it comes to a stand, and everything it did was within limits."""
    d.settle()
    assert (d.dq == 0.0).all()
    assert d.violations() == []


# ------------------------------------------------------------------------------------------------------- P1: soundness


def test_no_adversary_makes_it_send_what_the_checker_finds_fault_with() -> None:
    """Each arm, and ticks of 1 and 20 ms; the large sizes are `ideomotor safety soak`."""
    found = process("soaks", "--seed", 3)
    for name, run in found.items():
        assert run["violations"] == {}, (name, run["examples"])
        assert run["faults"] == [], name
        assert run["proposals"] >= 1700
        assert run["tool_path_m"] > 0.1  # safe, and not by standing still
    assert sum(run["tool_path_m"] for run in found.values()) > 10.0
    assert {name.split()[0] for name in found} == {"panda", "ur5e", "fr3"}
    reasons = set().union(*(run["interventions"] for run in found.values()))
    assert reasons >= {
        "collision",
        "self_collision",
        "joint_position",
        "joint_velocity",
        "nonfinite",
        "shape",
        "tool_speed",
    }
    assert reasons >= {"stale", "out_of_order", "deadline"}


# ------------------------------------------------------------------------------------------ P2: a stop from every state


@pytest.mark.parametrize(("arm", "dt"), [("panda", 0.01), ("ur5e", 0.02), ("fr3", 0.01)])
def test_from_every_state_the_stop_that_was_promised_is_made_and_keeps_everything(arm: str, dt: float) -> None:
    found = process("halts", "--arm", arm, "--dt", dt, "--count", 60, "--seed", 1)
    assert found["violations"] == []
    assert found["halts"] >= 60
    assert found["moving"] > 30
    assert found["longest_s"] > 0.15


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "dt"), [("panda", 0.01), ("ur5e", 0.001), ("fr3", 0.01), ("panda", 0.02)])
def test_from_thousands_of_states_the_stop_is_made(arm: str, dt: float) -> None:
    found = process("halts", "--arm", arm, "--dt", dt, "--count", 2000, "--seed", 2)
    assert found["violations"] == []
    assert found["moving"] > 1000


# ------------------------------------------------------------------------- P3, P8: legal proposals and benign motion


def quintic(start: np.ndarray, goal: np.ndarray, ticks: int) -> np.ndarray:
    s = (np.arange(1, ticks + 1) / ticks)[:, None]
    return start + (10 * s**3 - 15 * s**4 + 6 * s**5) * (goal - start)


@pytest.mark.parametrize("arm", [PANDA, UR5E, FR3], ids=lambda arm: arm.name)
def test_a_smooth_reach_comes_through_unchanged(drive: Any, arm: Any) -> None:
    """0.5 rad of every joint in 1 s: speeds up to 0.94 rad/s, accelerations up to 2.9 rad/s^2, jerks up to 30 rad/s^3."""
    d = drive(arm)
    goal = d.q + 0.5 * np.array([1.0, 0.5, -1.0, 1.0, -1.0, 1.0, 1.0])[: len(d.q)]
    for q in quintic(d.q, goal, 100):
        d.joints(q)
        np.testing.assert_array_equal(d.q, q)
        assert d.report.reasons == ()
        assert d.report.how == "proposal"
        assert not d.report.intervened
        assert d.report.joints == ()
    assert d.violations() == []


def test_a_proposal_of_single_precision_comes_through_as_what_it_says(drive: Any) -> None:
    d = drive()
    for q in quintic(HOME, HOME + 0.2, 200).astype(np.float32):
        d.sequence += 1
        d.tick(Proposal(q, d.now + DT, d.sequence))
        np.testing.assert_allclose(d.q, q.astype(np.float64), rtol=0, atol=2e-3)  # its rounding is a jerk of its own
    assert d.violations() == []


def test_a_minute_of_benign_motion_has_no_intervention_and_no_lag() -> None:
    for arm, seconds, cap in (("panda", 42, None), ("fr3", 10, None), ("ur5e", 10, 0.25)):
        found = process("reaches", "--arm", arm, "--seconds", seconds, *([] if cap is None else ["--cap", cap]))
        assert found["altered"] == 0, (arm, found["reasons"])
        assert found["worst_rad"] == 0.0  # what is sent is what was proposed, in the same tick
        assert found["violations"] == []
        assert found["ticks"] >= 100 * seconds
        assert found["path_rad"] > 0.5 * seconds


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["panda", "ur5e", "fr3"])
def test_ten_minutes_of_benign_motion_have_no_intervention_and_no_lag(arm: str) -> None:
    for cap in ([], ["--cap", 0.25]):
        found = process("reaches", "--arm", arm, "--seconds", 600, "--seed", 9, *cap)
        assert found["altered"] == 0, found["reasons"]
        assert found["worst_rad"] == 0.0
        assert found["ticks"] >= 60_000


# ---------------------------------------------------------------------------------------------------- P4: idempotence


def legal(d: Any, q: np.ndarray) -> bool:
    """Whether a command keeps, as differences of the last commands, 0.9 of speed, 0.5 of acceleration and jerk (by hand)."""
    last = np.stack([*[d.begun] * 3, *d.sent][-3:] + [q])
    speed = np.diff(last, axis=0) / DT
    change = np.diff(speed, axis=0) / DT
    end = speed[-1] + 0.5 * DT * change[-1]
    jolt = (change[-1] - change[-2]) / DT
    within = [np.abs(speed[-1]) <= 0.9 * SPEED, np.abs(end) <= 0.9 * SPEED, np.abs(change[-1]) <= 0.5 * ACCELERATION]
    return bool(np.all([*within, np.abs(jolt) <= 0.5 * JERK]))


def test_what_it_made_of_a_proposal_is_taken_as_it_is(drive: Any) -> None:
    """F(F(p)) = F(p) from the same state, wherever F(p) is a legal proposal (a stop may use more than motion does)."""
    rng = np.random.default_rng(4)
    d, again, other = drive(), 0, 0
    goal = HOME
    for tick in range(250):
        if tick % 7 == 0:
            goal = HOME + rng.uniform(-0.5, 0.5, 7)
        before = d.shield.get_state()
        q, dq, now, sent = d.q, d.dq, d.now, len(d.sent)
        d.joints(goal)
        once = d.q
        if d.report.how != "follow":
            other += 1
            continue
        d.shield.set_state(before)
        d.q, d.dq, d.now = q, dq, now
        del d.sent[sent:], d.caps[sent:]
        was_legal = legal(d, once)
        d.sequence -= 1
        d.joints(once)
        if was_legal:
            np.testing.assert_allclose(d.q, once, rtol=0, atol=1e-12)
            assert d.report.how == "proposal"
            assert d.report.reasons == ()
            again += 1
    assert again > 150
    assert other < 40
    assert d.violations() == []


def test_the_commands_of_a_run_are_commands_again(drive: Any) -> None:
    """Fed with the commands of another shield's run, as long as each is legal, a shield repeats the run."""
    rng = np.random.default_rng(5)
    first = drive()
    for goal in HOME + rng.uniform(-0.3, 0.3, (3, 7)):
        for q in quintic(first.q, goal, 90):
            first.joints(q + rng.normal(0.0, 1e-7, 7))
    second = drive()
    for q in first.sent:
        if not legal(second, q):
            break
        second.joints(q)
        np.testing.assert_array_equal(second.q, q)
        assert second.report.reasons == ()
    assert len(second.sent) > 200


# --------------------------------------------------------------------------------------- P5: saturated proposals


@pytest.mark.parametrize("cap", [None, 0.25])
@pytest.mark.parametrize("times", [2.0, 1e6])
def test_a_proposal_twice_or_a_million_times_as_far_moves_the_arm_no_further(
    drive: Any, times: float, cap: Any
) -> None:
    """Both beyond what a tick can reach; with the tool's cap in the same direction, inside the joint ranges."""
    rng = np.random.default_rng(6)
    for _ in range(8):
        d = drive(tool_speed=cap)
        way = rng.choice([-1.0, 1.0], 7) * rng.uniform(0.5, 1.0, 7) * (0.25 if cap else 1.0)
        for _ in range(int(rng.integers(0, 25))):
            d.joints(d.q + way)
        before, here = d.shield.get_state(), (d.q, d.dq, d.now, d.sequence)
        sent = []
        for scale in (1.0, times):
            d.shield.set_state(before)
            d.q, d.dq, d.now, d.sequence = here
            far = d.q + scale * way
            if cap is None or scale == 1.0:
                d.joints(far)
            else:
                d.joints(d.q + min(scale, 2.0) * way)
            assert d.report.how == "follow"
            sent.append(d.q)
        np.testing.assert_allclose(sent[1], sent[0], rtol=0, atol=1e-9)


# -------------------------------------------------------------------------------------------- P6: larger obstacles

RANK = {"proposal": 2, "follow": 1}  # what is decided without a detour; all else is less


def test_a_larger_obstacle_never_makes_it_accept_what_it_refused(drive: Any) -> None:
    """From the same state, which keeps the larger one's margin as well. Detours (how = around) are other motions, and not compared."""
    rng = np.random.default_rng(7)
    counts = {-1: 0, 0: 0, 1: 0}
    while sum(counts.values()) < 100:
        target = HOME + rng.uniform(-0.9, 0.9, 7)
        x, y, z = (forward(PANDA, HOME + 0.6 * (target - HOME))[:3, 3] + rng.normal(0.0, 0.08, 3)).tolist()
        small, grown = (
            Surroundings(obstacles=(Obstacle("o", Sphere((x, y, z), 0.05 + more)),))
            for more in (0.0, rng.uniform(0.005, 0.1))
        )
        d, large = drive(around=small), drive(around=grown)
        if large.clearance() < 0.0:
            continue
        for tick in range(int(rng.integers(10, 50))):
            d.joints(target)
            if (
                tick % 5
                or large.shield.clearance.nearest(joint_frames(large.shield.body.chain, d.q), 0.0).distance.size
            ):
                continue
            here, before = (d.q, d.dq, d.now, d.sequence), d.shield.get_state()
            ranks = []
            for one in (d, large):
                one.shield.set_state(before)
                one.q, one.dq, one.now, one.sequence = here
                one.joints(target)
                ranks.append(RANK.get(one.report.how, 0))
            d.shield.set_state(before)
            d.q, d.dq, d.now, d.sequence = here
            assert ranks[0] >= ranks[1]
            counts[ranks[1] - ranks[0]] += 1
    assert counts[0] > 30
    assert counts[-1] > 5  # the larger one stops what the smaller one lets through
    assert counts[1] == 0


# ------------------------------------------------------------------------------------------------- P7, A6: recovery


def test_from_sixty_stops_before_walls_obstacles_and_the_arm_itself_a_retreat_comes_away() -> None:
    done, kinds = 0, set[str]()
    for arm, count in (("panda", 26), ("ur5e", 18), ("fr3", 16)):
        found = process("stops", "--arm", arm, "--count", count, "--dt", 0.02, "--seed", 8)
        assert found["stuck"] == []
        assert found["recovered"] == found["stops"] == count
        assert found["accepted_s"] <= 1.0
        assert found["slowest_s"] <= 2.0
        assert found["violations"] == []
        done, kinds = done + count, kinds | set(found["kinds"])
    assert done == 60
    assert kinds == {"collision", "self_collision", "workspace"}


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["panda", "ur5e", "fr3"])
def test_from_a_thousand_stops_a_retreat_comes_away(arm: str) -> None:
    found = process("stops", "--arm", arm, "--count", 1000, "--seed", 10)
    assert found["recovered"] == 1000, found["stuck"]
    assert found["slowest_s"] <= 2.0
    assert found["violations"] == []


# ------------------------------------------------------------------------------------------------------------ latches


def nothing_moves_it(d: Any, still: np.ndarray, seed: int = 1) -> None:
    rng = np.random.default_rng(seed)
    for index in range(60):
        match index % 6:
            case 0:
                d.joints(rng.uniform(PANDA.q_min, PANDA.q_max))
            case 1:
                d.retreat()
            case 2:
                d.tick(None)
            case 3:
                d.sequence += 1
                d.tick(PoseProposal(forward(PANDA, HOME), d.now + DT, d.sequence))
            case 4:
                d.tick(None, state=None)
            case _:
                d.now += 3.0
                d.joints(HOME)
        np.testing.assert_array_equal(d.q, still)
        assert not d.report.accepted
        assert d.report.latched
        assert Reason.LATCHED in d.report.reasons or Reason.INTERNAL in d.report.reasons


def test_an_arm_that_does_not_follow_is_stopped_and_held_until_a_reset(drive: Any) -> None:
    d = moving(drive)
    d.joints(d.q, state=d.state(time=d.now + DT, q=d.q + 0.11 * (np.arange(7) == 4)))
    assert d.shield.latched is Reason.TRACKING_ERROR
    assert d.report.reasons == (Reason.TRACKING_ERROR, Reason.LATCHED)
    assert d.report.joints == (4,)
    assert d.report.latched
    assert not d.shield.reset(d.state())  # it moves
    stands_within_limits(d)
    still = d.q.copy()
    nothing_moves_it(d, still)
    assert not d.shield.reset(d.state(dq=np.full(7, 0.06)))  # 0.05 rad/s count as standing
    assert not d.shield.reset(None)
    assert not d.shield.reset(d.state(q=np.full(7, math.nan)))
    assert d.shield.latched is Reason.TRACKING_ERROR
    assert d.shield.reset(d.state(dq=np.full(7, 0.04)))
    assert d.shield.latched is None
    for proposal in (None, None):
        assert (d.tick(proposal) == 0.0).all()  # a reset alone starts no motion
        assert not d.report.latched
    for _ in range(10):
        d.joints(HOME)
    assert (d.q != still).any()
    assert d.report.accepted


def test_a_tracking_error_within_the_bound_is_none(drive: Any) -> None:
    d = moving(drive)
    for _ in range(20):
        d.joints(HOME, state=d.state(time=d.now + DT, q=d.q + 0.099))
    assert d.shield.latched is None
    assert d.report.accepted


def test_after_a_reset_it_goes_on_from_where_the_arm_is_measured(drive: Any) -> None:
    d = moving(drive)
    off = d.q + 0.2
    d.joints(d.q, state=d.state(time=d.now + DT, q=off))
    d.settle()
    d.q = HOME + 0.05
    assert d.shield.reset(d.state())
    np.testing.assert_array_equal(d.tick(None), np.zeros(7))


def test_a_reset_with_an_old_state_is_refused(drive: Any) -> None:
    d = moving(drive)
    d.joints(d.q, state=d.state(time=d.now + DT, q=d.q + 0.2))
    d.settle()
    assert not d.shield.reset(d.state(time=d.now - 1.0, q=d.q + 0.5))
    assert d.shield.latched is not None
    assert (d.tick(None) == 0.0).all()
    assert d.shield.reset(d.state(time=d.now + 5.0))  # the loop may have paused


def test_an_external_torque_stops_and_holds_until_it_is_gone_and_somebody_resets(drive: Any) -> None:
    d = drive(reflex=(10.0,) * 7, reflex_ticks=2)

    def state(torque: Any) -> RobotState:
        return d.state(time=d.now + DT, external_torque=torque)

    goal = HOME + 0.6
    for _ in range(40):
        d.joints(goal, state=state(np.full(7, 9.9)))
    assert d.report.accepted
    d.joints(goal, state=state(np.full(7, -10.1)))
    assert d.shield.latched is None  # once is not twice
    d.joints(goal, state=state(np.full(7, 9.9)))
    d.joints(goal, state=state(np.full(7, -10.1)))
    assert d.shield.latched is None
    d.joints(goal, state=state(np.where(np.arange(7) == 2, -10.1, 0.0)))
    assert d.shield.latched is Reason.CONTACT
    assert d.report.reasons == (Reason.CONTACT, Reason.LATCHED)
    for _ in range(100):
        d.joints(goal, state=state(np.zeros(7)))
    assert (d.dq == 0.0).all()
    assert d.violations() == []
    still = d.q
    for torque in (np.full(7, 11.0), np.full(7, math.nan), None):
        assert not d.shield.reset(state(torque))  # it persists, or is unknown
        assert d.shield.latched is Reason.CONTACT
    assert d.shield.reset(state(np.zeros(7)))
    for _ in range(5):
        assert (d.tick(None, state=state(np.zeros(7))) == 0.0).all()
    for _ in range(5):
        d.joints(goal, state=state(np.zeros(7)))
    assert (d.q != still).any()


def test_with_a_reflex_an_unknown_torque_is_one(drive: Any) -> None:
    for torque in (None, np.full(7, math.nan), np.zeros(6)):
        d = drive(reflex=(10.0,) * 7, reflex_ticks=5)
        object.__setattr__(state := d.state(time=d.now + DT), "external_torque", torque)
        d.joints(HOME, state=state)
        assert d.shield.latched is Reason.CONTACT


def test_without_a_reflex_torques_are_no_matter(drive: Any) -> None:
    d = drive()
    d.joints(HOME, state=d.state(time=d.now + DT, external_torque=np.full(7, 1e6)))
    assert d.report.reasons == ()


# ---------------------------------------------------------------------------------------------- deadlines and faults


class Clock:
    """A clock that goes on by what it is told, once the first reading of a call is done."""

    def __init__(self) -> None:
        self.time, self.step = 0.0, 0.0

    def __call__(self) -> float:
        self.time += self.step
        return self.time


def test_a_call_that_takes_too_long_ends_in_a_stop_and_the_next_goes_on(drive: Any) -> None:
    clock = Clock()
    d = moving(drive, clock=clock, budget=0.004)
    clock.step = 0.0041
    d.joints(HOME)
    assert d.report.how == "stop"
    assert Reason.DEADLINE in d.report.reasons
    assert not d.report.latched
    for _ in range(3):
        d.joints(HOME)
    assert not d.report.accepted
    clock.step = 0.0001
    d.joints(HOME)
    assert d.report.accepted
    clock.step = 9.0
    for _ in range(60):
        d.joints(HOME)
    assert (d.dq == 0.0).all()
    assert d.report.how == "hold"
    assert d.violations() == []


def test_without_a_budget_time_is_no_matter(drive: Any) -> None:
    clock = Clock()
    clock.step = 9.0
    d = moving(drive, clock=clock)
    assert d.report.accepted


PARTS: dict[str, Callable[[Any, Any], None]] = {
    "clearance": lambda d, patch: patch.setattr(type(d.shield.clearance), "judge", fault),
    "kinematics": lambda d, patch: patch.setattr(shield_module, "joint_frames", fault),
    "stop": lambda d, patch: patch.setattr(shield_module, "plan_stop", fault),
    "follower": lambda d, patch: patch.setattr(type(d.shield.follower), "follow", fault),
    "legal": lambda d, patch: patch.setattr(type(d.shield.follower), "legal", fault),
    "clock": lambda d, patch: patch.setattr(d.shield, "_clock", fault),
    "tracking": lambda d, patch: patch.setattr(shield_module.TrackingMonitor, "update", fault),
}


def fault(*_: Any, **__: Any) -> Any:
    raise RecursionError("injected")


@pytest.mark.parametrize("part", [part for part in PARTS if part != "kinematics"])
def test_a_fault_inside_stops_the_arm_for_good_and_nothing_is_raised(part: str, drive: Any, monkeypatch: Any) -> None:
    d = moving(drive)
    PARTS[part](d, monkeypatch)
    d.joints(HOME + 0.3)
    assert d.shield.latched is Reason.INTERNAL
    assert Reason.INTERNAL in d.report.reasons
    assert d.report.latched
    stands_within_limits(d)
    monkeypatch.undo()
    nothing_moves_it(d, d.q.copy())
    assert d.shield.reset(d.state())
    for _ in range(5):
        d.joints(HOME)
    assert d.report.accepted


def test_a_fault_before_anything_was_measured_sends_nothing(drive: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(shield_module, "standstill", fault)
    d = drive()
    command, report = d.shield.filter(d.state(), Proposal(HOME, 100.0, 1), 100.0)
    assert command is None
    assert report.how == "none"
    assert report.reasons == (Reason.INTERNAL,)
    assert report.latched


def test_interrupts_of_the_program_are_not_swallowed(drive: Any, monkeypatch: Any) -> None:
    d = moving(drive)

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(d.shield.clearance), "judge", interrupt)
    with pytest.raises(KeyboardInterrupt):
        d.joints(HOME)


# --------------------------------------------------------------------------------------- NaN between the stages (P1)


class Bad:
    """What ruckig might put out."""

    def __init__(self, good: Any, field: str, value: float) -> None:
        self.new_position, self.new_velocity = list(good.new_position), list(good.new_velocity)
        self.new_acceleration = list(good.new_acceleration)
        getattr(self, field)[3] = value


@pytest.mark.parametrize("field", ["new_position", "new_velocity", "new_acceleration"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_follower_that_says_nan_stops_the_arm(drive: Any, field: str, value: float) -> None:
    d = moving(drive)
    follower: Any = d.shield.follower
    follower._output = Bad(follower._output, field, value)
    follower._otg = type("Otg", (), {"update": staticmethod(lambda *_: ruckig.Result.Working)})()
    for _ in range(60):
        d.joints(HOME + 0.3)
        assert not d.report.accepted
        assert Reason.SOLVER in d.report.reasons
    assert (d.dq == 0.0).all()
    assert d.violations() == []


@pytest.mark.parametrize("error", [ruckig.RuckigError, RuntimeError, ValueError])
def test_a_follower_that_raises_stops_the_arm_and_is_asked_again(drive: Any, error: Any, monkeypatch: Any) -> None:
    d = moving(drive)

    def fails(*_: Any) -> Any:
        raise error("error in step 1")

    monkeypatch.setattr(d.shield.follower, "_otg", type("Otg", (), {"update": staticmethod(fails)})())
    for _ in range(3):
        d.joints(HOME + 0.3)
        assert d.report.how == "stop"
        assert Reason.SOLVER in d.report.reasons
    assert d.shield.latched is None
    monkeypatch.undo()
    d.joints(HOME + 0.3)
    assert d.report.accepted
    assert d.violations() == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_velocity_program_that_says_nan_stops_the_arm(drive: Any, value: float, monkeypatch: Any) -> None:
    d = moving(drive)
    monkeypatch.setattr(daqp, "solve", lambda *_: (np.full(7, value), 0.0, 1, {}))
    pose = forward(PANDA, HOME)
    for _ in range(60):
        d.sequence += 1
        d.tick(PoseProposal(pose, d.now + DT, d.sequence))
        assert not d.report.accepted
        assert d.report.reasons == (Reason.SOLVER,)
    assert (d.dq == 0.0).all()
    assert d.violations() == []


@pytest.mark.parametrize("field", ["q", "v", "a", "jerk", "ends"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_stop_that_is_nan_is_not_taken(drive: Any, field: str, value: float, monkeypatch: Any) -> None:
    d = moving(drive)

    def bad(*state: Any) -> Any:
        stop = plan_stop(*state)
        column = getattr(stop, field).copy()
        column[..., 2] = value
        return replace(stop, **{field: column})

    monkeypatch.setattr(shield_module, "plan_stop", bad)
    for _ in range(60):
        d.joints(HOME + 0.3)
        assert not d.report.accepted
    assert (d.dq == 0.0).all()
    assert d.violations() == []  # it went the stop that it had verified before


@pytest.mark.parametrize("where", ["segment_gap", "box_gap", "joint_frames"])
def test_a_distance_that_is_nan_is_no_distance(drive: Any, where: str, monkeypatch: Any) -> None:
    """NaN compares as false with everything: the comparison has to ask for what is allowed."""
    d = moving(drive, around=CELL, ticks=30, offset=0.4)
    good: Any = getattr(clearance_module, where)

    def bad(*given: Any) -> Any:
        answer = good(*given)
        if where == "joint_frames":
            return np.full_like(answer, math.nan)
        return tuple(np.full_like(column, math.nan) for column in answer)

    monkeypatch.setattr(clearance_module, where, bad)
    # everything is near, so that distances are computed
    monkeypatch.setattr(d.shield.clearance, "_reach", d.shield.clearance._reach + 9.0)
    monkeypatch.setattr(d.shield.clearance, "_half", d.shield.clearance._half + 9.0)
    for _ in range(60):
        d.joints(HOME + 0.1)
        assert not d.report.accepted
    assert (d.dq == 0.0).all()
    assert d.violations() == []


# -------------------------------------------------------------------------------------------------- what comes in


def test_nothing_is_sent_before_a_valid_state_has_come_in() -> None:
    shield = Shield(body_of(PANDA))
    for time, state in enumerate((None, "state", RobotState(1.0, np.full(7, math.nan), np.zeros(7), 1.0))):
        command, report = shield.filter(state, Proposal(HOME, 1.0 + time, time), 1.0 + time)
        assert command is None
        assert report.how == "none"
        assert report.reasons
        assert not report.accepted
    command, report = shield.filter(RobotState(5.0, HOME, np.zeros(7), 0.3), None, 5.0)
    assert command is not None
    np.testing.assert_array_equal(command.q, HOME)
    assert command.opening == 0.3
    assert report.how == "hold"


def test_a_state_that_is_old_is_none(drive: Any) -> None:
    """A camera may freeze, and so may a robot's state: the tracking monitor would compare with the past."""
    d = moving(drive)
    for age in (0.11, 5.0, -0.01):
        before = d.now
        d.joints(HOME, state=d.state(time=before + DT - age))
        assert not d.report.accepted
        assert Reason.STALE in d.report.reasons
    d.joints(HOME, state=d.state(time=d.now + DT - 0.09))
    assert d.report.accepted
    fresh = Shield(body_of(PANDA))
    assert fresh.filter(RobotState(90.0, HOME, np.zeros(7), 1.0), None, 100.0)[0] is None  # no start from the past


@pytest.mark.parametrize(
    ("age", "reason"), [(0.0, None), (0.099, None), (0.101, Reason.STALE), (-0.0009, None), (-0.0011, Reason.STALE)]
)
def test_a_proposal_is_as_old_as_its_stamp_says(drive: Any, age: float, reason: Reason | None) -> None:
    d = moving(drive)
    d.sequence += 1
    d.tick(Proposal(HOME, d.now + DT - age, d.sequence))
    assert d.report.accepted == (reason is None)
    assert reason is None or d.report.reasons == (reason,)


def test_a_number_that_does_not_rise_is_refused(drive: Any) -> None:
    d = moving(drive)
    last = d.sequence
    for sequence in (last, last - 1, -5):
        d.tick(Proposal(HOME, d.now + DT, sequence))
        assert d.report.reasons == (Reason.OUT_OF_ORDER,)
    d.tick(Proposal(HOME, d.now + DT, last + 1))
    assert d.report.accepted
    for sequence in (True, 1.0, "7", None, math.nan):
        object.__setattr__(proposal := Proposal(HOME, d.now + DT, last + 2), "sequence", sequence)
        d.tick(proposal)
        assert not d.report.accepted
        assert d.report.reasons == (Reason.SHAPE,)
    d.tick(Proposal(HOME, d.now + DT, last + 2))
    assert d.report.accepted


def test_a_refused_proposal_uses_up_no_number(drive: Any) -> None:
    d = moving(drive)
    d.tick(Proposal(np.full(7, math.nan), d.now + DT, d.sequence + 1000))
    assert d.report.reasons == (Reason.NONFINITE,)
    d.joints(HOME)
    assert d.report.accepted


@pytest.mark.parametrize("now", [math.nan, math.inf, None, "now", 10**400])
def test_a_clock_that_says_nothing_stops_the_arm(drive: Any, now: Any) -> None:
    d = moving(drive)
    for _ in range(60):
        if now is None:
            d.now += DT
            command, d.report = d.shield.filter(d.state(), Proposal(HOME, d.now, d.sequence + 1), None)
            d.sent.append(command.q)
            d.caps.append(math.inf)
            d.dq, d.q = (command.q - d.q) / DT, command.q
        else:
            d.joints(HOME, now=now)
        assert not d.report.accepted
        assert Reason.NONFINITE in d.report.reasons
    assert (d.dq == 0.0).all()
    assert d.shield.latched is None
    assert d.violations() == []


def test_a_clock_that_goes_back_stops_the_arm_for_that_tick(drive: Any) -> None:
    d = moving(drive)
    for now in (d.now - 5.0, d.now - 5.0, d.now - 5.1):  # back, the same time twice, and back again
        d.tick(Proposal(HOME, now, d.sequence + 1), state=d.state(time=now), now=now)
        assert d.report.reasons == (Reason.OUT_OF_ORDER,)
        assert d.report.how == "stop"
    d.tick(Proposal(HOME, now + DT, d.sequence + 1), state=d.state(time=now + DT), now=now + DT)
    assert d.report.accepted
    assert d.violations() == []


@pytest.mark.parametrize("stamp", [10**400, -(10**400), math.nan, None])
def test_a_stamp_that_is_no_number_is_no_fault_of_the_shield(drive: Any, stamp: Any) -> None:
    d = moving(drive)
    for field in ("time", "opening"):
        object.__setattr__(proposal := Proposal(HOME, d.now + DT, d.sequence + 1), field, stamp)
        d.tick(proposal)
        assert not d.report.accepted
        assert d.shield.latched is None
        assert d.report.reasons == (Reason.NONFINITE,)


def test_after_a_restart_of_the_policy_its_numbers_may_begin_anew(drive: Any) -> None:
    """A silence is a reconnection; the clock and the age of proposals still count."""
    d = moving(drive)
    d.settle()
    d.now += 1.0
    for sequence in range(5):
        d.tick(Proposal(HOME, d.now + DT, sequence))
    assert d.report.accepted


@pytest.mark.parametrize(
    ("opening", "sent"), [(0.0, 0.0), (0.4, 0.4), (7.0, 1.0), (-3.0, 0.0), (np.float32(0.25), 0.25), (1, 1.0)]
)
def test_the_gripper_opens_as_proposed_within_its_range(opening: Any, sent: float) -> None:
    shield = Shield(body_of(PANDA))
    shield.filter(RobotState(1.0, HOME, np.zeros(7), 0.7), None, 1.0)
    proposal = Proposal(HOME, 1.01, 1)
    object.__setattr__(proposal, "opening", opening)
    command, report = shield.filter(RobotState(1.01, HOME, np.zeros(7), 0.7), proposal, 1.01)
    assert command is not None
    assert command.opening == sent
    assert report.accepted
    held, _ = shield.filter(RobotState(1.02, HOME, np.zeros(7), 0.7), None, 1.02)
    assert held is not None
    assert held.opening == sent  # nobody asked for another one


def test_writing_into_what_went_in_or_came_out_changes_nothing(drive: Any) -> None:
    d = drive()
    q = HOME + 1e-5
    state = d.state(time=d.now + DT)
    proposal = Proposal(q, d.now + DT, 1)
    d.tick(proposal, state=state)
    q[:] = math.nan
    state.q[:] = math.nan
    command, _ = d.shield.filter(d.state(time=d.now + DT), None, d.now + DT)
    command.q[:] = math.nan
    commanded = d.shield.commanded
    again, _ = d.shield.filter(d.state(time=d.now + 2 * DT), None, d.now + 2 * DT)
    assert commanded is not None
    assert np.isfinite(commanded.q).all()
    assert np.isfinite(again.q).all()


# ----------------------------------------------------------------------------------- starts, reconnections, recovery


def test_a_start_in_motion_stops_first_what_moves(drive: Any) -> None:
    d = drive()
    speed = np.array([1.0, -0.5, 0.0, 0.019, 0.5, 0.0, -2.0])
    d.dq = speed.copy()
    path = [HOME.copy()]
    for _ in range(60):
        d.tick(None)
        path.append(d.q)
    v = np.diff(np.stack(path), axis=0) / DT
    still = np.abs(speed) < 0.02  # such a speed is noise
    assert (v[:, still] == 0.0).all()
    first = np.abs(v[0] - speed)[~still]
    assert (first <= (ACCELERATION * DT)[~still]).all()
    assert (np.abs(np.diff(v, axis=0)) <= ACCELERATION * DT * (1 + 1e-9)).all()
    assert (v[-1] == 0.0).all()
    expected = speed**2 / (2 * ACCELERATION) * np.sign(speed)
    np.testing.assert_allclose((d.q - HOME)[~still], expected[~still], atol=0.01)


def test_a_start_outside_a_limit_comes_back_slowly_and_never_goes_further_out(drive: Any) -> None:
    q = HOME + (PANDA.q_max[0] + 0.05) * (np.arange(7) == 0)
    out = drive(q=q)
    for _ in range(30):
        out.joints(q + 0.5)
    assert out.q[0] <= q[0]
    back = drive(q=q)
    for _ in range(150):
        outside = back.q[0] > PANDA.q_max[0]
        back.joints(HOME)
        if outside:
            assert Reason.RECOVERY in back.report.reasons
            assert back.tool_speed() <= 0.25 + 1e-9
    assert back.q[0] < PANDA.q_max[0] - 0.1
    assert back.violations() == out.violations() == []


def test_a_start_inside_a_margin_only_comes_away(drive: Any) -> None:
    x, y, z = forward(PANDA, HOME)[:3, 3].tolist()
    d = drive(around=Surroundings(obstacles=(Obstacle("ball", Sphere((x, y, z - 0.03), 0.02)),)))
    assert d.clearance() < -0.02
    least, inside = d.clearance(), 0
    for _ in range(80):
        was_inside = d.clearance() < 0.0
        d.retreat()
        assert d.report.accepted
        if was_inside:
            inside += 1
            assert d.clearance() >= least - 1e-5
            assert d.tool_speed() <= 0.25 + 1e-9
            assert Reason.RECOVERY in d.report.reasons
        least = max(least, d.clearance())
    assert inside > 5
    assert d.clearance() > 0.0
    assert d.violations() == []


@pytest.mark.parametrize("dt", [0.001, 0.01])
def test_after_a_silence_it_begins_where_the_arm_is(drive: Any, dt: float) -> None:
    """Also where its last stop has not been sent to the end: after a second the arm is not on it any more."""
    for ticks in (5, 60, 100):
        d = drive(UR5E, dt=dt)
        for _ in range(ticks):
            d.joints(d.q + 0.5)
        d.now += 1.0
        d.q, d.dq = np.array(UR5E.home) + [0.15, 0.0, -0.1, 0.0, 0.0, 0.2], np.zeros(6)
        d.begun, d.sent, d.caps = d.q.copy(), [], []  # a new episode for the checker
        for _ in range(15):
            d.joints(d.q + 0.5)
        assert d.violations() == []
        assert (d.q != d.begun).any()


def test_a_first_command_far_away_is_a_small_step(drive: Any) -> None:
    d = drive()
    step = d.joints(HOME + 2.8 * (np.arange(7) == 0))
    assert 0.0 < np.abs(step).max() <= 0.5 * 7500.0 * DT**3  # the jerk alone: j t^3 / 6, and less


# --------------------------------------------------------------------------------------------------- the tool's speed


def test_a_cap_lowered_in_motion_comes_down_at_its_braking(drive: Any) -> None:
    for target in (0.25, 0.05):
        d = drive(tool_braking=1.0)
        goal = HOME + 1.3 * (np.arange(7) == 0)
        for _ in range(60):
            d.joints(goal)
        fast = d.report.verdict.tool_speed
        assert fast > 0.6
        d.shield.set_tool_speed(target)
        took = 0
        for tick in range(1, 120):
            allowed = max(target, fast + 1e-3 - 1.0 * DT * tick)
            d.cap = allowed
            d.joints(goal)
            assert d.tool_speed() <= allowed + 1e-9
            took += d.report.accepted
        assert d.tool_speed() <= target
        assert took > 100  # it slows down, it does not stop
        assert d.violations() == []


def test_a_cap_lowered_while_the_arm_stands_holds_at_once(drive: Any) -> None:
    d = drive()
    for _ in range(60):
        d.joints(HOME + 1.3 * (np.arange(7) == 0))
    d.settle()
    d.shield.set_tool_speed(0.1)
    d.cap = 0.1
    d.tick(None)
    for _ in range(100):
        d.joints(HOME)
        assert d.tool_speed() <= 0.1 + 1e-9
    assert d.violations() == []


def test_a_cap_that_is_lifted_frees_the_arm(drive: Any) -> None:
    d = drive(tool_speed=0.1)
    d.cap = math.inf
    for _ in range(50):
        d.joints(HOME + 1.3 * (np.arange(7) == 0))
    assert 0.07 < d.tool_speed() <= 0.1
    d.shield.set_tool_speed(None)
    for _ in range(30):
        d.joints(HOME + 1.3 * (np.arange(7) == 0))
    assert d.tool_speed() > 0.5
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="tool_speed"):
            d.shield.set_tool_speed(wrong)


@pytest.mark.parametrize("dt", [0.001, 0.01, 0.02])
def test_the_cap_holds_in_every_tick_and_in_every_stop(drive: Any, dt: float) -> None:
    rng = np.random.default_rng(12)
    d, goal = drive(tool_speed=0.25, dt=dt), HOME
    for tick in range(240):
        if tick % 40 == 0:
            goal = HOME + rng.uniform(-0.8, 0.8, 7)
        d.tick(None) if tick % 60 > 50 else d.joints(goal)
    d.settle()
    assert d.violations() == []  # with the cap


# -------------------------------------------------------------------------------------------------- the FR3's speed law


@pytest.mark.parametrize(
    ("joint", "side"),
    [
        (4, 1.0),
        (4, -1.0),
        (5, 1.0),
        *(pytest.param(j, s, marks=pytest.mark.slow) for j in range(7) for s in (1.0, -1.0)),
    ],
)
def test_full_speed_into_a_limit_keeps_the_fr3s_law(drive: Any, joint: int, side: float) -> None:
    """Along the law alone joint 5 would need 15.9 rad/s^2 at 5.26 rad/s, and has 10: it has to begin to brake earlier."""
    d = drive(FR3, around=Surroundings(margins=Margins(self_collision=1e-3)), dt=0.02)
    goal = np.array(FR3.home)
    goal[joint] = 9.0 * side
    fastest = 0.0
    for _ in range(130):
        d.joints(goal)
        fastest = max(fastest, abs(float(d.dq[joint])))
    assert d.violations() == []
    limit = (FR3.q_max if side > 0 else FR3.q_min)[joint]
    if d.clearance() > 0.02:  # it did not come to the arm itself before
        assert abs(d.q[joint] - limit) < 0.1
        way = abs(limit - FR3.home[joint])
        assert fastest > min(0.5 * FR3.dq_max[joint], 0.8 * math.sqrt(way))  # and it is no crawl


@pytest.mark.parametrize("dt", [0.002, 0.004])
def test_the_law_holds_in_ticks_between_samples(drive: Any, dt: float) -> None:
    """Where it is steepest: wiggling at the end of the range, with no margin for goals; stops are sampled every 10 ms."""
    rng = np.random.default_rng(1)
    d = drive(FR3, around=Surroundings(margins=Margins(self_collision=1e-3, goal=0.0)), dt=dt)
    home = np.array(FR3.home)
    near = home + ([0.0, 0.0, 0.0, 0.0, FR3.q_max[4] - home[4] - 0.15, 0.0, FR3.q_max[6] - home[6] - 0.15])
    d.q = near.copy()
    d.begun = near.copy()
    goal = near + 0.15 * np.array([0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0])
    for tick in range(round(0.9 / dt)):
        d.joints(goal + (rng.normal(0.0, 0.003, 7) if tick * dt > 0.4 else 0.0))
    assert np.abs(d.q - goal)[[4, 6]].max() < 0.02
    assert d.violations() == []


def test_the_law_stops_a_proposal_that_keeps_every_other_limit(drive: Any) -> None:
    """Joint 5 at 2 rad/s, which is legal far from its limit at 2.8 rad and not near it."""
    d, q = drive(FR3), np.array(FR3.home)
    legal_ticks, reasons = 0, set[Reason]()
    for tick in range(200):
        q = q + 0.02 * min(tick / 40, 1.0) * (np.arange(7) == 4)
        d.joints(q)
        legal_ticks += d.report.how == "proposal"
        if d.report.how != "proposal":
            reasons |= set(d.report.reasons)
            break
    assert 100 < legal_ticks < 200
    assert Reason.JOINT_VELOCITY in reasons
    assert d.q[4] < 2.648  # sqrt(34 (2.8101 - q)) - 0.35 is 2 at 2.648
    d.settle()
    assert d.violations() == []


# ------------------------------------------------------------------------------------------------------------ set-up


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, bad) for name in ("dt", "tool_braking", "max_age", "tracking", "gap", "tool_speed", "reach", "budget")
          for bad in (0.0, -1.0, math.nan, math.inf)),
        ("dt", 0.021), ("dt", 5.0),
        ("gap", 0.005),  # less than a tick: every call would be a new start
        ("follow", Share(speed=0.0)), ("follow", Share(jerk=math.nan)), ("stop", Share(acceleration=1.1)),
        ("stop", Share(1.0, 0.4, 1.0)), ("stop", Share(1.0, 1.0, 0.4)),
        ("reflex_ticks", 0), ("allowance", (-0.1,) * 7), ("allowance", (math.nan,) * 7), ("allowance", (0.1,) * 6),
        ("reflex", (10.0,) * 6), ("reflex", (0.0,) * 7), ("reflex", (math.nan,) * 7),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(field: str, value: Any) -> None:
    with pytest.raises(UserError):
        Shield(body_of(PANDA), settings=Settings(**{field: value}))


@pytest.mark.parametrize("around", [{"payload": 3.1}, {"held": ("held", 3.1)}, {"payload": 2.0, "held": ("held", 1.1)}])
def test_a_load_above_what_the_arm_is_rated_for_is_refused(around: dict[str, Any]) -> None:
    if "held" in around:
        zero: Vector3 = (0.0, 0.0, 0.0)
        around = around | {"held": Held(zero, (0.0, 0.0, 0.1), 0.02, around["held"][1])}
    with pytest.raises(UserError, match=r"panda carries 3 kg, and the payload is 3.1 kg"):
        Shield(body_of(PANDA), Surroundings(**around))
    Shield(body_of(PANDA), Surroundings(payload=3.0))


def test_margins_that_leave_no_room_are_refused() -> None:
    body = body_of(PANDA)
    narrow = replace(body, limits=replace(body.limits, q_min=(-0.5,) * 7, q_max=(0.5,) * 7))
    with pytest.raises(UserError, match="leave no room"):
        Shield(narrow, Surroundings(margins=Margins(goal=0.5)))
    Shield(narrow, Surroundings(margins=Margins(goal=0.49)))


def test_an_allowance_makes_parts_thicker_by_what_tracking_errors_can_do() -> None:
    """0.01 rad in joint 2 alone: a point at 0.8 m from its axis may be 8 mm away from where it was told to be."""
    shelf = Surroundings(obstacles=(Obstacle("shelf", HalfSpace((0.0, 0.0, 1.0), -1.0)),))
    plain, wide = (
        Shield(body_of(PANDA), shelf, Settings(allowance=a)).clearance.nearest(
            joint_frames(body_of(PANDA).chain, HOME), 9.0
        )
        for a in (None, (0.0, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0))
    )
    lost = plain.distance - wide.distance
    assert (lost >= -1e-12).all()
    assert 0.007 < lost.max() < 0.025


def test_what_is_far_away_does_not_push_towards_what_is_near(runs: Any) -> None:
    """Found once in 1,000 stops: 7 um from the edge of the workspace, where all other obstacles lie on the inner side."""
    stood = np.array([1.68195411, -2.79371702, 0.12576009, -1.63156413, -2.18723627, -1.95641593])
    d = runs.Drive(UR5E, CELL, runs.FREE, stood)
    for _ in range(100):
        d.retreat()
    assert np.abs(d.q - stood).max() > 0.05


def test_an_allowance_keeps_commands_that_much_further_inside_the_joint_limits(drive: Any) -> None:
    """0.03 rad in joint 1, and 0.02 rad for goals: pushed up, it ends at 2.8973 - 0.05, where joint 7, without errors, ends at 2.8973 - 0.02."""
    d = drive(allowance=(0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    d.joints(HOME)
    for _ in range(400):
        d.joints(HOME + np.array([9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0]))
    assert d.q[0] == pytest.approx(2.8973 - 0.05, abs=1e-6)
    assert d.q[6] == pytest.approx(2.8973 - 0.02, abs=1e-6)
    for _ in range(600):
        d.joints(HOME - np.array([9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0]))
    assert d.q[0] == pytest.approx(-2.8973 + 0.05, abs=1e-6)
    beyond = drive(q=np.where(np.arange(7) == 0, 2.8973 - 0.02, HOME), allowance=(0.03,) + (0.0,) * 6)
    beyond.joints(HOME)
    assert Reason.RECOVERY in beyond.report.reasons


def test_a_reference_stays_within_reach_of_where_the_arm_is(drive: Any) -> None:
    d = drive(reach=0.02, tracking=1.0)
    d.joints(HOME)
    for _ in range(100):  # the arm is blocked, and stays at home
        d.joints(HOME + 0.5, state=d.state(time=d.now + DT, q=HOME, dq=np.zeros(7)))
    assert 0.015 < np.abs(d.q - HOME).max() <= 0.02 + 0.01  # the verified stop may lead a little further
    assert Reason.CONTACT in d.report.reasons


# ----------------------------------------------------------------------------------------------- what a report says


@pytest.mark.parametrize(
    ("dt", "more", "reason"),
    [  # rad/s^2 more than before in joint 2, which has 1.96 rad/s, 3.75 rad/s^2, 1875 rad/s^3 for motion
        (0.01, 150.0, Reason.JOINT_VELOCITY), (0.01, 8.0, Reason.ACCELERATION), (0.001, 2.0, Reason.JERK), (0.001, 1.8, None),
    ],
)  # fmt: skip
def test_a_report_names_the_limit_and_the_joint(drive: Any, dt: float, more: float, reason: Reason | None) -> None:
    d = drive(dt=dt)
    for q in quintic(HOME, HOME + 0.1 * (np.arange(7) == 0), round(1 / dt))[: round(0.1 / dt)]:
        d.joints(q)
    last = np.stack(d.sent[-3:])
    d.joints(3 * last[2] - 3 * last[1] + last[0] + more * dt**2 * (np.arange(7) == 1))
    assert d.report.reasons[:1] == (() if reason is None else (reason,))
    assert d.report.joints == (() if reason is None else (1,))
    assert d.report.how == ("proposal" if reason is None else "follow")
    assert d.report.intervened == (reason is not None)


def test_a_report_says_when_a_proposal_was_clipped(drive: Any) -> None:
    d = drive()
    goal = HOME + 5.0 * (np.arange(7) == 0)
    for _ in range(300):
        d.joints(goal)
    assert d.q[0] == pytest.approx(2.8973 - 0.02)
    assert d.report.reasons == (Reason.JOINT_POSITION,)
    assert d.report.joints == (0,)
    assert d.report.intervened


def test_a_retreat_goes_back_the_way_that_was_come(drive: Any) -> None:
    d = drive()
    goals = [HOME + 0.4 * (np.arange(7) == 0), HOME + 0.4 * (np.arange(7) <= 1)]
    for goal in goals:
        for _ in range(60):
            d.joints(goal)
    way = np.stack(d.sent)
    d.settle()
    far = len(d.sent)
    for _ in range(300):
        d.retreat()
        assert d.report.accepted
        assert d.report.how == "retreat"
        assert np.abs(way - d.q).max(axis=1).min() < 0.05
        assert (np.abs(d.dq) <= 0.3 * 0.9 * SPEED + 1e-9).all()
    assert np.abs(d.q - HOME).max() < 0.05
    assert np.abs(np.stack(d.sent[far:]) - goals[0]).max(axis=1).min() < 0.05  # over the corner
    assert d.violations() == []


def test_a_pose_is_reached_and_held(drive: Any) -> None:
    d = drive()
    pose = forward(PANDA, HOME + 0.2)
    for _ in range(200):
        d.sequence += 1
        d.tick(PoseProposal(pose, d.now + DT, d.sequence))
    np.testing.assert_allclose(forward(PANDA, d.q), pose, atol=2e-3)
    assert d.violations() == []
    for bad in (2.0 * np.eye(4), np.diag([1.0, 1.0, -1.0, 1.0]), np.eye(3), np.full((4, 4), math.nan)):
        d.sequence += 1
        object.__setattr__(proposal := PoseProposal(pose, d.now + DT, d.sequence), "base_from_tcp", bad)
        d.tick(proposal)
        assert not d.report.accepted
        assert set(d.report.reasons) <= {Reason.SHAPE, Reason.NONFINITE}


def test_a_retreat_is_asked_for_without_anything_to_go_back_to(drive: Any) -> None:
    d = drive()
    for _ in range(20):
        d.sequence += 1
        d.tick(Retreat(d.now + DT, d.sequence))
    assert np.abs(d.q - HOME).max() < 1e-9
