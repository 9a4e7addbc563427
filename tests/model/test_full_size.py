"""OpenVLA's towers and language model at full size, without memory: names and shapes of the published checkpoint."""

from collections.abc import Callable

import torch
from torch import nn

from ideomotor.model.config import LanguageConfig, PatchStem, VisionConfig
from ideomotor.model.language import Llama
from ideomotor.model.openvla import OpenVLA, with_film
from ideomotor.model.openvla_weights import without_influence
from ideomotor.model.presets import openvla_7b, openvla_oft_7b
from ideomotor.model.vision import VisionTransformer

DINO = VisionConfig(
    PatchStem(14), 224, 1024, 24, 16, 4096, cls_tokens=1, register_tokens=4, layer_scale=1e-5, output_block=22
)
SIGLIP = VisionConfig(PatchStem(14), 224, 1152, 27, 16, 4304, output_block=25)
LLAMA = LanguageConfig(32064, 4096, 32, 32, 32, 11008, rms_eps=1e-6)


def shapes(build: Callable[[], nn.Module]):
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}


def count(table: dict[str, tuple[int, ...]]):
    return sum(torch.Size(shape).numel() for shape in table.values())


def vision_block(i: int, width: int, mlp: int):
    return {
        **{f"blocks.{i}.norm{n}.{p}": (width,) for n in (1, 2) for p in ("weight", "bias")},
        f"blocks.{i}.attn.qkv.weight": (3 * width, width),
        f"blocks.{i}.attn.qkv.bias": (3 * width,),
        f"blocks.{i}.attn.proj.weight": (width, width),
        f"blocks.{i}.attn.proj.bias": (width,),
        f"blocks.{i}.mlp.fc1.weight": (mlp, width),
        f"blocks.{i}.mlp.fc1.bias": (mlp,),
        f"blocks.{i}.mlp.fc2.weight": (width, mlp),
        f"blocks.{i}.mlp.fc2.bias": (width,),
    }


def test_dinov2_has_the_names_and_shapes_of_the_checkpoint():
    expected = {
        "cls_token": (1, 1, 1024),
        "reg_token": (1, 4, 1024),
        "pos_embed": (1, 256, 1024),
        "patch_embed.proj.weight": (1024, 3, 14, 14),
        "patch_embed.proj.bias": (1024,),
        "norm.weight": (1024,),
        "norm.bias": (1024,),
    }
    for i in range(24):
        expected |= vision_block(i, 1024, 4096)
        expected |= {f"blocks.{i}.ls{n}.scale_factor": (1024,) for n in (1, 2)}
    found = shapes(lambda: VisionTransformer(DINO))
    assert found == expected
    assert len(found) == 343
    assert count(found) == 303_230_976


def test_siglip_has_the_names_and_shapes_of_the_checkpoint_but_for_its_unused_pool():
    expected = {
        "pos_embed": (1, 256, 1152),
        "patch_embed.proj.weight": (1152, 3, 14, 14),
        "patch_embed.proj.bias": (1152,),
        "norm.weight": (1152,),
        "norm.bias": (1152,),
    }
    for i in range(27):
        expected |= vision_block(i, 1152, 4304)
    found = shapes(lambda: VisionTransformer(SIGLIP))
    assert found == expected
    pool = 1152 + (1152 + 2304 + 1152) * 1152 + (1152 + 2304 + 1152) + 2 * 1152 + 2 * 4304 * 1152 + 4304 + 1152
    assert len(found) == 342 - 13
    assert count(found) == 427_680_704 - pool


def test_llama_has_the_names_and_shapes_of_the_checkpoint():
    expected = {
        "model.embed_tokens.weight": (32064, 4096),
        "model.norm.weight": (4096,),
        "lm_head.weight": (32064, 4096),
    }
    for i in range(32):
        layer = f"model.layers.{i}"
        expected |= {f"{layer}.self_attn.{x}_proj.weight": (4096, 4096) for x in "qkvo"}
        expected |= {f"{layer}.mlp.{x}_proj.weight": (11008, 4096) for x in ("gate", "up")}
        expected |= {f"{layer}.mlp.down_proj.weight": (4096, 11008)}
        expected |= {f"{layer}.{x}_layernorm.weight": (4096,) for x in ("input", "post_attention")}
    found = shapes(lambda: Llama(LLAMA))
    assert found == expected
    assert len(found) == 291
    assert count(found) == 6_738_939_904


def test_grouped_queries_share_keys_and_a_tied_head_has_no_weights():
    found = shapes(lambda: Llama(LanguageConfig(100, 64, 1, 8, 2, 128, tied=True)))
    assert found["model.layers.0.self_attn.q_proj.weight"] == (64, 64)
    assert found["model.layers.0.self_attn.k_proj.weight"] == (16, 64)
    assert found["model.layers.0.self_attn.v_proj.weight"] == (16, 64)
    assert "lm_head.weight" not in found


POOL = {
    "latent": (1, 1, 1152),
    "q.weight": (1152, 1152),
    "q.bias": (1152,),
    "kv.weight": (2304, 1152),
    "kv.bias": (2304,),
    "proj.weight": (1152, 1152),
    "proj.bias": (1152,),
    "norm.weight": (1152,),
    "norm.bias": (1152,),
    "mlp.fc1.weight": (4304, 1152),
    "mlp.fc1.bias": (4304,),
    "mlp.fc2.weight": (1152, 4304),
    "mlp.fc2.bias": (1152,),
}
PROJECTOR = {"fc1": (8704, 2176), "fc2": (4096, 8704), "fc3": (4096, 4096)}


def test_openvla_7b_has_982_tensors_with_7_541_237_184_parameters():
    found = shapes(lambda: OpenVLA(openvla_7b()))
    assert len(found) == 982
    assert count(found) == 7_541_237_184
    siglip = shapes(lambda: VisionTransformer(SIGLIP)) | {f"attn_pool.{name}": shape for name, shape in POOL.items()}
    dino = shapes(lambda: VisionTransformer(DINO))
    assert found == {
        **{f"vision_backbone.featurizer.{name}": shape for name, shape in dino.items()},
        **{f"vision_backbone.fused_featurizer.{name}": shape for name, shape in siglip.items()},
        **{f"projector.{name}.weight": shape for name, shape in PROJECTOR.items()},
        **{f"projector.{name}.bias": shape[:1] for name, shape in PROJECTOR.items()},
        **{f"language_model.{name}": shape for name, shape in shapes(lambda: Llama(LLAMA)).items()},
    }


def test_what_has_no_influence_in_openvla_7b_counts_what_the_reference_s_last_blocks_count():
    """DINOv2's block 23 and norm, SigLIP's block 26, norm and pool (arXiv 2406.09246)."""
    found = shapes(lambda: OpenVLA(openvla_7b()))
    unused = without_influence(openvla_7b(), found)
    towers = [[name for name in unused if ("fused" in name) == fused] for fused in (False, True)]
    assert [count({name: found[name] for name in names}) for names in towers] == [12_600_320, 30_480_160]


def test_the_parts_of_openvla_oft_have_the_published_sizes():
    """Models.md 2.2: L1 head for 7 numbers, projector of an 8-D state, FiLM in every block of both towers."""
    base = count(shapes(lambda: OpenVLA(openvla_7b())))
    found = shapes(lambda: OpenVLA(openvla_oft_7b()))
    heads = {name: shape for name, shape in found.items() if name.startswith("action_head.")}
    assert count(heads) == 151_117_831
    assert count(found) - base - count(heads) == 16_818_176
    film = shapes(lambda: OpenVLA(with_film(openvla_oft_7b())))
    assert count(film) - count(found) == 456_241_920
