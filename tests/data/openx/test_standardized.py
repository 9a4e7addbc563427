"""The standardized dataset as training meets it: windows, statistics, cache, other processes; and the real Bridge sample."""

import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
import expected
from memory_dataset import MemoryDataset

from ideomotor.core.errors import UsageError, UserError
from ideomotor.data.cache import open_cache
from ideomotor.data.dataset import ACTION, STATE, Dataset, EncodedImages, Noted
from ideomotor.data.opening import open_dataset
from ideomotor.data.openx.records import RECORDS
from ideomotor.data.openx.standardized import StandardizedDataset, record_for, standardized
from ideomotor.data.statistics import compute
from ideomotor.data.windows import WindowSource


@pytest.fixture
def bridge(raw_root):
    dataset = standardized(open_dataset(raw_root / "bridge_orig"))
    assert dataset is not None
    return dataset


@pytest.fixture
def droid(raw_root):
    dataset = standardized(open_dataset(raw_root / "droid"))
    assert dataset is not None
    return dataset


def test_it_is_a_dataset_with_notes_and_stored_images(bridge):
    assert isinstance(bridge, Dataset)
    assert isinstance(bridge, Noted)
    assert isinstance(bridge, EncodedImages)
    assert bridge.fps == 5.0
    assert bridge.splits == {"train": range(2)}
    assert bridge.embodiment.cameras_by_role.keys() == {"primary", "secondary"}
    assert any("left out of every episode: the first step" in note for note in bridge.notes)
    assert any("open question: sign of the gripper" in note for note in _notes_of("cmu_stretch", bridge.path.parent))


def _notes_of(name, root):
    return standardized(open_dataset(root / name)).notes


def test_raw_values_stay_below(bridge):
    assert [bridge.raw.length(episode) for episode in range(2)] == [6, 4]
    assert bridge.raw.column(0, ACTION)[0].tolist() == [0.25] * 6 + [1.0]


def test_other_columns_lose_the_same_steps(bridge, droid):
    assert bridge.column(0, "is_first").tolist() == [False] * 4
    assert droid.column(0, "observation.joint_position")[:, 0].tolist() == [190, 490, 590]
    view = bridge[0][1]
    assert view["state"].tolist() == pytest.approx(expected.BRIDGE_STATE[1])
    assert view["action"].tolist() == pytest.approx(expected.BRIDGE_ACTION[1])
    assert view["instruction"] == expected.APPLE


def test_windows_never_see_a_dropped_step(bridge, droid):
    source = WindowSource(bridge, horizon=3)
    assert len(source) == 6
    np.testing.assert_allclose(source[1].actions, expected.BRIDGE_ACTION[1:4], atol=1e-6)
    assert source[3].actions_pad.tolist() == [False, True, True]
    assert source[0].images.keys() == {"primary", "secondary"}
    assert abs(int(source[0].images["primary"][4, 4, 1]) - 20) <= 2  # the picture of raw step 1
    still = WindowSource(droid, horizon=2)  # its second episode has no step left
    assert len(still) == 3
    np.testing.assert_allclose(still[0].actions, expected.DROID_ACTION[:2])


def test_decoded_frames_are_those_that_remain(bridge, tmp_path):
    frames = open_cache(bridge, ["primary"], (8, 8), folder=tmp_path, workers=1).frames
    assert frames.shape == (6, 1, 8, 8, 3)
    assert np.abs(frames[:4, 0, 4, 4, 1].astype(int) - [20, 40, 60, 80]).max() <= 2
    source = WindowSource(bridge, 1, cache=open_cache(bridge, ["primary"], (8, 8), folder=tmp_path, workers=1))
    assert (source[2].images["primary"] == frames[2, 0]).all()


def test_statistics_are_of_the_standard_form(bridge):
    statistics = compute(bridge, [0], [ACTION, STATE])
    assert statistics[ACTION].count == 4
    assert statistics[ACTION].max[6] == 1.0
    np.testing.assert_allclose(statistics[ACTION].mean, np.mean(expected.BRIDGE_ACTION, axis=0), atol=1e-6)


def test_stored_images_are_given_for_the_steps_that_remain(bridge, droid):
    if not isinstance(bridge.raw, EncodedImages):
        pytest.skip("the reader of RLDS does not give stored images")
    for dataset, frame, raw_frame, camera in ((bridge, 0, 1, "image_0"), (droid, 1, 4, "exterior_image_1_left")):
        stored = dataset.encoded_image(0, frame, "primary")
        assert stored == dataset.raw.encoded_image(0, raw_frame, camera)
        assert stored[:2] == b"\xff\xd8"


def test_a_dataset_without_stored_images_has_none():
    raw = MemoryDataset([4])
    raw.cameras = {"image_0": raw.cameras["front"]}
    assert StandardizedDataset(raw, RECORDS["bridge_orig"]).encoded_image(0, 0, "primary") is None


def test_it_travels_to_other_processes(bridge):
    copy = pickle.loads(pickle.dumps(bridge))
    assert copy.content_hash == bridge.content_hash
    assert (copy.column(0, ACTION) == bridge.column(0, ACTION)).all()


def test_the_hash_covers_raw_content_and_record(bridge, raw_root, tmp_path):
    elsewhere = shutil.copytree(raw_root / "bridge_orig", tmp_path / "elsewhere")
    again = standardized(open_dataset(elsewhere))
    assert again.content_hash == bridge.content_hash
    assert bridge.content_hash != bridge.raw.content_hash
    record = bridge.record
    for changed in (
        replace(record, trim=(0, 1)),
        replace(record, formulas=("state", "action")),
        replace(record, cameras={"primary": "image_1"}),
        replace(record, embodiment=replace(record.embodiment, rate_hz=6.0)),
    ):
        assert StandardizedDataset(bridge.raw, changed).content_hash != bridge.content_hash


def test_new_rules_do_not_find_what_was_kept_of_the_old_ones(bridge, monkeypatch):
    before = bridge.content_hash
    monkeypatch.setattr("ideomotor.data.openx.standardized.RULES", 2)
    assert bridge.content_hash != before


def test_a_camera_that_the_files_lack_is_named(bridge):
    record = replace(bridge.record, cameras={"primary": "image_0", "wrist": "image_9"})
    dataset = StandardizedDataset(bridge.raw, record)
    assert list(dataset.cameras) == ["primary"]
    assert "no wrist camera: the files lack 'image_9'" in dataset.notes
    with pytest.raises(UserError, match=r"no camera of the record 'bridge_orig' \(image_9\)"):
        StandardizedDataset(bridge.raw, replace(bridge.record, cameras={"primary": "image_9"}))


def test_unknown_names_and_frames_are_refused_with_the_known_ones(bridge):
    with pytest.raises(UsageError, match="unknown camera 'image_0'; known: primary, secondary"):
        bridge.image(0, 0, "image_0")
    with pytest.raises(UsageError, match="unknown column 'actions'.*'action'"):
        bridge.column(0, "actions")
    with pytest.raises(IndexError, match="has no frame 4; it has 4"):
        bridge.image(0, 4, "primary")


def test_a_rotation_that_is_none_is_named_by_file_and_episode(raw_root):
    name = f"furniture_bench_dataset{expected.CONVERTED}"
    dataset = standardized(open_dataset(raw_root / name))
    broken = replace(dataset.record, standardize=_zero_quaternions)
    with pytest.raises(UserError, match=r"furniture_bench.*episode 1, by the record '.*': no rotation"):
        StandardizedDataset(dataset.raw, broken).column(1, ACTION)


def _zero_quaternions(raw):
    columns = {**raw.columns, ACTION: np.zeros_like(raw.columns[ACTION])}
    return RECORDS[f"furniture_bench_dataset{expected.CONVERTED}"].standardize(replace(raw, columns=columns))


def test_a_dataset_that_nobody_wrote_down_has_no_record():
    assert record_for(MemoryDataset([3])) is None
    assert standardized(MemoryDataset([3])) is None


def test_the_bridge_sample_standardizes_as_bridge_orig(fixtures, tmp_path):
    """Real data; the expected numbers are computed here from the raw ones, by the words of the rule."""
    raw = open_dataset(shutil.copytree(fixtures / "bridge-rlds-train", tmp_path / "bridge"))
    dataset = standardized(raw)
    assert dataset is not None
    assert dataset.record.name == "bridge_orig"
    assert len(dataset) == 18
    assert [dataset.length(episode) for episode in range(18)] == [8] * 18
    for episode in range(18):
        state, action = raw.column(episode, STATE)[1:], raw.column(episode, ACTION)[1:]
        gripper, decided = np.zeros(9, np.float32), action[-1, 6]
        for t in reversed(range(9)):
            if action[t, 6] > 0.95:
                decided = 1.0
            elif action[t, 6] < 0.05:
                decided = 0.0
            gripper[t] = decided
        want = np.column_stack([state[1:, :6] - state[:-1, :6], gripper[:-1]])
        np.testing.assert_array_equal(dataset.column(episode, ACTION), want)
        padded = np.column_stack([state[:-1, :6], np.zeros(8), state[:-1, 6]])
        np.testing.assert_array_equal(dataset.column(episode, STATE), padded.astype(np.float32))
        assert dataset.instruction(episode) == raw.instruction(episode)
    assert (dataset.image(3, 0, "primary") == raw.image(3, 1, "image_0")).all()
    assert (dataset.image(3, 7, "secondary") == raw.image(3, 8, "image_1")).all()
    grippers = np.concatenate([dataset.column(episode, ACTION)[:, 6] for episode in range(18)])
    assert 0 < grippers.mean() < 1  # both occur
