"""The losses of the vision stage on hand-made labels."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ideomotor.model.batch import Batch
from ideomotor.model.patches import PatchHeads

ROLES, CLASSES, PATCHES = ("front", "wrist"), 4, 3
FRONT_CLASS = [[0, 2, 3]]  # the second patch holds an object with a yaw, the third a round one
FRONT_OFFSET = [[0.0, 0.0, 0.5, -0.25, 0.1, 0.1]]
FRONT_YAW = [[0.0, 0.0, 0.0, 1.0, 0.0, 0.0]]
FRONT_HELD = [[0.0, 1.0, 0.0]]


@pytest.fixture
def batch():
    labels = {
        "front.class": torch.tensor(FRONT_CLASS),
        "front.offset": torch.tensor(FRONT_OFFSET),
        "front.yaw": torch.tensor(FRONT_YAW),
        "front.held": torch.tensor(FRONT_HELD),
        "wrist.class": torch.zeros(1, PATCHES, dtype=torch.int64),
        "wrist.offset": torch.zeros(1, 2 * PATCHES),
        "wrist.yaw": torch.zeros(1, 2 * PATCHES),
        "wrist.held": torch.zeros(1, PATCHES),
    }
    words, state = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1)
    return Batch(words, words > 0, state, state > 0, labels=labels)


@pytest.fixture
def heads():
    """Heads that answer with their bias, whatever the features."""
    heads = PatchHeads(8, CLASSES, ROLES)
    for parameter in heads.parameters():
        torch.nn.init.zeros_(parameter)
    return heads


FEATURES = torch.randn(1, 2 * PATCHES, 8, generator=torch.Generator().manual_seed(0))


def test_heads_that_know_nothing_lose_what_the_labels_say(heads: PatchHeads, batch: Batch):
    losses = {name: loss.item() for name, loss in heads.losses(FEATURES, batch).items()}
    assert losses["class"] == pytest.approx(math.log(4))  # weights cancel
    assert losses["offset"] == pytest.approx(((0.5 + 0.25) / 2 + 0.1) / 2 / 2)  # two patches; the wrist has none: 0
    assert losses["yaw"] == pytest.approx((0 + 1) / 2 / 2)  # the round object does not count
    assert losses["held"] == pytest.approx(math.log(2) / 2)


def test_patches_without_an_object_weigh_less(heads: PatchHeads, batch: Batch):
    with torch.no_grad():
        heads.kind.bias.copy_(torch.tensor([0.0, 0.0, math.log(3), 0.0]))  # probabilities 1/6, 1/6, 3/6, 1/6
    loss = heads.losses(FEATURES, batch, none_weight=0.5)["class"].item()
    front = (0.5 * math.log(6) + math.log(2) + math.log(6)) / 2.5
    wrist = math.log(6)
    assert loss == pytest.approx((front + wrist) / 2, rel=1e-6)


def test_the_yaw_is_read_apart_for_each_camera(heads: PatchHeads, batch: Batch):
    with torch.no_grad():
        heads.get_parameter("yaw.front.bias").copy_(torch.tensor([0.0, 1.0]))
        heads.get_parameter("yaw.wrist.bias").copy_(torch.tensor([7.0, 7.0]))
    assert heads.losses(FEATURES, batch)["yaw"].item() == pytest.approx(0.0)


def test_right_answers_cost_nothing(heads: PatchHeads, batch: Batch):
    """One feature a patch, so that linear readings can give any answer."""
    heads = PatchHeads(6, CLASSES, ROLES)
    kinds = np.array([0, 2, 3, 0, 0, 0])
    with torch.no_grad():
        heads.kind.weight.copy_(torch.tensor(100.0 * np.eye(CLASSES)[kinds].T))
        heads.kind.bias.zero_()
        heads.offset.weight.copy_(torch.tensor(FRONT_OFFSET * 2).reshape(6, 2).T)
        heads.offset.bias.zero_()
        heads.get_parameter("yaw.front.weight").copy_(torch.tensor(FRONT_YAW * 2).reshape(6, 2).T)
        heads.get_parameter("yaw.front.bias").zero_()
        heads.held.weight.copy_(torch.tensor([[-50.0, 50.0, -50.0, 0.0, 0.0, 0.0]]))
        heads.held.bias.zero_()
    losses = heads.losses(torch.eye(6)[None], batch)
    assert all(loss.item() == pytest.approx(0.0, abs=1e-6) for loss in losses.values())
    assert heads.accuracy(torch.eye(6)[None], batch)["front"].item() == 1.0


def test_accuracy_is_the_share_of_the_objects(heads: PatchHeads, batch: Batch):
    with torch.no_grad():
        heads.kind.bias[2] = 1.0  # says "2" everywhere: right for one of the two objects
    accuracy = heads.accuracy(FEATURES, batch)
    assert accuracy["front"].item() == 0.5
    assert accuracy["wrist"].item() == 0.0  # no object, nothing to be right about


def test_a_held_flag_counts_only_where_an_object_is(heads: PatchHeads, batch: Batch):
    labels = {**batch.labels, "front.held": torch.tensor([[1.0, 1.0, 0.0]])}  # the first patch is empty
    first = heads.losses(FEATURES, batch)["held"]
    with torch.no_grad():
        heads.held.bias.fill_(1.0)
    certain = [heads.losses(FEATURES, b)["held"].item() for b in (batch, replace(batch, labels=labels))]
    assert certain[0] == pytest.approx(certain[1])
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2 / 2
    assert certain[0] == pytest.approx(expected, rel=1e-6)
    assert first.item() != pytest.approx(certain[0])
