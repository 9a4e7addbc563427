import hashlib

from ideomotor.sim.objects import OBJECTS, ROBOT_ROWS, SHAPES_BY_NAME


def test_the_first_forty_rows_never_change():
    # Datasets and label heads store row numbers. Appending is allowed; this hash of the first rows is not to be edited.
    names = "|".join(f"{kind.name}:{kind.split}" for kind in OBJECTS[:40])
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "a6883a2ae2405124"
    assert OBJECTS[0].name == "red cube"
    assert OBJECTS[18].name == "red plate"
    assert OBJECTS[39].name == "brown plate"


def test_no_kind_occurs_twice():
    assert len({kind.name for kind in OBJECTS}) == len(OBJECTS)


def test_robots_see_each_word_but_not_the_held_out_combinations():
    seen = [OBJECTS[row] for row in ROBOT_ROWS]
    names = {kind.name for kind in seen}
    assert not names & {"orange can", "purple bar"}
    assert {kind.colour.name for kind in seen} == {"red", "green", "blue", "yellow", "purple", "orange"}
    assert {"orange cube", "red can", "purple cube", "red bar"} <= names  # each word of the new combinations is known


def test_graspable_shapes_leave_room_in_an_open_gripper_of_80_mm():
    widths = {"cube": 0.052, "can": 0.050, "bar": 0.040}
    for name, width in widths.items():
        shape = SHAPES_BY_NAME[name]
        assert shape.graspable
        assert 2 * min(shape.size[:2] if shape.geometry == "box" else shape.size[:1]) == width <= 0.06


def test_radius_encloses_the_outline():
    # cube: 26 mm * sqrt(2) = 36.77 mm; bar: sqrt(20^2 + 45^2) = 49.24 mm
    assert 0.03677 <= SHAPES_BY_NAME["cube"].radius < 0.0375
    assert 0.04924 <= SHAPES_BY_NAME["bar"].radius < 0.0500
