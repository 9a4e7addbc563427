"""Tower features of every frame, computed once: a tower that does not learn need not see a frame twice.

N = frames of a dataset, B = frames or samples of a batch, K = tokens of all cameras, D = width.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16, Int64, UInt8
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from ideomotor.core import jsonable
from ideomotor.core.files import write_json
from ideomotor.data.windows import WindowSource
from ideomotor.train.parallel import Group

FRAMES_AT_ONCE = 64  # fixed: a frame's features depend in their last bits on how many frames share a matrix product

Tower = Callable[[Tensor], Tensor]  # uint8 images [B, C, H, W, 3] -> features [B, K, D]


class FeatureStore:
    """Stored features of the datasets of a run, looked up by the loader's `sample`."""

    def __init__(self, stored: Sequence[Float16[np.ndarray, "N K D"]], sources: Sequence[WindowSource]) -> None:
        """Serve the windows of `sources`; `stored` has the features of all frames of each of their datasets."""
        self._stored = stored
        self._frames = [frame_numbers(source) for source in sources]

    def look_up(self, sample_B2: Int64[np.ndarray, "B 2"]) -> Float16[np.ndarray, "B K D"]:
        """Return the features of the windows (number of the source, number of the window in it)."""
        return np.stack([self._stored[d][self._frames[d][i]] for d, i in sample_B2.tolist()])


def frame_numbers(source: WindowSource) -> Int64[np.ndarray, " N"]:
    """Return, for each window of a source, the number of its frame in the whole dataset."""
    row = source.episode_of
    return source.cache_starts[row] + np.arange(len(source)) - source.starts[row]


def weights_hash(module: nn.Module) -> str:
    """Return a hash of all weights of a module."""
    return hashlib.sha256(save({name: w.contiguous().clone() for name, w in module.state_dict().items()})).hexdigest()


def compute_features(
    tower: Tower, frames: UInt8[np.ndarray, "N C H W 3"], key: dict[str, str], folder: Path, group: Group
) -> Float16[np.ndarray, "N K D"]:
    """Return the features of all frames of a dataset, memory-mapped; the ranks share the work.

    `key` names all that they depend on. Features of the same key that are complete in `folder` are taken as they are.
    """
    path = folder / f"{jsonable.fingerprint(key)[:32]}.npy"
    complete = path.with_suffix(".json")  # written last
    if group.agree(float(complete.exists())) == 0.0:
        _compute(tower, frames, path, group)
        if group.leads:
            write_json(complete, key)
        group.wait()
    return np.load(path, mmap_mode="r")


@torch.no_grad()
def _compute(tower: Tower, frames: np.ndarray, path: Path, group: Group) -> None:
    first = _features(tower, frames[:1])
    if group.leads:
        _allocate(path, (len(frames), *first.shape[1:]))
    group.wait()
    stored = np.load(path, mmap_mode="r+")
    starts = range(0, len(frames), FRAMES_AT_ONCE)[group.rank :: group.world]
    for start in tqdm(starts, desc="features of all frames", unit=" batches", disable=not group.leads, mininterval=1.0):
        stop = min(start + FRAMES_AT_ONCE, len(frames))
        stored[start:stop] = _features(tower, frames[start:stop])
    stored.flush()
    group.wait()


def _features(tower: Tower, frames: np.ndarray) -> Float16[np.ndarray, "B K D"]:
    return tower(torch.from_numpy(np.array(frames))).to(torch.float16).numpy()


def _allocate(path: Path, shape: tuple[int, ...]) -> None:
    """Make the file at its full size, so that a full disk shows now and not as a bus error at some later write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.lib.format.open_memmap(path, "w+", np.float16, shape)
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError:
        path.unlink()
        raise
