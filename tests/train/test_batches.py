from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ideomotor.core.errors import UsageError, UserError
from ideomotor.core.spec import Embodiment
from ideomotor.core.types import Episode
from ideomotor.data.lerobot.writer import DatasetWriter
from ideomotor.train.batches import load_data
from ideomotor.train.config import FrozenTower, TrainConfig, Vision


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache-batches"))


def config(dataset: Path) -> TrainConfig:
    return TrainConfig(data=str(dataset), out="unused", preset="tiny", batch=4, validation_share=0.25, processes=1)


def test_no_window_is_both_learned_from_and_held_out(dataset: Path) -> None:
    (split,) = load_data(config(dataset), None).splits
    learned, held_out = set(split.train.episodes.tolist()), set(split.held_out.episodes.tolist())
    assert len(held_out) == 3
    assert learned | held_out == set(range(12))
    assert not learned & held_out


def test_the_split_does_not_depend_on_the_seed_of_the_run(dataset: Path) -> None:
    splits = [load_data(replace(config(dataset), seed=seed), None).splits[0] for seed in (0, 1)]
    assert splits[0].held_out.episodes.tolist() == splits[1].held_out.episodes.tolist()


def test_the_ranks_evaluate_every_window_once(dataset: Path) -> None:
    data = load_data(config(dataset), None)
    seen = [
        tuple(place) for rank in range(2) for arrays in data.evaluated(rank, 2) for place in arrays["sample"].tolist()
    ]
    assert sorted(seen) == [(1, i) for i in range(36)]


def test_patch_labels_travel_in_the_vision_stage_only_and_images_not_with_stored_features(dataset: Path) -> None:
    vision = load_data(replace(config(dataset), stage=Vision()), None).loader.batch(0)
    frozen = load_data(replace(config(dataset), stage=FrozenTower()), None).loader.batch(0)
    assert vision["images"].shape == (4, 2, 96, 96, 3)
    assert vision["label.front.class"].shape == (4, 36)
    assert "images" not in frozen
    assert [name for name in frozen if name.startswith("label.")] == ["label.location", "label.location_valid"]
    np.testing.assert_array_equal(frozen["actions"], vision["actions"])


def test_weights_must_fit_the_datasets(dataset: Path) -> None:
    for text in ("0.5,0.5", "half"):
        with pytest.raises(UsageError, match=f"--weights '{text}' should be 1 numbers"):
            load_data(replace(config(dataset), weights=text), None)


def test_an_unknown_preset_is_refused_with_the_known_ones(dataset: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown preset 'tinny'; known: base, small, tiny\. Did you mean 'tiny'"):
        load_data(replace(config(dataset), preset="tinny"), None)


def test_missing_data_are_refused_by_their_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        load_data(config(tmp_path / "nowhere"), None)
    with pytest.raises(UsageError, match="--data is empty"):
        load_data(replace(config(tmp_path), data=" ,"), None)


def test_datasets_of_two_embodiments_are_refused_with_both_sides(
    dataset: Path, tmp_path: Path, embodiment: Embodiment, episode: Episode
) -> None:
    other = replace(embodiment, rate_hz=20.0)
    with DatasetWriter(tmp_path / "other", other) as writer:
        writer.add_episode(replace(episode, embodiment=other))
    with pytest.raises(UserError, match=r"rate_hz: .* has 20\.0, .* has 10\.0"):
        load_data(replace(config(dataset), data=f"{dataset},{tmp_path / 'other'}"), None)


def test_statistics_of_two_datasets_are_those_of_their_union(dataset: Path, second_dataset: Path) -> None:
    both = load_data(replace(config(dataset), data=f"{dataset},{second_dataset}"), None)
    actions = np.concatenate([split.train.actions for split in both.splits]).astype(np.float64)
    np.testing.assert_allclose(
        both.pipeline.first.statistics["action"].q99, np.quantile(actions, 0.99, axis=0), atol=1e-6
    )
