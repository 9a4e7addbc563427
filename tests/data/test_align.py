"""Different bodies in one layout: what has room, what is missing, and how it is said."""

import numpy as np
import pytest

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Camera, Channel, Embodiment
from ideomotor.data.align import Layout, cameras_of, common_layout, describe, padded


def body(name, actions, states, *cameras):
    return Embodiment(
        name,
        name,
        5.0,
        tuple(Channel(f"a{i}", "m") for i in range(actions)),
        tuple(Channel(f"s{i}", "m") for i in range(states)),
        tuple(Camera(role, 8, 8) for role in cameras),
    )


WIDOWX, ALOHA = body("widowx", 7, 8, "front"), body("aloha", 14, 14, "high", "wrist_left", "wrist_right")


def test_a_layout_has_room_for_the_widest_and_every_camera_once():
    layout = common_layout([WIDOWX, ALOHA, body("franka", 7, 15, "wrist", "front")])
    assert layout == Layout(("front", "high", "wrist_left", "wrist_right", "wrist"), 14, 15)
    assert cameras_of(ALOHA, layout) == ("high", "wrist_left", "wrist_right")
    chosen = common_layout([WIDOWX, body("franka", 7, 15, "wrist", "front")], cameras=["wrist", "front"])
    assert describe(WIDOWX, chosen) == "widowx: 7 of 7 actions, 8 of 15 states; cameras front; no wrist"
    with pytest.raises(UserError, match="aloha has the cameras high, wrist_left, wrist_right, none of front"):
        common_layout([WIDOWX, ALOHA], cameras=["front"])


def test_padding_adds_zeros_and_says_which_channels_are_the_bodys_own():
    wide, own = padded(np.array([[[1.0, 2.0]], [[3.0, 4.0]]], np.float32), 4, "actions")
    assert wide.tolist() == [[[1, 2, 0, 0]], [[3, 4, 0, 0]]]
    assert wide.dtype == np.float32
    assert own.tolist() == [True, True, False, False]
    pad, _ = padded(np.array([True]), 2, "actions")
    assert pad.tolist() == [True, False]
    with pytest.raises(UserError, match="3 actions, the layout has room for 2"):
        padded(np.zeros((1, 3)), 2, "actions")
