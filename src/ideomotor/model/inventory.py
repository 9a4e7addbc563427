"""What a checkpoint holds, in numbers: its parts, its sizes, and what of it counts for nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ideomotor.model.config import Autoregressive, LanguageConfig, OpenVLAConfig, Tower
from ideomotor.model.openvla_config import published_tower, tower_ids
from ideomotor.model.tensors import Entry


@dataclass(frozen=True)
class Part:
    """Some tensors together."""

    name: str
    tensors: int
    parameters: int
    size: int  # [bytes]
    dtypes: str  # all that occur


def parts(entries: Mapping[str, Entry]) -> list[Part]:
    """Return the parts of a network, and all of it last."""
    groups: dict[str, list[Entry]] = {}
    for name, entry in entries.items():
        pieces = name.split(".")
        groups.setdefault(".".join(pieces[:2]) if pieces[0] == "vision_backbone" else pieces[0], []).append(entry)
    return [_part(name, group) for name, group in [*groups.items(), ("total", list(entries.values()))]]


def _part(name: str, entries: list[Entry]) -> Part:
    dtypes = sorted({str(entry.dtype).removeprefix("torch.") for entry in entries})
    return Part(
        name, len(entries), sum(e.numbers for e in entries), sum(e.size for e in entries), " ".join(dtypes) or "none"
    )


def facts(config: OpenVLAConfig, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers that a user compares, with those that published files leave open; `origin` may name the towers."""
    names = tower_ids(config, origin)
    return {
        "towers": [_tower(name, tower) for name, tower in zip(names, config.towers, strict=True)],
        "language": language_facts(config.language),
        "decoding": _decoding(config),
        "cameras": config.cameras,
        "rms_norm_eps": config.language.rms_eps,
        "normalization": normalization(config),
    }


def language_facts(config: LanguageConfig) -> str:
    """Return the sizes of a language model in words."""
    return (
        f"{config.depth} layers, width {config.width}, {config.heads} heads ({config.kv_heads} of them with keys), MLP {config.mlp}, "
        f"vocabulary {config.vocabulary}, rotary base {config.rope_theta:g}{', tied head' if config.tied else ''}"
    )


def normalization(config: OpenVLAConfig) -> str:
    """Return which set scales the pixels: `train`, `hf`, or another one. Sets that are equal have both names."""
    names = [
        name
        for name in ("train", "hf")
        if all(_close(tower, published_tower(tower.vision, name)) for tower in config.towers)
    ]
    return " = ".join(names) or "neither of the published ones"


def _close(left: Tower, right: Tower) -> bool:
    pairs = zip((*left.mean, *left.std), (*right.mean, *right.std), strict=True)
    return all(math.isclose(a, b, rel_tol=1e-6) for a, b in pairs)


def _tower(name: str, tower: Tower) -> str:
    vision = tower.vision
    read = "the last one" if vision.output_block is None else str(vision.output_block)
    colours = ", ".join(f"{x:.6g}" for x in tower.mean), ", ".join(f"{x:.6g}" for x in tower.std)
    film = ", FiLM" if vision.film is not None else ""
    return (
        f"{name}: {vision.image_size} px, {vision.depth} blocks, width {vision.width}, {vision.heads} heads, MLP {vision.mlp}, "
        f"read after block {read}{film}; mean {colours[0]}; std {colours[1]}"
    )


def _decoding(config: OpenVLAConfig) -> str:
    how = config.decoding
    if isinstance(how, Autoregressive):
        return "one action id after the other"
    state = f"state of {how.state_width}" if how.state_width is not None else "no state"
    return f"{how.horizon} actions of {how.action_width} numbers at once, {type(how.head).__name__}, {state}"
