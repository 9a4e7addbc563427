"""Expected values: ruckig's own planner, a feedback law integrated in small steps, and numbers worked out by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import ruckig
from hypothesis import given, settings
from hypothesis import strategies as st

from ideomotor.robot.stop import Stop, plan_stop, standstill

J = 7
law = settings(max_examples=150, deadline=None, database=None)


def one(value: float) -> np.ndarray:
    return np.array([value])


def alone(v: float, a: float, limit: float = 1.0, jerk: float = 1.0) -> Stop:
    """A stop of one joint from 0."""
    return plan_stop(one(0.0), one(v), one(a), one(limit), one(jerk))


def some_states(rng: np.random.Generator, count: int) -> list[tuple[np.ndarray, ...]]:
    """Return q, v, a, acceleration and jerk, small and large in turn; |a| keeps its limit."""
    states: list[tuple[np.ndarray, ...]] = []
    for _ in range(count):
        limit, jerk = 10.0 ** rng.uniform(0.0, 1.5, J), 10.0 ** rng.uniform(1.0, 4.0, J)
        v = rng.normal(0.0, 1.0, J) * 10.0 ** rng.uniform(-4.0, 0.5, J)
        v[rng.integers(0, J)] = 0.0
        a = limit * rng.uniform(-1.0, 1.0, J) * rng.choice([0.0, 0.01, 1.0], J)
        states.append((rng.uniform(-3.0, 3.0, J), v, a, limit, jerk))
    return states


def by_ruckig(q: np.ndarray, v: np.ndarray, a: np.ndarray, limit: np.ndarray, jerk: np.ndarray) -> Any:
    given: Any = ruckig.InputParameter(len(q))
    given.control_interface = ruckig.ControlInterface.Velocity
    given.synchronization = ruckig.Synchronization.No
    given.current_position, given.current_velocity, given.current_acceleration = q.tolist(), v.tolist(), a.tolist()
    given.target_velocity = given.target_acceleration = [0.0] * len(q)
    given.max_acceleration, given.max_jerk = limit.tolist(), jerk.tolist()
    motion: Any = ruckig.Trajectory(len(q))
    assert ruckig.Ruckig(len(q)).calculate(given, motion) == ruckig.Result.Working
    return motion


# ----------------------------------------------------------------------------------------------- against other planners


def test_it_is_the_stop_that_ruckig_finds() -> None:
    rng = np.random.default_rng(1)
    for q, v, a, limit, jerk in some_states(rng, 300):
        stop, motion = plan_stop(q, v, a, limit, jerk), by_ruckig(q, v, a, limit, jerk)
        np.testing.assert_allclose(stop.ends[2], motion.independent_min_durations, rtol=1e-9, atol=1e-9)
        times = rng.uniform(0.0, 1.2 * stop.duration, 20)
        for ours, theirs in zip(stop.sample(times), zip(*(motion.at_time(t) for t in times), strict=True), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
        scale = 1.0 + np.abs(q) + np.abs(v) * stop.duration
        assert (np.abs(stop.at(stop.duration)[0] - motion.at_time(motion.duration)[0]) <= 1e-12 * scale).all()


def numerically(v: float, a: float, limit: float, jerk: float) -> tuple[float, float]:
    """Return time and travel of the best of the motions that fall at full jerk, down to -limit, and rise from some time on.

    All in steps of 20 us, the time by bisection; seen in the direction of the speed that is left once a has ended.
    """
    side = 1.0 if v + a * abs(a) / (2.0 * jerk) > 0.0 else -1.0
    v, a, h = side * v, side * a, 2e-5
    early, late, speeds = max(a, 0.0) / jerk, 5.0, np.zeros(0)
    for _ in range(50):
        turn = 0.5 * (early + late)
        falling = np.maximum(a - jerk * np.arange(0.0, turn, h), min(a, -limit))
        rising = np.arange(falling[-1], 0.0, jerk * h) if len(falling) else np.zeros(0)
        accelerations = np.concatenate([falling, rising])
        speeds = v + h * np.cumsum(accelerations)
        early, late = (turn, late) if len(speeds) and speeds[-1] > 0.0 else (early, turn)
    return h * len(speeds), side * h * float(speeds.sum())


@pytest.mark.parametrize("v", [-2.0, -0.3, -0.02, 0.0, 0.02, 0.3, 2.0])
@pytest.mark.parametrize("a", [-4.0, -1.0, 1e-9, 1.0, 4.0])
def test_a_search_in_small_steps_needs_as_long_and_goes_as_far(v: float, a: float) -> None:
    time, travel = numerically(v, a, 4.0, 100.0)
    stop = alone(v, a, 4.0, 100.0)
    assert stop.duration == pytest.approx(time, abs=2e-4)
    assert stop.at(stop.duration)[0][0] == pytest.approx(travel, abs=2e-4)


@pytest.mark.parametrize(
    ("speed", "acceleration", "jerk", "times", "travels"),
    [  # times [s] and travel [rad] of stops from these speeds, worked out by hand: v/a + a/j and half of it times v
        (
            (2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61), (15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0),
            (7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0),
            (0.147, 0.292, 0.2195, 0.176, 0.176, 0.1325, 0.1325), (0.160, 0.318, 0.239, 0.191, 0.230, 0.173, 0.173),
        ),
        (  # 0.9 of the speeds, half of accelerations and jerks
            (1.9575, 1.9575, 1.9575, 1.9575, 2.349, 2.349, 2.349), (7.5, 3.75, 5.0, 6.25, 7.5, 10.0, 10.0),
            (3750.0, 1875.0, 2500.0, 3125.0, 3750.0, 5000.0, 5000.0),
            (0.263, 0.524, 0.3935, 0.3152, 0.3152, 0.2369, 0.2369), (0.257, 0.513, 0.385, 0.309, 0.370, 0.278, 0.278),
        ),
        (
            (2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26), (10.0,) * 7, (5000.0,) * 7,
            (0.264, 0.264, 0.264, 0.264, 0.528, 0.420, 0.528), (0.346, 0.346, 0.346, 0.346, 1.389, 0.878, 1.389),
        ),
    ],
    ids=["panda", "half_panda", "fr3"],
)  # fmt: skip
def test_the_stops_of_known_arms_from_full_speed(
    speed: Any, acceleration: Any, jerk: Any, times: Any, travels: Any
) -> None:
    for sign in (1.0, -1.0):
        zero = np.zeros(7)
        stop = plan_stop(zero, sign * np.array(speed), zero, np.array(acceleration), np.array(jerk))
        np.testing.assert_allclose(stop.ends[2], times, atol=6e-4)
        np.testing.assert_allclose(sign * stop.at(9.0)[0], travels, atol=6e-4)


# ----------------------------------------------------------------------------------------------------- by hand, A = j = 1


@pytest.mark.parametrize(
    ("v", "a", "time", "travel"),
    [
        (2.0, 0.0, 3.0, 3.0),  # 1 s down to -1, 1 s at it, 1 s back: symmetric, so mean speed 1
        (1.0, 0.0, 2.0, 1.0),  # just reaches -1
        (0.25, 0.0, 1.0, 0.125),  # peak 0.5
        (0.0, 0.0, 0.0, 0.0),
        (0.5, 1.0, 3.0, 0.5 + 1 / 3 + 1.0),  # 1 s to a = 0 (v = 1, 1/2 + 1/3 rad), then as in line 2
        (0.5, -1.0, 1.0, 1 / 6),  # a alone takes the speed off: v(t) = (1 - t)^2 / 2
        (1.5, -1.0, 2.0, 1.0 + 1 / 6),  # 1 s at -1 (mean speed 1), then as in the line before
        (0.0, -1.0, 1.0 + 2.0 * 0.5**0.5, -1 / 3 - 0.5 * 0.5**0.5),  # 1 s to v = -1/2 at a = 0, then peak sqrt(1/2)
        (-0.5, 1.0, 1.0, -1 / 6),
        (0.0, -0.5, 0.5 + 2.0 * 0.125**0.5, -1 / 24 - 0.125**1.5),
    ],
)  # fmt: skip
def test_stops_worked_out_by_hand(v: float, a: float, time: float, travel: float) -> None:
    for sign in (1.0, -1.0):
        stop = alone(sign * v, sign * a)
        assert stop.duration == pytest.approx(time, abs=1e-12)
        assert stop.at(stop.duration)[0][0] == pytest.approx(sign * travel, abs=1e-12)


def test_a_deceleration_beyond_the_limit_is_not_raised_and_ends_in_time() -> None:
    # a = -2 at A = 1, j = 1: it is held, then let go; v = 4 needs (4 - 2) / 2 s at -2 and 2 s back
    stop = alone(4.0, -2.0)
    assert stop.duration == pytest.approx(3.0, abs=1e-12)
    assert stop.sample(np.linspace(0.0, 3.0, 301))[2].min() == pytest.approx(-2.0, abs=1e-12)
    assert stop.at(3.0)[0][0] == pytest.approx(3.0 + 4 / 3, abs=1e-12)  # mean speed 3 for 1 s, then integral of t^2 / 2


def test_units_scale() -> None:
    # time by T, angle by B: v B/T, A B/T^2, j B/T^3
    t, b = 0.1, 3.0
    stop = alone(2.0 * b / t, 0.0, b / t**2, b / t**3)
    assert stop.duration == pytest.approx(3.0 * t, rel=1e-12)
    assert stop.at(1.0)[0][0] == pytest.approx(3.0 * b, rel=1e-12)


# -------------------------------------------------------------------------------------------------------------- all states

numbers = st.floats(-3.0, 3.0)


@law
@given(numbers, st.floats(-1.0, 1.0), st.floats(0.1, 50.0), st.floats(1.0, 1e4))
def test_every_stop_starts_where_it_is_keeps_its_limits_and_ends_at_rest(
    v: float, share: float, limit: float, jerk: float
) -> None:
    a = share * limit
    stop = alone(v, a, limit, jerk)
    assert np.isfinite(stop.ends).all()
    assert (np.diff(stop.ends[:, 0], prepend=0.0) >= 0.0).all()
    q0, v0, a0 = stop.at(0.0)
    if stop.duration > 0.0:
        np.testing.assert_allclose([q0[0], v0[0], a0[0]], [0.0, v, a], rtol=1e-12)
    end = stop.duration
    for time in (end, np.nextafter(end, np.inf), end + 1.0, 1e6):
        q1, v1, a1 = stop.at(time)
        assert v1[0] == a1[0] == 0.0
        assert q1[0] == stop.at(end)[0][0]
    # just before the end nothing jumps: speed and acceleration come to 0 by themselves
    just = 1e-7 * end
    assert abs(stop.at(end - just)[1][0]) <= limit * just + 1e-9 * (1.0 + abs(v))
    assert abs(stop.at(end - just)[2][0]) <= jerk * just + 1e-9 * (1.0 + limit)
    times = np.linspace(0.0, end, 400)
    q, speed, acceleration = (column[:, 0] for column in stop.sample(times))
    assert np.abs(acceleration).max() <= limit * (1.0 + 1e-9)
    h = times[1]
    if h > 1e-5:  # differences are means of derivatives, so they keep the limits as well, up to rounding
        rounding = 64.0 * np.finfo(float).eps * (1.0 + np.abs(q).max())
        assert np.abs(np.diff(q, 2)).max() <= limit * h**2 * (1.0 + 1e-9) + rounding
        assert np.abs(np.diff(q, 3)).max() <= jerk * h**3 * (1.0 + 1e-9) + rounding
        assert np.abs(np.diff(acceleration)).max() <= jerk * h * (1.0 + 1e-9) + rounding
        np.testing.assert_allclose(np.diff(q), 0.5 * (speed[1:] + speed[:-1]) * h, atol=jerk * h**3 / 6.0 + rounding)


@pytest.mark.parametrize("a", [-1.0, 1.0, -0.3, 2.5, -2.5])
def test_where_the_acceleration_alone_takes_the_speed_off_rounding_breaks_nothing(a: float) -> None:
    """v = -a |a| / 2j, and a few of the next numbers on both sides; |a| beyond its limit as well. There roots are of numbers near 0."""
    rng = np.random.default_rng(7)
    for _ in range(400):
        jerk, limit = rng.uniform(1.0, 5000.0), rng.uniform(0.2, 2.0)
        scaled = a * rng.uniform(0.5, 1.5)
        v = -scaled * abs(scaled) / (2.0 * jerk)
        for _ in range(rng.integers(0, 3)):
            v = float(np.nextafter(v, rng.choice([-9.0, 9.0])))
        stop = alone(v, scaled, limit, jerk)
        assert np.isfinite(stop.ends).all()
        assert (np.diff(stop.ends[:, 0], prepend=0.0) >= 0.0).all()
        assert stop.duration == pytest.approx(abs(scaled) / jerk, rel=1e-5)
        assert stop.at(9.0)[0][0] == pytest.approx(-(scaled**3) / (6.0 * jerk**2), rel=1e-5)  # of (a + j t) over time


@law
@given(numbers, st.floats(-1.0, 1.0), st.floats(0.0, 1.0), st.floats(0.1, 50.0), st.floats(1.0, 1e4))
def test_the_rest_of_a_stop_is_the_stop_from_there(
    v: float, share: float, when: float, limit: float, jerk: float
) -> None:
    whole = alone(v, share * limit, limit, jerk)
    middle = when * whole.duration
    rest = plan_stop(*whole.at(middle), one(limit), one(jerk))
    assert middle + rest.duration == pytest.approx(whole.duration, rel=1e-6, abs=1e-6)
    assert rest.at(9e9)[0][0] == pytest.approx(whole.at(9e9)[0][0], rel=1e-7, abs=1e-7)


@law
@given(numbers, st.floats(-1.0, 1.0))
def test_a_stop_to_the_left_is_the_mirror_of_one_to_the_right(v: float, a: float) -> None:
    right, left = alone(v, a, 1.0, 3.0), alone(-v, -a, 1.0, 3.0)
    times = np.linspace(0.0, 5.0, 50)
    for one_way, other in zip(right.sample(times), left.sample(times), strict=True):
        np.testing.assert_array_equal(one_way, -other)


@law
@given(numbers, st.floats(-1.0, 1.0), st.floats(1.0, 3.0), st.floats(1.0, 3.0))
def test_more_acceleration_and_jerk_never_make_it_longer(v: float, a: float, more: float, harder: float) -> None:
    assert alone(v, a, more, harder).duration <= alone(v, a).duration * (1.0 + 1e-12) + 1e-12


def test_joints_stop_each_by_itself() -> None:
    rng = np.random.default_rng(2)
    for state in some_states(rng, 50):
        together = plan_stop(*state)
        assert together.duration == together.ends[2].max()
        for joint in range(J):
            single = plan_stop(*(row[joint : joint + 1] for row in state))
            assert single.ends[2, 0] == together.ends[2, joint]
            times = rng.uniform(0.0, together.duration, 9)
            for row, column in zip(single.sample(times), together.sample(times), strict=True):
                np.testing.assert_array_equal(row[:, 0], column[:, joint])


def test_an_arm_that_stands_stays() -> None:
    q = np.linspace(-1.0, 1.0, J)
    for stop in (standstill(q), plan_stop(q, np.zeros(J), np.zeros(J), np.ones(J), np.ones(J))):
        assert stop.duration == 0.0
        for time in (0.0, 0.01, 5.0):
            position, speed, acceleration = stop.at(time)
            np.testing.assert_array_equal(position, q)
            assert not speed.any()
            assert not acceleration.any()


def test_nothing_given_is_changed() -> None:
    state = [np.full(J, value) for value in (0.1, -1.0, 0.5, 2.0, 30.0)]
    for row in state:
        row.flags.writeable = False
    stop = plan_stop(*state)
    stop.sample(np.linspace(0.0, 1.0, 9))
    assert stop.v[0] == -1.0
    assert replace(stop, q=stop.q + 1.0).at(0.3)[0][0] == pytest.approx(stop.at(0.3)[0][0] + 1.0)
