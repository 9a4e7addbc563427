"""OpenVLA and OpenVLA-OFT (arXiv 2406.09246, 2502.19645) under the key names of the published checkpoints.

```
OpenVLA   [BOS][image tokens][prompt ... 29871][action ids, one after the other]             causal
OFT       [BOS][image tokens of each camera][state?][time?][prompt ... 29871][slots][EOS]    every token sees every token
```

Letters: B = batch, C = cameras, F = image channels of all towers, P = image tokens of a camera, L = text ids, N = tokens of the
whole sequence, K = slots = T A, D = width of the language model, T = horizon, A = action width, S = state width.
"""

import functools
from dataclasses import dataclass, replace
from typing import assert_never

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from ideomotor.model.attention import Causal, Everybody
from ideomotor.model.batch import TokenBatch
from ideomotor.model.config import (
    Autoregressive,
    DiffusionHead,
    L1Head,
    OpenVLAConfig,
    Parallel,
    TokenHead,
    Tower,
)
from ideomotor.model.decode import Choice, Decoder, Whole, Within
from ideomotor.model.diffusion import Diffusion, time_token
from ideomotor.model.l1 import L1
from ideomotor.model.language import Llama
from ideomotor.model.vision import VisionTransformer

IGNORED = -100  # label of an id that is not learned
FUSED_EXPANSION = 4  # hidden width of the projector behind two towers, in widths of its input


@dataclass(frozen=True)
class Noisy:
    """A chunk on its way from noise to actions."""

    actions: Float[Tensor, "B T A"]
    step: Int64[Tensor, " B"]  # of the noise schedule


class Towers(nn.Module):
    """One or two vision transformers that look at the same image; their features stand side by side."""

    def __init__(self, towers: tuple[Tower, ...]) -> None:
        super().__init__()
        self.featurizer = VisionTransformer(towers[0].vision)
        if len(towers) > 1:
            self.fused_featurizer = VisionTransformer(towers[1].vision)

    def forward(
        self, pixels: Float[Tensor, "B F H W"], condition: Float[Tensor, "B D"] | None
    ) -> Float[Tensor, "B P V"]:
        """Return the features of one camera's images: three channels for each tower."""
        towers = [self.featurizer, *([self.fused_featurizer] if hasattr(self, "fused_featurizer") else [])]
        parts = pixels.chunk(len(towers), dim=1)
        return torch.cat([tower(x, condition) for tower, x in zip(towers, parts, strict=True)], dim=-1)


class Projector(nn.Module):
    """Image features to the language model's width: three layers behind two towers, two behind one; exact GELU between."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        width, out = sum(tower.vision.width for tower in config.towers), config.language.width
        hidden = FUSED_EXPANSION * width if len(config.towers) > 1 else out
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out)
        if len(config.towers) > 1:
            self.fc3 = nn.Linear(out, out)

    def forward(self, features: Float[Tensor, "*B V"]) -> Float[Tensor, "*B D"]:
        x = self.fc2(functional.gelu(self.fc1(features)))
        return self.fc3(functional.gelu(x)) if hasattr(self, "fc3") else x


class TokenProjector(nn.Module):
    """Numbers to one token: two layers, exact GELU between."""

    def __init__(self, numbers: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(numbers, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "*B S"]) -> Float[Tensor, "*B D"]:
        return self.fc2(functional.gelu(self.fc1(x.to(self.fc1.weight.dtype))))


class OpenVLA(nn.Module):
    """A vision-language-action network; see the module."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        self.config = config
        width = config.language.width
        self.vision_backbone = Towers(config.towers)
        self.projector = Projector(config)
        self.language_model = Llama(config.language)
        self.decoder = Decoder(self.language_model)
        if isinstance(config.decoding, Parallel):
            self._build_parallel(config.decoding, width)

    def _build_parallel(self, how: Parallel, width: int) -> None:
        if how.state_width is not None:
            self.proprio_projector = TokenProjector(how.state_width, width)
        match how.head:
            case TokenHead():
                pass
            case L1Head():
                self.action_head = L1(width, how.action_width, how.head.blocks)
            case DiffusionHead():
                self.action_head = Diffusion(how.head, width, how.action_width)
                self.noisy_action_projector = TokenProjector(1, width)
            case _:
                assert_never(how.head)

    @property
    def head(self) -> L1 | Diffusion | None:
        """The head of numbers; None: action ids are read from the vocabulary."""
        return getattr(self, "action_head", None)

    # ------------------------------------------------------------------------------------------------ the sequence

    def pixels(self, images: UInt8[Tensor, "B C H W 3"]) -> Float[Tensor, "B C F H W"]:
        """Return the images as each tower wants them: (x / 255 - mean) / std, one tower's channels after the other's."""
        x = rearrange(images, "b c h w rgb -> b c rgb h w").float() / 255
        mean, std = _colours(self.config.towers, images.device)
        return (x.repeat(1, 1, len(self.config.towers), 1, 1) - mean) / std

    def condition(self, ids: Int64[Tensor, "B L"], counted: Bool[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """Return the mean embedding of the counted ids: what FiLM knows of the instruction."""
        words = self._embed(ids) * counted[..., None]
        return words.sum(dim=1) / counted.sum(dim=1, keepdim=True)

    def patches(
        self, pixels: Float[Tensor, "B C F H W"], condition: Float[Tensor, "B D"] | None = None
    ) -> Float[Tensor, "B CP D"]:
        """Return the image tokens, one camera after the other."""
        cameras = pixels.shape[1]
        if condition is not None:
            condition = condition.repeat_interleave(cameras, dim=0)
        dtype = self.projector.fc1.weight.dtype
        features = self.vision_backbone(rearrange(pixels, "b c f h w -> (b c) f h w").to(dtype), condition)
        return rearrange(self.projector(features), "(b c) p d -> b (c p) d", c=cameras)

    def sequence(
        self, batch: TokenBatch, patches: Float[Tensor, "B CP D"], noisy: Noisy | None = None
    ) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"]]:
        """Return the embeddings of the whole sequence, and where a token stands."""
        words = self._embed(batch.ids)
        slots = self.slots(batch)
        if slots is not None:
            words = words * ~slots[..., None]
            if noisy is not None:
                words = self._put(words, slots, self.noisy_action_projector(noisy.actions.flatten(1)[..., None]))
        prefix = [patches]
        if isinstance(self.config.decoding, Parallel) and self.config.decoding.state_width is not None:
            assert batch.state is not None, "this network reads the state"
            prefix.append(self.proprio_projector(batch.state)[:, None])
        if noisy is not None:
            prefix.append(time_token(noisy.step, words.shape[-1]).to(words.dtype)[:, None])
        inserted = torch.cat(prefix, dim=1)
        seen = torch.cat(
            [batch.mask[:, :1], batch.mask.new_ones(inserted.shape[:2]), batch.mask[:, 1:]],
            dim=1,
        )
        return torch.cat([words[:, :1], inserted, words[:, 1:]], dim=1), seen

    def slots(self, batch: TokenBatch) -> Bool[Tensor, "B L"] | None:
        """Return where the action slots of parallel decoding stand among the ids: before the last id, EOS."""
        if isinstance(self.config.decoding, Autoregressive):
            return None
        how = self.config.decoding
        end = batch.mask.sum(dim=1, keepdim=True) - 1
        place = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        return (place >= end - how.horizon * how.action_width) & (place < end)

    def forward(
        self, batch: TokenBatch, patches: Float[Tensor, "B CP D"] | None = None, noisy: Noisy | None = None
    ) -> Float[Tensor, "B N D"]:
        """Return the hidden states after the final norm."""
        embeddings, seen = self.sequence(batch, self.see(batch) if patches is None else patches, noisy)
        mask = Causal() if isinstance(self.config.decoding, Autoregressive) else Everybody()
        return self.language_model(embeddings, mask, None if batch.whole else seen)

    def see(self, batch: TokenBatch) -> Float[Tensor, "B CP D"]:
        """Return the image tokens of a batch."""
        assert batch.images is not None, "a batch has images"
        return self.patches(self.pixels(batch.images), self._condition(batch))

    def _condition(self, batch: TokenBatch) -> Float[Tensor, "B D"] | None:
        if self.config.towers[0].vision.film is None:
            return None
        slots = self.slots(batch)
        return self.condition(batch.ids, batch.mask if slots is None else batch.mask & ~slots)

    def before(self, batch: TokenBatch, hidden: Float[Tensor, "B N D"]) -> Float[Tensor, "B L1 D"]:
        """Return the states that predict `ids[:, 1:]`: the state at one token predicts the next."""
        return hidden[:, -batch.ids.shape[1] : -1]

    def slot_states(self, batch: TokenBatch, hidden: Float[Tensor, "B N D"]) -> Float[Tensor, "B K D"]:
        """Return the states that predict the slots."""
        rows = self._rows(batch, hidden.shape[1])
        return hidden.gather(1, rows[..., None].expand(-1, -1, hidden.shape[-1]))

    def _rows(self, batch: TokenBatch, tokens: int) -> Int64[Tensor, "B K"]:
        """Return where the states that predict the slots stand in a sequence of `tokens`."""
        how = self.config.decoding
        assert isinstance(how, Parallel), "only parallel decoding has slots"
        count = how.horizon * how.action_width
        first = batch.mask.sum(dim=1, keepdim=True) - 2 - count + tokens - batch.ids.shape[1]
        return first + torch.arange(count, device=batch.ids.device)

    # ------------------------------------------------------------------------------------------------ learning

    def loss(self, batch: TokenBatch, noisy: Noisy | None = None, noise: Tensor | None = None) -> Float[Tensor, ""]:
        """Return what training descends: cross-entropy [nats] of the labelled ids, or the head's error of the chunk."""
        hidden = self(batch, noisy=noisy)
        match self.head:
            case None:
                predicted, labels = self.supervised(batch, hidden)
                return functional.cross_entropy(predicted.float(), labels)
            case L1() as head:
                assert batch.actions is not None, "a batch for training has actions"
                return head.loss(self.slot_states(batch, hidden), batch.actions)
            case Diffusion() as head:
                assert noise is not None, "training a diffusion head needs noise"
                return head.loss(self.slot_states(batch, hidden), noise)

    def supervised(
        self, batch: TokenBatch, hidden: Float[Tensor, "B N D"]
    ) -> tuple[Float[Tensor, "M vocabulary"], Int64[Tensor, " M"]]:
        """Return the logits of the labelled ids of all samples, and the labels; only these rows meet the head."""
        assert batch.labels is not None, "a batch for training has labels"
        learned = batch.labels[:, 1:] != IGNORED
        states = self.before(batch, hidden)[learned]
        logits = self.language_model.logits(states[None], 0, self.config.language.vocabulary)[0]
        return logits, batch.labels[:, 1:][learned]

    # ------------------------------------------------------------------------------------------------ acting

    @torch.inference_mode()
    def ids(self, batch: TokenBatch, count: int, choice: Choice) -> Int64[Tensor, "B count"]:
        """Return action ids: the next `count` ids one after the other, or those of all `count` = T A slots at once."""
        match self.config.decoding:
            case Autoregressive():
                embeddings, seen = self.sequence(batch, self.see(batch))
                return self.decoder.generate(embeddings, None if batch.whole else seen, count, choice)
            case Parallel():
                return self._choose(self.slots_seen(batch, self.see(batch)), choice)
            case _:
                assert_never(self.config.decoding)

    @torch.inference_mode()
    def chunk(self, batch: TokenBatch, noise: Float[Tensor, "B T A"] | None = None) -> Float[Tensor, "B T A"]:
        """Return the chunk of a head of numbers in network coordinates; a diffusion head starts from `noise`."""
        how = self.config.decoding
        assert isinstance(how, Parallel), "one id after the other: see `ids`"
        patches = self.see(batch)
        match self.head:
            case L1() as head:
                return head.chunk(self.slots_seen(batch, patches))
            case Diffusion() as head:
                x = torch.randn(len(batch.ids), how.horizon, how.action_width) if noise is None else noise
                x = x.to(patches.device, torch.float32)
                for step in head.steps():
                    x = head.denoise(x, self.noise(batch, patches, x, step), step)
                return x
            case None:
                raise TypeError("a head of action ids gives ids: see `ids`")

    @torch.inference_mode()
    def noise(
        self, batch: TokenBatch, patches: Float[Tensor, "B CP D"], x: Float[Tensor, "B T A"], step: int
    ) -> Float[Tensor, "B T A"]:
        """Return the noise that a diffusion head sees in a chunk at a step of the schedule."""
        assert isinstance(self.head, Diffusion), "only a diffusion head speaks of noise"
        noisy = Noisy(x, torch.full((len(x),), step, device=x.device))
        return self.head.noise(self.slots_seen(batch, patches, noisy)).float()

    def slots_seen(
        self, batch: TokenBatch, patches: Float[Tensor, "B CP D"], noisy: Noisy | None = None
    ) -> Float[Tensor, "B K D"]:
        """Return the states that predict the slots, without gradients: what `slot_states` takes from `forward`, and no others."""
        embeddings, seen = self.sequence(batch, patches, noisy)
        rows = self._rows(batch, embeddings.shape[1])
        return self.decoder.states(embeddings, Everybody(), None if batch.whole else seen, rows)

    def _choose(self, states: Float[Tensor, "B K D"], choice: Choice) -> Int64[Tensor, "B K"]:
        match choice:
            case Whole():
                return self.language_model.logits(states, 0, self.config.language.vocabulary).argmax(dim=-1)
            case Within(first, count):
                return first + self.language_model.logits(states, first, count).argmax(dim=-1)
            case _:
                assert_never(choice)

    def _embed(self, ids: Int64[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        return self.language_model.model.embed_tokens(ids)

    @staticmethod
    def _put(words: Tensor, slots: Tensor, tokens: Tensor) -> Tensor:
        """Return the words with the tokens in their slots."""
        return words.masked_scatter(slots[..., None], tokens.to(words.dtype))


@functools.lru_cache(maxsize=16)
def _colours(towers: tuple[Tower, ...], device: torch.device) -> tuple[Float[Tensor, "F 1 1"], Float[Tensor, "F 1 1"]]:
    """Return mean and standard deviation of each channel; kept on the device, so that a graph may read them."""
    with torch.inference_mode(mode=False):
        mean = torch.tensor([tower.mean for tower in towers], device=device).reshape(-1, 1, 1)
        return mean, torch.tensor([tower.std for tower in towers], device=device).reshape(-1, 1, 1)


def with_film(config: OpenVLAConfig) -> OpenVLAConfig:
    """Return the configuration with FiLM in each block of each tower (OFT+)."""
    film = config.language.width
    return replace(config, towers=tuple(replace(t, vision=replace(t.vision, film=film)) for t in config.towers))
