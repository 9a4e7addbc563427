"""Open a dataset of parquet or HDF5 files in a child process before this process does, once for each state of its files.

Fuzzing has found damaged files that end the process in pyarrow (an exception that C++ cannot catch) and that never return from HDF5
(a heap of variable-length values that points into itself). What opening reads is tried behind the wall: the tables under `meta`
and the footers of the first data files, the layout of every HDF5 file, its first images. `data check` reads the rest there.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from ideomotor.core import files
from ideomotor.core.errors import UserError
from ideomotor.data.cache import user_cache
from ideomotor.data.child import Child
from ideomotor.data.dataset import Reading

VERSION = 1  # of what is looked at; a new one looks at every dataset again
DATA_FILES = 32  # parquet files of frames that are looked at: datasets may have thousands
SECONDS = 60.0


def check_once(path: Path, how: Reading) -> None:
    """Open the parquet or HDF5 files of a dataset in a child process; return at once where they have passed before.

    Raises:
        UserError: they cannot be read, or ended the child.
    """
    held = parquet_files(path) if (path / "meta").is_dir() else hdf5_files(path)
    if not held:
        return
    mark = user_cache() / "examined" / _state(held, how)
    if mark.exists():
        return
    with Child(seconds=SECONDS) as child:
        if (path / "meta").is_dir():
            for file in held:
                child.call(look_at_parquet, str(file), about=file)
        else:
            child.call(look_at_hdf5, str(path), dataclasses.asdict(dataclasses.replace(how, decoder=None)), about=path)
    files.write_bytes(mark, str(path).encode("utf-8", "replace"))


def parquet_files(root: Path) -> list[Path]:
    """Return the tables of a LeRobotDataset that opening it reads, and the first of those with frames."""
    meta = sorted((root / "meta").rglob("*.parquet"))
    frames = sorted((root / "data").glob("*/*.parquet"))[:DATA_FILES]
    return [*meta, *frames]


def hdf5_files(path: Path) -> list[Path]:
    """Return the HDF5 files of a dataset, none where it has another format."""
    from ideomotor.data.hdf5.files import find_files, looks_like_hdf5

    return find_files(path) if looks_like_hdf5(path) else []


def look_at_parquet(path: str) -> int:
    """Read the footer with the place of every column, and the whole table where it has no images; return its rows."""
    from ideomotor.data.lerobot.parquet import DAMAGED, damaged, open_parquet, read_table

    file = open_parquet(Path(path))
    try:
        for group in range(file.num_row_groups):
            row_group = file.metadata.row_group(group)
            for column in range(row_group.num_columns):
                row_group.column(column).to_dict()
    except DAMAGED as error:
        raise error if isinstance(error, UserError) else damaged(Path(path), error) from error
    if "meta" in Path(path).parts:
        read_table(Path(path))
    return int(file.metadata.num_rows)


def look_at_hdf5(path: str, how: dict[str, Any]) -> int:
    """Open the dataset and read the first frame of every episode's images of variable length; return its episodes."""
    from ideomotor.data.hdf5.aloha import AlohaDataset
    from ideomotor.data.hdf5.files import open_hdf5

    dataset = open_hdf5(Path(path), Reading(**how))
    if isinstance(dataset, AlohaDataset):
        dataset.touch_images()
    return len(dataset)


def _state(held: list[Path], how: Reading) -> str:
    words = [f"{VERSION} {how.salvage} {how.version} {how.colour}"]
    for file in held:
        stat = file.stat()
        words.append(f"{file.resolve()} {stat.st_mtime_ns} {stat.st_size}")
    return hashlib.sha256("\n".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:32]
