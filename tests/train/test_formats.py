"""The same episodes as RLDS (written by TFDS), LeRobotDataset v2.1 and v3.0, and HDF5: equal samples, equal training."""

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ideomotor.core.spec import Camera, Channel, Embodiment, Gripper
from ideomotor.core.types import Episode, Observation, Step
from ideomotor.data.convert.job import convert_folder
from ideomotor.data.dataset import Reading
from ideomotor.data.lerobot.writer import DatasetWriter
from ideomotor.data.opening import open_dataset
from ideomotor.train.batches import load_data
from ideomotor.train.config import TrainConfig
from ideomotor.train.loop import train

FILES = Path(__file__).parents[1] / "data" / "files" / "tabletop"


def load_episodes() -> Any:
    spec = importlib.util.spec_from_file_location("tabletop_episodes", FILES / "episodes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MADE = load_episodes()
JOINTS = tuple(Channel(f"joint_{i}", "rad", "joint", low=-1.0, high=1.0) for i in range(6))
ARM = Embodiment(
    name="arm-desk",
    robot="arm",
    rate_hz=50.0,
    action=(*JOINTS, Channel("gripper", "fraction", "none", low=0.0, high=1.0)),
    state=(*JOINTS, Channel("gripper", "fraction", "none", low=0.0, high=1.0)),
    cameras=tuple(Camera(name, MADE.SIZE, MADE.SIZE) for name in MADE.CAMERAS),
    gripper=Gripper("gripper", open=1.0, closed=0.0, threshold=0.5),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("formats")
    shutil.copytree(FILES / "rlds", root / "rlds")
    with DatasetWriter(root / "v3", ARM) as writer:
        for e, length in enumerate(MADE.LENGTHS):
            steps = [
                Step(
                    Observation(
                        t / 50.0, {name: MADE.image(e, t, c) for c, name in enumerate(MADE.CAMERAS)}, MADE.state(e)[t]
                    ),
                    MADE.action(e)[t],
                    {},
                )
                for t in range(length)
            ]
            writer.add_episode(Episode(ARM, "", steps, "unknown"))
    convert_folder(open_dataset(root / "v3"), root / "v21", "lerobot-v2.1")
    (root / "hdf5").mkdir()
    for e, length in enumerate(MADE.LENGTHS):
        with h5py.File(root / "hdf5" / f"episode_{e}.hdf5", "w") as file:
            file.attrs["sim"] = True
            file["action"] = MADE.action(e)
            file["observations/qpos"] = MADE.state(e)
            file["observations/qvel"] = np.zeros_like(MADE.state(e))
            for c, name in enumerate(MADE.CAMERAS):
                file[f"observations/images/{name}"] = np.stack([MADE.image(e, t, c) for t in range(length)])
    (root / "arm.json").write_text(ARM.to_text(), encoding="utf-8")
    return {name: root / name for name in ("rlds", "v21", "v3", "hdf5")}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache-formats"))


def config(folder: Path, out: Path, steps: int) -> TrainConfig:
    given = TrainConfig(
        data=str(folder),
        out=str(out),
        embodiment=str(folder.parent / "arm.json"),
        colour="rgb",
        preset="tiny",
        batch=8,
        steps=steps,
        checkpoint_every=steps,
        eval_every=steps,
        validation_share=0.25,
        processes=1,
        precision="fp32",
    )
    return given if folder.name == "hdf5" else replace(given, colour="")


def test_equal_numbers_of_samples_are_equal_samples(folders: dict[str, Path]) -> None:
    loaded = {name: load_data(config(folder, Path("unused"), 1), None) for name, folder in folders.items()}
    first = loaded["v3"].splits[0].train
    assert sum(len(s) for s in (first, loaded["v3"].splits[0].held_out)) == sum(MADE.LENGTHS)
    for name, data in loaded.items():
        source = data.splits[0].train
        assert len(source) == len(first), name
        for index in range(len(first)):
            ours, theirs = source[index], first[index]
            np.testing.assert_array_equal(ours.actions, theirs.actions)
            np.testing.assert_array_equal(ours.state, theirs.state)
            np.testing.assert_array_equal(ours.actions_pad, theirs.actions_pad)
            assert ours.instruction == theirs.instruction == ""
            for camera in MADE.CAMERAS:
                np.testing.assert_array_equal(ours.images[camera], theirs.images[camera])
    episode, frame = first.place(0)
    np.testing.assert_array_equal(first[0].images["cam_high"], MADE.image(episode, frame, 0))


def test_hdf5_becomes_a_lerobot_dataset_with_every_number_and_pixel(folders: dict[str, Path], tmp_path: Path) -> None:
    source = open_dataset(folders["hdf5"], Reading(colour="rgb"))
    for target in ("lerobot-v3", "lerobot-v2.1"):
        convert_folder(source, tmp_path / target, target)
        converted = open_dataset(tmp_path / target)
        assert converted.fps == 50.0  # ALOHA's
        for e, length in enumerate(MADE.LENGTHS):
            np.testing.assert_array_equal(converted.column(e, "action"), MADE.action(e))
            np.testing.assert_array_equal(converted.column(e, "observation.state"), MADE.state(e))
            for c, name in enumerate(MADE.CAMERAS):
                np.testing.assert_array_equal(converted.image(e, length - 1, name), MADE.image(e, length - 1, c))


@pytest.mark.parametrize("steps", [6, pytest.param(500, marks=pytest.mark.slow)])
def test_training_on_each_gives_the_same_weights(folders: dict[str, Path], tmp_path: Path, steps: int) -> None:
    """Equal weights after the last step: so were all losses."""
    weights = {
        name: (train(config(folder, tmp_path / name, steps)) / "model.safetensors").read_bytes()
        for name, folder in folders.items()
    }
    assert len(set(weights.values())) == 1
