"""The products of a Llama's layers without gradients: fused, and packed for a CPU's matrix unit.

Letters: B = batch, N = tokens, I, O = width of a product's input and output, D = width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ideomotor.model.language import Llama, LlamaLayer, RMSNorm

FEW = 16  # [rows] so many are a decoding step rather than a prompt
PACKED_FOR = 288  # [rows] the packed layout is chosen for products of about this size, and serves all

Product = Callable[[Tensor], Tensor]
Residual = Callable[[Tensor, Tensor], Tensor]  # (input, what it is added to) -> sum


@dataclass(frozen=True, slots=True)
class Layer:
    """A decoder layer as functions of [B, N, .]; `stamp` tells which weights they read."""

    norm: Product
    q: Product
    kv: Product
    qkv: Product
    out: Residual
    mlp_norm: Product
    mlp: Residual
    stamp: "Stamp"


Stamp = tuple[tuple[int, int, int], ...]


def fuse(language: Llama) -> None:
    """Lay the weights of q, k and v side by side in memory, and those of gate and up, so that one product reads them.

    To be called when the weights are on their device. One layer at a time is held twice. Names, shapes and values of the parameters
    stay, and a state dict may be loaded later; what moves a parameter to new memory (`to`, a deep copy) merely undoes the work.
    Projections that are no plain linear modules, adapters for instance, stay as they are.
    """
    for layer in layers_of(language):
        attention, mlp = layer.self_attn, layer.mlp
        for modules in ((attention.q_proj, attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)):
            if all(_is_plain(module) for module in modules) and _side_by_side(modules) is None:
                joined = torch.cat([module.weight.data for module in modules])
                parts = joined.split([len(module.weight) for module in modules])
                for module, part in zip(modules, parts, strict=True):
                    module.weight.data = part


def layers_of(language: Llama) -> Iterable[LlamaLayer]:
    """Return the layers with their type."""
    return cast("Iterable[LlamaLayer]", language.model.layers)


def plain(layer: LlamaLayer) -> Layer:
    """Return the functions that read the weights where they are."""
    attention, mlp = layer.self_attn, layer.mlp
    out, gate_up, down = product(attention.o_proj), product(mlp.gate_proj, mlp.up_proj), product(mlp.down_proj)

    def feed_forward(x: Tensor, residual: Tensor) -> Tensor:
        gate, up = gate_up(x).chunk(2, dim=-1)
        return residual + down(functional.silu(gate).mul_(up))

    return Layer(
        norm=norm(layer.input_layernorm),
        q=product(attention.q_proj),
        kv=product(attention.k_proj, attention.v_proj),
        qkv=product(attention.q_proj, attention.k_proj, attention.v_proj),
        out=lambda x, residual: residual + out(x),
        mlp_norm=norm(layer.post_attention_layernorm),
        mlp=feed_forward,
        stamp=stamp(layer),
    )


def packed(layer: LlamaLayer) -> Layer:
    """Return functions that read copies of the weights in the layout oneDNN computes with, if there is one: bfloat16 on a CPU.

    A product with weights where they are rearranges them first, each time. SiLU, its product with up and both sums are done
    while the results are in registers.
    """
    simple, attention, mlp = plain(layer), layer.self_attn, layer.mlp
    qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
    singles = (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    if not (
        torch.backends.mkldnn.is_available() and all(_is_plain(m) and is_cpu_bf16(m.weight) for m in qkv + singles)
    ):
        return simple
    times = torch.ops.mkldnn._linear_pointwise
    w_qkv = _pack(torch.cat([module.weight for module in qkv]))
    w_out, w_gate, w_up, w_down = (_pack(module.weight) for module in singles)
    few = FEW if _has_amx() else 0  # with AMX a step reads the weights where they are, see `_times_from_left`

    def qkv_(x: Tensor) -> Tensor:
        return simple.qkv(x) if _rows(x) <= few else times(x, w_qkv, None, "none", [], "")

    def out(x: Tensor, residual: Tensor) -> Tensor:
        return simple.out(x, residual) if _rows(x) <= few else times.binary(x, residual, w_out, None, "add")

    def feed_forward(x: Tensor, residual: Tensor) -> Tensor:
        if _rows(x) <= few:
            return simple.mlp(x, residual)
        gate = times(x, w_gate, None, "swish", [], "")
        return times.binary(times.binary(x, gate, w_up, None, "mul"), residual, w_down, None, "add")

    return replace(simple, qkv=qkv_, out=out, mlp=feed_forward)


def stamp(layer: LlamaLayer) -> Stamp:
    """Return what changes when a weight of the layer is replaced, moved or written to."""
    attention, mlp = layer.self_attn, layer.mlp
    modules = (
        *(layer.input_layernorm, layer.post_attention_layernorm),
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
    )
    return tuple((id(module), *_state(module.weight)) for module in modules)


def product(*modules: nn.Module) -> Product:
    """Return the function that gives the outputs of all modules, joined: one product where their weights lie side by side."""
    weight = _side_by_side(modules)
    if weight is not None:
        return times(weight)
    if len(modules) == 1:
        return modules[0]
    return lambda x: torch.cat([module(x) for module in modules], dim=-1)


def times(weight: Float[Tensor, "O I"]) -> Product:
    """Return the product with a weight matrix."""
    if is_cpu_bf16(weight) and _has_amx():
        return partial(_times_from_left, weight)
    return partial(functional.linear, weight=weight)


def norm(module: RMSNorm) -> Product:
    """Return the norm, with fewer passes over the memory where a CPU composes it."""
    weight, eps = module.weight, module.eps
    simple = partial(functional.rms_norm, normalized_shape=weight.shape, weight=weight, eps=eps)

    def composed(x: Tensor) -> Tensor:
        if _rows(x) <= FEW:
            return simple(x)
        y = x.float()
        scale = torch.linalg.vector_norm(y, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        return y.mul_(scale).to(x.dtype).mul_(weight)

    return composed if is_cpu_bf16(weight) else simple


def _times_from_left(weight: Float[Tensor, "O I"], x: Float[Tensor, "B N I"]) -> Float[Tensor, "B N O"]:
    """Few rows: with the weights as the left factor the matrix unit reads them as they are, 1.1 to 2 times faster [measured]."""
    batch, tokens, width = x.shape
    if batch * tokens > FEW:
        return functional.linear(x, weight)
    if batch * tokens == 1:
        return torch.mv(weight, x.view(width)).view(1, 1, -1)
    return torch.mm(weight, x.reshape(-1, width).t()).t().reshape(batch, tokens, -1)


def _pack(weight: Float[Tensor, "O I"]) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_FOR)


def _side_by_side(modules: Sequence[nn.Module]) -> Tensor | None:
    """Return the weights of all modules as one matrix where they lie so in memory, else None."""
    if not all(_is_plain(module) for module in modules):
        return None
    weights = [cast("Tensor", module.weight) for module in modules]
    first = weights[0]
    if len(weights) == 1:
        return first
    memory, end, rows = first.untyped_storage().data_ptr(), first.storage_offset(), 0
    for weight in weights:
        if not (
            weight.untyped_storage().data_ptr() == memory
            and weight.storage_offset() == end
            and weight.dtype == first.dtype
            and weight.stride() == (first.shape[1], 1)
        ):
            return None
        end, rows = end + weight.numel(), rows + len(weight)
    return first.as_strided((rows, first.shape[1]), first.stride(), first.storage_offset())


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear and "bias" not in dict(module.named_parameters(recurse=False))


def is_cpu_bf16(weight: Tensor) -> bool:
    return weight.dtype == torch.bfloat16 and weight.device.type == "cpu"


def _has_amx() -> bool:
    capabilities: Callable[[], Mapping[str, Any]] = getattr(
        torch.cpu, "get_capabilities", dict
    )  # absent in older torch
    return bool(capabilities().get("amx_bf16"))


def _rows(x: Tensor) -> int:
    return x.shape[0] * x.shape[1]


def _state(weight: Tensor) -> tuple[int, int]:
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version
