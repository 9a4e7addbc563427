"""Attention, rotary positions and the norm, against torch's own and by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ideomotor.model.attention import Blocks, Causal, Everybody, Mask, attend, rotary_table, rotate
from ideomotor.model.language import RMSNorm


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_attention_by_hand():
    """One head of width 1: softmax of (0, ln 3) is (1/4, 3/4)."""
    q = torch.ones(1, 1, 1, 1)
    k = torch.tensor([0.0, math.log(3)]).reshape(1, 1, 2, 1)
    v = torch.tensor([4.0, 8.0]).reshape(1, 1, 2, 1)
    assert attend(q, k, v, None).item() == pytest.approx(7.0)


@pytest.mark.parametrize("mask", [Everybody(), Causal(), Blocks((3, 5, 9))])
def test_written_out_attention_equals_the_fused_one_forward_and_backward(mask: Mask):
    def run(function: Callable[[Tensor, Tensor, Tensor], Tensor]):
        q, k, v = (random(2, 3, 9, 8, seed=s, dtype=torch.bfloat16).requires_grad_() for s in range(3))
        out = function(q, k, v)
        (out.float() * random(2, 3, 9, 8, seed=9)).sum().backward()
        return [t.float() for t in (out.detach(), q.grad, k.grad, v.grad) if t is not None]

    matrix = mask.matrix(9)
    written_out = run(lambda q, k, v: attend(q, k, v, matrix))
    fused = run(
        lambda q, k, v: functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=matrix)
    )
    for ours, theirs in zip(written_out, fused, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.03, atol=0.03)  # bfloat16 has 8 bits: 0.4 % a rounding


def test_both_paths_follow_the_formula_and_autocast_takes_the_written_out_one():
    q, k, v = (random(2, 3, 9, 8, seed=s) for s in range(3))
    expected = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(8) + torch.log(Causal().matrix(9)), -1) @ v
    torch.testing.assert_close(attend(q, k, v, Causal().matrix(9)), expected, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        written_out = attend(q.requires_grad_(), k, v, Causal().matrix(9))
    torch.testing.assert_close(written_out.float(), expected, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("mask", [Causal(), Blocks((3, 5, 9))])
def test_what_is_masked_has_no_influence(mask: Causal | Blocks):
    matrix = mask.matrix(9)
    q, k, v = (random(1, 2, 9, 4, seed=s) for s in range(3))
    before = attend(q, k, v, matrix)
    k[:, :, -1], v[:, :, -1] = 100.0, -100.0
    after = attend(q, k, v, matrix)
    unseeing = ~matrix[:, -1]
    assert unseeing.any()
    torch.testing.assert_close(after[:, :, unseeing], before[:, :, unseeing], rtol=0, atol=0)
    assert (after[:, :, ~unseeing] - before[:, :, ~unseeing]).abs().min() > 0


def test_blocks_of_one_are_causal_and_one_block_is_everybody():
    assert torch.equal(Blocks(tuple(range(1, 7))).matrix(6), Causal().matrix(6))
    assert Blocks((6,)).matrix(6).all()


def test_rotation_by_hand():
    """Width 4, theta 100: pair (0, 2) turns by 1 radian a position, pair (1, 3) by 0.1."""
    cos, sin = rotary_table(3, 4, theta=100.0)
    x = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(1, 1, 3, 4)
    turned = rotate(x, cos, sin)[0, 0]
    expected = [[math.cos(n), math.cos(0.1 * n), math.sin(n), math.sin(0.1 * n)] for n in range(3)]
    torch.testing.assert_close(turned, torch.tensor(expected))


def test_rotation_follows_the_rotate_half_formula_of_hugging_face():
    x = random(2, 3, 7, 16)
    cos, sin = rotary_table(7, 16, 10000.0)
    half = torch.cat([-x[..., 8:], x[..., :8]], dim=-1)
    torch.testing.assert_close(rotate(x, cos, sin), x * cos + half * sin)


def test_scores_depend_on_relative_positions_alone():
    cos, sin = rotary_table(40, 16, 10000.0)
    q, k = random(16, seed=1), random(16, seed=2)
    turned_q = rotate(q.expand(1, 1, 40, 16), cos, sin)[0, 0]
    turned_k = rotate(k.expand(1, 1, 40, 16), cos, sin)[0, 0]
    scores = turned_q @ turned_k.T
    for offset in (0, 3, 11):
        diagonal = scores.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(40), rtol=1e-5, atol=1e-5)


def test_the_norm_and_its_gradients_equal_those_of_torch():
    x, gradient = random(3, 5, 24), random(3, 5, 24, seed=1)
    norm = RMSNorm(24, eps=1e-5)
    with torch.no_grad():
        norm.weight.copy_(random(24, seed=2))
    ours = x.clone().requires_grad_()
    out = norm(ours)
    (out * gradient).sum().backward()

    theirs, weight = x.double().requires_grad_(), norm.weight.detach().double().requires_grad_()
    expected = functional.rms_norm(theirs, (24,), weight, 1e-5)
    (expected * gradient).sum().backward()
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    assert ours.grad is not None
    assert norm.weight.grad is not None
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.weight.grad.double(), weight.grad, rtol=1e-5, atol=1e-5)


def test_the_norm_computes_in_float32_and_keeps_the_type():
    norm = RMSNorm(8, eps=1e-6)
    x = torch.full((1, 1, 8), 3e-3, dtype=torch.bfloat16)
    out = norm(x)
    assert out.dtype == torch.bfloat16
    value = float(x[0, 0, 0])
    torch.testing.assert_close(
        out.float(), torch.full((1, 1, 8), value / math.sqrt(value**2 + 1e-6)), rtol=5e-3, atol=0
    )
