"""Checkpoints: a policy's folder plus what exact continuation needs, written so that a crash never leaves half of one.

    OUT/config.json                         the configuration of the run
    OUT/checkpoints/step-000500/            model.safetensors, config.json, pipeline.json, embodiment.json, ...
    OUT/checkpoints/step-000500/training/   optimizer.safetensors, state.json
    OUT/final/                              the trained policy

There is no random state to save: order of samples, augmentation and dropout are functions of the seed and the step.
"""

import contextlib
import errno
import json
import shutil
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError
from ideomotor.core.files import atomic_folder, write_json
from ideomotor.core.spec import differences
from ideomotor.train.config import FREE_ON_RESUME, TrainConfig
from ideomotor.train.precision import Precision

FORMAT = 1  # version of training/state.json


@dataclass(frozen=True)
class Progress:
    """Where a run stands, and what was decided at its start."""

    step: int  # steps done; the next sample is number `step * batch` of the mixture
    steps: int  # steps in all, which the learning rate depends on
    precision: Precision
    precision_reason: str
    processes: int
    mixture: str  # fingerprint of the data, their order and shares


@dataclass(frozen=True)
class Restored:
    """The content of a checkpoint's training state."""

    folder: Path
    progress: Progress
    optimizer: dict[str, Tensor]


def checkpoint_folder(out: Path, step: int) -> Path:
    """Return where the checkpoint after `step` steps is."""
    return out / "checkpoints" / f"step-{step:06d}"


def complete_checkpoints(out: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first; unfinished ones have other names."""
    return sorted((out / "checkpoints").glob("step-*"), key=lambda folder: int(folder.name.removeprefix("step-")))


@contextlib.contextmanager
def new_checkpoint(
    config: TrainConfig, progress: Progress, optimizer: dict[str, Tensor]
) -> Generator[Path, None, None]:
    """Yield a folder to put the policy into; then add the training state, give it its name, and drop older ones."""
    out = Path(config.out)
    with atomic_folder(checkpoint_folder(out, progress.step)) as folder:
        yield folder
        (folder / "training").mkdir()
        save_file(optimizer, folder / "training" / "optimizer.safetensors")
        (folder / "training" / "optimizer.safetensors").chmod(0o644)  # the library writes for the owner alone
        state = {"format": FORMAT, "progress": jsonable.to_json(progress), "config": jsonable.to_json(config)}
        write_json(folder / "training" / "state.json", state)
    for old in complete_checkpoints(out)[: -max(1, config.keep)]:
        shutil.rmtree(old)


def restore(config: TrainConfig) -> Restored | None:
    """Return the newest complete checkpoint of the run in `config.out`, or None if it has none yet.

    Raises:
        UserError: the checkpoint is of a run with another configuration, or its files are damaged.
    """
    out = Path(config.out)
    for leftover in (out / "checkpoints").glob(".step-*"):  # what a crash left while writing
        shutil.rmtree(leftover, ignore_errors=True)
    folders = complete_checkpoints(out)
    if not folders:
        return None
    folder = folders[-1]
    remedy = f"remove {folder} and run again with --resume to continue from the checkpoint before it"
    try:
        state: dict[str, Any] = json.loads((folder / "training" / "state.json").read_text(encoding="utf-8"))
        optimizer = load_file(folder / "training" / "optimizer.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} is damaged ({error}); {remedy}") from error
    if state.get("format") != FORMAT:
        raise UserError(f"{folder} has training state of format {state.get('format')}, this version reads {FORMAT}")
    where = str(folder / "training" / "state.json")
    progress = jsonable.from_json(Progress, state["progress"], f"{where} progress")
    _check_same_run(config, jsonable.from_json(TrainConfig, state["config"], f"{where} config"), progress, folder)
    return Restored(folder, progress, optimizer)


def _check_same_run(config: TrainConfig, saved: TrainConfig, progress: Progress, folder: Path) -> None:
    if config.processes == 0:  # "as many as fit" was decided when the run began
        config, saved = replace(config, processes=progress.processes), replace(saved, processes=progress.processes)
    lines = [
        f"  {path}: the run has {a!r}, you ask for {b!r}"
        for path, a, b in differences(saved, config)
        if path.split(".")[0].split("[")[0] not in FREE_ON_RESUME
    ]
    if lines:
        raise UserError(
            f"{folder} belongs to a run with another configuration:\n"
            + "\n".join(lines)
            + "\nAn exact continuation needs "
            "the same values; to train on from these weights with other values, use --init with a new --out"
        )


def check_data(restored: Restored, mixture: str) -> None:
    """Compare the data of a checkpoint with the data at hand.

    Raises:
        UserError: they differ.
    """
    if restored.progress.mixture != mixture:
        raise UserError(
            f"{restored.folder} was trained on other data: their fingerprint is {restored.progress.mixture[:16]}, that of "
            f"--data is {mixture[:16]}. Resume with the unchanged folders in the same order, or start a new --out"
        )


@contextlib.contextmanager
def room_on_disk(out: Path) -> Generator[None, None, None]:
    """Turn "no space left" into an error for the user; half-written files are gone by then."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(_no_room(out)) from error
    except SafetensorError as error:
        if "No space left" not in str(error):
            raise
        raise UserError(_no_room(out)) from error


def _no_room(out: Path) -> str:
    folders = complete_checkpoints(out)
    newest = f"the newest complete checkpoint is {folders[-1]}" if folders else "there is no complete checkpoint yet"
    return (
        f"no space left on the disk of {out}; nothing half-written was kept, {newest}. Free some space and use --resume"
    )
