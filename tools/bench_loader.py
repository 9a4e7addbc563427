"""Measure random access against lerobot: one thread, CPU time, outputs compared first, in turns.

    IDEOMOTOR_LEROBOT=PYTHON .venv/bin/python tools/bench_loader.py

PYTHON is an interpreter with lerobot 0.4.4; by default that of `make bench-peers`. lerobot's dataset and ours run in one process of
lerobot's environment, with the modules that it lacks from ours: so both have the same decoder. Where torchcodec finds no FFmpeg of the
system, it is given that of PyAV.
"""

import os

os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bench import Entry

ROUNDS = 8  # even: each side goes first equally often
PICTURES = 48
SIDE = 256  # [px] of pictures and cameras
SQUARE = 224  # [px]
EPISODES, LENGTH, HORIZON = 6, 60, 16
SAMPLES = 40  # random places a round
KINDS = ("image", "video")
HERE = Path(__file__).resolve().parent
PEER = Path(os.environ.get("IDEOMOTOR_LEROBOT", HERE.parent / "build" / "peers" / "lerobot" / "bin" / "python"))


def main() -> None:
    """Print the rows."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for entry in loader_random():
        print(json.dumps(vars(entry), indent=1))


def picture(number: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Return a picture whose detail falls off with its scale as that of photographs does, with patches of even colour."""
    rng = np.random.default_rng(number)
    y, x = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
    fall = 1 / np.maximum(np.hypot(y, x), 1 / max(height, width))
    noise = np.fft.irfft2(fall * np.exp(2j * np.pi * rng.random((3, *fall.shape))), s=(height, width))
    image = np.clip(128 + 50 * noise / noise.std(axis=(1, 2), keepdims=True), 0, 255).astype(np.uint8)
    for _ in range(6):
        top, left = rng.integers(0, height - 40), rng.integers(0, width - 40)
        image[:, top : top + 30, left : left + 40] = rng.integers(0, 256, (3, 1, 1))
    return np.ascontiguousarray(image.transpose(1, 2, 0))


# --------------------------------------------------------------------------- loader.random


def loader_random(lerobot: Path = PEER) -> "list[Entry]":
    """Return the rows: samples per CPU-second at random places of a LeRobotDataset v3.0 with two cameras."""
    from bench import Entry

    if not lerobot.is_file():
        note = f"lerobot is absent ({lerobot}); `make bench-peers` installs it, IDEOMOTOR_LEROBOT names another python"
        return [
            Entry(f"loader.random.{kind}", None, None, None, "samples/CPU-s", None, ">= 1x", None, note)
            for kind in KINDS
        ]
    with tempfile.TemporaryDirectory() as name:
        environment = dict(os.environ, LD_LIBRARY_PATH=ffmpeg_folder(lerobot, Path(name)), HF_HUB_OFFLINE="1")
        command = [str(lerobot), __file__, "--inside", name]
        run = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(f"the side of lerobot ended with {run.returncode}:\n{run.stderr[-2000:]}")
    rows: list[Entry] = []
    for line in run.stdout.splitlines():
        if not line.startswith("{"):
            continue
        found = json.loads(line)
        ratio, single = (round(found[f"ours{which}"] / found[f"theirs{which}"], 2) for which in ("", "_single"))
        rows.append(
            Entry(
                f"loader.random.{found['kind']}", round(found["ours"]), round(found["theirs"]), None, "samples/CPU-s", ratio, ">= 1x",
                found["same"] and min(ratio, single) >= 1.0,
                f"v3.0 written by lerobot 0.4.4, two cameras of {SIDE} px ({found['stored']}), {HORIZON} actions, {found['decoder']},"
                f" one thread, medians of {ROUNDS} in turns of {SAMPLES} random samples; numbers equal, pixels at most"
                f" {found['apart']} level apart; with one action a sample {found['ours_single']:.0f} to {found['theirs_single']:.0f} = {single}x",
            )
        )  # fmt: skip
    return rows


def ffmpeg_folder(python: Path, folder: Path) -> str:
    """Return a library path on which torchcodec finds the FFmpeg that PyAV brings along, under its usual names."""
    (libraries,) = python.parent.parent.glob("lib/python3*/site-packages/av.libs")
    names = folder / "ffmpeg"
    names.mkdir()
    for path in libraries.glob("lib[as][vw]*"):
        found = re.fullmatch(r"(lib\w+)-[0-9a-f]+\.so\.(\d+)\..*", path.name)
        if found:
            (names / f"{found[1]}.so.{found[2]}").symlink_to(path)
    return f"{names}:{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}"


def inside_lerobot(folder: Path) -> None:
    """Write a dataset of each kind, compare both readers, measure them in turns, print a line each."""
    root = Path(__file__).resolve().parents[1]
    sys.path.insert(0, str(root / "src"))
    sys.path.extend(str(path) for path in (root / ".venv" / "lib").glob("python3*/site-packages"))
    import torch

    torch.set_num_threads(1)
    for kind in KINDS:
        measured = random_access(folder / kind, kind)
        print(json.dumps({"kind": kind, **measured}), flush=True)


def random_access(folder: Path, kind: str) -> dict[str, Any]:
    """Compare and measure both readers on a dataset of one kind."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset as Theirs

    from ideomotor.data.encoded import open_encoded
    from ideomotor.data.windows import WindowSource

    write(folder, kind)
    backend = "torchcodec" if has_torchcodec() else "pyav"
    steps = {"action": [k / 10 for k in range(HORIZON)]}
    theirs = Theirs("local/bench", root=folder, delta_timestamps=steps, video_backend=backend)
    dataset = our_reader(folder, kind, backend)
    copy = open_encoded(dataset, tuple(dataset.cameras), folder.parent / "copies")
    ours = WindowSource(dataset, HORIZON, cache=copy)
    apart, same = 0, len(ours) == len(theirs)
    for i in np.random.default_rng(0).permutation(len(ours))[:60].tolist():
        window, item = ours[i], theirs[i]
        same &= bool((window.state == item["observation.state"].numpy()).all())
        same &= bool((window.actions == item["action"].numpy()).all())
        same &= bool((window.actions_pad == item["action_is_pad"].numpy()).all())
        for role, image in window.images.items():
            other = item[f"observation.images.{role}"].permute(1, 2, 0).mul(255).round().byte().numpy()
            apart = max(apart, int(np.abs(image.astype(int) - other).max()))
    order = np.random.default_rng(1).permutation(len(ours)).tolist() * 50
    places = {"ours": iter(order), "theirs": iter(order)}

    def read(side: str, source: Any) -> float:
        numbers = [next(places[side]) for _ in range(SAMPLES)]
        return cpu_seconds(lambda: [source[i] for i in numbers]) / SAMPLES

    chunks = in_turns(lambda: read("ours", ours), lambda: read("theirs", theirs))
    alone, other = WindowSource(dataset, 1, cache=copy), Theirs("local/bench", root=folder, video_backend=backend)
    single = in_turns(lambda: read("ours", alone), lambda: read("theirs", other))
    info = theirs.meta.info["features"]["observation.images.front"].get("info", {})
    return {
        "ours": 1 / chunks[0],
        "theirs": 1 / chunks[1],
        "ours_single": 1 / single[0],
        "theirs_single": 1 / single[1],
        "same": same and apart <= 1,
        "apart": apart,
        "decoder": f"{backend} on both sides"
        if kind == "video"
        else "Pillow, each from its own copy of the table's images",
        "stored": str(info.get("video.codec", "video")) if kind == "video" else "PNG",
    }


def has_torchcodec() -> bool:
    """Tell whether torchcodec runs here."""
    try:
        import av  # noqa: F401 (loads FFmpeg's own libraries)
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def our_reader(folder: Path, kind: str, backend: str) -> Any:
    """Open the dataset with our reader, with the same decoder."""
    from ideomotor.data.lerobot.v3 import LeRobotDataset

    if kind != "video" or backend != "torchcodec":
        return LeRobotDataset(folder)
    from torchcodec.decoders import VideoDecoder

    class Torchcodec:
        def __init__(self, path: Path, fps: float) -> None:  # noqa: ARG002  a decoder is told
            self._decoder = VideoDecoder(str(path), dimension_order="NHWC", seek_mode="approximate")

        def frame(self, number: int) -> np.ndarray:
            return self._decoder[number].numpy()

        def close(self) -> None:
            del self._decoder

    return LeRobotDataset(folder, Torchcodec)


def write(folder: Path, kind: str) -> None:
    """Let lerobot write a dataset in which two cameras pan over pictures."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    images = {
        f"observation.images.{role}": {
            "dtype": kind,
            "shape": (SIDE, SIDE, 3),
            "names": ["height", "width", "channels"],
        }
        for role in ("front", "wrist")
    }
    numbers = {n: {"dtype": "float32", "shape": (7,), "names": None} for n in ("observation.state", "action")}
    dataset = LeRobotDataset.create("local/bench", 10, images | numbers, root=folder, use_videos=kind == "video")
    for episode in range(EPISODES):
        wide = [picture(2 * episode + c, SIDE, SIDE + 2 * LENGTH) for c in range(2)]
        for frame in range(LENGTH):
            views = [np.ascontiguousarray(w[:, 2 * frame : 2 * frame + SIDE]) for w in wide]
            values = {n: np.full(7, episode + frame / 128, np.float32) for n in numbers}
            dataset.add_frame({**dict(zip(images, views, strict=True)), **values, "task": "pan"})
        dataset.save_episode()
    dataset.finalize()


# --------------------------------------------------------------------------- measuring


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of this process for some work [s]."""
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turns(ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[float, float]:
    """Return the medians of both, measured in turns after one round that is not counted."""
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(ROUNDS + 1):
        sides = ((0, ours), (1, theirs)) if turn % 2 else ((1, theirs), (0, ours))
        for number, side in sides:
            seconds = side()
            if turn:
                found[number].append(seconds)
    return statistics.median(found[0]), statistics.median(found[1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside_lerobot(Path(sys.argv[2]))
    else:
        main()
