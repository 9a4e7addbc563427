import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ideomotor.core.errors import UserError
from ideomotor.train.checkpoint import (
    Progress,
    check_data,
    complete_checkpoints,
    new_checkpoint,
    restore,
    room_on_disk,
)
from ideomotor.train.config import TrainConfig

OPTIMIZER = {"steps": torch.tensor([3]), "mean.w": torch.tensor([0.5, -0.5])}


def config(out: Path) -> TrainConfig:
    return TrainConfig(data="somewhere", out=str(out), keep=2)


def progress(step: int) -> Progress:
    return Progress(step=step, steps=100, precision="fp32", precision_reason="", processes=2, mixture="abc")


def save(out: Path, step: int) -> None:
    with new_checkpoint(config(out), progress(step), OPTIMIZER) as folder:
        (folder / "model.safetensors").write_bytes(b"weights")


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 10)
    restored = restore(config(tmp_path))
    assert restored is not None
    assert restored.progress == progress(10)
    assert torch.equal(restored.optimizer["mean.w"], OPTIMIZER["mean.w"])
    assert (restored.folder / "model.safetensors").read_bytes() == b"weights"


def test_the_newest_two_stay(tmp_path: Path) -> None:
    for step in (10, 9990, 1000000, 20):
        save(tmp_path, step)
    assert [folder.name for folder in complete_checkpoints(tmp_path)] == ["step-009990", "step-1000000"]


def test_a_half_written_checkpoint_is_ignored_and_removed(tmp_path: Path) -> None:
    save(tmp_path, 10)
    half = tmp_path / "checkpoints" / ".step-000020.4711.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"wei")
    restored = restore(config(tmp_path))
    assert restored is not None
    assert restored.progress.step == 10
    assert not half.exists()


def save_on_a_full_disk(out: Path) -> None:
    with room_on_disk(out), new_checkpoint(config(out), progress(20), OPTIMIZER) as folder:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    save(tmp_path, 10)
    with pytest.raises(UserError, match="no space left on the disk.*step-000010"):
        save_on_a_full_disk(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000010"]


def test_a_run_without_checkpoints_begins_at_the_beginning(tmp_path: Path) -> None:
    assert restore(config(tmp_path)) is None


def test_another_configuration_is_refused_with_both_sides(tmp_path: Path) -> None:
    save(tmp_path, 10)
    with pytest.raises(UserError, match=r"batch: the run has 128, you ask for 64(.|\n)*--init"):
        restore(replace(config(tmp_path), batch=64))


def test_fields_that_change_no_weight_may_differ(tmp_path: Path) -> None:
    save(tmp_path, 10)
    assert restore(replace(config(tmp_path), resume=True, checkpoint_every=7, workers=3, keep=1)) is not None


def test_another_number_of_processes_is_refused_but_automatic_is_not(tmp_path: Path) -> None:
    save(tmp_path, 10)
    assert restore(replace(config(tmp_path), processes=0)) is not None
    with pytest.raises(UserError, match="processes"):
        restore(replace(config(tmp_path), processes=4))


def test_other_data_are_refused(tmp_path: Path) -> None:
    save(tmp_path, 10)
    restored = restore(config(tmp_path))
    assert restored is not None
    check_data(restored, "abc")
    with pytest.raises(UserError, match="other data"):
        check_data(restored, "abd")


@pytest.mark.parametrize("name", ["state.json", "optimizer.safetensors"])
def test_random_bytes_are_refused_with_a_remedy(tmp_path: Path, name: str) -> None:
    save(tmp_path, 10)
    (tmp_path / "checkpoints" / "step-000010" / "training" / name).write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=r"damaged(.|\n)*remove .*step-000010"):
        restore(config(tmp_path))


def test_no_absolute_time_or_place_is_in_the_state(tmp_path: Path) -> None:
    save(tmp_path, 10)
    state = json.loads((tmp_path / "checkpoints" / "step-000010" / "training" / "state.json").read_text())
    assert set(state) == {"format", "progress", "config"}
