"""`tf.train.Example` records, parsed from the wire format without protobuf.

`Example{1: Features{1: map<string, Feature>}}`; `Feature` is one of `{1: BytesList, 2: FloatList, 3: Int64List}`; each list is
`{1: repeated value}`. Byte strings (encoded images above all) are not copied: their places in the payload are returned.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from ideomotor.core.errors import UserError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_LONGEST_VARINT = 10  # [bytes] a negative int64
_FIRST_BYTES = 0x0A  # tag of field 1 as bytes
_PIECE = 1 << 20  # [bytes] decoded at a time
_MOST_STRINGS = 1 << 22  # of one feature; each takes 100 bytes of memory, and as few as 2 of the record
_MOST_FEATURES = 1 << 14


class WireError(UserError):
    """The payload is no `tf.train.Example`."""


@dataclass(frozen=True)
class Strings:
    """The byte strings of one feature, by their places in the payload."""

    offset: Int64[np.ndarray, " N"]
    length: Int64[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.offset)

    def of(self, payload: memoryview) -> list[bytes]:
        """Copy the strings out of the payload."""
        return [bytes(payload[o : o + n]) for o, n in zip(self.offset.tolist(), self.length.tolist(), strict=True)]


Feature = Strings | Float32[np.ndarray, " _"] | Int64[np.ndarray, " _"] | None  # None: the kind is not set


def parse(payload: memoryview) -> dict[str, Feature]:
    """Return the features of an `Example` by key; of a repeated key the last one counts, as protobuf says.

    Raises:
        WireError: the bytes are not a valid message; the message names the place.
    """
    features: dict[str, Feature] = {}
    for number, wire, start, end in _fields(payload, 0, len(payload)):
        if (number, wire) == (1, _BYTES):
            for entry, entry_wire, entry_start, entry_end in _fields(payload, start, end):
                if (entry, entry_wire) == (1, _BYTES):
                    key, feature = _map_entry(payload, entry_start, entry_end)
                    features[key] = feature
            if len(features) > _MOST_FEATURES:
                raise WireError(f"it has more than {_MOST_FEATURES} features")
    return features


def _map_entry(payload: memoryview, start: int, end: int) -> tuple[str, Feature]:
    key, values = "", list[tuple[int, int]]()
    for number, wire, at, stop in _fields(payload, start, end):
        if (number, wire) == (1, _BYTES):
            try:
                key = bytes(payload[at:stop]).decode()
            except UnicodeDecodeError as error:
                raise WireError(f"the feature name at byte {at} is not UTF-8") from error
        elif (number, wire) == (2, _BYTES):
            values.append((at, stop))
    return key, _feature(payload, values)


def _feature(payload: memoryview, messages: list[tuple[int, int]]) -> Feature:
    """Read one `Feature`; messages that repeat are merged and of several kinds the last one counts, as protobuf says."""
    kind, lists = 0, list[tuple[int, int]]()
    for start, end in messages:
        for number, wire, at, stop in _fields(payload, start, end):
            if wire == _BYTES and number in (1, 2, 3):  # bytes, floats, integers
                lists = [*lists, (at, stop)] if number == kind else [(at, stop)]
                kind = number
    if kind == 0:
        return None
    return (_strings, _floats, _integers)[kind - 1](payload, lists)


def _strings(payload: memoryview, lists: list[tuple[int, int]]) -> Strings:
    """Return the places of the strings; one loop without calls, for an episode has one string a camera and frame."""
    offsets, lengths = list[int](), list[int]()
    for start, end in lists:
        at = start
        while at < end:
            if payload[at] != _FIRST_BYTES:  # another field: by the general way
                for number, wire, place, stop in _fields(payload, at, end):
                    if (number, wire) == (1, _BYTES):
                        offsets.append(place)
                        lengths.append(stop - place)
                break
            length, after = _varint(payload, at + 1, end)
            at = after + length
            offsets.append(after)
            lengths.append(length)
            if len(offsets) > _MOST_STRINGS:
                raise WireError(f"a feature has more than {_MOST_STRINGS} strings")
        if at > end:
            raise WireError(
                f"a string at byte {offsets[-1]} states {lengths[-1]} bytes, but its message ends after {end - offsets[-1]}"
            )
    return Strings(np.array(offsets, np.int64), np.array(lengths, np.int64))


def _floats(payload: memoryview, lists: list[tuple[int, int]]) -> Float32[np.ndarray, " N"]:
    runs = bytearray()
    for start, end in lists:
        for number, wire, at, stop in _fields(payload, start, end):
            if number == 1 and wire in (_BYTES, _FIXED32):  # a packed run, or one unpacked value
                if (stop - at) % 4:
                    raise WireError(f"the packed floats at byte {at} take {stop - at} bytes, which is no multiple of 4")
                runs += payload[at:stop]
    return np.frombuffer(runs, "<f4").astype(np.float32)


def _integers(payload: memoryview, lists: list[tuple[int, int]]) -> Int64[np.ndarray, " N"]:
    runs = bytearray()
    for start, end in lists:
        for number, wire, at, stop in _fields(payload, start, end):
            if number == 1 and wire in (_BYTES, _VARINT) and stop > at:
                if payload[stop - 1] >= 0x80:
                    raise WireError(f"the integers at byte {at} end inside a number")
                runs += payload[at:stop]
    return _varints(np.frombuffer(runs, np.uint8))


def _varints(raw: UInt8[np.ndarray, " B"]) -> Int64[np.ndarray, " N"]:
    """Decode whole varints at once; negative numbers are their 64-bit two's complement in ten bytes."""
    if not (raw >= 0x80).any():  # booleans and small numbers: one byte each
        return raw.astype(np.int64)
    pieces = list[np.ndarray]()
    start = 0
    while start < raw.size:  # in pieces, because what follows takes 40 bytes of memory a byte
        last = np.flatnonzero(raw[start : start + _PIECE] < 0x80)  # the top bit says that more bytes follow
        first = np.concatenate(([0], last[:-1] + 1))
        length = last - first + 1
        if not last.size or length.max() > _LONGEST_VARINT:
            raise WireError(f"an integer takes {length.max() if last.size else _PIECE} bytes; at most 10 are allowed")
        piece = raw[start : start + int(last[-1]) + 1]
        place = (np.arange(piece.size) - np.repeat(first, length)).astype(np.uint64)
        parts = (piece & 0x7F).astype(np.uint64) << (np.uint64(7) * place)
        pieces.append(np.bitwise_or.reduceat(parts, first).view(np.int64))
        start += piece.size
    return np.concatenate(pieces)


def _fields(payload: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, start, end of the value) of one message; unknown fields pass through."""
    at = start
    while at < end:
        tag, at = _varint(payload, at, end)
        wire = tag & 7
        if wire == _BYTES:
            length, at = _varint(payload, at, end)
        elif wire == _VARINT:
            length = _varint(payload, at, end)[1] - at
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise WireError(f"wire type {wire} at byte {at} is not allowed in a tf.train.Example")
        if at + length > end:
            raise WireError(f"the field at byte {at} states {length} bytes, but its message ends after {end - at}")
        yield tag >> 3, wire, at, at + length
        at += length


def _varint(payload: memoryview, at: int, end: int) -> tuple[int, int]:
    """Return the number at `at` and where the next byte lies."""
    value = shift = 0
    for position in range(at, min(end, at + _LONGEST_VARINT)):
        byte = payload[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
    raise WireError(f"the number at byte {at} has no end")
