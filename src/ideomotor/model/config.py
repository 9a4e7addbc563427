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
    attention_pool: bool = False  # SigLIP's pooling weights are there; features do not depend on them
    film: int | None = (
        None  # width of the language embedding that modulates each block (FiLM, arXiv 1709.07871); None: none
    )

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
class TokenHead:
    """OpenVLA's action ids, read from the vocabulary (arXiv 2406.09246)."""


@dataclass(frozen=True)
class L1Head:
    """OFT's regression head: a residual MLP from the states of one time step to its action (arXiv 2502.19645)."""

    blocks: int = 2


@dataclass(frozen=True)
class DiffusionHead:
    """OFT's diffusion head: the same MLP predicts the noise in the chunk (DDIM, arXiv 2010.02502)."""

    blocks: int = 2
    train_steps: int = 50  # of the noise schedule, squared cosine (arXiv 2102.09672)
    steps: int = 50  # passes through the language model to sample a chunk


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


@dataclass(frozen=True)
class Tower:
    """A vision tower of OpenVLA, and how pixels in [0, 1] are scaled for it: (x - mean) / std for each colour."""

    vision: VisionConfig
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Vocabulary:
    """The ids that mean something to OpenVLA (arXiv 2406.09246)."""

    bos: int = 1
    eos: int = 2
    space: int = 29871  # the bare space in front of the first action token
    pad: int = 32000
    actions_end: int = 32000  # action ids are the `bins` ids below it; a higher action has a lower id
    bins: int = 256
    placeholder: int = 1  # stands in the slots of parallel decoding, where embeddings are zero

    @property
    def actions_first(self) -> int:
        """The lowest action id."""
        return self.actions_end - self.bins


@dataclass(frozen=True)
class Autoregressive:
    """One action id after the other, causal attention: OpenVLA."""


@dataclass(frozen=True)
class Parallel:
    """All numbers of a chunk at once, in slots with zero embeddings; every token sees every token: OpenVLA-OFT."""

    horizon: int  # actions in a chunk
    action_width: int
    head: TokenHead | L1Head | DiffusionHead
    state_width: int | None = None  # proprioception as a token of its own; None: not used


Decoding = Autoregressive | Parallel


@dataclass(frozen=True)
class OpenVLAConfig:
    """OpenVLA and its descendants: vision towers, a projector and a Llama (arXiv 2406.09246 and arXiv 2502.19645)."""

    towers: tuple[Tower, ...]  # DINOv2 first where there are two
    language: LanguageConfig
    decoding: Decoding = Autoregressive()
    cameras: int = 1  # images, primary first; each gives the same number of tokens
    vocabulary: Vocabulary = Vocabulary()
