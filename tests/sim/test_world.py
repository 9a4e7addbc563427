import mujoco
import numpy as np
import pytest

from ideomotor.robot.arm import Arm
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.kinematics import forward
from ideomotor.robot.robot import JointCommand, Robot
from ideomotor.sim.scene import Scene, draw_scene
from ideomotor.sim.world import SimulatedArm, UnsettledSceneError, World


def world_of(scene: Scene, arm: Arm = PANDA) -> World:
    world = World(arm, [placed.kind.shape for placed in scene.objects])
    world.load(scene)
    return world


@pytest.mark.parametrize(
    ("arm", "tcp"),
    [(PANDA, (0.386, 0.0, 0.448)), (UR5E, (0.45, 0.0, 0.25))],  # simulation reference, 2.1
    ids=["panda", "ur5e"],
)
def test_at_home_the_tool_points_down_over_the_table_and_touches_nothing(arm: Arm, tcp: tuple[float, float, float]):
    world = world_of(draw_scene(0), arm)
    pose = world.tcp_pose()
    np.testing.assert_allclose(pose[:3, 3], tcp, atol=2e-3)
    np.testing.assert_allclose(pose[:3, :3], np.diag([1.0, -1.0, -1.0]), atol=2e-3)
    assert world.arm_contacts() == 0
    assert world.opening() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("arm", [PANDA, UR5E], ids=["panda", "ur5e"])
def test_the_simulated_body_is_the_arm_of_the_kinematics(arm: Arm):
    world = world_of(draw_scene(0), arm)
    rng = np.random.default_rng(1)
    for _ in range(20):
        q = rng.uniform(arm.q_min, arm.q_max)
        world.set_arm(q, opening=1.0)
        world.refresh()
        np.testing.assert_allclose(world.tcp_pose(), forward(arm, q), atol=1e-9)


def test_objects_come_to_rest_where_the_scene_puts_them():
    for seed in range(20):
        scene = draw_scene(seed)
        world = world_of(scene)
        view = world.view(np.eye(4))
        for i, placed in enumerate(scene.objects):
            np.testing.assert_allclose(view.position[i], (placed.x, placed.y, placed.kind.shape.rest_z), atol=2e-3)
            heading = np.array([np.cos(placed.yaw), np.sin(placed.yaw), 0.0])
            np.testing.assert_allclose(view.rotation[i][:, 0], heading, atol=0.02)
        assert view.speed.max() < 0.02


def test_an_overlapping_layout_is_refused():
    scene = draw_scene(0)
    first, second, *rest = scene.objects
    overlapping = Scene(0, (first, type(second)(second.kind_row, first.x + 0.01, first.y, second.yaw), *rest))
    world = World(PANDA, [placed.kind.shape for placed in overlapping.objects])
    with pytest.raises(UnsettledSceneError, match="scene 0"):
        world.load(overlapping)


def test_link_one_and_the_table_do_not_collide():
    world = world_of(draw_scene(0))
    pairs = {tuple(sorted((s >> 16, s & 0xFFFF))) for s in world.model.exclude_signature.tolist()}
    table, link1 = world.model.body("table").id, world.model.body("link1").id
    assert tuple(sorted((table, link1))) in pairs


def test_solver_contacts_and_servos_are_those_measured_for_grasping():
    model = world_of(draw_scene(0)).model
    assert model.opt.timestep == 0.002
    assert model.opt.integrator == int(mujoco.mjtIntegrator.mjINT_IMPLICITFAST)
    assert model.opt.cone == int(mujoco.mjtCone.mjCONE_ELLIPTIC)
    assert model.opt.impratio == 10
    finger = model.geom("finger_left").id
    np.testing.assert_allclose(model.geom_friction[finger], (1.2, 0.02, 0.001))
    np.testing.assert_allclose(model.geom_solref[finger], (0.004, 1.0))
    assert model.geom_priority[finger] == 1
    np.testing.assert_allclose(model.actuator_gainprm[1, 0], 1.51 * 50**2)  # kp = I w^2
    np.testing.assert_allclose(model.actuator_biasprm[1, 2], -2 * 1.51 * 50)  # kv = 2 I w
    np.testing.assert_allclose(model.actuator_forcerange[:8, 1], (87, 87, 87, 87, 12, 12, 12, 60))


def test_colours_change_in_place():
    scenes = [draw_scene(seed) for seed in range(60)]
    shapes = [tuple(o.kind.shape.name for o in scene.objects) for scene in scenes]
    first = next(i for i in range(60) if shapes.count(shapes[i]) > 1)
    second = next(i for i in range(first + 1, 60) if shapes[i] == shapes[first])
    world = world_of(scenes[first])
    model = world.model
    world.load(scenes[second])
    assert world.model is model
    for i, placed in enumerate(scenes[second].objects):
        np.testing.assert_allclose(model.geom(f"object{i}").rgba[:3], placed.kind.colour.rgb, atol=1e-6)


def test_the_simulated_arm_is_a_robot_that_follows_a_ramp_without_lag():
    world = world_of(draw_scene(0))
    arm = SimulatedArm(world)
    assert isinstance(arm, Robot)
    assert arm.rate_hz >= 100
    start = np.array(PANDA.home)
    for k in range(1, 101):
        arm.command(JointCommand(start + k * 0.001 * np.ones(7), opening=1.0))  # 0.5 rad/s
    state = arm.read()
    np.testing.assert_allclose(state.q, start + 0.1, atol=2e-3)  # without the lead: 2 / omega * 0.5 = 20 mrad behind
    np.testing.assert_allclose(state.dq, 0.5, atol=0.05)
    assert state.time == pytest.approx(0.3, abs=1e-9)  # 50 steps to settle, 100 commands of 2 ms


def test_fingers_close_onto_an_object_and_both_report_it():
    scene = draw_scene(0)
    world = world_of(scene)
    cube = world.shapes.index(next(s for s in world.shapes if s.graspable))
    tcp = world.tcp_pose()[:3, 3]
    world.model.opt.gravity[:] = 0
    world.set_object(cube, np.array([*tcp, 1.0, 0.0, 0.0, 0.0]))
    arm = SimulatedArm(world)
    before = world.finger_contacts()
    for _ in range(150):
        arm.command(JointCommand(np.array(PANDA.home), opening=0.0))
    assert not before.any()
    assert world.finger_contacts()[cube].all()
    assert world.finger_contacts().sum() == 2


def test_a_restored_state_continues_bit_for_bit():
    world = world_of(draw_scene(5))
    arm = SimulatedArm(world)
    rng = np.random.default_rng(0)
    commands = np.array(PANDA.home) + np.cumsum(rng.uniform(-0.002, 0.002, (200, 7)), axis=0)
    arm.follow(commands[:50], np.ones(50))
    saved, last = world.get_state(), arm.last_q
    arm.follow(commands[50:], np.zeros(150))
    expected = world.data.qpos.copy(), world.data.qvel.copy()
    world.set_object(0, np.array([0.5, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0]))
    arm.follow(commands[:20], np.ones(20))
    world.set_state(saved)
    arm.last_q = last
    arm.follow(commands[50:], np.zeros(150))
    np.testing.assert_array_equal(world.data.qpos, expected[0])
    np.testing.assert_array_equal(world.data.qvel, expected[1])
