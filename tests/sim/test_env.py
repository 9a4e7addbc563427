import pickle
import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from ideomotor.core.errors import UsageError
from ideomotor.robot.arms.panda import PANDA
from ideomotor.sim.env import EnvConfig, TabletopEnv
from ideomotor.sim.tasks.pick import PICK
from ideomotor.sim.tasks.place_on import PLACE_ON

CONFIG = EnvConfig(PANDA, (PICK, PLACE_ON))


@pytest.fixture(scope="module")
def env() -> TabletopEnv:
    return TabletopEnv(CONFIG)


def test_gymnasium_accepts_the_environment():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(infinity|render mode|reset.*seed|not within the obs).*")
        check_env(TabletopEnv(CONFIG), skip_render_check=True)


def test_the_configuration_can_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(CONFIG)) == CONFIG


def test_the_same_seed_gives_the_same_episode(env: TabletopEnv):
    first, _ = env.reset(seed=11, options={"task": "pick"})
    episode = env.episode
    env.advance(np.full((5, 7), 0.02))
    second, _ = env.reset(seed=11, options={"task": "pick"})
    assert env.episode == episode
    for name in ("front", "wrist", "state"):
        np.testing.assert_array_equal(first[name], second[name])


def test_wording_and_swap_change_only_words_and_target(env: TabletopEnv):
    env.load(seed=21, options={"task": "place_on"})
    plain = env.episode
    env.load(seed=21, options={"task": "place_on", "wording": "held_out"})
    reworded = env.episode
    env.load(seed=21, options={"task": "place_on", "swap": True})
    swapped = env.episode
    assert plain.scene == reworded.scene == swapped.scene
    assert plain.goal == reworded.goal
    assert plain.instruction != reworded.instruction
    assert plain.goal.destination == swapped.goal.destination
    assert plain.goal.target != swapped.goal.target
    assert swapped.goal.target in swapped.scene.graspable


def test_an_action_moves_the_tool_by_its_own_amount(env: TabletopEnv):
    env.load(seed=0, options={"task": "pick"})
    before = env.observation()
    env.advance(np.array([[0.03, -0.02, -0.04, 0.0, 0.0, 0.2, 1.0], [0.0] * 6 + [1.0]]))
    after = env.observation()
    np.testing.assert_allclose(after.state[:3] - before.state[:3], (0.03, -0.02, -0.04), atol=2.5e-3)
    # rot6d by rows of Rz(0.2) Rx(pi): (c, s, s, -c, 0, 0)
    np.testing.assert_allclose(after.state[3:9], (0.98007, 0.19867, 0.19867, -0.98007, 0.0, 0.0), atol=6e-3)
    assert after.time - before.time == pytest.approx(0.2)


def test_the_commanded_and_the_measured_pose_agree_while_moving(env: TabletopEnv):
    env.load(seed=0, options={"task": "pick"})
    for _ in range(5):
        env.advance(np.array([[0.02, 0.03, -0.03, 0.0, 0.0, 0.0, 1.0]]))  # 0.47 m/s; a plain servo would lag 19 mm
        view = env.view()
        assert np.linalg.norm(view.commanded - view.tcp) < 0.004


def test_the_gripper_closes_and_opens_at_the_threshold_of_its_channel(env: TabletopEnv):
    env.load(seed=0, options={"task": "pick"})
    still = np.zeros((6, 7))
    env.advance(still)
    assert env.state()[-1] < 0.02
    still[:, 6] = 1.0
    env.advance(still)
    assert env.state()[-1] > 0.97


def test_an_episode_ends_with_success_or_at_the_horizon():
    env = TabletopEnv(EnvConfig(PANDA, (PICK,), horizon=4))
    env.load(seed=0)
    success, done = env.advance(np.zeros((9, 7)))
    assert (success, done, env.steps) == (False, True, 4)


def test_success_needs_the_predicate_for_three_steps(env: TabletopEnv):
    env.load(seed=1, options={"task": "pick"})
    held = 0
    while not env.done:
        _, reward, terminated, truncated, info = env.step(env.expert_action())
        held = held + 1 if PICK.achieved(env.view(), env.goal) else 0
        assert terminated == (held >= 3) == info["success"] == (reward == 1.0)
        assert not truncated
    assert held == 3


def test_events_name_the_first_object_touched_and_lifted(env: TabletopEnv):
    env.load(seed=7, options={"task": "pick"})
    assert env.events == {"first_touched": -1, "first_lifted": -1}
    while not env.done:
        env.advance(env.expert_action()[None])
    assert env.events == {"first_touched": env.goal.target, "first_lifted": env.goal.target}


def test_a_restored_environment_continues_bit_for_bit(env: TabletopEnv):
    env.load(seed=9, options={"task": "place_on"})
    env.advance(np.tile([0.01, -0.02, -0.04, 0.0, 0.0, 0.1, 1.0], (6, 1)))
    saved = env.get_state()
    actions = np.random.default_rng(0).uniform([-0.05] * 3 + [0, 0, -0.3, 0], [0.05] * 3 + [1e-9, 1e-9, 0.3, 1], (8, 7))
    env.advance(actions)
    expected, steps = env.observation(), env.steps
    env.expert_chunk(4)
    env.advance(actions[::-1])
    env.set_state(saved)
    env.advance(actions)
    again = env.observation()
    np.testing.assert_array_equal(expected.state, again.state)
    for camera in ("front", "wrist"):
        np.testing.assert_array_equal(expected.images[camera], again.images[camera])
    assert (env.steps, again.time) == (steps, expected.time)


def test_looking_ahead_changes_nothing(env: TabletopEnv):
    runs = []
    for look in (False, True):
        env.load(seed=13, options={"task": "place_on"})
        while not env.done:
            if look:
                env.expert_chunk(3)
                env.labels()
            env.advance(env.expert_action()[None])
        runs.append(env.world.data.qpos.copy())
    np.testing.assert_array_equal(*runs)


def test_random_states_are_settled_varied_and_at_times_hold_an_object(env: TabletopEnv):
    rng = np.random.default_rng(0)
    held, low, openings = 0, 0, []
    for _ in range(60):
        env.randomize_state(rng)
        view = env.view()
        held += any(view.held(i) for i in range(len(view.kinds)))
        low += bool(view.tcp[2] < 0.1)
        openings.append(view.opening)
        assert view.speed.max() < 0.1
        assert view.position[:, 2].min() > 0.0
        np.testing.assert_allclose(view.commanded, view.tcp, atol=0.01)
        assert env.world.arm_contacts() == 0 or any(view.held(i) for i in range(len(view.kinds)))
    assert 8 <= held <= 35
    assert 10 <= low
    assert np.std(openings) > 0.1


def test_labels_have_their_documented_columns(env: TabletopEnv):
    env.load(seed=0, options={"task": "pick"})
    labels = env.labels()
    sizes = {name: value.shape for name, value in labels.items()}
    per_camera = {"class": (36,), "offset": (72,), "yaw": (72,), "held": (36,)}
    expected = {f"label.{c}.{name}": size for c in ("front", "wrist") for name, size in per_camera.items()}
    assert sizes == {"label.location": (6,), "label.location_valid": (6,), **expected}
    target = env.scene.objects[env.goal.target]
    np.testing.assert_allclose(labels["label.location"][:2], (target.x, target.y), atol=2e-3)
    assert set(labels["label.front.class"].tolist()) - {0} <= {1 + o.kind_row for o in env.scene.objects}


def test_unknown_names_are_refused_with_the_known_ones(env: TabletopEnv):
    with pytest.raises(UsageError, match=r"unknown task 'pikc'; known: pick, place_on\. Did you mean 'pick'"):
        env.reset(seed=0, options={"task": "pikc"})
    with pytest.raises(UsageError, match="unknown wording 'test'; known: held_out, train"):
        env.reset(seed=0, options={"wording": "test"})
    with pytest.raises(UsageError, match="unknown option of reset 'taks'"):
        env.reset(seed=0, options={"taks": "pick"})
    with pytest.raises(UsageError, match="call reset"):
        _ = TabletopEnv(CONFIG).instruction


def test_the_embodiment_says_what_the_numbers_mean(env: TabletopEnv):
    body = env.embodiment
    assert body.name == "panda-tabletop"
    assert [c.name for c in body.action] == [f"ee_delta_{a}" for a in ("x", "y", "z", "rx", "ry", "rz")] + ["gripper"]
    assert len(body.state) == 10
    assert body.state_rotation.layout == "rows"
    assert set(body.cameras_by_role) == {"front", "wrist"}
    assert "ray" in body.cameras[0].source
    assert type(body).from_text(body.to_text(), "test") == body
