"""Which rows of which file each episode of a LeRobotDataset v3.0 has: the episode table, the tasks, and unfinished recordings.

Surprises: other readers take rows of both tables by position, so a permuted table gives
another episode's frames in silence; here the stated index counts. The task strings are a pandas index, whose column has one of
several names. Totals in info.json are not trusted.

A recording that was not closed has further episodes under `recording/`, one parquet file each (data/lerobot/writer.py).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Embodiment
from ideomotor.core.types import Success
from ideomotor.data.lerobot.info import TASKS_PATH, CameraFeature, Info
from ideomotor.data.lerobot.parquet import ArrowSchema, ArrowTable, open_parquet, read_table

RECORDING = "recording"  # folder of finished episodes that wait for their place in the large files
EPISODE_KEY = b"ideomotor.episode"  # in the schema of a recorded episode: what will be its row in the episode table
COLUMNS = (
    "episode_index", "length", "tasks", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index", "success",
)  # fmt: skip


@dataclass(frozen=True)
class VideoSpan:
    """Where an episode lies in an mp4."""

    path: Path
    start: float  # [s] inside of the mp4


@dataclass(frozen=True)
class EpisodeRows:
    """Where the frames of an episode lie."""

    path: Path  # of the parquet file
    start: int  # first row in that file
    length: int
    tasks: tuple[str, ...]
    success: Success | None  # None: the dataset does not say
    videos: dict[str, VideoSpan]  # by camera key


def read_episodes(root: Path, info: Info) -> list[EpisodeRows]:
    """Read the episode table and the unfinished recording.

    Raises:
        UserError: a damaged file, an index that is missing or there twice, a column that is missing, or a negative length.
    """
    rows = _table_rows(root, info)
    for index, path in recorded_files(root):
        if index == len(rows):
            rows.append(_recorded_rows(path))
    return rows


def read_embodiment(root: Path) -> Embodiment | None:
    """Return the specification at `meta/embodiment.json`, None where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = root / "meta" / "embodiment.json"
    return Embodiment.from_text(path.read_text("utf-8", "replace"), str(path)) if path.is_file() else None


def recorded_files(root: Path) -> list[tuple[int, Path]]:
    """Return index and file of the episodes under `recording/`, in order."""
    found = (
        (re.fullmatch(r"episode-(\d{6,12})\.parquet", path.name), path) for path in (root / RECORDING).glob("*.parquet")
    )
    return sorted((int(match[1]), path) for match, path in found if match)


def recorded_row(path: Path, schema: ArrowSchema) -> dict[str, Any]:
    """Return what the schema of a recorded episode says about it."""
    try:
        return json.loads((schema.metadata or {})[EPISODE_KEY])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is no recorded episode of this format; move it away") from error


def read_tasks(root: Path) -> dict[int, str]:
    """Return the instruction of each task index.

    Raises:
        UserError: a damaged file, or one without instructions.
    """
    path = root / TASKS_PATH
    if not path.is_file():
        return {}
    table = read_table(path)
    text = task_column(table.schema)
    if text is None or "task_index" not in table.column_names:
        raise UserError(
            f"{path} has the columns {table.column_names}; it should have `task_index` and the instruction; restore it from a copy"
        )
    return dict(zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True))


def task_column(schema: ArrowSchema) -> str | None:
    """Return the column that holds the instructions: the pandas index, else the only column of strings."""
    strings = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    for name in pandas_index(schema):
        if name in strings:
            return name
    return strings[0] if len(strings) == 1 else None


def pandas_index(schema: ArrowSchema) -> list[str]:
    """Return the columns that the pandas metadata of a schema names as index; empty without such metadata."""
    try:
        names = json.loads((schema.metadata or {})[b"pandas"])["index_columns"]
    except (KeyError, ValueError, TypeError):
        return []
    return [name for name in names if isinstance(name, str)]


def data_path(root: Path, info: Info, chunk: int, file: int) -> Path:
    """Return the parquet file of these indices."""
    return root / info.data_path.format(chunk_index=chunk, file_index=file)


def episode_files(root: Path) -> list[Path]:
    """Return the files of the episode table, in the order in which they are read."""
    return sorted((root / "meta" / "episodes").glob("*/*.parquet"))


def episode_table(root: Path, columns: Sequence[str]) -> ArrowTable | None:
    """Return the named columns of the episode table as it lies there, None where there is no table."""
    tables = [read_table(path, columns) for path in episode_files(root)]
    return pa.concat_tables(tables, promote_options="permissive") if tables else None


def _table_rows(root: Path, info: Info) -> list[EpisodeRows]:
    videos = [camera for camera in info.cameras.values() if camera.video]
    table = episode_table(root, [*COLUMNS, *(f"videos/{c.key}/{n}" for c in videos for n in _VIDEO_COLUMNS)])
    if table is None:
        return []
    where = root / "meta" / "episodes"
    number = {
        name: _integers(table, name, where) for name in COLUMNS if name not in ("tasks", "success", "dataset_to_index")
    }
    order = np.argsort(number["episode_index"], kind="stable")
    if not np.array_equal(number["episode_index"][order], np.arange(len(order))):
        raise UserError(
            f"{where}: the episode indices are not 0 to {len(order) - 1}, each once; run `ideomotor data check {root}` and"
            " restore the table from a copy of the dataset"
        )
    chunk, file, first = number["data/chunk_index"], number["data/file_index"], number["dataset_from_index"]
    begins: dict[tuple[int, int], int] = {}
    for c, f, i in zip(chunk.tolist(), file.tolist(), first.tolist(), strict=True):
        begins[c, f] = min(i, begins.get((c, f), i))
    paths = {(c, f): data_path(root, info, c, f) for c, f in begins}
    tasks = table["tasks"].to_pylist() if "tasks" in table.column_names else [[]] * len(order)
    success = table["success"].to_pylist() if "success" in table.column_names else [None] * len(order)
    spans = _video_spans(root, info, table, videos)
    return [
        EpisodeRows(
            path=paths[int(chunk[r]), int(file[r])],
            start=int(first[r]) - begins[int(chunk[r]), int(file[r])],
            length=int(number["length"][r]),
            tasks=tuple(str(task) for task in tasks[r] or ()),
            success=success[r] if success[r] in get_args(Success) else None,
            videos=spans[r],
        )
        for r in order.tolist()
    ]


_VIDEO_COLUMNS = ("chunk_index", "file_index", "from_timestamp")


def _video_spans(root: Path, info: Info, table: ArrowTable, videos: list[CameraFeature]) -> list[dict[str, VideoSpan]]:
    spans: list[dict[str, VideoSpan]] = [{} for _ in range(len(table))]
    for camera in videos:
        names = [f"videos/{camera.key}/{name}" for name in _VIDEO_COLUMNS]
        if info.video_path is None or not set(names) <= set(table.column_names):
            continue  # a declared camera without files, as seen in the field: asking for its image says so
        for span, chunk, file, start in zip(spans, *(table[name].to_pylist() for name in names), strict=True):
            if chunk is not None and file is not None:
                path = info.video_path.format(video_key=camera.key, chunk_index=int(chunk), file_index=int(file))
                span[camera.key] = VideoSpan(root / path, float(start or 0.0))
    return spans


def _integers(table: ArrowTable, name: str, where: Path) -> np.ndarray:
    if name not in table.column_names or table[name].null_count or not pa.types.is_integer(table[name].type):
        raise UserError(
            f"{where}: the column `{name}` is missing, has holes or holds no whole numbers; restore it from a copy"
        )
    values = table[name].to_numpy()
    if len(values) and (values.min() < 0 or values.max() > 1 << 48):
        raise UserError(
            f"{where}: the column `{name}` holds {values.min()} to {values.max()}; indices and lengths begin at 0"
        )
    return values


def _recorded_rows(path: Path) -> EpisodeRows:
    file: pq.ParquetFile = open_parquet(path)
    row = recorded_row(path, file.schema_arrow)
    return EpisodeRows(path, 0, file.metadata.num_rows, (str(row["instruction"]),), row["success"], {})
