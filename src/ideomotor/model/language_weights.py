"""Language models of the Llama architecture from elsewhere: a Hugging Face folder or a GGUF file, into our `Llama`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ideomotor.core.errors import UserError
from ideomotor.core.files import read_json
from ideomotor.model.config import LanguageConfig
from ideomotor.model.gguf_file import GgufFile
from ideomotor.model.keys import report
from ideomotor.model.language import Llama
from ideomotor.model.tensorfile import open_safetensors

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WITHOUT_INFLUENCE = "rotary_emb.inv_freq"  # old files hold the rotation's frequencies, which follow from the sizes
CONFIG, TOKENIZER = "config.json", "tokenizer.json"


class LanguageFolder:
    """Sizes, tokenizer and weights (as `Tensors`) of the language model in a Hugging Face folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors = open_safetensors(path)
        self.entries, self.read = self._tensors.entries, self._tensors.read

    def config(self) -> LanguageConfig:
        """Return the sizes that config.json states; what it leaves out is what `transformers` takes for a Llama.

        Raises:
            UserError: a size is missing, or the model has something that our decoder has not.
        """
        path = self.path / CONFIG
        values = _read_json(path)
        if values.get("model_type") != "llama":
            raise UserError(f"{path}: model_type is {values.get('model_type')!r}; read here: 'llama'")
        rotary = values.get("rope_parameters") or values.get("rope_scaling") or {}
        rotary = rotary if isinstance(rotary, dict) else {"rope_type": rotary}
        width, heads = _size(values, "hidden_size", path), _size(values, "num_attention_heads", path)
        stated = {
            "rope_type": (rotary.get("rope_type", rotary.get("type")) or "none", ("none", "default")),
            "partial_rotary_factor": (rotary.get("partial_rotary_factor", 1.0), (1.0,)),
            "attention_bias": (values.get("attention_bias", False), (False,)),
            "mlp_bias": (values.get("mlp_bias", False), (False,)),
            "hidden_act": (values.get("hidden_act", "silu"), ("silu",)),
            "head_dim": (values.get("head_dim"), (None, width // heads)),
            "quantization_config": (values.get("quantization_config"), (None,)),
        }
        if unlike := [
            f"{name} {value!r} (ours: {ours[-1]!r})" for name, (value, ours) in stated.items() if value not in ours
        ]:
            raise UserError(f"{path}: our decoder does not compute this model: {', '.join(unlike)}; take another one")
        return LanguageConfig(
            vocabulary=_size(values, "vocab_size", path),
            width=width,
            depth=_size(values, "num_hidden_layers", path),
            heads=heads,
            kv_heads=_size(values, "num_key_value_heads", path) if values.get("num_key_value_heads") else heads,
            mlp=_size(values, "intermediate_size", path),
            rope_theta=_number({**values, **rotary}, "rope_theta", 10000.0, path),
            rms_eps=_number(values, "rms_norm_eps", 1e-6, path),
            tied=bool(values.get("tie_word_embeddings", False)),
        )

    def tokenizer(self) -> str:
        """Return the text of tokenizer.json."""
        path = self.path / TOKENIZER
        if not path.is_file():
            raise UserError(f"{self.path} has no {TOKENIZER}; save the model's tokenizer there in its fast form")
        return path.read_text(encoding="utf-8")


Source = LanguageFolder | GgufFile


def open_language(path: Path) -> Source:
    """Open the folder or GGUF file of a language model.

    Raises:
        UserError: it is neither.
    """
    if not path.exists():
        raise UserError(
            f"{path} does not exist; a language model is a folder (config.json, safetensors) or a GGUF file"
        )
    source = LanguageFolder(path) if path.is_dir() else GgufFile(path)
    sizes = source.config()
    if sizes.width % sizes.heads or sizes.heads % sizes.kv_heads:
        raise UserError(
            f"{path}: {sizes.heads} heads, {sizes.kv_heads} of them with keys, do not divide the width {sizes.width};"
            " take the sizes from the model again"
        )
    return source


def language_config(path: Path) -> LanguageConfig:
    """Return the sizes of the language model in a folder or GGUF file."""
    return open_language(path).config()


def language_tokenizer(path: Path) -> str:
    """Return the tokenizer of the language model in a folder or GGUF file, as the JSON of the `tokenizers` library."""
    return open_language(path).tokenizer()


def load_language(path: Path, dtype: torch.dtype = torch.float32) -> Llama:
    """Return the language model in a folder or GGUF file.

    Raises:
        UserError: it is not there, not whole, or not one that our decoder computes.
    """
    source = open_language(path)
    with torch.device("meta"):
        llama = Llama(source.config()).to(dtype)
    llama.to_empty(device="cpu")
    _copy(source, llama)
    return llama.eval()


def read_language_into(llama: Llama, path: Path) -> None:
    """Replace the weights of `llama` by those in a folder or GGUF file, one tensor at a time.

    Raises:
        UserError: missing, extra or mis-shaped tensors, or sizes of another network; `llama` then is as it was.
    """
    _copy(open_language(path), llama)


@torch.no_grad()
def _copy(source: Source, llama: Llama) -> None:
    wanted = llama.state_dict()
    found = {name: entry for name, entry in source.entries.items() if not name.endswith(WITHOUT_INFLUENCE)}
    if llama.config.tied and HEAD in found and _same(source, HEAD, EMBEDDING):
        del found[HEAD]
    if differences := report(wanted, found):
        raise UserError(f"{source.path} does not fit the sizes that it states:\n{differences}")
    if (stated := source.config()) != llama.config:
        raise UserError(f"{source.path} is {stated}; the network is {llama.config}. Build it from the file's own sizes")
    for name in found:
        source.read(name, wanted[name])


def _same(source: Source, left: str, right: str) -> bool:
    """Tell whether a file holds a tensor twice."""
    shapes = [entry.shape for name in (left, right) if (entry := source.entries.get(name)) is not None]
    if len(shapes) < 2 or shapes[0] != shapes[1]:
        return False
    tensors = [torch.empty(shape) for shape in shapes]
    for name, tensor in zip((left, right), tensors, strict=True):
        source.read(name, tensor)
    return torch.equal(*tensors)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path.parent} has no {path.name}; give the folder of a language model")
    return read_json(path)


def _size(values: Mapping[str, Any], name: str, path: Path) -> int:
    value = values.get(name)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{path}: its {name} is {value!r}, not a number from 1 up; take it from the model again")
    return value


def _number(values: Mapping[str, Any], name: str, default: float, path: Path) -> float:
    value = values.get(name, default)
    if not isinstance(value, int | float) or not value > 0:
        raise UserError(f"{path}: its {name} is {value!r}, not a positive number; take it from the model again")
    return float(value)
