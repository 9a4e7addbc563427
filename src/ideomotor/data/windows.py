"""What the loader cuts from episodes: an observation, the instruction, and the actions that should follow.

N = frames of a source, E = its episodes, T = actions of a chunk, A = action channels, S = state channels.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never, overload

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError
from ideomotor.data.cache import AtAccess, FrameCache
from ideomotor.data.columns import EXPERT_CHUNK, ColumnStore, wanted_columns
from ideomotor.data.dataset import ACTION, STATE, Dataset
from ideomotor.data.encoded import EncodedCache
from ideomotor.data.mixture import keyed_order
from ideomotor.data.resample import Resampling, plan, resample

RATES_DIFFER = 0.01  # share by which a dataset's two statements of its rate may differ (29.97 and 30)


@dataclass(frozen=True)
class Window:
    """One sample in raw units."""

    images: Mapping[str, UInt8[np.ndarray, "height width 3"]]  # by camera role
    state: Float32[np.ndarray, " S"]
    instruction: str
    actions: Float32[np.ndarray, "T A"]  # the chunk to predict
    actions_pad: Bool[np.ndarray, " T"]  # True: beyond the end of the episode, not to be learned
    labels: Mapping[str, np.ndarray]  # the columns "label.*"
    body: str = ""  # whose it is, where a run learns from several bodies


@dataclass(frozen=True)
class EpisodeSplit:
    """Which episodes are learned from, and which are held out."""

    train: tuple[int, ...]
    validation: tuple[int, ...]


def split_episodes(num_episodes: int, validation_share: float, seed: int) -> EpisodeSplit:
    """Hold out the stated share of the episodes, rounded: those whose seeded hash is smallest.

    Raises:
        UserError: a share outside of [0, 1), or one that leaves nothing to learn from.
    """
    held_out = round(validation_share * num_episodes)
    if not 0 <= validation_share < 1 or (num_episodes > 0 and held_out >= num_episodes):
        raise UserError(
            f"a validation share of {validation_share} of {num_episodes} episodes leaves none to learn from;"
            " give a smaller one, at least 0 and below 1"
        )
    validation = {int(e) for e in keyed_order(num_episodes, seed)[:held_out]}
    train = tuple(e for e in range(num_episodes) if e not in validation)
    return EpisodeSplit(train, tuple(sorted(validation)))


class WindowSource:
    """The windows of some episodes of a dataset, one for each frame.

    Columns are kept in memory as one array each, or memory-mapped where a store is given; images come from the cache, or are decoded at
    every access without one. Nothing is kept for each frame but its columns, so a source may have hundreds of millions.
    """

    def __init__(  # noqa: PLR0913 (what is left out is as the dataset has it)
        self,
        dataset: Dataset,
        horizon: int,
        episodes: Sequence[int] | None = None,
        cache: FrameCache | EncodedCache | AtAccess | None = None,
        labels: Sequence[str] | None = None,
        *,
        rate: float | None = None,
        store: ColumnStore | None = None,
        body: str = "",
    ) -> None:
        """Load the columns.

        Args:
            dataset: any dataset with an action.
            horizon: T.
            episodes: default all.
            cache: decoded frames of the whole dataset, or its stored images.
            labels: which columns a window carries along; default all that are called `label.*`.
            rate: [1/s] of the policy's actions; chunks of another rate are resampled to it. None: as recorded.
            store: the dataset's columns where they are too large to load (`large_columns`).
            body: what windows say of whose they are.

        Raises:
            UserError: a column is missing, or the data do not say enough to change the rate.
        """
        self.dataset = dataset
        self.horizon = horizon
        self.body = body
        self.cache = cache
        self.resampling = None if rate is None else source_plan(dataset, rate)
        self.needed = horizon if self.resampling is None else self.resampling.needed(horizon)  # recorded actions
        self.episodes = np.arange(len(dataset)) if episodes is None else np.asarray(episodes, np.int64)
        self.cameras = cache.cameras if cache else tuple(dataset.cameras)
        columns = wanted_columns(dataset, labels)
        self._label_names = tuple(name for name in columns if name not in (STATE, ACTION, EXPERT_CHUNK))
        first = self._first_frames(store)
        self.cache_starts = first[self.episodes]  # first frame of each of our episodes, in the whole dataset
        self.starts = np.concatenate(
            ([0], np.cumsum(first[self.episodes + 1] - self.cache_starts))
        )  # among our windows
        self._mapped = store is not None
        if store is None:
            self._columns = {name: self._load(name, dtype) for name, dtype in columns.items()}
            self._first = self.starts[:-1]  # row of each episode's first frame in the columns
            known: dict[str, str] = {}  # equal sentences are kept once
            texts = (dataset.instruction(int(e)) for e in self.episodes)
            self.instructions: Sequence[str] = tuple(known.setdefault(text, text) for text in texts)
        else:
            self._columns = {name: store[name] for name in columns}
            self._first = self.cache_starts
            self.instructions = _Chosen(store.texts, self.episodes)
        if STATE not in columns:  # a body that was recorded without: a state of no numbers
            self._columns[STATE] = np.zeros((len(self._columns[ACTION]), 0), np.float32)
        self._chunks = self._check_chunks() if EXPERT_CHUNK in columns else None

    @property
    def name(self) -> str:
        """The folder's name and a hash of all that decides which window a number means."""
        return self._name

    @functools.cached_property
    def _name(self) -> str:
        content = [self.dataset.content_hash, self.episodes.tolist(), self.horizon, self._chunks is not None]
        if self.resampling is not None:
            how = self.resampling
            content += [str(how.recorded), str(how.wanted), *(jsonable.to_json(part) for part in how.parts)]
        return f"{self.dataset.path.name}#{jsonable.fingerprint(content)[:12]}"

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Window:
        row, frame = self._place(index)
        at = int(self._first[row]) + frame
        actions, pad = self._target(at, int(self._first[row]), at + int(self.starts[row + 1]) - index)
        return Window(
            self._images(row, frame),
            self._columns[STATE][at],
            self.instructions[row],
            actions,
            pad,
            {name: self._columns[name][at] for name in self._label_names},
            self.body,
        )

    def place(self, index: int) -> tuple[int, int]:
        """Return episode and frame, as the dataset counts them, of a window."""
        row, frame = self._place(index)
        return int(self.episodes[row]), frame

    @property
    def state(self) -> Float32[np.ndarray, "N S"]:
        """The states of all windows; of mapped columns a copy."""
        return self._of_windows(STATE)

    @property
    def actions(self) -> Float32[np.ndarray, "N A"]:
        """The recorded actions of all windows; of mapped columns a copy."""
        return self._of_windows(ACTION)

    @property
    def has_expert_chunks(self) -> bool:
        """Whether chunks are those of an expert, asked at every frame, and not the recorded actions."""
        return self._chunks is not None

    @property
    def chunks(self) -> Float32[np.ndarray, "N T A"] | None:
        """The expert's chunks of all windows, at the recorded rate; of mapped columns a copy."""
        if self._chunks is None:
            return None
        flat = self._of_windows(EXPERT_CHUNK)
        return flat.reshape(len(flat), self._chunks, -1)[:, : self.needed]

    @functools.cached_property
    def episode_of(self) -> Int32[np.ndarray, " N"]:
        """The row of each window's episode; four bytes a window, made when asked for."""
        return np.repeat(np.arange(len(self.episodes), dtype=np.int32), np.diff(self.starts))

    @property
    def memory(self) -> int:
        """Bytes of columns and places that this process holds; mapped columns are not counted."""
        places = self.starts.nbytes + self.cache_starts.nbytes + self.episodes.nbytes
        if self._mapped:
            return places
        texts = sys.getsizeof(self.instructions) + sum(sys.getsizeof(text) for text in set(self.instructions))
        return places + texts + sum(column.nbytes for column in self._columns.values())

    @property
    def mapped(self) -> int:
        """Bytes of memory-mapped files that windows are read from; the system keeps of them what fits."""
        columns = sum(column.nbytes for column in self._columns.values()) if self._mapped else 0
        return columns + (_cache_size(self.cache) if self.cache is not None else 0)

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"the source has {len(self)} windows; there is no {index}")
        row = int(self.starts.searchsorted(index, "right")) - 1
        return row, index - int(self.starts[row])

    def _target(self, at: int, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the chunk of the frame in row `at` of the columns; its episode begins at row `first` and ends before `end`."""
        if self.resampling is not None:
            return self._resampled(at, first, end, self.resampling)
        if self._chunks is not None:
            chunk = self._columns[EXPERT_CHUNK][at].reshape(self._chunks, -1)
            return chunk[: self.horizon], np.zeros(self.horizon, bool)
        actions = self._columns[ACTION]
        if at + self.horizon <= end:
            return actions[at : at + self.horizon], np.zeros(self.horizon, bool)
        rows = np.arange(at, at + self.horizon)
        return actions[np.minimum(rows, end - 1)], rows >= end

    def _resampled(self, at: int, first: int, end: int, how: Resampling) -> tuple[np.ndarray, np.ndarray]:
        previous = self._columns[ACTION][at - 1] if at > first else None
        if self._chunks is not None:
            chunk = self._columns[EXPERT_CHUNK][at].reshape(self._chunks, -1)
            return resample(chunk[: self.needed], previous, how, self.horizon)
        return resample(self._columns[ACTION][at : min(at + self.needed, end)], previous, how, self.horizon)

    def _images(self, row: int, frame: int) -> dict[str, np.ndarray]:
        number, episode = int(self.cache_starts[row]) + frame, int(self.episodes[row])
        match self.cache:
            case FrameCache(frames=frames):
                return {camera: frames[number, c] for c, camera in enumerate(self.cameras)}
            case EncodedCache():
                stored = {camera: self.cache.image(number, camera) for camera in self.cameras}
                return {c: self.dataset.image(episode, frame, c) if i is None else i for c, i in stored.items()}
            case AtAccess():
                return {camera: self.cache.image(episode, frame, camera) for camera in self.cameras}
            case None:
                return {camera: self.dataset.image(episode, frame, camera) for camera in self.cameras}
            case _:
                assert_never(self.cache)

    def _first_frames(self, store: ColumnStore | None) -> Int64[np.ndarray, " _"]:
        """Return the number of the first frame of each episode of the dataset, and that of all frames."""
        if store is None:
            lengths = np.fromiter((self.dataset.length(e) for e in range(len(self.dataset))), np.int64)
            first = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
        else:
            first = store.starts
        if self.cache is not None and len(self.cache) != first[-1]:
            where = self.cache.path if isinstance(self.cache, FrameCache) else "the copy of its images"
            raise UserError(f"{where} holds {len(self.cache)} frames, {self.dataset.path} has {first[-1]}")
        return first

    def _load(self, name: str, dtype: str) -> np.ndarray:
        parts = [self.dataset.column(int(e), name) for e in self.episodes]
        feature = self.dataset.features[name]
        joined = np.concatenate(parts) if parts else np.zeros((0, *feature.shape), feature.dtype)
        return np.ascontiguousarray(joined, dtype if name in (STATE, ACTION, EXPERT_CHUNK) else None)

    def _of_windows(self, name: str) -> np.ndarray:
        column = self._columns[name]
        if not self._mapped:
            return column
        lengths = np.diff(self.starts).tolist()
        return np.concatenate(
            [column[:0], *(column[f : f + n] for f, n in zip(self._first.tolist(), lengths, strict=True))]
        )

    def _check_chunks(self) -> int:
        """Return how many steps the recorded expert chunks have."""
        flat, width = self._columns[EXPERT_CHUNK].shape[1], self._columns[ACTION].shape[1]
        recorded, rest = divmod(flat, width)
        if rest or recorded < self.needed:
            raise UserError(
                f"{self.dataset.path} holds expert chunks of {flat} numbers for actions of {width}: {recorded} steps;"
                f" a chunk of {self.needed} was asked for. Choose a shorter chunk or collect again."
            )
        return recorded


def _cache_size(cache: FrameCache | EncodedCache | AtAccess) -> int:
    match cache:
        case FrameCache():
            return cache.frames.nbytes
        case EncodedCache():
            return cache.size
        case AtAccess():
            return 0


class _Chosen(Sequence[str]):
    """Some of the texts of a store."""

    def __init__(self, texts: Sequence[str], chosen: Int64[np.ndarray, " E"]) -> None:
        self._texts, self._chosen = texts, chosen

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._texts[int(e)] for e in self._chosen[index]]
        return self._texts[int(self._chosen[index])]

    def __len__(self) -> int:
        return len(self._chosen)


class WholeChunks:
    """The windows of a source whose chunk ends before the episode does: what OpenVLA-OFT learns from."""

    def __init__(self, source: WindowSource) -> None:
        self.source = source
        missing = 0 if source.has_expert_chunks else source.needed - 1
        counts = np.maximum(np.diff(source.starts) - missing, 0)
        self._starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))

    @property
    def name(self) -> str:
        """Names the content."""
        return f"{self.source.name} whole"

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Window:
        return self.source[self.window(index)]

    @property
    def memory(self) -> int:
        """Bytes that this process holds."""
        return self.source.memory + self._starts.nbytes

    @property
    def mapped(self) -> int:
        """Bytes of memory-mapped files."""
        return self.source.mapped

    def window(self, index: int) -> int:
        """Return the number of a whole window in the source."""
        if not 0 <= index < len(self):
            raise IndexError(f"the source has {len(self)} whole windows; there is no {index}")
        row = int(self._starts.searchsorted(index, "right")) - 1
        return int(self.source.starts[row]) + index - int(self._starts[row])


def source_plan(dataset: Dataset, rate: float) -> Resampling | None:
    """Return how the chunks of a dataset become chunks of another rate [1/s]; None where it has that rate.

    Raises:
        UserError: the dataset does not say its rate, or what its actions mean.
    """
    if dataset.embodiment is None:
        raise UserError(
            f"{dataset.path} does not say what its numbers mean, so its actions cannot be brought to {rate:g} Hz;"
            " give an embodiment (--embodiment FILE)"
        )
    stated = dataset.embodiment.rate_hz
    if dataset.fps is not None and abs(dataset.fps - stated) > RATES_DIFFER * stated:
        raise UserError(
            f"{dataset.path} has {dataset.fps:g} frames a second, its embodiment states {stated:g} Hz; correct one of them"
        )
    return plan(dataset.embodiment, stated, rate)


def stack(windows: Sequence[Window]) -> dict[str, np.ndarray]:
    """Join windows of one source as a batch in raw units: images [B, C, H, W, 3], state, actions, actions_pad, labels."""
    batch = {
        "state": np.stack([window.state for window in windows]),
        "actions": np.stack([window.actions for window in windows]),
        "actions_pad": np.stack([window.actions_pad for window in windows]),
    }
    if windows[0].images:
        batch["images"] = np.stack([np.stack(list(window.images.values())) for window in windows])
    return batch | {name: np.stack([window.labels[name] for window in windows]) for name in windows[0].labels}
