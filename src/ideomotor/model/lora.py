"""LoRA (arXiv 2106.09685) by the `peft` library, on our modules; adapters are exchanged with it in its own files.

An adapter's folder holds

    adapter_config.json          peft's configuration; names the base model's folder
    adapter_model.safetensors    peft's weights, `base_model.model.` before our names of modules, which are Hugging Face's
    heads.safetensors            weights beside the adapter that learned in full (heads of OpenVLA-OFT), where there are any
    base.json                    the base model's folder, and a fingerprint of its weights

`peft` takes seconds to import, so functions import it.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ideomotor.core.errors import UserError, unknown
from ideomotor.core.files import read_json, write_json
from ideomotor.model.keys import compare
from ideomotor.model.tensorfile import Safetensors, write_safetensors
from ideomotor.model.tensors import Entry, InMemory

CONFIG, WEIGHTS, HEADS, BASE = "adapter_config.json", "adapter_model.safetensors", "heads.safetensors", "base.json"
FORMAT = 1  # version of base.json
NAME = "default"  # peft's name of the adapter in a network
PREFIX = "base_model.model."  # peft's, before the names of modules in its files
LARGEST_RANK = 4096  # the width of the widest matrices of a 7B network
# What is not a pretrained weight learns in full: OFT's heads, the projectors of its extra tokens, and FiLM (arXiv 2502.19645).
IN_FULL = ("action_head.", "proprio_projector.", "noisy_action_projector.", ".film.")
IN_FULL_PATTERN = r"(action_head|proprio_projector|noisy_action_projector)\..*|.*\.film\..*"
CHANGES_BASE = ("pissa", "olora", "loftq", "corda", "mica")  # ways to begin an adapter that alter the weights below it


@dataclass(frozen=True)
class LoraSettings:
    """Which modules get an adapter, and how large. The defaults are OpenVLA's (arXiv 2406.09246)."""

    rank: int = 32
    alpha: int | None = None  # the adapter counts alpha / rank times; None: min(rank, 16), as in OpenVLA's script
    dropout: float = 0.0  # share of the adapter's inputs that are left out in training
    targets: tuple[str, ...] | None = None  # last parts of module names; None: those of all linear layers

    @property
    def scale(self) -> float:
        """The factor of the adapter's output."""
        return self.alpha_or_default / self.rank

    @property
    def alpha_or_default(self) -> int:
        """Alpha, as stated or by OpenVLA's rule."""
        return min(self.rank, 16) if self.alpha is None else self.alpha


def linear_names(network: nn.Module) -> tuple[str, ...]:
    """Return the last parts of the names of all pretrained linear layers, sorted: what peft calls "all-linear".

    A target is every module of such a name, convolutions too: `proj` is also the patch projection of both towers.
    """
    linear = (name for name, module in network.named_modules() if isinstance(module, nn.Linear))
    return tuple(sorted({name.rpartition(".")[2] for name in linear if not learns_in_full(f"{name}.")}))


def learns_in_full(name: str) -> bool:
    """Tell whether a weight is outside of what adapters are for."""
    return any(name.startswith(part) or (part.startswith(".") and part in name) for part in IN_FULL)


def add_lora(network: nn.Module, settings: LoraSettings, seed: int = 0) -> None:
    """Put adapters into a network: A is Gaussian, B zero, so nothing changes yet. Only they and OFT's heads learn from then on.

    Raises:
        UserError: a number without a meaning, or a target that no module has.
    """
    _check(settings, network)
    from peft import LoraConfig

    has_heads = any(learns_in_full(name) for name, _ in network.named_parameters())
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha_or_default,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets or linear_names(network)),
        exclude_modules=IN_FULL_PATTERN if has_heads else None,
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _inject(network, config)


def has_lora(network: nn.Module) -> bool:
    """Tell whether adapters are in the network."""
    return hasattr(network, "peft_config")


def learning(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that learn, by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def _check(settings: LoraSettings, network: nn.Module) -> None:
    if settings.rank < 1 or settings.alpha_or_default < 1 or not 0 <= settings.dropout < 1:
        raise UserError(
            f"LoRA with rank {settings.rank}, alpha {settings.alpha_or_default} and dropout {settings.dropout} is not possible;"
            " rank and alpha are whole numbers from 1 up, dropout is a share below 1"
        )
    known = set(linear_names(network))
    for target in settings.targets or ():
        if target not in known:
            raise unknown("LoRA target", target, known)


def _inject(network: nn.Module, config: Any) -> None:
    """Let peft wrap the modules in place; adapters are held in float32 whatever the weights are."""
    from peft import inject_adapter_in_model

    on_meta = any(parameter.is_meta for parameter in network.parameters())
    inject_adapter_in_model(config, network, adapter_name=NAME, low_cpu_mem_usage=on_meta)
    for name, parameter in network.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
        parameter.requires_grad_(".lora_" in name or learns_in_full(name))


def _adapters(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the wrapped modules by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(network.named_modules()):
        if isinstance(module, BaseTunerLayer):
            yield name, module


# ------------------------------------------------------------------------------------------------ the base model


@dataclass(frozen=True)
class Base:
    """The checkpoint that an adapter belongs to."""

    path: Path
    fingerprint: str

    @classmethod
    def of(cls, path: Path) -> "Base":
        """Take the fingerprint of a checkpoint, a folder or a file."""
        return cls(path.resolve(), fingerprint(path))


SAMPLES, SAMPLE = 64, 1 << 12  # places of a file that the fingerprint reads, and [bytes] at each
WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin")


def fingerprint(checkpoint: Path) -> str:
    """Return a hash of a checkpoint that takes milliseconds at any size: names, sizes and samples of its weight files, and config.json.

    Training moves every weight a little, so the samples of two checkpoints differ; a single changed byte may stay unseen.
    """
    digest = hashlib.sha256()
    files = [checkpoint] if checkpoint.is_file() else _weight_files(checkpoint)
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(checkpoint.parent).as_posix().partition('/')[2]} {size}\n".encode())
        with path.open("rb") as file:
            for place in range(SAMPLES):
                file.seek(max(0, size - SAMPLE) * place // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in WEIGHT_FILES or path == folder / "config.json")


def base_of(folder: Path) -> Base:
    """Return the base model of the adapter in a folder: what base.json says, or peft's configuration where it is not ours.

    Raises:
        UserError: it is not there any more, or it is another one than the adapter was trained on.
    """
    own = folder / BASE
    if own.is_file():
        value = _json(own)
        where, stated = str(value.get("path", "")), str(value.get("fingerprint", ""))
    else:
        where, stated = str(_json(folder / CONFIG).get("base_model_name_or_path") or ""), ""
    remedy = f"put the base model there, or write its folder into {own if own.is_file() else folder / CONFIG}"
    if not where or not Path(where).exists():
        raise UserError(f"{folder} is an adapter of '{where}', which is not here; {remedy}")
    base = Base.of(Path(where))
    if stated and base.fingerprint != stated:
        raise UserError(
            f"{folder} is an adapter of another model than the one now in {where}: its weights or its config.json changed"
            f" (fingerprint {base.fingerprint[:16]}, the adapter's is {stated[:16]}); {remedy}"
        )
    return base


# ------------------------------------------------------------------------------------------------ disk


def save_adapter(network: nn.Module, folder: Path, base: Base) -> None:
    """Write the adapter in peft's files, OFT's heads beside it, and which base it belongs to; equal weights give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    adapter, heads = _state(network)
    write_safetensors(folder / WEIGHTS, InMemory(adapter), {"format": "pt"})
    if heads:
        write_safetensors(folder / HEADS, InMemory(heads), {"format": "pt"})
    write_json(folder / CONFIG, _plain(network, base.path))
    write_json(folder / BASE, {"format": FORMAT, "path": str(base.path), "fingerprint": base.fingerprint})


def load_adapter(network: nn.Module, folder: Path) -> None:
    """Put the adapter of a folder into its base network, and heads that were trained beside it; also one that peft saved elsewhere.

    Raises:
        UserError: files are missing or damaged, it is no LoRA, or it does not fit the network.
    """
    config = _read_config(folder)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} has no {WEIGHTS}; adapters are read as safetensors, so save it anew with peft")
    try:
        with torch.random.fork_rng(devices=[]):  # what peft draws is overwritten
            _inject(network, config)
    except ValueError as error:
        raise UserError(
            f"{folder / CONFIG} does not fit this network ({error}); give the adapter's own base"
        ) from error
    adapter, heads = _state(network)
    _read_into(adapter, folder / WEIGHTS)
    if heads and (folder / HEADS).is_file():
        _read_into(heads, folder / HEADS)


def _state(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the adapter's weights under the names of peft's files, and the weights that learn in full."""
    adapter: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        if ".lora_" in name:
            adapter[PREFIX + name.replace(f".{NAME}.", ".")] = parameter
        elif learns_in_full(name):
            heads[name] = parameter
    return adapter, heads


def _plain(network: nn.Module, base: Path) -> dict[str, Any]:
    """Return peft's configuration as JSON values, sets in order."""
    config = cast("Any", network).peft_config[NAME]
    values = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    return values | {"base_model_name_or_path": str(base), "inference_mode": True, "peft_type": "LORA"}


def _read_config(folder: Path) -> Any:
    """Return the configuration of an adapter for injection."""
    path = folder / CONFIG
    value = _json(path)
    if value.get("peft_type") != "LORA":
        raise UserError(f"{path} describes {value.get('peft_type')!r}; adapters of type 'LORA' are read")
    begin = value.get("init_lora_weights", True)
    if isinstance(begin, str) and begin.lower().startswith(CHANGES_BASE):
        raise UserError(
            f"{path} was begun with {begin!r}, which alters the base model's weights; convert it with peft to plain LoRA"
            " (`save_pretrained(path_initial_model_for_weight_conversion=...)`)"
        )
    _check_numbers(value, path)
    from peft import LoraConfig

    try:
        return LoraConfig.from_pretrained(str(folder), inference_mode=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is no configuration of LoRA ({error}); save the adapter again with peft") from error


def _check_numbers(value: dict[str, Any], path: Path) -> None:
    """Refuse what peft would take without a word, or fail on deep inside."""
    rank, alpha, targets = value.get("r"), value.get("lora_alpha"), value.get("target_modules")
    if type(rank) is not int or not 1 <= rank <= LARGEST_RANK:
        raise UserError(
            f"{path}: r is {rank!r}; a rank from 1 to {LARGEST_RANK} is allowed. Save the adapter again with peft"
        )
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise UserError(
            f"{path}: lora_alpha is {alpha!r}; it should be a finite number. Save the adapter again with peft"
        )
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except re.error as error:
            raise UserError(f"{path}: target_modules {targets[:80]!r} is no regular expression ({error})") from error
    for name, plain in (("modules_to_save", None), ("bias", "none")):
        if value.get(name, plain) not in (plain, []):
            raise UserError(
                f"{path}: {name} is {value[name]!r}, so more than the adapter's matrices was trained, and that is not read here; merge it"
                " with peft (`merge_and_unload`), and give the merged model"
            )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} is missing; give the folder of an adapter, as peft or `ideomotor train` writes it")
    return read_json(path)


def _read_into(expected: dict[str, Tensor], path: Path) -> None:
    """Fill tensors from a file that has exactly their names and shapes."""
    file = Safetensors([path])
    wanted = {name: Entry(tensor.dtype, tuple(tensor.shape)) for name, tensor in expected.items()}
    if wrong := compare(wanted, file.entries):
        lines = [
            f"  {len(names)} {kind}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
            for kind, names in vars(wrong).items()
            if names
        ]
        raise UserError(
            f"{path} does not fit the network and {CONFIG}:\n"
            + "\n".join(lines)
            + "\nGive the base that it was trained on."
        )
    for name, tensor in expected.items():
        file.read(name, tensor)


# ------------------------------------------------------------------------------------------------ merging

EXACT = 1e-4  # largest difference in float32, as a share of the largest output: the same sums in another order
ROUNDED = 0.1  # the same once weights are rounded to bfloat16, by up to one part in 256 each; a barely trained network of 7 M moves by 6 %


@dataclass(frozen=True)
class Merge:
    """How far the outputs of a merged network are from those with the adapter beside the weights, on the probe."""

    scale: float  # largest output
    effect: float  # largest difference that the adapter makes
    exact: float | None  # largest difference before rounding; None: the weights are held rounded
    rounded: float  # largest difference as saved
    stored: torch.dtype  # of the saved weights

    @property
    def allowed(self) -> float:
        """The largest difference that is accepted of what is saved."""
        return self.scale * (EXACT if self.stored == torch.float32 else ROUNDED)

    @property
    def faithful(self) -> bool:
        """Whether the merged network is the trained one."""
        return self.rounded <= self.allowed and (self.exact is None or self.exact <= EXACT * self.scale)

    def __str__(self) -> str:
        twice = self.exact is not None and self.stored != torch.float32
        exact = f"{self.exact:.2g} in float32, " if twice else ""
        return (
            f"merging moved outputs by at most {exact}{self.rounded:.2g} in {str(self.stored).removeprefix('torch.')} (allowed"
            f" {self.allowed:.2g}; largest output {self.scale:.3g}, effect of the adapter {self.effect:.2g})"
        )


Probe = Callable[[], Tensor]  # the network's outputs for a few samples


@torch.no_grad()
def merge(network: nn.Module, probe: Probe, stored: torch.dtype) -> Merge:
    """Add the adapter to the weights, take it out of the network, and round the weights to the dtype they are stored in.

    Raises:
        UserError: the outputs for the probe moved too far; the network is not to be used any more.
    """
    training = network.training
    network.eval()
    before, without = probe().float(), _without(network, probe)
    held = next(network.parameters()).dtype
    for name, layer in _adapters(network):
        weight = layer.get_base_layer().weight
        weight.data = weight.data.float()  # the sum is rounded once, not twice
        layer.merge(safe_merge=True)
        weight.data = weight.data.to(held)
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, layer.get_base_layer())
    del cast("Any", network).peft_config
    exact = largest(probe() - before) if held == torch.float32 else None
    for parameter in network.parameters():
        parameter.data = parameter.data.to(stored).to(held)
    found = Merge(largest(before), largest(before - without), exact, largest(probe() - before), stored)
    network.train(training)
    if not found.faithful:
        raise UserError(
            f"the merged policy is not the trained one: {found}. It is not saved; the adapter is in the newest checkpoint"
        )
    return found


def largest(x: Tensor) -> float:
    """Return the largest magnitude."""
    return float(x.abs().max())


def _without(network: nn.Module, probe: Probe) -> Tensor:
    """Return the outputs of the base alone."""
    layers = [layer for _, layer in _adapters(network)]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        return probe().float()
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)
