"""A dataset of arrays in memory for tests of meaning and statistics."""

import hashlib
from pathlib import Path

import numpy as np

from ideomotor.core.spec import Camera
from ideomotor.data.dataset import ACTION, STATE, EpisodeView, Feature


class ArrayDataset:
    """Episodes given as columns; one grey camera, or those that are given."""

    format = "arrays"

    def __init__(
        self, columns, name="arrays", fps=None, embodiment=None, cameras=("image",), names=None, splits=None, path=None
    ):
        """Take `columns`: name -> a list of arrays, one for each episode, frames first."""
        self.columns = columns
        self.path = Path("/data") / name if path is None else path
        self.fps = fps
        self.embodiment = embodiment
        self.cameras = {camera: Camera(camera, 6, 8, orientation="unknown") for camera in cameras}
        self.features = {
            key: Feature(key, str(parts[0].dtype), parts[0].shape[1:], (names or {}).get(key))
            for key, parts in columns.items()
        }
        self.splits = splits or {}
        content = b"".join(part.tobytes() for parts in columns.values() for part in parts)
        self.content_hash = hashlib.sha256(content).hexdigest()
        self.read = 0

    def __len__(self):
        return len(self.columns[ACTION])

    def __getitem__(self, episode):
        return EpisodeView(self, episode)

    def length(self, episode):
        return len(self.columns[ACTION][episode])

    def instruction(self, episode):
        return f"do {episode}"

    def success(self, episode):
        return "unknown"

    def column(self, episode, name):
        self.read += 1
        return self.columns[name][episode]

    def image(self, episode, frame, camera):
        return np.full((6, 8, 3), 10 * episode + frame + 100 * list(self.cameras).index(camera), np.uint8)


def numbered(actions, states=None, **options):
    """Return a dataset of actions, and states where they are given."""
    columns = {ACTION: [np.asarray(a, np.float32) for a in actions]}
    if states is not None:
        columns[STATE] = [np.asarray(s, np.float32) for s in states]
    return ArrayDataset(columns, **options)
