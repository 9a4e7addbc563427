"""A Llama decoder with Hugging Face's key names; the mask is the caller's choice.

Letters: B = batch, N = tokens, D = width, V = vocabulary.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from ideomotor.model.attention import Everybody, Mask, attend, rotary_table, rotate, visible
from ideomotor.model.config import LanguageConfig


class RMSNorm(nn.Module):
    """x / rms(x) · weight (arXiv 1910.07467), computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        return _RMSNorm.apply(x.float(), self.weight.float(), self.eps).to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    """The norm with its backward pass written out: half of the memory traffic of the composed one on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = square.add_(eps).rsqrt_()
        normed = x * inverse
        ctx.save_for_backward(normed, inverse, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = grad_outputs
        normed, inverse, weight = ctx.saved_tensors
        product = gradient * normed
        of_weight = product.flatten(0, -2).sum(0)
        mean = (product @ weight)[..., None].div_(normed.shape[-1])
        return torch.addcmul(gradient * weight, normed, mean, value=-1).mul_(inverse), of_weight, None


class LlamaAttention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        head_width = config.width // config.heads
        self.q_proj = nn.Linear(config.width, config.heads * head_width, bias=False)
        self.k_proj = nn.Linear(config.width, config.kv_heads * head_width, bias=False)
        self.v_proj = nn.Linear(config.width, config.kv_heads * head_width, bias=False)
        self.o_proj = nn.Linear(config.heads * head_width, config.width, bias=False)

    def forward(
        self, x: Float[Tensor, "B N D"], table: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Float[Tensor, "B N D"]:
        q = rearrange(self.q_proj(x), "b n (h d) -> b h n d", h=self.heads)
        k = rearrange(self.k_proj(x), "b n (h d) -> b h n d", h=self.kv_heads)
        v = rearrange(self.v_proj(x), "b n (h d) -> b h n d", h=self.kv_heads)
        q, k = rotate(q, *table), rotate(k, *table)
        if self.kv_heads != self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        return self.o_proj(rearrange(attend(q, k, v, mask), "b h n d -> b n (h d)"))


class LlamaMlp(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp, bias=False)
        self.down_proj = nn.Linear(config.mlp, config.width, bias=False)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaLayer(nn.Module):
    """Attention and MLP, each behind a norm and added to its input."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.rms_eps)
        self.self_attn = LlamaAttention(config)
        self.post_attention_layernorm = RMSNorm(config.width, config.rms_eps)
        self.mlp = LlamaMlp(config)

    def forward(
        self, x: Float[Tensor, "B N D"], table: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Float[Tensor, "B N D"]:
        x = x + self.self_attn(self.input_layernorm(x), table, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaModel(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(LlamaLayer(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config.rms_eps)


class Llama(nn.Module):
    """Embeddings in, hidden states out; `logits` reads the head for a range of the vocabulary."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.model = LlamaModel(config)
        if not config.tied:
            self.lm_head = nn.Linear(config.width, config.vocabulary, bias=False)

    def forward(
        self, embeddings: Float[Tensor, "B N D"], mask: Mask | None = None, seen: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Return the hidden states after the final norm; tokens stand at positions 0 to N - 1.

        Nobody attends to what `seen` calls padding (None: there is none); the states there mean nothing.
        """
        tokens = embeddings.shape[1]
        head_width = self.config.width // self.config.heads
        cos, sin = rotary_table(tokens, head_width, self.config.rope_theta)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else embeddings.dtype
        table = (cos.to(embeddings.device, dtype), sin.to(embeddings.device, dtype))
        matrix = visible(mask or Everybody(), seen, tokens, embeddings.device)
        x = embeddings
        for layer in self.model.layers:
            x = layer(x, table, matrix)
        return self.model.norm(x)

    def logits(self, hidden: Float[Tensor, "B N D"], first_id: int, count: int) -> Float[Tensor, "B N count"]:
        """Return the logits of the ids from `first_id` on."""
        head = self.model.embed_tokens if self.config.tied else self.lm_head
        if type(head) not in (
            nn.Linear,
            nn.Embedding,
        ):  # with an adapter, whose output is no product with `weight` alone
            return head(hidden)[..., first_id : first_id + count]
        return functional.linear(hidden, head.weight[first_id : first_id + count])
