"""What a loader will hold is stated before, and kept."""

import gc
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from endless_dataset import anonymous
from memory_dataset import MemoryDataset

from ideomotor.data.columns import open_columns, wanted_columns
from ideomotor.data.loader import Loader, LoaderConfig
from ideomotor.data.memory import stated
from ideomotor.data.windows import WholeChunks, WindowSource, stack


def test_columns_and_slots_are_counted_to_the_byte(tmp_path):
    dataset = MemoryDataset([40, 60])
    source = WindowSource(dataset, horizon=4)
    loader = Loader([source], [1.0], LoaderConfig(8, workers=2), stack)
    batch = loader.batch(0)
    memory = stated(loader, batch)
    places = 3 * 8 + 2 * 8 + 2 * 8  # starts, first frames and numbers of two episodes
    words = sys.getsizeof(("", "")) + sum(sys.getsizeof(f"do {e}") for e in range(2))
    assert memory.columns == 100 * (2 + 1) * 4 + places + words
    # sample, state, actions, pads and images of 8 samples, each rounded up to 64 bytes; a quarter to spare
    assert memory.slots == 2 * 2 * (int(1.25 * (128 + 64 + 256 + 64 + 1152)) + 4096)
    assert memory.batch == 2 * sum(array.nbytes for array in batch.values())
    assert memory.total == 3 * (memory.columns + memory.order + memory.batch) + memory.slots
    assert memory.mapped == 0
    store = open_columns(dataset, wanted_columns(dataset), tmp_path)
    mapped = Loader([WholeChunks(WindowSource(dataset, 4, store=store))], [1.0], LoaderConfig(8), stack)
    found = stated(mapped, mapped.batch(0))
    assert found.columns == places + 3 * 8  # and where the whole chunks of each episode begin
    assert found.mapped == 100 * (2 + 1) * 4
    assert found.slots == 0
    assert found.sentence.endswith("; 0.0 MB of files are mapped, not held")
    assert "2 workers each the same" in memory.sentence


@pytest.mark.parametrize("sizes", [[400_000], [60_000] * 20])
def test_the_memory_of_a_loader_stays_below_what_is_stated(sizes):
    sources = [WindowSource(Blind([n]), horizon=8) for n in sizes]
    gc.collect()
    before = anonymous()
    columns = sum(source.memory for source in sources)
    loader = Loader(sources, [1.0] * len(sizes), LoaderConfig(4096), stack)
    memory = stated(loader, loader.batch(0))
    for step in range(0, 300, 3):
        loader.mixture.draw(np.arange(step * 4096, step * 4096 + 64))
    for step in range(1, 4):
        loader.batch(step)
    assert anonymous() - before < memory.total - columns + 8e6  # Python's own objects, and what numpy needs for a query


class Blind(MemoryDataset):
    """Without cameras."""

    def __init__(self, lengths):
        super().__init__(lengths)
        self.cameras = {}
