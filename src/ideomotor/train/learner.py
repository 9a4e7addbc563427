"""What the loop trains: a network with its losses, its measures and its files, whatever family it is of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from ideomotor.train.parallel import Group
from ideomotor.train.precision import Device, Precision

Arrays = Mapping[str, np.ndarray]
Sums = dict[str, tuple[float, float]]  # name -> sum and count; "accuracy.x" is a share, "errors.x [unit]" a mean error


@runtime_checkable
class Learner(Protocol):
    """A network and what it learns."""

    @property
    def network(self) -> nn.Module:
        """The network; the weights that require a gradient learn."""
        ...

    @property
    def device(self) -> Device:
        """Where it computes."""
        ...

    @property
    def summary(self) -> str:
        """How many weights there are, and how many of them learn."""
        ...

    def prepare(self, precision: Precision, group: Group) -> None:
        """Do once, before the first step of a process, what the steps rely on."""
        ...

    def losses(self, arrays: Arrays, first_number: int) -> dict[str, Tensor]:
        """Return the losses of a training batch by name, `loss` is descended; its samples are numbered from `first_number` on."""
        ...

    def measure(self, arrays: Arrays) -> Sums:
        """Return losses, shares of right tokens and errors in raw units over a batch."""
        ...

    def save(self, folder: Path, steps: int) -> None:
        """Write the policy as it is after so many steps, to be used and to be continued from."""
        ...

    def finish(self, folder: Path, steps: int) -> str:
        """Write the trained policy and return what there is to say about it; the network does not learn any more."""
        ...


def summary(stage: str, network: nn.Module) -> str:
    """Return how many weights there are, and how many of them learn."""
    counts = [(p.numel(), p.requires_grad) for p in network.parameters()]
    total, learning = sum(n for n, _ in counts), sum(n for n, learns in counts if learns)
    return f"stage {stage}: {learning / 1e6:.2f} of {total / 1e6:.2f} million weights learn"
