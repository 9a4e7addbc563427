"""How well a network does on windows that it did not learn from.

B = windows of a batch, T = actions of a chunk, A = action channels.
"""

from collections.abc import Mapping
from typing import Any, assert_never

import numpy as np
import torch
from torch import Tensor

from ideomotor.model.batch import Batch
from ideomotor.train.batches import Data
from ideomotor.train.config import Everything, FrozenTower, Vision
from ideomotor.train.parallel import Group
from ideomotor.train.precision import Precision, autocast
from ideomotor.train.stages import Learner, losses

Sums = dict[str, tuple[float, float]]  # name -> sum and count


def evaluate(learner: Learner, data: Data, group: Group, precision: Precision) -> dict[str, Any]:
    """Return `loss`, its parts, `accuracy` (shares) and `errors` (mean absolute, unit in the name) over held-out windows.

    The ranks share the work; each of them gets the result.
    """
    learner.network.eval()
    totals: Sums = {}
    for arrays in data.evaluated(group.rank, group.world):
        batch = learner.batch(arrays)
        with torch.no_grad(), autocast(precision):
            found = _measure(learner, data, batch)
        totals = {name: _plus(totals.get(name, (0.0, 0.0)), pair) for name, pair in found.items()}
    learner.network.train()
    return _nested(_over_all_ranks(totals, group))


def _measure(learner: Learner, data: Data, batch: Batch) -> Sums:
    size = float(len(batch.text))
    sums: Sums = {
        name: (float(loss) * size, size) for name, loss in losses(learner.network, batch, learner.stage).items()
    }
    match learner.stage:
        case Vision():
            return sums | _vision(learner, batch)
        case FrozenTower() | Everything():
            return sums | _action(learner, data, batch)
        case _:
            assert_never(learner.stage)


def _vision(learner: Learner, batch: Batch) -> Sums:
    assert batch.images is not None, "the vision stage sees images"
    found = learner.network.patch_heads.accuracy(learner.network.features(batch.images), batch)
    with_object = {role: (batch.labels[f"{role}.class"] > 0).sum().float().item() for role in found}
    return {f"accuracy.{role}": (float(share) * with_object[role], with_object[role]) for role, share in found.items()}


def _action(learner: Learner, data: Data, batch: Batch) -> Sums:
    network = learner.network
    assert batch.actions is not None, "windows have actions"
    assert batch.actions_mask is not None, "windows have an action mask"
    states = network(batch)
    right = network.head.right(states["action"], batch.actions.flatten(1))
    sums: Sums = {"accuracy.action": _share(right, batch.actions_mask.flatten(1))}
    for name, head in network.answer_heads.items():
        if name in batch.answers:
            values, mask = batch.answers[name], batch.answers_mask[name]
            sums[f"accuracy.{name}"] = _share(head.right(states[name], values), mask)
            distance = (head.coordinate(network.answer(states, name)) - head.coordinate(values)).abs()
            sums[f"errors.{name} [bins]"] = (float((distance * mask).sum()), float(mask.sum()))
    chunk = network.decode(states).float().numpy()
    return sums | _physical_errors(data, chunk, batch.actions.numpy(), batch.actions_mask.numpy())


def _physical_errors(data: Data, chunk_BTA: np.ndarray, target_BTA: np.ndarray, mask_BTA: np.ndarray) -> Sums:
    decode, channels = data.pipeline.decode, data.pipeline.embodiment.action
    error_BTA = np.abs(decode(chunk_BTA) - decode(target_BTA))
    return {
        f"errors.{channel.name} [{channel.unit}]": (
            float((error_BTA[..., a] * mask_BTA[..., a]).sum()),
            float(mask_BTA[..., a].sum()),
        )
        for a, channel in enumerate(channels)
    }


def _share(right: Tensor, mask: Tensor) -> tuple[float, float]:
    return float((right & mask).sum()), float(mask.sum())


def _plus(left: tuple[float, float], right: tuple[float, float]) -> tuple[float, float]:
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
