"""Actions as token ids: 256 uniform bins exactly as OpenVLA's, and bins of equal frequency.

Letters: A = action channels.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from ideomotor.core.errors import UserError

NUM_EDGES = 256  # edges -1 + 2k/255 make 255 intervals; their centres are what ids decode to (arXiv 2406.09246)
ROUNDING = 1e-3  # [bins] more than the affine step can be off in float32 (2e-5), less than a bin
BLOCK = 1 << 14  # values at a time; what they need stays in the processor's cache


@dataclass(frozen=True)
class UniformBins:
    """OpenVLA's action tokens (arXiv 2406.09246; prismatic/vla/action_tokenizer.py at c8f03f4).

    id = vocabulary - digitize(clip(x, -1, 1), edges): a higher action has a lower id, and the ids are the last 256 of the vocabulary.
    """

    vocabulary: int = 32000

    @property
    def edges(self) -> Float[np.ndarray, " 256"]:
        """The 256 edges over [-1, 1]."""
        return np.linspace(-1.0, 1.0, NUM_EDGES)

    @property
    def border(self) -> int:
        """The id that all action ids lie above: what the reference's masks compare with, 31743 for Llama-2's vocabulary."""
        return self.vocabulary - NUM_EDGES - 1

    def encode(self, x: Float[np.ndarray, "*batch"]) -> Integer[np.ndarray, "*batch"]:
        """Return the ids of values in network coordinates; values beyond [-1, 1] take the end bins.

        Raises:
            UserError: NaN or an infinity, which the reference maps to an end bin without a word.
        """
        _refuse_not_finite(x)
        return self.encode_unchecked(x)

    def encode_unchecked(self, x: Float[np.ndarray, "*batch"]) -> Integer[np.ndarray, "*batch"]:
        """Return the ids of any values as the reference gives them: NaN and inf as 1, -inf as -1. For comparisons with it only.

        An affine step gives the bin or the one below it, one comparison with the true edge decides: the ids of `np.digitize`, and
        several times faster.
        """
        values = x if x.dtype == np.float32 else x.astype(np.float64, copy=False)
        upper = _round_up(self.edges[1:], values.dtype)  # upper[b] = the edge above bin b
        ids = np.empty(values.shape, np.int64)
        flat, out = np.ascontiguousarray(values).reshape(-1), ids.reshape(-1)
        for start in range(0, len(flat), BLOCK):
            block = np.clip(flat[start : start + BLOCK], -1.0, 1.0)
            block[np.isnan(block)] = 1.0
            index = ((block + 1.0) * ((NUM_EDGES - 1) / 2) - ROUNDING).astype(np.intp)
            index += block >= upper[index]
            np.subtract(self.vocabulary - 1, index, out=out[start : start + BLOCK])
        return ids

    def decode(self, ids: Integer[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
        """Undo `encode` up to 1/255: return the centre of each id's interval; other ids give the end bins, as in the reference."""
        centre = np.clip(self.vocabulary - np.asarray(ids, np.int64) - 1, 0, NUM_EDGES - 2)
        return -1.0 + (2.0 * centre + 1.0) / (NUM_EDGES - 1)


@dataclass(frozen=True)
class QuantileBins:
    """Bins that hold equally many training values: fine where actions are frequent, coarse in the tails."""

    edges: tuple[float, ...]  # increasing, one more than there are bins
    vocabulary: int = 32000

    @classmethod
    def fit(cls, values: Float[np.ndarray, " N"], bins: int = 256, vocabulary: int = 32000) -> "QuantileBins":
        """Return the bins for training values; equal quantiles (many equal values) are joined.

        Raises:
            UserError: a value that is not finite, or fewer than two different values.
        """
        if not np.isfinite(values).all():
            raise UserError("quantile bins need finite values; check the data with `ideomotor data check`")
        edges = np.unique(np.quantile(values.astype(np.float64), np.linspace(0, 1, bins + 1)))
        if len(edges) < 2:
            raise UserError("quantile bins need at least two different values; this channel is constant")
        return cls(tuple(edges.tolist()), vocabulary)

    def encode(self, x: Float[np.ndarray, "*batch"]) -> Integer[np.ndarray, "*batch"]:
        """Return the ids; values beyond the training range take the end bins.

        Raises:
            UserError: NaN or an infinity.
        """
        _refuse_not_finite(x)
        index = np.searchsorted(np.asarray(self.edges[1:-1]), x, side="right")
        return self.vocabulary - 1 - index

    def decode(self, ids: Integer[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
        """Undo `encode` up to half a bin: return the centre of each id's interval."""
        edges = np.asarray(self.edges)
        index = np.clip(self.vocabulary - 1 - np.asarray(ids, np.int64), 0, len(edges) - 2)
        return 0.5 * (edges[index] + edges[index + 1])


def _refuse_not_finite(x: np.ndarray) -> None:
    if x.size and not (np.isfinite(np.min(x)) and np.isfinite(np.max(x))):  # minimum and maximum pass NaN on
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        value = "NaN" if np.isnan(x[where]) else "infinite"
        raise UserError(
            f"action value {where} is {value}; an action token needs a number. Check the data with `ideomotor data check`"
        )


def _round_up(edges: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the smallest numbers of a type that are not below the edges: comparing with them is comparing with the edges."""
    rounded = edges.astype(dtype)
    return np.where(rounded < edges, np.nextafter(rounded, np.array(np.inf, dtype)), rounded)
