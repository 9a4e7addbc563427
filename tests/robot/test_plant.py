"""A simulated arm behind the shield. Expected values: closed forms, the arm's rated limits, the checker."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ideomotor.robot.adversaries import CELL
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.body import body_of
from ideomotor.robot.checker import Checker
from ideomotor.robot.kinematics import forward
from ideomotor.robot.limits import limits_of
from ideomotor.robot.surroundings import Margins

TOOLS = Path(__file__).parents[2] / "tools"
HOME = np.array(PANDA.home)
STILL = np.zeros(7)
LIMITED, FREE = (0.9, 0.5, 0.02, 0.7, 0.02), (0.9, 0.5, 0.5, 0.7, 0.7)  # shares of speed, acceleration, jerk; of stops
ROOM = Margins(obstacle=0.046, self_collision=0.007, bounds=0.005)  # what makes up for the tracking error


@pytest.fixture(scope="module")
def tool() -> Iterator[Any]:
    sys.path.insert(0, str(TOOLS))
    try:
        yield importlib.import_module("shield_plant")
    finally:
        sys.path.remove(str(TOOLS))


def total(tool: Any, case: Any, blocks: range, seed: int = 0) -> Any:
    tally = tool.Tally()
    for index in blocks:
        tally.add(tool.run_block(case, seed, index))
    return tally


def turn(tool: Any, case: Any, speed: np.ndarray, ticks: int) -> Any:
    """Command a steady speed, and return what was measured in the last tick."""
    plant, log = tool.Plant(case), tool.Log()
    plant.told = HOME, speed
    plant.data.qvel[:] = speed
    for _ in range(ticks):
        log = tool.Log()
        plant.follow(plant.tell(plant.told[0] + 0.01 * speed, speed), log)
    return log


# ------------------------------------------------------------------------------------------------------------- the plant


def test_the_plant_is_the_arm_of_the_table_and_carries_its_own_weight(tool: Any) -> None:
    plant, log = tool.Plant(tool.Case("")), tool.Log()
    assert plant.data.site("tcp").xpos == pytest.approx(forward(PANDA, HOME)[:3, 3], abs=1e-9)
    assert plant.model.body_mass.sum() == pytest.approx(1.0 + sum(PANDA.link_mass) + 0.73 + 2 * 0.05)
    assert not plant.model.body_gravcomp.any()
    for _ in range(50):
        plant.follow(plant.tell(HOME, STILL), log)
    assert np.abs(plant.data.qpos - HOME).max() < 1e-9
    assert log.saturated == log.rate_limited == 0


def test_an_arm_that_is_too_weak_falls(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tool.ARMS, "weak", replace(PANDA, tau_max=(87.0, 5.0, *PANDA.tau_max[2:])))
    plant, log = tool.Plant(tool.Case("", "weak")), tool.Log()  # its second joint carries 11 N m at home
    for _ in range(50):
        plant.follow(plant.tell(HOME, STILL), log)
    assert plant.data.qpos[1] > HOME[1] + 0.1
    assert log.saturated > 490


def test_torques_change_by_1_nm_in_a_millisecond_where_their_rate_is_limited(tool: Any) -> None:
    for limited in (True, False):
        plant = tool.Plant(tool.Case("", rate_limited=limited))
        taus = [plant.tau]
        for now in plant.tell(HOME + 0.05, STILL):
            plant.follow(now[None], tool.Log())
            taus.append(plant.tau)
        steps = np.abs(np.diff(taus, axis=0))
        assert bool(steps.max() <= 1.0 + 1e-9) is limited
        assert steps.max() > 0.99


def test_the_way_between_commands_is_their_cubic(tool: Any) -> None:
    c = np.random.default_rng(0).normal(size=(4, 7))
    plant, t, dt = tool.Plant(tool.Case("")), np.arange(10)[:, None] * 0.001, 0.01
    plant.told = c[0], c[1]
    end, speed = c[0] + dt * (c[1] + dt * (c[2] + dt * c[3])), c[1] + dt * (2 * c[2] + dt * 3 * c[3])
    way = plant.tell(end, speed)
    np.testing.assert_allclose(way[:, 0], c[0] + t * (c[1] + t * (c[2] + t * c[3])), atol=1e-12)
    np.testing.assert_allclose(way[:, 1], c[1] + t * (2 * c[2] + t * 3 * c[3]), atol=1e-11)
    np.testing.assert_allclose(way[:, 2], 2 * c[2] + 6 * c[3] * t, atol=1e-8)
    np.testing.assert_array_equal(plant.tell(end, speed)[0, 0], end)


def test_a_steady_speed_lags_by_what_nobody_feeds_forward(tool: Any) -> None:
    speed = STILL.copy()
    speed[6] = 1.0  # the last joint's inertia is the same in every pose
    inertia = 0.10328896  # [kg m^2] of the last joint: its entry in MuJoCo's mass matrix
    damping, kp, kv = 1.0, 0.10 * 50.0**2, 2 * 0.10 * 50.0  # the table's
    cases = {
        damping / (900.0 * inertia): tool.ComputedTorque(),
        0.0: tool.ComputedTorque(friction=True),
        (kv + damping) / kp: tool.PositionServo(),
    }
    for expected, servo in cases.items():
        log = turn(tool, tool.Case("", servo=servo), speed, 100)
        lag = log.way[-1][-1, 0] - log.q[-1]
        assert lag[6] == pytest.approx(expected, rel=2e-3, abs=1e-5)


# ------------------------------------------------------------------------------------------------------- what is measured


def test_the_meter_measures_what_was_put_in(tool: Any) -> None:
    body, limits = body_of(PANDA), limits_of(PANDA)
    meter, tally, log = tool.Meter(PANDA, body, CELL), tool.Tally(), tool.Log()
    q = HOME + np.linspace(0.0, 0.9, 40)[:, None] * np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    off = np.array([0.0101, 0.0, 0.0, 0.0, 0.0, -0.0203, 0.0])
    speed = np.array([0.5, 0.0, 0.0, -0.8, 0.0, 0.0, 0.1]) * limits.speed
    log.q, log.v = list(q + off), [speed] * 40
    log.way = [np.stack([q, np.broadcast_to(0.25 * speed, q.shape), 0.0 * q], axis=1)]
    meter.measure(log, "someone", tally)
    assert tally.speed == pytest.approx([0.5, 0.0, 0.0, 0.8, 0.0, 0.0, 0.1])
    assert tally.told_speed == pytest.approx([0.125, 0.0, 0.0, 0.2, 0.0, 0.0, 0.025])
    assert tally.over == pytest.approx(-0.2 * limits.speed[3])
    assert tally.fastest == {"someone": pytest.approx(0.8)}
    assert tally.error == pytest.approx(np.abs(off))
    assert tally.error_at(0.99) == pytest.approx([0.0102, 2e-4, 2e-4, 2e-4, 2e-4, 0.0204, 2e-4])
    assert tally.beyond == pytest.approx((np.array(limits.q_min) - q - off).max())
    assert 0.0203 * 0.088 < tally.deviation <= tally.need  # joint 6 alone moves joint 7 by as much as it is off
    checker = Checker(PANDA, limits, body.capsules, body.self_pairs, CELL, 0.001, places=1)
    exact = checker.clearances(q[::2] + off)
    assert exact.obstacle.min() < 0.15
    assert tally.clearance["obstacle"] == pytest.approx(exact.obstacle.min(), abs=1e-6)
    assert tally.clearance["bounds"] == pytest.approx(exact.workspace.min(), abs=1e-6)
    assert tally.clearance["obstacle"] != pytest.approx(tally.told_clearance["obstacle"], abs=1e-4)


def test_tallies_add_up(tool: Any) -> None:
    a = tool.Tally(speed=[0.5, 0.7], error=[0.1, 0.2], seconds=1.0, clearance={"obstacle": 0.04}, over=-0.1, need=0.3)
    b = tool.Tally(speed=[0.6, 0.1], error=[0.3, 0.1], seconds=2.0, clearance={"obstacle": 0.03}, over=-0.2, need=0.1)
    both = tool.Tally()
    both.add(a)
    both.add(b)
    assert (both.speed, both.error, both.seconds, both.over, both.need) == ([0.6, 0.7], [0.3, 0.2], 3.0, -0.1, 0.3)
    assert both.clearance == {"obstacle": 0.03}


def test_blocks_are_run_once_and_a_line_that_was_cut_off_again(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, runs = tmp_path / "plant.jsonl", list[int]()

    def block(case: Any, seed: int, index: int) -> Any:
        runs.append(index)
        return tool.Tally(seconds=10.0 * index, speed=[0.1 * index], errors=[], latched=tool.Counter({"x": 1}))

    monkeypatch.setattr(tool, "run_block", block)
    cases = (tool.Case("one"), tool.Case("two"))
    first = tool.Runner(0.5, 0, 1, file).run(cases)
    assert runs == [0, 1, 2, 0, 1, 2]
    assert first[0].seconds == 30.0
    assert tool.Runner(0.5, 0, 1, file).run(cases) == first
    assert len(runs) == 6
    file.write_text(file.read_text()[:-20])
    assert tool.Runner(0.5, 0, 1, file).run(cases) == first
    assert runs[6:] == [2]
    tool.Runner(0.5, 1, 1, file).run(cases[:1])  # another seed
    assert runs[7:] == [0, 1, 2]


# ------------------------------------------------------------------------------------------------------------ what holds


def assert_holds(tool: Any, case: Any, tally: Any) -> None:
    assert max(tally.speed) <= 1.0
    assert tally.beyond <= 0.0
    assert max(tool.shortfall(case, tally).values()) <= 0.0, tally.clearance
    assert tally.runaways == 0
    assert not tally.latched
    assert max(tally.told_speed) <= 0.902  # the cubic between two commands adds next to nothing


@pytest.mark.parametrize(("shares", "rate"), [(LIMITED, True), (FREE, False)])
def test_an_attacked_arm_keeps_rated_speeds_and_distances(
    tool: Any, monkeypatch: pytest.MonkeyPatch, shares: tuple[float, ...], rate: bool
) -> None:
    monkeypatch.setattr(tool, "STRETCH_S", 1.25)  # all eight adversaries
    case = replace(tool.at("panda", shares, rate=rate), told_margins=ROOM)
    tally = total(tool, case, range(1))
    assert_holds(tool, case, tally)
    assert len(tally.fastest) == 8
    assert tally.seconds == pytest.approx(10.0)
    assert tally.accepted > 0.5 * tally.ticks
    assert tally.tool_path_m > 3.0
    assert max(tally.speed) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize(("shares", "rate"), [(LIMITED, True), (FREE, False)])
def test_an_arm_attacked_for_ten_minutes_keeps_rated_speeds_and_distances(
    tool: Any, shares: tuple[float, ...], rate: bool
) -> None:
    case = replace(tool.at("panda", shares, rate=rate), told_margins=ROOM)
    assert_holds(tool, case, total(tool, case, range(60), seed=2))


def test_distances_are_missed_by_a_little_where_there_is_no_room_for_the_tracking_error(
    tool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "BLOCK_S", 2.0)
    case = tool.at("panda", FREE, rate=False)
    push = range(12, 13)
    assert 0.0 < max(tool.shortfall(case, total(tool, case, push)).values()) < 0.006
    room = replace(case, told_margins=ROOM)
    assert max(tool.shortfall(room, total(tool, room, push)).values()) <= 0.0


def test_a_servo_that_lags_is_stopped_and_reset_time_and_again(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "BLOCK_S", 4.0)
    servo, _, _ = tool.comparison("panda")
    tally = total(tool, servo, range(1))
    assert tally.latched["tracking_error"] >= 2
    assert tally.latched["tracking_error"] - tally.resets in (0, 1)
    assert 0.1 < max(tally.error) < 0.1 + 2 * 0.9 * 0.01 * 2.61


def test_jerks_that_torques_cannot_follow_make_the_arm_too_fast(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "BLOCK_S", 4.0)
    _, limited, _ = tool.comparison("panda")  # the shield's own shares, with torques that change by 1000 N m/s
    tally = total(tool, limited, range(1))
    assert max(tally.speed) > 1.1
    assert tally.rate_limited > 0.3 * tally.steps
    assert max(tally.told_speed) <= 0.902


def test_an_arm_that_runs_into_something_unknown_is_stopped_and_held(tool: Any) -> None:
    _, _, free = tool.comparison("panda")
    blocked = tool.run_into_a_wall(free)
    error, tripped = np.array(blocked.error), blocked.tripped
    assert (error[:tripped] <= 0.1).all()
    tick = 0.9 * 2.175 * 0.01  # [rad] the most that a command goes ahead in a tick
    assert 0.1 < error[tripped] <= 0.1 + tick
    assert all(blocked.latched[tripped:])
    assert blocked.push > 20.0  # it did touch
    moves = np.abs(np.diff(blocked.told, axis=0)).max(axis=1)
    assert moves[tripped] > 0.0  # the stop
    assert not moves[tripped + 15 :].any()  # 0.147 s from rated speed at 15 rad/s^2 and 7500 rad/s^3
    assert np.abs(blocked.told[-1] - blocked.told[tripped]).max() <= 0.160
