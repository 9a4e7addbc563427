"""The order of samples over ranks, workers, kills and resumes; the shares of a mixture of 25 datasets."""

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from kill_loader import BATCH, line, make
from memory_dataset import MemoryDataset

from ideomotor.core.errors import UserError
from ideomotor.data.loader import Loader, LoaderConfig
from ideomotor.data.mixture import Mixture
from ideomotor.data.windows import WindowSource, stack

# --------------------------------------------------------------------------- killed and resumed


def steps_done(folder: Path) -> int:
    state = folder / "position.json"
    return json.loads(state.read_bytes())["position"] // BATCH if state.exists() else 0


def run_and_kill(folder: Path, world: int, workers: int, steps: int) -> None:
    """Let it run for a number of steps, then SIGKILL."""
    start = steps_done(folder)
    process = subprocess.Popen([sys.executable, HERE / "kill_loader.py", folder, str(world), str(workers)])
    end = time.monotonic() + 60
    while steps_done(folder) < start + steps:
        assert process.poll() is None, "it should run until it is killed"
        assert time.monotonic() < end, "no steps within a minute"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    "runs", [((1, 2), (4, 0), (2, 2)), ((4, 2), (1, 0), (2, 0))], ids=["1 to 4 to 2 ranks", "4 to 1 to 2 ranks"]
)
def test_killed_and_resumed_at_other_world_sizes_the_sequence_goes_on_exactly(tmp_path, runs):
    for world, workers in runs:
        run_and_kill(tmp_path, world, workers, steps=5)
    last = steps_done(tmp_path) + 7
    subprocess.run([sys.executable, HERE / "kill_loader.py", tmp_path, "1", "0", str(last)], check=True)
    came: dict[int, str] = {}
    for text in (tmp_path / "samples.jsonl").read_text(encoding="ascii").splitlines():
        step = json.loads(text)[0]
        assert came.setdefault(step, text) == text  # a step that was made twice around a kill is the same
    loader = make()
    assert list(came) == list(range(last))
    assert [came[step] for step in range(last)] == [line(step, [loader.batch(step)]) for step in range(last)]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_one_global_sequence_for_any_world_size_and_worker_count(world, workers):
    ranks = [make(workers).batches(3, rank, world, stop=9) for rank in range(world)]
    together = make()
    for step, batches in enumerate(zip(*ranks, strict=True), start=3):
        assert line(step, batches) == line(step, [together.batch(step)])


# --------------------------------------------------------------------------- shares

# OpenVLA's last stage: weights of its 25 datasets (openvla/openvla, prismatic/vla/datasets/rlds/oxe/mixtures.py). The sizes are made up.
WEIGHTS = {
    "fractal20220817_data": 1.0, "kuka": 0.8341046294, "bridge_orig": 1.0, "taco_play": 2.0, "jaco_play": 1.0,
    "berkeley_cable_routing": 1.0, "roboturk": 2.0, "viola": 2.0, "berkeley_autolab_ur5": 2.0, "toto": 1.0,
    "stanford_hydra": 2.0, "austin_buds": 1.0, "nyu_franka_play": 3.0, "furniture_bench": 0.1, "ucsd_kitchen": 2.0,
    "austin_sailor": 1.0, "austin_sirius": 1.0, "dlr_edan_shared_control": 1.0, "iamlab_cmu_pickup_insert": 1.0,
    "utaustin_mutex": 1.0, "berkeley_fanuc_manipulation": 2.0, "cmu_stretch": 1.0, "bc_z": 0.2, "fmb_dataset": 1.0,
    "dobbe": 0.2,
}  # fmt: skip
SIZES = [3_786_400 // (k + 1) ** 2 + 977 * k for k in range(25)]


def openvla_mixture(seed: int = 0) -> tuple[Mixture, list[Fraction]]:
    """The mixture with p = w N / sum(w N), and the shares as fractions."""
    parts = [Fraction(str(w)) * n for w, n in zip(WEIGHTS.values(), SIZES, strict=True)]
    weights = [w * n for w, n in zip(WEIGHTS.values(), SIZES, strict=True)]
    return Mixture(list(WEIGHTS), SIZES, weights, seed), [part / sum(parts) for part in parts]


def test_25_datasets_get_exactly_their_quotas_in_each_block():
    mixture, shares = openvla_mixture()
    floors = [int(share * 65536) for share in shares]  # largest remainders, in exact arithmetic
    left = 65536 - sum(floors)
    by_rest = sorted(range(25), key=lambda d: shares[d] * 65536 - floors[d], reverse=True)
    expected = [floor + (d in by_rest[:left]) for d, floor in enumerate(floors)]
    assert min(expected) >= 1
    for block in (0, 1, 10**6):
        source = mixture.draw(np.arange(65536) + block * 65536).source
        assert np.bincount(source, minlength=25).tolist() == expected


@pytest.mark.parametrize("start", [0, 65536 * 12_345])
def test_25_datasets_are_within_a_tenth_of_a_point_of_their_shares(start):
    mixture, shares = openvla_mixture(seed=3)
    counted = np.bincount(mixture.draw(np.arange(start, start + 2**17)).source, minlength=25)
    apart = np.abs(counted / 2**17 - np.array([float(share) for share in shares]))
    assert apart.max() < 0.001


def test_the_counts_of_draws_are_known_without_drawing():
    mixture, _ = openvla_mixture()
    for start, stop in ((0, 1), (0, 65536), (65000, 140_001), (123, 123)):
        drawn = np.bincount(mixture.draw(np.arange(start, stop)).source, minlength=25)
        assert mixture.counts(start, stop).tolist() == drawn.tolist()
    begin = time.process_time()
    assert mixture.counts(0, 10**14 + 5).sum() == 10**14 + 5
    assert time.process_time() - begin < 1.0


def test_asked_and_realized_shares_are_those_of_the_batches():
    loader = make()
    samples = np.concatenate([loader.batch(step)["sample"] for step in range(50)])
    shares = loader.shares(50)
    assert [s.name for s in shares] == [source.name for source in loader.sources]
    np.testing.assert_allclose([s.asked for s in shares], [0.6, 0.3, 0.1])
    assert [s.samples for s in shares] == np.bincount(samples[:, 0], minlength=3).tolist()
    np.testing.assert_allclose([s.realized for s in shares], np.bincount(samples[:, 0], minlength=3) / 400)
    np.testing.assert_allclose(
        [s.epochs * n for s, n in zip(shares, (21, 40, 6), strict=True)], [s.samples for s in shares]
    )
    assert [s.samples for s in loader.shares(0)] == [0, 0, 0]


# --------------------------------------------------------------------------- what it costs


def test_an_index_costs_at_most_two_microseconds_for_any_size_and_number_of_datasets():
    """CPU time of whole blocks, their patterns and the orders of small datasets among it; 0.2 to 0.6 us measured."""
    for count in (1, 50):
        for size in (10**3, 10**5, 10**8):
            mixture = Mixture(
                [str(d) for d in range(count)], [size + d for d in range(count)], [1.0 + d for d in range(count)], 0
            )
            costs = []
            for block in range(3):
                begin = time.process_time()
                for start in range(block << 16, (block + 1) << 16, 4096):
                    mixture.draw(np.arange(start, start + 4096))
                costs.append((time.process_time() - begin) / 65536 * 1e6)
            assert min(costs) < 2.0, (count, size)


# --------------------------------------------------------------------------- nothing is skipped


class Unreadable(MemoryDataset):
    """A dataset whose images cannot be read."""

    def image(self, episode, frame, camera):
        raise UserError(f"{self.path}, episode {episode}, frame {frame}: the image is damaged")


class Missing(MemoryDataset):
    """A dataset whose columns cannot be read."""

    def column(self, episode, name):
        raise UserError(f"{self.path}, episode {episode}: the table is damaged")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_that_cannot_be_read_stops_the_run_however_small_its_share(workers):
    good, bad = WindowSource(MemoryDataset([40]), 2), WindowSource(Unreadable([5]), 2)
    loader = Loader([good, bad], [0.9, 0.1], LoaderConfig(4, workers=workers), stack)
    with pytest.raises(UserError, match=r"memory, episode 0, frame \d: the image is damaged"):
        for _ in zip(range(100), loader.batches(0), strict=False):
            pass
    with pytest.raises(UserError, match="the table is damaged"):
        WindowSource(Missing([5]), 2)
