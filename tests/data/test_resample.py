"""Chunks at another rate: worked out by hand, and the laws that motions add up and nothing is made up for grippers."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ideomotor.core.errors import UserError
from ideomotor.core.rotation import rotation_vector_to_matrix
from ideomotor.core.spec import Camera, Channel, Embodiment, Gripper, Mode, RotationForm, Unit
from ideomotor.data import resample as resampling
from ideomotor.data.resample import Orientations, rate_of, resample, sentences

STEP = Channel("dx", "m", mode="delta")
PLACE = Channel("x", "m")
SPEED = Channel("vx", "m/s")
GRIP = Channel("gripper", "fraction", frame="none")
Z = np.array([0.0, 0.0, 1.0])


def body(*channels: Channel, rotation: RotationForm | None = None) -> Embodiment:
    names = [channel.name for channel in channels]
    gripper = Gripper("gripper", 1.0, 0.0, 0.5) if "gripper" in names else None
    state = (Channel("x", "m"),)
    return Embodiment(
        "toy", "toy", 10.0, channels, state, (Camera("front", 8, 8),), rotation or RotationForm("none"), gripper=gripper
    )


def plan(embodiment, recorded, wanted):
    return resampling.plan(embodiment, float(recorded), float(wanted))


def rotations(unit: Unit = "rad", mode: Mode = "absolute", frame: str = "base", count: int = 3) -> list[Channel]:
    return [Channel(f"r{i}", unit, frame=frame, mode=mode) for i in range(count)]


def run(channels, recorded, wanted, actions, horizon, previous=None, rotation=None):
    how = plan(body(*channels, rotation=rotation), recorded, wanted)
    assert how is not None
    rows = np.array(actions, np.float32).reshape(-1, len(channels))
    before = None if previous is None else np.array(previous, np.float32).reshape(len(channels))
    return resample(rows, before, how, horizon)


# --------------------------------------------------------------------------- by hand


def test_half_the_rate_sums_motions_takes_the_last_place_and_holds_the_gripper():
    chunk, pad = run([STEP, PLACE, GRIP], 10, 5, [[1, 10, 0], [2, 20, 1], [3, 30, 1], [4, 40, 0]], 2)
    assert chunk.tolist() == [[3, 20, 0], [7, 40, 1]]
    assert chunk.dtype == np.float32
    assert pad.tolist() == [False, False]


def test_three_times_the_rate_divides_motions_and_interpolates_places_from_the_action_before():
    channels, actions = [STEP, PLACE, GRIP], [[3, 3, 1], [6, 9, 0]]
    chunk, pad = run(channels, 5, 15, actions, 6, previous=[99, 0, 1])
    assert chunk[:, 0].tolist() == [1, 1, 1, 2, 2, 2]
    np.testing.assert_allclose(chunk[:, 1], [1, 2, 3, 5, 7, 9], rtol=1e-6)
    assert chunk[:, 2].tolist() == [1, 1, 1, 0, 0, 0]
    assert not pad.any()
    first, _ = run(
        channels, 5, 15, actions, 6
    )  # the beginning of an episode: nobody knows where the arm was sent before
    np.testing.assert_allclose(first[:, 1], [3, 3, 3, 5, 7, 9], rtol=1e-6)


def test_from_3_to_10_hz_new_steps_take_three_tenths_of_a_recorded_one():
    """Limits at 0, .3, .6, .9, 1.2, 1.5, 1.8, 2.1: the way there is 0, 3, 6, 9, 10 + 4, 10 + 10, 10 + 16, 30."""
    chunk, pad = run([STEP, GRIP], 3, 10, [[10, 0], [20, 1]], 8)
    np.testing.assert_allclose(chunk[:, 0], [3, 3, 3, 5, 6, 6, 4, 0], rtol=1e-6)
    assert chunk[:, 1].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]  # steps that begin at .9 are still in the first
    assert pad.tolist() == [False] * 7 + [True]  # step 6 begins at 1.8, step 7 at 2.1


def test_from_10_to_3_hz_new_steps_take_ten_thirds_of_a_recorded_one():
    """The way after 10/3 recorded steps of 3 each is 10, after 20/3 it is 20."""
    how = plan(body(STEP), 10, 3)
    assert how is not None
    assert how.needed(2) == 7
    chunk, pad = run([STEP], 10, 3, [3] * 7, 2)
    np.testing.assert_allclose(chunk[:, 0], [10, 10], rtol=1e-6)
    chunk, pad = run([STEP], 10, 3, [3] * 4, 3)  # the episode ends after 4 of 10 steps
    np.testing.assert_allclose(chunk[:, 0], [10, 2, 0], rtol=1e-6)
    assert pad.tolist() == [False, False, True]  # the second begins at 3.33, the third at 6.67


def test_velocities_are_averaged():
    assert run([SPEED], 10, 5, [1, 3, 5, 5], 2)[0][:, 0].tolist() == [2, 5]
    assert run([SPEED], 5, 10, [4], 2)[0][:, 0].tolist() == [4, 4]


def test_angles_without_a_form_take_the_short_way_round():
    yaw = [Channel("yaw", "rad")]
    chunk, _ = run(yaw, 5, 10, [np.radians(-170)], 2, previous=[np.radians(170)])
    np.testing.assert_allclose(np.abs(chunk[0, 0]), np.pi, rtol=1e-6)
    np.testing.assert_allclose(chunk[1, 0], np.radians(-170), rtol=1e-6)
    joint = [Channel("joint_1", "rad", frame="joint")]  # 190 degrees is not -170 for a joint
    chunk, _ = run(joint, 5, 10, [np.radians(-170)], 2, previous=[np.radians(170)])
    np.testing.assert_allclose(chunk[:, 0], [0, np.radians(-170)], atol=1e-6)


def test_orientations_are_turned():
    """A quarter turn about z, half of it first."""
    eighth, quarter = np.pi / 4 * Z, np.pi / 2 * Z
    vector = RotationForm("rotation_vector", first=0)
    chunk, _ = run(rotations(), 5, 10, [quarter], 2, previous=[0, 0, 0], rotation=vector)
    np.testing.assert_allclose(chunk, [eighth, quarter], atol=1e-6)
    half = np.sin(np.pi / 8), np.cos(np.pi / 8)
    whole = np.sqrt(0.5), np.sqrt(0.5)
    xyzw = RotationForm("quaternion", "xyzw", first=0)
    chunk, _ = run(rotations("1", count=4), 5, 10, [0, 0, *whole], 2, previous=[0, 0, 0, 1], rotation=xyzw)
    np.testing.assert_allclose(chunk, [[0, 0, *half], [0, 0, *whole]], atol=1e-6)
    minus = [0, 0, -whole[0], -whole[1]]  # the same turn, and its sign stays where it was recorded
    chunk, _ = run(rotations("1", count=4), 5, 10, [minus], 2, previous=[0, 0, 0, -1], rotation=xyzw)
    np.testing.assert_allclose(chunk, [[0, 0, -half[0], -half[1]], minus], atol=1e-6)
    six = RotationForm("rot6d", "columns", first=0)
    chunk, _ = run(rotations("1", count=6), 5, 10, [0, 1, 0, -1, 0, 0], 2, previous=[1, 0, 0, 0, 1, 0], rotation=six)
    root = np.sqrt(0.5)
    np.testing.assert_allclose(chunk, [[root, root, 0, -root, root, 0], [0, 1, 0, -1, 0, 0]], atol=1e-6)
    euler = RotationForm("euler", "xyz", first=0)
    start, stop = [np.pi - 0.1, 0, 0.2], [-np.pi + 0.1, 0, 0.2]  # a gripper that points down wobbles about x
    chunk, _ = run(rotations(), 5, 10, [stop], 2, previous=start, rotation=euler)
    np.testing.assert_allclose(np.abs(chunk[0]), [np.pi, 0, 0.2], atol=1e-6)


@pytest.mark.parametrize(("frame", "axis"), [("base", [1, -1, 1]), ("tool", [1, 1, 1])])
def test_turns_are_composed_about_the_axes_that_they_are_about(frame, axis):
    """A quarter about z, then one about x. Fixed axes: Rx Rz = ((0 -1 0) (0 0 -1) (1 0 0)); those of the tool: Rz Rx = ((0 0 1) (1 0 0)
    (0 1 0)); both a third of a turn about a diagonal."""
    channels = rotations(mode="delta", frame=frame)
    turns = [np.pi / 2 * Z, [np.pi / 2, 0, 0]]
    chunk, _ = run(channels, 10, 5, turns, 1, rotation=RotationForm("rotation_vector", first=0))
    np.testing.assert_allclose(chunk[0], 2 * np.pi / 3 * np.array(axis) / np.sqrt(3), atol=1e-6)


def test_a_stated_form_without_its_layout_is_added_as_angles():
    turns = rotations(mode="delta")
    chunk, _ = run(turns, 10, 5, [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]], 1, rotation=RotationForm("euler", first=0))
    np.testing.assert_allclose(chunk[0], [0.4, 0.4, 0.4], rtol=1e-6)


# --------------------------------------------------------------------------- what is said, and refused


def test_the_same_rate_changes_nothing_and_rates_are_the_fractions_they_stand_for():
    assert plan(body(STEP), 10, 10.0) is None
    assert rate_of(29.97) == Fraction(30000, 1001)
    assert rate_of(3.75) == Fraction(15, 4)
    assert plan(body(STEP), 30000 / 1001, 29.97) is None
    for wrong in (0.0, -1.0, float("nan"), float("inf"), 1e6):
        with pytest.raises(UserError, match="a rate of"):
            rate_of(wrong)


def test_what_is_done_is_said_in_a_line():
    plans = [plan(body(STEP, GRIP), 15, 5), plan(body(PLACE, SPEED), 5, 15), plan(body(STEP), 3, 10), None]
    assert sentences(["a", "b", "c", "d"], plans) == [
        "a: 15 Hz -> 5 Hz: deltas summed, gripper held",
        "b: 5 Hz -> 15 Hz: velocities averaged, targets interpolated",
        "c: 3 Hz -> 10 Hz: deltas redistributed",
        "d: as recorded",
    ]


@pytest.mark.parametrize("mode", ["unknown", "relative_to_chunk_start"])
def test_a_channel_that_could_be_anything_is_refused(mode):
    with pytest.raises(UserError, match=f"'x' is of mode '{mode}'.*--embodiment FILE"):
        plan(body(replace(PLACE, mode=mode)), 10, 5)
    assert plan(body(replace(PLACE, mode=mode)), 10, 10) is None
    assert plan(body(replace(GRIP, mode=mode)), 10, 5) is not None  # a gripper is held, whatever its numbers are


def test_a_rotation_is_turned_only_where_its_mode_is_one():
    mixed = [*rotations()[:2], replace(rotations()[2], mode="delta")]
    how = plan(body(*mixed, rotation=RotationForm("rotation_vector", first=0)), 10, 5)
    assert how is not None
    assert not any(isinstance(part, Orientations) for part in how.parts)


# --------------------------------------------------------------------------- laws

rates = st.integers(1, 60)
motions = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20)


@settings(max_examples=200, deadline=None)
@given(rates, rates, motions)
def test_motions_add_up_to_the_recorded_way_and_agree_with_places(recorded, wanted, steps):
    if recorded == wanted:
        return
    horizon = -(-len(steps) * wanted // recorded)  # the whole episode
    places = np.cumsum(np.array(steps, np.float64)).astype(np.float32)
    deltas, pad = run([STEP], recorded, wanted, steps, horizon)
    assert not pad.any()
    np.testing.assert_allclose(deltas.sum(dtype=np.float64), places[-1], atol=1e-5)
    reached, _ = run([PLACE], recorded, wanted, places, horizon, previous=[0])
    np.testing.assert_allclose(np.cumsum(deltas, dtype=np.float64), reached[:, 0], atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10), st.integers(2, 6), motions, st.sampled_from(["base", "tool"]))
def test_faster_and_back_is_where_it_began(rate, times, steps, frame):
    channels = [STEP, SPEED, PLACE, GRIP, *rotations(mode="delta", frame=frame)]
    rng = np.random.default_rng(len(steps))
    actions = rng.uniform(-1, 1, (len(steps), 7)).astype(np.float32)
    actions[:, 0] = steps
    form = RotationForm("rotation_vector", first=4)
    fast, _ = run(channels, rate, rate * times, actions, len(steps) * times, rotation=form)
    back, pad = run(channels, rate * times, rate, fast, len(steps), rotation=form)
    np.testing.assert_allclose(back, actions, atol=1e-5)
    assert not pad.any()
    assert set(fast[:, 3].tolist()) == set(actions[:, 3].tolist())


@settings(max_examples=50, deadline=None)
@given(rates, rates, st.integers(1, 12), st.sampled_from(["base", "tool"]), st.integers(0, 1000))
def test_turns_compose_to_the_recorded_turn(recorded, wanted, count, frame, seed):
    if recorded == wanted:
        return
    turns = np.random.default_rng(seed).uniform(-0.5, 0.5, (count, 3)).astype(np.float32)
    form = RotationForm("rotation_vector", first=0)
    horizon = -(-count * wanted // recorded)
    if wanted * 12 < recorded:  # a new turn beyond half a circle is another one
        return
    chunk, _ = run(rotations(mode="delta", frame=frame), recorded, wanted, turns, horizon, rotation=form)

    def product(vectors):
        whole = np.eye(3)
        for turn in rotation_vector_to_matrix(vectors.astype(np.float64)):
            whole = whole @ turn if frame == "tool" else turn @ whole
        return whole

    np.testing.assert_allclose(product(chunk), product(turns), atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(rates, rates, st.integers(1, 15), st.integers(1, 30))
def test_padding_begins_with_the_first_step_after_the_end(recorded, wanted, count, horizon):
    if recorded == wanted:
        return
    how = plan(body(STEP), recorded, wanted)
    assert how is not None
    actions = np.ones((min(count, how.needed(horizon)), 1), np.float32)
    chunk, pad = resample(actions, None, how, horizon)
    assert pad.tolist() == [j * recorded >= count * wanted for j in range(horizon)]
    assert (chunk[pad] == 0).all()
    np.testing.assert_allclose(chunk.sum(), min(count, horizon * recorded / wanted), rtol=1e-4)
