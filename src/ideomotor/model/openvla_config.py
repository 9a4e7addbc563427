"""OpenVLA's `config.json` and what stands beside it, to and from our configuration (arXiv 2406.09246).

Two numbers that the published files leave open are explicit here: the eps of the language model's norms (`text_config` names none, and
the library's default, 1e-6, is not what pretraining ran, 1e-5), and the set of means and deviations that scale pixels.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from ideomotor.core.errors import UserError
from ideomotor.core.files import read_json
from ideomotor.model.config import LanguageConfig, OpenVLAConfig, PatchStem, Tower, VisionConfig, Vocabulary
from ideomotor.model.presets import (
    HALF,
    HF_RMS_EPS,
    IMAGENET,
    Colours,
    dinov2_large,
    llama2_7b,
    siglip_so400m,
)
from ideomotor.model.weights import CONFIG

Normalization = Literal["hf", "train"]  # means and deviations rounded to bfloat16 by the conversion, or as trained
PREPROCESSOR, TOWERS = "preprocessor_config.json", "vision_towers.json"
KNOWN = {"vit_large_patch14_reg4_dinov2.lvd142m": dinov2_large(), "vit_so400m_patch14_siglip_224": siglip_so400m()}
FIXED = {  # what our decoder does, for fields of text_config that would ask for something else
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "quantization_config": None,
}


def read_openvla_config(
    folder: Path, rms_eps: float | None, normalization: Normalization | None, default_eps: float = HF_RMS_EPS
) -> OpenVLAConfig:
    """Return the configuration of a folder with OpenVLA's config.json; what is given wins over what is written.

    Raises:
        UserError: something is missing, or asks for what the network does not compute.
    """
    path = folder / CONFIG
    fields = read_json(path)
    if fields.get("model_type") != "openvla":
        raise UserError(f"{path}: model_type is {fields.get('model_type')!r}; an OpenVLA has 'openvla'")
    language = _language(fields, path, rms_eps, default_eps)
    padding = _number(fields, "pad_to_multiple_of", path, 64)
    vocabulary = Vocabulary(
        pad=_number(fields, "pad_token_id", path, 32000),
        actions_end=language.vocabulary - padding,
        bins=_number(fields, "n_action_bins", path, 256),
    )
    return OpenVLAConfig(_towers(fields, folder, normalization or "hf"), language, vocabulary=vocabulary)


def _number(values: Mapping[str, Any], name: str, path: Path, default: int) -> int:
    value = values.get(name, default)
    if type(value) is not int or value <= 0:
        raise UserError(f"{path}: {name} is {value!r}; it is a whole number above 0")
    return value


def _real(values: Mapping[str, Any], name: str, path: Path, default: float) -> float:
    value = values.get(name, default)
    if not isinstance(value, int | float) or not value > 0:
        raise UserError(f"{path}: {name} is {value!r}; it is a number above 0")
    return float(value)


def _language(fields: Mapping[str, Any], path: Path, rms_eps: float | None, default_eps: float) -> LanguageConfig:
    text: Any = fields.get("text_config")
    if not isinstance(text, dict) or text.get("model_type", "llama") != "llama":
        raise UserError(f"{path}: text_config is no Llama; this network reads Llama decoders")
    if wrong := {name: text[name] for name, value in FIXED.items() if text.get(name, value) not in (value, None)}:
        raise UserError(f"{path}: text_config asks for {wrong}, which this decoder does not compute")
    published = llama2_7b()
    heads = _number(text, "num_attention_heads", path, published.heads)
    width = _number(text, "hidden_size", path, published.width)
    if width % heads:
        raise UserError(f"{path}: hidden_size {width} cannot be shared by {heads} heads")
    rope: Any = text.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise UserError(f"{path}: rope_type is {rope['rope_type']!r}; this decoder computes the default one")
    return LanguageConfig(
        vocabulary=_number(text, "vocab_size", path, published.vocabulary),
        width=width,
        depth=_number(text, "num_hidden_layers", path, published.depth),
        heads=heads,
        kv_heads=_number({k: v for k, v in text.items() if v is not None}, "num_key_value_heads", path, heads),
        mlp=_number(text, "intermediate_size", path, published.mlp),
        rope_theta=_real(text, "rope_theta", path, rope.get("rope_theta", published.rope_theta)),
        rms_eps=rms_eps if rms_eps is not None else _real(text, "rms_norm_eps", path, default_eps),
    )


# ------------------------------------------------------------------------------------------------------------ towers


def _towers(fields: Mapping[str, Any], folder: Path, normalization: Normalization) -> tuple[Tower, ...]:
    path = folder / CONFIG
    ids: Any = fields.get("timm_model_ids")
    sizes: Any = fields.get("image_sizes")
    if not isinstance(ids, list) or len(ids) not in (1, 2) or not isinstance(sizes, list) or len(sizes) != len(ids):
        raise UserError(f"{path}: timm_model_ids and image_sizes name one or two towers; they are {ids!r}, {sizes!r}")
    if fields.get("use_fused_vision_backbone", len(ids) == 2) != (len(ids) == 2):
        raise UserError(f"{path}: use_fused_vision_backbone contradicts timm_model_ids, {ids!r}")
    if any(act is not None for act in fields.get("timm_override_act_layers") or ()):
        raise UserError(f"{path}: timm_override_act_layers is set; these towers compute the exact GELU")
    described = _described(folder / TOWERS)
    towers: list[Tower] = []
    for i, (name, size) in enumerate(zip(ids, sizes, strict=True)):
        vision = described.get(name) or KNOWN.get(name)
        if vision is None:
            raise UserError(
                f"{path}: unknown vision tower {name!r}; known: {', '.join(KNOWN)}. Others can be described in {TOWERS} beside it"
            )
        towers.append(_scaled(replace(vision, image_size=size), folder / PREPROCESSOR, i, normalization))
    return tuple(towers)


def published_tower(vision: VisionConfig, normalization: Normalization) -> Tower:
    """Return a tower with the scale it was trained with, or with that rounded to bfloat16: DINOv2 has a cls token, SigLIP none."""
    mean, std = IMAGENET if vision.cls_tokens else HALF
    return Tower(vision, mean, std) if normalization == "train" else Tower(vision, rounded(mean), rounded(std))


def rounded(colours: Colours) -> Colours:
    """Return the numbers as bfloat16 holds them.

    >>> rounded((0.485, 0.456, 0.406))
    (0.484375, 0.455078125, 0.40625)
    """
    return cast("Colours", tuple(torch.tensor(colours).bfloat16().tolist()))


def _scaled(vision: VisionConfig, path: Path, i: int, normalization: Normalization) -> Tower:
    """Take the scale of pixels from preprocessor_config.json where it is there."""
    if not path.is_file():
        return published_tower(vision, normalization)
    fields = read_json(path)
    try:
        if normalization == "train":
            mean, std = fields["means"][i], fields["stds"][i]
        else:
            mean, std = fields["tvf_normalize_params"][i]["mean"], fields["tvf_normalize_params"][i]["std"]
        red, green, blue = (float(x) for x in mean)
        return Tower(vision, (red, green, blue), cast("Colours", tuple(float(x) for x in std)))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: no mean and std of three colours for tower {i} in {'means' if normalization == 'train' else 'tvf_normalize_params'}; copy it again"
        ) from error


def _described(path: Path) -> dict[str, VisionConfig]:
    """Read `vision_towers.json`: a list of towers, each with its timm id and its sizes."""
    if not path.is_file():
        return {}
    try:
        return {
            str(tower["timm_model_id"]): VisionConfig(
                stem=PatchStem(int(tower["patch_size"])),
                image_size=int(tower["image_size"]),
                width=int(tower["embed_dim"]),
                depth=int(tower["depth"]),
                heads=int(tower["num_heads"]),
                mlp=int(tower["mlp_hidden"]),
                cls_tokens=int(tower["class_token"]),
                register_tokens=int(tower["register_tokens"]),
                layer_scale=1e-5 if tower["layer_scale"] else None,
                output_block=int(tower["output_block_index"]),
                attention_pool=bool(tower["attn_pool_weights_present"]),
            )
            for tower in json.loads(path.read_text(encoding="utf-8"))
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not describe vision towers ({error!r}); see docs, or copy it again") from error


# ------------------------------------------------------------------------------------------------------------ writing


def to_config_json(config: OpenVLAConfig, dtype: torch.dtype, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json as OpenVLA's code reads it; nothing is left to a default. `origin` names what a network does not know."""
    fused, language = len(config.towers) > 1, config.language
    name = str(dtype).removeprefix("torch.")
    padding = language.vocabulary - config.vocabulary.actions_end
    fields: dict[str, Any] = {
        "model_type": "openvla",
        "architectures": ["OpenVLAForActionPrediction"],
        "arch_specifier": "no-align+fused-gelu-mlp" if fused else "no-align+gelu-mlp",
        "vision_backbone_id": "dinosiglip-vit-so-224px" if fused else "siglip-vit-so400m",
        "llm_backbone_id": "llama2-7b-pure",
        "hf_llm_id": "meta-llama/Llama-2-7b-hf",
        "llm_max_length": 2048,
        "image_resize_strategy": "resize-naive",
        "output_projector_states": False,
        **origin,
        "use_fused_vision_backbone": fused,
        "timm_model_ids": tower_ids(config, origin),
        "timm_override_act_layers": [None] * len(config.towers),
        "image_sizes": [tower.vision.image_size for tower in config.towers],
        "pad_token_id": config.vocabulary.pad,
        "pad_to_multiple_of": padding,
        "n_action_bins": config.vocabulary.bins,
        "torch_dtype": name,
        "text_config": {
            "model_type": "llama",
            "hidden_size": language.width,
            "intermediate_size": language.mlp,
            "num_attention_heads": language.heads,
            "num_hidden_layers": language.depth,
            "num_key_value_heads": language.kv_heads,
            "pad_token_id": config.vocabulary.pad,
            "rms_norm_eps": language.rms_eps,
            "rope_theta": language.rope_theta,
            "torch_dtype": name,
            "vocab_size": language.vocabulary,
        },
    }
    return dict(sorted(fields.items()))


def tower_ids(config: OpenVLAConfig, origin: Mapping[str, Any]) -> list[str]:
    """Return timm's names: those of the origin, else those of the published sizes, else names made of the sizes."""
    given: Any = origin.get("timm_model_ids")
    if isinstance(given, list) and len(given) == len(config.towers):
        return [str(name) for name in given]

    def name(vision: VisionConfig) -> str:
        for known, sizes in KNOWN.items():
            if replace(vision, image_size=sizes.image_size, film=None) == sizes:
                return known
        kind = "dinov2" if vision.cls_tokens else "siglip"
        return f"vit_{vision.width}x{vision.depth}_{kind}_{vision.image_size}"

    return [name(tower.vision) for tower in config.towers]


def to_preprocessor_json(config: OpenVLAConfig, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return preprocessor_config.json: the scale that the network uses stands where OpenVLA's code reads it."""
    sizes = [tower.vision.image_size for tower in config.towers]
    means = [_unrounded(tower.mean, IMAGENET[0]) for tower in config.towers]
    stds = [_unrounded(tower.std, IMAGENET[1]) for tower in config.towers]
    return {
        "image_processor_type": "PrismaticImageProcessor",
        "processor_class": "PrismaticProcessor",
        "image_resize_strategy": "resize-naive",
        "interpolations": ["bicubic"] * len(sizes),
        "tvf_resize_params": [
            {"antialias": True, "interpolation": 3, "max_size": None, "size": [size, size]} for size in sizes
        ],
        "tvf_crop_params": [{"output_size": [size, size]} for size in sizes],
        "tvf_do_letterbox": False,
        "tvf_letterbox_fill": None,
        **origin,
        "use_fused_vision_backbone": len(sizes) > 1,
        "input_sizes": [[3, size, size] for size in sizes],
        "means": means,
        "stds": stds,
        "tvf_normalize_params": [
            {"inplace": False, "mean": list(tower.mean), "std": list(tower.std)} for tower in config.towers
        ],
    }


def _unrounded(used: Colours, trained: Colours) -> list[float]:
    return list(trained if used == rounded(trained) else used)


def to_towers_json(config: OpenVLAConfig, origin: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the description of towers that are not the published ones; nothing where all are."""
    towers = [
        {
            "timm_model_id": name,
            "image_size": vision.image_size,
            "patch_size": cast("PatchStem", vision.stem).patch,
            "embed_dim": vision.width,
            "depth": vision.depth,
            "num_heads": vision.heads,
            "mlp_hidden": vision.mlp,
            "class_token": bool(vision.cls_tokens),
            "register_tokens": vision.register_tokens,
            "layer_scale": vision.layer_scale is not None,
            "attn_pool_weights_present": vision.attention_pool,
            "output_block_index": vision.output_block,
        }
        for name, vision in zip(tower_ids(config, origin), (t.vision for t in config.towers), strict=True)
    ]
    return [] if all(tower["timm_model_id"] in KNOWN for tower in towers) else towers
