"""LeRobotDataset v2.0 and v2.1 from disk; what is the same in v3.0 lives in data/lerobot/v3.py.

Surprises: the time of a video frame is the row's `timestamp`, which need not begin at 0; `frame_index` and the other automatic
columns may be missing; v2.0 calls the description of a video `video_info`.
"""

from bisect import bisect_left
from functools import cached_property
from pathlib import Path

import numpy as np

from ideomotor.core.errors import UserError
from ideomotor.data.lerobot.episodes import EpisodeRows, VideoSpan
from ideomotor.data.lerobot.info import AUTOMATIC, Info, read_info, stated_version
from ideomotor.data.lerobot.v2_tables import V2, read_episode_lines, read_task_lines, without_files
from ideomotor.data.lerobot.v3 import LeRobotDataset
from ideomotor.data.video import Decoder, Video


def open_lerobot(path: Path, decoder: Decoder | None = None) -> LeRobotDataset:
    """Open a LeRobotDataset of any version that is read: v2.0, v2.1, v3.0.

    Args:
        path: its folder.
        decoder: what opens its videos; None: PyAV.

    Raises:
        UserError: another version, or a part that is missing or damaged.
    """
    version = stated_version(path)
    old = isinstance(version, str) and version.removeprefix("v").startswith("2.")
    return (LeRobotV2Dataset if old else LeRobotDataset)(path, decoder or Video)


class LeRobotV2Dataset(LeRobotDataset):
    """A LeRobotDataset v2.0 or v2.1, as a `Dataset`."""

    def __init__(self, path: Path, decoder: Decoder = Video) -> None:
        """Open the dataset in `path`; `decoder` opens its videos.

        Raises:
            UserError: a part is missing, damaged, of another version, or contradicts itself.
        """
        self._numbers: list[int] = []  # of the episodes in their files' names
        self._notes: list[str] = []
        super().__init__(path, decoder)
        if self._numbers != list(range(len(self))):
            self.splits = {name: self._positions(split) for name, split in self._stated_splits().items()}

    def _read(self, path: Path) -> tuple[Info, list[EpisodeRows]]:
        info = read_info(path, V2)
        self._numbers, rows = read_episode_lines(path, info)
        for role in without_files(info, rows):
            del info.cameras[role]
            self._notes.append(f"camera '{role}' is declared, but no episode has images of it; it is left out")
        frames = sum(row.length for row in rows)
        if (info.total_episodes, info.total_frames) != (len(rows), frames):
            self._notes.append(
                f"meta/info.json states {info.total_episodes} episodes and {info.total_frames} frames, the list of"
                f" episodes {len(rows)} and {frames}; the list counts"
            )
        if rows and self._numbers[-1] != len(rows) - 1:
            self._notes.append(
                f"the episodes are numbered up to {self._numbers[-1]} with gaps; here they count from 0 to {len(rows) - 1}"
            )
        return info, rows

    @property
    def format(self) -> str:
        """Name and version."""
        return f"LeRobotDataset v{str(stated_version(self.path)).removeprefix('v')}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What disagrees in the dataset and how it was taken."""
        return tuple(self._notes)

    @cached_property
    def tasks(self) -> dict[int, str]:
        """The instruction of each task index."""
        return read_task_lines(self.path)

    def column(self, episode: int, name: str) -> np.ndarray:
        """Return one column of an episode, frames first; automatic ones are made up where they are missing."""
        rows = self.rows[episode]
        if name in AUTOMATIC and not self._has(rows, name):
            return self._automatic(episode, name)
        return super().column(episode, name)

    def _has(self, rows: EpisodeRows, name: str) -> bool:
        return name in self._file(rows.path).schema_arrow.names

    def _automatic(self, episode: int, name: str) -> np.ndarray:
        length = self.length(episode)
        counter = np.arange(length)
        match name:
            case "frame_index":
                return counter
            case "timestamp":
                return (counter / self.fps).astype(np.float32)
            case "episode_index":
                return np.full(length, self._numbers[episode])
            case "index":
                return counter + sum(row.length for row in self.rows[:episode])
            case _:
                return np.full(length, self._only_task(episode))

    def _only_task(self, episode: int) -> int:
        texts = self.rows[episode].tasks
        for index, text in self.tasks.items():
            if texts == (text,):
                return index
        raise UserError(
            f"{self.rows[episode].path} lacks the column 'task_index', and meta/episodes.jsonl gives the episode"
            f" the tasks {list(texts)[:4]}; it should name one of meta/tasks.jsonl"
        )

    def _video_numbers(self, rows: EpisodeRows, span: VideoSpan) -> np.ndarray:
        """Return the number of each row's frame in the mp4: the one whose time is nearest to the row's `timestamp`."""
        if not self._has(rows, "timestamp"):
            return np.arange(rows.length)
        seconds = self._column(rows.path, "timestamp").astype(np.float64) - span.start
        if not np.isfinite(seconds).all() or (np.abs(seconds) > 1e9).any():
            raise UserError(f"{rows.path}, column 'timestamp' holds no seconds since the beginning of a video")
        return np.rint(seconds * self.fps).astype(np.int64)

    def _stated_splits(self) -> dict[str, range]:
        """Return the splits as info.json counts them, by the numbers of the files; one up to the total goes to the end."""
        stated: dict[str, range] = {}
        for name, text in self.info.splits.items():
            first, _, last = text.partition(":")
            if first.isdecimal() and last.isdecimal():
                stop = max(self._numbers, default=-1) + 1 if int(last) == self.info.total_episodes else int(last)
                stated[name] = range(int(first), stop)
        return stated

    def _positions(self, numbers: range) -> range:
        return range(
            bisect_left(self._numbers, numbers.start), bisect_left(self._numbers, max(numbers.start, numbers.stop))
        )
