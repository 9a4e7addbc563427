"""Whether an arm is where it was told to be, and the margin that a commanded pose needs because it never quite is.

Safe commands are no safe robot: a shield judges where it sends the arm, and the arm lags behind. Both halves of the answer are here. A
monitor stops what lags too much, and `required_margin` says how much farther from obstacles commands have to stay for what it lets pass.
A second layer: it replaces no safety function of the robot and is no safety-rated system.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from ideomotor.core.errors import UserError
from ideomotor.robot.body import Body, Capsule
from ideomotor.robot.kinematics import Chain
from ideomotor.robot.reading import as_floats

# In shapes, J stands for the joints, C for the capsules.

SIDES = 720  # of the polygons around circles below: they reach 1e-5 beyond


class TrackingMonitor:
    """Trips when a joint is farther from its command than allowed, and stays tripped until somebody resets it."""

    def __init__(self, bound_rad: float | tuple[float, ...], joints: int) -> None:
        """Watch `joints` joints; the bound is one of all or one of each [rad].

        Raises:
            UserError: a bound is not above 0 and finite, or their number is wrong.
        """
        bound = np.array(bound_rad, np.float64)
        if bound.shape not in ((), (joints,)) or not ((bound > 0.0) & (bound < math.inf)).all():
            raise UserError(
                f"a tracking bound of {bound_rad}; one number above 0 is needed, or one for each of {joints} joints [rad]"
            )
        self._bound = np.full(joints, bound)
        self._clear = False  # whether the last errors were all within the bound
        self._tripped = False
        self._worst = np.zeros(joints)

    @property
    def tripped(self) -> bool:
        """Whether it has tripped since the last reset."""
        return self._tripped

    @property
    def worst(self) -> Float[np.ndarray, " J"]:
        """The largest error of each joint so far [rad]; infinite where a position was no number."""
        return self._worst.copy()

    def update(self, q_measured: Any, q_command: Any) -> bool:
        """Compare what is measured with what was commanded for the same instant [rad]; return whether it has tripped.

        Anything but two arrays of J finite floats trips.
        """
        shape = self._bound.shape
        measured, commanded = as_floats(q_measured, shape), as_floats(q_command, shape)
        error = np.full(shape, math.inf)
        if measured is not None and commanded is not None:
            with np.errstate(all="ignore"):
                error = np.abs(measured - commanded)
        error = np.where(np.isfinite(error), error, math.inf)
        self._clear = bool((error <= self._bound).all())
        self._tripped |= not self._clear
        self._worst = np.maximum(self._worst, error)
        return self._tripped

    def reset(self) -> bool:
        """Untrip, unless the last errors were still beyond the bound; return whether it is free."""
        if self._clear:
            self._tripped = False
        return not self._tripped


def required_margin(body: Body, errors: Float[np.ndarray, " J"]) -> Float[np.ndarray, " C"]:
    """Return how far, at most, a point of each capsule is from where it was commanded [m], if the joints are off by `errors` [rad].

    The sum of rho_i e_i over the joints i that carry the capsule, rho_i from `lever_arms`: turning joint i alone moves a point on an arc
    of that radius, and the joints can be turned one after the other. To be added to the margins of commanded poses.

    Raises:
        UserError: an error is below 0 or not finite.
    """
    if not ((errors >= 0.0) & (errors < math.inf)).all():
        raise UserError(f"tracking errors are {errors}; each should be 0 or more and finite [rad]")
    return lever_arms(body) @ errors


def lever_arms(body: Body) -> Float[np.ndarray, "C J"]:
    """Return an upper bound of the distance of each capsule's points from each joint's axis, over all configurations [m].

    0 where the joint does not carry the capsule. Sound for any joint ranges, and at most a ninth above the largest distance found by
    sampling for the arms here. From the capsule's link inwards, what turning the joints can reach is enclosed in a cylinder about the
    joint's axis and in a ball about its origin; carried on to the next axis, the cylinder is enclosed anew.
    """
    return np.stack([_levers(body.chain, capsule) for capsule in body.capsules])


def _levers(chain: Chain, capsule: Capsule) -> Float[np.ndarray, " J"]:
    levers = np.zeros(len(chain.parent_from_joint))
    for end in (capsule.start, capsule.end):
        # Turned about its axis z, the point is in the cylinder radius, z from low to high, and in the ball of radius `ball`.
        radius, low, high, ball = math.hypot(end[0], end[1]), end[2], end[2], math.hypot(*end)
        for link in range(capsule.link, 0, -1):
            levers[link - 1] = max(levers[link - 1], radius + capsule.radius)
            if link > 1:
                radius, low, high, ball = _next_axis(chain.parent_from_joint[link - 1], (radius, low, high, ball))
    return levers


def _next_axis(
    parent_from_joint: Float[np.ndarray, "4 4"], enclosed: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """Return radius, low, high and ball about the parent's axis and origin."""
    radius, low, high, ball = enclosed
    # Largest values of convex functions over a cylinder are taken on its rims, and over a polygon around a rim at its corners.
    angles = np.arange(SIDES) * (2.0 * math.pi / SIDES)
    corner = radius / math.cos(math.pi / SIDES)
    circle = np.stack([corner * np.cos(angles), corner * np.sin(angles), np.zeros(SIDES)], axis=-1)
    rims = np.concatenate([circle + (0.0, 0.0, low), circle + (0.0, 0.0, high)])
    points = rims @ parent_from_joint[:3, :3].T + parent_from_joint[:3, 3]
    x, y, z = parent_from_joint[:3, 3]
    return (
        min(float(np.hypot(points[:, 0], points[:, 1]).max()), math.hypot(x, y) + ball),
        max(float(points[:, 2].min()), z - ball),
        min(float(points[:, 2].max()), z + ball),
        min(float(np.linalg.norm(points, axis=1).max()), math.hypot(x, y, z) + ball),
    )
