"""Fine-tuning an OpenVLA with LoRA: what is learned from, how it is measured, and what comes out."""

import inspect
import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ideomotor.cli.main import run as command
from ideomotor.core import jsonable
from ideomotor.core.errors import UsageError, UserError
from ideomotor.core.files import write_json
from ideomotor.core.log import read_lines
from ideomotor.core.spec import ChunkLength, Embodiment
from ideomotor.core.types import Episode, Observation
from ideomotor.data.augment import Augment, augment
from ideomotor.data.dataset import Dataset
from ideomotor.data.lerobot.writer import DatasetWriter
from ideomotor.data.norm_stats import NormStatistics
from ideomotor.data.opening import open_dataset
from ideomotor.data.resize import Trained, centre_crop, lanczos3
from ideomotor.model.config import (
    DiffusionHead,
    L1Head,
    LanguageConfig,
    OpenVLAConfig,
    Parallel,
    PatchStem,
    TokenHead,
    Tower,
    VisionConfig,
)
from ideomotor.model.openvla import OpenVLA, with_film
from ideomotor.model.openvla_weights import load_openvla, write_openvla
from ideomotor.model.presets import HALF
from ideomotor.model.tensors import InMemory
from ideomotor.pipeline.openvla import OpenVLAPipeline
from ideomotor.pipeline.openvla_config import OneByOne, OpenVLAPipelineConfig, SlotIds, SlotNumbers
from ideomotor.policy.local import OpenVLAPolicy, Prediction, load_policy
from ideomotor.recipes.train import openvla_lora
from ideomotor.tokenize.llama import LlamaTokenizer
from ideomotor.train import report
from ideomotor.train.checkpoint import complete_checkpoints
from ideomotor.train.config import Everything, Lora, TrainConfig
from ideomotor.train.family import open_data, open_learner
from ideomotor.train.loop import run
from ideomotor.train.openvla import TokenLearner
from ideomotor.train.openvla_batches import TokenData, load_token_data
from ideomotor.train.optim import build_optimizer, learning_rate
from ideomotor.train.parallel import Group, StopRequest, launch

OPENX = Path(__file__).parents[1] / "data" / "files" / "openx"
VISION = VisionConfig(PatchStem(14), 28, 16, 2, 2, 32, output_block=0)
TINY = OpenVLAConfig((Tower(VISION, *HALF),), LanguageConfig(32064, 16, 1, 2, 2, 24))
SLOTS = {"horizon": 2, "action_width": 7, "state_width": 10}
HEADS = {
    "ids": Parallel(head=TokenHead(), **SLOTS),
    "l1": Parallel(head=L1Head(1), **SLOTS),
    "diffusion": Parallel(head=DiffusionHead(1, 10, 5), **SLOTS),
}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("XDG_CACHE_HOME") if before is None else os.environ.update(XDG_CACHE_HOME=before)


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than a step of these networks."""
    monkeypatch.setattr(report, "draw_curves", lambda *_: None)


@pytest.fixture(scope="session")
def checkpoint(fixtures: Path) -> Path:
    return fixtures / "openvla-parity-a" / "checkpoint"


def settings(checkpoint: Path, dataset: Path | str, out: Path, **changes: object) -> TrainConfig:
    config = openvla_lora(str(checkpoint), str(dataset), str(out))
    return replace(
        config, **{"batch": 4, "steps": 2, "processes": 1, "precision": "fp32", "validation_share": 0.25} | changes
    )


def write_tiny(folder: Path, config: OpenVLAConfig, embodiment: Embodiment, tokenizer: Path) -> Path:
    """Write an untrained OpenVLA in our own layout."""
    torch.manual_seed(0)
    write_openvla(config, InMemory(OpenVLA(config).state_dict()), folder, "ideomotor")
    how = config.decoding
    parallel = isinstance(how, Parallel)
    numbers = {name: [value] * 7 for name, value in (("min", -1.0), ("max", 1.0), ("q01", -1.0), ("q99", 1.0))}
    state = {name: value[:1] * 10 for name, value in numbers.items()}
    chunk = how.horizon if isinstance(how, Parallel) else 1
    OpenVLAPipeline(
        OpenVLAPipelineConfig(
            cameras=("front", "wrist")[: config.cameras],
            image_size=28,
            statistics="before",
            output=OneByOne() if not parallel else SlotIds() if isinstance(how.head, TokenHead) else SlotNumbers(),
            chunk=ChunkLength(chunk, chunk),
            state="bounds_q99" if parallel else None,
            widening=1e-8 if parallel else 0.0,
        ),
        embodiment,
        NormStatistics({"before": {"action": numbers, "proprio": state}}),
        LlamaTokenizer.from_file(tokenizer / "tokenizer.json"),
    ).save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(fixtures: Path, embodiment: Embodiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained OpenVLA of half a million weights, nearly all of them the vocabulary's. Only to be read."""
    return write_tiny(tmp_path_factory.mktemp("tiny") / "base", TINY, embodiment, fixtures / "llama2-tokenizer")


# ------------------------------------------------------------------------------------------------ data


def test_the_statistics_of_the_training_episodes_stand_under_their_own_key(checkpoint: Path, dataset: Path) -> None:
    data = load_token_data(settings(checkpoint, dataset, Path("unused")), checkpoint)
    config, statistics = data.pipeline.config, data.pipeline.statistics
    assert config.statistics == "synthetic"
    before = json.loads((checkpoint / "dataset_statistics.json").read_text())
    assert {key: entry for key, entry in statistics.to_json().items() if key != "synthetic"} == before
    learned = [e for e in range(12) if e in data.splits[0].train.episodes.tolist()]
    assert len(learned) == 9
    actions = np.concatenate([open_dataset(dataset).column(e, "action") for e in learned]).astype(np.float64)
    entry = statistics.to_json()["synthetic"]
    np.testing.assert_allclose(entry["action"]["q01"], np.quantile(actions, 0.01, axis=0), atol=1e-7)
    np.testing.assert_allclose(entry["action"]["q99"], np.quantile(actions, 0.99, axis=0), atol=1e-7)
    assert entry["action"]["mask"] == [True] * 6 + [False]  # the gripper, 0 or 1
    assert (entry["num_transitions"], entry["num_trajectories"]) == (108, 9)
    assert data.pipeline.embodiment.name == "panda-tabletop"


def test_several_datasets_share_one_entry(checkpoint: Path, dataset: Path, second_dataset: Path) -> None:
    both = settings(checkpoint, f"{dataset},{second_dataset}", Path("unused"), validation_share=0.0)
    data = load_token_data(both, checkpoint)
    assert data.pipeline.config.statistics == "synthetic+second"
    assert data.pipeline.statistics.to_json()["synthetic+second"]["num_trajectories"] == 16


def test_a_mixture_scales_each_body_by_statistics_of_its_own(checkpoint: Path, tmp_path: Path) -> None:
    """Two datasets of Open X-Embodiment whose actions mean different things, one network; both stay usable."""
    for name in ("toto", "viola"):
        shutil.copytree(OPENX / name, tmp_path / "data" / name)
    file = tmp_path / "mix.json"
    file.write_text('{"toto": 1.0, "viola": 1.0}', encoding="utf-8")
    config = settings(checkpoint, file, tmp_path, data_root=str(tmp_path / "data"), validation_share=0.0, batch=8)
    data = load_token_data(config, checkpoint)
    assert [part.config.statistics for part in data.parts] == ["toto", "viola"]
    batch = data.loader.batch(0)
    assert set(batch["body"].tolist()) == {0, 1}
    for row, (source, window) in enumerate(batch["sample"].tolist()):
        number = int(batch["body"][row])
        alone = data.parts[number].encode([data.splits[source].train[window]])
        length = alone["ids"].shape[1]
        np.testing.assert_array_equal(batch["ids"][row, :length], alone["ids"][0])
        np.testing.assert_array_equal(batch["labels"][row, :length], alone["labels"][0])
        assert (batch["ids"][row, length:] == 32000).all()
        assert (batch["labels"][row, length:] == -100).all()
    data.pipeline.save(tmp_path / "saved")
    again = OpenVLAPipeline.load(tmp_path / "saved")
    assert again.embodiment.name == "openx-toto"
    other = again.using("viola")
    assert other.embodiment.name == "openx-viola"
    assert other.guess is None


def test_a_version_is_no_name_of_a_dataset(checkpoint: Path, fixtures: Path) -> None:
    folder = fixtures / "bridge-rlds-train" / "bridge_dataset"
    for path in (folder, folder / "1.0.0"):
        data = load_token_data(settings(checkpoint, path, Path("unused")), checkpoint)
        assert data.pipeline.config.statistics == "bridge_dataset"
        assert data.pipeline.config.cameras == ("primary",)  # the standard form of bridge_orig


def test_learned_frames_are_resized_by_lanczos_and_augmented_by_their_sample_number(
    checkpoint: Path, dataset: Path
) -> None:
    config = settings(checkpoint, dataset, Path("unused"), seed=5)
    data = load_token_data(config, checkpoint)
    batch = data.loader.batch(3)
    number = 3 * config.batch + 2
    episode, frame = data.splits[0].train.place(int(batch["sample"][2, 1]))
    plain = lanczos3(open_dataset(dataset).image(episode, frame, "front"), 56)
    expected = augment(plain[None, None], Augment(), 5, np.array([number]))[0]
    np.testing.assert_array_equal(batch["images"][2], expected)
    off = load_token_data(replace(config, stage=Lora(augment="none")), checkpoint)
    np.testing.assert_array_equal(off.loader.batch(3)["images"][2, 0], plain)


def test_held_out_frames_are_cropped_as_in_evaluation_where_learned_ones_are_augmented(
    checkpoint: Path, dataset: Path
) -> None:
    config = settings(checkpoint, dataset, Path("unused"))
    data = load_token_data(config, checkpoint)
    arrays = next(iter(data.evaluated(0, 1)))
    episode, frame = data.splits[0].held_out.place(int(arrays["sample"][1, 1]))
    plain = lanczos3(open_dataset(dataset).image(episode, frame, "front"), 56)
    np.testing.assert_array_equal(arrays["images"][1, 0], centre_crop(plain, 0.9))
    off = load_token_data(replace(config, stage=Lora(augment="none")), checkpoint)
    np.testing.assert_array_equal(next(iter(off.evaluated(0, 1)))["images"][1, 0], plain)
    assert off.pipeline.config.arrival == Trained(56)


def test_loader_workers_make_the_same_batches(tiny: Path, dataset: Path) -> None:
    config = settings(tiny, dataset, Path("unused"))
    here = load_token_data(config, tiny).loader
    there = load_token_data(replace(config, workers=1), tiny).loader
    for ours, theirs in zip(here.batches(0, stop=3), there.batches(0, stop=3), strict=True):
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_the_network_sees_the_cameras_that_are_asked_for(tiny: Path, dataset: Path) -> None:
    config = settings(tiny, dataset, Path("unused"), stage=Lora(cameras="wrist", augment="none"))
    data = load_token_data(config, tiny)
    source = data.splits[0].train
    episode, frame = source.place(0)
    expected = lanczos3(open_dataset(dataset).image(episode, frame, "wrist"), 28)
    np.testing.assert_array_equal(data.some(1)["images"][0, 0], expected)
    assert data.pipeline.config.cameras == ("wrist",)


# ------------------------------------------------------------------------------------------------ learning


def observations(data: Dataset, count: int) -> tuple[list[str], list[Observation]]:
    """The first frames of a dataset, as a robot would see them."""
    width = data.features["observation.state"].shape[0]
    places = [(e, f) for e in range(len(data)) for f in range(data.length(e))][:count]
    seen = [
        Observation(0.0, {role: data.image(e, f, role) for role in data.cameras}, np.zeros(width)) for e, f in places
    ]
    return [data.instruction(e) for e, _ in places], seen


def predicted(policy: str, instructions: list[str], seen: list[Observation]) -> list[Prediction]:
    loaded = load_policy(policy)
    assert isinstance(loaded, OpenVLAPolicy)
    return loaded.predict(instructions, seen)


def curve(out: Path) -> list[float]:
    """Shares of right action ids among what was learned, over the run."""
    return [line["accuracy"] for line in read_lines(out / "log.jsonl") if line["kind"] == "train"]


def assert_acts_as_trained(config: TrainConfig, key: str) -> list[Prediction]:
    """Un-merged checkpoint, merged policy and plain peft are one policy, which uses its own statistics; return what it does."""
    out = Path(config.out)
    instructions, seen = observations(open_dataset(config.data), 8)
    merged = predicted(str(out), instructions, seen)
    unmerged = predicted(str(complete_checkpoints(out)[-1]), instructions, seen)
    for ours, theirs in zip(merged, unmerged, strict=True):
        assert ours.ids is not None
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_array_equal(ours.actions, theirs.actions)
    statistics = json.loads((out / "final" / "statistics.json").read_text())[key]["action"]
    low, high, mask = (np.array(statistics[name]) for name in ("q01", "q99", "mask"))
    assert merged[0].ids is not None
    centre = -1.0 + (2.0 * np.clip(31999 - merged[0].ids[0], 0, 254) + 1.0) / 255.0  # arXiv 2406.09246
    expected = np.where(mask, 0.5 * (centre + 1.0) * (high - low) + low, centre)  # arXiv 2406.09246
    np.testing.assert_allclose(merged[0].actions[0], expected, atol=1e-12)
    return merged


def assert_plain_peft_gives_the_same_logits(config: TrainConfig) -> None:
    """The adapter on the untouched base, through peft alone, against our merged network."""
    from peft import PeftModel

    out = Path(config.out)
    data = open_data(config, Path(config.init))
    learner = open_learner(config, data, Path(config.init), Group())
    assert isinstance(learner, TokenLearner)
    batch = learner.batch(data.some(4))
    base = load_openvla(Path(config.init), dtype=torch.float32)
    ours = load_openvla(out / "final", dtype=torch.float32)
    with torch.no_grad():
        untouched = base.supervised(batch, base(batch))[0]
        theirs = PeftModel.from_pretrained(base, str(out / "final" / "lora_adapter")).base_model.model
        assert isinstance(theirs, OpenVLA)
        expected = theirs.supervised(batch, theirs(batch))[0]
        torch.testing.assert_close(ours.supervised(batch, ours(batch))[0], expected, rtol=1e-4, atol=1e-3)
        assert float((untouched - expected).abs().max()) > 1.0


def test_eight_frames_are_learned_by_heart_and_the_policy_acts_so(
    checkpoint: Path, few_frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "LOG_EVERY", 1)
    config = settings(checkpoint, few_frames, tmp_path / "run", batch=8, steps=30, learning_rate=4e-3)
    config = replace(config, stage=Lora(augment="none"), warm_up=5, final_share=0.1, validation_share=0.0)
    assert run(config, Group(), StopRequest())
    learned = curve(tmp_path / "run")
    assert learned[0] < 0.15  # chance is 1/256
    assert learned[-1] > 0.95
    data = open_dataset(few_frames)
    for i, said in enumerate(assert_acts_as_trained(config, "few-frames")):
        truth = data.column(i // 4, "action")[i % 4]
        np.testing.assert_allclose(said.actions[0, :6], truth[:6], atol=2e-3)
        np.testing.assert_allclose(said.actions[0, 6], truth[6], atol=0.02)
    assert_plain_peft_gives_the_same_logits(config)
    notes = [line["text"] for line in read_lines(tmp_path / "run" / "log.jsonl") if line["kind"] == "note"]
    assert re.search(r"merging moved outputs by at most .* in float32", notes[-1])


@pytest.mark.slow
def test_the_bridge_sample_is_learned_by_heart(checkpoint: Path, fixtures: Path, tmp_path: Path) -> None:
    data = fixtures / "bridge-rlds-train" / "bridge_dataset"
    config = settings(
        checkpoint,
        data,
        tmp_path / "run",
        batch=32,
        steps=160,
        learning_rate=3e-3,
        validation_share=3 / 18,
        eval_every=80,
    )
    config = replace(config, stage=Lora(augment="none"), warm_up=20, final_share=0.01, betas=(0.9, 0.95))
    assert run(config, Group(), StopRequest())
    learned = curve(tmp_path / "run")
    assert learned[0] < 0.1
    assert learned[-1] > 0.9
    assert_acts_as_trained(config, "bridge_dataset")
    assert_plain_peft_gives_the_same_logits(config)
    (*_, last) = [line for line in read_lines(tmp_path / "run" / "log.jsonl") if line["kind"] == "eval"]
    assert set(last["errors"]) == {f"action_{i} [unknown]" for i in range(7)}
    assert last["training"]["accuracy"]["action"] > last["accuracy"]["action"]


@pytest.mark.slow
def test_a_tabletop_dataset_is_learned_with_augmentation(checkpoint: Path, tmp_path: Path) -> None:
    data = tmp_path / "tabletop"
    assert command(["collect", "--out", str(data), "--episodes", "3", "--workers", "1", "--source", "expert"]) == 0
    config = settings(checkpoint, data, tmp_path / "run", batch=32, steps=120, learning_rate=3e-3, validation_share=0.0)
    config = replace(config, warm_up=20, final_share=0.01, betas=(0.9, 0.95))
    assert run(config, Group(), StopRequest())
    learned = curve(tmp_path / "run")
    assert learned[0] < 0.3
    assert learned[-1] > 0.5
    assert_acts_as_trained(config, "tabletop")
    assert_plain_peft_gives_the_same_logits(config)


def test_the_reference_s_settings_are_the_defaults(checkpoint: Path) -> None:
    config = openvla_lora("c", "d", "o")
    assert (config.learning_rate, config.warm_up, config.final_share) == (5e-4, 0, 1.0)  # arXiv 2406.09246
    assert (config.betas, config.weight_decay, config.clip, config.batch) == ((0.9, 0.999), 0.01, 0.0, 16)
    stage = config.stage
    assert isinstance(stage, Lora)
    assert (stage.rank, stage.alpha or min(stage.rank, 16), stage.dropout, stage.augment) == (32, 16, 0.0, "openvla")


def test_the_step_equals_torch_adamw_on_peft_s_parameters(tiny: Path, dataset: Path) -> None:
    config = settings(tiny, dataset, Path("unused"))
    data = open_data(config, tiny)
    ours, theirs = (open_learner(config, data, tiny, Group()) for _ in range(2))
    optimizer = build_optimizer(ours.network, config)
    learning = [p for p in theirs.network.parameters() if p.requires_grad]
    reference = torch.optim.AdamW(learning, lr=5e-4)
    for step in range(3):
        arrays = data.loader.batch(step)
        optimizer.clear()
        ours.losses(arrays, 0)["loss"].backward()
        optimizer.step(learning_rate(config, step, 3))
        reference.zero_grad()
        theirs.losses(arrays, 0)["loss"].backward()
        reference.step()
    for (name, a), b in zip(ours.network.named_parameters(), theirs.network.parameters(), strict=True):
        # Adapters behind the features get no gradient: torch leaves them alone, we decay their A, whose product with B = 0 stays 0.
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5, msg=name)


def test_the_loss_covers_the_end_and_the_accuracy_the_actions_alone(tiny: Path, few_frames: Path) -> None:
    config = settings(tiny, few_frames, Path("unused"), validation_share=0.0)
    data = load_token_data(config, tiny)
    learner = open_learner(config, data, tiny, Group())
    assert isinstance(learner, TokenLearner)
    arrays = data.loader.batch(0)
    labels = arrays["labels"]
    assert (labels != -100).sum() == 4 * 8
    assert (labels == 2).sum() == 4
    batch = learner.batch(arrays)
    with torch.no_grad():
        hidden = learner.network(batch)
        states = hidden[:, -labels.shape[1] : -1]
        logits = learner.network.language_model.lm_head(states)
        expected = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), torch.from_numpy(labels[:, 1:]).flatten(), ignore_index=-100
        )
        right = (logits.argmax(-1).numpy() == labels[:, 1:])[labels[:, 1:] > 31743]
        found = learner.losses(arrays, 0)
        measured = learner.measure(arrays)
    assert float(found["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(found["accuracy"]) == pytest.approx(right.mean())
    assert measured["accuracy.action"] == (right.sum(), 4 * 7)


# ------------------------------------------------------------------------------------------------ heads of OFT


@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_networks_with_slots_are_fine_tuned_and_continue(
    head: str, film: bool, fixtures: Path, embodiment: Embodiment, dataset: Path, tmp_path: Path
) -> None:
    config = replace(TINY, decoding=HEADS[head], cameras=2)
    config = with_film(config) if film else config
    base = write_tiny(tmp_path / "base", config, embodiment, fixtures / "llama2-tokenizer")
    out = tmp_path / "run"
    wanted = settings(base, dataset, out, steps=2, validation_windows=4, checkpoint_every=2)
    assert run(wanted, Group(), StopRequest())
    (last,) = complete_checkpoints(out)
    assert (last / "heads.safetensors").exists()  # at least the projector of the state
    instructions, seen = observations(open_dataset(dataset), 2)
    seen = [replace(one, state=np.zeros(10)) for one in seen]
    for ours, theirs in zip(
        predicted(str(out), instructions, seen), predicted(str(last), instructions, seen), strict=True
    ):
        assert ours.actions.shape == (2, 7)
        np.testing.assert_allclose(ours.actions, theirs.actions, atol=1e-5)


def test_chunks_that_reach_beyond_their_episode_are_not_learned(
    fixtures: Path, embodiment: Embodiment, few_frames: Path, tmp_path: Path
) -> None:
    config = replace(TINY, decoding=HEADS["l1"], cameras=2)
    base = write_tiny(tmp_path / "base", config, embodiment, fixtures / "llama2-tokenizer")
    data = load_token_data(settings(base, few_frames, Path("unused"), validation_share=0.5), base)
    frames = {int(element) for step in range(8) for element in data.loader.batch(step)["sample"][:, 1]}
    assert frames == {0, 1, 2}  # of four; the last one has no second action
    assert [i for _, i in data.held_out] == [0, 1, 2]


# ------------------------------------------------------------------------------------------------ runs


class StopAfter(StopRequest):
    """Asks to stop when it has been looked at so many times, that is in that step."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    @property
    def received(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._left -= 1
        return self._left < 0


def test_a_stopped_run_continues_to_the_same_end(tiny: Path, dataset: Path, tmp_path: Path) -> None:
    whole = settings(tiny, dataset, tmp_path / "whole", steps=4, stage=Lora(rank=4, dropout=0.1), validation_windows=4)
    parts = replace(whole, out=str(tmp_path / "parts"))
    assert run(whole, Group(), StopRequest())
    assert not run(parts, Group(), StopAfter(1))
    assert run(replace(parts, resume=True), Group(), StopRequest())
    ends = [complete_checkpoints(Path(config.out))[-1] for config in (whole, parts)]
    for name in (
        "adapter_model.safetensors",
        "adapter_config.json",
        "statistics.json",
        "training/optimizer.safetensors",
    ):
        assert (ends[0] / name).read_bytes() == (ends[1] / name).read_bytes(), name
    finals = [Path(config.out) / "final" / "model.safetensors" for config in (whole, parts)]
    assert finals[0].read_bytes() == finals[1].read_bytes()


def test_a_checkpoint_holds_what_learned_and_names_the_rest(tiny: Path, dataset: Path, tmp_path: Path) -> None:
    config = settings(tiny, dataset, tmp_path / "run", checkpoint_every=2)
    assert run(config, Group(), StopRequest())
    (folder,) = complete_checkpoints(tmp_path / "run")
    assert not (folder / "model.safetensors").exists()
    assert json.loads((folder / "base.json").read_text())["path"] == str(tiny.resolve())
    names = load_file(folder / "training" / "optimizer.safetensors")
    assert all(".lora_" in name for name in names if name != "steps")
    policy = load_policy(str(folder))
    assert policy.embodiment.name == "panda-tabletop"
    final = load_file(tmp_path / "run" / "final" / "model.safetensors")
    assert final.keys() == load_file(tiny / "model.safetensors").keys()


@pytest.mark.parametrize(("merged", "dtype"), [("auto", torch.float32), ("stored", torch.bfloat16)])
def test_trained_weights_are_rounded_only_as_asked_for(
    checkpoint: Path, few_frames: Path, tmp_path: Path, merged: str, dtype: torch.dtype
) -> None:
    config = settings(checkpoint, few_frames, tmp_path / "run", steps=1, validation_share=0.0)
    config = replace(config, stage=Lora(rank=2, merged=merged))  # pyright: ignore[reportArgumentType]
    assert run(config, Group(), StopRequest())
    assert {w.dtype for w in load_file(tmp_path / "run" / "final" / "model.safetensors").values()} == {dtype}


def test_bf16_runs_hold_the_base_as_it_is_stored(checkpoint: Path, few_frames: Path, tmp_path: Path) -> None:
    config = settings(checkpoint, few_frames, tmp_path / "run", steps=2, validation_share=0.0, precision="bf16")
    data = open_data(config, checkpoint)
    learner = open_learner(config, data, checkpoint, Group())
    learner.prepare("bf16", Group())
    held = {name: p.dtype for name, p in learner.network.named_parameters()}
    assert all(dtype == (torch.float32 if ".lora_" in name else torch.bfloat16) for name, dtype in held.items())
    assert run(config, Group(), StopRequest())
    assert len(predicted(str(tmp_path / "run"), *observations(open_dataset(few_frames), 1))) == 1


def flat_gradient(config: TrainConfig, start: Path, group: Group) -> torch.Tensor:
    """Return the gradient of the first batch, averaged over the group."""
    data = open_data(config, start)
    learner = open_learner(config, data, start, group)
    learner.prepare("fp32", group)
    optimizer = build_optimizer(learner.network, config)
    optimizer.clear()
    learner.losses(data.loader.batch(0, group.rank, group.world), 0)["loss"].backward()
    optimizer.average({}, group)
    return optimizer.gradient_P.clone()


RANK = f"""
import sys
from pathlib import Path

import torch

from ideomotor.train.config import TrainConfig
from ideomotor.train.family import open_data, open_learner
from ideomotor.train.loop import read_config
from ideomotor.train.optim import build_optimizer
from ideomotor.train.optim import build_optimizer, learning_rate
from ideomotor.train.parallel import Group, joined

{inspect.getsource(flat_gradient)}

path, out, rank, world, store, errors = sys.argv[1:]
config = read_config(Path(path))
with joined(int(rank), int(world), Path(store)) as group:
    torch.save(flat_gradient(config, Path(config.init), group), f"{{out}}-{{rank}}.pt")
"""


def test_two_processes_have_the_gradient_of_one(
    tiny: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_gradient.py").write_text(RANK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    config = settings(tiny, dataset, tmp_path / "run", batch=8)
    open_data(config, tiny)  # frames are decoded once
    write_json(tmp_path / "config.json", jsonable.to_json(config))
    launch("a_gradient", [str(tmp_path / "config.json"), str(tmp_path / "rank")], 2)
    two = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2)]
    one = flat_gradient(config, tiny, Group())
    assert float(one.abs().max()) > 1e-3
    assert torch.equal(two[0], two[1])
    torch.testing.assert_close(two[0], one, rtol=1e-4, atol=1e-6)


def test_the_command_fine_tunes_and_the_policy_is_ready(tiny: Path, few_frames: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["train", "--init", str(tiny), "--lora", "--data", str(few_frames), "--out", str(out)]
    assert (
        command(
            [
                *arguments,
                "--steps",
                "2",
                "--batch",
                "2",
                "--stage.rank",
                "8",
                "--processes",
                "1",
                "--validation-share",
                "0.5",
            ]
        )
        == 0
    )
    assert json.loads((out / "final" / "lora_adapter" / "adapter_config.json").read_text())["r"] == 8
    assert (out / "curves.png").stat().st_size > 1000
    assert load_policy(str(out)).embodiment.name == "panda-tabletop"


# ------------------------------------------------------------------------------------------------ refusals


def test_what_does_not_fit_is_refused_with_a_remedy(tiny: Path, dataset: Path, tmp_path: Path) -> None:
    from ideomotor.policy.local import SHIPPED

    config = settings(tiny, dataset, tmp_path / "run")
    for changes, start, words in (
        ({"init": ""}, None, "name its folder with --init"),
        ({"word_noise": 0.3, "brightness": 0.4}, tiny, "--word-noise, --brightness: for networks with learned slots"),
        ({"preset": "tiny"}, tiny, "--preset"),
        ({"stage": Lora(cameras="side")}, tiny, "unknown camera of the data 'side'; known: front, wrist"),
        ({"stage": Lora(cameras="front,wrist")}, tiny, "this network sees 1 images at once"),
        ({"stage": Everything()}, tiny, "is an OpenVLA, which is fine-tuned with --lora"),
        ({}, SHIPPED, "no OpenVLA"),
    ):
        with pytest.raises(UserError, match=words):
            open_data(replace(config, **changes), start)
    with pytest.raises(UsageError, match=r"no GPU here|"):
        open_learner(replace(config, stage=Lora(device="cuda")), open_data(config, tiny), tiny, Group())


def test_the_command_line_refuses_two_stages(
    tiny: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--lora", "--init", str(tiny), "--data", str(dataset), "--out", str(tmp_path / "run")]
    assert command([*arguments, "stage:vision"]) == 2
    assert "--lora is a stage of its own; leave out stage:vision" in capsys.readouterr().err


def test_an_adapter_is_no_start_of_another_run(tiny: Path, dataset: Path, tmp_path: Path) -> None:
    assert run(settings(tiny, dataset, tmp_path / "run", steps=1), Group(), StopRequest())
    (folder,) = complete_checkpoints(tmp_path / "run")
    with pytest.raises(UsageError, match="is an adapter beside its base model; give a merged policy"):
        open_data(settings(folder, dataset, tmp_path / "other"), folder)


def test_heads_for_another_body_are_refused(
    fixtures: Path, embodiment: Embodiment, episode: Episode, tmp_path: Path
) -> None:
    base = write_tiny(
        tmp_path / "base", replace(TINY, decoding=HEADS["l1"], cameras=2), embodiment, fixtures / "llama2-tokenizer"
    )
    shorter = replace(embodiment, state=embodiment.state[:9])
    steps = [
        replace(step, observation=replace(step.observation, state=step.observation.state[:9]), labels={})
        for step in episode.steps
    ]
    with DatasetWriter(tmp_path / "data", shorter) as writer:
        writer.add_episode(replace(episode, embodiment=shorter, steps=steps))
    config = settings(base, tmp_path / "data", tmp_path / "run", validation_share=0.0)
    with pytest.raises(UserError, match=r"has states of 10 numbers, the data \(panda-tabletop\) of 9"):
        load_token_data(config, base)


def test_data_are_small_to_send_to_loader_workers(tiny: Path, dataset: Path) -> None:
    data = load_token_data(settings(tiny, dataset, Path("unused")), tiny)
    assert isinstance(data, TokenData)
    assert len(pickle.dumps(data.loader)) < 5_000_000
    assert "torch" in sys.modules


def test_what_the_base_said_survives_training_and_the_way_back(
    checkpoint: Path, few_frames: Path, tmp_path: Path
) -> None:
    """A conversation prompt and a letterbox stand in OpenVLA's own files alone; losing them gives wrong actions without an error."""
    base = tmp_path / "base"
    base.mkdir()
    for file in checkpoint.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    for name, fields in (
        ("config.json", {"llm_backbone_id": "vicuna-v15-7b", "image_resize_strategy": "letterbox"}),
        ("preprocessor_config.json", {"image_resize_strategy": "letterbox", "tvf_letterbox_fill": [127, 127, 127]}),
    ):
        write_json(base / name, json.loads((base / name).read_text()) | fields)
    config = settings(base, few_frames, tmp_path / "run", steps=1, validation_share=0.0)
    assert run(replace(config, stage=Lora(rank=2)), Group(), StopRequest())
    for source, out in ((tmp_path / "run", "final"), (tmp_path / "run" / "final" / "lora_adapter", "adapter")):
        assert command(["weights", "convert", str(source), "--to", "hf", "--out", str(tmp_path / out)]) == 0
        back = json.loads((tmp_path / out / "config.json").read_text())
        assert back["llm_backbone_id"] == "vicuna-v15-7b"
        assert back["timm_model_ids"] == json.loads((checkpoint / "config.json").read_text())["timm_model_ids"]
        preprocessor = json.loads((tmp_path / out / "preprocessor_config.json").read_text())
        assert preprocessor["image_resize_strategy"] == "letterbox"
        assert preprocessor["tvf_letterbox_fill"] == [127, 127, 127]
        known = json.loads((tmp_path / out / "dataset_statistics.json").read_text())
        assert few_frames.name in known
        assert "bridge_orig" in known
