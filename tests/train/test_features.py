from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ideomotor.data.opening import open_dataset
from ideomotor.data.windows import WindowSource
from ideomotor.train.features import FeatureStore, compute_features, weights_hash
from ideomotor.train.parallel import Group

FRAMES = np.random.default_rng(0).integers(0, 256, (150, 2, 4, 4, 3), dtype=np.uint8)


def mean_colours(images: Tensor) -> Tensor:
    """A tower with one token a camera: the mean colour in [0, 1]."""
    return images.float().mean((2, 3)) / 255


def test_each_frame_has_the_features_of_its_own_pixels(tmp_path: Path) -> None:
    features = compute_features(mean_colours, FRAMES, {"tower": "mean"}, tmp_path, Group())
    np.testing.assert_allclose(features, FRAMES.mean((2, 3)) / 255, atol=1e-3)


def test_complete_features_are_not_computed_again_and_others_are(tmp_path: Path) -> None:
    calls: list[int] = []

    def counting(images: Tensor) -> Tensor:
        calls.append(len(images))
        return mean_colours(images)

    compute_features(counting, FRAMES, {"tower": "a"}, tmp_path, Group())
    before = len(calls)
    compute_features(counting, FRAMES, {"tower": "a"}, tmp_path, Group())
    assert len(calls) == before
    compute_features(counting, FRAMES, {"tower": "b"}, tmp_path, Group())
    assert len(calls) == 2 * before


def test_unfinished_features_are_computed_again(tmp_path: Path) -> None:
    compute_features(mean_colours, FRAMES, {"tower": "a"}, tmp_path, Group())
    (mark,) = tmp_path.glob("*.json")
    mark.unlink()
    np.save(mark.with_suffix(".npy"), np.zeros((150, 2, 3), np.float16))
    features = compute_features(mean_colours, FRAMES, {"tower": "a"}, tmp_path, Group())
    assert float(features[-1].mean()) > 0.1


def test_a_window_finds_its_frame_in_the_whole_dataset(dataset: Path) -> None:
    data = open_dataset(dataset)
    lengths = [data.length(e) for e in range(len(data))]
    first = np.cumsum([0, *lengths])
    source = WindowSource(data, horizon=4, episodes=[7, 2], labels=[])
    numbered = np.arange(sum(lengths), dtype=np.float16).reshape(-1, 1, 1)
    found = FeatureStore([numbered], [source]).look_up(np.array([[0, 0], [0, 11], [0, 12], [0, 15]]))
    # Windows 0 to 11 are episode 7, windows 12 to 23 episode 2; each has 12 frames.
    assert found[:, 0, 0].tolist() == [first[7], first[7] + 11, first[2], first[2] + 3]


def test_the_hash_changes_with_any_weight() -> None:
    linear = torch.nn.Linear(3, 2)
    before = weights_hash(linear)
    assert weights_hash(linear) == before
    with torch.no_grad():
        linear.bias[1] += 1e-6
    assert weights_hash(linear) != before
