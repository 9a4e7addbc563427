"""OpenVLA's statistics: read as they are, applied to the reference's letter."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ideomotor.core.errors import UsageError, UserError
from ideomotor.data.norm_stats import OFT_WIDENING, NormStatistics, entry_of
from ideomotor.data.normalize import normalize, unnormalize
from ideomotor.data.statistics import Statistics, summarize

KEYS = ("bridge_orig", "fixture_partial_mask", "fixture_ten_dims_no_mask")


def numbers(width: int = 2, **changes: Any) -> dict[str, Any]:
    column = {"min": [-1.0] * width, "max": [1.0] * width, "q01": [-0.9] * width, "q99": [0.8] * width}
    return {name: value for name, value in (column | changes).items() if value is not None}


def of(action: Any, **more: Any) -> NormStatistics:
    return NormStatistics.from_json({"own": {"action": action, **more}}, "the file")


@pytest.fixture
def checkpoint(fixtures: Path) -> Path:
    return fixtures / "openvla-parity-a" / "checkpoint"


@pytest.fixture
def statistics(checkpoint: Path) -> NormStatistics:
    return NormStatistics.of_checkpoint(checkpoint)


def test_what_was_read_is_written_unchanged(checkpoint: Path, statistics: NormStatistics):
    assert statistics.to_json() == json.loads((checkpoint / "dataset_statistics.json").read_text())


@pytest.mark.parametrize("key", KEYS)
def test_tokens_become_the_actions_of_the_reference(key: str, fixtures: Path, statistics: NormStatistics):
    expected = np.load(fixtures / "openvla-parity-a" / "expected.npz")
    back = statistics.column(key, "action").scales("bounds_q99").back
    for i in range(6):
        own = f"{i}.normalized_action.{key}"
        normalized = expected[own if own in expected else f"{i}.normalized_action"]
        np.testing.assert_allclose(unnormalize(normalized, back), expected[f"{i}.action.{key}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("key", KEYS[:2])
def test_oft_widens_the_range_by_a_hundred_millionth(key: str, fixtures: Path, statistics: NormStatistics):
    expected = np.load(fixtures / "openvla-parity-a" / "oft" / "expected_discrete.npz")
    column = statistics.column(key, "action")
    wide, narrow = column.scales("bounds_q99", OFT_WIDENING).back, column.scales("bounds_q99").back
    normalized, raw = expected["0.normalized_actions"], expected[f"0.actions.{key}"]
    np.testing.assert_allclose(unnormalize(normalized, wide), raw, rtol=0, atol=1e-12)
    assert np.abs(unnormalize(normalized, narrow) - raw).max() > 1e-9


def test_states_are_clipped_and_know_no_mask(fixtures: Path, statistics: NormStatistics):
    expected = np.load(fixtures / "openvla-parity-a" / "oft" / "expected_l1.npz")
    there = statistics.column("fixture_partial_mask", "proprio").unmasked().scales("bounds_q99").there
    for i in range(6):
        scaled = normalize(expected[f"{i}.state"], there)
        np.testing.assert_allclose(scaled, expected[f"{i}.proprio_normalized"], rtol=0, atol=1e-12)
    masked = of(numbers(), proprio=numbers(mask=[False, True])).column("own", "proprio").unmasked()
    np.testing.assert_allclose(normalize(np.array([5.0, 5.0]), masked.scales("bounds_q99").there), [1, 1])


def test_a_missing_mask_means_that_every_number_is_scaled(statistics: NormStatistics):
    assert statistics.column("fixture_ten_dims_no_mask", "action").mask.tolist() == [True] * 10
    assert statistics.column("fixture_partial_mask", "action").mask.tolist() == [
        True,
        False,
        True,
        True,
        True,
        False,
        False,
    ]


def test_constants_are_learned_as_zero_and_come_back_as_the_reference_says():
    """arXiv 2406.09246: 0 on the way there, masked or not; the way back is the bare formula, or nothing outside of the mask."""
    column = of(
        numbers(
            3,
            min=[0.25, 0.25, -1.0],
            max=[0.25, 0.25, 1.0],
            q01=[0.25] * 3,
            q99=[0.25, 0.25, 0.5],
            mask=[True, False, False],
        )
    )
    scales = column.column("own", "action").scales("bounds_q99")
    assert normalize(np.array([0.25, 0.25, 0.5]), scales.there).tolist() == [0.0, 0.0, 0.5]
    assert unnormalize(np.array([0.7, 0.7, 0.7]), scales.back).tolist() == [0.25, 0.7, 0.7]


def test_extremes_scale_where_quantiles_would_clip():
    column = of(numbers()).column("own", "action")
    np.testing.assert_allclose(normalize(np.array([-1.0, 0.9]), column.scales("bounds").there), [-1, 0.9], atol=1e-7)
    np.testing.assert_allclose(normalize(np.array([-1.0, 0.9]), column.scales("bounds_q99").there), [-1, 1], atol=1e-7)


# ------------------------------------------------------------------------------------------------ which dataset


def test_a_key_may_be_left_out_where_there_is_one_only():
    assert of(numbers()).choose() == "own"


def test_several_datasets_have_to_be_chosen_from(statistics: NormStatistics):
    with pytest.raises(UsageError, match=r"3 datasets.*--statistics: bridge_orig, fixture_partial_mask, fixture_ten"):
        statistics.choose()


def test_an_unknown_key_is_answered_with_the_nearest(statistics: NormStatistics):
    with pytest.raises(
        UsageError, match="unknown statistics 'bridge'; known: bridge_orig, .* Did you mean 'bridge_orig'"
    ):
        statistics.choose("bridge")


def test_a_dataset_is_added_beside_the_others(statistics: NormStatistics):
    more = statistics.with_dataset("mine", {"action": numbers()})
    assert more.choose("mine") == "mine"
    assert [*more.datasets] == [*statistics.datasets, "mine"]
    assert "mine" not in statistics.datasets
    assert more.hash("mine") != more.hash("bridge_orig") == statistics.hash("bridge_orig")


# ------------------------------------------------------------------------------------------------ files


def test_a_file_of_its_own_stands_instead_of_the_configuration(tmp_path: Path, checkpoint: Path):
    shutil.copy(checkpoint / "config.json", tmp_path)
    assert [*NormStatistics.of_checkpoint(tmp_path).datasets] == [*KEYS]
    (tmp_path / "dataset_statistics.json").write_text(json.dumps({"mine": {"action": numbers()}}))
    assert NormStatistics.of_checkpoint(tmp_path).choose() == "mine"


def test_a_checkpoint_without_statistics_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"has no statistics: neither dataset_statistics\.json nor norm_stats"):
        NormStatistics.of_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "should hold statistics by dataset"),
        ({}, "should hold statistics by dataset"),
        ({"own": {"num_transitions": 3}}, "'own' holds no statistics of an action"),
        ({"own": {"action": numbers(q01=[0.0])}}, "equally many finite numbers"),
        ({"own": {"action": numbers(q01=[0.0, float("nan")])}}, "equally many finite numbers"),
        ({"own": {"action": numbers(q01=["a", "b"])}}, "lists of numbers"),
        ({"own": {"action": numbers(q01=[[0.0], [1.0]])}}, "equally many finite numbers"),
        ({"own": {"action": numbers(mask=[True])}}, "has 2 numbers, and its mask"),
        ({"own": {"action": numbers(mask=[1, 0])}}, "has 2 numbers, and its mask"),
        ({"own": {"action": {}}}, "equally many finite numbers"),
        ({"own": {"action": numbers(), "proprio": 3}}, "'proprio' of 'own'"),
    ],
)
def test_anything_else_is_refused_with_its_place(value: Any, message: str):
    with pytest.raises(UserError, match=message):
        NormStatistics.from_json(value, "the file")


def test_a_number_that_is_not_there_is_named():
    with pytest.raises(UserError, match="has no 'q01'; it has max, min"):
        of(numbers(q01=None, q99=None)).column("own", "action").scales("bounds_q99")
    with pytest.raises(UserError, match="'own' have no 'proprio'"):
        of(numbers()).column("own", "proprio")


# ------------------------------------------------------------------------------------------------ from a dataset


def test_statistics_of_a_dataset_have_openvlas_form():
    rng = np.random.default_rng(0)
    actions, states = rng.normal(size=(300, 3)), rng.normal(size=(300, 5))
    found = Statistics({"action": summarize(actions), "observation.state": summarize(states)})
    entry = entry_of(found, np.array([True, True, False]), 300, 4, state=True)
    assert [*entry] == ["action", "proprio", "num_transitions", "num_trajectories"]
    assert [*entry["action"]] == ["mean", "std", "max", "min", "q01", "q99", "mask"]
    for name, values in (("action", actions), ("proprio", states)):
        np.testing.assert_allclose(entry[name]["q01"], np.quantile(values, 0.01, axis=0), rtol=1e-12)
        np.testing.assert_allclose(entry[name]["std"], values.std(0), rtol=1e-12)
    assert (entry["action"]["mask"], entry["num_transitions"], entry["num_trajectories"]) == (
        [True, True, False],
        300,
        4,
    )
    blind = entry_of(found, np.array([True, True, False]), 300, 4, state=False)
    assert blind["proprio"]["q99"] == [0.0] * 3  # of the action's width, as in the reference
    assert NormStatistics.from_json({"mine": entry}, "here").column("mine", "action").width == 3
