"""ALOHA episodes with raw, padded and variable-length images, written with h5py."""

import io
import pickle
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import hdf5_writer as writer

from ideomotor.core.errors import UserError
from ideomotor.data.dataset import Dataset, EncodedImages, Reading
from ideomotor.data.hdf5.aloha import AlohaDataset, colour_preview
from ideomotor.data.hdf5.files import open_hdf5

RGB, BGR = Reading(colour="rgb"), Reading(colour="bgr")


@pytest.fixture
def folder(tmp_path):
    for number in (0, 2, 10):
        writer.aloha(tmp_path / f"episode_{number}.hdf5", 3 + number, offset=number)
    return tmp_path


def test_episodes_come_by_number_and_hold_what_was_written(folder):
    dataset = open_hdf5(folder, RGB)
    assert isinstance(dataset, AlohaDataset)
    assert isinstance(dataset, Dataset)
    assert isinstance(dataset, EncodedImages)
    assert [dataset.length(e) for e in range(3)] == [3, 5, 13]
    assert dataset.column(2, "action")[:2, 0].tolist() == [10.0, 11.0]
    assert dataset.column(1, "observation.state")[4, 0] == -6.0
    assert sorted(dataset.features) == [
        "action", "base_action", "observation.effort", "observation.qvel", "observation.state",
    ]  # fmt: skip
    assert (dataset.features["action"].names or ())[6:7] == ("left_gripper",)
    assert dataset.fps == 50.0
    assert (dataset.instruction(0), dataset.success(0)) == ("", "unknown")
    assert "3 episodes are numbered 0 to 10: 8 numbers are missing" in dataset.notes
    spec = dataset.embodiment
    assert [c.name for c in spec.action][6:8] == ["left_gripper", "right_joint_0"]
    assert (spec.action[0].unit, spec.action[6].unit, spec.action[0].mode) == ("rad", "fraction", "absolute")
    assert (spec.alignment, spec.rate_hz) == ("observation_before_action", 50.0)


def test_an_openvla_oft_recording_runs_at_25_hertz(folder):
    with writer.opened(folder / "episode_0.hdf5", "r+") as file:
        file["relative_action"] = np.zeros((3, 14), np.float32)
    dataset = AlohaDataset(folder)
    assert (dataset.fps, dataset.embodiment.rate_hz) == (25.0, 25.0)


@pytest.mark.parametrize("width", [6, 7])
def test_single_arms_are_read(tmp_path, width):
    dataset = AlohaDataset(writer.aloha(tmp_path / "episode_0.hdf5", 4, width=width), RGB)
    assert len(dataset.embodiment.action) == width
    assert (dataset.embodiment.gripper is None) == (width == 6)


@pytest.mark.parametrize("images", ["raw", "padded", "vlen"])
@pytest.mark.parametrize("bgr", [False, True])
def test_images_of_every_form_decode_to_red_above_and_blue_below(tmp_path, images, bgr):
    path = writer.aloha(tmp_path / "episode_0.hdf5", 3, images, bgr=bgr)
    dataset = AlohaDataset(path, BGR if bgr else RGB)
    image = dataset.image(0, 2, "cam_left_wrist")
    assert np.abs(image[2:6].mean((0, 1)) - (200, 0, 0)).max() < 4
    assert np.abs(image[10:14].mean((0, 1)) - (0, 0, 200)).max() < 4
    if images == "raw":
        assert (image == writer.picture(16, 24, 1, 2)).all()
    assert dataset.cameras["cam_high"].colour == "rgb"
    assert sorted(dataset.cameras) == ["cam_high", "cam_left_wrist"]


@pytest.mark.parametrize("images", ["padded", "vlen"])
def test_the_stored_jpeg_comes_without_its_padding_where_its_colours_are_right(tmp_path, images):
    path = writer.aloha(tmp_path / "episode_0.hdf5", 2, images)
    assert AlohaDataset(path, RGB).encoded_image(0, 1, "cam_high") == writer.jpeg(writer.picture(16, 24, 0, 1))
    assert AlohaDataset(path, BGR).encoded_image(0, 1, "cam_high") is None
    raw = writer.aloha(tmp_path / "episode_1.hdf5", 2)
    assert AlohaDataset(raw, RGB).encoded_image(0, 1, "cam_high") is None


def test_without_the_order_of_the_colours_numbers_are_read_and_images_refused(tmp_path):
    dataset = AlohaDataset(writer.aloha(tmp_path / "episode_0.hdf5", 3, "padded"))
    assert dataset.cameras["cam_high"].colour == "unknown"
    assert dataset.column(0, "action").shape == (3, 14)
    for ask in (dataset.image, dataset.encoded_image):
        with pytest.raises(UserError, match=r"--colour rgb.*--colour bgr.*preview"):
            ask(0, 0, "cam_high")
    assert any("--colour rgb" in note for note in dataset.notes)


@pytest.mark.parametrize("images", ["raw", "padded"])
def test_the_preview_shows_both_readings_side_by_side(tmp_path, images):
    writer.aloha(tmp_path / "episode_0.hdf5", 3, images)
    said = colour_preview(tmp_path, tmp_path / "out" / "colours.png")
    assert "left `--colour rgb`, right `--colour bgr`" in said
    with Image.open(tmp_path / "out" / "colours.png") as picture:
        sheet = np.asarray(picture.convert("RGB")).astype(int)
    height, width = 320, 480  # of one reading: 16 x 24, enlarged
    assert sheet.shape == (2 * height, 2 * width, 3)
    assert np.abs(sheet[100:140, 300:400].mean((0, 1)) - (200, 0, 0)).max() < 4  # red above, as stored
    assert np.abs(sheet[100:140, width + 300 : width + 400].mean((0, 1)) - (0, 0, 200)).max() < 4
    assert (sheet[5:30, 5:200] == 255).all(-1).any()  # the label


def test_a_dataset_travels_with_its_reading(folder):
    copy = pickle.loads(pickle.dumps(AlohaDataset(folder, RGB)))
    assert (copy.image(0, 1, "cam_high") == writer.picture(16, 24, 0, 1)).all()


def test_a_damaged_jpeg_is_named_by_file_camera_and_frame(tmp_path):
    path = writer.aloha(tmp_path / "episode_0.hdf5", 3, "padded")
    with writer.opened(path, "r+") as file:
        file["observations/images/cam_high"][1, 20:] = 0
        file["observations/images/cam_high"][2] = 0
    dataset = AlohaDataset(path, RGB)
    with pytest.raises(UserError, match="episode_0.hdf5/observations/images/cam_high, frame 1: .*damaged"):
        dataset.image(0, 1, "cam_high")
    with pytest.raises(UserError, match="frame 2 begins with .* neither JPEG nor PNG"):
        dataset.image(0, 2, "cam_high")


def test_images_of_other_sizes_and_counts_are_named(folder):
    with writer.opened(folder / "episode_2.hdf5", "r+") as file:
        del file["observations/images/cam_high"], file["observations/images/cam_left_wrist"]
        file["observations/images/cam_high"] = np.zeros((5, 8, 8, 3), np.uint8)
        file["observations/images/cam_left_wrist"] = np.zeros((4, 16, 24, 3), np.uint8)
    dataset = AlohaDataset(folder, RGB)
    with pytest.raises(UserError, match="has 8 x 8 px, the first episode 16 x 24"):
        dataset.image(1, 0, "cam_high")
    with pytest.raises(UserError, match="has 4 images, the episode 5 frames"):
        dataset.image(1, 0, "cam_left_wrist")


def test_depth_is_skipped_and_object_images_are_refused(tmp_path):
    path = writer.aloha(tmp_path / "episode_0.hdf5", 2)
    with writer.opened(path, "r+") as file:
        file["observations/images/cam_low_depth"] = np.zeros((2, 16, 24), np.uint16)
    assert "cam_low_depth" not in AlohaDataset(path, RGB).cameras
    with writer.opened(path, "r+") as file:
        file.create_dataset("observations/images/cam_low", (2,), dtype=h5py.string_dtype())
    with pytest.raises(UserError, match="cam_low holds object; images of variable length are arrays of bytes"):
        AlohaDataset(path, RGB)


def test_the_jpegs_of_a_viewer_and_of_this_reader_agree(tmp_path):
    path = writer.aloha(tmp_path / "episode_0.hdf5", 1, "vlen")
    dataset = AlohaDataset(path, RGB)
    with Image.open(io.BytesIO(dataset.encoded_image(0, 0, "cam_high") or b"")) as picture:
        assert np.abs(np.asarray(picture).astype(int) - dataset.image(0, 0, "cam_high")).max() <= 3
