"""Draws batches on all ranks until it is killed, and writes down after each step which samples came and where it goes on.

    python kill_loader.py FOLDER WORLD WORKERS [STOP]

FOLDER/position.json is the loader's state, replaced after each step; FOLDER/samples.jsonl has a line a step.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from memory_dataset import MemoryDataset

from ideomotor.core.files import write_json
from ideomotor.data.images import Jitter
from ideomotor.data.loader import Loader, LoaderConfig
from ideomotor.data.windows import WindowSource, stack

LENGTHS = ([7, 5, 9], [40], [3, 3])
WEIGHTS = (0.6, 0.3, 0.1)
BATCH = 8


def make(workers=0):
    sources = [WindowSource(MemoryDataset(lengths), horizon=3) for lengths in LENGTHS]
    return Loader(sources, WEIGHTS, LoaderConfig(BATCH, seed=11, workers=workers, augment=Jitter()), stack)


def line(step, batches):
    """What came in a step: all ranks' samples in order, and a number that depends on every pixel."""
    samples = [row for batch in batches for row in batch["sample"].tolist()]
    pixels = [int(image.astype(int).sum()) for batch in batches for image in batch["images"]]
    return json.dumps([step, samples, pixels])


def main(folder, world, workers, stop):
    loader = make(workers)
    state = folder / "position.json"
    step = loader.resume(json.loads(state.read_bytes())) if state.exists() else 0
    ranks = [loader.batches(step, rank, world, stop) for rank in range(world)]
    with (folder / "samples.jsonl").open("a", encoding="ascii") as log:
        for batches in zip(*ranks, strict=True):
            print(line(step, batches), file=log, flush=True)
            step += 1
            write_json(state, loader.state(step))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else None)
