"""The cache of decoded frames: what it holds, when it is built, and what a failure leaves behind."""

import errno
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import rlds_writer
from memory_dataset import MemoryDataset, Suicidal

from ideomotor.core.errors import UserError
from ideomotor.data import cache
from ideomotor.data.cache import open_cache
from ideomotor.data.rlds.dataset import RldsDataset
from ideomotor.data.windows import WindowSource


@pytest.fixture
def toy(tmp_path):
    rlds_writer.write(tmp_path / "toy", [rlds_writer.episode_record(e, 4) for e in range(6)])
    return RldsDataset(tmp_path / "toy")


def test_the_cache_holds_every_frame_in_order(toy, tmp_path):
    frames = open_cache(toy, ["front"], (8, 10), tmp_path / "frames").frames
    assert frames.shape == (24, 1, 8, 10, 3)
    for number in range(24):
        assert (frames[number, 0] == rlds_writer.picture(number // 4, number % 4)).all()


def test_worker_processes_write_the_same_file(toy, tmp_path, monkeypatch):
    alone = open_cache(toy, ["front"], (16, 16), tmp_path / "alone", workers=1)
    monkeypatch.setattr(cache, "FRAMES_A_TASK", 8)
    together = open_cache(toy, ["front"], (16, 16), tmp_path / "together", workers=2)
    assert (alone.frames == together.frames).all()
    assert alone.path.read_bytes() == together.path.read_bytes()


def test_other_sizes_are_resized_as_pillow_does(toy, tmp_path):
    frames = open_cache(toy, ["front"], (12, 20), tmp_path / "frames").frames
    expected = Image.fromarray(rlds_writer.picture(3, 1)).resize((20, 12), Image.Resampling.BICUBIC)
    assert (frames[13, 0] == np.asarray(expected)).all()


def test_a_second_opening_decodes_nothing_and_other_wishes_get_another_file(toy, tmp_path, monkeypatch):
    first = open_cache(toy, ["front"], (8, 10), tmp_path / "frames")
    other = open_cache(toy, ["front"], (8, 8), tmp_path / "frames")
    rlds_writer.write(tmp_path / "toy2", [rlds_writer.episode_record(e, 5) for e in range(6)])
    changed = open_cache(RldsDataset(tmp_path / "toy2"), ["front"], (8, 10), tmp_path / "frames")
    assert len({first.path, other.path, changed.path}) == 3
    monkeypatch.setattr(cache, "_build", None)
    assert open_cache(toy, ["front"], (8, 10), tmp_path / "frames").path == first.path


def test_windows_from_the_cache_equal_windows_decoded_at_every_access(toy, tmp_path):
    frames = open_cache(toy, ["front"], (8, 10), tmp_path / "frames")
    cached = WindowSource(toy, 2, episodes=[4, 1], cache=frames)
    decoded = WindowSource(toy, 2, episodes=[4, 1])
    for index in range(8):
        assert (cached[index].images["front"] == decoded[index].images["front"]).all()


def test_a_cache_of_other_data_is_refused(toy, tmp_path):
    frames = open_cache(toy, ["front"], (8, 10), tmp_path / "frames")
    with pytest.raises(UserError, match="holds 24 frames"):
        WindowSource(MemoryDataset([3]), 1, cache=frames)


def test_a_pickled_cache_is_its_file_name(toy, tmp_path):
    frames = open_cache(toy, ["front"], (8, 10), tmp_path / "frames")
    data = pickle.dumps(frames)
    assert len(data) < 1000
    assert (pickle.loads(data).frames == frames.frames).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_image_is_named_and_leaves_nothing_behind(tmp_path, monkeypatch, workers):
    records = [rlds_writer.episode_record(e, 4) for e in range(4)]
    records[2]["steps/observation/front"][3] = b"\x89PNGnonsense"
    rlds_writer.write(tmp_path / "toy", records)
    monkeypatch.setattr(cache, "FRAMES_A_TASK", 4)
    with pytest.raises(UserError, match="episode 2, frame 3"):
        open_cache(RldsDataset(tmp_path / "toy"), ["front"], (8, 10), tmp_path / "frames", workers)
    assert [path.suffix for path in (tmp_path / "frames").iterdir()] == [".lock"]


def test_a_full_disk_is_told_before_decoding_and_leaves_nothing_behind(toy, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="no space for 0 MB .* XDG_CACHE_HOME"):
        open_cache(toy, ["front"], (8, 10), tmp_path / "frames")
    assert [path.suffix for path in (tmp_path / "frames").iterdir()] == [".lock"]


def test_what_a_killed_process_left_is_removed(toy, tmp_path):
    path = open_cache(toy, ["front"], (8, 10), tmp_path / "frames").path
    path.rename(path.with_name(f".{path.name}.123.tmp"))
    open_cache(toy, ["front"], (8, 10), tmp_path / "frames")
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([path.name, path.with_suffix(".lock").name])


def test_a_killed_decoder_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "FRAMES_A_TASK", 2)
    with pytest.raises(RuntimeError, match="exit code -9"):
        open_cache(Suicidal([2, 2]), ["front"], (6, 8), tmp_path / "frames", workers=2)
    assert [path.suffix for path in (tmp_path / "frames").iterdir()] == [".lock"]


def test_an_unknown_camera_is_refused(toy, tmp_path):
    with pytest.raises(UserError, match="unknown camera 'wrist'; known: front"):
        open_cache(toy, ["wrist"], (8, 10), tmp_path / "frames")


def test_of_two_that_start_together_one_builds(tmp_path):
    decoded = []

    class Counting(MemoryDataset):
        def image(self, episode, frame, camera):
            decoded.append((episode, frame))
            return super().image(episode, frame, camera)

    with ThreadPoolExecutor(2) as pool:
        opened = list(pool.map(lambda _: open_cache(Counting([5, 5]), ["front"], (6, 8), tmp_path, 1), range(2)))
    assert len(decoded) == 10
    assert (opened[0].frames == opened[1].frames).all()


def test_the_user_cache_follows_the_environment(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.user_cache() == Path("/somewhere/ideomotor")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.user_cache() == Path.home() / ".cache" / "ideomotor"
