"""RLDS datasets (TFDS with TFRecord shards), read without TensorFlow: one record is one episode.

Surprises: integers in both JSON files are strings; float64 features are stored as float32, booleans as int64; records were shuffled when
they were written, so their order is not the order of collection; nothing says what the numbers mean, so `embodiment` and `fps` are None.

What becomes what: a picture of 8 bits is a camera, one of 16 bits or of floats (depth) is a column of height x width x channels; text and
numbers are columns; a sequence inside of a step is a column of objects, one array a step (lists of arrays: an array of objects again), or
an axis where its length is declared. What belongs to the episode as a whole is `metadata`.
"""

import bisect
import functools
import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ideomotor.core.errors import UserError, unknown
from ideomotor.core.spec import Camera, Embodiment
from ideomotor.core.types import Success
from ideomotor.data.cache import user_cache
from ideomotor.data.dataset import ACTION, EpisodeView, Feature, Reading
from ideomotor.data.images import MAX_PIXELS
from ideomotor.data.rlds import example
from ideomotor.data.rlds.features import Features, Leaf, read_features
from ideomotor.data.rlds.folder import Folder, read_folder
from ideomotor.data.rlds.frame_index import FrameIndex, Summary, read_index
from ideomotor.data.rlds.frame_index_build import open_indices
from ideomotor.data.rlds.gzip_shard import open_shard
from ideomotor.data.rlds.infer import infer_features
from ideomotor.data.rlds.pixels import decode_colours
from ideomotor.data.rlds.tfrecord import Records, Span, is_gzip, mapped
from ideomotor.data.rlds.values import column_type, decode

INSTRUCTIONS = (
    "steps/language_instruction",
    "steps/observation/natural_language_instruction",
    "steps/observation/instruction",  # Language-Table: numbers of characters, ended by 0
)
OPEN = (
    128  # shards, and as many indices, mapped into memory at a time: each takes one of a process' 1024 file descriptors
)
PICTURES = 256 << 20  # [bytes] of decoded columns of pictures that are kept


class RldsDataset:
    """An RLDS dataset in a folder, as a `Dataset`."""

    def __init__(self, path: Path, reading: Reading | None = None) -> None:
        """Open the dataset in `path`, or in the one folder `name/version` below it; build missing frame indices.

        Args:
            path: the folder.
            reading: which version, and whether what is left of damaged shards is read.

        Raises:
            UserError: files are missing, damaged, or disagree; the message names them.
        """
        self._path, self._reading = path, reading or Reading()
        folder = read_folder(path, self._reading)
        features = read_features(folder.features) if folder.features else _inferred(folder)
        self._name, self._version, self._episode = folder.name, folder.version, features.episode
        paths = [shard for split in folder.splits for shard, _ in split.shards]
        cache = user_cache() / "rlds" / hashlib.sha256(str(folder.path.resolve()).encode()).hexdigest()[:16]
        needed = [leaf.step_feature for leaf in features.steps]
        self._shards = open_indices(paths, needed, cache, salvage=self._reading.salvage)
        self._paths = paths
        self._starts = list(itertools.accumulate((about.records for _, about in self._shards), initial=0))
        self._splits = _splits(folder, self._starts)
        compressed = any(about.compressed for _, about in self._shards)
        self._notes = (*folder.notes, *features.unread, *_notes(folder, self._shards, self._reading))
        self._parsed = functools.lru_cache(maxsize=2 if compressed else 8)(self._parse)
        self._records = functools.lru_cache(maxsize=2 if compressed else OPEN)(self._open)
        self._index = functools.lru_cache(maxsize=OPEN)(self._open_index)
        self._pictures = _Recent(PICTURES)
        by_key = {leaf.key: leaf for leaf in features.steps}
        self._instruction = next(
            (by_key[key] for key in INSTRUCTIONS if key in by_key and _is_sentence(by_key[key])), None
        )
        shown = [leaf for leaf in features.steps if leaf is not self._instruction or leaf.kind == "number"]
        self._images = _named([leaf for leaf in shown if leaf.is_camera], lambda leaf: leaf.path.rpartition(".")[2])
        self._columns = _named([leaf for leaf in shown if not leaf.is_camera], lambda leaf: leaf.path)
        self._features = {name: self._feature(name, leaf) for name, leaf in self._columns.items()}
        self._action = _action_parts(self._name, self._features)
        if self._action:
            width = sum(int(np.prod(self._features[part].shape)) for part in self._action)
            self._features = {ACTION: Feature(ACTION, "float32", (width,)), **self._features}
        self._cameras = {name: self._camera(name, leaf) for name, leaf in self._images.items()}
        words = [repr(features), *self._action, *(about.digest for _, about in self._shards)]
        self._content_hash = hashlib.sha256("\n".join(words).encode()).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._path, self._reading)  # each process maps the files itself

    @property
    def path(self) -> Path:
        return self._path

    @property
    def name(self) -> str:
        """The dataset's own name, whatever its folder is called."""
        return self._name

    @property
    def format(self) -> str:
        return f"RLDS ({self._name} {self._version})".replace(" )", ")")

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
    def notes(self) -> tuple[str, ...]:
        """What was lost, left out, or found out by looking."""
        return self._notes

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """The cameras by role, which is the last part of the feature's name (all of it where two are alike)."""
        return self._cameras

    @property
    def features(self) -> Mapping[str, Feature]:
        """The columns beside the images; what is declared float64 was stored as float32, unless it was encoded."""
        return self._features

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, episode: int) -> EpisodeView:
        return EpisodeView(self, episode)

    def length(self, episode: int) -> int:
        shard, record = self._place(episode)
        return self._index(shard).num_frames(record)

    def instruction(self, episode: int) -> str:
        """The sentence of the episode's first step, "" where there is none."""
        if self._instruction is None or not self.length(episode):
            return ""
        parsed, payload = self._parsed(episode)
        strings = parsed.get(self._instruction.value_key)
        if isinstance(strings, example.Strings) and len(strings):  # the first alone: this is asked for often
            return example.Strings(strings.offset[:1], strings.length[:1]).of(payload)[0].decode(errors="replace")
        codes = self._values(episode, self._instruction)[0]
        return "".join(chr(code) for code in codes.reshape(-1).tolist() if 0 < code < 0xD800)

    def metadata(self, episode: int) -> dict[str, Any]:
        """What the record says about the episode as a whole, by name ("file_path"); what it leaves out is left out."""
        parsed, _ = self._parsed(episode)
        present = [leaf for leaf in self._episode if leaf.value_key in parsed]
        return {name: self._values(episode, leaf) for name, leaf in _named(present, lambda leaf: leaf.path).items()}

    def success(self, episode: int) -> Success:
        """RLDS does not label attempts."""
        assert 0 <= episode < len(self)
        return "unknown"

    def column(self, episode: int, name: str) -> np.ndarray:
        if name == ACTION and self._action:
            parts = [self.column(episode, part) for part in self._action]
            return np.concatenate([part.reshape(len(part), -1).astype(np.float32) for part in parts], axis=1)
        leaf = self._columns.get(name)
        if leaf is None:
            raise unknown("column", name, self._features)
        if leaf.kind == "picture":
            return self._pictures.get((episode, name), lambda: self._values(episode, leaf))
        return self._values(episode, leaf)

    def image(self, episode: int, frame: int, camera: str) -> UInt8[np.ndarray, "height width 3"]:
        encoded = self._encoded(episode, frame, camera)
        if not encoded:  # the writers' sign for a view that is missing
            about = self._cameras[camera]
            return np.zeros((about.height, about.width, 3), np.uint8)
        try:
            return decode_colours(encoded)
        except UserError as error:
            raise self._misread(episode, f"frame {frame}, {self._images[camera].key}", error) from error

    def encoded_image(self, episode: int, frame: int, camera: str) -> bytes | None:
        """Return the stored JPEG or PNG, None where the view is missing."""
        return bytes(self._encoded(episode, frame, camera)) or None

    def _encoded(self, episode: int, frame: int, camera: str) -> memoryview:
        leaf = self._images.get(camera)
        if leaf is None:
            raise unknown("camera", camera, self._images)
        shard, record = self._place(episode)
        index = self._index(shard)
        if not 0 <= frame < index.num_frames(record):
            raise IndexError(f"{self._path}, episode {episode} has no frame {frame}; it has {index.num_frames(record)}")
        return self._records(shard).payload(index.image(record, frame, leaf.key))

    def _values(self, episode: int, leaf: Leaf) -> Any:
        parsed, payload = self._parsed(episode)
        try:
            return decode(leaf, parsed, payload, self.length(episode))
        except UserError as error:
            raise self._misread(episode, leaf.key, error) from error

    def _misread(self, episode: int, what: str, error: UserError) -> UserError:
        shard, record = self._place(episode)
        return UserError(f"{self._paths[shard]}, record {record}: episode {episode}, {what}: {error}")

    def _place(self, episode: int) -> tuple[int, int]:
        """Return the shard of an episode and its number there."""
        if not 0 <= episode < len(self):
            raise IndexError(f"{self._path} has no episode {episode}; it has {len(self)}, counted from 0")
        shard = bisect.bisect_right(self._starts, episode) - 1
        return shard, episode - self._starts[shard]

    def _open(self, shard: int) -> Records:
        return open_shard(self._paths[shard], compressed=self._shards[shard][1].compressed)

    def _open_index(self, shard: int) -> FrameIndex:
        return read_index(*self._shards[shard])

    def _parse(self, episode: int) -> tuple[dict[str, example.Feature], memoryview]:
        shard, record = self._place(episode)
        payload = self._records(shard).payload(self._index(shard).span(record))
        return example.parse(payload), payload

    def _first(self, leaf: Leaf) -> tuple[int, Span] | None:
        """Return the first picture of a leaf that is there."""
        for episode in range(min(len(self), 16)):
            parsed, _ = self._parsed(episode)
            strings = parsed.get(leaf.value_key)
            if isinstance(strings, example.Strings) and (found := np.flatnonzero(strings.length)).size:
                return episode, Span(int(strings.offset[found[0]]), int(strings.length[found[0]]))
        return None

    def _camera(self, name: str, leaf: Leaf) -> Camera:
        height, width = (*leaf.shape, -1, -1)[:2]
        if min(height, width) <= 0 and (place := self._first(leaf)):  # declared as unknown
            payload = self._parsed(place[0])[1]
            try:
                height, width, _ = decode_colours(payload[place[1].offset : place[1].offset + place[1].length]).shape
            except UserError as error:
                raise self._misread(place[0], leaf.key, error) from error
        if height * width > MAX_PIXELS:
            raise UserError(
                f"{self._path}: camera '{name}' is declared as {height} x {width} pixels, which is too large"
            )
        return Camera(name, max(height, 1), max(width, 1), orientation="unknown")

    def _feature(self, name: str, leaf: Leaf) -> Feature:
        dtype, shape = column_type(leaf)
        if leaf.kind == "picture" and -1 in shape and (place := self._first(leaf)):  # the file tells
            items = self._values(place[0], leaf)
            shape = items[0].shape if len(items) else shape
        return Feature(name, dtype, tuple(max(size, 1) for size in shape))


class _Recent:
    """Columns that took long to decode, up to some bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[tuple[int, str], np.ndarray] = OrderedDict()

    def get(self, key: tuple[int, str], make: Callable[[], np.ndarray]) -> np.ndarray:
        if key not in self._held:
            self._held[key] = make()
            self._held[key].setflags(write=False)
            while len(self._held) > 1 and sum(array.nbytes for array in self._held.values()) > self._limit:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]


def _inferred(folder: Folder) -> Features:
    """Return the features that the first record shows, of a dataset without features.json."""
    for split in folder.splits:
        for shard, _ in split.shards:
            records = open_shard(shard, compressed=is_gzip(mapped(shard)))
            for span in itertools.islice(records.spans(), 64):
                payload = records.payload(span)
                try:
                    features = infer_features(example.parse(payload), payload)
                except UserError as error:
                    raise UserError(f"{shard}: record at byte {span.offset}: {error}") from error
                if features is not None:
                    note = f"{folder.path} has no features.json: names, types and shapes are those of the first record"
                    return replace(features, unread=(note, *features.unread))
    raise UserError(
        f"{folder.path} has neither features.json nor an episode with steps; copy features.json beside the shards"
    )


def _splits(folder: Folder, starts: Sequence[int]) -> dict[str, range]:
    splits: dict[str, range] = {}
    shard = 0
    for split in folder.splits:
        splits[split.name] = range(starts[shard], starts[shard + len(split.shards)])
        shard += len(split.shards)
    return splits


def _notes(folder: Folder, shards: Sequence[tuple[Path, Summary]], reading: Reading) -> list[str]:
    """Compare what was found with what dataset_info.json states, and say what was lost."""
    notes: list[str] = []
    stated = [shard for split in folder.splits for shard in split.shards]
    for (path, expected), (_, about) in zip(stated, shards, strict=True):
        if about.damage:
            of = "" if expected is None else f" of {expected}"
            notes.append(f"lost: of {path} the first {about.records}{of} records are read. {about.damage}")
        elif expected is not None and expected != about.records:
            text = f"{path} holds {about.records} records, dataset_info.json states {expected}"
            if not reading.salvage:
                raise UserError(f"{text}; copy the whole dataset again")
            notes.append(text)
    if compressed := sum(about.compressed for _, about in shards):
        notes.append(
            f"{compressed} of {len(shards)} shards are compressed as a whole (GZIP): they are read in sequence, and going"
            " far from one episode to another decompresses what lies between. Gunzip them before training"
        )
    return notes


def _named(leaves: Sequence[Leaf], short: Callable[[Leaf], str]) -> dict[str, Leaf]:
    """Return leaves by their short names; by their paths, or keys, where two would be called alike."""
    ways: tuple[Callable[[Leaf], str], ...] = (short, lambda leaf: leaf.path, lambda leaf: leaf.key)
    for name in ways:
        named = {name(leaf): leaf for leaf in leaves}
        if len(named) == len(leaves):
            return named
    raise UserError("features.json declares a feature twice; copy it again")


def _action_parts(name: str, features: Mapping[str, Feature]) -> tuple[str, ...]:
    """Return the columns that make the action where the dataset has a dictionary of them and is known."""
    if ACTION in features or not any(part.startswith(f"{ACTION}.") for part in features):
        return ()
    from ideomotor.data.openx.records import record_of

    record = record_of(name)
    if record is None or not all(_is_numeric(features.get(part)) for part in record.action):
        return ()
    return record.action


def _is_sentence(leaf: Leaf) -> bool:
    return len(leaf.levels) == 1 and (leaf.kind == "text" or (leaf.kind == "number" and "int" in leaf.dtype))


def _is_numeric(feature: Feature | None) -> bool:
    return feature is not None and feature.dtype not in ("string", "object")
