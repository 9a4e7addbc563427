"""`ideomotor weights`: what a checkpoint holds, and the same checkpoint in another layout."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ideomotor.cli.main import run
from ideomotor.model.lora import Base, LoraSettings, add_lora, learning, save_adapter
from ideomotor.model.openvla_weights import load_openvla
from ideomotor.pipeline.openvla import OpenVLAPipeline
from ideomotor.policy.checkpoint import network_shape
from ideomotor.policy.local import SHIPPED
from ideomotor.tokenize.llama import LlamaTokenizer

LICENCES = {"LICENSE-LLAMA2.txt", "NOTICE"}


@pytest.fixture(scope="session")
def original(fixtures: Path) -> Path:
    return fixtures / "openvla-parity-a" / "checkpoint"


@pytest.fixture(scope="session")
def oft(fixtures: Path) -> Path:
    return fixtures / "openvla-parity-a" / "oft"


def convert(*arguments: object) -> int:
    return run(["weights", "convert", *map(str, arguments)])


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


# ------------------------------------------------------------------------------------------------ info


def test_info_tells_what_a_user_compares(original: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["weights", "info", str(original)]) == 0
    shown = capsys.readouterr().out
    for expected in (
        "layout             hf",
        "vit_fixture_a_patch14_reg4_dinov2: 56 px, 4 blocks, width 64, 4 heads, MLP 256, read after block 2",
        "3 layers, width 64, 4 heads",
        "one action id after the other",
        "rms norm eps       1e-06",
        "normalization      hf",
        "bridge_orig: actions of 7 numbers",
        "fixture_ten_dims_no_mask: actions of 10 numbers",
        "tokenizer          tokenizer.json, tokenizer.model",
        "licences           LICENSE-LLAMA2.txt, NOTICE",
        "total                                   153      5,126,168       10.3  bfloat16",
        "without influence  43 tensors",
        "problem            none",
    ):
        assert expected in shown


def test_info_as_json_adds_up(original: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["weights", "info", str(original), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    *parts, total = value["parts"]
    for column in ("tensors", "parameters", "size"):
        assert sum(part[column] for part in parts) == total[column]
    stored = load_file(original / "model.safetensors")
    assert total["parameters"] == sum(tensor.numel() for tensor in stored.values())


def test_info_of_oft_tells_what_is_assumed(original: Path, oft: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["weights", "info", str(original), "--components", str(oft / "film")]) == 0
    shown = capsys.readouterr().out
    assert "8 actions of 7 numbers at once, L1Head, state of 8" in shown
    assert "assumed: horizon 8, cameras 2, as published for LIBERO" in shown
    assert "35 adapters merged" in shown


def test_info_shows_all_of_a_damaged_checkpoint_and_fails(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(original, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    del tensors["projector.fc3.bias"]
    save_file(tensors, folder / "model.safetensors")
    assert run(["weights", "info", str(folder)]) == 1
    shown = capsys.readouterr()
    assert "1 missing: projector.fc3.bias" in shown.out
    assert "does not fit its configuration" in shown.err


def test_info_of_an_adapter_names_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fields = {"base_model_name_or_path": "openvla-7b", "r": 32, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(fields))
    assert run(["weights", "info", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "adapter of peft; it needs its base model" in shown
    assert "base               openvla-7b" in shown


def test_info_of_a_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fields = {"model_type": "llama", "vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 2}
    fields |= {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    save_file({"model.embed_tokens.weight": torch.zeros(10, 8)}, tmp_path / "model.safetensors")
    assert run(["weights", "info", str(tmp_path)]) == 0
    assert "2 layers, width 8, 2 heads (1 of them with keys), MLP 16, vocabulary 10" in capsys.readouterr().out


def test_info_of_the_shipped_policy_s_own_network(capsys: pytest.CaptureFixture[str]):
    assert run(["weights", "info", str(SHIPPED)]) == 0
    shown = capsys.readouterr().out
    assert "ideomotor, a network of our own" in shown
    assert "problem            none" in shown


def test_info_of_anything_else_says_what_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["weights", "info", str(tmp_path)]) == 1
    assert "is no checkpoint that is read here; known are" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ convert


def test_round_through_all_layouts_keeps_tensors_configuration_and_companions(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert convert(original, "--out", tmp_path / "native", "--to", "native") == 0
    assert convert(tmp_path / "native", "--out", tmp_path / "ours") == 0
    assert convert(tmp_path / "ours", "--out", tmp_path / "hf", "--to", "hf") == 0
    assert "hf: 153 tensors" in capsys.readouterr().out
    assert equal(load_file(tmp_path / "hf" / "model.safetensors"), load_file(original / "model.safetensors"))
    assert load_openvla(tmp_path / "hf").config == load_openvla(original).config
    config, written = (json.loads((f / "config.json").read_text()) for f in (original, tmp_path / "hf"))
    text = written.pop("text_config")
    assert text == {**config.pop("text_config"), "rms_norm_eps": 1e-6, "rope_theta": 10000.0}
    assert written == config
    for folder in ("native", "ours", "hf"):
        for name in ("tokenizer.json", "tokenizer.model", "dataset_statistics.json", "added_tokens.json", *LICENCES):
            assert (tmp_path / folder / name).read_bytes() == (original / name).read_bytes()
    for name in ("preprocessor_config.json", "generation_config.json", "processor_config.json"):
        assert json.loads((tmp_path / "hf" / name).read_text()) == json.loads((original / name).read_text())


def test_statistics_in_config_json_do_not_get_lost(original: Path, tmp_path: Path):
    """openvla-7b has them only there; its fine-tunes have the file."""
    folder = shutil.copytree(original, tmp_path / "copy")
    (folder / "dataset_statistics.json").unlink()
    assert convert(folder, "--out", tmp_path / "ours") == 0
    statistics = json.loads((original / "config.json").read_text())["norm_stats"]
    assert json.loads((tmp_path / "ours" / "dataset_statistics.json").read_text()) == statistics
    assert convert(tmp_path / "ours", "--out", tmp_path / "hf", "--to", "hf") == 0
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["norm_stats"] == statistics


def test_eps_scale_and_dtype_are_changed_where_asked(original: Path, tmp_path: Path):
    asked = ["--rms-eps", "1e-5", "--normalization", "train", "--dtype", "float32"]
    assert convert(original, "--out", tmp_path / "hf", "--to", "hf", *asked) == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["text_config"]["rms_norm_eps"] == 1e-5
    assert config["torch_dtype"] == config["text_config"]["torch_dtype"] == "float32"
    scales = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())["tvf_normalize_params"]
    assert scales[0]["mean"] == [0.485, 0.456, 0.406]
    stored = load_file(original / "model.safetensors")
    assert equal(
        load_file(tmp_path / "hf" / "model.safetensors"), {name: tensor.float() for name, tensor in stored.items()}
    )


def test_an_oft_checkpoint_becomes_one_folder_of_ours_and_goes_back(
    original: Path, oft: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert convert(original, "--components", oft / "film", "--out", tmp_path / "ours") == 0
    assert "assumed: horizon 8, cameras 2" in capsys.readouterr().out
    network = load_openvla(tmp_path / "ours")
    assert convert(tmp_path / "ours", "--out", tmp_path / "hf", "--to", "hf") == 0
    assert {name for name in names(tmp_path / "hf") if name.endswith(".pt")} == {
        f"{part}--0_checkpoint.pt" for part in ("action_head", "proprio_projector", "vision_backbone")
    }
    assert convert(tmp_path / "hf", "--out", tmp_path / "again") == 0
    again = load_openvla(tmp_path / "again")
    assert again.config == network.config
    assert equal(again.state_dict(), network.state_dict())
    assert convert(tmp_path / "ours", "--out", tmp_path / "native", "--to", "native") == 1
    assert not (tmp_path / "native").exists()


def test_a_tokenizer_does_not_travel_without_its_licence(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(original, tmp_path / "copy")
    for name, kind in (("NOTICE", "NOTICE"), ("LICENSE-LLAMA2.txt", "LICENSE")):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        assert convert(folder, "--out", tmp_path / "out") == 1
        assert f"has a tokenizer of Llama-2 and no {kind} file" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
        (folder / name).write_bytes(content)


def test_a_tokenizer_can_be_given(original: Path, fixtures: Path, tmp_path: Path):
    folder = shutil.copytree(
        original, tmp_path / "copy", ignore=shutil.ignore_patterns("tokenizer*", "LICENSE*", "NOTICE")
    )
    assert convert(folder, "--out", tmp_path / "without") == 0
    assert not names(tmp_path / "without") & {"tokenizer.json", *LICENCES}
    given = original / "tokenizer.model"
    assert convert(folder, "--out", tmp_path / "with", "--tokenizer", given) == 0
    assert (tmp_path / "with" / "tokenizer.model").read_bytes() == given.read_bytes()
    assert names(tmp_path / "with") >= LICENCES
    assert convert(folder, "--out", tmp_path / "other", "--tokenizer", original / "config.json") == 1


def test_nothing_is_written_over_and_nothing_half(original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    assert convert(original, "--out", tmp_path / "full") == 1
    assert "is there already; choose another --out" in capsys.readouterr().err
    assert names(tmp_path / "full") == {"mine.txt"}
    folder = shutil.copytree(original, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    tensors["projector.fc3.weight"] = torch.zeros(64, 63)
    save_file(tensors, folder / "model.safetensors")
    assert convert(folder, "--out", tmp_path / "out") == 1
    assert "1 of another shape: projector.fc3.weight (64, 63) for (64, 64)" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "full"]


def test_python_files_of_hugging_face_s_layout_go_along_to_that_layout_only(original: Path, tmp_path: Path):
    folder = shutil.copytree(original, tmp_path / "copy")
    (folder / "modeling_prismatic.py").write_text("# theirs\n")
    (folder / "unrelated.py").write_text("# not named in auto_map\n")
    assert convert(folder, "--out", tmp_path / "hf", "--to", "hf") == 0
    assert convert(folder, "--out", tmp_path / "ours") == 0
    assert [name for name in names(tmp_path / "hf") if name.endswith(".py")] == ["modeling_prismatic.py"]
    assert not [name for name in names(tmp_path / "ours") if name.endswith(".py")]


def test_auto_map_does_not_lead_out_of_the_folder(original: Path, tmp_path: Path):
    (tmp_path / "secret.py").write_text("# not theirs\n")
    folder = shutil.copytree(original, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "../secret.X", "AutoModel": f"{tmp_path}/secret.X"}
    (folder / "config.json").write_text(json.dumps(config))
    assert convert(folder, "--out", tmp_path / "hf", "--to", "hf") == 0
    assert not [path for path in (tmp_path / "hf").rglob("*.py")]


# ------------------------------------------------------------------------------------------------ adapters and pipelines


@pytest.fixture
def adapter(original: Path, tmp_path: Path) -> Path:
    """An adapter of the checkpoint, both matrices random, saved in peft's files."""
    network = load_openvla(original)
    add_lora(network, LoraSettings(rank=4, alpha=2))
    generator = torch.Generator().manual_seed(0)
    for parameter in learning(network).values():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    save_adapter(network, tmp_path / "adapter", Base.of(original))
    return tmp_path / "adapter"


@pytest.mark.parametrize("dtype", ["float32", None])
def test_an_adapter_is_merged_into_its_base(
    original: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str | None
):
    assert convert(adapter, "--out", tmp_path / "out", "--to", "hf", *(["--dtype", dtype] if dtype else [])) == 0
    shown = capsys.readouterr().out
    assert f"base: {original.resolve()}" in shown
    assert "merging moved outputs by at most" in shown
    base, found = load_file(original / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    parts = load_file(adapter / "adapter_model.safetensors")
    adapted = 0
    for name, weight in base.items():
        prefix = "base_model.model." + name.removesuffix(".weight")
        expected = weight.float()
        if f"{prefix}.lora_A.weight" in parts:
            down, up = (parts[f"{prefix}.lora_{x}.weight"].float() for x in "AB")
            expected = expected + 0.5 * (up.flatten(1) @ down.flatten(1)).view(weight.shape)
            adapted += 1
        kind, tolerance = (torch.float32, 1e-6) if dtype else (torch.bfloat16, 0)
        torch.testing.assert_close(found[name], expected.to(kind), rtol=tolerance, atol=tolerance)
    assert adapted == len(parts) // 2 > 40
    assert names(tmp_path / "out") >= {"tokenizer.json", "dataset_statistics.json", *LICENCES}


def test_what_stands_beside_an_adapter_wins_over_its_base(original: Path, adapter: Path, tmp_path: Path):
    mine = {"mine": json.loads((original / "dataset_statistics.json").read_text())["bridge_orig"]}
    (adapter / "dataset_statistics.json").write_text(json.dumps(mine))
    assert convert(adapter, "--out", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "dataset_statistics.json").read_text()) == mine


def test_an_adapter_whose_base_is_gone_is_refused(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (adapter / "base.json").unlink()
    fields = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**fields, "base_model_name_or_path": "gone"}))
    assert convert(adapter, "--out", tmp_path / "out") == 1
    assert "adapter of 'gone', which is not here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_pipeline_of_a_policy_goes_along_and_serves_hugging_face_under_its_names(original: Path, tmp_path: Path):
    ours = tmp_path / "ours"
    assert convert(original, "--out", ours) == 0
    for name in ("tokenizer.json", "tokenizer.model", "dataset_statistics.json"):
        (ours / name).unlink()
    shape = network_shape(load_openvla(ours).config)
    OpenVLAPipeline.from_checkpoint(original, shape, "bridge_orig").save(ours)
    assert convert(ours, "--out", tmp_path / "copy") == 0
    for name in ("pipeline.json", "statistics.json", "text.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (ours / name).read_bytes()
    assert convert(ours, "--out", tmp_path / "hf", "--to", "hf") == 0
    assert "pipeline.json" not in names(tmp_path / "hf")
    statistics = json.loads((original / "dataset_statistics.json").read_text())
    assert json.loads((tmp_path / "hf" / "dataset_statistics.json").read_text()) == statistics
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["norm_stats"] == statistics
    tokenizer = LlamaTokenizer.from_file(tmp_path / "hf" / "tokenizer.json")
    assert tokenizer.encode("pick up") == LlamaTokenizer.from_file(original / "tokenizer.json").encode("pick up")
