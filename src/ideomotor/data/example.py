"""`tf.train.Example` records, parsed from the wire format without protobuf.

`Example{1: Features{1: map<string, Feature>}}`; `Feature` is one of `{1: BytesList, 2: FloatList, 3: Int64List}`; each list is
`{1: repeated value}`. Byte strings (encoded images above all) are not copied: their places in the payload are returned.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from ideomotor.core.errors import UserError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_LONGEST_VARINT = 10  # [bytes] a negative int64


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


Feature = Strings | Float32[np.ndarray, " N"] | Int64[np.ndarray, " N"] | None  # None: the kind is not set


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
    return features


def _map_entry(payload: memoryview, start: int, end: int) -> tuple[str, Feature]:
    key, feature = "", None
    for number, wire, at, stop in _fields(payload, start, end):
        if (number, wire) == (1, _BYTES):
            try:
                key = bytes(payload[at:stop]).decode()
            except UnicodeDecodeError as error:
                raise WireError(f"the feature name at byte {at} is not UTF-8") from error
        elif (number, wire) == (2, _BYTES):
            feature = _feature(payload, at, stop)
    return key, feature


def _feature(payload: memoryview, start: int, end: int) -> Feature:
    feature: Feature = None
    for number, wire, at, stop in _fields(payload, start, end):
        if wire == _BYTES and number == 1:
            feature = _strings(payload, at, stop)
        elif wire == _BYTES and number == 2:  # field numbers of the format
            feature = _floats(payload, at, stop)
        elif wire == _BYTES and number == 3:
            feature = _integers(payload, at, stop)
    return feature


def _strings(payload: memoryview, start: int, end: int) -> Strings:
    places = [
        (at, stop - at) for number, wire, at, stop in _fields(payload, start, end) if (number, wire) == (1, _BYTES)
    ]
    offset_length = np.array(places, np.int64).reshape(-1, 2)
    return Strings(np.ascontiguousarray(offset_length[:, 0]), np.ascontiguousarray(offset_length[:, 1]))


def _floats(payload: memoryview, start: int, end: int) -> Float32[np.ndarray, " N"]:
    runs: list[np.ndarray] = []
    for number, wire, at, stop in _fields(payload, start, end):
        if number == 1 and wire in (_BYTES, _FIXED32):  # a packed run, or one unpacked value
            if (stop - at) % 4:
                raise WireError(f"the packed floats at byte {at} take {stop - at} bytes, which is no multiple of 4")
            runs.append(np.frombuffer(payload[at:stop], "<f4"))
    return np.concatenate(runs).astype(np.float32) if runs else np.zeros(0, np.float32)


def _integers(payload: memoryview, start: int, end: int) -> Int64[np.ndarray, " N"]:
    runs = [
        _varints(payload, at, stop)
        for number, wire, at, stop in _fields(payload, start, end)
        if number == 1 and wire in (_BYTES, _VARINT)
    ]
    return np.concatenate(runs) if runs else np.zeros(0, np.int64)


def _varints(payload: memoryview, start: int, end: int) -> Int64[np.ndarray, " N"]:
    """Decode a run of varints at once; negative numbers are their 64-bit two's complement in ten bytes."""
    raw = np.frombuffer(payload[start:end], np.uint8)
    if raw.size == 0:
        return np.zeros(0, np.int64)
    last = np.flatnonzero(raw < 0x80)  # the top bit says that more bytes follow
    if last.size == 0 or last[-1] != raw.size - 1:
        raise WireError(f"the integers at byte {start} end inside a number")
    first = np.concatenate(([0], last[:-1] + 1))
    length = last - first + 1
    if length.max() > _LONGEST_VARINT:
        raise WireError(f"an integer at byte {start} takes {length.max()} bytes; at most {_LONGEST_VARINT} are allowed")
    place = (np.arange(raw.size) - np.repeat(first, length)).astype(np.uint64)
    parts = (raw & 0x7F).astype(np.uint64) << (np.uint64(7) * place)
    return np.bitwise_or.reduceat(parts, first).view(np.int64)


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
