"""What every pipeline does, whatever its network: raw observations to arrays, network output to raw actions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Embodiment
from ideomotor.core.types import Observation
from ideomotor.data.windows import Window

Arrays = dict[str, np.ndarray]
BODIES = "bodies"  # folder of what differs between the bodies that a network was trained on


@runtime_checkable
class PolicyPipeline(Protocol):
    """One object in training, evaluation and on the robot; saved with the weights."""

    @property
    def embodiment(self) -> Embodiment:
        """What the numbers mean, `chunk` and `normalization` included."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the policy was trained on; empty where not known."""
        ...

    def encode(self, windows: Sequence[Window]) -> Arrays:
        """Return the arrays of a training batch."""
        ...

    def encode_observations(self, observations: Sequence[Observation], instructions: Sequence[str]) -> Arrays:
        """Return the arrays of a batch without targets."""
        ...

    def decode(self, output: np.ndarray, /) -> Float[np.ndarray, "*batch A"]:
        """Return raw actions."""
        ...

    def save(self, folder: Path) -> None:
        """Write the pipeline's files beside the weights."""
        ...


def refuse_not_finite(x: np.ndarray, what: str) -> None:
    """Refuse NaN and infinities.

    Raises:
        UserError: names the first one.
    """
    if not np.isfinite(x).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise UserError(f"{what} {where} is {x[where]}, not a finite number; it is not used")
