"""Datasets that TFDS wrote, against the arrays that TFDS read from them (tools/tfds_peer.py makes both)."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
sys.path.insert(0, str(Path(__file__).parent))
import rlds_writer
import tfds_peer  # pyright: ignore[reportMissingImports]

from ideomotor.core.errors import UserError
from ideomotor.data.dataset import Dataset, EncodedImages, Noted, Reading
from ideomotor.data.rlds.dataset import RldsDataset
from ideomotor.data.rlds.features import read_features
from ideomotor.data.rlds.folder import read_folder

FILES = Path(__file__).parent / "files" / "rlds"
COUNTS = {"compressed": 91, "encoded": 41, "nested": 121, "pictures": 27, "ragged": 91, "types": 49}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def copied(tmp_path, name):
    """A copy of a dataset, because its index will lie beside it."""
    return shutil.copytree(FILES / name / "1.0.0", tmp_path / name / "1.0.0")


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_every_array_that_tfds_reads_is_read_equal(name, count):
    folder = FILES / name / "1.0.0"
    found, wrong = tfds_peer.compare(folder, folder / "expected.npz")
    assert wrong == []
    assert found == count


def test_the_comparison_finds_a_changed_number(tmp_path):
    arrays = dict(np.load(FILES / "types" / "1.0.0" / "expected.npz"))
    arrays["train|0|steps.int8"] = arrays["train|0|steps.int8"] + np.int8(1)
    np.savez(tmp_path / "changed.npz", **arrays)
    _, wrong = tfds_peer.compare(FILES / "types" / "1.0.0", tmp_path / "changed.npz")
    assert len(wrong) == 1
    assert "types train|0|steps.int8" in wrong[0]


def test_splits_and_shards_are_all_there(tmp_path):
    dataset = RldsDataset(copied(tmp_path, "nested"))
    assert dataset.splits == {"train": range(5), "val": range(5, 7)}
    assert sorted(dataset.length(e) for e in dataset.splits["train"]) == [1, 2, 2, 3, 4]
    assert sorted(dataset.cameras) == ["observation.left.rgb", "observation.right.rgb"]  # both are called rgb
    assert "observation.present.xyz" in dataset.features
    assert dataset.metadata(0)["path"] == f"/data/{dataset.length(0)}"
    assert dataset.metadata(0)["counter"] == dataset.length(0)
    assert dataset.metadata(0)["pose.xyz"].shape == (3,)


def test_old_nodes_declare_the_same_features(tmp_path):
    old = read_features(FILES / "nested" / "legacy_features.json")
    new = read_features(FILES / "nested" / "1.0.0" / "features.json")
    assert old == new
    assert "type" in json.loads((FILES / "nested" / "legacy_features.json").read_text())


def test_columns_say_what_they_hold(tmp_path):
    features = RldsDataset(copied(tmp_path, "ragged")).features
    assert (features["points"].dtype, features["points"].shape) == ("object", ())
    assert features["action"].shape == (3,)
    pictures = RldsDataset(copied(tmp_path, "pictures"))
    depth = pictures.features["observation.depth"]
    assert (depth.dtype, depth.shape) == ("uint16", (6, 8, 1))
    assert sorted(pictures.cameras) == ["any_size", "grey", "jpeg", "png"]
    assert (pictures.cameras["any_size"].height, pictures.cameras["any_size"].width) == (5, 7)
    assert isinstance(pictures, Dataset)
    assert isinstance(pictures, EncodedImages)
    assert isinstance(pictures, Noted)
    assert pictures.notes == ()
    encoded = RldsDataset(copied(tmp_path, "encoded")).features
    assert (encoded["f64"].dtype, encoded["f64"].shape) == ("float64", (2, 3))
    assert encoded["two_sizes"].dtype == "object"


def test_the_stored_file_of_a_picture_is_given_as_it_is(tmp_path):
    folder = copied(tmp_path, "pictures")
    dataset = RldsDataset(folder)
    shard = next(folder.glob("*.tfrecord*")).read_bytes()
    jpeg, png = dataset.encoded_image(0, 1, "jpeg") or b"", dataset.encoded_image(1, 0, "png") or b""
    assert jpeg[:2] == b"\xff\xd8"
    assert png[:4] == b"\x89PNG"
    assert jpeg in shard
    assert png in shard


@pytest.mark.parametrize("name", ["types", "pictures", "ragged", "compressed"])
def test_without_features_json_the_first_record_tells(tmp_path, name):
    declared = RldsDataset(copied(tmp_path, name))
    folder = copied(tmp_path / "bare", name)
    (folder / "features.json").unlink()
    (folder / "dataset_info.json").unlink()
    bare = RldsDataset(folder)
    assert any("no features.json" in note for note in bare.notes)
    assert any("no dataset_info.json" in note for note in bare.notes)
    assert [bare.length(e) for e in range(len(bare))] == [declared.length(e) for e in range(len(declared))]
    assert set(bare.cameras) - set(declared.cameras) <= {"metres"}  # floats stored as a coloured picture look like one
    assert set(declared.cameras) <= set(bare.cameras)
    lost = {"observation.metres"}
    assert set(declared.features) - set(bare.features) <= lost | {"clip"}
    for column in set(declared.features) & set(bare.features):
        ours, theirs = bare.column(0, column), declared.column(0, column)
        if theirs.dtype == object:
            assert len(ours) == len(theirs)
        else:
            assert np.array_equal(ours.reshape(theirs.shape), theirs, equal_nan=theirs.dtype.kind == "f") or (
                theirs.dtype == np.uint64 and np.array_equal(ours.view(np.uint64), theirs)
            )
    assert bare.features["is_first"].dtype == "bool"


def test_a_known_dataset_with_an_action_of_parts_has_them_as_one(tmp_path):
    """The order is that of RT-1: translation, rotation, gripper."""
    folder = copied(tmp_path, "nested")
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, "name": "fractal20220817_data"}))
    for shard in list(folder.glob("*.tfrecord*")):
        shard.rename(shard.with_name(shard.name.replace("nested", "fractal20220817_data")))
    dataset, plain = RldsDataset(folder), RldsDataset(copied(tmp_path / "plain", "nested"))
    assert "action" not in plain.features
    action, expected = dataset.column(0, "action"), np.load(folder / "expected.npz")
    assert action.dtype == np.float32
    assert dataset.features["action"].shape == action.shape[1:]
    parts = ("world_vector", "rotation_delta", "gripper_closedness_action")
    together = np.concatenate([expected[f"train|0|steps.action.{part}"] for part in parts], axis=1)
    assert (action[:, :7] == together).all()
    assert dataset.name == "fractal20220817_data"


def test_renamed_folders_and_shards_are_found(tmp_path):
    folder = copied(tmp_path, "nested")
    moved = folder.rename(tmp_path / "my copy")
    assert len(RldsDataset(moved)) == 7
    for shard in list(moved.glob("*.tfrecord*")):
        shard.rename(shard.with_name(shard.name.replace("nested", "other")))
    dataset = RldsDataset(moved)
    assert len(dataset) == 7
    assert any("renamed" in note for note in dataset.notes)


def test_of_several_versions_the_highest_is_read_or_the_one_asked_for(tmp_path):
    folder = copied(tmp_path, "types")
    for version in ("0.9.0", "1.10.0", "1.2.0"):
        shutil.copytree(folder, folder.parent / version)
    (folder.parent / "1.11.0.incompleteABC").mkdir()
    assert read_folder(folder.parent, Reading()).path.name == "1.10.0"
    assert "0.9.0, 1.0.0, 1.2.0, 1.10.0" in " ".join(RldsDataset(folder.parent).notes)
    assert read_folder(folder.parent, Reading(version="1.2.0")).path.name == "1.2.0"
    with pytest.raises(UserError, match=r"no version '3\.0\.0'; it has 0\.9\.0, 1\.0\.0, 1\.2\.0, 1\.10\.0"):
        RldsDataset(folder.parent, Reading(version="3.0.0"))
    with pytest.raises(UserError, match=r"no version '3\.0\.0'; it has 1\.0\.0"):
        RldsDataset(folder, Reading(version="3.0.0"))


def test_a_missing_shard_is_an_error_that_salvage_turns_into_a_note(tmp_path):
    folder = copied(tmp_path, "nested")
    next(folder.glob("nested-train*-00000-*")).unlink()
    with pytest.raises(UserError, match=r"nested-train.tfrecord-00000-of-00002 is missing, as 1 of 2 are"):
        RldsDataset(folder)
    dataset = RldsDataset(folder, Reading(salvage=True))
    assert len(dataset) < 7
    assert dataset.splits["val"].stop == len(dataset)
    assert any("1 of 2 shards of 'train' are missing" in note for note in dataset.notes)


def test_an_instruction_of_character_codes_is_read(tmp_path):
    """Language-Table stores its sentences as numbers, ended by 0."""
    folder = copied(tmp_path, "types")
    features = json.loads((folder / "features.json").read_text())
    inner = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    row = {"tensor": {"shape": {"dimensions": ["4"]}, "dtype": "int32", "encoding": "none"}}
    inner.clear()
    inner["observation"] = {"featuresDict": {"features": {"instruction": row}}}
    (folder / "features.json").write_text(json.dumps(features))
    for shard in folder.glob("*.tfrecord*"):
        shard.unlink()
    codes = [*map(ord, "up"), 0, 0] * 2
    shard = folder / "types-train.tfrecord-00000-of-00001"
    shard.write_bytes(rlds_writer.framed(rlds_writer.encode({"steps/observation/instruction": codes})) * 3)
    assert RldsDataset(folder).instruction(0) == "up"
    assert RldsDataset(folder).column(0, "observation.instruction").shape == (2, 4)
