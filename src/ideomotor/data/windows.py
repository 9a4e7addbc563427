"""What the loader cuts from episodes: an observation, the instruction, and the actions that should follow.

N = frames of a source, T = actions of a chunk, A = action channels, S = state channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError, unknown
from ideomotor.data.cache import FrameCache
from ideomotor.data.dataset import ACTION, STATE, Dataset
from ideomotor.data.mixture import keyed_order

EXPERT_CHUNK = "expert.chunk"


@dataclass(frozen=True)
class Window:
    """One sample in raw units."""

    images: Mapping[str, UInt8[np.ndarray, "height width 3"]]  # by camera role
    state: Float32[np.ndarray, " S"]
    instruction: str
    actions: Float32[np.ndarray, "T A"]  # the chunk to predict
    actions_pad: Bool[np.ndarray, " T"]  # True: beyond the end of the episode, not to be learned
    labels: Mapping[str, np.ndarray]  # the columns "label.*"


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

    The target is the column `expert.chunk` (row-major T A: what the expert would do from here) where the dataset has it, else the
    recorded actions; beyond the end of the episode the last action repeats and `actions_pad` is True.

    Columns are kept in memory as one array each; images come from the cache, or are decoded at every access without one.
    """

    def __init__(
        self,
        dataset: Dataset,
        horizon: int,
        episodes: Sequence[int] | None = None,
        cache: FrameCache | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Load the columns.

        Args:
            dataset: any dataset with an action and a state.
            horizon: T.
            episodes: default all.
            cache: decoded frames of the whole dataset.
            labels: which columns a window carries along; default all that are called `label.*`.
        """
        self.dataset = dataset
        self.horizon = horizon
        self.cache = cache
        self.episodes = np.arange(len(dataset)) if episodes is None else np.asarray(episodes, np.int64)
        self.cameras = cache.cameras if cache else tuple(dataset.cameras)
        self._load_places()
        self.state = self._load(STATE, np.float32)
        self.actions = self._load(ACTION, np.float32)
        names = [n for n in dataset.features if n.startswith("label.")] if labels is None else labels
        self.labels = {name: self._load(name, None) for name in names}
        self.chunks = self._load_chunks() if EXPERT_CHUNK in dataset.features else None

    @property
    def name(self) -> str:
        """The folder's name and a hash of all that decides which window a number means."""
        content = [self.dataset.content_hash, self.episodes.tolist(), self.horizon, self.chunks is not None]
        return f"{self.dataset.path.name}#{jsonable.fingerprint(content)[:12]}"

    def __len__(self) -> int:
        return len(self.episode_of)

    def __getitem__(self, index: int) -> Window:
        if not 0 <= index < len(self):
            raise IndexError(f"the source has {len(self)} windows; there is no {index}")
        row = int(self.episode_of[index])
        actions, pad = self._target(index, int(self.starts[row + 1]))
        return Window(
            self._images(index, row),
            self.state[index],
            self.instructions[row],
            actions,
            pad,
            {name: column[index] for name, column in self.labels.items()},
        )

    def place(self, index: int) -> tuple[int, int]:
        """Return episode and frame, as the dataset counts them, of a window."""
        row = int(self.episode_of[index])
        return int(self.episodes[row]), index - int(self.starts[row])

    def _target(self, index: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        if self.chunks is not None:
            return self.chunks[index], np.zeros(self.horizon, bool)
        if index + self.horizon <= end:
            return self.actions[index : index + self.horizon], np.zeros(self.horizon, bool)
        rows = np.arange(index, index + self.horizon)
        return self.actions[np.minimum(rows, end - 1)], rows >= end

    def _images(self, index: int, row: int) -> dict[str, np.ndarray]:
        frame = index - int(self.starts[row])
        if self.cache is not None:
            frames = self.cache.frames[int(self.cache_starts[row]) + frame]
            return {camera: frames[c] for c, camera in enumerate(self.cameras)}
        episode = int(self.episodes[row])
        return {camera: self.dataset.image(episode, frame, camera) for camera in self.cameras}

    def _load_places(self) -> None:
        lengths = np.array([self.dataset.length(e) for e in range(len(self.dataset))], np.int64)
        if self.cache is not None and len(self.cache) != lengths.sum():
            raise UserError(
                f"{self.cache.path} holds {len(self.cache)} frames, {self.dataset.path} has {lengths.sum()}"
            )
        first = np.concatenate(([0], np.cumsum(lengths)))
        self.cache_starts = first[self.episodes]  # first frame of each of our episodes, in the whole dataset
        mine = lengths[self.episodes]
        self.starts = np.concatenate(([0], np.cumsum(mine)))  # the same, among our windows
        self.episode_of = np.repeat(np.arange(len(mine), dtype=np.int32), mine)
        self.instructions = [self.dataset.instruction(int(e)) for e in self.episodes]

    def _load(self, name: str, dtype: type | None) -> np.ndarray:
        if name not in self.dataset.features:
            raise unknown(f"column of {self.dataset.path}", name, self.dataset.features)
        parts = [self.dataset.column(int(e), name) for e in self.episodes]
        feature = self.dataset.features[name]
        joined = np.concatenate(parts) if parts else np.zeros((0, *feature.shape), feature.dtype)
        return np.ascontiguousarray(joined, dtype)

    def _load_chunks(self) -> Float32[np.ndarray, "N T A"]:
        flat = self._load(EXPERT_CHUNK, np.float32)
        width = self.actions.shape[1]
        recorded, rest = divmod(flat.shape[1], width)
        if rest or recorded < self.horizon:
            raise UserError(
                f"{self.dataset.path} holds expert chunks of {flat.shape[1]} numbers for actions of {width}: {recorded} steps;"
                f" a chunk of {self.horizon} was asked for. Choose a shorter chunk or collect again."
            )
        return np.ascontiguousarray(flat.reshape(len(flat), recorded, width)[:, : self.horizon])


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
