"""Names of converted columns: legal for others, and reversible."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ideomotor.core.errors import UserError
from ideomotor.data.convert.names import (
    NAMES_PATH,
    Names,
    OriginalColumn,
    legal,
    legal_camera,
    original,
    original_camera,
    read_names,
)
from ideomotor.data.lerobot.info import AUTOMATIC

WORDS = st.sampled_from(
    ["observation", "action", "image", "images", "annotation", "raw.", ".", "/", "%", "%61", "im", "age"]
)
NAMES = (
    st.text(max_size=12) | st.lists(WORDS, max_size=6).map("".join) | st.sampled_from([*AUTOMATIC, "task", "..", ""])
)


@given(NAMES)
def test_a_name_comes_back_from_its_legal_form(name: str) -> None:
    assert original(legal(name)) == name
    assert original_camera(legal_camera(name)) == name


@given(NAMES)
def test_a_legal_name_is_taken_for_nothing_else(name: str) -> None:
    found = legal(name)
    assert "image" not in found
    assert "/" not in found
    assert "\\" not in found
    assert found.isprintable()
    assert found not in (*AUTOMATIC, "task", "", ".", "..")
    assert not found.startswith(("observation", "action", "annotation")) or found in ("observation.state", "action")
    assert found[0].isascii()
    assert found[0].isalpha()


@given(NAMES)
def test_a_camera_keeps_its_role_in_every_reader(role: str) -> None:
    key = legal_camera(role)
    assert key.startswith("observation.images.")
    assert "/" not in key
    here = key.removeprefix("observation.images.")
    assert here
    assert here.removeprefix("observation.") == here
    assert here not in (".", "..") or role in (".", "..")


@given(NAMES, NAMES)
def test_two_names_stay_two(left: str, right: str) -> None:
    assert (legal(left) == legal(right)) == (left == right)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("action", "action"),
        ("observation.state", "observation.state"),
        ("reward", "reward"),
        ("is_first", "is_first"),
        ("language_embedding", "language_embedding"),
        ("next.success", "next.success"),
        ("observation.gripper_closed", "raw.observation.gripper_closed"),
        ("action.world_vector", "raw.action.world_vector"),
        ("actions", "raw.actions"),
        ("timestamp", "raw.timestamp"),
        ("raw.x", "raw.raw.x"),
        ("has_image_0", "has_im%61ge_0"),
        ("50% done", "raw.50%25 done"),
        ("a/b", "a%2Fb"),
        ("größe", "größe"),
        ("a\tb", "a%09b"),
    ],
)
def test_the_rule_by_examples(name: str, expected: str) -> None:
    assert legal(name) == expected


def test_the_list_of_names_comes_back_from_disk(tmp_path: Path) -> None:
    names = Names(
        "RLDS (toy 1.0.0)",
        {"raw.a": OriginalColumn("a", (2, 2)), "b": OriginalColumn("b", (-1,), "json", "int64")},
        {"x": "y"},
    )
    assert read_names(tmp_path) is None
    (tmp_path / "meta").mkdir()
    (tmp_path / NAMES_PATH).write_text(json.dumps(names.to_json()))
    assert read_names(tmp_path) == names


@pytest.mark.parametrize(
    "content",
    ['{"columns": []}', '{"columns": {"a": {"name": 7, "shape": []}}}', "[]", "{", '{"columns": {"a": {"shape": []}}}'],
)
def test_a_damaged_list_of_names_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / NAMES_PATH).write_text(content)
    with pytest.raises(UserError, match=r"names\.json"):
        read_names(tmp_path)
