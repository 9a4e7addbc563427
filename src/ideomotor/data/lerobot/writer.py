"""Write a LeRobotDataset v3.0 so that a crash, at any instant, costs at most the episode under way.

1. An episode becomes one parquet file `recording/episode-NNNNNN.parquet`: temporary name, fsync, rename. Its row of the episode table
   is inside, so it is there completely or not at all; `open_dataset` reads it from there.
2. When enough bytes wait, and at `close`, they are joined into one large file under `data/`. The rename of their file under
   `meta/episodes/` is the moment from which the large file counts; only then are the small files removed.
3. `meta/stats.json` follows, `meta/info.json` last. Opening a folder again removes what a crash left of 2, and goes on.

Only a closed dataset is complete for lerobot's own tools.
"""

import contextlib
import fcntl
import json
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ideomotor.core import files
from ideomotor.core.errors import UserError
from ideomotor.core.spec import Embodiment, check_same
from ideomotor.core.types import Episode
from ideomotor.data.dataset import Feature
from ideomotor.data.lerobot.episode import (
    EncodedEpisode,
    encode_episode,
    table_writer,
)
from ideomotor.data.lerobot.episodes import (
    RECORDING,
    episode_files,
    episode_table,
    read_embodiment,
    read_tasks,
    recorded_files,
    recorded_row,
)
from ideomotor.data.lerobot.form import Form, declared_features, form_of
from ideomotor.data.lerobot.info import (
    AUTOMATIC,
    DATA_PATH,
    EPISODES_PATH,
    TASKS_PATH,
    VERSION,
    VIDEO_PATH,
    read_info,
)
from ideomotor.data.lerobot.parquet import ArrowTable
from ideomotor.data.lerobot.statistics import dataset_statistics
from ideomotor.data.statistics import lerobot_json, summarize

__all__ = ["DatasetWriter", "EncodedEpisode", "encode_episode"]

FILE_SIZE = 100 << 20  # [bytes] of a large file, lerobot's default
CHUNK = 1000  # files in one folder
_PANDAS = {
    "index_columns": ["task"],
    "column_indexes": [],
    "columns": [
        {
            "name": "task_index",
            "field_name": "task_index",
            "pandas_type": "int64",
            "numpy_type": "int64",
            "metadata": None,
        },
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ],
    "pandas_version": "2.2.0",
}


class DatasetWriter:
    """Adds episodes to the dataset in a folder, one at a time, from one process.

    Other processes encode (`encode_episode`), this one writes (`add_encoded`).
    """

    def __init__(self, folder: Path, form: Embodiment | Form, file_size: int = FILE_SIZE) -> None:
        """Begin a dataset in `folder`, or go on with the one that is there.

        A form without embodiment is for a caller that knows the folder to be its own.

        Raises:
            UserError: the folder holds something else, a dataset of another embodiment, or is being written by another process.
        """
        self.folder, self.file_size = folder, file_size
        self.form = form_of(form) if isinstance(form, Embodiment) else form
        self.embodiment = self.form.embodiment
        with _storage_errors(folder):
            existing = _existing_embodiment(folder) if self.embodiment else None
            if existing is not None and self.embodiment:
                check_same(self.embodiment, existing, "the recording", f"the dataset in {folder}")
            (folder / RECORDING).mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
            try:
                if not (folder / "meta" / "info.json").is_file():
                    self._begin()
                self._recover()
            except BaseException:
                self._lock.close()
                raise

    def __enter__(self) -> "DatasetWriter":  # noqa: PYI034 (the shape checker of the tests refuses Self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif issubclass(kind, KeyboardInterrupt):
            with _storage_errors(self.folder):
                self._recover()  # it may have come in the middle of a write: what is on disk counts
            self.close()
        else:
            self.abandon()

    @property
    def num_episodes(self) -> int:
        """Episodes that are safe on disk."""
        return self._committed + len(self._waiting)

    def add_episode(self, episode: Episode) -> None:
        """Encode an episode and write it; when this returns, it survives a crash."""
        self.add_encoded(encode_episode(episode))

    def add_encoded(self, episode: EncodedEpisode) -> None:
        """Write an encoded episode; when this returns, it survives a crash.

        Raises:
            UserError: another embodiment or other labels than the dataset has, or no space.
        """
        if episode.embodiment != self.embodiment:
            assert episode.embodiment, "both are known, or neither is"
            assert self.embodiment, "both are known, or neither is"
            check_same(episode.embodiment, self.embodiment, "the episode", f"the dataset in {self.folder}")
        self._check_features(episode.features)
        path = self.folder / RECORDING / f"episode-{self.num_episodes:06d}.parquet"
        with _storage_errors(self.folder):
            files.write_bytes(path, episode.content)
            self._waiting.append(path)
            self._waiting_size += len(episode.content)
            if self._waiting_size >= self.file_size:
                self._join()

    def abandon(self) -> None:
        """Release the folder as it is (the disk may be full): what is on it is safe, and the next writer goes on from there."""
        self._lock.close()

    def close(self) -> None:
        """Join what waits, write statistics and totals, and release the folder."""
        with _storage_errors(self.folder), self._lock:
            self._join()
            info = read_info(self.folder)
            if (info.total_episodes, info.total_frames) != (self._committed, self._frames):
                files.write_json(self.folder / "meta" / "stats.json", dataset_statistics(self.folder))
                self._write_info(self._features)
            (self.folder / RECORDING / "lock").unlink()
            (self.folder / RECORDING).rmdir()

    def _begin(self) -> None:
        self._features: tuple[Feature, ...] = ()
        self._committed, self._frames, self._tasks = 0, 0, dict[str, int]()
        if self.embodiment:
            files.write_bytes(self.folder / "meta" / "embodiment.json", self.embodiment.to_text().encode())
        self._write_info(())

    def _recover(self) -> None:
        """Take up the state on disk and remove what a crash left behind."""
        for place in ("", "meta", RECORDING, "meta/episodes", "data"):
            for path in (self.folder / place).glob("**/.*.tmp" if place in ("meta/episodes", "data") else ".*.tmp"):
                path.unlink()
        info = read_info(self.folder)
        self._features = tuple(info.features.values())
        self._tasks = {text: index for index, text in sorted(read_tasks(self.folder).items())}
        table = episode_table(self.folder, ["length", "data/chunk_index", "data/file_index"])
        rows: list[dict[str, Any]] = [] if table is None else table.to_pylist()
        self._committed, self._frames = len(rows), sum(row["length"] for row in rows)
        if info.total_episodes > self._committed or info.data_path != DATA_PATH:
            raise UserError(
                f"{info.path} states {info.total_episodes} episodes at '{info.data_path}', the episode table has {self._committed}"
                f" at '{DATA_PATH}': files are missing, or it was changed by another program. Restore it, or record elsewhere"
            )
        self._file = max((row["data/chunk_index"] * CHUNK + row["data/file_index"] + 1 for row in rows), default=0)
        self._table = max((_number(path) + 1 for path in episode_files(self.folder)), default=0)
        self._waiting: list[Path] = []
        for index, path in recorded_files(self.folder):
            if index < self._committed:
                path.unlink()
            elif index == self._committed + len(self._waiting):
                self._waiting.append(path)
            else:
                raise UserError(f"{path}: the episode before it is missing; move it away, then record again")
        if self._waiting:  # a file that was joined from some of them, but does not count yet
            self._next_data().unlink(missing_ok=True)
        self._waiting_size = sum(path.stat().st_size for path in self._waiting)
        if not self.num_episodes:
            self._features = ()

    def _check_features(self, features: Sequence[Feature]) -> None:
        if not self._features and not self.num_episodes:
            self._features = tuple(features)
            with _storage_errors(self.folder):
                self._write_info(self._features)
        if tuple(features) != self._features:
            ours, theirs = ({f"{f.name} {f.dtype}{list(f.shape)}" for f in some} for some in (self._features, features))
            raise UserError(
                f"the episode has other columns than the dataset in {self.folder}: {sorted(theirs - ours)} instead of"
                f" {sorted(ours - theirs)}; one dataset has one set of labels, record into another folder"
            )

    def _join(self) -> None:
        """Move the waiting episodes into one large file."""
        if not self._waiting:
            return
        rows: list[dict[str, Any]] = []
        frames = self._frames
        columns = [*(f.name for f in self._features), *self._image_keys(), *AUTOMATIC]
        with files.atomic_path(self._next_data()) as temporary, contextlib.ExitStack() as stack:
            writer: pq.ParquetWriter | None = None
            for source in self._waiting:
                table, row = self._numbered(source, self._committed + len(rows), frames)
                frames += len(table)
                table = table.select(columns)
                writer = writer or stack.enter_context(table_writer(temporary, table.schema))
                writer.write_table(table, row_group_size=len(table))
                rows.append(row)
            stack.close()
        self._write_tasks()
        meta_chunk, meta_file = divmod(self._table, CHUNK)
        path = self.folder / EPISODES_PATH.format(chunk_index=meta_chunk, file_index=meta_file)
        place = {"meta/episodes/chunk_index": meta_chunk, "meta/episodes/file_index": meta_file}
        with files.atomic_path(path) as temporary:
            pq.write_table(_episode_rows([{**row, **place} for row in rows]), temporary)
        self._committed, self._frames = self._committed + len(rows), frames
        self._file, self._table = self._file + 1, self._table + 1
        for source in self._waiting:
            source.unlink()
        self._waiting, self._waiting_size = [], 0

    def _numbered(self, source: Path, episode: int, first: int) -> tuple[ArrowTable, dict[str, Any]]:
        """Return a recorded episode with its global numbers, and its row of the episode table."""
        table = pq.read_table(source, memory_map=True)
        recorded = recorded_row(source, table.schema)
        spans: list[tuple[str, int]] = recorded.get("spans") or [(recorded["instruction"], len(table))]
        tasks = [self._tasks.setdefault(text, len(self._tasks)) for text, _ in spans]
        length = len(table)
        numbers = {
            "episode_index": np.full(length, episode),
            "index": np.arange(first, first + length),
            "task_index": np.repeat(tasks, [frames for _, frames in spans]),
        }
        row: dict[str, Any] = {
            "episode_index": episode,
            "tasks": list(dict.fromkeys(text for text, _ in spans)),
            "length": length,
            "dataset_from_index": first,
            "dataset_to_index": first + length,
            "data/chunk_index": self._file // CHUNK,
            "data/file_index": self._file % CHUNK,
            "success": recorded["success"],
            **recorded.get("columns", {}),
        }
        stats = dict(recorded["stats"])
        for name, values in numbers.items():
            table = table.append_column(name, pa.array(values.astype(np.int64)))
            stats[name] = lerobot_json(summarize(values[:, None]), image=False)
        row |= {f"stats/{name}/{key}": value for name, summary in stats.items() for key, value in summary.items()}
        return table.replace_schema_metadata(None), row

    def _write_tasks(self) -> None:
        table = pa.table(
            {"task_index": pa.array(self._tasks.values(), pa.int64()), "task": pa.array(self._tasks, pa.string())}
        )
        with files.atomic_path(self.folder / TASKS_PATH) as temporary:
            pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(_PANDAS)}), temporary)

    def _write_info(self, features: Sequence[Feature]) -> None:
        fps = self.form.fps
        value = {
            "codebase_version": VERSION,
            "robot_type": self.form.robot,
            "total_episodes": self._committed,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK,
            "data_files_size_in_mb": max(1, self.file_size >> 20),
            "video_files_size_in_mb": 200,
            "fps": int(fps) if float(fps).is_integer() else fps,
            "splits": {"train": f"0:{self._committed}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if any(camera.video for camera in self.form.cameras) else None,
            "features": declared_features(features, self.form),
        }
        files.write_json(self.folder / "meta" / "info.json", value)

    def _next_data(self) -> Path:
        return self.folder / DATA_PATH.format(chunk_index=self._file // CHUNK, file_index=self._file % CHUNK)

    def _image_keys(self) -> list[str]:
        return [camera.key for camera in self.form.cameras if not camera.video]


def _existing_embodiment(folder: Path) -> Embodiment | None:
    """Return the embodiment of the dataset in `folder`, None where one can begin."""
    if (embodiment := read_embodiment(folder)) is not None:
        return embodiment
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder for the dataset, new or empty")
    held = (
        [child.name for child in folder.iterdir() if child.name not in ("meta", RECORDING)] if folder.exists() else []
    )
    if held or (folder / "meta" / "info.json").exists():
        raise UserError(
            f"{folder} holds something else than a dataset recorded by Ideomotor; give a folder that is new or empty"
        )
    return None


def _lock(folder: Path) -> Any:
    lock = (folder / RECORDING / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(f"{folder} is being recorded by another process; wait for it or give another folder") from error
    return lock


@contextlib.contextmanager
def _storage_errors(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}); finished episodes are kept. Free some space or give another"
            " folder, then run the same command again to go on"
        ) from error


def _number(path: Path) -> int:
    """Return the running number of a `chunk-CCC/file-FFF` path."""
    chunk, file = path.parent.name.partition("-")[2], path.stem.partition("-")[2]
    return int(chunk) * CHUNK + int(file) if chunk.isdecimal() and file.isdecimal() else 0


def _episode_rows(rows: list[dict[str, Any]]) -> ArrowTable:
    columns: dict[str, Any] = {}
    for name in rows[0]:  # all have the same
        columns[name] = pa.array([row[name] for row in rows], _row_type(name, rows[0][name]))
    return pa.table(columns)


def _row_type(name: str, example: Any) -> Any:
    if name == "tasks":
        return pa.list_(pa.string())
    if not name.startswith("stats/"):
        return {str: pa.string(), float: pa.float64()}.get(type(example), pa.int64())
    if name.endswith("/count"):
        return pa.list_(pa.int64())
    nested = isinstance(example[0], list)
    return pa.list_(pa.list_(pa.list_(pa.float64()))) if nested else pa.list_(pa.float64())
