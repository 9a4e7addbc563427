"""OpenVLA checkpoints as policies: from a picture file to the action of the reference, whatever the layout."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ideomotor.core.errors import UsageError, UserError
from ideomotor.core.types import BatchPolicy, Observation
from ideomotor.model.diffusion import Diffusion
from ideomotor.model.lora import Base, LoraSettings, add_lora, save_adapter
from ideomotor.model.oft_weights import open_oft
from ideomotor.model.openvla_weights import load_openvla, open_openvla, write_openvla
from ideomotor.policy import local
from ideomotor.policy.local import LocalPolicy, OpenVLAPolicy, Prediction, load_policy, open_pipeline, policy_folder
from ideomotor.policy.options import PolicyOptions
from ideomotor.policy.process import ProcessPolicy

KEYS = ("bridge_orig", "fixture_partial_mask", "fixture_ten_dims_no_mask")
BRIDGE = PolicyOptions(statistics="bridge_orig", embodiment="guess")
OFT = PolicyOptions(statistics="fixture_partial_mask", embodiment="guess", images="direct")


@pytest.fixture
def parity(fixtures: Path) -> Path:
    return fixtures / "openvla-parity-a"


@pytest.fixture
def checkpoint(parity: Path) -> Path:
    return parity / "checkpoint"


@pytest.fixture
def samples(parity: Path) -> list[dict[str, Any]]:
    return json.loads((parity / "inputs" / "inputs.json").read_text())


@pytest.fixture
def oft_samples(parity: Path) -> list[dict[str, Any]]:
    return json.loads((parity / "oft" / "expected.json").read_text())["samples"]


@pytest.fixture
def linked(tmp_path: Path, parity: Path, checkpoint: Path) -> Callable[..., Path]:
    """A folder with the checkpoint's files, some in the place of others."""

    def link(*components: str, config: str = "config.json") -> Path:
        folder = tmp_path / "linked"
        folder.mkdir()
        for path in checkpoint.iterdir():
            if path.name != "config.json":
                (folder / path.name).symlink_to(path)
        (folder / "config.json").symlink_to(checkpoint / config)
        for component in components:
            for path in (parity / "oft" / component).iterdir():
                (folder / path.name).symlink_to(path)
        return folder

    return link


def load(folder: Path, options: PolicyOptions) -> OpenVLAPolicy:
    policy = load_policy(str(folder), options)
    assert isinstance(policy, OpenVLAPolicy)
    return policy


def observe(image: Path, wrist: Path | None = None, state: Any = (), time: float = 0.0) -> Observation:
    files = {"front": image} | ({"wrist": wrist} if wrist else {})
    images = {role: np.asarray(Image.open(path).convert("RGB")) for role, path in files.items()}
    return Observation(time, images, np.array(state, np.float64))


def observations(parity: Path, samples: list[dict[str, Any]]) -> list[Observation]:
    return [observe(parity / "inputs" / sample["image"]) for sample in samples]


def instructions(samples: list[dict[str, Any]]) -> list[str]:
    return [sample["instruction"] for sample in samples]


def ids_of(said: list[Prediction]) -> np.ndarray:
    rows: list[np.ndarray] = []
    for prediction in said:
        assert prediction.ids is not None
        rows.append(prediction.ids)
    return np.stack(rows)


# ------------------------------------------------------------------------------------------------ the same numbers


@pytest.mark.parametrize("key", KEYS)
def test_from_a_picture_to_the_references_action(
    key: str, checkpoint: Path, parity: Path, samples: list[dict[str, Any]]
):
    expected = np.load(parity / "expected.npz")
    policy = load(checkpoint, replace(BRIDGE, statistics=key))
    assert isinstance(policy, BatchPolicy)
    for i, (sample, seen) in enumerate(zip(samples, observations(parity, samples), strict=True)):
        (said,) = policy.predict([sample["instruction"]], [seen])
        ids = f"{i}.generated_ids.{key}"
        np.testing.assert_array_equal(ids_of([said])[0, 0], expected[ids if ids in expected else f"{i}.generated_ids"])
        np.testing.assert_allclose(said.actions[0], expected[f"{i}.action.{key}"], rtol=0, atol=1e-12)


def test_prompts_of_unequal_length_at_once_give_what_each_gives_alone(
    checkpoint: Path, parity: Path, samples: list[dict[str, Any]]
):
    expected = np.load(parity / "expected.npz")
    chunks = load(checkpoint, BRIDGE).act_batch(instructions(samples), observations(parity, samples))
    for i, chunk in enumerate(chunks):
        np.testing.assert_allclose(chunk.actions[0], expected[f"{i}.action.bridge_orig"], rtol=0, atol=1e-12)
    assert chunks[0].dt == 0.2  # WidowX, 5 Hz
    assert [chunk.sequence for chunk in chunks] == [1, 2, 3, 4, 5, 6]


def test_the_other_eps_gives_the_other_actions(
    linked: Callable[..., Path], parity: Path, samples: list[dict[str, Any]]
):
    expected = np.load(parity / "expected_rms_norm_eps_1e-5.npz")
    policy = load(linked(config="config_rms_norm_eps_1e-5.json"), BRIDGE)
    for i, said in enumerate(policy.predict(instructions(samples), observations(parity, samples))):
        np.testing.assert_array_equal(ids_of([said])[0, 0], expected[f"{i}.generated_ids"])
        np.testing.assert_allclose(said.actions[0], expected[f"{i}.action.bridge_orig"], rtol=0, atol=1e-12)


def oft_observations(parity: Path, samples: list[dict[str, Any]]) -> list[Observation]:
    return [
        observe(parity / "oft" / sample["image"], parity / "oft" / sample["wrist_image"], sample["state"])
        for sample in samples
    ]


@pytest.mark.parametrize("case", ["l1", "film"])
def test_heads_of_oft_give_the_references_chunks(
    case: str,
    linked: Callable[..., Path],
    parity: Path,
    samples: list[dict[str, Any]],
    oft_samples: list[dict[str, Any]],
):
    expected = np.load(parity / "oft" / f"expected_{case}.npz")
    policy = load(linked(case), OFT)
    assert policy.embodiment.chunk.predicted == 8
    seen = oft_observations(parity, oft_samples)
    for i, said in enumerate(policy.predict(instructions(samples), seen)):
        raw = expected[f"{i}.actions.fixture_partial_mask"]
        np.testing.assert_allclose(said.actions, raw, rtol=0, atol=3e-4)  # 1e-4 in [-1, 1], ranges up to 5
        assert said.ids is None


def test_parallel_ids_need_to_be_told_the_length_of_a_chunk(
    checkpoint: Path, parity: Path, samples: list[dict[str, Any]], oft_samples: list[dict[str, Any]]
):
    """Nothing in the files tells OFT without a head from OpenVLA."""
    expected = np.load(parity / "oft" / "expected_discrete.npz")
    policy = load(checkpoint, replace(OFT, horizon=8, cameras=2))
    seen = [replace(o, state=np.zeros(0)) for o in oft_observations(parity, oft_samples)]
    for i, said in enumerate(policy.predict(instructions(samples), seen)):
        np.testing.assert_array_equal(ids_of([said]).reshape(-1), expected[f"{i}.predicted_ids"])
        raw = expected[f"{i}.actions.fixture_partial_mask"]
        np.testing.assert_allclose(said.actions, raw, rtol=0, atol=1e-12)


def test_a_diffusion_head_gives_one_answer_to_one_observation(
    linked: Callable[..., Path], parity: Path, samples: list[dict[str, Any]], oft_samples: list[dict[str, Any]]
):
    policy = load(linked("diffusion"), OFT)
    head = policy.network.action_head
    assert isinstance(head, Diffusion)
    head.config = replace(head.config, steps=2)
    seen = oft_observations(parity, oft_samples)[:2]
    seen[1] = replace(seen[0], time=1.0)
    words = [samples[0]["instruction"]] * 2
    both = policy.predict(words, seen)
    torch.manual_seed(1)
    again = policy.predict(words[:1], seen[:1])
    np.testing.assert_allclose(again[0].actions, both[0].actions, rtol=0, atol=1e-4)
    assert np.abs(both[1].actions - both[0].actions).max() > 1e-3  # another time, other noise


# ------------------------------------------------------------------------------------------------ ids that are none


def test_illegal_ids_are_marked_and_counted(checkpoint: Path, parity: Path, samples: list[dict[str, Any]]):
    """The README of the fixture: with ten numbers 3 of the 60 ids are below the action range and 2 above it."""
    policy = load(checkpoint, replace(BRIDGE, statistics="fixture_ten_dims_no_mask"))
    said = policy.predict(instructions(samples), observations(parity, samples))
    ids = ids_of(said)
    np.testing.assert_array_equal([p.illegal for p in said], (ids < 31744) | (ids > 31999))
    assert ((ids < 31744).sum(), (ids > 31999).sum()) == (3, 2)
    assert policy.illegal_ids == 5


def test_constrained_ids_are_legal_and_equal_where_nothing_was_illegal(
    checkpoint: Path, parity: Path, samples: list[dict[str, Any]]
):
    expected = np.load(parity / "expected.npz")
    policy = load(checkpoint, replace(BRIDGE, ids="constrained"))
    for i, said in enumerate(policy.predict(instructions(samples), observations(parity, samples))):
        free = expected[f"{i}.generated_ids"]
        legal = int(np.argmax(np.append((free < 31744) | (free > 31999), True)))
        np.testing.assert_array_equal(ids_of([said])[0, 0, :legal], free[:legal])
        assert not np.any(said.illegal)
    assert policy.illegal_ids == 0


# ------------------------------------------------------------------------------------------------ layouts


def test_our_own_folder_says_everything_itself(tmp_path: Path, checkpoint: Path, parity: Path, samples: list[Any]):
    foreign = load(checkpoint, BRIDGE)
    source = open_openvla(checkpoint)
    write_openvla(source.config, source.tensors, tmp_path / "own", "ideomotor")
    foreign.pipeline.using(embodiment=foreign.embodiment).save(tmp_path / "own")
    own = load_policy(str(tmp_path / "own"))
    assert own.embodiment == foreign.embodiment
    seen = observations(parity, samples)[:2]
    for a, b in zip(own.predict(["x", "y"], seen), foreign.predict(["x", "y"], seen), strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)
    ten = replace(BRIDGE, statistics="fixture_ten_dims_no_mask")
    assert load(tmp_path / "own", ten).pipeline.action_width == 10
    with pytest.raises(UserError, match="does not say what its numbers mean"):
        load_policy(str(tmp_path / "own"), replace(ten, embodiment=""))


def test_oft_in_our_layout_needs_to_be_told_nothing(
    tmp_path: Path,
    checkpoint: Path,
    parity: Path,
    samples: list[Any],
    oft_samples: list[Any],
    linked: Callable[..., Path],
):
    foreign = load(linked("l1"), OFT)
    source = open_oft(checkpoint, parity / "oft" / "l1")
    write_openvla(source.config, source.tensors, tmp_path / "own", "ideomotor")
    foreign.pipeline.using(embodiment=foreign.embodiment).save(tmp_path / "own")
    own = load(tmp_path / "own", PolicyOptions())
    seen = oft_observations(parity, oft_samples)[:1]
    words = instructions(samples)[:1]
    np.testing.assert_array_equal(own.predict(words, seen)[0].actions, foreign.predict(words, seen)[0].actions)


def test_shards_are_a_policy_too(tmp_path: Path, checkpoint: Path, parity: Path, samples: list[Any]):
    source = open_openvla(checkpoint)
    write_openvla(source.config, source.tensors, tmp_path / "shards", "hf", largest=4_000_000)
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    for name in ("tokenizer.json", "dataset_statistics.json"):
        (tmp_path / "shards" / name).symlink_to(checkpoint / name)
    expected = np.load(parity / "expected.npz")["0.action.bridge_orig"]
    policy = load(tmp_path / "shards", BRIDGE)
    (said,) = policy.predict([samples[0]["instruction"]], observations(parity, samples)[:1])
    np.testing.assert_allclose(said.actions[0], expected, rtol=0, atol=1e-12)


def test_an_adapter_acts_on_its_base(tmp_path: Path, checkpoint: Path, parity: Path, samples: list[dict[str, Any]]):
    network = load_openvla(checkpoint, dtype=torch.float32)
    add_lora(network, LoraSettings(rank=4))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.05)
    save_adapter(network, tmp_path, Base.of(checkpoint))
    plain = load(checkpoint, BRIDGE)
    plain.pipeline.using(embodiment=plain.embodiment).save(tmp_path)
    adapted = load(tmp_path, PolicyOptions())
    direct = OpenVLAPolicy(network, plain.pipeline, "direct", plain.choice)
    seen, words = observations(parity, samples), instructions(samples)
    ids = [ids_of(policy.predict(words, seen)) for policy in (adapted, direct, plain)]
    np.testing.assert_array_equal(ids[0], ids[1])
    assert (ids[0] != ids[2]).any()
    (tmp_path / "pipeline.json").unlink()
    with pytest.raises(UserError, match=r"is an adapter without pipeline\.json"):
        load_policy(str(tmp_path), BRIDGE)


def test_a_child_process_gives_equal_actions(checkpoint: Path, parity: Path, samples: list[dict[str, Any]]):
    here = load(checkpoint, BRIDGE)
    seen, words = observations(parity, samples), instructions(samples)
    with ProcessPolicy(str(checkpoint), BRIDGE) as there:
        assert there.policy_id == here.policy_id
        assert there.embodiment == here.embodiment
        pairs = zip(there.act_batch(words, seen), here.act_batch(words, seen), strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a.actions, b.actions)
        assert there.illegal_ids == here.illegal_ids == 4


def test_bfloat16_stays_near(checkpoint: Path, parity: Path, samples: list[dict[str, Any]]):
    """Random weights and near ties: most ids are equal, not all."""
    policies = [load(checkpoint, options) for options in (BRIDGE, replace(BRIDGE, precision="bf16"))]
    ids = [ids_of(policy.predict(instructions(samples), observations(parity, samples))) for policy in policies]
    assert (ids[0] == ids[1]).mean() > 0.5


def test_weights_that_memory_does_not_hold_are_held_in_bfloat16(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    needed = 4 * sum(entry.numbers for entry in open_openvla(checkpoint).tensors.entries.values())
    for free, dtype in ((needed * 1.3, torch.float32), (needed * 1.1, torch.bfloat16)):
        monkeypatch.setattr(local, "_free_memory", lambda free=free: free)
        assert load(checkpoint, BRIDGE).dtype == dtype
    assert load(checkpoint, replace(BRIDGE, precision="fp32")).dtype == torch.float32


def test_a_question_is_answered_in_words(checkpoint: Path, parity: Path, samples: list[dict[str, Any]]):
    """The engine's own greedy ids, up to the end of the sentence."""
    policy = load(checkpoint, BRIDGE)
    images = observations(parity, samples)[0].images
    short, long = (policy.answer(images, "What is this?", words) for words in (3, 9))
    assert long.startswith(short.rstrip("�"))
    assert len(long) > 0
    with pytest.raises(UsageError, match="an answer of 0 tokens is none"):
        policy.answer(images, "What is this?", 0)


def test_a_network_with_slots_answers_no_questions(linked: Callable[..., Path]):
    with pytest.raises(UsageError, match="parallel slots"):
        load(linked("l1"), OFT).answer({}, "What is this?", 3)


# ------------------------------------------------------------------------------------------------ refusals


def test_an_unconfirmed_guess_is_refused_with_evidence_and_remedy(checkpoint: Path):
    with pytest.raises(UserError) as caught:
        load_policy(str(checkpoint), PolicyOptions(statistics="bridge_orig"))
    said = str(caught.value)
    assert "robot widowx at 5 Hz: 'bridge_orig' is a dataset of that robot and rate" in said
    assert "add --embodiment guess" in said
    assert (
        f"ideomotor predict --policy {checkpoint} --statistics bridge_orig --write-embodiment embodiment.json" in said
    )


def test_a_file_states_what_the_numbers_mean(tmp_path: Path, checkpoint: Path):
    guessed = open_pipeline(str(checkpoint), PolicyOptions(statistics="bridge_orig")).embodiment
    path = tmp_path / "own.json"
    path.write_text(replace(guessed, robot="my-arm", rate_hz=7.0, chunk=None, normalization=None).to_text())
    policy = load_policy(str(checkpoint), PolicyOptions(statistics="bridge_orig", embodiment=str(path)))
    assert (policy.embodiment.robot, policy.embodiment.rate_hz) == ("my-arm", 7.0)
    with pytest.raises(UserError, match=r"nowhere\.json cannot be read as an embodiment"):
        load_policy(str(checkpoint), PolicyOptions(statistics="bridge_orig", embodiment=str(tmp_path / "nowhere.json")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "3 datasets, and actions need those of one"),
        ({"statistics": "bridge"}, "unknown statistics 'bridge'; known: .* Did you mean 'bridge_orig'"),
        ({"statistics": "bridge_orig", "cameras": 2}, "is an OpenVLA, which sees one camera"),
    ],
)
def test_what_cannot_be_chosen_is_refused(options: dict[str, Any], message: str, checkpoint: Path):
    with pytest.raises(UsageError, match=message):
        load_policy(str(checkpoint), PolicyOptions(**options))


def test_a_gpu_that_is_not_there_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: PyTorch sees no GPU here"):
        load_policy(str(checkpoint), replace(BRIDGE, device="cuda"))


def test_statistics_of_another_width_than_the_head_are_refused(linked: Callable[..., Path]):
    folder = linked("l1")
    with pytest.raises(UserError, match="action width: the network has 7, the pipeline 10"):
        load_policy(str(folder), replace(OFT, statistics="fixture_ten_dims_no_mask"))


def test_no_tensor_is_read_before_the_guess_is_confirmed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    def read(*_: object) -> None:
        raise AssertionError("15 GB were read for nothing")

    monkeypatch.setattr(local, "load_source", read)
    with pytest.raises(UserError, match="does not say what its numbers mean"):
        load_policy(str(checkpoint), PolicyOptions(statistics="bridge_orig"))


def test_options_of_openvla_are_refused_by_a_policy_of_our_own():
    if not (policy_folder("shipped") / "model.safetensors").is_file():
        pytest.skip("no shipped policy")
    assert isinstance(load_policy("shipped", PolicyOptions(device="cpu", precision="fp32")), LocalPolicy)
    with pytest.raises(UsageError, match="'shipped' is no OpenVLA checkpoint.*leave out --statistics, --ids"):
        load_policy("shipped", PolicyOptions(statistics="x", ids="constrained"))


def test_ids_of_policies_tell_weights_and_statistics_apart(
    tmp_path: Path, checkpoint: Path, linked: Callable[..., Path]
):
    def policy_id(folder: Path, **changes: Any) -> str:
        return load(folder, replace(BRIDGE, **changes)).policy_id

    first = policy_id(checkpoint)
    assert first == policy_id(checkpoint)
    others = [
        policy_id(checkpoint, statistics="fixture_partial_mask"),
        policy_id(checkpoint, images="evaluation"),
        policy_id(checkpoint, ids="constrained"),
        policy_id(linked(config="config_rms_norm_eps_1e-5.json")),
    ]
    assert len({first, *others}) == 5
