"""TFRecord, tf.Example and RLDS against golden bytes, a second writer, and real BridgeData episodes."""

import io
import json
import pickle
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import rlds_writer

from ideomotor.core.errors import UsageError, UserError
from ideomotor.data.dataset import Dataset
from ideomotor.data.opening import open_dataset
from ideomotor.data.rlds.dataset import RldsDataset
from ideomotor.data.rlds.example import Strings, WireError, parse
from ideomotor.data.rlds.frame_index import index_path
from ideomotor.data.rlds.tfrecord import CorruptRecordError, Shard, masked_crc

# Golden bytes, written by TensorFlow.
GOLDEN_RECORD = bytes.fromhex("1100000000000000 9d6db52e 0a0f0a0d0a0161120812060a040000803f 722573ca")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def toy(tmp_path, cache):
    """Three episodes of 4, 1 and 3 frames in `toy/1.0.0`."""
    folder = tmp_path / "toy" / "1.0.0"
    rlds_writer.write(folder, [rlds_writer.episode_record(e, n) for e, n in enumerate((4, 1, 3))])
    return folder


@pytest.fixture
def bridge(fixtures, cache, tmp_path):
    """Real data in a folder that cannot be written."""
    copy = tmp_path / "bridge-rlds-train"
    shutil.copytree(fixtures / "bridge-rlds-train", copy)
    next(copy.rglob("features.json")).parent.chmod(0o555)
    return RldsDataset(copy)


def shard_of(folder):
    return next(folder.glob("*.tfrecord*"))


def test_checksums_have_their_published_values():
    assert masked_crc(b"") == 0xA282EAD8
    unmasked = 0xE3069283  # of "123456789"
    assert masked_crc(b"123456789") == (((unmasked >> 15) | (unmasked << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert rlds_writer.crc32c(b"123456789") == unmasked


def test_the_golden_record_is_read(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(GOLDEN_RECORD * 2)
    shard = Shard(path)
    spans = list(shard.verified())
    assert [(s.offset, s.length) for s in spans] == [(12, 17), (45, 17)]
    parsed = parse(shard.payload(spans[1]))
    assert list(parsed) == ["a"]
    assert isinstance(parsed["a"], np.ndarray)
    assert parsed["a"].tolist() == [1.0]
    assert rlds_writer.framed(GOLDEN_RECORD[12:29]) == GOLDEN_RECORD  # the test's own writer agrees


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("0a17 0a15 0a0169 1210 1a0e 0a0c ffffffffffffffffff01 ac02", "i", [-1, 300]),
        ("0a0f 0a0d 0a0162 1208 0a06 0a00 0a02 6869", "b", [b"", b"hi"]),
        ("0a09 0a07 0a0165 1202 1200", "e", []),
        ("0a07 0a05 0a016e 1200", "n", None),
        ("0a13 0a11 0a0175 120c 120a 0d0000803f 0d00000040", "u", [1.0, 2.0]),  # unpacked
        ("0a0e 0a0c 0a0175 1207 1a05 0801 08ac02", "u", [1, 300]),  # unpacked integers
        ("0a15 0a13 0a0175 120e 120c 0a040000803f 0a0400000040", "u", [1.0, 2.0]),  # two packed runs
        ("0a0e 0a0c 1208 1206 0a04 0000803f 0a00", "", [1.0]),  # value before an empty key
        ("0a05 0a03 0a0178", "x", None),  # key without a value
        ("1801 0a0b 0a09 0a0165 1202 1200 1801", "e", []),  # unknown fields around
        ("0a1c 0a0c 0a0161 1207 1a05 0a03 010203 0a0c 0a0161 1207 1a05 0a03 040506", "a", [4, 5, 6]),  # last one counts
    ],
)
def test_examples_are_parsed_as_the_wire_format_says(text, key, expected):
    payload = memoryview(bytes.fromhex(text))
    feature = parse(payload)[key]
    if isinstance(feature, Strings):
        assert feature.of(payload) == expected
    else:
        assert feature is expected if expected is None else feature.tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0aff", "no end"),
        ("0a17 0a15", "states 23 bytes"),
        ("0b", "wire type 3"),
        ("0a0c 0a0a 0a0161 1205 1203 0a01ff", "no multiple of 4"),
        ("0a0c 0a0a 0a0161 1205 1a03 0a01ff", "end inside a number"),
        ("0a16 0a14 0a0161 120f 1a0d 0a0b ffffffffffffffffffff01", "takes 11 bytes"),
        ("0a05 0a03 0a01ff", "not UTF-8"),
    ],
)
def test_broken_examples_are_refused(text, message):
    with pytest.raises(WireError, match=message):
        parse(memoryview(bytes.fromhex(text)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_parse_or_are_refused_but_never_crash(data):
    try:
        parse(memoryview(data))
    except WireError:
        pass


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), st.lists(st.binary(max_size=300), min_size=1, max_size=5)
)
def test_integers_and_strings_of_a_second_writer_come_back(numbers, strings):
    payload = memoryview(rlds_writer.encode({"i": numbers, "s": strings}))
    parsed = parse(payload)
    assert isinstance(parsed["i"], np.ndarray)
    assert parsed["i"].tolist() == numbers
    assert isinstance(parsed["s"], Strings)
    assert parsed["s"].of(payload) == strings


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "record 1 at byte 33 .* ends before the 17 bytes"),
        (lambda data: data[:40], "record 1 at byte 33 .* inside the header"),
        (lambda data: data[:35] + b"\x01" + data[36:], "record 1 at byte 33 .* length word"),
        (lambda data: data[:50] + b"\xff" + data[51:], "record 1 at byte 33 .* payload does not fit"),
    ],
)
def test_a_damaged_record_is_named_by_shard_number_and_offset(tmp_path, damage, message):
    path = tmp_path / "toy-train.tfrecord"
    path.write_bytes(damage(GOLDEN_RECORD * 2))
    whole = []
    with pytest.raises(CorruptRecordError, match=message) as caught:
        whole.extend(Shard(path).verified())
    assert "toy-train.tfrecord" in str(caught.value)
    spans = Shard(path).verified()
    before = parse(Shard(path).payload(next(spans)))["a"]
    assert isinstance(before, np.ndarray)
    assert before.tolist() == [1.0]  # the record before is whole


def test_a_compressed_shard_is_refused_with_its_remedy(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(b"\x1f\x8b\x08" + bytes(30))
    with pytest.raises(UserError, match="gunzip"):
        list(Shard(path).verified())


def test_a_written_dataset_reads_back_frame_by_frame(toy):
    for path in (toy, toy.parent, toy.parent.parent):
        dataset = RldsDataset(path)
        assert [len(dataset[e]) for e in range(len(dataset))] == [4, 1, 3]
    assert isinstance(dataset, Dataset)
    assert isinstance(open_dataset(toy), RldsDataset)
    assert dataset.splits == {"train": range(3)}
    frame = dataset[2][1]
    assert frame["action"].tolist() == [2.0, 1.0, 0.5]
    assert frame["state"].tolist() == [1.0, -2.0]
    assert frame["instruction"] == "do 2"
    assert frame["is_first"].dtype == bool
    assert dataset.column(0, "is_first").tolist() == [True, False, False, False]
    assert (frame["images"]["front"] == rlds_writer.picture(2, 1)).all()
    assert dataset.cameras["front"].width == 10
    assert dataset.features["observation.state"].dtype == "float32"  # declared float64, stored as float32


def test_a_second_opening_reads_the_index_and_a_changed_shard_rebuilds_it(toy):
    RldsDataset(toy)
    shard = shard_of(toy)
    index = index_path(shard, toy)
    assert index == toy / ".ideomotor" / f"{shard.name}.index"
    before = index.stat().st_mtime_ns
    first_hash = RldsDataset(toy).content_hash
    assert index.stat().st_mtime_ns == before

    records = [rlds_writer.episode_record(e, n) for e, n in enumerate((4, 1, 3))]
    records[1]["steps/observation/state"] = np.array([7.0, 7.0], np.float32)  # same size, other content
    rlds_writer.write(toy, records)
    dataset = RldsDataset(toy)
    assert dataset.column(1, "observation.state").tolist() == [[7.0, 7.0]]
    assert index.stat().st_mtime_ns != before
    assert dataset.content_hash != first_hash


def test_a_broken_index_is_built_again(toy):
    RldsDataset(toy)
    index = index_path(shard_of(toy), toy)
    for content in (b"", b"other", b"IDEOIDX1"):
        index.write_bytes(content)
        assert len(RldsDataset(toy)) == 3


def test_a_folder_that_cannot_be_written_has_its_index_in_the_cache(toy, cache):
    toy.chmod(0o555)
    try:
        assert len(RldsDataset(toy)) == 3
        assert not (toy / ".ideomotor").exists()
        assert len(list(cache.rglob("*.index"))) == 1
    finally:
        toy.chmod(0o755)


def test_equal_content_has_equal_hashes_wherever_it_lies(toy, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(toy, copy)
    assert RldsDataset(copy).content_hash == RldsDataset(toy).content_hash


def test_episodes_that_contradict_themselves_are_refused(toy):
    records = [rlds_writer.episode_record(0, 4)]
    records[0]["steps/is_first"] = [1, 0, 0]
    rlds_writer.write(toy, records)
    with pytest.raises(UserError, match=r"record 0 at byte 0: its features disagree .*'steps/is_first': 3"):
        RldsDataset(toy)
    del records[0]["steps/is_first"]
    rlds_writer.write(toy, records)
    with pytest.raises(UserError, match="no usable 'steps/is_first'"):
        RldsDataset(toy)


def edit(folder, **changes):
    path = folder / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: shard_of(d).unlink(), "tfrecord-00000-of-00001 is missing"),
        (lambda d: (d / "features.json").write_text("{"), "features.json is not JSON"),
        (lambda d: (d / "features.json").write_text("{}"), "declares no sequence 'steps'"),
        (lambda d: edit(d, splits=[{"name": "train", "shardLengths": ["4"]}]), "holds 3 records, .* states 4"),
        (lambda d: edit(d, name="../../toy"), "outside of its folder"),
        (lambda d: edit(d, fileFormat="array_record"), "as array_record"),
        (lambda d: shutil.copytree(d.parent, d.parent.parent / "other"), "several RLDS datasets"),
    ],
)
def test_bad_folders_are_refused_by_what_is_wrong(toy, break_it, message):
    break_it(toy)
    with pytest.raises(UserError, match=message):
        RldsDataset(toy.parent.parent if "several" in message else toy)


def test_unknown_columns_and_cameras_are_refused_with_the_known_ones(toy):
    dataset = RldsDataset(toy)
    with pytest.raises(UsageError, match=r"unknown camera 'frnt'.*'front'"):
        dataset.image(0, 0, "frnt")
    with pytest.raises(UsageError, match="unknown column 'actions'.*'action'"):
        dataset.column(0, "actions")


def test_a_damaged_image_is_named_by_episode_frame_and_camera(toy):
    record = rlds_writer.episode_record(0, 3)
    record["steps/observation/front"][1] = record["steps/observation/front"][1][:40]
    record["steps/observation/front"][2] = b""
    rlds_writer.write(toy, [record])
    dataset = RldsDataset(toy)
    with pytest.raises(UserError, match="episode 0, frame 1, steps/observation/front"):
        dataset.image(0, 1, "front")
    assert dataset.image(0, 2, "front").shape == (8, 10, 3)  # an empty string is a missing view: black


def test_a_pickled_dataset_is_opened_again_and_reads_the_same(toy):
    copy = pickle.loads(pickle.dumps(RldsDataset(toy)))
    assert (copy.image(2, 2, "front") == rlds_writer.picture(2, 2)).all()


def test_bridge_has_eighteen_episodes_of_ten_steps_with_four_instructions(bridge):
    assert [len(bridge[e]) for e in range(len(bridge))] == [10] * 18
    assert sorted(bridge.cameras) == ["image_0", "image_1", "image_2", "image_3"]
    assert len({bridge.instruction(e) for e in range(18)}) == 4
    assert bridge.column(0, "action").shape == (10, 7)
    assert bridge.column(0, "language_embedding").shape == (10, 512)
    assert not any(bridge.column(e, "is_last").any() for e in range(18))  # every episode is cut, says its README
    assert max(np.abs(bridge.column(e, "action")[0, :6]).max() for e in range(18)) < 2e-3  # the first action is about 0
    assert bridge.embodiment is None


def test_bridge_images_lie_where_the_index_says(bridge, fixtures, cache):
    """The index file, read by hand: every place it names begins and ends as a JPEG does, and Pillow reads the same picture."""
    shard = next((fixtures / "bridge-rlds-train").rglob("*.tfrecord*")).read_bytes()
    raw = next(cache.rglob("*.index")).read_bytes()
    (length,) = struct.unpack("<Q", raw[8:16])
    header = json.loads(raw[16 : 16 + length])
    assert header["size"] == len(shard) == 2_500_034
    at = 16 + length + -length % 8
    arrays = {}
    for name, (dtype, count) in header["arrays"].items():
        arrays[name] = np.frombuffer(raw, dtype, count, at)
        at += -(-arrays[name].nbytes // 8) * 8
    for camera in range(4):
        key = f"steps/observation/image_{camera}"
        places = list(zip(arrays[f"offset {key}"].tolist(), arrays[f"length {key}"].tolist(), strict=True))
        assert len(places) == 180
        assert all(shard[o : o + 2] == b"\xff\xd8" and shard[o + n - 2 : o + n] == b"\xff\xd9" for o, n in places)
        for number in (0, 57, 179):
            o, n = places[number]
            with Image.open(io.BytesIO(shard[o : o + n])) as picture:
                difference = np.abs(
                    np.asarray(picture).astype(int) - bridge.image(number // 10, number % 10, f"image_{camera}")
                )
            assert (
                difference.max() <= 20
            )  # Pillow's transform is the accurate one, ours TensorFlow's (test_rlds_tfds.py)
            assert difference.mean() <= 3


def test_bridge_actions_equal_the_bytes_in_the_file(bridge, fixtures):
    shard = next((fixtures / "bridge-rlds-train").rglob("*.tfrecord*")).read_bytes()
    at = -1
    for episode in range(18):
        at = shard.index(b"steps/action", at + 1)
        start = shard.index(bytes.fromhex("0a9802"), at, at + 30) + 3  # a packed run of 0x118 = 280 bytes: 70 floats
        expected = np.frombuffer(shard, "<f4", 70, start).reshape(10, 7)
        assert (bridge.column(episode, "action") == expected).all()


def test_reading_leaves_the_dataset_untouched(bridge):
    folder = next(bridge.path.rglob("features.json")).parent
    held = [path.name for path in sorted(folder.iterdir())]
    assert held == ["bridge_dataset-train.tfrecord-00000-of-00001", "dataset_info.json", "features.json"]
