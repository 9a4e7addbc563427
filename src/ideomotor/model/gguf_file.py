"""A Llama-architecture language model in a GGUF file (llama.cpp's format), read through the `gguf` package.

Facts: docs of the format (github.com/ggml-org/ggml, docs/gguf.md) and the names of `gguf.constants`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, no_type_check

import numpy as np
import torch
from torch import Tensor

from ideomotor.core.errors import UserError
from ideomotor.model.config import LanguageConfig
from ideomotor.model.tensors import Entry

if TYPE_CHECKING:  # slow to import
    from gguf import GGUFReader

LLAMA = "llama"  # the architecture, and the prefix of its metadata
CONTROL, USER_DEFINED = 3, 4  # kinds of tokens that are found whole in a text; others come from merges
NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}  # GPT-2's splitting
DIGITS = {"type": "Digits", "individual_digits": True}
SPLITTERS: dict[str, dict[str, Any]] = {  # how a text is cut before merging, by the name of `tokenizer.ggml.pre`
    "gpt-2": BYTES,
    "smollm": {"type": "Sequence", "pretokenizers": [DIGITS, BYTES]},
}


class GgufFile:
    """Sizes, tokenizer and weights (as `Tensors`, under the names of our `Llama`) of the language model in a GGUF file."""

    def __init__(self, path: Path) -> None:
        """Read the file's tables; weights are read when asked for.

        Raises:
            UserError: it is no whole GGUF file, or of another architecture.
        """
        self.path = path
        try:
            self._reader = _read_tables(path)
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise UserError(f"{path} is no whole GGUF file ({error}); fetch it again") from error
        self._tensors = {_our_name(tensor.name): tensor for tensor in self._reader.tensors}
        shapes = {name: tuple(map(int, reversed(tensor.shape))) for name, tensor in self._tensors.items()}  # last first
        self.entries = {name: Entry(torch.float32, shape) for name, shape in shapes.items()}
        architecture = self._value("general.architecture", "")
        if architecture != LLAMA:
            raise UserError(f"{path} holds a language model of architecture '{architecture}'; read here: {LLAMA}")

    def config(self) -> LanguageConfig:
        """Return the sizes that the metadata state.

        Raises:
            UserError: one is missing, or the model has something that our decoder has not.
        """
        heads, width = self._size("attention.head_count"), self._size("embedding_length")
        self._refuse_unlike("attention.key_length", width // heads)
        self._refuse_unlike("attention.value_length", width // heads)
        self._refuse_unlike("rope.dimension_count", width // heads)
        self._refuse_unlike("rope.scaling.type", "none")
        self._refuse_unlike("expert_count", 0)
        if (embedding := self.entries.get(NAMES["token_embd.weight"])) is None:
            raise UserError(f"{self.path} has no tensor token_embd.weight; fetch the file again")
        return LanguageConfig(
            vocabulary=embedding.shape[0],
            width=width,
            depth=self._size("block_count"),
            heads=heads,
            kv_heads=self._size("attention.head_count_kv", heads),
            mlp=self._size("feed_forward_length"),
            rope_theta=_shortest(self._value(f"{LLAMA}.rope.freq_base", 10000.0)),
            rms_eps=_shortest(self._value(f"{LLAMA}.attention.layer_norm_rms_epsilon", 1e-5)),
            tied=NAMES["output.weight"] not in self._tensors,
        )

    def read(self, name: str, into: Tensor) -> None:
        """Copy a tensor, with its quantization undone.

        Raises:
            UserError: its quantization is not one that the `gguf` package undoes.
        """
        from gguf import dequantize

        stored = self._tensors[name]
        try:
            values = dequantize(stored.data, stored.tensor_type)
        except NotImplementedError as error:
            raise UserError(
                f"{self.path}: {stored.name} is stored as {stored.tensor_type.name}, which cannot be undone here;"
                " take a file of another quantization, such as F16, Q8_0, Q4_1 or Q4_K"
            ) from error
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            kind = "attention.head_count" if name.endswith("q_proj.weight") else "attention.head_count_kv"
            values = _halves(values, self._size(kind, self._size("attention.head_count")))
        into.copy_(torch.from_numpy(np.require(values, np.float32, ["C", "W"])))

    def tokenizer(self) -> str:
        """Return the tokenizer as the JSON of the `tokenizers` library.

        Raises:
            UserError: it is not byte-level BPE, or cuts texts in a way that is not known here.
        """
        kind, splitter = self._value("tokenizer.ggml.model", "none"), self._value("tokenizer.ggml.pre", "gpt-2")
        if kind != "gpt2" or splitter not in SPLITTERS:
            raise UserError(
                f"{self.path}: its tokenizer is '{kind}' with the splitting '{splitter}'; read here: 'gpt2' with one of"
                f" {', '.join(SPLITTERS)}. Give a folder with config.json, safetensors and tokenizer.json instead"
            )
        tokens: list[str] = self._value("tokenizer.ggml.tokens", [])
        kinds: list[int] = self._value("tokenizer.ggml.token_type", [])
        merges: list[str] = self._value("tokenizer.ggml.merges", [])
        return tokenizer_json(tokens, kinds, [tuple(merge.split(" ")) for merge in merges], SPLITTERS[splitter])

    def _size(self, name: str, default: int | None = None) -> int:
        value = self._value(f"{LLAMA}.{name}", default)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{self.path}: its {LLAMA}.{name} is {value!r}, not a number from 1 up; fetch it again")
        return value

    def _value(self, key: str, default: Any) -> Any:
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    def _refuse_unlike(self, name: str, expected: Any) -> None:
        """Refuse a model with a property that our decoder computes otherwise."""
        value = self._value(f"{LLAMA}.{name}", expected)
        if value != expected:
            raise UserError(
                f"{self.path}: its {LLAMA}.{name} is {value!r}; our decoder computes with {expected!r} only"
            )


def tokenizer_json(
    tokens: list[str], kinds: list[int], merges: list[tuple[str, ...]], splitter: Mapping[str, Any]
) -> str:
    """Return byte-level BPE as the JSON of the `tokenizers` library; control tokens are found whole in a text."""
    whole = [
        {"id": i, "content": tokens[i], "special": kind == CONTROL}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for i, kind in enumerate(kinds)
        if kind in (CONTROL, USER_DEFINED)
    ]
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}
    model |= {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    model |= {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    around = {"truncation": None, "padding": None, "normalizer": None, "post_processor": None}
    parts = {"version": "1.0", **around, "added_tokens": whole, "pre_tokenizer": splitter, "decoder": BYTES}
    return json.dumps({**parts, "model": model}, ensure_ascii=False)


def _read_tables(path: Path) -> "GGUFReader":
    """Return the file's reader; it takes a file that ends early for one with empty numbers, which this one refuses."""
    from gguf import GGUFReader

    class Whole(GGUFReader):
        @no_type_check  # called for each token
        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> np.ndarray:
            values = super()._get(offset, dtype, count, override_order)
            if len(values) < count:
                raise ValueError(f"it ends before byte {offset + count * values.itemsize}")
            return values

    return Whole(path)


def _our_name(name: str) -> str:
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if found and found[2] in LAYER_NAMES:
        return f"model.layers.{found[1]}.{LAYER_NAMES[found[2]]}.weight"
    return NAMES.get(name, name)


def _halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Return the rows of q or k for rotation by halves; the file pairs neighbours: even rows were the first half."""
    pairs = rows.reshape(heads, -1, 2, rows.shape[-1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _shortest(value: float) -> float:
    """Return the shortest decimal that the file's float32 stands for: 1e-05 rather than 9.999999747378752e-06."""
    return float(str(np.float32(value)))
