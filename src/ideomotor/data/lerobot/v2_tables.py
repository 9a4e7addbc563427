"""The tables of a LeRobotDataset v2.0 or v2.1: one parquet file an episode, and lists of JSON lines under `meta`.

Seen in the field, and read: totals and splits that disagree with the files, episode numbers with gaps, lines out of order, cameras
that are declared and have no files, `tasks` as a single string.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, cast, get_args

import pyarrow.parquet as pq

from ideomotor.core import files
from ideomotor.core.errors import UserError
from ideomotor.core.types import Success
from ideomotor.data.lerobot.episodes import EpisodeRows, VideoSpan
from ideomotor.data.lerobot.info import CameraFeature, Info, Layout
from ideomotor.data.lerobot.parquet import DAMAGED

V2_DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
V2_VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
V2 = Layout(("v2.0", "v2.1"), V2_DATA_PATH, frozenset({"episode_chunk", "episode_index"}))
EPISODES_LINES = "meta/episodes.jsonl"
TASKS_LINES = "meta/tasks.jsonl"
STATS_LINES = "meta/episodes_stats.jsonl"
LARGEST_LINES = 1 << 30  # [bytes] of a file of JSON lines


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the object of each line.

    Raises:
        UserError: missing, far too large, or a line that is no JSON object; the message says which.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; restore it from a copy of the dataset")
    for number, line in enumerate(files.read_small(path, LARGEST_LINES).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number} is not JSON ({error}); restore it from a copy") from error
        if not isinstance(value, dict):
            raise UserError(f"{path}, line {number} holds a {type(value).__name__}; each line should hold an object")
        files.refuse_half_characters(value, f"{path}, line {number}")
        yield cast("dict[str, Any]", value)


def read_task_lines(root: Path) -> dict[int, str]:
    """Return the instruction of each task index.

    Raises:
        UserError: as in `read_lines`, or a line without index or text.
    """
    path = root / TASKS_LINES
    return {_count(row, "task_index", path): _text(row.get("task"), path) for row in read_lines(path)}


def read_episode_lines(root: Path, info: Info) -> tuple[list[int], list[EpisodeRows]]:
    """Return the episodes' numbers and where their frames lie, in the order of the numbers.

    Raises:
        UserError: as in `read_lines`, or a number or length that is missing, negative or there twice.
    """
    path = root / EPISODES_LINES
    rows = sorted(read_lines(path), key=lambda row: _count(row, "episode_index", path))
    numbers = [int(row["episode_index"]) for row in rows]
    if twice := [a for a, b in pairwise(numbers) if a == b]:
        raise UserError(f"{path} holds episode {twice[0]} twice; remove one of the lines")
    videos = [camera for camera in info.cameras.values() if camera.video]
    return numbers, [_episode(root, info, row, videos) for row in rows]


def without_files(info: Info, rows: list[EpisodeRows]) -> list[str]:
    """Return the roles of the declared cameras that no episode has any images of."""
    return [role for role, camera in info.cameras.items() if rows and not _has_images(camera, rows)]


def _has_images(camera: CameraFeature, rows: list[EpisodeRows]) -> bool:
    if camera.video:
        return any(camera.key in row.videos and row.videos[camera.key].path.is_file() for row in rows)
    try:
        return camera.key in pq.read_schema(rows[0].path).names
    except DAMAGED:
        return True  # reading the episode says what is wrong with the file


def _episode(root: Path, info: Info, row: Mapping[str, Any], videos: list[CameraFeature]) -> EpisodeRows:
    path = root / EPISODES_LINES
    number, length = _count(row, "episode_index", path), _count(row, "length", path)
    place = {"episode_chunk": number // info.chunks_size, "episode_index": number}
    stated: Any = row.get("tasks") or []
    tasks: list[Any] = [stated] if isinstance(stated, str) else stated if isinstance(stated, list) else []
    success = row.get("success")
    spans: dict[str, VideoSpan] = {}
    if info.video_path is not None:
        for camera in videos:
            spans[camera.key] = VideoSpan(_inside(root, info.video_path, video_key=camera.key, **place), 0.0)
    return EpisodeRows(
        path=_inside(root, info.data_path, **place),
        start=0,
        length=length,
        tasks=tuple(str(task) for task in tasks),
        success=success if success in get_args(Success) else None,
        videos=spans,
    )


def _inside(root: Path, template: str, **fields: Any) -> Path:
    """Return the path that a checked template names; feature names cannot lead out of the folder either."""
    path = template.format(**fields)
    if ".." in PurePosixPath(path).parts:
        raise UserError(f"{root}/meta/info.json: the path '{path}' leaves the folder of the dataset")
    return root / path


def _count(row: Mapping[str, Any], key: str, path: Path) -> int:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 48:
        raise UserError(f"{path}: `{key}` is {str(value)[:80]!r}; it should be a whole number, 0 or more, in each line")
    return value


def _text(value: Any, path: Path) -> str:
    if not isinstance(value, str):
        raise UserError(f"{path}: `task` is {str(value)[:80]!r}; it should be a sentence in each line")
    return value
