"""A dataset in memory with what other formats have and LeRobotDataset has not; every value tells its episode and frame."""

import io
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ideomotor.core.spec import Camera
from ideomotor.data.dataset import EpisodeView, Feature

HEIGHT, WIDTH = 16, 24
FEATURES = (
    Feature("observation.state", "float64", (3,)),
    Feature("action", "float32", (2,)),
    Feature("action.rotation", "float32", (3, 3)),
    Feature("observation.image_id", "uint8", ()),
    Feature("reward", "float32", (1,)),
    Feature("is_first", "bool", ()),
    Feature("index", "int64", ()),
    Feature("note", "string", ()),
    Feature("words", "string", (2,)),
    Feature("boxes", "float32", (-1, 4)),
    Feature("ragged", "int32", (-1, -1)),
    Feature("half", "float16", (2,)),
)


def value(name: str, e: int, f: int) -> Any:
    rng = np.random.default_rng(1000 * e + f)
    values: dict[str, Any] = {
        "observation.state": rng.standard_normal(3),
        "action": rng.standard_normal(2).astype(np.float32),
        "action.rotation": rng.standard_normal((3, 3)).astype(np.float32),
        "observation.image_id": np.uint8((10 * e + f) % 256),
        "reward": np.array([f / 3], np.float32),
        "is_first": np.bool_(f == 0),
        "index": np.int64(100 - f),
        "note": f"ß {e}/{f}",
        "words": np.array([f"a{e}", f"b{f}"], object),
        "boxes": rng.standard_normal((f % 3, 4)).astype(np.float32),
        "half": np.array([e, f / 8], np.float16),
    }
    if name == "ragged":
        ragged = np.empty(2, object)
        ragged[:] = [np.arange(e, dtype=np.int32), np.arange(f, dtype=np.int32)]
        return ragged
    return values[name]


def jpeg(e: int, f: int) -> bytes:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    buffer = io.BytesIO()
    Image.fromarray(np.stack([x * 9, y * 12, np.full_like(x, 40 * e + 5 * f)], -1).astype(np.uint8)).save(
        buffer, "JPEG"
    )
    return buffer.getvalue()


class OddSource:
    """Episode 1 has no frames; the second camera gives pixels only; the third lacks frame 0 of each episode."""

    path, format, fps, embodiment = Path("odd"), "odd 1.0", 10.0, None
    content_hash = "odd"
    features: ClassVar = {feature.name: feature for feature in FEATURES}
    cameras: ClassVar = {role: Camera(role, HEIGHT, WIDTH) for role in ("image_0", "left/wrist", "sparse")}

    def __init__(self, lengths: tuple[int, ...] = (3, 0, 5, 2)) -> None:
        self.lengths = lengths
        self.splits = {"train": range(3), "val": range(3, 4)}

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, episode: int) -> EpisodeView:
        whole: Any = self
        return EpisodeView(whole, episode)

    def length(self, episode: int) -> int:
        return self.lengths[episode]

    def instruction(self, episode: int) -> str:
        return ("lift", "", "drop", "lift")[episode]

    def success(self, episode: int):
        return ("success", "unknown", "failure", "unknown")[episode]

    def column(self, episode: int, name: str) -> np.ndarray:
        feature = self.features[name]
        values = [value(name, episode, f) for f in range(self.lengths[episode])]
        if feature.dtype == "string" or -1 in feature.shape:
            column = np.empty((len(values), *[n for n in feature.shape if n > 0 and feature.dtype == "string"]), object)
            for f, item in enumerate(values):
                column[f] = item
            return column
        return np.array(values, feature.dtype).reshape(len(values), *feature.shape)

    def image(self, episode: int, frame: int, camera: str) -> np.ndarray:
        if camera == "sparse" and frame == 0:
            return np.zeros((1, 1, 3), np.uint8)
        return np.asarray(Image.open(io.BytesIO(jpeg(episode, frame))))

    def encoded_image(self, episode: int, frame: int, camera: str) -> bytes | None:
        stored = {"image_0": True, "left/wrist": False, "sparse": frame > 0}[camera]
        return jpeg(episode, frame) if stored else None
