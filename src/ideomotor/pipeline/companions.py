"""The files that go with an OpenVLA checkpoint into another layout: tokenizer and its licence, statistics, pipeline."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ideomotor.core.errors import UserError
from ideomotor.core.files import LARGEST_JSON, read_json, read_small
from ideomotor.data.norm_stats import FILE as STATISTICS
from ideomotor.data.norm_stats import IN_CONFIG
from ideomotor.pipeline import openvla
from ideomotor.pipeline.foreign import CONFIG, ORIGIN, PREPROCESSOR, TOKENIZERS, read_notices

CARRIED = (  # what a layout needs beside them is written anew
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "processor_config.json",
    STATISTICS,
)
PIPELINE = (openvla.CONFIG, openvla.EMBODIMENT, openvla.STATISTICS, openvla.TEXT)
THEIR_NAMES = {
    openvla.STATISTICS: STATISTICS,
    openvla.TEXT: "tokenizer.json",
}  # files of a pipeline with OpenVLA's content


def stated(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a checkpoint says beside its weights, as fields of OpenVLA's config.json and preprocessor_config.json.

    Statistics in a file of their own count where config.json holds none.
    """

    def read(name: str) -> dict[str, Any]:
        return read_json(folder / name) if (folder / name).is_file() else {}

    config, preprocessor = read(CONFIG), read(PREPROCESSOR)
    if (folder / ORIGIN).is_file():
        config, preprocessor = (read(ORIGIN).get(part, {}) for part in ("config", "preprocessor"))
    elif config.get("model_type") != "openvla":
        config = {}
    own = read(openvla.STATISTICS) if (folder / openvla.CONFIG).is_file() else {}
    if own or IN_CONFIG not in config:
        found = own or read(STATISTICS)
        config = {**config, IN_CONFIG: found} if found else config
    return config, preprocessor


def companions(
    folders: tuple[Path, ...], to: Literal["ideomotor", "hf", "native"], tokenizer: Path | None
) -> dict[str, bytes]:
    """Return the files that go with converted weights, by name; of several folders, the later one wins.

    Args:
        folders: of the checkpoint; of an adapter's base, then of the adapter.
        to: the layout: a pipeline goes along to ours, the Python files that config.json names to Hugging Face's.
        tokenizer: instead of the checkpoint's; licence and notice stand beside it.

    Raises:
        UserError: there is a tokenizer of Llama-2 without its licence and notice, which have to stay with it.
    """
    if tokenizer is not None and tokenizer.name not in TOKENIZERS:
        raise UserError(f"{tokenizer} is no tokenizer that is read here; give a file named {' or '.join(TOKENIZERS)}")
    found: dict[str, bytes] = {}
    for folder in folders:
        config, _ = stated(folder)
        found |= _files(folder, CARRIED) | read_notices(folder) | _of_pipeline(folder, to)
        if to == "hf":
            found |= _files(folder, _modules(config))
        elif STATISTICS not in found and IN_CONFIG in config:
            found[STATISTICS] = json.dumps(config[IN_CONFIG], indent=2).encode() + b"\n"
    if tokenizer is not None:
        found |= {tokenizer.name: read_small(tokenizer, LARGEST_JSON), **read_notices(tokenizer.parent)}
    _check_licence(found, tokenizer.parent if tokenizer is not None else folders[-1])
    return found


def _files(folder: Path, names: tuple[str, ...] | list[str]) -> dict[str, bytes]:
    return {name: read_small(folder / name, LARGEST_JSON) for name in names if (folder / name).is_file()}


def _of_pipeline(folder: Path, to: str) -> dict[str, bytes]:
    if not (folder / openvla.CONFIG).is_file():
        return {}
    found = _files(folder, PIPELINE)
    return found if to == "ideomotor" else {new: found[old] for old, new in THEIR_NAMES.items() if old in found}


def _modules(config: Mapping[str, Any]) -> list[str]:
    """Return the Python files that auto_map names, as `file.Class`; a place outside the folder is none."""
    places: Any = config.get("auto_map")
    names = [str(place).partition(".")[0] for place in places.values()] if isinstance(places, dict) else []
    return [f"{name}.py" for name in names if name.isidentifier()]


def _check_licence(found: Mapping[str, bytes], folder: Path) -> None:
    if not found.keys() & {*TOKENIZERS, openvla.TEXT}:
        return
    for kind in ("LICENSE", "NOTICE"):
        if not any(name.upper().startswith(kind) for name in found):
            raise UserError(
                f"{folder} has a tokenizer of Llama-2 and no {kind} file: the agreement and its notice have to stay with every copy. Put "
                "LICENSE and NOTICE of meta-llama/llama beside it"
            )
