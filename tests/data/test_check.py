"""`data check`: each thing that other programs load without a word is reported, and a sound dataset has no fault."""

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import foreign
from recordings import EMBODIMENT, episode

from ideomotor.core.errors import UserError
from ideomotor.data.check import check_dataset
from ideomotor.data.lerobot.writer import DatasetWriter

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TASKS = "meta/tasks.parquet"
Change = Callable[[Any], Any]  # of an arrow table


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    with DatasetWriter(tmp_path / "toy", EMBODIMENT) as writer:
        for index in range(3):
            writer.add_episode(episode(index, 3 + index, instruction=f"task {index}"))
    return tmp_path / "toy"


def column(name: str, change: Callable[[list[Any]], list[Any]]) -> Change:
    """Replace one column by a changed copy."""

    def apply(table: Any) -> Any:
        array = pa.array(change(table[name].to_pylist()), table.schema.field(name).type)
        return table.set_column(table.column_names.index(name), name, array)

    return apply


def rows(*indices: int) -> Change:
    def apply(table: Any) -> Any:
        return table.take(list(indices))

    return apply


def without(name: str) -> Change:
    def apply(table: Any) -> Any:
        return table.drop_columns([name])

    return apply


def plain(table: Any) -> Any:
    return table.replace_schema_metadata(None)


def with_more(table: Any) -> Any:
    return table.append_column("more", table["index"])


def at(index: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [*values[:index], value, *values[index + 1 :]]


def faults(folder: Path) -> str:
    return "\n".join(map(str, check_dataset(folder)))


def test_sound_datasets_have_no_fault(recorded: Path, tmp_path: Path) -> None:
    assert check_dataset(recorded) == []
    assert check_dataset(foreign.write(tmp_path / "foreign")) == []


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (TASKS, rows(1, 0, 2), r"tasks\.parquet: has permuted rows.*wrong instructions.*Sort"),
        (TASKS, plain, r"lacks the pandas metadata.*Write it from pandas"),
        (TASKS, rows(1, 2), r"task indices \[1, 2\]"),
        (EPISODES, rows(2, 1, 0), "has permuted rows.*frames of other episodes"),
        (EPISODES, rows(0, 2), r"has the episodes \[0, 2\] instead of 0 to 1"),
        (EPISODES, without("length"), "lacks columns or values"),
        (EPISODES, without("meta/episodes/file_index"), "lerobot cannot go on recording"),
        (EPISODES, column("dataset_from_index", at(1, 2)), r"episode 1: states the frames 2 to 7, which should be 3 to 7"),
        (DATA, without("label.front.class"), r"lacks the column 'label\.front\.class'.*gives None"),
        (DATA, with_more, "has the column 'more', which info.json does not declare"),
        (DATA, column("index", lambda v: [i + 100 for i in v]), "column 'index', frame 0 is 100 instead of 0"),
        (DATA, column("frame_index", at(4, 7)), "episode 1: column 'frame_index', frame 1 is 7 instead of 1"),
        (DATA, column("episode_index", at(0, 1)), "column 'episode_index', frame 0 is 1 instead of 0"),
        (DATA, column("timestamp", at(4, 0.15)), "column 'timestamp', frame 1 is 0.15"),
        (DATA, column("task_index", at(4, 2)), "episode 1: frame 1 has the instruction 'task 2', the episode table"),
        (DATA, column("action", at(4, [0.0, float("nan")])), "episode 1: column 'action', frame 1, channel 1 is nan"),
        (DATA, column("observation.images.front", at(5, {"bytes": b"\x89PNG", "path": None})), "episode 1, frame 2, camera 'front'.*decoded"),
        (DATA, column("observation.images.front", at(5, None)), "episode 1, frame 2, camera 'front'.*not in the table"),
        (DATA, rows(*range(10)), "has 10 rows, the episode table gives it 12"),
    ],
)  # fmt: skip
def test_what_others_misread_is_reported(recorded: Path, name: str, change: Change, message: str) -> None:
    path = recorded / name
    pq.write_table(change(pq.read_table(path)), path)
    found = faults(recorded)
    assert re.search(message, found), found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total_frames": 13}, "states `total_frames` 13, the episode table has 12"),
        ({"total_episodes": 2}, "states `total_episodes` 2, the episode table has 3"),
        ({"splits": {"train": "0:7"}}, "split 'train' as '0:7'; there are 3 episodes"),
        ({"codebase_version": "v3.1"}, "newer than 'v3.0'"),
        ({"codebase_version": "v1.6"}, "first to v2.0"),
        ({"fps": 5}, "states 10 Hz, the dataset 5 frames a second"),
    ],
)
def test_wrong_claims_of_info_are_reported(recorded: Path, change: dict[str, Any], message: str) -> None:
    path = recorded / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert message in faults(recorded)


def test_names_and_shapes_that_break_lerobots_tools_are_reported(recorded: Path) -> None:
    path = recorded / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"]["label.image_id"] = {"dtype": "float32", "shape": [2, 2], "names": None}
    info["features"]["observation.images.front"]["shape"] = [12, 12, 3]
    path.write_text(json.dumps(info))
    found = faults(recorded)
    assert "'label.image_id': holds 'image' in its name but is none" in found
    assert "has the shape [2, 2]; lerobot cannot edit datasets with matrices" in found
    assert "is an image of 12 x 16 (height x width), its dataset declares 12 x 12" in found


def test_an_embodiment_of_another_robot_is_reported(recorded: Path) -> None:
    other = dataclasses.replace(EMBODIMENT, action=EMBODIMENT.action[:1], cameras=(EMBODIMENT.cameras[0],))
    (recorded / "meta/embodiment.json").write_text(other.to_text())
    found = faults(recorded)
    assert "states 1 channels of 'action', the dataset holds 2" in found
    assert "lacks the camera 'wrist', which the dataset has" in found


def test_stray_and_damaged_files_are_reported(recorded: Path) -> None:
    content = (recorded / DATA).read_bytes()
    (recorded / "data/chunk-000/copy.parquet").write_bytes(content)
    assert "copy.parquet: belongs to no episode; lerobot reads it as data" in faults(recorded)
    (recorded / "data/chunk-000/copy.parquet").unlink()
    (recorded / DATA).write_bytes(content[:-100])
    assert "file-000.parquet: cannot be read as parquet" in faults(recorded)
    (recorded / DATA).unlink()
    assert "file-000.parquet: is missing" in faults(recorded)
    (recorded / EPISODES).write_bytes(np.random.default_rng(0).bytes(3000))
    assert "cannot be read as parquet" in faults(recorded)


def test_a_recording_that_was_not_closed_is_reported(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "toy", EMBODIMENT)
    writer.add_episode(episode(0))
    assert "was not closed: 1 episodes wait" in faults(tmp_path / "toy")
    writer.close()
    assert check_dataset(tmp_path / "toy") == []


@pytest.mark.parametrize(
    ("frames", "message"), [(6, "has 6 frames, the episode table gives it 7"), (9, "has 9 frames")]
)
def test_a_video_with_another_number_of_frames_is_reported(tmp_path: Path, frames: int, message: str) -> None:
    folder = foreign.write(tmp_path / "foreign")
    foreign.write_video(folder / "videos/observation.images.top/chunk-000/file-000.mp4", frames)
    assert message in faults(folder)


def test_a_video_beyond_lerobots_precision_is_reported(tmp_path: Path) -> None:
    folder = foreign.write(tmp_path / "foreign", fps=1)
    foreign.write_video(folder / "videos/observation.images.top/chunk-000/file-000.mp4", 1005, fps=1)
    assert "lasts 1005 s; lerobot misses frames above 1000 s" in faults(folder)


def test_rlds_is_checked_too(fixtures: Path) -> None:
    assert check_dataset(fixtures / "bridge-rlds-train" / "bridge_dataset") == []


def test_what_is_no_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it is empty"):
        check_dataset(tmp_path)
