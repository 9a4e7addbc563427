"""Recording in processes: the result depends on the configuration alone."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ideomotor.collect.config import CollectConfig
from ideomotor.collect.record import Summary, record
from ideomotor.core.errors import UserError
from ideomotor.data.check import check_dataset
from ideomotor.data.dataset import Dataset
from ideomotor.data.opening import open_dataset
from ideomotor.robot.arms.panda import PANDA
from ideomotor.sim.env import EnvConfig
from ideomotor.sim.tasks.pick import PICK
from ideomotor.sim.tasks.place_on import PLACE_ON

ENV = EnvConfig(PANDA, (PICK, PLACE_ON), horizon=6)  # too short to succeed: what is compared are the recordings
EPISODES = 4


def recorded(folder: Path, workers: int, episodes: int = EPISODES) -> Summary:
    return record(CollectConfig(str(folder), episodes=episodes, seed=70, workers=workers, noisy=0.5), ENV)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "data"
    assert recorded(folder, workers=2).outcomes == {"failure": EPISODES}
    return folder


def assert_equal_content(left: Dataset, right: Dataset):
    assert len(left) == len(right) == EPISODES
    assert left.features == right.features
    for e in range(EPISODES):
        assert (left.instruction(e), left.success(e)) == (right.instruction(e), right.success(e))
        for name in left.features:
            assert left.column(e, name).tobytes() == right.column(e, name).tobytes(), name
        for frame in range(left.length(e)):
            for camera in left.cameras:
                np.testing.assert_array_equal(left.image(e, frame, camera), right.image(e, frame, camera))
    assert left.content_hash == right.content_hash


def test_one_and_two_workers_record_the_same_bytes(whole: Path, tmp_path: Path):
    recorded(tmp_path / "data", workers=1)
    mine, theirs = ({p.relative_to(f): p for f in [root] for p in f.rglob("*") if p.is_file()} for root in (tmp_path / "data", whole))  # fmt: skip
    assert mine.keys() == theirs.keys()
    for name, path in mine.items():
        assert path.read_bytes() == theirs[name].read_bytes(), name
    assert_equal_content(open_dataset(tmp_path / "data"), open_dataset(whole))


def test_a_recording_that_stopped_half_way_goes_on_to_the_same_content(whole: Path, tmp_path: Path):
    recorded(tmp_path / "data", workers=1, episodes=2)
    again = recorded(tmp_path / "data", workers=1)
    assert (again.kept, again.outcomes) == (2, {"failure": 2})
    assert_equal_content(open_dataset(tmp_path / "data"), open_dataset(whole))
    assert check_dataset(tmp_path / "data") == []


def test_a_finished_recording_stays_as_it_is(whole: Path):
    before = open_dataset(whole).content_hash
    again = recorded(whole, workers=1)
    assert (again.kept, again.outcomes) == (EPISODES, {})
    assert str(again) == f"{whole}: nothing to do ({EPISODES} were there before)"
    assert open_dataset(whole).content_hash == before


def test_failures_are_kept_with_their_label_and_tasks_take_turns(whole: Path):
    dataset = open_dataset(whole)
    assert [dataset.success(e) for e in range(EPISODES)] == ["failure"] * EPISODES
    assert ["plate" in dataset.instruction(e) for e in range(EPISODES)] == [False, True, False, True]
    assert not any(dataset.column(e, "next.success").any() for e in range(EPISODES))


def test_scenes_are_a_dataset_without_faults_and_do_not_mix_with_demonstrations(whole: Path, tmp_path: Path):
    config = CollectConfig(str(tmp_path / "scenes"), source="scenes", episodes=1, workers=1)
    assert record(config, ENV).outcomes == {"unknown": 1}
    assert check_dataset(tmp_path / "scenes") == []
    assert "expert.chunk" not in open_dataset(tmp_path / "scenes").features
    mixed = CollectConfig(str(tmp_path / "scenes"), source="expert", episodes=2, workers=1)
    with pytest.raises(UserError, match=r"--source was 'scenes' and is 'expert'"):
        record(mixed, ENV)
    assert len(open_dataset(tmp_path / "scenes")) == 1
    assert check_dataset(tmp_path / "scenes") == []


def test_an_interrupt_leaves_a_closed_dataset_without_tracebacks(tmp_path: Path):
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a job in the background would not hear it
    program = f"import signal; {heard}; from ideomotor.cli.main import main; main()"
    command = [sys.executable, "-c", program, "collect", "--episodes", "500", "--workers", "2", "--out"]
    with subprocess.Popen(
        [*command, str(tmp_path / "data")], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while not list((tmp_path / "data").glob("recording/episode-*.parquet")) and time.monotonic() < deadline:
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)  # Ctrl-C in a terminal reaches every process of the command
            _, said = process.communicate(timeout=180)  # what is under way is finished: long on a busy machine
        finally:
            process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.rstrip().endswith("interrupted")
    assert not (tmp_path / "data" / "recording").exists()  # joined and closed
    assert check_dataset(tmp_path / "data") == []
    assert 1 <= len(open_dataset(tmp_path / "data")) < 500


def test_a_recording_is_not_continued_in_another_way(tmp_path: Path):
    first = CollectConfig(str(tmp_path / "data"), tasks="pick", episodes=1, seed=3, workers=1, noisy=0.0)
    env = EnvConfig(PANDA, (PICK,))
    record(first, env)
    with pytest.raises(UserError, match=r"--seed was 3 and is 4"):
        record(replace(first, seed=4, episodes=2), env)
    assert len(open_dataset(tmp_path / "data")) == 1


@pytest.mark.parametrize("damage", [b"\xff\x00", b"", b"{", b"[]"])
def test_a_damaged_note_of_how_it_was_recorded_is_named_with_its_remedy(damage: bytes, whole: Path):
    note = whole / "meta" / "collect.json"
    intact = note.read_bytes()
    note.write_bytes(damage)
    try:
        with pytest.raises(UserError, match=r"collect\.json.*restore it, or remove it"):
            recorded(whole, workers=1)
    finally:
        note.write_bytes(intact)
