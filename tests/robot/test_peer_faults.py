"""Faults of other systems that stand between a policy and a robot. Each test names where it was found, and shows the rule that has it.

The rules of others are written anew here, from their descriptions, as short as they can be.
"""

import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ideomotor.core.errors import UserError
from ideomotor.robot import joint_filter
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.body import body_of
from ideomotor.robot.contact import Reach, TorqueLimiter, TorqueReflex, clip_pose, clip_reference
from ideomotor.robot.follower import Candidate, Follower
from ideomotor.robot.joint_filter import JointFilter, JointGate, stoppable_speed
from ideomotor.robot.kinematics import forward
from ideomotor.robot.limits import Share, limits_of
from ideomotor.robot.proposal import PoseProposal, Proposal
from ideomotor.robot.reasons import Reason
from ideomotor.robot.robot import RobotState
from ideomotor.robot.shield import Shield
from ideomotor.robot.shield_settings import Settings
from ideomotor.robot.tracking import TrackingMonitor

TOOLS = Path(__file__).parents[2] / "tools"
BAD = [math.nan, -math.nan, math.inf, -math.inf]
HOME = np.array(PANDA.home)
ACCELERATION = np.array([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0])  # [rad/s^2] the Panda's manual
DT = 0.01
MEASURED = object()


def gate() -> JointGate:
    return JointGate(JointFilter(limits_of(PANDA), DT), HOME)


class Drive:
    """A shield on an arm that follows its commands at once, and a clock."""

    def __init__(self, q: np.ndarray = HOME, **settings: Any) -> None:
        self.shield = Shield(body_of(PANDA), settings=Settings(dt=DT, tool_speed=None, **settings))
        self.q, self.dq, self.now, self.sequence = q.copy(), np.zeros(7), 100.0, 0
        self.report: Any = None

    def state(self) -> RobotState:
        return RobotState(self.now, self.q.copy(), self.dq.copy(), 1.0)

    def send(self, proposal: Any, state: Any = MEASURED) -> np.ndarray:
        """Give one tick; return the movement [rad]."""
        self.now += DT
        command, self.report = self.shield.filter(self.state() if state is MEASURED else state, proposal, self.now)
        if command is None:
            return np.zeros(7)
        assert np.isfinite(command.q).all()
        assert math.isfinite(command.opening)
        step = command.q - self.q
        self.dq, self.q = step / DT, command.q
        return step

    def joints(self, q: Any) -> np.ndarray:
        self.sequence += 1
        return self.send(Proposal(q, self.now + DT, self.sequence))

    def pose(self, base_from_tcp: Any) -> np.ndarray:
        self.sequence += 1
        return self.send(PoseProposal(base_from_tcp, self.now + DT, self.sequence))

    def settle(self) -> None:
        """Let it stop."""
        for _ in range(150):
            self.send(None)
        assert (self.dq == 0.0).all()


# ------------------------------------------------------------------------------------------------- 1: NaN gets through


def relative_clamp(goal: float, present: float, largest: float) -> float:
    difference = max(min(goal - present, largest), -largest)
    return present + difference


def test_lerobots_relative_clamp_passes_nan_and_our_filter_brakes() -> None:
    """ensure_safe_goal_position in lerobot, src/lerobot/robots/utils.py (0.6.1): NaN in, NaN out, and no warning."""
    assert math.isnan(relative_clamp(math.nan, 0.3, 0.1))
    for value in BAD:
        step = gate().step(np.where(np.arange(7) == 2, value, HOME))
        np.testing.assert_array_equal(step.q, HOME)
        assert step.reasons == (Reason.NONFINITE,)


@pytest.mark.parametrize("value", BAD)
def test_no_public_function_lets_a_nan_through(value: float) -> None:
    """The clamps of Polymetis and DROID compare as lerobot's does; mink, DAQP, quadprog and cbfpy answer NaN with NaN."""
    bad, pose = HOME.copy(), np.eye(4)
    bad[3] = pose[1, 3] = value
    assert np.isfinite(stoppable_speed(bad, 1.0, DT)).all()
    assert np.isfinite(JointFilter(limits_of(PANDA), DT).filter(HOME, np.zeros(7), bad).q).all()
    assert np.isfinite(clip_reference(bad, HOME, 0.1)).all()
    assert np.isfinite(clip_pose(pose, np.eye(4), Reach())).all()
    assert np.isfinite(TorqueLimiter(limits_of(PANDA), 0.001).limit(bad)[0]).all()
    assert TorqueReflex((10.0,) * 7, debounce=9).update(bad)
    assert TrackingMonitor(10.0, 7).update(bad, HOME)
    assert TrackingMonitor(10.0, 7).update(HOME, bad)
    for refuses in (
        lambda: JointGate(JointFilter(limits_of(PANDA), DT), bad),
        lambda: JointFilter(limits_of(PANDA), DT).filter(bad, np.zeros(7), HOME),
        lambda: JointFilter(limits_of(PANDA), DT).filter(HOME, bad, HOME),
        lambda: clip_reference(HOME, bad, 0.1),
        lambda: clip_pose(np.eye(4), pose, Reach()),
    ):
        with pytest.raises(UserError):
            refuses()


def nowhere(drive: Drive) -> list[Any]:
    """What is no proposal, made for the next tick."""
    time, sequence = drive.now + DT, drive.sequence + 1
    bad: list[Any] = [None, "up", 0.0, math.nan, HOME, [0.0] * 7, {}, object()]
    arrays = [None, "up", [0.0] * 7, HOME[:6], HOME[None], HOME.astype(int), HOME.astype(complex), HOME.astype(object)]
    arrays += [np.where(np.arange(7) == joint, value, HOME) for joint in (0, 6) for value in BAD]
    bad += [Proposal(array, time, sequence) for array in arrays]  # pyright: ignore[reportArgumentType]
    bad += [Proposal(HOME, value, sequence) for value in BAD]
    for value in BAD:
        pose = forward(PANDA, HOME)
        pose[0, 3] = value
        bad.append(PoseProposal(pose, time, sequence))
    return bad


@pytest.fixture
def unchecked(monkeypatch: Any) -> None:
    """Let proposals be made of anything, as without the tests' shape checks."""
    for kind in (Proposal, PoseProposal, RobotState):

        def make(self: Any, *values: Any, kind: Any = kind, **named: Any) -> None:
            fields = list(kind.__dataclass_fields__.values())
            given = {f.name: v for f, v in zip(fields, values, strict=False)} | named
            for f in fields:
                object.__setattr__(self, f.name, given.get(f.name, f.default))

        monkeypatch.setattr(kind, "__init__", make)


@pytest.mark.usefixtures("unchecked")
def test_a_shield_that_is_told_nothing_readable_holds_the_arm() -> None:
    """S1 and lerobot issue 1483: NaN, Inf and None have to hold."""
    drive = Drive()
    drive.joints(HOME)
    drive.settle()
    for index in range(len(nowhere(drive))):
        drive.joints(HOME)
        assert (drive.send(nowhere(drive)[index]) == 0.0).all(), index
        assert not drive.report.accepted
        assert drive.report.reasons


@pytest.mark.usefixtures("unchecked")
def test_a_shield_that_is_told_nothing_readable_in_motion_stops_the_arm() -> None:
    for index in range(0, len(nowhere(Drive())), 3):
        drive = Drive()
        for _ in range(40):
            drive.joints(HOME + [0.5, 0.0, 0.0, 0.3, 0.0, 0.0, 0.0])
        assert np.abs(drive.dq).max() > 0.3
        for _ in range(100):
            drive.send(nowhere(drive)[index])
            assert not drive.report.accepted
        assert (drive.dq == 0.0).all()


@pytest.mark.usefixtures("unchecked")
def test_a_shield_without_a_readable_state_sends_nothing_first_and_stops_later() -> None:
    """NaN in what is measured, too: from the first tick, and in motion."""
    nan = np.full(7, math.nan)
    states: list[Any] = [None, "state", RobotState(100.0, nan, HOME, 1.0), RobotState(100.0, HOME, nan, 1.0)]
    states += [RobotState(100.0, HOME[:6], HOME, 1.0), RobotState(100.0, [0.0] * 7, HOME, 1.0)]  # pyright: ignore[reportArgumentType]
    for bad in states:
        drive = Drive()
        command, report = drive.shield.filter(bad, Proposal(HOME, 100.0, 1), 100.0)
        assert command is None
        assert not report.accepted
        drive = Drive()
        for _ in range(30):
            drive.joints(HOME + 0.3)
        assert np.abs(drive.dq).max() > 0.2
        for _ in range(100):
            drive.sequence += 1
            drive.send(Proposal(HOME + 0.3, drive.now + DT, drive.sequence), bad)
            assert not drive.report.accepted
        assert (drive.dq == 0.0).all()


# -------------------------------------------------------------------------------------- S2: a NaN that stays in the state


class JumpFilter:
    """Bounds, and no steps of more than 5 cm."""

    def __init__(self) -> None:
        self.last: np.ndarray | None = None

    def __call__(self, position: np.ndarray) -> np.ndarray:
        position = np.clip(position, -1.0, 1.0)
        if self.last is not None and np.linalg.norm(position - self.last) > 0.05:
            raise ValueError("jump")
        self.last = position
        return position


def test_lerobots_workspace_filter_forgets_its_limit_after_a_nan_and_ours_does_not() -> None:
    """EEBoundsAndSafety in lerobot, robot_kinematic_processor.py (0.6.1): after a NaN the next jump of 0.9 m passes."""
    peer = JumpFilter()
    peer(np.array([0.0, 0.0, 0.5]))
    with pytest.raises(ValueError, match="jump"):
        JumpFilter.__call__(peer, np.array([0.9, 0.0, 0.5]))
    peer(np.array([math.nan, 0.0, 0.5]))
    np.testing.assert_array_equal(peer(np.array([0.9, 0.0, 0.5])), [0.9, 0.0, 0.5])

    for value in [*BAD, 1e300]:
        clean, dirty = gate(), gate()
        dirty.step(np.full(7, value if value != 1e300 else math.nan))
        far = HOME + 0.9
        np.testing.assert_array_equal(clean.step(far).q, dirty.step(far).q)
        torques = TorqueLimiter(limits_of(PANDA), 0.001)
        torques.limit(np.full(7, value))
        assert np.abs(torques.limit(np.full(7, 50.0))[0]).max() <= 2.0


def test_a_jump_of_0_9_m_right_after_a_nan_is_as_limited_for_the_shield_as_without_it() -> None:
    start, jump = forward(PANDA, HOME), forward(PANDA, HOME)
    jump[0, 3] -= 0.9
    for value in BAD:
        clean, dirty = Drive(), Drive()
        for drive in (clean, dirty):
            drive.pose(start)
            drive.settle()
        bad = start.copy()
        bad[0, 3] = value
        assert (dirty.pose(bad) == 0.0).all()
        clean.send(None)
        for _ in range(20):
            assert (np.abs(dirty.pose(jump)) <= np.array(PANDA.dq_max) * DT).all()
            clean.pose(jump)
            np.testing.assert_allclose(dirty.q, clean.q, atol=1e-9)
        moved = np.linalg.norm(forward(PANDA, dirty.q)[:3, 3] - start[:3, 3])
        assert moved < 0.2  # 0.2 s, and not 0.9 m


# --------------------------------------------------------------------------------------- S3: the fault of a filter opens it


def test_a_velocity_clamp_that_fails_open_lets_the_action_through_and_a_fault_of_ours_stops(monkeypatch: Any) -> None:
    """Tether, issue 277: the clamp's own error was caught, and the action went out as it was."""
    rules = gate()
    for _ in range(40):
        rules.step(HOME + 0.5)
    moving = rules.step(HOME + 0.5)
    assert np.abs(moving.v).max() > 0.5
    for fault in (lambda *_: 1 / 0, lambda gap, *_: np.full_like(gap, math.nan), lambda *_: None):
        monkeypatch.setattr(joint_filter, "stoppable_speed", fault)
        broken = JointGate(JointFilter(limits_of(PANDA), DT, Share(acceleration=0.5)), moving.q, moving.v)
        q, v = moving.q, moving.v
        for _ in range(90):
            step = broken.step(HOME + 0.5)
            assert step.latched
            assert Reason.LATCHED in step.reasons
            np.testing.assert_allclose(
                step.v, np.sign(v) * np.maximum(np.abs(v) - 0.5 * ACCELERATION * DT, 0.0), atol=1e-12
            )
            np.testing.assert_allclose(step.q, q + step.v * DT, atol=1e-12)
            q, v = step.q, step.v
        assert (v == 0.0).all()
        monkeypatch.undo()
        np.testing.assert_array_equal(broken.step(HOME).q, q)  # latched, also when the fault is gone
        assert broken.reset()
        assert (broken.step(HOME).q != q).any()


@pytest.mark.parametrize("part", ["judge", "follow", "nan", "plan_stop"])
def test_a_fault_inside_the_shield_stops_the_arm(part: str, monkeypatch: Any) -> None:
    drive = Drive()
    for _ in range(30):
        drive.joints(HOME + 0.4)
    assert np.abs(drive.dq).max() > 0.3
    nan = np.full(7, math.nan)

    def fault(*_: Any, **__: Any) -> Any:
        raise RuntimeError("injected")

    match part:
        case "judge":
            monkeypatch.setattr(type(drive.shield.clearance), "judge", fault)
        case "follow":
            monkeypatch.setattr(Follower, "follow", fault)
        case "nan":
            monkeypatch.setattr(Follower, "follow", lambda *_, **__: [Candidate("follow", nan, nan, nan)])
        case _:
            monkeypatch.setattr("ideomotor.robot.shield.plan_stop", fault)
    for _ in range(100):
        drive.joints(HOME + 0.4)
        assert not drive.report.accepted
    assert (drive.dq == 0.0).all()


# -------------------------------------------------------------------------- first absolute command after start and reconnect


def test_a_first_command_that_is_2_8_rad_away_is_not_passed_by_the_joint_filter() -> None:
    """Peers compare with the command before, and at first there is none: a first target 2.8 rad away went out as it was.

    lerobot's step limit compares with the measured pose, but is off by default (max_relative_target, issue 1483).
    """
    far = HOME.copy()
    far[0] += 2.8
    for start in (gate(), gate()):
        for _ in range(3):
            start.start(HOME)  # a reconnect
            step = start.step(far)
            assert abs(step.q[0] - HOME[0]) <= 15.0 * DT**2 * (1 + 1e-9)
            assert Reason.ACCELERATION in step.reasons


def test_a_first_command_that_is_2_8_rad_away_is_not_passed_by_the_shield() -> None:
    far = HOME.copy()
    far[0] += 2.8
    drive = Drive()
    first = drive.joints(far)
    assert np.abs(first).max() <= 15.0 * DT**2
    for _ in range(20):
        drive.joints(far)
    drive.settle()
    drive.now += 30.0  # the link was down; somebody moved the arm by hand
    drive.q = HOME + [-0.3, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0]
    before = drive.q.copy()
    assert np.abs(drive.joints(far)).max() <= 15.0 * DT**2
    assert np.abs(drive.q - before).max() <= 15.0 * DT**2  # from where the arm is, not from the last command
    speeds = [np.abs(drive.joints(far)) / DT for _ in range(30)]
    assert (np.max(speeds, axis=0) <= np.array(PANDA.dq_max) * (1 + 1e-9)).all()


# --------------------------------------------------------------------------------------------------- 3: no limits, no arm


def test_an_arm_without_limits_is_not_armed() -> None:
    """lerobot: no limit of speed or step unless somebody asks for one (max_relative_target is None by default)."""
    unknown = replace(PANDA, name="prototype", motion=None)
    for arm in (limits_of, body_of):
        with pytest.raises(UserError, match=r"'prototype' has no limits .* not armed; add"):
            arm(unknown)


# ------------------------------------------------------------------------------------------- 7: a bound without braking


@pytest.fixture(scope="module")
def fuzz() -> Any:
    """The attacks and the checker."""
    sys.path.insert(0, str(TOOLS))
    try:
        return importlib.import_module("joint_fuzz")
    finally:
        sys.path.remove(str(TOOLS))


def test_a_bound_that_forgets_braking_is_found_and_ours_passes_the_same_attacks(fuzz: Any) -> None:
    """ros2_control (joint_limits) bounds a speed by (limit - q) / T, libfranka's position rate limiter by no position at all.

    Stopping from 2.175 rad/s within 10 ms takes 217 rad/s^2, 14 to 29 times what a Panda's joints can do. Where the acceleration
    limit comes last, the joint leaves its range instead; ros2_control then raises an exception (here it does not).
    """
    rig = fuzz.RIGS[0]

    def attacked(rule: Any) -> Any:
        return fuzz.fuzz(rig, DT, rule, (128, 500), np.random.default_rng(0), stops_every=5)

    clipped, swapped = attacked(fuzz.position_bound(rig, DT)), attacked(fuzz.swapped_bound(rig, DT))
    ours = attacked(JointFilter(rig.limits, DT).filter)
    assert ours.violations == 0
    assert ours.acceleration_ratio <= 1 + 1e-9
    assert ours.overshoot_rad == 0.0
    assert ours.moved_rad > 0.5 * clipped.moved_rad  # and it is not safe by standing still
    assert clipped.acceleration > 1000
    assert clipped.acceleration_ratio > 10.0
    assert clipped.position == 0
    assert swapped.violations > 1000
    assert swapped.overshoot_rad > 0.05


def test_from_bound_to_bound_by_hand(fuzz: Any) -> None:
    """One joint at full speed towards its limit: the peer's rule stops it within a tick, ours in time."""
    rig = fuzz.RIGS[0]
    worst = {}
    for name, rule in (
        ("peer", fuzz.position_bound(rig, DT)),
        ("ours", JointFilter(rig.limits, DT).filter),
    ):
        q, v = HOME.copy(), np.zeros(7)
        hardest = 0.0
        for tick in range(800):
            before = v
            q, v = rule(q, v, np.where(np.arange(7) == 1, 9.0 if tick % 400 < 200 else -9.0, HOME))
            hardest = max(hardest, float(np.abs(v - before)[1]) / DT)
        worst[name] = hardest
    assert worst["ours"] == pytest.approx(7.5, rel=1e-9)
    assert worst["peer"] > 75.0


# ------------------------------------------------------------------------------------------------ 8: a reflex that clears itself


def test_a_trip_is_cleared_by_no_input_but_a_reset() -> None:
    """Polymetis (franka_panda_client) calls the robot's error recovery by itself, and motion goes on."""
    rng = np.random.default_rng(4)
    reflex, monitor = TorqueReflex((10.0,) * 7), TrackingMonitor(0.1, 7)
    reflex.update(np.full(7, 11.0))
    monitor.update(HOME + 0.2, HOME)
    for _ in range(1000):
        assert reflex.update(rng.uniform(-20, 20, 7))
        assert monitor.update(HOME + rng.uniform(-0.2, 0.2, 7), HOME)
    reflex.update(np.zeros(7))
    monitor.update(HOME, HOME)
    assert reflex.reset()
    assert monitor.reset()


def test_a_latched_gate_moves_for_nothing() -> None:
    limits = limits_of(PANDA)
    v = np.zeros(7)
    v[0] = 2.0
    q = np.where(np.arange(7) == 0, limits.q_max[0] - 0.01, HOME)
    latched = JointGate(JointFilter(limits, DT), q, v)
    for _ in range(20):
        latched.step(HOME)
    still = latched.step(HOME).q
    rng = np.random.default_rng(5)
    for index in range(500):
        proposal: Any = [HOME, None, "reset", np.full(7, math.nan), rng.uniform(-9, 9, 7), still][index % 6]
        step = latched.step(proposal)
        np.testing.assert_array_equal(step.q, still)
        assert step.latched
    assert latched.reset()
    np.testing.assert_array_equal(latched.step(still).q, still)  # a reset alone moves nothing


@pytest.mark.usefixtures("unchecked")
def test_a_latched_shield_moves_for_nothing_until_it_is_reset() -> None:
    """The arm does not follow (0.15 rad off), so the shield latches; then everything is tried."""
    drive = Drive(tracking=0.1)
    for _ in range(20):
        drive.joints(HOME + 0.3)
    off = drive.q + 0.15
    drive.sequence += 1
    drive.send(Proposal(HOME, drive.now + DT, drive.sequence), RobotState(drive.now + DT, off, np.zeros(7), 1.0))
    assert drive.report.latched
    assert drive.shield.latched is Reason.TRACKING_ERROR
    drive.settle()
    rng, still = np.random.default_rng(6), drive.q.copy()
    for index in range(300):
        choice = index % 5
        if choice == 0:
            drive.joints(rng.uniform(PANDA.q_min, PANDA.q_max))
        elif choice == 1:
            drive.pose(forward(PANDA, rng.uniform(PANDA.q_min, PANDA.q_max)))
        elif choice == 2:
            bad = nowhere(drive)
            drive.send(bad[index % len(bad)])
        elif choice == 3:
            drive.send(None, None)
        else:
            drive.now += 5.0  # a reconnect is no reset
            drive.joints(HOME)
        np.testing.assert_array_equal(drive.q, still)
        assert not drive.report.accepted
        assert drive.shield.latched is not None
    moving = RobotState(drive.now, drive.q, np.full(7, 0.5), 1.0)
    assert not drive.shield.reset(moving)  # the arm has to stand
    assert not drive.shield.reset(None)
    assert drive.shield.reset(drive.state())
    assert drive.shield.latched is None
    assert (drive.send(None) == 0.0).all()  # a reset alone moves nothing
    for _ in range(5):
        drive.joints(HOME)
    assert (drive.q != still).any()
