"""`meta/info.json` of a LeRobotDataset, checked: it comes from strangers and decides which files are opened."""

import json
import re
import string
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np

from ideomotor.core import files
from ideomotor.core.errors import UserError
from ideomotor.data.dataset import Feature

VERSION = "v3.0"
READ = "v2.0, v2.1 and v3.0"  # the versions, for people
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
TASKS_PATH = "meta/tasks.parquet"
AUTOMATIC = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # columns that lerobot adds itself

LARGEST_INFO = 16 << 20  # [bytes]; real ones have some kilobytes
LARGEST_FRAME = 1 << 20  # numbers of one column in one frame
LARGEST_SIDE = 1 << 14  # [px]
LARGEST_TEMPLATE = 256  # characters


@dataclass(frozen=True)
class Layout:
    """What info.json says differently from version to version."""

    versions: tuple[str, ...]  # those that are laid out so
    data_path: str  # where the tables lie if info.json does not say
    fields: frozenset[str]  # what the path of a table may hold


V3 = Layout((VERSION,), DATA_PATH, frozenset({"chunk_index", "file_index"}))


@dataclass(frozen=True)
class CameraFeature:
    """One image column."""

    key: str  # "observation.images.front"
    role: str  # "front"
    height: int  # [px]
    width: int  # [px]
    channels: int
    video: bool  # frames lie in an mp4 instead of the table


@dataclass(frozen=True)
class Info:
    """What info.json states; totals are claims, the episode table is what counts."""

    path: Path
    fps: float
    features: dict[str, Feature]  # without images and automatic columns
    cameras: dict[str, CameraFeature]  # by role
    declared: Mapping[str, Any]  # every feature as it is written there, automatic ones and unreadable kinds included
    total_episodes: int
    total_frames: int
    total_tasks: int
    chunks_size: int
    data_path: str
    video_path: str | None
    robot_type: str | None
    splits: dict[str, str]


def read_info(root: Path, layout: Layout = V3) -> Info:
    """Read and check `meta/info.json`.

    Raises:
        UserError: missing, not JSON, another version, or a value that is not allowed.
    """
    path = root / "meta" / "info.json"
    value = _read_object(path)
    check_version(value.get("codebase_version"), path, layout)
    declared = _object(value, "features", path)
    features, cameras = _features(declared, path)
    fps = value.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= 10_000:
        raise UserError(f"{path}: `fps` is {fps!r}; it should be a number of frames a second above 0")
    robot_type, video_path = value.get("robot_type"), value.get("video_path")
    return Info(
        path=path,
        fps=float(fps),
        features=features,
        cameras=cameras,
        declared=declared,
        total_episodes=_count(value, "total_episodes", path),
        total_frames=_count(value, "total_frames", path),
        total_tasks=_count(value, "total_tasks", path),
        chunks_size=max(1, _count(value, "chunks_size", path, default=1000)),
        data_path=checked_template(value.get("data_path", layout.data_path), layout.fields, f"{path}: `data_path`"),
        video_path=None
        if video_path is None
        else checked_template(video_path, layout.fields | {"video_key"}, f"{path}: `video_path`"),
        robot_type=robot_type if isinstance(robot_type, str) else None,
        splits={str(k): v for k, v in _object(value, "splits", path, default={}).items() if isinstance(v, str)},
    )


def stated_version(root: Path) -> Any:
    """Return the version that `meta/info.json` states, whatever it is.

    Raises:
        UserError: the file is missing or not JSON.
    """
    return _read_object(root / "meta" / "info.json").get("codebase_version")


def check_version(version: Any, path: Path, layout: Layout = V3) -> None:
    """Refuse every version but those of the layout.

    Raises:
        UserError: with what to do about an older or newer one.
    """
    match = re.fullmatch(r"v?(\d{1,4})\.(\d{1,4})", version) if isinstance(version, str) else None
    if match is None:
        raise UserError(f"{path}: `codebase_version` is {version!r}; this version of Ideomotor reads {READ}")
    found = (int(match[1]), int(match[2]))
    if f"v{found[0]}.{found[1]}" in layout.versions:
        return
    if found < (2, 0):
        raise UserError(
            f"{path}: `codebase_version` is '{version}'; this version of Ideomotor reads {READ}. Convert it with the"
            " lerobot of its time, first to v2.0 (lerobot/common/datasets/v2/convert_dataset_v1_to_v2.py)"
        )
    if found < (3, 0):
        raise UserError(
            f"{path}: `codebase_version` is '{version}', where {' or '.join(layout.versions)} is expected;"
            " `ideomotor data convert` turns one into the other"
        )
    raise UserError(
        f"{path}: `codebase_version` is '{version}', newer than '{VERSION}', which is what this version of Ideomotor"
        f" reads; its columns may mean something else. Update Ideomotor, or export the dataset as {VERSION}"
    )


def checked_template(template: Any, fields: AbstractSet[str], where: str) -> str:
    """Return a path template after making sure that it can name nothing outside of the dataset.

    >>> checked_template("../{file_index}", {"file_index"}, "`data_path`")
    Traceback (most recent call last):
    ...
    ideomotor.core.errors.UserError: `data_path` is '../{file_index}'; it should stay inside of the dataset's folder

    Raises:
        UserError: another field, a format other than a short padded integer, or a path that leaves the folder.
    """
    if (
        not isinstance(template, str)
        or not 0 < len(template) <= LARGEST_TEMPLATE
        or "\0" in template
        or "\\" in template
    ):
        raise UserError(
            f"{where} is {str(template)[:80]!r}; it should be a relative path of at most {LARGEST_TEMPLATE} characters"
        )
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"{where} is {template!r}, which is no template ({error})") from error
    for _, name, form, conversion in parts:
        if name is None:
            continue
        pattern = r"" if name == "video_key" else r"(0?[1-9]?d?)?"
        if name not in fields or conversion or not re.fullmatch(pattern, form or ""):
            raise UserError(
                f"{where} is {template!r}; it may hold the fields {sorted(fields)} only, numbers as in '{{chunk_index:03d}}'"
            )
    path = PurePosixPath(template)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{where} is {template!r}; it should stay inside of the dataset's folder")
    return template


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"{path} is missing; the folder above `meta` should be a LeRobotDataset ({READ}), give another one"
        )
    if path.stat().st_size > LARGEST_INFO:
        raise UserError(f"{path} has {path.stat().st_size} bytes; at most {LARGEST_INFO} are read: it is no info.json")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); restore it from a copy of the dataset") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; it should hold a JSON object")
    files.refuse_half_characters(value, str(path))
    return cast("dict[str, Any]", value)


def _object(value: Mapping[str, Any], key: str, path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    found = value.get(key, default)
    if not isinstance(found, dict):
        raise UserError(f"{path}: `{key}` is {str(found)[:80]!r}; it should be an object")
    return cast("dict[str, Any]", found)


def _count(value: Mapping[str, Any], key: str, path: Path, default: int = 0) -> int:
    found = value.get(key, default)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << 48:
        raise UserError(f"{path}: `{key}` is {str(found)[:80]!r}; it should be a whole number, 0 or more")
    return found


def _features(declared: dict[str, Any], path: Path) -> tuple[dict[str, Feature], dict[str, CameraFeature]]:
    features: dict[str, Feature] = {}
    cameras: dict[str, CameraFeature] = {}
    for name, value in declared.items():
        where = f"{path}: feature '{name[:80]}'"
        if "/" in name or "\\" in name or name in ("", ".", "..") or not isinstance(value, dict):
            raise UserError(f"{where} is not allowed; a feature is an object, its name holds no slash")
        entry = cast("dict[str, Any]", value)
        dtype, shape = entry.get("dtype"), _shape(entry.get("shape"), where)
        if dtype in ("image", "video"):
            camera = _camera(name, entry, shape, where)
            role = camera.role if camera.role not in cameras else name
            cameras[role] = camera
        elif name not in AUTOMATIC and dtype != "language":
            features[name] = Feature(name, _dtype(dtype, where), shape, _names(entry.get("names"), shape))
    return features, cameras


def _shape(value: Any, where: str) -> tuple[int, ...]:
    sizes: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [None]
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= LARGEST_FRAME for n in sizes):
        raise UserError(f"{where} has the shape {str(value)[:80]}; it should be a list of sizes above 0")
    if int(np.prod([float(n) for n in sizes])) > max(LARGEST_FRAME, 3 * LARGEST_SIDE**2):
        raise UserError(f"{where} has the shape {value}; that is more than one frame may hold")
    return tuple(sizes)


def _dtype(dtype: Any, where: str) -> str:
    allowed = ("float16", "float32", "float64", "bool", "string") + tuple(
        f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)
    )
    if dtype not in allowed:
        raise UserError(f"{where} has the dtype {str(dtype)[:80]!r}; known: {', '.join(allowed)}, image, video")
    return dtype


def _names(names: Any, shape: tuple[int, ...]) -> tuple[str, ...] | None:
    """Flatten the forms that `names` takes in the field: a list, a nested list, an object of lists."""
    if isinstance(names, dict):
        names = list(cast("dict[str, Any]", names).values())
    names = _unnested(names)
    if not isinstance(names, list) or len(cast("list[Any]", names)) != shape[-1:][0]:
        return None
    return tuple(str(name) for name in cast("list[Any]", names))


def _unnested(names: Any) -> Any:
    while isinstance(names, list) and len(cast("list[Any]", names)) == 1 and isinstance(names[0], list):
        names = cast("list[Any]", names[0])
    return names


def _camera(key: str, entry: dict[str, Any], shape: tuple[int, ...], where: str) -> CameraFeature:
    """Find out height and width by the axis names: converters write [H, W, C] as well as [C, H, W]."""
    if len(shape) != 3:
        raise UserError(f"{where} has the shape {list(shape)}; an image has three axes")
    names = _unnested(entry.get("names"))
    letters = [str(name)[:1] for name in cast("list[Any]", names)] if isinstance(names, list) else []
    if sorted(letters) != ["c", "h", "w"]:  # unnamed axes: channels are few
        letters = ["c", "h", "w"] if shape[0] <= 4 < shape[2] else ["h", "w", "c"]
    sizes = dict(zip(letters, shape, strict=True))
    if max(sizes["h"], sizes["w"]) > LARGEST_SIDE or sizes["c"] > 4:
        raise UserError(
            f"{where} has the shape {list(shape)} with axes {names}; sides may have {LARGEST_SIDE} px, channels 4"
        )
    role = key.removeprefix("observation.images.").removeprefix("observation.")
    return CameraFeature(key, role, sizes["h"], sizes["w"], sizes["c"], entry["dtype"] == "video")
