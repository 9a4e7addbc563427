"""Reading LeRobotDataset v3.0: what other writers make, and what strangers may send."""

import json
import pickle
import shutil
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

import ideomotor
from ideomotor.core.errors import UserError
from ideomotor.data.dataset import Dataset, Feature, training_episodes
from ideomotor.data.lerobot.parquet import to_numpy
from ideomotor.data.lerobot.v3 import LeRobotDataset
from ideomotor.data.lerobot.writer import DatasetWriter
from ideomotor.data.opening import open_dataset
from ideomotor.data.video import Video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return foreign.write(tmp_path / "foreign")


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    with DatasetWriter(tmp_path / "toy", EMBODIMENT) as writer:
        writer.add_episode(episode(0))
        writer.add_episode(episode(1, 3))
    return tmp_path / "toy"


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def edit_info(folder: Path, **values: Any) -> None:
    path = folder / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_dataset_of_another_writer_is_read(folder: Path) -> None:
    dataset = ideomotor.open_dataset(folder)
    assert isinstance(dataset, Dataset)
    assert (dataset.format, len(dataset), dataset.fps, dataset.embodiment) == ("LeRobotDataset v3.0", 2, 10.0, None)
    assert [dataset.instruction(e) for e in range(2)] == ["open the drawer", "close it"]
    assert dataset.column(1, "observation.state").tolist() == [[1, 0, 0.5], [1, 1, 0.5], [1, 2, 0.5]]
    assert dataset.column(1, "observation.state").dtype == np.float32
    assert dataset.column(1, "index").dtype == np.int64
    assert dataset.features["action"].names == ("x", "y")
    assert (dataset.cameras["top"].height, dataset.cameras["top"].width) == (16, 32)
    assert [dataset.success(e) for e in range(2)] == ["success", "unknown"]  # "not succeeded so far" is no failure
    assert training_episodes(dataset) == range(2)
    frame = dataset[-1][2]
    assert set(frame) == {"action", "state", "next.success", "images", "instruction"}
    assert frame["action"].tolist() == [2, -1]


def test_every_frame_of_a_shared_video_is_found_in_any_order(folder: Path) -> None:
    dataset = open_dataset(folder)
    order = [(1, 2), (0, 0), (1, 0), (0, 3), (0, 1), (0, 2), (1, 1), (1, 1), (1, 2)]
    for e, f in order:
        image = dataset.image(e, f, "top")
        assert image.shape == (16, 32, 3)
        assert np.abs(image.astype(int) - foreign.brightness(4 * e + f)).max() <= 3  # codec noise; frames are 30 apart


def test_late_frames_are_addressed_by_exact_ticks(tmp_path: Path) -> None:
    foreign.write_video(tmp_path / "long.mp4", 3, fps=30)
    video = Video(tmp_path / "long.mp4", 30.0)
    ticks = video.tick(1)  # one frame lasts 1/30 s, a whole number of ticks in this file
    for number in (2, 36_000, 100_001):  # at 1,200 s float32 seconds are off by more than lerobot's tolerance
        assert video.tick(number) == number * ticks
    ntsc = Video(tmp_path / "long.mp4", 29.97)
    assert ntsc.fps == pytest.approx(30_000 / 1001, abs=1e-4)
    video.close()
    ntsc.close()


def test_numbers_that_are_declared_where_pictures_lie_are_refused(tmp_path: Path) -> None:
    """Found by fuzzing: a column of structs has several columns below it, and none of them is meant."""
    column = pa.chunked_array([pa.array([{"bytes": b"x", "path": None}])])
    with pytest.raises(UserError, match=r"action' holds struct<.*>, declared as float32; correct `dtype`"):
        to_numpy(column, Feature("action", "float32", (2,)), "the column 'action'")


class Numbered:
    """A decoder whose frames tell their number."""

    def __init__(self, path: Path, fps: float) -> None:
        assert path.suffix == ".mp4"
        assert fps > 0

    def frame(self, number: int) -> np.ndarray:
        return np.full((16, 32, 3), number, np.uint8)

    def close(self) -> None:
        pass


def test_another_decoder_is_told_files_and_numbers_also_in_other_processes(folder: Path) -> None:
    plain = LeRobotDataset(folder)
    (camera,) = (role for role in plain.cameras if plain.video_frames(0, role))
    dataset = pickle.loads(pickle.dumps(LeRobotDataset(folder, Numbered)))
    for number in range(len(dataset)):
        found = dataset.video_frames(number, camera)
        assert found is not None
        assert dataset.image(number, 1, camera)[0, 0, 0] == found[1][1]


def test_a_video_with_too_few_frames_is_told(folder: Path) -> None:
    foreign.write_video(folder / "videos/observation.images.top/chunk-000/file-000.mp4", 5)
    dataset = open_dataset(folder)
    assert dataset.image(1, 0, "top").shape == (16, 32, 3)
    with pytest.raises(UserError, match=r"file-000\.mp4 has no frame 6.*more rows than the video"):
        dataset.image(1, 2, "top")


def test_permuted_tables_are_read_by_their_index(folder: Path) -> None:
    for name in ("episodes/chunk-000/file-000.parquet", "tasks.parquet"):
        rewrite(folder / "meta" / name, lambda table: table.take([1, 0]))
    rewrite(folder / "meta/episodes/chunk-000/file-000.parquet", lambda table: table.drop_columns(["tasks"]))
    dataset = open_dataset(folder)
    assert [dataset.instruction(e) for e in range(2)] == ["open the drawer", "close it"]
    assert dataset.column(1, "action").tolist() == [[0, -1], [1, -1], [2, -1]]


def test_an_offset_index_shifts_nothing(folder: Path) -> None:
    rewrite(
        folder / "data/chunk-000/file-000.parquet",
        lambda table: table.set_column(0, "index", pa.array(range(100, 107))),
    )
    assert open_dataset(folder).column(1, "action").tolist() == [[0, -1], [1, -1], [2, -1]]


def test_equal_content_has_equal_hashes_wherever_it_lies(recorded: Path, tmp_path: Path) -> None:
    shutil.copytree(recorded, tmp_path / "copy")
    assert open_dataset(recorded).content_hash == open_dataset(tmp_path / "copy").content_hash
    with DatasetWriter(tmp_path / "copy", EMBODIMENT) as writer:
        writer.add_episode(episode(2))
    assert open_dataset(recorded).content_hash != open_dataset(tmp_path / "copy").content_hash


def test_a_dataset_travels_to_other_processes(recorded: Path) -> None:
    dataset = open_dataset(recorded)
    copy: Dataset = pickle.loads(pickle.dumps(dataset))
    assert (copy.column(1, "action") == dataset.column(1, "action")).all()


def test_frames_outside_are_index_errors(recorded: Path) -> None:
    view = open_dataset(recorded)[1]
    assert len(view[1:]) == 2
    assert len(list(view)) == 3
    with pytest.raises(IndexError, match="no frame 3; it has 3"):
        view[3]
    with pytest.raises(IndexError, match="no episode 2"):
        open_dataset(recorded)[2]


def test_unknown_names_are_answered_with_the_known_ones(recorded: Path) -> None:
    dataset = open_dataset(recorded)
    with pytest.raises(UserError, match=r"unknown camera 'frnt'; known: front, wrist.*'front'"):
        dataset.image(0, 0, "frnt")
    with pytest.raises(UserError, match=r"unknown column 'actoin'.*Did you mean 'action'"):
        dataset.column(0, "actoin")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("v2.1", "where v3.0 is expected.*data convert"),
        ("v1.6", "reads v2.0, v2.1 and v3.0.*first to v2.0"),
        ("v3.1", "newer than 'v3.0'.*Update Ideomotor"),
        ("v4.0", "newer than 'v3.0'"),
        ("latest", "reads v2.0, v2.1 and v3.0"),
        (None, "reads v2.0, v2.1 and v3.0"),
    ],
)
def test_other_versions_are_refused_with_a_remedy(folder: Path, version: object, message: str) -> None:
    edit_info(folder, codebase_version=version)
    with pytest.raises(UserError, match=message):
        LeRobotDataset(folder)


@pytest.mark.parametrize(
    "template",
    [
        "/etc/passwd",
        "../../{chunk_index}/{file_index}.parquet",
        "data/{chunk_index:03d}/../../{file_index}",
        "data/{chunk_index.__class__}",
        "data/{file_index!r}",
        "data/{file_index:0999999999d}",
        "data/{file_index:{chunk_index}}",
        "data/{0}",
        "data/{",
        "data/{video_key}",
        "data\\..\\x",
        "x" * 5000,
        "",
        7,
    ],
)
def test_hostile_path_templates_are_refused(folder: Path, template: object) -> None:
    edit_info(folder, data_path=template)
    with pytest.raises(UserError, match=r"info\.json: `data_path`"):
        open_dataset(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 0}, "`fps`"),
        ({"fps": float("nan")}, "`fps`"),
        ({"total_frames": -1}, "`total_frames`"),
        ({"features": []}, "`features`"),
        ({"features": {"../x": {"dtype": "float32", "shape": [1]}}}, "not allowed"),
        ({"features": {"x": {"dtype": "object", "shape": [1]}}}, "dtype 'object'; known"),
        ({"features": {"x": {"dtype": "float32", "shape": [1 << 40]}}}, "shape"),
        ({"features": {"x": {"dtype": "float32", "shape": [1000, 1000, 1000]}}}, "more than one frame may hold"),
        ({"features": {"x": {"dtype": "image", "shape": [20_000, 8, 3]}}}, "px"),
        ({"features": {"x": {"dtype": "video", "shape": [4]}}}, "three axes"),
    ],
)
def test_values_that_cannot_be_are_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    edit_info(folder, **change)
    with pytest.raises(UserError, match=message):
        open_dataset(folder)


def test_a_missing_or_empty_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist; give the folder of a dataset"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"neither meta/info\.json.*it is empty"):
        open_dataset(tmp_path)
    (tmp_path / "meta").mkdir()
    with pytest.raises(UserError, match=r"info\.json is missing"):
        open_dataset(tmp_path)
    (tmp_path / "meta/info.json").write_bytes(b"\x00\xff{")
    with pytest.raises(UserError, match=r"info\.json is not JSON"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "name", ["data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet"]
)
@pytest.mark.parametrize("damage", ["truncated", "random", "empty", "missing"])
def test_a_damaged_table_is_named(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    content = path.read_bytes()
    noise = np.random.default_rng(0).bytes(5000)
    path.unlink()
    if damage != "missing":
        path.write_bytes({"truncated": content[: len(content) // 2], "random": noise, "empty": b""}[damage])
    elif name.startswith("meta/"):
        pytest.skip("without it there are no episodes, or it is not needed")
    with pytest.raises(UserError, match=rf"{path.name}.*(damaged|missing).*restore"):
        _read_everything(folder)


def _read_everything(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert dataset.tasks  # type: ignore[attr-defined]
    for e in range(len(dataset)):
        dataset.column(e, "action")


def test_bytes_damaged_inside_of_a_table_end_in_an_error_or_the_same_values(recorded: Path) -> None:
    path = recorded / "data/chunk-000/file-000.parquet"
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        at = int(rng.integers(4, len(content) - 4))
        damaged[at : at + 4] = rng.bytes(4)
        path.write_bytes(bytes(damaged))
        try:
            dataset = open_dataset(recorded)
            for e in range(2):
                for name in dataset.features:
                    dataset.column(e, name)
                for f in range(dataset.length(e)):
                    dataset.image(e, f, "front")
        except UserError:
            refused += 1
    assert refused > 0


def test_a_table_that_disagrees_with_its_declaration_is_refused(folder: Path) -> None:
    path = folder / "data/chunk-000/file-000.parquet"
    content = path.read_bytes()
    rewrite(path, lambda table: table.drop_columns(["action"]))
    with pytest.raises(UserError, match=r"file-000\.parquet lacks the column 'action'"):
        open_dataset(folder).column(0, "action")
    path.write_bytes(content)
    rewrite(path, lambda table: table.slice(0, 5))
    with pytest.raises(UserError, match="has 5 rows, the episode table gives it 7"):
        open_dataset(folder).column(0, "action")
    path.write_bytes(content)
    edit_info(folder, features=foreign.FEATURES | {"action": {"dtype": "float32", "shape": [3]}})
    with pytest.raises(UserError, match=r"14 numbers in 7 frames; its shape \[3\] asks for 21"):
        open_dataset(folder).column(0, "action")


def test_an_image_of_another_size_is_not_decoded(recorded: Path) -> None:
    info = json.loads((recorded / "meta/info.json").read_text())
    info["features"]["observation.images.front"]["shape"] = [16, 16, 3]
    edit_info(recorded, features=info["features"])
    with pytest.raises(UserError, match=r"episode 0, frame 0, camera 'front' is an image of 12 x 16.*declares 16 x 16"):
        open_dataset(recorded).image(0, 0, "front")
