"""A meaning that a user states: what fits is passed through, what does not is refused, and nothing is guessed in silence."""

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from arrays import ArrayDataset, numbered

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Camera, Channel, Embodiment, Gripper, RotationForm
from ideomotor.data.dataset import ACTION, STATE, Dataset, EncodedImages, Noted
from ideomotor.data.meaning.described import DescribedDataset, for_training, read_embodiment, write_embodiment
from ideomotor.data.meaning.specification import check_for_robot, grippers, unknowns
from ideomotor.data.opening import open_dataset
from ideomotor.robot.arms.panda import PANDA
from ideomotor.sim.env import tabletop_embodiment
from ideomotor.sim.render import Ray

STATED = Embodiment(
    name="mine",
    robot="franka",
    rate_hz=10.0,
    action=(Channel("x", "m", "base", "delta"), Channel("grip", "fraction", "none")),
    state=(Channel("x", "m"),),
    cameras=(Camera("front", 6, 8, source="image_a"), Camera("wrist", 6, 8, source="image_b")),
    gripper=Gripper("grip", open=1.0, closed=0.0, threshold=0.5),
)


def dataset(**options):
    actions = [np.arange(2 * n).reshape(n, 2) for n in (3, 4)]
    return numbered(actions, [np.ones((n, 1)) for n in (3, 4)], cameras=("image_a", "image_b"), **options)


class Noisy(ArrayDataset):
    notes = ("one record was lost",)

    def encoded_image(self, episode, frame, camera):
        return f"{camera} {episode} {frame}".encode()


def test_everything_passes_and_the_meaning_is_stated():
    raw = dataset(splits={"train": range(1)})
    described = DescribedDataset(raw, STATED)
    assert isinstance(described, Dataset)
    assert described.embodiment == STATED
    assert described.fps == 10.0
    assert (described.path, described.format, dict(described.splits)) == (raw.path, raw.format, {"train": range(1)})
    assert len(described) == 2
    assert described.length(1) == 4
    assert described.instruction(1) == "do 1"
    assert described.success(0) == "unknown"
    assert described.column(1, ACTION) is raw.column(1, ACTION)
    assert described.features[ACTION].names == ("x", "grip")
    assert described[1][2]["action"].tolist() == [4, 5]
    assert described[1][2]["images"]["wrist"][0, 0, 0] == 10 + 2 + 100  # image_b
    assert list(described.cameras) == ["front", "wrist"]


def test_cameras_are_named_by_role_or_by_source_and_may_be_left_out():
    raw = dataset()
    one = replace(STATED, cameras=(Camera("image_b", 6, 8),))
    described = DescribedDataset(raw, one)
    assert list(described.cameras) == ["image_b"]
    assert described.image(0, 0, "image_b")[0, 0, 0] == 100


def test_the_hash_covers_content_and_meaning():
    raw, other = dataset(), dataset()
    other.content_hash = "other"
    hashes = {
        raw.content_hash,
        DescribedDataset(raw, STATED).content_hash,
        DescribedDataset(other, STATED).content_hash,
        DescribedDataset(raw, replace(STATED, robot="ur5")).content_hash,
        DescribedDataset(raw, replace(STATED, cameras=STATED.cameras[:1])).content_hash,
    }
    assert len(hashes) == 5
    assert DescribedDataset(raw, STATED).content_hash == DescribedDataset(dataset(), STATED).content_hash


def test_notes_and_stored_images_are_forwarded_where_there_are_some():
    noisy = Noisy(dataset().columns, cameras=("image_a", "image_b"))
    described = DescribedDataset(noisy, STATED)
    assert isinstance(described, Noted)
    assert isinstance(described, EncodedImages)
    assert described.notes == ("one record was lost",)
    assert described.encoded_image(1, 2, "wrist") == b"image_b 1 2"
    plain = DescribedDataset(dataset(), STATED)
    assert plain.notes == ()
    assert plain.encoded_image(0, 0, "front") is None


def test_it_can_be_sent_to_another_process():
    described = DescribedDataset(dataset(), STATED)
    again = pickle.loads(pickle.dumps(described))
    assert again.content_hash == described.content_hash
    assert again.image(0, 1, "wrist").tolist() == described.image(0, 1, "wrist").tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"action": STATED.action[:1], "gripper": None}, "states 1 channels of 'action', the dataset has 2"),
        ({"state": ()}, "states 0 channels of 'observation.state', the dataset has 1"),
        (
            {"cameras": (Camera("top", 6, 8, source="image_c"),)},
            "no camera 'top', nor 'image_c' as its source says; it has image_a",
        ),
        ({"cameras": (Camera("image_a", 7, 8),)}, "states 8 x 7 pixels of camera 'image_a', the dataset has 8 x 6"),
        ({"cameras": (Camera("image_a", 6, 8), Camera("b", 6, 8, source="image_a"))}, "two of its cameras are one"),
        ({"cameras": (Camera("image_a", 6, 8), Camera("image_a", 6, 8))}, "two of its cameras have one role"),
        ({"rate_hz": 0.0}, "its rate_hz is 0"),
        ({"rate_hz": float("nan")}, "its rate_hz is nan"),
        ({"gripper": Gripper("hand", 1.0, 0.0, 0.5)}, "its gripper moves by 'hand'"),
        ({"gripper": Gripper("grip", 1.0, 1.0, 0.5)}, "opens and closes at one value"),
        ({"action": (STATED.action[1], STATED.action[1])}, "two channels of its action have one name"),
        ({"action_rotation": RotationForm("euler", "xyz", first=2)}, "its action_rotation begins at channel 2, of 2"),
    ],
)
def test_a_meaning_that_does_not_fit_is_refused_with_the_reason(change, words):
    with pytest.raises(UserError, match=words):
        DescribedDataset(dataset(), replace(STATED, **change))


def test_another_rate_than_the_datasets_is_refused_and_all_reasons_are_named():
    wrong = replace(STATED, rate_hz=5.0, state=())
    with pytest.raises(
        UserError, match=r"0 channels of 'observation.state'.*; it states 5 Hz, the dataset has 10 frames"
    ):
        DescribedDataset(dataset(fps=10.0), wrong)


# ------------------------------------------------------------------------------------------------------------ training


def test_a_dataset_that_says_nothing_is_refused_with_the_guess_and_what_to_do():
    with pytest.raises(UserError) as caught:
        for_training(dataset(), None)
    text = str(caught.value)
    assert "does not say what its numbers mean" in text
    assert "looked at 7 frames of 2 episodes" in text
    assert "ideomotor data guess /data/arrays --out embodiment.json" in text
    assert text.endswith("--embodiment embodiment.json")


def test_what_the_dataset_says_is_taken_as_it_is():
    raw = dataset(embodiment=replace(STATED, cameras=()))
    assert for_training(raw, None) is raw


def test_a_dataset_with_a_record_is_standardized(fixtures):
    folder = fixtures / "bridge-rlds-train" / "bridge_dataset"
    if not folder.is_dir():
        pytest.skip(f"the Bridge sample is absent ({folder})")
    standard = for_training(open_dataset(folder), None)
    assert standard.embodiment.robot == "widowx"
    assert standard.embodiment.rate_hz == 5.0
    assert standard.length(0) == open_dataset(folder).length(0) - 2  # the first step and the last are dropped


def test_what_the_user_says_comes_first(tmp_path):
    write_embodiment(STATED, tmp_path / "e.json")
    raw = dataset(embodiment=replace(STATED, robot="ur5"))
    described = for_training(raw, tmp_path / "e.json")
    assert described.embodiment == STATED
    assert isinstance(described, DescribedDataset)


def test_a_file_that_is_none_is_refused_by_name(tmp_path):
    for name, content in (
        ("deep.json", b"[" * 100_000),
        ("half.json", b"\xff\xfe"),
        ("long.json", b" " * (2 << 20)),
        ("list.json", b"[]"),
        ("fields.json", json.dumps({"format": 1, "name": "x"}).encode()),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read_embodiment(tmp_path / name)
    with pytest.raises(UserError, match=r"none\.json cannot be read"):
        read_embodiment(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_embodiment(tmp_path)


# -------------------------------------------------------------------------------------------------------------- robots


def test_tabletop_says_all_that_a_robot_needs():
    embodiment = tabletop_embodiment(PANDA, Ray())
    check_for_robot(embodiment)
    assert grippers(embodiment).tolist() == [False] * 6 + [True]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"action": (Channel("x", "unknown", "base", "delta"), STATED.action[1])}, "Unknown: unit of action x"),
        ({"action": (Channel("x", "m", "unknown", "delta"), STATED.action[1])}, "frame of action x"),
        ({"action": (Channel("x", "m", "base", "unknown"), STATED.action[1])}, "mode of action x"),
        (
            {"state": (Channel("q", "unknown", "unknown", "unknown"),)},
            "unit of state q; frame of state q; mode of state q",
        ),
        ({"action_rotation": RotationForm("unknown", first=0)}, "rotation of action"),
        ({"state_rotation": RotationForm("quaternion", first=0)}, r"rotation of state \(its layout\)"),
        ({"gripper": None}, "which value of grip opens the gripper"),
    ],
)
def test_an_unknown_is_legal_and_moves_no_robot(change, words):
    embodiment = replace(STATED, **change)
    assert Embodiment.from_text(embodiment.to_text(), "x") == embodiment
    DescribedDataset(dataset(), embodiment)  # legal in data
    assert unknowns(embodiment)
    with pytest.raises(UserError, match=words):
        check_for_robot(embodiment)


@pytest.mark.parametrize(
    "rotation",
    [
        RotationForm("rotation_vector", first=0),
        RotationForm("matrix", first=0),
        RotationForm("quaternion", "wxyz", first=0),
        RotationForm("euler", "xyz", first=0),
        RotationForm("rot6d", "rows", first=0),
    ],
)
def test_a_rotation_with_its_layout_is_known(rotation):
    assert unknowns(replace(STATED, action_rotation=rotation)) == ()


def test_columns_other_than_state_and_action_keep_their_names():
    raw = ArrayDataset(
        {**dataset().columns, "label.front": [np.zeros((3, 2)), np.zeros((4, 2))]},
        names={"label.front": ("a", "b")},
        cameras=("image_a", "image_b"),
    )
    features = DescribedDataset(raw, STATED).features
    assert features["label.front"].names == ("a", "b")
    assert features[STATE].names == ("x",)
