"""Capsules that enclose other shapes. A capsule is convex: what encloses points encloses all that lies between them.

N = points.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

ROUNDING = 1e-9  # [m] and share of a radius that are added, so that the points stay inside in floating point
STEPS = 60  # towards the centre of the smallest ball: within a tenth of its radius, and most of the way much nearer


class Enclosing(NamedTuple):
    """A capsule: all points within `radius` of the line between two ends."""

    ends: Float[np.ndarray, "2 3"]  # [m]
    radius: float  # [m]

    @property
    def volume(self) -> float:
        """[m^3]."""
        return np.pi * self.radius**2 * (float(np.linalg.norm(self.ends[1] - self.ends[0])) + 4 / 3 * self.radius)


def enclose(points: Float[np.ndarray, "N 3"], around: float = 0.0) -> Enclosing:
    """Return a small capsule around all that lies within `around` [m] of the points, or between them.

    The smallest of seven: a ball, and capsules along the axes of the frame and along those of the points' own spread.
    """
    spread = np.linalg.eigh(np.cov(points.T, bias=True))[1].T if len(points) > 1 else np.eye(3)
    capsules = [_ball(points), *(_along(points, axis) for axis in (*np.eye(3), *spread))]
    return min((c._replace(radius=_grown(c.radius) + around) for c in capsules), key=lambda c: c.volume)


def enclose_cylinder(radius: float, half: float) -> Enclosing:
    """Return a capsule around a cylinder along z: the one of its own axis and radius, or a ball."""
    capsule = Enclosing(np.array([[0.0, 0.0, -half], [0.0, 0.0, half]]), radius)
    ball = Enclosing(np.zeros((2, 3)), _grown(float(np.hypot(radius, half))))
    return min(capsule, ball, key=lambda c: c.volume)


def enclose_ellipsoid(half: Float[np.ndarray, " 3"]) -> Enclosing:
    """Return a capsule around an ellipsoid with these half axes: along the longest, a, with the next one, b, as its radius.

    The line reaches from -(a - b) to a - b. A point (a cos t, b sin t) beyond its end lies at most b from it:
    (a cos t - (a - b))^2 + b^2 sin^2 t <= b^2 says |a cos t - (a - b)| <= b cos t, which holds as (a - b) cos t <= a - b.
    """
    order = np.argsort(half)
    a, b = float(half[order[2]]), float(half[order[1]])
    end = (a - b) * np.eye(3)[order[2]]
    return Enclosing(np.stack([-end, end]), _grown(b))


def _grown(radius: float) -> float:
    return radius * (1 + ROUNDING) + ROUNDING


def _ball(points: Float[np.ndarray, "N 3"]) -> Enclosing:
    centre, radius = _smallest_ball(points)
    return Enclosing(np.stack([centre, centre]), radius)


def _along(points: Float[np.ndarray, "N 3"], axis: Float[np.ndarray, " 3"]) -> Enclosing:
    """Return the capsule along `axis` whose radius just holds the points seen along it."""
    along = points @ axis
    flat = points - along[:, None] * axis
    centre, _ = _smallest_ball(flat)
    centre = centre - (centre @ axis) * axis
    aside = np.linalg.norm(flat - centre, axis=1)
    radius = float(aside.max())
    reach = np.sqrt(
        np.maximum(radius**2 - aside**2, 0.0)
    )  # a point is held by the line from `along - reach` to `along + reach`
    low, high = float((along + reach).min()), float((along - reach).max())
    if low > high:  # any place between holds all of them
        low = high = (low + high) / 2
    return Enclosing(centre + np.array([[low], [high]]) * axis, radius)


def _smallest_ball(points: Float[np.ndarray, "N 3"]) -> tuple[Float[np.ndarray, " 3"], float]:
    """Return centre and radius of a ball around the points, nearly the smallest.

    Each step goes towards the furthest point, by less and less. Source: Badoiu and Clarkson, Smaller core-sets for balls (2003).
    """
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    best, best_radius = centre, float("inf")
    for step in range(STEPS):
        distances = np.linalg.norm(points - centre, axis=1)
        furthest = int(distances.argmax())
        if distances[furthest] < best_radius:
            best, best_radius = centre, float(distances[furthest])
        centre = centre + (points[furthest] - centre) / (step + 2)
    return best, best_radius
