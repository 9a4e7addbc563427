"""Networks to and from `model.safetensors` and `config.json`; strict, no pickle."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError
from ideomotor.core.files import atomic_path, write_json
from ideomotor.model.config import NetworkConfig
from ideomotor.model.vla import VLA

FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_network(network: VLA, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights and configuration; equal weights give equal bytes."""
    state = {name: tensor.detach().to(dtype).contiguous() for name, tensor in sorted(network.state_dict().items())}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(state, temporary)
        temporary.chmod(0o644)  # the library writes files that only their owner can read
    write_json(folder / CONFIG, {"format": FORMAT, **jsonable.to_json(network.config)})


def load_network(folder: Path) -> VLA:
    """Undo `save_network`; weights are held in float32.

    Raises:
        UserError: a file is missing or damaged, or the keys are not those of the configuration.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}; give the folder of a policy, as `ideomotor train` writes it")
    network = VLA(jsonable.from_json(NetworkConfig, _read_config(folder / CONFIG), str(folder / CONFIG)))
    try:
        state = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise UserError(
            f"{folder / WEIGHTS} is no safetensors file ({error}); copy it again or give another checkpoint"
        ) from error
    check_keys(network.state_dict(), state, str(folder / WEIGHTS))
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return network


def check_keys(expected: dict[str, Tensor], found: dict[str, Tensor], where: str) -> None:
    """Compare names and shapes.

    Raises:
        UserError: lists what is missing, extra, or of another shape.
    """
    wrong = {
        "missing": sorted(expected.keys() - found.keys()),
        "extra": sorted(found.keys() - expected.keys()),
        "of another shape": sorted(
            f"{name} {tuple(found[name].shape)} for {tuple(expected[name].shape)}"
            for name in expected.keys() & found.keys()
            if expected[name].shape != found[name].shape
        ),
    }
    lines = [
        f"  {len(names)} {kind}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
        for kind, names in wrong.items()
        if names
    ]
    if lines:
        raise UserError(
            f"{where} does not fit its config.json:\n" + "\n".join(lines) + "\nTake both from one checkpoint."
        )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}); take the file from the checkpoint again") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise UserError(f"{path} is not a network configuration of format {FORMAT}; write the policy with this version")
    return {name: item for name, item in value.items() if name != "format"}
