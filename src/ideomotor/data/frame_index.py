"""Random access to the frames of unmodified TFRecord shards: where each record and each encoded image lies.

Encoded images lie verbatim inside of a record, so (offset u64, length u32) per image, 12 bytes, replaces parsing and shuffle
buffers. The index of a shard is one file, mapped into memory; checksums are verified once, while it is built. It states the
shard's size and a digest of all its length and checksum words; where they differ it is built again.

E = episodes (records) of the shard, N = frames of the shard.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt32, UInt64

from ideomotor.core import files
from ideomotor.core.errors import UserError
from ideomotor.data.example import Feature, Strings, WireError, parse
from ideomotor.data.tfrecord import HEADER, Shard, Span

MAGIC = b"IDEOIDX1"
_ALIGN = 8  # [bytes] of each array in the file


@dataclass(frozen=True)
class ImagePlaces:
    """The places of the encoded images of one camera in a shard."""

    offset: UInt64[np.ndarray, " N"]
    length: UInt32[np.ndarray, " N"]


@dataclass(frozen=True)
class FrameIndex:
    """The places of all that can be read from a shard."""

    digest: str  # of the shard's length and checksum words
    record_offset: UInt64[np.ndarray, " E"]
    record_length: UInt64[np.ndarray, " E"]
    episode_start: UInt64[np.ndarray, " E_plus_1"]  # first frame of each episode, and the number of frames
    images: Mapping[str, ImagePlaces]  # by feature key

    def __len__(self) -> int:
        return len(self.record_offset)

    def span(self, episode: int) -> Span:
        """The payload of an episode."""
        return Span(int(self.record_offset[episode]), int(self.record_length[episode]))

    def num_frames(self, episode: int) -> int:
        """The number of frames of an episode."""
        return int(self.episode_start[episode + 1] - self.episode_start[episode])

    def image(self, episode: int, frame: int, key: str) -> Span:
        """The place of one encoded image in the shard."""
        number = int(self.episode_start[episode]) + frame
        place = self.images[key]
        return Span(int(place.offset[number]), int(place.length[number]))


@dataclass(frozen=True)
class StepFeature:
    """What the index must know of a feature: how many values a step has, and whether they are images."""

    key: str
    per_step: int
    image: bool


def open_index(shard: Shard, features: Sequence[StepFeature], cache: Path) -> FrameIndex:
    """Return the index of a shard; build it beside the shard, or in `cache` where the folder cannot be written.

    Raises:
        UserError: the shard is missing or damaged, or a record disagrees with itself.
    """
    expected = {
        "size": len(shard.view),
        "digest": shard.digest(),
        "images": sorted(f.key for f in features if f.image),
    }
    path = index_path(shard.path, cache)
    stored = _read(path, expected)
    if stored is None:
        files.write_bytes(path, _to_bytes(_build(shard, features, str(expected["digest"])), expected))
        stored = _read(path, expected)
        assert stored is not None, "an index just written reads back"
    return stored


def index_path(shard: Path, cache: Path) -> Path:
    """Return where the index of a shard lies: a hidden folder beside it, or the cache where that cannot be written."""
    folder = shard.parent
    writable = os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222  # root may write anywhere, but should not
    return (folder / ".ideomotor" if writable else cache) / f"{shard.name}.index"


def _build(shard: Shard, features: Sequence[StepFeature], digest: str) -> FrameIndex:
    spans = list(shard.verified())
    starts, places = [0], {f.key: list[tuple[np.ndarray, np.ndarray]]() for f in features if f.image}
    for number, span in enumerate(spans):
        where = f"{shard.path}: record {number} at byte {span.offset - HEADER}"
        try:
            parsed = parse(shard.payload(span))
        except WireError as error:
            raise UserError(f"{where} is no tf.train.Example: {error}") from error
        starts.append(starts[-1] + _num_steps(parsed, features, where))
        for key, found in places.items():
            strings = parsed[key]
            assert isinstance(strings, Strings), "_num_steps has refused other kinds"
            found.append((strings.offset + span.offset, strings.length))
    return FrameIndex(
        digest,
        np.array([s.offset for s in spans], np.uint64),
        np.array([s.length for s in spans], np.uint64),
        np.array(starts, np.uint64),
        {key: ImagePlaces(_joined(found, 0, np.uint64), _joined(found, 1, np.uint32)) for key, found in places.items()},
    )


def _joined(found: list[tuple[np.ndarray, np.ndarray]], part: int, dtype: type) -> np.ndarray:
    return np.concatenate([pair[part] for pair in found]).astype(dtype) if found else np.zeros(0, dtype)


def _num_steps(parsed: Mapping[str, Feature], features: Sequence[StepFeature], where: str) -> int:
    """Return the number of steps of an episode, on which all of its features must agree."""
    counts: dict[str, int] = {}
    for feature in features:
        values = parsed.get(feature.key)
        if values is None or (feature.image and not isinstance(values, Strings)):
            held = ", ".join(sorted(parsed)[:8])
            raise UserError(
                f"{where} has no usable '{feature.key}', which features.json declares; it holds {held}, ..."
            )
        steps, rest = divmod(len(values), feature.per_step)
        if rest:
            raise UserError(
                f"{where}: '{feature.key}' has {len(values)} values, no multiple of {feature.per_step} a step"
            )
        counts[feature.key] = steps
    if len(set(counts.values())) > 1:
        raise UserError(f"{where}: its features disagree on the number of steps: {counts}")
    return next(iter(counts.values()), 0)


def _arrays(index: FrameIndex) -> dict[str, np.ndarray]:
    per_camera = {
        f"{part} {key}": array
        for key, place in index.images.items()
        for part, array in (("offset", place.offset), ("length", place.length))
    }
    return {
        "record_offset": index.record_offset,
        "record_length": index.record_length,
        "episode_start": index.episode_start,
        **per_camera,
    }


def _to_bytes(index: FrameIndex, expected: Mapping[str, Any]) -> bytes:
    arrays = _arrays(index)
    lengths = {name: [array.dtype.str, len(array)] for name, array in arrays.items()}
    header = json.dumps({**expected, "crc_verified": True, "arrays": lengths}).encode()
    parts = [
        MAGIC + len(header).to_bytes(8, "little"),
        _padded(header),
        *(_padded(a.tobytes()) for a in arrays.values()),
    ]
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGN)


def _read(path: Path, expected: Mapping[str, Any]) -> FrameIndex | None:
    """Return the stored index, or None where there is none, or not of this shard as it is now."""
    try:
        raw = np.memmap(path, np.uint8, "r")
        length = int.from_bytes(raw[8:16].tobytes(), "little")
        header: dict[str, Any] = json.loads(raw[16 : 16 + length].tobytes())
    except (FileNotFoundError, ValueError):  # ValueError: an empty file, or no JSON
        return None
    if raw[:8].tobytes() != MAGIC or any(header[key] != value for key, value in expected.items()):
        return None
    arrays: dict[str, np.ndarray] = {}
    at = 16 + length + -length % _ALIGN
    for name, (dtype, count) in header["arrays"].items():
        size = count * np.dtype(dtype).itemsize
        arrays[name] = np.asarray(raw[at : at + size].view(dtype))
        at += size + -size % _ALIGN
    images = {key: ImagePlaces(arrays[f"offset {key}"], arrays[f"length {key}"]) for key in header["images"]}
    return FrameIndex(
        header["digest"], arrays["record_offset"], arrays["record_length"], arrays["episode_start"], images
    )
