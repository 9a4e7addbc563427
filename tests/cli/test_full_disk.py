"""A full disk: a small tmpfs, which takes root to mount. What is complete stays usable, nothing half-written remains."""

import os
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from ideomotor.cli.main import run
from ideomotor.data.opening import open_dataset

Refused = Callable[..., str]
Disk = Callable[[int], Path]
LITTLE = 300_000  # [bytes] less than a checkpoint of `tiny`, which takes three times 0.95 MB
SOME = 1_100_000  # [bytes] two recorded episodes of scenes, of 0.44 MB each


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Disk, None, None]:
    """Mount disks of a given size."""
    if os.geteuid() != 0:
        pytest.skip("a tmpfs takes root to mount")
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


def enlarge(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=40m", folder], check=True)


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_recording_keeps_what_is_finished_and_goes_on_once_there_is_room(refused: Refused, disk: Disk):
    folder = disk(SOME) / "data"
    command = ["collect", "--out", folder, "--tasks", "pick", "--source", "scenes", "--workers", "1"]
    words = (str(folder), "No space left", "finished episodes are kept", "same command again")
    refused([*command, "--episodes", "4"], 1, *words)
    assert not half_written(folder)
    kept = open_dataset(folder)
    assert 1 <= len(kept) < 4
    shown = [kept.image(len(kept) - 1, frame, "front").shape for frame in range(32)]
    assert shown == [(96, 96, 3)] * 32  # the last one is whole
    enlarge(folder.parent)
    assert run([str(argument) for argument in [*command, "--episodes", len(kept) + 1]]) == 0
    assert run(["data", "check", str(folder)]) == 0


def test_a_disk_that_is_full_from_the_start_gets_no_file(refused: Refused, disk: Disk, panda_data: Path):
    folder = disk(LITTLE)
    free = os.statvfs(folder)
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize))
    refused(["collect", "--out", folder / "data", "--workers", "1"], 1, "No space left", "Free some space")
    refused(
        ["train", "--data", panda_data, "--out", folder / "run", "--preset", "tiny"], 1, "no space left", "Free some"
    )
    refused(["data", "view", panda_data, "--out", folder / "page.html"], 1, "No space left", "Free some space")
    written = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    assert written == [ballast]
    assert not half_written(folder)


def test_training_without_room_for_a_checkpoint_names_the_remedy(refused: Refused, disk: Disk, panda_data: Path):
    out = disk(LITTLE) / "run"
    options = ["--preset", "tiny", "--steps", "2", "--batch", "2", "--processes", "1", "--precision", "fp32"]
    command = ["train", "--data", str(panda_data), "--out", str(out), *options]
    refused(command, 1, "no space left on the disk", "there is no complete checkpoint yet", "--resume")
    assert not half_written(out)
    assert not list(out.glob("checkpoints/*"))
    assert not (out / "final").exists()
    enlarge(out.parent)
    assert run([*command, "--resume"]) == 0
    assert (out / "final" / "model.safetensors").is_file()
