"""Who attends to whom, rotary positions, and attention itself.

Letters: B = batch, H = heads, N = tokens, D = width of a head.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Everybody:
    """Each token sees each token, and costs no mask.

    >>> print(Everybody().matrix(3))
    None
    """

    def matrix(self, tokens: int, device: torch.device | None = None) -> None:
        """Return no mask."""


@dataclass(frozen=True)
class Causal:
    """Each token sees itself and what stands before it.

    >>> print(Causal().matrix(3).int())
    tensor([[1, 0, 0],
            [1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """

    def matrix(self, tokens: int, device: torch.device | None = None) -> Bool[Tensor, "N N"]:
        """Return the mask; row = who looks, column = what is seen."""
        return torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()


@dataclass(frozen=True)
class Blocks:
    """Each token sees its own block and all earlier blocks; `ends` are the blocks' (exclusive) last positions.

    >>> print(Blocks((2, 3, 5)).matrix(5).int())
    tensor([[1, 1, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 1, 0, 0],
            [1, 1, 1, 1, 1],
            [1, 1, 1, 1, 1]], dtype=torch.int32)
    """

    ends: tuple[int, ...]

    def matrix(self, tokens: int, device: torch.device | None = None) -> Bool[Tensor, "N N"]:
        """Return the mask; row = who looks, column = what is seen."""
        ends = torch.tensor(self.ends, device=device)
        block = torch.bucketize(torch.arange(tokens, device=device), ends, right=True)
        return block[None, :] <= block[:, None]


Mask = Everybody | Causal | Blocks


def visible(
    mask: Mask, seen: Bool[Tensor, "B N"] | None, tokens: int, device: torch.device | None = None
) -> Tensor | None:
    """Return who sees whom, [N, N] or [B, 1, N, N]: `mask` without the tokens that `seen` calls padding.

    A token that would see nothing, as padding on the left does, sees itself: nobody reads it, and a softmax over nothing is NaN.

    >>> print(visible(Causal(), torch.tensor([[True, True, False]]), 3).int())
    tensor([[[[1, 0, 0],
              [1, 1, 0],
              [1, 1, 0]]]], dtype=torch.int32)
    """
    matrix = mask.matrix(tokens, device)
    if seen is None:
        return matrix
    keys = seen[:, None, None, :]
    both = keys.expand(-1, -1, tokens, -1) if matrix is None else keys & matrix
    alone = ~both.any(dim=-1, keepdim=True) & torch.eye(tokens, dtype=torch.bool, device=seen.device)
    return both | alone


def rotary_table(tokens: int, width: int, theta: float) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
    """Return cos and sin of the rotary angles (arXiv 2104.09864), rotate-half layout as in Hugging Face's Llama."""
    frequency = theta ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angle = torch.arange(tokens, dtype=torch.float32)[:, None] * frequency[None, :]
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(
    x: Float[Tensor, "B H N D"], cos: Float[Tensor, "N D"], sin: Float[Tensor, "N D"]
) -> Float[Tensor, "B H N D"]:
    """Turn each pair (x_i, x_{i + D/2}) by its angle."""
    left, right = x.chunk(2, dim=-1)
    half = x.shape[-1] // 2  # both halves of the tables are equal
    cos, sin = cos[:, :half], sin[:, :half]
    return torch.cat([torch.addcmul(left * cos, right, sin, value=-1), torch.addcmul(right * cos, left, sin)], dim=-1)


def attend(
    q: Float[Tensor, "B H N D"], k: Float[Tensor, "B H M D"], v: Float[Tensor, "B H M D"], mask: Tensor | None
) -> Float[Tensor, "B H N D"]:
    """Return softmax(q kᵀ / √D) v; True in the mask means "is seen".

    With gradients and in bfloat16 the products are written out: the backward pass of the CPU's fused kernel is several times slower.
    """
    if not (torch.is_grad_enabled() and (q.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu"))):
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    batch, heads, tokens, width = q.shape
    k_T = k.reshape(batch * heads, -1, width).transpose(1, 2)
    scores = torch.baddbmm(
        q.new_zeros(1, 1, 1), q.reshape(batch * heads, tokens, width), k_T, beta=0, alpha=1.0 / math.sqrt(width)
    ).unflatten(0, (batch, heads))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1, dtype=scores.dtype) @ v
