"""Faults of a LeRobotDataset v2.0 or v2.1."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from ideomotor.core.errors import UserError
from ideomotor.data.check import Fault, column_faults, embodiment_faults, image_faults, of_error
from ideomotor.data.lerobot.info import AUTOMATIC
from ideomotor.data.lerobot.v2 import LeRobotV2Dataset
from ideomotor.data.lerobot.v2_tables import EPISODES_LINES, STATS_LINES, read_lines

RESTORE = "Restore it from a copy of the dataset"
TOLERANCE = 1e-4  # [s], lerobot's for the time of a frame


def lerobot_v2_faults(root: Path) -> Iterator[Fault]:
    """Yield every fault, from the outer files to the single image."""
    try:
        dataset = LeRobotV2Dataset(root)
        tasks = dataset.tasks
    except UserError as error:
        yield of_error(root / "meta", error)
        return
    for note in dataset.notes:
        yield Fault(str(root), note, "Correct meta/info.json; Ideomotor goes by the files")
    for name in dataset.features:
        if "image" in name:
            what = f"feature '{name}' holds 'image' in its name but is none; lerobot cannot compute statistics of it"
            yield Fault(str(dataset.info.path), what, "Rename it")
    yield from _statistics_faults(root, dataset)
    yield from _number_faults(dataset, tasks)
    yield from column_faults(dataset)
    yield from _video_faults(dataset)
    if not any(camera.video for camera in dataset.info.cameras.values()):
        yield from image_faults(dataset)
    yield from embodiment_faults(dataset)


def _statistics_faults(root: Path, dataset: LeRobotV2Dataset) -> Iterator[Fault]:
    path = root / STATS_LINES
    if dataset.format.endswith("v2.0") or not len(dataset):
        return
    try:
        stated = sorted(row.get("episode_index", -1) for row in read_lines(path))
    except (UserError, TypeError) as error:
        yield Fault(str(path), f"cannot be read ({error}); lerobot v2.1 needs it", RESTORE)
        return
    listed = sorted(row["episode_index"] for row in read_lines(root / EPISODES_LINES))
    if stated != listed:
        yield Fault(
            str(path), f"has {len(stated)} episodes, {EPISODES_LINES} {len(listed)}; lerobot needs the same", RESTORE
        )


def _number_faults(dataset: LeRobotV2Dataset, tasks: dict[int, str]) -> Iterator[Fault]:
    for episode, rows in enumerate(dataset.rows):
        where, counter = str(rows.path), np.arange(rows.length)
        try:
            columns = {name: dataset.column(episode, name) for name in AUTOMATIC}
        except UserError as error:
            yield of_error(where, error)
            continue
        for name, expected in (("frame_index", counter), ("timestamp", counter / dataset.fps)):
            if (np.abs(columns[name] - expected) > TOLERANCE).any():
                frame = int(np.argmax(np.abs(columns[name] - expected) > TOLERANCE))
                what = f"column '{name}', frame {frame} is {columns[name][frame]} instead of {expected[frame]}"
                yield Fault(where, what, "lerobot refuses or shifts such frames; write the column again")
        if missing := sorted(set(columns["task_index"].tolist()) - set(tasks)):
            yield Fault(where, f"has the task {missing[0]}, which meta/tasks.jsonl does not have", RESTORE)


def _video_faults(dataset: LeRobotV2Dataset) -> Iterator[Fault]:
    for episode, rows in enumerate(dataset.rows):
        for role, camera in dataset.info.cameras.items():
            if not camera.video:
                continue
            path = rows.videos[camera.key].path if camera.key in rows.videos else None
            if path is None or not path.is_file():
                yield Fault(
                    str(path or dataset.path), f"is missing: the video of camera '{role}', episode {episode}", RESTORE
                )
                continue
            try:
                found = _frames(path)
                for frame in sorted({0, rows.length - 1}):
                    dataset.image(episode, frame, role)
            except (UserError, FFmpegError, OSError, IndexError) as error:
                yield Fault(str(path), f"cannot be read as video ({error})", RESTORE)
                continue
            if found < rows.length:
                yield Fault(
                    str(path), f"has {found} frames for {rows.length} rows", "Encode it again from the recording"
                )


def _frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(packet.pts is not None for packet in container.demux(container.streams.video[0]))
