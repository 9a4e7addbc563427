"""Our own checkpoints, `model.safetensors` and `config.json`; and how weights of any layout enter a network. Strict, no pickle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError
from ideomotor.core.files import read_json, write_json
from ideomotor.model.config import NetworkConfig, OpenVLAConfig
from ideomotor.model.keys import check_keys
from ideomotor.model.tensorfile import FILE, open_safetensors, write_safetensors
from ideomotor.model.tensors import Cast, InMemory, Tensors
from ideomotor.model.vla import VLA

FORMAT = 1
WEIGHTS, CONFIG = FILE, "config.json"

Network = TypeVar("Network", bound=nn.Module)


def save_network(network: VLA, folder: Path, dtype: torch.dtype | None = torch.float32) -> None:
    """Write weights and configuration; equal weights give equal bytes."""
    write_checkpoint(folder, network.config, Cast(InMemory(network.state_dict()), dtype))


def write_checkpoint(folder: Path, config: NetworkConfig | OpenVLAConfig, tensors: Tensors) -> None:
    """Write a checkpoint of ours."""
    write_safetensors(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, {"format": FORMAT, **jsonable.to_json(config)})


def load_network(folder: Path) -> VLA:
    """Undo `save_network` of a VLA; weights are held in float32.

    Raises:
        UserError: a file is missing or damaged, or the keys are not those of the configuration.
    """
    config = read_config(folder)
    if not isinstance(config, NetworkConfig):
        raise UserError(f"{folder} holds an OpenVLA; give the folder of a policy with a network of our own")
    network = VLA(config)
    state, tensors = network.state_dict(), open_safetensors(folder)
    check_keys(state, tensors.entries, folder / WEIGHTS)
    for name in tensors.entries:
        tensors.read(name, state[name])
    return network


def read_config(folder: Path) -> NetworkConfig | OpenVLAConfig:
    """Return the configuration of a checkpoint of ours.

    Raises:
        UserError: a file is missing, or the configuration is none of this version.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}; give the folder of a policy, as `ideomotor train` writes it")
    path = folder / CONFIG
    value = read_json(path)
    if value.pop("format", None) != FORMAT:
        raise UserError(f"{path} is not a network configuration of format {FORMAT}; write the policy with this version")
    kind = OpenVLAConfig if value.get("type") == OpenVLAConfig.__name__ else NetworkConfig
    return jsonable.from_json(kind, value, str(path))


class _Unfilled(TorchFunctionMode):
    """Skip what fills tensors with numbers. There is nothing to fill, and PyTorch would first load its compiler: 1 s, 75 MB."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.randn:
            return torch.empty(*args, **(kwargs or {}))
        if func in (init.normal_, init.uniform_):
            return args[0] if args else (kwargs or {})["tensor"]
        if func is Tensor.mul and isinstance(args[1], float):
            return args[0]
        return func(*args, **(kwargs or {}))


def outline(make: Callable[[], Network]) -> Network:
    """Return a network with names, shapes and types, and no memory behind them."""
    with torch.device("meta"), _Unfilled():
        return make()


def build(
    make: Callable[[], Network],
    tensors: Tensors,
    where: Path,
    dtype: torch.dtype | None,
    device: torch.device | str,
) -> Network:
    """Return a network whose weights were read straight into their place; no dtype: each as it is stored.

    Nothing is allocated before names and shapes have been compared.

    Raises:
        UserError: the tensors are not those of the network.
    """
    network = outline(make)
    check_keys(network.state_dict(), tensors.entries, where)
    state = {
        name: torch.empty(entry.shape, dtype=dtype or entry.dtype, device=device)
        for name, entry in tensors.entries.items()
    }
    for name in tensors.entries:
        tensors.read(name, state[name])
    network.load_state_dict(state, assign=True)
    assert not any(buffer.is_meta for buffer in network.buffers()), "a buffer that no checkpoint holds"
    return network.eval()
