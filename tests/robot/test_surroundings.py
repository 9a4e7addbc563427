"""What a user writes about the place of an arm: read back as written, and refused by name where it makes no sense."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ideomotor.core.errors import UserError
from ideomotor.core.jsonable import to_json
from ideomotor.robot.surroundings import (
    Bounds,
    BoxShape,
    CapsuleShape,
    HalfSpace,
    Held,
    Margins,
    Obstacle,
    Shape,
    Sphere,
    Surroundings,
    load_surroundings,
)

FULL = Surroundings(
    bounds=Bounds((0.1, -0.5, 0.0), (0.8, 0.5, 1.0)),
    obstacles=(
        Obstacle("post", CapsuleShape((0.5, 0.2, 0.0), (0.5, 0.2, 0.6), 0.03)),
        Obstacle("crate", BoxShape((0.4, -0.3, 0.1), (0.1, 0.2, 0.1), yaw=0.3), margin=0.02),
        Obstacle("ball", Sphere((0.6, 0.0, 0.5), 0.05)),
        Obstacle("table", HalfSpace((0.0, 0.0, 1.0), 0.0), may_touch=("finger", "held")),
    ),
    held=Held((0.0, 0.0, -0.02), (0.0, 0.0, 0.05), 0.02, mass=0.3),
    payload=0.1,
    margins=Margins(obstacle=0.05),
)

Write = Callable[[Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(content: Any) -> Path:
        path = tmp_path / "world.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return written


def test_surroundings_come_back_from_a_file(write: Write):
    assert load_surroundings(write(to_json(FULL))) == FULL


def test_an_empty_object_is_empty_space(write: Write):
    assert load_surroundings(write({})) == Surroundings()


def test_a_user_need_not_write_what_has_a_default(write: Write):
    text = """{
        "bounds": {"low": [0.2, -0.4, 0], "high": [0.7, 0.4, 0.8]},
        "obstacles": [{"name": "floor", "shape": {"type": "HalfSpace", "normal": [0, 0, 1], "offset": -0.1}}],
        "margins": {"obstacle": 0.03}
    }"""
    around = load_surroundings(write(text))
    assert around.bounds == Bounds((0.2, -0.4, 0.0), (0.7, 0.4, 0.8))
    assert around.obstacles == (Obstacle("floor", HalfSpace((0.0, 0.0, 1.0), -0.1)),)
    assert (around.margins.obstacle, around.margins.self_collision) == (0.03, 0.005)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"obstacle": []}, r"world\.json has unknown fields \['obstacle'\]"),
        ({"obstacles": {}}, r"world\.json\.obstacles should be a list"),
        ({"obstacles": [{"name": "a"}]}, r"world\.json\.obstacles\[0\] lacks \['shape'\]"),
        ({"obstacles": [{"name": "a", "shape": {"centre": [0, 0, 0], "radius": 1}}]}, r"fits none of: Sphere"),
        ({"obstacles": [{"name": "a", "shape": {"type": "Mesh"}}]}, r"obstacles\[0\]\.shape fits none of"),
        ({"obstacles": [{"name": 1, "shape": {"type": "Sphere"}}]}, r"obstacles\[0\]"),
        ({"bounds": {"low": [0, 0], "high": [1, 1, 1]}}, r"world\.json\.bounds\.low should be a list of 3"),
        ({"payload": "1 kg"}, r"world\.json\.payload should be a number"),
        ({"payload": True}, r"world\.json\.payload should be a number"),
        ({"payload": 10**400}, "of 401 digits|not JSON"),
        ({"payload": 1e300}, "payload"),
        ({"held": {"start": [0, 0, 0], "end": [0, 0, 10**400], "radius": 0.1}}, "of 401 digits|not JSON"),
    ],
)
def test_a_field_that_makes_no_sense_is_refused_by_name(content: Any, words: str, write: Write):
    with pytest.raises(UserError, match=words):
        load_surroundings(write(content))


@pytest.mark.parametrize(
    "content",
    ["", "null", "[1]", "{", '{"payload": NaN}', '{"payload": Infinity}', '{"payload": 1e999}', "[" * 100_000],
)
def test_what_is_no_json_object_is_refused(content: str, write: Write):
    with pytest.raises(UserError):
        load_surroundings(write(content))


def test_a_file_that_is_not_there_is_named_with_what_it_should_hold(tmp_path: Path):
    for path in (tmp_path / "nothing.json", tmp_path):
        with pytest.raises(UserError, match="is not there; give a JSON file with bounds, obstacles"):
            load_surroundings(path)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300, -1e300])
@pytest.mark.parametrize(
    "shape",
    [
        lambda x: Sphere((0.0, x, 0.0), 0.1),
        lambda x: Sphere((0.0, 0.0, 0.0), x),
        lambda x: CapsuleShape((x, 0.0, 0.0), (0.0, 0.0, 1.0), 0.1),
        lambda x: CapsuleShape((0.0, 0.0, 0.0), (0.0, 0.0, x), 0.1),
        lambda x: CapsuleShape((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), x),
        lambda x: BoxShape((0.0, 0.0, x), (0.1, 0.1, 0.1)),
        lambda x: BoxShape((0.0, 0.0, 0.0), (0.1, x, 0.1)),
        lambda x: BoxShape((0.0, 0.0, 0.0), (0.1, 0.1, 0.1), yaw=x),
        lambda x: HalfSpace((0.0, 0.0, x), 0.0),
        lambda x: HalfSpace((0.0, 0.0, 1.0), x),
    ],
)
def test_no_number_of_a_shape_may_be_infinite_or_none(shape: Callable[[float], Shape], bad: float):
    with pytest.raises(UserError, match="thing"):
        Surroundings(obstacles=(Obstacle("thing", shape(bad)),))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300, -1.0])
def test_no_number_beside_the_shapes_may_be_infinite_or_none(bad: float):
    ball = Sphere((0.0, 0.0, 0.0), 0.1)
    with pytest.raises(UserError, match="margin of ball"):
        Surroundings(obstacles=(Obstacle("ball", ball, margin=bad),))
    with pytest.raises(UserError, match="payload"):
        Surroundings(payload=bad)
    with pytest.raises(UserError, match="mass of the held object"):
        Surroundings(held=Held((0.0, 0.0, 0.0), (0.0, 0.0, 0.1), 0.01, mass=bad))
    with pytest.raises(UserError, match="the held object"):
        Surroundings(held=Held((0.0, 0.0, 0.0), (0.0, 0.0, 0.1), bad))
    for name in vars(Margins()):
        with pytest.raises(UserError, match=f"margin {name}"):
            Surroundings(margins=replace(Margins(), **{name: bad}))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300])
def test_a_held_object_has_two_ends(bad: float):
    for start, end in (((bad, 0.0, 0.0), (0.0, 0.0, 0.1)), ((0.0, 0.0, 0.0), (0.0, bad, 0.0))):
        with pytest.raises(UserError, match="the held object"):
            Surroundings(held=Held(start, end, 0.01))


@pytest.mark.parametrize("size", [0.0, -0.1])
def test_a_shape_without_a_size_is_refused(size: float):
    for shape in (
        Sphere((0.0, 0.0, 0.0), size),
        CapsuleShape((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), size),
        BoxShape((0.0, 0.0, 0.0), (0.1, 0.1, size)),
    ):
        with pytest.raises(UserError, match="above 0"):
            Surroundings(obstacles=(Obstacle("thing", shape),))


def test_a_normal_is_one_long_and_names_are_given_once():
    with pytest.raises(UserError, match="has length 2; it should be 1"):
        Surroundings(obstacles=(Obstacle("floor", HalfSpace((0.0, 0.0, 2.0), 0.0)),))
    ball = Sphere((0.0, 0.0, 0.0), 0.1)
    with pytest.raises(UserError, match="share a name"):
        Surroundings(obstacles=(Obstacle("a", ball), Obstacle("a", ball)))


@pytest.mark.parametrize("low", [0.8, 0.9, math.nan, -math.inf])
def test_bounds_have_an_inside(low: float):
    with pytest.raises(UserError, match="low should lie below high"):
        Surroundings(bounds=Bounds((0.0, low, 0.0), (1.0, 0.8, 1.0)))


def test_parts_of_an_arm_keep_some_distance():
    with pytest.raises(UserError, match="self_collision"):
        Surroundings(margins=Margins(self_collision=0.0))
