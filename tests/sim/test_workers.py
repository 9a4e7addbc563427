import os
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest

from ideomotor.core.errors import UsageError
from ideomotor.core.types import Observation
from ideomotor.robot.arms.panda import PANDA
from ideomotor.sim.env import EnvConfig, TabletopEnv
from ideomotor.sim.tasks.pick import PICK
from ideomotor.sim.workers import Advance, Begun, Crashed, EpisodeRequest, VectorEnv

CONFIG = EnvConfig(PANDA, tasks=(PICK,), horizon=12)
SEEDS = (11, 12, 13, 14)
STEP = np.array([[0.01, 0.02, -0.03, 0.0, 0.0, 0.1, 1.0]])


@pytest.fixture(scope="module")
def envs() -> Iterator[VectorEnv]:
    """Two processes with two slots each."""
    with VectorEnv(CONFIG, workers=2, slots_per_worker=2) as envs:
        yield envs


def begin(envs: VectorEnv, slot: int, seed: int = 11) -> Begun:
    begun = envs.begin(slot, EpisodeRequest(seed, "pick"))
    assert isinstance(begun, Begun)
    return begun


def actions_of(seed: int, length: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.uniform(-0.05, 0.05, (length, 3)), np.zeros((length, 3)), rng.random((length, 1))], axis=1
    )


def assert_same(left: Observation, right: Observation) -> None:
    assert left.time == right.time
    assert left.state.dtype == right.state.dtype
    np.testing.assert_array_equal(left.state, right.state)
    assert left.images.keys() == right.images.keys()
    for role, image in left.images.items():
        np.testing.assert_array_equal(image, right.images[role])


def run(envs: VectorEnv, slots: tuple[int, ...]) -> list[tuple[Begun, Advance, Advance]]:
    """Run the four seeds in the given slots, as many at a time as there are slots."""
    results: list[tuple[Begun, Advance, Advance]] = []
    for start in range(0, len(SEEDS), len(slots)):
        batch = dict(zip(slots, SEEDS[start : start + len(slots)], strict=True))
        begun = {slot: begin(envs, slot, seed) for slot, seed in batch.items()}
        parts = [envs.advance({slot: actions_of(seed + part, 3) for slot, seed in batch.items()}) for part in (0, 100)]
        for slot in slots:
            first, second = (part[slot] for part in parts)
            assert isinstance(first, Advance)
            assert isinstance(second, Advance)
            results.append((begun[slot], first, second))
    return results


def test_an_episode_is_the_same_in_any_slot_and_in_this_process(envs: VectorEnv) -> None:
    side_by_side, one_by_one = run(envs, (0, 1, 2, 3)), run(envs, (3,))
    here = TabletopEnv(CONFIG)
    for seed, left, right in zip(SEEDS, side_by_side, one_by_one, strict=True):
        here.reset(seed=seed, options={"task": "pick"})
        assert left[0].instruction == right[0].instruction == here.instruction
        assert_same(left[0].observation, right[0].observation)
        assert_same(left[0].observation, here.observation())
        for part, a, b in zip((0, 100), left[1:], right[1:], strict=True):
            here.advance(actions_of(seed + part, 3))
            assert_same(a.observation, b.observation)
            assert_same(a.observation, here.observation())
            assert (a.done, a.success, a.steps, a.events) == (b.done, b.success, b.steps, b.events)
            assert (a.done, a.success, a.steps, a.events) == (here.done, here.success, 3, here.events)
    here.close()


def test_an_observation_stays_when_its_slot_moves_on(envs: VectorEnv) -> None:
    begun = begin(envs, 0).observation
    image = begun.images["wrist"].copy()
    after = envs.advance({0: STEP})[0]
    assert isinstance(after, Advance)
    assert (after.observation.images["wrist"] != image).any()
    np.testing.assert_array_equal(begun.images["wrist"], image)


def test_actions_end_with_the_episode(envs: VectorEnv) -> None:
    begin(envs, 1)
    result = envs.advance({1: np.repeat(0 * STEP, 20, axis=0)})[1]
    assert isinstance(result, Advance)
    assert (result.steps, result.done, result.success) == (12, True, False)


def test_recording_gives_a_picture_after_each_action_and_changes_nothing_else(envs: VectorEnv) -> None:
    actions = np.repeat(STEP, 4, axis=0)
    begin(envs, 0)
    begin(envs, 2)
    recorded, plain = envs.advance({0: actions}, record=True)[0], envs.advance({2: actions})[2]
    assert isinstance(recorded, Advance)
    assert isinstance(plain, Advance)
    assert_same(recorded.observation, plain.observation)
    assert (len(recorded.frames), plain.frames) == (4, ())
    begin(envs, 3)
    for frame in recorded.frames:
        single = envs.advance({3: STEP})[3]
        assert isinstance(single, Advance)
        for role, image in frame.items():
            np.testing.assert_array_equal(image, single.observation.images[role])


def test_an_unknown_task_is_refused_here_and_the_worker_goes_on(envs: VectorEnv) -> None:
    with pytest.raises(UsageError, match="unknown task 'dance'; known: pick"):
        envs.begin(0, EpisodeRequest(11, "dance"))
    begin(envs, 0)


def test_an_exception_is_the_crash_of_its_slot_alone(envs: VectorEnv) -> None:
    begin(envs, 0)
    begin(envs, 1)
    results = envs.advance({0: np.zeros((1, 3)), 1: STEP})  # the action of slot 0 has a wrong width
    assert isinstance(results[0], Crashed)
    assert "Error" in results[0].message
    assert isinstance(results[1], Advance)
    begin(envs, 0)
    assert isinstance(envs.advance({0: STEP})[0], Advance)


def test_a_killed_process_is_a_crash_of_its_slots_and_is_replaced(envs: VectorEnv) -> None:
    fresh = begin(envs, 0)
    for slot in (1, 2, 3):
        begin(envs, slot)
    killed = envs.process_ids[0]
    os.kill(killed, signal.SIGKILL)
    results = envs.advance({0: STEP, 2: STEP})
    assert results[0] == Crashed(f"the simulation process {killed} ended (killed by SIGKILL)")
    assert isinstance(results[2], Advance)
    assert envs.process_ids[0] != killed
    assert isinstance(envs.advance({1: STEP})[1], Crashed)  # its episode is gone with the process
    again = begin(envs, 0)
    assert_same(again.observation, fresh.observation)
    assert isinstance(envs.advance({0: STEP, 3: STEP})[0], Advance)


def test_closing_ends_the_processes_and_closing_twice_is_fine() -> None:
    envs = VectorEnv(CONFIG, workers=1)
    (pid,) = envs.process_ids
    envs.close()
    envs.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_two_processes_are_nearly_twice_as_fast_as_one() -> None:
    """Needs two free cores."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for workers in (1, 2) * 3:
        with VectorEnv(EnvConfig(PANDA, horizon=1000), workers, 8 // workers) as envs:
            for slot in range(8):
                begin(envs, slot, seed=20 + slot)
            envs.advance(dict.fromkeys(range(8), STEP))
            start = time.perf_counter()
            for _ in range(40):
                envs.advance(dict.fromkeys(range(8), 0 * STEP))
            seconds[workers].append(time.perf_counter() - start)
    assert min(seconds[1]) / min(seconds[2]) > 1.7  # 1.8 and more where nothing else runs
