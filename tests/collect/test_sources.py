"""The three sources of episodes, in this process."""

from dataclasses import replace

import numpy as np
import pytest

from ideomotor.collect.corrections import Corrections
from ideomotor.collect.expert import Expert
from ideomotor.collect.scenes import Scenes
from ideomotor.core.spec import ChunkLength, Embodiment, SpecMismatchError
from ideomotor.core.types import Chunk, Episode, Observation
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.sim.env import EnvConfig, TabletopEnv
from ideomotor.sim.tasks.pick import PICK
from ideomotor.sim.tasks.place_on import PLACE_ON

TASKS = (PICK, PLACE_ON)
STILL = np.array([0, 0, 0, 0, 0, 0, 1.0])  # stays where it is, hand open
LABELS = {"label.location", "label.location_valid"} | {
    f"label.{camera}.{name}" for camera in ("front", "wrist") for name in ("class", "offset", "yaw", "held")
}


@pytest.fixture(scope="module")
def env() -> TabletopEnv:
    return TabletopEnv(EnvConfig(PANDA, TASKS))


@pytest.fixture(scope="module")
def short_env() -> TabletopEnv:
    return TabletopEnv(EnvConfig(PANDA, TASKS, horizon=4))


@pytest.fixture(scope="module")
def demonstration(env: TabletopEnv) -> Episode:
    return Expert(noisy=0.0).episode(env, seed=5, task="pick")


def actions(episode: Episode) -> np.ndarray:
    return np.stack([step.action for step in episode.steps])


def chunks(episode: Episode) -> np.ndarray:
    return np.stack([step.labels["expert.chunk"].reshape(-1, 7) for step in episode.steps])


# ------------------------------------------------------------------------------------------------ expert


def test_without_noise_the_expert_executes_the_first_row_of_its_chunk(demonstration: Episode):
    assert demonstration.success == "success"
    np.testing.assert_array_equal(actions(demonstration), chunks(demonstration)[:, 0])


def test_without_noise_the_chunk_is_what_is_executed_in_the_next_steps(demonstration: Episode):
    executed, planned = actions(demonstration), chunks(demonstration)
    assert planned.shape == (len(executed), 4, 7)
    for row in range(1, 4):
        np.testing.assert_allclose(planned[:-row, row], executed[row:], atol=1e-6)


def test_noise_moves_the_executed_actions_away_from_the_labels_and_stays_in_range(env: TabletopEnv):
    episode = Expert(noisy=1.0).episode(env, seed=5, task="pick")
    assert episode.success == "success"  # it recovers
    executed, planned = actions(episode), chunks(episode)[:, 0]
    difference = np.abs(executed - planned)
    assert 0.2 < (difference > 1e-6).any(axis=1).mean() < 0.8
    assert difference[:, :3].max() <= 0.015 + 1e-6
    np.testing.assert_array_equal(executed[:, [3, 4, 6]], planned[:, [3, 4, 6]])
    assert np.abs(executed[:, :3]).max() <= np.float32(0.05)


def test_the_share_of_noisy_episodes_is_kept(short_env: TabletopEnv):
    noisy = 0
    for seed in range(24):
        episode = Expert(noisy=0.5).episode(short_env, seed=seed, task="pick")
        noisy += bool((actions(episode) != chunks(episode)[:, 0]).any())
    assert 4 <= noisy <= 20  # a disturbed episode of 4 steps may lie in a pause; chance leaves this range once in 5000


def test_a_failed_attempt_is_kept_with_its_label(short_env: TabletopEnv):
    episode = Expert(noisy=0.0).episode(short_env, seed=1, task="place_on")
    assert (episode.success, len(episode.steps)) == ("failure", 4)
    assert "plate" in episode.instruction


# ------------------------------------------------------------------------------------------------ scenes


def test_scenes_hold_32_unrelated_states_with_all_labels(env: TabletopEnv):
    episode = Scenes().episode(env, seed=2, task="pick")
    assert (len(episode.steps), episode.success, episode.instruction) == (32, "unknown", "")
    assert all(step.labels.keys() == LABELS for step in episode.steps)
    assert not actions(episode).any()
    tool = np.stack([step.observation.state[:3] for step in episode.steps])
    assert (tool.std(axis=0) > 0.05).all()  # [m] the arm is all over the table
    classes = [step.labels["label.front.class"] for step in episode.steps]
    assert len({labels.tobytes() for labels in classes}) > 28  # other objects in each


def test_scenes_of_one_seed_are_equal_and_those_of_two_seeds_differ(env: TabletopEnv):
    one, again, other = (Scenes().episode(env, seed, "pick").steps[0].observation for seed in (2, 2, 3))
    for role in ("front", "wrist"):
        np.testing.assert_array_equal(one.images[role], again.images[role])
        assert (one.images[role] != other.images[role]).any()


# ------------------------------------------------------------------------------------------------ corrections


class Fixed:
    """A policy that answers every observation with the same rows."""

    policy_id = "fixed"

    def __init__(self, embodiment: Embodiment, rows: np.ndarray) -> None:
        self.embodiment = replace(embodiment, chunk=ChunkLength(len(rows), len(rows)))
        self.rows = rows
        self.told: list[str] = []
        self.asked = 0

    def reset(self, instruction: str) -> None:
        self.told.append(instruction)

    def act(self, observation: Observation) -> Chunk:
        self.asked += 1
        return Chunk(observation.time, observation.time, 0.1, self.rows, self.policy_id, self.asked)


def test_corrections_record_what_was_executed_and_what_the_expert_would_have_done(short_env: TabletopEnv):
    rows = np.stack([STILL, STILL + [0, 0, -0.01, 0, 0, 0, 0], STILL, STILL])
    policy = Fixed(short_env.embodiment, rows)
    episode = Corrections(policy, expert_share=0.0, execute=2).episode(short_env, seed=3, task="pick")
    np.testing.assert_allclose(actions(episode), rows[[0, 1, 0, 1]], atol=1e-7)  # two of each chunk
    assert (policy.told, policy.asked) == ([episode.instruction], 2)
    short_env.reset(seed=3, options={"task": "pick"})  # the same states again: is the label what the expert does there?
    for step in episode.steps:
        np.testing.assert_allclose(step.labels["expert.chunk"][:7], short_env.expert_action(), atol=1e-6)
        short_env.advance(step.action[None].astype(np.float64))


def test_actions_beyond_the_range_are_recorded_as_they_are_executed(short_env: TabletopEnv):
    policy = Fixed(short_env.embodiment, np.tile([1.0, -1, 1, 0, 0, 9, 2], (4, 1)))
    episode = Corrections(policy, expert_share=0.0, execute=4).episode(short_env, seed=0, task="pick")
    np.testing.assert_allclose(actions(episode), np.tile([0.05, -0.05, 0.05, 0, 0, 0.3, 1], (4, 1)), atol=1e-7)


def test_the_expert_acts_in_a_third_of_the_episodes_only(short_env: TabletopEnv):
    source = Corrections(Fixed(short_env.embodiment, np.tile(STILL, (4, 1))), expert_share=1.0, execute=4)
    helped = 0
    for seed in range(30):
        episode = source.episode(short_env, seed=seed, task="pick")
        by_expert = (actions(episode) == chunks(episode)[:, 0]).all(axis=1)
        assert by_expert.all() or not by_expert.any()  # with the share 1: in every step or in none
        helped += bool(by_expert.all())
    assert 2 <= helped <= 19  # 30 draws with p = 1/3 leave this range once in 5000


def test_a_policy_that_stands_still_fails_and_the_failure_is_kept(short_env: TabletopEnv):
    policy = Fixed(short_env.embodiment, np.tile(STILL, (4, 1)))
    assert Corrections(policy, 0.0, 4).episode(short_env, seed=0, task="place_on").success == "failure"


def test_a_policy_of_another_arm_is_refused(short_env: TabletopEnv):
    other = TabletopEnv(EnvConfig(UR5E, TASKS)).embodiment
    with pytest.raises(SpecMismatchError, match="robot: the policy has 'ur5e', the tabletop has 'panda'"):
        Corrections(Fixed(other, STILL[None]), 0.0, 1).episode(short_env, seed=0, task="pick")
