"""Expected values: one joint in front of a wall by hand, scipy's SLSQP, differences of distances, the arm's Jacobian."""

import math
from typing import Any

import daqp
import numpy as np
import pytest
from scipy.optimize import minimize

from ideomotor.robot import velocity_qp
from ideomotor.robot.adversaries import CELL
from ideomotor.robot.arm import Arm, Vector3
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.body import Body, Capsule, body_of
from ideomotor.robot.clearance import Clearance
from ideomotor.robot.kinematics import Chain, chain, jacobian, joint_frames
from ideomotor.robot.limits import Limits
from ideomotor.robot.surroundings import HalfSpace, Margins, Obstacle, Surroundings
from ideomotor.robot.velocity_qp import Wish, barrier_rows, joint_wish, solve, tool_wish

# ------------------------------------------------------------------------------------- one joint in front of a wall

RADIUS, MARGIN = 0.05, 0.04  # [m]


def before_a_wall(gap: float, side: Vector3 = (0.0, -1.0, 0.0)) -> Clearance:
    """A ball at (1, 0, 0) that joint 2 moves along y, and a wall whose margin begins `gap` further on."""
    low, high, speed, acceleration, jerk, torque = ((x,) * 2 for x in (-3.1, 3.1, 2.0, 10.0, 1000.0, 10.0))
    limits = Limits(low, high, speed, acceleration, jerk, torque, None, 1.0, 1.0, 3.0, ("made for this test",))
    ball = Capsule("ball", 2, (1.0, 0.0, 0.0), (1.0, 0.0, 0.0), RADIUS)
    body = Body("spun", Chain(np.eye(4), np.stack([np.eye(4)] * 2), np.eye(4)), (ball,), limits, ())
    wall = Obstacle("wall", HalfSpace(side, -(gap + RADIUS + MARGIN)))
    return Clearance(body, Surroundings(obstacles=(wall,), margins=Margins(obstacle=MARGIN)))


def second_joint(clearance: Clearance, wanted: float, low: float = -9.0, high: float = 9.0) -> float:
    """Return the speed of joint 2 where joint 1 stands."""
    bounds = np.array([0.0, low]), np.array([0.0, high])
    v = solve(clearance, np.zeros(2), Wish(np.eye(2), np.array([0.0, wanted])), *bounds)
    assert v is not None
    assert v[0] == pytest.approx(0.0, abs=1e-12)
    return float(v[1])


@pytest.mark.parametrize("gap", [0.0, 0.003, 0.004, 0.01, 0.05, 0.1, 0.149])
def test_the_speed_of_approach_is_at_most_what_the_gap_allows(gap: float) -> None:
    h = max(gap - 0.004, 0.0)
    assert second_joint(before_a_wall(gap), 5.0) == pytest.approx(min(3.0 * h, math.sqrt(2.0 * 2.0 * h)), abs=1e-9)
    assert second_joint(before_a_wall(gap), -5.0) == pytest.approx(-5.0 / 1.001)  # away from it is free; lambda is 1e-3
    assert second_joint(before_a_wall(gap, (0.0, 1.0, 0.0)), -5.0) == pytest.approx(-3.0 * h, abs=1e-9)


def test_inside_the_margin_nothing_comes_nearer_and_standing_is_allowed() -> None:
    assert second_joint(before_a_wall(-0.02), 5.0) == pytest.approx(0.0, abs=1e-12)
    assert second_joint(before_a_wall(-0.02), -1.0) == pytest.approx(-1.0 / 1.001)


def test_far_away_the_root_is_what_binds(monkeypatch: Any) -> None:
    """At 1 m and 2 m/s^2 an arm stops from 2 m/s; the linear part alone would allow 3."""
    monkeypatch.setattr(velocity_qp, "WITHIN", 5.0)
    assert second_joint(before_a_wall(1.004), 7.0) == pytest.approx(2.0)
    _, most = barrier_rows(before_a_wall(1.004), joint_frames(np_chain(), np.zeros(2)))
    assert most == pytest.approx([2.0])


def np_chain() -> Chain:
    return Chain(np.eye(4), np.stack([np.eye(4)] * 2), np.eye(4))


def test_what_is_far_has_no_row() -> None:
    rows, most = barrier_rows(before_a_wall(0.16), joint_frames(np_chain(), np.zeros(2)))
    assert rows.shape == (0, 2)
    assert most.shape == (0,)
    assert second_joint(before_a_wall(0.16), 7.0) == pytest.approx(7.0 / 1.001)


def test_speed_limits_hold_beside_the_wall() -> None:
    assert second_joint(before_a_wall(0.1), 5.0, high=0.1) == pytest.approx(0.1)
    assert second_joint(before_a_wall(0.1), -5.0, low=-0.2) == pytest.approx(-0.2)
    assert second_joint(before_a_wall(0.1), -5.0, low=0.05) == pytest.approx(0.05)


def test_a_row_is_the_speed_of_approach_of_both_joints() -> None:
    rows, most = barrier_rows(before_a_wall(0.104), joint_frames(np_chain(), np.zeros(2)))
    np.testing.assert_allclose(rows, [[1.0, 1.0]], atol=1e-12)  # both turn the ball at 1 m, towards +y
    np.testing.assert_allclose(most, [0.3], atol=1e-12)
    slid = solve(
        before_a_wall(0.004), np.zeros(2), Wish(np.eye(2), np.array([1.0, 1.0])), *np.array([[-9.0] * 2, [9.0] * 2])
    )
    assert slid is not None
    assert slid.sum() == pytest.approx(0.0, abs=1e-9)


# ------------------------------------------------------------------------------------------------- no answer is no speed


def test_a_program_without_a_solution_has_none() -> None:
    wish = Wish(np.eye(2), np.ones(2))
    low, high = np.array([-1.0, 0.5]), np.ones(2)
    assert solve(before_a_wall(0.0), np.zeros(2), wish, np.array([0.0, 0.5]), high) is None  # has to approach
    assert solve(before_a_wall(0.5), np.zeros(2), wish, high, low) is None  # low above high
    assert solve(before_a_wall(0.0), np.zeros(2), wish, np.array([-1.0, 0.5]), high) is not None  # joint 1 makes up


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_have_no_solution(value: float) -> None:
    near, ones = before_a_wall(0.05), np.ones(2)
    bad = np.array([0.0, value])
    assert solve(near, np.zeros(2), Wish(np.eye(2), bad), -ones, ones) is None
    assert solve(near, np.zeros(2), Wish(np.diag(bad), ones), -ones, ones) is None
    if math.isnan(value):
        assert solve(near, np.zeros(2), Wish(np.eye(2), ones), -ones, bad) is None
        assert solve(near, np.zeros(2), Wish(np.eye(2), ones), bad, ones) is None


@pytest.mark.parametrize(
    "answer",
    [
        (np.array([math.nan, 0.0]), 0.0, 1, {}),
        (np.array([0.0, math.inf]), 0.0, 1, {}),
        (np.array([0.1, 0.1]), 0.0, -1, {}),
        (np.array([0.1, 0.1]), 0.0, 0, {}),
        (np.array([0.1]), 0.0, 1, {}),
    ],
)
def test_what_a_solver_says_is_looked_at(answer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(daqp, "solve", lambda *_: answer)
    assert solve(before_a_wall(0.05), np.zeros(2), Wish(np.eye(2), np.ones(2)), -np.ones(2), np.ones(2)) is None


# ------------------------------------------------------------------------------------------------ whole arms, at random


def near_things(arm: Arm, rng: np.random.Generator, count: int) -> list[tuple[Clearance, np.ndarray]]:
    clearance = Clearance(body_of(arm), CELL)
    found: list[tuple[Clearance, np.ndarray]] = []
    while len(found) < count:
        q = np.array(arm.home) + 0.6 * (rng.uniform(arm.q_min, arm.q_max) - arm.home)
        if len(clearance.nearest(joint_frames(clearance.body.chain, q), velocity_qp.WITHIN).distance) >= 2:
            found.append((clearance, q))
    return found


@pytest.mark.parametrize("arm", [PANDA, UR5E], ids=lambda arm: arm.name)
def test_no_other_speeds_come_nearer_to_the_wish(arm: Arm) -> None:
    """Against scipy's SLSQP: what it finds is no better, and ours keeps all rows."""
    rng = np.random.default_rng(1)
    joints, bound, compared = len(arm.home), 0, 0
    for clearance, q in near_things(arm, rng, 25):
        frames = joint_frames(clearance.body.chain, q)
        wish = Wish(np.eye(joints), rng.normal(0.0, 3.0, joints))
        if rng.random() < 0.5:
            wish = tool_wish(frames, clearance.body.chain.last_from_tcp, rng.normal(0.0, 0.3, 6))
        high, low = rng.uniform(0.1, 2.0, joints), -rng.uniform(0.1, 2.0, joints)
        rows, most = barrier_rows(clearance, frames)
        v = solve(clearance, q, wish, low, high)
        assert v is not None
        assert (v <= high + 1e-9).all()
        assert (v >= low - 1e-9).all()
        assert (rows @ v <= most + 1e-9).all()

        def cost(x: np.ndarray, wish: Wish = wish) -> float:
            miss = wish.matrix @ x - wish.value
            return float(0.5 * miss @ miss + 0.5e-3 * x @ x)

        theirs: Any = minimize(
            cost, np.zeros(joints), method="SLSQP", bounds=list(zip(low, high, strict=True)),
            constraints=[{"type": "ineq", "fun": lambda x, r=rows, m=most: m - r @ x}], options={"ftol": 1e-12, "maxiter": 300},
        )  # fmt: skip
        if theirs.success and (rows @ theirs.x <= most + 1e-9).all():
            assert cost(v) <= cost(theirs.x) + 1e-6 * (1.0 + cost(theirs.x))
            compared += 1
        bound += bool((rows @ v > most - 1e-9).any())
    assert compared > 15
    assert bound > 5


@pytest.mark.parametrize("arm", [PANDA, UR5E], ids=lambda arm: arm.name)
def test_rows_say_how_fast_distances_fall(arm: Arm) -> None:
    rng = np.random.default_rng(2)
    compared = 0
    for clearance, q in near_things(arm, rng, 20):
        matrices = clearance.body.chain
        rows, _ = barrier_rows(clearance, joint_frames(matrices, q))
        here = clearance.nearest(joint_frames(matrices, q), velocity_qp.WITHIN).distance
        for _ in range(3):
            v, h = rng.normal(0.0, 1.0, len(q)), 1e-6
            ahead, behind = (
                clearance.nearest(joint_frames(matrices, q + s * v), velocity_qp.WITHIN).distance for s in (h, -h)
            )
            if not len(ahead) == len(behind) == len(here):
                continue
            smooth = (np.abs(ahead + behind - 2 * here) / h < 1e-3) & (here > -0.03)
            np.testing.assert_allclose((behind - ahead)[smooth] / (2 * h), (rows @ v)[smooth], atol=5e-5)
            compared += int(smooth.sum())
    assert compared > 100


@pytest.mark.parametrize("arm", [PANDA, UR5E], ids=lambda arm: arm.name)
def test_standing_still_is_always_allowed_where_the_bounds_allow_it(arm: Arm) -> None:
    rng = np.random.default_rng(3)
    clearance = Clearance(body_of(arm), CELL)
    for _ in range(40):
        q = rng.uniform(arm.q_min, arm.q_max)  # also deep inside something
        _, most = barrier_rows(clearance, joint_frames(clearance.body.chain, q))
        assert (most >= 0.0).all()
        assert solve(clearance, q, joint_wish(q, np.array(arm.home)), -np.ones(len(q)), np.zeros(len(q))) is not None


def test_a_wish_for_joints_is_gain_times_error() -> None:
    q, goal = np.array([0.1, -0.2, 0.3]), np.array([0.2, -0.2, 0.0])
    wish = joint_wish(q, goal)
    np.testing.assert_array_equal(wish.matrix, np.eye(3))
    np.testing.assert_allclose(wish.value, [0.8, 0.0, -2.4])  # 8 / s


@pytest.mark.parametrize("arm", [PANDA, UR5E], ids=lambda arm: arm.name)
def test_a_wish_for_the_tool_is_the_jacobian_with_turns_at_0_3_m_per_rad(arm: Arm) -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        q, error = rng.uniform(arm.q_min, arm.q_max), rng.normal(0.0, 1.0, 6)
        wish = tool_wish(joint_frames(chain(arm), q), chain(arm).last_from_tcp, error)
        weights = np.array([1.0, 1.0, 1.0, 0.3, 0.3, 0.3])
        np.testing.assert_allclose(wish.matrix, weights[:, None] * jacobian(arm, q), atol=1e-12)
        np.testing.assert_allclose(wish.value, 8.0 * weights * error)
