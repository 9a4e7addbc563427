"""Adapters do what peft makes of them, travel in its files, and merge into what they were."""

import copy
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from ideomotor.core.errors import UserError
from ideomotor.model import lora
from ideomotor.model.batch import TokenBatch
from ideomotor.model.config import L1Head, LanguageConfig, OpenVLAConfig, Parallel, PatchStem, Tower, VisionConfig
from ideomotor.model.decode import Whole
from ideomotor.model.lora import Base, LoraSettings, add_lora, base_of, load_adapter, merge, save_adapter
from ideomotor.model.openvla import OpenVLA, with_film
from ideomotor.model.openvla_weights import load_openvla
from ideomotor.model.presets import HALF, openvla_7b

DINO = VisionConfig(PatchStem(14), 28, 16, 3, 2, 32, cls_tokens=1, register_tokens=4, layer_scale=1.0, output_block=1)
SIGLIP = VisionConfig(PatchStem(14), 28, 24, 2, 2, 40, output_block=0, attention_pool=True)
SMALL = OpenVLAConfig((Tower(DINO, *HALF), Tower(SIGLIP, *HALF)), LanguageConfig(32064, 16, 2, 2, 2, 24))
OFT = replace(SMALL, decoding=Parallel(horizon=2, action_width=3, head=L1Head(), state_width=4))


def network_of(config: OpenVLAConfig) -> OpenVLA:
    torch.manual_seed(0)
    return OpenVLA(config).eval()


@pytest.fixture
def network() -> OpenVLA:
    return network_of(SMALL)


def trained(network: OpenVLA, settings: LoraSettings = LoraSettings(rank=4)) -> OpenVLA:  # noqa: B008 (frozen)
    """A copy with adapters that do something."""
    network = copy.deepcopy(network)
    add_lora(network, settings)
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.2)
    return network


@pytest.fixture
def batch() -> TokenBatch:
    torch.manual_seed(2)
    ids = torch.tensor([[1, 512, 29901, 3158, 29871, 31800, 31900, 2]])
    labels = torch.where(torch.arange(8) < 5, -100, ids)
    images = torch.randint(0, 256, (1, 1, 28, 28, 3), dtype=torch.uint8)
    return TokenBatch(ids, torch.ones(1, 8, dtype=torch.bool), images, labels=labels, whole=True)


def logits(network: OpenVLA, batch: TokenBatch) -> Callable[[], Tensor]:
    return lambda: network.supervised(batch, network(batch))[0]


def test_rank_32_trains_what_the_reference_trains_on_openvla_7b() -> None:
    with torch.device("meta"):
        network = OpenVLA(openvla_7b())
    add_lora(network, LoraSettings())
    assert sum(p.numel() for p in network.parameters()) == 7_652_065_472  # arXiv 2406.09246
    learning = lora.learning(network)
    assert sum(p.numel() for p in learning.values()) == 110_828_288
    targets = {name.partition(".lora_")[0] for name in learning}
    assert "vision_backbone.featurizer.patch_embed.proj" in targets  # a convolution
    assert "vision_backbone.fused_featurizer.attn_pool.kv" in targets  # without influence, but of a linear layer's name
    assert "language_model.lm_head" in targets


def test_new_adapters_change_nothing_and_are_drawn_as_their_seed_says(network: OpenVLA, batch: TokenBatch) -> None:
    before = logits(network, batch)()
    state = torch.random.get_rng_state()
    first, again, other = (copy.deepcopy(network) for _ in range(3))
    for each, seed in ((first, 0), (again, 0), (other, 1)):
        add_lora(each, LoraSettings(rank=4), seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(logits(first, batch)(), before)
    name = "language_model.lm_head.lora_A.default.weight"
    drawn = [dict(each.named_parameters())[name] for each in (first, again, other)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    whole = torch.cat([p.detach().flatten() for n, p in first.named_parameters() if ".lora_A." in n])
    assert float(whole.std()) == pytest.approx(1 / 4, rel=0.05)  # peft: Gaussian with deviation 1 / rank
    assert abs(float((whole**4).mean() / whole.var() ** 2) - 3) < 0.3  # kurtosis of a Gaussian; a uniform one has 1.8


def test_an_adapter_counts_alpha_over_rank_times(network: OpenVLA, batch: TokenBatch) -> None:
    assert LoraSettings().scale == 0.5  # arXiv 2406.09246
    adapted = trained(network, LoraSettings(rank=8, alpha=4))
    head = adapted.language_model.lm_head
    weights = dict(head.named_parameters())
    x = torch.randn(3, 16)
    with torch.no_grad():
        expected = x @ weights["base_layer.weight"].T
        expected += 0.5 * x @ weights["lora_A.default.weight"].T @ weights["lora_B.default.weight"].T
        torch.testing.assert_close(head(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(adapted.language_model.logits(x[None], 7, 20)[0], expected[:, 7:27])


def test_only_adapters_learn_and_every_target_can(network: OpenVLA, batch: TokenBatch) -> None:
    adapted = trained(network)
    adapted.loss(batch).backward()
    with_gradient = {name for name, p in adapted.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert all(".lora_" in name for name in with_gradient)
    targets = {name.partition(".lora_")[0] for name in lora.learning(adapted)}
    missed = {target for target in targets if not any(name.startswith(target + ".") for name in with_gradient)}
    unused = ("featurizer.blocks.2.", "fused_featurizer.blocks.1.", "attn_pool.")  # behind the features
    assert missed == {target for target in targets if any(f"{part}" in f"{target}." for part in unused)}


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:Could not identify embedding")
def test_adapters_travel_to_peft_and_back(network: OpenVLA, batch: TokenBatch, tmp_path: Path) -> None:
    from peft import PeftModel

    adapted = trained(network)
    expected = logits(adapted, batch)()
    save_adapter(adapted, tmp_path / "ours", Base(tmp_path, "0"))
    plain = PeftModel.from_pretrained(copy.deepcopy(network), str(tmp_path / "ours"))
    assert torch.equal(logits(cast("OpenVLA", plain.base_model.model), batch)(), expected)
    plain.save_pretrained(str(tmp_path / "theirs"))
    again = copy.deepcopy(network)
    load_adapter(again, tmp_path / "theirs")
    assert torch.equal(logits(again, batch)(), expected)
    assert lora.learning(again).keys() == lora.learning(adapted).keys()


def test_the_file_has_the_published_names(network: OpenVLA, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save_adapter(trained(network), tmp_path, Base(tmp_path, "0"))
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert names["base_model.model.vision_backbone.featurizer.patch_embed.proj.lora_A.weight"].shape == (4, 3, 14, 14)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 4, str(tmp_path))


def test_equal_weights_give_equal_bytes(network: OpenVLA, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_adapter(trained(network), tmp_path / name, Base(tmp_path, "0"))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


# ------------------------------------------------------------------------------------------------ merging


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_merged_network_is_plain_again_and_does_the_same(
    network: OpenVLA, batch: TokenBatch, stored: torch.dtype
) -> None:
    adapted = trained(network)
    probe = logits(adapted, batch)
    before = probe().detach()
    found = merge(adapted, probe, stored)
    assert adapted.state_dict().keys() == network.state_dict().keys()
    assert type(adapted.language_model.lm_head) is nn.Linear
    assert type(adapted.vision_backbone.featurizer.patch_embed.proj) is nn.Conv2d
    error = float((probe() - before).abs().max())
    assert found.rounded == pytest.approx(error)
    assert found.exact is not None
    assert found.exact < 1e-5 < found.effect
    assert error < (1e-5 if stored == torch.float32 else 0.05)
    for parameter in adapted.parameters():
        assert torch.equal(parameter, parameter.to(stored).float())


def test_the_merged_weight_is_the_sum_of_the_products(network: OpenVLA, batch: TokenBatch) -> None:
    adapted = trained(network, LoraSettings(rank=4, alpha=2))
    parts = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    merge(adapted, logits(adapted, batch), torch.float32)
    name = "vision_backbone.featurizer.patch_embed.proj"
    a, b = (parts[f"{name}.lora_{x}.default.weight"] for x in "AB")
    expected = parts[f"{name}.base_layer.weight"] + 0.5 * torch.einsum("or,rchw->ochw", b[:, :, 0, 0], a)
    torch.testing.assert_close(adapted.state_dict()[f"{name}.weight"], expected, rtol=1e-5, atol=1e-6)


def test_merged_and_unmerged_networks_give_equal_ids(network: OpenVLA, batch: TokenBatch) -> None:
    adapted = trained(network)
    prompt = TokenBatch(batch.ids[:, :5], batch.mask[:, :5], batch.images, whole=True)
    unmerged = adapted.ids(prompt, 7, Whole())
    merge(adapted, logits(adapted, batch), torch.float32)
    assert torch.equal(adapted.ids(prompt, 7, Whole()), unmerged)
    assert not torch.equal(network.ids(prompt, 7, Whole()), unmerged)


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
def test_a_wrong_merge_is_refused(
    network: OpenVLA, batch: TokenBatch, held: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora import Linear

    right = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, name: 2 * right(self, name))
    adapted = trained(network.to(held))
    with pytest.raises(UserError, match="the merged policy is not the trained one.*largest output"):
        merge(adapted, logits(adapted, batch), held)


# ------------------------------------------------------------------------------------------------ heads of OFT


def oft_batch() -> TokenBatch:
    torch.manual_seed(3)
    ids = torch.tensor([[1, 512, 29901, 29871, *[31800] * 6, 2]])
    images = torch.randint(0, 256, (1, 1, 28, 28, 3), dtype=torch.uint8)
    return TokenBatch(
        ids,
        torch.ones(1, 11, dtype=torch.bool),
        images,
        state=torch.randn(1, 4),
        actions=torch.rand(1, 2, 3),
        whole=True,
    )


@pytest.mark.parametrize("film", [False, True])
def test_heads_learn_in_full_and_travel_beside_the_adapter(film: bool, tmp_path: Path) -> None:
    config = with_film(OFT) if film else OFT
    network, batch = network_of(config), oft_batch()
    adapted = trained(network)
    learning = lora.learning(adapted)
    heads = {name for name in learning if ".lora_" not in name}
    assert {name.partition(".")[0] for name in heads} == {"action_head", "proprio_projector"} | (
        {"vision_backbone"} if film else set()
    )
    assert not any("action_head" in name or ".film." in name for name in learning if ".lora_" in name)
    with torch.no_grad():
        for name in heads:
            learning[name].add_(0.01)
    expected = adapted.chunk(batch)
    save_adapter(adapted, tmp_path, Base(tmp_path, "0"))
    again = network_of(config)
    load_adapter(again, tmp_path)
    assert torch.equal(again.chunk(batch), expected)
    merge(adapted, lambda: adapted.chunk(batch), torch.float32)
    torch.testing.assert_close(adapted.chunk(batch), expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------ the base


def test_the_base_is_found_again_and_another_one_is_refused(network: OpenVLA, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(bytes(10_000))
    (base / "config.json").write_text("{}")
    save_adapter(trained(network), tmp_path / "adapter", Base.of(base))
    assert base_of(tmp_path / "adapter") == Base.of(base)
    (base / "README.md").write_text("a note changes nothing")
    assert base_of(tmp_path / "adapter").path == base
    (base / "model.safetensors").write_bytes(bytes(9_999) + b"1")
    with pytest.raises(UserError, match=r"is an adapter of another model than the one now in .*base"):
        base_of(tmp_path / "adapter")
    (base / "model.safetensors").unlink()
    (base / "config.json").unlink()
    (base / "README.md").unlink()
    base.rmdir()
    with pytest.raises(UserError, match="which is not here; put the base model there"):
        base_of(tmp_path / "adapter")


def test_a_fingerprint_reads_little_of_a_large_file_and_sees_other_weights(tmp_path: Path) -> None:
    for name, last in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        torch.save({"w": torch.full((1 << 16,), last)}, tmp_path / name / "step.pt")
    prints = [lora.fingerprint(tmp_path / name) for name in "ab"]
    assert prints[0] != prints[1]
    with (tmp_path / "a" / "sparse.safetensors").open("wb") as file:
        file.truncate(1 << 40)  # [bytes] reading all of it would take hours
    assert lora.fingerprint(tmp_path / "a") not in prints


# ------------------------------------------------------------------------------------------------ refusals


def test_an_unknown_target_is_refused_with_the_known_ones(network: OpenVLA) -> None:
    with pytest.raises(UserError, match=r"unknown LoRA target 'qproj'; known: .*Did you mean 'q_proj'"):
        add_lora(network, LoraSettings(targets=("qproj",)))


@pytest.mark.parametrize("settings", [LoraSettings(rank=0), LoraSettings(dropout=1.0), LoraSettings(alpha=0)])
def test_numbers_without_a_meaning_are_refused(network: OpenVLA, settings: LoraSettings) -> None:
    with pytest.raises(UserError, match="is not possible"):
        add_lora(network, settings)


def test_an_adapter_of_another_network_is_refused_in_groups(network: OpenVLA, tmp_path: Path) -> None:
    save_adapter(trained(network), tmp_path, Base(tmp_path, "0"))
    deeper = network_of(replace(SMALL, language=replace(SMALL.language, depth=3)))
    with pytest.raises(UserError, match=r"does not fit the network(.|\n)*14 missing: .*layers\.2\."):
        load_adapter(deeper, tmp_path)
    wider = network_of(replace(SMALL, language=replace(SMALL.language, mlp=30)))
    with pytest.raises(UserError, match="6 shapes: .*mlp"):
        load_adapter(wider, tmp_path)


def edited(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_is_no_plain_lora_is_refused(network: OpenVLA, tmp_path: Path) -> None:
    save_adapter(trained(network), tmp_path, Base(tmp_path, "0"))
    for values, words in (
        ({"peft_type": "IA3"}, "adapters of type 'LORA' are read"),
        ({"peft_type": "LORA", "init_lora_weights": "pissa"}, "alters the base model's weights"),
        ({"init_lora_weights": True, "use_dora": True}, "missing"),
        ({"use_dora": False, "target_modules": ["nothing"]}, "does not fit this network"),
        ({"target_modules": "("}, "is no regular expression"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "merge it with peft"),
        ({"modules_to_save": None, "bias": "lora_only"}, "merge it with peft"),
        ({"bias": "none", "r": 10**7}, "a rank from 1 to 4096 is allowed"),
        ({"r": "8"}, "a rank from 1 to 4096 is allowed"),
        ({"r": 2, "lora_alpha": "many"}, "should be a finite number"),
        ({"r": 2, "lora_alpha": float("nan")}, "NaN, which is no finite number"),
    ):
        edited(tmp_path, **values)
        with pytest.raises(UserError, match=words):
            load_adapter(network_of(SMALL), tmp_path)


def test_missing_files_and_pickles_are_refused(network: OpenVLA, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"adapter_config\.json is missing"):
        load_adapter(network, tmp_path)
    save_adapter(trained(network), tmp_path, Base(tmp_path, "0"))
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(UserError, match="is no safetensors file"):
        load_adapter(network_of(SMALL), tmp_path)
    weights.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(UserError, match="adapters are read as safetensors"):
        load_adapter(network_of(SMALL), tmp_path)


def test_the_fixture_takes_adapters(fixtures: Path, batch: TokenBatch) -> None:
    network = load_openvla(fixtures / "openvla-parity-a" / "checkpoint", dtype=torch.float32)
    images = torch.randint(0, 256, (1, 1, 56, 56, 3), dtype=torch.uint8)
    batch = replace(batch, images=images)
    adapted = trained(network, LoraSettings(rank=2))
    found = merge(adapted, logits(adapted, batch), torch.bfloat16)
    assert math.isfinite(found.effect)
    assert found.exact is not None
    assert found.exact < 1e-3
