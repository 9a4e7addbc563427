"""LIBERO files as released and as regenerated for OpenVLA, written with h5py."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import hdf5_writer as writer

from ideomotor.core.errors import UserError
from ideomotor.data.dataset import Dataset, Reading
from ideomotor.data.hdf5.files import open_hdf5
from ideomotor.data.hdf5.libero import LiberoDataset


@pytest.fixture
def released(tmp_path):
    writer.libero(tmp_path / "s" / "KITCHEN_SCENE1_open_the_drawer_demo.hdf5", {0: 6, 1: 5}, released=True)
    writer.libero(tmp_path / "s" / "KITCHEN_SCENE2_close_it_demo.hdf5", {0: 7}, released=True)
    return tmp_path / "s"


@pytest.fixture
def regenerated(tmp_path):
    writer.libero(tmp_path / "r" / "pick_up_the_milk_demo.hdf5", {1: 6, 4: 5, 12: 8}, released=False, size=16)
    return tmp_path / "r"


@pytest.fixture(autouse=True)
def folders(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "r").mkdir()


def test_released_files_record_observations_after_the_action(released):
    dataset = open_hdf5(released, Reading())
    assert isinstance(dataset, LiberoDataset)
    assert isinstance(dataset, Dataset)
    assert dataset.format == "LIBERO HDF5"
    assert [dataset.length(e) for e in range(3)] == [6, 5, 7]
    assert [dataset.instruction(e) for e in range(3)] == ["open the drawer"] * 3  # as the attribute says
    assert dataset.embodiment.alignment == "observation_after_action"
    assert dataset.fps == 20.0
    assert dataset.success(0) == "success"
    assert dataset.column(0, "action")[3].tolist() == [0.3, 0, 0, 0, 0, 0, -1]
    assert dataset.column(0, "observation.state")[0].tolist() == [0.1, 0.2, 0.3, 3.0, 0.0, 0.5, 0.04, -0.04]
    # the joints of row 2 are those before action 3, by construction of the file
    assert dataset.column(0, "observation.joint_states")[2, 0] == dataset.column(0, "states")[3, 1]


def test_regenerated_files_record_before_have_no_attributes_and_gaps(regenerated):
    dataset = open_hdf5(regenerated, Reading())
    assert isinstance(dataset, LiberoDataset)
    assert dataset.format == "LIBERO HDF5 (regenerated)"
    assert dataset.embodiment.alignment == "observation_before_action"
    assert [dataset.length(e) for e in range(3)] == [6, 5, 8]
    assert dataset.instruction(2) == "pick up the milk"
    assert any("3 demos are numbered 1 to 12: 9 numbers are missing" in note for note in dataset.notes)
    assert any("not evenly spaced in time" in note for note in dataset.notes)
    assert dataset.cameras["agentview"].width == 16


def test_images_stay_upside_down_and_say_so(released, regenerated):
    for folder, size, number in ((released, 8, 1), (regenerated, 16, 4)):
        dataset = LiberoDataset(folder)
        assert sorted(dataset.cameras) == ["agentview", "eye_in_hand"]
        assert {camera.orientation for camera in dataset.cameras.values()} == {"flipped"}
        assert (dataset.image(1, 2, "eye_in_hand") == writer.picture(size, size, number, 2)).all()
        assert dataset.embodiment.cameras_by_role.keys() == dataset.cameras.keys()


def test_images_of_files_that_state_opencv_are_upright(tmp_path):
    path = writer.libero(tmp_path / "a_demo.hdf5", {0: 5}, released=True)
    for value, expected in (("opencv", "upright"), ("else", "unknown")):
        with writer.opened(path, "r+") as file:
            file["data"].attrs["macros_image_convention"] = value
        assert LiberoDataset(path).cameras["agentview"].orientation == expected


def test_the_embodiment_states_the_gripper_and_the_rotation(released):
    spec = LiberoDataset(released).embodiment
    assert (spec.gripper.channel, spec.gripper.open, spec.gripper.closed) == ("gripper", -1.0, 1.0)
    assert (spec.action_rotation.form, spec.action_rotation.first) == ("rotation_vector", 3)
    assert [channel.name for channel in spec.state] == [
        "ee_x", "ee_y", "ee_z", "ee_rx", "ee_ry", "ee_rz", "gripper_0", "gripper_1",
    ]  # fmt: skip


def test_joints_that_contradict_the_attributes_win_with_a_note(tmp_path):
    path = writer.libero(tmp_path / "a_demo.hdf5", {0: 9}, released=True)
    with writer.opened(path, "r+") as file:
        file["data/demo_0/obs/joint_states"][...] = file["data/demo_0/states"][:, 1:8]
    dataset = LiberoDataset(path)
    assert dataset.embodiment.alignment == "observation_before_action"
    assert any("clearly for observation_before_action" in note for note in dataset.notes)
    del dataset  # closes the file
    with writer.opened(path, "r+") as file:
        file["data/demo_0/obs/joint_states"][...] = np.random.default_rng(0).normal(size=(9, 7))
    assert (
        LiberoDataset(path).embodiment.alignment == "observation_after_action"
    )  # nothing to be seen: as the kind says


def test_files_of_both_kinds_are_not_mixed(released):
    writer.libero(released / "z_demo.hdf5", {0: 5}, released=False)
    with pytest.raises(UserError, match="mixes files as released .*SCENE1.* with regenerated"):
        LiberoDataset(released)


def test_a_list_of_letters_is_an_instruction(tmp_path):
    path = writer.libero(tmp_path / "a_demo.hdf5", {0: 5}, released=True)
    with writer.opened(path, "r+") as file:
        file["data"].attrs["problem_info"] = '{"language_instruction": ["\\"", "g", "o", "\\""]}'
    assert LiberoDataset(path).instruction(0) == "go"


def test_a_suite_travels_to_other_processes(released):
    copy = pickle.loads(pickle.dumps(LiberoDataset(released)))
    assert copy.length(2) == 7
    assert (copy.image(2, 6, "agentview") == writer.picture(8, 8, 0, 6)).all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("obs/ee_states", None, "obs/ee_states is missing"),
        ("obs/ee_states", np.zeros((6, 7)), "'observation.state' has the shape .9.; LIBERO's has 8"),
        ("actions", np.zeros((6, 8)), "'action' has the shape .8.; LIBERO's has 7"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, value, message):
    path = writer.libero(tmp_path / "a_demo.hdf5", {0: 6}, released=True)
    with writer.opened(path, "r+") as file:
        del file[f"data/demo_0/{name}"]
        if value is not None:
            file[f"data/demo_0/{name}"] = value
    with pytest.raises(UserError, match=message):
        open_hdf5(path, Reading())
