"""How gripper commands of many datasets become one: 1 = open, 0 = closed. And the step that is read off two states.

Source: standardization of OpenVLA (Kim et al. 2024, arXiv 2406.09246) and of Octo (arXiv 2405.12213), which it took over.

L = steps of an episode, in order of time.
"""

import numpy as np
from jaxtyping import Float32

OPEN_ABOVE = 0.95  # of a measured opening: larger is decided as open
CLOSED_BELOW = 0.05  # smaller is decided as closed
EVENT_ABOVE = 0.1  # of a relative command: what is larger in size is an event, not noise


def inverted(g: Float32[np.ndarray, "*L"]) -> Float32[np.ndarray, "*L"]:
    """Return 1 - g; it is its own inverse."""
    return np.float32(1) - g


def clip01(g: Float32[np.ndarray, "*L"]) -> Float32[np.ndarray, "*L"]:
    """Return g within [0, 1]; undone by nothing where it clipped."""
    return np.clip(g, np.float32(0), np.float32(1))


def binarized(g: Float32[np.ndarray, " L"]) -> Float32[np.ndarray, " L"]:
    """Return an opening as open or closed: a value between takes the next decided one in time.

    A run at the end that is never decided takes the last raw value, whatever it is.

    >>> binarized(np.array([0.2, 1.0, 0.5, 0.0, 0.4, 0.6], np.float32)).tolist()
    [1.0, 1.0, 0.0, 0.0, 0.6000000238418579, 0.6000000238418579]
    """
    if len(g) == 0:
        return g.copy()
    is_open, is_closed = g > OPEN_ABOVE, g < CLOSED_BELOW
    decided = np.where(is_open | is_closed, np.arange(len(g)), len(g))
    following = np.minimum.accumulate(decided[::-1])[::-1]  # the next decided step, L where there is none
    values = np.append(is_open.astype(np.float32), g[-1])
    return values[following]


def held(g: Float32[np.ndarray, " L"]) -> Float32[np.ndarray, " L"]:
    """Return relative commands (> 0.1 closes, < -0.1 opens, else the fingers stay) as what they lead to: 1 open, 0 closed.

    Before its first event the gripper is in the state that this event ends; without any event it is open.

    >>> held(np.array([0, 1, 0, -1, 0], np.float32)).tolist()
    [1.0, 0.0, 0.0, 1.0, 1.0]
    """
    opens, closes = g < -EVENT_ABOVE, g > EVENT_ABOVE
    events = np.flatnonzero(opens | closes)
    before = np.float32(1.0) if len(events) == 0 else np.float32(closes[events[0]])
    values = np.append(opens.astype(np.float32), before)
    last = np.maximum.accumulate(
        np.where(opens | closes, np.arange(len(g)), -1)
    )  # the latest event, -1 where there is none
    return values[last]


def relabelled(state: Float32[np.ndarray, "L S"]) -> Float32[np.ndarray, "M 6"]:
    """Return the step that each of the first L - 1 states made to the next: difference of six numbers, angles not wrapped.

    There is no inverse: the first state is gone.
    """
    return np.diff(state[:, :6], axis=0)
