"""Whether the tensors of a file are the ones a network has: names, shapes and kind, and what a difference usually means."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor

from ideomotor.core.errors import UserError
from ideomotor.model.tensors import Entry

FLOATS = (torch.float32, torch.bfloat16, torch.float16)  # what weights may be stored in
SHOWN = 4  # names of a group that a message shows
SECOND_TOWER = "vision_backbone.fused_featurizer."


@dataclass(frozen=True)
class Differences:
    """What a file has too little, too much, or in another form; all sorted by name."""

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    shapes: tuple[str, ...]
    dtypes: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.shapes or self.dtypes)


Described = Mapping[str, Entry] | Mapping[str, Tensor]  # by name; only shape and dtype are looked at


def compare(expected: Described, found: Described) -> Differences:
    """Compare names, shapes, and whether floats stand where floats are expected."""
    common = sorted(expected.keys() & found.keys())
    return Differences(
        missing=tuple(sorted(expected.keys() - found.keys())),
        extra=tuple(sorted(found.keys() - expected.keys())),
        shapes=tuple(name for name in common if expected[name].shape != found[name].shape),
        dtypes=tuple(
            name for name in common if expected[name].dtype.is_floating_point and found[name].dtype not in FLOATS
        ),
    )


def check_keys(expected: Described, found: Described, where: str | Path) -> None:
    """Compare what a network has with what a file holds.

    Raises:
        UserError: lists in groups what is missing, extra, of another shape or dtype, and the likely cause.
    """
    if text := report(expected, found):
        raise UserError(f"{where} does not fit its config.json:\n{text}")


def report(expected: Described, found: Described) -> str:
    """Return the differences in words, with the likely cause; nothing where there are none."""
    wrong = compare(expected, found)
    if not wrong:
        return ""
    lines = [
        *_listed("missing", wrong.missing, wrong.missing),
        *_listed("extra", wrong.extra, wrong.extra),
        *_listed(
            "of another shape",
            wrong.shapes,
            [f"{n} {tuple(found[n].shape)} for {tuple(expected[n].shape)}" for n in wrong.shapes],
        ),
        *_listed("of another dtype", wrong.dtypes, [f"{n} {_short(found[n].dtype)} for a float" for n in wrong.dtypes]),
    ]
    return "\n".join(lines + _causes(wrong, expected, found))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _listed(kind: str, names: Iterable[str], texts: Iterable[str]) -> list[str]:
    """Return a line for a few names; for many, a line for each part of the network."""
    shown = dict(zip(names, texts, strict=True))
    if not shown:
        return []
    parts: dict[str, list[str]] = {}
    for name in shown:
        first, *others = name.split(".")
        part = f"{first}.{others[0]}" if first == "vision_backbone" else first if others else ""
        parts.setdefault(part, []).append(name)
    if len(parts) == 1 or len(shown) <= SHOWN:
        return [f"  {len(shown)} {kind}: {_some(shown.values())}"]
    lines = [f"  {len(shown)} {kind}:"]
    for part, inside in parts.items():
        lines.append(f"    {len(inside)} under {part}: {_some(shown[n].removeprefix(f'{part}.') for n in inside)}")
    return lines


def _some(texts: Iterable[str]) -> str:
    items = list(texts)
    return ", ".join(items[:SHOWN]) + (", ..." if len(items) > SHOWN else "")


def _causes(wrong: Differences, expected: Described, found: Described) -> list[str]:
    """Return what such differences come from, as far as they tell."""
    renamed = [
        f"{new} may be {near[0]} under another name."
        for new in wrong.extra[:SHOWN]
        if (near := get_close_matches(new, [n for n in wrong.missing if expected[n].shape == found[new].shape], n=1))
    ]
    whole = [text for holds, text in _of_the_whole(wrong, expected, found) if holds][:1]
    details = [text for holds, text in _of_details(wrong, expected, found) if holds]
    causes = whole or [*renamed, *details]
    return [*(f"  {text}" for text in causes), "Take weights and config.json from one checkpoint."]


def _of_the_whole(wrong: Differences, expected: Described, found: Described) -> list[tuple[bool, str]]:
    return [
        (
            any(".lora_" in name or name.startswith("base_model.") for name in wrong.extra),
            "Names with lora_ or base_model are an adapter of peft: merge it into its base model first.",
        ),
        (
            _all(wrong.extra, lambda name: name.startswith("module.")),
            "All extra names start with module.: the file was saved from a wrapper of several processes.",
        ),
        (not expected.keys() & found.keys(), "Not one name is the same: this is another kind of network."),
    ]


def _of_details(wrong: Differences, expected: Described, found: Described) -> list[tuple[bool, str]]:
    fields = "(timm_model_ids, use_fused_vision_backbone)"
    too_few, too_many = (
        any(n.startswith(SECOND_TOWER) for n in names) and not any(n.startswith(SECOND_TOWER) for n in others)
        for names, others in ((wrong.missing, found), (wrong.extra, expected))
    )
    lost, more = _layers(wrong.missing, but=too_few), _layers(wrong.extra, but=too_many)
    return [
        (too_few, f"The file has one vision tower, the configuration two {fields}."),
        (too_many, f"The file has two vision towers, the configuration one {fields}."),
        (
            _all(wrong.shapes, lambda name: name.endswith(("embed_tokens.weight", "lm_head.weight"))),
            "Only the vocabulary is of another size: see vocab_size in text_config.",
        ),
        (bool(lost), f"Whole layers are missing ({_ranges(lost)}): see the depth in the configuration."),
        (bool(more), f"There are layers too many ({_ranges(more)}): see the depth in the configuration."),
        (
            bool(wrong.dtypes),
            "Weights are float32, bfloat16 or float16; quantized weights must be turned back into one of them.",
        ),
    ]


def _all(names: Iterable[str], test: Callable[[str], bool]) -> bool:
    items = list(names)
    return bool(items) and all(test(name) for name in items)


def _layers(names: Iterable[str], *, but: bool) -> dict[str, list[int]]:
    """Return the numbers of the layers of which several tensors are named, by stack; `but`: those of the second tower left out."""
    count = Counter(
        match[0]
        for name in names
        if (match := re.match(r".*?\.(?:layers|blocks)\.\d+(?=\.)", name))
        and not (but and name.startswith(SECOND_TOWER))
    )
    result: dict[str, list[int]] = {}
    for layer in sorted(layer for layer, tensors in count.items() if tensors >= SHOWN):
        stack, _, number = layer.rpartition(".")
        result.setdefault(stack, []).append(int(number))
    return result


def _ranges(layers: Mapping[str, list[int]]) -> str:
    return "; ".join(f"{stack}.{min(numbers)} to {max(numbers)}" for stack, numbers in layers.items())
