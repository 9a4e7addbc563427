from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ideomotor.core.spec import Camera, Channel, Embodiment, Gripper, RotationForm
from ideomotor.core.types import Episode, Observation, Step
from ideomotor.data.lerobot.writer import DatasetWriter

SIZE, PATCHES = 96, 36
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}

EMBODIMENT = Embodiment(
    name="panda-tabletop",
    robot="panda",
    rate_hz=10.0,
    action=(
        *(Channel(f"ee_delta_{axis}", "m", mode="delta", low=-0.05, high=0.05) for axis in "xyz"),
        *(Channel(f"ee_delta_r{axis}", "rad", mode="delta", low=-0.3, high=0.3) for axis in "xyz"),
        Channel("gripper", "fraction", frame="none", mode="absolute", low=0.0, high=1.0),
    ),
    state=(
        *(Channel(f"ee_{axis}", "m") for axis in "xyz"),
        *(Channel(f"rot6d_{i}", "1") for i in range(6)),
        Channel("gripper", "fraction", frame="none"),
    ),
    cameras=(Camera("front", SIZE, SIZE), Camera("wrist", SIZE, SIZE)),
    action_rotation=RotationForm("rotation_vector", first=3),
    state_rotation=RotationForm("rot6d", "rows", first=3),
    gripper=Gripper("gripper", open=1.0, closed=0.0, threshold=0.5),
)


def picture(rng: np.random.Generator, centre: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A grey image with a square of one colour around `centre` [px]."""
    image = rng.integers(90, 110, (SIZE, SIZE, 3), dtype=np.uint8)
    column, row = np.clip(centre, 8, SIZE - 9).astype(int)
    image[row - 8 : row + 8, column - 8 : column + 8] = colour
    return image


def patch_labels(camera: str, centre: np.ndarray, kind: int) -> dict[str, np.ndarray]:
    column, row = np.clip(centre, 8, SIZE - 9)
    patch = int(row // 16) * 6 + int(column // 16)
    labels = {
        "class": np.zeros(PATCHES, np.int64),
        "offset": np.zeros((PATCHES, 2), np.float32),
        "yaw": np.zeros((PATCHES, 2), np.float32),
        "held": np.zeros(PATCHES, np.float32),
    }
    labels["class"][patch] = kind
    labels["offset"][patch] = (column % 16 - 8) / 16, (row % 16 - 8) / 16
    labels["yaw"][patch] = 1, 0
    return {f"label.{camera}.{name}": value.reshape(-1) for name, value in labels.items()}


def synthetic_episode(seed: int, frames: int = 12) -> Episode:
    """The hand moves to the square that the instruction names; action and labels follow from the picture."""
    rng = np.random.default_rng(seed)
    name = list(COLOURS)[seed % 3]
    target, hand = rng.uniform(16, 80, 2), rng.uniform(16, 80, 2)
    steps: list[Step] = []
    for frame in range(frames):
        delta = np.clip((target - hand) / 200.0, -0.05, 0.05)
        closed = float(frame > frames // 2)
        action = np.array([*delta, -0.01, 0, 0, delta.sum(), 1 - closed], np.float32)
        state = np.array([*hand / 100, 0.1 + 0.01 * frame, 1, 0, 0, 1, 0, 0, 1 - closed], np.float32)
        images = {
            "front": picture(rng, target, COLOURS[name]),
            "wrist": picture(rng, target - hand + 48, COLOURS[name]),
        }
        labels = {
            **patch_labels("front", target, 1 + seed % 3),
            **patch_labels("wrist", target - hand + 48, 1 + seed % 3),
            "label.location": np.array([*target / 100, *target / 100, 1, 0], np.float32),
            "label.location_valid": np.array([1, 1, 0, 0, 1, 1], np.float32),
            "expert.chunk": np.tile(action, 4),
        }
        steps.append(Step(Observation(0.1 * frame, images, state), action, labels))
        hand = hand + 100 * action[:2]
    return Episode(EMBODIMENT, f"pick up the {name} cube", steps, "success")


def write_dataset(folder: Path, episodes: int, first_seed: int = 0) -> Path:
    with DatasetWriter(folder, EMBODIMENT) as writer:
        for seed in range(first_seed, first_seed + episodes):
            writer.add_episode(synthetic_episode(seed))
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve synthetic episodes of twelve frames."""
    return write_dataset(tmp_path_factory.mktemp("data") / "synthetic", episodes=12)


@pytest.fixture(scope="session")
def second_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four other episodes."""
    return write_dataset(tmp_path_factory.mktemp("data") / "second", episodes=4, first_seed=100)


@pytest.fixture(scope="session")
def few_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of four frames without the expert's advice: quickly learned by heart."""
    folder = tmp_path_factory.mktemp("data") / "few-frames"
    with DatasetWriter(folder, EMBODIMENT) as writer:
        for seed in (0, 1):
            episode = synthetic_episode(seed, frames=4)
            writer.add_episode(replace(episode, steps=[replace(step, labels={}) for step in episode.steps]))
    return folder


@pytest.fixture(scope="session")
def embodiment() -> Embodiment:
    return EMBODIMENT


@pytest.fixture(scope="session")
def episode() -> Episode:
    return synthetic_episode(0)
