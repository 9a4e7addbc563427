"""The whole network: what each part may depend on."""

import typing
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from ideomotor.model import config as configs
from ideomotor.model.batch import Batch
from ideomotor.model.config import CameraTokens, NetworkConfig, SlotGroup
from ideomotor.model.presets import small, tiny
from ideomotor.model.projector import Projector
from ideomotor.model.vla import VLA, VisionBackbone


def test_a_chunk_has_its_shape_and_stays_in_network_coordinates(network: VLA, make_batch: Callable[..., Batch]):
    chunk = network.chunk(make_batch(3))
    assert chunk.shape == (3, 4, 7)
    assert (chunk.abs() <= 1).all()


def test_slot_groups_have_their_counts(network: VLA, make_batch: Callable[..., Batch]):
    states = network(make_batch(2))
    assert {name: tuple(x.shape) for name, x in states.items()} == {"location": (2, 6, 64), "action": (2, 28, 64)}
    assert network.answer(states, "location").shape == (2, 6)


@torch.inference_mode()
def test_a_row_alone_equals_the_row_in_its_batch(
    network: VLA, make_batch: Callable[..., Batch], rows: Callable[[Batch, slice], Batch]
):
    batch = make_batch(5)
    together = network(batch)
    for i in range(5):
        alone = network(rows(batch, slice(i, i + 1)))
        for name, states in alone.items():
            torch.testing.assert_close(states[0], together[name][i], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_features_computed_before_give_the_same_result_as_images(network: VLA, make_batch: Callable[..., Batch]):
    batch = make_batch(3)
    assert batch.images is not None
    features = network.features(batch.images)
    assert features.shape == (3, 2 * 36, 32)
    given = replace(batch, images=None, features=features)
    torch.testing.assert_close(network(given)["action"], network(batch)["action"], rtol=1e-6, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["images", "text", "text_mask", "state", "state_mask"])
def test_every_input_has_influence_on_every_slot_group(network: VLA, make_batch: Callable[..., Batch], name: str):
    batch = make_batch(2)
    changed = getattr(batch, name).clone()
    changed[0] = ~changed[0] if changed.dtype == torch.bool else changed[0].flip(0)
    before, after = network(batch), network(replace(batch, **{name: changed}))
    for group in before:
        assert (before[group][0] - after[group][0]).abs().max() > 1e-6
        torch.testing.assert_close(before[group][1], after[group][1], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_padding_of_text_and_missing_channels_hide_what_stands_there(network: VLA, make_batch: Callable[..., Batch]):
    batch = make_batch(2)
    state_mask = batch.state_mask.clone()
    state_mask[:, 8:] = False
    batch = replace(batch, state_mask=state_mask)
    junk = replace(
        batch,
        text=torch.where(batch.text_mask, batch.text, 77),
        state=torch.where(state_mask, batch.state, torch.tensor(5.0)),
    )
    torch.testing.assert_close(network(junk)["action"], network(batch)["action"], rtol=0, atol=0)


def test_state_dropout_is_a_matter_of_training(config: NetworkConfig, make_batch: Callable[..., Batch]):
    torch.manual_seed(0)
    network = VLA(replace(config, state_dropout=0.5)).eval()
    batch = replace(make_batch(1), state=torch.ones(1, config.state_width))
    with torch.inference_mode():
        tokens = [network(batch)["action"] for _ in range(4)]
        assert all(torch.equal(tokens[0], token) for token in tokens)
        network.train()
        many = {round(network(batch)["action"].sum().item(), 3) for _ in range(30)}
        assert len(many) == 2  # with the state, and without
        network.config = replace(config, state_dropout=0.0)
        assert torch.equal(network(batch)["action"], tokens[0])


def test_losses_count_only_what_the_masks_name(network: VLA, make_batch: Callable[..., Batch]):
    batch = make_batch(4)
    losses = network.losses(batch)
    assert set(losses.answers) == {"location"}
    assert batch.actions is not None
    mask = torch.zeros_like(batch.actions, dtype=torch.bool)
    mask[:, 0, :3] = True
    wild = torch.where(mask, batch.actions, -batch.actions)
    first = network.losses(replace(batch, actions_mask=mask)).action
    second = network.losses(replace(batch, actions=wild, actions_mask=mask)).action
    assert first.item() == pytest.approx(second.item())
    assert first.item() != pytest.approx(losses.action.item(), abs=1e-5)
    silent = network.losses(replace(batch, answers={}, answers_mask={}))
    assert silent.answers == {}
    assert silent.action.item() == pytest.approx(losses.action.item(), rel=1e-5)


def test_gradients_reach_every_weight_but_the_patch_heads(config: NetworkConfig, make_batch: Callable[..., Batch]):
    torch.manual_seed(0)
    network = VLA(replace(config, state_dropout=0.5)).train()
    batch = make_batch(8)
    losses = network.losses(batch)
    (losses.action + losses.answers["location"]).backward()
    without = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {name for name, _ in network.named_parameters() if name.startswith("patch_heads.")}


def test_a_tiny_network_learns_one_batch_by_heart(network: VLA, make_batch: Callable[..., Batch]):
    """Smoothed targets leave their entropy: ln(3 sqrt(2 pi e)) = 2.52 nats for deviations of 3 bins, less at the ends."""
    batch = make_batch(2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    assert batch.actions is not None
    before = (network.chunk(batch) - batch.actions).abs().mean()
    loss = torch.tensor(0.0)
    for _ in range(50):
        optimizer.zero_grad()
        loss = network.losses(batch).action
        loss.backward()
        optimizer.step()
    after = (network.chunk(batch) - batch.actions).abs().mean()
    assert loss.item() < 3.0
    assert after < 0.1 < before


def test_neighbouring_tokens_are_joined_in_reading_order():
    """A 4 x 4 grid whose token (row, column) holds 10 row + column; merged 2 x 2, each new token holds its four, row by row."""
    projector = Projector(CameraTokens("front", merge=2), grid=4, width_in=1, hidden=4, width_out=4)
    seen = []
    projector.fc1.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    grid = (10 * torch.arange(4.0)[:, None] + torch.arange(4.0)).reshape(1, 16, 1)
    assert projector(grid).shape == (1, 4, 4)
    assert projector.tokens == 4
    assert seen[0][0].tolist() == [[0, 1, 10, 11], [2, 3, 12, 13], [20, 21, 30, 31], [22, 23, 32, 33]]


def test_a_grid_that_cannot_be_joined_is_refused():
    with pytest.raises(ValueError, match=r"wrist: 6 x 6 tokens cannot be joined 4 x 4"):
        Projector(CameraTokens("wrist", merge=4), grid=6, width_in=1, hidden=4, width_out=4)


def test_the_tower_sees_cameras_apart_pixels_from_minus_one_to_one(config: NetworkConfig):
    torch.manual_seed(0)
    backbone = VisionBackbone(config).eval()
    seen = []
    backbone.featurizer.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    images = torch.zeros(1, 2, 96, 96, 3, dtype=torch.uint8)
    images[0, 1] = 255
    images[0, 1, 5, 7, 2] = 0  # row 5, column 7, blue
    features = backbone(images)
    assert seen[0].shape == (2, 3, 96, 96)
    assert (seen[0][0] == -1).all()
    assert seen[0][1].sum().item() == 3 * 96 * 96 - 2
    assert seen[0][1, 2, 5, 7] == -1
    assert features.shape == (1, 72, 32)


@torch.inference_mode()
def test_swapping_the_cameras_is_not_the_same(network: VLA, make_batch: Callable[..., Batch]):
    batch = make_batch(1)
    assert batch.images is not None
    swapped = replace(batch, images=batch.images.flip(1))
    assert (network(batch)["action"] - network(swapped)["action"]).abs().max() > 1e-6


def test_the_arrays_of_the_pipeline_become_a_batch_by_their_names():
    arrays = {
        "text": np.zeros((2, 3), np.int64),
        "text_mask": np.ones((2, 3), bool),
        "state": np.zeros((2, 4), np.float32),
        "state_mask": np.ones((2, 4), bool),
        "answers.location": np.ones((2, 6), np.float32),
        "answers_mask.location": np.ones((2, 6), bool),
        "label.front.class": np.arange(2)[:, None],
        "sample": np.arange(2),
    }
    batch = Batch.from_arrays(arrays)
    assert batch.images is batch.features is batch.actions is batch.actions_mask is None
    assert list(batch.answers) == list(batch.answers_mask) == ["location"]
    assert batch.labels["front.class"].tolist() == [[0], [1]]


def test_answer_groups_may_have_different_widths(config: NetworkConfig, make_batch: Callable[..., Batch]):
    wide = replace(config, answers=(*config.answers, SlotGroup("count", 2, 512, 64)))
    batch = make_batch(2)
    batch = replace(
        batch,
        answers={**batch.answers, "count": torch.zeros(2, 2)},
        answers_mask={**batch.answers_mask, "count": torch.ones(2, 2, dtype=torch.bool)},
    )
    assert set(VLA(wide).losses(batch).answers) == {"location", "count"}


@pytest.mark.parametrize("preset", [small, tiny])
def test_the_ranges_of_the_vocabulary_do_not_overlap_and_the_actions_come_last(preset: Callable[[], NetworkConfig]):
    config = preset()
    ranges = [(g.first_id, g.first_id + g.bins) for g in config.answers]
    ranges.append((config.head.first_id, config.head.first_id + config.head.bins))
    assert all(end == start for (_, end), (start, _) in pairwise(ranges))
    assert ranges[-1][1] == config.language.vocabulary


def test_a_new_head_costs_what_the_structure_page_says():
    """One module, and a member of the union that the page names, which each configuration and the network follow."""
    page = (Path(__file__).parents[2] / "docs" / "structure.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| a head |"))
    assert "`model/NAME.py`" in row
    assert "`Head` in `model/config.py`" in row
    assert typing.get_type_hints(configs.NetworkConfig)["head"] == configs.Head
    for member in typing.get_args(configs.Head) or (configs.Head,):
        VLA(replace(tiny(), head=member()))  # each member has its case in model/vla.py
