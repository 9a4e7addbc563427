"""Faults of a LeRobotDataset v3.0. lerobot 0.4 to 0.6 loads most of these without a word."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from ideomotor.core.errors import UserError
from ideomotor.data.check import Fault, embodiment_faults, image_faults, of_error
from ideomotor.data.dataset import Feature
from ideomotor.data.lerobot.episodes import (
    COLUMNS,
    data_path,
    episode_files,
    episode_table,
    pandas_index,
    read_tasks,
    recorded_files,
    task_column,
)
from ideomotor.data.lerobot.info import AUTOMATIC, TASKS_PATH, Info, read_info
from ideomotor.data.lerobot.parquet import ArrowTable, open_parquet, read_table, to_numpy
from ideomotor.data.lerobot.v3 import LeRobotDataset

RESTORE = "Restore it from a copy of the dataset"
SORT = "Sort the rows by their index and write the file again"
LONGEST_VIDEO = 1000.0  # [s]; above 1,024 s lerobot's float32 times miss about 2 % of the frames
TOLERANCE = 1e-4  # [s], lerobot's for the time of a frame


def lerobot_faults(root: Path) -> Iterator[Fault]:
    """Yield every fault, from the outer files to the single image."""
    try:
        info = read_info(root)
        tables = Tables(root, info)
    except UserError as error:
        yield of_error(root / "meta", error)
        return
    yield from _name_faults(info)
    yield from _task_faults(root)
    yield from _table_faults(tables)
    yield from _total_faults(tables)
    yield from _file_faults(tables)
    yield from _statistics_faults(root)
    yield from _data_faults(tables)
    try:
        dataset = LeRobotDataset(root)
        yield from embodiment_faults(dataset)
    except UserError as error:
        yield of_error(root / "meta", error)
        return
    yield from _video_faults(dataset)
    if not [camera for camera in info.cameras.values() if camera.video]:
        yield from image_faults(dataset)


class Tables:
    """The episode table as it lies on disk, row by row, unsorted."""

    def __init__(self, root: Path, info: Info) -> None:
        self.root, self.info = root, info
        self.where = root / "meta" / "episodes"
        table = episode_table(root, [*COLUMNS, "meta/episodes/chunk_index", "meta/episodes/file_index"])
        self.columns = [] if table is None else table.column_names
        self.rows: list[dict[str, Any]] = [] if table is None else table.to_pylist()
        try:
            self.tasks = read_tasks(root)
        except UserError:
            self.tasks = {}  # `_task_faults` says why

    def complete(self) -> bool:
        """Whether the columns are there without which nothing else can be compared."""
        return all(isinstance(row.get(name), int) for row in self.rows for name in COLUMNS[:2] + COLUMNS[3:7])

    def by_file(self) -> dict[Path, list[dict[str, Any]]]:
        """The rows by the parquet file that they refer to, in the order of their frames."""
        found: dict[Path, list[dict[str, Any]]] = {}
        for row in sorted(self.rows, key=lambda row: row["dataset_from_index"]):
            path = data_path(self.root, self.info, row["data/chunk_index"], row["data/file_index"])
            found.setdefault(path, []).append(row)
        return found


def _name_faults(info: Info) -> Iterator[Fault]:
    for name, feature in info.features.items():
        where = f"{info.path}, feature '{name}'"
        if "image" in name:
            yield Fault(
                where, "holds 'image' in its name but is none; lerobot cannot compute statistics of it", "Rename it"
            )
        if len(feature.shape) > 1:
            yield Fault(
                where, f"has the shape {list(feature.shape)}; lerobot cannot edit datasets with matrices", "Flatten it"
            )
    for name in AUTOMATIC:
        if name not in info.declared:
            yield Fault(
                f"{info.path}", f"does not declare the column '{name}', which every dataset has", "Declare and fill it"
            )


def _task_faults(root: Path) -> Iterator[Fault]:
    path = root / TASKS_PATH
    if not path.is_file():
        if episode_files(root):
            yield Fault(str(path), "is missing; frames have no instruction", RESTORE)
        return
    try:
        table = read_table(path)
    except UserError as error:
        yield of_error(path, error)
        return
    text = task_column(table.schema)
    if text is None or "task_index" not in table.column_names:
        yield Fault(
            str(path), f"has the columns {table.column_names} instead of `task_index` and the instruction", RESTORE
        )
        return
    if text not in pandas_index(table.schema):
        remedy = f"Write it from pandas with '{text}' as the index"
        yield Fault(
            str(path), "lacks the pandas metadata of its index; lerobot gives row numbers as instructions", remedy
        )
    indices = table["task_index"].to_pylist()
    if sorted(indices) != list(range(len(indices))):
        yield Fault(
            str(path), f"has the task indices {indices[:8]} instead of 0 to {len(indices) - 1}, each once", RESTORE
        )
    elif indices != sorted(indices):
        yield Fault(str(path), "has permuted rows; lerobot takes them by position and gives wrong instructions", SORT)


def _table_faults(tables: Tables) -> Iterator[Fault]:
    where = str(tables.where)
    if tables.rows and not tables.complete():
        yield Fault(
            where, f"lacks columns or values; it has {tables.columns}, needed are {list(COLUMNS[:-1])}", RESTORE
        )
        return
    for name in ("meta/episodes/chunk_index", "meta/episodes/file_index"):
        if tables.rows and name not in tables.columns:
            yield Fault(
                where,
                f"lacks the column `{name}`; lerobot cannot go on recording",
                "Add it: the numbers of the file itself",
            )
    indices = [row["episode_index"] for row in tables.rows]
    if sorted(indices) != list(range(len(indices))):
        yield Fault(where, f"has the episodes {indices[:8]} instead of 0 to {len(indices) - 1}, each once", RESTORE)
    elif indices != sorted(indices):
        yield Fault(where, "has permuted rows; lerobot takes them by position and gives frames of other episodes", SORT)
    position = 0
    for row in sorted(tables.rows, key=lambda row: row["episode_index"]):
        episode = f"{where}, episode {row['episode_index']}"
        if row["length"] < 1:
            yield Fault(episode, "has no frames", "Remove it")
        if row["dataset_from_index"] != position or row["dataset_to_index"] != position + row["length"]:
            stated = f"{row['dataset_from_index']} to {row['dataset_to_index']}"
            yield Fault(
                episode,
                f"states the frames {stated}, which should be {position} to {position + row['length']}",
                RESTORE,
            )
        position += row["length"]


def _total_faults(tables: Tables) -> Iterator[Fault]:
    info, path = tables.info, str(tables.info.path)
    frames = sum(row.get("length") or 0 for row in tables.rows)
    for name, stated, found in (
        ("total_episodes", info.total_episodes, len(tables.rows)),
        ("total_frames", info.total_frames, frames),
    ):
        if stated != found:
            yield Fault(
                path, f"states `{name}` {stated}, the episode table has {found}; lerobot trusts it", f"Write {found}"
            )
    for name, text in info.splits.items():
        first, _, last = text.partition(":")
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) <= len(tables.rows)):
            yield Fault(
                path, f"states the split '{name}' as '{text}'; there are {len(tables.rows)} episodes", "Correct it"
            )
    waiting = sum(index >= len(tables.rows) for index, _ in recorded_files(tables.root))
    if waiting:
        remedy = "Run the same `ideomotor collect` again: it goes on and closes the dataset"
        yield Fault(
            str(tables.root),
            f"was not closed: {waiting} episodes wait under `recording`; lerobot does not see them",
            remedy,
        )
    elif not tables.rows:
        yield Fault(str(tables.root), "holds no episodes", "Record some")


def _file_faults(tables: Tables) -> Iterator[Fault]:
    if tables.complete():
        known = set(tables.by_file())
        for path in sorted((tables.root / "data").glob("*/*.parquet")):
            if path not in known:
                yield Fault(
                    str(path), "belongs to no episode; lerobot reads it as data and shifts every frame", "Move it away"
                )


def _statistics_faults(root: Path) -> Iterator[Fault]:
    path = root / "meta" / "stats.json"
    if not path.is_file():
        return
    remedy = "Remove it, or let lerobot compute the statistics again"
    try:
        stats = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        yield Fault(str(path), f"is not JSON ({error})", remedy)
        return
    for name, value in stats.items() if isinstance(stats, dict) else ():
        numbers = [x for v in value.values() for x in _flat(v)] if isinstance(value, dict) else []
        if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
            yield Fault(f"{path}, '{name}'", "holds values that are not finite", remedy)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _data_faults(tables: Tables) -> Iterator[Fault]:
    if not tables.complete():
        return
    for path, rows in tables.by_file().items():
        try:
            names = open_parquet(path).schema_arrow.names
            stored = [
                c for c in tables.info.declared if c not in {v.key for v in tables.info.cameras.values() if v.video}
            ]
            for name in set(stored) - set(names):
                yield Fault(
                    str(path), f"lacks the column '{name}', which info.json declares; lerobot gives None", RESTORE
                )
            for name in set(names) - set(tables.info.declared):
                yield Fault(
                    str(path),
                    f"has the column '{name}', which info.json does not declare; lerobot refuses it",
                    "Declare it",
                )
            keys = {camera.key for camera in tables.info.cameras.values()}
            table = read_table(path, [name for name in stored if name not in keys])
        except UserError as error:
            yield of_error(path, error)
            continue
        expected = sum(row["length"] for row in rows)
        if len(table) != expected:
            yield Fault(str(path), f"has {len(table)} rows, the episode table gives it {expected}", RESTORE)
            continue
        yield from _column_faults(tables, path, table, rows)


def _column_faults(tables: Tables, path: Path, table: ArrowTable, rows: list[dict[str, Any]]) -> Iterator[Fault]:
    automatic = {name: Feature(name, "float32" if name == "timestamp" else "int64", (1,)) for name in AUTOMATIC}
    values: dict[str, np.ndarray] = {}
    for name in table.column_names:
        try:
            values[name] = to_numpy(table[name], (automatic | tables.info.features)[name], f"{path}, column '{name}'")
        except KeyError:
            continue  # language columns
        except UserError as error:
            yield of_error(path, error)
    start = 0
    for row in rows:
        part = {name: column[start : start + row["length"]] for name, column in values.items()}
        where = f"{path}, episode {row['episode_index']}"
        yield from _number_faults(tables.info, where, part, row)
        yield from _instruction_faults(tables.tasks, where, part, row)
        for name, column in part.items():
            if np.issubdtype(column.dtype, np.floating) and not np.isfinite(column).all():
                frame, *channel = np.argwhere(~np.isfinite(column))[0].tolist()
                at = f"column '{name}', frame {frame}, channel {channel[0] if channel else 0}"
                yield Fault(where, f"{at} is {column[(frame, *channel)]}", "Remove the episode or record it again")
        start += row["length"]


def _number_faults(info: Info, where: str, part: dict[str, np.ndarray], row: dict[str, Any]) -> Iterator[Fault]:
    """Compare the automatic columns with the episode table."""
    counter = np.arange(row["length"])
    expected = {
        "episode_index": (np.full(row["length"], row["episode_index"]), 0.0),
        "frame_index": (counter, 0.0),
        "index": (counter + row["dataset_from_index"], 0.0),
        "timestamp": (counter / info.fps, TOLERANCE),
    }
    for name, (values, tolerance) in expected.items():
        if name in part and (wrong := np.flatnonzero(np.abs(part[name] - values) > tolerance)).size:
            frame = int(wrong[0])
            stated, right = part[name][frame], values[frame]
            yield Fault(
                where,
                f"column '{name}', frame {frame} is {stated} instead of {right}; lerobot shifts or pads frames",
                RESTORE,
            )


def _instruction_faults(
    tasks: dict[int, str], where: str, part: dict[str, np.ndarray], row: dict[str, Any]
) -> Iterator[Fault]:
    """Compare the instruction of each frame with those of the episode table."""
    stated: set[str] = set(row.get("tasks") or ())
    for frame, task in enumerate(part.get("task_index", np.zeros(0, int)).tolist()):
        if task not in tasks:
            yield Fault(where, f"frame {frame} has the task {task}, which {TASKS_PATH} does not have", RESTORE)
            return
        if stated and tasks[task] not in stated:
            text = f"frame {frame} has the instruction {tasks[task]!r}, the episode table {sorted(stated)}"
            yield Fault(where, text, RESTORE)
            return


def _video_faults(dataset: LeRobotDataset) -> Iterator[Fault]:
    for camera in (camera for camera in dataset.info.cameras.values() if camera.video):
        expected: dict[Path, int] = {}
        for episode, rows in enumerate(dataset.rows):
            span = rows.videos.get(camera.key)
            if span is None:
                yield Fault(
                    f"{dataset.path}, episode {episode}",
                    f"has no video of the declared camera '{camera.role}'",
                    RESTORE,
                )
                break
            last = round(span.start * dataset.fps) + rows.length
            expected[span.path] = max(last, expected.get(span.path, 0))
        for path, frames in expected.items():
            yield from _mp4_faults(path, frames, dataset.fps)
    for episode in range(len(dataset)):
        for role in dataset.cameras:
            try:
                for frame in sorted({0, dataset.length(episode) - 1}):
                    dataset.image(episode, frame, role)
            except UserError as error:
                yield of_error(f"{dataset.path}, episode {episode}, camera '{role}'", error)


def _mp4_faults(path: Path, frames: int, fps: float) -> Iterator[Fault]:
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            found = sum(packet.pts is not None for packet in container.demux(stream))
    except (FFmpegError, OSError, IndexError) as error:
        yield Fault(str(path), f"cannot be read as video ({error})", RESTORE)
        return
    if found != frames:
        yield Fault(
            str(path), f"has {found} frames, the episode table gives it {frames}", "Encode it again from the recording"
        )
    if found / fps > LONGEST_VIDEO:
        yield Fault(
            str(path), f"lasts {found / fps:.0f} s; lerobot misses frames above {LONGEST_VIDEO:.0f} s", "Split it"
        )
