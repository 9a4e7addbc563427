"""Scaling of actions and states, each transform with its inverse below it (the kinds of OpenVLA, arXiv 2406.09246).

`bounds` and `bounds_q99` map [low, high] to [-1, 1] and clip; `normal` subtracts the mean and divides by the deviation. Dimensions
outside of the mask pass through both ways: that is how a gripper, 0 or 1, stays free of quantiles. A column that was
constant in the data becomes 0 and comes back as its constant, masked or not.

Quantiles are there to cut outliers off. What a channel does rarely but on purpose is none: where the 10 % quantile coincides with the median,
the channel rests there, and all that lies below are events (a gripper that closes in 0.5 % of the frames); so above. On such a side
`bounds_q99` takes the extreme in place of the quantile, so that no value is lost. To ask this of the 1 % quantile would not do: of events in
1 % of the frames, it lies somewhere between the two values. OpenVLA's own numbers (data/norm_stats.py) are left as they are.

D = channels.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from ideomotor.core.errors import UserError

EPSILON = 1e-8  # of OpenVLA; in the forward direction only for the bounds


@runtime_checkable
class ColumnStatistics(Protocol):
    """The numbers of one column that scaling needs (data/statistics.py computes them)."""

    @property
    def min(self) -> Float[np.ndarray, " D"]: ...
    @property
    def max(self) -> Float[np.ndarray, " D"]: ...
    @property
    def mean(self) -> Float[np.ndarray, " D"]: ...
    @property
    def std(self) -> Float[np.ndarray, " D"]: ...
    @property
    def q01(self) -> Float[np.ndarray, " D"]: ...
    @property
    def q10(self) -> Float[np.ndarray, " D"]: ...
    @property
    def q50(self) -> Float[np.ndarray, " D"]: ...
    @property
    def q90(self) -> Float[np.ndarray, " D"]: ...
    @property
    def q99(self) -> Float[np.ndarray, " D"]: ...


@dataclass(frozen=True)
class Bounds:
    """Maps [low, high] to [-1, 1]."""

    low: Float[np.ndarray, " D"]
    high: Float[np.ndarray, " D"]
    mask: Bool[np.ndarray, " D"]  # False: the channel passes through
    constant: Float[np.ndarray, " D"]  # the value of a constant channel, NaN where it varies
    widening: float = 0.0  # added to high - low on the way back: 0 in OpenVLA, 1e-8 in OpenVLA-OFT

    @classmethod
    def extremes(cls, statistics: ColumnStatistics, mask: Bool[np.ndarray, " D"] | None = None) -> "Bounds":
        """Scale by smallest and largest value (`bounds`)."""
        return cls(statistics.min, statistics.max, _full(mask, statistics), _constants(statistics))

    @classmethod
    def quantiles(
        cls,
        statistics: ColumnStatistics,
        mask: Bool[np.ndarray, " D"] | None = None,
        whole: Bool[np.ndarray, " D"] | None = None,
    ) -> "Bounds":
        """Scale by the 1 % and 99 % quantiles (`bounds_q99`), by the extremes where a quantile would cut off events.

        Args:
            statistics: of the training split.
            mask: False: the channel passes through.
            whole: True: the channel is scaled by its extremes in any case, as a gripper is.
        """
        events_below, events_above = statistics.q10 == statistics.q50, statistics.q90 == statistics.q50
        if whole is not None:
            events_below, events_above = events_below | whole, events_above | whole
        return cls(
            np.where(events_below, statistics.min, statistics.q01),
            np.where(events_above, statistics.max, statistics.q99),
            _full(mask, statistics),
            _constants(statistics),
        )


@dataclass(frozen=True)
class Normal:
    """Maps to mean 0 and deviation 1."""

    mean: Float[np.ndarray, " D"]
    std: Float[np.ndarray, " D"]
    mask: Bool[np.ndarray, " D"]
    constant: Float[np.ndarray, " D"]

    @classmethod
    def moments(cls, statistics: ColumnStatistics, mask: Bool[np.ndarray, " D"] | None = None) -> "Normal":
        """Scale by mean and standard deviation (`normal`)."""
        return cls(statistics.mean, statistics.std, _full(mask, statistics), _constants(statistics))


Scale = Bounds | Normal


def normalize(x: Float[np.ndarray, "*batch D"], scale: Scale) -> Float[np.ndarray, "*batch D"]:
    """Return raw values in network coordinates, in the dtype of `x`."""
    _check_width(x, scale)
    match scale:
        case Bounds():
            scaled = np.clip(2.0 * (x - scale.low) / (scale.high - scale.low + EPSILON) - 1.0, -1.0, 1.0)
        case Normal():
            scaled = (x - scale.mean) / (scale.std + EPSILON)
    scaled = np.where(scale.mask, scaled, x)
    return np.where(np.isnan(scale.constant), scaled, 0.0).astype(x.dtype)


def unnormalize(y: Float[np.ndarray, "*batch D"], scale: Scale) -> Float[np.ndarray, "*batch D"]:
    """Undo `normalize`; what it clipped comes back as the bound."""
    _check_width(y, scale)
    match scale:
        case Bounds():
            raw = 0.5 * (y + 1.0) * (scale.high - scale.low + scale.widening) + scale.low
        case Normal():
            raw = y * (scale.std + EPSILON) + scale.mean
    raw = np.where(scale.mask, raw, y)
    return np.where(np.isnan(scale.constant), raw, scale.constant).astype(y.dtype)


def gripper_to_sign(value: Float[np.ndarray, "*batch"], closed: float, open_: float) -> Float[np.ndarray, "*batch"]:
    """Map a gripper command to [-1, 1]: closed to -1, open to 1, by its specification and never by statistics."""
    return (2.0 * (value - closed) / (open_ - closed) - 1.0).astype(value.dtype)


def gripper_from_sign(sign: Float[np.ndarray, "*batch"], closed: float, open_: float) -> Float[np.ndarray, "*batch"]:
    """Undo `gripper_to_sign`."""
    return (0.5 * (sign + 1.0) * (open_ - closed) + closed).astype(sign.dtype)


def _constants(statistics: ColumnStatistics) -> Float[np.ndarray, " D"]:
    return np.where(statistics.min == statistics.max, statistics.min, np.nan)


def _full(mask: Bool[np.ndarray, " D"] | None, statistics: ColumnStatistics) -> Bool[np.ndarray, " D"]:
    return np.ones(statistics.min.shape, bool) if mask is None else mask


def _check_width(x: np.ndarray, scale: Scale) -> None:
    if x.shape[-1:] != scale.mask.shape:
        raise UserError(
            f"values of width {x.shape[-1] if x.ndim else 0} meet statistics of width {len(scale.mask)};"
            " use data and statistics of one embodiment"
        )
