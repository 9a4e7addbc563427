"""`ideomotor weights info|convert`: look at a checkpoint of OpenVLA or a relative, or write it in another layout."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, assert_never

import tyro
from tyro.conf import Positional, subcommand

if TYPE_CHECKING:
    from ideomotor.model.config import NetworkConfig
    from ideomotor.model.openvla_weights import Origin, Source

Normalization = Literal["hf", "train"]
Target = Literal["ideomotor", "hf", "native"]


@dataclass(frozen=True)
class Reading:
    """What the files of a checkpoint may leave open."""

    components: Path | None = None
    """Folder with the component files of OpenVLA-OFT, where they are not beside the weights."""
    horizon: int | None = None
    """OFT: actions in a chunk; no file says it."""
    cameras: int | None = None
    """OFT: images; no file says it."""
    action_width: int | None = None
    """OFT without a head: numbers of an action."""
    rms_eps: float | None = None
    """Eps of the language model's norms; default: what the checkpoint says, 1e-6 for Hugging Face's, 1e-5 for native files."""
    normalization: Normalization | None = None
    """Means and deviations that scale pixels: hf (rounded to bfloat16) or train; default: what the checkpoint says, train for native."""


@dataclass(frozen=True)
class Info:
    """Print layout, parts, sizes, statistics, and whether the tensors are the ones the configuration asks for."""

    checkpoint: Positional[Path]
    """Folder of a checkpoint (Hugging Face, Prismatic, ours, an adapter, a language model), or a .pt or .gguf file."""
    reading: tyro.conf.OmitArgPrefixes[Reading] = Reading()
    json: bool = False
    """Print JSON, and nothing else."""


@dataclass(frozen=True)
class Convert:
    """Write a checkpoint in another layout, tensor by tensor; without --dtype every number stays bit for bit, unless an adapter (FiLM's too) has to be merged."""

    checkpoint: Positional[Path]
    """Folder of a checkpoint, or a native .pt file; an adapter's folder: it is merged into its base model."""
    out: Path
    """Folder to write; it must not exist, or be empty."""
    to: Target = "ideomotor"
    """Layout: ours, Hugging Face's, or Prismatic's native file."""
    reading: tyro.conf.OmitArgPrefixes[Reading] = Reading()
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the weights; default: each as it is stored."""
    tokenizer: Path | None = None
    """tokenizer.json or tokenizer.model of Llama-2, its licence and notice beside it; default: those of the checkpoint."""


Command = Annotated[Info, subcommand("info")] | Annotated[Convert, subcommand("convert")]


def main(arguments: list[str]) -> None:
    """Parse the command line, and look or write."""
    command: Info | Convert = tyro.cli(Command, prog="ideomotor weights", args=arguments, description=__doc__)  # pyright: ignore[reportArgumentType, reportCallIssue] (tyro takes unions, its type does not say so)
    final = command.checkpoint / "final"
    if final.is_dir():  # a training run: the policy it ended with
        command = replace(command, checkpoint=final)
    match command:
        case Info():
            info(command)
        case Convert():
            convert(command)
        case _:
            assert_never(command)


# ------------------------------------------------------------------------------------------------------------ info


def info(command: Info) -> None:
    """Print a description; raise if the tensors are not those of the configuration."""
    from ideomotor.core.errors import UserError

    described = describe(command.checkpoint, command.reading)
    print(json.dumps(described, indent=2, ensure_ascii=False) if command.json else text(described))
    if described.get("problem"):
        raise UserError(f"{command.checkpoint} does not fit its configuration; see above")


def describe(checkpoint: Path, reading: Reading) -> dict[str, Any]:
    """Return what there is to know, as JSON values; no tensor is read."""
    from ideomotor.model.config import NetworkConfig, Parallel
    from ideomotor.model.inventory import facts, parts
    from ideomotor.model.keys import report
    from ideomotor.model.openvla_weights import Adapter, Own, expected_entries, recognise, without_influence
    from ideomotor.model.weights import read_config

    if _is_language_model(checkpoint):
        return _language_model(checkpoint)
    layout = recognise(checkpoint)
    if isinstance(layout, Adapter):
        return _adapter(layout.folder)
    if isinstance(layout, Own) and isinstance(config := read_config(layout.folder), NetworkConfig):
        return _small(layout.folder, config)
    name = {"Own": "ideomotor", "HuggingFace": "hf", "Native": "native"}[type(layout).__name__]
    source = open_source(checkpoint, reading)
    entries = source.tensors.entries
    oft = isinstance(source.config.decoding, Parallel) and not isinstance(layout, Own)
    unused = without_influence(source.config, entries)
    return {
        "layout": name + (" with components of OpenVLA-OFT" if oft else ""),
        **facts(source.config, origin_of((layout.folder,)).config),
        "statistics": _statistics(layout.folder),
        **_tokenizer(layout.folder),
        "notes": list(source.notes),
        "parts": [vars(part) for part in parts(entries)],
        "without_influence": {"tensors": len(unused), "parameters": sum(entries[name].numbers for name in unused)},
        "problem": report(expected_entries(source.config), entries),
    }


def text(described: Mapping[str, Any]) -> str:
    """Return a description in lines."""
    lines: list[str] = []
    for name, value in described.items():
        label = f"{name.replace('_', ' '):<18}"
        match value:
            case list() if name == "parts":
                lines += ["", f"{'part':<34} {'tensors':>8} {'parameters':>14} {'MB':>10}  dtype"]
                lines += [
                    f"{p['name']:<34} {p['tensors']:>8} {p['parameters']:>14,} {p['size'] / 1e6:>10,.1f}  {p['dtypes']}"
                    for p in value
                ]
                lines.append("")
            case list():
                lines += [f"{label if i == 0 else '':<18} {item}" for i, item in enumerate(value)]
            case {"tensors": tensors, "parameters": parameters}:
                lines.append(f"{label} {tensors} tensors, {parameters:,} parameters")
            case _ if name == "problem":
                lines.append(f"{label} {'none' if not value else ''}" + (f"\n{value}" if value else ""))
            case _:
                lines.append(f"{label} {value}")
    return "\n".join(line.rstrip() for line in lines)


def _is_language_model(path: Path) -> bool:
    if path.is_dir() and (path / "config.json").is_file():
        from ideomotor.core.files import read_json

        return read_json(path / "config.json").get("model_type") == "llama"
    return path.suffix == ".gguf" and path.is_file()


def _language_model(path: Path) -> dict[str, Any]:
    from ideomotor.model.inventory import language_facts, parts
    from ideomotor.model.language_weights import open_language

    source = open_language(path)
    config = source.config()
    return {
        "layout": "language model",
        "language": language_facts(config),
        "rms_norm_eps": config.rms_eps,
        "parts": [vars(part) for part in parts(source.entries)],
    }


def _small(folder: Path, config: "NetworkConfig") -> dict[str, Any]:
    from ideomotor.model.inventory import language_facts, parts
    from ideomotor.model.keys import report
    from ideomotor.model.tensorfile import open_safetensors
    from ideomotor.model.vla import VLA
    from ideomotor.model.weights import outline

    entries = open_safetensors(folder).entries
    return {
        "layout": "ideomotor, a network of our own",
        "language": language_facts(config.language),
        "parts": [vars(part) for part in parts(entries)],
        "problem": report(outline(lambda: VLA(config)).state_dict(), entries),
    }


def _adapter(folder: Path) -> dict[str, Any]:
    from ideomotor.core.files import read_json
    from ideomotor.model.openvla_weights import ADAPTER

    fields = read_json(folder / ADAPTER)
    return {
        "layout": "adapter of peft; it needs its base model",
        "base": fields.get("base_model_name_or_path"),
        "rank": fields.get("r"),
        "alpha": fields.get("lora_alpha"),
        "targets": fields.get("target_modules"),
    }


def _statistics(folder: Path) -> list[str]:
    from ideomotor.data.norm_stats import IN_CONFIG, NormStatistics
    from ideomotor.pipeline.companions import stated

    found = stated(folder)[0].get(IN_CONFIG)
    if not found:
        return ["none; put the dataset_statistics.json of its training beside the weights"]
    statistics = NormStatistics.from_json(found, str(folder))
    return [
        f"{key}: actions of {statistics.column(key, 'action').width} numbers" for key in sorted(statistics.datasets)
    ]


def _tokenizer(folder: Path) -> dict[str, str]:
    from ideomotor.pipeline.foreign import TOKENIZERS, read_notices
    from ideomotor.pipeline.openvla import TEXT

    files = [name for name in (*TOKENIZERS, TEXT) if (folder / name).is_file()]
    return {
        "tokenizer": ", ".join(files) or "none; give one with `ideomotor weights convert --tokenizer FILE`",
        "licences": ", ".join(read_notices(folder)) or "none",
    }


# ------------------------------------------------------------------------------------------------------------ convert


def open_source(checkpoint: Path, reading: Reading) -> "Source":
    """Open a checkpoint, with the components of OFT where they are there or asked for; no tensor is read."""
    from ideomotor.model.oft_weights import OftFacts, has_components, open_oft
    from ideomotor.model.openvla_weights import open_openvla

    facts = OftFacts(reading.horizon, reading.cameras, reading.action_width)
    if reading.components is not None or facts != OftFacts() or has_components(checkpoint):
        return open_oft(checkpoint, reading.components, facts, reading.rms_eps, reading.normalization)
    return open_openvla(checkpoint, reading.rms_eps, reading.normalization)


def convert(command: Convert) -> None:
    """Open, compare names and shapes, stream, carry along what belongs to it."""
    import torch
    from tqdm import tqdm

    from ideomotor.core.errors import UserError
    from ideomotor.core.files import atomic_folder
    from ideomotor.model.keys import check_keys
    from ideomotor.model.lora import base_of
    from ideomotor.model.merging import open_merged
    from ideomotor.model.openvla_weights import Adapter, expected_entries, recognise
    from ideomotor.model.tensors import Cast, Watched
    from ideomotor.pipeline.companions import companions

    if command.out.exists() and (not command.out.is_dir() or any(command.out.iterdir())):
        raise UserError(f"{command.out} is there already; choose another --out")
    dtype = getattr(torch, command.dtype) if command.dtype else None
    layout = recognise(command.checkpoint)
    folders = (layout.folder,)
    if isinstance(layout, Adapter):
        base = base_of(layout.folder).path
        folders = (recognise(base).folder, layout.folder)
        files = companions(folders, command.to, command.tokenizer)
        source = open_merged(open_source(base, command.reading), layout.folder, dtype)
    else:
        source = open_source(command.checkpoint, command.reading)
        check_keys(expected_entries(source.config), source.tensors.entries, source.where)
        files = companions(folders, command.to, command.tokenizer)
    total = sum(entry.size for entry in source.tensors.entries.values())
    with (
        tqdm(total=total, desc=f"to {command.to}", unit="B", unit_scale=True, leave=False) as bar,
        atomic_folder(command.out) as out,
    ):
        tensors = Watched(source.tensors, bar.update)
        write(source.config, Cast(tensors, dtype), out, command.to, origin_of(folders))
        for name, content in files.items():
            (out / name).write_bytes(content)
    for note in source.notes:
        print(note)
    print(
        f"{command.out}: {len(source.tensors.entries)} tensors, {command.to}; with {', '.join(files) or 'nothing else'}"
    )


def write(config: Any, tensors: Any, out: Path, to: Target, origin: "Origin") -> None:
    """Write a network in a layout; heads of OFT become component files in Hugging Face's."""
    from ideomotor.core.files import write_json
    from ideomotor.model.config import Parallel
    from ideomotor.model.oft_weights import write_oft
    from ideomotor.model.openvla_weights import PREPROCESSOR, to_preprocessor_json, write_openvla
    from ideomotor.pipeline.foreign import ORIGIN

    if to == "hf" and isinstance(config.decoding, Parallel):
        write_oft(config, tensors, out, origin)
    else:
        write_openvla(config, tensors, out, to, origin)
    if to == "ideomotor":
        write_json(out / ORIGIN, vars(origin))
        write_json(out / PREPROCESSOR, to_preprocessor_json(config, origin.preprocessor))


def origin_of(folders: tuple[Path, ...]) -> "Origin":
    """Return what the folders of a checkpoint say beside its weights; the later one wins."""
    from ideomotor.model.openvla_weights import Origin
    from ideomotor.pipeline.companions import stated

    parts = [stated(folder) for folder in folders]
    config, preprocessor = ({name: value for part in parts for name, value in part[i].items()} for i in (0, 1))
    return Origin(config, preprocessor)
