"""Small recordings for the tests of data/: episodes whose every number and pixel follows from its index."""

from collections.abc import Mapping

import numpy as np

from ideomotor.core.spec import Camera, Channel, Embodiment, Gripper
from ideomotor.core.types import Episode, Observation, Step, Success

EMBODIMENT = Embodiment(
    name="toy",
    robot="panda",
    rate_hz=10.0,
    action=(Channel("x", "m", mode="delta"), Channel("gripper", "fraction", frame="none")),
    state=(Channel("x", "m"), Channel("y", "m"), Channel("opening", "fraction", frame="none")),
    cameras=(Camera("front", 12, 16), Camera("wrist", 8, 8)),
    gripper=Gripper("gripper", open=1.0, closed=0.0, threshold=0.5),
)


def picture(episode: int, frame: int, height: int, width: int) -> np.ndarray:
    """A gradient over the image that says which episode and frame it is of."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 5, y * 7 + frame, np.full_like(x, 10 * episode + 3)], -1).astype(np.uint8)


def state(episode: int, frame: int) -> np.ndarray:
    return np.array([episode, frame, episode + frame / 8], np.float32)


def action(episode: int, frame: int) -> np.ndarray:
    return np.array([frame / 4 - episode, frame % 2], np.float32)


def labels(episode: int, frame: int) -> dict[str, np.ndarray]:
    return {
        "expert.chunk": np.arange(4, dtype=np.float32) + frame,
        "label.front.class": np.array([episode, frame], np.int64),
        "label.valid": np.array(1.0, np.float32),
    }


def step(episode: int, frame: int, extra: Mapping[str, np.ndarray] | None = None) -> Step:
    images = {"front": picture(episode, frame, 12, 16), "wrist": picture(episode, frame, 8, 8)}
    observation = Observation(frame / 10, images, state(episode, frame))
    return Step(observation, action(episode, frame), labels(episode, frame) if extra is None else extra)


def episode(index: int, length: int = 5, instruction: str = "pick the can", success: Success = "success") -> Episode:
    return Episode(EMBODIMENT, instruction, [step(index, frame) for frame in range(length)], success)
