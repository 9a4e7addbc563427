"""How well a network does on windows that it did not learn from.

B = windows of a batch, T = actions of a chunk, A = action channels.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ideomotor.core.spec import Embodiment
from ideomotor.train.batches import Data
from ideomotor.train.learner import Arrays, Learner, Sums
from ideomotor.train.parallel import Group
from ideomotor.train.precision import Precision, autocast


def evaluate(learner: Learner, data: Data, group: Group, precision: Precision) -> dict[str, Any]:
    """Return `loss`, its parts, `accuracy` (shares) and `errors` (mean absolute, unit in the name) over held-out windows.

    The ranks share the work; each of them gets the result.
    """
    return measure(learner, data.evaluated(group.rank, group.world), group, precision)


def measure(learner: Learner, batches: Iterable[Arrays], group: Group, precision: Precision) -> dict[str, Any]:
    """Return what `evaluate` does, over batches of which each rank has its own."""
    learner.network.eval()
    totals: Sums = {}
    for arrays in batches:
        with torch.no_grad(), autocast(precision, learner.device):
            found = learner.measure(arrays)
        totals = {name: plus(totals.get(name, (0.0, 0.0)), pair) for name, pair in found.items()}
    learner.network.train()
    return _nested(_over_all_ranks(totals, group))


def errors(
    embodiment: Embodiment,
    found_BTA: Float[np.ndarray, "B T A"],
    wanted_BTA: Float[np.ndarray, "B T A"],
    mask_BTA: Bool[np.ndarray, "B T _"],
) -> Sums:
    """Return the absolute errors of raw actions, one for each channel, where the mask says that there is something to meet."""
    error_BTA = np.abs(found_BTA - wanted_BTA)
    return {
        f"errors.{channel.name} [{channel.unit}]": (
            float((error_BTA[..., a] * mask_BTA[..., a]).sum()),
            float(mask_BTA[..., a].sum()),
        )
        for a, channel in enumerate(embodiment.action)
    }


def share(right: Tensor, mask: Tensor) -> tuple[float, float]:
    """Return how many are right of those that the mask counts, and how many it counts."""
    return float((right & mask).sum()), float(mask.sum())


def plus(left: tuple[float, float], right: tuple[float, float]) -> tuple[float, float]:
    """Add two sums and their counts."""
    return left[0] + right[0], left[1] + right[1]


def _over_all_ranks(totals: Sums, group: Group) -> dict[str, float]:
    names = sorted(totals)
    table = torch.tensor([totals[name] for name in names], dtype=torch.float64)
    group.add(table)
    return {name: float(table[i, 0] / table[i, 1]) for i, name in enumerate(names) if table[i, 1] > 0}


def _nested(means: Mapping[str, float]) -> dict[str, Any]:
    result: dict[str, Any] = {"accuracy": {}, "errors": {}}
    for name, value in means.items():
        group, _, rest = name.partition(".")
        if rest:
            result[group][rest] = round(value, 6)
        else:
            result[name] = round(value, 6)
    return result
