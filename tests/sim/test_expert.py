import math

import numpy as np
import pytest

from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.sim.env import EnvConfig, TabletopEnv
from ideomotor.sim.expert import grip_of
from ideomotor.sim.task import Goal
from ideomotor.sim.tasks.pick import PICK
from ideomotor.sim.tasks.place_on import PLACE_ON

TASKS = (PICK, PLACE_ON)


@pytest.fixture(scope="module")
def env() -> TabletopEnv:
    return TabletopEnv(EnvConfig(PANDA, TASKS))


def begin(env: TabletopEnv, seed: int, task: str) -> None:
    """Reset without pictures."""
    env.load(seed=seed, options={"task": task})


def _target_shape(env: TabletopEnv, seed: int) -> str:
    begin(env, seed, "pick")
    return env.scene.objects[env.goal.target].kind.shape.name


def run(env: TabletopEnv, noise: float = 0.0, seed: int = 0) -> bool:
    """Let the expert act to the end; half of its actions carry noise, as a share of their range."""
    rng = np.random.default_rng(seed)
    while not env.done:
        action = env.expert_action()
        if noise and rng.random() < 0.5:
            action[:3] += noise * 0.05 * rng.uniform(-1, 1, 3)
            action[5] += noise * 0.15 * rng.uniform(-1, 1)
        env.advance(action[None])
    return env.success


@pytest.mark.parametrize("task", ["pick", "place_on"])
def test_the_expert_succeeds_in_about_twenty_steps(env: TabletopEnv, task: str):
    for seed in range(6):
        begin(env, seed, task)
        assert run(env), f"seed {seed}"
        assert env.steps <= 35


@pytest.mark.parametrize("task", ["pick", "place_on"])
def test_the_expert_recovers_from_noise(env: TabletopEnv, task: str):
    for seed in range(6):
        begin(env, seed, task)
        assert run(env, noise=0.3, seed=seed), f"seed {seed}"


@pytest.mark.parametrize("task", ["pick", "place_on"])
def test_another_arm_needs_no_other_code(task: str):
    env = TabletopEnv(EnvConfig(UR5E, TASKS))
    for seed in range(3):
        begin(env, seed, task)
        assert run(env), f"seed {seed}"


def test_actions_stay_within_their_ranges(env: TabletopEnv):
    begin(env, 3, "place_on")
    while not env.done:
        action = env.expert_action()
        assert np.linalg.norm(action[:3]) <= 0.05 + 1e-9
        assert abs(action[5]) <= 0.3
        assert action[3] == action[4] == 0.0
        assert action[6] in (0.0, 1.0)
        env.advance(action[None])


def test_the_expert_picks_up_again_what_was_dropped_or_moved(env: TabletopEnv):
    begin(env, 1, "pick")
    while not env.view().held(env.goal.target):
        env.advance(env.expert_action()[None])
    env.advance(np.array([[0.0, 0.0, 0.05, 0.0, 0.0, 0.0, 1.0]]))  # lets go while rising
    pose = env.world.object_pose(env.goal.target)
    pose[:2] += (0.02, -0.03)
    env.world.set_object(env.goal.target, pose)
    env.world.refresh()
    assert not env.success
    assert run(env)


def test_a_wrong_object_is_put_back_first(env: TabletopEnv):
    begin(env, 2, "pick")
    right = env.goal.target
    wrong = next(i for i in env.scene.graspable if i != right)
    while not env.view().position[wrong, 2] > 0.12:
        env.advance(PICK.act(env.view(), Goal("pick", wrong))[None])
    assert env.view().held(wrong)
    assert run(env)
    view = env.view()
    assert view.held(right)
    assert view.position[wrong, 2] == pytest.approx(view.kinds[wrong].shape.rest_z, abs=0.01)  # not thrown: it stands


@pytest.mark.parametrize("shape", ["can", "bar", "cube"])
def test_an_object_that_fell_over_is_picked_up(env: TabletopEnv, shape: str):
    begin(env, next(s for s in range(100) if _target_shape(env, s) == shape), "pick")
    target = env.goal.target
    pose = env.world.object_pose(target)
    pose[2] = 0.05
    pose[3:] = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)  # turned by a quarter about x
    env.world.set_object(target, pose)
    env.world.refresh()
    env.advance(np.array([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]] * 3))  # it settles
    assert run(env)


def test_a_closed_gripper_low_among_objects_is_no_obstacle(env: TabletopEnv):
    begin(env, 4, "pick")
    target = env.view().position[env.goal.target]
    for _ in range(12):  # down beside the target, closed
        way = target + (0.0, 0.07, 0.01) - env.view().commanded
        env.advance(np.array([[*np.clip(way, -0.05, 0.05), 0.0, 0.0, 0.0, 0.0]]))
    assert env.view().opening < 0.1
    assert env.view().tcp[2] < 0.06
    assert run(env)


def test_grips_close_across_the_narrow_side(env: TabletopEnv):
    seed = next(s for s in range(100) if _target_shape(env, s) == "bar")
    begin(env, seed, "pick")
    target = env.goal.target
    placed = env.scene.objects[target]
    grip = grip_of(env.view(), target)
    along = np.array([math.cos(grip.yaw), math.sin(grip.yaw)])  # the tool's x; the fingers move at right angles to it
    long_side = np.array([-math.sin(placed.yaw), math.cos(placed.yaw)])  # the bar is long in its y
    assert abs(along @ long_side) == pytest.approx(1.0, abs=1e-3)
    assert grip.period == pytest.approx(math.pi)


def test_a_chunk_is_what_the_expert_then_does(env: TabletopEnv):
    begin(env, 6, "place_on")
    while not env.done:
        chunk = env.expert_chunk(4)
        done = []
        for _ in range(min(4, env.horizon - env.steps)):
            done.append(env.expert_action())
            env.advance(done[-1][None])
            if env.done:
                break
        np.testing.assert_array_equal(chunk[: len(done)], np.stack(done))


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "least"), [(0.0, 294), (0.3, 285)])
@pytest.mark.parametrize("task", ["pick", "place_on"])
def test_the_expert_succeeds_on_98_of_100_seeds(env: TabletopEnv, task: str, noise: float, least: int):
    successes = 0
    for seed in range(10_000, 10_300):
        begin(env, seed, task)
        successes += run(env, noise, seed)
    assert successes >= least
