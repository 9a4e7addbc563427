"""The half of `tfds_peer.py` that runs in TFDS' environment: writes small datasets, and reads any into one file of arrays.

    python tfds_datasets.py write FOLDER        five datasets and a GZIP shard, each with its `expected.npz`
    python tfds_datasets.py read DATASET OUT.npz

Everything is a function of fixed numbers, so a second run writes the same bytes.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.utils import gcs_utils

F = tfds.features
gcs_utils._is_gcs_disabled = True  # the only switch there is
tfds.disable_progress_bar()
HEIGHT, WIDTH = 6, 8


# --------------------------------------------------------------------------- writing


def flags(length: int) -> list[dict[str, Any]]:
    """What RLDS asks of every step."""
    return [{"is_first": t == 0, "is_last": t == length - 1, "is_terminal": t == length - 1} for t in range(length)]


FLAGS = {"is_first": np.bool_, "is_last": np.bool_, "is_terminal": np.bool_}


def ragged(rng: np.random.Generator, length: int) -> dict[str, Any]:
    """Sequences inside of a step, one and two deep, of numbers, text, dictionaries and pictures."""
    steps = flags(length)
    for t, step in enumerate(steps):
        n = int(rng.integers(0, 4))
        step |= {
            "action": rng.normal(size=3).astype(np.float32),
            "points": rng.normal(size=(n, 2)).astype(np.float32),
            "ids": [rng.integers(-(2**40), 2**40, int(rng.integers(0, 3))).tolist() for _ in range(n)],
            "words": [f"word {t} {i} é" for i in range(n)],
            "objects": [{"box": rng.random(4).astype(np.float32), "label": int(rng.integers(0, 3))} for _ in range(n)],
            "clip": rng.integers(0, 256, (n, 3, 4, 3)).astype(np.uint8),
        }
    return {"steps": steps, "episode_metadata": {"rows": [[1, 2], [], [int(length)]], "tags": ["a", "b"]}}


RAGGED = {
    "steps": F.Dataset(
        {
            **FLAGS,
            "action": F.Tensor(shape=(3,), dtype=np.float32),
            "points": F.Sequence(F.Tensor(shape=(2,), dtype=np.float32)),
            "ids": F.Sequence(F.Sequence(np.int64)),
            "words": F.Sequence(F.Text()),
            "objects": F.Sequence(
                {"box": F.Tensor(shape=(4,), dtype=np.float32), "label": F.ClassLabel(num_classes=3)}
            ),
            "clip": F.Video(shape=(None, 3, 4, 3)),
        }
    ),
    "episode_metadata": {"rows": F.Sequence(F.Sequence(np.int64)), "tags": F.Sequence(F.Text())},
}


def pictures(rng: np.random.Generator, length: int) -> dict[str, Any]:
    """Cameras as PNG and JPEG, depth as 16-bit PNG and as floats, grey and coloured."""
    steps = flags(length)
    y, x = np.mgrid[:16, :24]
    for t, step in enumerate(steps):
        smooth = np.stack([x * 9, y * 14, 20 * t + x + y], -1).astype(np.uint8)
        step["observation"] = {
            "png": rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8),
            "jpeg": smooth,
            "grey": rng.integers(0, 256, (HEIGHT, WIDTH, 1)).astype(np.uint8),
            "depth": rng.integers(0, 2**16, (HEIGHT, WIDTH, 1)).astype(np.uint16),
            "deep_colour": rng.integers(0, 2**16, (HEIGHT, WIDTH, 3)).astype(np.uint16),
            "metres": rng.normal(size=(HEIGHT, WIDTH, 1)).astype(np.float32),
            "any_size": rng.integers(0, 256, (5, 7, 3)).astype(np.uint8),
            "state": rng.normal(size=2),
        }
        step["action"] = rng.normal(size=2).astype(np.float32)
        step["language_instruction"] = "look"
    return {"steps": steps}


PICTURES = {
    "steps": F.Dataset(
        {
            **FLAGS,
            "observation": {
                "png": F.Image(shape=(HEIGHT, WIDTH, 3)),
                "jpeg": F.Image(shape=(16, 24, 3), encoding_format="jpeg"),
                "grey": F.Image(shape=(HEIGHT, WIDTH, 1), encoding_format="png"),
                "depth": F.Image(shape=(HEIGHT, WIDTH, 1), dtype=np.uint16, encoding_format="png"),
                "deep_colour": F.Image(shape=(HEIGHT, WIDTH, 3), dtype=np.uint16, encoding_format="png"),
                "metres": F.Image(shape=(HEIGHT, WIDTH, 1), dtype=np.float32),
                "any_size": F.Image(),
                "state": F.Tensor(shape=(2,), dtype=np.float64),
            },
            "action": F.Tensor(shape=(2,), dtype=np.float32),
            "language_instruction": F.Text(),
        }
    )
}


def nested(rng: np.random.Generator, length: int) -> dict[str, Any]:
    """Dictionaries in dictionaries, an action of parts, names with slashes, two cameras of one name, several shards and splits."""
    steps = flags(length)
    for step in steps:
        step |= {
            "observation": {
                "left": {"rgb": rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)},
                "right": {"rgb": rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)},
                "arm": {"joints": {"position": rng.normal(size=3).astype(np.float32), "count": int(rng.integers(99))}},
                "present/xyz": rng.normal(size=3).astype(np.float32),
                "natural_language_instruction": "put it down",
            },
            "action": {
                "world_vector": rng.normal(size=3).astype(np.float32),
                "rotation_delta": rng.normal(size=3).astype(np.float32),
                "gripper_closedness_action": rng.normal(size=1).astype(np.float32),
                "terminate_episode": rng.integers(0, 2, 3).astype(np.int32),
            },
        }
    about = {"path": f"/data/{length}", "success": bool(length % 2), "pose": {"xyz": rng.normal(size=3)}}
    return {"steps": steps, "episode_metadata": about, "counter": length}


NESTED = {
    "steps": F.Dataset(
        {
            **FLAGS,
            "observation": {
                "left": {"rgb": F.Image(shape=(4, 4, 3))},
                "right": {"rgb": F.Image(shape=(4, 4, 3))},
                "arm": {"joints": {"position": F.Tensor(shape=(3,), dtype=np.float32), "count": np.int64}},
                "present/xyz": F.Tensor(shape=(3,), dtype=np.float32),
                "natural_language_instruction": F.Text(),
            },
            "action": {
                "world_vector": F.Tensor(shape=(3,), dtype=np.float32),
                "rotation_delta": F.Tensor(shape=(3,), dtype=np.float32),
                "gripper_closedness_action": F.Tensor(shape=(1,), dtype=np.float32),
                "terminate_episode": F.Tensor(shape=(3,), dtype=np.int32),
            },
        }
    ),
    "episode_metadata": {
        "path": F.Text(),
        "success": np.bool_,
        "pose": {"xyz": F.Tensor(shape=(3,), dtype=np.float64)},
    },
    "counter": np.int32,
}


def encoded(rng: np.random.Generator, length: int) -> dict[str, Any]:
    """Tensors as bytes and as zlib, of many types, of sizes that vary, alone and in sequences."""
    steps = flags(length)
    for t, step in enumerate(steps):
        step |= {
            "action": rng.normal(size=4).astype(np.float32),
            "f64": rng.normal(size=(2, 3)),
            "f16": rng.normal(size=5).astype(np.float16),
            "u16": rng.integers(0, 2**16, (3, 2)).astype(np.uint16),
            "u64": rng.integers(0, 2**63, 2).astype(np.uint64) * 2 + 1,
            "boolean": rng.integers(0, 2, 7).astype(bool),
            "one_size": rng.normal(size=(t % 3, 2)).astype(np.float32),
            "two_sizes": rng.integers(0, 99, (t % 2, 1 + t, 2)).astype(np.int32),
            "row": [rng.normal(size=2) for _ in range(t % 3)],
            "scalar": np.float64(t / 3),
        }
    return {"steps": steps, "map": rng.normal(size=(3, 4, 5))}


ENCODED = {
    "steps": F.Dataset(
        {
            **FLAGS,
            "action": F.Tensor(shape=(4,), dtype=np.float32, encoding="zlib"),
            "f64": F.Tensor(shape=(2, 3), dtype=np.float64, encoding="bytes"),
            "f16": F.Tensor(shape=(5,), dtype=np.float16, encoding="zlib"),
            "u16": F.Tensor(shape=(3, 2), dtype=np.uint16, encoding="bytes"),
            "u64": F.Tensor(shape=(2,), dtype=np.uint64, encoding="bytes"),
            "boolean": F.Tensor(shape=(7,), dtype=np.bool_, encoding="bytes"),
            "one_size": F.Tensor(shape=(None, 2), dtype=np.float32, encoding="zlib"),
            "two_sizes": F.Tensor(shape=(None, None, 2), dtype=np.int32, encoding="bytes"),
            "row": F.Sequence(F.Tensor(shape=(2,), dtype=np.float64, encoding="zlib")),
            "scalar": F.Tensor(shape=(), dtype=np.float64, encoding="bytes"),
        }
    ),
    "map": F.Tensor(shape=(3, 4, 5), dtype=np.float64, encoding="zlib"),
}
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def types(rng: np.random.Generator, length: int) -> dict[str, Any]:
    """Every type that a record can hold at the ends of its range, text, labels, an episode without steps."""
    steps = flags(length)
    for step in steps:
        for name in INTEGERS:
            about = np.iinfo(name)
            step[name] = np.array([about.min, about.max, rng.integers(0, 100)], name)
        step |= {
            "bool": rng.integers(0, 2, 2).astype(bool),
            "float16": rng.normal(size=2).astype(np.float16),
            "float32": np.array([np.inf, -0.0, rng.normal()], np.float32),
            "float64": np.array([1 / 3, 1e-30, rng.normal()]),  # no denormals: TensorFlow reads them as 0
            "scalar": np.float32(rng.normal()),
            "matrix": rng.normal(size=(2, 3)).astype(np.float32),
            "label": ["open", "closed"][int(rng.integers(2))],
            "text": "Grüße, 世界 🤖",
            "strings": np.array([["a", ""], ["c", "d\n"]], object),
            "box": F.BBox(0.0, 0.25, 0.5, 1.0),
        }
    return {"steps": steps, "episode_metadata": {"episode_id": length, "note": ""}}


TYPES = {
    "steps": F.Dataset(
        {
            **FLAGS,
            **{name: F.Tensor(shape=(3,), dtype=np.dtype(name)) for name in INTEGERS},
            "bool": F.Tensor(shape=(2,), dtype=np.bool_),
            "float16": F.Tensor(shape=(2,), dtype=np.float16),
            "float32": F.Tensor(shape=(3,), dtype=np.float32),
            "float64": F.Tensor(shape=(3,), dtype=np.float64),
            "scalar": F.Scalar(np.float32),
            "matrix": F.Tensor(shape=(2, 3), dtype=np.float32),
            "label": F.ClassLabel(names=["open", "closed"]),
            "text": F.Text(),
            "strings": F.Tensor(shape=(2, 2), dtype=np.str_),
            "box": F.BBoxFeature(),
        }
    ),
    "episode_metadata": {"episode_id": np.int64, "note": F.Text()},
}
DATASETS = {  # name: features, an episode, lengths by split, shards of each
    "ragged": (RAGGED, ragged, {"train": (4, 1, 3)}, 1),
    "pictures": (PICTURES, pictures, {"train": (3, 2)}, 1),
    "nested": (NESTED, nested, {"train": (3, 1, 2, 4, 2), "val": (2, 3)}, 2),
    "encoded": (ENCODED, encoded, {"train": (4, 2)}, 1),
    "types": (TYPES, types, {"train": (2, 0, 3)}, 1),
}


def write(out: Path) -> None:
    """Write all datasets."""
    ExampleSerializer.serialize_example = in_order  # else the features of a record lie in another order each time
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        for dataset in DATASETS:
            folder = write_one(Path(name), dataset)
            shutil.copytree(folder, out / dataset / "1.0.0")
            read(out / dataset / "1.0.0", out / dataset / "1.0.0" / "expected.npz")
    compress(out / "ragged" / "1.0.0", out / "compressed" / "1.0.0")
    legacy = tfds.builder_from_directory(out / "nested" / "1.0.0").info.features.to_json()
    (out / "nested" / "legacy_features.json").write_text(json.dumps(legacy, indent=1, sort_keys=True) + "\n")


def in_order(serializer: ExampleSerializer, example: Any) -> bytes:
    """Serialize a record with its features in the order of their names."""
    return serializer.get_tf_example(example).SerializeToString(deterministic=True)


def write_one(root: Path, dataset: str) -> Path:
    """Let TFDS write one dataset; return its folder."""
    declared, episode, splits, shards = DATASETS[dataset]

    class Builder(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = dataset

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict(declared))

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:  # noqa: ARG002  TFDS calls it so
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split: str) -> Any:
            for number, length in enumerate(splits[split]):
                seed = [list(DATASETS).index(dataset), list(splits).index(split), number]
                yield f"{split} {number}", episode(np.random.default_rng(seed), length)

    builder = Builder(data_dir=root)
    config = tfds.download.DownloadConfig(num_shards=shards, try_download_gcs=False)
    builder.download_and_prepare(download_config=config)
    return Path(builder.data_dir)


def compress(source: Path, out: Path) -> None:
    """Write the shards of a dataset again, compressed as a whole, and what TensorFlow reads from them."""
    out.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if "tfrecord" in path.name:
            with tf.io.TFRecordWriter(str(out / path.name), "GZIP") as writer:
                for record in tf.data.TFRecordDataset(str(path)):
                    writer.write(record.numpy())
        elif path.suffix != ".npz":
            shutil.copy(path, out)
    read(out, out / "expected.npz")


# --------------------------------------------------------------------------- reading


def read(folder: Path, out: Path) -> None:
    """Write every array that TFDS reads from a dataset."""
    builder = tfds.builder_from_directory(folder)
    arrays: dict[str, np.ndarray] = {}
    for split, about in builder.info.splits.items():
        if Path(about.filepaths[0]).read_bytes()[:2] == b"\x1f\x8b":
            records = tf.data.TFRecordDataset([str(path) for path in about.filepaths], compression_type="GZIP")
            episodes = records.map(builder.info.features.deserialize_example)
        else:
            config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
            episodes = builder.as_dataset(split=split, shuffle_files=False, read_config=config)
        lengths = []
        for number, episode in enumerate(episodes):
            steps = list(episode["steps"])
            lengths.append(len(steps))
            for path, values in zipped([dict(flat(step)) for step in steps]).items():
                put(arrays, f"{split}|{number}|steps.{path}", values)
            for path, value in flat({name: value for name, value in episode.items() if name != "steps"}):
                put_one(arrays, f"{split}|{number}|{path.removeprefix('episode_metadata.')}", value)
        arrays[f"{split}|0|lengths"] = np.array(lengths)
    np.savez_compressed(out, **arrays)


def flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return the leaves of a nest of dictionaries."""
    if not isinstance(value, dict):
        return [(path, value)]
    return [
        leaf for name, inner in value.items() for leaf in flat(inner, f"{path}.{name}".strip(".").replace("/", "."))
    ]


def zipped(steps: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return for each leaf its values, step by step."""
    return {path: [step[path] for step in steps] for path in (steps[0] if steps else {})}


def put(arrays: dict[str, np.ndarray], key: str, values: list[Any]) -> None:
    """Store the values of a leaf: as one array where all steps have one shape, else step by step."""
    if not any(isinstance(value, tf.RaggedTensor) for value in values):
        found = [plain(value) for value in values]
        if len({array.shape for array in found}) == 1:
            arrays[key] = np.stack(found)
            return
    for t, value in enumerate(values):
        put_one(arrays, f"{key}#{t}", value)


def put_one(arrays: dict[str, np.ndarray], key: str, value: Any) -> None:
    if isinstance(value, tf.RaggedTensor):
        arrays[f"{key}#rows"] = np.array(value.nrows())
        for i, row in enumerate(value):
            put_one(arrays, f"{key}#{i}", row)
    else:
        arrays[key] = plain(value)


def plain(tensor: Any) -> np.ndarray:
    """Return a tensor as an array that can be stored without pickling."""
    array = np.asarray(tensor.numpy())
    if array.dtype.kind not in "OS":
        return array
    texts = [text.decode() for text in array.reshape(-1).tolist()]
    return np.array(texts, "U" if texts else "U1").reshape(array.shape)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    else:
        read(Path(sys.argv[2]), Path(sys.argv[3]))
