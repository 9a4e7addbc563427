"""The half of `bench_rlds.py` that runs in TFDS' environment: reads one dataset in several ways, one thread, when told to.

python tfds_bench.py write FOLDER       the dataset: 256-px JPEG of natural statistics
python tfds_bench.py serve FOLDER       answers "NAME", "NAME digest" or "NAME FILE.npy" with a line of JSON
"""

import hashlib
import io
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

EPISODES, LENGTH, SIZE, QUALITY = 20, 60, 256, 90
LANCZOS = 224
SMOOTH = 1.6  # exponent of the pictures' spectrum: 15 kB a picture, as a robot's camera gives
F = tfds.features


def write(out: Path) -> None:
    """Let TFDS write the dataset; the pictures are noise whose amplitude falls as that of smooth photographs does."""
    from tfds_datasets import FLAGS, flags

    declared = F.FeaturesDict(
        {
            "steps": F.Dataset(
                {
                    **FLAGS,
                    "observation": {
                        "image": F.Image(shape=(SIZE, SIZE, 3), encoding_format="jpeg"),
                        "state": F.Tensor(shape=(8,), dtype=np.float32),
                    },
                    "action": F.Tensor(shape=(7,), dtype=np.float32),
                    "reward": np.float32,
                    "discount": np.float32,
                    "language_instruction": F.Text(),
                }
            )
        }
    )

    class Builder(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = "bench"

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(builder=self, features=declared)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:  # noqa: ARG002  TFDS calls it so
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[Any]:
            for episode in range(EPISODES):
                rng = np.random.default_rng(episode)
                steps = flags(LENGTH)
                for step, picture in zip(steps, pictures(rng), strict=True):
                    step |= {
                        "observation": {"image": io.BytesIO(picture), "state": rng.normal(size=8).astype(np.float32)},
                        "action": rng.normal(size=7).astype(np.float32),
                        "reward": 0.0,
                        "discount": 1.0,
                        "language_instruction": f"move block {episode}",
                    }
                yield str(episode), {"steps": steps}

    builder = Builder(data_dir=out)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2, try_download_gcs=False))


def pictures(rng: np.random.Generator) -> Iterator[bytes]:
    """Yield the JPEG files of an episode: a window that moves over one large picture."""
    large = SIZE + LENGTH
    fy, fx = np.fft.fftfreq(large)[:, None], np.fft.rfftfreq(large)
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / large) ** SMOOTH
    spectrum = np.fft.rfft2(rng.normal(size=(3, large, large))) * amplitude
    scene = np.fft.irfft2(spectrum, (large, large))
    scene = 0.8 * scene.mean(0, keepdims=True) + 0.2 * scene  # colours of a photograph are alike
    scene = np.clip(128 + 45 * scene / scene.std(), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    for t in range(LENGTH):
        buffer = io.BytesIO()
        Image.fromarray(scene[t : t + SIZE, t : t + SIZE]).save(buffer, "JPEG", quality=QUALITY)
        yield buffer.getvalue()


def serve(folder: Path) -> None:
    """Answer requests until the input ends."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    reader = Reader(folder)
    ways: dict[str, Callable[[], Iterator[Any]]] = {
        "parse": reader.parse,
        "batched": reader.batched,
        "inside": reader.inside,
        "flattened": reader.flattened,
        "tuned": reader.tuned,
        "lanczos": reader.lanczos,
    }
    print(json.dumps({"ready": f"TFDS {tfds.__version__}, TensorFlow {tf.__version__}"}), flush=True)
    for line in sys.stdin:
        name, _, how = line.strip().partition(" ")
        before, cpu, wall = read_bytes(), time.process_time(), time.perf_counter()
        frames, digest, kept = 0, hashlib.sha256(), []
        for images in ways[name]():
            frames += len(images)
            if how == "digest":
                digest.update(b"".join(images.tolist()) if images.dtype == object else np.ascontiguousarray(images))
            elif how and len(kept) < 2:
                kept.append(images)
        seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        if kept:
            np.save(how, np.concatenate(kept))
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        about = {"frames": frames, **seconds, "digest": digest.hexdigest(), "bytes": read_bytes() - before, "rss": rss}
        print(json.dumps(about), flush=True)


class Reader:
    """The ways to read; each yields the pictures of one episode, or of one step, after computing all else of it too."""

    def __init__(self, folder: Path) -> None:
        self.builder = tfds.builder_from_directory(folder)
        self.shards = [str(path) for path in self.builder.info.splits["train"].filepaths]

    def episodes(self) -> Any:
        """TFDS' own dataset of episodes, decoded, as it comes."""
        return self.builder.as_dataset(split="train")

    def batched(self) -> Iterator[Any]:
        """A loop over episodes, the steps of each as one batch."""
        for episode in self.episodes():
            for batch in episode["steps"].batch(LENGTH):
                yield batch["observation"]["image"].numpy()

    def inside(self) -> Iterator[Any]:
        """The same inside of one tf.data pipeline."""
        ds = self.episodes().flat_map(lambda episode: episode["steps"].batch(LENGTH))
        for batch in ds.as_numpy_iterator():
            yield batch["observation"]["image"]

    def flattened(self) -> Iterator[Any]:
        """One step after the other."""
        for step in self.episodes().flat_map(lambda episode: episode["steps"]).as_numpy_iterator():
            yield step["observation"]["image"][None]

    def parse(self) -> Iterator[Any]:
        """No pictures are decoded: what parsing and checksums cost."""
        ds = tf.data.TFRecordDataset(self.shards).map(parsed, num_parallel_calls=1).with_options(options())
        for episode in ds.as_numpy_iterator():
            yield episode["steps/observation/image"]

    def tuned(self) -> Iterator[Any]:
        """Without TFDS: parse records, unbatch, decode; the fewest operations that TensorFlow can do it with."""
        ds = tf.data.TFRecordDataset(self.shards).map(parsed, num_parallel_calls=1).unbatch()
        ds = ds.map(decoded, num_parallel_calls=1).batch(LENGTH).with_options(options())
        for batch in ds.as_numpy_iterator():
            yield batch["steps/observation/image"]

    def lanczos(self) -> Iterator[Any]:
        """The same with TensorFlow's antialiased Lanczos-3 to 224 px."""
        ds = tf.data.TFRecordDataset(self.shards).map(parsed, num_parallel_calls=1).unbatch()
        ds = ds.map(lambda step: resized(decoded(step)), num_parallel_calls=1).batch(LENGTH).with_options(options())
        for batch in ds.as_numpy_iterator():
            yield batch["steps/observation/image"]


def parsed(record: Any) -> Any:
    """All features of an episode."""
    flag = tf.io.FixedLenSequenceFeature((), tf.int64, allow_missing=True)
    number = tf.io.FixedLenSequenceFeature((), tf.float32, allow_missing=True)
    text = tf.io.FixedLenSequenceFeature((), tf.string, allow_missing=True)
    features = {f"steps/{name}": flag for name in ("is_first", "is_last", "is_terminal")}
    features |= {f"steps/{name}": number for name in ("reward", "discount")}
    features |= {f"steps/{name}": text for name in ("observation/image", "language_instruction")}
    for name, width in (("action", 7), ("observation/state", 8)):
        features[f"steps/{name}"] = tf.io.FixedLenSequenceFeature((width,), tf.float32, allow_missing=True)
    return tf.io.parse_single_example(record, features)


def decoded(step: Any) -> Any:
    """The same step with pixels."""
    return {**step, "steps/observation/image": tf.io.decode_jpeg(step["steps/observation/image"], channels=3)}


def resized(step: Any) -> Any:
    """The same step with smaller pixels, rounded and clipped as OpenVLA does."""
    image = tf.image.resize(step["steps/observation/image"], (LANCZOS, LANCZOS), "lanczos3", antialias=True)
    return {**step, "steps/observation/image": tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)}


def options() -> Any:
    """One thread, no tuning behind the back."""
    found = tf.data.Options()
    found.threading.private_threadpool_size = 1
    found.threading.max_intra_op_parallelism = 1
    found.autotune.enabled = False
    found.deterministic = True
    return found


def read_bytes() -> int:
    """Bytes that this process has read by system calls so far."""
    lines = Path(f"/proc/{os.getpid()}/io").read_text().splitlines()
    return int(lines[0].split()[1])


if __name__ == "__main__":
    (write if sys.argv[1] == "write" else serve)(Path(sys.argv[2]))
