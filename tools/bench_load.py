"""Measure how an OpenVLA checkpoint is loaded: peak memory over its size, and rate against the disk's, the page cache dropped.

A stand-in of 1.6 GB has the shapes of openvla-7b and fewer layers; it is written to a temporary folder and removed afterwards. Each load
runs in a process of its own, in turns with a plain sequential read of the same files, dropped from the page cache before either.
"""

import os

os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench import Entry

    from ideomotor.model.config import OpenVLAConfig

TOWER_BLOCKS, LAYERS = 4, 2  # instead of 24 and 27, and of 32
SHARD = 600_000_000  # [bytes]
ROUNDS = 6  # even: each side goes first equally often
ALLOWED = 300_000_000  # [bytes] of memory over the size, interpreter and PyTorch included
BLOCK = 1 << 24  # [bytes] of a plain read


def load_openvla() -> "Entry":
    """Return the row `load.openvla`: load rate, the disk's as limit, met if memory stays within its bound too."""
    from bench import Entry

    found = measure()
    over, ratio = found["over"], found["ratio"]
    return Entry(
        "load.openvla",
        round(found["load"]),
        None,
        round(found["disk"]),
        "MB/s",
        ratio,
        ">= 0.5, size + 300 MB",
        ratio >= 0.5 and over * 1e6 <= ALLOWED,
        f"cold, {found['size']:.0f} MB in bf16, peak memory {over:.0f} MB over the size (interpreter and PyTorch included), warm "
        f"{found['warm']:.0f} MB/s, to float32 {found['float32']:.0f} MB/s; limit: sequential read of the same files; medians of {ROUNDS} "
        "in turns",
    )


def measure() -> dict[str, float]:
    """Return rates [MB/s], size and peak memory over it [MB]; each rate is the median of rounds in turns."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as name:
        folder = Path(name)
        _write(folder)
        files = sorted(folder.glob("*.safetensors"))
        size = sum(path.stat().st_size for path in files)
        seconds: dict[str, list[float]] = {"disk": [], "load": [], "warm": [], "float32": []}
        peaks: list[float] = []
        for i in range(
            ROUNDS
        ):  # what goes first meets a disk whose own cache is colder: both sides take their turn at it
            for side in ("disk", "load") if i % 2 else ("load", "disk"):
                _drop(files)
                done = _child(folder, None) if side == "load" else {"seconds": _read(files)}
                seconds[side].append(done["seconds"])
                peaks += [done["peak"]] if side == "load" else []
            seconds["warm"].append(_child(folder, None)["seconds"])
            _drop(files)
            seconds["float32"].append(_child(folder, "float32")["seconds"])
    rates = {kind: size / statistics.median(times) / 1e6 for kind, times in seconds.items()}
    ratio = round(rates["load"] / rates["disk"], 2)
    return {**rates, "size": size / 1e6, "over": (max(peaks) - size) / 1e6, "ratio": ratio}


def _config() -> "OpenVLAConfig":
    from ideomotor.model.presets import openvla_7b

    config = openvla_7b()
    towers = tuple(
        replace(tower, vision=replace(tower.vision, depth=TOWER_BLOCKS, output_block=TOWER_BLOCKS - 2))
        for tower in config.towers
    )
    return replace(config, towers=towers, language=replace(config.language, depth=LAYERS))


def _write(folder: Path) -> None:
    import torch
    from torch import Tensor

    from ideomotor.model.openvla_weights import expected_entries, write_openvla
    from ideomotor.model.tensors import Entry

    noise = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)).bfloat16()

    class Noise:
        """Tensors made of one piece of noise, repeated."""

        def __init__(self, entries: Iterable[tuple[str, Entry]]) -> None:
            self.entries = {name: replace(entry, dtype=torch.bfloat16) for name, entry in entries}

        def read(self, name: str, into: Tensor) -> None:  # noqa: ARG002 (all names are alike)
            for part in into.view(-1).split(len(noise)):
                part.copy_(noise[: len(part)])

    config = _config()
    write_openvla(config, Noise(expected_entries(config).items()), folder, "hf", largest=SHARD)


def _drop(files: list[Path]) -> None:
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _read(files: list[Path]) -> float:
    buffer = bytearray(BLOCK)
    start = time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def _child(folder: Path, dtype: str | None) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", str(folder), *([dtype] if dtype else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _load(folder: Path, dtype: str | None) -> None:
    """Load, and print seconds and the peak of this process [bytes]; imports are not timed, and count as memory."""
    import torch

    from ideomotor.model.openvla_weights import load_openvla as load

    torch.set_num_threads(1)
    start = time.perf_counter()
    network = load(folder, dtype=getattr(torch, dtype) if dtype else None)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "peak": peak, "tensors": len(network.state_dict())}))


if __name__ == "__main__":
    if "--child" in sys.argv:
        _load(Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
    else:
        for key, value in measure().items():
            print(f"{key:8} {value:.2f}")
