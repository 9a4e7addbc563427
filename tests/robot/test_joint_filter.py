import importlib
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ideomotor.core.errors import UserError
from ideomotor.robot import joint_filter
from ideomotor.robot.arm import SpeedLaw
from ideomotor.robot.arms.fr3 import FR3
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.joint_filter import JointFilter, JointGate, stoppable_speed, stopping_distance
from ideomotor.robot.limits import Limits, Share, limits_of
from ideomotor.robot.reasons import Reason

TOOLS = Path(__file__).parents[2] / "tools"
law = settings(max_examples=300, deadline=None, database=None)
TICKS_S = (0.001, 0.010, 0.020, 1 / 15)


def limits(low: float = -1.0, high: float = 1.0, speed: float = 2.0, acceleration: float = 10.0) -> Limits:
    """One joint."""
    return Limits(
        (low,), (high,), (speed,), (acceleration,), (1e3,), (10.0,), None, 1.0, 10.0, 3.0, ("made for this test",)
    )


def one(value: float) -> np.ndarray:
    return np.array([value])


@pytest.fixture(scope="module")
def fuzz() -> Any:
    """The attacks and the checker."""
    sys.path.insert(0, str(TOOLS))
    try:
        return importlib.import_module("joint_fuzz")
    finally:
        sys.path.remove(str(TOOLS))


def braking_path(speed: float, acceleration: float, dt: float) -> float:
    """Move at `speed` for a tick, then at a tick's worth of braking less, and so on."""
    path = 0.0
    while speed > 0.0:
        path += speed * dt
        speed -= acceleration * dt
    return path


# ------------------------------------------------------------------------------------------------------- the bound itself


@pytest.mark.parametrize(
    ("gap", "speed"),
    # a = 1, dt = 1. Gap 3 = 2 + 1; gap 2 = 1.5 + 0.5; gap 6 = 3 + 2 + 1; gap 4.5 = 2.5 + 1.5 + 0.5; 4 = 7/3 + 4/3 + 1/3
    [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (2.0, 1.5), (3.0, 2.0), (4.0, 7 / 3), (4.5, 2.5), (6.0, 3.0), (5050.0, 100.0)],
)
def test_the_cap_is_the_speed_whose_braking_steps_fill_the_gap(gap: float, speed: float) -> None:
    assert stoppable_speed(one(gap), 1.0, 1.0)[0] == pytest.approx(speed, rel=1e-15)
    assert stopping_distance(one(speed), 1.0, 1.0)[0] == pytest.approx(gap, rel=1e-15)


def test_the_cap_scales_with_acceleration_and_tick() -> None:
    # a = 8, dt = 0.25: a dt = 2, a dt^2 = 0.5, so a gap of 1.5 is 3 units, 2 units of speed
    assert stoppable_speed(one(1.5), 8.0, 0.25)[0] == pytest.approx(4.0, rel=1e-15)
    assert stopping_distance(one(-4.0), 8.0, 0.25)[0] == pytest.approx(1.5, rel=1e-15)


@law
@given(st.floats(0.0, 20.0), st.floats(0.5, 50.0), st.sampled_from(TICKS_S))
def test_the_stopping_distance_is_the_sum_of_the_braking_steps(speed: float, acceleration: float, dt: float) -> None:
    assume(speed / (acceleration * dt) < 2000)
    expected = braking_path(speed, acceleration, dt)
    assert stopping_distance(one(speed), acceleration, dt)[0] == pytest.approx(expected, rel=1e-11, abs=1e-300)


@law
@given(st.floats(1e-12, 1e4), st.floats(0.1, 100.0), st.floats(1e-4, 1.0))
def test_braking_from_the_cap_fills_the_gap(gap: float, acceleration: float, dt: float) -> None:
    speed = stoppable_speed(one(gap), acceleration, dt)
    assert stopping_distance(speed, acceleration, dt)[0] == pytest.approx(gap, rel=1e-12)


@law
@given(st.integers(1, 10_000), st.integers(-3, 3))
def test_at_triangular_numbers_both_branches_agree(n: int, ulps: int) -> None:
    gap = n * (n + 1) / 2
    for _ in range(abs(ulps)):
        gap = math.nextafter(gap, math.inf if ulps > 0 else 0.0)
    assert stoppable_speed(one(gap), 1.0, 1.0)[0] == pytest.approx(n, rel=1e-14)


def test_the_cap_stays_under_the_continuous_braking_speed_and_tends_to_it() -> None:
    gap = np.geomspace(1e-6, 10.0, 200)
    continuous = np.sqrt(2 * 5.0 * gap)  # v^2 = 2 a g
    for dt in (0.1, 1e-3, 1e-5):
        assert (stoppable_speed(gap, 5.0, dt) < continuous).all()
    np.testing.assert_allclose(stoppable_speed(gap, 5.0, 1e-6), continuous, rtol=1e-2)


@pytest.mark.parametrize("gap", [-1.0, -0.0, math.nan, -math.inf])
def test_no_gap_allows_no_speed(gap: float) -> None:
    assert stoppable_speed(one(gap), 1.0, 0.01)[0] == 0.0


@pytest.mark.parametrize("gap", [math.inf, 1.7e308])
def test_a_boundless_gap_gives_a_finite_speed(gap: float) -> None:
    speed = stoppable_speed(one(gap), 1e-3, 1e-6)[0]
    assert 1e100 < speed < math.inf


# ------------------------------------------------------------------------------------------------------------------- fuzz


@pytest.mark.parametrize("index", range(3), ids=["panda", "fr3", "ur5e"])
def test_no_attack_breaks_a_limit_or_leaves_a_state_that_cannot_stop(index: int, fuzz: Any) -> None:
    """The three together: 1.1e6 proposals."""
    rig = fuzz.RIGS[index]
    started = time.process_time()
    for number, dt in enumerate(TICKS_S):
        rng = np.random.default_rng([7, index, number])
        rule = JointFilter(rig.limits, dt)
        tally = fuzz.fuzz(rig, dt, rule.filter, (128, 700), rng, 2 if number else 16)
        assert tally.violations == 0, (dt, tally)
        assert tally.overshoot_rad == 0.0
        assert tally.proposals == 128 * 700
        assert tally.stops_checked >= 128 * 6 * 43
        assert tally.speed_ratio > 0.999  # the limits were reached
        assert tally.acceleration_ratio > 0.999
        assert tally.moved_rad / tally.joint_steps > 0.05 * float(rig.speed.mean()) * dt
    assert time.process_time() - started < 10.0  # 1.5 s here


def test_the_numbers_in_the_fuzz_are_those_of_the_arms(fuzz: Any) -> None:
    for rig, arm in zip(fuzz.RIGS, (PANDA, FR3, UR5E), strict=True):
        ours, typed = limits_of(arm), rig.limits
        for name in ("q_min", "q_max", "speed", "acceleration"):
            np.testing.assert_allclose(getattr(ours, name), getattr(typed, name), rtol=1e-15)
        assert ours.speed_law == typed.speed_law


@pytest.mark.parametrize("index", range(3), ids=["panda", "fr3", "ur5e"])
def test_an_interval_is_never_empty_after_a_start_at_rest(index: int, fuzz: Any) -> None:
    """Not even by rounding, which adds up over hundreds of braking ticks of 1 ms."""
    rig, dt, rng = fuzz.RIGS[index], 0.001, np.random.default_rng(3)
    rule = JointFilter(rig.limits, dt)
    joints = len(rig.low)
    q, v = np.broadcast_to(0.5 * (rig.low + rig.high), (64, joints)), np.zeros((64, joints))
    side = np.where(rng.random((64, joints)) < 0.5, -1.0, 1.0)
    for _ in range(2500):  # from limit to limit at full speed, turning at random
        side = np.where(rng.random(side.shape) < 0.0005, -side, side)
        assert not rule.interval(q, v).empty.any()
        q, v = rule.filter(q, v, q + 10.0 * side)


@pytest.mark.parametrize("dt", TICKS_S)
@pytest.mark.parametrize("index", range(3), ids=["panda", "fr3", "ur5e"])
def test_without_proposals_every_arm_comes_to_rest_inside_its_limits(index: int, dt: float, fuzz: Any) -> None:
    rig = fuzz.RIGS[index]
    rule = JointFilter(rig.limits, dt)
    q = np.broadcast_to(0.5 * (rig.low + rig.high), (32, len(rig.low)))
    v, watch = np.zeros(q.shape), fuzz.Watch(rig, dt, q)
    side = np.where(np.random.default_rng(2).random(q.shape) < 0.5, -9.0, 9.0)
    running = int(0.7 * float((rig.speed / rig.acceleration).max()) / dt) + 20  # while most joints are at speed
    for tick in range(4 * running):
        q, v = rule.filter(q, v, side if tick < running else None)
        watch.see(q)
    assert watch.tally.violations == 0
    assert watch.tally.speed_ratio > 0.5
    assert (v == 0.0).all()


def test_a_fuzz_goes_on_where_it_was_and_only_with_the_same_code_and_seed(tmp_path: Path, fuzz: Any) -> None:
    file = tmp_path / "fuzz.json"
    state = fuzz.resumed(file, 3)
    assert state.blocks == 0
    state.blocks, state.seconds = 5, 2.5
    for name, count in (("a", 7), ("b", 4), ("a", 1)):
        tally = fuzz.Tally(proposals=count, overshoot_rad=0.5 / count, speed=count)
        state.total.add(tally)
        state.cases.setdefault(name, fuzz.Tally()).add(tally)
    assert (state.total.proposals, state.total.violations, state.total.overshoot_rad) == (12, 12, 0.5)
    state.write(file)
    assert fuzz.resumed(file, 3) == state
    with pytest.raises(SystemExit, match="another seed"):
        fuzz.resumed(file, 4)
    file.write_text(file.read_text().replace(state.source, "0" * 16))
    with pytest.raises(SystemExit, match="other code"):
        fuzz.resumed(file, 3)


def broken(monkeypatch: Any, name: str) -> None:
    good = stoppable_speed
    changes = {
        "no braking bound": lambda gap, a, dt: np.fmax(gap, 0.0) / dt,
        "continuous braking speed": lambda gap, a, dt: np.sqrt(2 * a * np.fmax(gap, 0.0)),
        "one tick too late": lambda gap, a, dt: good(gap, a, dt) + a * dt,
        "double gap": lambda gap, a, dt: good(2 * gap, a, dt),
        "one more step": lambda gap, a, dt: good(np.fmax(gap, 0.0) + a * dt * dt, a, dt),
    }
    monkeypatch.setattr(joint_filter, "stoppable_speed", changes[name])


@pytest.mark.parametrize(
    "name",
    ["no braking bound", "continuous braking speed", "one tick too late", "double gap", "one more step"],
)
def test_a_wrong_bound_is_found(name: str, monkeypatch: Any, fuzz: Any) -> None:
    broken(monkeypatch, name)
    rig = fuzz.RIGS[0]
    tally = fuzz.fuzz(
        rig, 0.01, JointFilter(rig.limits, 0.01).filter, (64, 300), np.random.default_rng(0), stops_every=10
    )
    assert tally.violations > 0


@pytest.mark.parametrize(
    ("field", "kind"),
    [("low", "position"), ("high", "position"), ("speed", "speed"), ("acceleration", "acceleration")],
)
def test_a_limit_that_is_off_by_a_millionth_is_found(field: str, kind: str, fuzz: Any) -> None:
    rig = fuzz.RIGS[0]
    wrong = {"low": rig.low - 1e-6, "high": rig.high + 1e-6}
    wrong |= {"speed": rig.speed * (1 + 1e-6), "acceleration": rig.acceleration * (1 + 1e-6)}
    rule = JointFilter(replace(rig, **{field: wrong[field]}).limits, 0.01)
    tally = fuzz.fuzz(rig, 0.01, rule.filter, (64, 300), np.random.default_rng(0), stops_every=300)
    assert getattr(tally, kind) > 0
    others = {"position", "speed", "acceleration", "nonfinite", "speed_law"} - {kind}
    assert not any(getattr(tally, other) for other in others), tally


def test_a_nan_that_gets_through_is_found(fuzz: Any) -> None:
    rig = fuzz.RIGS[0]
    tally = fuzz.fuzz(rig, 0.01, lambda q, v, p: (p, v), (64, 2), np.random.default_rng(0), stops_every=300)
    assert tally.nonfinite > 0


def test_the_bound_without_what_the_speed_law_takes_is_found(fuzz: Any) -> None:
    rig = fuzz.RIGS[1]
    naive = JointFilter(replace(rig.limits, speed_law=None), 0.01)
    tally = fuzz.fuzz(rig, 0.01, naive.filter, (64, 300), np.random.default_rng(0), stops_every=300)
    assert tally.speed_law > 0
    assert tally.violations == tally.speed_law


# ------------------------------------------------------------------------------------------------------- a single step


def some_state(rng: np.random.Generator, rule: JointFilter, ticks: int) -> tuple[np.ndarray, np.ndarray]:
    b = rule.bounds
    q, v = rng.uniform(b.low, b.high, (200, len(b.low))), np.zeros((200, len(b.low)))
    for _ in range(ticks):
        q, v = rule.filter(q, v, rng.uniform(b.low - 1.0, b.high + 1.0, q.shape))
    return q, v


@pytest.mark.parametrize("dt", TICKS_S)
@pytest.mark.parametrize("arm", [PANDA, FR3, UR5E], ids=lambda arm: arm.name)
def test_a_legal_proposal_is_unchanged_and_what_was_taken_is_taken_again(arm: Any, dt: float) -> None:
    rule, rng = JointFilter(limits_of(arm), dt), np.random.default_rng(5)
    for _ in range(20):
        q, v = some_state(rng, rule, 15)
        low, high, _ = rule.interval(q, v)
        legal = q + rng.uniform(low, high) * dt
        np.testing.assert_allclose(rule.filter(q, v, legal).q, legal, rtol=0, atol=1e-12)
        once = rule.filter(q, v, rng.uniform(-9, 9, q.shape)).q
        np.testing.assert_allclose(rule.filter(q, v, once).q, once, rtol=0, atol=1e-12)


@pytest.mark.parametrize("arm", [PANDA, FR3, UR5E], ids=lambda arm: arm.name)
def test_doubling_a_saturated_proposal_changes_nothing(arm: Any) -> None:
    rule, rng = JointFilter(limits_of(arm), 0.01), np.random.default_rng(6)
    q, v = some_state(rng, rule, 25)
    far = q + rng.choice([-1.0, 1.0], q.shape) * rng.uniform(0.5, 5.0, q.shape)
    move = rule.filter(q, v, far)
    saturated = np.abs(move.q - far) > 1e-9
    assert saturated.mean() > 0.5
    again = rule.filter(q, v, q + 2.0 * (far - q))
    assert (again.q[saturated] == move.q[saturated]).all()
    assert (again.v[saturated] == move.v[saturated]).all()


def test_each_limit_acts_alone_by_hand() -> None:
    """dt = 0.1: a dt = 1 rad/s, V = 2 rad/s."""
    rule = JointFilter(limits(), 0.1)

    def after(q: float, v: float, p: float) -> float:
        move = rule.filter(one(q), one(v), one(p))
        assert move.q[0] == pytest.approx(q + 0.1 * move.v[0], abs=1e-15)
        return float(move.v[0])

    assert after(0.0, 0.0, 0.05) == pytest.approx(0.5)  # as proposed
    assert after(0.0, 0.0, 9.0) == pytest.approx(1.0)  # acceleration
    assert after(0.0, 1.5, 9.0) == pytest.approx(2.0)  # speed
    assert after(0.0, -1.5, -9.0) == pytest.approx(-2.0)
    assert after(0.0, 1.5, -9.0) == pytest.approx(0.5)  # braking, not faster than a
    assert after(0.9, 1.0, 9.0) == pytest.approx(1.0, rel=1e-8)  # a gap of 0.1 is one unit: v = 1, then stop
    assert after(0.8, 1.5, 9.0) == pytest.approx(1.5, rel=1e-8)  # two units: 1.5, then 0.5
    assert after(-0.8, -1.5, -9.0) == pytest.approx(-1.5, rel=1e-8)
    assert after(0.95, 0.0, 9.0) == pytest.approx(0.5)  # half a unit
    assert after(0.2, 1.0, math.nan) == pytest.approx(0.0)  # brake
    assert after(0.2, 1.75, math.inf) == pytest.approx(0.75)


def test_shares_lower_speed_and_acceleration() -> None:
    rule = JointFilter(limits(), 0.1, Share(speed=0.5, acceleration=0.25))
    q, v = one(0.0), one(0.0)
    speeds = [float((move := rule.filter(q, v, one(1.0))).v[0])]
    for _ in range(5):
        q, v = move
        move = rule.filter(q, v, one(1.0))
        speeds.append(float(move.v[0]))
    assert speeds == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_a_law_joint_keeps_the_law_where_the_law_alone_has_no_command_left() -> None:
    """FR3 joint 5 (K = 34, c = 0.35, 10 rad/s^2): along the law braking takes K/2 v / (v + c) = 15.9 rad/s^2 at 5.26 rad/s."""
    assert 17.0 * 5.26 / 5.61 == pytest.approx(15.9, abs=0.05)
    dt, star = 0.001, 2.8101
    rule = JointFilter(limits_of(FR3), dt)
    q, v = np.array(FR3.home), np.zeros(7)
    fastest = 0.0
    for _ in range(3000):
        previous = q
        q, v = rule.filter(q, v, np.where(np.arange(7) == 4, 9.0, FR3.home))
        fastest = max(fastest, float(v[4]))
        for at in (previous[4], q[4]):
            assert v[4] <= max(0.0, math.sqrt(34.0 * (star - at)) - 0.35) + 1e-12
    assert fastest == pytest.approx(5.26)
    assert 2.79 < q[4] < star - 0.35**2 / 34.0
    assert v[4] == pytest.approx(0.0, abs=1e-9)


def test_a_law_that_ends_outside_the_range_leaves_the_range_as_it_is() -> None:
    wide = replace(limits(), speed_law=SpeedLaw((0.1,), (50.0,), (-9.0,), (9.0,)))
    q, v = one(0.0), one(0.0)
    for tick in range(400):
        q, v = JointFilter(wide, 0.01).filter(q, v, one(9.0 if tick < 200 else -9.0))
        if tick == 199:
            assert q[0] == pytest.approx(1.0, abs=1e-9)
    assert q[0] == pytest.approx(-1.0, abs=1e-9)


def test_a_share_of_the_acceleration_keeps_a_speed_law(fuzz: Any) -> None:
    rig = fuzz.RIGS[1]
    slow = replace(rig, acceleration=0.3 * rig.acceleration)
    rule = JointFilter(rig.limits, 0.01, Share(acceleration=0.3))
    tally = fuzz.fuzz(slow, 0.01, rule.filter, (64, 600), np.random.default_rng(0), stops_every=20)
    assert tally.violations == 0
    assert tally.acceleration_ratio > 0.999


GARBAGE = [
    None,
    "forward",
    b"\0" * 56,
    0.5,
    [0.1] * 7,
    {},
    object(),
    np.zeros(6),
    np.zeros((1, 7)),
    np.zeros((7, 1)),
    np.zeros(0),
    np.array(0.5),
    np.zeros(7, int),
    np.zeros(7, bool),
    np.zeros(7, complex),
    np.zeros(7, object),
    np.array(["0.1"] * 7),
    np.zeros(7, "datetime64[s]"),
    np.zeros(7, [("q", float)]),
    np.ma.masked_array(np.full(7, 0.3), mask=True),
    np.full(7, 0.1).view(np.recarray),
    np.nan,
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: type(garbage).__name__)
def test_what_is_no_proposal_makes_all_joints_brake(garbage: Any) -> None:
    rule = JointFilter(limits_of(PANDA), 0.01)
    q, v = np.array(PANDA.home), np.full(7, 0.5)
    move = rule.filter(q, v, garbage)
    a = np.array([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0])
    np.testing.assert_allclose(move.v, 0.5 - a * 0.01, atol=1e-12)
    assert rule.reasons(q, v, garbage)[0] is Reason.SHAPE


class Hostile(np.ndarray):
    """An array that runs code of its own wherever numpy lets it."""

    def __array_ufunc__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("ran foreign code")

    def __array_function__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("ran foreign code")

    def __array_finalize__(self, _: Any) -> None:
        pass


def test_no_code_of_a_proposal_is_run() -> None:
    rule = JointFilter(limits_of(PANDA), 0.01)
    hostile = np.full(7, 0.1).view(Hostile)
    assert (rule.filter(np.array(PANDA.home), np.zeros(7), hostile).v == 0.0).all()


BAD = [math.nan, -math.nan, math.inf, -math.inf]
NUMBERS = st.one_of(st.sampled_from([*BAD, 1e300, -1e300, 5e-324, -5e-324, 0.0, -0.0]), st.floats())


@law
@given(st.lists(NUMBERS, min_size=7, max_size=7), st.integers(0, 2**32 - 1), st.sampled_from(TICKS_S))
def test_any_floats_give_a_finite_legal_step(values: list[float], seed: int, dt: float) -> None:
    rule = JointFilter(limits_of(PANDA), dt)
    rng = np.random.default_rng(seed)
    q, v = (row[0] for row in some_state(rng, rule, 3))
    for dtype in (np.float64, np.float32, np.float16, np.longdouble, ">f8"):
        with np.errstate(all="ignore"):
            proposal = np.array(values).astype(dtype)
        with np.errstate(all="raise"):  # a caller's settings are no way to make it raise
            move = rule.filter(q, v, proposal)
        a = np.array([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0])
        assert (np.abs(move.v - v) <= a * dt * (1 + 1e-9)).all()
        assert (np.abs(move.v) <= np.array(PANDA.dq_max) * (1 + 1e-9)).all()
        assert ((move.q >= PANDA.q_min) & (move.q <= PANDA.q_max)).all()


def test_one_bad_number_brakes_its_joint_and_no_other() -> None:
    rule = JointFilter(limits_of(PANDA), 0.01)
    q, v = np.array(PANDA.home), np.full(7, 0.05)
    good = q + 0.0006
    for value in BAD:
        for joint in range(7):
            proposal = good.copy()
            proposal[joint] = value
            move = rule.filter(q, v, proposal)
            expected = np.where(np.arange(7) == joint, 0.0, 0.06)
            np.testing.assert_allclose(move.v, expected, atol=1e-12)
            assert rule.reasons(q, v, proposal) == (Reason.NONFINITE,)


def test_nothing_given_is_changed() -> None:
    rule = JointFilter(limits_of(PANDA), 0.01)
    q, v, p = np.array(PANDA.home), np.full(7, 0.1), np.full(7, 9.0)
    p[0] = math.nan
    before = q.copy(), v.copy(), p.copy()
    for array in (q, v, p):
        array.flags.writeable = False
    move = rule.filter(q, v, p)
    for array, copy in zip((q, v, p), before, strict=True):
        np.testing.assert_array_equal(array, copy)
        assert not np.shares_memory(move.q, array)
        assert not np.shares_memory(move.v, array)


@pytest.mark.parametrize(
    ("q", "v", "told"),
    [
        (np.zeros(6), np.zeros(6), "7 joints"),
        (np.zeros(1), np.zeros(1), "7 joints"),
        (np.full(7, math.nan), np.zeros(7), "NaN"),
        (np.zeros(7), np.full(7, math.inf), "NaN or infinite"),
    ],
)
def test_a_state_that_no_command_can_follow_is_refused(q: np.ndarray, v: np.ndarray, told: str) -> None:
    with pytest.raises(UserError, match=told):
        JointFilter(limits_of(PANDA), 0.01).filter(q, v, np.zeros(7))


def test_any_number_of_arms_gives_the_same_as_one_by_one() -> None:
    rule, rng = JointFilter(limits_of(FR3), 0.01), np.random.default_rng(8)
    q, v = some_state(rng, rule, 12)
    p = rng.uniform(-4, 4, q.shape)
    together = rule.filter(q.reshape(4, 50, 7), v.reshape(4, 50, 7), p.reshape(4, 50, 7))
    for index in range(200):
        alone = rule.filter(q[index], v[index], p[index])
        np.testing.assert_array_equal(together.q.reshape(200, 7)[index], alone.q)
        np.testing.assert_array_equal(together.v.reshape(200, 7)[index], alone.v)


@pytest.mark.parametrize("dt", [0.0, -0.01, math.nan, math.inf])
def test_a_tick_that_is_none_is_refused(dt: float) -> None:
    with pytest.raises(UserError, match="tick"):
        JointFilter(limits(), dt)


def test_a_tick_too_short_for_rounding_is_refused() -> None:
    with pytest.raises(UserError, match="too short"):
        JointFilter(limits(), 1e-9)


@pytest.mark.parametrize("share", [Share(speed=0.0), Share(speed=1.1), Share(acceleration=math.nan)])
def test_a_share_that_is_none_is_refused(share: Share) -> None:
    with pytest.raises(UserError, match="share"):
        JointFilter(limits(), 0.01, share)


def test_a_tick_so_long_that_the_speed_law_leaves_no_room_is_refused() -> None:
    tight = replace(limits(), speed_law=SpeedLaw((0.3,), (12.0,), (-1.0,), (1.0,)))
    JointFilter(tight, 0.01)
    with pytest.raises(UserError, match="no room"):
        JointFilter(tight, 5.0)


# ---------------------------------------------------------------------------------------------------------- reasons


@pytest.mark.parametrize(
    ("q", "v", "p", "reasons"),
    [
        (0.0, 0.0, 0.05, set()),
        (0.0, 0.0, 0.15, {Reason.ACCELERATION}),  # 1.5 rad/s after 0
        (0.0, 1.5, 0.25, {Reason.JOINT_VELOCITY}),  # 2.5 of 2 rad/s
        (0.0, 0.0, 0.9, {Reason.ACCELERATION, Reason.JOINT_VELOCITY, Reason.JOINT_POSITION}),  # 9 rad/s; cap(1) = 4
        (0.85, 1.0, 0.97, {Reason.JOINT_POSITION}),  # 1.2 rad/s inside; the cap of a gap of 1.5 units is 1.25
        (0.0, 0.5, math.nan, {Reason.NONFINITE}),
        (0.0, 1.5, math.nan, {Reason.NONFINITE, Reason.ACCELERATION}),
    ],
)
def test_the_reasons_are_the_limits_that_a_proposal_breaks(q: float, v: float, p: float, reasons: set[Reason]) -> None:
    rule = JointFilter(limits(), 0.1)
    if p == 0.97:
        assert rule.reasons(one(q), one(v), one(p)) == ()
        p = 0.98  # 1.3 rad/s
    assert set(rule.reasons(one(q), one(v), one(p))) == reasons


# ------------------------------------------------------------------------------------------------------------- the gate


def test_the_gate_moves_as_the_filter_does_and_says_why() -> None:
    rule, rng = JointFilter(limits_of(PANDA), 0.01), np.random.default_rng(9)
    q, v = np.array(PANDA.home), np.zeros(7)
    gate = JointGate(rule, q)
    for _ in range(500):
        proposal = q + rng.normal(0, 0.02, 7) if rng.random() < 0.8 else rng.uniform(-9, 9, 7)
        reasons = rule.reasons(q, v, proposal)
        q, v = rule.filter(q, v, proposal)
        step = gate.step(proposal)
        np.testing.assert_array_equal(step.q, q)
        np.testing.assert_array_equal(step.v, v)
        assert step.reasons == reasons
        assert not step.latched


def test_the_gate_survives_anything_and_is_not_contaminated_by_it() -> None:
    rule = JointFilter(limits_of(PANDA), 0.01)
    gate, clean = (JointGate(rule, np.array(PANDA.home)) for _ in range(2))
    with np.errstate(all="raise"):
        for garbage in [*GARBAGE, *(np.full(7, value) for value in BAD)]:
            step = gate.step(garbage)
            assert np.isfinite(step.q).all()
            assert step.reasons in {(Reason.SHAPE,), (Reason.NONFINITE,)}
        far = np.array(PANDA.home) + 1e300
        jump, expected = gate.step(far), clean.step(far)
    np.testing.assert_array_equal(jump.q, expected.q)


def test_writing_into_what_the_gate_was_given_or_returned_changes_nothing() -> None:
    measured = np.array(PANDA.home)
    gate = JointGate(JointFilter(limits_of(PANDA), 0.01), measured)
    measured[:] = 99.0
    step = gate.step(None)
    np.testing.assert_array_equal(step.q, PANDA.home)
    step.q[:] = math.nan
    step.v[:] = 99.0
    np.testing.assert_array_equal(gate.step(None).q, PANDA.home)


@pytest.mark.parametrize("outside", [1.0 + 1e-12, 1.1, 3.0, 900.0])
def test_from_outside_a_limit_it_moves_inwards_only_and_only_when_told(outside: float) -> None:
    for sign in (-1.0, 1.0):
        gate = JointGate(JointFilter(limits(), 0.01), one(sign * outside))
        for still in (None, one(math.nan), one(sign * outside), one(sign * 1e300)):
            step = gate.step(still)
            assert step.q[0] == sign * outside
            assert not step.latched
        previous = outside
        for _ in range(30):
            step = gate.step(one(0.0))
            assert sign * step.q[0] < previous
            assert abs(step.v[0]) <= 2.0
            previous = sign * step.q[0]
            if previous < 0.9:
                break
        assert not step.latched


def test_a_start_in_motion_that_cannot_stop_in_time_brakes_and_latches() -> None:
    gate = JointGate(
        JointFilter(limits(), 0.1), one(0.95), one(2.0)
    )  # a dt = 1: stops after 0.1 rad, and 0.05 are there
    first = gate.step(one(0.0))
    assert first.v[0] == pytest.approx(1.0)
    assert first.latched
    assert set(first.reasons) == {Reason.JOINT_POSITION, Reason.LATCHED}
    assert not gate.reset()  # it moves
    second = gate.step(one(0.0))
    assert second.v[0] == pytest.approx(0.0, abs=1e-12)
    assert second.q[0] == pytest.approx(1.05)
    for proposal in (one(0.0), None, one(math.nan)):
        step = gate.step(proposal)
        assert step.reasons == (Reason.LATCHED,)
        assert step.q[0] == second.q[0]
    gate.start(one(1.05))
    assert gate.latched  # a new start is no reset
    assert gate.reset()
    assert gate.step(one(0.0)).q[0] < 1.05


def test_a_start_in_motion_that_can_stop_goes_on() -> None:
    gate = JointGate(JointFilter(limits(), 0.1), one(0.0), one(1.5))
    assert gate.step(one(0.2)).v[0] == pytest.approx(2.0)
    assert not gate.latched


def test_a_start_above_the_speed_limit_slows_down_at_the_acceleration() -> None:
    gate = JointGate(JointFilter(limits(-100.0, 100.0), 0.1), one(0.0), one(5.0))
    speeds = [float(gate.step(one(100.0)).v[0]) for _ in range(5)]
    assert speeds == pytest.approx([4.0, 3.0, 2.0, 2.0, 2.0])
    assert not gate.latched


@law
@given(st.lists(st.floats(-2.0, 2.0), min_size=5, max_size=60), st.integers(0, 40), st.floats(0.01, 1.0))
def test_a_speed_limit_lowered_in_motion_keeps_every_other_limit(targets: list[float], when: int, share: float) -> None:
    dt = 0.02
    gate = JointGate(JointFilter(limits(), dt), one(0.0))
    q, v, cap = 0.0, 0.0, 2.0
    for tick, target in enumerate(targets):
        if tick == when:
            gate.limit_speed(share)
            cap = 2.0 * share
        step = gate.step(one(target))
        speed = (float(step.q[0]) - q) / dt
        assert abs(speed - v) <= 10.0 * dt * (1 + 1e-9)
        assert abs(speed) <= max(cap, abs(v) - 10.0 * dt) * (1 + 1e-9) + 1e-12
        assert abs(step.q[0]) <= 1.0
        assert not step.latched
        q, v = float(step.q[0]), speed


def test_a_lowered_speed_limit_is_relative_to_the_given_one() -> None:
    gate = JointGate(JointFilter(limits(-50.0, 50.0), 0.1, Share(speed=0.5)), one(0.0))
    for share, speed in ((0.5, 0.5), (0.25, 0.25), (1.0, 1.0)):
        gate.limit_speed(share)
        assert [gate.step(one(50.0)) for _ in range(5)][-1].v[0] == pytest.approx(speed)
    for wrong in (0.0, -1.0, 1.5, math.nan):
        with pytest.raises(UserError, match="share"):
            gate.limit_speed(wrong)


@pytest.mark.parametrize("measured", [*GARBAGE, *(np.full(7, value) for value in BAD), np.full(7, 1e4)])
def test_no_start_from_what_is_no_measured_pose(measured: Any) -> None:
    rule = JointFilter(limits_of(PANDA), 0.01)
    with pytest.raises(UserError, match="positions"):
        JointGate(rule, measured)
    gate = JointGate(rule, np.array(PANDA.home))
    if measured is not None:
        with pytest.raises(UserError, match="speeds"):
            gate.start(np.zeros(7), measured)
    np.testing.assert_array_equal(gate.step(None).q, PANDA.home)
