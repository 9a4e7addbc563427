"""Converting to LeRobotDataset v3.0 and v2.1: nothing is lost, and a killed conversion ends as if it had not been killed."""

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import foreign
import foreign_v2
import rlds_writer
from odd_source import HEIGHT, WIDTH, OddSource, jpeg
from recordings import EMBODIMENT, episode, picture

from ideomotor.core.errors import UserError
from ideomotor.data.check import check_dataset
from ideomotor.data.convert.job import convert, convert_folder
from ideomotor.data.convert.original_names import with_original_names
from ideomotor.data.convert.video_writer import BOUND, psnr
from ideomotor.data.dataset import Dataset, Feature
from ideomotor.data.lerobot.check_v2 import lerobot_v2_faults
from ideomotor.data.lerobot.v2 import open_lerobot
from ideomotor.data.lerobot.writer import DatasetWriter

BRIDGE = Path(__file__).parents[3] / "shared/fixtures/bridge-rlds-train"


def record(folder: Path) -> Path:
    with DatasetWriter(folder, EMBODIMENT, file_size=10_000) as writer:
        for index, success in enumerate(("success", "failure", "unknown", "success")):
            writer.add_episode(episode(index, 3 + index, ("lift", "drop")[index % 2], success))  # type: ignore[arg-type] (one of the three labels)
    return folder


def assert_equal(left: Dataset, right: Dataset) -> None:
    """Every array, spec, label and text."""
    assert len(left) == len(right)
    assert dict(left.features) == dict(right.features)
    assert (left.fps, left.embodiment, left.splits) == (right.fps, right.embodiment, right.splits)
    assert dict(left.cameras) == dict(right.cameras)
    for e in range(len(left)):
        assert left.length(e) == right.length(e)
        assert left.instruction(e) == right.instruction(e)
        assert left.success(e) == right.success(e)
        for name in left.features:
            a, b = left.column(e, name), right.column(e, name)
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_images_survive_v3_to_v21_to_v3(tmp_path: Path) -> None:
    before = open_lerobot(record(tmp_path / "a"))
    convert(before, tmp_path / "b", "lerobot-v2.1", progress=False)
    between = open_lerobot(tmp_path / "b")
    convert(between, tmp_path / "c", "lerobot-v3", progress=False)
    after = open_lerobot(tmp_path / "c")
    assert between.format == "LeRobotDataset v2.1"
    for dataset in (between, after):
        assert_equal(before, dataset)
        assert dataset.embodiment == EMBODIMENT
        assert dataset.info.robot_type == "panda"
        for e in range(4):
            assert dataset.column(e, "index").tolist() == before.column(e, "index").tolist()
            assert dataset.column(e, "task_index").tolist() == before.column(e, "task_index").tolist()
            for f in range(3 + e):
                for role in ("front", "wrist"):
                    assert dataset.encoded_image(e, f, role) == before.encoded_image(e, f, role)
        assert (dataset.image(2, 4, "wrist") == picture(2, 4, 8, 8)).all()
    assert check_dataset(tmp_path / "c") == []
    assert list(lerobot_v2_faults(tmp_path / "b")) == []
    assert not (tmp_path / "c/meta/names.json").exists()
    same = DatasetWriter(tmp_path / "c", EMBODIMENT)  # recording can go on
    assert same.num_episodes == 4
    same.close()


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.pts is not None]


def assert_same_video(left: Any, right: Any) -> None:
    for e in range(len(left)):
        for f in range(left.length(e)):
            assert (left.image(e, f, "top") == right.image(e, f, "top")).all()


def test_videos_are_copied_packet_by_packet(tmp_path: Path) -> None:
    before = open_lerobot(foreign_v2.write(tmp_path / "a"))
    text = convert_folder(before, tmp_path / "b", "lerobot-v3")
    between = open_lerobot(tmp_path / "b")
    convert(between, tmp_path / "c", "lerobot-v2.1", progress=False)
    after = open_lerobot(tmp_path / "c")
    assert "Video copied packet by packet: observation.images.top (3 episodes)" in text
    for dataset in (between, after):
        assert_same_video(before, dataset)
        assert dict(dataset.features) == dict(before.features)
        for e in range(3):
            assert dataset.column(e, "comment").tolist() == before.column(e, "comment").tolist()
            assert (dataset.column(e, "observation.state") == before.column(e, "observation.state")).all()
    for e in range(3):
        middle = tmp_path / f"b/videos/observation.images.top/chunk-000/file-{e:03d}.mp4"
        original = packets(foreign_v2.video(tmp_path / "a", e))
        assert packets(middle) == packets(foreign_v2.video(tmp_path / "c", e)) == original
    faults = check_dataset(tmp_path / "b")
    assert faults == []
    info = json.loads((tmp_path / "b/meta/info.json").read_text())
    stated = info["features"]["observation.images.top"]["info"]
    assert (stated["video.codec"], stated["video.pix_fmt"], stated["video.fps"]) == ("h264", "yuv420p", 10)
    assert (stated["video.height"], stated["video.width"], stated["has_audio"]) == (16, 32, False)


def test_an_episode_is_cut_out_of_a_shared_video_at_its_key_frame(tmp_path: Path) -> None:
    source = foreign.write(tmp_path / "a")  # 4 and 3 frames in one mp4
    mp4 = source / "videos/observation.images.top/chunk-000/file-000.mp4"
    greys = [foreign.brightness(n) for n in range(7)]
    foreign_v2.write_video(mp4, greys, gop=2)
    before = open_lerobot(source)
    done = convert(before, tmp_path / "b", "lerobot-v2.1", progress=False)
    assert done.videos["observation.images.top"] == {"copied": 2, "encoded": 0, "smallest_psnr_db": None}
    assert_same_video(before, open_lerobot(tmp_path / "b"))
    cut = [tmp_path / f"b/videos/chunk-000/observation.images.top/episode_{e:06d}.mp4" for e in range(2)]
    assert packets(cut[0]) + packets(cut[1]) == packets(mp4)


def test_an_episode_that_begins_between_key_frames_is_encoded_again(tmp_path: Path) -> None:
    source = foreign.write(tmp_path / "a")
    mp4 = source / "videos/observation.images.top/chunk-000/file-000.mp4"
    foreign_v2.write_video(mp4, [foreign.brightness(n) for n in range(7)], gop=100)
    before = open_lerobot(source)
    done = convert(before, tmp_path / "b", "lerobot-v2.1", progress=False)
    video = done.videos["observation.images.top"]
    assert (video["copied"], video["encoded"]) == (1, 1)
    after = open_lerobot(tmp_path / "b")
    worst = min(psnr(before.image(1, f, "top"), after.image(1, f, "top")) for f in range(3))
    assert worst >= BOUND
    assert video["smallest_psnr_db"] == pytest.approx(worst if worst < float("inf") else None)


def test_rows_that_skip_frames_of_a_video_are_encoded_again(tmp_path: Path) -> None:
    import pyarrow as pa

    source = foreign_v2.write(tmp_path / "a")
    greys = [foreign_v2.brightness(0, f) for f in range(7)]
    foreign_v2.write_video(foreign_v2.video(source, 0), greys)
    table = foreign_v2.rows(0, timestamp=pa.array([0.0, 0.2, 0.4, 0.6]))
    pq.write_table(table, source / "data/chunk-000/episode_000000.parquet")
    before = open_lerobot(source)
    done = convert(before, tmp_path / "b", "lerobot-v3", progress=False)
    assert (done.videos["observation.images.top"]["copied"], done.videos["observation.images.top"]["encoded"]) == (2, 1)
    after = open_lerobot(tmp_path / "b")
    assert after.column(0, "timestamp").tolist() == pytest.approx([0, 0.1, 0.2, 0.3])
    assert after.column(0, "raw.timestamp").tolist() == pytest.approx([0, 0.2, 0.4, 0.6])
    convert(after, tmp_path / "c", "lerobot-v2.1", progress=False)
    assert open_lerobot(tmp_path / "c").column(0, "raw.timestamp").tolist() == pytest.approx([0, 0.2, 0.4, 0.6])
    for f in range(4):
        assert psnr(before.image(0, f, "top"), after.image(0, f, "top")) >= BOUND


@pytest.mark.parametrize("target", ["lerobot-v3", "lerobot-v2.1"])
def test_all_that_a_lerobotdataset_has_no_place_for_comes_back(tmp_path: Path, target: Any) -> None:
    source: Any = OddSource()
    text = convert_folder(source, tmp_path / "b", target)
    assert "1 episodes without frames are left out" in text
    assert "observation.image_id -> raw.observation.im%61ge_id" in text
    assert "3 images that the source lacks are black" in text
    plain = open_lerobot(tmp_path / "b")
    names = set(plain.features)
    assert {"raw.action.rotation", "raw.observation.im%61ge_id", "raw.index", "note", "words", "boxes"} <= names
    assert not any("image" in name for name in names)
    assert all(len(feature.shape) == 1 for feature in plain.features.values())
    assert set(plain.cameras) == {"image_0", "left%2Fwrist", "sparse"}
    assert plain.splits == {"train": range(2), "val": range(2, 3)}
    after = with_original_names(plain)
    assert isinstance(after, Dataset)
    assert after.format.endswith("converted from odd 1.0")
    assert {n: (f.dtype, f.shape) for n, f in after.features.items()} == {
        n: (f.dtype, f.shape) for n, f in source.features.items()
    }
    assert set(after.cameras) == set(source.cameras)
    for here, there in enumerate((0, 2, 3)):
        assert after.length(here) == source.length(there)
        assert after.instruction(here) == source.instruction(there)
        assert after.success(here) == source.success(there)
        for name in source.features:
            a, b = after.column(here, name), source.column(there, name)
            for f in range(source.length(there)):
                assert _plain(a[f]) == _plain(b[f]), name
                assert getattr(a[f], "dtype", str) == getattr(b[f], "dtype", str)
        for f in range(source.length(there)):
            assert after.encoded_image(here, f, "image_0") == jpeg(there, f)  # type: ignore[attr-defined] (this reader has it)
            assert (after.image(here, f, "left/wrist") == source.image(there, f, "left/wrist")).all()
            shown = after.image(here, f, "sparse")
            assert shown.any() == (f > 0)
    faults = check_dataset(tmp_path / "b") if target == "lerobot-v3" else list(lerobot_v2_faults(tmp_path / "b"))
    assert [str(fault) for fault in faults] == []


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value] if value.dtype == object else value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def test_names_survive_further_conversions(tmp_path: Path) -> None:
    source: Any = OddSource()
    convert(source, tmp_path / "b", "lerobot-v3", progress=False)
    convert(open_lerobot(tmp_path / "b"), tmp_path / "c", "lerobot-v2.1", progress=False)
    convert(open_lerobot(tmp_path / "c"), tmp_path / "d", "lerobot-v3", progress=False)
    for name in ("c", "d"):
        after = with_original_names(open_lerobot(tmp_path / name))
        assert set(after.features) == set(source.features)
        assert set(after.cameras) == set(source.cameras)
        assert after.format.endswith("converted from odd 1.0")
        for e, there in enumerate((0, 2, 3)):
            assert (after.column(e, "action.rotation") == source.column(there, "action.rotation")).all()
    assert (tmp_path / "b/meta/names.json").read_bytes() == (tmp_path / "d/meta/names.json").read_bytes()


def test_rlds_keeps_its_encoded_images(tmp_path: Path) -> None:
    rlds = pytest.importorskip("ideomotor.data.rlds.dataset")
    rlds_writer.write(tmp_path / "toy/1.0.0", [rlds_writer.episode_record(e, 3 + e) for e in range(3)])
    before: Any = rlds.RldsDataset(tmp_path / "toy")
    _compare_with_rlds(before, tmp_path / "out", fps=5.0)
    after = open_lerobot(tmp_path / "out")
    if hasattr(before, "encoded_image"):
        assert after.encoded_image(2, 4, "front") == rlds_writer.png(rlds_writer.picture(2, 4))
    with pytest.raises(UserError, match="does not say how many frames a second.*--fps"):
        convert(before, tmp_path / "other", "lerobot-v3", progress=False)


@pytest.mark.skipif(not BRIDGE.is_dir(), reason="the Bridge sample is not part of the repository")
def test_bridge_keeps_every_jpeg(tmp_path: Path) -> None:
    from ideomotor.data.rlds.dataset import RldsDataset

    before: Any = RldsDataset(BRIDGE / "bridge_dataset/1.0.0")
    _compare_with_rlds(before, tmp_path / "out", fps=5.0)
    after = open_lerobot(tmp_path / "out")
    encoded = after.encoded_image(0, 0, "image_0")
    assert encoded
    assert encoded.startswith(b"\xff\xd8")
    assert (after.image(0, 0, "image_0") == np.asarray(Image.open(io.BytesIO(encoded)))).all()


def _compare_with_rlds(before: Any, out: Path, fps: float) -> None:
    convert(before, out, "lerobot-v3", fps=fps, progress=False)
    after: Any = with_original_names(open_lerobot(out))
    assert after.fps == fps
    assert set(after.features) == set(before.features)
    for e in range(len(before)):
        assert after.instruction(e) == before.instruction(e)
        for name in before.features:
            np.testing.assert_array_equal(after.column(e, name), before.column(e, name))
        for role in before.cameras:
            for f in range(before.length(e)):
                if hasattr(before, "encoded_image"):
                    assert after.encoded_image(e, f, role) == before.encoded_image(e, f, role)
                assert (
                    np.abs(after.image(e, f, role).astype(int) - before.image(e, f, role)).max() <= 20
                )  # RLDS: TensorFlow's decoder
    assert check_dataset(out) == []


@pytest.mark.parametrize("target", ["lerobot-v3", "lerobot-v2.1"])
def test_video_on_request_keeps_its_bound(tmp_path: Path, target: Any) -> None:
    source: Any = OddSource((3, 0, 4, 2))
    text = convert_folder(source, tmp_path / "b", target, video=True)
    assert "each frame at least 35 dB from its original" in text
    after: Any = with_original_names(open_lerobot(tmp_path / "b"))
    assert not any("bytes" in str(pq.read_schema(path)) for path in (tmp_path / "b/data").rglob("*.parquet"))
    for here, there in enumerate((0, 2, 3)):
        for role in source.cameras:
            for f in range(source.length(there)):
                if role != "sparse" or f > 0:
                    assert psnr(after.image(here, f, role), source.image(there, f, role)) >= 35.0
    if target == "lerobot-v3":
        assert check_dataset(tmp_path / "b") == []


class Noise(OddSource):
    """What no codec likes, with sides that 4:2:0 cannot have."""

    features: ClassVar = {"action": Feature("action", "float32", (2,))}
    cameras: ClassVar = {"front": dataclasses.replace(OddSource.cameras["sparse"], role="front", height=15, width=23)}
    content_hash = "noise"

    def image(self, episode: int, frame: int, camera: str) -> np.ndarray:
        return np.random.default_rng([episode, frame]).integers(0, 256, (15, 23, 3), dtype=np.uint8)

    def encoded_image(self, episode: int, frame: int, camera: str) -> bytes | None:
        return None


def test_noise_of_odd_size_keeps_the_bound_too(tmp_path: Path) -> None:
    source: Any = Noise((2, 0, 2, 1))
    done = convert(source, tmp_path / "b", "lerobot-v2.1", video=True, progress=False)
    assert done.videos["observation.images.front"]["smallest_psnr_db"] >= 35.0
    after = open_lerobot(tmp_path / "b")
    assert psnr(after.image(1, 1, "front"), source.image(2, 1, "front")) >= 35.0


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("target", "video"), [("lerobot-v3", ""), ("lerobot-v2.1", ""), ("lerobot-v2.1", "--video")])
def test_killed_at_any_write_it_ends_with_the_same_bytes(tmp_path: Path, target: str, video: str, every: int) -> None:
    program = [sys.executable, str(Path(__file__).parent / "kill_convert.py"), str(tmp_path / "k"), target, str(every)]
    run = subprocess.run([*program, video], capture_output=True, text=True, timeout=600, check=True)
    lines = [line.split() for line in run.stdout.splitlines()]
    assert len(lines) > 20 / every
    assert {line[2] for line in lines} == {"out"}
    assert len({line[3] for line in lines}) == 1


def test_finished_episodes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(OddSource):
        asked: ClassVar[set[int]] = set()
        broken = True

        def column(self, episode: int, name: str) -> np.ndarray:
            if name == "action":
                self.asked.add(episode)
            if episode == 3 and self.broken:
                raise OSError(5, "Input/output error")
            return super().column(episode, name)

    source: Any = Failing()
    with pytest.raises(UserError, match="out cannot be written.*Input/output error.*it goes on"):
        convert(source, tmp_path / "out", "lerobot-v2.1", progress=False)
    assert not (tmp_path / "out").exists()
    source.asked.clear()
    source.broken = False
    convert(source, tmp_path / "out", "lerobot-v2.1", progress=False)
    assert source.asked == {3}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_another_command_begins_anew(tmp_path: Path) -> None:
    class Failing(OddSource):
        def column(self, episode: int, name: str) -> np.ndarray:
            if episode == 3:
                raise UserError("the source is damaged")
            return super().column(episode, name)

    with pytest.raises(UserError, match="damaged"):
        convert(Failing(), tmp_path / "out", "lerobot-v2.1", progress=False)  # type: ignore[arg-type] (a double: class attributes)
    convert(OddSource(), tmp_path / "out", "lerobot-v3", progress=False)  # type: ignore[arg-type] (a double: class attributes)
    convert(OddSource(), tmp_path / "fresh", "lerobot-v3", progress=False)  # type: ignore[arg-type] (a double: class attributes)
    left, right = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()}
        for n in ("out", "fresh")
    )
    assert left == right


def test_a_place_that_holds_something_is_refused(tmp_path: Path) -> None:
    source: Any = OddSource()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("dear")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="full exists and holds something; give a folder that is new or empty"):
        convert(source, tmp_path / "full", "lerobot-v3", progress=False)
    with pytest.raises(UserError, match="exists and holds something"):
        convert(source, tmp_path / "full/letter.txt", "lerobot-v3", progress=False)
    convert(source, tmp_path / "empty", "lerobot-v3", progress=False)
    with pytest.raises(UserError, match="exists and holds something"):
        convert(source, tmp_path / "empty", "lerobot-v3", progress=False)
    recorded = open_lerobot(record(tmp_path / "recorded"))
    for inside in (tmp_path / "recorded", tmp_path / "recorded/inside"):
        with pytest.raises(UserError, match="lies in the dataset that is converted"):
            convert(recorded, inside, "lerobot-v3", progress=False)
    (tmp_path / ".other.converting").mkdir()
    (tmp_path / ".other.converting/letter.txt").write_text("dear")
    with pytest.raises(UserError, match="no conversion wrote"):
        convert(source, tmp_path / "other", "lerobot-v3", progress=False)
    assert (tmp_path / ".other.converting/letter.txt").read_text() == "dear"
    with pytest.raises(UserError, match="unknown format 'lerobot'; known: lerobot-v2.1, lerobot-v3"):
        convert_folder(source, tmp_path / "x", "lerobot")
    with pytest.raises(UserError, match="has 10 frames a second; --fps is for datasets that do not say"):
        convert(source, tmp_path / "x", "lerobot-v3", fps=5.0, progress=False)


def test_images_that_change_their_size_are_refused(tmp_path: Path) -> None:
    class Changing(OddSource):
        def encoded_image(self, episode: int, frame: int, camera: str) -> bytes | None:
            return rlds_writer.png(np.zeros((4, 4, 3), np.uint8)) if frame == 1 else jpeg(episode, frame)

    class Broken(OddSource):
        def encoded_image(self, episode: int, frame: int, camera: str) -> bytes | None:
            return jpeg(episode, frame)[:20]

    with pytest.raises(UserError, match=rf"frame 1, camera 'image_0' is an image of 4 x 4.*{HEIGHT} x {WIDTH}"):
        convert(Changing(), tmp_path / "x", "lerobot-v3", progress=False)  # type: ignore[arg-type] (a double: class attributes)
    with pytest.raises(UserError, match="camera 'image_0' is no JPEG or PNG"):
        convert(Broken(), tmp_path / "y", "lerobot-v3", progress=False)  # type: ignore[arg-type] (a double: class attributes)


def test_an_instruction_that_changes_on_the_way_is_kept(tmp_path: Path) -> None:
    import pyarrow as pa

    source = foreign_v2.write(tmp_path / "a", image=True)
    images = [{"bytes": foreign_v2.png(2, f), "path": None} for f in range(5)]
    table = foreign_v2.rows(
        2,
        task_index=pa.array([1, 1, 0, 0, 1]),
        **{foreign_v2.CAMERA: pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))},
    )
    pq.write_table(table, source / "data/chunk-000/episode_000002.parquet")
    rows = [{"episode_index": e, "tasks": [foreign_v2.TASKS[e % 2]], "length": n} for e, n in enumerate((4, 3))]
    foreign_v2.lines(
        source / "meta/episodes.jsonl", [*rows, {"episode_index": 2, "tasks": list(foreign_v2.TASKS), "length": 5}]
    )
    for target in ("lerobot-v3", "lerobot-v2.1"):
        convert(open_lerobot(source), tmp_path / target, target, progress=False)  # type: ignore[arg-type] (a double: class attributes)
        after = open_lerobot(tmp_path / target)
        assert [after.tasks[i] for i in after.column(2, "task_index").tolist()] == [
            "close it", "close it", "open the drawer", "open the drawer", "close it"
        ]  # fmt: skip
        assert after.instruction(2) == "close it"
        assert set(after.rows[2].tasks) == set(foreign_v2.TASKS)


def test_values_that_are_not_finite_are_kept_and_left_out_of_statistics(tmp_path: Path) -> None:
    class Holes(OddSource):
        def column(self, episode: int, name: str) -> np.ndarray:
            values = super().column(episode, name)
            if name == "action":
                values[0, 1] = np.nan
            return np.full_like(values, np.inf) if name == "reward" else values

    source: Any = Holes()
    for target in ("lerobot-v3", "lerobot-v2.1"):
        convert(source, tmp_path / target, target, progress=False)  # type: ignore[arg-type] (a double: class attributes)
        after = open_lerobot(tmp_path / target)
        for here, there in enumerate((0, 2, 3)):
            np.testing.assert_array_equal(after.column(here, "action"), source.column(there, "action"))
            assert np.isinf(after.column(here, "reward")).all()
    stats = json.loads((tmp_path / "lerobot-v3/meta/stats.json").read_text())
    actions = np.concatenate([source.column(e, "action")[1:] for e in (0, 2, 3)]).astype(np.float64)
    assert stats["action"]["mean"] == pytest.approx(actions.mean(0))
    assert stats["action"]["count"] == [len(actions)]


def test_statistics_of_v21_are_exact(tmp_path: Path) -> None:
    before = open_lerobot(record(tmp_path / "a"))
    convert(before, tmp_path / "b", "lerobot-v2.1", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "b/meta/episodes_stats.jsonl").read_text().splitlines()]
    assert [line["episode_index"] for line in lines] == [0, 1, 2, 3]
    stats = lines[2]["stats"]
    automatic = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
    assert set(stats) == {*before.features, *automatic, "observation.images.front", "observation.images.wrist"}
    assert set(stats["action"]) == {"min", "max", "mean", "std", "count"}
    actions = before.column(2, "action").astype(np.float64)
    assert stats["action"]["mean"] == pytest.approx(actions.mean(0))
    assert stats["action"]["std"] == pytest.approx(actions.std(0))
    assert stats["action"]["min"] == actions.min(0).tolist()
    assert stats["action"]["count"] == [5]
    assert (stats["index"]["min"], stats["index"]["max"]) == ([7], [11])
    pixels = np.stack([picture(2, f, 12, 16) for f in range(5)]).reshape(-1, 3) / 255
    assert np.shape(stats["observation.images.front"]["mean"]) == (3, 1, 1)
    assert np.ravel(stats["observation.images.front"]["mean"]) == pytest.approx(pixels.mean(0))
    assert np.ravel(stats["observation.images.front"]["std"]) == pytest.approx(pixels.std(0))


def test_v21_is_laid_out_as_other_tools_expect(tmp_path: Path) -> None:
    convert(open_lerobot(record(tmp_path / "a")), tmp_path / "b", "lerobot-v2.1", progress=False)
    meta = tmp_path / "b/meta"
    info = json.loads((meta / "info.json").read_text())
    totals = {key: value for key, value in info.items() if key.startswith("total")}
    assert totals == {"total_episodes": 4, "total_frames": 18, "total_tasks": 2, "total_videos": 0, "total_chunks": 1}
    assert (info["codebase_version"], info["video_path"], info["fps"]) == ("v2.1", None, 10)
    episodes = [json.loads(line) for line in (meta / "episodes.jsonl").read_text().splitlines()]
    assert episodes[1] == {"episode_index": 1, "tasks": ["drop"], "length": 4, "success": "failure"}
    tasks = [json.loads(line) for line in (meta / "tasks.jsonl").read_text().splitlines()]
    assert tasks == [{"task_index": 0, "task": "lift"}, {"task_index": 1, "task": "drop"}]
    table = pq.read_table(tmp_path / "b/data/chunk-000/episode_000003.parquet")
    assert set(table.column_names) == set(info["features"])
    assert table["timestamp"].to_pylist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    stored = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert stored["observation.images.front"] == {"_type": "Image"}
    assert stored["action"] == {"feature": {"dtype": "float32", "_type": "Value"}, "length": 2, "_type": "Sequence"}
    assert stored["index"] == {"dtype": "int64", "_type": "Value"}
    assert json.loads((meta / "modality.json").read_text())["state"] == {
        "part": {"start": 0, "end": 2, "dtype": "float32", "absolute": True},
        "opening": {"start": 2, "end": 3, "dtype": "float32", "absolute": True},
    }


def test_the_bar_says_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(OddSource(), tmp_path / "b", "lerobot-v3")  # type: ignore[arg-type] (a double: class attributes)
    captured = capsys.readouterr()
    assert "convert odd: 100%" in captured.err
    assert "10/10" in captured.err
    assert captured.out == ""
