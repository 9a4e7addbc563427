"""OpenVLA-OFT checkpoints: components found, numbers told or asked for, adapters merged, and written again."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from ideomotor.core.errors import UserError
from ideomotor.model.config import DiffusionHead, L1Head, Parallel, TokenHead
from ideomotor.model.keys import report
from ideomotor.model.oft_weights import (
    OftFacts,
    film_ours,
    film_theirs,
    find_components,
    has_components,
    load_oft,
    open_oft,
    write_oft,
)
from ideomotor.model.openvla_weights import expected_entries, load_openvla, save_openvla
from ideomotor.model.tensors import InMemory

BACKBONE = "vision_backbone--1000_checkpoint.pt"


@pytest.fixture(scope="session")
def original(fixtures: Path) -> Path:
    return fixtures / "openvla-parity-a" / "checkpoint"


@pytest.fixture(scope="session")
def oft(fixtures: Path) -> Path:
    return fixtures / "openvla-parity-a" / "oft"


@pytest.fixture
def components(oft: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a case's component files, to change."""

    def copy(case: str) -> Path:
        return shutil.copytree(oft / case, tmp_path / case)

    return copy


def read(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)


def change(path: Path, how: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = read(path)
    how(tensors)
    torch.save(tensors, path)


# ------------------------------------------------------------------------------------------------ what the files tell


def test_head_and_widths_come_from_the_files_and_the_rest_from_the_platform(original: Path, oft: Path):
    expected = {"l1": L1Head(2), "film": L1Head(2), "diffusion": DiffusionHead(2)}
    for case, head in expected.items():
        source = open_oft(original, oft / case)
        assert source.config.decoding == Parallel(8, 7, head, 8)
        assert source.config.cameras == 2
        assert (source.config.towers[0].vision.film is not None) == (case == "film")
        assert "components of step 1000" in source.notes[0]
        assert source.notes[1] == "assumed: horizon 8, cameras 2, as published for LIBERO; nothing in the files says so"
        assert not report(expected_entries(source.config), source.tensors.entries)


def test_what_is_stated_is_not_assumed(original: Path, oft: Path):
    source = open_oft(original, oft / "l1", OftFacts(horizon=5, cameras=3))
    assert (source.config.decoding, source.config.cameras) == (Parallel(5, 7, L1Head(2), 8), 3)
    assert not [note for note in source.notes if "assumed" in note]


def test_without_a_state_the_platform_is_not_known_and_asked_for(original: Path, components: Callable[[str], Path]):
    folder = components("l1")
    (folder / "proprio_projector--1000_checkpoint.pt").unlink()
    with pytest.raises(UserError, match=r"tells horizon, cameras .*state width none.*give --horizon and --cameras"):
        open_oft(original, folder)
    source = open_oft(original, folder, OftFacts(8, 1))
    assert source.config.decoding == Parallel(8, 7, L1Head(2), None)


def test_the_discrete_form_has_no_components_and_needs_all_three_numbers(original: Path, tmp_path: Path):
    with pytest.raises(UserError, match="give --horizon and --action-width"):
        open_oft(original, tmp_path, OftFacts(cameras=2))
    source = open_oft(original, tmp_path, OftFacts(8, 2, 7))
    assert source.config.decoding == Parallel(8, 7, TokenHead(), None)
    assert source.notes == ()


def test_bridge_leaves_the_number_of_images_open(original: Path, components: Callable[[str], Path]):
    folder = components("l1")
    change(
        folder / "proprio_projector--1000_checkpoint.pt", lambda t: t.update({"module.fc1.weight": torch.ones(64, 7)})
    )
    with pytest.raises(UserError, match="tells cameras .*state width 7.*give --cameras as it was trained"):
        open_oft(original, folder)
    assert open_oft(original, folder, OftFacts(cameras=1)).config.decoding == Parallel(5, 7, L1Head(2), 7)


def test_two_arms_are_aloha(original: Path, components: Callable[[str], Path]):
    folder = components("l1")
    head, proprio = (folder / f"{name}--1000_checkpoint.pt" for name in ("action_head", "proprio_projector"))
    change(head, lambda t: t.update({"module.model.fc2.weight": torch.zeros(14, 64)}))
    change(proprio, lambda t: t.update({"module.fc1.weight": torch.zeros(64, 14)}))
    config = open_oft(original, folder).config
    assert (config.decoding, config.cameras) == (Parallel(25, 14, L1Head(2), 14), 3)


def test_a_contradicting_width_is_refused(original: Path, oft: Path):
    with pytest.raises(UserError, match="the action head gives 7 numbers; --action-width says 6"):
        open_oft(original, oft / "l1", OftFacts(action_width=6))


def test_the_last_step_is_taken_whole(original: Path, components: Callable[[str], Path]):
    folder = components("l1")
    assert has_components(folder)
    assert not has_components(original)
    for name in ("action_head", "proprio_projector"):
        shutil.copy(folder / f"{name}--1000_checkpoint.pt", folder / f"{name}--900_checkpoint.pt")
    step, files = find_components(folder)
    assert (step, sorted(files)) == ("1000", ["action_head", "proprio_projector"])
    shutil.copy(folder / "action_head--1000_checkpoint.pt", folder / "action_head--20000_checkpoint.pt")
    with pytest.raises(UserError, match="has no proprio_projector of step 20000, but of an earlier one"):
        find_components(folder)
    for name in ("action_head", "proprio_projector"):
        shutil.copy(folder / f"{name}--1000_checkpoint.pt", folder / f"{name}--latest_checkpoint.pt")
    assert find_components(folder)[0] == "latest"


def test_components_beside_the_checkpoint_are_found(original: Path, oft: Path, tmp_path: Path):
    shutil.copytree(original, tmp_path / "both")
    for path in (oft / "l1").iterdir():
        shutil.copy(path, tmp_path / "both")
    assert open_oft(tmp_path / "both").config == open_oft(original, oft / "l1").config


def test_names_without_the_wrapper_s_prefix_are_the_same(original: Path, components: Callable[[str], Path]):
    expected = load_oft(original, components("l1")).state_dict()
    folder = components("diffusion").parent / "plain"
    folder.mkdir()
    for path in (components("film").parent / "l1").iterdir():
        torch.save({name.removeprefix("module."): t for name, t in read(path).items()}, folder / path.name)
    found = load_oft(original, folder).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# ------------------------------------------------------------------------------------------------ FiLM and adapters


def test_merged_adapters_act_as_the_layer_and_the_adapter_beside_it(original: Path, oft: Path):
    """base(x) + 0.5 B(A(x)), computed by torch from the file's own tensors; the patch convolution has an adapter too."""
    network = load_oft(original, oft / "film", dtype=torch.float32)
    stored = {name: tensor.float() for name, tensor in read(oft / "film" / BACKBONE).items()}
    generator = torch.Generator().manual_seed(0)

    def parts(layer: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        names = ("base_layer.weight", "base_layer.bias", "lora_A.default.weight", "lora_B.default.weight")
        weight, bias, down, up = (stored[f"vision_backbone.{layer}.{name}"] for name in names)
        return weight, bias, down, up

    weight, bias, down, up = parts("fused_featurizer.blocks.1.block.attn.qkv")
    x = torch.randn(5, 96, generator=generator)
    beside = functional.linear(x, weight, bias) + 0.5 * functional.linear(functional.linear(x, down), up)
    qkv = network.get_submodule("vision_backbone.fused_featurizer.blocks.1.attn.qkv")
    torch.testing.assert_close(qkv(x), beside, rtol=0, atol=1e-5)
    weight, bias, down, up = parts("featurizer.patch_embed.proj")
    image = torch.randn(1, 3, 28, 28, generator=generator)
    adapter = functional.conv2d(functional.conv2d(image, down, stride=14), up)
    beside = functional.conv2d(image, weight, bias, stride=14) + 0.5 * adapter
    proj = network.get_submodule("vision_backbone.featurizer.patch_embed.proj")
    torch.testing.assert_close(proj(image), beside, rtol=0, atol=1e-5)


def test_features_with_film_are_the_reference_s(original: Path, oft: Path):
    """Adapters, FiLM and towers together (fixture: patch features of two images, tolerance 2e-5 of its README)."""
    expected = np.load(oft / "expected_film.npz")
    pixels = np.load(oft / "expected_discrete.npz")["0.pixel_values"]
    network = load_oft(original, oft / "film", dtype=torch.float32)
    images = torch.from_numpy(pixels).reshape(2, 6, 56, 56)
    condition = torch.from_numpy(expected["0.mean_language_embedding"]).expand(2, -1)
    with torch.no_grad():
        features = network.vision_backbone(images, condition).flatten(0, 1)
    np.testing.assert_allclose(features.numpy(), expected["0.patch_features"], rtol=0, atol=2e-5)


def test_merging_is_said_with_count_and_scale(original: Path, oft: Path):
    adapters = sum(".lora_A." in name for name in read(oft / "film" / BACKBONE))
    assert open_oft(original, oft / "film").notes[2] == (
        f"FiLM in the vision towers; {adapters} adapters merged in float32, scale 0.5"
    )


def test_a_merged_weight_is_rounded_once_at_the_end(original: Path, oft: Path):
    exact = load_oft(original, oft / "film", dtype=torch.float32).state_dict()
    stored = load_oft(original, oft / "film").state_dict()
    assert all(torch.equal(stored[name], tensor.bfloat16()) for name, tensor in exact.items())


def test_an_adapter_of_small_rank_counts_fully(original: Path, components: Callable[[str], Path]):
    """alpha = min(r, 16): up to rank 16 the scale is 1."""
    folder = components("film")
    layer = "vision_backbone.featurizer.blocks.0.block.mlp.fc1"

    def shrink(tensors: dict[str, Tensor]) -> None:
        tensors[f"{layer}.lora_A.default.weight"] = tensors[f"{layer}.lora_A.default.weight"][:8].clone()
        tensors[f"{layer}.lora_B.default.weight"] = tensors[f"{layer}.lora_B.default.weight"][:, :8].clone()

    change(folder / BACKBONE, shrink)
    assert "scale 0.5, 1" in open_oft(original, folder).notes[2]
    tensors = {name: tensor.float() for name, tensor in read(folder / BACKBONE).items()}
    down, up = (tensors[f"{layer}.lora_{x}.default.weight"] for x in "AB")
    network = load_oft(original, folder, dtype=torch.float32)
    merged = network.get_parameter("vision_backbone.featurizer.blocks.0.mlp.fc1.weight")
    torch.testing.assert_close(merged.data, tensors[f"{layer}.base_layer.weight"] + up @ down)


def test_names_with_film_map_back_to_themselves(oft: Path):
    names = [n for n in read(oft / "film" / BACKBONE) if "lora" not in n and "base_layer" not in n]
    assert [film_theirs(film_ours(name)) for name in names] == names


FILM = "vision_backbone.featurizer.blocks.0.block.attn.qkv"
DAMAGES: dict[str, tuple[str, Callable[[dict[str, Tensor]], object], str]] = {
    "half an adapter": (BACKBONE, lambda t: t.pop(f"{FILM}.lora_B.default.weight"), "lacks a matrix"),
    "an adapter of another shape": (
        BACKBONE,
        lambda t: t.update({f"{FILM}.lora_B.default.weight": torch.zeros(192, 31)}),
        "its shapes do not fit",
    ),
    "an adapter without its layer": (
        BACKBONE,
        lambda t: t.pop(f"{FILM}.base_layer.weight"),
        "adapters without a layer",
    ),
    "a missing scale": (
        BACKBONE,
        lambda t: t.pop("vision_backbone.featurizer.blocks.0.scale.bias"),
        r"1 missing: vision_backbone\.featurizer\.blocks\.0\.film\.scale\.bias",
    ),
    "a head without its last layer": (
        "action_head--1000_checkpoint.pt",
        lambda t: t.pop("module.model.fc2.weight"),
        r"has no matrix model\.fc2\.weight",
    ),
    "a head of another width": (
        "action_head--1000_checkpoint.pt",
        lambda t: t.update({"module.model.fc2.weight": torch.zeros(6, 64)}),
        "gives? --horizon|of another shape",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_components_are_refused(original: Path, components: Callable[[str], Path], name: str):
    file, how, message = DAMAGES[name]
    folder = components("film")
    change(folder / file, how)
    with pytest.raises(UserError, match=message):
        load_oft(original, folder, facts=OftFacts(8, 2))


def test_a_diffusion_head_without_its_projector_is_refused(original: Path, components: Callable[[str], Path]):
    folder = components("diffusion")
    (folder / "noisy_action_projector--1000_checkpoint.pt").unlink()
    with pytest.raises(UserError, match="diffusion head and no noisy_action_projector"):
        open_oft(original, folder)


# ------------------------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("case", ["l1", "diffusion", "film"])
def test_it_comes_back_from_our_folder_and_from_oft_s_files(original: Path, oft: Path, tmp_path: Path, case: str):
    network = load_oft(original, oft / case)
    state = network.state_dict()
    save_openvla(network, tmp_path / "ours", "ideomotor")
    write_oft(network.config, InMemory(state), tmp_path / "theirs")
    for again in (load_openvla(tmp_path / "ours"), load_oft(tmp_path / "theirs")):
        assert again.config == network.config
        found = again.state_dict()
        assert found.keys() == state.keys()
        assert all(found[name].dtype == state[name].dtype and torch.equal(found[name], state[name]) for name in state)


def test_what_is_written_has_the_names_of_the_published_files(original: Path, oft: Path, tmp_path: Path):
    network = load_oft(original, oft / "film")
    write_oft(network.config, InMemory(network.state_dict()), tmp_path, step=1000)
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(original / "model.safetensors").keys()
    for path in (oft / "film").iterdir():
        written, expected = read(tmp_path / path.name), read(path)
        shapes = {name.removeprefix("module."): tensor.shape for name, tensor in expected.items()}
        assert {name: tensor.shape for name, tensor in written.items()} == shapes


def test_a_folder_that_holds_its_head_is_not_opened_with_components(original: Path, oft: Path, tmp_path: Path):
    save_openvla(load_oft(original, oft / "l1"), tmp_path, "ideomotor")
    with pytest.raises(UserError, match="holds its head already"):
        open_oft(tmp_path, oft / "l1")


@pytest.mark.parametrize("facts", [{"horizon": -1}, {"horizon": 10**9}, {"cameras": 0}, {"action_width": 1001}])
def test_sizes_that_no_robot_has_are_refused(facts: dict[str, int]):
    with pytest.raises(UserError, match=f"--{next(iter(facts)).replace('_', '-')} is .* whole numbers from 1 to"):
        OftFacts(**facts)


def test_eps_and_scale_are_passed_on(original: Path, oft: Path):
    source = open_oft(original, oft / "l1", rms_eps=1e-5, normalization="train")
    assert source.config.language.rms_eps == 1e-5
    assert source.config.towers[0].mean == (0.485, 0.456, 0.406)
    assert replace(source.config.language, rms_eps=1e-6) == open_oft(original, oft / "l1").config.language
