"""A full disk: a small tmpfs, which takes root to mount. What is complete stays usable, nothing half-written remains."""

import os
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from ideomotor.cli.main import run
from ideomotor.data.dataset import open_dataset

Refused = Callable[..., str]
ROOM = 300_000  # [bytes] more than an episode takes, less than a checkpoint
NO_ROOM = "(No space left on device|no space left on the disk)"


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Path, None, None]:
    """A folder on a disk with little room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("a tmpfs takes root to mount")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def fill(folder: Path, leave: int) -> Path:
    """Take all but `leave` bytes of the disk."""
    free = os.statvfs(folder)
    ballast = folder.parent / "disk" / "ballast"
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - leave))
    return ballast


def test_recording_keeps_what_is_finished_and_goes_on_once_there_is_room(refused: Refused, disk: Path):
    command = ["collect", "--out", disk / "data", "--tasks", "pick", "--source", "scenes", "--workers", "1"]
    refused([*command, "--episodes", "20"], 1, str(disk / "data"), "No space left", "finished episodes are kept", "same command again")  # fmt: skip
    assert not half_written(disk)
    kept = open_dataset(disk / "data")
    assert 1 <= len(kept) < 20
    shown = [kept.image(len(kept) - 1, frame, "front").shape for frame in range(32)]  # the last one is whole
    assert shown == [(96, 96, 3)] * 32
    subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
    assert run([str(argument) for argument in [*command, "--episodes", len(kept) + 1]]) == 0
    assert run(["data", "check", str(disk / "data")]) == 0


def test_a_disk_that_is_full_from_the_start_leaves_nothing(refused: Refused, disk: Path, panda_data: Path):
    ballast = fill(disk, leave=0)
    refused(["collect", "--out", disk / "data", "--workers", "1"], 1, "No space left", "Free some space")
    refused(["train", "--data", panda_data, "--out", disk / "run", "--preset", "tiny"], 1, "no space left", "Free some")
    refused(["data", "view", panda_data, "--out", disk / "page.html"], 1, "No space left", "Free some space")
    assert [path for path in disk.rglob("*") if path.is_file() and path.stat().st_size and path != ballast] == []
    assert not half_written(disk)


def test_training_without_room_for_a_checkpoint_names_the_remedy(refused: Refused, disk: Path, panda_data: Path):
    options = ["--preset", "tiny", "--steps", "2", "--batch", "2", "--processes", "1", "--precision", "fp32"]
    said = refused(
        ["train", "--data", panda_data, "--out", disk / "run", *options], 1, "no space left on the disk", "--resume"
    )
    assert "there is no complete checkpoint yet" in said
    assert not half_written(disk)
    assert not list((disk / "run").glob("checkpoints/*"))
    assert not (disk / "run" / "final").exists()
    subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
    assert run(["train", "--data", str(panda_data), "--out", str(disk / "run"), *options, "--resume"]) == 0
    assert (disk / "run" / "final" / "model.safetensors").is_file()
