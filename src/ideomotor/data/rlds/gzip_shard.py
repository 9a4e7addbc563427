"""TFRecord shards that are compressed as a whole (GZIP), read without unpacking them to disk.

Surprises: such a stream has no random access. It is decompressed from its start in blocks; the state of the decompressor is kept at
each block that was passed, so going back costs one block, and memory stays bounded whatever the file claims.

>>> import gzip, tempfile
>>> path = Path(tempfile.mkdtemp()) / "shard"
>>> _ = path.write_bytes(gzip.compress(bytes(10) + b"hello"))
>>> bytes(GzipShard(path).read(10, 99))
b'hello'
"""

import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from ideomotor.data.rlds.tfrecord import GZIP_MAGIC, BrokenStreamError, Records, Shard, Span, mapped

BLOCK = 1 << 22  # [bytes] decompressed at a time; between two kept states (40 kB each)
KEPT = 8  # blocks held in memory
LONGEST = 1 << 30  # [bytes] of one record
LARGEST_RATIO = 256  # a shard that grows more than this, and by more than `LONGEST`, is no data but an attack
_INPUT = 1 << 16  # [bytes] given to the decompressor at a time
_GZIP = 31  # zlib's window bits for the gzip format


class GzipShard(Records):
    """One compressed TFRecord file; offsets are those of the decompressed bytes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._view = mapped(path)
        self._states = [
            (zlib.decompressobj(_GZIP), 0)
        ]  # before each block: the decompressor, and its place in the file
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._size: int | None = None  # [bytes] decompressed, once the end was seen
        self._error: BrokenStreamError | None = None  # why it ends there

    @property
    def longest(self) -> int:
        return LONGEST

    def read(self, offset: int, length: int) -> memoryview:
        return memoryview(b"".join(self.pieces(Span(offset, length))))

    def pieces(self, span: Span) -> Iterator[memoryview]:
        at, end = span.offset, span.offset + span.length
        while at < end:
            number, start = divmod(at, BLOCK)
            piece = memoryview(self._block(number))[start : start + end - at]
            if not piece:
                if self._error is not None:
                    raise self._error
                return
            yield piece
            at += len(piece)

    def _block(self, number: int) -> bytes:
        """Return one block; the last one is shorter, and those after it are empty."""
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        for passed in range(min(number, len(self._states) - 1), number + 1):
            if self._size is not None and passed * BLOCK >= self._size:
                return b""
            self._blocks[passed] = self._decompress(passed, _INPUT)
            if len(self._blocks) > KEPT:
                self._blocks.popitem(last=False)
            if len(self._blocks[passed]) < BLOCK:
                self._size = passed * BLOCK + len(self._blocks[passed])
        return self._blocks[number]

    def _decompress(self, number: int, step: int) -> bytes:
        """Decompress one block, whose state is known, from inputs of `step` bytes, and keep the state after it."""
        if number * BLOCK > max(LONGEST, LARGEST_RATIO * len(self._view)):
            self._error = self._broken(number, f"{len(self._view)} bytes grow to more, which is no recording")
            return b""
        state, at = self._states[number]
        state, parts, missing = state.copy(), list[bytes](), BLOCK
        while missing:
            if state.eof:  # another member follows, or the end
                if bytes(self._view[at : at + len(GZIP_MAGIC)]) != GZIP_MAGIC:
                    break
                state = zlib.decompressobj(_GZIP)
            given = self._view[at : at + step]
            try:
                part = state.decompress(given, missing)
            except zlib.error as error:
                if step > 1:  # what lies before the damage in the same input is still to be had
                    return self._decompress(number, 1)
                self._error = self._broken(number, str(error))
                break
            if not given and not part and not state.eof:
                self._error = self._broken(number, "the compressed stream has no end")
                break
            at += len(given) - len(state.unconsumed_tail) - len(state.unused_data)
            parts.append(part)
            missing -= len(part)
        if number + 1 == len(self._states):
            self._states.append((state, at))
        return b"".join(parts)

    def _broken(self, number: int, what: str) -> BrokenStreamError:
        return BrokenStreamError(f"{self.path} cannot be decompressed beyond {number * BLOCK} bytes: {what}")


def open_shard(path: Path, *, compressed: bool) -> Records:
    """Return a shard to read from."""
    return GzipShard(path) if compressed else Shard(path)
