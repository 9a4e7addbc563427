"""Memory-mapped columns: the same windows as in memory, complete or absent, and hundreds of millions of frames in little memory."""

import errno
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from memory_dataset import MemoryDataset

from ideomotor.core.errors import UserError
from ideomotor.data import columns as module
from ideomotor.data.columns import columns_size, large_columns, open_columns, wanted_columns
from ideomotor.data.windows import WholeChunks, WindowSource

HERE = Path(__file__).parent


def assert_same_windows(one: WindowSource, other: WindowSource):
    assert len(one) == len(other)
    assert one.name == other.name
    for i in range(len(one)):
        a, b = one[i], other[i]
        assert one.place(i) == other.place(i)
        assert a.instruction == b.instruction
        for left, right in ((a.state, b.state), (a.actions, b.actions), (a.actions_pad, b.actions_pad)):
            assert left.dtype == right.dtype
            assert left.tolist() == right.tolist()
        assert {n: v.tolist() for n, v in a.labels.items()} == {n: v.tolist() for n, v in b.labels.items()}


@pytest.mark.parametrize("expert_steps", [0, 4])
@pytest.mark.parametrize("episodes", [None, [3, 0, 2]])
def test_mapped_windows_are_those_in_memory(tmp_path, episodes, expert_steps):
    dataset = MemoryDataset([4, 1, 0, 7], expert_steps, labels={"label.held": 2})
    store = open_columns(dataset, wanted_columns(dataset), tmp_path)
    mapped = WindowSource(dataset, 3, episodes, store=store)
    loaded = WindowSource(dataset, 3, episodes)
    assert_same_windows(mapped, loaded)
    assert_same_windows(pickle.loads(pickle.dumps(mapped)), loaded)
    assert mapped.state.tolist() == loaded.state.tolist()
    assert mapped.actions.tolist() == loaded.actions.tolist()
    assert (mapped.chunks is None) == (loaded.chunks is None)
    if mapped.chunks is not None and loaded.chunks is not None:
        assert mapped.chunks.tolist() == loaded.chunks.tolist()
    assert list(mapped.instructions[:2]) == list(loaded.instructions[:2])
    assert mapped.memory < loaded.memory
    assert mapped.mapped > 0
    assert loaded.mapped == 0


def test_a_store_is_written_once_and_other_content_gets_another(tmp_path):
    dataset = MemoryDataset([4, 2])
    store = open_columns(dataset, wanted_columns(dataset), tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in store.paths.values()}
    assert store["action"].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1]]
    assert list(store.texts) == ["do 0", "do 1"]
    assert store.size == sum(path.stat().st_size for path in stamps)

    class Closed(MemoryDataset):
        def column(self, episode, name):
            raise AssertionError("nothing is read a second time")

    open_columns(Closed([4, 2]), wanted_columns(dataset), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    other = open_columns(MemoryDataset([4, 3]), wanted_columns(dataset), tmp_path)
    assert not set(other.paths.values()) & set(stamps)
    with pytest.raises(UserError, match="'label.x'"):
        store["label.x"]


def test_more_columns_are_written_beside_those_that_are_there(tmp_path):
    dataset = MemoryDataset([4, 2], labels={"label.held": 2})
    few = open_columns(dataset, wanted_columns(dataset, labels=[]), tmp_path)
    stamp = few.paths["action"].stat().st_mtime_ns
    all_of_them = open_columns(dataset, wanted_columns(dataset), tmp_path)
    assert all_of_them["label.held"].tolist() == [[f, f] for f in (0, 1, 2, 3, 0, 1)]
    assert all_of_them.paths["action"].stat().st_mtime_ns == stamp


def test_an_episode_that_cannot_be_read_leaves_nothing_behind(tmp_path):
    class Short(MemoryDataset):
        def column(self, episode, name):
            return super().column(episode, name)[: 1 if episode == 1 else None]

    with pytest.raises(UserError, match=r"episode 1: column 'observation.state' is \(1, 1\).*2 frames of \(1,\)"):
        open_columns(Short([4, 2]), {"observation.state": "float32", "action": "float32"}, tmp_path)
    assert not list(tmp_path.glob("*.tmp"))
    dataset = MemoryDataset([4, 2])
    assert dataset.content_hash == Short([4, 2]).content_hash
    assert len(open_columns(dataset, wanted_columns(dataset), tmp_path)["action"]) == 6  # and the next attempt is whole


def test_a_full_disk_is_told_with_the_size(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(UserError, match=r"no space for 0 MB of columns in .*XDG_CACHE_HOME"):
        open_columns(MemoryDataset([4]), {"action": "float32"}, tmp_path)


def test_small_columns_are_loaded_and_large_ones_mapped(tmp_path):
    dataset = MemoryDataset([4, 2])
    assert columns_size(dataset, wanted_columns(dataset)) == 6 * (2 + 1) * 4
    assert large_columns(dataset, in_memory=72, folder=tmp_path) is None
    store = large_columns(dataset, in_memory=71, folder=tmp_path)
    assert store is not None
    assert store["action"].shape == (6, 2)


def test_a_dataset_without_words_and_one_without_frames_are_stored_too(tmp_path):
    class Silent(MemoryDataset):
        def instruction(self, episode):
            return ""

    dataset = Silent([2, 1])
    assert list(open_columns(dataset, wanted_columns(dataset), tmp_path / "a").texts) == ["", ""]
    empty = MemoryDataset([0])
    assert open_columns(empty, wanted_columns(empty), tmp_path / "b")["action"].shape == (0, 2)


@pytest.mark.parametrize("expert_steps", [0, 3])
def test_whole_chunks_are_those_without_padding(expert_steps):
    source = WindowSource(MemoryDataset([5, 2, 0, 3], expert_steps), horizon=3)
    whole = WholeChunks(source)
    expected = [i for i in range(len(source)) if not source[i].actions_pad.any()]
    assert [whole.window(i) for i in range(len(whole))] == expected
    assert [whole[i].actions.tolist() for i in range(len(whole))] == [source[i].actions.tolist() for i in expected]
    for index in (-1, len(whole)):
        with pytest.raises(IndexError):
            whole[index]


def test_a_hundred_million_frames_take_less_than_300_mb(tmp_path):
    """In a process of its own, on sparse files: 1e8 frames in 333,334 episodes, 6 GB of columns, batches drawn everywhere."""
    run = subprocess.run(
        [sys.executable, str(HERE / "endless_dataset.py"), str(tmp_path)], check=True, capture_output=True, text=True
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["frames"] == 100_000_000
    assert found["mapped"] == 100_000_000 * (7 + 8) * 4
    assert found["anonymous"] < 300e6  # 160 MB measured, most of it Python and its modules
    assert found["right"] == found["windows"] == 4096
    assert found["microseconds"] < 400  # a window, with the run-time checks of shapes; 15 without
