"""OpenVLA checkpoints in every layout: bit for bit there and back, and each damage named with its remedy."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ideomotor.core.errors import UserError
from ideomotor.model.openvla import OpenVLA
from ideomotor.model.openvla_config import rounded
from ideomotor.model.openvla_weights import (
    Adapter,
    HuggingFace,
    Native,
    NativeNames,
    Origin,
    Own,
    load_openvla,
    open_openvla,
    recognise,
    save_openvla,
    without_influence,
    write_openvla,
)
from ideomotor.model.presets import IMAGENET, IMAGENET_BF16
from ideomotor.model.tensors import InMemory

SECONDS = 1.0  # what finding a damage may take


@pytest.fixture(scope="session")
def original(fixtures: Path) -> Path:
    """A small checkpoint with the structure, names and configuration of the published one."""
    return fixtures / "openvla-parity-a" / "checkpoint"


@pytest.fixture(scope="session")
def stored(original: Path) -> dict[str, Tensor]:
    return load_file(original / "model.safetensors")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to damage: configuration and weights."""
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for name in ("config.json", "preprocessor_config.json", "vision_towers.json", "model.safetensors"):
        shutil.copy(original / name, copy / name)
    return copy


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """The same names, dtypes and bits."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and torch.equal(left[name].contiguous().view(torch.int16), right[name].contiguous().view(torch.int16))
        for name in left
    )


def change_config(folder: Path, change: Callable[[dict[str, Any]], object], name: str = "config.json") -> None:
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


def flat(nested: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{part}|{name}": tensor for part, tensors in nested.items() for name, tensor in tensors.items()}


def native_by_hand(stored: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The native form, from a table of the published names and not from our map."""
    result: dict[str, dict[str, Tensor]] = {"vision_backbone": {}, "projector": {}, "llm_backbone": {}}
    layers = {"fc1": "0", "fc2": "2", "fc3": "4"}
    for name, tensor in stored.items():
        part, first, rest = re.match(r"(\w+)\.(\w+)\.(.*)", name).groups()
        match part:
            case "vision_backbone":
                tower = {"featurizer": "dino_featurizer", "fused_featurizer": "siglip_featurizer"}[first]
                result[part][f"{tower}.{rest.replace('scale_factor', 'gamma')}"] = tensor
            case "projector":
                result[part][f"projector.{layers[first]}.{rest}"] = tensor
            case _:
                result["llm_backbone"][f"llm.{first}.{rest}"] = tensor
    return result


# ------------------------------------------------------------------------------------------------ there and back


def test_hugging_face_to_ours_and_back_gives_every_tensor_bit_for_bit(
    original: Path, stored: dict[str, Tensor], tmp_path: Path
):
    network = load_openvla(original)
    assert same(network.state_dict(), stored)
    save_openvla(network, tmp_path / "hf", "hf")
    assert same(load_file(tmp_path / "hf" / "model.safetensors"), stored)
    again = load_openvla(tmp_path / "hf")
    assert again.config == network.config
    assert same(again.state_dict(), stored)


def test_through_a_folder_of_ours_too(original: Path, stored: dict[str, Tensor], tmp_path: Path):
    save_openvla(load_openvla(original), tmp_path / "ours", "ideomotor")
    network = load_openvla(tmp_path / "ours")
    assert network.config == load_openvla(original).config
    write_openvla(network.config, InMemory(network.state_dict()), tmp_path / "hf", "hf", largest=3_000_000)
    shards = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert len(shards) > 2
    assert same({name: tensor for path in shards for name, tensor in load_file(path).items()}, stored)
    assert same(load_openvla(tmp_path / "hf").state_dict(), stored)


def test_native_to_ours_and_back_gives_every_tensor_bit_for_bit(
    original: Path, stored: dict[str, Tensor], folder: Path, tmp_path: Path
):
    (folder / "model.safetensors").unlink()
    (folder / "checkpoints").mkdir()
    native = native_by_hand(stored)
    path = folder / "checkpoints" / "step-000010-epoch-01-loss=0.2200.pt"
    torch.save({"model": {**native, "downsampler": {}}, "optimizer": {"state": {0: torch.ones(3)}}}, path)
    for place in (folder, path):
        network = load_openvla(place)
        assert same(network.state_dict(), stored)
    save_openvla(network, tmp_path / "out", "native")
    written = torch.load(tmp_path / "out" / "checkpoints" / "latest-checkpoint.pt", weights_only=True)
    assert same(flat(written["model"]), flat(native))
    again = load_openvla(tmp_path / "out")
    assert again.config == network.config
    assert same(again.state_dict(), stored)


def test_names_with_two_towers_and_with_one_map_back_to_themselves(stored: dict[str, Tensor]):
    two, one = NativeNames(2), NativeNames(1)
    assert [two.ours(two.theirs(name)) for name in stored] == list(stored)
    single = [name for name in stored if "fused" not in name]
    assert [one.ours(one.theirs(name)) for name in single] == single
    assert two.theirs("vision_backbone.featurizer.pos_embed") == "vision_backbone.dino_featurizer.pos_embed"
    assert one.theirs("vision_backbone.featurizer.pos_embed") == "vision_backbone.featurizer.pos_embed"


def test_the_last_step_of_a_native_run_is_taken(folder: Path, stored: dict[str, Tensor]):
    (folder / "model.safetensors").unlink()
    (folder / "checkpoints").mkdir()
    native = native_by_hand(stored)
    for step in (900, 1000):  # as texts, the order is the other one
        native["projector"]["projector.4.bias"] = torch.full((64,), step).bfloat16()
        torch.save({"model": native}, folder / "checkpoints" / f"step-{step}-epoch-00.pt")
    source = open_openvla(folder)
    assert "step-1000-epoch-00.pt" in source.notes[0]
    assert load_openvla(folder).projector.fc3.bias[0] == 1000


@pytest.fixture
def single(folder: Path, stored: dict[str, Tensor]) -> Path:
    """The form of the first version: SigLIP alone, under `featurizer`, and a projector of two layers."""
    fused = "vision_backbone.fused_featurizer."
    tensors = {name.replace("fused_", ""): tensor for name, tensor in stored.items() if name.startswith(fused)}
    tensors |= {name: tensor for name, tensor in stored.items() if name.startswith("language_model.")}
    generator = torch.Generator().manual_seed(0)
    for name, shape in (("fc1", (64, 96)), ("fc2", (64, 64))):
        tensors[f"projector.{name}.weight"] = torch.randn(shape, generator=generator).bfloat16()
        tensors[f"projector.{name}.bias"] = torch.randn(shape[:1], generator=generator).bfloat16()
    save_file(tensors, folder / "model.safetensors")

    def change(config: dict[str, Any]) -> None:
        config |= {"timm_model_ids": config["timm_model_ids"][1:], "image_sizes": [56]}
        config |= {"timm_override_act_layers": [None], "use_fused_vision_backbone": False}

    change_config(folder, change)
    (folder / "preprocessor_config.json").unlink()
    return folder


def test_a_single_tower_loads_and_comes_back_in_both_layouts(single: Path, tmp_path: Path):
    stored = load_file(single / "model.safetensors")
    network = load_openvla(single)
    assert [tower.mean for tower in network.config.towers] == [(0.5, 0.5, 0.5)]
    assert network.patches(torch.zeros(1, 1, 3, 56, 56)).shape == (1, 16, 64)
    for target in ("hf", "native", "ideomotor"):
        save_openvla(network, tmp_path / target, target)
        assert same(load_openvla(tmp_path / target).state_dict(), stored)
        assert load_openvla(tmp_path / target).config == network.config
    native = torch.load(tmp_path / "native" / "checkpoints" / "latest-checkpoint.pt", weights_only=True)["model"]
    assert all(name.startswith("featurizer.") for name in native["vision_backbone"])
    assert sorted(native["projector"]) == [f"projector.{i}.{kind}" for i in (0, 2) for kind in ("bias", "weight")]


def test_a_published_configuration_comes_back_field_by_field(original: Path, tmp_path: Path):
    """`text_config` gains what was left to defaults; a missing eps is written as what it meant, 1e-6."""
    config = json.loads((original / "config.json").read_text())
    preprocessor = json.loads((original / "preprocessor_config.json").read_text())
    save_openvla(load_openvla(original), tmp_path, "hf", Origin(config, preprocessor))
    written = json.loads((tmp_path / "config.json").read_text())
    text = written.pop("text_config")
    assert text == {**config.pop("text_config"), "rms_norm_eps": 1e-6, "rope_theta": 10000.0}
    assert written == config
    assert json.loads((tmp_path / "preprocessor_config.json").read_text()) == preprocessor


def test_without_an_origin_the_published_values_stand_in_the_configuration(original: Path, tmp_path: Path):
    save_openvla(load_openvla(original), tmp_path, "hf", Origin({"norm_stats": {"mine": {}}}))
    written, config = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, original))
    same_fields = (
        "model_type",
        "architectures",
        "vision_backbone_id",
        "llm_backbone_id",
        "arch_specifier",
        "hf_llm_id",
    )
    assert {name: written[name] for name in same_fields} == {name: config[name] for name in same_fields}
    assert written["norm_stats"] == {"mine": {}}
    preprocessor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    expected = json.loads((original / "preprocessor_config.json").read_text())
    expected.pop("auto_map")  # it names Python files that do not belong to the weights
    assert preprocessor == expected


# ------------------------------------------------------------------------------------------------ what is explicit


def test_eps_is_stated_or_the_library_s_default_or_that_of_pretraining(
    original: Path, folder: Path, stored: dict[str, Tensor], tmp_path: Path
):
    def eps(path: Path, given: float | None = None) -> float:
        return open_openvla(path, given).config.language.rms_eps

    assert eps(folder) == 1e-6
    assert eps(folder, 3e-6) == 3e-6
    shutil.copy(original / "config_rms_norm_eps_1e-5.json", folder / "config.json")
    assert eps(folder) == 1e-5
    shutil.copy(original / "config.json", folder / "config.json")
    (folder / "model.safetensors").unlink()
    (folder / "checkpoints").mkdir()
    torch.save({"model": native_by_hand(stored)}, folder / "checkpoints" / "latest-checkpoint.pt")
    assert eps(folder) == 1e-5
    save_openvla(load_openvla(original, rms_eps=2e-6), tmp_path / "ours", "ideomotor")
    assert eps(tmp_path / "ours") == 2e-6
    assert eps(tmp_path / "ours", 1e-5) == 1e-5
    for impossible in (0.0, -1e-5, float("nan"), float("inf")):
        with pytest.raises(UserError, match="--rms-eps is"):
            eps(tmp_path / "ours", impossible)


def test_the_scale_of_pixels_is_the_rounded_one_unless_asked_for_or_native(folder: Path, tmp_path: Path):
    def scale(path: Path, normalization: Any = None) -> tuple[Any, Any]:
        tower = open_openvla(path, normalization=normalization).config.towers[0]
        return tower.mean, tower.std

    assert IMAGENET_BF16 == (rounded(IMAGENET[0]), rounded(IMAGENET[1]))
    for _ in range(2):  # with the file, and without it
        assert scale(folder) == scale(folder, "hf") == IMAGENET_BF16
        assert scale(folder, "train") == IMAGENET
        (folder / "preprocessor_config.json").unlink(missing_ok=True)
    save_openvla(load_openvla(folder, normalization="train"), tmp_path / "ours", "ideomotor")
    assert scale(tmp_path / "ours") == IMAGENET
    assert scale(tmp_path / "ours", "hf") == IMAGENET_BF16


def test_a_native_run_is_scaled_as_trained_unless_its_files_say_otherwise(folder: Path, stored: dict[str, Tensor]):
    (folder / "model.safetensors").unlink()
    (folder / "checkpoints").mkdir()
    torch.save({"model": native_by_hand(stored)}, folder / "checkpoints" / "latest-checkpoint.pt")
    assert open_openvla(folder).config.towers[0].mean == IMAGENET_BF16[0]
    (folder / "preprocessor_config.json").unlink()
    assert open_openvla(folder).config.towers[0].mean == IMAGENET[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_cast_as_torch_casts_them(original: Path, stored: dict[str, Tensor], dtype: torch.dtype):
    network = load_openvla(original, dtype=dtype)
    assert all(torch.equal(tensor, stored[name].to(dtype)) for name, tensor in network.state_dict().items())
    assert not any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])


def test_a_sparse_text_config_means_llama_2_7b(folder: Path):
    """What openvla-7b's file says, and nothing more (arXiv 2406.09246)."""
    sparse = {"model_type": "llama", "vocab_size": 32064, "pad_token_id": 32000, "torch_dtype": "bfloat16"}
    change_config(folder, lambda config: config.update(text_config=sparse))
    language = open_openvla(folder).config.language
    assert (language.width, language.depth, language.heads, language.kv_heads, language.mlp) == (
        4096,
        32,
        32,
        32,
        11008,
    )
    assert (language.vocabulary, language.rope_theta, language.rms_eps, language.tied) == (32064, 10000.0, 1e-6, False)


def test_what_has_no_influence_is_what_got_no_gradient(original: Path, stored: dict[str, Tensor]):
    expected = json.loads((original.parent / "expected.json").read_text())["batch"]["parameters_without_gradient"]
    assert sorted(without_influence(open_openvla(original).config, stored)) == sorted(expected)


def test_tensors_without_influence_are_loaded_and_change_nothing(original: Path):
    network = load_openvla(original, dtype=torch.float32)
    pixels = torch.randn(1, 1, 6, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = network.patches(pixels)
        state = network.state_dict()
        for name in without_influence(network.config, state):
            state[name].fill_(torch.nan)
        assert torch.equal(network.patches(pixels), before)


def test_opening_loads_no_compiler_and_no_tensor(original: Path):
    """PyTorch's compiler costs a second and 75 MB, and is not needed to know shapes."""
    code = """
import sys
from pathlib import Path
from ideomotor.model.openvla_weights import load_openvla
load_openvla(Path(sys.argv[1]))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, original], check=True)


# ------------------------------------------------------------------------------------------------ damages


def save(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def rename(tensors: dict[str, Tensor]) -> None:
    tensors["projector.fc3.offset"] = tensors.pop("projector.fc3.bias")


def drop_layer(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if ".layers.2." in name]:
        del tensors[name]


def prefix(text: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[text + name] = tensors.pop(name)

    return change


def drop_tower(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if "fused" in name]:
        del tensors[name]


def overwrite(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)


PROJECTOR = "projector.fc3.weight"
WEIGHTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "renamed": (
        lambda f: save(f, rename),
        r"1 missing: projector\.fc3\.bias\s+1 extra: projector\.fc3\.offset.*offset may be projector\.fc3\.bias",
    ),
    "missing": (lambda f: save(f, lambda t: t.pop(PROJECTOR)), r"1 missing: projector\.fc3\.weight"),
    "mis-shaped": (
        lambda f: save(f, lambda t: t.update({PROJECTOR: torch.zeros(64, 63)})),
        r"1 of another shape: projector\.fc3\.weight \(64, 63\) for \(64, 64\)",
    ),
    "wrong dtype": (
        lambda f: save(f, lambda t: t.update({PROJECTOR: torch.zeros(64, 64, dtype=torch.int8)})),
        r"1 of another dtype: projector\.fc3\.weight int8.*quantized weights",
    ),
    "a layer": (
        lambda f: save(f, drop_layer),
        r"9 missing: .*layers\.2\.input.*Whole layers are missing \(.*layers\.2 to 2\)",
    ),
    "one tower": (lambda f: save(f, drop_tower), r"54 missing: .*The file has one vision tower, the configuration two"),
    "a wrapper": (lambda f: save(f, prefix("module.")), r"153 missing:.*153 extra:.*start with module\."),
    "an adapter": (lambda f: save(f, prefix("base_model.model.")), r"an adapter of peft: merge it"),
    "another network": (
        lambda f: overwrite(f, b"") or save_file({"w": torch.zeros(2)}, f / "model.safetensors"),
        r"153 missing:\s+30 under language_model: .*63 under vision_backbone\.featurizer: .*1 extra: w.*Not one name is the same",
    ),
    "truncated": (
        lambda f: overwrite(f, (f / "model.safetensors").read_bytes()[:-1000]),
        r"model\.safetensors is cut off: its header describes 10,270,344 bytes, the file has 10,269,344",
    ),
    "a pickle": (
        lambda f: torch.save({"a": torch.zeros(2)}, f / "model.safetensors"),
        r"model\.safetensors is no safetensors file: it is a pickle of PyTorch under another name",
    ),
    "a huge header": (
        lambda f: overwrite(f, (2**62).to_bytes(8, "little") + b"{}"),
        r"header of 4,611,686,018,427,387,904 bytes",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"neither model\.safetensors nor"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_damaged_weights_are_refused_within_a_second_with_the_remedy(folder: Path, name: str):
    damage, message = WEIGHTS[name]
    damage(folder)
    start = time.perf_counter()
    with pytest.raises(UserError, match=re.compile(message, re.DOTALL)) as error:
        load_openvla(folder)
    assert time.perf_counter() - start < SECONDS
    assert re.search("one checkpoint|copy it again|copy the checkpoint again|again|ask for", str(error.value))


CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "an unknown tower": (
        lambda c: c["timm_model_ids"].__setitem__(1, "vit_giant"),
        r"unknown vision tower 'vit_giant'; known: vit_large_patch14_reg4_dinov2\.lvd142m, vit_so400m_patch14_siglip_224",
    ),
    "another model": (lambda c: c.update(model_type="llava"), "is no checkpoint that is read here; known are"),
    "another language model": (lambda c: c["text_config"].update(model_type="mistral"), "text_config is no Llama"),
    "scaled rotation": (lambda c: c["text_config"].update(rope_scaling={"type": "linear"}), "rope_scaling"),
    "biases": (lambda c: c["text_config"].update(attention_bias=True), "asks for {'attention_bias': True}"),
    "another activation": (lambda c: c["text_config"].update(hidden_act="gelu"), "asks for {'hidden_act': 'gelu'}"),
    "another activation of a tower": (
        lambda c: c.update(timm_override_act_layers=["quick_gelu", None]),
        "timm_override_act_layers is set",
    ),
    "a width of no heads": (lambda c: c["text_config"].update(num_attention_heads=5), "64 cannot be shared by 5 heads"),
    "a depth of text": (lambda c: c["text_config"].update(num_hidden_layers="3"), "num_hidden_layers is '3'"),
    "an eps of zero": (lambda c: c["text_config"].update(rms_norm_eps=0), "rms_norm_eps is 0"),
    "three towers": (lambda c: c["timm_model_ids"].append("x"), "name one or two towers"),
    "a contradiction": (lambda c: c.update(use_fused_vision_backbone=False), "contradicts timm_model_ids"),
    "the depth": (lambda c: c["text_config"].update(num_hidden_layers=2), r"layers too many \(.*layers\.2 to 2\)"),
    "the vocabulary": (lambda c: c["text_config"].update(vocab_size=32000), "Only the vocabulary is of another size"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_that_asks_for_another_network_is_refused(folder: Path, name: str):
    change, message = CONFIGS[name]
    change_config(folder, change)
    start = time.perf_counter()
    with pytest.raises(UserError, match=message):
        load_openvla(folder)
    assert time.perf_counter() - start < SECONDS


def test_towers_and_scales_that_cannot_be_read_are_refused(folder: Path):
    (folder / "vision_towers.json").write_text('[{"timm_model_id": "x"}]')
    with pytest.raises(UserError, match="does not describe vision towers"):
        load_openvla(folder)


def test_a_preprocessor_without_scales_is_refused(folder: Path):
    change_config(folder, lambda p: p.pop("tvf_normalize_params"), "preprocessor_config.json")
    with pytest.raises(UserError, match="no mean and std of three colours for tower 0 in tvf_normalize_params"):
        load_openvla(folder)


# ------------------------------------------------------------------------------------------------ recognising


def test_layouts_are_recognised(original: Path, stored: dict[str, Tensor], tmp_path: Path):
    assert recognise(original) == HuggingFace(original)
    save_openvla(load_openvla(original), tmp_path / "ours", "ideomotor")
    assert recognise(tmp_path / "ours") == Own(tmp_path / "ours")
    save_openvla(load_openvla(original), tmp_path / "native", "native")
    file = tmp_path / "native" / "checkpoints" / "latest-checkpoint.pt"
    assert recognise(tmp_path / "native") == recognise(file) == Native(file, tmp_path / "native")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert recognise(adapter) == Adapter(adapter)
    with pytest.raises(UserError, match="an adapter of peft, no whole network"):
        open_openvla(adapter)
    for path, message in [
        (original / "model.safetensors", "give its folder"),
        (tmp_path / "nothing", "is not there"),
        (tmp_path, "is no checkpoint that is read here"),
    ]:
        with pytest.raises(UserError, match=message):
            recognise(path)


def test_a_network_that_decodes_in_parallel_does_not_fit_openvla_s_own_layouts(tmp_path: Path, original: Path):
    from dataclasses import replace

    from ideomotor.model.config import Parallel, TokenHead

    config = replace(open_openvla(original).config, decoding=Parallel(8, 7, TokenHead()))
    for target in ("hf", "native"):
        with pytest.raises(UserError, match="decodes in parallel"):
            save_openvla(OpenVLA(config), tmp_path, target)
