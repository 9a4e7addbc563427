"""LeRobotDataset v3.0 from disk: columns as arrays, images decoded one at a time. Older versions: data/lerobot/v2.py."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import UInt8

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError, unknown
from ideomotor.core.spec import Camera, Embodiment
from ideomotor.core.types import Success
from ideomotor.data.dataset import EpisodeView, Feature, checked_index
from ideomotor.data.lerobot.episodes import EpisodeRows, VideoSpan, read_embodiment, read_episodes, read_tasks
from ideomotor.data.lerobot.info import AUTOMATIC, VERSION, CameraFeature, Info, read_info
from ideomotor.data.lerobot.parquet import DAMAGED, damaged, image_bytes, open_parquet, to_numpy
from ideomotor.data.png import decode_image
from ideomotor.data.video import Decoder, FrameReader, Video

KEPT_IMAGES = 64 << 20  # [bytes] of encoded images that stay in memory: neighbouring frames come from one read
OPEN_VIDEOS = 8
OPEN_FILES = 64
_AUTOMATIC = {name: Feature(name, "float32" if name == "timestamp" else "int64", (1,)) for name in AUTOMATIC}


class LeRobotDataset:
    """A LeRobotDataset v3.0. Opening reads the tables under `meta`; columns are read file by file when first asked for.

    An instance belongs to one thread; it travels to other processes as its path.
    """

    def __init__(self, path: Path, decoder: Decoder = Video) -> None:
        """Open the dataset in `path`; `decoder` opens its videos.

        Raises:
            UserError: a part is missing, damaged, of another version, or contradicts itself.
        """
        self.path = path
        self.info, self.rows = self._read(path)
        self.embodiment: Embodiment | None = read_embodiment(path)
        self.cameras: Mapping[str, Camera] = _cameras(self.info, self.embodiment)
        self.splits: Mapping[str, range] = _splits(self.info, len(self.rows))
        self._files: OrderedDict[Path, pq.ParquetFile] = OrderedDict()
        self._columns: dict[tuple[Path, str], np.ndarray] = {}
        self._images: OrderedDict[tuple[Path, int, str], list[bytes | None]] = OrderedDict()
        self._images_size = 0  # [bytes]
        self._videos: OrderedDict[Path, FrameReader] = OrderedDict()
        self._decoder = decoder

    def __reduce__(self) -> tuple[type["LeRobotDataset"], tuple[Path, Decoder]]:
        return type(self), (self.path, self._decoder)

    def _read(self, path: Path) -> tuple[Info, list[EpisodeRows]]:
        """Read the tables that the rest relies on; the one thing that other versions do differently."""
        info = read_info(path)
        return info, read_episodes(path, info)

    @property
    def format(self) -> str:
        """Name and version."""
        return f"LeRobotDataset {VERSION}"

    @property
    def fps(self) -> float:
        """Frames a second [1/s]."""
        return self.info.fps

    @property
    def features(self) -> Mapping[str, Feature]:
        """The columns beside images and the automatic ones."""
        return self.info.features

    @cached_property
    def tasks(self) -> dict[int, str]:
        """The instruction of each task index."""
        return read_tasks(self.path)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, episode: int) -> EpisodeView:
        return EpisodeView(self, episode)

    def length(self, episode: int) -> int:
        """The number of frames of an episode."""
        return self.rows[episode].length

    def instruction(self, episode: int) -> str:
        """The sentence that was given to the robot (at the first frame, where it changes)."""
        tasks = self.rows[episode].tasks
        if len(tasks) == 1:
            return tasks[0]
        task = int(self.column(episode, "task_index")[0])
        if task not in self.tasks:
            raise UserError(
                f"{self.path}, episode {episode}: task {task} is not in the table of tasks, which has {sorted(self.tasks)}"
            )
        return self.tasks[task]

    def success(self, episode: int) -> Success:
        """The column `success` of the episode table, else the column `next.success` of its frames."""
        stated = self.rows[episode].success
        if stated is None and "next.success" in self.features and self.column(episode, "next.success").any():
            return "success"
        return stated or "unknown"

    def column(self, episode: int, name: str) -> np.ndarray:
        """Return one column of an episode, frames first."""
        rows = self.rows[episode]
        return self._column(rows.path, name)[rows.start : rows.start + rows.length]

    def image(self, episode: int, frame: int, camera: str) -> UInt8[np.ndarray, "height width 3"]:
        """Return one decoded image."""
        if camera not in self.info.cameras:
            raise unknown("camera", camera, self.info.cameras)
        feature, rows = self.info.cameras[camera], self.rows[episode]
        frame = checked_index(frame, rows.length, "frame", f"{self.path}, episode {episode}")
        where = f"{self.path}, episode {episode}, frame {frame}, camera '{camera}'"
        if feature.video:
            return self._video_frame(rows, frame, feature, where)
        content = self._stored_image(rows, frame, feature)
        if content is None:
            raise UserError(f"{where}: the image is not in the table; embed it (`bytes`), a path alone is not read")
        return decode_image(content, feature.height, feature.width, where)

    def encoded_image(self, episode: int, frame: int, camera: str) -> bytes | None:
        """Return the stored PNG or JPEG, None where there is none (or a video instead)."""
        if camera not in self.info.cameras:
            raise unknown("camera", camera, self.info.cameras)
        feature, rows = self.info.cameras[camera], self.rows[episode]
        frame = checked_index(frame, rows.length, "frame", f"{self.path}, episode {episode}")
        return None if feature.video else self._stored_image(rows, frame, feature)

    def video_frames(self, episode: int, camera: str) -> tuple[Path, np.ndarray] | None:
        """Return the mp4 of an episode and, for each row, the number of its frame there; None where there is no video."""
        feature, rows = self.info.cameras[camera], self.rows[episode]
        span = rows.videos.get(feature.key) if feature.video else None
        return span and (span.path, self._video_numbers(rows, span))

    def _video_numbers(self, rows: EpisodeRows, span: VideoSpan) -> np.ndarray:
        """Return the number of each row's frame in the mp4."""
        return round(span.start * self.fps) + np.arange(rows.length)

    def _stored_image(self, rows: EpisodeRows, frame: int, camera: CameraFeature) -> bytes | None:
        file, row = self._file(rows.path), rows.start + frame
        starts = self._group_starts(rows.path)
        group = int(np.searchsorted(starts, row, side="right")) - 1
        key = (rows.path, group, camera.key)
        if key not in self._images:
            try:
                read = file.read_row_group(group, columns=[camera.key])
                read.validate(full=True)
                if camera.key not in read.column_names:
                    raise self._lacks(rows.path, camera.key)
                images = image_bytes(read[camera.key])
                if len(images) != (rows_stated := file.metadata.row_group(group).num_rows):
                    raise UserError(
                        f"{rows.path}, column '{camera.key}': row group {group} holds {len(images)} of {rows_stated} images;"
                        " restore the file from a copy of the dataset"
                    )
                self._remember_images(key, images)
            except DAMAGED as error:
                raise error if isinstance(error, UserError) else damaged(rows.path, error) from error
        self._images.move_to_end(key)
        return self._images[key][row - int(starts[group])]

    @property
    def content_hash(self) -> str:
        """SHA-256 over the columns, the episodes, and the stored size of each block of images and each video.

        Images themselves are not read: two recordings that differ in pixels alone differ in the size of their PNGs.
        """
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        digest = hashlib.sha256()
        cameras = {role: [c.key, c.height, c.width] for role, c in sorted(self.info.cameras.items())}
        features = {name: [f.dtype, list(f.shape)] for name, f in sorted(self.features.items())}
        embodiment = self.embodiment.hash if self.embodiment else None
        digest.update(jsonable.canonical([self.fps, cameras, features, embodiment]).encode())
        for episode, rows in enumerate(self.rows):
            digest.update(jsonable.canonical([rows.length, self.instruction(episode), self.success(episode)]).encode())
            for name in sorted(self.features):
                values = self.column(episode, name)
                digest.update(values.tobytes() if values.dtype != object else repr(values.tolist()).encode())
        for path in dict.fromkeys(rows.path for rows in self.rows):
            for sizes in self._image_sizes(path):
                digest.update(jsonable.canonical(sizes).encode())
        for path in sorted({span.path for rows in self.rows for span in rows.videos.values()}):
            digest.update(str(path.stat().st_size if path.is_file() else 0).encode())
        return digest.hexdigest()

    def _column(self, path: Path, name: str) -> np.ndarray:
        key = (path, name)
        if key not in self._columns:
            feature = self.features.get(name) or _AUTOMATIC.get(name)
            if feature is None:
                raise unknown("column", name, [*self.features, *_AUTOMATIC])
            try:
                read = self._file(path).read(columns=[name])
                read.validate(full=True)
            except DAMAGED as error:
                raise error if isinstance(error, UserError) else damaged(path, error) from error
            if name not in read.column_names:
                raise self._lacks(path, name)
            self._columns[key] = to_numpy(read[name], feature, f"{path}, column '{name}'")
        return self._columns[key]

    def _file(self, path: Path) -> pq.ParquetFile:
        if path not in self._files:
            file = open_parquet(path)
            expected = self._rows_in_file[path]
            if file.metadata.num_rows != expected:
                raise UserError(
                    f"{path} has {file.metadata.num_rows} rows, the episode table gives it {expected}; run `ideomotor data check"
                    f" {self.path}` and restore the files from a copy of the dataset"
                )
            self._files[path] = file
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(path)
        return self._files[path]

    @cached_property
    def _rows_in_file(self) -> dict[Path, int]:
        counts: dict[Path, int] = {}
        for rows in self.rows:
            counts[rows.path] = max(counts.get(rows.path, 0), rows.start + rows.length)
        return counts

    def _group_starts(self, path: Path) -> np.ndarray:
        key = (path, "")  # not a column's name
        if key not in self._columns:
            metadata = self._file(path).metadata
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            self._columns[key] = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        return self._columns[key]

    def _image_sizes(self, path: Path) -> list[Any]:
        metadata = self._file(path).metadata
        keys = {camera.key for camera in self.info.cameras.values()}
        found: list[Any] = []
        try:
            for group in range(metadata.num_row_groups):
                chunks = [metadata.row_group(group).column(c) for c in range(metadata.num_columns)]
                sizes = {
                    c.path_in_schema: c.total_uncompressed_size
                    for c in chunks
                    if c.path_in_schema.removesuffix(".bytes") in keys
                }
                found.append(sizes)
        except DAMAGED as error:
            raise damaged(path, error) from error
        return found

    def _remember_images(self, key: tuple[Path, int, str], images: list[bytes | None]) -> None:
        self._images[key] = images
        self._images_size += sum(len(content or b"") for content in images)
        while self._images_size > KEPT_IMAGES and len(self._images) > 1:
            _, oldest = self._images.popitem(last=False)
            self._images_size -= sum(len(content or b"") for content in oldest)

    def _video_frame(self, rows: EpisodeRows, frame: int, camera: CameraFeature, where: str) -> np.ndarray:
        span = rows.videos.get(camera.key)
        if span is None:
            raise UserError(
                f"{where}: the dataset declares this camera but has no video of it; take it out of `features`"
            )
        if span.path not in self._videos:
            self._videos[span.path] = self._decoder(span.path, self.fps)
            if len(self._videos) > OPEN_VIDEOS:
                self._videos.popitem(last=False)[1].close()
        self._videos.move_to_end(span.path)
        image = self._videos[span.path].frame(int(self._video_numbers(rows, span)[frame]))
        if image.shape[:2] != (camera.height, camera.width):
            raise UserError(
                f"{where}: the video is {image.shape[0]} x {image.shape[1]} (height x width), declared are"
                f" {camera.height} x {camera.width}; correct `shape` in meta/info.json"
            )
        return image

    def _lacks(self, path: Path, name: str) -> UserError:
        return UserError(
            f"{path} lacks the column '{name}', which meta/info.json declares; restore it, or take it out of `features`"
        )


def _cameras(info: Info, embodiment: Embodiment | None) -> dict[str, Camera]:
    """Return the cameras as the embodiment describes them, where there is one."""
    known = embodiment.cameras_by_role if embodiment else {}
    return {
        role: known.get(role) or Camera(role, camera.height, camera.width, orientation="unknown")
        for role, camera in info.cameras.items()
    }


def _splits(info: Info, episodes: int) -> dict[str, range]:
    """Return the stated splits, inside of what is there; one that ended at the stated total ends at the real one."""
    splits: dict[str, range] = {}
    for name, text in info.splits.items():
        first, _, last = text.partition(":")
        if first.isdecimal() and last.isdecimal():
            stop = episodes if int(last) == info.total_episodes else min(int(last), episodes)
            splits[name] = range(min(int(first), stop), stop)
    return splits
