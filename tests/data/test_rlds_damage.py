"""Damaged, compressed and hostile RLDS datasets: an error that names the place, what salvage keeps, and limits that hold."""

import gzip
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import rlds_writer

from ideomotor.core.errors import UserError
from ideomotor.data.dataset import Reading
from ideomotor.data.rlds import frame_index_build, gzip_shard
from ideomotor.data.rlds import values as rlds_values
from ideomotor.data.rlds.dataset import RldsDataset
from ideomotor.data.rlds.example import parse
from ideomotor.data.rlds.features import Leaf, read_features
from ideomotor.data.rlds.frame_index import index_path, read_index, read_summary
from ideomotor.data.rlds.gzip_shard import GzipShard
from ideomotor.data.rlds.tfrecord import CorruptRecordError, Shard
from ideomotor.data.rlds.values import decode

LENGTHS = (4, 1, 3)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def toy(tmp_path):
    folder = tmp_path / "toy" / "1.0.0"
    rlds_writer.write(folder, [rlds_writer.episode_record(e, n) for e, n in enumerate(LENGTHS)])
    return folder


def shard_of(folder):
    return next(folder.glob("*.tfrecord*"))


def offsets(shard):
    return [span.offset - 12 for span in Shard(shard).spans()]


@pytest.mark.parametrize("where", ["cut", "flipped"])
def test_salvage_keeps_the_records_before_the_damage_and_says_so(toy, where):
    shard = shard_of(toy)
    start, data = offsets(shard)[1], bytearray(shard.read_bytes())
    if where == "cut":
        data = data[: start + 50]
    else:
        data[start + 60] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptRecordError, match=rf"{shard.name}: record 1 at byte {start} is damaged.*--salvage"):
        RldsDataset(toy)
    kept = RldsDataset(toy, Reading(salvage=True))
    assert [kept.length(e) for e in range(len(kept))] == [4]
    assert (kept.image(0, 3, "front") == rlds_writer.picture(0, 3)).all()
    assert kept.splits == {"train": range(1)}
    (note,) = kept.notes
    assert "the first 1 of 3 records are read" in note
    assert f"record 1 at byte {start}" in note
    with pytest.raises(CorruptRecordError, match="record 1"):  # also when the index of the salvaged shard is there
        RldsDataset(toy)
    assert len(RldsDataset(toy, Reading(salvage=True))) == 1


def test_salvage_keeps_what_is_before_a_record_that_contradicts_itself(toy):
    records = [rlds_writer.episode_record(e, n) for e, n in enumerate(LENGTHS)]
    records[2]["steps/is_first"] = [1]
    rlds_writer.write(toy, records)
    with pytest.raises(UserError, match="record 2 at byte .* disagree"):
        RldsDataset(toy)
    assert len(RldsDataset(toy, Reading(salvage=True))) == 2


# --------------------------------------------------------------------------- GZIP


def compress(folder):
    shard = shard_of(folder)
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    return shard


def test_a_compressed_shard_reads_as_the_plain_one_does_in_any_order(toy, monkeypatch):
    monkeypatch.setattr(gzip_shard, "BLOCK", 100)  # many blocks, of which few are kept
    plain = RldsDataset(toy)
    expected = {(e, f): plain.image(e, f, "front") for e in range(3) for f in range(plain.length(e))}
    actions, plain_hash = [plain.column(e, "action") for e in range(3)], plain.content_hash
    compress(toy)
    dataset = RldsDataset(toy)
    assert dataset.content_hash == plain_hash
    assert any("compressed as a whole (GZIP)" in note and "sequence" in note for note in dataset.notes)
    for episode in (2, 0, 1, 2):
        assert (dataset.column(episode, "action") == actions[episode]).all()
        for frame in reversed(range(dataset.length(episode))):
            assert (dataset.image(episode, frame, "front") == expected[episode, frame]).all()


def test_shards_that_were_compressed_one_by_one_are_found_by_their_new_names(toy):
    shard = compress(toy)
    shard.rename(shard.with_name(f"{shard.name}.gz"))
    assert len(RldsDataset(toy)) == 3


def test_a_compressed_shard_that_ends_early_names_the_record_and_is_salvaged(toy):
    shard = shard_of(toy)
    data = shard.read_bytes()
    starts = offsets(shard)
    whole = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = whole.compress(data[: starts[2] + 20]) + whole.flush(zlib.Z_SYNC_FLUSH)  # no end, no checksum
    shard.write_bytes(packed)
    with pytest.raises(CorruptRecordError, match=rf"record 2 at byte {starts[2]} is damaged.*has no end"):
        RldsDataset(toy)
    kept = RldsDataset(toy, Reading(salvage=True))
    assert [kept.length(e) for e in range(len(kept))] == [4, 1]
    shard.write_bytes(packed[:-8] + b"\xff" * 8)
    assert len(RldsDataset(toy, Reading(salvage=True))) >= 1


def test_a_gzip_bomb_is_refused_before_it_fills_memory(tmp_path, monkeypatch):
    bomb = struct.pack("<Q", 1 << 40)
    payload = bomb + struct.pack("<I", rlds_writer.masked(bomb)) + bytes(50_000_000)
    path = tmp_path / "shard"
    path.write_bytes(gzip.compress(payload))
    with pytest.raises(CorruptRecordError, match="at most 1073741824"):
        list(GzipShard(path).verified())
    monkeypatch.setattr(gzip_shard, "BLOCK", 1 << 14)
    monkeypatch.setattr(gzip_shard, "LONGEST", 1 << 15)
    monkeypatch.setattr(gzip_shard, "LARGEST_RATIO", 16)
    zeros = bytes(8) + struct.pack("<I", rlds_writer.masked(bytes(8))) + struct.pack("<I", rlds_writer.masked(b""))
    path.write_bytes(gzip.compress(zeros * 10_000))
    with pytest.raises(CorruptRecordError, match="is no recording"):
        list(GzipShard(path).verified())


def test_a_plain_record_that_begins_like_gzip_is_not_taken_for_it(tmp_path):
    payload = bytes(0x088B1F)
    path = tmp_path / "shard"
    path.write_bytes(rlds_writer.framed(payload[:0x88B1F]))
    assert path.read_bytes()[:3] == b"\x1f\x8b\x08"
    assert [span.length for span in Shard(path).verified()] == [0x88B1F]


# --------------------------------------------------------------------------- the index


def test_an_index_that_states_nonsense_is_not_followed(toy):
    RldsDataset(toy)
    path = index_path(shard_of(toy), toy)
    raw = path.read_bytes()
    length = int.from_bytes(raw[8:16], "little")
    header, arrays = json.loads(raw[16 : 16 + length]), raw[16 + length + -length % 8 :]

    def rewrite(**changes):
        text = json.dumps({**header, **changes}).encode()
        path.write_bytes(raw[:8] + len(text).to_bytes(8, "little") + text + b"\0" * (-len(text) % 8) + arrays)

    nonsense = [{"arrays": {"record_offset": ["|O", 3]}}]  # types are not taken from the file
    nonsense += [{"frames": 10**12}, {"records": 10**9}, {"records": -1}, {"images": ["steps/x"]}, {"size": "x"}]
    for changes in nonsense:
        rewrite(**changes)
        assert (RldsDataset(toy).image(0, 1, "front") == rlds_writer.picture(0, 1)).all()
    starts = np.frombuffer(arrays, "<u8", 4, 2 * 3 * 8)
    assert starts.tolist() == [0, 4, 5, 8]
    arrays = arrays.replace(starts.tobytes(), np.array([0, 10**12, 5, 8], "<u8").tobytes())
    rewrite()
    with pytest.raises(UserError, match="contradicts itself; remove this file"):
        RldsDataset(toy).length(0)


def test_a_shard_that_changes_beside_an_old_index_is_indexed_again_and_a_copied_one_is_not(toy, monkeypatch):
    RldsDataset(toy)
    shard = shard_of(toy)
    path = index_path(shard, toy)
    old = time.time() - 1000
    os.utime(shard, (old, old))  # as after a copy: another time, the same words
    assert len(RldsDataset(toy)) == 3
    assert read_summary(path).mtime_ns == shard.stat().st_mtime_ns
    monkeypatch.setattr(frame_index_build, "build", None)  # nothing more to build
    monkeypatch.setattr(frame_index_build, "_digest", None)  # nor to look through
    assert len(RldsDataset(toy)) == 3


def test_indices_are_built_in_processes_and_equal_those_built_here(tmp_path, monkeypatch):
    folder = tmp_path / "many" / "1.0.0"
    rlds_writer.write(folder, [rlds_writer.episode_record(0, 2)])
    shard_of(folder).unlink()
    for x in range(5):
        content = b"".join(rlds_writer.framed(rlds_writer.encode(rlds_writer.episode_record(e, x + 1))) for e in (x, 1))
        (folder / f"toy-train.tfrecord-0000{x}-of-00005").write_bytes(content)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["2"] * 5
    (folder / "dataset_info.json").write_text(json.dumps(info))
    here = RldsDataset(folder)
    arrays = [read_index(index, about) for index, about in here._shards]
    for path in (folder / ".ideomotor").iterdir():
        path.unlink()
    monkeypatch.setattr(frame_index_build, "_WORTH_A_PROCESS", 0)
    features = [leaf.step_feature for leaf in read_features(folder / "features.json").steps]
    shards = sorted(folder.glob("*.tfrecord*"))
    built = frame_index_build.open_indices(shards, features, tmp_path, salvage=False, workers=2)
    for (index, about), expected in zip(built, arrays, strict=True):
        found = read_index(index, about)
        assert (found.episode_start == expected.episode_start).all()
        assert (
            found.images["steps/observation/front"].offset == expected.images["steps/observation/front"].offset
        ).all()
    assert [RldsDataset(folder).length(e) for e in range(10)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]

    for path in (folder / ".ideomotor").iterdir():
        path.unlink()
    shards[3].write_bytes(shards[3].read_bytes()[:-5])
    with pytest.raises(CorruptRecordError, match=f"{shards[3].name}: record 1"):
        frame_index_build.open_indices(shards, features, tmp_path, salvage=False, workers=2)


def test_a_script_without_a_guard_opens_and_two_of_them_at_once_do_not_disturb_each_other(toy, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom ideomotor.data.rlds import frame_index_build\nfrom ideomotor.data.rlds.dataset import"
        " RldsDataset\nframe_index_build._WORTH_A_PROCESS = 0\nd = RldsDataset(Path(sys.argv[1]))\nprint(d.length(2))\n"
    )
    running = [
        subprocess.Popen([sys.executable, script, toy], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert out == "3\n", err


# --------------------------------------------------------------------------- values


def value(leaf, record, steps):
    payload = memoryview(rlds_writer.encode(record))
    return decode(leaf, parse(payload), payload, steps)


def test_a_sequence_of_declared_length_is_an_axis():
    """TFDS writes it as a ragged feature, which it cannot read back itself."""
    leaf = Leaf("steps/x", "number", "int32", (), "none", (-1, 2))
    record = {"steps/x/ragged_flat_values": [1, 2, 3, 4], "steps/x/ragged_row_lengths_0": [2, 2]}
    assert value(leaf, record, 2).tolist() == [[1, 2], [3, 4]]
    record["steps/x/ragged_row_lengths_0"] = [1, 3]
    with pytest.raises(UserError, match="a sequence of 1 items, 2 are declared"):
        value(leaf, record, 2)


@pytest.mark.parametrize("lengths", [[3, 2], [-1, 5], [2**62, 2**62], [1, 1]])
def test_row_lengths_that_do_not_fit_are_refused(lengths):
    leaf = Leaf("steps/x", "number", "int64", (), "none", (-1, -1))
    record = {"steps/x/ragged_flat_values": [1, 2, 3, 4], "steps/x/ragged_row_lengths_0": lengths}
    with pytest.raises(UserError, match="row lengths|items|sequence"):
        value(leaf, record, 2)


def test_a_zlib_bomb_is_refused(monkeypatch):
    leaf = Leaf("steps/x", "number", "float32", (2,), "zlib")
    with pytest.raises(UserError, match=r"float32 of shape \[2\] expected"):
        value(leaf, {"steps/x": [zlib.compress(bytes(100_000_000))]}, 1)
    monkeypatch.setattr(rlds_values, "LARGEST", 1 << 20)
    with pytest.raises(UserError, match="tensor of"):
        value(Leaf("steps/x", "number", "float32", (-1,), "zlib"), {"steps/x": [zlib.compress(bytes(100_000_000))]}, 1)
    with pytest.raises(UserError, match="states a tensor of shape"):
        value(Leaf("steps/x", "number", "int8", (1 << 30, 1 << 10), "bytes"), {"steps/x": [b"a"]}, 1)


def test_missing_depth_is_zero_and_an_enormous_one_is_refused():
    leaf = Leaf("steps/d", "picture", "uint16", (4, 6, 1))
    assert value(leaf, {"steps/d": [b"", b""]}, 2).tolist() == np.zeros((2, 4, 6, 1)).tolist()
    with pytest.raises(UserError, match="more than is read at once"):
        value(Leaf("steps/d", "picture", "uint16", (1 << 20, 1 << 19, 1)), {"steps/d": [b""]}, 1)


def test_text_that_is_no_utf_8_stays_bytes_and_an_absent_optional_feature_is_what_tfds_makes_of_it():
    leaf = Leaf("steps/t", "text", "string")
    assert value(leaf, {"steps/t": ["é".encode(), b"\xff\x00"]}, 2).tolist() == ["é", b"\xff\x00"]
    absent = Leaf("steps/o", "number", "int8", (2,), optional=True)
    assert value(absent, {"steps/t": [b"a"]}, 1).tolist() == [[-128, -128]]


def test_bfloat16_and_unpacked_lists_are_read():
    leaf = Leaf("steps/b", "number", "bfloat16", (2,), "bytes")
    assert value(leaf, {"steps/b": [bytes.fromhex("803f00c0")]}, 1).tolist() == [[1.0, -2.0]]
    floats = b"".join(rlds_writer.varint(1 << 3 | 5) + struct.pack("<f", x) for x in (1.5, 2.5))
    entry = rlds_writer.delimited(1, b"steps/u") + rlds_writer.delimited(2, rlds_writer.delimited(2, floats))
    payload = memoryview(rlds_writer.delimited(1, rlds_writer.delimited(1, entry)))
    leaf = Leaf("steps/u", "number", "float32", (1,))
    assert decode(leaf, parse(payload), payload, 2).tolist() == [[1.5], [2.5]]


WORDS = [
    "featuresDict",
    "features",
    "sequence",
    "feature",
    "tensor",
    "image",
    "text",
    "classLabel",
    "video",
    "shape",
    "dimensions",
    "dtype",
    "encoding",
    "steps",
    "type",
    "content",
    "length",
    "pythonClassName",
    "jsonFeature",
    "json",
    "translation",
    "languages",
    "a",
]
NODES = st.recursive(
    st.none() | st.integers(-3, 2**70) | st.text(max_size=8) | st.sampled_from(["float32", "zlib", "-1", "7"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(WORDS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["featuresDict", "type", "content"]), NODES, max_size=3), NODES)
def test_any_features_json_is_read_or_refused(tmp_path, top, node):
    path = tmp_path / "features.json"
    steps = {
        "featuresDict": {"features": {"steps": {"sequence": {"feature": {"featuresDict": {"features": {"x": node}}}}}}}
    }
    for content in (top, steps):
        path.write_text(json.dumps(content))
        try:
            assert all(leaf.key.startswith("steps/") for leaf in read_features(path).steps)
        except UserError:
            pass


LEAVES = st.tuples(
    st.sampled_from(["steps/a", "b"]),
    st.sampled_from(["number", "text", "picture"]),
    st.sampled_from(["float32", "bool", "uint64", "int8", "uint8", "float64"]),
    st.lists(st.integers(-1, 4), max_size=3).map(tuple),
    st.sampled_from(["none", "bytes", "zlib"]),
    st.lists(st.integers(-1, 3), min_size=1, max_size=3).map(tuple),
)
LISTS = st.lists(st.integers(-2, 5), max_size=6) | st.lists(st.binary(max_size=9), max_size=4)


@settings(max_examples=300, deadline=None)
@given(LEAVES, st.lists(LISTS, min_size=5, max_size=5), st.integers(0, 4))
def test_any_record_is_decoded_or_refused(parts, lists, steps):
    leaf = Leaf(*parts)
    keys = (leaf.value_key, leaf.shape_key, *(leaf.lengths_key(level) for level in range(3)))
    try:
        value(leaf, dict(zip(keys, lists, strict=True)), steps)
    except UserError:
        pass
