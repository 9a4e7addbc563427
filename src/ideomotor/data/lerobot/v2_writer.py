"""Write a LeRobotDataset v2.1 with GR00T's `modality.json`: one parquet file and one mp4 a camera for each episode.

An episode counts from the moment its row lies under `recording/`; its table and videos are complete by then. `close` makes the
lists under `meta` from the rows, the same ones in the same order whether or not the writer was stopped on the way.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ideomotor.core import files
from ideomotor.data.convert.episode import ConvertedEpisode
from ideomotor.data.dataset import Feature
from ideomotor.data.lerobot.episode import finite_summary, table_writer
from ideomotor.data.lerobot.episodes import RECORDING
from ideomotor.data.lerobot.form import Form, declared_features
from ideomotor.data.lerobot.info import AUTOMATIC
from ideomotor.data.lerobot.modality import modality
from ideomotor.data.lerobot.parquet import ArrowTable
from ideomotor.data.lerobot.v2_tables import (
    EPISODES_LINES,
    STATS_LINES,
    TASKS_LINES,
    V2_DATA_PATH,
    V2_VIDEO_PATH,
)
from ideomotor.data.lerobot.writer import CHUNK
from ideomotor.data.statistics import lerobot_json

VERSION_21 = "v2.1"
STATISTICS = ("min", "max", "mean", "std", "count")  # those of v2.1


class LeRobotV21Writer:
    """Adds episodes to the dataset in a folder that belongs to the caller."""

    def __init__(self, folder: Path, form: Form, features: tuple[Feature, ...]) -> None:
        """Begin, or go on after the episodes that are complete."""
        self.folder, self.form, self.features = folder, form, features
        (folder / RECORDING).mkdir(parents=True, exist_ok=True)
        self._rows: list[dict[str, Any]] = []
        while (path := self._row_path(len(self._rows))).is_file():
            self._rows.append(files.read_json(path))
        self._frames = sum(row["length"] for row in self._rows)
        self._tasks: dict[str, int] = {}
        for row in self._rows:
            self._number(text for text, _ in row["spans"])

    @property
    def num_episodes(self) -> int:
        """Episodes that are complete on disk."""
        return len(self._rows)

    def video_path(self, key: str) -> Path:
        """Return where the next episode's video of a camera belongs."""
        return self._path(V2_VIDEO_PATH, video_key=key)

    def add(self, episode: ConvertedEpisode) -> None:
        """Write the next episode; when this returns, it survives a crash."""
        number, length = self.num_episodes, len(episode.table)
        tasks = self._number(text for text, _ in episode.spans)
        numbers = {
            "episode_index": np.full(length, number),
            "index": np.arange(self._frames, self._frames + length),
            "task_index": np.repeat(tasks, [frames for _, frames in episode.spans]),
        }
        table, stats = episode.table, dict(episode.stats)
        for name, values in numbers.items():
            table = table.append_column(name, pa.array(values.astype(np.int64)))
            stats[name] = lerobot_json(finite_summary(values[:, None]), image=False)
        keys = [camera.key for camera in self.form.cameras if not camera.video]
        table = table.select([*(f.name for f in self.features), *keys, *AUTOMATIC])
        with files.atomic_path(self._path(V2_DATA_PATH)) as temporary:
            table = table.replace_schema_metadata({"huggingface": json.dumps(self._huggingface(table))})
            with table_writer(temporary, table.schema) as writer:
                writer.write_table(table, row_group_size=length)
        row: dict[str, Any] = {"length": length, "spans": episode.spans, "success": episode.success, "stats": stats}
        files.write_json(self._row_path(number), row)
        self._rows.append({**row, "spans": [list(span) for span in episode.spans]})
        self._frames += length

    def close(self) -> None:
        """Write the lists, info.json and modality.json. The rows that they were made of are the caller's to remove."""
        episodes = [
            {
                "episode_index": number,
                "tasks": list(dict.fromkeys(text for text, _ in row["spans"])),
                "length": row["length"],
                "success": row["success"],
            }
            for number, row in enumerate(self._rows)
        ]
        tasks = [{"task_index": index, "task": text} for text, index in self._tasks.items()]
        _write_lines(self.folder / EPISODES_LINES, episodes)
        _write_lines(self.folder / TASKS_LINES, tasks)
        _write_lines(
            self.folder / STATS_LINES,
            (
                {"episode_index": number, "stats": {name: _of_v21(value) for name, value in row["stats"].items()}}
                for number, row in enumerate(self._rows)
            ),
        )
        if self.form.embodiment:
            files.write_bytes(self.folder / "meta" / "embodiment.json", self.form.embodiment.to_text().encode())
        by_name = {feature.name: feature for feature in self.features}
        files.write_json(
            self.folder / "meta" / "modality.json", modality(by_name, self.form.cameras, self.form.embodiment)
        )
        files.write_json(self.folder / "meta" / "info.json", self._info())

    def abandon(self) -> None:
        """Leave the episodes for the next writer: nothing is open."""

    def _number(self, texts: Iterable[str]) -> list[int]:
        """Return the index of each instruction; new ones get the next."""
        return [self._tasks.setdefault(text, len(self._tasks)) for text in texts]

    def _path(self, template: str, **fields: Any) -> Path:
        number = self.num_episodes
        return self.folder / template.format(episode_chunk=number // CHUNK, episode_index=number, **fields)

    def _row_path(self, number: int) -> Path:
        return self.folder / RECORDING / f"episode-{number:06d}.json"

    def _info(self) -> dict[str, Any]:
        fps, count = self.form.fps, self.num_episodes
        videos = sum(camera.video for camera in self.form.cameras)
        return {
            "codebase_version": VERSION_21,
            "robot_type": self.form.robot,
            "total_episodes": count,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "total_videos": videos * count,
            "total_chunks": -(-count // CHUNK),
            "chunks_size": CHUNK,
            "fps": int(fps) if float(fps).is_integer() else fps,
            "splits": {"train": f"0:{count}"},
            "data_path": V2_DATA_PATH,
            "video_path": V2_VIDEO_PATH if videos else None,
            "features": declared_features(self.features, self.form),
        }

    def _huggingface(self, table: ArrowTable) -> dict[str, Any]:
        """Return the schema as the `datasets` library stores it; without it, lerobot of v2.1 takes an image for a dictionary."""
        types = {feature.name: feature for feature in self.features}
        types |= {name: Feature(name, "float32" if name == "timestamp" else "int64", (1,)) for name in AUTOMATIC}
        return {"info": {"features": {name: _huggingface_type(types.get(name)) for name in table.column_names}}}


def _huggingface_type(feature: Feature | None) -> dict[str, Any]:
    if feature is None:
        return {"_type": "Image"}
    value = {"dtype": feature.dtype, "_type": "Value"}
    return value if feature.shape == (1,) else {"feature": value, "length": feature.shape[0], "_type": "Sequence"}


def _of_v21(stats: Mapping[str, Any]) -> dict[str, Any]:
    return {name: stats[name] for name in STATISTICS}


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with files.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
