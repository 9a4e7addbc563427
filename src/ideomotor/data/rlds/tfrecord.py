"""TFRecord shards: framing and checksums, through memory maps and without TensorFlow.

A record is `u64 length | u32 masked CRC of the length | payload | u32 masked CRC of the payload`, little-endian.
"""

import hashlib
import mmap
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from ideomotor.core.errors import UserError

HEADER = 12  # [bytes] length and its CRC, before the payload
FOOTER = 4  # [bytes] CRC of the payload, after it
GZIP_MAGIC = b"\x1f\x8b\x08"
_LONGEST = 1 << 31  # [bytes] of a payload; protobuf reads no longer message
_PIECE = 1 << 18  # [bytes] checksummed at a time: a copy that stays in the processor's cache
_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h


class CorruptRecordError(UserError):
    """A shard ends too early, or a checksum does not fit."""


class BrokenStreamError(CorruptRecordError):
    """A compressed shard cannot be decompressed to its end."""


@dataclass(frozen=True)
class Span:
    """Where some bytes, e.g. the payload of a record, lie in their shard (in a compressed one: in what it holds)."""

    offset: int  # [bytes] from the start
    length: int  # [bytes]


def masked_crc(*parts: bytes | memoryview) -> int:
    """Return the masked CRC-32C that TFRecord stores, of the parts one after the other.

    >>> hex(masked_crc(b""))
    '0xa282ead8'
    """
    crc = 0
    for part in parts:
        for start in range(0, len(part), _PIECE):
            crc = google_crc32c.extend(crc, bytes(part[start : start + _PIECE]))
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


class Records(ABC):
    """Records one after the other, wherever their bytes come from."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def read(self, offset: int, length: int) -> memoryview:
        """Return `length` bytes at `offset`; fewer where the shard ends before."""

    @abstractmethod
    def pieces(self, span: Span) -> Iterator[memoryview]:
        """Yield the bytes of a span in pieces, so that a long one need not be held."""

    @property
    def longest(self) -> int:
        """The longest payload that is read [bytes]."""
        return _LONGEST

    def payload(self, span: Span) -> memoryview:
        """Return the bytes of a span, unchecked: checksums are verified once, when the index is built."""
        return self.read(span.offset, span.length)

    def spans(self) -> Iterator[Span]:
        """Yield the place of each record, following the length words; payloads are not checked.

        Raises:
            CorruptRecordError: the shard ends inside a record; the spans before it have been yielded.
        """
        offset = number = 0
        while header := self.read(offset, HEADER):
            if len(header) < HEADER:
                raise self._corrupt(number, offset, "the shard ends inside the header")
            (length,) = struct.unpack_from("<Q", header)
            if length > self.longest:
                raise self._corrupt(number, offset, f"it states {length} bytes; at most {self.longest} are read")
            if len(self.read(offset + HEADER + length, FOOTER)) < FOOTER:
                raise self._corrupt(number, offset, f"the shard ends before the {length} bytes that the record states")
            yield Span(offset + HEADER, length)
            offset += HEADER + length + FOOTER
            number += 1

    def verified(self) -> Iterator[Span]:
        """Yield the place of each record after checking both of its checksums.

        Raises:
            CorruptRecordError: a checksum does not fit, or the file ends early; the records before are whole.
        """
        offset = number = 0
        while True:
            try:
                span = self._verified(number, offset)
            except BrokenStreamError as error:
                raise self._corrupt(number, offset, str(error)) from error
            if span is None:
                return
            yield span
            offset, number = span.offset + span.length + FOOTER, number + 1

    def _verified(self, number: int, offset: int) -> Span | None:
        """Check the record at `offset`; None at the end of the shard."""
        header = self.read(offset, HEADER)
        if not header:
            return None
        if len(header) < HEADER:
            raise self._corrupt(number, offset, "the shard ends inside the header")
        length, length_crc = struct.unpack("<QI", header)
        if masked_crc(header[:8]) != length_crc:
            raise self._corrupt(number, offset, "the checksum of the length word does not fit")
        if length > self.longest:
            raise self._corrupt(number, offset, f"it states {length} bytes; at most {self.longest} are read")
        span, end = Span(offset + HEADER, length), offset + HEADER + length
        crc = masked_crc(*self.pieces(span))
        footer = self.read(end, FOOTER)
        if len(footer) < FOOTER:
            raise self._corrupt(number, offset, f"the shard ends before the {length} bytes that the record states")
        if crc != struct.unpack("<I", footer)[0]:
            raise self._corrupt(number, offset, "the checksum of the payload does not fit")
        return span

    def _corrupt(self, number: int, offset: int, what: str) -> CorruptRecordError:
        return CorruptRecordError(
            f"{self.path}: record {number} at byte {offset} is damaged: {what}. Copy the shard again and compare"
            " checksums; with --salvage the records before it are read."
        )


class Shard(Records):
    """One TFRecord file, mapped into memory when first used."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._view: memoryview | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_view": None}  # each process maps the file itself

    @property
    def view(self) -> memoryview:
        """All bytes of the shard."""
        if self._view is None:
            self._view = mapped(self.path)
            if is_gzip(self._view):
                raise UserError(
                    f"shard {self.path} is compressed as a whole (GZIP), which allows no random access; gunzip it"
                )
        return self._view

    def read(self, offset: int, length: int) -> memoryview:
        return self.view[offset : offset + length]

    def pieces(self, span: Span) -> Iterator[memoryview]:
        yield self.payload(span)


def mapped(path: Path) -> memoryview:
    """Return the bytes of a shard through a memory map.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            empty = path.stat().st_size == 0
            return memoryview(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise UserError(f"shard {path} is missing; copy all shards that dataset_info.json lists") from error
    except OSError as error:
        raise UserError(
            f"shard {path} cannot be read ({error.strerror}); mend its permissions, or copy it again"
        ) from error


def is_gzip(view: memoryview) -> bool:
    """Whether a shard is compressed as a whole.

    A first record of 35,615 bytes begins with the same two bytes; the checksum of its length word tells them apart.
    """
    if bytes(view[: len(GZIP_MAGIC)]) != GZIP_MAGIC:
        return False
    return len(view) < HEADER or masked_crc(view[:8]) != struct.unpack_from("<I", view, 8)[0]


def digest(records: Records, count: int) -> str:
    """Return a SHA-256 over the length and checksum words of the first records: it names their content without reading it.

    Raises:
        CorruptRecordError: there are fewer.
    """
    names, spans = hashlib.sha256(), records.spans()
    for _ in range(count):
        span = next(spans, None)
        if span is None:
            raise CorruptRecordError(f"{records.path} holds fewer than {count} records")
        names.update(words(records, span))
    return names.hexdigest()


def words(records: Records, span: Span) -> bytes:
    """Return the length and checksum words of a record."""
    return bytes(records.read(span.offset - HEADER, HEADER)) + bytes(records.read(span.offset + span.length, FOOTER))
