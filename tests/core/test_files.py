import json
from pathlib import Path

import pytest

from ideomotor.core.files import atomic_folder, atomic_path, write_json
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
