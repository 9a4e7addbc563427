import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest

from ideomotor.core.errors import UserError
from ideomotor.robot.arms.panda import PANDA
from ideomotor.sim import gl
from ideomotor.sim.gl import AMBIENT, HEADLIGHT, LAMBERT
from ideomotor.sim.labels import Pinhole
from ideomotor.sim.render import LIGHT, Egl, Osmesa, Ray, RayRenderer, open_renderer
from ideomotor.sim.scene import draw_scene
from ideomotor.sim.world import World

# A table, a base that cannot move, an arm of two hinges with a camera on it, four free objects.
WORLD = """
<mujoco>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 .1" pos="0 0 -.75" rgba=".4 .4 .4 1"/>
    <geom name="table" type="box" size=".5 .6 .02" pos=".4 0 -.02"/>
    <geom type="cylinder" size=".07 .06" pos="0 0 .06" rgba=".9 .9 .9 1"/>
    <camera name="front" pos="1.0 0 .65" xyaxes="0 1 0 -.787 0 .617" fovy="36"/>
    <body pos="0 0 .333">
      <joint axis="0 0 1"/><geom type="capsule" size=".055" fromto="0 0 0 .3 0 .15"/>
      <body pos=".3 0 .15">
        <joint axis="0 1 0"/><geom type="capsule" size=".05" fromto="0 0 0 .3 0 -.1"/><geom type="sphere" size=".051"/>
        <camera name="wrist" pos=".4 0 -.05" xyaxes="0 1 0 1 0 -.3" fovy="75"/>
      </body>
    </body>
    <body name="cube" pos=".40 -.20 .026"><freejoint/><geom type="box" size=".026 .026 .026" rgba="1 0 0 1"/></body>
    <body pos=".45 -.05 .032"><freejoint/><geom type="cylinder" size=".025 .032" rgba="0 1 0 1"/></body>
    <body pos=".50 .10 .020"><freejoint/><geom type="box" size=".020 .045 .020" rgba="0 0 1 1"/></body>
    <body pos=".55 .25 .004"><freejoint/><geom type="cylinder" size=".060 .004" rgba="1 1 0 1"/></body>
  </worldbody>
</mujoco>
"""


@pytest.fixture
def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(WORLD)


@pytest.fixture
def data(model: mujoco.MjModel) -> mujoco.MjData:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return data


def scatter(model: mujoco.MjModel, data: mujoco.MjData, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data.qpos[:2] = rng.uniform(-1, 1, 2)
    for start in range(2, model.nq, 7):
        data.qpos[start : start + 3] = rng.uniform([0.2, -0.4, 0.0], [0.9, 0.4, 0.6])
        data.qpos[start + 3 : start + 7] = rng.normal(size=4)
    mujoco.mj_forward(model, data)


def test_cached_static_layer_gives_the_same_pixels(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    cached, plain = RayRenderer(model, 96), RayRenderer(model, 96, cache=False)
    for seed in range(25):
        scatter(model, data, seed)
        for camera in ("front", "wrist"):
            np.testing.assert_array_equal(cached.render(data, camera), plain.render(data, camera))


def test_an_object_at_the_lens_gives_the_same_pixels(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    cached, plain = RayRenderer(model, 48), RayRenderer(model, 48, cache=False)
    for behind in (0.08, 0.02, 0.0, -0.02, -0.04, -0.08):  # [m] behind, around and just before the camera
        data.qpos[2:5] = np.array([1.0, 0.0, 0.65]) + behind * np.array([0.617, 0, 0.787])
        mujoco.mj_forward(model, data)
        np.testing.assert_array_equal(cached.render(data, "front"), plain.render(data, "front"))


def test_painting_and_moving_what_cannot_move_renews_the_cached_layer(
    model: mujoco.MjModel, data: mujoco.MjData
) -> None:
    cached, plain = RayRenderer(model, 32), RayRenderer(model, 32, cache=False)
    before = cached.render(data, "front")
    model.geom("floor").rgba[:3] = (1.0, 0.0, 1.0)
    model.geom("table").size[1] = 0.1
    model.geom("table").pos[0] = 0.5
    mujoco.mj_forward(model, data)
    after = cached.render(data, "front")
    assert (before != after).any()
    np.testing.assert_array_equal(after, plain.render(data, "front"))


def test_painting_an_object_shows_at_once(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    renderer = RayRenderer(model, 96)
    cube = renderer.segment(data, "front") == model.body("cube").geomadr[0]
    assert cube.sum() > 50
    model.geom_rgba[model.body("cube").geomadr[0], :3] = (0.0, 0.0, 1.0)
    image = renderer.render(data, "front")
    assert (image[cube][:, 0] == 0).all()
    assert (image[cube][:, 2] > 80).all()


def test_image_right_of_the_front_camera_is_plus_y_and_near_is_down(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    geoms = RayRenderer(model, 96).segment(data, "front")
    red_cube, plate = model.body("cube").geomadr[0], model.ngeom - 1
    (red_row, red_column), (plate_row, plate_column) = (np.argwhere(geoms == g).mean(0) for g in (red_cube, plate))
    assert red_column < 30
    assert plate_column > 65  # y = -0.20 and +0.25
    assert red_row < plate_row  # x = 0.40 is farther from the camera than 0.55


def test_a_wall_straight_ahead_has_the_intensity_of_the_formula() -> None:
    xml = """<mujoco><worldbody><camera name="c" pos="0 0 2" fovy="40"/>
      <geom type="box" size="3 3 .5" pos="0 0 0" rgba=".8 .4 .2 1"/></worldbody></mujoco>"""
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    pixel = RayRenderer(model, 33).render(data, "c")[16, 16]  # the middle ray goes straight down onto (0, 0, 0.5)
    to_light = np.array(LIGHT) - [0, 0, 0.5]
    intensity = AMBIENT + LAMBERT * to_light[2] / np.linalg.norm(to_light) + HEADLIGHT
    np.testing.assert_array_equal(pixel, (255 * intensity * np.array([0.8, 0.4, 0.2])).astype(np.uint8))


def test_a_ray_that_meets_nothing_is_background() -> None:
    model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><camera name="c"/></worldbody></mujoco>')
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert (RayRenderer(model, 8).render(data, "c") == (158, 173, 188)).all()  # 255 * (0.62, 0.68, 0.74), cut


def test_a_sphere_covers_the_disk_of_its_closed_form() -> None:
    xml = """<mujoco><worldbody><camera name="c" fovy="60"/>
      <body pos="0 0 -1"><freejoint/><geom type="sphere" size=".2"/></body></worldbody></mujoco>"""
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    covered = (RayRenderer(model, 200).segment(data, "c") == 0).sum()
    radius = np.tan(np.arcsin(0.2)) * 100 / np.tan(np.deg2rad(30))  # [px] the tangent cone meets the image plane
    assert covered == pytest.approx(np.pi * radius**2, rel=0.005)


def test_shadow_takes_the_lamp_away_and_nothing_else(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    lit, shaded = (RayRenderer(model, 96, shadows=on).render(data, "front").astype(int) for on in (False, True))
    darker = (shaded < lit).any(-1)
    assert 0.01 < darker.mean() < 0.5
    assert (shaded <= lit).all()
    assert (shaded[darker] >= (AMBIENT * lit[darker]).astype(int) - 1).all()


def test_antialiased_image_is_the_mean_of_four_pixels(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    large = RayRenderer(model, 64).render(data, "wrist").astype(float)
    small = open_renderer(Ray(32, antialias=True), model).render(data, "wrist")
    mean = (large[::2, ::2] + large[1::2, ::2] + large[::2, 1::2] + large[1::2, 1::2]) / 4
    np.testing.assert_array_equal(small, np.floor(mean + 0.5))


def test_unknown_camera_is_refused_with_the_known_ones(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    with pytest.raises(UserError, match="unknown camera 'frnt'; known: front, wrist. Did you mean 'front'"):
        RayRenderer(model, 8).render(data, "frnt")


def test_profile_tells_renderer_settings_and_versions() -> None:
    assert Ray(64, shadows=True).profile == f"ray-1 64 px, shadows on, anti-aliasing off, mujoco {mujoco.__version__}"


def test_absent_library_names_the_packages_and_the_way_without(
    model: mujoco.MjModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise ImportError("Unable to load EGL library")

    monkeypatch.setattr(gl.importlib, "import_module", fail)
    with pytest.raises(UserError, match=r"libegl1 libegl-mesa0 libgl1-mesa-dri.*Ray\(\)"):
        open_renderer(Egl(), model)
    with pytest.raises(UserError, match=r"libosmesa6.*Ray\(\)"):
        open_renderer(Osmesa(), model)


def test_egl_draws_the_same_scene_as_rays(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    try:
        renderer = open_renderer(Egl(96), model)
    except UserError as error:
        pytest.skip(str(error))
    rays = RayRenderer(model, 96)
    for camera in ("front", "wrist"):
        image = renderer.render(data, camera).astype(int)
        geoms = rays.segment(data, camera)
        for geom in range(model.ngeom - 4, model.ngeom):
            shown = image[geoms == geom]
            if len(shown) > 30:
                colour = model.geom_rgba[geom, :3] > 0.5
                assert (shown[:, colour].min(1) > shown[:, ~colour].max(1) + 40).mean() > 0.85  # edges differ
    renderer.close()


@pytest.mark.parametrize("setting", [None, "disabled"])
def test_rays_work_whatever_the_opengl_setting_is(setting: str | None) -> None:
    code = (
        "import mujoco; from ideomotor.sim.render import Ray, open_renderer\n"
        "m = mujoco.MjModel.from_xml_string('<mujoco><worldbody><camera name=\"c\"/></worldbody></mujoco>')\n"
        "d = mujoco.MjData(m); mujoco.mj_forward(m, d); print(open_renderer(Ray(4), m).render(d, 'c').shape)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    environment |= {"MUJOCO_GL": setting} if setting else {}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("(4, 4, 3)\n", 0), done.stderr


def test_every_object_is_at_least_eight_pixels_across_in_the_front_image() -> None:
    """Of the object alone: others may cover it, and the edge of the image may cut it, but never its centre."""
    for seed in range(60):
        scene = draw_scene(seed)
        world = World(PANDA, [placed.kind.shape for placed in scene.objects])
        world.load(scene)
        renderer = RayRenderer(world.model, 96)
        centres, _ = Pinhole.of(world.model, world.data, "front", 96).project(world.data.xpos[world.object_bodies])
        assert ((centres > 4) & (centres < 92)).all(), (seed, centres)
        world.model.geom_group[:] = 3  # hidden
        for i, placed in enumerate(scene.objects):
            geom = world.model.geom(f"object{i}").id
            world.model.geom_group[geom] = 0
            shown = np.argwhere(renderer.segment(world.data, "front") == geom)
            world.model.geom_group[geom] = 3
            sides = sorted(np.ptp(shown, axis=0) + 1)
            assert sides[1] >= 8, (seed, placed)
            if placed.kind.shape.name in ("cube", "can"):
                assert sides[0] >= 8, (seed, placed)


def test_cached_static_layer_gives_the_same_pixels_with_the_real_arm_in_any_pose() -> None:
    scene = draw_scene(5)
    world = World(PANDA, [placed.kind.shape for placed in scene.objects])
    world.load(scene)
    cached, plain = RayRenderer(world.model, 96), RayRenderer(world.model, 96, cache=False)
    rng = np.random.default_rng(0)
    for _ in range(15):
        world.set_arm(np.array(PANDA.home) + rng.uniform(-0.6, 0.6, PANDA.num_joints), opening=float(rng.random()))
        world.refresh()
        for camera in ("front", "wrist"):
            np.testing.assert_array_equal(cached.render(world.data, camera), plain.render(world.data, camera))
