"""The whole network: cameras, state and instruction in; a chunk of actions and auxiliary answers out, all slots in parallel.

```
sequence:  [front tokens][wrist tokens][state][instruction][answer slots][action slots]      every token sees every token
```

Letters: B = batch, C = cameras, N = vision tokens of all cameras, L = text tokens, T = horizon, A = action width, D = width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ideomotor.model.batch import Batch
from ideomotor.model.bins import Bins, Discrete, Read
from ideomotor.model.config import DiscreteHead, NetworkConfig, SlotGroup
from ideomotor.model.language import Llama
from ideomotor.model.patches import PatchHeads
from ideomotor.model.projector import Projector
from ideomotor.model.vision import VisionTransformer

ANSWER_SMOOTHING, ANSWER_WINDOW = 1.0, 4  # [bins] of the auxiliary answers, whose bins are coarse
INIT_STD = 0.02


@dataclass(frozen=True)
class Losses:
    """Losses in nats: of the action slots, and of each answer group by its name."""

    action: Float[Tensor, ""]
    answers: dict[str, Float[Tensor, ""]]


class VisionBackbone(nn.Module):
    """One tower for all cameras; a learned vector tells it which camera it sees through."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.featurizer = VisionTransformer(config.vision)
        self.camera = nn.Parameter(torch.randn(len(config.cameras), 1, config.vision.width) * INIT_STD)

    def forward(self, images: UInt8[Tensor, "B C H W 3"]) -> Float[Tensor, "B N D"]:
        """Return the features of all cameras, one camera after the other."""
        cameras = images.shape[1]
        pixels = rearrange(images, "b c h w rgb -> (b c) rgb h w").float() * (2 / 255) - 1
        features = self.featurizer(pixels.contiguous(memory_format=torch.channels_last))
        features = rearrange(features, "(b c) n d -> b c n d", c=cameras) + self.camera
        return rearrange(features, "b c n d -> b (c n) d")


class VLA(nn.Module):
    """A vision-language-action network."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width, vision = config.language.width, config.vision
        self.vision_backbone = VisionBackbone(config)
        self.projector = nn.ModuleDict(
            {c.role: Projector(c, vision.grid, vision.width, config.projector, width) for c in config.cameras}
        )
        self.state_projector = nn.Sequential(
            nn.Linear(2 * config.state_width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.no_state = nn.Parameter(torch.zeros(width))
        self.text_padding = nn.Parameter(torch.randn(width) * INIT_STD)
        self.slots = nn.ParameterDict(
            {g.name: nn.Parameter(torch.randn(g.count, width) * INIT_STD) for g in config.answers}
            | {"action": nn.Parameter(torch.randn(config.horizon * config.action_width, width) * INIT_STD)}
        )
        self.language_model = Llama(config.language)
        self.patch_heads = PatchHeads(vision.width, config.classes, [c.role for c in config.cameras])
        read = self.language_model.logits
        self.head = _build_head(config, read)
        self.answer_heads = {g.name: Bins(_answer_bins(g), read) for g in config.answers}
        self.apply(_initialize)

    def features(self, images: UInt8[Tensor, "B C H W 3"]) -> Float[Tensor, "B N D"]:
        """Return the vision tower's features; they may be kept and given as `Batch.features`."""
        return self.vision_backbone(images)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, "B _ D"]]:
        """Return the hidden states of each slot group by its name; `action` holds T A slots, row-major."""
        parts = [*self._vision(batch), self._state(batch), self._text(batch)]
        size = len(batch.text)
        slots = [slot.expand(size, -1, -1) for slot in (self.slots[name] for name in self._groups)]
        hidden = self.language_model(torch.cat([*parts, *slots], dim=1))
        counts = [slot.shape[1] for slot in slots]
        states = hidden[:, -sum(counts) :].split(counts, dim=1)
        return dict(zip(self._groups, states, strict=True))

    def losses(self, batch: Batch) -> Losses:
        """Return the losses of a batch with targets."""
        states = self(batch)
        action = self.head.loss(states["action"], batch)
        answers = {
            name: head.loss(states[name], batch.answers[name], batch.answers_mask[name])
            for name, head in self.answer_heads.items()
            if name in batch.answers
        }
        return Losses(action, answers)

    @torch.no_grad()
    def chunk(self, batch: Batch) -> Float[Tensor, "B T A"]:
        """Return the chunk in network coordinates."""
        return self.decode(self(batch))

    def decode(self, states: dict[str, Tensor]) -> Float[Tensor, "B T A"]:
        """Return the chunk of the hidden states that `forward` gave."""
        return self.head.chunk(states["action"])

    def answer(self, states: dict[str, Tensor], name: str) -> Float[Tensor, "B K"]:
        """Return the values of an answer group in network coordinates."""
        return self.answer_heads[name].decode(states[name])

    @property
    def _groups(self) -> Sequence[str]:
        return [*(group.name for group in self.config.answers), "action"]

    def _vision(self, batch: Batch) -> list[Float[Tensor, "B M W"]]:
        if batch.features is None:
            assert batch.images is not None, "a batch has images or features"
            features = self.features(batch.images)
        else:
            features = batch.features
        cameras = features.to(self.no_state.dtype).chunk(len(self.config.cameras), dim=1)
        tokens = [self.projector[c.role](x) for c, x in zip(self.config.cameras, cameras, strict=True)]
        if batch.images_mask is None:
            return tokens
        seen = batch.images_mask.T[:, :, None, None]  # a camera that is not there says as much as no word
        return [torch.where(here, x, self.text_padding.to(x.dtype)) for here, x in zip(seen, tokens, strict=True)]

    def _state(self, batch: Batch) -> Float[Tensor, "B 1 W"]:
        token = self.state_projector(
            torch.cat([batch.state * batch.state_mask, batch.state_mask.to(batch.state)], dim=-1)
        )
        if self.training and self.config.state_dropout:
            blank = torch.rand(len(token), 1, device=token.device) < self.config.state_dropout
            token = torch.where(blank, self.no_state.to(token.dtype), token)
        return token[:, None]

    def _text(self, batch: Batch) -> Float[Tensor, "B L W"]:
        words = self.language_model.model.embed_tokens(batch.text)
        return torch.where(batch.text_mask[..., None], words, self.text_padding)


def _build_head(config: NetworkConfig, read: Read) -> Discrete:
    """Return the module of a head; the next member of the union gets its case here."""
    match config.head:
        case DiscreteHead():
            return Discrete(config.head, read, config.horizon)
        case _:
            assert_never(config.head)


def _answer_bins(group: SlotGroup) -> DiscreteHead:
    return DiscreteHead(group.bins, group.first_id, ANSWER_SMOOTHING, ANSWER_WINDOW)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(
            module.weight,
            std=INIT_STD if isinstance(module, nn.Embedding) else (1 / module.weight.shape[1]) ** 0.5 * 0.8,
        )
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                nn.init.zeros_(parameter)
