"""Safetensors, one file or shards, read and written tensor by tensor.

Nothing is allocated because a header claims it: a file is checked against its own size first. What is read goes straight into the
memory of the tensor that wants it; a conversion on the way (another dtype, another device) costs one buffer of `CHUNK` bytes.

Format of safetensors: u64 length of the header, the header (JSON: name to dtype, shape and byte range), the bytes.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from ideomotor.core.errors import UserError
from ideomotor.core.files import atomic_path, write_json
from ideomotor.model.tensors import Entry, Place, Renamed, Tensors

CHUNK = 1 << 24  # [bytes] buffer of a conversion
LARGEST_HEADER = 100_000_000  # [bytes] as in the safetensors library
LARGEST_RANK = 64
SHARD = 5_000_000_000  # [bytes] largest shard that is written; a larger tensor has a shard of its own
FILE, INDEX = "model.safetensors", "model.safetensors.index.json"

DTYPES = {  # in the library's order, which is also the order of its files (the last one comes first)
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
RANK = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}


# ------------------------------------------------------------------------------------------------------------ safetensors


class Safetensors:
    """The tensors of one file, or of several."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.entries: dict[str, Entry] = {}
        for file in files:
            for name, entry in read_header(file).items():
                if name in self.entries:
                    other = cast("Place", self.entries[name].place).file.name
                    raise UserError(
                        f"{file} and {other} both hold the tensor {name}; take all shards from one checkpoint"
                    )
                self.entries[name] = entry

    def read(self, name: str, into: Tensor) -> None:
        """Copy a tensor into one of the same shape."""
        entry = self.entries[name]
        assert tuple(into.shape) == entry.shape, f"{name} is {entry.shape}, not {tuple(into.shape)}"
        place = cast("Place", entry.place)
        with place.file.open("rb", buffering=0) as file:
            file.seek(place.start)
            _receive(cast("BinaryIO", file), entry.dtype, into.detach(), place.file)


def read_header(path: Path) -> dict[str, Entry]:
    """Return what a safetensors file holds, in the order of its bytes; no tensor is read.

    Raises:
        UserError: the file is cut off, is another kind of file, or its header contradicts itself or the file's size.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise UserError(f"{path} is no safetensors file: {_what_instead(start, length, size)}")
        text = file.read(length)
    try:
        header: Any = json.loads(text, object_pairs_hook=_no_duplicates)
        if not isinstance(header, dict):
            raise _HeaderError("its header is no JSON object")
        header.pop("__metadata__", None)
        entries = {str(name): _entry(name, value, path, 8 + length) for name, value in header.items()}
    except (ValueError, RecursionError) as error:  # of ours, of JSON and of UTF-8
        reason = str(error) if isinstance(error, _HeaderError) else f"its header cannot be read ({error})"
        raise UserError(f"{path} is no safetensors file: {reason}; copy it again") from error
    ordered = dict(sorted(entries.items(), key=lambda item: (cast("Place", item[1].place).start, item[1].size)))
    _check_ranges(ordered, path, 8 + length, size)
    return ordered


class _HeaderError(ValueError):
    """Something in a header, in words."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise _HeaderError(f"it names {name!r} twice")
        result[name] = value
    return result


def _what_instead(start: bytes, length: int, size: int) -> str:
    if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and 2 <= start[1] <= 5):
        return "it is a pickle of PyTorch under another name; give it its own name again (.pt), or ask for safetensors"
    if size < 8:
        return f"it has {size} bytes; copy it again"
    return (
        f"its first bytes announce a header of {length:,} bytes (at most {LARGEST_HEADER:,} are allowed), the file has "
        f"{size:,}: it is cut off, or another kind of file; copy it again"
    )


def _entry(name: str, value: Any, path: Path, data: int) -> Entry:
    match value:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise _HeaderError(f"{name!r} has no dtype, shape and byte range in its header")
    if code not in DTYPES:
        raise _HeaderError(f"{name!r} is of dtype {code!r}; known are {', '.join(DTYPES)}")
    if len(shape) > LARGEST_RANK or not all(type(side) is int and 0 <= side < 2**63 for side in shape):
        raise _HeaderError(f"{name!r} has the shape {str(shape)[:80]}")
    entry = Entry(DTYPES[code], tuple(shape), Place(path, data + begin))
    if begin < 0 or end - begin != entry.size:
        raise _HeaderError(f"{name!r}, {code} {shape}, is {entry.size:,} bytes; its header gives it {end - begin:,}")
    return entry


def _check_ranges(ordered: Mapping[str, Entry], path: Path, data: int, size: int) -> None:
    """Each byte behind the header belongs to one tensor."""
    at = data
    for name, entry in ordered.items():
        start = cast("Place", entry.place).start
        if start != at:
            what = "shares bytes with another tensor" if start < at else "leaves a gap before it"
            raise UserError(f"{path} is no safetensors file: {name!r} {what}; copy it again")
        at += entry.size
    if at != size:
        what = "is cut off" if at > size else "has bytes that belong to no tensor"
        raise UserError(f"{path} {what}: its header describes {at:,} bytes, the file has {size:,}; copy it again")


def _receive(file: BinaryIO, dtype: torch.dtype, into: Tensor, path: Path) -> None:
    """Read a tensor's bytes, from where the file stands, into a tensor."""
    if into.numel() == 0:
        return
    if not into.is_contiguous():
        whole = torch.empty(into.shape, dtype=dtype)
        _receive_bytes(file, whole, path)
        into.copy_(whole)
    elif into.dtype == dtype and into.device.type == "cpu":
        _receive_bytes(file, into, path)
    else:
        flat, step = into.view(-1), CHUNK // dtype.itemsize
        buffer = torch.empty(min(step, len(flat)), dtype=dtype)
        for start in range(0, len(flat), step):
            part = buffer[: len(flat) - start]
            _receive_bytes(file, part, path)
            flat[start : start + len(part)].copy_(part)


def _receive_bytes(file: BinaryIO, into: Tensor, path: Path) -> None:
    view, at = _bytes(into), 0
    while at < len(view):
        count = cast("Any", file).readinto(view[at:])
        if not count:
            raise UserError(f"{path} ended while it was read; was it replaced meanwhile? Start again")
        at += count


def _bytes(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU."""
    return memoryview(cast("Any", tensor.detach().view(-1).view(torch.uint8).numpy()))


# ------------------------------------------------------------------------------------------------------------ shards


def open_safetensors(path: Path) -> Safetensors:
    """Open a file, or a folder's `model.safetensors`, or the shards that its index names.

    Raises:
        UserError: files are missing, or index and shards disagree.
    """
    if path.is_file():
        return Safetensors([path])
    whole, index = path / FILE, path / INDEX
    shards = sorted(p for p in path.glob("model-*-of-*.safetensors"))
    if whole.is_file() and (index.is_file() or shards):
        raise UserError(f"{path} has {FILE} and shards too; remove the ones that are not meant")
    if whole.is_file():
        return Safetensors([whole])
    if not index.is_file():
        found = f"{len(shards)} shards without {INDEX}" if shards else f"neither {FILE} nor {INDEX}"
        raise UserError(f"{path} has {found}; copy the checkpoint again, all of its files")
    return _open_shards(index, shards)


def _open_shards(index: Path, present: list[Path]) -> Safetensors:
    names = _weight_map(index)
    files = {file: index.parent / file for file in sorted(set(names.values()))}
    if missing := [file for file, path in files.items() if not path.is_file()]:
        raise UserError(
            f"{index} names {', '.join(missing)}, which {_is(missing)} not there; copy the checkpoint again"
        )
    if extra := [path.name for path in present if path.name not in files]:
        raise UserError(f"{index} does not name {', '.join(extra)}, which {_is(extra)} there; copy the index again")
    tensors = Safetensors(files.values())
    where = {name: cast("Place", entry.place).file.name for name, entry in tensors.entries.items()}
    _refuse(index, "does not name", "that the shards hold", sorted(where.keys() - names.keys()))
    _refuse(index, "names", "that no shard holds", sorted(names.keys() - where.keys()))
    _refuse(index, "names another shard for", "", sorted(name for name in names if names[name] != where[name]))
    return tensors


def _refuse(index: Path, what: str, which: str, names: list[str]) -> None:
    if names:
        some = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        count = f"{len(names)} tensor{'s' if len(names) > 1 else ''} {which}".rstrip()
        raise UserError(f"{index} {what} {count}: {some}. Take index and shards from one checkpoint")


def _is(names: list[str]) -> str:
    return "are" if len(names) > 1 else "is"


def _weight_map(index: Path) -> dict[str, str]:
    try:
        value: Any = json.loads(index.read_bytes(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{index} is not JSON ({error}); copy it again") from error
    names: Any = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise UserError(f"{index} has no weight_map of tensor names to file names; copy it again")
    for file in set(names.values()):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise UserError(f"{index} names {file!r}, which is no safetensors file of its folder; copy it again")
    return names


# ------------------------------------------------------------------------------------------------------------ writing


def write_safetensors(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors one by one: the same tensors give the same bytes, those of the safetensors library."""
    order = sorted(tensors.entries, key=lambda name: (-RANK[tensors.entries[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    at = 0
    for name in order:
        entry = tensors.entries[name]
        header[name] = {
            "dtype": CODES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [at, at + entry.size],
        }
        at += entry.size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            whole = torch.empty(tensors.entries[name].shape, dtype=tensors.entries[name].dtype)
            tensors.read(name, whole)
            if whole.numel():
                file.write(_bytes(whole))


def write_shards(
    folder: Path, tensors: Tensors, largest: int = SHARD, metadata: Mapping[str, str] | None = None
) -> None:
    """Write `model.safetensors`, or several shards of at most `largest` bytes with their index, in the order given."""
    shards: list[dict[str, Entry]] = [{}]
    room = largest
    for name, entry in tensors.entries.items():
        if entry.size > room and shards[-1]:
            shards.append({})
            room = largest
        shards[-1][name] = entry
        room -= entry.size
    if len(shards) == 1:
        write_safetensors(folder / FILE, tensors, metadata)
        return
    names: dict[str, str] = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, Renamed(tensors, {name: name for name in shard}), metadata)
        names |= dict.fromkeys(shard, file)
    total = sum(entry.size for entry in tensors.entries.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))})
