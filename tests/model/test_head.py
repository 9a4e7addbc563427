"""What a head offers: `loss(features, batch)` and `chunk(features)`."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from ideomotor.model.batch import Batch
from ideomotor.model.bins import Discrete
from ideomotor.model.config import DiscreteHead

BINS, HORIZON, WIDTH = 21, 2, 3


def logits_as_features(features: torch.Tensor, first_id: int, count: int) -> torch.Tensor:
    return features[..., first_id : first_id + count]


def perfect_features(head: Discrete, actions: torch.Tensor) -> torch.Tensor:
    """Hidden states whose logits are those of the smoothed targets, slots row-major T A."""
    return head.bins.targets(actions.flatten(1)).clamp(min=1e-30).log()


def test_the_discrete_head_reads_slots_row_by_row_and_counts_what_the_batch_names(
    make_batch: Callable[..., Batch],
):
    head = Discrete(DiscreteHead(BINS, first_id=0, smoothing=1.0, window=4), logits_as_features, HORIZON)
    actions = torch.tensor([[[-0.5, 0.0, 0.5], [0.25, -0.25, 0.1]]])
    features = perfect_features(head, actions)
    chunk = head.chunk(features)
    assert chunk.shape == (1, HORIZON, WIDTH)
    torch.testing.assert_close(chunk, actions, rtol=0, atol=0.05)  # half a bin

    mask = torch.ones(1, HORIZON, WIDTH, dtype=torch.bool)
    batch = replace(make_batch(1), actions=actions, actions_mask=mask)
    best = head.loss(features, batch)
    assert head.loss(torch.zeros_like(features), batch).item() > best.item() + 1.0  # ln 21 = 3.04 against 1.42
    mask = mask.clone()
    mask[0, 1, 2] = False  # the last action of the last step is slot 5
    wild = features.clone()
    wild[0, 5] = torch.arange(BINS) * 50.0
    ignored = replace(batch, actions_mask=mask)
    torch.testing.assert_close(head.loss(wild, ignored), head.loss(features, ignored))
    # slot 5 says bin 20 with certainty where 11 is true: 9 bins of 50 nats; the other five cost their entropy, ln sqrt(2 pi e)
    assert head.loss(wild, batch).item() == pytest.approx((9 * 50 + 5 * 1.419) / 6, abs=0.01)
