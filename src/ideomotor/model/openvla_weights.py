"""OpenVLA checkpoints of every layout: Hugging Face's (whose names are ours), Prismatic's native file, and our own.

| ours = Hugging Face                  | native, under ["model"]                                                    |
|--------------------------------------|----------------------------------------------------------------------------|
| `vision_backbone.featurizer.*`       | `vision_backbone`: `dino_featurizer.*`; with one tower `featurizer.*`      |
| `vision_backbone.fused_featurizer.*` | `vision_backbone`: `siglip_featurizer.*`                                   |
| `...ls1.scale_factor`, `...ls2...`   | `...ls1.gamma`                                                             |
| `projector.fc1/2/3.*`                | `projector`: `projector.0/2/4.*`                                           |
| `language_model.*`                   | `llm_backbone`: `llm.*`                                                    |

A checkpoint is opened without reading a tensor (`open_openvla`), then read into a network (`load_openvla`) or streamed into another
layout (`write_openvla`). Source of the names: the checkpoints that openvla/openvla published.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, assert_never

import torch
from torch import Tensor

from ideomotor.core.errors import UserError
from ideomotor.core.files import read_json, write_json
from ideomotor.model.config import OpenVLAConfig, Parallel
from ideomotor.model.openvla import OpenVLA
from ideomotor.model.openvla_config import (
    PREPROCESSOR,
    TOWERS,
    Normalization,
    published_tower,
    read_openvla_config,
    to_config_json,
    to_preprocessor_json,
    to_towers_json,
)
from ideomotor.model.picklefile import open_pickle, write_pickle
from ideomotor.model.presets import NATIVE_RMS_EPS, llama2_7b, openvla_7b
from ideomotor.model.tensorfile import FILE, INDEX, SHARD, open_safetensors, write_shards
from ideomotor.model.tensors import Entry, InMemory, Renamed, Tensors
from ideomotor.model.weights import CONFIG, build, outline, read_config, write_checkpoint

ADAPTER, CHECKPOINTS = "adapter_config.json", "checkpoints"
Target = Literal["ideomotor", "hf", "native"]


# ------------------------------------------------------------------------------------------------------------ layouts


@dataclass(frozen=True)
class Own:
    """A folder of ours: config.json with a `format`."""

    folder: Path


@dataclass(frozen=True)
class HuggingFace:
    """A folder as `save_pretrained` of OpenVLA's code writes it."""

    folder: Path


@dataclass(frozen=True)
class Native:
    """A file of Prismatic's training, and the folder of its run, in which config.json may stand."""

    file: Path
    folder: Path


@dataclass(frozen=True)
class Adapter:
    """A folder of peft: an adapter to another checkpoint, no network of its own."""

    folder: Path


Layout = Own | HuggingFace | Native | Adapter


def recognise(path: Path) -> Layout:
    """Return what kind of checkpoint a folder or file is.

    Raises:
        UserError: it is none of the known ones.
    """
    if path.is_file():
        if path.suffix == ".safetensors":
            raise UserError(f"{path} is one file of a checkpoint; give its folder, {path.parent}")
        return Native(path, path.parent.parent if path.parent.name == CHECKPOINTS else path.parent)
    if not path.is_dir():
        raise UserError(f"{path} is not there; give the folder of a checkpoint, or a .pt file of Prismatic's training")
    config = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
    if "format" in config:
        return Own(path)
    if files := list((path / CHECKPOINTS).glob("*.pt")):
        return Native(max(files, key=lambda file: (_step(file), file.name)), path)
    if config.get("model_type") == "openvla":
        return HuggingFace(path)
    if (path / ADAPTER).is_file():
        return Adapter(path)
    raise UserError(
        f"{path} is no checkpoint that is read here; known are a folder with {CONFIG} of OpenVLA (model_type openvla) or of our own and "
        f"{FILE} or {INDEX}, a run of Prismatic's training ({CHECKPOINTS}/*.pt), and an adapter of peft ({ADAPTER})"
    )


def _step(file: Path) -> int:
    found = re.search(r"step-(\d+)", file.name)
    return int(found[1]) if found else -1


@dataclass(frozen=True)
class NativeNames:
    """Names of a native file, the nested dictionaries joined by dots, to ours and back."""

    towers: int

    @property
    def _pairs(self) -> tuple[tuple[str, str], ...]:
        fused = self.towers > 1
        return (
            ("vision_backbone.featurizer.", f"vision_backbone.{'dino_' if fused else ''}featurizer."),
            ("vision_backbone.fused_featurizer.", "vision_backbone.siglip_featurizer."),
            *((f"projector.fc{i + 1}.", f"projector.projector.{2 * i}.") for i in range(3)),
            ("language_model.", "llm_backbone.llm."),
        )

    def ours(self, name: str) -> str:
        """Return our name; a name that is not known stays as it is.

        >>> NativeNames(2).ours("vision_backbone.dino_featurizer.blocks.0.ls1.gamma")
        'vision_backbone.featurizer.blocks.0.ls1.scale_factor'
        """
        for ours, theirs in self._pairs:
            if name.startswith(theirs):
                return re.sub(r"\.(ls[12])\.gamma$", r".\1.scale_factor", ours + name.removeprefix(theirs))
        return name

    def theirs(self, name: str) -> str:
        """Undo `ours`.

        >>> NativeNames(1).theirs("projector.fc2.weight")
        'projector.projector.2.weight'
        """
        for ours, theirs in self._pairs:
            if name.startswith(ours):
                return re.sub(r"\.(ls[12])\.scale_factor$", r".\1.gamma", theirs + name.removeprefix(ours))
        return name


# ------------------------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class Source:
    """A checkpoint that has been opened: its configuration, its tensors under our names, and what there is to say of it."""

    config: OpenVLAConfig
    tensors: Tensors
    where: Path
    notes: tuple[str, ...] = ()


def open_openvla(path: Path, rms_eps: float | None = None, normalization: Normalization | None = None) -> Source:
    """Open a checkpoint of any layout; what is given wins over what is written.

    Raises:
        UserError: files are missing or damaged, or hold another network; the given eps is no positive number.
    """
    _check_eps(rms_eps)
    match recognise(path):
        case Own(folder):
            config = read_config(folder)
            if not isinstance(config, OpenVLAConfig):
                raise UserError(f"{folder} holds a network of our own, no OpenVLA")
            return Source(_overridden(config, rms_eps, normalization), open_safetensors(folder), folder / FILE)
        case HuggingFace(folder):
            config = read_openvla_config(folder, rms_eps, normalization)
            return Source(config, open_safetensors(folder), folder)
        case Native(file, folder):
            return _open_native(file, folder, rms_eps, normalization)
        case Adapter(folder):
            raise UserError(
                f"{folder} is an adapter of peft, no whole network; give the checkpoint that it was trained on, and the adapter beside it"
            )


def _check_eps(rms_eps: float | None) -> None:
    if rms_eps is not None and not 0 < rms_eps < math.inf:
        raise UserError(f"--rms-eps is {rms_eps}; a number above 0 is allowed, such as 1e-6 or 1e-5")


def _overridden(config: OpenVLAConfig, rms_eps: float | None, normalization: Normalization | None) -> OpenVLAConfig:
    if rms_eps is not None:
        config = replace(config, language=replace(config.language, rms_eps=rms_eps))
    if normalization is not None:
        config = replace(config, towers=tuple(published_tower(t.vision, normalization) for t in config.towers))
    return config


def _open_native(file: Path, folder: Path, rms_eps: float | None, normalization: Normalization | None) -> Source:
    found = open_pickle(file).tensors
    if any(name.startswith("model.") for name in found):  # beside it may be an optimizer
        found = {name.removeprefix("model."): t for name, t in found.items() if name.startswith("model.")}
    fused = any(name.startswith("vision_backbone.siglip_featurizer.") for name in found)
    config = native_config(folder, rms_eps, normalization, 2 if fused else 1)
    names = NativeNames(len(config.towers))
    tensors = Renamed(InMemory(found), {names.ours(name): name for name in found})
    return Source(config, tensors, file, (f"weights: {file.name}",))


def native_config(
    folder: Path, rms_eps: float | None, normalization: Normalization | None, towers: int
) -> OpenVLAConfig:
    """Return the configuration of a native run: that of OpenVLA's own files where they are there, else the published sizes.

    Where nothing says otherwise, eps and scale of pixels are those of pretraining: 1e-5, and not rounded.
    """
    path = folder / CONFIG
    if path.is_file() and read_json(path).get("model_type") == "openvla":
        stated = normalization or ("hf" if (folder / PREPROCESSOR).is_file() else "train")
        return read_openvla_config(folder, rms_eps, stated, NATIVE_RMS_EPS)
    published = openvla_7b().towers[-towers:]
    return OpenVLAConfig(
        tuple(published_tower(tower.vision, normalization or "train") for tower in published),
        llama2_7b(rms_eps=NATIVE_RMS_EPS if rms_eps is None else rms_eps),
    )


def load_openvla(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    rms_eps: float | None = None,
    normalization: Normalization | None = None,
) -> OpenVLA:
    """Return the network of a checkpoint of any layout, read tensor by tensor into its place.

    Args:
        folder: a checkpoint, or a native .pt file.
        dtype: of the weights; None: each as it is stored.
        device: where they go.
        rms_eps: of the language model's norms; None: what the checkpoint says, 1e-6 where Hugging Face's says nothing, 1e-5 for a native one.
        normalization: which means and deviations scale the pixels; None: what the checkpoint says, `train` for a native one.

    Raises:
        UserError: files are missing or damaged, or do not fit together.
    """
    return load_source(open_openvla(folder, rms_eps, normalization), dtype, device)


def load_source(source: Source, dtype: torch.dtype | None, device: torch.device | str) -> OpenVLA:
    """Return the network of an opened checkpoint."""
    return build(lambda: OpenVLA(source.config), source.tensors, source.where, dtype, device)


def expected_entries(config: OpenVLAConfig) -> dict[str, Entry]:
    """Return the tensors that a network of this configuration has."""
    state = outline(lambda: OpenVLA(config)).state_dict()
    return {name: Entry(tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}


def without_influence(config: OpenVLAConfig, names: Iterable[str]) -> list[str]:
    """Return the tensors that no output depends on: blocks behind the one that is read, the norm after them, the pooling."""
    found: list[str] = []
    for name in names:
        match = re.match(r"vision_backbone\.(fused_)?featurizer\.(norm|attn_pool|blocks\.(\d+))\.", name)
        if match is None:
            continue
        last = config.towers[1 if match[1] else 0].vision.output_block
        if match[2] == "attn_pool" or (last is not None and (match[3] is None or int(match[3]) > last)):
            found.append(name)
    return found


# ------------------------------------------------------------------------------------------------------------ writing


@dataclass(frozen=True)
class Origin:
    """What a checkpoint said beside what a network knows; it is written again."""

    config: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of OpenVLA's config.json, `norm_stats` too
    preprocessor: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of preprocessor_config.json


NO_ORIGIN = Origin()


def save_openvla(network: OpenVLA, folder: Path, target: Target, origin: Origin = NO_ORIGIN) -> None:
    """Write a network in a layout: every tensor bit for bit, under the layout's name."""
    write_openvla(network.config, InMemory(network.state_dict()), folder, target, origin)


def write_openvla(
    config: OpenVLAConfig,
    tensors: Tensors,
    folder: Path,
    target: Target,
    origin: Origin = NO_ORIGIN,
    largest: int = SHARD,
) -> None:
    """Stream the tensors of a network (under our names) into a layout; a shard has at most `largest` bytes.

    A native file is written from memory, which must hold it.
    """
    match target:
        case "ideomotor":
            write_checkpoint(folder, config, tensors)
            return
        case "hf":
            _only_openvla(config)
            write_shards(folder, tensors, largest, {"format": "pt"})
        case "native":
            _only_openvla(config)
            write_native(folder / CHECKPOINTS / "latest-checkpoint.pt", tensors, len(config.towers))
        case _:
            assert_never(target)
    write_config_files(config, main_dtype(tensors.entries), folder, origin)


def _only_openvla(config: OpenVLAConfig) -> None:
    if isinstance(config.decoding, Parallel):
        raise UserError("this network decodes in parallel; OpenVLA's layouts hold it only as files of OpenVLA-OFT")


def write_native(path: Path, tensors: Tensors, towers: int) -> None:
    """Write a native file."""
    names, parts = NativeNames(towers), dict[str, dict[str, Tensor]]()
    for name, entry in tensors.entries.items():
        part, _, rest = names.theirs(name).partition(".")
        whole = torch.empty(entry.shape, dtype=entry.dtype)
        tensors.read(name, whole)
        parts.setdefault(part, {})[rest] = whole
    write_pickle(path, {"model": parts})


def write_config_files(config: OpenVLAConfig, dtype: torch.dtype, folder: Path, origin: Origin) -> None:
    """Write config.json, preprocessor_config.json, and the sizes of towers that are not the published ones."""
    write_json(folder / CONFIG, to_config_json(config, dtype, origin.config))
    write_json(folder / PREPROCESSOR, to_preprocessor_json(config, origin.preprocessor))
    if towers := to_towers_json(config, origin.config):
        write_json(folder / TOWERS, towers)


def main_dtype(entries: Mapping[str, Entry]) -> torch.dtype:
    """Return the dtype of most bytes."""
    count: Counter[torch.dtype] = Counter()
    for entry in entries.values():
        count[entry.dtype] += entry.size
    return count.most_common(1)[0][0]
