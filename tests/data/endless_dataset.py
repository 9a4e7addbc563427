"""A dataset of 1e8 frames whose columns are sparse files; run by itself it prints what windows of it cost, as JSON."""

import json
import sys
import time
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from ideomotor.core.spec import Camera
from ideomotor.data.columns import ColumnStore, wanted_columns
from ideomotor.data.dataset import Feature
from ideomotor.data.loader import Loader, LoaderConfig
from ideomotor.data.windows import WindowSource, stack

FRAMES, LENGTH = 100_000_000, 300


class EndlessDataset:
    """Episodes of 300 frames; an image's grey is the frame."""

    path = Path("endless")
    format = "made up"
    fps = 10.0
    embodiment = None
    content_hash = "endless"

    def __init__(self):
        self.cameras = {"front": Camera("front", 4, 4)}
        self.features = {
            "action": Feature("action", "float32", (7,)),
            "observation.state": Feature("observation.state", "float32", (8,)),
        }
        self.splits = {}

    def __len__(self):
        return (FRAMES + LENGTH - 1) // LENGTH

    def length(self, episode):
        return min(LENGTH, FRAMES - episode * LENGTH)

    def instruction(self, episode):
        return f"do {episode}"

    def image(self, episode, frame, camera):
        return np.full((4, 4, 3), frame % 256, np.uint8)

    def column(self, episode, name):
        raise AssertionError("nothing is read twice")

    def __getitem__(self, episode):
        raise NotImplementedError

    def success(self, episode):
        return "unknown"


def sparse(path: Path, shape, dtype) -> Path:
    with path.open("wb") as file:
        npy.write_array_header_1_0(file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return path


def written(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def make_store(folder: Path, dataset: EndlessDataset) -> ColumnStore:
    """Lay the files as `open_columns` does; it would write 6 GB."""
    texts = [dataset.instruction(e).encode() for e in range(len(dataset))]
    paths = {
        name: sparse(folder / f"{name}.npy", (FRAMES, *dataset.features[name].shape), dtype)
        for name, dtype in wanted_columns(dataset).items()
    }
    starts = np.minimum(np.arange(len(dataset) + 1) * LENGTH, FRAMES)
    paths["#starts"] = written(folder / "starts.npy", starts)
    paths["#text starts"] = written(folder / "text_starts.npy", np.cumsum([0, *map(len, texts)]))
    paths["#text"] = written(folder / "text.npy", np.frombuffer(b"".join(texts), np.uint8))
    return ColumnStore(paths)


def anonymous() -> int:
    """Bytes of anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def main(folder: Path) -> None:
    dataset = EndlessDataset()
    store = make_store(folder, dataset)
    source = WindowSource(dataset, horizon=16, store=store)
    loader = Loader([source], [1.0], LoaderConfig(batch_size=256), stack)
    peak, right, windows = anonymous(), 0, 0
    seconds = 0.0
    for step in (0, 1, 10**4, 10**6, *range(2 * 10**6, 2 * 10**6 + 12)):
        begin = time.process_time()
        batch = loader.batch(step)
        seconds += time.process_time() - begin
        peak = max(peak, anonymous())
        windows += len(batch["sample"])
        episode, frame = np.divmod(batch["sample"][:, 1], LENGTH)
        left = np.minimum(LENGTH, FRAMES - episode * LENGTH) - frame
        pads = np.arange(16) >= left[:, None]
        right += int(((batch["images"][:, 0, 0, 0, 0] == frame % 256) & (batch["actions_pad"] == pads).all(1)).sum())
    found = {
        "frames": len(source),
        "mapped": source.mapped,
        "anonymous": peak,
        "stated": source.memory + loader.mixture.room + loader.draws_kept,
        "windows": windows,
        "right": right,
        "microseconds": 1e6 * seconds / windows,
    }
    print(json.dumps(found))  # noqa: T201 (read by the test)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
