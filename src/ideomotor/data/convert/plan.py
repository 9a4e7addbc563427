"""What a conversion to LeRobotDataset writes for each column and camera of a dataset, decided once before the first episode.

Names of a LeRobotDataset stay as they are; those of other formats pass through `convert_names`. Matrices become rows of numbers (other
tools cannot edit datasets with matrices), ragged columns and several texts a frame become JSON; `meta/names.json` says how each was.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Embodiment
from ideomotor.data.convert.names import Names, OriginalColumn, legal, legal_camera, original_camera, read_names
from ideomotor.data.dataset import Dataset, Feature, Noted
from ideomotor.data.lerobot.episode import IMAGE_PREFIX
from ideomotor.data.lerobot.info import LARGEST_FRAME, CameraFeature
from ideomotor.data.lerobot.v3 import LeRobotDataset

TOLERANCE = 1e-4  # [s], lerobot's for the time of a frame
NUMBERS = ("float16", "float32", "float64", "bool", *(f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)))


@dataclass(frozen=True)
class Column:
    """One column: of the source, and of the result."""

    source: Feature
    feature: Feature
    form: Literal["numbers", "text", "json"]

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Return the values as the result holds them: `(frames,)` or `(frames, n)`."""
        if self.form == "numbers":
            array = values.astype(self.feature.dtype, copy=False).reshape(len(values), -1)
            return array[:, 0] if self.feature.shape == (1,) else array
        as_text = _text if self.form == "text" else to_json_text
        stored = np.empty(len(values), object)
        stored[:] = [as_text(value) for value in values]
        return stored


@dataclass(frozen=True)
class View:
    """One camera: its role in the source, and its column in the result."""

    role: str
    feature: CameraFeature
    copied: bool  # a video already: its packets are kept where they can be
    info: Mapping[str, Any]  # what the source states about its video


@dataclass(frozen=True)
class Plan:
    """All that is decided before the first episode."""

    fps: float  # [1/s]
    robot: str | None
    embodiment: Embodiment | None
    columns: tuple[Column, ...]
    views: tuple[View, ...]
    episodes: tuple[int, ...]  # of the source; those without frames have no place in a LeRobotDataset
    splits: Mapping[str, range]  # of the result
    names: Names | None
    losses: tuple[str, ...]  # sentences: what the result does not hold

    @property
    def features(self) -> tuple[Feature, ...]:
        """The columns of the result, beside images and automatic ones."""
        return tuple(column.feature for column in self.columns)

    @property
    def cameras(self) -> tuple[CameraFeature, ...]:
        """The cameras of the result."""
        return tuple(view.feature for view in self.views)


def make_plan(dataset: Dataset, fps: float | None = None, *, video: bool = False) -> Plan:
    """Decide how a dataset is converted.

    Args:
        dataset: of any format.
        fps: frames a second [1/s], for datasets that do not say.
        video: images become videos.

    Raises:
        UserError: the rate is not known, or two names become one.
    """
    lerobot = dataset if isinstance(dataset, LeRobotDataset) else None
    losses = [*dataset.notes] if isinstance(dataset, Noted) else []
    columns = [c for f in dataset.features.values() if (c := _column(f, losses, verbatim=lerobot is not None))]
    views = _lerobot_views(lerobot, video=video) if lerobot else _views(dataset, video=video)
    if lerobot and _has_own_times(lerobot):
        columns.append(
            Column(Feature("timestamp", "float32", (1,)), Feature(legal("timestamp"), "float32", (1,)), "numbers")
        )
    names = [column.feature.name for column in columns] + [view.feature.key for view in views]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"{dataset.path}: two columns would be called {sorted(twice)}; rename one of them in the source"
        )
    if lerobot:
        losses += [
            f"column '{name}' holds chat messages, which are not converted"
            for name, entry in lerobot.info.declared.items()
            if isinstance(entry, dict) and entry.get("dtype") == "language"
        ]
    episodes = tuple(e for e in range(len(dataset)) if dataset.length(e))
    if len(episodes) < len(dataset):
        losses.append(f"{len(dataset) - len(episodes)} episodes without frames are left out")
    embodiment = dataset.embodiment
    return Plan(
        fps=_rate(dataset, fps),
        robot=lerobot.info.robot_type if lerobot else embodiment.robot if embodiment else None,
        embodiment=embodiment,
        columns=tuple(columns),
        views=tuple(views),
        episodes=episodes,
        splits={name: _moved(split, episodes) for name, split in dataset.splits.items()},
        names=_names(dataset, lerobot, columns, views),
        losses=tuple(losses),
    )


def to_json_text(value: Any) -> str:
    """Return one frame of a ragged column as JSON."""
    return json.dumps(_plain(value), ensure_ascii=False)


def from_json_text(text: str) -> Any:
    """Undo `to_json_text`.

    >>> from_json_text(to_json_text(np.array([[1.5, 2.0]], np.float32)))
    array([[1.5, 2. ]], dtype=float32)

    Raises:
        UserError: no text of this form.
    """
    try:
        return _array(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"a ragged value is damaged ({error!r}); restore the dataset from a copy") from error


def _plain(value: Any) -> Any:
    """Return arrays of numbers as dtype, shape and flat values; arrays of other things as lists."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return {"dtype": value.dtype.name, "shape": list(value.shape), "values": value.reshape(-1).tolist()}
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return {"shape": list(value.shape), "values": [_plain(item) for item in value.reshape(-1)]}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    return _plain(np.asarray(value)) if isinstance(value, np.generic) else value


def _array(value: Any) -> Any:
    if isinstance(value, dict) and "hex" in value:
        return bytes.fromhex(value["hex"])
    if isinstance(value, dict) and "dtype" in value:
        if value["dtype"] not in NUMBERS:
            raise ValueError(value["dtype"])
        array = np.array(value["values"], value["dtype"]).reshape(value["shape"])
        return array if array.ndim else array[()]
    if isinstance(value, dict):
        return _objects(value["values"]).reshape(value["shape"])
    return _objects(value) if isinstance(value, list) else value


def _objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), object)
    for i, item in enumerate(values):
        array[i] = _array(item)
    return array


def _text(value: Any) -> str:
    while isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text.encode(errors="replace").decode()


def _column(source: Feature, losses: list[str], *, verbatim: bool) -> Column | None:
    name = source.name if verbatim else legal(source.name)
    size = int(np.prod(source.shape))
    if source.dtype == "string" and size == 1:
        return Column(source, Feature(name, "string", (1,)), "text")
    dtype = "float32" if source.dtype == "bfloat16" else source.dtype
    ragged = any(n < 0 for n in source.shape)
    if not ragged and (size == 0 or size > LARGEST_FRAME):
        losses.append(
            f"column '{source.name}' has {size} numbers a frame, which a LeRobotDataset cannot hold; left out"
        )
        return None
    if ragged or dtype in ("string", "object"):
        return Column(source, Feature(name, "string", (1,)), "json")
    if dtype not in NUMBERS:
        losses.append(f"column '{source.name}' is of type {source.dtype}, which a LeRobotDataset cannot hold; left out")
        return None
    names = source.names if source.names and len(source.names) == size else None
    return Column(source, Feature(name, dtype, (size,), names), "numbers")


def _lerobot_views(dataset: LeRobotDataset, *, video: bool) -> list[View]:
    views: list[View] = []
    for role, camera in dataset.info.cameras.items():
        entry = dataset.info.declared[camera.key]
        stated = entry.get("info") or entry.get("video_info")
        channels = camera.channels if camera.video or not video else 3
        feature = CameraFeature(camera.key, role, camera.height, camera.width, channels, camera.video or video)
        views.append(View(role, feature, camera.video, stated if camera.video and isinstance(stated, dict) else {}))
    return views


def _views(dataset: Dataset, *, video: bool) -> list[View]:
    views: list[View] = []
    for role, camera in dataset.cameras.items():
        key = legal_camera(role)
        feature = CameraFeature(key, key.removeprefix(IMAGE_PREFIX), camera.height, camera.width, 3, video)
        views.append(View(role, feature, copied=False, info={}))
    return views


def _has_own_times(dataset: LeRobotDataset) -> bool:
    """Return whether a `timestamp` is another than frame / fps, which is what a result has to have there."""
    if legal("timestamp") in dataset.features:
        return False  # a conversion kept them already
    return any(
        (np.abs(dataset.column(e, "timestamp") - np.arange(dataset.length(e)) / dataset.fps) > TOLERANCE).any()
        for e in range(len(dataset))
    )


def _rate(dataset: Dataset, stated: float | None) -> float:
    if stated and dataset.fps and stated != dataset.fps:
        raise UserError(f"{dataset.path} has {dataset.fps:g} frames a second; --fps is for datasets that do not say it")
    rate = dataset.fps or stated or (dataset.embodiment.rate_hz if dataset.embodiment else None)
    if rate is None:
        raise UserError(
            f"{dataset.path} does not say how many frames a second it has, and a LeRobotDataset has to; give it with --fps"
        )
    if not 0 < rate <= 10_000:
        raise UserError(f"--fps is {rate:g}; it should be a number of frames a second above 0")
    return rate


def _moved(split: range, episodes: tuple[int, ...]) -> range:
    """Return a split among the episodes that are kept."""
    before, inside = sum(e < split.start for e in episodes), sum(e in split for e in episodes)
    return range(before, before + inside)


def _names(dataset: Dataset, lerobot: LeRobotDataset | None, columns: list[Column], views: list[View]) -> Names | None:
    before = read_names(dataset.path) if lerobot else None
    found = {c.feature.name: _original(c, kept=_is_plain(dataset, c.source)) for c in columns}
    changed = {name: column for name, column in found.items() if column}
    roles = {v.feature.role: v.role for v in views if lerobot is None and v.feature.role != v.role}
    assert all(original_camera(IMAGE_PREFIX + here) == role for here, role in roles.items()), "the rule can be undone"
    if before:
        return Names(before.source, {**changed, **before.columns}, {**roles, **before.cameras})
    return Names(dataset.format, changed, roles) if changed or roles or lerobot is None else None


def _is_plain(dataset: Dataset, feature: Feature) -> bool:
    """Return whether a column has the shape in a LeRobotDataset that it has here: of one number a frame it is `(frames,)`."""
    if feature.shape != (1,) or isinstance(dataset, LeRobotDataset):
        return len(feature.shape) == 1
    first = next((e for e in range(len(dataset)) if dataset.length(e)), None)
    return first is None or dataset.column(first, feature.name).ndim == 1


def _original(column: Column, *, kept: bool) -> OriginalColumn | None:
    """Return what `meta/names.json` says of a column, None where nothing changed."""
    source = column.source
    if kept and column.form != "json" and column.feature.name == source.name:
        return None
    if column.form == "json":
        return OriginalColumn(source.name, source.shape, "json", source.dtype)
    return OriginalColumn(source.name, source.shape, plain=kept)
