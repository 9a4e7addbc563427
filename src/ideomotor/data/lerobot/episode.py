"""An episode as the bytes of one parquet file: made where it was recorded (PNG encoding parallelises), written in one step."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Camera, Embodiment
from ideomotor.core.types import Episode, Step, Success
from ideomotor.data.dataset import ACTION, STATE, Feature
from ideomotor.data.lerobot.episodes import EPISODE_KEY
from ideomotor.data.lerobot.info import AUTOMATIC
from ideomotor.data.lerobot.parquet import ArrowSchema, ArrowTable, to_arrow
from ideomotor.data.png import encode_png
from ideomotor.data.statistics import Summary, check_finite, image_summary, lerobot_json, summarize

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGE_PREFIX = "observation.images."
LABEL_TYPES = ("float32", "float64", "int64", "bool")


@dataclass(frozen=True)
class EncodedEpisode:
    """What `DatasetWriter.add_encoded` takes; small enough to be sent between processes."""

    content: bytes  # a parquet file of one row group
    embodiment: Embodiment | None
    features: tuple[Feature, ...]  # state, action, success and labels
    instruction: str
    success: Success
    length: int  # frames


def encode_episode(episode: Episode) -> EncodedEpisode:
    """Return the episode as the bytes of one parquet file, images as PNG.

    Raises:
        UserError: no steps, a value that is not finite, a shape that the embodiment does not state, or a label whose name or
            form other tools would misread.
    """
    columns, images = _columns(episode), _images(episode)
    features = tuple(_feature(name, column, episode.embodiment) for name, column in columns.items())
    frames = len(episode.steps)
    counter = np.arange(frames, dtype=np.int64)
    columns |= {"timestamp": (counter / episode.embodiment.rate_hz).astype(np.float32), "frame_index": counter}
    stats = {name: lerobot_json(summarize(column.reshape(frames, -1)), image=False) for name, column in columns.items()}
    stats |= {name: lerobot_json(image_summary(column), image=True) for name, column in images.items()}
    row = {"instruction": checked_text(episode.instruction), "success": episode.success, "stats": stats}
    arrays = {name: to_arrow(column) for name, column in columns.items()}
    arrays |= {
        name: pa.array([{"bytes": encode_png(image), "path": None} for image in column], IMAGE)
        for name, column in images.items()
    }
    content = episode_bytes(pa.table(arrays), row)
    return EncodedEpisode(content, episode.embodiment, features, episode.instruction, episode.success, frames)


def episode_bytes(table: ArrowTable, row: dict[str, Any]) -> bytes:
    """Return a table as a parquet file of one row group, with what will be its row of the episode table."""
    table = table.replace_schema_metadata({EPISODE_KEY: json.dumps(row, allow_nan=False)})
    sink = pa.BufferOutputStream()
    with table_writer(sink, table.schema) as writer:
        writer.write_table(table, row_group_size=len(table))
    return sink.getvalue().to_pybytes()


def table_writer(sink: Any, schema: ArrowSchema) -> pq.ParquetWriter:
    """Open a parquet writer for frames: numbers by snappy, PNGs as they are."""
    leaf = {field.name: _leaf(field) for field in schema}
    compression: Any = {path: "NONE" if path.endswith(".bytes") else "SNAPPY" for path in leaf.values()}
    return pq.ParquetWriter(sink, schema, compression=compression, use_dictionary=False, write_statistics=False)


def finite_rows(values_FD: np.ndarray) -> np.ndarray:
    """Return the frames without NaN and infinities. Recordings hold none, what others recorded may."""
    if not np.issubdtype(values_FD.dtype, np.floating):
        return values_FD
    finite = np.isfinite(values_FD).all(1)
    return values_FD if finite.all() else values_FD[finite]


def finite_summary(values_FD: np.ndarray) -> Summary:
    """Return the statistics of the finite frames; zeros of 0 frames if there is none."""
    kept = finite_rows(values_FD)
    return summarize(kept) if len(kept) else dataclasses.replace(summarize(np.zeros((1, values_FD.shape[1]))), count=0)


def checked_text(text: str) -> str:
    """Refuse text that no UTF-8 file can hold.

    Raises:
        UserError: a lone surrogate, e.g. from a file name that was not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"instruction {text!r} is not valid Unicode ({error.reason}); write it again as plain text"
        ) from error
    return text


def check_label_name(name: str) -> None:
    """Refuse names that other tools would take for something else.

    Raises:
        UserError: says which rule the name breaks.
    """
    rules = {
        "holds a slash": "/" in name or "\\" in name,
        "holds 'image', which makes lerobot expect statistics of an image": "image" in name,
        "begins with 'observation' or 'action', which lerobot gives to the policy": name.startswith(
            ("observation", "action")
        ),
        "is a column that is written anyway": name in (*AUTOMATIC, "next.success"),
        "does not begin with a letter, or holds control characters": not name[:1].isalpha() or not name.isprintable(),
    }
    if broken := [rule for rule, breaks in rules.items() if breaks]:
        raise UserError(f"label '{name}' {broken[0]}; use a name such as 'label.location' or 'expert.chunk'")


def _columns(episode: Episode) -> dict[str, np.ndarray]:
    steps, embodiment = episode.steps, episode.embodiment
    if not steps:
        raise UserError(f"the episode '{episode.instruction}' has no steps; record at least one")
    columns = {
        STATE: np.stack([np.asarray(step.observation.state, np.float32) for step in steps]),
        ACTION: np.stack([np.asarray(step.action, np.float32) for step in steps]),
    }
    for name, channels in ((STATE, embodiment.state), (ACTION, embodiment.action)):
        if columns[name].shape != (len(steps), len(channels)):
            raise UserError(
                f"'{name}' has {columns[name].shape[1]} numbers, embodiment '{embodiment.name}' has {len(channels)} channels"
                f" ({', '.join(channel.name for channel in channels)}); record with the embodiment of the robot"
            )
    succeeded = np.zeros(len(steps), bool)
    succeeded[-1] = episode.success == "success"
    columns["next.success"] = succeeded
    for number, step in enumerate(steps):
        if step.labels.keys() != steps[0].labels.keys():
            raise UserError(
                f"step {number} has the labels {sorted(step.labels)}, step 0 {sorted(steps[0].labels)}; use one set"
            )
    for name in steps[0].labels:
        check_label_name(name)
        columns[name] = _label(name, steps)
    for name, column in columns.items():
        check_finite(column, f"episode '{episode.instruction}', column '{name}'")
    return columns


def _label(name: str, steps: Sequence[Step]) -> np.ndarray:
    values = [np.atleast_1d(np.asarray(step.labels[name])) for step in steps]
    first = values[0]
    if any(value.shape != first.shape or value.dtype != first.dtype for value in values):
        raise UserError(
            f"label '{name}' changes its shape or type within the episode; every frame needs {first.dtype}{first.shape}"
        )
    if first.ndim > 1 or first.size == 0 or first.dtype.name not in LABEL_TYPES:
        raise UserError(
            f"label '{name}' is {first.dtype}{list(first.shape)}; flatten it to one axis and use one of {', '.join(LABEL_TYPES)}"
            " (lerobot cannot edit datasets with matrices)"
        )
    column = np.stack(values)
    return column[:, 0] if first.shape == (1,) else column


def _feature(name: str, column: np.ndarray, embodiment: Embodiment) -> Feature:
    channels = {STATE: embodiment.state, ACTION: embodiment.action}.get(name)
    names = tuple(channel.name for channel in channels) if channels else None
    return Feature(name, column.dtype.name, column.shape[1:] or (1,), names)


def _images(episode: Episode) -> dict[str, list[np.ndarray]]:
    images: dict[str, list[np.ndarray]] = {}
    for camera in episode.embodiment.cameras:
        images[IMAGE_PREFIX + camera.role] = [_image(step, number, camera) for number, step in enumerate(episode.steps)]
    return images


def _image(step: Step, number: int, camera: Camera) -> np.ndarray:
    image = step.observation.images.get(camera.role)
    if image is None:
        raise UserError(
            f"step {number} has no image of camera '{camera.role}', which the embodiment has; it has {sorted(step.observation.images)}"
        )
    if image.shape != (camera.height, camera.width, 3) or image.dtype != np.uint8:
        raise UserError(
            f"step {number}, camera '{camera.role}': the image is {image.dtype}{list(image.shape)}, the embodiment states"
            f" uint8[{camera.height}, {camera.width}, 3]; record with the size that it states"
        )
    return image


def _leaf(field: Any) -> str:
    if pa.types.is_struct(field.type):
        return f"{field.name}.bytes"
    return f"{field.name}.list.element" if pa.types.is_fixed_size_list(field.type) else field.name
