"""What numbers show about their meaning: made-up robots whose truth is known, and the real Bridge sample."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).parent))
from arrays import ArrayDataset, numbered
from memory_dataset import MemoryDataset

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Embodiment
from ideomotor.data.dataset import ACTION, STATE
from ideomotor.data.meaning.evidence import explained, take_sample, two_valued, wraps
from ideomotor.data.meaning.guess import camera_role, guess, guess_text, write_guess
from ideomotor.data.opening import open_dataset


def smooth(rng, frames, width, scale):
    """A walk without jerks: the moving average of a random one."""
    walk = np.cumsum(rng.normal(0, scale, (frames + 20, width)), axis=0)
    return np.stack([np.convolve(walk[:, d], np.ones(20) / 20, "valid")[:frames] for d in range(width)], axis=1)


def jerky(rng, frames, scale):
    """Steps of three axes that change direction from frame to frame."""
    return rng.normal(0, scale, (frames, 3))


def deltas(scale=1.0, after=False, episodes=6, frames=80, **options):
    """Six steps and a gripper; the state is the sum of `scale` times the steps, and the opening, 0.04 m = open = 1."""
    rng, actions, states = np.random.default_rng(0), [], []
    for _ in range(episodes):
        steps = np.concatenate([jerky(rng, frames, 0.01 / scale), jerky(rng, frames, 0.03 / scale)], axis=1)
        way = np.cumsum(scale * steps, axis=0)
        place = way if after else np.concatenate([np.zeros((1, 6)), way[:-1]])
        closes = np.arange(frames) >= frames // 2
        finger = np.where(np.arange(frames) >= frames // 2 + 2, 0.01, 0.04)
        states.append(np.concatenate([place + [0.4, 0, 0.2, 0, 0, 0], finger[:, None]], axis=1))
        actions.append(np.concatenate([steps, 1.0 - closes[:, None]], axis=1))
    return numbered(actions, states, **options)


def said(found, words):
    return any(words in sentence for sentence in found.evidence)


def test_steps_in_metres_are_told_from_places():
    found = guess(deltas(fps=10))
    e = found.embodiment
    assert [c.mode for c in e.action] == ["delta"] * 6 + ["absolute"]
    assert [c.unit for c in e.action] == ["m"] * 3 + ["rad"] * 3 + ["fraction"]
    assert {c.frame for c in e.action[:6]} == {"unknown"}  # nothing tells the frame
    assert [c.unit for c in e.state] == ["m"] * 3 + ["rad"] * 3 + ["m"]
    assert [c.name for c in e.action] == [
        *(f"ee_delta_{a}" for a in "xyz"),
        *(f"ee_delta_rotation_{i}" for i in range(3)),
        "gripper",
    ]
    assert e.alignment == "observation_before_action"
    assert e.rate_hz == 10
    assert said(found, "action[0:3] explains 1.00 of the variance of state[0:3]'s next difference")
    assert (e.gripper.open, e.gripper.closed, e.gripper.threshold) == (1.0, 0.0, 0.5)
    assert said(found, "state[6] has the size 0.01 after 0 and 0.04 after 1, metres between the fingers")


def test_an_observation_that_follows_its_action_is_noticed():
    found = guess(deltas(after=True))
    assert found.embodiment.alignment == "observation_after_action"
    assert [c.mode for c in found.embodiment.action[:6]] == ["delta"] * 6
    assert [c.unit for c in found.embodiment.action[:6]] == ["m"] * 3 + ["rad"] * 3


def test_velocities_are_known_by_the_rate():
    e = guess(deltas(scale=0.1, fps=10)).embodiment  # 1 m/s for 0.1 s moves 0.1 m
    assert [c.unit for c in e.action[:6]] == ["m/s"] * 3 + ["rad/s"] * 3
    assert [c.mode for c in e.action[:6]] == ["absolute"] * 6


def test_scaled_steps_have_no_known_unit():
    found = guess(deltas(scale=0.05))
    assert {(c.unit, c.mode) for c in found.embodiment.action[:6]} == {("unknown", "delta")}
    assert said(found, "one unit of it moves the state by 0.05")
    assert said(found, "rate unknown")


def test_joint_angles_are_told_by_their_place_in_the_state():
    rng, actions, states = np.random.default_rng(1), [], []
    for _ in range(6):
        way = smooth(rng, 101, 7, 0.02) + [0, -0.5, 0, -2.2, 0, 1.9, 0.7]  # a Franka's usual posture
        grip = (np.arange(100) // 25 % 2 == 0) * 255.0
        states.append(way[:100])
        actions.append(np.concatenate([way[1:], grip[:, None]], axis=1))
    e = guess(numbered(actions, states, name="my_franka", fps=50)).embodiment
    assert e.robot == "franka"
    assert {(c.mode, c.unit, c.frame) for c in e.action[:7]} == {("absolute", "rad", "joint")}
    assert {(c.mode, c.unit, c.frame) for c in e.state} == {("absolute", "rad", "joint")}
    assert e.action[7].unit == "1"  # 0 or 255: the gripper's specification says what that means
    assert (e.gripper.open, e.gripper.closed) == (255.0, 0.0)  # every episode begins with 255


def test_names_come_before_numbers():
    names = (
        "main_shoulder_pan",
        "main_shoulder_lift",
        "main_elbow_flex",
        "main_wrist_flex",
        "main_wrist_roll",
        "main_gripper",
    )
    way = smooth(np.random.default_rng(0), 61, 6, 4.0)  # degrees
    way = way / np.abs(way).max() * 120
    e = guess(
        numbered([way[1:]] * 4, [way[:-1]] * 4, fps=30, names={ACTION: names, STATE: names}, name="so100_pick")
    ).embodiment
    assert [c.name for c in e.action] == list(names)
    assert e.robot == "so100"
    assert {(c.mode, c.unit, c.frame) for c in e.action[:5]} == {("absolute", "unknown", "joint")}  # 120 is no radian
    assert e.action[5].frame == "none"


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_six_numbers_of_a_matrix_are_known_with_their_layout(layout):
    turns = Rotation.from_rotvec(smooth(np.random.default_rng(0), 80, 3, 0.1)).as_matrix()[:, :, :2]
    six = turns.reshape(-1, 6) if layout == "rows" else turns.transpose(0, 2, 1).reshape(-1, 6)
    place = smooth(np.random.default_rng(1), 80, 3, 0.02)
    e = guess(numbered([np.concatenate([place, six], axis=1)] * 2)).embodiment
    assert (e.action_rotation.form, e.action_rotation.layout, e.action_rotation.first) == ("rot6d", layout, 3)
    assert e.state == ()


def test_a_quaternion_is_known_but_not_its_order():
    turns = Rotation.from_rotvec(smooth(np.random.default_rng(0), 80, 3, 0.1)).as_quat()
    place = smooth(np.random.default_rng(1), 80, 3, 0.02)
    found = guess(numbered([np.zeros((80, 7))] * 2, [np.concatenate([place, turns], axis=1)] * 2))
    assert (found.embodiment.state_rotation.form, found.embodiment.state_rotation.layout) == ("quaternion", "")
    assert said(found, "whether w stands first or last nothing tells")


def test_euler_angles_are_known_where_no_rotation_vector_can_be():
    names = (*"xyz", "rx", "ry", "rz")
    way = np.concatenate([smooth(np.random.default_rng(0), 80, 3, 0.02), np.zeros((80, 3))], axis=1)
    way[:, 3:] = [3.0, 0.2, 2.0]  # of length 3.61 > pi
    found = guess(numbered([way], [way], names={ACTION: names, STATE: names}))
    assert found.embodiment.state_rotation.form == "euler"
    assert said(found, "its length reaches 3.61")
    way[:, 3:] = [0.1, 0.2, 0.3]
    found = guess(numbered([way], [way], names={ACTION: names, STATE: names}))
    assert found.embodiment.state_rotation.form == "unknown"
    assert said(found, "look alike")


def test_one_angle_that_jumps_by_a_turn_is_counted():
    angles = np.array([[3.0, 0, 0], [3.1, 0, 0], [-3.1, 0, 0], [-3.0, 0, 0]])
    assert wraps([angles]) == 1
    assert wraps([angles[:, [0, 0, 1]]]) == 0  # two jump together: a rotation vector that was turned round
    assert wraps([angles[:1]]) == 0


def test_a_gripper_stands_at_two_values():
    steady = np.repeat([0.0, 1.0, 0.0], 10)
    found = two_valued([steady, steady])
    assert (found.low, found.high, found.exact, found.changes) == (0.0, 1.0, True, 4)
    assert two_valued([np.linspace(0, 1, 30)]) is None
    assert two_valued([np.tile([0.0, 1.0], 15)]) is None  # changes all the time
    assert two_valued([np.ones(30)]) is None


def test_explained_is_the_square_of_the_correlation():
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    y = 3 * x + rng.normal(size=200)
    assert explained(x[:, None], y[:, None]) == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, abs=1e-12)
    assert explained(np.ones((50, 1)), y[:50, None]) == 0
    assert explained(x[:50, None], np.ones((50, 1))) == 0
    assert explained(x[:3, None], y[:3, None]) == 0  # too few


def test_times_tell_the_rate():
    actions = [np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)] * 2
    columns = {ACTION: actions, "timestamp": [np.arange(20) * 0.2] * 2}
    found = guess(ArrayDataset(columns))
    assert found.embodiment.rate_hz == 5.0
    assert said(found, "'timestamp' goes on by 0.2 a frame")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("cam_high", "top"),
        ("cam_right_wrist", "right_wrist"),
        ("eye_in_hand_rgb", "wrist"),
        ("exterior_image_2_left", "front"),
        ("image_primary", "front"),
        ("rgb_gripper", "wrist"),
        ("image_1", ""),
    ],
)
def test_cameras_have_their_roles_by_name(name, role):
    assert camera_role(name) == role


def test_camera_roles_are_given_once():
    cameras = ("front_left", "front_right", "image_0", "hand_image")
    e = guess(deltas(cameras=cameras)).embodiment
    assert [(c.role, c.source) for c in e.cameras] == [
        ("front", "front_left"),
        ("front_right", "front_right"),
        ("image_0", "image_0"),
        ("wrist", "hand_image"),
    ]
    assert guess(deltas(cameras=("image_0",))).embodiment.cameras[0].role == "front"  # the only one


def test_a_guess_is_written_for_editing_and_never_over_a_file(tmp_path):
    found = guess(deltas(fps=10))
    write_guess(found, tmp_path / "e.json")
    text = (tmp_path / "e.json").read_text()
    assert "hash" not in json.loads(text)
    assert Embodiment.from_text(text, "e.json") == found.embodiment
    assert Embodiment.from_text(text.replace("unknown", "base", 1), "e.json") != found.embodiment  # edited, and read
    with pytest.raises(UserError, match="is there already"):
        write_guess(found, tmp_path / "e.json")


def test_the_text_says_what_is_left_open():
    text = guess_text(guess(deltas(fps=10)))
    assert "action[0:3]  ee_delta_x, ee_delta_y, ee_delta_z: delta, unit m, frame unknown" in text
    assert "gripper  gripper: 1 opens, 0 closes" in text
    assert "frame of action ee_delta_x" in text
    assert "(called 'image')" in text


def test_what_cannot_be_read_is_refused():
    with pytest.raises(UserError, match="no frames"):
        guess(numbered([np.zeros((0, 2))]))
    with pytest.raises(UserError, match="episode 0, frame 1, channel 0 is nan"):
        guess(numbered([[[0.0], [np.nan]]]))
    dataset = deltas()
    del dataset.features[ACTION]
    with pytest.raises(UserError, match="no column 'action'"):
        guess(dataset)


def test_few_and_constant_frames_leave_all_unknown():
    e = guess(MemoryDataset([1, 1])).embodiment
    assert {c.mode for c in e.action} == {"unknown"}
    e = guess(numbered([np.zeros((50, 7))], [np.zeros((50, 7))])).embodiment
    assert {(c.unit, c.mode) for c in e.action} == {("unknown", "unknown")}
    assert e.gripper is None


@settings(max_examples=150, deadline=None)
@given(
    st.data(),
    st.integers(1, 9),
    st.integers(0, 9),
    st.lists(st.integers(0, 30), min_size=1, max_size=3),
)
def test_any_numbers_give_a_guess_or_a_clear_error(data, width, state_width, lengths):
    values = st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-9, 1e6, -3.2, 255.0]) | st.floats(-1e9, 1e9, width=32)
    actions = [data.draw(stn.arrays(np.float32, (n, width), elements=values)) for n in lengths]
    states = [data.draw(stn.arrays(np.float32, (n, state_width), elements=values)) for n in lengths]
    if sum(lengths) == 0:
        with pytest.raises(UserError, match="no frames"):
            guess(numbered(actions, states))
        return
    found = guess(numbered(actions, states))
    assert len(found.embodiment.action) == width
    assert len(found.embodiment.state) == state_width
    assert len({c.name for c in found.embodiment.action}) == width
    assert Embodiment.from_text(found.embodiment.to_text(), "x") == found.embodiment
    guess_text(found)


def test_the_bridge_sample_is_read_as_its_authors_say(fixtures):
    """BridgeData V2 (arXiv 2308.12952): relative steps in metres and radians, gripper 1 = open, state x y z roll pitch yaw gripper."""
    folder = fixtures / "bridge-rlds-train" / "bridge_dataset"
    if not folder.is_dir():
        pytest.skip(f"the Bridge sample is absent ({folder})")
    found = guess(open_dataset(folder))
    e = found.embodiment
    assert e.robot == "widowx"
    assert [(c.mode, c.unit) for c in e.action] == [("delta", "m")] * 3 + [("delta", "rad")] * 3 + [
        ("absolute", "fraction")
    ]
    assert [(c.mode, c.unit) for c in e.state] == [("absolute", "m")] * 3 + [("absolute", "rad")] * 3 + [
        ("absolute", "fraction")
    ]
    assert (e.gripper.open, e.gripper.closed) == (1.0, 0.0)
    assert e.alignment == "observation_before_action"
    assert len(take_sample(open_dataset(folder)).action) == 180
