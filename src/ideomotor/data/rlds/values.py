"""The values of one feature of one record, as an array.

N = items, i.e. values of one shape, of all steps together.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64

from ideomotor.core.errors import UserError
from ideomotor.data.rlds.example import Feature, Strings
from ideomotor.data.rlds.features import Leaf
from ideomotor.data.rlds.pixels import decode_pixels

LARGEST = 2 << 30  # [bytes] of one column of one episode, or of one decompressed tensor
MOST_ROWS = 1 << 22  # sequences in one episode; each is an array of its own


def decode(leaf: Leaf, parsed: Mapping[str, Feature], payload: memoryview, steps: int) -> Any:
    """Return the values of a leaf.

    Args:
        leaf: what the record should hold.
        parsed: the record.
        payload: its bytes.
        steps: of the episode, for a leaf of a step.

    Returns:
        An array whose axes are those of the leaf's sequences and of its shape. Where lengths or sizes vary, it is an array of objects,
        one an item of the first axis; of a leaf outside of all sequences, the item itself.

    Raises:
        UserError: the record holds something else.
    """
    rows = [_lengths(parsed, leaf.lengths_key(level)) for level in range(len(leaf.levels) - 1)]
    in_steps = leaf.key.startswith("steps/")
    count = int(rows[-1].sum()) if rows else steps if in_steps else 1 if not leaf.levels else None
    values = parsed.get(leaf.value_key)
    if values is None and leaf.optional:
        items = _absent(leaf, count or 0)
    elif isinstance(values, Strings):
        items = _from_strings(leaf, values, parsed, payload, count)
    else:
        items = _numbers(leaf, np.zeros(0, np.float32) if values is None else values, count)
    for level in reversed(range(len(rows))):
        items = _split(items, rows[level], leaf.levels[level + 1])
    if in_steps and len(items) != steps:
        raise UserError(f"'{leaf.key}' has {len(items)} items for {steps} steps")
    return items if leaf.levels else items[0]


def column_type(leaf: Leaf) -> tuple[str, tuple[int, ...]]:
    """Return dtype and shape (of a step) of the column of a leaf: "string" for text, "object" where sizes vary."""
    inner = leaf.levels[1:]
    if -1 in inner or (-1 in leaf.shape and leaf.kind != "picture"):
        return "object", ()
    return ("string" if leaf.kind == "text" else _numpy_name(leaf)), (*inner, *leaf.shape)


def _numpy_name(leaf: Leaf) -> str:
    """What the values are in memory: a record keeps float64 as float32 unless it is encoded, and numpy has no bfloat16."""
    if leaf.dtype == "bfloat16" or (leaf.dtype == "float64" and leaf.encoding == "none"):
        return "float32"
    return leaf.dtype


def _numbers(leaf: Leaf, values: np.ndarray, count: int | None) -> np.ndarray:
    if leaf.is_bytes and len(values):
        raise UserError(f"'{leaf.key}' holds numbers; features.json declares {leaf.kind}")
    if leaf.is_bytes:
        return np.empty((0, *map(abs, leaf.shape)), object if leaf.kind == "text" else _numpy_name(leaf))
    shape = _whole(leaf, len(values), count)
    if leaf.dtype == "bool":
        return (values != 0).reshape(shape)
    if leaf.dtype == "uint64" and values.dtype == np.int64:
        return values.view(np.uint64).reshape(shape).copy()
    with np.errstate(over="ignore", invalid="ignore"):
        return values.reshape(shape).astype(_numpy_name(leaf))


def _whole(leaf: Leaf, size: int, count: int | None) -> tuple[int, ...]:
    """Return the shape of all items: `size` values, `count` items if that is known."""
    known = int(np.prod([n for n in leaf.shape if n >= 0]))
    unknown = -1 in leaf.shape
    if count is None:
        if unknown:
            raise UserError(f"'{leaf.key}' has sizes that nothing states")
        count = size // known if known else 0
    varies = size // (count * known) if unknown and count * known else 0
    shape = (count, *(varies if n < 0 else n for n in leaf.shape))
    if int(np.prod(shape)) != size:
        raise UserError(f"'{leaf.key}' has {size} values, which are no {count} items of shape {list(leaf.shape)}")
    return shape


def _from_strings(
    leaf: Leaf, strings: Strings, parsed: Mapping[str, Feature], payload: memoryview, count: int | None
) -> np.ndarray:
    if not leaf.is_bytes:
        if len(strings):
            raise UserError(f"'{leaf.key}' holds strings; features.json declares {leaf.dtype}")
        return _numbers(leaf, np.zeros(0, np.int64), count)
    if leaf.kind == "text":
        return _texts(strings.of(payload)).reshape(_whole(leaf, len(strings), count))
    if count is not None and len(strings) != count:
        raise UserError(f"'{leaf.key}' has {len(strings)} strings for {count} items")
    if leaf.kind == "picture":
        return _pictures(leaf, strings.of(payload))
    shapes = [leaf.shape] * len(strings)
    if leaf.has_shapes:
        stored = _integers(parsed, leaf.shape_key)
        if len(stored) != len(strings) * len(leaf.shape):
            raise UserError(f"'{leaf.key}' has {len(strings)} tensors and {len(stored)} sizes of their shapes")
        shapes = [tuple(row) for row in stored.reshape(-1, len(leaf.shape)).tolist()]
    budget, tensors = LARGEST, list[np.ndarray]()
    for text, shape in zip(strings.of(payload), shapes, strict=True):
        tensors.append(_tensor(leaf, text, shape, budget))
        budget -= tensors[-1].nbytes
    return _together(leaf, tensors)


def _tensor(leaf: Leaf, text: bytes, shape: tuple[int, ...], budget: int) -> np.ndarray:
    """Return one encoded tensor; `budget` [bytes] is how large it may be."""
    stored = np.dtype(np.uint16 if leaf.dtype == "bfloat16" else leaf.dtype).newbyteorder("<")
    expected = budget if -1 in shape else int(np.prod(shape, dtype=object)) * stored.itemsize
    if expected > budget or min(shape, default=0) < -1:
        raise UserError(f"'{leaf.key}' states a tensor of shape {list(shape)}; more than {LARGEST} bytes are not read")
    if leaf.encoding == "zlib":
        unpacker = zlib.decompressobj()
        try:
            text = unpacker.decompress(text, expected + 1)
        except zlib.error as error:
            raise UserError(f"'{leaf.key}' holds a tensor that zlib cannot read: {error}") from error
    if len(text) > expected or len(text) % stored.itemsize:
        raise UserError(
            f"'{leaf.key}' holds a tensor of {len(text)} bytes, {leaf.dtype} of shape {list(shape)} expected"
        )
    try:
        values = np.frombuffer(text, stored).reshape(shape)
    except ValueError as error:
        raise UserError(
            f"'{leaf.key}' holds a tensor of {len(text)} bytes, {leaf.dtype} of shape {list(shape)} expected"
        ) from error
    if leaf.dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(leaf.dtype)


def _pictures(leaf: Leaf, files: list[bytes]) -> np.ndarray:
    """Decode pictures; an empty string, the writers' sign for a missing one, is all zeros."""
    channels = leaf.shape[2] if len(leaf.shape) == 3 else -1
    pictures, budget = list[np.ndarray | None](), LARGEST
    for file in files:
        picture = decode_pixels(file, leaf.dtype, channels) if file else None
        pictures.append(picture)
        budget -= 0 if picture is None else picture.nbytes
        _check(leaf, budget)
    first = next((picture for picture in pictures if picture is not None), None)
    blank = tuple(max(n, 1) for n in leaf.shape) if first is None else first.shape
    missing = sum(picture is None for picture in pictures)
    _check(leaf, budget - missing * int(np.prod(blank, dtype=object)) * 4)
    return _together(leaf, [np.zeros(blank, leaf.dtype) if picture is None else picture for picture in pictures])


def _check(leaf: Leaf, budget: int) -> None:
    if budget < 0:
        raise UserError(
            f"'{leaf.key}' takes more than {LARGEST} bytes in one episode, which is more than is read at once"
        )


def _together(leaf: Leaf, items: list[np.ndarray]) -> np.ndarray:
    """Return items as one array, or as an array of objects where a size may vary."""
    if not items:
        return np.empty((0, *map(abs, leaf.shape)), _numpy_name(leaf))
    same = len({item.shape for item in items}) == 1
    if same and (leaf.kind == "picture" or -1 not in leaf.shape):
        return np.stack(items)
    return _objects(items)


def _split(items: np.ndarray, lengths: Int64[np.ndarray, " R"], fixed: int) -> np.ndarray:
    """Cut items into rows; of one length where that is declared, else as an array of objects."""
    ends = np.cumsum(lengths)
    if (int(ends[-1]) if len(ends) else 0) != len(items):
        raise UserError(f"row lengths add up to {int(ends[-1]) if len(ends) else 0}, there are {len(items)} items")
    if fixed >= 0:
        if (lengths != fixed).any():
            raise UserError(f"a sequence of {lengths[lengths != fixed][0]} items, {fixed} are declared")
        return items.reshape(len(lengths), fixed, *items.shape[1:])
    return _objects([items[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)])


def _objects(items: list[Any]) -> np.ndarray:
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array


def _texts(strings: list[bytes]) -> np.ndarray:
    """Return UTF-8 as `str`; what is none stays `bytes`, so that nothing is lost."""
    return _objects([_text(string) for string in strings])


def _text(string: bytes) -> str | bytes:
    try:
        return string.decode()
    except UnicodeDecodeError:
        return string


def _lengths(parsed: Mapping[str, Feature], key: str) -> Int64[np.ndarray, " R"]:
    lengths = _integers(parsed, key)
    if len(lengths) > MOST_ROWS or (len(lengths) and (lengths.min() < 0 or lengths.max() > LARGEST)):
        raise UserError(f"'{key}' states {len(lengths)} row lengths from {lengths.min()} to {lengths.max()}")
    return lengths


def _integers(parsed: Mapping[str, Feature], key: str) -> Int64[np.ndarray, " N"]:
    values = parsed.get(key)
    if isinstance(values, np.ndarray) and values.dtype == np.int64:
        return values
    if values is None or not len(values):
        return np.zeros(0, np.int64)
    raise UserError(f"'{key}' holds no integers")


def _absent(leaf: Leaf, count: int) -> np.ndarray:
    """Return what TFDS puts where an optional feature is absent: the smallest number of its type, or an empty string."""
    shape = (count, *(max(n, 0) for n in leaf.shape))
    if leaf.kind == "text":
        return np.full(shape, "", object)
    dtype = np.dtype(_numpy_name(leaf))
    smallest = np.iinfo(dtype).min if dtype.kind in "iu" else np.finfo(dtype).min if dtype.kind == "f" else 0
    return np.full(shape, smallest, dtype)
