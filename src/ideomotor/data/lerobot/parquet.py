"""Parquet files of strangers, read with errors that name the file; arrow columns to numpy and back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ideomotor.core.errors import UserError
from ideomotor.data.dataset import Feature

ArrowTable = Any  # pyarrow ships no types: these names say which of its classes is meant
ArrowSchema = Any
ArrowColumn = Any

LARGEST_GROUP = 4 << 30  # [bytes] of a decoded row group; a compressed file may claim more than any machine holds
DAMAGED = (pa.ArrowException, OSError, ValueError, KeyError)  # what pyarrow raises on damaged files


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a parquet file, mapped into memory.

    Raises:
        UserError: missing, truncated, or not parquet.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing, though the dataset refers to it; restore it from a copy of the dataset")
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except DAMAGED as error:
        raise damaged(path, error) from error
    for group in range(file.num_row_groups):
        if file.metadata.row_group(group).total_byte_size > LARGEST_GROUP:
            raise UserError(
                f"{path} claims a row group above {LARGEST_GROUP} bytes; it is refused, write smaller row groups"
            )
    return file


def read_table(path: Path, columns: Sequence[str] | None = None) -> ArrowTable:
    """Read a whole parquet file, or those of its columns that exist.

    Raises:
        UserError: as in `open_parquet`.
    """
    file = open_parquet(path)
    known = set(file.schema_arrow.names)
    try:
        table = file.read(columns=None if columns is None else [name for name in columns if name in known])
        table.validate(full=True)
        return table
    except DAMAGED as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> UserError:
    """Return the error for a file that cannot be read."""
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return UserError(
        f"{path} cannot be read as parquet ({reason}): it is truncated or damaged; restore it from a copy of the dataset"
    )


def to_numpy(column: ArrowColumn, feature: Feature, where: str) -> np.ndarray:
    """Return a numeric or string column as an array of the declared dtype, `(frames, *shape)`; shape (1,) becomes `(frames,)`.

    Every list flavour that writers in the field use is accepted: fixed-size, variable, large, nested, and the extension
    types of the `datasets` library.

    Raises:
        UserError: holes, or vectors of another length than declared.
    """
    if column.type == pa.string() or column.type == pa.large_string():
        return np.array(column.to_pylist(), dtype=object)
    values, frames = column.combine_chunks(), len(column)
    if isinstance(values, pa.ChunkedArray):  # zero or many chunks, depending on pyarrow's version
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], column.type)
    holes = values.null_count
    while isinstance(values, pa.ExtensionArray) or hasattr(values, "flatten") and pa.types.is_nested(values.type):
        if pa.types.is_struct(values.type):
            raise UserError(
                f"{where} holds {values.type}, declared as {feature.dtype}; correct `dtype` in meta/info.json"
            )
        values = values.storage if isinstance(values, pa.ExtensionArray) else values.flatten()
        holes += values.null_count
    if holes:
        raise UserError(f"{where} has {holes} empty values; fill them, or take the column out of `features`")
    size = int(np.prod(feature.shape))
    if len(values) != frames * size:
        raise UserError(
            f"{where} holds {len(values)} numbers in {frames} frames; its shape {list(feature.shape)} asks for"
            f" {frames * size}. Correct `shape` in meta/info.json or the vectors"
        )
    try:
        array = values.to_numpy(zero_copy_only=False).astype(feature.dtype, copy=False)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise UserError(
            f"{where} is of type {column.type}, declared as {feature.dtype}; correct one of them"
        ) from error
    return array if feature.shape == (1,) else array.reshape(frames, *feature.shape)


def to_arrow(array: np.ndarray) -> ArrowColumn:
    """Undo `to_numpy`: `(frames,)` becomes a plain column, `(frames, n)` a column of fixed-size lists."""
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    return flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, array.shape[1])


def image_bytes(column: ArrowColumn) -> list[bytes | None]:
    """Return the encoded images of an `image` column, None where a row has none."""
    structs: Any = column.combine_chunks()
    if isinstance(structs, pa.ChunkedArray):
        structs = pa.concat_arrays(structs.chunks)
    if pa.types.is_struct(structs.type):
        return pa.StructArray.field(structs, "bytes").to_pylist()
    return structs.to_pylist()
