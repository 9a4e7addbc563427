"""The shield's parts one by one, with numbers worked out by hand: what a tick decides, and from which numbers.

The Panda at home, 0.9 of speed and half of acceleration and jerk for motion: 1.9575 rad/s (joints 1 to 4) and 2.349 rad/s (5 to 7).
"""

import math
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ideomotor.core.errors import UserError
from ideomotor.robot import shield as module
from ideomotor.robot.arms.fr3 import FR3
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.body import body_of
from ideomotor.robot.clearance import Verdict
from ideomotor.robot.follower import Candidate, Moving
from ideomotor.robot.joint_filter import stoppable_speed
from ideomotor.robot.kinematics import forward, joint_frames
from ideomotor.robot.proposal import Found, PoseProposal, Proposal, Retreat
from ideomotor.robot.reasons import Reason
from ideomotor.robot.robot import RobotState
from ideomotor.robot.shield import Memory, Shield
from ideomotor.robot.shield_settings import Settings
from ideomotor.robot.stop import Stop, plan_stop, standstill
from ideomotor.robot.surroundings import HalfSpace, Margins, Obstacle, Sphere, Surroundings
from ideomotor.robot.velocity_qp import barrier_rows, joint_wish

HOME = np.array(PANDA.home)
ZERO = np.zeros(7)
SPEED = np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61])
ACCELERATION = np.array([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0])
JERK = np.array([7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0])
FIRST = np.arange(7) == 0
FREE = Settings(tool_speed=None)


def shield(around: Surroundings | None = None, settings: Settings = FREE, arm: Any = PANDA, **more: Any) -> Any:
    """A shield whose parts are called one by one."""
    return Shield(body_of(arm), around, settings, **more)


def memory(q: np.ndarray = HOME, v: np.ndarray = ZERO, **more: Any) -> Memory:
    moving = Moving(q, v, ZERO, v, ZERO)
    return Memory(moving, standstill(q), 0.0, q, **more)


def state(q: np.ndarray = HOME, dq: np.ndarray = ZERO, time: float = 0.0) -> RobotState:
    return RobotState(time, q.copy(), dq.copy(), 1.0)


def give(one: Any, now: float, q: Any = None, measured: Any = None, dq: Any = None, sequence: Any = None) -> Any:
    """Give one tick; a proposal that is None stops."""
    number = round(1e6 * now) if sequence is None else sequence
    proposal = None if q is None else Proposal(np.array(q), now, number)
    command, report = one.filter(
        state(HOME if measured is None else measured, ZERO if dq is None else dq, now), proposal, now
    )
    return command.q, report


def running(offset: float = 0.6, ticks: int = 40) -> tuple[Any, float]:
    """Return a shield in motion, whose arm follows at once, and its time."""
    one, now, q, dq = shield(), 1.0, HOME, ZERO
    for _ in range(ticks):
        now += 0.01
        new, _ = give(one, now, HOME + offset, q, dq)
        q, dq = new, (new - q) / 0.01
    return one, now


# ------------------------------------------------------------------------------------------------------ what comes in


def test_a_number_of_a_proposal_is_at_most_two_to_the_63() -> None:
    for sequence, taken in ((2**63, True), (2**63 + 1, False), (-(2**63), True), (-(2**63) - 1, False)):
        one = shield()
        assert give(one, 1.0, HOME, sequence=sequence)[1].reasons == (() if taken else (Reason.SHAPE,))
        if not taken:
            assert give(one, 1.01, HOME, sequence=5)[1].how == "proposal"  # and it was not remembered


@pytest.mark.parametrize(("age", "taken"), [(0.25, True), (0.2501, False), (-0.001, True), (-0.0011, False)])
def test_an_age_is_allowed_up_to_its_limit_and_including_it(age: float, taken: bool) -> None:
    """At time 0, so that these numbers are exact."""
    for proposal_age, state_age in ((age, 0.0), (0.0, age)):
        one = shield(settings=replace(FREE, max_age=0.25))
        one.filter(state(time=-1.0), None, -1.0)
        proposal = Proposal(HOME, -proposal_age, 1)
        _, report = one.filter(state(time=-state_age), proposal, 0.0)
        assert (report.reasons == ()) == taken
        assert taken or Reason.STALE in report.reasons


def test_what_is_wrong_with_a_state_is_said() -> None:
    for bad, reason in (
        (None, Reason.SHAPE), ("x", Reason.SHAPE), (np.zeros(7), Reason.SHAPE),
        (state(np.full(7, math.nan), time=1.41), Reason.NONFINITE), (state(dq=np.full(7, math.inf), time=1.41), Reason.NONFINITE),
        (state(np.full(7, 2e3), time=1.41), Reason.NONFINITE),
    ):  # fmt: skip
        one, now = running()
        _, report = one.filter(bad, Proposal(HOME, now + 0.01, 10**8), now + 0.01)
        assert report.how == "stop"
        assert report.reasons == (reason,)


def test_a_clock_that_says_nothing_starts_nothing_anew() -> None:
    one = shield()
    give(one, 1.0)
    for now in (math.nan, None, "now"):
        command, report = one.filter(state(HOME + 0.05, time=1.0), Proposal(HOME, 1.0, 1), now)
        np.testing.assert_array_equal(command.q, HOME)
        assert Reason.NONFINITE in report.reasons


# -------------------------------------------------------------------------------------------- starts and reconnections


def test_a_joint_at_0_02_rad_per_s_stands_and_a_faster_one_moves() -> None:
    for speed, moves in ((0.02, False), (0.0201, True), (-0.02, False), (-0.0201, True)):
        one = shield()
        q, _ = give(one, 1.0, dq=np.full(7, speed))
        assert (q != HOME).all() == moves
        assert (q == HOME).all() != moves


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_start_faster_than_rated_is_taken_as_rated(sign: float) -> None:
    one = shield()
    q, _ = give(one, 1.0, dq=np.full(7, 9.0 * sign))
    expected = plan_stop(HOME, sign * SPEED, ZERO, ACCELERATION, JERK).at(0.01)
    np.testing.assert_allclose(q, expected[0], atol=1e-12)
    np.testing.assert_allclose(one.commanded.v, expected[1], atol=1e-12)
    np.testing.assert_allclose(one.commanded.change, (((q - HOME) / 0.01) - sign * SPEED) / 0.01, atol=1e-6)


def resumed(v: float, *, elsewhere: float, dq: float, standing: bool = False, silence: float = 1.0) -> tuple[bool, Any]:
    """Return whether a shield began anew after a silence, and its report. Joint 1 was told to move at v."""
    one = shield()
    give(one, 1.0)
    moving = v * FIRST
    one._memory = replace(
        one._memory, elapsed=0.0, moving=Moving(HOME, moving, ZERO, moving, ZERO),
        kept=standstill(HOME) if standing else plan_stop(HOME, moving, ZERO, ACCELERATION, JERK),
    )  # fmt: skip
    before = one._memory
    _, report = give(one, 1.0 + silence, None, HOME + elsewhere, np.full(7, dq))
    return one._memory is not before, report


def test_after_a_silence_it_begins_anew_where_the_arm_cannot_be_on_its_stop_any_more() -> None:
    assert resumed(0.0, elsewhere=0.0, dq=0.0, standing=True)[0]
    assert resumed(0.0, elsewhere=0.3, dq=0.0, standing=True)[0]
    assert resumed(0.5, elsewhere=0.0, dq=0.0)[0]  # told to be quick, and it stands: it has been stopped
    assert resumed(0.5, elsewhere=0.0, dq=0.02)[0]
    assert resumed(0.05, elsewhere=0.05, dq=0.0)[0]  # somebody moved it
    for v, elsewhere, dq in (
        (0.05, 0.0, 0.0),
        (0.5, 0.0, 0.3),
        (0.5, 0.05, 0.3),
        (0.05, 0.005, 0.0),
        (0.05, 0.0, 0.01),
    ):
        anew, report = resumed(v, elsewhere=elsewhere, dq=dq)  # the clock jumped, and not the arm
        assert not anew
        assert Reason.DEADLINE in report.reasons


def test_a_silence_is_longer_than_the_gap_and_not_as_long() -> None:
    one = Shield(body_of(PANDA), None, replace(FREE, gap=0.25))
    give(one, 1.0)
    one._watch.tracking = module.TrackingMonitor(9.0, 7)
    assert give(one, 1.25, None, HOME + 0.05)[0][0] == HOME[0]
    assert give(one, 1.5078125, None, HOME + 0.05)[0][0] == HOME[0] + 0.05


def test_after_a_silence_a_latch_holds_also_where_the_arm_was_moved() -> None:
    one = shield()
    give(one, 1.0)
    give(one, 1.01, None, HOME + 0.2)
    assert one.latched is Reason.TRACKING_ERROR
    q, report = give(one, 3.0, HOME, HOME + 0.05)
    np.testing.assert_array_equal(q, HOME)
    assert report.latched
    assert Reason.DEADLINE in report.reasons


def test_after_a_silence_without_a_state_it_goes_on_with_its_stop() -> None:
    one, now = running()
    _, report = one.filter(None, Proposal(HOME, now + 1.0, 10**8), now + 1.0)
    assert report.how == "stop"
    assert report.reasons == (Reason.SHAPE, Reason.DEADLINE)
    assert one.latched is None


def test_a_reset_needs_an_arm_that_stands_by_its_own_account_and_by_the_commands() -> None:
    one, now = running()
    assert not one.reset(state(one.commanded.q, time=now))  # measured at rest, told to move
    one = shield()
    assert one.reset(state(time=5.0))  # nothing was ever sent
    for speed, taken in ((0.05, True), (0.0501, False)):
        give(one, 6.0)
        assert one.reset(state(dq=np.full(7, speed), time=6.0)) == taken


def test_a_reset_takes_a_state_of_the_last_call_up_to_its_limit_of_age() -> None:
    one = Shield(body_of(PANDA), None, replace(FREE, max_age=0.25))
    one.filter(state(time=8.0), None, 8.0)
    assert one.reset(state(time=7.75))
    assert not one.reset(state(time=7.74))


def test_before_a_start_there_is_no_stop_and_no_command() -> None:
    assert shield().stop is None
    assert shield().commanded is None
    one = shield()
    give(one, 1.0)
    assert one.stop.duration == 0.0
    one, _ = running()
    now = one.commanded
    hard = plan_stop(now.q, now.v, now.a, ACCELERATION, JERK)
    np.testing.assert_array_equal(one.stop.ends, hard.ends)
    np.testing.assert_array_equal(one.stop.q, now.q)
    assert hard.duration > 0.05


# ------------------------------------------------------------------------------------------------------------- the goal


def caught(one: Any, monkeypatch: Any) -> list[Any]:
    """Return the list in which the programs that would be solved are noted: wish, low and high."""
    found: list[Any] = []

    def solve(_: Any, q: np.ndarray, wish: Any, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        found.append((wish, low, high))
        return np.full(len(q), 0.25)

    monkeypatch.setattr(module, "solve", solve)
    return found


@pytest.mark.parametrize(("distance", "wanted"), [(1.0, 0.3), (0.35, 0.3), (0.29, 0.29), (0.0, 0.0)])
def test_a_pose_further_than_0_3_m_is_wished_for_as_if_it_were_there(
    distance: float, wanted: float, monkeypatch: Any
) -> None:
    one, turn = shield(), 0.4
    found = caught(one, monkeypatch)
    pose = forward(PANDA, HOME)
    pose[:3, 3] += distance * np.array([0.6, 0.0, 0.8])
    c, s = math.cos(turn), math.sin(turn)
    pose[:3, :3] = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ pose[:3, :3]
    goal = one._towards(memory(), pose, Found())
    np.testing.assert_allclose(goal, HOME + 0.08 * 0.25)
    ((wish, _, _),) = found
    expected = np.array([0.6 * wanted, 0.0, 0.8 * wanted, 0.0, 0.0, 0.3 * turn])
    np.testing.assert_allclose(wish.value, 8.0 * expected, atol=1e-9)


def test_where_the_pose_is_already_nothing_is_divided_by_nothing() -> None:
    one = shield()
    give(one, 1.0)
    _, report = one.filter(state(time=1.01), PoseProposal(forward(PANDA, HOME), 1.01, 1), 1.01)
    assert report.accepted
    assert one.latched is None


@pytest.mark.parametrize(("off", "taken"), [(4e-4, True), (3e-3, False), (0.4, False)])
def test_a_matrix_is_a_rotation_within_a_thousandth(off: float, taken: bool) -> None:
    pose = forward(PANDA, HOME)
    pose[:3, :3] *= 1.0 + off  # R R^T is 1 + 2 off
    found = Found()
    assert (shield()._towards(memory(), pose, found) is not None) == taken
    assert found.reasons == ([] if taken else [Reason.SHAPE])


def test_goals_made_of_speeds_stop_at_the_end_of_the_range(monkeypatch: Any) -> None:
    """0.8 of the rated speed, or what stops before the goals' range ends at half of the acceleration; beyond it nothing."""
    one = shield()
    found = caught(one, monkeypatch)
    low, high = np.array(PANDA.q_min) + 0.02, np.array(PANDA.q_max) - 0.02
    gaps = np.array([1.0, 0.02, 0.003, 1e-4, 0.0, -0.01, 2.0])
    for q, side in ((high - gaps, 1), (low + gaps, -1)):
        one._wished(memory(q), joint_wish(q, HOME), Found())
        _, at_low, at_high = found.pop()
        expected = np.minimum(0.8 * SPEED, stoppable_speed(np.maximum(gaps, 0.0), 0.5 * ACCELERATION, 0.01))
        ahead, behind = (at_high, -at_low) if side > 0 else (-at_low, at_high)
        np.testing.assert_allclose(ahead, expected, atol=1e-12)
        np.testing.assert_allclose(behind[:6], 0.8 * SPEED[:6], atol=1e-12)  # the other end is far
        assert ahead[4] == ahead[5] == 0.0


def test_a_goal_that_moves_is_followed_at_its_speed_and_one_that_jumps_is_not() -> None:
    one, bound = shield(), 0.9 * SPEED
    for share in (0.94, -0.94, 0.0):
        speed = one._goal_speed(memory(goal=HOME - 0.01 * share * bound), HOME)
        np.testing.assert_allclose(speed, share * bound, atol=1e-12)
    for share in (0.96, -0.96, 1.5, 100.0):
        assert one._goal_speed(memory(goal=HOME - 0.01 * share * bound * FIRST), HOME) is None
    assert one._goal_speed(memory(), HOME) is None


def test_a_goal_that_moves_is_caught_up_with() -> None:
    """It starts 0.05 rad away and moves at 0.5 rad/s; after a while the command is within a tick of it, at its speed."""
    one, now, q, dq = shield(), 1.0, HOME, ZERO
    goal, report = HOME, give(one, now)[1]
    for tick in range(120):
        now += 0.01
        goal = HOME + (0.05 + 0.005 * tick) * FIRST
        new, report = give(one, now, goal, q, dq)
        q, dq = new, (new - q) / 0.01
    np.testing.assert_allclose(q, goal, atol=0.005)
    np.testing.assert_allclose(dq, 0.5 * FIRST, atol=0.01)
    assert report.accepted


# --------------------------------------------------------------------------------------------------------- candidates


class Noted:
    """A follower that notes what it is asked for."""

    def __init__(self, real: Any) -> None:
        self.bounds, self.asked = real.bounds, list[Any]()

    def legal(self, now: Any, goal: np.ndarray, found: Any) -> list[Candidate]:
        self.asked.append(("legal", goal))
        return []

    def follow(self, now: Any, how: str, goal: np.ndarray, speed: Any, top: np.ndarray, found: Any) -> list[Candidate]:
        self.asked.append((how, goal, speed, top))
        return []


def asked(
    proposal: Any, reasons: tuple[Reason, ...] = (), around: Surroundings | None = None, **more: Any
) -> list[Any]:
    """Return what the follower is asked for, with reasons that were found before."""
    one: Any = shield(around)
    one.follower = Noted(one.follower)
    goal = HOME + 0.1
    assert list(one._candidates(memory(**more), proposal, goal, Found(list(reasons)))) == []
    return one.follower.asked


PROPOSAL, POSE, BACK = Proposal(HOME, 0.0, 1), PoseProposal(np.eye(4), 0.0, 1), Retreat(0.0, 1)
WAY = deque([HOME - 0.1])
NEAR = Surroundings(obstacles=(Obstacle("floor", HalfSpace((0.0, 0.0, 1.0), 0.44 - 0.052)),))  # under the fingers


def test_candidates_where_nothing_is_in_the_way() -> None:
    legal, follow, scaled = asked(PROPOSAL)
    assert [legal[0], follow[0], scaled[0]] == ["legal", "follow", "scaled"]
    np.testing.assert_allclose(legal[1], HOME + 0.1)
    np.testing.assert_allclose(follow[1], HOME + 0.1)
    np.testing.assert_allclose(scaled[1], HOME + 0.025)
    np.testing.assert_allclose(follow[3], 0.9 * SPEED)
    np.testing.assert_allclose(scaled[3], 0.45 * SPEED)
    assert follow[2] is None
    assert scaled[2] is None
    assert [row[0] for row in asked(POSE)] == ["follow", "scaled"]


def test_candidates_follow_a_goal_that_moves_except_on_a_retreat() -> None:
    _, follow, scaled = asked(PROPOSAL, goal=HOME + 0.1 - 0.005)
    np.testing.assert_allclose(follow[2], np.full(7, 0.5), atol=1e-9)
    assert scaled[2] is None
    retreat = asked(BACK, goal=HOME + 0.1 - 0.005, history=WAY)[0]
    assert retreat[0] == "retreat"
    assert retreat[2] is None
    np.testing.assert_allclose(retreat[3], 0.27 * SPEED)


@pytest.mark.parametrize("reason", [Reason.COLLISION, Reason.SELF_COLLISION, Reason.WORKSPACE])
def test_candidates_where_something_is_in_the_way(reason: Reason, monkeypatch: Any) -> None:
    found = caught(None, monkeypatch)
    legal, follow, around = asked(PROPOSAL, (reason,))
    assert [legal[0], follow[0], around[0]] == ["legal", "follow", "around"]
    np.testing.assert_allclose(around[1], HOME + 0.08 * 0.25)
    np.testing.assert_allclose(around[3], 0.45 * SPEED)
    ((wish, _, _),) = found
    np.testing.assert_allclose(wish.value, 0.8)  # 8 / s times 0.1 rad


def test_candidates_where_the_velocity_program_fails(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "solve", lambda *_: None)
    assert [row[0] for row in asked(PROPOSAL, (Reason.COLLISION,))] == ["legal", "follow", "scaled"]


def test_candidates_of_a_retreat() -> None:
    free = Surroundings()
    assert [row[0] for row in asked(BACK, (), free, history=WAY)] == ["retreat", "scaled"]
    assert [row[0] for row in asked(BACK, (), free)] == ["retreat", "scaled"]  # nothing to leave
    way_back = asked(BACK, (Reason.COLLISION,), NEAR, history=WAY)
    assert [row[0] for row in way_back] == ["retreat", "retreat"]
    np.testing.assert_allclose(way_back[0][1], HOME + 0.1)
    away = asked(BACK, (), NEAR)  # nothing to go back to, and something near
    assert [row[0] for row in away] == ["retreat", "retreat", "scaled"]
    np.testing.assert_allclose(away[0][1], way_back[1][1])
    assert forward(PANDA, away[0][1])[2, 3] > forward(PANDA, HOME)[2, 3]  # up
    np.testing.assert_allclose(away[0][3], 0.27 * SPEED)
    assert [row[0] for row in asked(PROPOSAL, (), NEAR)] == ["legal", "follow", "scaled"]  # only a retreat leaves first


def test_the_budget_is_looked_at_before_each_candidate_and_may_be_used_up() -> None:
    for used, taken in ((0.25, True), (0.2500001, False)):
        readings = iter([8.0, 8.0 + used, *[8.0 + used] * 9])
        one = Shield(body_of(PANDA), None, replace(FREE, budget=0.25), clock=lambda readings=readings: next(readings))
        _, report = one.filter(state(time=1.0), Proposal(HOME, 1.0, 1), 1.0)
        assert report.accepted == taken
    one = shield(settings=replace(FREE, budget=0.25), clock=lambda: next(readings))
    readings = iter([0.0, *[1.0] * 9])
    one.follower = Noted(one.follower)
    one.filter(state(time=1.0), Proposal(HOME, 1.0, 1), 1.0)
    assert len(one.follower.asked) <= 3


@pytest.mark.parametrize(("how", "share"), [("follow", 0.9), ("retreat", 0.27), ("around", 0.45), ("scaled", 0.45)])
def test_without_a_cap_the_speeds_are_shares_of_the_rated_ones(how: str, share: float) -> None:
    np.testing.assert_allclose(shield()._top_speed(memory(), HOME + 0.3, how), share * SPEED)


def test_with_a_cap_the_speeds_are_those_of_a_straight_way_at_0_9_of_it() -> None:
    one, rng = shield(), np.random.default_rng(1)
    top = 0.9 * SPEED
    for _ in range(20):
        way = rng.uniform(-1.0, 1.0, 7)
        straight = way / np.abs(way / top).max()
        h = 1e-6
        tool = (forward(PANDA, HOME + h * straight) - forward(PANDA, HOME - h * straight))[:3, 3] / (2 * h)
        for cap in (0.05, 0.25, 99.0):
            speeds = one._top_speed(memory(cap=cap), HOME + way, "follow")
            expected = np.abs(straight) * min(1.0, 0.9 * cap / np.linalg.norm(tool))
            np.testing.assert_allclose(speeds, np.maximum(expected, 1e-3), rtol=1e-6)
    np.testing.assert_allclose(one._top_speed(memory(cap=0.25), HOME, "follow"), top)  # there already
    first = one._top_speed(memory(cap=0.25), HOME + 0.5 * FIRST, "follow")
    radius = math.hypot(*forward(PANDA, HOME)[:2, 3])
    np.testing.assert_allclose(first, np.where(FIRST, 0.225 / radius, 1e-3))


def over_floor(gap: float, *more: Obstacle) -> Any:
    """Return a shield of an arm at home, `gap` beyond the margin of a floor."""

    def made(height: float) -> Any:
        return shield(Surroundings(obstacles=(Obstacle("floor", HalfSpace((0.0, 0.0, 1.0), height)), *more)))

    low = made(-5.0)
    planes = low.clearance._nearest_planes(low.clearance._ends(joint_frames(low.body.chain, HOME)[None])[0])
    return made(-5.0 + float(planes.distance[planes.normal[:, 2] > 0.5].min()) - gap)


def test_leaving_goes_up_the_distances_the_nearer_the_more(monkeypatch: Any) -> None:
    """The sum of the gradients of near distances, each over 0.05 m/s and the speed at which it may still be approached.

    Near is what may be approached at 0.05 m/s at most, or no faster than anything else; what no joint moves does not count.
    """
    one = over_floor(0.005, Obstacle("wall", HalfSpace((-1.0, 0.0, 0.0), -0.60)))
    found = caught(one, monkeypatch)
    assert [c.how for c in one._leaving(memory(), Found())] == ["retreat"]
    ((wish, _, _),) = found
    falls, room = barrier_rows(one.clearance, joint_frames(one.body.chain, HOME))
    pairs = [(row, speed) for row, speed in zip(falls, room, strict=True) if np.abs(row).max() > 0.0]
    assert len(pairs) < len(room)
    row, speed = min(pairs, key=lambda pair: pair[1])
    assert sorted(speed for _, speed in pairs)[1] > 1.2 * speed > 0.06  # one is the nearest
    away = -row / (0.05 + speed)
    np.testing.assert_array_equal(wish.matrix, np.eye(7))
    np.testing.assert_allclose(wish.value, 0.3 * away / np.abs(away).max(), atol=1e-9)


def test_what_is_further_than_2_cm_beyond_its_margin_is_not_left() -> None:
    for gap, leaves in ((0.015, True), (0.025, False)):
        assert bool(list(over_floor(gap)._leaving(memory(), Found()))) == leaves
    one = shield()  # far from everything but itself
    assert list(one._leaving(memory(), Found())) == []


# ------------------------------------------------------------------------------------------------------ what is verified


@pytest.mark.parametrize(("dt", "step"), [(0.001, 0.01), (0.004, 0.008), (0.006, 0.012), (0.01, 0.01), (0.02, 0.02)])
def test_a_stop_is_looked_at_every_10_ms_or_tick_with_the_present_command_in_front(
    dt: float, step: float, monkeypatch: Any
) -> None:
    one, seen = shield(settings=replace(FREE, dt=dt)), list[Any]()

    def judge(path: np.ndarray, steps: np.ndarray, cap: float) -> Verdict:
        seen.append((path, steps, cap))
        return Verdict(1.0, 1.0, 1.0, 0.0, ())

    monkeypatch.setattr(one.clearance, "judge", judge)
    stop = plan_stop(HOME + 0.001, np.full(7, 0.5), ZERO, ACCELERATION, JERK)
    assert one._verified(memory(cap=7.0), stop, Found()) is not None
    ((path, steps, cap),) = seen
    assert cap == 7.0
    np.testing.assert_array_equal(path[0], HOME)
    np.testing.assert_array_equal(path[1], HOME + 0.001)
    np.testing.assert_allclose(path[1:], stop.sample(step * np.arange(len(path) - 1))[0], atol=1e-12)
    np.testing.assert_allclose(steps, [dt, *[step] * (len(path) - 2)])
    assert len(path) == 2 + math.ceil(stop.duration / step - 1e-9)
    np.testing.assert_allclose(path[-1], stop.at(9.0)[0], atol=1e-12)


def test_only_where_samples_are_further_apart_than_ticks_the_ticks_are_looked_at_too(monkeypatch: Any) -> None:
    stop = plan_stop(HOME, np.full(7, 0.1), ZERO, ACCELERATION, JERK)
    for dt, looked in ((0.01, False), (0.02, False), (0.001, True)):
        one, seen = shield(settings=replace(FREE, dt=dt)), list[Any]()

        def between(*given: Any, seen: list[Any] = seen) -> list[Reason]:
            seen.append(given)
            return [Reason.JOINT_VELOCITY]

        monkeypatch.setattr(one, "_too_fast_between", between)
        found = Found()
        assert (one._verified(memory(), stop, found) is None) == looked
        assert len(seen) == looked
        assert found.reasons == ([Reason.JOINT_VELOCITY] if looked else [])


@pytest.mark.parametrize("which", [0, 1])
def test_a_path_or_its_speeds_that_are_no_numbers_are_refused(which: int) -> None:
    real = plan_stop(HOME, np.full(7, 0.1), ZERO, ACCELERATION, JERK)

    class Bad(Stop):
        def sample(self, times: np.ndarray) -> Any:
            columns = list(super().sample(times))
            columns[which] = np.where(np.arange(7) == 3, math.nan, columns[which])
            return tuple(columns)

    found = Found()
    assert shield()._verified(memory(), Bad(*vars(real).values()), found) is None
    assert found.reasons == [Reason.SOLVER]


def positions(one: Any, *rows: np.ndarray) -> bool:
    """Tell whether a path keeps the joints' ranges."""
    path = np.stack(rows)
    return one._broken_limits(path, np.full(len(path) - 1, 0.01), np.zeros((len(path) - 1, 7))) == []


@pytest.mark.parametrize("joint", [0, 3, 6])
def test_positions_keep_a_thousandth_from_both_ends_of_their_ranges(joint: int) -> None:
    one, here = shield(), np.arange(7) == joint
    for limit, side in ((np.array(PANDA.q_max), 1.0), (np.array(PANDA.q_min), -1.0)):
        edge = limit - side * 0.001

        def at(off: float, edge: np.ndarray = edge, side: float = side) -> np.ndarray:
            return np.where(here, edge + side * off, HOME)

        assert positions(one, at(-0.1), at(-1e-9), at(0.0), at(0.0))
        assert not positions(one, at(-0.1), at(1e-6))
        assert not positions(one, at(-0.1), at(-0.05), at(1e-6), at(-0.05))
        # outside already: it may stay and come back, and whatever it came back is kept
        assert positions(one, at(0.05), at(0.05), at(0.04), at(0.04), at(-0.01))
        assert not positions(one, at(0.05), at(0.0501))
        assert not positions(one, at(0.05), at(0.03), at(0.04))
        assert not positions(one, at(0.05), at(-0.01), at(0.01))


def test_the_speed_law_is_kept_by_speeds_and_by_means_with_a_reserve() -> None:
    """FR3 joint 5, 0.1 rad before its end on either side: sqrt(34 * 0.1) - 0.35 rad/s, and 1e-3 rad/s are kept in reserve."""
    one, here, home = shield(arm=FR3), np.arange(7) == 4, np.array(FR3.home)
    allowed = math.sqrt(34.0 * 0.1) - 0.35 - 1e-3
    for end, side in ((2.8101, 1.0), (-2.8101, -1.0)):
        q = np.where(here, end - side * 0.1, home)

        def kept(mean: float, speed: float, q: np.ndarray = q, side: float = side) -> bool:
            path = np.stack([q - side * 0.01 * mean * here, q])
            return one._law_kept(path, np.array([0.01]), side * speed * here[None])

        assert kept(allowed - 1e-6, 0.0)
        assert kept(0.0, allowed - 1e-6)
        assert not kept(allowed + 1e-6, 0.0)
        assert not kept(0.0, allowed + 1e-6)
        assert kept(-3.0, -3.0)  # away from the end
    for side in (1.0, -1.0):
        beyond = np.where(here, side * (2.8101 - 0.002), home)  # the law allows nothing here: standing and leaving
        assert one._law_kept(np.stack([beyond, beyond]), np.array([0.01]), np.zeros((1, 7)))
        assert one._law_kept(np.stack([beyond, beyond - side * 0.001 * here]), np.array([0.01]), np.zeros((1, 7)))
        assert not one._law_kept(np.stack([beyond, beyond + side * 1e-6 * here]), np.array([0.01]), np.zeros((1, 7)))
    assert shield()._law_kept(np.stack([HOME, HOME + 9.0]), np.array([0.01]), np.full((1, 7), 99.0))  # no law, no limit


def test_a_command_presses_where_it_runs_further_ahead_than_its_reach() -> None:
    one = shield(settings=replace(FREE, reach=0.25))

    def presses(before: float, after: float) -> bool:
        measured = ZERO
        here = replace(memory(before * FIRST), measured=measured)
        return one._pressing(here, np.stack([before * FIRST, after * FIRST])) == [Reason.CONTACT]

    for sign in (1.0, -1.0):
        assert not presses(0.0, sign * 0.25)
        assert presses(0.0, sign * 0.26)
        assert not presses(sign * 0.3, sign * 0.3)  # already beyond: it may stay
        assert not presses(sign * 0.3, sign * 0.29)
        assert presses(sign * 0.3, sign * 0.31)
    assert shield()._pressing(memory(), np.stack([ZERO, ZERO + 9.0])) == []


def test_between_samples_every_tick_keeps_the_tools_cap() -> None:
    one = shield(settings=replace(FREE, dt=0.001))
    speed = np.array([0.4, -0.3, 0.5, 0.4, -1.0, 0.6, 1.0])
    stop = plan_stop(HOME, speed, -0.4 * ACCELERATION * np.sign(speed), ACCELERATION, JERK)
    here = memory(HOME - 0.001 * speed)
    path = np.concatenate([here.moving.q[None], stop.sample(0.001 * np.arange(900))[0]])
    steps = np.linalg.norm(np.diff(forward(PANDA, path)[:, :3, 3], axis=0), axis=1)
    fastest = float(steps.max()) / 0.001
    for cap, reasons in ((1.001 * fastest, []), (0.999 * fastest, [Reason.TOOL_SPEED]), (math.inf, [])):
        assert one._too_fast_between(replace(here, cap=cap), stop) == reasons
    # the fastest tick in the middle: a stop that pushes off first
    late = plan_stop(HOME, 0.1 * speed, 0.9 * ACCELERATION * np.sign(speed), ACCELERATION, 0.05 * JERK)
    here = memory(HOME - 0.0001 * speed)
    path = np.concatenate([here.moving.q[None], late.sample(0.001 * np.arange(900))[0]])
    steps = np.linalg.norm(np.diff(forward(PANDA, path)[:, :3, 3], axis=0), axis=1)
    assert 5 < int(steps.argmax()) < late.duration / 0.001 - 5
    for cap, reasons in ((1.001, []), (0.999, [Reason.TOOL_SPEED])):
        assert one._too_fast_between(replace(here, cap=cap * float(steps.max()) / 0.001), late) == reasons


def test_between_samples_every_tick_keeps_the_law(monkeypatch: Any) -> None:
    one, seen = shield(settings=replace(FREE, dt=0.001), arm=FR3), list[Any]()
    home = np.array(FR3.home)
    stop = plan_stop(home, np.full(7, 0.2), ZERO, np.full(7, 10.0), np.full(7, 5000.0))

    def law(path: np.ndarray, steps: np.ndarray, speeds: Any) -> bool:
        seen.append((path, steps, speeds))
        return False

    monkeypatch.setattr(one, "_law_kept", law)
    assert one._too_fast_between(memory(home - 0.0002), stop) == [Reason.JOINT_VELOCITY]
    ((path, steps, speeds),) = seen
    assert speeds == 0.0
    assert len(path) >= stop.duration / 0.001 + 1
    np.testing.assert_array_equal(path[0], home - 0.0002)
    np.testing.assert_allclose(path[1:], stop.sample(0.001 * np.arange(len(path) - 1))[0])
    assert (steps == 0.001).all()
    assert len(steps) == len(path) - 1


# -------------------------------------------------------------------------------------------------------- cap, recovery


@pytest.mark.parametrize(
    ("target", "cap", "tool_speed", "after"),
    [
        (0.25, math.inf, 0.0, 0.25), (0.25, math.inf, 0.8, 0.791), (0.25, 0.5, 0.8, 0.49), (0.25, 0.255, 0.8, 0.25),
        (0.25, 0.5, 0.3, 0.291), (None, 0.25, 0.2, math.inf), (1.0, 0.25, 0.2, 1.0),
    ],
)  # fmt: skip
def test_the_cap_comes_down_by_10_mm_per_s_in_a_tick(target: Any, cap: float, tool_speed: float, after: float) -> None:
    one = shield(settings=Settings(tool_speed=target, tool_braking=1.0))
    here = memory(cap=cap, tool_speed=tool_speed, recovering=False)
    one._lower_cap(here)
    assert here.cap == pytest.approx(after, abs=1e-12)


def test_after_a_start_the_cap_is_there_at_once() -> None:
    one = shield(settings=Settings(tool_speed=0.3))
    give(one, 1.0, HOME)
    assert one._memory.cap == 0.3
    assert not one._memory.recovering


def test_outside_is_beyond_a_limit_or_a_margin_and_not_at_it() -> None:
    one = shield()
    high, low = np.array(PANDA.q_max) - 0.001, np.array(PANDA.q_min) + 0.001
    assert not one._outside(np.where(FIRST, high, HOME))
    assert not one._outside(np.where(FIRST, low, HOME))
    assert one._outside(np.where(FIRST, high + 1e-9, HOME))
    assert one._outside(np.where(FIRST, low - 1e-9, HOME))
    tool = forward(PANDA, HOME)[:3, 3]

    def gap(height: float) -> Any:
        x, y, z = tool.tolist()
        return shield(
            Surroundings(
                obstacles=(
                    Obstacle("o", Sphere((x, y, z - height), 0.01), may_touch=("hand", "link5", "link6", "link7")),
                )
            )
        )

    bare = gap(0.2)
    frames = joint_frames(bare.body.chain, HOME)
    first = np.sort(bare.clearance.nearest(frames, 9.0).distance)
    assert len(first) > 1
    lifted = 0.2
    for _ in range(60):  # bisection of where the margin begins
        now = gap(lifted)
        lifted -= float(now.clearance.nearest(frames, 9.0).distance.min()) * 0.9
    assert not gap(lifted)._outside(HOME)
    assert not gap(lifted + 2e-7)._outside(HOME)
    assert gap(lifted - 1e-4)._outside(HOME)


def test_one_pair_inside_its_margin_is_enough_to_recover() -> None:
    tight = Surroundings(margins=Margins(self_collision=1e-4))
    one = shield(tight)
    frames = joint_frames(one.body.chain, HOME)
    distances = np.sort(one.clearance.nearest(frames, 9.0).distance)
    between = 1e-4 + 0.5 * float(distances[0] + distances[1])
    if distances[1] - distances[0] > 1e-4:
        assert shield(Surroundings(margins=Margins(self_collision=between)))._outside(HOME)
    assert not one._outside(HOME)


def test_recovery_is_said_of_what_is_no_proposal_and_only_then() -> None:
    for recovering, how, reasons in (
        (True, "follow", (Reason.RECOVERY,)), (True, "proposal", ()), (False, "follow", ()), (False, "proposal", ()),
    ):  # fmt: skip
        candidate = Candidate(how, HOME, ZERO, ZERO)  # pyright: ignore[reportArgumentType]
        verdict = Verdict(1.0, 1.0, 1.0, 0.4, ())
        here = memory(recovering=recovering)
        _, report = shield()._accepted(here, candidate, standstill(HOME), verdict, Found())
        assert report.reasons == reasons
        assert here.tool_speed == 0.4


# -------------------------------------------------------------------------------------------- what is remembered and sent


def test_positions_are_remembered_every_0_02_rad_and_not_on_a_retreat() -> None:
    one, here = shield(), memory()
    verdict = Verdict(1.0, 1.0, 1.0, 0.0, ())

    def go(offset: float, how: Any) -> None:
        one._accepted(here, Candidate(how, HOME + offset * FIRST, ZERO, ZERO), standstill(HOME), verdict, Found())

    for offset in (0.0, 0.01, 0.0199, 0.0201, 0.03, 0.05, 0.069, 0.071):
        go(offset, "follow")
    remembered = [round(float(q[0] - HOME[0]), 4) for q in here.history]
    assert remembered == [0.0, 0.0201, 0.05, 0.071]
    for offset in (0.03, 0.5):
        go(offset, "retreat")
    assert len(here.history) == 4
    empty = memory()
    one._accepted(empty, Candidate("retreat", HOME, ZERO, ZERO), standstill(HOME), verdict, Found())
    assert len(empty.history) == 0


def test_a_retreat_goes_to_the_last_position_that_is_0_03_rad_away() -> None:
    way = [HOME + offset * FIRST for offset in (0.5, 0.04, 0.025, 0.01)]
    here = memory(history=deque(way))
    np.testing.assert_array_equal(module._back(here), way[1])
    assert len(here.history) == 2
    closer = memory(history=deque([HOME + 0.029 * FIRST, HOME - 0.029 * FIRST]))
    np.testing.assert_array_equal(module._back(closer), HOME)
    assert len(closer.history) == 0
    further = memory(history=deque([HOME - 0.031 * FIRST]))
    np.testing.assert_array_equal(module._back(further), HOME - 0.031 * FIRST)


@pytest.mark.parametrize("which", ["q", "v", "a"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nothing_is_sent_of_which_any_number_is_none(which: str, value: float) -> None:
    given = {"q": HOME, "v": ZERO, "a": ZERO} | {which: np.where(np.arange(7) == 5, value, HOME)}
    here = memory()
    with pytest.raises(ArithmeticError):
        shield()._move(here, **given)
    assert here.moving.q is HOME


def test_speed_and_change_are_differences_of_commands() -> None:
    one, here = shield(settings=replace(FREE, dt=0.02)), memory(v=np.full(7, 0.5))
    one._move(here, HOME + 0.012, ZERO, ZERO)
    np.testing.assert_allclose(here.moving.speed, 0.6, atol=1e-9)  # 0.012 / 0.02
    np.testing.assert_allclose(here.moving.change, 5.0, atol=1e-7)  # (0.6 - 0.5) / 0.02
    one._move(here, HOME + 0.012, ZERO, ZERO)
    np.testing.assert_allclose(here.moving.change, -30.0, atol=1e-7)


def test_where_even_the_stop_fails_the_last_command_is_held(monkeypatch: Any) -> None:
    one, now = running()
    last = one.commanded.q

    def fault(*_: Any) -> Any:
        raise RuntimeError("injected")

    monkeypatch.setattr(one, "_halted", fault)
    q, report = give(one, now + 0.01, None, last)
    np.testing.assert_array_equal(q, last)
    assert report.how == "hold"
    assert report.reasons == (Reason.INTERNAL,)
    assert report.latched


def test_margins_leave_room_or_are_refused() -> None:
    body = body_of(PANDA)
    narrow = replace(body, limits=replace(body.limits, q_min=(-0.5,) * 7, q_max=(0.5,) * 7))
    Shield(narrow, Surroundings(margins=Margins(goal=0.4999)))
    with pytest.raises(UserError, match="leave no room"):
        Shield(narrow, Surroundings(margins=Margins(goal=0.5)))
