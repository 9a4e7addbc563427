from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ideomotor.core.errors import UserError
from ideomotor.core.log import read_lines
from ideomotor.train.batches import load_data
from ideomotor.train.config import TrainConfig, Vision
from ideomotor.train.loop import run
from ideomotor.train.metrics import evaluate
from ideomotor.train.parallel import Group, StopRequest
from ideomotor.train.stages import SlotLearner, build_network


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache-metrics"))


def config(dataset: Path) -> TrainConfig:
    return TrainConfig(
        data=str(dataset), out="unused", preset="tiny", batch=4, validation_share=0.25, processes=1, precision="fp32"
    )


def test_the_error_in_metres_is_that_of_the_chunks_computed_one_by_one(dataset: Path) -> None:
    data = load_data(config(dataset), None)
    learner = SlotLearner(build_network(config(dataset), data, None), config(dataset), data.pipeline, None)
    found = evaluate(learner, data, Group(), "fp32")
    errors, hits, tokens = [], 0, 0
    learner.network.eval()
    for d, i in data.held_out:
        window = data.splits[d].held_out[i]
        arrays = data.pipeline.encode([window])
        batch = learner.batch(arrays)
        errors.append(
            np.abs(data.pipeline.decode(learner.network.chunk(batch).numpy())[0, :, 0] - window.actions[:, 0])
        )
        with torch.no_grad():
            hidden = learner.network(batch)["action"]
            head = learner.network.config.head
            bins = learner.network.language_model.logits(hidden, head.first_id, head.bins).argmax(-1)[0].numpy()
        wanted = np.round((arrays["actions"].reshape(-1) + 1) / 2 * 255)  # bin v stands for -1 + 2 v / 255
        mask = arrays["actions_mask"].reshape(-1)
        hits, tokens = hits + int((bins == wanted)[mask].sum()), tokens + int(mask.sum())
    assert found["errors"]["ee_delta_x [m]"] == pytest.approx(float(np.mean(errors)), rel=2e-2)
    assert found["accuracy"]["action"] == pytest.approx(hits / tokens, abs=1e-6)


def test_only_the_tower_and_its_readings_learn_in_the_vision_stage(dataset: Path, tmp_path: Path) -> None:
    settings = replace(config(dataset), stage=Vision(), out=str(tmp_path / "run"), steps=2, validation_share=0.0)
    data = load_data(settings, None)
    before = build_network(settings, data, None).state_dict()
    assert run(settings, Group(), StopRequest())
    after = build_network(settings, data, tmp_path / "run" / "final").state_dict()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"vision_backbone", "patch_heads"}


def test_a_run_with_a_time_limit_fits_its_steps_and_ends_at_the_final_rate(dataset: Path, tmp_path: Path) -> None:
    settings = replace(
        config(dataset), out=str(tmp_path / "run"), steps=100_000, max_minutes=0.001, validation_share=0.0, warm_up=5
    )
    assert run(settings, Group(), StopRequest())
    trained = [line for line in read_lines(tmp_path / "run" / "log.jsonl") if line["kind"] == "train"]
    assert trained[-1]["step"] == 21  # the time was up at the end of the calibration; one step is left
    assert trained[-1]["learning_rate"] < 0.05 * settings.learning_rate


def test_a_gradient_that_explodes_stops_the_run_with_a_remedy(dataset: Path, tmp_path: Path) -> None:
    settings = replace(
        config(dataset), out=str(tmp_path / "run"), steps=50, learning_rate=1e30, warm_up=0, validation_share=0.0
    )
    with pytest.raises(UserError, match=r"step \d+: the gradient is not finite.*--learning-rate"):
        run(settings, Group(), StopRequest())
