"""robomimic files, written with h5py as the format's documentation lays them out."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import hdf5_writer as writer

from ideomotor.core.errors import UsageError, UserError
from ideomotor.data.dataset import Dataset, Noted, Reading
from ideomotor.data.hdf5.files import open_hdf5
from ideomotor.data.hdf5.robomimic import RobomimicDataset, looks_like


@pytest.fixture
def file(tmp_path):
    return writer.robomimic(tmp_path / "demo.hdf5", {0: 3, 2: 2, 10: 4})


def test_demos_come_by_number_and_hold_what_was_written(file):
    for path in (file, file.parent):
        dataset = open_hdf5(path, Reading())
        assert isinstance(dataset, RobomimicDataset)
        assert isinstance(dataset, Dataset)
        assert isinstance(dataset, Noted)
        assert [dataset.length(e) for e in range(len(dataset))] == [3, 2, 4]
    assert dataset.column(2, "action")[3].tolist() == [10.0, 3.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert dataset.column(1, "observation.state")[0].tolist() == [0.25, 0.25, 0.25, 0, 0, 0, 1, 0.04, -0.04]
    assert (dataset.features["observation.state"].names or ())[:4] == ("ee_x", "ee_y", "ee_z", "ee_qx")
    assert dataset.features["rewards"].shape == (1,)
    assert dataset.column(0, "dones").tolist() == [0, 0, 0]
    assert sorted(dataset.features) == [
        "action", "dones", "observation.object", "observation.robot0_eef_pos", "observation.robot0_eef_quat",
        "observation.robot0_gripper_qpos", "observation.state", "rewards", "states",
    ]  # fmt: skip
    frame = dataset[2][3]
    assert (frame["images"]["agentview"] == writer.picture(8, 10, 10, 3)).all()
    assert frame["instruction"] == ""
    assert dataset.fps == 20.0
    assert "3 demos are numbered 0 to 10: 8 numbers are missing" in dataset.notes
    assert "not read: obs/agentview_depth" in dataset.notes


def test_env_args_state_the_embodiment_and_the_sparse_reward(file):
    dataset = RobomimicDataset(file)
    spec = dataset.embodiment
    assert (spec.robot, spec.rate_hz, spec.alignment) == ("panda", 20.0, "observation_before_action")
    assert [channel.name for channel in spec.action][-2:] == ["ee_delta_rz", "gripper"]
    assert spec.action[0].unit == "fraction"
    assert (spec.action[0].frame, spec.action[0].mode) == ("world", "delta")
    assert (spec.gripper.open, spec.gripper.closed) == (-1.0, 1.0)
    assert len(spec.state) == 9
    assert spec.state_rotation.layout == "xyzw"
    camera = spec.cameras_by_role["agentview"]
    assert (camera.height, camera.width, camera.orientation) == (8, 10, "upright")
    assert dataset.success(0) == "success"
    del dataset  # closes the file
    with writer.opened(file, "r+") as edit:
        edit["data/demo_0/rewards"][...] = 0
    assert RobomimicDataset(file).success(0) == "failure"


@pytest.mark.parametrize(
    ("key", "value"),
    [("robots", ["Sawyer"]), ("controller_configs", {"type": "JOINT_POSITION"}), ("control_freq", "x")],
)
def test_what_env_args_do_not_say_stays_unknown(tmp_path, key, value):
    args = {**writer.ENV_ARGS, "env_kwargs": {**writer.ENV_ARGS["env_kwargs"], key: value, "reward_shaping": True}}
    dataset = RobomimicDataset(writer.robomimic(tmp_path / "a.hdf5", {0: 2}, env_args=args))
    assert dataset.embodiment is None
    assert dataset.fps == (None if key == "control_freq" else 20.0)
    assert dataset.success(0) == "unknown"


def test_a_file_without_attributes_observations_or_images_is_read(tmp_path):
    path = tmp_path / "bare.hdf5"
    with writer.opened(path, "w") as file:
        file["data/demo_0/actions"] = np.zeros((3, 4))
        file["data/demo_0/action_dict/abs_pos"] = np.ones((3, 3))
        file["data/demo_0/obs/flat"] = np.arange(3.0)
    dataset = RobomimicDataset(path)
    assert (dataset.fps, dataset.embodiment, dataset.success(0), dict(dataset.cameras)) == (None, None, "unknown", {})
    assert sorted(dataset.features) == ["action", "action.abs_pos", "observation.flat"]
    assert dataset.column(0, "observation.flat").tolist() == [0.0, 1.0, 2.0]


def test_masks_become_splits_by_putting_train_before_valid(tmp_path):
    masks = {
        "train": ["demo_3", "demo_0", "demo_10"], "valid": ["demo_1"], "20_percent": ["demo_0", "demo_1"],
        "stale": ["demo_0", "demo_77"],
    }  # fmt: skip
    dataset = RobomimicDataset(writer.robomimic(tmp_path / "a.hdf5", {0: 1, 1: 2, 2: 3, 3: 4, 10: 5}, masks))
    assert [dataset.length(e) for e in range(5)] == [1, 4, 5, 2, 3]  # demos 0, 3, 10; 1; 2
    assert dataset.splits == {"train": range(3), "valid": range(3, 4), "stale": range(1)}
    assert "mask '20_percent' (2 demos) is no run of episodes and is not offered as a split" in dataset.notes
    assert "mask 'stale' names 1 demos that are not in the file" in dataset.notes


def test_masks_that_overlap_leave_the_order_of_the_numbers(tmp_path):
    masks = {"train": ["demo_1", "demo_0"], "valid": ["demo_1"]}
    dataset = RobomimicDataset(writer.robomimic(tmp_path / "a.hdf5", {0: 1, 1: 2}, masks))
    assert dataset.splits == {"train": range(2), "valid": range(1, 2)}


def test_robocasa_keeps_the_instruction_in_ep_meta(file):
    with writer.opened(file, "r+") as edit:
        edit["data/demo_2"].attrs["ep_meta"] = json.dumps({"lang": "close the door"})
    assert [RobomimicDataset(file).instruction(e) for e in range(3)] == ["", "close the door", ""]


def test_a_pickled_dataset_reads_the_same_and_equal_content_has_equal_hashes(file, tmp_path):
    dataset = RobomimicDataset(file)
    dataset.image(0, 0, "agentview")
    copy = pickle.loads(pickle.dumps(dataset))
    assert (copy.image(1, 1, "agentview") == writer.picture(8, 10, 2, 1)).all()
    (tmp_path / "sub").mkdir()
    other = writer.robomimic(tmp_path / "sub" / "x.hdf5", {0: 3, 2: 2, 10: 4})
    assert RobomimicDataset(other).content_hash == dataset.content_hash
    del copy
    with writer.opened(other, "r+") as edit:
        edit["data/demo_10/actions"][0, 0] = 9.5
    assert RobomimicDataset(other).content_hash != dataset.content_hash


def read_everything(dataset, episode):
    for name in dataset.features:
        dataset.column(episode, name)
    dataset.image(episode, 0, "agentview")


def damage(path, how):
    with writer.opened(path, "r+") as file:
        how(file)


def replaced(name, value):
    def how(file):
        del file[name]
        if value is not None:
            file[name] = value

    return how


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (replaced("data/demo_2/actions", None), "demo_2/actions is missing"),
        (replaced("data/demo_2/actions", np.array([b"x"])), "demo_2/actions holds .S1; numbers"),
        (replaced("data", None), "none of the HDF5 layouts"),
        (lambda f: f["data"].attrs.__setitem__("env_args", "{"), "'env_args' is not JSON"),
        (lambda f: f.__setitem__("mask/train", np.arange(3)), "mask/train should be an array of demo names"),
    ],
)
def test_what_is_wrong_is_named_at_opening(file, how, message):
    damage(file, how)
    with pytest.raises(UserError, match=message):
        open_hdf5(file, Reading())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (replaced("data/demo_2/rewards", np.zeros(5)), "rewards has 5 rows, the episode 2 frames"),
        (
            replaced("data/demo_2/states", np.zeros((2, 3))),
            r"column 'states' is float64\[3\], in the first .* float64\[32\]",
        ),
        (replaced("data/demo_2/obs/agentview_image", np.zeros((2, 4, 4, 3), np.uint8)), r"uint8\[4, 4, 3\], the first"),
        (replaced("data/demo_2/obs/agentview_image", None), "agentview_image is missing"),
    ],
)
def test_episodes_that_differ_are_named_when_read(file, how, message):
    damage(file, how)
    dataset = RobomimicDataset(file)
    with pytest.raises(UserError, match=message):
        read_everything(dataset, 1)


def test_unknown_names_are_answered_with_the_known_ones(file):
    dataset = RobomimicDataset(file)
    with pytest.raises(UsageError, match=r"unknown camera 'agentvew'.*'agentview'"):
        dataset.image(0, 0, "agentvew")
    with pytest.raises(UsageError, match="unknown column 'actions'"):
        dataset.column(0, "actions")


def test_several_files_are_refused_with_their_names(file):
    writer.robomimic(file.parent / "b.hdf5", {0: 1})
    assert looks_like(file.parent)
    with pytest.raises(UserError, match=r"2 robomimic files \(b.hdf5, demo.hdf5\)"):
        RobomimicDataset(file.parent)
