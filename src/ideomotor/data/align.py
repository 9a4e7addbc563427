"""Room for several bodies in one network: the cameras of any of them, the widest action, the widest state.

Each body's numbers are scaled by *its* statistics, then padded to the layout's width (`padded`); its images take the places of their cameras.
Masks tell what is there, and nothing that is masked is learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Shaped

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Embodiment


@dataclass(frozen=True)
class Layout:
    """What all bodies of a run have room for."""

    cameras: tuple[str, ...]  # roles, in the network's order
    action_width: int
    state_width: int


def common_layout(embodiments: Sequence[Embodiment], cameras: Sequence[str] | None = None) -> Layout:
    """Return the layout that has room for several bodies.

    Args:
        embodiments: at least one.
        cameras: roles that the network sees; default all that any body has, in the order in which they come up.

    Raises:
        UserError: a body has none of these cameras.
    """
    roles = (
        tuple(dict.fromkeys(role for each in embodiments for role in each.cameras_by_role))
        if cameras is None
        else tuple(cameras)
    )
    for each in embodiments:
        if roles and not set(roles) & set(each.cameras_by_role):
            raise UserError(
                f"{each.name} has the cameras {', '.join(each.cameras_by_role) or 'none'}, none of {', '.join(roles)} that the"
                " network sees; choose other cameras, or map its views to these roles in an embodiment file"
            )
    return Layout(roles, max(len(e.action) for e in embodiments), max(len(e.state) for e in embodiments))


def cameras_of(embodiment: Embodiment, layout: Layout) -> tuple[str, ...]:
    """Return the cameras of the layout that a body has, in the layout's order."""
    return tuple(role for role in layout.cameras if role in embodiment.cameras_by_role)


def describe(embodiment: Embodiment, layout: Layout) -> str:
    """Return in a line how a body lies in a layout, e.g. "widowx: 7 of 14 actions, 8 of 14 states; cameras front; no wrist"."""
    missing = [role for role in layout.cameras if role not in embodiment.cameras_by_role]
    return (
        f"{embodiment.name}: {len(embodiment.action)} of {layout.action_width} actions,"
        f" {len(embodiment.state)} of {layout.state_width} states; cameras {', '.join(cameras_of(embodiment, layout))}"
        + (f"; no {', '.join(missing)}" if missing else "")
    )


def padded(
    array: Shaped[np.ndarray, "*batch own"], width: int, what: str
) -> tuple[Shaped[np.ndarray, "*batch width"], Bool[np.ndarray, " width"]]:
    """Return the array with its last axis filled up by zeros (False), and which channels are the body's own.

    Raises:
        UserError: it is wider than `width`.
    """
    own = array.shape[-1]
    if own > width:
        raise UserError(f"this body has {own} {what}, the layout has room for {width}; choose a wider network")
    wide = np.zeros((*array.shape[:-1], width), array.dtype)
    wide[..., :own] = array
    return wide, np.arange(width) < own
