import numpy as np
import pytest

from ideomotor.collect.noise import burst_noise

STEPS = 4000
HALF = 0.05  # no tighter than chance allows: about 800 bursts and pauses of the same mean length


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return burst_noise(np.random.Generator(np.random.Philox(key=[3, 0])), STEPS, 7)


def _runs(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of the runs of True that end inside of the array, and of the runs of False between them."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    starts, ends = edges[::2], edges[1::2]
    return ends - starts, starts[1:] - ends[:-1]


def test_only_position_and_the_turn_about_the_vertical_are_disturbed(noise: np.ndarray):
    assert not noise[:, [3, 4, 6]].any()
    assert (np.abs(noise).max(axis=0)[[0, 1, 2, 5]] > 0.01).all()


def test_the_disturbance_is_bounded_and_unbiased(noise: np.ndarray):
    position, yaw = noise[:, :3], noise[:, 5]
    assert np.abs(position).max() <= 0.015  # 0.3 of the 0.05 m range
    assert np.abs(yaw).max() <= 0.15
    disturbed = noise.any(axis=1)
    # a uniform variable in +-a has the standard deviation a / sqrt(3)
    np.testing.assert_allclose(position[disturbed].std(axis=0), 0.015 / np.sqrt(3), rtol=0.05)
    np.testing.assert_allclose(position[disturbed].mean(axis=0), 0, atol=4 * 0.015 / np.sqrt(3 * disturbed.sum()))


def test_bursts_and_pauses_last_one_to_four_steps_and_fill_half_of_the_time(noise: np.ndarray):
    bursts, pauses = _runs(np.any(noise != 0, axis=1, keepdims=True)[:, 0])
    assert set(bursts[:-1].tolist()) == {1, 2, 3, 4}
    assert set(pauses.tolist()) == {1, 2, 3, 4}
    assert noise.any(axis=1).mean() == pytest.approx(0.5, abs=HALF)


def test_an_episode_shorter_than_a_burst_gets_as_many_rows_as_it_has_steps():
    for seed in range(20):
        assert burst_noise(np.random.default_rng(seed), 2, 7).shape == (2, 7)
