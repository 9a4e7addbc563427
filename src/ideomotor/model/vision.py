"""Vision transformers with timm's key names: OpenVLA's DINOv2 and SigLIP, and the small ones with a convolutional stem.

Letters: B = images, N = tokens, D = width, C = width of the language embedding that FiLM reads.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ideomotor.model.attention import attend
from ideomotor.model.config import ConvStem, PatchStem, VisionConfig

NORM_EPS = 1e-6  # of all LayerNorms in timm's ViTs


class PatchEmbed(nn.Module):
    """The patch projection; `proj` is timm's name."""

    def __init__(self, stem: PatchStem, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, stem.patch, stride=stem.patch)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        return rearrange(self.proj(images), "b d h w -> b (h w) d")


class ConvEmbed(nn.Module):
    """The convolutional stem: 16 px to a token."""

    def __init__(self, stem: ConvStem, width: int) -> None:
        super().__init__()
        first, second = stem.channels
        self.conv1 = nn.Conv2d(3, first, 4, stride=4)
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(second, width, 3, stride=2, padding=1)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        x = functional.gelu(self.conv1(images), approximate="tanh")
        x = functional.gelu(self.conv2(x), approximate="tanh")
        return rearrange(self.conv3(x), "b d h w -> b (h w) d")


class SelfAttention(nn.Module):
    """Multi-head attention with one matrix for q, k and v."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        return self.proj(rearrange(attend(q, k, v, None), "b h n d -> b n (h d)"))


class Mlp(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp)
        self.fc2 = nn.Linear(config.mlp, config.width)
        self.approximate = "tanh" if config.gelu == "tanh" else "none"

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        return self.fc2(functional.gelu(self.fc1(x), approximate=self.approximate))


class LayerScale(nn.Module):
    """A learned factor for each channel; `scale_factor` is OpenVLA's name for timm's `gamma`."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        return x * self.scale_factor


class FiLM(nn.Module):
    """A factor and a shift for each channel, read from a vector that describes the instruction (arXiv 1709.07871)."""

    def __init__(self, condition: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Linear(condition, width)
        self.shift = nn.Linear(condition, width)

    def forward(self, x: Float[Tensor, "B N D"], condition: Float[Tensor, "B C"]) -> Float[Tensor, "B N D"]:
        return x * (1 + self.scale(condition)[:, None]) + self.shift(condition)[:, None]


class AttentionPool(nn.Module):
    """The weights of SigLIP's pooling, under timm's names: nothing of OpenVLA reads them; they are kept for export."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.width
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(config)


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to its input; FiLM, where it is there, stands between them."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()

        def scale() -> nn.Module:
            return nn.Identity() if config.layer_scale is None else LayerScale(config.width, config.layer_scale)

        self.norm1 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.attn = SelfAttention(config.width, config.heads)
        self.ls1 = scale()
        self.norm2 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.mlp = Mlp(config)
        self.ls2 = scale()
        self.film = None if config.film is None else FiLM(config.film, config.width)

    def forward(self, x: Float[Tensor, "B N D"], condition: Float[Tensor, "B C"] | None) -> Float[Tensor, "B N D"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        if self.film is not None:
            assert condition is not None, "a tower with FiLM needs the instruction"
            x = self.film(x, condition)
        return x + self.ls2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """Images to one feature a patch, row-major; prefix tokens (cls, registers) work inside and are dropped at the end."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        stem = config.stem
        self.patch_embed = (
            PatchEmbed(stem, config.width) if isinstance(stem, PatchStem) else ConvEmbed(stem, config.width)
        )
        self.pos_embed = nn.Parameter(torch.randn(1, config.grid**2, config.width) * 0.02)
        if config.cls_tokens:
            self.cls_token = nn.Parameter(torch.zeros(1, config.cls_tokens, config.width))
        if config.register_tokens:
            self.reg_token = nn.Parameter(torch.zeros(1, config.register_tokens, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        if config.attention_pool:
            self.attn_pool = AttentionPool(config)

    def forward(
        self, images: Float[Tensor, "B 3 H W"], condition: Float[Tensor, "B C"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Return the patch features; `condition` describes the instruction to a tower with FiLM."""
        x = self.patch_embed(images) + self.pos_embed  # positions are added to patches only
        prefix = [
            getattr(self, name).expand(len(x), -1, -1) for name in ("cls_token", "reg_token") if hasattr(self, name)
        ]
        x = torch.cat([*prefix, x], dim=1) if prefix else x
        last = self.config.output_block
        for block in self.blocks if last is None else self.blocks[: last + 1]:
            x = block(x, condition)
        x = self.norm(x) if last is None else x
        return x[:, self.config.cls_tokens + self.config.register_tokens :]
