"""Decoded frames as a memory-mapped array: training decodes each image once, because decoding limits small policies.

A cache is one `.npy` file, uint8 [N, C, H, W, 3]: frames of the whole dataset in order, cameras as asked, of one size. Its name is a hash of
the dataset's content, the cameras, the size and how it was reached, so another dataset never finds it, and it is complete or absent.
"""

import contextlib
import errno
import multiprocessing
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import UInt8
from numpy.lib import format as npy
from tqdm import tqdm

from ideomotor.core import files, jsonable
from ideomotor.core.errors import UserError, unknown
from ideomotor.data.dataset import Dataset
from ideomotor.data.images import resize
from ideomotor.data.resize import lanczos3

Method = Literal["bicubic", "lanczos3"]  # Pillow's, for networks of our own; TensorFlow's, which OpenVLA's training saw
SMALL = 1 << 30  # [bytes] of decoded frames that are stored without a look at the disk
DISK_SHARE = 0.5  # of the free space may be taken by decoded frames; beyond, frames are decoded at every access
FRAMES_A_TASK = 512  # decoded by a worker between two reports to the progress bar


def user_cache() -> Path:
    """Return the folder for files that can be made again: `$XDG_CACHE_HOME/ideomotor`, or `~/.cache/ideomotor`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ideomotor"


class FrameCache:
    """The decoded frames of a dataset. Pickled as its file name, so that processes share the memory."""

    frames: UInt8[np.ndarray, "N C H W 3"]

    def __init__(self, path: Path, cameras: Sequence[str]) -> None:
        self.path = path
        self.cameras = tuple(cameras)
        self.frames = np.asarray(np.load(path, mmap_mode="r"))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.cameras)

    def __len__(self) -> int:
        return len(self.frames)


def open_cache(
    dataset: Dataset,
    cameras: Sequence[str],
    size: tuple[int, int],
    folder: Path | None = None,
    workers: int = 2,
    method: Method = "bicubic",
) -> FrameCache:
    """Return the decoded frames of `cameras` at `size` (height, width) [px]; decode them if that was never done.

    Args:
        dataset: any dataset.
        cameras: roles, in the order of axis C.
        size: other sizes are resized.
        folder: where caches lie; default `frames` in the user's cache.
        workers: processes that decode.
        method: how sizes change (images.resize, resize.lanczos3); the latter makes squares.

    Raises:
        UserError: an unknown camera, an image that cannot be decoded, or no space.
    """
    assert method == "bicubic" or size[0] == size[1], "Lanczos-3 makes squares"
    for camera in cameras:
        if camera not in dataset.cameras:
            raise unknown("camera", camera, dataset.cameras)
    key = {
        "content": dataset.content_hash,
        "cameras": list(cameras),
        "size": list(size),
        "resize": method,
        "format": 1,
    }
    path = (folder or user_cache() / "frames") / f"{jsonable.fingerprint(key)[:32]}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(path.with_suffix(".lock")):  # of two processes that start together one builds, the other finds it
        if not path.exists():
            for abandoned in path.parent.glob(f".{path.name}.*.tmp"):  # by a process that was killed
                abandoned.unlink()
            with files.atomic_path(path) as temporary:
                _build(_Job(dataset, tuple(cameras), size, method, temporary), workers, path)
    return FrameCache(path, cameras)


def open_frames(
    dataset: Dataset,
    cameras: Sequence[str],
    size: tuple[int, int],
    workers: int = 2,
    method: Method = "bicubic",
) -> "FrameCache | AtAccess":
    """Return the frames of a dataset as `open_cache` does, or decoded at every access where the disk has no room for all of them.

    Raises:
        UserError: as in `open_cache`.
    """
    needed = sum(map(dataset.length, range(len(dataset)))) * len(cameras) * size[0] * size[1] * 3
    if needed > SMALL:
        folder = user_cache()
        folder.mkdir(parents=True, exist_ok=True)
        if needed > DISK_SHARE * shutil.disk_usage(folder).free:
            return AtAccess(dataset, tuple(cameras), size, method)
    return open_cache(dataset, cameras, size, workers=workers, method=method)


@dataclass(frozen=True)
class AtAccess:
    """The frames of a dataset, decoded and resized whenever they are asked for."""

    dataset: Dataset
    cameras: tuple[str, ...]
    size: tuple[int, int]  # height, width [px]
    method: Method

    def __len__(self) -> int:
        return sum(map(self.dataset.length, range(len(self.dataset))))

    def image(self, episode: int, frame: int, camera: str) -> np.ndarray:
        """Return one frame at the size of the cache."""
        image = self.dataset.image(episode, frame, camera)
        return resize(image, self.size) if self.method == "bicubic" else lanczos3(image, self.size[0])


@dataclass(frozen=True)
class _Job(AtAccess):
    path: Path


@dataclass(frozen=True)
class _Task:
    """A run of episodes, and the place of its first frame in the cache."""

    episodes: range
    start: int
    frames: int


def _build(job: _Job, workers: int, final: Path) -> None:
    lengths = [job.dataset.length(episode) for episode in range(len(job.dataset))]
    _allocate(job, sum(lengths), final)
    tasks = _tasks(lengths)
    with tqdm(total=sum(lengths), desc="decode frames once", unit=" frames", disable=None, leave=False) as progress:
        if workers <= 1 or len(tasks) == 1:
            for task in tasks:
                progress.update(_decode(job, task))
            return
        _decode_in_processes(job, tasks, min(workers, len(tasks)), progress)


def _decode_in_processes(job: _Job, tasks: Sequence[_Task], workers: int, progress: "tqdm[Any]") -> None:
    context = multiprocessing.get_context("forkserver")
    running: dict[Any, BaseProcess] = {}  # by connection
    try:
        for k in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            running[ours] = context.Process(target=_work, args=(theirs, job, tasks[k::workers]), daemon=True)
            running[ours].start()
            theirs.close()
        waiting = list(running)
        while waiting:
            for connection in wait(waiting):
                try:
                    reply: int | UserError = cast("Connection[Any, Any]", connection).recv()
                except EOFError:
                    waiting.remove(connection)
                    _check_end(running[connection])
                    continue
                if isinstance(reply, UserError):
                    raise reply
                progress.update(reply)
    finally:
        for connection, process in running.items():
            connection.close()
            process.kill()
            process.join()


def _work(connection: "Connection[Any, Any]", job: _Job, tasks: Sequence[_Task]) -> None:
    """The main program of a process that decodes: report each run of frames; a parent that is gone ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with contextlib.suppress(BrokenPipeError):
        try:
            for task in tasks:
                connection.send(_decode(job, task))
        except UserError as error:
            connection.send(error)


def _check_end(process: BaseProcess) -> None:
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(
            f"a process that decodes frames died with exit code {process.exitcode} (-9: killed, often for lack of memory);"
            " nothing was kept, run it again"
        )


def _allocate(job: _Job, num_frames: int, final: Path) -> None:
    """Make the file at its full size, so that a full disk shows now and not as a bus error at some later write."""
    shape = (num_frames, len(job.cameras), *job.size, 3)
    needed = int(np.prod(shape))
    with job.path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(file, header)
        file.flush()
        try:
            os.posix_fallocate(file.fileno(), 0, file.tell() + max(needed, 1))
            file.truncate(file.tell() + needed)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            raise UserError(
                f"no space for {needed / 1e6:.0f} MB of decoded frames in {final.parent} ({error.strerror});"
                " free some, or set XDG_CACHE_HOME to a larger disk"
            ) from error


def _tasks(lengths: Sequence[int]) -> list[_Task]:
    tasks: list[_Task] = []
    first = start = frames = 0
    for episode, length in enumerate(lengths):
        frames += length
        if frames >= FRAMES_A_TASK or episode == len(lengths) - 1:
            tasks.append(_Task(range(first, episode + 1), start, frames))
            first, start, frames = episode + 1, start + frames, 0
    return tasks


def _decode(job: _Job, task: _Task) -> int:
    """Decode one run of episodes into its place in the file; return the number of frames."""
    if task.frames == 0:
        return 0
    frames_NCHW3 = np.load(job.path, mmap_mode="r+")
    number = task.start
    for episode in task.episodes:
        for frame in range(job.dataset.length(episode)):
            for c, camera in enumerate(job.cameras):
                frames_NCHW3[number, c] = job.image(episode, frame, camera)
            number += 1
    frames_NCHW3.flush()
    return task.frames
