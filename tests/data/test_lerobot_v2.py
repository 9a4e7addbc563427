"""Reading LeRobotDataset v2.0 and v2.1: what other writers make, and what strangers may send."""

import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import foreign
import foreign_v2
from foreign_v2 import FEATURES, LENGTHS, brightness

from ideomotor.core.errors import UserError
from ideomotor.data.dataset import Dataset, EncodedImages, Noted
from ideomotor.data.lerobot import v2_tables as lerobot_v2_tables
from ideomotor.data.lerobot import v3 as lerobot
from ideomotor.data.lerobot.check_v2 import lerobot_v2_faults
from ideomotor.data.lerobot.v2 import LeRobotV2Dataset, open_lerobot
from ideomotor.data.lerobot.v3 import LeRobotDataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return foreign_v2.write(tmp_path / "foreign")


def edit_info(folder: Path, **values: Any) -> None:
    path = folder / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rewrite(folder: Path, episode: int, **change: Any) -> None:
    pq.write_table(foreign_v2.rows(episode, **change), folder / f"data/chunk-000/episode_{episode:06d}.parquet")


def test_a_dataset_of_another_writer_is_read(folder: Path) -> None:
    dataset = open_lerobot(folder)
    assert isinstance(dataset, Dataset)
    assert isinstance(dataset, EncodedImages)
    assert isinstance(dataset, Noted)
    assert (dataset.format, len(dataset), dataset.fps, dataset.embodiment) == ("LeRobotDataset v2.1", 3, 10.0, None)
    assert dataset.notes == ()
    assert [dataset.instruction(e) for e in range(3)] == ["open the drawer", "close it", "open the drawer"]
    assert dataset.column(2, "action").tolist() == [[f, -2] for f in range(5)]
    assert dataset.column(1, "observation.state").tolist() == [[1, f, 0.1] for f in range(3)]  # float64 stays float64
    assert dataset.column(1, "comment").tolist() == ["1/0", "1/1", "1/2"]
    assert dataset.column(1, "index").tolist() == [4, 5, 6]
    assert dataset.features["action"].names == ("x", "y")
    assert set(dataset.features) == {"action", "observation.state", "comment"}
    assert dataset.splits == {"train": range(3)}
    assert [dataset.success(e) for e in range(3)] == ["unknown"] * 3


def test_every_frame_of_every_video_is_found_in_any_order(folder: Path) -> None:
    dataset = open_lerobot(folder)
    for e, f in [(2, 4), (0, 0), (1, 2), (2, 0), (0, 3), (0, 2), (1, 0), (2, 3)]:
        image = dataset.image(e, f, "top")
        assert image.shape == (16, 32, 3)
        assert np.abs(image.astype(int) - brightness(e, f)).max() <= 3
    assert dataset.encoded_image(0, 0, "top") is None


def test_stored_images_come_as_files_and_as_pixels(tmp_path: Path) -> None:
    dataset = open_lerobot(foreign_v2.write(tmp_path / "images", image=True))
    for e, length in enumerate(LENGTHS):
        for f in range(length):
            assert dataset.encoded_image(e, f, "top") == foreign_v2.png(e, f)
            assert (dataset.image(e, f, "top") == brightness(e, f)).all()


def test_what_is_seen_in_the_field_is_tolerated(folder: Path) -> None:
    features = {
        **FEATURES,
        "action": {"dtype": "float32", "shape": [2]},
        "observation.images.gone": {"dtype": "video", "shape": [3, 480, 640]},
        "observation.images.table": {"dtype": "image", "shape": [480, 640, 3], "names": None},
    }
    edit_info(
        folder, codebase_version="v2.0", features=features, total_episodes=50, total_frames=7, splits={"train": "0:50"}
    )
    (folder / "meta/episodes_stats.jsonl").unlink()
    missing = {"frame_index": None, "index": None, "episode_index": None, "task_index": None}
    for episode in range(3):
        actions = pa.array([[f, -episode] for f in range(LENGTHS[episode])], pa.list_(pa.float64()))
        rewrite(folder, episode, action=actions, **missing)
    dataset = open_lerobot(folder)
    assert dataset.format == "LeRobotDataset v2.0"
    assert set(dataset.cameras) == {"top"}
    assert dataset.column(2, "action").dtype == np.float32
    assert dataset.column(2, "frame_index").tolist() == [0, 1, 2, 3, 4]
    assert dataset.column(2, "index").tolist() == [7, 8, 9, 10, 11]
    assert dataset.column(2, "episode_index").tolist() == [2] * 5
    assert dataset.column(1, "task_index").tolist() == [1] * 3
    assert dataset.splits == {"train": range(3)}
    assert isinstance(dataset, Noted)
    notes = " ".join(dataset.notes)
    for part in ("'gone' is declared", "'table' is declared", "states 50 episodes and 7 frames", "3 and 12"):
        assert part in notes


def test_the_timestamp_says_which_frame_of_the_video_it_is(folder: Path) -> None:
    greys = [brightness(0, f) for f in range(6)]
    foreign_v2.write_video(foreign_v2.video(folder, 0), greys)
    rewrite(folder, 0, timestamp=pa.array([0.2, 0.3, 0.4, 0.5], pa.float64()))
    dataset = open_lerobot(folder)
    for frame in range(4):
        assert np.abs(dataset.image(0, frame, "top").astype(int) - greys[frame + 2]).max() <= 3
    rewrite(folder, 0, timestamp=pa.array([float("nan")] * 4))
    with pytest.raises(UserError, match="'timestamp' holds no seconds"):
        open_lerobot(folder).image(0, 0, "top")
    rewrite(folder, 0, timestamp=None)
    assert open_lerobot(folder).column(0, "timestamp").tolist() == pytest.approx([0, 0.1, 0.2, 0.3])


def test_several_tasks_of_an_episode_are_told_apart_by_their_index(folder: Path) -> None:
    rewrite(folder, 0, task_index=pa.array([1, 1, 0, 0]))
    values = [{"episode_index": e, "tasks": list(foreign_v2.TASKS), "length": n} for e, n in enumerate(LENGTHS)]
    foreign_v2.lines(folder / "meta/episodes.jsonl", values)
    assert open_lerobot(folder).instruction(0) == "close it"
    (folder / "meta/tasks.jsonl").write_text('{"task_index": 7, "task": "other"}\n')
    with pytest.raises(UserError, match="task 1 is not in the table of tasks"):
        open_lerobot(folder).instruction(0)


def test_a_single_task_as_a_string_and_a_success_label_are_read(folder: Path) -> None:
    values = [
        {"episode_index": e, "tasks": "lift", "length": n, "success": s}
        for e, n, s in zip(range(3), LENGTHS, ("success", "failure", "maybe"), strict=True)
    ]
    foreign_v2.lines(folder / "meta/episodes.jsonl", values)
    dataset = open_lerobot(folder)
    assert dataset.instruction(0) == "lift"
    assert [dataset.success(e) for e in range(3)] == ["success", "failure", "unknown"]


def test_numbers_with_gaps_count_from_zero(folder: Path) -> None:
    values = [{"episode_index": e, "tasks": ["lift"], "length": LENGTHS[e]} for e in (0, 2)]
    foreign_v2.lines(folder / "meta/episodes.jsonl", values)
    edit_info(folder, total_episodes=2, total_frames=9, splits={"train": "0:1", "val": "1:2", "all": "0:3"})
    dataset = open_lerobot(folder)
    assert [dataset.length(e) for e in range(len(dataset))] == [4, 5]
    assert dataset.column(1, "action")[0].tolist() == [0, -2]
    assert dataset.splits == {"train": range(1), "val": range(1, 2), "all": range(2)}  # "1:2" ends at the stated total
    assert isinstance(dataset, Noted)
    assert "numbered up to 2 with gaps" in " ".join(dataset.notes)


def test_thousands_of_files_are_not_open_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot, "OPEN_FILES", 2)
    dataset = LeRobotV2Dataset(folder)
    for e in (0, 1, 2, 0, 2):
        assert len(dataset.column(e, "action")) == LENGTHS[e]
    assert len(dataset._files) == 2


def test_the_version_decides_who_reads(folder: Path, tmp_path: Path) -> None:
    assert type(open_lerobot(foreign.write(tmp_path / "v3"))) is LeRobotDataset
    assert type(open_lerobot(folder)) is LeRobotV2Dataset
    edit_info(folder, codebase_version="2.1")
    assert open_lerobot(folder).format == "LeRobotDataset v2.1"
    for version, message in (("v2.2", "v2.0 or v2.1 is expected"), ("v1.6", "first to v2.0"), ("v4.0", "newer than")):
        edit_info(folder, codebase_version=version)
        with pytest.raises(UserError, match=message):
            open_lerobot(folder)


def test_it_travels_to_other_processes_and_its_hash_to_other_places(folder: Path, tmp_path: Path) -> None:
    dataset = open_lerobot(folder)
    assert type(pickle.loads(pickle.dumps(dataset))) is LeRobotV2Dataset
    shutil.copytree(folder, tmp_path / "copy")
    assert open_lerobot(tmp_path / "copy").content_hash == dataset.content_hash
    rewrite(tmp_path / "copy", 1, action=pa.array([[9.0, 9.0]] * 3))
    assert open_lerobot(tmp_path / "copy").content_hash != dataset.content_hash


@pytest.mark.parametrize("key", ["data_path", "video_path"])
@pytest.mark.parametrize(
    "template",
    ["/etc/passwd", "../{episode_index}", "data/{chunk_index}", "data/{episode_index!r}", "{episode_index:09999d}", 7],
)
def test_hostile_path_templates_are_refused(folder: Path, key: str, template: object) -> None:
    edit_info(folder, **{key: template})
    with pytest.raises(UserError, match=rf"info\.json: `{key}`"):
        open_lerobot(folder)


def test_feature_names_cannot_lead_out_of_the_folder(folder: Path) -> None:
    edit_info(folder, features=FEATURES | {".": {"dtype": "video", "shape": [16, 32, 3]}}, video_path=".{video_key}/x")
    with pytest.raises(UserError, match="not allowed"):
        open_lerobot(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("episodes", None, r"episodes\.jsonl is missing"),
        ("episodes", "{", r"episodes\.jsonl, line 1 is not JSON"),
        ("episodes", "[1]", "line 1 holds a list"),
        ("episodes", "[" * 100_000, "line 1 is not JSON"),
        ("episodes", '{"episode_index": 0, "length": -1}', "`length` is '-1'"),
        ("episodes", '{"episode_index": true, "length": 1}', "`episode_index` is 'True'"),
        ("episodes", '{"length": 1}', "`episode_index` is 'None'"),
        ("episodes", '{"episode_index": 0, "length": 4}\n' * 2, "episode 0 twice"),
        ("episodes", "\xff\x00", "line 1 is not JSON"),
        ("tasks", None, r"tasks\.jsonl is missing"),
        ("tasks", '{"task_index": 0, "task": 7}', "`task` is '7'"),
    ],
)
def test_damaged_lists_are_told(folder: Path, name: str, content: str | None, message: str) -> None:
    path = folder / f"meta/{name}.jsonl"
    path.unlink()
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        assert open_lerobot(folder).tasks


def test_lists_that_are_far_too_large_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_v2_tables, "LARGEST_LINES", 100)
    with pytest.raises(UserError, match=r"episodes\.jsonl has .* such a file has at most 100"):
        open_lerobot(folder)


@pytest.mark.parametrize("damage", ["truncated", "missing", "other"])
def test_a_damaged_table_is_named(folder: Path, damage: str) -> None:
    path = folder / "data/chunk-000/episode_000001.parquet"
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "other":
        shutil.copy(folder / "data/chunk-000/episode_000002.parquet", path)
    dataset = open_lerobot(folder)
    assert dataset.column(0, "action").shape == (4, 2)
    with pytest.raises(UserError, match=r"episode_000001\.parquet"):
        dataset.column(1, "action")


def test_a_missing_video_is_named(folder: Path) -> None:
    foreign_v2.video(folder, 1).unlink()
    dataset = open_lerobot(folder)
    assert dataset.image(0, 0, "top").shape == (16, 32, 3)
    with pytest.raises(UserError, match=r"episode_000001\.mp4 is missing"):
        dataset.image(1, 0, "top")


def test_check_finds_what_others_misread(folder: Path) -> None:
    def found() -> str:
        return "\n".join(str(fault) for fault in lerobot_v2_faults(folder))

    assert found() == ""
    edit_info(folder, features=FEATURES | {"label.image": {"dtype": "float32", "shape": [1]}})
    assert "'label.image' holds 'image' in its name" in found()
    edit_info(folder, features=FEATURES, total_frames=5)
    assert "states 3 episodes and 5 frames" in found()
    edit_info(folder, total_frames=12)
    rewrite(folder, 0, timestamp=pa.array([0.0, 0.1, 0.25, 0.3]), task_index=pa.array([0, 0, 0, 9]))
    assert "column 'timestamp', frame 2 is 0.25 instead of 0.2" in found()
    assert "has the task 9" in found()
    rewrite(folder, 0, action=pa.array([[0.0, 0.0], [0.0, float("nan")], [0.0, 0.0], [0.0, 0.0]]))
    assert "column 'action', episode 0: frame 1, channel [1] is nan" in found()
    rewrite(folder, 0)
    foreign_v2.write_video(foreign_v2.video(folder, 2), [10] * 4)
    foreign_v2.video(folder, 1).write_bytes(b"no video at all")
    (folder / "meta/episodes_stats.jsonl").write_text('{"episode_index": 0, "stats": {}}\n')
    text = found()
    assert "episode_000002.mp4: cannot be read as video" in text
    assert "episode_000001.mp4: cannot be read as video" in text
    assert "has 1 episodes, meta/episodes.jsonl 3" in text
    (folder / "meta/episodes.jsonl").write_text("{")
    assert "line 1 is not JSON" in found()
