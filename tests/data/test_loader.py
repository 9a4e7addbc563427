"""Batches are a function of the step: whoever makes them, wherever the run began."""

import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Generator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # worker processes find these modules too
import rlds_writer
from memory_dataset import MemoryDataset, explode, grow

from ideomotor.core.errors import UsageError, UserError
from ideomotor.data.images import Jitter, lookup_tables
from ideomotor.data.loader import Loader, LoaderConfig
from ideomotor.data.rlds.dataset import RldsDataset
from ideomotor.data.windows import WindowSource, stack

LENGTHS = ([7, 5, 9], [40])


def loader_of(workers=0, augment=None, batch_size=8, seed=3, weights=(0.7, 0.3)):
    sources = [WindowSource(MemoryDataset(lengths), horizon=3) for lengths in LENGTHS]
    return Loader(sources, weights, LoaderConfig(batch_size, seed, workers, augment), stack)


def joined(batches):
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def assert_equal(one, other):
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert np.array_equal(one[name], other[name]), name


@pytest.fixture(scope="module")
def reference():
    """Steps 0 to 7 made here by one rank, as a stream of samples."""
    loader = loader_of(augment=Jitter())
    return joined([loader.batch(step) for step in range(8)])


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_global_order_and_every_bit_are_the_same_for_any_ranks_and_workers(reference, world, workers):
    loader = loader_of(workers, Jitter())
    per_rank = [list(loader.batches(2, rank, world, stop=6)) for rank in range(world)]
    stream = joined([per_rank[rank][step] for step in range(4) for rank in range(world)])
    assert_equal(stream, {name: array[2 * 8 : 6 * 8] for name, array in reference.items()})


def test_samples_hold_the_windows_that_they_name(reference):
    plain = loader_of()
    for source, index, state, actions in zip(
        *reference["sample"].T, reference["state"], reference["actions"], strict=True
    ):
        window = plain.sources[source][int(index)]
        assert (window.state == state).all()
        assert (window.actions == actions).all()


def test_shares_follow_the_weights():
    loader = loader_of(batch_size=4096)
    source = np.concatenate([loader.batch(step)["sample"][:, 0] for step in range(2)])
    assert abs((source == 0).mean() - 0.7) < 0.025  # 5 standard deviations of 8,192 draws


def test_augmentation_is_keyed_by_the_global_sample_number():
    plain, jittered = loader_of().batch(5), loader_of(augment=Jitter()).batch(5)
    for b in range(8):
        table = lookup_tables(Jitter(), seed=3, number=5 * 8 + b, num_cameras=1)[0]
        assert (table[plain["images"][b, 0]] == jittered["images"][b, 0]).all()
    for name in set(plain) - {"images"}:
        assert (plain[name] == jittered[name]).all()


def test_a_run_goes_on_from_its_stored_state():
    loader = loader_of()
    state = pickle.loads(pickle.dumps(loader.state(1234)))
    assert loader_of().resume(state) == 1234
    assert loader_of(batch_size=4).resume(state) == 2468  # half the batch, twice the steps
    with pytest.raises(UserError, match="no multiple of the batch size 7"):
        loader_of(batch_size=7).resume(state)
    with pytest.raises(UserError, match=r"weights: stored \[0.7, 0.3\], now \[0.5, 0.5\]"):
        loader_of(weights=(0.5, 0.5)).resume(state)


@pytest.mark.parametrize("stop", [2, 3, 4, 9])
def test_workers_deliver_exactly_the_steps_that_were_asked_for(stop):
    batches = list(loader_of(workers=2).batches(2, stop=stop))
    assert len(batches) == stop - 2
    for step, batch in enumerate(batches, start=2):
        assert_equal(batch, loader_of().batch(step))
    assert not children()


def children():
    return [process for process in multiprocessing.active_children() if process.name == "loader"]


def test_closing_the_iterator_ends_its_workers():
    batches = loader_of(workers=2).batches(0)
    assert isinstance(batches, Generator)
    list(islice(batches, 3))
    assert len(children()) == 2
    batches.close()
    assert not children()


def test_a_killed_worker_is_an_error_that_says_so():
    batches = loader_of(workers=2).batches(0)
    next(batches)
    victim = children()[0].pid
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=rf"loader worker {victim} died with exit code -9 while making step"):
        list(islice(batches, 10))
    assert not children()


def test_what_goes_wrong_in_a_worker_is_raised_with_its_own_words(tmp_path):
    records = [rlds_writer.episode_record(e, 4) for e in range(2)]
    records[1]["steps/observation/front"][2] = b"\x89PNGnonsense"
    rlds_writer.write(tmp_path / "toy", records)
    source = WindowSource(RldsDataset(tmp_path / "toy"), horizon=1)
    loader = Loader([source], [1.0], LoaderConfig(batch_size=1, workers=1), stack)
    drawn = loader.mixture.draw(np.arange(64)).element.tolist()
    bad = drawn.index(6, 1)  # the first batch is made here, not by a worker
    assert drawn[bad - 1] != 6
    batches = loader.batches(bad - 1, stop=bad + 9)
    with pytest.raises(UserError, match="episode 1, frame 2"):
        list(batches)
    assert not children()


def test_an_unexpected_failure_carries_its_traceback_and_step():
    source = WindowSource(MemoryDataset([5]), horizon=1)
    loader = Loader([source], [1.0], LoaderConfig(batch_size=2, workers=1), explode)
    with pytest.raises(RuntimeError, match=r"(?s)while making step 1:.*ZeroDivisionError: boom"):
        list(loader.batches(0, stop=3))


def test_a_batch_too_large_for_its_slot_arrives_all_the_same():
    source = WindowSource(MemoryDataset([5, 5]), horizon=1)
    loader = Loader([source], [1.0], LoaderConfig(batch_size=1, workers=1), grow)
    sizes = [loader.batch(step)["text"].shape for step in range(10)]
    start = sizes.index((1, 10))
    batches = list(loader.batches(start, stop=start + 10))
    assert [batch["text"].shape for batch in batches] == [loader.batch(start + k)["text"].shape for k in range(10)]
    assert (1, 100_000) in [batch["text"].shape for batch in batches]


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(UsageError, match="3 ranks cannot share a batch of 8"):
        loader_of().batch(0, 0, world=3)
    with pytest.raises(UsageError, match="3 ranks cannot share"):
        loader_of(workers=2).batches(0, 0, world=3)
    with pytest.raises(UsageError, match="batch of 0"):
        loader_of(batch_size=0)
