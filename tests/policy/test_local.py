"""A policy in this process: pipeline and network together."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Camera, Channel, ChunkLength, Embodiment, Gripper
from ideomotor.core.types import BatchPolicy, Observation
from ideomotor.data.statistics import Statistics, summarize
from ideomotor.model.presets import tiny
from ideomotor.model.vla import VLA
from ideomotor.model.weights import save_network
from ideomotor.pipeline.slots import LOCATION, Pipeline, PipelineConfig
from ideomotor.policy import local
from ideomotor.policy.local import load_policy, policy_folder
from ideomotor.tokenize.text import TextTokenizer

NETWORK = tiny()
BODY = Embodiment(
    name="body",
    robot="arm",
    rate_hz=20.0,
    action=(
        *(Channel(f"a{i}", "m", mode="delta") for i in range(6)),
        Channel("gripper", "fraction", low=0.0, high=1.0),
    ),
    state=tuple(Channel(f"s{i}", "m") for i in range(10)),
    cameras=(Camera("front", 96, 96), Camera("wrist", 96, 96)),
    gripper=Gripper("gripper", open=1.0, closed=0.0, threshold=0.5),
)
CONFIG = PipelineConfig(
    ("front", "wrist"),
    96,
    NETWORK.text_length,
    10,
    7,
    ChunkLength(4, 4),
    answers=(LOCATION,),
    tasks=("pick", "place_on"),
)


def statistics():
    rng = np.random.default_rng(0)
    return Statistics(
        {"action": summarize(rng.uniform(-2, 2, (100, 7))), "observation.state": summarize(rng.normal(size=(100, 10)))}
    )


def write_policy(folder: Path, seed: int = 0, config: PipelineConfig = CONFIG):
    torch.manual_seed(seed)
    save_network(VLA(NETWORK), folder)
    Pipeline(config, BODY, statistics(), TextTokenizer.shipped()).save(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    return write_policy(tmp_path_factory.mktemp("policy") / "tiny")


def observations(count: int):
    rng = np.random.default_rng(1)
    return [
        Observation(
            10.0 + i,
            {role: rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for role in ("front", "wrist")},
            rng.normal(size=10),
        )
        for i in range(count)
    ]


def test_a_chunk_is_keyed_by_the_time_of_its_observation(folder: Path):
    policy = load_policy(str(folder))
    assert isinstance(policy, BatchPolicy)
    policy.reset("lift the red cube")
    seen = observations(2)
    first, second = policy.act(seen[0]), policy.act(seen[1])
    assert (first.obs_time, first.t0, first.dt) == (10.0, 10.0, 0.05)  # 20 Hz
    assert second.t0 == 11.0
    assert second.sequence == first.sequence + 1
    assert first.actions.shape == (4, 7)
    assert np.isfinite(first.actions).all()
    assert first.policy_id == policy.policy_id
    assert first.index(10.12) == 2
    policy.reset("take the can")
    assert policy.act(seen[0]).sequence == 1


def test_one_by_one_equals_all_at_once(folder: Path):
    policy = load_policy(str(folder))
    instructions = ["lift the red cube", "take the can", "grab the bar and lift it"]
    together = policy.act_batch(instructions, observations(3))
    for instruction, observation, chunk in zip(instructions, observations(3), together, strict=True):
        policy.reset(instruction)
        np.testing.assert_allclose(policy.act(observation).actions, chunk.actions, rtol=0, atol=1e-4)
    policy.reset(instructions[1])
    other = policy.act(observations(1)[0]).actions
    assert np.abs(other - together[0].actions).max() > 1e-6  # the instruction has influence


def test_actions_are_the_networks_in_raw_units(folder: Path):
    """The gripper stays between closed and open, the others within the quantiles that scaled them."""
    actions = load_policy(str(folder)).act_batch(["lift the bar"] * 4, observations(4))
    action = statistics()["action"]
    for chunk in actions:
        assert (chunk.actions[:, :6] >= action.q01[:6] - 1e-6).all()
        assert (chunk.actions[:, :6] <= action.q99[:6] + 1e-6).all()
        assert (chunk.actions[:, 6] >= 0).all()
        assert (chunk.actions[:, 6] <= 1).all()


def test_loading_twice_gives_one_identity_and_other_weights_another(folder: Path, tmp_path: Path):
    policy, again = load_policy(str(folder)), load_policy(str(folder))
    other = load_policy(str(write_policy(tmp_path / "other", seed=1)))
    assert policy.policy_id == again.policy_id != other.policy_id
    assert len(policy.policy_id) == 16
    assert policy.tasks == ("pick", "place_on")
    assert policy.embodiment.chunk == ChunkLength(4, 4)
    np.testing.assert_array_equal(policy.act(observations(1)[0]).actions, again.act(observations(1)[0]).actions)


def test_a_run_folder_stands_for_the_policy_that_it_ended_with(folder: Path, tmp_path: Path):
    write_policy(tmp_path / "run" / "final")
    assert policy_folder(str(tmp_path / "run")) == tmp_path / "run" / "final"
    assert policy_folder(str(folder)) == folder
    assert load_policy(str(tmp_path / "run")).policy_id == load_policy(str(folder)).policy_id


def test_a_folder_that_is_not_there_or_empty_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere is no folder; a policy is 'shipped', or the folder"):
        load_policy(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no model\.safetensors, nor has its folder `final`"):
        load_policy(str(tmp_path / "empty"))


def test_an_installation_without_a_shipped_policy_says_how_to_train_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(local, "SHIPPED", tmp_path)
    with pytest.raises(UserError, match="no shipped policy; train one: ideomotor train"):
        load_policy("shipped")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert policy_folder("shipped") == tmp_path


def test_random_bytes_are_refused(tmp_path: Path):
    write_policy(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(UserError, match=r"model\.safetensors is no safetensors file"):
        load_policy(str(tmp_path))


def test_weights_without_their_pipeline_do_not_load(tmp_path: Path):
    write_policy(tmp_path)
    (tmp_path / "statistics.json").unlink()
    with pytest.raises(UserError, match=r"lacks statistics\.json; weights without their pipeline mean nothing"):
        load_policy(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"cameras": ("wrist", "front")},
            r"cameras: the network has \('front', 'wrist'\), the pipeline \('wrist', 'front'\)",
        ),
        ({"action_width": 8}, "action width: the network has 7, the pipeline 8"),
        ({"chunk": ChunkLength(2, 2)}, "chunk: the network has 4, the pipeline 2"),
    ],
)
def test_a_pipeline_of_another_network_is_refused(tmp_path: Path, change: dict[str, Any], message: str):
    write_policy(tmp_path, config=replace(CONFIG, **change))
    with pytest.raises(UserError, match=message):
        load_policy(str(tmp_path))


def test_a_configuration_changed_by_hand_is_refused(tmp_path: Path):
    write_policy(tmp_path)
    path = tmp_path / "config.json"
    value = json.loads(path.read_text())
    value["language"]["depth"] = 3
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"9 missing: language_model\.model\.layers\.2"):
        load_policy(str(tmp_path))


def test_an_observation_without_cameras_is_refused(folder: Path):
    policy = load_policy(str(folder))
    with pytest.raises(UserError, match="unknown camera in this observation 'front'; known: none"):
        policy.act(replace(observations(1)[0], images={}))
