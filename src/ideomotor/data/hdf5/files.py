"""HDF5 files of strangers: read so that nothing outside of the file is touched, nothing is executed, and sizes are capped.

HDF5 can point elsewhere in four ways (external links, soft links, virtual datasets, external storage), hold Python objects and
name compression plug-ins that are loaded as code. All of these are refused. Handles belong to one process: `OpenFiles` opens
them where they are first used.
"""

import contextlib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import h5py
import numpy as np

from ideomotor.core.errors import UserError

if TYPE_CHECKING:
    from ideomotor.data.dataset import Dataset, Reading

Node = Any  # h5py ships no types: a Group or a Dataset

SUFFIXES = (".hdf5", ".h5", ".hdf")
OPEN_FILES = 32
CHUNK_CACHE = 4 << 20  # [bytes] of decompressed chunks a dataset: neighbouring frames share one

LARGEST_GROUP = 1 << 20  # members
LARGEST_COLUMN = 1 << 30  # [bytes] of one column of one episode
LARGEST_CHUNK = 1 << 28  # [bytes], decompressed
LARGEST_TEXT = 1 << 24  # characters of an attribute
LARGEST_RATIO = 1100  # of decompressed to stored bytes; DEFLATE reaches 1032
_SMALL = 1 << 20  # [bytes] a dataset that was declared and never filled may be this large

_FILTERS = {
    1: "deflate",
    2: "shuffle",
    3: "fletcher32",
    32000: "lzf",
}  # what h5py has built in and writers in the field use
DAMAGED = (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError)  # what h5py raises


@contextlib.contextmanager
def reading(where: object) -> Generator[None]:
    """Turn what h5py raises on damaged files into errors that name the place.

    Raises:
        UserError: in place of each of `DAMAGED`.
    """
    try:
        yield
    except UserError:
        raise
    except DAMAGED as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"{where} cannot be read as HDF5 ({reason}): it is damaged, or still being written; copy it again"
        ) from error


class OpenFiles:
    """HDF5 files, opened when first asked for; a process that was forked opens its own."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, Node] = OrderedDict()
        self._process = os.getpid()

    def __call__(self, path: Path) -> Node:
        """Return the open file.

        Raises:
            UserError: missing, no HDF5, or damaged.
        """
        if self._process != os.getpid():
            self._files, self._process = OrderedDict(), os.getpid()
        if path not in self._files:
            self._files[path] = open_file(path)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(path)
        return self._files[path]


def open_file(path: Path) -> Node:
    """Open one HDF5 file for reading.

    Raises:
        UserError: missing, no HDF5, or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; give an HDF5 file, or copy the dataset again")
    with reading(path):
        return h5py.File(path, "r", locking="best-effort", rdcc_nbytes=CHUNK_CACHE)


def find_files(path: Path) -> list[Path]:
    """Return the HDF5 files that `path` is or directly holds, by name.

    Raises:
        UserError: there are none.
    """
    if path.is_file():
        return [path]
    found = sorted(child for child in path.glob("*") if child.suffix in SUFFIXES and child.is_file())
    if not found:
        raise UserError(f"{path} holds no HDF5 files ({', '.join(SUFFIXES)}); give the folder that contains them")
    return found


def numbered(names: Iterable[str], pattern: str) -> list[tuple[int, str]]:
    """Return number and name of those that match, by number.

    >>> numbered(["demo_10", "demo_2", "other"], "demo_([0-9]{1,9})")
    [(2, 'demo_2'), (10, 'demo_10')]
    """
    matches = ((re.fullmatch(pattern, name, re.ASCII), name) for name in names)
    return sorted((int(match[1]), name) for match, name in matches if match)


def gap_note(numbers: list[int], kind: str) -> tuple[str, ...]:
    """Say which numbers are missing between the first and the last.

    >>> gap_note([0, 1, 4], "demo")
    ('3 demos are numbered 0 to 4: 2 numbers are missing',)
    """
    missing = numbers[-1] - numbers[0] + 1 - len(set(numbers)) if numbers else 0
    if not missing:
        return ()
    return (f"{len(numbers)} {kind}s are numbered {numbers[0]} to {numbers[-1]}: {missing} numbers are missing",)


def member(group: Node, name: str) -> Node | None:
    """Return what lies at `name` below a group ("obs/agentview_rgb"), None where there is nothing.

    Raises:
        UserError: the name leads through a link to elsewhere.
    """
    where = f"{group.file.filename}, '{group.name}'"
    return _walk(group, [part for part in name.split("/") if part], where)


def _walk(group: Node, parts: list[str], where: str) -> Node | None:
    if not parts:
        return group
    with reading(where):
        link = group.get(parts[0], getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            kind = type(link).__name__
            raise UserError(f"{where}: '{parts[0]}' is a {kind}, which is not followed; copy the data there")
        return _walk(group[parts[0]], parts[1:], where)


def members(group: Node, where: object) -> list[str]:
    """Return the names in a group.

    Raises:
        UserError: too many, or no text.
    """
    with reading(where):
        if not isinstance(group, h5py.Group):
            raise UserError(f"{where} is no HDF5 group; the layout asks for one")
        if len(group) > LARGEST_GROUP:
            raise UserError(f"{where} has {len(group)} members; at most {LARGEST_GROUP} are read")
        names = [str(name) for name in group]
        if not all(name.isprintable() for name in names):
            raise UserError(f"{where} has a member whose name is no readable text; rename it")
        return names


def array(node: Node | None, where: object) -> Node:
    """Return a dataset of numbers after checking that it can be read without harm.

    Raises:
        UserError: missing, no numbers, stored elsewhere, compressed by a plug-in, or of a size that its bytes cannot hold.
    """
    if node is None:
        raise UserError(f"{where} is missing; the layout asks for it")
    with reading(where):
        if not isinstance(node, h5py.Dataset):
            raise UserError(f"{where} is no HDF5 dataset; the layout asks for one")
        if node.dtype.kind not in "biuf" or node.dtype.itemsize > 8:
            raise UserError(f"{where} holds {node.dtype}; numbers of at most 64 bits are read")
        check_storage(node, where)
    return node


def check_storage(node: Node, where: object) -> None:
    """Refuse datasets that are not in the file itself, and sizes that no honest file has.

    Raises:
        UserError: says which.
    """
    if node.shape is None or not node.shape:
        raise UserError(f"{where} is a single value; frames along the first axis are needed")
    if node.is_virtual or node.external:
        raise UserError(f"{where} is stored in other files, which are not followed; copy it with h5repack")
    properties = node.id.get_create_plist()
    for number in range(properties.get_nfilters()):
        code = properties.get_filter(number)[0]
        if code not in _FILTERS:
            raise UserError(
                f"{where} is compressed by the filter {code}; read are {', '.join(_FILTERS.values())}:"
                " rewrite the file with h5repack -f GZIP=4"
            )
    size = _bytes(node.shape, node.dtype)
    if node.chunks and _bytes(node.chunks, node.dtype) > LARGEST_CHUNK:
        raise UserError(f"{where} has chunks of {node.chunks}; rewrite it in chunks of at most {LARGEST_CHUNK} bytes")
    if size > max(_SMALL, LARGEST_RATIO * node.id.get_storage_size()):
        stored = node.id.get_storage_size()
        raise UserError(
            f"{where} claims {size} bytes, of which {stored} are stored; the file is damaged, copy it again"
        )


def read_all(node: Node, where: object) -> np.ndarray:
    """Return a whole dataset that `array` has checked.

    Raises:
        UserError: damaged, or too large.
    """
    with reading(where):
        if _bytes(node.shape, node.dtype) > LARGEST_COLUMN:
            raise UserError(f"{where} has the shape {node.shape}; at most {LARGEST_COLUMN} bytes are read at once")
        return np.asarray(node[()])


def has_attribute(node: Node, names: Iterable[str], where: object) -> bool:
    """Whether a node has one of the attributes.

    Raises:
        UserError: damaged.
    """
    with reading(where):
        return any(name in node.attrs for name in names)


def text_attribute(node: Node, name: str, where: object) -> str | None:
    """Return an attribute that is text, None where there is none of that name, or no text.

    Raises:
        UserError: damaged, or too long.
    """
    with reading(where):
        if name not in node.attrs:
            return None
        kind = node.attrs.get_id(name)
        if kind.shape != () or not (kind.dtype.kind == "S" or h5py.check_string_dtype(kind.dtype)):
            return None
        value: Any = node.attrs[name]
        if len(value) > LARGEST_TEXT:
            raise UserError(f"{where}: the attribute '{name}' has {len(value)} characters; {LARGEST_TEXT} are read")
        return (
            value.decode(errors="replace")
            if isinstance(value, bytes)
            else str(value).encode("utf-8", "replace").decode()
        )


def json_attribute(node: Node, name: str, where: object) -> dict[str, Any]:
    """Return the object in a JSON attribute, empty where there is no such attribute.

    Raises:
        UserError: it is no JSON object.
    """
    text = text_attribute(node, name, where)
    if text is None:
        return {}
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: the attribute '{name}' is not JSON ({error}); copy the file again") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: the attribute '{name}' should hold a JSON object, it holds {type(value).__name__}")
    return cast("dict[str, Any]", value)


def inside(value: Mapping[str, Any], *keys: str) -> Any:
    """Return what lies at a path of keys in nested objects, None where it ends before.

    >>> inside({"env_kwargs": {"control_freq": 20}}, "env_kwargs", "control_freq")
    20
    """
    found: Any = value
    for key in keys:
        found = cast("dict[str, Any]", found).get(key) if isinstance(found, dict) else None
    return found


def looks_like_hdf5(path: Path) -> bool:
    """Whether `path` is an HDF5 file by its first bytes, or a folder that holds files named so."""
    if path.is_file():
        with path.open("rb") as file:
            return file.read(8) == b"\x89HDF\r\n\x1a\n"
    return any(child.suffix in SUFFIXES and child.is_file() for child in path.glob("*"))


def open_hdf5(path: Path, reading: "Reading") -> "Dataset":
    """Open HDF5 files by the layout that they have: LIBERO, robomimic or ALOHA.

    Raises:
        UserError: none of the three, or damaged.
    """
    from ideomotor.data.hdf5 import aloha, libero, robomimic

    if libero.looks_like(path):
        return libero.LiberoDataset(path)
    if robomimic.looks_like(path):
        return robomimic.RobomimicDataset(path)
    if aloha.looks_like(path):
        return aloha.AlohaDataset(path, reading)
    file = find_files(path)[0]
    held = ", ".join(members(open_file(file), file)[:8]) or "nothing"
    raise UserError(
        f"{file} holds {held}, which is none of the HDF5 layouts that are read: robomimic (data/demo_<i>/actions), LIBERO"
        " (<task>_demo.hdf5 with data/demo_<i>/obs/agentview_rgb), ALOHA (episode_<i>.hdf5 with observations/qpos and action)"
    )


def _bytes(shape: Iterable[int], dtype: np.dtype) -> int:
    size = dtype.itemsize
    for n in shape:
        size *= int(n)  # Python's integers do not overflow
    return size
