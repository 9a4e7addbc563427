"""Batches as a pure function of the step: any number of ranks and worker processes gives the same arrays in the same order.

The state of the loader is the number of the next step. Step t of a run with G samples a step holds the global sample numbers tG to
tG + G - 1; rank k of R takes the k-th part of them. `mixture` says what a sample number stands for, and augmentation is keyed by
it too, so nothing depends on who computes a batch or when.

Worker processes (forkserver) write finished arrays into shared memory; the parent copies them out in order of steps.
"""

import functools
import itertools
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from ctypes import Array, c_uint8
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, assert_never, runtime_checkable

import numpy as np

from ideomotor.core.errors import UsageError, UserError
from ideomotor.data.augment import Augment, augment
from ideomotor.data.images import Jitter, jitter
from ideomotor.data.mixture import Draws, Mixture
from ideomotor.data.windows import Window

Batch = dict[str, np.ndarray]
Encode = Callable[[list[Window]], Batch]  # Pipeline.encode; must be picklable where there are workers

DRAWN_TOGETHER = 4096  # sample numbers that are looked up in one query: a small query costs more a sample
DRAWS_KEPT = 4  # queries
SLOTS = 2  # batches in the making per worker
SPARE = 1.25  # room in a slot, in sizes of the first batch


@runtime_checkable
class Source(Protocol):
    """What the loader draws from (`WindowSource`)."""

    @property
    def name(self) -> str:
        """Names the content: a run resumes only with sources of the same names."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Window: ...


@dataclass(frozen=True)
class Share:
    """How much of the samples one source was to give, and gave."""

    name: str
    asked: float  # [fraction] its weight
    realized: float  # [fraction] of the samples so far
    samples: int
    epochs: float  # how often each of its windows was seen


@dataclass(frozen=True)
class LoaderConfig:
    """How batches are made."""

    batch_size: int  # samples a step, all ranks together
    seed: int = 0
    workers: int = 0  # processes for each rank; 0: in this process
    augment: Jitter | Augment | None = None  # of the array "images"


class Loader:
    """Draws windows from sources in fixed shares and encodes them in batches.

    To the arrays of `encode` it adds `sample` [B, 2]: the number of the source, and of the window in it.
    """

    def __init__(
        self, sources: Sequence[Source], weights: Sequence[float], config: LoaderConfig, encode: Encode
    ) -> None:
        """Mix `sources` in the shares `weights` (scaled to sum to 1).

        Raises:
            UserError: an empty source, or a weight that is not positive.
        """
        if config.batch_size < 1:
            raise UsageError(f"a batch of {config.batch_size} samples is not possible; give 1 or more")
        self.sources = tuple(sources)
        self.config = config
        self.encode = encode
        self.mixture = Mixture([s.name for s in sources], [len(s) for s in sources], weights, config.seed)
        self._steps_together = max(1, DRAWN_TOGETHER // config.batch_size)
        self._draws = functools.lru_cache(maxsize=DRAWS_KEPT)(self._draw_steps)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.sources, self.mixture.weights, self.config, self.encode)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Return the part of one rank of the batch of a step.

        Raises:
            UsageError: the ranks cannot share the batch evenly.
        """
        share = self._share(rank, world)
        first = (step % self._steps_together) * self.config.batch_size + rank * share
        draws = self._draws(step // self._steps_together)
        source, element = draws.source[first : first + share], draws.element[first : first + share]
        windows = [self.sources[d][i] for d, i in zip(source.tolist(), element.tolist(), strict=True)]
        arrays = dict(self.encode(windows))
        arrays["sample"] = np.stack([source, element], axis=1)
        if self.config.augment is not None and "images" in arrays:
            start = step * self.config.batch_size + rank * share
            numbers = np.arange(start, start + share)
            arrays["images"] = _augmented(arrays["images"], self.config.augment, self.config.seed, numbers)
        return arrays

    def batches(self, start: int, rank: int = 0, world: int = 1, stop: int | None = None) -> Iterator[Batch]:
        """Yield the batches of the steps from `start` (to before `stop`), with the configured number of workers.

        Close the iterator, or let it go, to end its worker processes.

        Raises:
            RuntimeError: a worker died or failed; the message says which step it was making.
        """
        self._share(rank, world)
        steps = itertools.count(start) if stop is None else iter(range(start, stop))
        if self.config.workers == 0:
            return (self.batch(step, rank, world) for step in steps)
        return _parallel(self, steps, rank, world)

    def shares(self, step: int) -> list[Share]:
        """Return what each source was to give and gave before `step`, all ranks together; nothing has to be counted for it."""
        counts = self.mixture.counts(0, step * self.config.batch_size)
        weights = np.asarray(self.mixture.weights) / sum(self.mixture.weights)
        total = max(int(counts.sum()), 1)
        return [
            Share(name, float(weight), count / total, count, count / size)
            for name, weight, count, size in zip(
                self.mixture.names, weights, counts.tolist(), self.mixture.sizes.tolist(), strict=True
            )
        ]

    def slot_size(self, batch: Batch) -> int:
        """Return the bytes of shared memory for one batch like this one; a worker has `SLOTS` of them."""
        return int(SPARE * sum(_aligned(array.nbytes) for array in batch.values())) + 4096

    @property
    def draws_kept(self) -> int:
        """The bytes of sample numbers that are looked up ahead, at most."""
        return DRAWS_KEPT * 3 * 8 * self._steps_together * self.config.batch_size

    def state(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint stores to go on at `step`."""
        return self.mixture.state(step * self.config.batch_size)

    def resume(self, state: Mapping[str, Any]) -> int:
        """Return the step of a stored state; another batch size may go on where it divides the position.

        Raises:
            UserError: the mixture differs, or the position lies inside of a batch.
        """
        position = self.mixture.resume(dict(state))
        step, rest = divmod(position, self.config.batch_size)
        if rest:
            raise UserError(
                f"the run stopped after {position} samples, which is no multiple of the batch size {self.config.batch_size};"
                " resume with the batch size it had"
            )
        return step

    def _share(self, rank: int, world: int) -> int:
        if self.config.batch_size % world:
            raise UsageError(
                f"{world} ranks cannot share a batch of {self.config.batch_size} evenly; change one of them"
            )
        assert 0 <= rank < world, "ranks are counted from 0"
        return self.config.batch_size // world

    def _draw_steps(self, run: int) -> Draws:
        count = self._steps_together * self.config.batch_size
        return self.mixture.draw(np.arange(run * count, (run + 1) * count))


def _augmented(images: np.ndarray, how: Jitter | Augment, seed: int, numbers: np.ndarray) -> np.ndarray:
    match how:
        case Jitter():
            return jitter(images, how, seed, numbers)
        case Augment():
            return augment(images, how, seed, numbers)
        case _:
            assert_never(how)


@dataclass(frozen=True)
class _Placed:
    """One array of a batch in a slot of shared memory."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class _Failed:
    """What went wrong in a worker."""

    message: str
    by_user: bool


Reply = list[_Placed] | Batch | _Failed  # a batch too large for its slot travels through the pipe


def _parallel(loader: Loader, steps: Iterator[int], rank: int, world: int) -> Iterator[Batch]:
    """Yield batches made by worker processes, in order; the first is made here and tells the size of the slots."""
    first_step = next(steps, None)
    if first_step is None:
        return
    first = loader.batch(first_step, rank, world)
    room = loader.slot_size(first)
    workers = [_Worker(loader, rank, world, room) for _ in range(loader.config.workers)]
    try:
        asked = [(worker, step) for _ in range(SLOTS) for worker, step in zip(workers, steps, strict=False)]
        for worker, step in asked:
            worker.ask(step)
        yield first
        for turn in itertools.count():
            worker = workers[turn % len(workers)]
            if not worker.waiting:
                return
            batch = worker.receive()
            step = next(steps, None)
            if step is not None:
                worker.ask(step)
            yield batch
    finally:
        for worker in workers:
            worker.close()


class _Worker:
    """The parent's side of one worker process."""

    def __init__(self, loader: Loader, rank: int, world: int, room: int) -> None:
        context = multiprocessing.get_context("forkserver")
        self._slots = [context.RawArray(c_uint8, room) for _ in range(SLOTS)]
        self._connection, theirs = context.Pipe()
        arguments = (theirs, loader, (rank, world), self._slots)
        self._process = context.Process(target=_work, args=arguments, name="loader", daemon=True)
        self._process.start()
        theirs.close()
        self._asked = self._answered = 0
        self.waiting: list[int] = []  # steps it was asked for

    def ask(self, step: int) -> None:
        """Order a batch."""
        try:
            self._connection.send((step, self._asked % SLOTS))
        except (BrokenPipeError, ConnectionResetError):
            raise self._died(step) from None
        self._asked += 1
        self.waiting.append(step)

    def receive(self) -> Batch:
        """Wait for the oldest batch that was ordered."""
        step = self.waiting.pop(0)
        wait([self._connection, self._process.sentinel])
        try:
            reply: Reply | None = self._connection.recv() if self._connection.poll() else None
        except (EOFError, ConnectionResetError):
            reply = None
        if reply is None:
            raise self._died(step)
        if isinstance(reply, _Failed):
            raise (
                UserError(reply.message)
                if reply.by_user
                else RuntimeError(f"a loader worker failed while making step {step}:\n{reply.message}")
            )
        slot = self._slots[self._answered % SLOTS]
        self._answered += 1
        return reply if isinstance(reply, dict) else {placed.name: _view(slot, placed).copy() for placed in reply}

    def close(self) -> None:
        """End the process: it leaves when its pipe closes."""
        self._connection.close()
        self._process.join(5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    def _died(self, step: int) -> RuntimeError:
        self._process.join(5.0)
        return RuntimeError(
            f"loader worker {self._process.pid} died with exit code {self._process.exitcode} while making step {step}"
            " (-9: killed, often for lack of memory). Resume from the last checkpoint, perhaps with fewer workers."
        )


def _work(connection: Connection, loader: Loader, place: tuple[int, int], slots: list["Array[c_uint8]"]) -> None:
    """The main program of a worker: answer with batches until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    try:
        while True:
            step, slot = connection.recv()
            connection.send(_make(loader, step, place, slots[slot]))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has closed, or is gone


def _make(loader: Loader, step: int, place: tuple[int, int], slot: "Array[c_uint8]") -> Reply:
    try:
        batch = loader.batch(step, *place)
    except UserError as error:
        return _Failed(str(error), by_user=True)
    except Exception:  # noqa: BLE001 (whatever it is, the parent raises it)
        return _Failed(traceback.format_exc(), by_user=False)
    if sum(_aligned(a.nbytes) for a in batch.values()) > len(slot):
        return batch
    layout: list[_Placed] = []
    offset = 0
    for name, array in batch.items():
        layout.append(_Placed(name, array.dtype.str, array.shape, offset))
        _view(slot, layout[-1])[...] = array
        offset += _aligned(array.nbytes)
    return layout


def _view(slot: "Array[c_uint8]", placed: _Placed) -> np.ndarray:
    count = int(np.prod(placed.shape))
    return np.frombuffer(memoryview(slot), placed.dtype, count, placed.offset).reshape(placed.shape)


def _aligned(size: int) -> int:
    return -(-size // 64) * 64  # [bytes] a cache line
