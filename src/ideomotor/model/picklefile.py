"""PyTorch's own files (.pt), read only where they hold nothing but tensors and plain values: a pickle can run code."""

import errno
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ideomotor.core.errors import UserError
from ideomotor.core.files import atomic_path
from ideomotor.model.tensors import InMemory

DEEPEST = 32  # nested dictionaries
LITTLE_ROOM = 64 << 20  # [bytes] a disk with less is full: a failed write gives back what it took only later


def open_pickle(path: Path) -> InMemory:
    """Return the tensors of a file that `torch.save` wrote; the names of nested dictionaries are joined by dots.

    The file is mapped into memory: what is not read costs nothing.

    Raises:
        UserError: the file is missing or damaged, or holds something that only running its code could make.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there; give a file that torch.save wrote")
    zipped = _begins_as_zip(path)
    if zipped and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is no whole file of torch.save: it is cut off; copy it again")
    if zipped:
        _check_stored(path)
    try:
        value: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} {_why(str(error))}") from error
    except (
        RuntimeError,
        ValueError,
        RecursionError,
        OverflowError,
        EOFError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        ImportError,
    ) as error:
        line = str(error).partition("\n")[0][:200]
        raise UserError(f"{path} is no whole file of torch.save ({line}); copy it again") from error
    tensors = flattened(value)
    if not tensors:
        raise UserError(f"{path} holds no tensors; give a file of weights")
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise UserError(
                f"{path}: tensor {name[:80]} repeats its numbers, so its size is made up; copy the file again"
            )
    return InMemory(tensors)


def flattened(value: Any, prefix: str = "", depth: int = 0) -> dict[str, Tensor]:
    """Return the tensors of nested dictionaries under dotted names; other values are left out.

    >>> sorted(flattened({"model": {"a": torch.zeros(2), "b": {"c": torch.ones(1)}}, "step": 3}))
    ['model.a', 'model.b.c']

    Raises:
        UserError: they are nested too deep, or in a circle.
    """
    if isinstance(value, Tensor):
        return {prefix: value} if value.layout == torch.strided and not value.is_quantized else {}
    if not isinstance(value, Mapping):
        return {}
    if depth == DEEPEST:
        raise UserError(f"dictionaries of weights are nested at most {DEEPEST} deep; copy the file again")
    items = cast("Mapping[Any, Any]", value).items()
    return {
        name: tensor
        for key, item in items
        for name, tensor in flattened(item, f"{prefix}.{key}" if prefix else str(key), depth + 1).items()
    }


def write_pickle(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file of `torch.save`, whole or not at all.

    Raises:
        OSError: it could not be written.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save(value, temporary)
        except RuntimeError as error:  # of PyTorch's writer, which does not say why
            free = shutil.disk_usage(path.parent).free
            why = errno.ENOSPC if free < LITTLE_ROOM else errno.EIO
            raise OSError(why, os.strerror(why), str(path)) from error


def _check_stored(path: Path) -> None:
    """Refuse what `torch.save` never writes: compressed parts, which may grow without bound as they are opened."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [part.filename for part in archive.infolist() if part.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UserError(f"{path} is no whole file of torch.save ({error}); copy it again") from error
    if packed:
        raise UserError(f"{path} is no file of torch.save: {packed[0][:80]} in it is compressed; copy it again")


def _begins_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _why(message: str) -> str:
    found = re.search(r"GLOBAL (\S+)", message)
    if found:
        return (
            f"holds more than tensors ({found[1]}): opening it would run code from the file, so it is not opened. Ask for the "
            "weights as safetensors, or for a file with nothing but a dictionary of tensors"
        )
    return "is no file of torch.save; copy it again, or give another one"
