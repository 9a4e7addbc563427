"""A converted dataset under the names and in the shapes that it had before (data/convert/names.py)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ideomotor.core.errors import unknown
from ideomotor.core.spec import Camera, Embodiment
from ideomotor.core.types import Success
from ideomotor.data.convert.names import Names, OriginalColumn, read_names
from ideomotor.data.convert.plan import from_json_text
from ideomotor.data.dataset import Dataset, EpisodeView, Feature, Noted
from ideomotor.data.lerobot.v3 import LeRobotDataset


def with_original_names(dataset: LeRobotDataset) -> Dataset:
    """Return the dataset as it was before its conversion; one that was not converted, or kept all names, as it is.

    Raises:
        UserError: `meta/names.json` is damaged.
    """
    names = read_names(dataset.path)
    return OriginallyNamed(dataset, names) if names else dataset


class OriginallyNamed:
    """A LeRobotDataset with other names, as a `Dataset`."""

    def __init__(self, dataset: LeRobotDataset, names: Names) -> None:
        self.dataset, self.names = dataset, names
        self._here = {names.columns[name].name if name in names.columns else name: name for name in dataset.features}
        self._roles = {names.cameras.get(role, role): role for role in dataset.cameras}
        self.features: Mapping[str, Feature] = {
            old: _feature(dataset.features[here], names.columns.get(here)) for old, here in self._here.items()
        }
        self.cameras: Mapping[str, Camera] = {old: dataset.cameras[here] for old, here in self._roles.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.dataset, self.names)

    @property
    def path(self) -> Path:
        return self.dataset.path

    @property
    def format(self) -> str:
        """Name and version of the format that it has now, and the one that it had."""
        return f"{self.dataset.format}, converted from {self.names.source}"

    @property
    def fps(self) -> float | None:
        return self.dataset.fps

    @property
    def embodiment(self) -> Embodiment | None:
        return self.dataset.embodiment

    @property
    def splits(self) -> Mapping[str, range]:
        return self.dataset.splits

    @property
    def content_hash(self) -> str:
        return self.dataset.content_hash

    @property
    def notes(self) -> tuple[str, ...]:
        return self.dataset.notes if isinstance(self.dataset, Noted) else ()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, episode: int) -> EpisodeView:
        return EpisodeView(self, episode)

    def length(self, episode: int) -> int:
        return self.dataset.length(episode)

    def instruction(self, episode: int) -> str:
        return self.dataset.instruction(episode)

    def success(self, episode: int) -> Success:
        return self.dataset.success(episode)

    def column(self, episode: int, name: str) -> np.ndarray:
        here = self._here.get(name)
        if here is None:
            raise unknown("column", name, self._here)
        values = self.dataset.column(episode, here)
        before = self.names.columns.get(here)
        return values if before is None else _restored(values, before)

    def image(self, episode: int, frame: int, camera: str) -> UInt8[np.ndarray, "height width 3"]:
        return self.dataset.image(episode, frame, self._role(camera))

    def encoded_image(self, episode: int, frame: int, camera: str) -> bytes | None:
        return self.dataset.encoded_image(episode, frame, self._role(camera))

    def _role(self, camera: str) -> str:
        if camera not in self._roles:
            raise unknown("camera", camera, self._roles)
        return self._roles[camera]


def _feature(here: Feature, before: OriginalColumn | None) -> Feature:
    if before is None:
        return here
    dtype = before.dtype if before.form == "json" else here.dtype
    return Feature(before.name, dtype, before.shape, here.names if before.shape == here.shape else None)


def _restored(values: np.ndarray, before: OriginalColumn) -> np.ndarray:
    if before.form == "same":
        return values if before.plain else values.reshape(len(values), *before.shape)
    frames = [from_json_text(text) for text in values]
    if frames and before.dtype == "string" and all(getattr(f, "shape", None) == before.shape for f in frames):
        return np.stack(frames)  # several texts a frame
    ragged = np.empty(len(frames), object)
    for i, frame in enumerate(frames):
        ragged[i] = frame
    return ragged
