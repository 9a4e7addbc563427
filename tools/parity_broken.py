"""One thing broken on purpose: the mistakes that parity must show, made in our own network and in what stands around it.

Each is a change of a configuration or of one function, on networks that are loaded for it and thrown away. Nineteen of them are those of
the fixture's README, so that their cost can be held against what the same mistake costs the reference.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from parity_cases import Cases
from torch import Tensor, nn
from torch.nn import functional

from ideomotor.data.norm_stats import OFT_WIDENING
from ideomotor.model import language, oft_weights, openvla
from ideomotor.model.attention import Causal
from ideomotor.model.config import OpenVLAConfig, VisionConfig
from ideomotor.model.openvla import OpenVLA
from ideomotor.model.openvla_weights import load_openvla
from ideomotor.tokenize.llama import LlamaTokenizer

CAUSAL = "expected.npz"
LOGITS, TOWER, ACTION = "{i}.logits_last_prompt", "{i}.{tower}_patches", "{i}.action.{key}"
CHUNK = "{i}.normalized_actions"

Break = Callable[[Cases, ExitStack], None]  # changes what the cases hold; the stack takes patches of modules back


@dataclass(frozen=True)
class Mistake:
    """One thing broken on purpose, and the outputs that show it."""

    name: str
    file: str
    keys: tuple[str, ...]  # with {i} for the first sample, {key} for its first dataset, {tower} for each tower
    apply: Break
    readme: str = ""  # its name in the README's table, whose numbers are those of the first key


# ------------------------------------------------------------------------------------------------------------ what is broken


def _with_config(network: OpenVLA, change: Callable[[OpenVLAConfig], OpenVLAConfig]) -> OpenVLA:
    """Return a network with the same weights and another configuration."""
    with torch.device("meta"):
        other = OpenVLA(change(network.config))
    other.load_state_dict(network.state_dict(), assign=True)
    return other.eval()


def _towers(**changes: Any) -> Break:
    """Change the configuration of all towers; a function is given each tower's."""

    def change(config: OpenVLAConfig) -> OpenVLAConfig:
        return replace(config, towers=tuple(replace(t, vision=changed(t.vision)) for t in config.towers))

    def changed(vision: VisionConfig) -> VisionConfig:
        return replace(vision, **{n: value(vision) if callable(value) else value for n, value in changes.items()})

    return lambda cases, _: _replaced(cases, _with_config(cases.subject(None).network, change))


def _replaced(cases: Cases, network: OpenVLA) -> None:
    cases.subject(None).network = network


def _final_norm(cases: Cases, _: ExitStack) -> None:
    """The features of the right block, with the tower's final norm."""
    for tower in _towers_of(cases.subject(None).network):
        tower.forward = lambda images, condition=None, run=tower.forward, norm=tower.norm: norm(run(images, condition))


def _towers_of(network: OpenVLA) -> list[Any]:
    return list(network.vision_backbone.children())


def _swapped(cases: Cases, _: ExitStack) -> None:
    """The second tower's features first; each tower still gets its own pixels."""
    backbone = cases.subject(None).network.vision_backbone
    width = backbone.featurizer.config.width
    run = backbone.forward

    def forward(pixels: Tensor, condition: Tensor | None) -> Tensor:
        features = run(pixels, condition)
        return torch.cat([features[..., width:], features[..., :width]], dim=-1)

    backbone.forward = forward


def _tanh_gelu(_: Cases, stack: ExitStack) -> None:
    """The approximation everywhere, in the towers and in the projector."""
    exact = functional.gelu
    stack.enter_context(patch.object(functional, "gelu", lambda x, approximate="": exact(x, approximate="tanh")))  # noqa: ARG005


def _tower_eps(cases: Cases, _: ExitStack) -> None:
    for module in cases.subject(None).network.vision_backbone.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


def _interleaved(_: Cases, stack: ExitStack) -> None:
    """Neighbours are turned together, not a number and the one half a head further."""

    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        cos, sin = cos[:, :half], sin[:, :half]
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)

    stack.enter_context(patch.object(language, "rotate", rotate))


def _order(network: OpenVLA, arrange: Callable[[Tensor, int], Tensor]) -> None:
    """Put the parts of the sequence into another order; `arrange` is given it and the number of image tokens."""
    run = network.sequence

    def sequence(batch: Any, patches: Tensor, noisy: Any = None) -> tuple[Tensor, Tensor]:
        embeddings, seen = run(batch, patches, noisy)
        return arrange(embeddings, patches.shape[1]), seen

    network.sequence = sequence


def _patches_last(cases: Cases, _: ExitStack) -> None:
    """All the text, then the image."""
    _order(cases.subject(None).network, lambda x, p: torch.cat([x[:, :1], x[:, p + 1 :], x[:, 1 : p + 1]], dim=1))


def _patches_first(cases: Cases, _: ExitStack) -> None:
    """The image before BOS."""
    _order(cases.subject(None).network, lambda x, p: torch.cat([x[:, 1 : p + 1], x[:, :1], x[:, p + 1 :]], dim=1))


def _without_space(_: Cases, stack: ExitStack) -> None:
    stack.enter_context(patch.object(LlamaTokenizer, "prompt_ids", LlamaTokenizer.encode))


def _rms_eps(eps: float) -> Break:
    return lambda cases, _: _replaced(
        cases,
        _with_config(
            cases.subject(None).network, lambda config: replace(config, language=replace(config.language, rms_eps=eps))
        ),
    )


def _as_trained(cases: Cases, _: ExitStack) -> None:
    """Mean and standard deviation that were not rounded to bfloat16."""
    _replaced(cases, load_openvla(cases.fixture.checkpoint, dtype=torch.float32, normalization="train"))


def _causal_slots(_: Cases, stack: ExitStack) -> None:
    stack.enter_context(patch.object(openvla, "Everybody", Causal))


def _not_zeroed(case: str) -> Break:
    """The placeholders keep the embedding of their id."""

    def apply(cases: Cases, _: ExitStack) -> None:
        network = cases.slots(case).network
        run = network.sequence

        def sequence(batch: Any, patches: Tensor, noisy: Any = None) -> tuple[Tensor, Tensor]:
            with patch.object(network, "slots", lambda _: None):
                return run(batch, patches, noisy)

        network.sequence = sequence

    return apply


def _no_stop(case: str) -> Break:
    """The sequence ends with the last slot."""

    def apply(cases: Cases, _: ExitStack) -> None:
        subject = cases.slots(case)
        network, ask = subject.network, subject.ask

        def shorter(samples: Any) -> Any:
            batch = ask(samples)
            assert batch.whole
            return replace(batch, ids=batch.ids[:, :-1], mask=batch.mask[:, :-1])

        subject.ask = shorter
        slots, rows = network.slots, network._rows

        def longer(batch: Any) -> Any:
            return replace(
                batch,
                ids=functional.pad(batch.ids, (0, 1)),
                mask=functional.pad(batch.mask, (0, 1), value=True),
            )

        network.slots = lambda batch: slots(longer(batch))[:, :-1]
        network._rows = lambda batch, tokens: rows(longer(batch), tokens + 1)

    return apply


def _off_by_one(case: str) -> Break:
    """The state at a slot is read for that slot, not the state before it."""

    def apply(cases: Cases, _: ExitStack) -> None:
        network = cases.slots(case).network
        rows = network._rows
        network._rows = lambda batch, tokens: rows(batch, tokens) + 1

    return apply


def _state_first(case: str) -> Break:
    """The state before the images."""

    def arrange(x: Tensor, p: int) -> Tensor:
        return torch.cat([x[:, :1], x[:, p + 1 : p + 2], x[:, 1 : p + 1], x[:, p + 2 :]], dim=1)

    return lambda cases, _: _order(cases.slots(case).network, arrange)


def _film_without_stop(cases: Cases, _: ExitStack) -> None:
    """The mean of the instruction leaves EOS out."""
    network = cases.slots("film").network
    mean = network.condition
    network.condition = lambda ids, counted: mean(ids, counted & (ids != network.config.vocabulary.eos))


def _full_adapters(_: Cases, stack: ExitStack) -> None:
    stack.enter_context(patch.object(oft_weights, "lora_scale", lambda _: 1.0))


def _no_patch_adapter(cases: Cases, _: ExitStack) -> None:
    """The adapters of the patch embeddings, which are convolutions, are left out."""
    for ours, base in zip(
        _towers_of(cases.slots("film").network), _towers_of(cases.subject(None).network), strict=True
    ):
        ours.patch_embed.load_state_dict(base.patch_embed.state_dict())


def _widened(cases: Cases, _: ExitStack) -> None:
    """OFT's 1e-8 in OpenVLA's own inverse."""
    cases.subject(None).settings["widening"] = OFT_WIDENING


L1, FILM = "oft/expected_l1.npz", "oft/expected_film.npz"
MISTAKES = (
    Mistake("last block added", CAUSAL, (LOGITS, TOWER), _towers(output_block=lambda v: v.depth - 1), "last block"),
    Mistake("final norm", CAUSAL, (LOGITS, TOWER), _final_norm, "final norm"),
    Mistake("towers swapped", CAUSAL, (LOGITS,), _swapped, "swap towers"),
    Mistake("tanh GELU", CAUSAL, (LOGITS, TOWER), _tanh_gelu, "gelu tanh"),
    Mistake("other eps of the towers", CAUSAL, (LOGITS, TOWER), _tower_eps, "ln eps"),
    Mistake("interleaved RoPE", CAUSAL, (LOGITS,), _interleaved, "rope interleaved"),
    Mistake("image after the text", CAUSAL, (LOGITS,), _patches_last, "patches last"),
    Mistake("image before BOS", CAUSAL, (LOGITS,), _patches_first, "patches before bos"),
    Mistake("29871 dropped", CAUSAL, (LOGITS,), _without_space, "without 29871"),
    Mistake("other eps of the language model", CAUSAL, (LOGITS,), _rms_eps(1e-5), "rms norm eps 1e-5"),
    Mistake("mean and std not rounded", CAUSAL, (LOGITS,), _as_trained, "exact instead of published mean std"),
    Mistake("statistics with 1e-8", CAUSAL, (ACTION,), _widened),
    Mistake("causal instead of bidirectional", L1, (CHUNK,), _causal_slots, "oft.causal"),
    Mistake("placeholders not zeroed", L1, (CHUNK,), _not_zeroed("l1"), "oft.no zero"),
    Mistake("no EOS behind the slots", L1, (CHUNK,), _no_stop("l1"), "oft.no stop"),
    Mistake("slots read one too late", L1, (CHUNK,), _off_by_one("l1"), "oft.slice off by one"),
    Mistake("state before the images", L1, (CHUNK,), _state_first("l1"), "oft.proprio first"),
    Mistake("FiLM without EOS", FILM, (CHUNK,), _film_without_stop, "oft.film no stop"),
    Mistake("LoRA scale 1", FILM, (CHUNK,), _full_adapters, "oft.lora scale1"),
    Mistake("no LoRA of the patches", FILM, (CHUNK,), _no_patch_adapter, "oft.no patch lora"),
)
