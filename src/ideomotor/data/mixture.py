"""The order of training samples as a pure function: (seed, global sample number) -> (source, epoch, element).

Nothing is drawn, so nothing has to be stored: a run resumes exactly from one integer, at the same cost wherever it stopped, and any
number of ranks and workers sees one and the same global order.

Sample numbers come in blocks of B. A keyed permutation of [0, B) lays the quota of each source over a block; within a
source the k-th draw takes element k of an endless row of epochs, each of them a keyed permutation of the source.

B = numbers of one query.
"""

import functools
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt16, UInt64

from ideomotor.core.errors import UserError

BLOCK = 1 << 16  # numbers in a block: shares are exact to 0.0015 %
ROUNDS = 8  # Feistel rounds; four are far from uniform on small domains
EXPLICIT_BELOW = 1 << 16  # smaller domains are shuffled once and kept: a Feistel network is poor on them
PATTERNS_KEPT = 8  # blocks whose pattern is kept
ORDERS_KEPT = 2  # orders of a source that are kept, on average: an epoch ends while the next begins
_GOLDEN = 0x9E3779B97F4A7C15  # SplitMix64's increment (Steele, Lea, Flood 2014)
_ROUND_CONSTANTS = tuple((2 * j + 1) * _GOLDEN & 0xFFFFFFFFFFFFFFFF for j in range(ROUNDS))  # odd, so no key is lost


@dataclass(frozen=True)
class Draws:
    """What the sample numbers of one query stand for."""

    source: Int64[np.ndarray, " B"]
    epoch: Int64[np.ndarray, " B"]
    element: Int64[np.ndarray, " B"]


class Mixture:
    """Endless draws from several sources in fixed shares.

    >>> draws = Mixture(["demos", "corrections"], sizes=[3, 2], weights=[0.5, 0.5], seed=0).draw(np.arange(8))
    >>> sorted(draws.element[draws.source == 0][:3].tolist())
    [0, 1, 2]
    """

    def __init__(
        self, names: Sequence[str], sizes: Sequence[int], weights: Sequence[float], seed: int, block: int = BLOCK
    ) -> None:
        """Mix sources of `sizes` elements in the shares `weights`, which are scaled to sum to 1.

        Raises:
            UserError: no source, an empty source, a weight that is not positive, or more sources than a block holds.
        """
        _check_sources(names, sizes, weights, block)
        self.names = tuple(names)
        self.sizes = np.asarray(sizes, np.int64)
        self.weights = tuple(float(weight) for weight in weights)
        self.seed = seed
        self.block = block
        self.quotas = quotas(self.weights, block)
        self._pattern = functools.lru_cache(maxsize=PATTERNS_KEPT)(self._make_pattern)
        self._epoch_key = functools.lru_cache(maxsize=max(1024, 4 * len(names)))(self._make_epoch_key)
        self._shuffle = functools.lru_cache(maxsize=self._orders_kept)(self._make_shuffle)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.names, self.sizes.tolist(), self.weights, self.seed, self.block)

    def draw(self, numbers: Int64[np.ndarray, " B"]) -> Draws:
        """Return source, epoch and element of each global sample number (not negative)."""
        source, rank = np.empty_like(numbers), np.empty_like(numbers)
        block_number, position = np.divmod(numbers, self.block)
        for b in np.unique(block_number):
            here = block_number == b
            sources_of_block, ranks_of_block = self._pattern(int(b))
            source[here] = sources_of_block[position[here]]
            rank[here] = ranks_of_block[position[here]]
        count = block_number * self.quotas[source] + rank  # how many draws of this source came before
        epoch, index = np.divmod(count, self.sizes[source])
        return Draws(source, epoch, self._elements(source, epoch, index))

    def _make_pattern(self, b: int) -> tuple[np.ndarray, np.ndarray]:
        """Return, for each position of block `b`, its source and how many earlier positions of the block have the same."""
        table = np.repeat(np.arange(len(self.quotas), dtype=np.uint16), self.quotas)
        if self.block < EXPLICIT_BELOW:
            order = _shuffled(self.block, _key(self.seed, 1, b))
        else:
            keys = np.full(self.block, _key(self.seed, 1, b), np.uint64)
            order = permute(np.arange(self.block, dtype=np.uint64), np.full(self.block, self.block, np.uint64), keys)
        source = table[order]
        by_source = np.argsort(source, kind="stable")
        rank = np.empty(self.block, np.int64)
        rank[by_source] = np.arange(self.block) - np.repeat(np.cumsum(self.quotas) - self.quotas, self.quotas)
        return source, rank.astype(np.uint32)

    def _make_shuffle(self, d: int, e: int) -> UInt16[np.ndarray, " N"]:
        return _shuffled(int(self.sizes[d]), self._epoch_key(d, e)).astype(np.uint16)

    def _make_epoch_key(self, d: int, e: int) -> int:
        return _key(self.seed, 2, d, e)

    def _elements(self, source: np.ndarray, epoch: np.ndarray, index: np.ndarray) -> Int64[np.ndarray, " B"]:
        """Return the element at place `index` of each epoch of each source; draws of one epoch are looked up together."""
        order = np.lexsort((epoch, source))
        starts = np.flatnonzero(np.diff(source[order], prepend=-1) | np.diff(epoch[order], prepend=-1))
        element = np.empty_like(index)
        keys = np.empty(len(index), np.uint64)
        for group in np.split(order, starts[1:]):
            if not group.size:
                continue  # of an empty query
            d, e = int(source[group[0]]), int(epoch[group[0]])
            if self.sizes[d] < EXPLICIT_BELOW:
                element[group] = self._shuffle(d, e)[index[group]]
            else:
                keys[group] = self._epoch_key(d, e)
        large = np.flatnonzero(self.sizes[source] >= EXPLICIT_BELOW)
        if large.size:
            size = self.sizes[source[large]].astype(np.uint64)
            element[large] = permute(index[large].astype(np.uint64), size, keys[large]).astype(np.int64)
        return element

    def counts(self, start: int, stop: int) -> Int64[np.ndarray, " D"]:
        """Return how many of the sample numbers from `start` to before `stop` each source gets, at a cost that does not grow with them."""
        return self._before(stop) - self._before(start)

    def _before(self, number: int) -> Int64[np.ndarray, " D"]:
        b, position = divmod(number, self.block)
        rest = np.bincount(self._pattern(b)[0][:position], minlength=len(self.names)) if position else 0
        return b * self.quotas + rest

    @property
    def room(self) -> int:
        """The memory that queries leave behind at most [bytes]: the patterns and the orders that are kept."""
        largest = int(max(self.sizes[self.sizes < EXPLICIT_BELOW], default=0))
        return PATTERNS_KEPT * self.block * 6 + self._orders_kept * largest * 2

    @property
    def _orders_kept(self) -> int:
        return max(16, ORDERS_KEPT * len(self.names))

    def state(self, position: int) -> dict[str, Any]:
        """Return what a checkpoint stores: the next sample number, and all that the order depends on."""
        return {"position": position, **self._fingerprint()}

    def resume(self, state: dict[str, Any]) -> int:
        """Return the position of a stored state.

        Raises:
            UserError: names, sizes, weights, seed or block differ, so the same number would mean another sample.
        """
        now = self._fingerprint()
        lines = [f"  {key}: stored {state.get(key)!r}, now {now[key]!r}" for key in now if state.get(key) != now[key]]
        if lines:
            raise UserError(
                "this run cannot be resumed exactly, its data mixture changed:\n"
                + "\n".join(lines)
                + "\nGive the same data, weights and seed, or start a new run with --init."
            )
        return int(state["position"])

    def _fingerprint(self) -> dict[str, Any]:
        return {
            "names": list(self.names),
            "sizes": self.sizes.tolist(),
            "weights": list(self.weights),
            "seed": self.seed,
            "block": self.block,
        }


def quotas(weights: Sequence[float], block: int) -> Int64[np.ndarray, " D"]:
    """Return how many numbers of a block each source gets: largest remainders, at least one each.

    >>> quotas([0.5, 0.3, 0.2], 8).tolist()
    [4, 2, 2]
    """
    share = np.asarray(weights, np.float64)
    ideal = share / share.sum() * block
    quota = np.maximum(np.floor(ideal).astype(np.int64), 1)
    while quota.sum() < block:
        quota[np.argmax(ideal - quota)] += 1
    while quota.sum() > block:  # minimum of one for each source took too much
        quota[np.argmin(np.where(quota > 1, ideal - quota, np.inf))] -= 1
    return quota


def permute(
    index: UInt64[np.ndarray, " B"], size: UInt64[np.ndarray, " B"], key: UInt64[np.ndarray, " B"]
) -> UInt64[np.ndarray, " B"]:
    """Return the place of each index under the permutation of [0, size) that its key names.

    A balanced Feistel network on 2h bits, 4^h >= size, walks on until it is back inside of [0, size).
    """
    half_bits = (_bit_length(size - np.uint64(1)) + np.uint64(1)) // np.uint64(2)
    value = _feistel(index, half_bits, key)
    outside = np.flatnonzero(value >= size)
    while outside.size:
        value[outside] = _feistel(value[outside], half_bits[outside], key[outside])
        outside = outside[value[outside] >= size[outside]]
    return value


def _feistel(
    value: UInt64[np.ndarray, " B"], half_bits: UInt64[np.ndarray, " B"], key: UInt64[np.ndarray, " B"]
) -> UInt64[np.ndarray, " B"]:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = value >> half_bits, value & mask
    for constant in _ROUND_CONSTANTS:
        left, right = right, left ^ (_mix(right + np.uint64(constant) * key) & mask)
    return left << half_bits | right


def _mix(x: UInt64[np.ndarray, " B"]) -> UInt64[np.ndarray, " B"]:
    """Scramble 64 bits: the finaliser of SplitMix64. Works in place on its argument, which nobody else holds."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def _shuffled(size: int, key: int) -> Int64[np.ndarray, " N"]:
    """Return a permutation of [0, size): the order of `size` outputs of SplitMix64, the same with every numpy."""
    counter = np.arange(1, size + 1, dtype=np.uint64)
    outputs = _mix(counter * np.uint64(_GOLDEN) + np.uint64(key))  # all different, so any sort gives the one order
    return np.argsort(outputs).astype(np.int64, copy=False)


def keyed_order(size: int, seed: int) -> Int64[np.ndarray, " N"]:
    """Return a permutation of [0, size) that the seed names, apart from those of any mixture."""
    return _shuffled(size, _key(seed, 3))


def _bit_length(x: UInt64[np.ndarray, " B"]) -> UInt64[np.ndarray, " B"]:
    """Return the number of bits of each value below 2^53."""
    return np.frexp(x.astype(np.float64))[1].astype(np.uint64)


def _key(*parts: int) -> int:
    """Hash integers to 64 bits together: keys that are sums collide between sources after many epochs."""
    return int.from_bytes(hashlib.sha256(struct.pack(f"<{len(parts)}q", *parts)).digest()[:8], "little")


def _check_sources(names: Sequence[str], sizes: Sequence[int], weights: Sequence[float], block: int) -> None:
    if not names or not len(names) == len(sizes) == len(weights):
        raise UserError(
            f"a mixture needs one size and one weight for each source; {len(names)}, {len(sizes)}, {len(weights)}"
        )
    if len(names) > min(block, 1 << 16):
        raise UserError(f"a mixture of {len(names)} sources does not fit blocks of {block}; use larger blocks")
    for name, size, weight in zip(names, sizes, weights, strict=True):
        if size < 1:
            raise UserError(f"data source '{name}' is empty; leave it out or choose other episodes")
        if not 0 < weight < float("inf"):
            raise UserError(f"data source '{name}' has weight {weight}; weights are positive numbers")
