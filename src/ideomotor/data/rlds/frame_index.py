"""Random access to the frames of unmodified TFRecord shards: where each record and each encoded image lies.

Encoded images lie verbatim inside of a record, so (offset u64, length u32) per image, 12 bytes, replaces parsing and shuffle
buffers. The index of a shard is one file, mapped into memory; checksums are verified once, while it is built. It states the shard's size,
its time and a digest of all its length and checksum words; where they differ it is built again. It comes with a dataset from anywhere, so
what it states is checked before it is used.

E = episodes (records) of the shard, N = frames of the shard.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt32, UInt64

from ideomotor.core.errors import UserError
from ideomotor.data.rlds.tfrecord import Span

MAGIC = b"IDEOIDX2"
FOLDER = ".ideomotor"  # of indices, beside the shards
_ALIGN = 8  # [bytes] of each array in the file
_LARGEST_HEADER = 1 << 20  # [bytes]


@dataclass(frozen=True)
class StepFeature:
    """What the index must know of a feature: how many values a step has, and what they are."""

    key: str
    per_step: int  # -1: nothing states it
    kind: Literal["numbers", "integers", "strings", "camera"]
    optional: bool = False


def layout_hash(features: Sequence[StepFeature]) -> str:
    """Return a name for what an index was built with; others need another one."""
    return hashlib.sha256(repr(sorted(features, key=lambda feature: feature.key)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Summary:
    """What an index says about its shard."""

    size: int  # [bytes] of the shard
    mtime_ns: int  # [ns] when the shard was last changed
    built_ns: int  # [ns] when the index was built
    layout: str
    compressed: bool
    digest: str  # of the length and checksum words of the records
    records: int
    frames: int
    images: tuple[str, ...]  # feature keys
    damage: str = ""  # why the shard ends after these records, where it does not end there by itself


@dataclass(frozen=True)
class ImagePlaces:
    """The places of the encoded images of one camera in a shard."""

    offset: UInt64[np.ndarray, " N"]
    length: UInt32[np.ndarray, " N"]


@dataclass(frozen=True)
class FrameIndex:
    """The places of all that can be read from a shard."""

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
        return int(self.episode_start[episode + 1]) - int(self.episode_start[episode])

    def image(self, episode: int, frame: int, key: str) -> Span:
        """The place of one encoded image in the shard."""
        number = int(self.episode_start[episode]) + frame
        place = self.images[key]
        return Span(int(place.offset[number]), int(place.length[number]))


def index_path(shard: Path, cache: Path) -> Path:
    """Return where the index of a shard lies: a hidden folder beside it, or the cache where that cannot be written."""
    folder = shard.parent
    beside = folder / FOLDER
    writable = os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222  # root may write anywhere, but should not
    return (beside if writable and not beside.is_symlink() else cache) / f"{shard.name}.index"


def to_bytes(index: FrameIndex, summary: Summary) -> bytes:
    """Return the file of an index."""
    arrays = {
        "record_offset": index.record_offset,
        "record_length": index.record_length,
        "episode_start": index.episode_start,
    }
    for key, place in index.images.items():
        arrays |= {f"offset {key}": place.offset, f"length {key}": place.length}
    lengths = {name: [array.dtype.str, len(array)] for name, array in arrays.items()}
    header = json.dumps({**vars(summary), "crc_verified": True, "arrays": lengths}).encode()
    parts = [
        MAGIC,
        len(header).to_bytes(8, "little"),
        _padded(header),
        *(_padded(a.tobytes()) for a in arrays.values()),
    ]
    return b"".join(parts)


def read_summary(path: Path) -> Summary | None:
    """Return what an index says, or None where there is none that can be read, or not as long as it says."""
    header = _header(path)
    summary = None if header is None else _summary(header[0])
    if header is None or summary is None:
        return None
    sizes = [count * np.dtype(dtype).itemsize for _, dtype, count in _arrays(summary)]
    return summary if header[1] + sum(size + -size % _ALIGN for size in sizes) == path.stat().st_size else None


def read_index(path: Path, summary: Summary) -> FrameIndex:
    """Map an index into memory.

    Raises:
        UserError: it is not the one of the summary any more, or contradicts itself.
    """
    header = _header(path)
    found = None if header is None else _summary(header[0])
    if (
        header is None
        or found is None
        or replace(found, mtime_ns=0, built_ns=0) != replace(summary, mtime_ns=0, built_ns=0)
    ):
        raise UserError(f"{path} was changed or removed while its dataset was open; open the dataset again")
    raw, at = np.memmap(path, np.uint8, "r"), header[1]
    arrays: dict[str, np.ndarray] = {}
    for name, dtype, count in _arrays(summary):
        size = count * np.dtype(dtype).itemsize
        if at + size > len(raw):
            raise _broken(path)
        arrays[name] = np.asarray(raw[at : at + size].view(dtype))
        at += size + -size % _ALIGN
    images = {key: ImagePlaces(arrays[f"offset {key}"], arrays[f"length {key}"]) for key in summary.images}
    starts = arrays["episode_start"]
    if int(starts[0]) or int(starts[-1]) != summary.frames or (starts[1:] < starts[:-1]).any():
        raise _broken(path)
    return FrameIndex(arrays["record_offset"], arrays["record_length"], starts, images)


def _arrays(summary: Summary) -> list[tuple[str, str, int]]:
    """Return name, dtype and length of each array: computed and not read, for the file may come from anywhere."""
    records = [("record_offset", "<u8", 0), ("record_length", "<u8", 0), ("episode_start", "<u8", 1)]
    found = [(name, dtype, summary.records + more) for name, dtype, more in records]
    for key in summary.images:
        found += [(f"offset {key}", "<u8", summary.frames), (f"length {key}", "<u4", summary.frames)]
    return found


def _header(path: Path) -> tuple[dict[str, Any], int] | None:
    """Return the header of an index and where its arrays begin."""
    try:
        with path.open("rb") as file:
            if file.read(8) != MAGIC:
                return None
            length = int.from_bytes(file.read(8), "little")
            header: Any = json.loads(file.read(length)) if length <= _LARGEST_HEADER else None
    except (OSError, ValueError, RecursionError):  # ValueError: no JSON
        return None
    return (header, 16 + length + -length % _ALIGN) if isinstance(header, dict) else None


def _summary(header: dict[str, Any]) -> Summary | None:
    try:
        found = Summary(
            int(header["size"]),
            int(header["mtime_ns"]),
            int(header["built_ns"]),
            str(header["layout"]),
            bool(header["compressed"]),
            str(header["digest"]),
            int(header["records"]),
            int(header["frames"]),
            tuple(str(key) for key in header["images"]),
            str(header["damage"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return found if found.records >= 0 and found.frames >= 0 else None


def _broken(path: Path) -> UserError:
    return UserError(f"{path} contradicts itself; remove this file, and it is built again")


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGN)
