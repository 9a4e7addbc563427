"""A LeRobotDataset v2.1 as other writers make it, built from arrow alone: nothing of the package takes part.

Three episodes of 4, 3 and 5 frames at 10 frames/s, one parquet file and one mp4 each; lists of variable length, no order in episodes.jsonl.
"""

import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

LENGTHS = (4, 3, 5)
TASKS = ("open the drawer", "close it")
CAMERA = "observation.images.top"
FEATURES: dict[str, Any] = {
    "action": {"dtype": "float32", "shape": [2], "names": [["x", "y"]]},
    "observation.state": {"dtype": "float64", "shape": [3]},
    CAMERA: {
        "dtype": "video",
        "shape": [16, 32, 3],
        "names": ["height", "width", "channel"],
        "video_info": {"video.fps": 10.0, "video.codec": "h264"},
    },
    "comment": {"dtype": "string", "shape": [1], "names": None},
    **{name: {"dtype": "int64", "shape": [1]} for name in ("frame_index", "episode_index", "index", "task_index")},
    "timestamp": {"dtype": "float32", "shape": [1]},
}


def brightness(episode: int, frame: int) -> int:
    """Grey of a frame; neighbours are 30 apart."""
    return 20 + 30 * ((3 * episode + frame) % 7)


def png(episode: int, frame: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 32, 3), brightness(episode, frame), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def rows(episode: int, **change: Any) -> Any:
    """The table of an episode; `change` replaces columns, None takes one out."""
    length = LENGTHS[episode]
    frames = range(length)
    first = sum(LENGTHS[:episode])
    columns: dict[str, Any] = {
        "index": pa.array([first + f for f in frames]),
        "action": pa.array([[f, -episode] for f in frames], pa.list_(pa.float32())),
        "observation.state": pa.array([[episode, f, 0.1] for f in frames], pa.list_(pa.float64())),
        "comment": pa.array([f"{episode}/{f}" for f in frames]),
        "timestamp": pa.array([f / 10 for f in frames], pa.float64()),
        "frame_index": pa.array(list(frames)),
        "episode_index": pa.array([episode] * length),
        "task_index": pa.array([episode % 2] * length),
    }
    return pa.table({name: value for name, value in (columns | change).items() if value is not None})


def write(root: Path, *, image: bool = False, **info: Any) -> Path:
    """Write it; `info` overrides keys of info.json."""
    features = FEATURES | ({CAMERA: FEATURES[CAMERA] | {"dtype": "image"}} if image else {})
    value: dict[str, Any] = {
        "codebase_version": "v2.1", "robot_type": "so100", "total_episodes": 3, "total_frames": sum(LENGTHS), "total_tasks": 2,
        "total_videos": 3, "total_chunks": 1, "chunks_size": 1000, "fps": 10.0, "splits": {"train": "0:3"}, "features": features,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }  # fmt: skip
    for folder in ("meta", "data/chunk-000", f"videos/chunk-000/{CAMERA}"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(value | info))
    lines(root / "meta/tasks.jsonl", [{"task_index": i, "task": task} for i, task in enumerate(TASKS)])
    order = (2, 0, 1)
    lines(
        root / "meta/episodes.jsonl",
        [{"episode_index": e, "tasks": [TASKS[e % 2]], "length": LENGTHS[e]} for e in order],
    )
    lines(root / "meta/episodes_stats.jsonl", [{"episode_index": e, "stats": {}} for e in order])
    for episode, length in enumerate(LENGTHS):
        images = [{"bytes": png(episode, f), "path": None} for f in range(length)]
        extra = {CAMERA: pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))} if image else {}
        pq.write_table(rows(episode, **extra), root / f"data/chunk-000/episode_{episode:06d}.parquet")
        if not image:
            write_video(video(root, episode), [brightness(episode, f) for f in range(length)])
    return root


def video(root: Path, episode: int) -> Path:
    return root / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"


def lines(path: Path, values: list[Any]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def write_video(path: Path, greys: list[int], fps: int = 10, gop: int = 3) -> None:
    options = {"crf": "10", "g": str(gop), "bf": "0", "sc_threshold": "0"}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for number, grey in enumerate(greys):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), grey, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
