import json
from pathlib import Path

import pytest

from ideomotor.core.errors import UserError
from ideomotor.core.files import atomic_folder, atomic_path, read_json, read_small, write_json
from ideomotor.core.log import JsonLines, read_lines


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    target = tmp_path / "info.json"
    write_json(target, {"a": 1})

    def fail_halfway() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("{")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        fail_halfway()
    assert json.loads(target.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_nan_is_not_written(tmp_path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path):
    target = tmp_path / "checkpoint"
    with atomic_folder(target) as temporary:
        (temporary / "old").write_text("1")
    with atomic_folder(target) as temporary:
        (temporary / "new").write_text("2")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path):
    target = tmp_path / "checkpoint"
    with atomic_folder(target) as temporary:
        (temporary / "old").write_text("1")

    def fail() -> None:
        with atomic_folder(target) as temporary:
            (temporary / "new").write_text("2")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_log_line_cut_by_a_crash_is_left_out(tmp_path: Path):
    log = JsonLines(tmp_path / "log.jsonl")
    log.write(step=1)
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 2')
    assert list(read_lines(tmp_path / "log.jsonl")) == [{"step": 1}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"eps": NaN}', "NaN, which is no finite number"),
        ('{"eps": -Infinity}', "-Infinity, which is no finite number"),
        ('{"eps": 1e999}', "1e999, which is no finite number"),
        ('{"name": "\\ud800"}', "half of a surrogate pair"),
        ('{"a": ' * 100_000, "is not JSON"),
        ('{"n": ' + "9" * 5000 + "}", "is not JSON"),
        ("[1, 2]", "should hold a JSON object"),
    ],
)
def test_json_that_could_not_be_written_again_is_refused(tmp_path: Path, content: str, says: str):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=says) as refused:
        read_json(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in str(refused.value)


def test_whole_pairs_of_surrogates_are_characters(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"name": "\\ud83e\\udd16", "x": 1e-6}')
    assert read_json(tmp_path / "a.json") == {"name": "🤖", "x": 1e-6}


def test_a_notice_of_gigabytes_is_refused_without_being_read(tmp_path: Path):
    with (tmp_path / "NOTICE").open("wb") as file:
        file.truncate(6 << 30)  # sparse
    with pytest.raises(UserError, match="6,442,450,944 bytes"):
        read_small(tmp_path / "NOTICE", 1 << 20)
