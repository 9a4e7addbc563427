"""Mixtures as tables: weights as published, shares worked out by hand, what is missing named."""

import json
import shutil
from pathlib import Path

import pytest

from ideomotor.core.errors import UsageError, UserError
from ideomotor.data.openx.mixtures import (
    MIXTURES,
    OPENVLA_LAST,
    NamedMixture,
    Part,
    Row,
    load_mixture,
    mixture_table,
    mixture_text,
    nominal_length,
    with_shares,
)
from ideomotor.data.openx.records import CONVERTED, RECORDS


def weights(name):
    return {part.name: part.weight for part in MIXTURES[name].parts}


def test_openvlas_stages_have_their_published_weights():
    first, last = weights("openvla-first"), weights("openvla-last")
    assert len(first) == 27
    assert len(last) == 25
    assert first["fractal20220817_data"] == 0.54087122203
    assert first["kuka"] == last["kuka"] == 0.8341046294
    assert first["droid"] == 0.06
    assert first["language_table"] == 0.1
    assert last["fractal20220817_data"] == 1.0
    assert set(first) - set(last) == {"language_table", "droid"}
    assert {name for name in last if last[name] != first[name]} == {"fractal20220817_data"}
    assert last[f"nyu_franka_play_dataset{CONVERTED}"] == 3.0
    assert sorted(last.values()) == sorted([0.1, 0.2, 0.2, 0.8341046294, *[1.0] * 13, *[2.0] * 7, 3.0])
    assert set(first) == {name for name in RECORDS if not name.startswith("libero")}


def test_rtx_has_its_published_weights_and_counts_per_dataset():
    rtx = MIXTURES["rtx"]
    assert weights("rtx") == {
        "fractal20220817_data": 150,
        "bridge": 50,
        "taco_play": 5,
        "jaco_play": 20,
        "berkeley_cable_routing": 20,
        "roboturk": 10,
        "nyu_door_opening_surprising_effectiveness": 5,
        "viola": 3,
        "berkeley_autolab_ur5": 5,
        "toto": 5,
        "kuka": 20,
        "language_table": 30,
    }
    assert rtx.per == "dataset"
    assert set(weights("rtx")) - set(weights("rtx-example")) == {"kuka", "language_table"}


def test_shares_are_weight_times_frames_over_their_sum():
    rows = [Row("a", 1.0, Path("a"), 300), Row("b", 2.0, Path("b"), 50), Row("c", 0.5, None, missing="not on disk")]
    shares = with_shares(rows, "frame")
    assert [row.share for row in shares] == [0.75, 0.25, 0.0]  # 300 and 100 of 400
    assert nominal_length(shares) == 400  # 300 / .75
    assert [row.share for row in with_shares(rows, "dataset")] == pytest.approx([1 / 3, 2 / 3, 0])
    assert nominal_length([Row("b", 2.0, None, 50, 1.0)]) is None


def test_the_table_names_what_is_there_and_what_is_missing(raw_root, tmp_path):
    for name in ("bridge_orig", "viola", "droid"):
        shutil.copytree(raw_root / name, tmp_path / "data" / name)
    mixture = NamedMixture(
        "mine",
        (Part("bridge_orig", 1.0), Part("viola", 2.0), Part("droid", 0.5), Part("kuka", 1.0), Part("bridge", 1.0)),
    )
    rows = {row.name: row for row in mixture_table(mixture, tmp_path / "data")}
    # bridge: 6 + 4 steps, two dropped of each; viola: 10; droid: 10, before its idle steps are left out
    assert [rows[name].frames for name in ("bridge_orig", "viola", "droid")] == [6, 10, 10]
    assert [rows[name].share for name in ("bridge_orig", "viola", "droid")] == pytest.approx([6 / 31, 20 / 31, 5 / 31])
    assert rows["kuka"].missing == "not on disk"
    assert rows["bridge"].missing == "not on disk, and no record of it"
    text = mixture_text(list(rows.values()))
    assert "viola" in text
    assert "64.52%" in text
    assert "missing: not on disk, and no record of it" in text
    assert "3 of 5 datasets, 26 frames, one nominal pass 31 frames" in text


def test_a_folder_called_otherwise_is_found_by_its_path_and_bridge_by_its_builders_name(raw_root, tmp_path):
    shutil.copytree(raw_root / "viola", tmp_path / "old" / "v")
    shutil.copytree(raw_root / "bridge_orig", tmp_path / "bridge_dataset")
    mixture = NamedMixture("mine", (Part("viola", 1.0, "old/v"), Part("bridge_orig", 1.0)))
    rows = mixture_table(mixture, tmp_path)
    assert [row.path for row in rows] == [tmp_path / "old" / "v", tmp_path / "bridge_dataset"]
    assert all(not row.missing for row in rows)


def test_a_dataset_whose_numbers_mean_nothing_known_is_missing(raw_root, tmp_path):
    folder = shutil.copytree(raw_root / "viola", tmp_path / "mine")
    info = folder / "0.1.0" / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "name": "mine"}))
    shard = next(folder.rglob("*.tfrecord-00000-of-00001"))
    shard.rename(shard.with_name(shard.name.replace("viola", "mine")))
    (row,) = mixture_table(NamedMixture("m", (Part("mine", 1.0),)), tmp_path)
    assert row.missing == "no record of it: nothing says what its numbers mean"
    assert row.share == 0.0


def test_a_dataset_that_cannot_be_read_stops_the_table(raw_root, tmp_path):
    folder = shutil.copytree(raw_root / "viola", tmp_path / "viola")
    shard = next(folder.rglob("*.tfrecord-00000-of-00001"))
    shard.write_bytes(shard.read_bytes()[:-9])
    for index in folder.rglob("*.index"):
        index.unlink()
    with pytest.raises(UserError, match="viola-train"):
        mixture_table(NamedMixture("m", (Part("viola", 1.0),)), tmp_path)


def test_every_dataset_of_the_last_stage_can_be_mixed_from_files(raw_root):
    rows = mixture_table(load_mixture("openvla-last"), raw_root)
    assert all(not row.missing for row in rows)
    total = sum(weight * (6 if name == "bridge_orig" else 10) for name, weight in OPENVLA_LAST.items())
    by_name = {row.name: row.share for row in rows}
    assert by_name["viola"] == pytest.approx(20 / total)
    assert by_name["bridge_orig"] == pytest.approx(6 / total)
    assert sum(by_name.values()) == pytest.approx(1)


def test_a_users_file_holds_weights_and_paths(tmp_path):
    file = tmp_path / "two.json"
    file.write_text('{"bridge_orig": 1, "mine": {"weight": 0.5, "path": "elsewhere/mine"}}')
    mixture = load_mixture(file)
    assert mixture.name == "two"
    assert mixture.parts == (Part("bridge_orig", 1.0), Part("mine", 0.5, "elsewhere/mine"))
    assert mixture.per == "frame"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "should hold an object"),
        ("{}", "should hold an object"),
        ('{"a": -1}', "weight -1; weights are positive"),
        ('{"a": true}', "weight True"),
        ('{"a": NaN}', "weight nan"),
        ('{"a": 1e999}', "weight inf"),
        ('{"a": 1' + "0" * 400 + "}", "weights are positive numbers up to"),
        ('{"a": {"weight": 1, "where": "x"}}', "write a weight, or a weight and a path"),
        ('{"a": {"weight": 1, "path": 3}}', "write a weight, or a weight and a path"),
        ('{"a": {"path": "x"}}', "weight None"),
        ('{"a": "1"}', "weight '1'"),
        ('{"": 1}', "write a weight"),
    ],
)
def test_other_files_are_refused_by_what_is_wrong(tmp_path, text, message):
    file = tmp_path / "mixture.json"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_mixture(file)


def test_unknown_names_are_refused_with_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match=r"unknown mixture 'openvla-lst'.*Did you mean 'openvla-last'"):
        load_mixture("openvla-lst")
    with pytest.raises(UserError, match="is no file"):
        load_mixture(tmp_path / "absent.json")
    (tmp_path / "huge.json").write_text(" " * (1 << 21))
    with pytest.raises(UserError, match="2097152 bytes"):
        load_mixture(tmp_path / "huge.json")
