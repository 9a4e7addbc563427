import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from point_world import EMBODIMENT, HORIZON, PointEnvs, PointPolicy, SinglePolicy, attempts

from ideomotor.core.errors import UserError
from ideomotor.evaluate.rollout import SLOTS, Condition, Crash, Failure, Latency, Success, roll_out
from ideomotor.evaluate.suites import blacken, say_nothing


def run(policy, tries, envs=None):
    done = []
    latency = Latency()
    rollouts = roll_out(envs or PointEnvs(), policy, tries, latency, done.append)
    assert len(done) == len(rollouts) == len(tries)
    return rollouts, latency


def kinds(rollouts):
    return [type(rollout.outcome) for rollout in rollouts]


def test_reachable_places_are_successes_and_far_ones_failures():
    rollouts, _ = run(PointPolicy(), attempts([1, 4, HORIZON, HORIZON + 1]))
    assert kinds(rollouts) == [Success, Success, Success, Failure]
    assert [rollout.steps for rollout in rollouts] == [1, 4, HORIZON, HORIZON]


def test_only_the_executed_part_of_a_chunk_is_executed():
    policy = PointPolicy()
    run(policy, attempts([4]))
    assert [float(o.state[0]) for o in policy.seen[::SLOTS]] == [0.0, 2.0]  # 2 of 3 predicted actions each


def test_results_come_in_the_order_of_the_attempts():
    seeds = [7, 1, 9, 2, 8, 1, 3, 5, 2, 6, 4, 9, 1]
    rollouts, _ = run(PointPolicy(), attempts(seeds))
    assert [rollout.attempt.seed for rollout in rollouts] == seeds
    assert [rollout.steps for rollout in rollouts] == seeds


def test_free_slots_take_the_next_episode_at_once():
    envs = PointEnvs(num_slots=2)
    run(PointPolicy(), attempts([1, 8, 1, 1, 1]), envs)
    assert envs.batches == [[0, 1]] * 4  # slot 0 runs four short episodes while slot 1 runs the long one


def test_every_inference_has_the_same_batch_size():
    policy = PointPolicy()
    _, latency = run(policy, attempts(range(1, 8)))
    assert set(policy.sizes) == {SLOTS}
    assert len(latency.seconds) == len(policy.sizes)


def test_episode_does_not_depend_on_the_number_of_processes():
    seeds = list(range(1, 12))
    wide, _ = run(PointPolicy(), attempts(seeds), PointEnvs(num_slots=9))  # 3 processes of 3 slots: one stays free
    exact, _ = run(PointPolicy(), attempts(seeds), PointEnvs(num_slots=8))
    for a, b in zip(wide, exact, strict=True):
        assert type(a.outcome) is type(b.outcome)
        np.testing.assert_array_equal(a.actions, b.actions)


def test_policy_without_batches_runs_one_episode_after_the_other():
    policy, envs = SinglePolicy(), PointEnvs()
    rollouts, _ = run(policy, attempts([3, 5]), envs)
    assert kinds(rollouts) == [Success, Success]
    assert policy.resets == ["go to 3", "go to 5"]
    assert {tuple(slots) for slots in envs.batches} == {(0,)}


def test_crash_is_no_failure_and_the_rest_goes_on():
    rollouts, _ = run(PointPolicy(), attempts(range(1, 12)), PointEnvs(broken=(4, 5)))
    assert rollouts[3].outcome == Crash("no table")
    assert rollouts[4].outcome == Crash("the table fell over")
    assert [kind is Success for kind in kinds(rollouts)] == [True] * 3 + [False] * 2 + [True] * 4 + [False] * 2
    assert kinds(rollouts)[-2:] == [Failure, Failure]


def test_action_that_is_no_number_is_a_crash_and_is_not_executed():
    envs = PointEnvs()
    rollouts, _ = run(PointPolicy(nan_at=2.0), attempts([2, 3]), envs)
    assert isinstance(rollouts[0].outcome, Crash)
    assert "NaN" in rollouts[0].outcome.message
    assert rollouts[0].steps == 0
    assert isinstance(rollouts[1].outcome, Success)


def test_everything_crashing_ends():
    rollouts, _ = run(PointPolicy(), attempts([2, 2, 2]), PointEnvs(broken=(2,)))
    assert kinds(rollouts) == [Crash] * 3


def test_condition_changes_what_the_policy_sees_and_is_told():
    policy = PointPolicy()
    condition = Condition("dark", wording="held_out", see=blacken, say=say_nothing)
    rollouts, _ = run(policy, attempts([1], condition))
    assert set(policy.told) == {""}
    assert (rollouts[0].instruction, rollouts[0].told) == ("go to 1 please", "")
    assert not policy.seen[0].images["front"].any()


def test_policy_without_chunk_length_is_refused():
    policy = PointPolicy()
    policy.embodiment = replace(EMBODIMENT, chunk=None)
    with pytest.raises(UserError, match="chunk length"):
        roll_out(PointEnvs(), policy, attempts([1]), Latency(), lambda _: None)
