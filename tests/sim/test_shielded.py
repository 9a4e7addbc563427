import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from ideomotor.core.errors import UserError
from ideomotor.robot.arms.fr3 import FR3
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.control import InverseKinematics
from ideomotor.robot.proposal import Proposal
from ideomotor.robot.report import Report
from ideomotor.robot.robot import JointCommand
from ideomotor.sim.env import EnvConfig, TabletopEnv
from ideomotor.sim.shielded import ShieldOptions
from ideomotor.sim.tasks.pick import PICK
from ideomotor.sim.tasks.place_on import PLACE_ON
from ideomotor.sim.workers import Advance, EpisodeRequest, VectorEnv
from ideomotor.sim.world import SimulatedArm

TASKS = (PICK, PLACE_ON)
SPEED = np.array(
    [2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61]
)  # [rad/s], [rad/s^2], [rad/s^3] of the Panda, from its manual
ACCELERATION = np.array([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0])
JERK = np.array([7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0])
UP, DOWN = np.array([0.0, 0.0, 0.05, 0.0, 0.0, 0.0, 1.0]), np.array([0.0, 0.0, -0.05, 0.0, 0.0, 0.0, 1.0])
STILL = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


def shielded(arm=PANDA, **options) -> TabletopEnv:
    return TabletopEnv(EnvConfig(arm, TASKS, shield=ShieldOptions(**options)))


@pytest.fixture(scope="module")
def env() -> TabletopEnv:
    return shielded()


@pytest.fixture
def told(monkeypatch):
    """The joint positions that simulated arms are told, one for every physics step."""
    rows: list[np.ndarray] = []
    follow = SimulatedArm.follow

    def recorded(self, q_KJ, opening_K):
        rows.extend(q_KJ)
        follow(self, q_KJ, opening_K)

    monkeypatch.setattr(SimulatedArm, "follow", recorded)
    return rows


class Passing:
    """No shield at all: whatever is proposed is sent."""

    commanded = None
    latched = None

    def filter(self, state, proposal, now):
        return JointCommand(proposal.q, 1.0), Report("proposal")


def run_expert(env: TabletopEnv, seed: int, task: str = "pick") -> None:
    env.load(seed=seed, options={"task": task})
    while not env.done:
        env.advance(env.expert_action()[None])


def hand_height(env: TabletopEnv) -> float:
    """Measured height [m] of the lowest corner of the Panda's hand, a box of 50 x 200 x 66 mm."""
    geom = env.world.model.geom("hand").id
    half, turn = env.world.model.geom_size[geom], env.world.data.geom_xmat[geom].reshape(3, 3)
    return float(env.world.data.geom_xpos[geom][2] - np.abs(turn[2]) @ half)


def test_without_the_option_nothing_is_shielded():
    env = TabletopEnv(EnvConfig(PANDA, TASKS))
    assert env.shield_record() is None
    env.load(seed=1)
    env.advance(UP[None])
    assert env.shield_record() is None
    assert env.get_state().shield is None


def test_options_can_be_sent_to_another_process():
    config = EnvConfig(PANDA, TASKS, shield=ShieldOptions(tool_speed=0.25))
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("arm", [PANDA, FR3, UR5E], ids=lambda arm: arm.name)
def test_expert_succeeds_behind_the_shield_and_is_never_altered(arm):
    env = shielded(arm)
    for task in ("pick", "place_on"):
        run_expert(env, 12, task)
        record = env.shield_record()
        assert env.success
        assert (record.altered, record.stopped, record.latched) == (0, 0, None)
        assert record.ticks >= 10 * env.steps
        assert record.violations == record.reasons == {}


def test_what_the_arm_is_told_keeps_the_rated_limits_of_the_manual(env, told):
    run_expert(env, 3)
    assert env.success
    q_KJ = np.stack([np.array(PANDA.home), *told[4::5]])  # at the ends of the shield's ticks
    assert len(q_KJ) == env.shield_record().ticks + 1
    v_KJ = np.diff(q_KJ, axis=0) / 0.01
    a_KJ = np.diff(np.concatenate([np.zeros((1, 7)), v_KJ]), axis=0) / 0.01
    j_KJ = np.diff(np.concatenate([np.zeros((1, 7)), a_KJ]), axis=0) / 0.01
    ratios = [np.abs(rows).max(axis=0) / limit for rows, limit in ((v_KJ, SPEED), (a_KJ, ACCELERATION), (j_KJ, JERK))]
    assert max(ratio.max() for ratio in ratios) <= 1.0 + 1e-6
    assert ratios[1].max() > 0.9  # and is no slower than it has to be


def test_commands_of_one_tick_lie_on_a_line(env, told):
    env.load(seed=3)
    told.clear()
    env.advance(np.array([[0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]))
    rows = np.stack(told).reshape(-1, 5, 7)
    np.testing.assert_allclose(np.ptp(np.diff(rows, axis=1), axis=1), 0.0, atol=1e-12)


def test_a_step_lasts_until_the_arm_is_nearly_there_but_a_still_one_does_not(env):
    env.load(seed=3)
    begun = env.world.data.time
    env.advance(STILL[None])
    assert env.world.data.time - begun == pytest.approx(0.1)
    height, begun = env.world.tcp_pose()[2, 3], env.world.data.time
    env.advance(UP[None])
    assert 0.15 < env.world.data.time - begun < 0.4  # from rest, 5 cm at about 4 m/s^2 take 0.22 s
    assert env.world.tcp_pose()[2, 3] - height == pytest.approx(0.05, abs=0.008)


def test_without_waiting_every_step_lasts_as_long_as_an_action():
    env = shielded(wait=0.0)
    env.load(seed=3)
    begun = env.world.data.time
    env.advance(np.stack([DOWN, DOWN, DOWN]))
    assert env.world.data.time - begun == pytest.approx(0.3)
    assert np.linalg.norm(env.view().commanded - env.view().tcp) > 0.01  # and the arm lags


def test_an_arm_on_its_way_loses_nothing_of_what_it_was_told(env):
    env.load(seed=3)
    before = env.view().commanded
    env.advance(np.stack([UP, UP, UP]))
    np.testing.assert_allclose(env.view().commanded - before, [0.0, 0.0, 0.15], atol=1e-9)


def test_a_tilted_hand_is_held_above_the_table_and_comes_away_at_once(env):
    env.load(seed=3)
    tilt = np.array([0.0, 0.0, 0.0, 0.3, 0.0, 0.0, 1.0])
    env.advance(np.concatenate([np.tile(tilt, (3, 1)), np.tile(DOWN, (14, 1))]))
    record = env.shield_record()
    assert set(record.reasons) & {"collision", "workspace"}
    assert record.violations == {}
    assert "table" not in record.touched
    assert hand_height(env) > 0.01
    assert (
        np.linalg.norm(env.view().commanded - env.view().tcp) < 0.03
    )  # the commanded pose has not run on into the table
    height = hand_height(env)
    env.advance(np.stack([UP, UP]))
    assert hand_height(env) > height + 0.05


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300, -1e300])
def test_numbers_that_are_none_stop_the_arm_and_break_nothing(env, told, bad):
    env.load(seed=3)
    arm, reports = env.shielded, []
    env.advance(UP[None])
    for tick in range(40):
        q = arm.arm.last_q + 0.1
        q[tick % 7] = bad
        reports.append(arm.propose(Proposal(q if tick % 2 else np.full(7, bad), arm.time, arm.ticks)))
    assert np.isfinite(np.stack(told)).all()
    record = env.shield_record()
    assert record.violations == {}
    assert record.altered >= 40
    if not np.isfinite(bad):
        assert reports[-1].how == "hold"
        assert record.reasons["nonfinite"] == 40


def test_things_that_are_no_proposals_stop_the_arm(env):
    env.load(seed=3)
    reports = [env.shielded.propose(thing) for thing in (None, "home", np.zeros(7), [0.0] * 7)]
    assert all(report.how == "hold" for report in reports)
    assert env.shield_record().reasons == {"shape": 4}


def test_the_checker_finds_what_a_missing_shield_lets_through(env):
    env.load(seed=3)
    arm = env.shielded
    arm.shield = Passing()
    arm.propose(Proposal(arm.arm.last_q + 0.1, arm.time, arm.ticks))
    violations = env.shield_record().violations
    assert {"velocity", "acceleration", "jerk"} <= violations.keys()
    assert violations["velocity"] == 7  # 0.1 rad in 10 ms are 10 rad/s in every joint
    assert all(example.startswith("tick 0: ") for example in env.shield_record().examples)


def test_a_hand_on_the_table_is_found_by_checker_and_simulation(env):
    env.load(seed=3)
    arm, world, pose = env.shielded, env.world, np.eye(4)
    pose[:3, :3] = [
        [0.0, 0.0, 1.0],
        [1.0, 0.0, 0.0],
        [0.0, 1.0, 0.0],
    ]  # the tool points away, the hand's 200 mm stand upright
    pose[:3, 3] = 0.5, 0.0, 0.09  # so that it reaches 10 mm into the table; the fingers are well above
    q = np.array(PANDA.home)
    for _ in range(40):
        q = InverseKinematics(PANDA).solve(q, pose, 10.0)
    begin, s = arm.arm.last_q, np.linspace(0.0, 1.0, 300)
    arm.shield = Passing()
    for share in s**3 * (10.0 - 15.0 * s + 6.0 * s * s):  # slow and smooth: nothing else is wrong with it
        arm.propose(Proposal(begin + share * (q - begin), arm.time, arm.ticks))
    record = env.shield_record()
    assert record.violations.keys() == {"obstacle", "touched_table"}
    assert any("hand, table" in example for example in record.examples)
    assert record.touched["table"] == record.violations["touched_table"] > 0
    assert world.arm_contacts() > 0


def test_a_cap_of_the_tool_s_speed_is_kept(told):
    env = shielded(tool_speed=0.25)
    run_expert(env, 3)
    record = env.shield_record()
    assert record.violations == {}
    probe = TabletopEnv(EnvConfig(PANDA, TASKS))  # MuJoCo's own kinematics
    probe.load(seed=3)
    places = []
    for q in told[4::5]:
        probe.world.set_arm(q, 1.0)
        probe.world.refresh()
        places.append(probe.world.tcp_pose()[:3, 3])
    speeds = np.linalg.norm(np.diff(places, axis=0), axis=1) / 0.01
    assert 0.2 < speeds.max() <= 0.25 * (1.0 + 1e-6)


def test_a_restored_environment_continues_bit_for_bit(env):
    env.load(seed=9, options={"task": "place_on"})
    env.advance(np.tile([0.01, -0.02, -0.04, 0.0, 0.0, 0.1, 1.0], (6, 1)))
    saved = env.get_state()
    actions = np.random.default_rng(0).uniform(
        [-0.05] * 3 + [-0.1, -0.1, -0.3, 0], [0.05] * 3 + [0.1, 0.1, 0.3, 1], (8, 7)
    )
    env.advance(actions)
    expected, record, time = env.state(), env.shield_record(), env.world.data.time
    env.advance(actions[::-1])
    for _ in range(2):
        env.set_state(saved)
        env.advance(actions)
        np.testing.assert_array_equal(env.state(), expected)
        assert env.shield_record() == record
        assert env.world.data.time == time


def test_running_ahead_leaves_no_trace(env):
    results = []
    for ahead in (0, 6):
        env.load(seed=5, options={"task": "place_on"})
        chunks = []
        for _ in range(4):
            chunks.append(env.expert_chunk(ahead) if ahead else None)
            env.advance(env.expert_action()[None])
        results.append((env.state(), env.world.data.time, env.shield_record()))
        if ahead:  # what it foretold is what came
            np.testing.assert_allclose(chunks[0][1:4], [chunk[0] for chunk in chunks[1:]], atol=1e-9)
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]


def test_a_random_state_begins_behind_a_fresh_shield(env):
    env.load(seed=3)
    env.advance(UP[None])
    env.randomize_state(np.random.default_rng(4))
    assert env.shield_record().ticks == 0
    env.advance(np.stack([UP, STILL]))
    record = env.shield_record()
    assert record.violations == {}
    assert record.ticks >= 20


def test_a_latched_arm_is_held_until_the_end(env):
    env.load(seed=3)
    world = env.world
    env.advance(STILL[None])
    world.data.qpos[3] += 0.2  # the arm is not where it was told to be
    env.advance(np.stack([UP, UP]))
    place = env.shielded.arm.last_q.copy()
    env.advance(np.stack([DOWN, UP, STILL]))
    record = env.shield_record()
    assert record.latched == "tracking_error"
    assert record.reasons["latched"] == record.stopped > 30
    np.testing.assert_array_equal(env.shielded.arm.last_q, place)


@pytest.mark.parametrize("wait", [-0.1, 60.0, np.nan])
def test_impossible_waits_are_refused(wait):
    with pytest.raises(UserError, match="wait is"):
        ShieldOptions(wait=wait)


def test_a_shield_that_never_saw_the_arm_is_a_crash(env):
    env.load(seed=3)
    env.shielded.shield = SimpleNamespace(filter=lambda *_: (None, Report("none")))
    with pytest.raises(RuntimeError, match="valid state"):
        env.advance(UP[None])


def test_a_process_tells_the_record_at_the_end_of_an_episode():
    config = EnvConfig(PANDA, (PICK,), horizon=3, shield=ShieldOptions())
    with VectorEnv(config, 1) as envs:
        envs.begin(0, EpisodeRequest(7, "pick"))
        first = envs.advance({0: np.tile(UP, (2, 1))})[0]
        last = envs.advance({0: np.tile(UP, (2, 1))})[0]
    assert isinstance(first, Advance)
    assert isinstance(last, Advance)
    assert first.shield is None
    assert last.done
    assert last.shield is not None
    assert last.shield.ticks >= 30
    assert last.shield.violations == {}
