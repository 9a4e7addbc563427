"""What a dataset offers, whatever its format."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, overload, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from ideomotor.core.spec import Camera, Embodiment
from ideomotor.core.types import Success

STATE = "observation.state"  # names of the columns that every format offers under one name
ACTION = "action"


@dataclass(frozen=True)
class Reading:
    """What a user says about how files are to be read, where they do not say it themselves."""

    salvage: bool = False  # of a damaged TFRecord shard, keep the records before the damage
    version: str = ""  # of several versions of an RLDS dataset in one folder; empty: the highest
    colour: Literal["", "rgb", "bgr"] = ""  # order of the colours in ALOHA's images; empty: not said
    decoder: Callable[[Path, float], Any] | None = (
        None  # of video (`data.video.Decoder`), e.g. torchcodec's; None: PyAV
    )


@dataclass(frozen=True)
class Feature:
    """One numeric column of a dataset: what a frame holds under this name."""

    name: str
    dtype: str  # numpy's name, "string", or "object" where arrays vary in length
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None  # of the channels, where the dataset states them

    @property
    def numeric(self) -> bool:
        """Whether numbers can be computed from it."""
        return self.dtype not in ("string", "object")  # object: one array a step, of varying length


class _LooksOnly(type(Protocol)):
    """Makes `isinstance` look for the members without computing them, as Python 3.12 does: a hash reads the whole dataset."""

    def __instancecheck__(cls, instance: object) -> bool:
        members = (name for name in vars(Dataset) if not name.startswith("_") or name in ("__len__", "__getitem__"))
        return all(inspect.getattr_static(instance, name, cls) is not cls for name in members)


@runtime_checkable
class Dataset(Protocol, metaclass=_LooksOnly):
    """Episodes on disk. Values are raw, as recorded; every frame is there."""

    @property
    def path(self) -> Path:
        """The folder that it was opened from."""
        ...

    @property
    def format(self) -> str:
        """Name and version of the format, e.g. "LeRobotDataset v3.0"."""
        ...

    @property
    def fps(self) -> float | None:
        """Frames a second [1/s], None where the format does not say."""
        ...

    @property
    def embodiment(self) -> Embodiment | None:
        """What its numbers mean, None where the dataset does not say."""
        ...

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """The cameras by role."""
        ...

    @property
    def features(self) -> Mapping[str, Feature]:
        """The columns beside the images; the state is called `STATE`, the action `ACTION`."""
        ...

    @property
    def splits(self) -> Mapping[str, range]:
        """The episodes of each split that the dataset states, by name."""
        ...

    @property
    def content_hash(self) -> str:
        """A hash over what the dataset holds; equal content has equal hashes wherever it lies."""
        ...

    def __len__(self) -> int:
        """The number of episodes."""
        ...

    def __getitem__(self, episode: int) -> "EpisodeView": ...

    def length(self, episode: int) -> int:
        """The number of frames of an episode."""
        ...

    def instruction(self, episode: int) -> str:
        """The sentence that was given to the robot."""
        ...

    def success(self, episode: int) -> Success:
        """Whether the attempt succeeded."""
        ...

    def column(self, episode: int, name: str) -> np.ndarray:
        """Return one column of an episode, frames first.

        Raises:
            UsageError: the dataset has no such column.
        """
        ...

    def image(self, episode: int, frame: int, camera: str) -> UInt8[np.ndarray, "height width 3"]:
        """Return one decoded image.

        Raises:
            UsageError: the dataset has no such camera.
        """
        ...


@runtime_checkable
class EncodedImages(Protocol):
    """A dataset that stores single images as files."""

    def encoded_image(self, episode: int, frame: int, camera: str) -> bytes | None:
        """Return the stored JPEG or PNG, None where there is none (a view that is missing)."""
        ...


@runtime_checkable
class Noted(Protocol):
    """A dataset whose reader has something to say, e.g. what was lost."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for people."""
        ...


class Images(Mapping[str, np.ndarray]):
    """The images of one frame by camera, decoded when asked for."""

    def __init__(self, dataset: Dataset, episode: int, frame: int) -> None:
        self._dataset, self._episode, self._frame = dataset, episode, frame

    def __getitem__(self, camera: str) -> np.ndarray:
        return self._dataset.image(self._episode, self._frame, camera)

    def __iter__(self) -> Iterator[str]:
        return iter(self._dataset.cameras)

    def __len__(self) -> int:
        return len(self._dataset.cameras)

    def __contains__(self, camera: object) -> bool:
        return camera in self._dataset.cameras


class EpisodeView(Sequence[dict[str, Any]]):
    """One episode of a dataset; `view[frame]` maps `action`, `state`, `images`, `instruction` and every other column."""

    def __init__(self, dataset: Dataset, index: int) -> None:
        self.dataset = dataset
        self.number = checked_index(index, len(dataset), "episode", str(dataset.path))

    def __len__(self) -> int:
        return self.dataset.length(self.number)

    @property
    def instruction(self) -> str:
        """The sentence that was given to the robot."""
        return self.dataset.instruction(self.number)

    @property
    def success(self) -> Success:
        """Whether the attempt succeeded."""
        return self.dataset.success(self.number)

    def column(self, name: str) -> np.ndarray:
        """Return one column, frames first."""
        return self.dataset.column(self.number, name)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        frame = checked_index(index, len(self), "frame", f"{self.dataset.path}, episode {self.number}")
        values: dict[str, Any] = {
            "state" if name == STATE else name: self.column(name)[frame] for name in self.dataset.features
        }
        return {**values, "images": Images(self.dataset, self.number, frame), "instruction": self.instruction}


def checked_index(index: int, count: int, kind: str, where: str) -> int:
    """Return `index`, counted from the end where negative.

    Raises:
        IndexError: outside of the sequence (not a `UserError`, so that `for` ends as Python expects).
    """
    if not -count <= index < count:
        raise IndexError(f"{where} has no {kind} {index}; it has {count}, counted from 0")
    return index % count


def training_episodes(dataset: Dataset) -> range:
    """Return the split called "train", or all episodes where the dataset states none."""
    return dataset.splits.get("train", range(len(dataset)))
