"""Reading RLDS against TFDS and TensorFlow: the rows `rlds.*` of `make bench`.

TFDS writes one dataset of 256-px JPEG (1,200 frames). Each side is a process of its own with one thread, both read it whole in turns, and frames are
counted per second of processor time. What they read is compared first: bytes and pixels must be equal, Lanczos pixels within one level.
"""

import contextlib
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
PEER = Path(os.environ.get("IDEOMOTOR_TFDS", HERE.parent / "build" / "peers" / "tfds" / "bin" / "python"))
DATA = HERE.parent / "build" / "bench_rlds"
ROUNDS = 7
LANCZOS = 224  # [px]
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
GOALS = {
    "rlds.parse": "none",
    "rlds.decode": ">= 3x batched, >= 2x flattened",
    "rlds.lanczos": ">= 1.7x",
    "rlds.index": "none",
}


def rows() -> list[Any]:
    """Measure all rows."""
    from bench import Entry

    if not PEER.is_file():
        note = (
            f"TFDS is absent ({PEER}); set IDEOMOTOR_TFDS to the python of an environment with tensorflow-datasets 4.9"
        )
        return [
            Entry(name, None, None, None, "frames/CPU-s", None, goal, met=False, note=note)
            for name, goal in GOALS.items()
        ]
    if not DATA.is_dir():
        partial = DATA.with_name("bench_rlds.partial")
        subprocess.run([PEER, HERE / "tfds_bench.py", "write", partial], check=True, env=_environment())
        partial.rename(DATA)
    folder = DATA / "bench" / "1.0.0"
    with (
        _child(sys.executable, str(HERE / "bench_rlds.py"), str(folder)) as ours,
        _child(str(PEER), str(HERE / "tfds_bench.py"), "serve", str(folder)) as (theirs),
    ):
        return [_parse(ours, theirs), _decode(ours, theirs), _lanczos(ours, theirs), _index(ours)]


def _parse(ours: "Child", theirs: "Child") -> Any:
    _check_equal("encoded pictures", [ours("parse digest"), theirs("parse digest")])
    best = _in_turns({"ours": (ours, "parse"), "peer": (theirs, "parse")})
    note = f"records with checksums, all features, no pixels; the peer is TFRecordDataset with parse_single_example, {theirs.about}"
    return _row("rlds.parse", best, "peer", met=None, note=note)


def _decode(ours: "Child", theirs: "Child") -> Any:
    ways = ("batched", "flattened", "inside", "tuned")
    _check_equal("pixels", [ours("decode digest"), *(theirs(f"{way} digest") for way in ways)])
    best = _in_turns({"ours": (ours, "decode"), **{way: (theirs, way) for way in ways}})
    ratios = {way: _rate(best["ours"]) / _rate(best[way]) for way in ways}
    said = {way: f"{_rate(best[way]):.0f} ({ratios[way]:.2f}x)" for way in ways}
    note = (
        f"all columns and pictures through the Dataset protocol, pixels equal to the bit; TFDS' steps batched episode by episode"
        f" {said['batched']}, flattened {said['flattened']}, batched inside of tf.data {said['inside']}; tf.data without TFDS, tuned"
        f" {said['tuned']}; {theirs.about}"
    )
    return _row("rlds.decode", best, "batched", met=ratios["batched"] >= 3 and ratios["flattened"] >= 2, note=note)


def _lanczos(ours: "Child", theirs: "Child") -> Any:
    with tempfile.TemporaryDirectory() as name:
        for child, path in ((ours, f"{name}/ours.npy"), (theirs, f"{name}/theirs.npy")):
            child(f"lanczos {path}")
        mine, peer = (np.load(f"{name}/{side}.npy")[:60].astype(int) for side in ("ours", "theirs"))
    difference = np.abs(mine - peer)
    if difference.max() > 1:
        raise AssertionError(f"pixels after Lanczos-3 differ by up to {difference.max()}")
    best = _in_turns({"ours": (ours, "lanczos"), "peer": (theirs, "lanczos")})
    ratio = _rate(best["ours"]) / _rate(best["peer"])
    note = f"decoded and resized to {LANCZOS} px; {np.mean(difference > 0):.2%} of values differ, by 1; the peer is tuned tf.data"
    return _row("rlds.lanczos", best, "peer", met=ratio >= 1.7, note=note)


def _index(ours: "Child") -> Any:
    best = _in_turns({"ours": (ours, "index")})
    return _row(
        "rlds.index",
        best,
        None,
        met=None,
        note="checksums, places of all pictures, written to disk; TFDS has no such thing",
    )


def _row(name: str, best: dict[str, Any], peer: str | None, *, met: bool | None, note: str) -> Any:
    from bench import Entry

    mine, theirs = _rate(best["ours"]), None if peer is None else _rate(best[peer])
    sizes = "; ".join(
        f"{side}: {about['bytes'] / 1e6:.1f} MB read, peak memory {about['rss'] / 1e6:.0f} MB"
        for side, about in best.items()
    )
    ratio = None if theirs is None else round(mine / theirs, 2)
    about = f"{note}; best of {ROUNDS} in turns, one thread; {sizes}; load {os.getloadavg()[0]:.1f}"
    return Entry(
        name,
        round(mine),
        None if theirs is None else round(theirs),
        None,
        "frames/CPU-s",
        ratio,
        GOALS[name],
        met,
        about,
    )


def _rate(about: dict[str, Any]) -> float:
    return about["frames"] / about["cpu"]


def _in_turns(sides: "dict[str, tuple[Child, str]]") -> dict[str, Any]:
    """Return the fastest round of each side."""
    found: dict[str, list[Any]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, (child, request) in sides.items():
            found[name].append(child(request))
    return {name: max(answers, key=_rate) for name, answers in found.items()}


def _check_equal(what: str, answers: list[Any]) -> None:
    if len({(about["digest"], about["frames"]) for about in answers}) > 1:
        raise AssertionError(f"{what} differ between the readers")


class Child:
    """A process that reads when it is told to."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.about = self._answer()["ready"]

    def __call__(self, request: str) -> Any:
        """Let it read once."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{request}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a reader ended with exit code {self.process.wait()}")
        return json.loads(line)


@contextlib.contextmanager
def _child(*command: str) -> Generator[Child]:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(), stderr=subprocess.DEVNULL
    )
    try:
        yield Child(process)
    finally:
        process.kill()
        process.communicate()


def _environment() -> dict[str, str]:
    return {**os.environ, **ONE_THREAD, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


# --------------------------------------------------------------------------- our side, in a process of its own


def serve(folder: Path) -> None:
    """Answer requests until the input ends: "NAME", "NAME digest", or "NAME FILE.npy"."""
    from ideomotor.data.rlds.dataset import RldsDataset

    dataset = RldsDataset(folder)
    ways: dict[str, Callable[[], Iterator[Any]]] = {
        "parse": lambda: parse(folder),
        "decode": lambda: decode(dataset),
        "lanczos": lambda: lanczos(dataset),
        "index": lambda: index(dataset),
    }
    total = sum(path.stat().st_size for path in folder.glob("*.tfrecord*"))
    print(json.dumps({"ready": "ideomotor"}), flush=True)
    for line in sys.stdin:
        name, _, how = line.strip().partition(" ")
        cpu, frames, digest, kept = time.process_time(), 0, hashlib.sha256(), list[Any]()
        for images in ways[name]():
            frames += len(images)
            if how == "digest":
                digest.update(b"".join(images) if isinstance(images, list) else images)
            elif how and len(kept) < 120:
                kept.append(images)
        cpu = time.process_time() - cpu
        if kept:
            np.save(how, np.concatenate(kept))
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        about = {"frames": frames, "cpu": cpu, "digest": digest.hexdigest(), "bytes": total, "rss": rss}
        print(json.dumps(about), flush=True)


def parse(folder: Path) -> Iterator[list[bytes]]:
    """Parse every record, with its checksums."""
    from ideomotor.data.rlds.example import Strings, parse
    from ideomotor.data.rlds.tfrecord import Shard

    for path in sorted(folder.glob("*.tfrecord*")):
        shard = Shard(path)
        for span in shard.verified():
            payload = shard.payload(span)
            strings = parse(payload)["steps/observation/image"]
            assert isinstance(strings, Strings)
            yield strings.of(payload)


def decode(dataset: Any) -> Iterator[Any]:
    """Read every column and every picture."""
    for episode in range(len(dataset)):
        length = dataset.length(episode)
        assert dataset.instruction(episode)
        for name in dataset.features:
            assert len(dataset.column(episode, name)) == length
        for frame in range(length):
            yield dataset.image(episode, frame, "image")[None]


def lanczos(dataset: Any) -> Iterator[Any]:
    """Read every column, and every picture at a smaller size."""
    from ideomotor.data.resize import lanczos3

    for episode in range(len(dataset)):
        for name in dataset.features:
            dataset.column(episode, name)
        for frame in range(dataset.length(episode)):
            yield lanczos3(dataset.image(episode, frame, "image"), LANCZOS)[None]


def index(dataset: Any) -> Iterator[range]:
    """Build the index of every shard again."""
    from ideomotor.data.rlds.features import read_features
    from ideomotor.data.rlds.frame_index_build import Job, build

    features = tuple(leaf.step_feature for leaf in read_features(next(dataset.path.rglob("features.json"))).steps)
    with tempfile.TemporaryDirectory() as name:
        for shard in sorted(dataset.path.glob("*.tfrecord*")):
            build(Job(shard, features, Path(name) / shard.name, salvage=False), lambda _: None)
    yield range(sum(dataset.length(episode) for episode in range(len(dataset))))


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
