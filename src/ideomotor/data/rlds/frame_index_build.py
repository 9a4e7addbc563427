"""Building the indices of shards: once for each, in processes, each of which takes the next shard when it has done one.

The processes are programs of their own (`main` below), so that a script without `if __name__ == "__main__"` can open a dataset too.
"""

import contextlib
import hashlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ideomotor.core import files
from ideomotor.core.errors import UserError
from ideomotor.data.rlds.example import Feature, Strings, WireError, parse
from ideomotor.data.rlds.frame_index import (
    FOLDER,
    FrameIndex,
    ImagePlaces,
    StepFeature,
    Summary,
    index_path,
    layout_hash,
    read_index,
    read_summary,
    to_bytes,
)
from ideomotor.data.rlds.gzip_shard import open_shard
from ideomotor.data.rlds.tfrecord import HEADER, CorruptRecordError, Span, digest, is_gzip, mapped, words

_UNCERTAIN = 2_000_000_000  # [ns] a shard that was changed so shortly before its index may have changed again unseen
_WORTH_A_PROCESS = 256 << 20  # [bytes] indexed in less than a second


@dataclass(frozen=True)
class Job:
    """One shard to be indexed."""

    shard: Path
    features: tuple[StepFeature, ...]
    index: Path
    salvage: bool


def open_indices(
    shards: Sequence[Path], features: Sequence[StepFeature], cache: Path, *, salvage: bool, workers: int | None = None
) -> list[tuple[Path, Summary]]:
    """Return the index file of each shard and what it says; build those that are missing or do not fit.

    Args:
        shards: in order.
        features: that a step has.
        cache: folder for indices of shards whose folder cannot be written.
        salvage: of a damaged shard, index the records before the damage.
        workers: processes; default: one a core, at most 8.

    Raises:
        UserError: a shard is missing or damaged, or a record disagrees with itself.
    """
    found: dict[Path, tuple[Path, Summary]] = {}
    jobs: list[Job] = []
    for shard in shards:
        places = (shard.parent / FOLDER / f"{shard.name}.index", cache / f"{shard.name}.index")
        stored = next((known for path in places if (known := _valid(shard, path, features, salvage=salvage))), None)
        if stored is None:
            jobs.append(Job(shard, tuple(features), index_path(shard, cache), salvage))
        else:
            found[shard] = stored
    _build_all(jobs, min(workers or min(8, len(os.sched_getaffinity(0))), len(jobs)))
    for job in jobs:
        summary = read_summary(job.index)
        if summary is None:
            raise UserError(f"{job.index} was removed right after it was written; is its folder being cleaned?")
        found[job.shard] = job.index, summary
    return [found[shard] for shard in shards]


def _valid(shard: Path, path: Path, features: Sequence[StepFeature], *, salvage: bool) -> tuple[Path, Summary] | None:
    """Return a stored index if it is of the shard as it is now."""
    summary = read_summary(path)
    cameras = {feature.key for feature in features if feature.kind == "camera"}
    if summary is None or summary.layout != layout_hash(features) or set(summary.images) != cameras:
        return None
    try:
        state = shard.stat()
    except FileNotFoundError as error:
        raise UserError(f"shard {shard} is missing; copy all shards that dataset_info.json lists") from error
    if summary.size != state.st_size:
        return None
    if summary.mtime_ns != state.st_mtime_ns or summary.built_ns < summary.mtime_ns + _UNCERTAIN:
        if _digest(shard, summary) != summary.digest:
            return None
        summary = _confirm(path, summary, state.st_mtime_ns)
    if summary.damage and not salvage:
        raise CorruptRecordError(summary.damage)
    return path, summary


def _confirm(path: Path, summary: Summary, mtime_ns: int) -> Summary:
    """Write into an index that the shard of that time is its own, so that the next opening need not look through it."""
    now = time.time_ns()
    if now < mtime_ns + _UNCERTAIN:
        return summary
    confirmed = replace(summary, mtime_ns=mtime_ns, built_ns=now)
    with contextlib.suppress(OSError):  # a folder that cannot be written
        files.write_bytes(path, to_bytes(read_index(path, summary), confirmed))
    return confirmed


def _digest(shard: Path, summary: Summary) -> str:
    try:
        return digest(open_shard(shard, compressed=summary.compressed), summary.records)
    except UserError:  # it has become shorter, or another file
        return ""


def _build_all(jobs: Sequence[Job], workers: int) -> None:
    if not jobs:
        return
    sizes = [job.shard.stat().st_size if job.shard.exists() else 0 for job in jobs]
    with tqdm(
        total=sum(sizes), desc="index shards once", unit="B", unit_scale=True, disable=None, leave=False
    ) as progress:
        if workers <= 1 or sum(sizes) < _WORTH_A_PROCESS:
            for job in jobs:
                build(job, progress.update)
        else:
            _build_in_processes(jobs, workers, progress.update)


def _build_in_processes(jobs: Sequence[Job], workers: int, advance: Callable[[int], object]) -> None:
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path}; from {__name__} import main; main()"]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(workers)]
    try:
        with ThreadPoolExecutor(workers) as threads:
            futures = [threads.submit(_drive, child, waiting, advance) for child in children]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            if any(future.exception() for future in done):
                _empty(waiting)
                _kill(children)
            for future in [*done, *futures]:
                future.result()
    finally:
        _kill(children)


def _drive(
    child: "subprocess.Popen[bytes]", waiting: "queue.SimpleQueue[Job]", advance: Callable[[int], object]
) -> None:
    """Give a process one shard after the other."""
    assert child.stdin is not None
    assert child.stdout is not None
    while True:
        try:
            job = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            pickle.dump(job, child.stdin)
            child.stdin.flush()
            reply = pickle.load(child.stdout)
        except (BrokenPipeError, EOFError) as error:
            raise RuntimeError(
                f"a process that indexes {job.shard} died with exit code {child.wait()} (-9: killed, often for lack of memory);"
                " what is indexed was kept, open the dataset again"
            ) from error
        if isinstance(reply, UserError):
            raise reply
        advance(reply)


def _empty(waiting: "queue.SimpleQueue[Job]") -> None:
    while not waiting.empty():
        waiting.get_nowait()


def _kill(children: "Sequence[subprocess.Popen[bytes]]") -> None:
    for child in children:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()


def main() -> None:
    """The program of a process: read jobs from the standard input, write replies to the standard output, end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    while True:
        try:
            job: Job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        reply: int | UserError = job.shard.stat().st_size if job.shard.exists() else 0
        try:
            build(job, lambda _: None)
        except UserError as error:
            reply = error
        pickle.dump(reply, sys.stdout.buffer)
        sys.stdout.flush()


def build(job: Job, advance: Callable[[int], object]) -> None:
    """Index one shard: verify all checksums, and write down where everything lies.

    Raises:
        UserError: the shard is missing or damaged, or a record disagrees with itself.
    """
    view = mapped(job.shard)
    compressed, size = is_gzip(view), len(view)
    mtime_ns = job.shard.stat().st_mtime_ns
    records = open_shard(job.shard, compressed=compressed)
    spans, starts, damage, told, names = list[Span](), [0], "", 0, hashlib.sha256()
    places = {f.key: list[tuple[np.ndarray, np.ndarray]]() for f in job.features if f.kind == "camera"}
    try:
        for number, span in enumerate(records.verified()):
            where = f"{job.shard}: record {number} at byte {span.offset - HEADER}"
            parsed = _parsed(records.payload(span), where)
            steps = num_steps(parsed, job.features, where)
            for key, found in places.items():
                strings = parsed.get(key)
                assert isinstance(strings, Strings) or steps == 0, "num_steps has refused other kinds"
                if isinstance(strings, Strings):
                    found.append((strings.offset + span.offset, strings.length))
            starts.append(starts[-1] + steps)
            spans.append(span)
            names.update(words(records, span))
            if not compressed:
                advance(span.offset + span.length - told)
                told = span.offset + span.length
    except UserError as error:
        if not job.salvage:
            raise
        damage = str(error)
    advance(size - told)
    index = FrameIndex(
        np.array([s.offset for s in spans], np.uint64),
        np.array([s.length for s in spans], np.uint64),
        np.array(starts, np.uint64),
        {key: ImagePlaces(_joined(found, 0, np.uint64), _joined(found, 1, np.uint32)) for key, found in places.items()},
    )
    summary = Summary(
        size, mtime_ns, time.time_ns(), layout_hash(job.features), compressed, names.hexdigest(), len(spans), starts[-1],
        tuple(places), damage,
    )  # fmt: skip
    files.write_bytes(job.index, to_bytes(index, summary))


def _parsed(payload: memoryview, where: str) -> dict[str, Feature]:
    try:
        return parse(payload)
    except WireError as error:
        raise UserError(f"{where} is no tf.train.Example: {error}") from error


def num_steps(parsed: Mapping[str, Feature], features: Sequence[StepFeature], where: str) -> int:
    """Return the number of steps of an episode, on which all of its features must agree.

    Raises:
        UserError: they do not, or one of them is absent.
    """
    counts: dict[str, int] = {}
    for feature in features:
        if feature.key not in parsed and feature.optional:
            continue
        values = parsed.get(feature.key)
        if feature.key not in parsed or (values is not None and len(values) and not _fits(values, feature)):
            held = ", ".join(sorted(parsed)[:8])
            raise UserError(
                f"{where} has no usable '{feature.key}', which features.json declares; it holds {held}, ..."
            )
        if feature.per_step < 1:
            continue
        steps, rest = divmod(0 if values is None else len(values), feature.per_step)
        if rest:
            raise UserError(
                f"{where}: '{feature.key}' has {steps * feature.per_step + rest} values, no multiple of {feature.per_step} a step"
            )
        counts[feature.key] = steps
    if len(set(counts.values())) > 1:
        raise UserError(f"{where}: its features disagree on the number of steps: {counts}")
    return next(iter(counts.values()), 0)


def _fits(values: Strings | np.ndarray, feature: StepFeature) -> bool:
    if isinstance(values, Strings):
        return feature.kind in ("strings", "camera")
    return feature.kind == "numbers" or (feature.kind == "integers" and values.dtype == np.int64)


def _joined(found: list[tuple[np.ndarray, np.ndarray]], part: int, dtype: type) -> np.ndarray:
    return np.concatenate([pair[part] for pair in found]).astype(dtype) if found else np.zeros(0, dtype)
