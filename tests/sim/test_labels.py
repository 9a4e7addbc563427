import math

import mujoco
import numpy as np
import pytest

from ideomotor.core.rotation import rotation_vector_to_matrix
from ideomotor.sim.labels import Pinhole, location_labels, patch_labels, seen
from ideomotor.sim.objects import OBJECTS, SHAPES
from ideomotor.sim.task import Goal
from ideomotor.sim.view import View

ROWS = {kind.name: row for row, kind in enumerate(OBJECTS)}
# Looks straight down from 1 m at (0.5, 0): image right = -y, image up = +x; 96 px see 0.96 m, so 1 px = 1 cm on the table.
DOWN = Pinhole(np.array([0.5, 0.0, 1.0]), np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), 100.0, 96)


def view_of(*objects: tuple[str, float, float, float], yaw: float = 0.0, touched: tuple[int, ...] = ()) -> View:
    """Return the state of a scene with objects (name, x, y, z), all turned by `yaw`."""
    n = len(objects)
    return View(
        kinds=tuple(OBJECTS[ROWS[name]] for name, *_ in objects),
        position=np.array([place for _, *place in objects]),
        rotation=np.repeat(rotation_vector_to_matrix(np.array([[0.0, 0.0, yaw]])), n, axis=0),
        speed=np.zeros(n),
        spin=np.zeros(n),
        touched=np.array([[i in touched] * 2 for i in range(n)]),
        tcp=np.zeros(3),
        tcp_yaw=0.0,
        opening=1.0,
        commanded=np.zeros(3),
        commanded_yaw=0.0,
    )


def label(view: View, camera: Pinhole = DOWN, reference_yaw: float = 0.0) -> dict[str, np.ndarray]:
    return patch_labels(view, np.ones(len(view.kinds), bool), camera, reference_yaw)


def test_projection_has_its_closed_form() -> None:
    # 1 m below the camera, 3 cm along +x (up) and 5 cm along -y (right) from the middle (48, 48).
    pixel, depth = DOWN.project(np.array([[0.53, -0.05, 0.0], [0.5, 0.0, 0.5], [0.5, 0.1, 0.5]]))
    np.testing.assert_allclose(pixel, [[53, 45], [48, 48], [28, 48]], atol=1e-9)
    np.testing.assert_allclose(depth, [1.0, 0.5, 0.5])


def test_unproject_undoes_project() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        camera = Pinhole(rng.normal(size=3), rotation_vector_to_matrix(rng.normal(size=3)), 120.0, 96)
        points = rng.normal(size=(50, 3))
        np.testing.assert_allclose(camera.unproject(*camera.project(points)), points, atol=1e-9)


def test_a_ray_through_the_projected_pixel_meets_the_point() -> None:
    xml = """<mujoco><worldbody><camera name="c" pos="1 .2 .7" xyaxes="0 1 0 -.6 0 .8" fovy="40"/>
      <body pos=".45 .1 .1"><freejoint/><geom type="sphere" size=".004"/></body></worldbody></mujoco>"""
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = Pinhole.of(model, data, "c", 96)
    pixel, depth = camera.project(np.array([[0.45, 0.1, 0.1]]))
    ray = (camera.unproject(pixel, np.ones(1)) - camera.position)[0]
    geom = np.zeros(1, np.int32)
    mujoco.mj_ray(model, data, camera.position, ray, None, 1, -1, geom)
    assert geom[0] == 0
    assert depth[0] == pytest.approx(np.array([0.55, 0.1, 0.6]) @ np.array([0.8, 0, 0.6]))  # -z of the camera


def test_patch_of_the_centre_holds_class_offset_yaw_and_held() -> None:
    labels = label(view_of(("blue bar", 0.53, -0.05, 0.0), yaw=0.3, touched=(0,)))
    patch = 2 * 6 + 3  # pixel (53, 45): column 3, row 2
    assert labels["class"].nonzero()[0].tolist() == [patch]
    assert labels["class"][patch] == 1 + ROWS["blue bar"]
    np.testing.assert_allclose(labels["offset"].reshape(36, 2)[patch], [53 / 16 - 3.5, 45 / 16 - 2.5], rtol=1e-5)
    np.testing.assert_allclose(labels["yaw"].reshape(36, 2)[patch], [math.cos(0.6), math.sin(0.6)], rtol=1e-5)
    assert labels["held"].tolist() == [float(i == patch) for i in range(36)]
    assert {name: (len(values), values.dtype.name) for name, values in labels.items()} == {
        "class": (36, "int64"),
        "offset": (72, "float32"),
        "yaw": (72, "float32"),
        "held": (36, "float32"),
    }


def test_yaw_is_relative_to_the_hand_for_its_camera() -> None:
    labels = label(view_of(("red cube", 0.5, 0.0, 0.0), yaw=0.3), reference_yaw=0.5)
    np.testing.assert_allclose(labels["yaw"].reshape(36, 2)[21], [math.cos(-0.8), math.sin(-0.8)], rtol=1e-5)


def test_equal_views_of_a_turned_object_have_equal_labels() -> None:
    for name, turn in (("red cube", math.pi / 2), ("red bar", math.pi), ("red can", 1.234), ("red plate", 0.1)):
        first, second = (label(view_of((name, 0.5, 0.0, 0.0), yaw=yaw)) for yaw in (0.2, 0.2 + turn))
        for key, values in first.items():
            np.testing.assert_allclose(values, second[key], atol=1e-6)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_object_nearest_to_the_camera_takes_the_patch(order: tuple[int, int]) -> None:
    objects = [("red plate", 0.5, -0.05, 0.0), ("green cube", 0.5, -0.05, 0.03)]
    assert label(view_of(*(objects[i] for i in order)))["class"].max() == 1 + ROWS["green cube"]
    assert (label(view_of(*objects))["class"] > 0).sum() == 1


def test_objects_outside_of_the_image_behind_it_or_hidden_leave_no_label() -> None:
    view = view_of(("red cube", 0.5, -0.49, 0.0), ("red can", 0.5, 0.0, 1.5), ("red bar", 0.5, 0.0, 0.0))
    labels = patch_labels(view, np.array([True, True, False]), DOWN, 0.0)
    assert not any(values.any() for values in labels.values())


def test_an_object_is_seen_until_the_wall_before_it_covers_it() -> None:
    xml = """<mujoco><worldbody><camera name="c" pos="0 0 0" xyaxes="0 -1 0 0 0 1"/>
      <body pos=".5 0 0"><freejoint/><geom type="box" size=".026 .026 .026"/></body>
      <body pos=".3 {y} 0"><freejoint/><geom type="box" size=".001 .1 .1"/></body></worldbody></mujoco>"""
    assert SHAPES[0].name == "cube"
    assert SHAPES[0].size == (0.026, 0.026, 0.026)
    view = view_of(("red cube", 0.5, 0.0, 0.0))
    # The wall's edge is at (0.3, y - 0.1). The outermost ray aims at (0.5, -0.6 * 0.026) and passes there at y = -0.0094.
    for y, expected in ((0.0, False), (0.089, False), (0.092, True), (0.3, True)):
        model = mujoco.MjModel.from_xml_string(xml.format(y=y))
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        camera = Pinhole.of(model, data, "c", 96)
        assert seen(model, data, camera, view, np.array([1])).tolist() == [expected], y


def test_location_labels_name_target_and_destination() -> None:
    view = view_of(("blue bar", 0.4, 0.1, 0.02), ("red can", 0.5, 0.2, 0.03), ("red plate", 0.6, -0.1, 0.0), yaw=0.3)
    place = location_labels(view, Goal("place_on", 0, 2))
    np.testing.assert_allclose(place["label.location"], [0.4, 0.1, 0.6, -0.1, math.cos(0.6), math.sin(0.6)], rtol=1e-6)
    assert place["label.location_valid"].tolist() == [1, 1, 1, 1, 1, 1]
    pick = location_labels(view, Goal("pick", 1))
    np.testing.assert_allclose(pick["label.location"], [0.5, 0.2, 0, 0, 0, 0], rtol=1e-6)
    assert pick["label.location_valid"].tolist() == [1, 1, 0, 0, 0, 0]
