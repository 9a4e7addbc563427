"""The columns of a dataset too large for memory: written once, then memory-mapped.

A store holds columns of *all* frames of a dataset, one `.npy` file each, where its episodes begin, and their instructions. A file's name is a
hash of the dataset's content and of the column, so another dataset never finds it, and it is complete or absent.

N = frames, E = episodes.
"""

import contextlib
import errno
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
from jaxtyping import Int64, UInt8
from numpy.lib import format as npy
from tqdm import tqdm

from ideomotor.core import files, jsonable
from ideomotor.core.errors import UserError, unknown
from ideomotor.data.cache import user_cache
from ideomotor.data.dataset import ACTION, STATE, Dataset

FORMAT = 1
IN_MEMORY = 256 << 20  # [bytes] columns up to this size are loaded, larger ones are mapped
EXPERT_CHUNK = "expert.chunk"
LABELS = "label."
_STARTS, _TEXT_STARTS, _TEXT = "#starts", "#text starts", "#text"  # no column has such a name


class Texts(Sequence[str]):
    """The instructions of all episodes, as UTF-8 one after the other."""

    def __init__(self, utf8: UInt8[np.ndarray, " bytes"], starts: Int64[np.ndarray, " _"]) -> None:
        self._utf8, self._starts = utf8, starts

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._utf8[int(self._starts[index]) : int(self._starts[index + 1])].tobytes().decode()

    def __len__(self) -> int:
        return len(self._starts) - 1


class ColumnStore:
    """Memory-mapped columns. Pickled as file names, so that processes share the memory."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self.paths = dict(paths)
        self._arrays = {name: mapped(path) for name, path in paths.items()}
        self.starts: Int64[np.ndarray, " _"] = self._arrays[_STARTS]  # first frame of each episode
        self.texts = Texts(self._arrays[_TEXT], self._arrays[_TEXT_STARTS])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.paths,)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise unknown("column of the store", name, [n for n in self._arrays if not n.startswith("#")])
        return self._arrays[name]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.paths.values())


def wanted_columns(dataset: Dataset, labels: Sequence[str] | None = None) -> dict[str, str]:
    """Return the columns that training reads from a dataset, and as which dtype; the state only where there is one.

    Args:
        dataset: any.
        labels: names of the columns that windows carry along; default all that are called `label.*`.
    """
    names = [name for name in dataset.features if name.startswith(LABELS)] if labels is None else labels
    for name in (ACTION, *names):
        if name not in dataset.features:
            raise unknown(f"column of {dataset.path}", name, dataset.features)
    always = {name: "float32" for name in (STATE, ACTION, EXPERT_CHUNK) if name in dataset.features}
    return always | {name: dataset.features[name].dtype for name in names}


def columns_size(dataset: Dataset, columns: Mapping[str, str]) -> int:
    """Return how many bytes these columns take, of all frames."""
    frame = sum(int(np.prod(dataset.features[n].shape)) * np.dtype(dtype).itemsize for n, dtype in columns.items())
    return frame * sum(dataset.length(episode) for episode in range(len(dataset)))


def large_columns(
    dataset: Dataset, labels: Sequence[str] | None = None, in_memory: int = IN_MEMORY, folder: Path | None = None
) -> ColumnStore | None:
    """Return the store of a dataset whose columns are too large to load, None for others."""
    columns = wanted_columns(dataset, labels)
    return None if columns_size(dataset, columns) <= in_memory else open_columns(dataset, columns, folder)


def open_columns(dataset: Dataset, columns: Mapping[str, str], folder: Path | None = None) -> ColumnStore:
    """Return the memory-mapped columns of a dataset; write them if that was never done.

    Args:
        dataset: any.
        columns: names, and the dtype that each is kept as (`wanted_columns`).
        folder: where stores lie; default `columns` in the user's cache.

    Raises:
        UserError: an episode cannot be read, or no space.
    """
    place = folder or user_cache() / "columns"
    place.mkdir(parents=True, exist_ok=True)
    paths = {
        name: place / f"{jsonable.fingerprint([FORMAT, dataset.content_hash, name, dtype])[:32]}.npy"
        for name, dtype in {**columns, _STARTS: "int64", _TEXT_STARTS: "int64", _TEXT: "uint8"}.items()
    }
    with files.locked(paths[_STARTS].with_suffix(".lock")):  # of two processes that start together one writes
        missing = {name: dtype for name, dtype in columns.items() if not paths[name].exists()}
        if not paths[_STARTS].exists() or not paths[_TEXT].exists() or not paths[_TEXT_STARTS].exists():
            _write_places(dataset, paths)
        if missing:
            try:
                _write(dataset, missing, paths, np.load(paths[_STARTS], mmap_mode="r"))
            except OSError as error:
                raise no_space(error, f"{columns_size(dataset, missing) / 1e6:.0f} MB of columns", place) from error
    return ColumnStore(paths)


def _write_places(dataset: Dataset, paths: Mapping[str, Path]) -> None:
    count = len(dataset)
    lengths = np.fromiter((dataset.length(e) for e in range(count)), np.int64, count)
    ends = np.zeros(count + 1, np.int64)
    with files.atomic_path(paths[_TEXT]) as temporary, temporary.open("w+b") as file:
        write_header(file, "uint8", (0,))
        begin = file.tell()
        for episode in range(count):
            file.write(dataset.instruction(episode).encode())
            ends[episode + 1] = file.tell() - begin
        file.seek(0)
        write_header(file, "uint8", (int(ends[-1]),))
        assert file.tell() == begin, "numpy leaves room for the length in its header"
    for name, array in ((_TEXT_STARTS, ends), (_STARTS, np.concatenate(([0], np.cumsum(lengths))))):
        with files.atomic_path(paths[name]) as temporary, temporary.open("wb") as file:
            np.save(file, array)


def _write(
    dataset: Dataset, columns: Mapping[str, str], paths: Mapping[str, Path], starts: Int64[np.ndarray, " _"]
) -> None:
    """Write columns side by side, each episode read once."""
    with contextlib.ExitStack() as stack:
        opened: dict[str, IO[bytes]] = {}
        for name, dtype in columns.items():
            temporary = stack.enter_context(files.atomic_path(paths[name]))
            opened[name] = stack.enter_context(temporary.open("wb"))
            write_header(opened[name], dtype, (int(starts[-1]), *dataset.features[name].shape))
        progress = stack.enter_context(
            tqdm(total=int(starts[-1]), desc="write columns once", unit=" frames", disable=None, leave=False)
        )
        for episode, length in enumerate(np.diff(starts).tolist()):
            for name, dtype in columns.items():
                values = np.ascontiguousarray(dataset.column(episode, name), dtype)
                if values.shape != (length, *dataset.features[name].shape):
                    raise UserError(
                        f"{dataset.path}, episode {episode}: column '{name}' is {values.shape}, the dataset states"
                        f" {length} frames of {dataset.features[name].shape}; run `ideomotor data check`"
                    )
                opened[name].write(values.data if values.size else b"")
            progress.update(length)


def write_header(file: IO[bytes], dtype: str, shape: tuple[int, ...]) -> None:
    """Write the beginning of an `.npy` file; what follows is the array."""
    npy.write_array_header_1_0(file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})


def no_space(error: OSError, what: str, folder: Path) -> Exception:
    """Return what to raise: the error itself, or where the disk is full, what did not fit."""
    if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return error
    return UserError(
        f"no space for {what} in {folder} ({error.strerror}); free some, or set XDG_CACHE_HOME to a larger disk"
    )


def mapped(path: Path) -> np.ndarray:
    """Return the array in an `.npy` file, memory-mapped for single rows: the system reads no pages ahead."""
    with path.open("rb") as file:
        npy.read_magic(file)
        shape, _, dtype = npy.read_array_header_1_0(file)
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(view, dtype, int(np.prod(shape)), file.tell()).reshape(shape)
