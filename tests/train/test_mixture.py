"""Mixtures of different bodies: other widths, cameras and rates in one run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ideomotor.core.errors import UsageError, UserError
from ideomotor.data import cache as cache_module
from ideomotor.data.windows import Window
from ideomotor.model.batch import Batch
from ideomotor.pipeline.bodies import BodiesPipeline, bodies_of, encode_by_body
from ideomotor.pipeline.slots import Pipeline
from ideomotor.policy.local import load_policy
from ideomotor.policy.options import PolicyOptions
from ideomotor.train.batches import load_data
from ideomotor.train.config import Everything, TrainConfig
from ideomotor.train.loop import train

OPENX = Path(__file__).parents[1] / "data" / "files" / "openx"
STEPS = 4
TOTO, PANDA = "openx-toto", "panda-tabletop"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache-mixture"))


@pytest.fixture
def mixture(dataset: Path, tmp_path: Path) -> Path:
    """Two thirds of the samples from the tabletop, one from TOTO (one camera, 8 states, 30 Hz)."""
    shutil.copytree(OPENX / "toto", tmp_path / "data" / "toto")
    shutil.copytree(dataset, tmp_path / "data" / "desk")
    file = tmp_path / "mix.json"
    toto, desk = 2 * 5, 144  # frames
    weights = {"toto": 1.0 / toto, "mine": {"weight": 2.0 / desk, "path": "desk"}}
    file.write_text(json.dumps(weights), encoding="utf-8")
    return file


def config(mixture: Path, **more: Any) -> TrainConfig:
    given = TrainConfig(
        data=str(mixture),
        data_root=str(mixture.parent / "data"),
        out=str(mixture.parent / "run"),
        preset="tiny",
        batch=6,
        steps=STEPS,
        checkpoint_every=2,
        eval_every=STEPS,
        validation_share=0.0,
        processes=1,
        precision="fp32",
        brightness=0.0,
        contrast=0.0,
        stage=Everything(),
    )
    return replace(given, **more)


def test_each_body_is_scaled_by_its_own_numbers_and_masked_where_it_has_none(mixture: Path) -> None:
    data = load_data(config(mixture), None)
    assert isinstance(data.pipeline, BodiesPipeline)
    names = data.pipeline.names
    assert set(names) == {TOTO, PANDA}
    batch = data.loader.batch(0)
    toto = batch["body"] == names.index(TOTO)
    assert 0 < toto.sum() < 6
    cameras = data.pipeline.config.cameras
    for camera, there in {"primary": toto, "front": ~toto, "wrist": ~toto}.items():
        np.testing.assert_array_equal(batch["images_mask"][:, cameras.index(camera)], there)
        assert not batch["images"][~there][:, cameras.index(camera)].any()
    np.testing.assert_array_equal(batch["state_mask"].sum(axis=1), np.where(toto, 8, 10))
    for name, rows in ((TOTO, toto), (PANDA, ~toto)):
        part = data.pipeline.part(name)
        assert part is not None
        (source,) = (s.train for s in data.splits if s.train.body == name)
        number = [s.train.body for s in data.splits].index(name)
        for row in np.flatnonzero(rows):
            where, window = batch["sample"][row]
            assert where == number
            np.testing.assert_array_equal(batch["actions"][row], part.encode([source[int(window)]])["actions"][0])
    assert data.loader.shares(0)[0].asked == pytest.approx(1 / 3)


def test_what_a_camera_that_is_not_there_would_show_does_not_matter(mixture: Path) -> None:
    from ideomotor.train.stages import build_network

    settings = config(mixture)
    data = load_data(settings, None)
    network = build_network(settings, data, None).eval()
    arrays = data.loader.batch(0)
    noise = np.random.default_rng(0).integers(0, 255, arrays["images"].shape, np.uint8)
    other = arrays | {"images": np.where(arrays["images_mask"][..., None, None, None], arrays["images"], noise)}
    seen = arrays | {"images_mask": np.ones_like(arrays["images_mask"])}
    with torch.no_grad():
        same, masked, changed = (network(Batch.from_arrays(a))["action"] for a in (arrays, other, seen))
    torch.testing.assert_close(same, masked, rtol=0, atol=0)
    assert not torch.equal(same, changed)


def test_a_run_on_several_bodies_is_saved_continued_and_used_by_each(mixture: Path) -> None:
    whole = train(config(mixture))
    assert bodies_of(whole)[1:] == tuple(name for name in sorted([TOTO, PANDA]) if name != bodies_of(whole)[0])
    with pytest.raises(UsageError, match="knows several bodies; choose one with --statistics"):
        load_policy(str(whole))
    policy = load_policy(str(whole), PolicyOptions(statistics=TOTO))
    assert policy.embodiment.robot == "franka"
    assert load_policy(str(whole), PolicyOptions(statistics=PANDA)).embodiment.robot == "panda"
    run = mixture.parent / "run"
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoints" / f"step-{STEPS:06d}")
    again = train(config(mixture, resume=True))
    assert (again / "model.safetensors").read_bytes() == (run / "final" / "model.safetensors").read_bytes()
    assert isinstance(Pipeline.load(again, TOTO), Pipeline)


def test_chunks_come_at_the_rate_that_is_asked_for(mixture: Path) -> None:
    """TOTO's 30 Hz at 10 Hz: the first three deltas of an episode are one, and the gripper is that of the first."""
    fast, slow = (load_data(config(mixture, rate=rate), None) for rate in (0.0, 10.0))
    (before,), (after,) = ([s.train for s in data.splits if s.train.body == TOTO] for data in (fast, slow))
    raw = before.actions[: before.starts[1]]
    np.testing.assert_allclose(after[0].actions[0][:6], raw[:3, :6].astype(np.float64).sum(axis=0), atol=1e-6)
    assert after[0].actions[0][6] == raw[0, 6]
    for part in slow.pipeline.parts.values():  # pyright: ignore[reportAttributeAccessIssue] (BodiesPipeline)
        assert part.embodiment.rate_hz == 10.0
    assert any("30 Hz -> 10 Hz" in remark for remark in slow.remarks(0, 1))


def test_frames_that_do_not_fit_the_disk_are_decoded_at_every_access(
    mixture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = load_data(config(mixture), None).loader.batch(0)
    monkeypatch.setattr(cache_module, "SMALL", 0)
    monkeypatch.setattr(cache_module, "DISK_SHARE", 0.0)
    data = load_data(config(mixture), None)
    np.testing.assert_array_equal(data.loader.batch(0)["images"], stored["images"])
    assert sum("decoded at every access" in remark for remark in data.remarks(0, 1)) == 2


def test_what_is_missing_stops_the_run_and_is_named(mixture: Path) -> None:
    shutil.rmtree(mixture.parent / "data" / "toto")
    with pytest.raises(
        UserError, match=r"1 of the 2 datasets of the mixture .* are missing below .*\n  toto: not on disk"
    ):
        load_data(config(mixture), None)
    with pytest.raises(UsageError, match="openvla-first is a mixture; name the folder that holds its datasets"):
        load_data(TrainConfig(data="openvla-first", out="unused"), None)
    with pytest.raises(UsageError, match="states its weights itself"):
        load_data(config(mixture, weights="1,2"), None)


def test_a_damaged_shard_stops_the_run_unless_what_is_whole_is_asked_for(mixture: Path) -> None:
    shard = next((mixture.parent / "data" / "toto").rglob("*.tfrecord*"))
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"record 1 at byte \d+ is damaged"):
        load_data(config(mixture), None)
    data = load_data(config(mixture, salvage=True), None)
    assert [len(split.train.episodes) for split in data.splits if split.train.body == TOTO] == [1]


def test_a_policy_of_one_body_does_not_start_a_run_on_others(mixture: Path, dataset: Path) -> None:
    single = train(config(mixture, data=str(dataset), out=str(mixture.parent / "one"), steps=1))
    with pytest.raises(
        UserError, match="knows the bodies panda-tabletop, and not all of the data: openx-toto, panda-tabletop"
    ):
        load_data(config(mixture), single)


def test_arrays_of_several_bodies_are_joined_by_hand() -> None:
    """Body 0 gives rows of two numbers, body 1 of three; ids are padded by <PAD>, labels by -100, masks by False."""

    def encoder(width: int) -> Any:
        def encode(windows: list[Window]) -> dict[str, np.ndarray]:
            first = np.array([window.state[0] for window in windows], int)
            rows = 10 * first[:, None] + np.arange(width)
            return {"ids": rows, "labels": rows, "mask": rows > -1, "flat": first + 0.5}

        return encode

    nothing = np.zeros((1, 1), np.float32)
    windows = [Window({}, np.array([n], np.float32), "", nothing, np.zeros(1, bool), {}) for n in (1, 2, 3)]
    joined = encode_by_body(windows, [encoder(2), encoder(3)], np.array([1, 0, 1]))
    np.testing.assert_array_equal(joined["ids"], [[10, 11, 12], [20, 21, 32000], [30, 31, 32]])
    np.testing.assert_array_equal(joined["labels"], [[10, 11, 12], [20, 21, -100], [30, 31, 32]])
    np.testing.assert_array_equal(joined["mask"], [[True] * 3, [True, True, False], [True] * 3])
    np.testing.assert_array_equal(joined["flat"], [1.5, 2.5, 3.5])
