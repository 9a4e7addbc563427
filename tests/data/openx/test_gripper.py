"""Gripper rules against sequences worked out by hand, and their laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ideomotor.data.openx.gripper import binarized, clip01, held, inverted, relabelled
from ideomotor.data.openx.standardize import decoded, moving

OPENINGS = st.lists(st.floats(0, 1, width=32), max_size=30).map(lambda values: np.array(values, np.float32))
COMMANDS = st.lists(st.sampled_from([-1.0, -0.1, 0.0, 0.1, 0.11, 1.0]), max_size=30).map(
    lambda values: np.array(values, np.float32)
)


def f32(*values):
    return np.array(values, np.float32)


def test_inverting_twice_changes_nothing_and_swaps_open_and_closed():
    assert inverted(f32(0, 0.25, 1)).tolist() == [1, 0.75, 0]
    assert inverted(inverted(f32(0, 0.25, 1))).tolist() == [0, 0.25, 1]


def test_clipping_keeps_what_is_inside():
    assert clip01(f32(-3, 0, 0.5, 1, 9)).tolist() == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize(
    ("raw", "want"),
    [
        ([1, 0.5, 0], [1, 0, 0]),  # between: the next decided value
        ([0, 0.5, 0.9, 1], [0, 1, 1, 1]),
        ([0.5, 0.5, 1, 0.5, 0.5], [1, 1, 1, 0.5, 0.5]),  # a trailing run takes the raw last value
        ([1, 0.3, 0.7], [1, 0.7, 0.7]),
        ([0.4], [0.4]),
        ([0.95, 0.96, 0.05, 0.04], [1, 1, 0, 0]),  # the bounds themselves decide nothing
        ([0.04, 0.05], [0, 0.05]),
        ([], []),
    ],
)
def test_openings_between_take_the_next_decided_value(raw, want):
    assert binarized(f32(*raw)).tolist() == f32(*want).tolist()


@given(OPENINGS)
def test_only_an_undecided_end_stays_between(g):
    out = binarized(g)
    decided = np.flatnonzero((g > 0.95) | (g < 0.05))
    end = decided[-1] + 1 if len(decided) else 0
    assert np.isin(out[:end], [0, 1]).all()
    assert (out[end:] == g[-1:]).all()
    assert (out[decided] == (g[decided] > 0.95)).all()


@pytest.mark.parametrize(
    ("raw", "want"),
    [
        ([0, 1, 0, -1, 0], [1, 0, 0, 1, 1]),  # closes first: open before
        ([0, -1, 0, 1], [0, 1, 1, 0]),  # opens first: closed before
        ([0, 0, 0], [1, 1, 1]),  # no event: open
        ([0.1, -0.1], [1, 1]),  # not beyond the threshold
        ([0.11, 0.5, -0.11], [0, 0, 1]),
        ([1, 1, 1], [0, 0, 0]),
        ([], []),
    ],
)
def test_relative_commands_are_held_until_the_next(raw, want):
    assert held(f32(*raw)).tolist() == want


@given(COMMANDS)
def test_held_commands_change_where_an_event_says_so_and_nowhere_else(g):
    out = held(g)
    assert np.isin(out, [0, 1]).all()
    for t in range(len(g)):
        if abs(g[t]) > np.float32(0.1):
            assert out[t] == (g[t] < 0)
        elif t:
            first = not (np.abs(g[:t]) > np.float32(0.1)).any()
            assert out[t] == out[t - 1] or first


def test_motion_is_the_difference_of_six_numbers_without_wrapping():
    states = f32(*range(8), 1, 3, 5, 7, 9, -3, 0, 0).reshape(2, 8)
    assert relabelled(states).tolist() == [[1, 2, 3, 4, 5, -8]]
    assert relabelled(states[:1]).shape == (0, 6)


def test_droid_moves_where_a_scaled_speed_leaves_zero():
    # q99 - q01 of the first number is 1.5374229: 1e-5 of the scaled range [-1, 1] is 7.6871145e-6
    rows = np.zeros((3, 6), np.float32)
    rows[1, 0], rows[2, 0] = 7.68e-6, -7.70e-6
    assert moving(rows).tolist() == [False, False, True]


def test_code_points_end_at_the_first_zero_and_what_is_no_character_is_marked():
    assert decoded(np.array([104, 228, 0, 120])) == "hä"
    assert decoded(np.array([0, 1])) == ""
    assert decoded(np.array([65, 66])) == "AB"
    assert decoded(np.array([65, -5, 0x110000, 0xD800])) == "A\ufffd\ufffd\ufffd"
