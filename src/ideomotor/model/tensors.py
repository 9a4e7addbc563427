"""Named tensors, wherever they are: the one interface between files of any layout and the networks they go into.

A layout is a view: it renames, joins or computes, and reads what lies beneath when it is asked to.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where the bytes of a tensor are."""

    file: Path
    start: int  # [bytes] from the beginning of the file


@dataclass(frozen=True)
class Entry:
    """What is known of a tensor before it is read."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    place: Place | None = None  # None: in memory

    @property
    def numbers(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """[bytes]."""
        return self.numbers * self.dtype.itemsize


@runtime_checkable
class Tensors(Protocol):
    """Named tensors, wherever they are."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """All of them, in the order in which reading is fastest."""
        ...

    def read(self, name: str, into: Tensor) -> None:
        """Copy a tensor into one of the same shape, of any dtype, on any device."""
        ...


class InMemory:
    """Tensors of this process."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.entries = {name: Entry(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}

    def read(self, name: str, into: Tensor) -> None:
        """Copy a tensor."""
        into.detach().copy_(self.tensors[name].detach())


class Renamed:
    """Some tensors under other names; `names` leads from each new name to the old one."""

    def __init__(self, tensors: Tensors, names: Mapping[str, str]) -> None:
        self.tensors, self.names = tensors, names
        new = {old: name for name, old in names.items()}
        self.entries = {new[old]: entry for old, entry in tensors.entries.items() if old in new}

    def read(self, name: str, into: Tensor) -> None:
        """Copy a tensor."""
        self.tensors.read(self.names[name], into)


class Joined:
    """Tensors of several places; where two have a name, the later place wins."""

    def __init__(self, *parts: Tensors) -> None:
        self._part = {name: part for part in parts for name in part.entries}
        self.entries = {
            name: entry for part in parts for name, entry in part.entries.items() if self._part[name] is part
        }

    def read(self, name: str, into: Tensor) -> None:
        """Copy a tensor."""
        self._part[name].read(name, into)


class Cast:
    """The same tensors, floats in another dtype."""

    def __init__(self, tensors: Tensors, dtype: torch.dtype | None) -> None:
        self.tensors = tensors
        self.entries = {
            name: replace(entry, dtype=dtype) if dtype is not None and entry.dtype.is_floating_point else entry
            for name, entry in tensors.entries.items()
        }

    def read(self, name: str, into: Tensor) -> None:
        """Copy a tensor."""
        self.tensors.read(name, into)


class Watched:
    """The same tensors; `progress` is told the bytes of each one that has been read."""

    def __init__(self, tensors: Tensors, progress: Callable[[int], object]) -> None:
        self.tensors, self.progress = tensors, progress
        self.entries = tensors.entries

    def read(self, name: str, into: Tensor) -> None:
        """Copy a tensor."""
        self.tensors.read(name, into)
        self.progress(self.entries[name].size)
