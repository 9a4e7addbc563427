"""Weights to disk and back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ideomotor.core.errors import UserError
from ideomotor.model.batch import Batch
from ideomotor.model.vla import VLA
from ideomotor.model.weights import check_keys, load_network, save_network


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


def test_a_checkpoint_with_a_missing_tensor_does_not_load(network: VLA, tmp_path: Path):
    save_network(network, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["no_state"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="1 missing: no_state"):
        load_network(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "other bytes", "cut off"])
def test_damaged_weights_are_refused(network: VLA, tmp_path: Path, damage: str):
    save_network(network, tmp_path)
    path = tmp_path / "model.safetensors"
    contents = {"empty": b"", "other bytes": bytes(range(256)), "cut off": path.read_bytes()[:5000]}
    path.write_bytes(contents[damage])
    with pytest.raises(UserError, match=r"model\.safetensors is no safetensors file"):
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
        ("[]", "not a network configuration of format 1"),
        (json.dumps({**value, "format": 2}), "format 1"),
        (json.dumps({**value, "horizont": 3}), "unknown fields.*horizont"),
        (json.dumps({**value, "horizon": "four"}), "horizon should be int"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load_network(tmp_path)
