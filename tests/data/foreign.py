"""A LeRobotDataset v3.0 as other writers make it, built from arrow alone: nothing of the package takes part.

Two episodes of 4 and 3 frames at 10 frames/s, in one parquet file and one mp4. Lists of variable length, int32 where int64 is
declared, an unnamed pandas index, a [C, H, W] camera, jumbled columns.
"""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LENGTHS = (4, 3)
TASKS = ("open the drawer", "close it")
FEATURES: dict[str, Any] = {
    "action": {"dtype": "float32", "shape": [2], "names": [["x", "y"]]},
    "observation.state": {"dtype": "float32", "shape": [3]},
    "observation.images.top": {"dtype": "video", "shape": [3, 16, 32], "names": ["channels", "height", "width"]},
    "next.success": {"dtype": "bool", "shape": [1], "names": None},
    **{name: {"dtype": "int64", "shape": [1]} for name in ("frame_index", "episode_index", "index", "task_index")},
    "timestamp": {"dtype": "float32", "shape": [1]},
}


def brightness(frame: int) -> int:
    """Grey of the frame with this number in the mp4."""
    return 20 + 30 * (frame % 7)


def write(root: Path, **info: Any) -> Path:
    """Write it; `info` overrides keys of info.json."""
    total = sum(LENGTHS)
    value: dict[str, Any] = {
        "codebase_version": "v3.0", "fps": 10, "features": FEATURES, "total_episodes": 2, "total_frames": total, "total_tasks": 2,
        "chunks_size": 1000, "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4", "robot_type": "so100",
        "splits": {"train": "0:2"},
    }  # fmt: skip
    for folder in ("meta/episodes/chunk-000", "data/chunk-000", "videos/observation.images.top/chunk-000"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(value | info))
    pq.write_table(data_table(), root / "data/chunk-000/file-000.parquet")
    pq.write_table(episode_table(), root / "meta/episodes/chunk-000/file-000.parquet")
    tasks = pa.table({"task_index": pa.array([0, 1]), "__index_level_0__": list(TASKS)})
    pandas = {"index_columns": ["__index_level_0__"], "column_indexes": [], "columns": [], "pandas_version": "2.2.0"}
    pq.write_table(tasks.replace_schema_metadata({"pandas": json.dumps(pandas)}), root / "meta/tasks.parquet")
    write_video(root / "videos/observation.images.top/chunk-000/file-000.mp4", total)
    return root


def data_table() -> Any:
    frames = [(e, f) for e, length in enumerate(LENGTHS) for f in range(length)]
    return pa.table(
        {
            "index": pa.array(range(len(frames)), pa.int32()),
            "observation.state": pa.array([[e, f, 0.5] for e, f in frames], pa.large_list(pa.float64())),
            "action": pa.array([[f, -e] for e, f in frames], pa.list_(pa.float32())),
            "timestamp": pa.array([f / 10 for _, f in frames], pa.float64()),
            "frame_index": pa.array([f for _, f in frames]),
            "episode_index": pa.array([e for e, _ in frames]),
            "task_index": pa.array([e for e, _ in frames]),
            "next.success": pa.array([e == 0 and f == 3 for e, f in frames]),
        }
    )


def episode_table() -> Any:
    return pa.table(
        {
            "episode_index": [0, 1],
            "length": list(LENGTHS),
            "tasks": [[task] for task in TASKS],
            "data/chunk_index": [0, 0],
            "data/file_index": [0, 0],
            "dataset_from_index": [0, 4],
            "dataset_to_index": [4, 7],
            "videos/observation.images.top/chunk_index": [0, 0],
            "videos/observation.images.top/file_index": [0, 0],
            "videos/observation.images.top/from_timestamp": [0.0, 0.4],
            "videos/observation.images.top/to_timestamp": [0.4, 0.7],
            "meta/episodes/chunk_index": [0, 0],
            "meta/episodes/file_index": [0, 0],
        }
    )


def write_video(path: Path, frames: int, fps: int = 10) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10", "g": "3", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), brightness(number), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
