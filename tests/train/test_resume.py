"""Equal runs end in equal bytes, and so do runs that were stopped or killed on the way."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError
from ideomotor.core.files import write_json
from ideomotor.core.log import read_lines
from ideomotor.recipes.train import openvla_lora
from ideomotor.train.checkpoint import complete_checkpoints, restore
from ideomotor.train.config import FrozenTower, Lora, TrainConfig
from ideomotor.train.family import open_data
from ideomotor.train.loop import run, train
from ideomotor.train.parallel import Group, StopRequest


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


def short_run(dataset: Path, out: Path) -> TrainConfig:
    return TrainConfig(
        data=str(dataset),
        out=str(out),
        preset="tiny",
        steps=6,
        batch=8,
        checkpoint_every=2,
        eval_every=6,
        validation_share=0.1,
        validation_windows=8,
        word_dropout=0.2,
        precision="fp32",
        processes=1,
    )


def weights(out: Path) -> bytes:
    return (out / "final" / "model.safetensors").read_bytes()


def assert_same_end(left: Path, right: Path, config: TrainConfig) -> None:
    """Final weights, optimizer, progress and the next batch of both ranks are equal to the bit."""
    assert weights(left) == weights(right)
    last = [complete_checkpoints(out)[-1] for out in (left, right)]
    assert len({(folder / "training" / "optimizer.safetensors").read_bytes() for folder in last}) == 1
    restored = [restore(replace(config, out=str(out))) for out in (left, right)]
    assert restored[0] is not None
    assert restored[1] is not None
    assert restored[0].progress == restored[1].progress
    loaders = [
        open_data(replace(config, out=str(out)), folder).loader for out, folder in zip((left, right), last, strict=True)
    ]
    for rank in range(2):
        batches = [loader.batch(restored[0].progress.step, rank, 2) for loader in loaders]
        assert batches[0].keys() == batches[1].keys()
        for name in batches[0]:
            np.testing.assert_array_equal(batches[0][name], batches[1][name], err_msg=name)


class StopAfter(StopRequest):
    """Asks to stop when it has been looked at so many times, that is in that step."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    @property
    def received(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._left -= 1
        return self._left < 0


def test_equal_runs_end_in_equal_bytes_and_another_seed_in_others(dataset: Path, tmp_path: Path) -> None:
    for out, seed in ((tmp_path / "a", 0), (tmp_path / "b", 0), (tmp_path / "c", 1)):
        assert run(replace(short_run(dataset, out), seed=seed), Group(), StopRequest())
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


def test_a_stopped_run_continues_to_the_same_end(dataset: Path, tmp_path: Path) -> None:
    whole, parts = short_run(dataset, tmp_path / "whole"), short_run(dataset, tmp_path / "parts")
    assert run(whole, Group(), StopRequest())
    assert not run(parts, Group(), StopAfter(2))  # the third step sees the request, is finished and saved
    assert complete_checkpoints(tmp_path / "parts")[-1].name == "step-000003"
    assert run(replace(parts, resume=True), Group(), StopRequest())
    assert_same_end(tmp_path / "whole", tmp_path / "parts", whole)
    steps = [line["step"] for line in read_lines(tmp_path / "parts" / "log.jsonl") if line["kind"] == "eval"]
    assert steps == [0, 6]


def test_the_frozen_tower_stage_continues_to_the_same_end_and_keeps_its_tower(dataset: Path, tmp_path: Path) -> None:
    assert run(short_run(dataset, tmp_path / "first"), Group(), StopRequest())
    start = replace(short_run(dataset, tmp_path / "whole"), init=str(tmp_path / "first"), stage=FrozenTower())
    parts = replace(start, out=str(tmp_path / "parts"))
    assert run(start, Group(), StopRequest())
    assert not run(parts, Group(), StopAfter(2))
    assert run(replace(parts, resume=True), Group(), StopRequest())
    assert_same_end(tmp_path / "whole", tmp_path / "parts", start)


def test_a_new_run_in_a_used_folder_is_refused(dataset: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {})
    with pytest.raises(UserError, match=r"already holds a run.*--resume"):
        train(short_run(dataset, tmp_path))


def begin(config: TrainConfig) -> "subprocess.Popen[bytes]":
    """Start `train_or_continue` as a user's process would, and return it."""
    path = Path(config.out).with_suffix(".json")
    write_json(path, jsonable.to_json(config))
    code = (
        "import sys; from pathlib import Path; from ideomotor.train.loop import read_config, train_or_continue;"
        "train_or_continue(read_config(Path(sys.argv[1])))"
    )
    with path.with_suffix(".txt").open("ab") as log:
        return subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=log, stderr=log, env=_environment())


def _environment() -> dict[str, str]:
    import ideomotor

    return os.environ | {"PYTHONPATH": str(Path(ideomotor.__file__).parents[1])}


def descendants(pid: int) -> list[int]:
    """Return a process and all that it started, itself first."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(found for child in children for found in descendants(int(child)))]


def program(pid: int) -> str:
    """Return the command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except FileNotFoundError:
        return ""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


def kill_once(config: TrainConfig, chance: random.Random, where: str) -> bool:
    """Start or continue the run and kill -9 in the middle; return False if it came to its end before.

    Args:
        config: of the run.
        chance: decides when and which process.
        where: "saving" kills everything while a checkpoint is written, "starter" the first process, "rank" a training
            process, "loader" a loader worker; "ctrl-c" asks the run to stop.
    """
    out = Path(config.out)

    def newest() -> str:
        return next((folder.name for folder in reversed(complete_checkpoints(out))), "")

    before = newest()
    process = begin(config)
    if where == "saving":
        wait_until(lambda: process.poll() is not None or any((out / "checkpoints").glob(".step-*")))
    else:
        wait_until(lambda: process.poll() is not None or newest() != before)
        time.sleep(chance.uniform(0.0, 0.5))
    family = descendants(process.pid)
    if process.poll() is not None:
        assert process.returncode == 0, out.with_suffix(".txt").read_text()[-3000:]
        return False
    if where == "ctrl-c":
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 1
        assert newest() > before
        assert "Continue with the same command and --resume" in out.with_suffix(".txt").read_text()
        return True
    programs = {pid: program(pid) for pid in family}
    victims = {
        "saving": family,
        "starter": family[:1],
        "rank": [pid for pid, name in programs.items() if "ideomotor.train.rank" in name],
        "loader": [pid for pid, name in programs.items() if "forkserver" in name and not descendants(pid)[1:]],
    }[where]
    for victim in victims if where == "saving" else [chance.choice(victims)]:
        os.kill(victim, signal.SIGKILL)
    assert process.wait(60) != 0
    wait_until(lambda: not any(alive(pid) for pid in family), 60)
    return True


def killed_often(config: TrainConfig, folder: Path, kills: list[str], steps: int) -> None:
    """Compare a run that is killed at many places with one that is left alone; 2 ranks, 2 loader workers each."""
    whole = replace(
        config,
        out=str(folder / "whole"),
        steps=steps,
        processes=2,
        workers=2,
        checkpoint_every=3,
        validation_share=0.0,
    )
    killed = replace(whole, out=str(folder / "killed"))
    assert begin(whole).wait(300) == 0, (folder / "whole.txt").read_text()[-3000:]
    chance = random.Random(0)
    done = [kill_once(killed, chance, where) for where in kills]
    assert sum(done) == len(kills), "the run was over before it was killed often enough; give it more steps"
    assert begin(killed).wait(300) == 0, (folder / "killed.txt").read_text()[-3000:]
    assert_same_end(folder / "whole", folder / "killed", whole)
    assert not list((folder / "killed").rglob("*.tmp"))


def test_a_run_that_is_killed_or_stopped_continues_to_the_same_end(dataset: Path, tmp_path: Path) -> None:
    killed_often(short_run(dataset, tmp_path), tmp_path, ["saving", "loader"], steps=50)


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_continues_to_the_same_end(dataset: Path, tmp_path: Path) -> None:
    killed_often(
        short_run(dataset, tmp_path), tmp_path, ["saving", "rank", "starter", "loader"] * 5 + ["ctrl-c"], steps=900
    )


@pytest.mark.slow
def test_a_fine_tuning_run_that_is_killed_continues_to_the_same_end(
    dataset: Path, fixtures: Path, tmp_path: Path
) -> None:
    base = fixtures / "openvla-parity-a" / "checkpoint"
    config = replace(openvla_lora(str(base), str(dataset), "unused"), batch=4, precision="fp32", stage=Lora(rank=2))
    killed_often(config, tmp_path, ["saving", "rank"], steps=30)
