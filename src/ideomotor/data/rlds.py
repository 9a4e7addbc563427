"""RLDS datasets (TFDS with TFRecord shards), read without TensorFlow: one record is one episode.

Surprises: integers in both JSON files are strings; float64 features are stored as float32; booleans as int64; records were
shuffled when they were written, so their order is not the order of collection; nothing says what the numbers mean, so
`embodiment` and `fps` are None. Ragged sequences inside of a step and whole-file compression are not read.
"""

import bisect
import functools
import hashlib
import itertools
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from ideomotor.core.errors import UserError, unknown
from ideomotor.core.spec import Camera, Embodiment
from ideomotor.core.types import Success
from ideomotor.data import example, frame_index, images
from ideomotor.data.cache import user_cache
from ideomotor.data.dataset import EpisodeView, Feature
from ideomotor.data.tfrecord import Shard

INSTRUCTIONS = ("steps/language_instruction", "steps/observation/natural_language_instruction")


@dataclass(frozen=True)
class Leaf:
    """One feature of a step, as features.json declares it."""

    key: str  # in the record, e.g. "steps/observation/state"
    kind: Literal["tensor", "image", "text"]
    dtype: str
    shape: tuple[int, ...]
    encoding: str = "none"  # of a tensor: "none", "bytes" or "zlib"

    @property
    def name(self) -> str:
        """The column or camera in this package: "observation.state", "action", "image_0"."""
        path = self.key.split("/")[1:]
        return path[-1] if self.kind == "image" else ".".join(path)

    @property
    def per_step(self) -> int:
        """Values of the record that belong to one step."""
        return int(np.prod(self.shape)) if self.kind == "tensor" and self.encoding == "none" else 1


class RldsDataset:
    """An RLDS dataset in a folder, as a `Dataset`."""

    def __init__(self, path: Path) -> None:
        """Open the dataset in `path`, or in the one folder `name/version` below it; build missing frame indices.

        Raises:
            UserError: files are missing, damaged, or disagree; the message names them.
        """
        self._path = path
        folder = find(path)
        self._leaves = read_features(folder / "features.json")
        info = _read_json(folder / "dataset_info.json")
        self._name = f"{info['name']} {info['version']}"
        cache = user_cache() / "rlds" / hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        steps = [frame_index.StepFeature(leaf.key, leaf.per_step, leaf.kind == "image") for leaf in self._leaves]
        self._shards: list[Shard] = []
        self._indices: list[frame_index.FrameIndex] = []
        self._splits: dict[str, range] = {}
        for split in info["splits"]:
            first = sum(map(len, self._indices))
            for shard_path, stated in _shards_of(folder, info, split):
                self._shards.append(Shard(shard_path))
                self._indices.append(frame_index.open_index(self._shards[-1], steps, cache))
                _check_records(shard_path, len(self._indices[-1]), stated)
            self._splits[split["name"]] = range(first, sum(map(len, self._indices)))
        self._starts = list(itertools.accumulate(map(len, self._indices), initial=0))
        self._columns = {
            leaf.name: leaf for leaf in self._leaves if leaf.kind != "image" and leaf.key not in INSTRUCTIONS
        }
        self._images = {leaf.name: leaf for leaf in self._leaves if leaf.kind == "image"}
        self._parsed = functools.lru_cache(maxsize=8)(self._parse)
        self._features = {name: _feature(name, leaf) for name, leaf in self._columns.items()}
        self._cameras = {name: self._camera(name, leaf) for name, leaf in self._images.items()}
        words = (folder / "features.json").read_bytes() + "".join(i.digest for i in self._indices).encode()
        self._content_hash = hashlib.sha256(words).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._path,)  # each process maps the files itself

    @property
    def path(self) -> Path:
        return self._path

    @property
    def format(self) -> str:
        return f"RLDS ({self._name})"

    @property
    def fps(self) -> float | None:
        return None

    @property
    def embodiment(self) -> Embodiment | None:
        return None

    @property
    def splits(self) -> Mapping[str, range]:
        return self._splits

    @property
    def content_hash(self) -> str:
        return self._content_hash

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """The cameras by role, which is the last part of the feature's name."""
        return self._cameras

    @property
    def features(self) -> Mapping[str, Feature]:
        """The columns beside the images; what is declared float64 was stored as float32."""
        return self._features

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, episode: int) -> EpisodeView:
        return EpisodeView(self, episode)

    def length(self, episode: int) -> int:
        shard, record = self._place(episode)
        return self._indices[shard].num_frames(record)

    def instruction(self, episode: int) -> str:
        """The sentence of the episode's first step, "" where there is none."""
        shard, _ = self._place(episode)
        parsed, payload = self._parsed(episode)
        for key in INSTRUCTIONS:
            strings = parsed.get(key)
            if isinstance(strings, example.Strings) and len(strings):
                return strings.of(payload)[0].decode(errors="replace")
        if not any(leaf.key in INSTRUCTIONS for leaf in self._leaves):
            return ""
        raise UserError(
            f"{self._shards[shard].path}: episode {episode} has no instruction though features.json declares one"
        )

    def success(self, episode: int) -> Success:
        """RLDS does not label attempts."""
        assert 0 <= episode < len(self)
        return "unknown"

    def column(self, episode: int, name: str) -> np.ndarray:
        leaf = self._columns.get(name)
        if leaf is None:
            raise unknown("column", name, self._columns)
        parsed, payload = self._parsed(episode)
        values = parsed[leaf.key]
        if isinstance(values, example.Strings):
            return _from_strings(values.of(payload), leaf)
        assert values is not None, "the index has refused records without it"
        return values.reshape(-1, *leaf.shape).astype(self.features[name].dtype)

    def image(self, episode: int, frame: int, camera: str) -> UInt8[np.ndarray, "height width 3"]:
        leaf = self._images.get(camera)
        if leaf is None:
            raise unknown("camera", camera, self._images)
        shard, record = self._place(episode)
        span = self._indices[shard].image(record, frame, leaf.key)
        if span.length == 0:  # the writers' sign for a view that is missing
            return np.zeros((max(leaf.shape[0], 1), max(leaf.shape[1], 1), 3), np.uint8)
        try:
            return images.decode(self._shards[shard].payload(span))
        except UserError as error:
            where = f"{self._shards[shard].path}: episode {episode}, frame {frame}, {leaf.key}"
            raise UserError(f"{where}: {error}") from error

    def _place(self, episode: int) -> tuple[int, int]:
        """Return the shard of an episode and its number there."""
        if not 0 <= episode < len(self):
            raise IndexError(f"{self._path} has no episode {episode}; it has {len(self)}, counted from 0")
        shard = bisect.bisect_right(self._starts, episode) - 1
        return shard, episode - self._starts[shard]

    def _parse(self, episode: int) -> tuple[dict[str, example.Feature], memoryview]:
        shard, record = self._place(episode)
        payload = self._shards[shard].payload(self._indices[shard].span(record))
        return example.parse(payload), payload

    def _camera(self, name: str, leaf: Leaf) -> Camera:
        height, width = leaf.shape[:2]
        if min(height, width) <= 0 and len(self):  # declared as unknown
            height, width, _ = self.image(0, 0, name).shape
        return Camera(name, height, width, orientation="unknown")


def find(path: Path) -> Path:
    """Return the folder `name/version` (or `name/config/version`) that holds features.json, at `path` or below it.

    Raises:
        UserError: none, or more than one.
    """
    patterns = ("features.json", "*/features.json", "*/*/features.json", "*/*/*/features.json")
    found = next((hits for pattern in patterns if (hits := sorted(path.glob(pattern)))), [])
    if not found:
        raise UserError(
            f"{path} holds no features.json (searched three folders deep); give the folder of an RLDS dataset"
        )
    if len(found) > 1:
        names = ", ".join(str(file.parent) for file in found)
        raise UserError(f"{path} holds several RLDS datasets: {names}; give one of them")
    return found[0].parent


def read_features(path: Path) -> tuple[Leaf, ...]:
    """Return the features of a step that can be read, from features.json."""
    top = _read_json(path)
    if "featuresDict" not in top:
        raise UserError(f"{path} is not of the form that TFDS writes since 4.6 (no featuresDict); rewrite it with TFDS")
    steps = top["featuresDict"]["features"].get("steps", {}).get("sequence")
    if steps is None:
        raise UserError(f"{path} declares no sequence 'steps'; this is no RLDS dataset of episodes")
    return tuple(_walk("steps", steps["feature"]))


def _walk(key: str, node: Mapping[str, Any]) -> list[Leaf]:
    if "featuresDict" in node:
        children = node["featuresDict"]["features"]
        return [leaf for name in sorted(children) for leaf in _walk(f"{key}/{name}", children[name])]
    if "tensor" in node:
        tensor = node["tensor"]
        return [_tensor(key, tensor["dtype"], _shape(tensor), tensor.get("encoding", "none"))]
    if "image" in node:
        return [Leaf(key, "image", node["image"].get("dtype", "uint8"), _shape(node["image"]))]
    if "text" in node:
        return [Leaf(key, "text", "string", ())]
    if "classLabel" in node:
        return [Leaf(key, "tensor", "int64", ())]
    return []  # ragged sequences, audio, video: not read


def _tensor(key: str, dtype: str, shape: tuple[int, ...], encoding: str) -> Leaf:
    return Leaf(key, "text", "string", shape) if dtype == "string" else Leaf(key, "tensor", dtype, shape, encoding)


def _shape(node: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(size) for size in node.get("shape", {}).get("dimensions", ()))


def _feature(name: str, leaf: Leaf) -> Feature:
    dtype = "string" if leaf.kind == "text" else leaf.dtype
    return Feature(name, "float32" if dtype == "float64" and leaf.encoding == "none" else dtype, leaf.shape)


def _from_strings(strings: list[bytes], leaf: Leaf) -> np.ndarray:
    if leaf.kind == "text":
        return np.array([text.decode(errors="replace") for text in strings], object)
    buffers = [zlib.decompress(s) for s in strings] if leaf.encoding == "zlib" else strings
    return np.stack([np.frombuffer(b, np.dtype(leaf.dtype).newbyteorder("<")).reshape(leaf.shape) for b in buffers])


def _shards_of(folder: Path, info: Mapping[str, Any], split: Mapping[str, Any]) -> list[tuple[Path, int | None]]:
    """Return the shards of a split with the number of records that dataset_info.json states, None where it does not."""
    form = info.get("fileFormat", "tfrecord")
    if form != "tfrecord":
        raise UserError(
            f"{folder} stores its records as {form}; tfrecord is read. Convert it with TFDS (`file_format=`)"
        )
    lengths = split.get("shardLengths")
    if not lengths:
        return [(path, None) for path in sorted(folder.glob(f"{info['name']}-{split['name']}.{form}-*-of-*"))]
    template = split.get("filepathTemplate", "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}")
    shards: list[tuple[Path, int | None]] = []
    for x, length in enumerate(lengths):
        parts = {"DATASET": info["name"], "SPLIT": split["name"], "FILEFORMAT": form, "SHARD_INDEX": f"{x:05d}"}
        parts["SHARD_X_OF_Y"] = f"{x:05d}-of-{len(lengths):05d}"
        name = functools.reduce(lambda text, part: text.replace("{" + part[0] + "}", part[1]), parts.items(), template)
        if Path(name).name != name:  # datasets come from strangers
            raise UserError(
                f"{folder / 'dataset_info.json'} names the shard '{name}', which lies outside of its folder"
            )
        shards.append((folder / name, int(length)))
    return shards


def _check_records(shard: Path, found: int, stated: int | None) -> None:
    if stated is not None and stated != found:
        raise UserError(
            f"{shard} holds {found} records, dataset_info.json states {stated}; copy the whole dataset again"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing; an RLDS dataset has features.json and dataset_info.json beside its shards"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}; copy it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold an object, it holds {type(value).__name__}")
    return value
