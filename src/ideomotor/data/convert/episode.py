"""One episode of any dataset as the table of a LeRobotDataset: columns, image files as they are stored, statistics, videos."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from ideomotor.core.errors import UserError
from ideomotor.core.types import Success
from ideomotor.data.convert.plan import Plan, View
from ideomotor.data.convert.video_writer import copy_packets, encode_video
from ideomotor.data.dataset import Dataset, EncodedImages
from ideomotor.data.images import JPEG_MAGIC, PNG_MAGIC
from ideomotor.data.lerobot.episode import IMAGE, finite_summary
from ideomotor.data.lerobot.parquet import ArrowTable, to_arrow
from ideomotor.data.lerobot.v3 import LeRobotDataset
from ideomotor.data.png import encode_png
from ideomotor.data.statistics import image_summary, lerobot_json

SAMPLED = 32  # images of a camera and an episode, evenly spaced, that its statistics are of


@dataclass(frozen=True)
class ConvertedEpisode:
    """What the writers of both versions take."""

    table: ArrowTable  # columns, images, timestamp, frame_index
    spans: tuple[tuple[str, int], ...]  # the instructions in their order, each with its number of frames
    success: Success
    stats: dict[str, dict[str, Any]]  # by column, in lerobot's form


@dataclass(frozen=True)
class ImageFile:
    """The JPEG or PNG of a frame."""

    content: bytes
    origin: Literal[
        "stored", "encoded", "black"
    ]  # as the source stores it; from its pixels; black pixels that it does not store


def convert_episode(dataset: Dataset, plan: Plan, episode: int) -> tuple[ConvertedEpisode, int]:
    """Return an episode as a table, and the number of its images that the source lacks.

    Raises:
        UserError: the source is damaged, or its images change their size.
    """
    frames = dataset.length(episode)
    counter = np.arange(frames, dtype=np.int64)
    columns = {c.feature.name: c.stored(_column(dataset, episode, c.source.name)) for c in plan.columns}
    columns |= {"timestamp": (counter / plan.fps).astype(np.float32), "frame_index": counter}
    stats = {
        name: lerobot_json(finite_summary(column.reshape(frames, -1)), image=False)
        for name, column in columns.items()
        if column.dtype != object
    }
    arrays: dict[str, Any] = {
        name: pa.array(list(column), pa.string()) if column.dtype == object else to_arrow(column)
        for name, column in columns.items()
    }
    missing = 0
    for view in plan.views:
        if not view.feature.video:
            pictures = [image_file(dataset, episode, frame, view) for frame in range(frames)]
            if any(picture.origin == "stored" for picture in pictures):
                missing += sum(picture.origin == "black" for picture in pictures)
            arrays[view.feature.key] = pa.array([{"bytes": p.content, "path": None} for p in pictures], IMAGE)
        stats[view.feature.key] = lerobot_json(image_summary(list(_sampled(dataset, episode, view))), image=True)
    converted = ConvertedEpisode(pa.table(arrays), tuple(_spans(dataset, episode)), dataset.success(episode), stats)
    return converted, missing


def write_videos(dataset: Dataset, plan: Plan, episode: int, path_of: Callable[[str], Path]) -> dict[str, float]:
    """Write the videos of an episode, by stream copy where the source's key frames allow; return the PSNR of the others.

    Raises:
        UserError: the source is damaged.
    """
    found: dict[str, float] = {}
    for view in plan.views:
        if view.feature.video:
            path = path_of(view.feature.key)
            if not (view.copied and _copy(dataset, plan, episode, view, path)):
                found[view.feature.key] = encode_video(
                    lambda frame, view=view: image(dataset, episode, frame, view),
                    dataset.length(episode),
                    plan.fps,
                    path,
                )
    return found


def image(dataset: Dataset, episode: int, frame: int, view: View) -> np.ndarray:
    """Return one decoded image, black where the source lacks it.

    Raises:
        UserError: damaged, or of another size than the camera.
    """
    pixels = dataset.image(episode, frame, view.role)
    size = (view.feature.height, view.feature.width)
    if pixels.shape[:2] != size:
        if pixels.any():
            raise _other_size(dataset, episode, frame, view, (pixels.shape[0], pixels.shape[1]))
        return np.zeros((*size, 3), np.uint8)
    return pixels


def image_file(dataset: Dataset, episode: int, frame: int, view: View) -> ImageFile:
    """Return the stored JPEG or PNG as it is, else the pixels as PNG.

    Raises:
        UserError: damaged, or of another size than the camera.
    """
    content = dataset.encoded_image(episode, frame, view.role) if isinstance(dataset, EncodedImages) else None
    if content is None or not content.startswith((JPEG_MAGIC, PNG_MAGIC)):
        pixels = image(dataset, episode, frame, view)
        return ImageFile(encode_png(pixels), "encoded" if pixels.any() else "black")
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as header:  # reads the header only
            width, height = header.size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{_where(dataset, episode, frame, view)} is no JPEG or PNG ({error}); restore it, or remove the episode"
        ) from error
    if (height, width) != (view.feature.height, view.feature.width):
        raise _other_size(dataset, episode, frame, view, (height, width))
    return ImageFile(content, "stored")


def _column(dataset: Dataset, episode: int, name: str) -> np.ndarray:
    values, frames = dataset.column(episode, name), dataset.length(episode)
    if len(values) != frames:
        raise UserError(
            f"{dataset.path}, episode {episode}: column '{name}' has {len(values)} values for {frames} frames; run"
            " `ideomotor data check`"
        )
    return values


def _sampled(dataset: Dataset, episode: int, view: View) -> Iterator[np.ndarray]:
    frames = dataset.length(episode)
    for frame in np.linspace(0, frames - 1, min(frames, SAMPLED)).round().astype(int).tolist():
        yield image(dataset, episode, frame, view)


def _spans(dataset: Dataset, episode: int) -> Iterator[tuple[str, int]]:
    """Yield the instructions of an episode with their numbers of frames; only LeRobotDatasets change it on the way."""
    frames = dataset.length(episode)
    if not isinstance(dataset, LeRobotDataset) or len(dataset.rows[episode].tasks) == 1:
        yield _valid(dataset.instruction(episode)), frames
        return
    for task, run in groupby(dataset.column(episode, "task_index").tolist()):
        if task not in dataset.tasks:
            raise UserError(f"{dataset.path}, episode {episode}: task {task} is not in the table of tasks; restore it")
        yield _valid(dataset.tasks[task]), len(list(run))


def _valid(text: str) -> str:
    return text.encode(errors="replace").decode()


def _copy(dataset: Dataset, plan: Plan, episode: int, view: View, path: Path) -> bool:
    assert isinstance(dataset, LeRobotDataset), "only these hold videos"
    found = dataset.video_frames(episode, view.role)
    if found is None:
        return False  # reading its first frame says what is missing
    source, numbers = found
    one_by_one = bool((np.diff(numbers) == 1).all())
    return one_by_one and copy_packets(source, plan.fps, int(numbers[0]), len(numbers), path)


def _where(dataset: Dataset, episode: int, frame: int, view: View) -> str:
    return f"{dataset.path}, episode {episode}, frame {frame}, camera '{view.role}'"


def _other_size(dataset: Dataset, episode: int, frame: int, view: View, size: tuple[int, int]) -> UserError:
    return UserError(
        f"{_where(dataset, episode, frame, view)} is an image of {size[0]} x {size[1]} (height x width), the camera has"
        f" {view.feature.height} x {view.feature.width}; a LeRobotDataset has one size a camera: remove the episode, or make"
        " its images equal"
    )
