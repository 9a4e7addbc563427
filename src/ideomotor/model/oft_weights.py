"""OpenVLA-OFT checkpoints: the merged model in Hugging Face's layout, and components of one `torch.save` file each.

| file                               | ours                                          | it tells                                       |
|------------------------------------|-----------------------------------------------|------------------------------------------------|
| `action_head--STEP_checkpoint.pt`  | `action_head.*`                               | kind of head, action width D                   |
| `proprio_projector--...`           | `proprio_projector.*`                         | state width                                    |
| `noisy_action_projector--...`      | `noisy_action_projector.*`                    |                                                |
| `vision_backbone--...` (FiLM)      | `vision_backbone.*`, adapters merged          | that there is FiLM                             |

How many actions a chunk has and how many images go in stands in no file: both are asked for, or assumed as on the platform that the
widths point to, and then said. Names may start with `module.`. Source: moojink/openvla-oft, arXiv 2502.19645.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ideomotor.core.errors import UserError
from ideomotor.model.config import DiffusionHead, L1Head, OpenVLAConfig, Parallel, TokenHead
from ideomotor.model.openvla import OpenVLA, with_film
from ideomotor.model.openvla_config import Normalization
from ideomotor.model.openvla_weights import (
    NO_ORIGIN,
    Origin,
    Source,
    load_source,
    main_dtype,
    open_openvla,
    write_config_files,
)
from ideomotor.model.picklefile import open_pickle, write_pickle
from ideomotor.model.tensorfile import SHARD, write_shards
from ideomotor.model.tensors import Entry, InMemory, Joined, Renamed, Tensors

FILE = re.compile(
    r"(action_head|proprio_projector|noisy_action_projector|vision_backbone)--(latest|\d+)_checkpoint\.pt"
)
RANK = 32  # of the adapters in a file with FiLM
LARGEST = {"horizon": 1000, "cameras": 16, "action_width": 1000}
LARGEST_ALPHA = 16  # of the same: alpha = min(rank, 16), and the product of the two matrices counts alpha / rank


@dataclass(frozen=True)
class OftFacts:
    """What a user knows and no file says; None: not known."""

    horizon: int | None = None  # actions in a chunk
    cameras: int | None = None  # images
    action_width: int | None = None  # only where no head tells it

    def __post_init__(self) -> None:
        for name, largest in LARGEST.items():
            value: int | None = getattr(self, name)
            if value is not None and not 1 <= value <= largest:
                raise UserError(f"--{name.replace('_', '-')} is {value}; whole numbers from 1 to {largest} are allowed")


@dataclass(frozen=True)
class Platform:
    """What OFT was published with."""

    name: str
    action_width: int
    state_width: int
    horizon: int
    cameras: int | None  # None: not stated


PLATFORMS = (  # of openvla-oft, arXiv 2502.19645
    Platform("LIBERO", 7, 8, 8, 2),
    Platform("ALOHA", 14, 14, 25, 3),
    Platform("Bridge", 7, 7, 5, None),
)


# ------------------------------------------------------------------------------------------------------------ reading


def open_oft(
    folder: Path,
    components: Path | None = None,
    facts: OftFacts = OftFacts(),
    rms_eps: float | None = None,
    normalization: Normalization | None = None,
) -> Source:
    """Open a checkpoint of OpenVLA and the components beside it, or in a folder of their own.

    Raises:
        UserError: files are missing or damaged, do not fit together, or leave a number open.
    """
    base = open_openvla(folder, rms_eps, normalization)
    if isinstance(base.config.decoding, Parallel):
        raise UserError(f"{folder} holds its head already; open it without components")
    step, files = find_components(components or folder)
    parts = {name: _without_wrapper(open_pickle(file)) for name, file in files.items()}
    decoding, cameras, said = _decoding(parts, facts, components or folder)
    config = replace(base.config, decoding=decoding, cameras=cameras)
    notes = [*base.notes, *([f"components of step {step}: {', '.join(files)}"] if files else []), *said]
    tensors: list[Tensors] = [base.tensors]
    if vision := parts.pop("vision_backbone", None):
        film = FilmBackbone(vision, files["vision_backbone"])
        config = with_film(config)
        kept = [name for name in base.tensors.entries if not name.startswith("vision_backbone.")]
        tensors = [Renamed(base.tensors, {name: name for name in kept}), film]
        notes.append(f"FiLM in the vision towers; {film.merged} adapters merged in float32, scale {film.scales}")
    for part, found in parts.items():
        tensors.append(Renamed(found, {f"{part}.{name}": name for name in found.entries}))
    return Source(config, Joined(*tensors), base.where, tuple(notes))


def load_oft(  # noqa: PLR0913 (what the files leave open, all by keyword)
    folder: Path,
    components: Path | None = None,
    *,
    facts: OftFacts = OftFacts(),
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    rms_eps: float | None = None,
    normalization: Normalization | None = None,
) -> OpenVLA:
    """Return the network of an OFT checkpoint; see `open_oft` and `load_openvla`."""
    return load_source(open_oft(folder, components, facts, rms_eps, normalization), dtype, device)


def has_components(folder: Path) -> bool:
    """Tell whether files of OFT are there."""
    return folder.is_dir() and any(FILE.fullmatch(path.name) for path in folder.iterdir())


def find_components(folder: Path) -> tuple[str, dict[str, Path]]:
    """Return the last step of which components are there, and their files by kind.

    Raises:
        UserError: the last step lacks a kind that an earlier step has.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not there; give the folder of the component files")
    steps: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := FILE.fullmatch(path.name):
            steps.setdefault(match[2], {})[match[1]] = path
    if not steps:
        return "", {}
    last = max(steps, key=lambda step: float("inf") if step == "latest" else int(step))
    if missing := {kind for files in steps.values() for kind in files} - steps[last].keys():
        raise UserError(
            f"{folder} has no {' and no '.join(sorted(missing))} of step {last}, but of an earlier one; copy all files of a step"
        )
    return last, steps[last]


def _without_wrapper(tensors: InMemory) -> InMemory:
    if all(name.startswith("module.") for name in tensors.tensors):
        return InMemory({name.removeprefix("module."): tensor for name, tensor in tensors.tensors.items()})
    return tensors


def _decoding(parts: Mapping[str, Tensors], facts: OftFacts, folder: Path) -> tuple[Parallel, int, list[str]]:
    """Return what the shapes tell, what the user knows, and what is assumed, in words."""
    action_width = facts.action_width
    head: TokenHead | L1Head | DiffusionHead = TokenHead()
    if "action_head" in parts:
        head, told = _head(parts["action_head"].entries, folder)
        if action_width not in (None, told):
            raise UserError(f"{folder}: the action head gives {told} numbers; --action-width says {action_width}")
        action_width = told
    if isinstance(head, DiffusionHead) and "noisy_action_projector" not in parts:
        raise UserError(f"{folder} has a diffusion head and no noisy_action_projector; copy that file too")
    state_width: int | None = None
    if "proprio_projector" in parts:
        state_width = _entry(parts["proprio_projector"].entries, "fc1.weight", folder).shape[1]
    known = OftFacts(facts.horizon, facts.cameras, action_width)
    complete, said = _completed(known, state_width, folder)
    width, horizon = cast("int", complete.action_width), cast("int", complete.horizon)
    return Parallel(horizon, width, head, state_width), cast("int", complete.cameras), said


def _head(entries: Mapping[str, Entry], folder: Path) -> tuple[L1Head | DiffusionHead, int]:
    diffusion = any(name.startswith("noise_predictor.") for name in entries)
    prefix = "noise_predictor.mlp_resnet" if diffusion else "model"
    width = _entry(entries, f"{prefix}.fc2.weight", folder).shape[0]
    blocks = sum(1 for name in entries if re.fullmatch(rf"{prefix}\.mlp_resnet_blocks\.\d+\.ffn\.1\.weight", name))
    return (DiffusionHead(blocks) if diffusion else L1Head(blocks)), width


def _entry(entries: Mapping[str, Entry], name: str, folder: Path) -> Entry:
    if name not in entries or len(entries[name].shape) != 2:
        raise UserError(f"a component in {folder} has no matrix {name}; it has {', '.join(list(entries)[:4])}")
    return entries[name]


def _completed(known: OftFacts, state_width: int | None, folder: Path) -> tuple[OftFacts, list[str]]:
    """Fill what is open from the published platform with these widths, if there is one."""
    names = {"horizon": "--horizon", "cameras": "--cameras", "action_width": "--action-width"}
    open_ = [name for name in names if getattr(known, name) is None]
    if not open_:
        return known, []
    near = [p for p in PLATFORMS if p.state_width == state_width and known.action_width in (None, p.action_width)]
    filled = {name: getattr(near[0], name) for name in open_} if len(near) == 1 else dict.fromkeys(open_)
    if unknown := [name for name in open_ if filled[name] is None]:
        widths = f"action width {known.action_width or 'unknown'}, state width {state_width or 'none'}"
        raise UserError(
            f"no file in {folder} tells {', '.join(n.replace('_', ' ') for n in unknown)} ({widths}); "
            f"give {' and '.join(names[n] for n in unknown)} as it was trained"
        )
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in filled.items())
    return replace(known, **filled), [f"assumed: {said}, as published for {near[0].name}; nothing in the files says so"]


class FilmBackbone:
    """The vision towers of a file with FiLM, under our names, its adapters (LoRA, arXiv 2106.09685) merged as they are read."""

    def __init__(self, tensors: Tensors, where: Path) -> None:
        found = tensors.entries
        full = {name if name.startswith("vision_backbone.") else f"vision_backbone.{name}": name for name in found}
        left = {name: old for name, old in full.items() if ".lora_A." not in name and ".lora_B." not in name}
        self.tensors = tensors
        self._names = {film_ours(name.replace(".base_layer.", ".")): old for name, old in left.items()}
        self._adapters: dict[str, tuple[str, str]] = {}  # by our name of the weight: the two matrices
        for name, old in left.items():
            down, up = (old.replace(".base_layer.", f".lora_{x}.default.") for x in "AB")
            if old.endswith(".base_layer.weight") and (down in found or up in found):
                self._check(found, old, down, up, where)
                self._adapters[film_ours(name.replace(".base_layer.", "."))] = (down, up)
        taken = {name for pair in self._adapters.values() for name in pair} | set(left.values())
        if loose := sorted(set(found) - taken):
            raise UserError(f"{where} has adapters without a layer: {', '.join(loose[:4])}; copy the file again")
        self.entries = {name: found[old] for name, old in self._names.items()}

    @staticmethod
    def _check(found: Mapping[str, Entry], base: str, down: str, up: str, where: Path) -> None:
        shape = found[base].shape
        if down in found and up in found:
            a, b = found[down].shape, found[up].shape
            if a[0] > 0 and a[1:] == shape[1:] and b[:2] == (shape[0], a[0]) and all(side == 1 for side in b[2:]):
                return
        raise UserError(f"{where}: the adapter of {base} lacks a matrix, or its shapes do not fit; copy the file again")

    @property
    def merged(self) -> int:
        """How many layers had an adapter."""
        return len(self._adapters)

    @property
    def scales(self) -> str:
        """The factors of the adapters' products, in words."""
        found = {lora_scale(self.tensors.entries[down].shape[0]) for down, _ in self._adapters.values()}
        return ", ".join(f"{scale:g}" for scale in sorted(found)) or "none"

    def read(self, name: str, into: Tensor) -> None:
        """Copy a tensor; a weight with an adapter is W + scale B A, computed in float32."""
        if name not in self._adapters:
            self.tensors.read(self._names[name], into)
            return
        weight, down, up = (self._float(n) for n in (self._names[name], *self._adapters[name]))
        product = up.flatten(1) @ down.flatten(1)
        into.detach().copy_(weight + lora_scale(len(down)) * product.view(weight.shape))

    def _float(self, name: str) -> Tensor:
        whole = torch.empty(self.tensors.entries[name].shape, dtype=torch.float32)
        self.tensors.read(name, whole)
        return whole


def lora_scale(rank: int) -> float:
    """Return the factor of an adapter's product in OFT.

    >>> lora_scale(32), lora_scale(8)
    (0.5, 1.0)
    """
    return min(rank, LARGEST_ALPHA) / rank


def film_ours(name: str) -> str:
    """Return our name of a tensor in a file with FiLM.

    >>> film_ours("vision_backbone.featurizer.blocks.0.block.norm1.bias")
    'vision_backbone.featurizer.blocks.0.norm1.bias'
    >>> film_ours("vision_backbone.featurizer.blocks.0.shift.bias")
    'vision_backbone.featurizer.blocks.0.film.shift.bias'
    """
    name = re.sub(r"\.blocks\.(\d+)\.(scale|shift)\.", r".blocks.\1.film.\2.", name)
    return re.sub(r"\.blocks\.(\d+)\.block\.", r".blocks.\1.", name)


def film_theirs(name: str) -> str:
    """Undo `film_ours`."""
    if ".film." in name:
        return name.replace(".film.", ".")
    return re.sub(r"\.blocks\.(\d+)\.", r".blocks.\1.block.", name)


# ------------------------------------------------------------------------------------------------------------ writing


def write_oft(
    config: OpenVLAConfig,
    tensors: Tensors,
    folder: Path,
    origin: Origin = NO_ORIGIN,
    largest: int = SHARD,
    step: int = 0,
) -> None:
    """Write OpenVLA's layout, and components as OFT's code reads them; towers with FiLM have adapters of zeros there."""
    parts: dict[str, dict[str, Tensor]] = {}
    base: dict[str, str] = {}
    film = config.towers[0].vision.film is not None
    for name, entry in tensors.entries.items():
        part, _, rest = name.partition(".")
        if part in ("action_head", "proprio_projector", "noisy_action_projector"):
            parts.setdefault(part, {})[rest] = _whole(tensors, name, entry)
        elif ".film." not in name:
            base[name] = name
        if film and part == "vision_backbone":
            parts.setdefault(part, {}).update(_with_adapter(name, _whole(tensors, name, entry)))
    write_shards(folder, Renamed(tensors, base), largest, {"format": "pt"})
    write_config_files(config, main_dtype(tensors.entries), folder, origin)
    for part, found in parts.items():
        write_pickle(folder / f"{part}--{step}_checkpoint.pt", found)


def _whole(tensors: Tensors, name: str, entry: Entry) -> Tensor:
    whole = torch.empty(entry.shape, dtype=entry.dtype)
    tensors.read(name, whole)
    return whole


def _with_adapter(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return a tensor of the towers as OFT saves it: a layer with a matrix is wrapped, together with its bias."""
    theirs = film_theirs(name)
    layer, _, kind = theirs.rpartition(".")
    linear = re.search(r"(\.(qkv|proj|fc1|fc2|q|kv))$", layer) is not None
    if not linear:
        return {theirs: tensor}
    result = {f"{layer}.base_layer.{kind}": tensor}
    if kind == "weight":
        result[f"{layer}.lora_A.default.weight"] = tensor.new_zeros((RANK, *tensor.shape[1:]))
        result[f"{layer}.lora_B.default.weight"] = tensor.new_zeros((len(tensor), RANK, *(1,) * (tensor.ndim - 2)))
    return result
