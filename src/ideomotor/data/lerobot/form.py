"""What all episodes of a LeRobotDataset that is written have in common, and how `meta/info.json` declares it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ideomotor.core.spec import Embodiment
from ideomotor.data.dataset import Feature
from ideomotor.data.lerobot.episode import IMAGE_PREFIX
from ideomotor.data.lerobot.info import AUTOMATIC, CameraFeature


@dataclass(frozen=True)
class Form:
    """What all episodes of a dataset have in common, beside their columns."""

    fps: float  # [1/s]
    robot: str | None
    cameras: tuple[CameraFeature, ...]
    embodiment: Embodiment | None  # None: what the numbers mean is not known


def form_of(embodiment: Embodiment) -> Form:
    """Return the form of what a robot of this embodiment records: images in the table."""
    cameras = tuple(
        CameraFeature(IMAGE_PREFIX + c.role, c.role, c.height, c.width, 3, video=False) for c in embodiment.cameras
    )
    return Form(embodiment.rate_hz, embodiment.robot, cameras, embodiment)


def declared_features(features: Sequence[Feature], form: Form) -> dict[str, Any]:
    """Return `features` of info.json, automatic columns last."""
    declared: dict[str, Any] = {
        f.name: {"dtype": f.dtype, "shape": list(f.shape), "names": list(f.names) if f.names else None}
        for f in features
    }
    for camera in form.cameras:
        shape, names = [camera.height, camera.width, camera.channels], ["height", "width", "channels"]
        declared[camera.key] = {"dtype": "video" if camera.video else "image", "shape": shape, "names": names}
    for name in AUTOMATIC:
        declared[name] = {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
    return declared
