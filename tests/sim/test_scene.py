import math
from itertools import combinations

import numpy as np
import pytest

from ideomotor.sim.objects import OBJECTS, ROBOT_ROWS
from ideomotor.sim.scene import Scene, ScenePlacementError, draw_scene, place


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed) for seed in range(150)]


def test_the_same_seed_gives_the_same_scene():
    assert draw_scene(12345) == draw_scene(12345)
    assert draw_scene(12345) != draw_scene(12346)


def test_scenes_hold_two_to_four_graspable_objects_and_two_plates_of_different_colours(scenes: list[Scene]):
    counts = {len(scene.graspable) for scene in scenes}
    assert counts == {2, 3, 4}
    for scene in scenes:
        first, second = (scene.objects[i].kind for i in scene.receptacles)
        assert first.colour != second.colour
        assert len({placed.kind_row for placed in scene.objects}) == len(scene.objects)
        assert {placed.kind_row for placed in scene.objects} <= set(ROBOT_ROWS)


def test_every_object_shares_a_word_with_another(scenes: list[Scene]):
    for scene in scenes:
        kinds = [scene.objects[i].kind for i in scene.graspable]
        for kind in kinds:
            assert any(kind.shape == o.shape or kind.colour == o.colour for o in kinds if o is not kind)


def test_objects_stand_apart_and_in_range(scenes: list[Scene]):
    for scene in scenes:
        for a, b in combinations(scene.objects, 2):
            distance = math.hypot(a.x - b.x, a.y - b.y)
            assert distance >= a.kind.shape.radius + b.kind.shape.radius + 0.015
            if a.kind.shape.graspable and b.kind.shape.graspable:
                assert distance >= 0.070 + max(a.kind.shape.radius, b.kind.shape.radius)
        assert all(0.36 <= o.x <= 0.62 and abs(o.y) <= 0.22 for o in scene.objects)


def test_equal_sets_of_shapes_have_equal_order(scenes: list[Scene]):
    for scene in scenes:
        names = [o.kind.shape.name for o in scene.objects]
        assert names == sorted(names)


def test_all_robot_kinds_appear(scenes: list[Scene]):
    assert {o.kind_row for scene in scenes for o in scene.objects} == set(ROBOT_ROWS)


def test_a_crowd_that_does_not_fit_is_refused():
    plates = tuple(row for row, kind in enumerate(OBJECTS) if kind.shape.receptacle)
    with pytest.raises(ScenePlacementError, match="fewer objects"):
        place(np.random.default_rng(0), plates + plates)
