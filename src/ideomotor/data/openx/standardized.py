"""A dataset of Open X-Embodiment as training reads it: raw files below, the standard form above.

Nothing is written: each episode is standardized when it is asked for, and the last few are kept.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError, unknown
from ideomotor.core.spec import Camera, Embodiment
from ideomotor.core.types import Success
from ideomotor.data.dataset import ACTION, STATE, Dataset, EncodedImages, EpisodeView, Feature, Noted
from ideomotor.data.openx.record import RawEpisode, Record, StandardEpisode
from ideomotor.data.openx.records import record_of
from ideomotor.data.openx.standardize import RULES

KEPT = 16  # standardized episodes in memory


class StandardizedDataset:
    """The dataset `raw` by its record: state, action and instruction in the standard form, cameras by role, other columns as they are."""

    def __init__(self, raw: Dataset, record: Record) -> None:
        """Wrap a dataset.

        Raises:
            UserError: it lacks a column that the record reads, or every camera.
        """
        if missing := [name for name in record.reads if name not in raw.features]:
            raise UserError(
                f"{raw.path} lacks what the record '{record.name}' reads: {', '.join(missing)};"
                f" it has {', '.join(raw.features)}. Is it another version or conversion of the dataset?"
            )
        self._raw, self._record = raw, record
        self._sources = {role: name for role, name in record.cameras.items() if name in raw.cameras}
        if not self._sources:
            raise UserError(
                f"{raw.path} has no camera of the record '{record.name}' ({', '.join(record.cameras.values())});"
                f" it has {', '.join(raw.cameras) or 'none'}. Is it another version or conversion of the dataset?"
            )
        self._cameras = {role: replace(raw.cameras[name], role=role) for role, name in self._sources.items()}
        self._embodiment = replace(record.embodiment, cameras=tuple(self._cameras.values()))
        self._features = _features(raw, self._embodiment)
        self._standard = functools.lru_cache(maxsize=KEPT)(self._standardize)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._raw, self._record)

    @property
    def raw(self) -> Dataset:
        """The dataset as it was recorded."""
        return self._raw

    @property
    def record(self) -> Record:
        """What is written down about it."""
        return self._record

    @property
    def path(self) -> Path:
        return self._raw.path

    @property
    def format(self) -> str:
        return f"{self._raw.format}, standardized as {self._record.name}"

    @property
    def fps(self) -> float | None:
        """The rate of the record, where the files say none."""
        return self._raw.fps or self._record.embodiment.rate_hz

    @property
    def embodiment(self) -> Embodiment:
        return self._embodiment

    @property
    def cameras(self) -> Mapping[str, Camera]:
        return self._cameras

    @property
    def features(self) -> Mapping[str, Feature]:
        """State (where there is one), action, and the other raw columns."""
        return self._features

    @property
    def splits(self) -> Mapping[str, range]:
        return self._raw.splits

    @property
    def content_hash(self) -> str:
        """Of the raw content, the record and the version of the rules."""
        record = self._record
        names = [record.name, *record.formulas, record.drops, str(record.trim), record.instruction]
        return jsonable.fingerprint([self._raw.content_hash, RULES, names, self._sources, self._embodiment.hash])

    @property
    def notes(self) -> tuple[str, ...]:
        """What was dropped, what is missing, which choices were made and what is not known."""
        record = self._record
        notes = [*(self._raw.notes if isinstance(self._raw, Noted) else ()), *record.notes]
        if record.drops:
            notes.append(f"left out of every episode: {record.drops}")
        notes += [
            f"no {role} camera: the files lack '{name}'"
            for role, name in record.cameras.items()
            if role not in self._sources
        ]
        return (*notes, *(f"open question: {question}" for question in record.questions))

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, episode: int) -> EpisodeView:
        return EpisodeView(self, episode)

    def length(self, episode: int) -> int:
        """The number of steps that remain."""
        trim = self._record.trim
        if trim is None:
            return len(self._standard(episode).keep)
        return max(0, self._raw.length(episode) - sum(trim))

    def instruction(self, episode: int) -> str:
        """The sentence, decoded where the dataset writes it as numbers."""
        if self._record.instruction in self._record.reads:
            return self._standard(episode).instruction
        return self._raw.instruction(episode)

    def success(self, episode: int) -> Success:
        return self._raw.success(episode)

    def column(self, episode: int, name: str) -> np.ndarray:
        if name not in self._features:
            raise unknown("column", name, self._features)
        if name == ACTION:
            return self._standard(episode).action
        if name == STATE:
            return self._standard(episode).state
        return self._raw.column(episode, name)[self._keep(episode)]

    def image(self, episode: int, frame: int, camera: str) -> UInt8[np.ndarray, "height width 3"]:
        return self._raw.image(episode, self._raw_frame(episode, frame), self._source(camera))

    def encoded_image(self, episode: int, frame: int, camera: str) -> bytes | None:
        """Return the stored file of an image, None where there is none."""
        if not isinstance(self._raw, EncodedImages):
            return None
        return self._raw.encoded_image(episode, self._raw_frame(episode, frame), self._source(camera))

    def _source(self, camera: str) -> str:
        if camera not in self._sources:
            raise unknown("camera", camera, self._sources)
        return self._sources[camera]

    def _keep(self, episode: int) -> np.ndarray:
        trim = self._record.trim
        if trim is None:
            return self._standard(episode).keep
        return np.arange(trim[0], trim[0] + self.length(episode))

    def _raw_frame(self, episode: int, frame: int) -> int:
        keep = self._keep(episode)
        if not 0 <= frame < len(keep):
            raise IndexError(f"{self.path}, episode {episode} has no frame {frame}; it has {len(keep)}, counted from 0")
        return int(keep[frame])

    def _standardize(self, episode: int) -> StandardEpisode:
        columns = {name: self._raw.column(episode, name) for name in self._record.reads}
        try:
            return self._record.standardize(RawEpisode(columns, self._raw.instruction(episode)))
        except UserError as error:
            raise UserError(f"{self.path}, episode {episode}, by the record '{self._record.name}': {error}") from error


def standardized(dataset: Dataset) -> StandardizedDataset | None:
    """Return the dataset in the standard form, None where nothing is written down about it."""
    record = record_for(dataset)
    return None if record is None else StandardizedDataset(dataset, record)


def record_for(dataset: Dataset) -> Record | None:
    """Return the record of an RLDS dataset by the name in its dataset_info.json."""
    name = getattr(dataset, "name", None)
    if isinstance(name, str):
        return record_of(name)
    match = re.fullmatch(r"RLDS \((\S+) \S+\)", dataset.format)
    return record_of(match[1]) if match else None


def _features(raw: Dataset, embodiment: Embodiment) -> dict[str, Feature]:
    channels = {ACTION: embodiment.action, STATE: embodiment.state}
    standard = {
        name: Feature(name, "float32", (len(group),), tuple(channel.name for channel in group))
        for name, group in channels.items()
        if group
    }
    return standard | {name: feature for name, feature in raw.features.items() if name not in channels}
