"""TFRecord shards: framing and checksums, through memory maps and without TensorFlow.

A record is `u64 length | u32 masked CRC of the length | payload | u32 masked CRC of the payload`, little-endian.
"""

import hashlib
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from ideomotor.core.errors import UserError

HEADER = 12  # [bytes] length and its CRC, before the payload
FOOTER = 4  # [bytes] CRC of the payload, after it
_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h


class CorruptRecordError(UserError):
    """A shard ends too early, or a checksum does not fit."""


@dataclass(frozen=True)
class Span:
    """Where the payload of a record lies in its shard."""

    offset: int  # [bytes] from the start of the shard
    length: int  # [bytes]


def masked_crc(data: bytes | memoryview) -> int:
    """Return the masked CRC-32C that TFRecord stores.

    >>> hex(masked_crc(b""))
    '0xa282ead8'
    """
    crc = google_crc32c.value(bytes(data))
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


class Shard:
    """One TFRecord file, mapped into memory when first used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._view: memoryview | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_view": None}  # each process maps the file itself

    @property
    def view(self) -> memoryview:
        """All bytes of the shard."""
        if self._view is None:
            try:
                with self.path.open("rb") as file:
                    empty = self.path.stat().st_size == 0
                    self._view = memoryview(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            except FileNotFoundError as error:
                raise UserError(
                    f"shard {self.path} is missing; copy all shards that dataset_info.json lists"
                ) from error
            if bytes(self._view[:2]) == b"\x1f\x8b":
                raise UserError(
                    f"shard {self.path} is compressed as a whole (GZIP), which allows no random access; gunzip it"
                )
        return self._view

    def payload(self, span: Span) -> memoryview:
        """Return the bytes of one record, unchecked: checksums are verified once, when the index is built."""
        return self.view[span.offset : span.offset + span.length]

    def spans(self) -> Iterator[Span]:
        """Yield the place of each record, following the length words; payloads are neither read nor checked.

        Raises:
            CorruptRecordError: the file ends inside a record; the spans before it have been yielded.
        """
        view, offset, number = self.view, 0, 0
        while offset < len(view):
            if offset + HEADER > len(view):
                raise self._corrupt(number, offset, "the shard ends inside the header")
            (length,) = struct.unpack_from("<Q", view, offset)
            if offset + HEADER + length + FOOTER > len(view):
                raise self._corrupt(number, offset, f"the shard ends before the {length} bytes that the record states")
            yield Span(offset + HEADER, length)
            offset += HEADER + length + FOOTER
            number += 1

    def verified(self) -> Iterator[Span]:
        """Yield the place of each record after checking both of its checksums.

        Raises:
            CorruptRecordError: a checksum does not fit, or the file ends early; the records before are whole.
        """
        view, offset, number = self.view, 0, 0
        while offset < len(view):
            if offset + HEADER > len(view):
                raise self._corrupt(number, offset, "the shard ends inside the header")
            length, length_crc = struct.unpack_from("<QI", view, offset)
            if masked_crc(view[offset : offset + 8]) != length_crc:
                raise self._corrupt(number, offset, "the checksum of the length word does not fit")
            span, end = Span(offset + HEADER, length), offset + HEADER + length
            if end + FOOTER > len(view):
                raise self._corrupt(number, offset, f"the shard ends before the {length} bytes that the record states")
            if masked_crc(self.payload(span)) != struct.unpack_from("<I", view, end)[0]:
                raise self._corrupt(number, offset, "the checksum of the payload does not fit")
            yield span
            offset, number = end + FOOTER, number + 1

    def digest(self) -> str:
        """Return a SHA-256 over all length and checksum words: it names the content without reading the payloads."""
        words = hashlib.sha256()
        for span in self.spans():
            words.update(self.view[span.offset - HEADER : span.offset])
            words.update(self.view[span.offset + span.length : span.offset + span.length + FOOTER])
        return words.hexdigest()

    def _corrupt(self, number: int, offset: int, what: str) -> CorruptRecordError:
        return CorruptRecordError(
            f"{self.path}: record {number} at byte {offset} is damaged: {what}. Copy the shard again and compare checksums."
        )
