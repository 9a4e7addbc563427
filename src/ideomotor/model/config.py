"""What a network is made of, as frozen dataclasses. Standard library only; saved with the weights."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PatchStem:
    """One linear projection of each patch, as in ViT (arXiv 2010.11929)."""

    patch: int = 14  # [px]


@dataclass(frozen=True)
class ConvStem:
    """Three convolutions, 4x4 stride 4 and twice 3x3 stride 2: 16 px to a token (arXiv 2106.14881: early convolutions train better)."""

    channels: tuple[int, int] = (48, 96)  # after the first and the second


@dataclass(frozen=True)
class VisionConfig:
    """A vision transformer, pre-norm, with fused qkv."""

    stem: PatchStem | ConvStem
    image_size: int  # [px] square
    width: int
    depth: int
    heads: int
    mlp: int
    gelu: Literal["erf", "tanh"] = "erf"
    cls_tokens: int = 0
    register_tokens: int = 0
    layer_scale: float | None = None  # initial value, None: no LayerScale
    output_block: int | None = None  # features come after this block without the final norm; None: last block, normed

    @property
    def grid(self) -> int:
        """Tokens along a side."""
        return self.image_size // (self.stem.patch if isinstance(self.stem, PatchStem) else 16)


@dataclass(frozen=True)
class CameraTokens:
    """How the tokens of one camera enter the sequence: `merge` x `merge` neighbours are joined into one."""

    role: str
    merge: int = 1


@dataclass(frozen=True)
class LanguageConfig:
    """A Llama decoder (arXiv 2307.09288): RMSNorm, rotary positions, SwiGLU, grouped-query attention, no biases."""

    vocabulary: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    mlp: int
    rope_theta: float = 10000.0
    rms_eps: float = 1e-5
    tied: bool = False  # the output head shares the embedding's weights


@dataclass(frozen=True)
class SlotGroup:
    """Output tokens with a range of the vocabulary: `count` slots that choose among `bins` ids from `first_id` on."""

    name: str
    count: int
    first_id: int
    bins: int


@dataclass(frozen=True)
class DiscreteHead:
    """Bins for each number, read from the vocabulary; targets are smoothed, decoding is the mean around the mode."""

    bins: int = 256
    first_id: int = 576  # the action ids are the last ones of the vocabulary
    smoothing: float = 3.0  # [bins] standard deviation of the Gaussian target
    window: int = 12  # [bins] decoding averages so far around the most likely bin


Head = DiscreteHead  # a union: the next head is one more member, `DiscreteHead | FlowHead`


@dataclass(frozen=True)
class NetworkConfig:
    """A vision-language-action network with parallel output slots."""

    vision: VisionConfig
    cameras: tuple[CameraTokens, ...]
    language: LanguageConfig
    text_length: int  # tokens; shorter instructions are padded with a learned token that is attended to
    state_width: int  # padded
    action_width: int  # padded
    horizon: int  # actions in a chunk
    answers: tuple[SlotGroup, ...]  # auxiliary slot groups, filled beside the action
    head: Head
    projector: int = 256  # hidden width
    classes: int = 64  # of the patch labels in the vision stage, 0 = nothing there
    state_dropout: float = 0.1  # share of the training samples whose state token is blanked
