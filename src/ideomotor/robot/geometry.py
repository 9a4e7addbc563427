"""Distances of lines from lines and boxes, exact and for many at once. Any leading axes; 3 = x y z [m]."""

from typing import Any

import numpy as np
from jaxtyping import Float

TINY = 1e-12  # [m^2] a line that is shorter is a point


def segment_gap(
    a: Float[np.ndarray, "*n 3"],
    b: Float[np.ndarray, "*n 3"],
    c: Float[np.ndarray, "*m 3"],
    d: Float[np.ndarray, "*m 3"],
) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "*n"], Float[np.ndarray, "*n"]]:
    """Return for lines a-b and c-d the shares s, t of their nearest points, and their distance.

    Source: Ericson, Real-Time Collision Detection (2005), section 5.1.9; one more turn of projections for nearly parallel lines.
    """
    along, other, between = b - a, d - c, a - c
    aa = np.maximum(np.einsum("...k,...k->...", along, along), TINY)
    ee = np.maximum(np.einsum("...k,...k->...", other, other), TINY)
    ab = np.einsum("...k,...k->...", along, other)
    ac = np.einsum("...k,...k->...", along, between)
    ef = np.einsum("...k,...k->...", other, between)
    den = aa * ee - ab * ab
    flat = den < 1e-9 * aa * ee
    s = _share(np.where(flat, 0.0, (ab * ef - ac * ee) / np.where(flat, 1.0, den)))
    t = s
    for _ in range(2):
        t = _share((ab * s + ef) / ee)
        s = _share((ab * t - ac) / aa)
    gap = between + s[..., None] * along - t[..., None] * other
    return s, t, np.asarray(np.sqrt(np.einsum("...k,...k->...", gap, gap)))


def box_gap(
    a: Float[np.ndarray, "*n 3"], b: Float[np.ndarray, "*n 3"], half: Float[np.ndarray, "*m 3"]
) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "*n"]]:
    """Return the distance of a line a-b from a box of half edges about the origin, and the share of its nearest point.

    Exact: half the squared distance has a derivative along the line that is piecewise linear and never falls; its corners are where
    the line crosses a side's plane. The zero lies between the last corner with a derivative <= 0 and the first with one >= 0.
    """
    along = b - a
    still = np.abs(along) < 1e-12
    slope = np.where(still, 1.0, along)
    crossings = [np.where(still, 0.0, _share((side * half - a) / slope)) for side in (-1.0, 1.0)]
    ends = np.broadcast_to(np.array([0.0, 1.0]), (*a.shape[:-1], 2))
    t = np.concatenate([ends, *crossings], axis=-1)  # ... 8
    points = a[..., None, :] + t[..., None] * along[..., None, :]
    limit = half[..., None, :]
    rise = np.einsum("...ck,...k->...c", points - np.minimum(np.maximum(points, -limit), limit), along)
    falling, growing = rise <= 0.0, rise >= 0.0
    before = np.where(falling, t, 0.0).max(axis=-1)
    after = np.where(growing, t, 1.0).min(axis=-1)
    low = np.where(falling, rise, -np.inf).max(axis=-1)
    high = np.where(growing, rise, np.inf).min(axis=-1)
    span = high - low
    inner = np.isfinite(span) & (span > 0.0)
    share = np.where(inner, -low / np.where(inner, span, 1.0), 0.0)
    best = np.where(np.isinf(low), 0.0, np.where(np.isinf(high), 1.0, before + share * (after - before)))
    nearest = a + best[..., None] * along
    outside = nearest - np.minimum(np.maximum(nearest, -half), half)
    return np.asarray(np.sqrt(np.einsum("...k,...k->...", outside, outside))), np.asarray(best)


def _share(values: Any) -> Any:
    return np.asarray(np.minimum(np.maximum(values, 0.0), 1.0))  # a third of the time of np.clip
