"""Files of `torch.save` as an enemy would make them: each is refused in a line, and costs no memory."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ideomotor.core.errors import UserError
from ideomotor.model.picklefile import open_pickle, write_pickle


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"a": torch.ones(1)}
    for _ in range(depth):
        value = {"a": value}
    return value


def test_what_is_written_is_read_again(tmp_path: Path):
    write_pickle(tmp_path / "a.pt", {"model": {"x": torch.arange(3)}})
    tensors = open_pickle(tmp_path / "a.pt")
    assert list(tensors.entries) == ["model.x"]
    assert tensors.tensors["model.x"].tolist() == [0, 1, 2]


def test_a_tensor_that_repeats_its_numbers_is_refused(tmp_path: Path):
    torch.save({"x": torch.zeros(4).as_strided((2**20, 2**20), (0, 0))}, tmp_path / "a.pt")  # claims 4 TB
    with pytest.raises(UserError, match="repeats its numbers"):
        open_pickle(tmp_path / "a.pt")


def test_two_names_of_one_tensor_are_read(tmp_path: Path):
    tied = torch.ones(4, 4)
    torch.save({"embed": tied, "head": tied}, tmp_path / "a.pt")
    assert set(open_pickle(tmp_path / "a.pt").entries) == {"embed", "head"}


def test_dictionaries_without_end_are_refused(tmp_path: Path):
    circle: dict[str, Any] = {}
    circle["again"] = circle
    torch.save(circle, tmp_path / "circle.pt")
    torch.save(nested(40), tmp_path / "deep.pt")
    for name in ("circle.pt", "deep.pt"):
        with pytest.raises(UserError, match="nested at most 32 deep"):
            open_pickle(tmp_path / name)


def test_compressed_parts_are_refused_before_they_are_opened(tmp_path: Path):
    torch.save({"x": torch.ones(2)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as stored,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in stored.namelist():
            bomb.writestr(name, stored.read(name))
    with pytest.raises(UserError, match="is compressed"):
        open_pickle(tmp_path / "b.pt")


def test_a_disk_that_is_full_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"a\.pt"):
        write_pickle(tmp_path / "a.pt", {"x": torch.ones(1)})
    assert list(tmp_path.iterdir()) == []
