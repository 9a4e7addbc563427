"""The discrete head, by closed forms."""

import math

import pytest
import torch
from torch import Tensor

from ideomotor.model.bins import Bins
from ideomotor.model.config import DiscreteHead
from ideomotor.model.presets import small

CONFIG = DiscreteHead(bins=21, first_id=5, smoothing=1.5, window=3)


def logits_as_features(features: Tensor, first_id: int, count: int):
    """A vocabulary whose logits are the features themselves: the head can then be given any logits."""
    return features[..., first_id : first_id + count]


@pytest.fixture
def head():
    return Bins(CONFIG, logits_as_features)


def features(logits_BKV: Tensor):
    """Hidden states that give these logits."""
    return torch.nn.functional.pad(logits_BKV, (CONFIG.first_id, 2), value=99.0)


def test_bins_are_read_from_their_range_of_the_vocabulary(head: Bins):
    logits = torch.randn(2, 3, 21)
    assert torch.equal(head.logits(features(logits)), logits)


def test_targets_have_the_ratios_of_a_gaussian(head: Bins):
    values = torch.tensor([[0.0, 0.13, -0.97, 1.0, -1.0]])
    targets = head.targets(values)
    torch.testing.assert_close(targets.sum(-1), torch.ones(1, 5))
    for slot, value in enumerate(values[0].tolist()):
        at = (value + 1) * 10  # bin v stands for -1 + v / 10
        for v in range(20):
            ratio = math.exp(((v - at) ** 2 - (v + 1 - at) ** 2) / (2 * 1.5**2))
            assert (targets[0, slot, v + 1] / targets[0, slot, v]).item() == pytest.approx(ratio, rel=1e-3)


def test_targets_of_numbers_out_of_range_are_those_of_the_end(head: Bins):
    torch.testing.assert_close(head.targets(torch.tensor([[3.0]])), head.targets(torch.tensor([[1.0]])))


def test_bins_stand_for_evenly_spaced_values(head: Bins):
    torch.testing.assert_close(head.value(torch.arange(21.0)), torch.linspace(-1, 1, 21))
    x = torch.linspace(-1, 1, 33)
    torch.testing.assert_close(head.value(head.coordinate(x)), x)


def test_perfect_logits_decode_to_the_value_within_half_a_bin(head: Bins):
    values = torch.rand(1, 500, generator=torch.Generator().manual_seed(0)) * 2 - 1
    decoded = head.decode(features(head.targets(values).log()))
    bins_off = (decoded - values).abs() * 10
    inner = values.abs() <= 0.7  # the window of 3 bins fits
    assert bins_off[inner].max() <= 0.5


def test_at_the_ends_decoding_is_off_by_no_more_than_half_a_gaussian(head: Bins):
    """Beyond the end there are no bins: the mean of a halved Gaussian lies sqrt(2 / pi) deviations inside."""
    values = torch.linspace(-1, 1, 401)[None]
    decoded = head.decode(features(head.targets(values).log()))
    assert ((decoded - values).abs() * 10).max() <= 1.5 * math.sqrt(2 / math.pi)
    assert (decoded.abs() <= 1).all()
    assert decoded[0].diff().min() > -0.5 / 10  # larger numbers do not come back smaller, up to half a bin


def test_the_small_networks_bins_are_finer_than_half_a_bin_inside():
    config = small().head
    head = Bins(config, lambda x, first_id, count: x[..., first_id : first_id + count])
    values = torch.linspace(-0.9, 0.9, 777)[None]
    logits = torch.nn.functional.pad(head.targets(values).log(), (config.first_id, 0))
    assert ((head.decode(logits) - values).abs() * 127.5).max() <= 0.5


def test_a_certain_bin_decodes_to_its_value(head: Bins):
    logits = torch.full((1, 21, 21), -50.0)
    logits[0].fill_diagonal_(50.0)
    torch.testing.assert_close(head.decode(features(logits)), torch.linspace(-1, 1, 21)[None], rtol=0, atol=1e-6)


def test_two_modes_are_kept_apart(head: Bins):
    """60 % at bin 2 and 40 % at bin 18: the mean, bin 8.4, is what neither means."""
    likelihood = torch.full((1, 1, 21), 1e-9)
    likelihood[0, 0, 2], likelihood[0, 0, 18] = 0.6, 0.4
    assert head.decode(features(likelihood.log())).item() == pytest.approx(-0.8, abs=1e-4)


def test_decoding_is_the_mean_within_the_window_by_hand(head: Bins):
    likelihood = torch.full((1, 1, 21), 1e-12)
    likelihood[0, 0, 10], likelihood[0, 0, 13], likelihood[0, 0, 14] = 0.5, 0.25, 0.25  # 14 is out of the window
    bin_ = (0.5 * 10 + 0.25 * 13) / 0.75
    assert head.decode(features(likelihood.log())).item() == pytest.approx(bin_ / 10 - 1, abs=1e-5)


def test_the_loss_is_the_cross_entropy_of_the_masked_slots_by_hand(head: Bins):
    """Uniform logits cost ln 21 in every slot, whatever the target."""
    values, mask = torch.tensor([[0.3, -0.2]]), torch.tensor([[True, True]])
    assert head.loss(features(torch.zeros(1, 2, 21)), values, mask).item() == pytest.approx(math.log(21), rel=1e-5)
    wild = torch.zeros(1, 2, 21)
    wild[0, 1, 0] = 1000.0
    only_first = head.loss(features(wild), values, torch.tensor([[True, False]]))
    assert only_first.item() == pytest.approx(math.log(21), rel=1e-5)
    assert head.loss(features(wild), values, torch.zeros(1, 2, dtype=torch.bool)).item() == 0.0


def test_the_loss_is_least_at_the_target_and_is_its_entropy_there(head: Bins):
    values, mask = torch.tensor([[0.31, -0.77]]), torch.ones(1, 2, dtype=torch.bool)
    target = head.targets(values)
    entropy = -(target * target.log()).sum(-1).mean()
    at_target = features(target.log()).requires_grad_()
    loss = head.loss(at_target, values, mask)
    assert loss.item() == pytest.approx(entropy.item(), rel=1e-5)
    loss.backward()
    assert at_target.grad is not None
    assert at_target.grad.abs().max() < 1e-6
    for seed in range(5):
        off = target.log() + 0.1 * torch.randn(1, 2, 21, generator=torch.Generator().manual_seed(seed))
        assert head.loss(features(off), values, mask) > loss


def test_the_gradient_of_the_loss_is_likelihood_minus_target(head: Bins):
    values, mask = torch.tensor([[0.4]]), torch.ones(1, 1, dtype=torch.bool)
    logits = torch.randn(1, 1, 21, generator=torch.Generator().manual_seed(0)).requires_grad_()
    head.loss(features(logits), values, mask).backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - head.targets(values), rtol=1e-4, atol=1e-6)


def test_a_slot_is_right_when_its_most_likely_bin_is_the_nearest(head: Bins):
    logits = torch.zeros(1, 3, 21)
    logits[0, 0, 12], logits[0, 1, 12], logits[0, 2, 0] = 1.0, 1.0, 1.0
    right = head.right(features(logits), torch.tensor([[0.24, 0.26, -2.0]]))  # bins 12.4, 12.6, 0
    assert right.tolist() == [[True, False, True]]
