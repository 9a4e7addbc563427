"""`meta/stats.json` of a LeRobotDataset v3.0."""

from pathlib import Path
from typing import Any

import numpy as np

from ideomotor.data.dataset import Feature
from ideomotor.data.lerobot.episode import finite_rows, finite_summary
from ideomotor.data.lerobot.info import AUTOMATIC
from ideomotor.data.lerobot.v3 import LeRobotDataset
from ideomotor.data.rows import NARROW, Rows
from ideomotor.data.statistics import Summary, histogram_summary, lerobot_json, summarize_rows

SAMPLED_IMAGES = 1000  # per camera, evenly spaced, for meta/stats.json


def dataset_statistics(folder: Path) -> dict[str, Any]:
    """Return `meta/stats.json`: exact for numbers, over evenly spaced images for cameras."""
    dataset = LeRobotDataset(folder)
    numeric = [feature for feature in dataset.features.values() if feature.numeric]
    automatic = [Feature(name, "float32" if name == "timestamp" else "int64", (1,)) for name in AUTOMATIC]
    result: dict[str, Any] = {}
    for feature in [*numeric, *automatic]:
        result[feature.name] = lerobot_json(_column_statistics(dataset, feature), image=False)
    for role, camera in dataset.info.cameras.items():
        result[camera.key] = lerobot_json(_camera_statistics(dataset, role), image=True)
    return result


def _column_statistics(dataset: LeRobotDataset, feature: Feature) -> Summary:
    """Return the exact statistics of a column; frames that hold NaN or infinities (converted ones may) are left out."""
    width = int(np.prod(feature.shape))
    with Rows(width, "float32" if feature.dtype in NARROW else "float64") as rows:
        for episode in range(len(dataset)):
            values = dataset.column(episode, feature.name)
            rows.append(finite_rows(values.reshape(len(values), width)))
        return summarize_rows(rows) if len(rows) else finite_summary(np.full((1, width), np.nan))


def _camera_statistics(dataset: LeRobotDataset, role: str) -> Summary:
    frames = [(e, f) for e in range(len(dataset)) for f in range(dataset.length(e))]
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(len(frames), SAMPLED_IMAGES)).round().astype(int)]
    counts = np.zeros((3, 256), np.int64)
    for episode, frame in chosen:
        image = dataset.image(episode, frame, role)
        counts += np.stack([np.bincount(image[..., c].reshape(-1), minlength=256) for c in range(3)])
    return histogram_summary(counts, len(chosen))
