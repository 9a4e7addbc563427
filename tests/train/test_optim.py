import pytest
import torch
from torch import nn

from ideomotor.train.config import Everything, TrainConfig
from ideomotor.train.optim import build_optimizer, learning_rate


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3))
    named(net, "3.bias").requires_grad_(False)
    return net


def named(net: nn.Module, name: str) -> nn.Parameter:
    return dict(net.named_parameters())[name]


def gradients(net: nn.Module, step: int) -> None:
    x = torch.randn(11, 5, generator=torch.Generator().manual_seed(step))
    (net(x) ** 2).mean().backward()


def test_steps_equal_those_of_torch_adamw_with_clipping() -> None:
    config = TrainConfig(data="d", out="o", weight_decay=0.1, clip=0.3)
    ours, theirs = network(), network()
    optimizer = build_optimizer(ours, config)
    learning = [p for p in theirs.parameters() if p.requires_grad]
    reference = torch.optim.AdamW(
        [
            {"params": [p for p in learning if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=1e-2,
        betas=config.betas,
    )
    for step in range(8):
        optimizer.clear()
        gradients(ours, step)
        reference.zero_grad()
        gradients(theirs, step)
        expected_norm = torch.nn.utils.clip_grad_norm_(learning, 0.3)
        norm = optimizer.step(1e-2)
        reference.step()
        assert norm == pytest.approx(float(expected_norm), rel=1e-5)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_a_frozen_weight_keeps_its_value() -> None:
    net = network()
    before = named(net, "3.bias").detach().clone()
    optimizer = build_optimizer(net, TrainConfig(data="d", out="o"))
    gradients(net, 0)
    optimizer.step(1.0)
    assert torch.equal(named(net, "3.bias"), before)
    assert not torch.equal(named(net, "3.weight"), named(network(), "3.weight"))


def test_a_restored_optimizer_takes_the_same_next_step_to_the_bit() -> None:
    config = TrainConfig(data="d", out="o")
    first = network()
    optimizer = build_optimizer(first, config)
    for step in range(3):
        optimizer.clear()
        gradients(first, step)
        optimizer.step(1e-2)
    second = network(seed=1)
    second.load_state_dict(first.state_dict())
    other = build_optimizer(second, config)
    other.load(optimizer.state())
    for net, opt in ((first, optimizer), (second, other)):
        opt.clear()
        gradients(net, 3)
        opt.step(1e-2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_tower_can_learn_at_a_share_of_the_rate() -> None:
    net = nn.ModuleDict({"vision_backbone": nn.Linear(2, 2, bias=False), "head": nn.Linear(2, 2, bias=False)})
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = build_optimizer(
        net, TrainConfig(data="d", out="o", weight_decay=0.0, clip=1e9, stage=Everything(tower_rate=0.25))
    )
    optimizer.gradient_P.fill_(1.0)
    optimizer.step(0.1)
    # Adam's first step has the length of the learning rate, whatever the gradient's.
    torch.testing.assert_close(before["head.weight"] - named(net, "head.weight"), torch.full((2, 2), 0.1))
    torch.testing.assert_close(
        before["vision_backbone.weight"] - named(net, "vision_backbone.weight"), torch.full((2, 2), 0.025)
    )


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    net = network()
    optimizer = build_optimizer(net, TrainConfig(data="d", out="o"))
    optimizer.gradient_P.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        optimizer.step(1e-3)


def test_the_rate_rises_for_the_warm_up_and_ends_near_its_final_share() -> None:
    config = TrainConfig(data="d", out="o", learning_rate=2e-3, warm_up=200, final_share=0.01)
    assert learning_rate(config, 199, 10_000) == pytest.approx(2e-3)
    assert learning_rate(config, 99, 10_000) == pytest.approx(1e-3)
    assert learning_rate(config, 5100, 10_000) == pytest.approx(2e-3 * (0.01 + 0.99 * 0.5))
    assert learning_rate(config, 9_999, 10_000) == pytest.approx(2e-5, rel=1e-3)


def test_a_short_run_warms_up_in_a_fifth_of_its_steps() -> None:
    config = TrainConfig(data="d", out="o", learning_rate=1.0, warm_up=200)
    assert learning_rate(config, 1, 10) == 1.0
