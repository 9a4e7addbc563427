"""Rows of numbers that are gone through several times without being held in memory: exact moments, exact quantiles.

Few rows stay in memory, more go to a file without a name. Moments of blocks are merged exactly (Chan, Golub and LeVeque 1979, "Updating
formulae and a pairwise algorithm for computing sample variances"). The values at given places of the sorted order are found by radix selection,
16 bits a pass: floating-point numbers are mapped to whole numbers of the same order, counted by their leading bits, and only those that share
the leading bits of a wanted value are counted further. Nothing is estimated, and no number is held beside the counts.

F = rows, D = channels, R = places in the sorted order.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from ideomotor.core.errors import UserError

BLOCK = 1 << 18  # numbers whose moments are taken together; the last bit of the moments depends on it
BLOCKS_READ = 8  # blocks that are counted together
IN_MEMORY = 1 << 25  # [bytes] more than this lies in a file
SORTED = 1 << 23  # numbers that are sorted; more are counted
TOGETHER = 8  # channels that are counted in one pass, 0.5 MB for each of them and each wanted value
DIGIT = 16  # bits that a pass looks at
NARROW = ("float32", "float16", "bool", "uint8", "int8", "uint16", "int16")  # dtypes that float32 holds exactly

Tell = Callable[[int], object]  # is told how many rows are done


def nothing(_: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Moments:
    """Count, extremes, mean, and sum of the squared deviations from it, per channel."""

    count: int
    low: Float64[np.ndarray, " D"]
    high: Float64[np.ndarray, " D"]
    mean: Float64[np.ndarray, " D"]
    squares: Float64[np.ndarray, " D"]

    @classmethod
    def of(cls, values_FD: np.ndarray) -> "Moments":
        """Return the moments of one row or more, by two passes in float64."""
        exact_DF = np.ascontiguousarray(values_FD.T).astype(np.float64)
        low, high = exact_DF.min(1), exact_DF.max(1)
        mean = exact_DF.mean(1)
        mean = np.clip(mean + (exact_DF - mean[:, None]).mean(1), low, high)
        exact_DF -= mean[:, None]
        return cls(len(values_FD), low, high, mean, np.einsum("df,df->d", exact_DF, exact_DF))

    def merged(self, other: "Moments") -> "Moments":
        """Return the moments of both together."""
        count = self.count + other.count
        shift = other.mean - self.mean
        return Moments(
            count,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.mean + shift * (other.count / count),
            self.squares + other.squares + shift**2 * (self.count * other.count / count),
        )

    @property
    def std(self) -> Float64[np.ndarray, " D"]:
        """The deviation of the population; 0 where all values are equal."""
        return np.where(self.low == self.high, 0.0, np.sqrt(self.squares / self.count))


class Rows:
    """Rows of D finite numbers; as a context it throws them away at its end."""

    def __init__(self, width: int, dtype: str = "float32", folder: Path | None = None, memory: int = IN_MEMORY) -> None:
        """Begin without rows.

        Args:
            width: D.
            dtype: "float32" or "float64".
            folder: where the file lies once there are many; default the system's folder for such files.
            memory: [bytes] from which on they lie in a file.
        """
        self.width = width
        self.dtype = np.dtype(dtype)
        self.moments: Moments | None = None  # of the whole blocks
        self._folder = folder
        self._file: Any = tempfile.SpooledTemporaryFile(memory, dir=None if folder is None else str(folder))  # noqa: SIM115 (closed by __exit__)
        self._count = 0
        self._size = max(1, BLOCK // max(width, 1))  # rows of a block
        self._waiting: list[np.ndarray] = []
        self._waiting_rows = 0

    def __enter__(self) -> "Rows":  # noqa: PYI034 (beartype refuses Self here)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Throw the rows away."""
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def append(self, values_FD: np.ndarray) -> None:
        """Add rows.

        Raises:
            UserError: there is no space for them.
        """
        values = np.add(values_FD, 0.0, dtype=self.dtype)  # no negative zeros: they would be two values of one size
        self._count += len(values)
        self._waiting.append(values)
        self._waiting_rows += len(values)
        if self._waiting_rows >= self._size:
            joined = np.concatenate(self._waiting)
            whole = len(joined) // self._size * self._size
            for first in range(0, whole, self._size):
                self._write(joined[first : first + self._size])
            self._waiting, self._waiting_rows = [joined[whole:].copy()], len(joined) - whole

    def finished(self) -> Moments:
        """Return the moments of all rows, of which there is at least one.

        Raises:
            UserError: there is no space for the last of them.
        """
        if self._waiting_rows:
            self._write(np.concatenate(self._waiting))
            self._waiting, self._waiting_rows = [], 0
        assert self.moments is not None, "there are no rows"
        return self.moments

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all rows, 2 million numbers at a time."""
        self.finished()
        self._file.seek(0)
        while content := self._file.read(BLOCKS_READ * self._size * self.width * self.dtype.itemsize):
            yield np.frombuffer(content, self.dtype).reshape(-1, self.width)

    def _write(self, block_FD: np.ndarray) -> None:
        moments = Moments.of(block_FD)
        self.moments = moments if self.moments is None else self.moments.merged(moments)
        try:
            self._file.write(block_FD.tobytes())
        except OSError as error:
            place = self._folder or tempfile.gettempdir()
            raise UserError(
                f"the numbers of the data are kept in {place} while they are counted, {self.width * self.dtype.itemsize} bytes a"
                f" frame, and there is no space ({error.strerror}); free some, or set XDG_CACHE_HOME to a larger disk"
            ) from error


def order_statistics(rows: Rows, places: Sequence[int], tell: Tell = nothing) -> Float64[np.ndarray, "R D"]:
    """Return the values at these places (from 0) of each channel's sorted order, exactly."""
    if len(rows) * rows.width <= SORTED:
        parts = list(rows.blocks())
        found = np.empty((len(places), rows.width))
        for d in range(rows.width):
            found[:, d] = np.partition(np.concatenate([part[:, d] for part in parts]), list(places))[list(places)]
        tell(len(rows))
        return found
    groups = [range(d, min(d + TOGETHER, rows.width)) for d in range(0, rows.width, TOGETHER)]
    return np.concatenate([_select(rows, channels, places, tell) for channels in groups], axis=1)


def passes(rows: Rows) -> int:
    """Return how many times `order_statistics` goes through the rows."""
    if len(rows) * rows.width <= SORTED:
        return 1
    return -(-rows.width // TOGETHER) * (rows.dtype.itemsize * 8 // DIGIT)


def _select(rows: Rows, channels: range, places: Sequence[int], tell: Tell) -> Float64[np.ndarray, "R d"]:
    """Find the wanted values of a few channels, 16 bits at a time from the most significant on."""
    digits = rows.dtype.itemsize * 8 // DIGIT
    known = {(d, r): (0, place) for d in channels for r, place in enumerate(places)}  # leading bits, place among those
    for digit in range(digits):
        counts = {(d, bits): np.zeros(1 << DIGIT, np.int64) for (d, _), (bits, _) in known.items()}
        for block in rows.blocks():
            for d in channels:
                _count(_ordered(block[:, d]), d, counts, DIGIT * (digits - digit - 1))
            tell(len(block))
        known = {(d, r): _descend(bits, place, counts[d, bits]) for (d, r), (bits, place) in known.items()}
    bits_RD = np.array([[known[d, r][0] for d in channels] for r in range(len(places))], f"u{rows.dtype.itemsize}")
    return _from_ordered(bits_RD, rows.dtype).astype(np.float64)


def _count(keys: np.ndarray, channel: int, counts: dict[tuple[int, int], np.ndarray], shift: int) -> None:
    """Count one channel's values by the 16 bits at `shift`, for each of the leading bits that are looked at."""
    for (d, bits), count in counts.items():
        if d == channel:
            rest = keys >> shift if shift else keys
            chosen = rest if bits == 0 and shift + DIGIT == keys.itemsize * 8 else rest[rest >> DIGIT == bits]
            count += np.bincount((chosen & ((1 << DIGIT) - 1)).astype(np.int64), minlength=1 << DIGIT)


def _descend(bits: int, place: int, count: np.ndarray) -> tuple[int, int]:
    """Return the leading bits, 16 longer, of the value at a place, and its place among those that share them."""
    before = np.cumsum(count)
    digit = int(np.searchsorted(before, place, side="right"))
    return bits << DIGIT | digit, place - (int(before[digit - 1]) if digit else 0)


def _ordered(values: np.ndarray) -> np.ndarray:
    """Return whole numbers in the order of floating-point numbers: the sign bit flipped, of negative numbers all bits."""
    bits = np.ascontiguousarray(values).view(f"u{values.itemsize}")
    sign = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    return np.where(bits & sign, ~bits, bits | sign)


def _from_ordered(keys: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Undo `_ordered`."""
    sign = keys.dtype.type(1 << (8 * keys.itemsize - 1))
    return np.where(keys & sign, keys & ~sign, ~keys).view(dtype)
