"""Measure resizing against TensorFlow, and random access against lerobot: one thread, CPU time, outputs compared first, in turns.

    .venv/bin/python tools/bench_loader.py --tfds PYTHON --lerobot PYTHON

PYTHON are interpreters with TensorFlow and with lerobot 0.4.4. TensorFlow runs in a process of its own, both sides take turns. lerobot's
dataset and ours run in one process of lerobot's environment, with the modules that it lacks from ours: so both have the same decoder.
Where torchcodec finds no FFmpeg of the system, it is given that of PyAV.
"""

import os

os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})
os.environ.update({"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"})

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
from typing import TYPE_CHECKING, Any, Self

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


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tfds", type=Path)
    parser.add_argument("--lerobot", type=Path)
    options = parser.parse_args()
    found = [rlds_lanczos(options.tfds)] if options.tfds else []
    found += loader_random(options.lerobot) if options.lerobot else []
    for entry in found:
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


# --------------------------------------------------------------------------- rlds.lanczos


def rlds_lanczos(tensorflow: Path) -> "Entry":
    """Return the row: frames per CPU-second decoded from JPEG and resized by Lanczos-3 to 224 px."""
    import simplejpeg
    from bench import Entry

    from ideomotor.data.images import decode
    from ideomotor.data.resize import lanczos3

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [simplejpeg.encode_jpeg(picture(k), quality=90, colorsubsampling="420") for k in range(PICTURES)]
        for k, content in enumerate(files):
            (folder / f"{k:03}.jpg").write_bytes(content)
        with Peer([str(tensorflow), __file__, "--inside", "tensorflow", name]) as peer:
            theirs = np.load(folder / "resized.npy")
            apart = np.abs(np.stack([lanczos3(decode(f), SQUARE) for f in files]).astype(int) - theirs)
            ours, other = in_turns(
                lambda: cpu_seconds(lambda: [lanczos3(decode(f), SQUARE) for f in files]), lambda: peer.ask()["call"]
            )
            tuned = PICTURES / min(peer.ask()["dataset"] for _ in range(3))
    same = bool(apart.max() <= 1 and (apart > 0).mean() < 1e-3)
    rates = PICTURES / ours, PICTURES / other
    ratio = round(rates[0] / max(rates[1], tuned), 2)
    return Entry(
        "rlds.lanczos", round(rates[0]), round(max(rates[1], tuned)), None, "frames/CPU-s", ratio, ">= 1.7x", same and ratio >= 1.7,
        f"{SIDE}-px JPEG (q90, 4:2:0) decoded and resized to {SQUARE} px by Lanczos-3 with antialiasing, one thread, medians of {ROUNDS} in"
        f" turns; outputs at most {apart.max()} level apart, in {100 * (apart > 0).mean():.3f} % of the values (both with the accurate DCT;"
        f" timed is TensorFlow's default, which is faster); TensorFlow by tf.function {rates[1]:.0f}, by tf.data {tuned:.0f}",
    )  # fmt: skip


def inside_tensorflow(folder: Path) -> None:
    """Resize all pictures once and save them; then measure at each line from the other side."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    files = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]

    def resized(method: str) -> Any:
        @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
        def call(content: Any) -> Any:
            image = tf.io.decode_jpeg(content, channels=3, dct_method=method)
            image = tf.image.resize(image, (SQUARE, SQUARE), method="lanczos3", antialias=True)
            return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)

        return call

    fast, exact = resized(""), resized("INTEGER_ACCURATE")
    np.save(folder / "resized.npy", np.stack([exact(tf.constant(f)).numpy() for f in files]))
    tensors = [tf.constant(f) for f in files]
    dataset = tf.data.Dataset.from_tensor_slices(files).map(fast, num_parallel_calls=1).batch(16)
    for _ in answers():
        calls = cpu_seconds(lambda: [fast(f).numpy() for f in tensors])
        answer({"call": calls, "dataset": cpu_seconds(lambda: [batch.numpy() for batch in dataset])})


# --------------------------------------------------------------------------- loader.random


def loader_random(lerobot: Path) -> "list[Entry]":
    """Return the rows: samples per CPU-second at random places of a LeRobotDataset v3.0 with two cameras."""
    from bench import Entry

    with tempfile.TemporaryDirectory() as name:
        environment = dict(os.environ, LD_LIBRARY_PATH=ffmpeg_folder(lerobot, Path(name)), HF_HUB_OFFLINE="1")
        command = [str(lerobot), __file__, "--inside", "lerobot", name]
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
    from ideomotor.data.lerobot import LeRobotDataset

    if kind != "video" or backend != "torchcodec":
        return LeRobotDataset(folder)
    from torchcodec.decoders import VideoDecoder

    class WithTorchcodec(LeRobotDataset):
        def image(self, episode: int, frame: int, camera: str) -> np.ndarray:
            path, numbers = self.video_frames(episode, camera) or (Path(), np.zeros(0))
            if path not in decoders:
                decoders[path] = VideoDecoder(str(path), dimension_order="NHWC", seek_mode="approximate")
            return decoders[path][int(numbers[frame])].numpy()

    decoders: dict[Path, Any] = {}
    return WithTorchcodec(folder)


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


class Peer:
    """A process that measures when it is asked."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def ask(self) -> dict[str, float]:
        """Let it measure once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"the peer ended with {self._process.wait()}")


def answers() -> Any:
    """Yield once for each line from the other side."""
    return sys.stdin


def answer(found: dict[str, float]) -> None:
    """Send what was measured."""
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        {"tensorflow": inside_tensorflow, "lerobot": inside_lerobot}[sys.argv[2]](Path(sys.argv[3]))
    else:
        main()
