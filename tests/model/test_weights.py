"""Weights to disk and back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError
from ideomotor.model.batch import Batch
from ideomotor.model.keys import check_keys, compare, report
from ideomotor.model.presets import openvla_7b
from ideomotor.model.vla import VLA
from ideomotor.model.weights import load_network, outline, read_config, save_network


def test_a_network_comes_back_and_is_written_in_the_same_bytes(
    network: VLA, make_batch: Callable[..., Batch], tmp_path: Path
):
    save_network(network, tmp_path / "first")
    loaded = load_network(tmp_path / "first").eval()
    assert loaded.config == network.config
    batch = make_batch(2)
    assert torch.equal(loaded.chunk(batch), network.chunk(batch))
    save_network(loaded, tmp_path / "second")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_weights_in_half_precision_are_held_in_float32(network: VLA, tmp_path: Path):
    save_network(network, tmp_path, torch.bfloat16)
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    for name, tensor in load_network(tmp_path).state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, network.state_dict()[name].to(torch.bfloat16).float())


def test_names_and_shapes_that_do_not_fit_are_all_named():
    zeros = torch.zeros
    expected = {"a": zeros(2), "b": zeros(3, 4), **{f"c{i}": zeros(1) for i in range(6)}}
    found = {"a": zeros(2), "b": zeros(4, 3), "d": zeros(1)}
    with pytest.raises(UserError) as error:
        check_keys(expected, found, "model.safetensors")
    message = str(error.value)
    assert "6 missing: c0, c1, c2, c3, ..." in message
    assert "1 extra: d" in message
    assert "1 of another shape: b (4, 3) for (3, 4)" in message
    assert "one checkpoint" in message
    check_keys(expected, expected, "model.safetensors")


def test_many_names_are_grouped_by_part_and_the_likely_cause_is_told():
    zeros = torch.zeros
    blocks = {f"vision_backbone.featurizer.blocks.{i}.w{j}": zeros(1) for i in range(3) for j in range(5)}
    expected = {**blocks, "projector.fc1.weight": zeros(2, 2), "projector.fc1.bias": zeros(2)}
    found = {name: tensor for name, tensor in expected.items() if ".blocks.2." not in name}
    found["projector.fc1.beta"] = found.pop("projector.fc1.bias")
    text = report(expected, found)
    assert (
        "  6 missing:\n    1 under projector: fc1.bias\n    5 under vision_backbone.featurizer: blocks.2.w0, " in text
    )
    assert "projector.fc1.beta may be projector.fc1.bias under another name" in text
    assert "Whole layers are missing (vision_backbone.featurizer.blocks.2 to 2)" in text
    assert report(expected, expected) == ""


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float64, torch.float8_e4m3fn])
def test_weights_are_single_or_half_precision_and_nothing_else(dtype: torch.dtype):
    expected = {"w": torch.zeros(2)}
    for allowed in (torch.float32, torch.bfloat16, torch.float16):
        assert not compare(expected, {"w": torch.zeros(2, dtype=allowed)})
    assert compare(expected, {"w": torch.zeros(2, dtype=dtype)}).dtypes == ("w",)


def test_an_outline_has_the_shapes_of_the_network_and_no_memory(network: VLA):
    state = outline(lambda: VLA(network.config)).state_dict()
    assert {n: (t.shape, t.dtype) for n, t in state.items()} == {
        n: (t.shape, t.dtype) for n, t in network.state_dict().items()
    }
    assert all(tensor.is_meta for tensor in state.values())


def test_an_openvla_is_not_taken_for_a_network_of_ours(network: VLA, tmp_path: Path):
    save_network(network, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, **jsonable.to_json(openvla_7b())}))
    assert read_config(tmp_path) == openvla_7b()
    with pytest.raises(UserError, match="holds an OpenVLA"):
        load_network(tmp_path)


def test_a_checkpoint_with_a_missing_tensor_does_not_load(network: VLA, tmp_path: Path):
    save_network(network, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["no_state"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="1 missing: no_state"):
        load_network(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "other bytes", "cut off in its header", "cut off"])
def test_damaged_weights_are_refused(network: VLA, tmp_path: Path, damage: str):
    save_network(network, tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    contents = {
        "empty": b"",
        "other bytes": bytes(range(256)),
        "cut off in its header": whole[:5000],
        "cut off": whole[:-1],
    }
    path.write_bytes(contents[damage])
    with pytest.raises(UserError, match=r"model\.safetensors is (no safetensors file|cut off): .*copy it again"):
        load_network(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_missing_file_is_named(network: VLA, tmp_path: Path, name: str):
    save_network(network, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"has no {name}"):
        load_network(tmp_path)


def test_damaged_or_foreign_configurations_are_refused(network: VLA, tmp_path: Path):
    save_network(network, tmp_path)
    path = tmp_path / "config.json"
    value = json.loads(path.read_text())
    for text, message in [
        ("{", "not JSON"),
        ("[]", "should hold a JSON object"),
        (json.dumps({**value, "format": 2}), "format 1"),
        (json.dumps({**value, "horizont": 3}), "unknown fields.*horizont"),
        (json.dumps({**value, "horizon": "four"}), "horizon should be int"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load_network(tmp_path)
