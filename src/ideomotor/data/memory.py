"""What a loader will hold, in bytes, before it starts.

Memory that is `private` belongs to each process; `shared` is held once by all. Files that are mapped count as neither: the system keeps of them
what fits, and gives it up when others need room.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ideomotor.data.loader import SLOTS, Batch, Loader


@runtime_checkable
class Weighed(Protocol):
    """A source that knows what it holds (`WindowSource`)."""

    @property
    def memory(self) -> int:
        """Bytes that each process holds."""
        ...

    @property
    def mapped(self) -> int:
        """Bytes of memory-mapped files."""
        ...


@dataclass(frozen=True)
class Memory:
    """The memory of the loading of one rank [bytes]."""

    columns: int  # of each process: states, actions, labels, instructions
    order: int  # of each process: the sample numbers looked up ahead, the orders of small sources
    batch: int  # of each process: one batch in the making
    slots: int  # shared: finished batches of the workers
    mapped: int  # files, not held
    workers: int

    @property
    def total(self) -> int:
        """What all processes of the rank hold together, beside Python itself; each worker has the columns and a batch of its own."""
        return (1 + self.workers) * (self.columns + self.order + self.batch) + self.slots

    @property
    def sentence(self) -> str:
        """The same for people."""
        workers = f", {self.workers} workers each the same and {_mb(self.slots)} shared" if self.workers else ""
        mapped = f"; {_mb(self.mapped)} of files are mapped, not held" if self.mapped else ""
        return (
            f"loading holds {_mb(self.total)} for each training process: columns {_mb(self.columns)}, order {_mb(self.order)},"
            f" batch {_mb(self.batch)}{workers}{mapped}"
        )


def stated(loader: Loader, example: Batch) -> Memory:
    """Return what a rank that loads batches like `example` will hold at most, beside the readers' own caches.

    Args:
        loader: of the run.
        example: one batch of the rank, e.g. `loader.batch(0, rank, world)`.
    """
    sources = [source for source in loader.sources if isinstance(source, Weighed)]
    size = sum(array.nbytes for array in example.values())
    return Memory(
        columns=sum(source.memory for source in sources),
        order=loader.mixture.room + loader.draws_kept,
        batch=2 * size,  # single windows, and the arrays they are joined to
        slots=loader.config.workers * SLOTS * loader.slot_size(example),
        mapped=sum(source.mapped for source in sources),
        workers=loader.config.workers,
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
