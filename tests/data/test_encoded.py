"""Copies of stored images: the same pixels, copied once, and nothing of an interrupted copy."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from memory_dataset import MemoryDataset

from ideomotor.core.errors import UserError
from ideomotor.data.encoded import open_encoded
from ideomotor.data.png import encode_png
from ideomotor.data.windows import WindowSource


class Stored(MemoryDataset):
    """Its images are PNG files; frame 1 of episode 1 is missing, and black."""

    asked = 0

    def encoded_image(self, episode, frame, camera):
        self.asked += 1
        missing = (episode, frame) == (1, 1)
        return None if missing else encode_png(MemoryDataset.image(self, episode, frame, camera))

    def image(self, episode, frame, camera):
        return np.zeros((6, 8, 3), np.uint8)


def test_windows_of_a_copy_hold_the_stored_pixels(tmp_path):
    dataset = Stored([3, 2, 4])
    copy = open_encoded(dataset, ["front"], tmp_path)
    assert copy is not None
    assert len(copy) == 9
    source = WindowSource(dataset, 2, episodes=[2, 1], cache=pickle.loads(pickle.dumps(copy)))
    for i in range(len(source)):
        episode, frame = source.place(i)
        expected = MemoryDataset([3, 2, 4]).image(episode, frame, "front")
        if (episode, frame) == (1, 1):  # what is missing is as the dataset has it
            expected = np.zeros_like(expected)
        assert (source[i].images["front"] == expected).all()
    assert copy.encoded(4, "front") is None
    assert copy.encoded(0, "front") == dataset.encoded_image(0, 0, "front")
    assert source.mapped == copy.size > 0


def test_images_are_copied_once(tmp_path):
    first, second = Stored([3, 2]), Stored([3, 2])
    open_encoded(first, ["front"], tmp_path)
    assert first.asked == 6  # once to look, then each frame
    open_encoded(second, ["front"], tmp_path)
    assert second.asked == 1


def test_an_interrupted_copy_leaves_nothing(tmp_path):
    class Damaged(Stored):
        def encoded_image(self, episode, frame, camera):
            if episode == 1:
                raise UserError("the table is damaged")
            return super().encoded_image(episode, frame, camera)

    with pytest.raises(UserError, match="the table is damaged"):
        open_encoded(Damaged([3, 2]), ["front"], tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_dataset_without_single_images_has_no_copy(tmp_path):
    assert open_encoded(MemoryDataset([3]), ["front"], tmp_path) is None

    class Video(Stored):
        def encoded_image(self, episode, frame, camera):
            return None

    assert open_encoded(Video([3]), ["front"], tmp_path) is None
    with pytest.raises(UserError, match="'side'"):
        open_encoded(Stored([3]), ["side"], tmp_path)


def test_an_image_of_another_size_is_named(tmp_path):
    class Odd(Stored):
        def encoded_image(self, episode, frame, camera):
            return encode_png(np.zeros((5, 5, 3), np.uint8))

    dataset = Odd([2])
    source = WindowSource(dataset, 1, cache=open_encoded(dataset, ["front"], tmp_path))
    with pytest.raises(UserError, match="frame 1, camera 'front' is an image of 5 x 5"):
        source[1]
    with pytest.raises(UserError, match="the copy of its images holds 2 frames, memory has 3"):
        WindowSource(Stored([3]), 1, cache=open_encoded(dataset, ["front"], tmp_path))
